"""What a reward difference is worth as a probability: a temperature fitted on gold pairs, and how well it holds.

sigmoid(margin / T) is the probability that the preferred response is the better one; T minimises the mean negative log-
likelihood on gold (Guo et al., arXiv 1706.04599, section 4.2). Where every pair is right that minimum lies at T = 0; there
one of n + 2 is taken to be wrong (Platt 1999, section 2.2), so that few pairs never make certainty. The papers do not
calibrate; rewards for RL need it.
"""

import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import AssayError
from assay.statistics import bounds, mean
from assay.tables import write_text

COOLEST, HOTTEST = 1e-3, 1e3
"""Temperatures are held to this range, in units of the margins' root mean square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs of like confidence: the model's mean probability for its preference, how often it was right, 95% interval."""

    n: int
    predicted: float
    right: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """`nll` and `ece` (expected calibration error) are at T = 1; those `_after` are cross-fitted on two halves of the
    questions, so that no pair is measured with a temperature that it, or another of its question, helped to fit (those of a
    single question are). `se` is the standard error of log T, robust to misfit and to like pairs of a question; none where
    `reason` says why T is not the minimum. Gold that also chose the checkpoint makes all of this look a little better.
    """

    n: int
    accuracy: float
    temperature: float
    nll: float
    nll_after: float
    ece: float
    ece_after: float
    curve: tuple[Bin, ...]
    reason: str = ""
    se: float | None = None

    def probability(self, margin: float) -> float:
        """That the response which scores `margin` higher is the better one."""
        return float(_sigmoid(np.array([margin / self.temperature]))[0])


def fit(margins: NDArray[np.float64], questions: Sequence[Hashable] | None = None) -> Calibration:
    """The calibration of r_chosen - r_rejected on gold pairs, shape (n,), and the question of each (None: each its own).
    Raises ValueError for no or infinite margins, or another number of questions."""
    margins = np.asarray(margins, dtype=np.float64)
    if not len(margins) or not np.isfinite(margins).all():
        raise ValueError("calibration needs finite margins of at least one pair")
    asked = list(questions) if questions is not None else list(range(len(margins)))
    if len(asked) != len(margins):
        raise ValueError(f"{len(asked)} questions for {len(margins)} margins")
    number = {q: n for n, q in enumerate(dict.fromkeys(asked))}
    of = np.array([number[q] for q in asked])
    temperature, reason = _temperature(margins)
    crossed = margins / temperature
    if len(number) > 1:
        for half in (0, 1):
            crossed[of % 2 == half] = margins[of % 2 == half] / _temperature(margins[of % 2 != half])[0]
    return Calibration(
        n=len(margins), accuracy=float(np.mean(margins > 0)), temperature=temperature,
        nll=_nll(margins), nll_after=_nll(crossed), ece=_ece(margins), ece_after=_ece(crossed),
        curve=curve(crossed, asked), reason=reason, se=None if reason else _error(margins / temperature, of),
    )  # fmt: skip


def curve(logits: NDArray[np.float64], questions: Sequence[Hashable] | None = None) -> tuple[Bin, ...]:
    """The reliability curve: bins of equal count by the model's confidence in its own preference."""
    asked = questions if questions is not None else range(len(logits))
    parts = _parts(logits)
    right = [mean((logits[part] > 0).astype(float).tolist(), [asked[i] for i in part]) for part in parts]
    lows, highs = bounds(*np.array([(r.value, r.se, r.n, r.clusters) for r in right]).T)
    return tuple(
        Bin(
            n=r.n,
            predicted=float(np.mean(_sigmoid(np.abs(logits[part])))),
            right=r.value,
            low=float(low),
            high=float(high),
        )
        for part, r, low, high in zip(parts, right, lows, highs, strict=True)
    )


def _parts(logits: NDArray[np.float64], most: int = 10) -> list[NDArray[np.int64]]:
    order = np.argsort(np.abs(logits), kind="stable")
    return np.array_split(order, min(most, max(1, len(order) // 20)))


def save(calibration: Calibration, path: Path) -> None:
    write_text(path, json.dumps(asdict(calibration), indent=2))


def load(path: Path) -> Calibration:
    """What `save` wrote. Raises AssayError for a file that is missing or something else."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Calibration(**{**fields, "curve": tuple(Bin(**b) for b in fields["curve"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssayError(f"{path}: not a calibration ({error}); a finished training keeps one") from error


def plot(calibration: Calibration, path: Path) -> Path:
    """Draw the reliability curve to a file, in the format of its suffix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    draw(calibration, figure.subplots())
    figure.savefig(path, dpi=150)
    return path


def draw(calibration: Calibration, axes: Any) -> None:
    """Draw the reliability curve on matplotlib axes."""
    bins = calibration.curve
    axes.plot([50, 100], [50, 100], color="#bbbbbb", linestyle=":", linewidth=1)
    below = [100 * (b.right - b.low) for b in bins]
    above = [100 * (b.high - b.right) for b in bins]
    axes.errorbar(
        [100 * b.predicted for b in bins], [100 * b.right for b in bins], yerr=[below, above], color="#2a6fbb",
        marker="o", capsize=3,
    )  # fmt: skip
    axes.set_xlabel("probability that the model gives its preference, %")
    axes.set_ylabel("how often it was right, %")
    axes.set_title(f"{calibration.n:,} gold pairs, T = {calibration.temperature:.3g}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _temperature(margins: NDArray[np.float64]) -> tuple[float, str]:
    """The minimum in x = 1 / T of the mean of log(1 + exp(-m x)), which is convex: bisection on its derivative.

    With no pair wrong, a share 1 / (n + 2) of each counts as wrong.
    """
    unit = float(np.sqrt(np.mean(margins**2)))
    if unit == 0:
        return 1.0, "all margins are zero"
    scaled = margins / unit
    sure = bool((margins >= 0).all())
    wrong = 1 / (len(margins) + 2) if sure else 0.0

    def slope(x: float) -> float:
        return float(-np.mean(scaled * (_sigmoid(-scaled * x) - wrong)))

    cold, hot = 1 / COOLEST, 1 / HOTTEST
    if slope(hot) >= 0:
        return unit * HOTTEST, "the margins say nothing of what is right: no better than chance"
    if slope(cold) <= 0:
        return unit * COOLEST, "the only wrong pairs are all but ties: hardly a temperature is too cold"
    for _ in range(200):
        middle = math.sqrt(cold * hot)
        cold, hot = (middle, hot) if slope(middle) > 0 else (cold, middle)
    reason = f"every pair is right: as if one of {len(margins) + 2:,} were not" if sure else ""
    return unit / math.sqrt(cold * hot), reason


def _error(logits: NDArray[np.float64], questions: NDArray[np.int64]) -> float:
    """The sandwich standard error of log T at the minimum, from margins / T: root of the sum over questions of squared
    scores, over the curvature."""
    wrong = _sigmoid(-logits)
    scores = np.bincount(questions, logits * wrong)
    return float(np.sqrt(np.sum(scores**2)) / np.sum(logits**2 * wrong * (1 - wrong)))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + tail), tail / (1 + tail))


def _nll(logits: NDArray[np.float64]) -> float:
    return float(np.mean(np.logaddexp(0, -logits)))


def _ece(logits: NDArray[np.float64]) -> float:
    apart = [np.mean(_sigmoid(np.abs(logits[p]))) - np.mean(logits[p] > 0) for p in _parts(logits)]
    return float(sum(len(p) * abs(d) for p, d in zip(_parts(logits), apart, strict=True)) / len(logits))
