"""Two runs compared: settings, labels pair by pair, models on the pairs that both measured; differences by hand."""

import json
import re
from pathlib import Path

import pytest

from assay.errors import AssayError
from assay.pipeline.hits import Hit
from assay.recipes import presets
from assay.records import Label
from assay.report.compared import as_json, compare, lines
from assay.run import jsonable
from assay.tables import Table, write_text
from pools import small_pool, small_run


def run_of(folder: Path, seed_gold: int, right: list[float], gold: list[int], turned: int) -> Path:
    """A run of 40 pairs; `right` of the pairs from the first on, labels of the pairs `gold`; `turned` has another winner."""
    pool, pairs = small_pool(folder / "pool", n=40)
    small_run(folder, pool)
    config = jsonable(presets.pool())
    write_text(folder / "config.json", json.dumps({**config, "stage1": {**config["stage1"], "seed_gold": seed_gold}}))
    write_text(folder / "environments.jsonl", '{"session": 0, "begun": "2026-01-01T00:00:00+00:00"}\n')
    part = folder / "seed-0" / "tables"
    hits = [Hit(pair_id=p.id, question_id=p.question_id, right=r) for p, r in zip(pairs, right, strict=False)]
    Table(part / "hits", Hit).write("flipped", hits)
    labels = [
        Label(
            pair_id=pairs[n].id, chosen=pairs[n].responses[int(n == turned)].id, stage="stage1", tier="gold", fate="kept",
            reason="people agree", by=("ann",),
        ) for n in gold
    ]  # fmt: skip
    Table(part / "labels", Label).write("stage1", labels)
    return folder


def test_settings_labels_and_models_are_compared(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", 16, [1.0] * 10 + [0.0] * 10, [0, 1, 2], -1)
    other = run_of(tmp_path / "other", 15, [1.0] * 15 + [0.0] * 15, [1, 2, 3, 4], 2)
    found = compare(one, other)
    assert found.settings == ("stage1.seed_gold: 16 -> 15",)
    (labels,) = found.labels
    assert (labels.only, labels.both, labels.differ) == ((1, 2), 2, 1)
    assert labels.fates == (("gold kept", "gold kept", 1),)
    assert labels.examples[0]["first"] == "response 1 (gold, kept: people agree)"
    assert labels.examples[0]["second"] == "response 2 (gold, kept: people agree)"
    (model,) = found.models
    assert (model.measured, model.both, model.alike) == ((20, 30), 20, False)
    assert model.difference is not None
    assert model.difference.value == pytest.approx(5 / 20), "right of 15 of the 20 that both measured, against 10"
    assert model.difference.low < 0.25 < model.difference.high
    text = "\n".join(lines(found))
    assert "they measured different pairs: the first 20, the second 30, both 20" in text
    assert "1 pairs have a label in the first alone" in text
    assert ": the second: too few to say whether it is better than the first" in text, "the verdict stands for itself"
    assert not found.same
    assert json.loads(as_json(found))["same"] is False
    assert compare(one, one).same


def test_a_run_and_a_training_are_not_compared(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", 16, [1.0], [0], -1)
    for name, epochs in (("rm", 1.0), ("more", 2.0)):
        identity = {"config": {"epochs": epochs}, "labels": {}}
        gold = {"value": epochs / 4, "se": 0.05, "n": 100, "clusters": 100.0}
        write_text(tmp_path / name / "training.json", json.dumps({"identity": identity, "gold": gold}))
    with pytest.raises(AssayError, match="cannot be compared"):
        compare(one, tmp_path / "rm")
    found = compare(tmp_path / "rm", tmp_path / "more")
    assert found.settings == ("config.epochs: 1.0 -> 2.0",)
    (told,) = [line for line in lines(found) if "gold" in line]
    assert re.search(r"checkpoint: 25\.0 % \(.*; n 100\) and 50\.0 % \(.*; n 100\) \(not paired\)$", told)
