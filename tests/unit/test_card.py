"""The folder of a reward model: its card, whose example runs and gives the model's own reward, and who may read it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from assay import Pool, RewardModel, TrainConfig
from assay.pipeline.pools import constraint_pool
from assay.recipes.suite import tiny_backbone
from assay.reward import card

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


def test_a_section_is_added_where_there_is_a_card(tmp_path: Path) -> None:
    card.add(tmp_path, "Labels", ["- none"])
    assert not (tmp_path / card.CARD).exists()
    (tmp_path / card.CARD).write_text("# a\n")
    card.add(tmp_path, "Labels", ["- stage 1"])
    assert (tmp_path / card.CARD).read_text() == "# a\n\n## Labels\n\n- stage 1\n"
