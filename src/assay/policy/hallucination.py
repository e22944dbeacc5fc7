"""Does the policy look? What it says about pictures is checked during training, and a run that invents too much is stopped.

The paper reports hallucination rates (B3 Table 3) without saying what is counted, on which set, or by which detector. The
definition here is ours: an answer hallucinates when its reasoning asserts at least one thing that is known not to be in its
picture. Beside it: answers that stay without the picture, and from R1V3 "can't see the image" (Table 5) and the entropy at
the onset of reasoning (section 5.1).
"""

import io
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from assay.errors import AssayError
from assay.figures import told
from assay.policy.agreement import agreement, onset_entropies
from assay.policy.claims import cannot_see, check_claims
from assay.policy.config import Form
from assay.policy.rewards import format_reward
from assay.rollouts import Prompt, Rollout, Sampler
from assay.statistics import Estimate, interval, mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one look at the policy found, each rate with its n and standard error over pictures (None: nothing to count).

    `named` is the mean share of what is known to be in the picture that the reasoning asserts: a policy that says nothing
    hallucinates nothing. `accuracy` is over the prompts whose right answer is known, `format` the share of answers in the
    asked form. Of `n` prompts `unclear` got no clear final answer (counted as wrong), `unanswered` no text.
    `false_claims_rate` is the share of false ones among the claims that can be checked, `hallucination_short` to `_long` the
    hallucination rate of the thirds of the answers by their tokens: more words have more room for a false one.
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
    onset_entropy: float | None = None
    onsets: int = 0
    claims: int = 0
    false_claims: int = 0
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
        for name in ("n", "onsets", "claims", "false_claims", "unclear", "unanswered"):
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
)  # fmt: skip
"""The fields of a reading that have an interval."""


def _beyond(rate: Estimate | None, chance: float | None) -> float | None:
    return None if rate is None or chance is None else rate.value - chance


Entropies = Callable[[Sequence[tuple[Prompt, Rollout]]], list[tuple[Sequence[str], Sequence[float]]]]
"""For each answer its tokens as text, and the entropy in nats of the distribution that each was drawn from."""


def read(
    prompts: Sequence[Prompt], sampler: Sampler, step: int, answer_of: Callable[[Prompt, str], str | None],
    right: Callable[[Prompt, str], bool], blank: str = "", swapped: Sequence[str] = (),
    groups: Sequence[Hashable] | None = None, entropies: Entropies | None = None, form: Form = "think-answer",
    begun: str = "",
) -> Reading:  # fmt: skip
    """Ask each prompt once with its pictures, once with blank and once with swapped ones, and count. What is the same
    question of the same picture is asked once.

    Args:
        sampler: Must be greedy (temperature 0), or agreement measures its randomness too.
        answer_of: The final answer that a text gives to a prompt, so normalised that equal answers are equal; None where it
            has none.
        right: Whether a whole text gives the right answer to a prompt: the same rule as the reward's.
        blank: Id of a blank picture in the sampler's store ("": do not ask without pictures).
        swapped: For each prompt the id of a picture for which the answer differs ("": none is known; none at all: do not ask
            with swapped ones).
        groups: For each prompt a group to take chance agreement in, such as the wording of its question.
        entropies: Computes entropies of answers; without it `onset_entropy` stays None.
        form: What a well-formed answer looks like.
        begun: What the chat template begins for every answer: part of what is read.

    Prompts without pictures count for accuracy and claims only. Raises AssayError when `swapped` does not fit the prompts.
    """
    if swapped and len(swapped) != len(prompts):
        raise AssayError(f"{len(swapped)} swapped pictures were given for {len(prompts)} prompts; give one for each")
    if not prompts:
        return Reading(step=step, n=0)
    seen = [i for i, p in enumerate(prompts) if p.images]
    blanks = [_with(prompts[i], blank) for i in seen] if blank else []
    turned = [i for i in seen if swapped[i]] if swapped else []
    swaps = [_with(prompts[i], swapped[i]) for i in turned]
    asked = {p.id: p for p in (*prompts, *blanks, *swaps)}
    said = {r[0].prompt_id: r[0] for r in sampler(list(asked.values()), 1)}
    rollouts = [said[p.id] for p in (*prompts, *blanks, *swaps)]
    answers = [answer_of(p, begun + r.text) for p, r in zip((*prompts, *blanks, *swaps), rollouts, strict=True)]
    n, m = len(prompts), len(prompts) + len(blanks)
    blind_rate, blind_chance = _same(prompts, answers, groups, seen, answers[n:m]) if blanks else (None, None)
    swap_rate, swap_chance = _same(prompts, answers, groups, turned, answers[m:]) if swaps else (None, None)
    known = [(p, begun + r.text) for p, r in zip(prompts, rollouts[:n], strict=True) if p.answer]
    onset, onsets = _onset(entropies, list(zip(prompts, rollouts[:n], strict=True)))
    return replace(
        _spoken(prompts, rollouts[:n], step, getattr(sampler, "answer_start", ""), form, begun),
        accuracy=_share([right(p, text) for p, text in known], _clusters([p for p, _ in known])),
        blind_agreement=blind_rate, chance_agreement=blind_chance, swap_agreement=swap_rate, swap_chance=swap_chance,
        unclear=sum(a is None for a in answers[:n]),
        onset_entropy=onset, onsets=onsets,
    )  # fmt: skip


def _spoken(
    prompts: Sequence[Prompt], rollouts: Sequence[Rollout], step: int, start: str, form: Form, begun: str
) -> Reading:
    """The part of a reading that the texts alone give; each begins with `start`, which nobody said."""
    texts = [r.text for r in rollouts]
    claims = check_claims(prompts, texts)
    clusters = _clusters(prompts)
    formed = _share([format_reward(begun + t, form) for t in texts], clusters)
    checked = [(m, c) for m, c in zip(claims.marks, clusters, strict=True) if m is not None]
    told = [(x, c) for x, c in zip(claims.named, clusters, strict=True) if x is not None]
    each = [
        (float(n < wrong), c) for (wrong, known), c in zip(claims.checked, clusters, strict=True) for n in range(known)
    ]
    thirds = _by_length([len(r.tokens) for r in rollouts], claims.marks, clusters)
    looked = [(cannot_see(t), c) for t, p, c in zip(texts, prompts, clusters, strict=True) if p.images]
    return Reading(
        step=step, n=len(prompts), format=formed,
        hallucination_rate=_share([m for m, _ in checked], [c for _, c in checked]),
        named=_share([x for x, _ in told], [c for _, c in told]),
        cannot_see=_share([x for x, _ in looked], [c for _, c in looked]), claims=claims.claims,
        false_claims_rate=_share([m for m, _ in each], [c for _, c in each]),
        hallucination_short=thirds[0], hallucination_middle=thirds[1], hallucination_long=thirds[2],
        false_claims=claims.false, unanswered=sum(not t.removeprefix(start).strip() for t in texts),
    )  # fmt: skip


def _by_length(
    lengths: Sequence[int], marks: Sequence[bool | None], clusters: Sequence[Hashable]
) -> list[Estimate | None]:
    """The hallucination rate of the shortest third of the answers, of the middle and of the longest one."""
    order = sorted((i for i, m in enumerate(marks) if m is not None), key=lambda i: lengths[i])
    thirds = [order[len(order) * n // 3 : len(order) * (n + 1) // 3] for n in range(3)]
    return [_share([float(marks[i] is True) for i in third], [clusters[i] for i in third]) for third in thirds]


def _onset(entropies: Entropies | None, answers: Sequence[tuple[Prompt, Rollout]]) -> tuple[float | None, int]:
    found = [e for told in entropies(answers) for e in onset_entropies(*told)] if entropies else []
    return (float(np.mean(found)) if found else None), len(found)


def _with(prompt: Prompt, picture: str) -> Prompt:
    """The prompt with every picture replaced by one; what was known of its picture no longer holds."""
    messages = tuple(replace(m, images=(picture,) * len(m.images)) for m in prompt.messages)
    return replace(prompt, messages=messages, answer="", facts=(), absent=())


def _clusters(prompts: Sequence[Prompt]) -> list[tuple[str, ...]]:
    return [p.images or (p.id,) for p in prompts]


def _share(marks: Sequence[float], clusters: Sequence[Hashable]) -> Estimate | None:
    return mean([float(m) for m in marks], clusters) if marks else None


def _same(
    prompts: Sequence[Prompt], answers: Sequence[str | None], groups: Sequence[Hashable] | None, at: Sequence[int],
    others: Sequence[str | None],
) -> tuple[Estimate | None, float | None]:  # fmt: skip
    """Agreement of the answers to the prompts at these places with `others`, and chance."""
    clear = [(i, b) for i, b in zip(at, others, strict=True) if answers[i] is not None]
    rate = _share([answers[i] == b for i, b in clear], [prompts[i].images for i, _ in clear])
    among = [groups[i] for i in at] if groups is not None else None
    return rate, agreement([answers[i] for i in at], others, among).chance


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """When to look, and what to do about what is found. All thresholds are ours; the paper gives none."""

    every: int = 20
    """Policy steps between readings."""
    prompts: int = 128
    """Questions of a reading, each asked with its own, a blank and a swapped picture."""
    lower_at: float = 0.3
    """Above this hallucination rate the reward model's weight is lowered (1: never): it may be what rewards inventions."""
    lower_by: float = 0.5
    """The factor, once for each time the rate goes above."""
    recover: bool = True
    """Give the weight back after two readings in a row that are not above the threshold."""
    stop_at: float = 0.6
    """The run stops when the rate's whole 95% interval lies above (1: never)."""
    collapse_entropy: float = 0.0
    """Nats: the run stops when the entropy at the onset of reasoning is below in two readings in a row (0: never)."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.prompts < 1:
            raise AssayError("monitor: every and prompts must be at least 1")
        if not 0 < self.lower_by < 1:
            raise AssayError(f"monitor.lower_by is a factor between 0 and 1, got {self.lower_by}")
        if not 0 <= self.lower_at <= self.stop_at <= 1:
            raise AssayError(
                f"monitor: 0 <= lower_at <= stop_at <= 1 must hold, got {self.lower_at} and {self.stop_at}"
            )
        if not 0 <= self.collapse_entropy < float("inf"):
            raise AssayError(f"monitor.collapse_entropy must be finite and not negative, got {self.collapse_entropy}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What to do after a reading: `weight` is the factor of the reward model's weight from now on, `reason` says why in
    words ("" when nothing changes)."""

    kind: Literal["keep", "lower", "restore", "stop"]
    weight: float
    reason: str = ""


CALM = 2
"""Readings in a row that end an excursion, or make a collapse."""


class Watch:
    """Turns readings into actions. Its state is all it remembers: a run that resumes with it decides the same. `of` tells
    what is read, for the record of a training."""

    def __init__(self, config: MonitorConfig, of: str = "") -> None:
        self.config, self.of = config, of
        self.weight, self.high, self.calm, self.flat, self.stopped = 1.0, False, 0, 0, ""

    def observe(self, reading: Reading) -> Action:
        """Call it once for each reading, in order. After a stop every further answer is that stop."""
        self.stopped = self.stopped or self._stop(reading)
        if self.stopped:
            return Action(kind="stop", weight=self.weight, reason=self.stopped)
        rate = reading.hallucination_rate
        if rate is None:
            return Action(kind="keep", weight=self.weight)
        said = f"step {reading.step}: hallucination rate {told(rate)} of answers"
        if rate.value > self.config.lower_at:
            self.calm = 0
            if self.high:
                return Action(kind="keep", weight=self.weight)
            self.high, self.weight = True, self.weight * self.config.lower_by
            reason = f"{said}, above {self.config.lower_at:.1%}: reward model's weight x {self.weight:g}"
            return Action(kind="lower", weight=self.weight, reason=reason)
        self.calm += self.high
        if self.calm < CALM:
            return Action(kind="keep", weight=self.weight)
        self.high, self.calm = False, 0
        if not self.config.recover:
            return Action(kind="keep", weight=self.weight)
        self.weight = 1.0
        reason = f"{said}, at or below {self.config.lower_at:.1%} in {CALM} readings: reward model's weight restored"
        return Action(kind="restore", weight=1.0, reason=reason)

    def _stop(self, reading: Reading) -> str:
        entropy, rate = reading.onset_entropy, reading.hallucination_rate
        if entropy is not None:
            self.flat = self.flat + 1 if entropy < self.config.collapse_entropy else 0
        if rate is not None and (low := interval(rate)[0]) > self.config.stop_at:
            return (
                f"step {reading.step}: hallucination rate {told(rate)} of answers, at least {low:.1%} with "
                f"95% confidence, above {self.config.stop_at:.1%}"
            )
        if entropy is not None and self.flat >= CALM:
            return (
                f"step {reading.step}: entropy at the onset of reasoning {entropy:.3f} nats, below "
                f"{self.config.collapse_entropy:.3f} in {CALM} readings"
            )
        return ""

    def state(self) -> dict[str, Any]:
        """Everything that decides later actions, as plain values."""
        return {n: getattr(self, n) for n in ("weight", "high", "calm", "flat", "stopped")}

    def load_state(self, state: dict[str, Any]) -> None:
        self.weight, self.high = float(state["weight"]), bool(state["high"])
        self.calm, self.flat, self.stopped = int(state["calm"]), int(state["flat"]), str(state["stopped"])


def plot(readings: Sequence[Reading]) -> bytes:
    """Accuracy against hallucination rate, a point with 95% intervals for each reading that has both; as PNG.

    Raises AssayError when no reading has both.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = [(r.step, r.hallucination_rate, r.accuracy) for r in readings]
    points = [(step, x, y) for step, x, y in found if x is not None and y is not None]
    if not points:
        raise AssayError("no reading has both an accuracy and a hallucination rate: there is nothing to plot")
    figure = Figure(figsize=(9, 4))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([100 * x.value for _, x, _ in points], [100 * y.value for *_, y in points], color="#888888", alpha=0.5)
    for step, x, y in points:
        axes.errorbar(100 * x.value, 100 * y.value, xerr=_arms(x), yerr=_arms(y), fmt="o", color="#b8860b", capsize=4)
        axes.annotate(str(step), (100 * x.value, 100 * y.value), xytext=(5, 5), textcoords="offset points")
    left = f"; without both rates: {len(found) - len(points)}" if len(points) < len(found) else ""
    axes.set_xlabel(f"hallucination rate, % (bars: 95% intervals; numbered in order{left})")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.tight_layout()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _arms(rate: Estimate) -> list[list[float]]:
    """The lengths below and above a point, in percent, as matplotlib takes them."""
    low, high = interval(rate)
    return [[100 * (rate.value - low)], [100 * (high - rate.value)]]
