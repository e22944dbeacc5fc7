"""What became of every pair of a pool before the stages: counts that add up from the rows of its files to the splits."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl

from assay.curate.material import Material
from assay.curate.measuring import Measured
from assay.curate.pool import notes_of
from assay.curate.prepare import SplitConfig, uses
from assay.curate.shards import Pool
from assay.curate.shares import share
from assay.tables import Table, read_frame


def counted(pool: Pool, material: Material, split: SplitConfig) -> dict[str, Any]:
    """Counts of which `rows` (of files that `assay pool add` read; None of other pools) = `rejected` (which made no pair, by
    the last reason) + those that were read;
    `read` = `duplicates` + `pool`; `pool` = `contaminated` + `near_duplicates` + `aside` + `pairs`.

    `aside` are other pairs of questions that measure; `conflicting` pairs are among `pool`; `wrong` is the share of the
    sources' labels that are, where that is known.
    """
    notes = notes_of(pool)
    rejected = Counter[str]()
    for note in notes:
        rejected.update(note.get("lost", note["rejected"]))  # earlier versions did not count rows
    left, kept, prompts = Counter[str](), 0, 0
    for some, frame in _parts(pool, material, split):
        left.update(some)
        kept, prompts = kept + len(frame), prompts + frame["prompt_id"].n_unique()
    known = (f.drop_nulls(["original", "truth"]) for _, f in _parts(pool, material, split)) if pool.knows else ()
    wrong = share(f.select("question_id", hit=pl.col("original") != pl.col("truth")) for f in known)
    return {
        "rows": sum(n["rows"] for n in notes) if notes else None, "rejected": dict(sorted(rejected.items())),
        "read": pool.pairs + pool.repeats, "duplicates": pool.repeats, "conflicting": pool.conflicts, "pool": pool.pairs,
        "contaminated": left["contaminated"], "near_duplicates": left["near_duplicates"], "aside": left["aside"],
        "pairs": kept, "prompts": prompts, "wrong": wrong,
    }  # fmt: skip


def _parts(pool: Pool, material: Material, split: SplitConfig) -> Iterator[tuple[dict[str, int], pl.DataFrame]]:
    """Of every part: how many of its pairs are left out for what, and those that are not."""
    measured = Table(material.out / "measuring", Measured).frame(columns=["question_id"])["question_id"]
    for part in material.by_part():
        left, frames = Counter[str](), []
        for some in part:
            frame = some.frame(["pair_id", "prompt_id", "question_id", "original", "truth"])
            index = read_frame(pool.table("index").file(some.name), ["pair_id", "question_id", "askable"])
            ids = frame["pair_id"]
            hits = ids.clear() if some.hits is None else read_frame(some.hits, ["pair_id"])["pair_id"].unique()
            rest = index.filter(~pl.col("pair_id").is_in(pl.concat([hits, ids]).implode()))
            unseen = pool.votes(some.part, ["question_id"], "unseen")["question_id"]
            only = uses(pool, split, rest, unseen).is_in(["evaluation", "unseen"])
            only |= rest["question_id"].is_in(measured.implode())
            left.update(contaminated=len(hits), aside=int(only.sum()), near_duplicates=int((~only).sum()))
            frames.append(frame)
        yield dict(left), pl.concat(frames)
