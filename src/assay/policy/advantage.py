"""A group of scored rollouts -> samples with advantages (paper B, eq. 6). Here the group ends: samples stand alone after it.

Several rewards are added before they are normalised (eq. 7), or normalised one by one and then added (GDPO, Liu et al. 2026,
arXiv:2601.05242, section 3): in a sum, answers that earned different things alike in worth cannot be told apart.

The paper counts a group as effective when its advantages are not zero. With a continuous reward-model term every group has
some spread (papers.md B.4), so both are told: signal in the rule part (rule + format) alone, and in the total.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from assay.records import digest
from assay.rollouts import Rollout, Sample, Score

RULES = ("rule", "format", "claims")
TERMS = (*RULES, "model", "overlong")
"""The rewards of a `Score`, apart."""


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


def apart(scores: Sequence[Score], weights: Mapping[str, float]) -> list[float]:
    """GDPO's sum of a group's rewards, each normalised by itself (population std): eq. 4 and 5 there."""
    terms = [(weights.get(n, 1.0), advantages([getattr(s, n) for s in scores])) for n in TERMS]
    return [math.fsum(w * term[i] for w, term in terms) for i in range(len(scores))]


def over_batch(samples: Sequence[Sample], squares: float, size: float) -> list[Sample]:
    """Samples whose advantages are divided by their spread over the whole batch (GDPO, eq. 6), of which `squares` is the sum
    of all `size` squared advantages. Their mean there is 0, as it is in every group."""
    spread = math.sqrt(squares / size) if size else 0.0
    return [replace(s, advantage=s.advantage / spread) for s in samples] if spread else list(samples)


def has_signal(rewards: Sequence[float]) -> bool:
    """False exactly when all rewards of the group are exactly equal."""
    return any(r != rewards[0] for r in rewards)


def is_finite(score: Score) -> bool:
    """Is every term of it, and their total, a number?"""
    return all(map(math.isfinite, (*(getattr(score, n) for n in TERMS), score.total)))


def grade(
    rollouts: Sequence[Rollout], scores: Sequence[Score], scale: Literal["std", "none"] = "std",
    signal: Literal["total", "rule"] = "total", weights: Mapping[str, float] | None = None, cut: bool = True,
    combine: Literal["sum", "gdpo"] = "sum",
) -> Graded:  # fmt: skip
    """The samples of one group. Answers without tokens earn no sample, but count in the group's mean, and so do cut-off ones
    where `cut` is False; those whose score is not a number do neither.

    With `signal` "rule", a group whose rule parts are equal has no signal, whatever the reward model says of it: dividing by
    the spread would make its least preference as large as that between right and wrong. `weights` are those of the terms (1
    for one that is not named): answers that differ in what nobody pays for are equal.

    With `combine` "gdpo" each term is normalised in the group by itself; the caller divides the sums by their spread over
    the batch (`over_batch`). Else the totals are.
    """
    told = [(r, s) for r, s in zip(rollouts, scores, strict=True) if is_finite(s)]
    scored, weights = [s for _, s in told], weights or {}
    paid = [[weights.get(n, 1.0) * getattr(s, n) for n in RULES] for s in scored]
    rules = (
        any(map(has_signal, zip(*paid, strict=True))) if combine == "gdpo" else has_signal(list(map(math.fsum, paid)))
    )
    totals = [s.total for s in scored]
    found = [0.0] * len(told)
    if told and (rules or signal == "total"):
        found = advantages(totals, scale) if combine == "sum" else apart(scored, weights)
    group = digest([rollouts[0].prompt_id, rollouts[0].policy_step, [list(r.tokens) for r in rollouts]])
    return Graded(
        samples=tuple(
            Sample(
                prompt_id=r.prompt_id, group=group, tokens=r.tokens, logprobs=r.logprobs, advantage=a,
                policy_step=r.policy_step,
            )
            for (r, _), a in zip(told, found, strict=True) if r.tokens and (cut or r.ended)
        ),
        signal=any(a != 0.0 for a in found), rule_signal=rules,
        total_signal=has_signal(totals),
    )  # fmt: skip
