"""Readings of a policy -> what to do: lower the reward model's weight, or stop. All thresholds are ours."""

from dataclasses import dataclass, field
from typing import Any, Literal

from assay.errors import AssayError
from assay.figures import told
from assay.policy.hacking import HackConfig
from assay.policy.reading import Reading
from assay.statistics import Estimate, interval


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
    judge: str = ""
    """MODEL@URL of a language model that sees pictures, behind an OpenAI-compatible server: it says of each claim of an
    answer whether the picture bears it out, for open answers whose facts nobody has listed. Where none are, its rate is the
    hallucination rate of the thresholds. Asked, paid and bounded as `ask` says."""
    hack: HackConfig = field(default_factory=HackConfig)
    """What becomes of a run whose rewards rise while the accuracy on the watched questions does not."""

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


def _rate(reading: Reading) -> Estimate | None:
    """The hallucination rate by what is known of the pictures; where nothing is, the judge's."""
    return reading.judged_rate if reading.hallucination_rate is None else reading.hallucination_rate


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
        rate = _rate(reading)
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
        entropy, rate = reading.onset_entropy, _rate(reading)
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
