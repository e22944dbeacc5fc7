"""Which held-out pairs each reward model has right, kept pair by pair, so that models are compared on the same pairs.

Pairs that are like the rest of the pool and pairs of unseen kinds are measured apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from assay.curate.material import Material
from assay.curate.prepare import Use
from assay.curate.stage1 import win_probabilities
from assay.records import Preference, Scorer, question_id
from assay.run import Run
from assay.statistics import Difference, mean, paired_seeds

MEASURED: tuple[Use, ...] = ("evaluation", "unseen")
Held = Mapping[Use, Sequence[Preference]]
"""The pairs that measure, by what they are for; none of a use that the pool has no pairs for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """Whether a reward model gives the better response of a held-out pair the higher reward; `use` as in `Kept`."""

    pair_id: str
    question_id: str
    use: Use
    hit: bool


def held_out(material: Material, limit: int) -> Held:
    """At most `limit` pairs of each use (0: all)."""
    found = {use: material.preferences(material.evaluation(limit, use)) for use in MEASURED}
    return {use: pairs for use, pairs in found.items() if pairs}


def measured(run: Run, name: str, scorer: Scorer, held: Held) -> dict[str, object]:
    """The accuracy of a model by use ("accuracy" for evaluation, "unseen"), with errors by question; its hits are kept in
    the run under `name`, and scored once."""

    def score() -> list[Hit]:
        rows = []
        for use, pairs in held.items():
            p = win_probabilities(scorer, pairs)
            rows += [
                Hit(pair_id=i.pair_id, question_id=question_id(i.prompt), use=use, hit=p[i.pair_id] > 0.5)
                for i in pairs
            ]
        return rows

    rows = run.table("hits", Hit).once(name, score)
    told: dict[str, object] = {}
    for use, key in zip(MEASURED, ("accuracy", "unseen"), strict=True):
        some = [r for r in rows if r.use == use]
        told[key] = asdict(mean([float(r.hit) for r in some], [r.question_id for r in some])) if some else None
    return told


def apart(runs: Sequence[Run], one: str, other: str, use: Use = "evaluation") -> Difference | None:
    """By how much more often the model `one` is right than `other`, on the same pairs in the same seeds; None where no seed
    has measured both."""
    tables = [run.table("hits", Hit) for run in runs]
    frames = [(_of(t.frame(one), use), _of(t.frame(other), use)) for t in tables if t.done(one) and t.done(other)]
    both = [(a, b) for a, b in frames if len(a) and len(b)]
    if not both:
        return None
    rows = [a.join(b, on="pair_id", suffix="_other").sort("pair_id") for a, b in both]
    questions = rows[0]["question_id"].to_list()
    return paired_seeds([r["hit"].to_list() for r in rows], [r["hit_other"].to_list() for r in rows], questions)


def _of(frame: pl.DataFrame, use: Use) -> pl.DataFrame:
    return frame.filter(pl.col("use") == use).select("pair_id", "question_id", hit=pl.col("hit").cast(pl.Float64))
