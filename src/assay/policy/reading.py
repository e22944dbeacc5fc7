"""What one look at a policy found (`hallucination.read`), and how it is kept in a training's metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from assay.errors import AssayError
from assay.statistics import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one look at the policy found, each rate with its n and standard error over pictures (None: nothing to count).

    `named` is the mean share of what is known to be in the picture that the reasoning asserts: a policy that says nothing
    hallucinates nothing. `accuracy` is over the prompts whose right answer is known, `format` the share of answers in the
    asked form. Of `n` prompts `unclear` got no clear final answer (counted as wrong), `unanswered` no text.
    `false_claims_rate` is the share of false ones among the claims that can be checked, `hallucination_short` to `_long` the
    hallucination rate of the thirds of the answers by their tokens: more words have more room for a false one. What a judge
    who sees the picture finds (`judge_claims`, for what no list of facts holds) is apart: `judged_rate` of answers with a
    claim that the picture contradicts, `judged_false_claims` among the `judged_claims` that he could tell;
    `judge_failed` answers are left out of both.
    `onset_entropy` is the mean over `onsets`, in nats. Chance is that of `Agreement`, against the blank and the swapped
    pictures.
    """

    step: int
    n: int
    accuracy: Estimate | None = None
    format: Estimate | None = None
    hallucination_rate: Estimate | None = None
    named: Estimate | None = None
    blind_agreement: Estimate | None = None
    swap_agreement: Estimate | None = None
    chance_agreement: float | None = None
    swap_chance: float | None = None
    cannot_see: Estimate | None = None
    false_claims_rate: Estimate | None = None
    hallucination_short: Estimate | None = None
    hallucination_middle: Estimate | None = None
    hallucination_long: Estimate | None = None
    judged_rate: Estimate | None = None
    judged_false_claims: Estimate | None = None
    onset_entropy: float | None = None
    onsets: int = 0
    claims: int = 0
    false_claims: int = 0
    judged_claims: int = 0
    judge_failed: int = 0
    unclear: int = 0
    unanswered: int = 0

    @property
    def blind_excess(self) -> float | None:
        """Agreement with the blank picture beyond chance."""
        return _beyond(self.blind_agreement, self.chance_agreement)

    @property
    def swap_excess(self) -> float | None:
        """Agreement with the swapped picture beyond chance."""
        return _beyond(self.swap_agreement, self.swap_chance)

    def as_metrics(self) -> dict[str, float]:
        """Everything that is known, by names that begin with "watch_", for `metrics.jsonl`."""
        found: dict[str, float] = {}
        for name in RATES:
            rate: Estimate | None = getattr(self, name)
            if rate is not None:
                found |= {name: rate.value, **{f"{name}_{key}": getattr(rate, key) for key in ("se", "n", "clusters")}}
        for name in ("chance_agreement", "swap_chance", "blind_excess", "swap_excess", "onset_entropy"):
            if (value := getattr(self, name)) is not None:
                found[name] = value
        for name in ("n", "onsets", "claims", "false_claims", "judged_claims", "judge_failed", "unclear", "unanswered"):
            found[name] = getattr(self, name)
        return {f"watch_{name}": value for name, value in found.items()}

    @staticmethod
    def of_metrics(row: Mapping[str, Any]) -> "Reading":
        """The inverse of `as_metrics`, from a line of `metrics.jsonl`. Raises AssayError for one of an older Assay."""
        known = {f.name for f in fields(Reading)}
        found = {n: row[f"watch_{n}"] for n in known if f"watch_{n}" in row}
        old = next((n for n in RATES if n in found and f"watch_{n}_clusters" not in row), None)
        if old:
            raise AssayError(
                f"metrics.jsonl, step {row['step']}: no watch_{old}_clusters, so the rate has no interval; an older Assay "
                "wrote this, run it anew"
            )
        rates = {
            n: Estimate(value=found[n], **{key: row[f"watch_{n}_{key}"] for key in ("se", "n", "clusters")})
            for n in RATES
            if n in found
        }
        return Reading(**{**found, **rates, "step": int(row["step"])})


RATES = (
    "accuracy", "format", "hallucination_rate", "named", "blind_agreement", "swap_agreement", "cannot_see",
    "false_claims_rate", "hallucination_short", "hallucination_middle", "hallucination_long",
    "judged_rate", "judged_false_claims",
)  # fmt: skip
"""The fields of a reading that have an interval."""


def _beyond(rate: Estimate | None, chance: float | None) -> float | None:
    return None if rate is None or chance is None else rate.value - chance
