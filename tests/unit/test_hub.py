"""What is put on a hub, as what, and what is said where that fails. No hub is reached: its client is stood in for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from assay.errors import AssayError
from assay.pipeline import hub

hub_client = pytest.importorskip("huggingface_hub", reason="not installed: pip install 'assay-rm[hub]'")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    made = list[tuple[str, dict[str, Any]]]()

    class Api:
        def create_repo(self, repo: str, **how: Any) -> None:
            if repo == "far/away":
                raise httpx.ConnectError("[Errno -2] Name or service not known")
            if repo == "taken/name":
                answer = httpx.Response(403, request=httpx.Request("POST", "http://hub"))
                raise hub_client.errors.HfHubHTTPError("403 Forbidden: you may not write there", response=answer)
            made.append((repo, how))

        def upload_folder(self, **how: Any) -> Any:
            made.append((how["repo_id"], how))
            return SimpleNamespace(commit_url="http://hub/commit")

    monkeypatch.setattr(hub_client, "HfApi", Api)
    return made


def test_a_model_and_an_export_are_put_up_private(tmp_path: Path, calls: list[tuple[str, dict[str, Any]]]) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    assert hub.push(tmp_path, "me/model", public=False) == "http://hub/commit"
    assert [how["repo_type"] for _, how in calls] == ["model", "model"]
    assert calls[0][1]["private"]
    assert "metrics.jsonl" in calls[1][1]["ignore_patterns"]
    export = tmp_path / "prefs"
    export.mkdir()
    (export / "pairs.jsonl").touch()
    hub.push(export, "me/pairs", public=True)
    assert (calls[2][1]["repo_type"], calls[2][1]["private"]) == ("dataset", False)


def test_what_fails_is_one_line(tmp_path: Path, calls: list[tuple[str, dict[str, Any]]]) -> None:
    with pytest.raises(AssayError, match="neither a model folder nor"):
        hub.push(tmp_path, "me/x", public=False)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(AssayError, match="taken/name: 403 Forbidden"):
        hub.push(tmp_path, "taken/name", public=False)
    assert not calls
    with pytest.raises(AssayError, match="far/away: the hub cannot be reached"):
        hub.push(tmp_path, "far/away", public=False)


def test_a_run_is_not_put_up(tmp_path: Path, calls: list[tuple[str, dict[str, Any]]]) -> None:
    """People's answers and the page's accounts lie in it; and a model's run file says where on whose machine it was made."""
    for name in ("config.json", "judgements.jsonl", "run.toml", "web.sqlite"):
        (tmp_path / name).touch()
    with pytest.raises(AssayError, match="people's answers and accounts"):
        hub.push(tmp_path, "me/run", public=True)
    assert not calls
    (tmp_path / "model.safetensors").touch()
    hub.push(tmp_path, "me/model", public=False)
    assert {"run.toml", "session.json", "progress.json"} <= set(calls[1][1]["ignore_patterns"])
