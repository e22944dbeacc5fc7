"""The folder of a reward model: its card, whose example runs and gives the model's own reward, and who may read it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from assay import Pool, RewardModel, TrainConfig
from assay.bench.results import BenchmarkResult, Skipped, cell
from assay.figures import FEW
from assay.identity import of_model
from assay.pipeline.measured import put_in_card
from assay.pipeline.pools import constraint_pool
from assay.reward import card
from paper_models import tiny_backbone

PAIRS = list(constraint_pool().pairs.values())[::60][:40]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("cards")
    rows = [
        {"prompt": p.prompt[0].content, "chosen": p.responses[0].text, "rejected": p.responses[1].text} for p in PAIRS
    ]
    (folder / "prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return Pool.add(folder / "prefs.jsonl", out=folder / "pool")


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_cards_example_gives_the_models_reward(
    pool: Pool, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = "minilm"
    if kind == "decoder":
        backbone = str(tiny_backbone("Qwen3-0.6B", tmp_path / "backbone"))
    config = TrainConfig(backbone=backbone, layers=1, max_tokens=64, epochs=1, lr=1e-3, batch_pairs=16)
    model = RewardModel.train(pool, tmp_path / "model", config)
    text = (tmp_path / "model" / card.CARD).read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.strip().splitlines()) <= 8
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path / "model")
    exec(code, names)
    assert names["reward"] == pytest.approx(model.score("Name a fruit.", ["An apple."])[0], abs=1e-4)
    assert "chat template" in text
    assert ("has no chat template" in text) == (kind == "encoder")
    assert re.search(r"- \d+ labelled pairs, \d+ steps of 16 pairs", text)
    assert re.search(r"calibration: sigmoid|not calibrated", text)
    os.umask(umask := os.umask(0o077))
    assert {oct(p.stat().st_mode)[-3:] for p in (tmp_path / "model").iterdir() if p.is_file()} == {
        oct(0o666 & ~umask)[-3:]
    }


def test_a_copys_card_has_the_copys_name(tmp_path: Path) -> None:
    card.entitle(tmp_path, "final")
    assert not (tmp_path / card.CARD).exists()
    (tmp_path / card.CARD).write_text("---\ntags: [x]\n---\n# best-rm\n\n# not this\n")
    card.entitle(tmp_path, r"final (\1)")
    assert (tmp_path / card.CARD).read_text() == "---\ntags: [x]\n---\n# final (\\1)\n\n# not this\n"


def test_a_section_stands_once_where_there_is_a_card(tmp_path: Path) -> None:
    card.put(tmp_path, "Labels", ["- none"])
    assert not (tmp_path / card.CARD).exists()
    (tmp_path / card.CARD).write_text("# a\n")
    card.put(tmp_path, "Labels", ["- stage 1"])
    assert (tmp_path / card.CARD).read_text() == "# a\n\n## Labels\n\n- stage 1\n"
    card.put(tmp_path, "Limits", ["- many"])
    card.put(tmp_path, "Labels", ["- stage 2"])
    assert (tmp_path / card.CARD).read_text() == "# a\n\n## Labels\n\n- stage 2\n\n## Limits\n\n- many\n"


def result(name: str, right: int, wrong: int, note: str = "whole") -> BenchmarkResult:
    total = cell("total", [1.0] * right + [0.0] * wrong, range(right + wrong))
    return BenchmarkResult(
        name=name, n=right + wrong, total=400, headline=total, slices=(), notes=(note,), protocol=f"{name}'s rule",
        chance=50.0,
    )  # fmt: skip


def test_a_card_has_the_newest_result_of_each_benchmark_and_none_of_other_weights(tmp_path: Path) -> None:
    assert not put_in_card(tmp_path, [result("one", 60, 40)], 512), "a folder without a card is left alone"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / card.CARD).write_text("# a\n\n## Benchmarks\n\nNot measured.\n\n## Limits\n\n- many\n")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = of_model(tmp_path)
    put_in_card(tmp_path, [result("one", 60, 40), Skipped(name="three", reason="not here")], 512)
    put_in_card(tmp_path, [result("two", 9, 1)], 512)
    put_in_card(tmp_path, [result("one", 80, 20, "again")], 256)
    text = (tmp_path / card.CARD).read_text()
    assert of_model(tmp_path) == before, "what was measured of a model does not make it another"
    low, high = result("one", 80, 20).headline.interval  # type: ignore[union-attr]
    one, two = re.findall(r"^\| (?:one|two|three) .*", text, re.MULTILINE)
    assert one == f"| one | total | 100 | 80.00 | {low:.1f} to {high:.1f} | 50.0 |"
    assert two.startswith("| two | total | 10 | 90.00 | ")
    assert FEW in two
    assert "- one: one's rule; again; 100 of 400 items, at most 256 tokens" in text
    assert "Not measured" not in text
    assert text.endswith("\n\n## Limits\n\n- many\n")
    (tmp_path / "model.safetensors").write_bytes(b"others")
    put_in_card(tmp_path, [result("two", 5, 5)], 512)
    assert re.findall(r"^\| (?:one|two) ", (tmp_path / card.CARD).read_text(), re.MULTILINE) == ["| two "]
