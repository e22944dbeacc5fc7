"""A group of scored rollouts -> samples with advantages (paper B, eq. 6). Here the group ends: samples stand alone after it.

The paper counts a group as effective when its advantages are not zero. With a continuous reward-model term every group has
some spread (papers.md B.4), so both are told: signal in the rule part (rule + format) alone, and in the total.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assay.records import Rollout, Sample, Score, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What a group came to: its samples (all of them; advantage 0.0 where there is no signal), whether there is signal by
    the measure that was asked for, and whether there is some in the rule part and in the total."""

    samples: tuple[Sample, ...]
    signal: bool
    rule_signal: bool
    total_signal: bool


def advantages(rewards: Sequence[float], scale: Literal["std", "none"] = "std") -> list[float]:
    """(r - mean) / std of a group (population std), or r - mean. All exactly 0.0 when all rewards are exactly equal.

    No epsilon is added to the std: equal rewards are caught by comparing them, so a tiny spread is not taken for none, nor
    rounding in the mean for a signal. Raises ValueError for rewards that are not numbers.
    """
    if not all(math.isfinite(r) for r in rewards):
        raise ValueError(f"rewards must be finite, got {list(rewards)}")
    if not has_signal(rewards):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    apart = [r - mean for r in rewards]
    if scale == "none":
        return apart
    most = max(map(abs, apart))  # or the squares of tiny ones would vanish
    spread = math.sqrt(math.fsum((d / most) ** 2 for d in apart) / len(apart))
    return [d / most / spread for d in apart]


def has_signal(rewards: Sequence[float]) -> bool:
    """False exactly when all rewards of the group are exactly equal."""
    return any(r != rewards[0] for r in rewards)


def is_finite(score: Score) -> bool:
    """Is every term of it, and their total, a number?"""
    return all(map(math.isfinite, (score.rule, score.format, score.claims, score.model, score.total)))


def grade(
    rollouts: Sequence[Rollout], scores: Sequence[Score], scale: Literal["std", "none"] = "std",
    signal: Literal["total", "rule"] = "total",
) -> Graded:  # fmt: skip
    """The samples of one group. Answers without tokens earn no sample, but count in the group's mean; those whose score is
    not a number do neither.

    With `signal` "rule", a group whose rule parts are equal has no signal, whatever the reward model says of it: dividing by
    the spread would make its least preference as large as that between right and wrong.
    """
    told = [(r, s) for r, s in zip(rollouts, scores, strict=True) if is_finite(s)]
    rules, totals = has_signal([s.rule + s.format + s.claims for _, s in told]), [s.total for _, s in told]
    found = advantages(totals, scale) if rules or signal == "total" else [0.0] * len(told)
    group = digest([rollouts[0].prompt_id, rollouts[0].policy_step, [list(r.tokens) for r in rollouts]])
    return Graded(
        samples=tuple(
            Sample(
                prompt_id=r.prompt_id, group=group, tokens=r.tokens, logprobs=r.logprobs, advantage=a,
                policy_step=r.policy_step,
            )
            for (r, _), a in zip(told, found, strict=True) if r.tokens
        ),
        signal=any(a != 0.0 for a in found), rule_signal=rules,
        total_signal=has_signal(totals),
    )  # fmt: skip
