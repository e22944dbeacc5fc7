"""Which held-out pairs each reward model has right, kept pair by pair, so that models are compared on the same pairs.

Pairs that are like the rest of the pool and pairs of unseen kinds are measured apart (tables `hits`, shards NAME and
unseen-NAME).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from assay.curate.material import Material
from assay.curate.prepare import Use
from assay.curate.stage1 import win_probabilities
from assay.records import Preference, Scorer, question_id
from assay.run import Run
from assay.statistics import Difference, mean, paired_over_seeds
from assay.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """Whether a model is `right` (1.0 or 0.0) of a pair that measures: of two models, their difference pair by pair."""

    pair_id: str
    question_id: str
    right: float


Held = Mapping[Use, Sequence[Preference]]
"""The pairs that measure, by what they are for; none of a use that the pool has no pairs for."""
KEYS: Mapping[Use, tuple[str, str]] = {"evaluation": ("accuracy", ""), "unseen": ("unseen", "unseen-")}
"""What a step calls the share of a use, and how the shard of its hits begins."""


def held_out(material: Material, limit: int) -> Held:
    """At most `limit` pairs of each use (0: all)."""
    found = {use: material.preferences(material.evaluation(limit, use)) for use in KEYS}
    return {use: pairs for use, pairs in found.items() if pairs}


def measured(run: Run, name: str, scorer: Scorer, held: Held) -> dict[str, object]:
    """The accuracy of a model by use (None of no pairs), with errors by question, and how many pairs it cannot read; its
    hits are kept in the run under `name`, and scored once."""
    told: dict[str, object] = {}
    for use, (key, before) in KEYS.items():
        pairs = held.get(use, ())
        rows = run.table("hits", Hit).once(f"{before}{name}", lambda pairs=pairs: hits(scorer, pairs)) if pairs else []  # type: ignore[misc]
        told[key] = asdict(mean([r.right for r in rows], [r.question_id for r in rows])) if rows else None
        told[f"{key}_unread"] = len(pairs) - len(rows)
    return told


def hits(scorer: Scorer, pairs: Sequence[Preference]) -> list[Hit]:
    """Of each pair that the model can read, whether its better response has the strictly higher reward."""
    p = win_probabilities(scorer, pairs)
    return [
        Hit(pair_id=i.pair_id, question_id=question_id(i.prompt), right=float(p[i.pair_id] > 0.5))
        for i in pairs if math.isfinite(p[i.pair_id])
    ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """By how much more often one model is right than another, on the same pairs in the same seeds, and how many questions
    these are of."""

    found: Difference
    questions: int


def apart(tables: Sequence[Table[Hit]], one: str, other: str, use: Use = "evaluation") -> Apart | None:
    """The models `one` and `other` compared, by the tables of hits of all seeds; None where no seed has measured both."""
    first, second = (f"{KEYS[use][1]}{name}" for name in (one, other))
    return compared([(t.frame(first), t.frame(second)) for t in tables if t.done(first) and t.done(second)])


def compared(seeds: Sequence[tuple[pl.DataFrame, pl.DataFrame]]) -> Apart | None:
    """Two models' `Hit` rows of each seed compared, on the pairs that both answered; None of none."""
    rows = [a.join(b, on="pair_id", suffix="_other").sort("pair_id") for a, b in seeds]
    rows = [r for r in rows if len(r)]
    if not rows:
        return None
    asked = [r["question_id"].to_list() for r in rows]
    found = paired_over_seeds([r["right"].to_list() for r in rows], [r["right_other"].to_list() for r in rows], asked)
    return Apart(found=found, questions=len({q for seed in asked for q in seed}))
