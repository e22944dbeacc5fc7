"""The two retrievals of paper A, section 3 (A.6): from the reward model's mistakes to look-alike pairs, and from a pair to
its nearest gold examples. Vectors are embeddings of (x, a), the conversation and its attributes, never the responses.

The similarity is cosine (the paper does not name it) and the search is exact, streamed in blocks; an approximate index
would have to earn its place against this as the oracle.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK, QUERIES = 16_384, 512
"""Pool rows and queries compared at a time; bounds memory at their product in floats."""


def neighbours_wanted(p: float, k_max: int = 8) -> int:
    """How many look-alikes a gold pair asks for (paper A, section 3.2): the k rule.

    `p` = sigmoid(r(x, chosen) - r(x, rejected)) under the current reward model. k = k_max if p <= 0.5, else
    ceil(k_max * (1 - p)). So with k_max 8 the values are 8 (wrong), 4 to 1 (right), and 0 only at p = 1. The product is
    rounded to nine decimals first, so that binary fractions (10 * (1 - 0.7)) cannot push the ceiling up.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p is a probability, got {p}")
    return k_max if p <= 0.5 else math.ceil(round(k_max * (1.0 - p), 9))


@dataclass(frozen=True, slots=True)
class Index:
    """Unit vectors (n, d) with their ids, in a fixed order."""

    ids: tuple[str, ...]
    vectors: NDArray[np.float32]

    @staticmethod
    def of(vectors: Mapping[str, NDArray[np.float32]], ids: Sequence[str]) -> "Index":
        return Index(tuple(ids), np.stack([vectors[i] for i in ids]) if ids else np.zeros((0, 1), np.float32))

    def nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Row numbers and cosines, both (q, min(k, n)), nearest first; equal cosines in row order."""
        k = min(k, len(self.ids))
        parts = [self._nearest(queries[at : at + QUERIES], k) for at in range(0, len(queries), QUERIES)]
        if not parts or not k:
            return np.zeros((len(queries), k), np.int64), np.zeros((len(queries), k), np.float32)
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])

    def _nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = np.zeros((len(queries), 0), np.int64)
        scores = np.zeros((len(queries), 0), np.float32)
        for start in range(0, len(self.ids), BLOCK):
            top = _top(queries @ self.vectors[start : start + BLOCK].T, k)
            rows = np.concatenate([rows, top[0] + start], axis=1)
            scores = np.concatenate([scores, top[1]], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        return rows, scores


def _top(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns and values of the `k` largest of each row, largest first, ties in column order."""
    k = min(k, scores.shape[1])
    least = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]
    columns = np.zeros((len(scores), k), np.int64)
    for n, row in enumerate(scores):
        candidates = np.flatnonzero(row >= least[n])
        columns[n] = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
    return columns, np.take_along_axis(scores, columns, 1)


def look_alikes(
    gold: Sequence[str], p: Mapping[str, float], vectors: Mapping[str, NDArray[np.float32]], pool: Sequence[str],
    k_max: int = 8, limit: int | None = None,
) -> list[str]:  # fmt: skip
    """Retrieval 1: unlabelled pairs that resemble gold pairs which the reward model gets wrong or is unsure of.

    Each gold pair asks for `neighbours_wanted(p)` pairs of `pool`; a pair that several ask for is taken once. The list
    is ordered by need: what the least confident gold pairs ask for comes first, so a `limit` cuts the least needed.
    """
    index = Index.of(vectors, pool)
    if not gold or not pool:
        return []
    asking = sorted(gold, key=lambda g: (p[g], g))
    rows, _ = index.nearest(np.stack([vectors[g] for g in asking]), k_max)
    taken: dict[str, None] = {}
    for g, row in zip(asking, rows, strict=True):
        for r in row[: neighbours_wanted(p[g], k_max)]:
            taken.setdefault(index.ids[r])
    return list(taken)[:limit]


def nearest_gold(
    targets: Sequence[str], vectors: Mapping[str, NDArray[np.float32]], gold: Sequence[str], k: int = 8,
    questions: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:  # fmt: skip
    """Retrieval 2: for each target its `k` nearest gold pairs, nearest first; a pair is never its own example, nor is
    another of its question where `questions` (pair id -> question) tells: often it shows the same answer, judged already."""
    if not gold or not targets or not k:
        return {t: [] for t in targets}
    of = questions if questions is not None else {i: i for i in (*targets, *gold)}
    index, most = Index.of(vectors, gold), max(Counter(of[g] for g in gold).values())
    rows, _ = index.nearest(np.stack([vectors[t] for t in targets]), k + most)
    near = ((t, [index.ids[r] for r in row]) for t, row in zip(targets, rows, strict=True))
    return {t: [g for g in ids if g != t and of[g] != of[t]][:k] for t, ids in near}
