"""Best of N: what a reward model gains when it picks one of K answers whose correctness is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.bench.benchmark import Cell, cell
from assay.errors import AssayError


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """K answers to one problem: their rewards and whether each is right, in one order."""

    id: str
    rewards: tuple[float, ...]
    correct: tuple[bool, ...]

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


def _picked(problem: Candidates) -> float:
    top = max(problem.rewards)
    return float(np.mean([c for r, c in zip(problem.rewards, problem.correct, strict=True) if r == top]))


def _right_wrong(problem: Candidates) -> list[tuple[float, float]]:
    """The rewards of every (right, wrong) pair of answers."""
    both = list(zip(problem.rewards, problem.correct, strict=True))
    return [(r, w) for r, right in both if right for w, wrong in both if not wrong]
