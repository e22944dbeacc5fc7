"""Best of N: what a reward model gains when it picks one of K answers whose correctness is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.bench.results import Cell, cell
from assay.errors import AssayError


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """K answers to one problem: their rewards and whether each is right (or how good it is, from 0 to 1), in one order."""

    id: str
    rewards: tuple[float, ...]
    correct: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rewards or len(self.rewards) != len(self.correct):
            raise AssayError(
                f"problem {self.id}: {len(self.rewards)} rewards for {len(self.correct)} answers; give one per answer"
            )
        if not np.isfinite(self.rewards).all():
            raise AssayError(
                f"problem {self.id}: a reward is not finite; check the reward model's precision and weights"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """Percentages over problems of `k` answers each, with standard errors over problems.

    `mean`: a random answer is right; `rm_at_k`: the one with the highest reward is; `pass_at_k`: any is.
    `pairs`: the share of the (right, wrong) pairs of the `mixed` problems in which the right one has the strictly higher
    reward; None when no problem has both.
    """

    k: int
    mean: Cell
    rm_at_k: Cell
    pass_at_k: Cell
    mixed: int
    pairs: Cell | None


def best_of_n(problems: Sequence[Candidates]) -> BestOfN:
    """Mean, RM@K, pass@K and pair accuracy. A tie for the highest reward counts as the share of the tied that are right:
    what picking one of them at random gives. Raises AssayError when problems have different numbers of answers."""
    sizes = sorted({len(p.correct) for p in problems})
    if len(sizes) != 1:
        found = ", ".join(map(str, sizes)) or "no problems"
        raise AssayError(f"best of N needs the same number of answers to every problem, found {found}; keep one number")
    ids = [p.id for p in problems]
    wins = [(p.id, float(r > w)) for p in problems for r, w in _right_wrong(p)]
    return BestOfN(
        k=sizes[0],
        mean=cell("mean", [float(np.mean(p.correct)) for p in problems], ids),
        rm_at_k=cell(f"RM@{sizes[0]}", [_picked(p) for p in problems], ids),
        pass_at_k=cell(f"pass@{sizes[0]}", [float(any(p.correct)) for p in problems], ids),
        mixed=sum(len(set(p.correct)) == 2 for p in problems),
        pairs=cell("pairs", [w for _, w in wins], [i for i, _ in wins]) if wins else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Percentages right for each N: of the answer that the reward model picks of N (`picked`), of a random one, and of the
    best one (`oracle`: pass@N); standard errors over problems."""

    sizes: tuple[int, ...]
    picked: tuple[Cell, ...]
    random: tuple[Cell, ...]
    oracle: tuple[Cell, ...]


def curve(problems: Sequence[Candidates], sizes: Sequence[int] = ()) -> Curve:
    """Best-of-N for N in `sizes` (none: 1, 2, 4, ... up to what every problem has), from K >= N answers to each problem.

    Unbiased: the mean over all subsets of N answers, in closed form. With rewards in ascending order, answer i (from 1) is
    the best of C(i - 1, N - 1) of the C(K, N) subsets (the argument of pass@k in Chen et al. 2021, arXiv 2107.03374, eq. 1,
    for a ranking); equal rewards share their places, as a random choice among them does.
    Raises AssayError where a problem has fewer answers than a size.
    """
    if not problems:
        raise AssayError("best of N needs at least one problem")
    most = min(len(p.correct) for p in problems)
    chosen = tuple(sizes) or tuple(2**n for n in range(most.bit_length()))
    short = [n for n in chosen if not 1 <= n <= most]
    if short:
        raise AssayError(f"best of {short[0]} needs as many answers to every problem; one has {most}")
    ids = [p.id for p in problems]
    return Curve(
        sizes=chosen,
        picked=tuple(cell(f"best of {n}", [expected(p, n) for p in problems], ids) for n in chosen),
        random=tuple(cell("random", [float(np.mean(p.correct)) for p in problems], ids) for _ in chosen),
        oracle=tuple(cell(f"pass@{n}", [_any_right(p, n) for p in problems], ids) for n in chosen),
    )


def expected(problem: Candidates, n: int) -> float:
    """The chance that the answer with the highest reward of n random ones is right."""
    k = len(problem.correct)
    order = np.argsort(problem.rewards, kind="stable")
    rewards, correct = np.array(problem.rewards)[order], np.array(problem.correct, dtype=float)[order]
    # C(i, n - 1) / C(k, n) for i = k - 1, k - 2, ...: n / k, and each is the last times (i - n + 2) / (i + 1); the binomials
    # themselves are no floats beyond k of about 1,030
    steps = np.arange(k - 1, 0, -1)
    weights = np.concatenate([[n / k], n / k * np.cumprod(np.maximum(steps - n + 1, 0) / steps)])[::-1]
    _, block = np.unique(rewards, return_inverse=True)
    shared = np.bincount(block, weights) / np.bincount(block)
    return float(np.sum(shared[block] * correct))


def _any_right(problem: Candidates, n: int) -> float:
    k, wrong = len(problem.correct), problem.correct.count(False)
    return 1.0 - math.comb(wrong, n) / math.comb(k, n)


def _picked(problem: Candidates) -> float:
    top = max(problem.rewards)
    return float(np.mean([c for r, c in zip(problem.rewards, problem.correct, strict=True) if r == top]))


def _right_wrong(problem: Candidates) -> list[tuple[float, float]]:
    """The rewards of every (right, wrong) pair of answers."""
    both = list(zip(problem.rewards, problem.correct, strict=True))
    return [(r, w) for r, right in both if right for w, wrong in both if not wrong]
