"""Exact duplicates across all sources: same conversation history and same two responses, in either order.

This is the pre-processing of paper A3, D.1 (the tuple of history, chosen and rejected final turn), which `Pair.id` is
the key of. Unlike the paper we keep every source's label: sources that contradict each other are evidence.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from assay.records import Judgement, Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduplicated:
    """Each pair once and all judgements; `conflicts` are ids of pairs whose wild judgements name different winners."""

    pairs: list[Pair]
    judgements: list[Judgement]
    duplicates: int
    conflicts: list[str]


def deduplicate(pairs: Iterable[Pair], judgements: Iterable[Judgement]) -> Deduplicated:
    """Keep the first of equal pairs, in order. A tie beside a winner is no conflict: it names no other winner."""
    first: dict[str, Pair] = {}
    count = 0
    for pair in pairs:
        count += 1
        first.setdefault(pair.id, pair)
    kept = list(judgements)
    winners: defaultdict[str, set[str]] = defaultdict(set)
    for judgement in kept:
        if judgement.kind == "wild" and judgement.better is not None:
            winners[judgement.pair_id].add(judgement.better)
    conflicts = [pair_id for pair_id, better in winners.items() if len(better) > 1]
    return Deduplicated(
        pairs=list(first.values()), judgements=kept, duplicates=count - len(first), conflicts=sorted(conflicts)
    )


def first_rows(ids: pl.DataFrame) -> pl.DataFrame:
    """`deduplicate` for pools that do not fit in memory: the first row of each `pair_id` of a narrow table.

    Give it the columns that locate a row (the origins: pair_id, source, file, row), never the texts.
    """
    return ids.unique(subset="pair_id", keep="first", maintain_order=True)


def conflicting(judgements: pl.DataFrame) -> list[str]:
    """The conflicts of `deduplicate` from the columns pair_id, kind and better."""
    wild = judgements.filter((pl.col("kind") == "wild") & pl.col("better").is_not_null())
    winners = wild.group_by("pair_id").agg(pl.col("better").n_unique().alias("winners"))
    return sorted(winners.filter(pl.col("winners") > 1)["pair_id"].to_list())
