"""People's sets as their files have them, in rows of our own: which verdict is the truth, and whose word is the wild."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assay.curate.offline import hash_embedder
from assay.curate.prepare import SplitConfig, prepare
from assay.curate.stage1 import win_probabilities
from assay.engine import Here
from assay.formats.human_sets import HUMAN_SETS
from assay.pipeline.pools import human_pool
from assay.records import Conversation, Pair, Preference, Response, user
from assay.store import Place

ROW = {"title": "Tea or coffee?", "description": "None", "stance": "Tea"}
FULL, STRICT = HUMAN_SETS["ukp-convarg1"].files[0], HUMAN_SETS["ukp-convarg1-strict"].files[0]


def written(folder: Path, file: str, *rows: dict[str, Any]) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    with gzip.open(folder / file, "wt") as out:
        out.writelines(json.dumps({**ROW, **row}) + "\n" for row in rows)


def test_a_cleaned_verdict_is_found_however_its_file_ends_lines(tmp_path: Path) -> None:
    votes = {"worker_labels": ["a1", "a1", "a1", "a2", "a1"]}
    long, plain = "It is cheaper.\nIt is warm.", "Because."
    written(tmp_path, FULL, {"a1": long, "a2": plain, "label": "a1", **votes})
    written(tmp_path, STRICT, {"a1": "It is cheaper. <br/> It is warm.", "a2": plain, "label": "a1"})
    pool = human_pool(tmp_path, ("ukp-convarg1",))
    assert list(pool.truth.values()) == [Response.of(long).id]
    assert not pool.stage2_only


def test_a_pair_that_was_not_found_consistent_has_no_truth(tmp_path: Path) -> None:
    """Three of five are a majority that the authors did not take; where they took what the plain count does not say, theirs
    holds."""
    three = {"worker_labels": ["a1", "a1", "a1", "a2", "a2"]}
    rows = [{"a1": text, "a2": "Because.", "label": "a1", **three} for text in ("Cheap.", "Warm.")]
    even = {"a1": "Old.", "a2": "Because.", "label": "a2", "worker_labels": ["a1", "a1", "a2", "a2"]}
    written(tmp_path, FULL, *rows, even)
    written(tmp_path, STRICT, *({k: v for k, v in r.items() if k != "worker_labels"} for r in (rows[0], even)))
    pool = human_pool(tmp_path, ("ukp-convarg1",))
    assert sorted(pool.truth.values()) == sorted([Response.of("Cheap.").id, Response.of("Because.").id])
    assert [pool.pairs[i].responses[0].text for i in pool.stage2_only] in (["Warm."], ["Because."])
    assert len(human_pool(tmp_path, ("ukp-convarg1",), per_set=2).pairs) == 2


def test_a_response_of_many_pairs_is_scored_once() -> None:
    asked: list[Conversation] = []

    def scorer(conversations: list[Conversation]) -> NDArray[np.float64]:
        asked.extend(conversations)
        return np.array([float(len(c[-1].content)) for c in conversations])

    texts = ["a", "bb", "cccc"]
    pairs: list[Preference] = []
    for longer, shorter in (("bb", "a"), ("cccc", "a"), ("cccc", "bb")):
        pair = Pair.of((user("?"),), Response.of(longer), Response.of(shorter))
        pairs.append(pair.preferring(Response.of(longer).id))
    found = win_probabilities(scorer, pairs)
    assert sorted(c[-1].content for c in asked) == texts
    assert [round(found[p.pair_id], 6) for p in pairs] == [round(1 / (1 + np.exp(-d)), 6) for d in (1, 3, 2)]


def test_people_s_sets_alone_leave_pairs_with_a_truth_for_stage_2(tmp_path: Path) -> None:
    """A share of the questions is for stage 1: else filters would see nothing but pairs on which people split."""
    rows = [
        {
            "title": f"Question {n}?",
            "a1": f"Yes, {n} times.",
            "a2": "No.",
            "label": "a1",
            "worker_labels": ["a1", "a1", "a2"],
        }
        for n in range(40)
    ]
    written(tmp_path, FULL, *rows)
    pool = human_pool(tmp_path, ("ukp-convarg1",)).put(Place.of(tmp_path / "pool"))
    out = Place.of(tmp_path / "tables")
    split = SplitConfig(eval_share=0.3, stage1_share=0.5)
    slices = prepare(pool, out, split, {}, hash_embedder(), "hash", Here())
    found = pl.concat([s.frame(["use", "truth"]) for s in slices]).filter(pl.col("truth").is_not_null())
    counts = dict(found.group_by("use").len().iter_rows())
    assert min(counts[use] for use in ("evaluation", "stage1", "stage2")) >= 5
