"""The two retrievals of paper A, section 3 (A.6): from the reward model's mistakes to look-alike pairs, and from a pair to
its nearest gold examples. Vectors are embeddings of (x, a), the conversation and its attributes, never the responses.

The similarity is cosine (the paper does not name it) and the search is exact, streamed in blocks. Exact to the last digit:
what float32 finds is compared anew in float64, in which a product of float16 vectors has no rounding at all, so that no
engine, library or number of threads can choose another pair.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK, QUERIES = 16_384, 512
"""Pool rows and queries compared at a time; bounds memory at their product in floats."""
SLACK = 1e-4
"""More than what float32 can be wrong by in a product of two unit vectors."""
Near = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Row numbers and cosines, both (q, k), nearest first; equal cosines in row order."""


def neighbours_wanted(p: float, k_max: int = 8) -> int:
    """How many look-alikes a gold pair asks for (paper A, section 3.2): the k rule.

    `p` = sigmoid(r(x, chosen) - r(x, rejected)) under the current reward model. k = k_max if p <= 0.5, else
    ceil(k_max * (1 - p)). So with k_max 8 the values are 8 (wrong), 4 to 1 (right), and 0 only at p = 1. The product is
    rounded to nine decimals first, so that binary fractions (10 * (1 - 0.7)) cannot push the ceiling up.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p is a probability, got {p}")
    return k_max if p <= 0.5 else math.ceil(round(k_max * (1.0 - p), 9))


def nearest(queries: NDArray[np.floating], vectors: NDArray[np.floating], k: int) -> Near:
    """The k rows of `vectors` (n, d) that are nearest to each of `queries` (q, d); fewer where n is smaller."""
    k = min(k, len(vectors))
    parts = [_nearest(queries[at : at + QUERIES], vectors, k) for at in range(0, len(queries), QUERIES)]
    if not parts or not k:
        return np.zeros((len(queries), k), np.int64), np.zeros((len(queries), k))
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])


def _nearest(queries: NDArray[np.floating], vectors: NDArray[np.floating], k: int) -> Near:
    rows, scores = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), -np.inf)
    rough = queries.astype(np.float32)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        near = rough @ block.astype(np.float32).T
        hopeful = np.flatnonzero(near.max(axis=1) >= scores[:, -1] - SLACK)
        if len(hopeful):
            top = _top(near[hopeful], queries[hopeful], block, k, scores[hopeful, -1])
            found = merged((rows[hopeful], scores[hopeful]), (top[0] + start, top[1]), k)
            rows[hopeful], scores[hopeful] = found
    return rows, scores


def merged(one: Near, other: Near, k: int) -> Near:
    """The nearest k of two lists; of equal cosines the lower row numbers."""
    rows, scores = (np.concatenate(both, axis=1) for both in zip(one, other, strict=True))
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def _top(
    rough: NDArray[np.float32], queries: NDArray[np.floating], block: NDArray[np.floating], k: int,
    beaten: NDArray[np.float64],
) -> Near:  # fmt: skip
    """The k nearest of a block (fewer: -inf), of all that may be among them by `rough` cosines and are not `beaten`, in
    order of exact ones."""
    most = min(k, rough.shape[1])
    least = np.maximum(np.partition(rough, rough.shape[1] - most, axis=1)[:, -most], beaten) - SLACK
    columns, scores = np.zeros((len(rough), k), np.int64), np.full((len(rough), k), -np.inf)
    for n, row in enumerate(rough):
        candidates = np.flatnonzero(row >= least[n])
        exact = block[candidates].astype(np.float64) @ queries[n].astype(np.float64)
        order = np.argsort(-exact, kind="stable")[:k]
        columns[n, : len(order)], scores[n, : len(order)] = candidates[order], exact[order]
    return columns, scores


def nearest_gold(
    targets: NDArray[np.floating], gold: NDArray[np.floating], k: int, target_questions: Sequence[str],
    gold_questions: Sequence[str],
) -> list[list[int]]:  # fmt: skip
    """Retrieval 2: for each target the rows of its `k` nearest gold pairs, nearest first; never a pair of its own question:
    often that shows the same answer, judged already."""
    if not len(gold) or not len(targets) or not k:
        return [[] for _ in targets]
    most = max(Counter(gold_questions).values())
    rows, _ = nearest(targets, gold, k + most)
    near = zip(target_questions, rows.tolist(), strict=True)
    return [[r for r in row if gold_questions[r] != question][:k] for question, row in near]


def by_need(p: Mapping[str, float], asking: Sequence[str]) -> list[str]:
    """Gold pairs in the order of their need: the least confident first."""
    return sorted(asking, key=lambda g: (p[g], g))


def taken(ids: Sequence[Sequence[str]], wanted: Sequence[int], limit: int) -> list[str]:
    """Of the neighbours (ids, nearest first) of each gold pair, by need, as many as it wants, each pair once: at most
    `limit`, so that the least needed are cut."""
    found: dict[str, None] = {}
    for row, k in zip(ids, wanted, strict=True):
        for i in row[:k]:
            found.setdefault(i)
    return list(found)[:limit]
