"""Shares of rows with errors by question, over pools that no memory holds.

What is kept of a pool is how many questions have so many rows of which so many count: a few numbers, however many questions
there are.
"""

from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
import polars as pl

from assay.statistics import of_clusters

Share = dict[str, float] | None
"""A share with its error, as a step keeps it (`statistics.Estimate`); None of no rows."""


def share(found: Iterable[pl.DataFrame]) -> Share:
    """The share of rows (question_id, hit) that count, with its error by question. Each frame has all rows of its
    questions."""
    return share_of(map(counted, found))


def counted(rows: pl.DataFrame) -> pl.DataFrame:
    """How many `questions` have `n` rows, of which `hits` count."""
    by = rows.group_by("question_id").agg(hits=pl.col("hit").sum().cast(pl.Int64), n=pl.len().cast(pl.Int64))
    return by.group_by("hits", "n").agg(questions=pl.len().cast(pl.Int64))


def share_of(counts: Iterable[pl.DataFrame]) -> Share:
    """The share of what `counted` counted."""
    total = pl.DataFrame(schema={"hits": pl.Int64, "n": pl.Int64, "questions": pl.Int64})
    for some in counts:
        total = pl.concat([total, some]).group_by("hits", "n").agg(pl.col("questions").sum())
    if not len(total):
        return None
    hits, n, questions = total.sort("hits", "n").to_numpy().astype(np.float64).T
    return asdict(of_clusters(hits, n, questions))
