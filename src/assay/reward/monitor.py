"""What a training shows while it runs: a line of progress, `metrics.jsonl`, and any tracker that a user has.

The papers show curves only. Rates are over the last steps, not since the start; the ETA follows from them.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape

from assay import session
from assay.journal import Journal
from assay.trackers import how


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One optimiser step over all processes. `loss`, `accuracy`, `margin` (r_chosen - r_rejected), `chosen` and
    `rejected` (rewards) are means over its `pairs`; `tokens` are real ones, a shared prefix once, `padded` all that the
    forward passes worked on, `cut` those left out of over-long conversations."""

    step: int
    loss: float
    accuracy: float
    margin: float
    chosen: float
    rejected: float
    grad_norm: float
    lr: float
    pairs: int
    tokens: int
    padded: int
    cut: int


class Monitor:
    """Use it as a context manager; `quiet` (every process but the first) does nothing.

    Args:
        folder: Where `metrics.jsonl` goes.
        steps: Optimiser steps of the whole training.
        say: Takes a line of progress, every `every_s` seconds and at the last step.
        trackers, settings: See `Journal`.
        console: A terminal that shows one live line instead of those every `every_s` seconds.
    """

    WINDOW = 20
    LIVE_S = 0.25

    def __init__(
        self, folder: Path, steps: int, say: Callable[[str], None], trackers: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None, name: str = "train", quiet: bool = False, every_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic, console: Console | None = None,
    ) -> None:  # fmt: skip
        self.steps, self.say, self.name, self.quiet = steps, say, name, quiet
        self.journal = Journal(folder, trackers, settings, say, quiet)
        live = console is not None and console.is_terminal and not quiet
        self.status = console.status(f"{name}: the first step") if console is not None and live else None
        self.every_s, self.clock, self.said = self.LIVE_S if live else every_s, clock, clock()
        self.recent: deque[tuple[float, StepMetrics]] = deque(maxlen=self.WINDOW)
        self.started = clock()

    def __enter__(self) -> "Monitor":
        if self.status:
            self.status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status:
            self.status.stop()
        self.journal.close(how(error))

    def resume(self, step: int) -> None:
        """Forget the lines of later steps, and a last one that a kill cut short: they will be written again."""
        self.journal.resume(step)

    def log(self, metrics: StepMetrics, more: Mapping[str, float] = MappingProxyType({})) -> None:
        """Record one step, and what else was measured after it."""
        now = self.clock()
        self.recent.append((now, metrics))
        if self.quiet:
            return
        values = {k: v for k, v in asdict(metrics).items() if k != "step"}
        self.journal.log(metrics.step, {**values, **self.rates(), **more})
        session.at(f"{self.name}: steps", metrics.step, self.steps)
        if now - self.said >= self.every_s or metrics.step >= self.steps:
            self.said = now
            if self.status and metrics.step < self.steps:
                self.status.update(escape(self.line(metrics)))
            else:
                self.say(self.line(metrics))

    def rates(self) -> dict[str, float]:
        """pairs_per_s, tokens_per_s, eta_s over the window, and the share of padding in what was computed."""
        (last, metrics), steps = self.recent[-1], len(self.recent)
        first = self.recent[0][0] if steps > 1 else self.started
        counted = list(self.recent)[1:] if steps > 1 else list(self.recent)
        seconds = max(last - first, 1e-9)
        spent = sum(m.padded for _, m in self.recent)
        return {
            "pairs_per_s": sum(m.pairs for _, m in counted) / seconds,
            "tokens_per_s": sum(m.tokens for _, m in counted) / seconds,
            "padding": 1 - sum(m.tokens for _, m in self.recent) / max(1, spent),
            "eta_s": (self.steps - metrics.step) * seconds / len(counted),
        }

    def line(self, metrics: StepMetrics) -> str:
        """The line of progress after a step. "fits": of the last steps' pairs, which it is trained on, so many have the
        chosen response ahead: no measure of how good it is, and so no share."""
        seen = [m for _, m in self.recent]
        pairs = sum(m.pairs for m in seen)
        loss, margin = (sum(getattr(m, name) * m.pairs for m in seen) / pairs for name in ("loss", "margin"))
        fits = round(sum(m.accuracy * m.pairs for m in seen))
        rates = self.rates()
        return (
            f"{self.name}: step {metrics.step}/{self.steps}  loss {loss:.3f}  fits {fits:,} of {pairs:,}  "
            f"margin {margin:+.2f}  grad {metrics.grad_norm:.2g}  lr {metrics.lr:.2g}  {rates['pairs_per_s']:,.1f} pairs/s  "
            f"{rates['tokens_per_s']:,.0f} tokens/s  padding {rates['padding']:.1%}  left {_duration(rates['eta_s'])}"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
