"""Best of n, exactly: what the best of n answers is worth on average over all ways to choose n of those that were drawn."""

from math import comb

import numpy as np
from numpy.typing import NDArray


def best_of(rewards: NDArray[np.float64], values: NDArray[np.float64], n: int) -> float:
    """The mean value of the answer with the highest reward among n of m, over all choices of n; (m,) each.

    An answer whose reward is not a number is picked only where there is no other; of equal rewards each is picked equally
    often. Of n = 1 it is the mean. Raises ValueError for n beyond m or below 1.

    Example: best_of(np.array([0.1, 0.9, 0.5]), np.array([0.0, 1.0, 0.0]), 2) == 2 / 3
    """
    m = len(rewards)
    if rewards.shape != values.shape or not 1 <= n <= m:
        raise ValueError(f"the best of {n} of {m} answers with {len(values)} values")
    told = np.where(np.isfinite(rewards), rewards, -np.inf)
    levels, at = np.unique(told, return_inverse=True)
    alike = np.bincount(at, values) / np.bincount(at)  # of each level: who of it is picked is chance
    below = np.cumsum(np.bincount(at))
    none = np.array([comb(int(k), n) for k in below], dtype=np.float64) / comb(m, n)  # all n lie at this level or below
    chances = np.diff(none, prepend=0.0)
    assert len(levels) == len(chances)
    return float(chances @ alike)
