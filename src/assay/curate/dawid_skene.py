"""Dawid-Skene: how good each judge is, and what is true, from votes alone or with some answers known.

Dawid and Skene (1979), "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied Statistics
28(1): each item has one true class, each worker a confusion matrix of its own, and votes are independent given the truth.
EM alternates between posteriors of the items (their eq. 2.5) and counts of the workers (2.3, 2.4). We add two things: known
items keep their class, and each row of a confusion matrix gets `smoothing` pseudo-votes, so that a worker with few votes is
not believed to be perfect. A library for it was looked for: the kept one (crowd-kit) brings 500 MB of dependencies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """`posterior` (items, classes); `confusion` (workers, true classes, voted classes), rows sum to one; `prior` (classes,);
    `log_likelihood` of the votes after each step of EM, which never falls when `smoothing` is 0."""

    posterior: NDArray[np.float64]
    confusion: NDArray[np.float64]
    prior: NDArray[np.float64]
    log_likelihood: tuple[float, ...]


def dawid_skene(
    items: Sequence[int],
    workers: Sequence[int],
    votes: Sequence[int],
    *,
    classes: int,
    known: Mapping[int, int] | None = None,
    prior: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    smoothing: float = 1.0,
    steps: int = 500,
) -> Estimated:
    """EM over votes given as three lists of equal length: which item, which worker, which class.

    Args:
        items: From 0; an item may have several votes of one worker.
        workers: From 0.
        votes: In 0 .. classes - 1.
        classes: How many classes there are.
        known: Item -> its true class.
        prior: Of the classes; None: estimated.
        weights: How many independent votes each vote is worth (None: one). Votes that repeat each other are worth one
            together, or the posterior is far surer than it is right.
        smoothing: Pseudo-votes of each true class of each worker, spread evenly.
        steps: At most this many rounds of EM.
    """
    item_V, worker_V, vote_V = (np.asarray(x, dtype=np.int64) for x in (items, workers, votes))
    weight_V = np.ones(len(item_V)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(item_V):
        raise ValueError("Dawid-Skene needs at least one vote")
    fixed = {i: c for i, c in (known or {}).items() if i <= int(item_V.max())}
    shape_I, shape_W = (int(item_V.max()) + 1, classes), (int(worker_V.max()) + 1, classes, classes)
    posterior_IC = np.zeros(shape_I)
    np.add.at(posterior_IC, (item_V, vote_V), weight_V)
    posterior_IC = _shares(posterior_IC, 1)
    _hold(posterior_IC, fixed)
    likelihoods: list[float] = []
    for _ in range(steps):
        counts_WCC = np.full(shape_W, smoothing / classes)
        np.add.at(counts_WCC.transpose(0, 2, 1), (worker_V, vote_V), weight_V[:, None] * posterior_IC[item_V])
        confusion_WCC = _shares(counts_WCC, 2)
        prior_C = posterior_IC.mean(axis=0) if prior is None else np.asarray(prior, dtype=np.float64)
        log_IC = np.tile(np.log(np.maximum(prior_C, 1e-300)), (shape_I[0], 1))
        told_VC = np.log(np.maximum(confusion_WCC, 1e-300))[worker_V, :, vote_V]
        np.add.at(log_IC, item_V, weight_V[:, None] * told_VC)
        top_I1 = log_IC.max(axis=1, keepdims=True)
        weight_IC = np.exp(log_IC - top_I1)
        free = [i for i in range(shape_I[0]) if i not in fixed]
        sure = sum(float(log_IC[i, c]) for i, c in fixed.items())
        likelihoods.append(sure + float((top_I1[:, 0] + np.log(weight_IC.sum(axis=1)))[free].sum()))
        moved_IC = weight_IC / weight_IC.sum(axis=1, keepdims=True)
        _hold(moved_IC, fixed)
        change = float(np.abs(moved_IC - posterior_IC).max())
        posterior_IC = moved_IC
        if change <= 1e-7:
            break
    return Estimated(posterior=posterior_IC, confusion=confusion_WCC, prior=prior_C, log_likelihood=tuple(likelihoods))


def _shares(counts: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Counts as shares of their sum along an axis, all equal where that is zero."""
    total = counts.sum(axis=axis, keepdims=True)
    shares: NDArray[np.float64] = np.where(total > 0, counts / np.maximum(total, 1e-300), 1 / counts.shape[axis])
    return shares


def _hold(posterior_IC: NDArray[np.float64], fixed: Mapping[int, int]) -> None:
    for item, truth in fixed.items():
        posterior_IC[item] = 0.0
        posterior_IC[item, truth] = 1.0
