"""From source files to the pairs of a run: every row has its place in a sum, whatever became of it."""

import json
from pathlib import Path

import pytest

from assay.curate.material import Material
from assay.curate.offline import hash_embedder
from assay.curate.pool import add
from assay.curate.prepare import SplitConfig, prepare
from assay.curate.shards import Pool
from assay.engine import Here
from assay.pipeline.counted import counted
from assay.store import Place

WATCHED = "the quick brown fox jumps over the lazy dog while seven wizards watch the moon rise slowly"
LONG = " ".join(f"word{n}" for n in range(80))


def rows() -> list[dict[str, str]]:
    """40 pairs, of which five are met again, two of these with the other label; two that share text with a benchmark; three
    that are nearly the same; two rows that are none."""
    made = [{"prompt": f"Question {n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(40)]
    again = [*made[:3], *({**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in made[3:5])]
    watched = [{"prompt": f"{WATCHED} {n}", "chosen": f"fine {n}", "rejected": f"poor {n}"} for n in range(2)]
    alike = [{"prompt": "What is long?", "chosen": f"{LONG} end {n}", "rejected": f"{LONG} stop {n}"} for n in range(3)]
    broken = [{"prompt": "Same?", "chosen": "x", "rejected": "x"}, {"prompt": "None?", "chosen": "x", "rejected": ""}]
    return [*made, *again, *watched, *alike, *broken]


@pytest.mark.parametrize("measure", [0, 6])
def test_every_row_is_accounted_for(tmp_path: Path, measure: int) -> None:
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows()))
    told = add([str(tmp_path / "mine.jsonl")], tmp_path / "pool", say=lambda _: None)
    pool, out = Pool.open(tmp_path / "pool"), Place.of(tmp_path / "tables")
    split = SplitConfig(near_duplicates=0.8, evaluation_gold=measure)
    slices = prepare(pool, out, split, {"watched": [WATCHED]}, hash_embedder(), "hash", Here())
    material = Material(pool=pool, slices=slices, out=out)
    found = counted(pool, material, split)
    assert found["rows"] == len(rows())
    assert sum(found["rejected"].values()) == told.rejected > 0
    assert found["read"] == found["rows"] - told.rejected == found["duplicates"] + found["pool"]
    assert (found["duplicates"], found["conflicting"], found["contaminated"], found["near_duplicates"]) == (5, 2, 2, 2)
    left = [found[key] for key in ("contaminated", "near_duplicates", "aside", "pairs")]
    assert sum(left) == found["pool"] == pool.pairs == 45
    assert found["pairs"] == material.size() == material.size("evaluation") + material.size("stage1", "stage2")
    assert material.size("evaluation") == measure
    assert found["wrong"] is None


def test_a_row_with_a_broken_part_is_no_rejected_row(tmp_path: Path) -> None:
    """A list of four of which one has no score gives three pairs; an empty file has no row to reject."""
    answers = [{"text": str(n), "score": n} for n in range(3)] + [{"text": "unscored"}]
    lost = [{"text": "one", "score": 1}, {"text": "none"}, {"text": "none either"}]
    rows = [{"prompt": "p", "responses": answers}, {"prompt": "q", "responses": lost}]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "empty.jsonl").write_text("")
    report = add([str(tmp_path / n) for n in ("some.jsonl", "empty.jsonl")], tmp_path / "pool", say=lambda _: None)
    assert (report.pairs, report.rejected) == (3, 4)
    pool, out = Pool.open(tmp_path / "pool"), Place.of(tmp_path / "tables")
    slices = prepare(pool, out, SplitConfig(evaluation_gold=0), {}, hash_embedder(), "hash", Here())
    found = counted(pool, Material(pool=pool, slices=slices, out=out), SplitConfig(evaluation_gold=0))
    assert (found["rows"], found["rejected"], found["read"]) == (2, {"responses[.] has no score": 1}, 3)
