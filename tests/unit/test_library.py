"""The library: its names, what they cost, and the examples of docs/python.md, run in their order."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import assay
from assay import AssayError, Pool, RewardModel, Run
from assay.pipeline.pools import constraint_pool

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


def rows(folder: Path, many: int = 80) -> None:
    pairs = list(constraint_pool().pairs.values())[::20][:many]
    said = [
        {"prompt": p.prompt[0].content, "chosen": p.responses[0].text, "rejected": p.responses[1].text} for p in pairs
    ]
    (folder / "prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in said))


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that the examples leave."""
    folder = tmp_path_factory.mktemp("library")
    rows(folder)
    names: dict[str, Any] = {"folder": folder}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(code, names)
    return names


def test_the_examples_do_what_they_say(after: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(after["folder"])
    pool, run = after["pool"], after["run"]
    assert len(pool) == len(list(pool)) == 80
    assert "answers missing" in after["waits"]
    assert 0 <= after["result"].headline.interval[0] <= after["result"].headline.value <= 100
    assert Path("runs/simulated/report.html").exists()
    assert {p.pair_id for p in run.preferences("filtered")} <= {p.id for p in pool}
    labels = [r for r in run.explain(run.preferences("filtered")[0].pair_id) if r["table"] == "labels"]
    assert labels
    assert labels[-1]["reason"]
    assert after["model"].rank("Name a fruit.", ["a", "b"]) == sorted(
        ["a", "b"], key=lambda r: -after["model"].score("Name a fruit.", [r])[0]
    )
    assert run.export("exported", "filtered") == len(run.preferences("filtered"))
    assert run.config["recipe"] == "pool"


def test_a_finished_training_is_read_and_labels_of_a_run_are_trained_on(
    after: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(after["folder"])
    again = RewardModel.train(after["pool"], "models/mine", after["config"])
    texts = ["An apple.", "A chair."]
    assert (again.score("Name a fruit.", texts) == after["model"].score("Name a fruit.", texts)).all()
    with pytest.raises(AssayError, match="unknown labels 'best'"):
        RewardModel.train(after["run"], "models/other", labels="best")


def test_importing_costs_nothing_and_every_name_is_there() -> None:
    code = (
        "import sys, assay; print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'polars', 'tyro', 'assay')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "['assay']\n"
    assert all(getattr(assay, name) is not None for name in assay.__all__)
    assert set(assay.__all__) == set(assay._HOME) <= set(dir(assay))
    with pytest.raises(AttributeError, match="no attribute 'Pools'"):
        assay.Pools  # noqa: B018


def test_mistakes_are_those_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "prefs.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(AssayError, match="no usable pair"):
        Pool.add(tmp_path / "prefs.jsonl", out=tmp_path / "pool")
    with pytest.raises(AssayError, match="at least one source"):
        Pool.add(out=tmp_path / "pool")
    with pytest.raises(AssayError, match="not a run folder"):
        Run(tmp_path)
    with pytest.raises(AssayError):
        Pool(tmp_path / "nothing")
