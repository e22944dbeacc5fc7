"""What a reward model's score is worth: the probability that an answer is right, told from gold, and a gate before it.

A gate is set on answers of the policy as it was. While that trains it is measured again (`remeasure`) on fresh answers whose
key is known. What it decides is kept until these contradict it with confidence, for a policy that has moved need not have
moved out of it, and a new fit on fewer answers would be the worse one; then it is set anew on them, or closed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.figures import told
from assay.statistics import Z95, Estimate, clopper_pearson, interval, mean, student95

if TYPE_CHECKING:
    from assay.policy.rewards import RewardConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTerm:
    """p = sigmoid((score - center) / temperature), fitted on `n_gold` gold answers; what p reaches `threshold` earns
    bound * p. `precision` of the gold answers there (a share `kept` of all) is right, at least `precision_low` with 95%
    confidence. No threshold that reaches the wanted precision: infinite, and `reason` says so. `dropped` more gold answers
    had a score that is no number."""

    temperature: float
    center: float
    threshold: float
    precision: float
    precision_low: float
    kept: float
    n_gold: int
    bound: float
    reason: str = ""
    dropped: int = 0

    def __str__(self) -> str:
        gold = f"{self.n_gold:,} gold answers" + f", {self.dropped:,} more without a finite score" * bool(self.dropped)
        if self.reason:
            return f"the reward model's gate is closed: {self.reason} ({gold})"
        there = round(self.kept * self.n_gold)
        sure = f"{round(self.precision * there):,} of these {there:,} are right, with confidence at least"
        return (
            f"the reward model's gate is open above p = {self.threshold:.3f}: {there:,} of {gold}; {sure} "
            f"{100 * self.precision_low:.0f} in 100"
        )

    def probability(self, raw: float) -> float:
        """That an answer with this score is right, as far as gold tells."""
        return float(_sigmoid(np.array([(raw - self.center) / self.temperature]))[0])

    def __call__(self, raw: float) -> float:
        """The term of a score, in [0, bound]."""
        p = self.probability(raw)
        return self.bound * p if p >= self.threshold else 0.0


def fit_model_term(
    raw: NDArray[np.float64], right: NDArray[np.bool_], config: "RewardConfig", questions: Sequence[str] | None = None
) -> ModelTerm:
    """Fit the calibrated term on gold answers: their scores and whether they are right, shape (n,), and which question each
    belongs to (None: each to its own). Scores that are not finite are left out and counted.

    Maximum likelihood of a logistic, labels smoothed as Platt (1999, section 2.2) does, so that few or separable answers
    never make certainty; the slope is held positive. The threshold is the lowest above which the share of right answers is,
    by the lower end of its exact 95% interval, at least `gate_precision` and above the share among all: a few lucky answers
    open no gate, nor does a score that says nothing where most answers are right. Answers to one question are alike, so the
    bound takes n answers for n / (1 + (m - 1) rho): m to a question, rho their correlation (Kish 1965), and fewer by
    Student's t for the questions that rho is told from. `tests/unit/test_coverage.py` counts how often a gate promises more
    than it holds, the choice of the threshold included. Raises ValueError for arrays of other shapes.
    """
    raw, right = np.asarray(raw, dtype=np.float64), np.asarray(right, dtype=bool)
    if raw.ndim != 1 or raw.shape != right.shape or (questions is not None and len(questions) != len(raw)):
        raise ValueError("calibration needs one score, one label and one question for each gold answer")
    asked = np.arange(len(raw)) if questions is None else np.unique(np.asarray(questions), return_inverse=True)[1]
    finite = np.isfinite(raw)
    raw, right, asked = raw[finite], right[finite], asked[finite]
    off: dict[str, Any] = {"temperature": 1.0, "center": 0.0, "threshold": math.inf, "precision": 0.0,
                           "precision_low": 0.0, "kept": 0.0, "n_gold": len(raw), "bound": config.bound,
                           "dropped": int((~finite).sum())}  # fmt: skip
    if len(raw) < 10 or right.all() or not right.any() or np.ptp(raw) == 0:
        return ModelTerm(**off, reason="gold needs ten answers, right and wrong ones, with different scores")
    slope, shift = _logistic(raw, right)
    if slope <= 0:
        return ModelTerm(**off, reason="right answers do not score higher on gold: the reward model is not used")
    temperature, center = float(1 / slope), float(-shift / slope)
    p = _sigmoid(
        (raw - center) / temperature
    )  # as `ModelTerm.probability` has it, or rounding shuts out the last score
    fitted = off | {"temperature": temperature, "center": center}
    order = np.argsort(-p, kind="stable")
    counts = np.arange(1, len(raw) + 1)
    shares, last = np.cumsum(right[order]) / counts, np.append(p[order][:-1] != p[order][1:], True)
    ends = np.flatnonzero(last)
    lows = np.zeros(len(raw))
    worth = _independent(right, asked, order)[ends]
    lows[ends] = clopper_pearson(shares[ends], worth)[0]
    wanted = max(config.gate_precision, float(right.mean()))
    good = np.flatnonzero(last & (lows >= wanted))
    if not len(good):
        best = f"best {float(np.max(lows)):.0%}"
        return ModelTerm(
            **fitted, reason=f"no threshold reaches, with confidence, a precision of {wanted:.0%} ({best})"
        )
    at = int(good[-1])
    chosen = {"threshold": float(p[order][at]), "precision": float(shares[at]), "kept": float(counts[at] / len(raw)),
              "precision_low": float(lows[at])}  # fmt: skip
    return ModelTerm(**(fitted | chosen))


def _independent(right: NDArray[np.bool_], asked: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many independent answers the first 1, 2, ... n in this order are worth (Kish's design effect)."""
    error = right - right.mean()
    sums, squares, sizes = (np.bincount(asked, x) for x in (error, error**2, np.ones(len(asked))))
    pairs = float((sizes * (sizes - 1)).sum())
    alike = max(0.0, float((sums**2 - squares).sum()) / pairs / float((error**2).mean())) if pairs else 0.0
    first = np.zeros(len(order))
    first[np.unique(asked[order], return_index=True)[1]] = 1
    counts = np.arange(1, len(order) + 1)
    questions = np.cumsum(first)
    found: NDArray[np.float64] = counts / (1 + (counts / questions - 1) * alike)
    if not pairs:
        return found
    doubt = {q: (Z95 / student95(q - 1)) ** 2 if q > 1 else 0.0 for q in np.unique(questions).tolist()}
    return np.asarray(found * np.array([doubt[q] for q in questions.tolist()]))


def _logistic(raw: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of P(right | score): Newton's method on standardised scores, with halved steps."""
    mean, spread = float(raw.mean()), float(raw.std())
    x = np.stack([(raw - mean) / spread, np.ones_like(raw)], axis=1)
    yes, no = int(right.sum()), int((~right).sum())
    y = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))

    def loss(w: NDArray[np.float64]) -> float:
        z = x @ w
        return float(np.sum(np.logaddexp(0, z) - y * z))

    w = np.zeros(2)
    for _ in range(50):
        p = _sigmoid(x @ w)
        curvature = x.T @ (x * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, x.T @ (p - y))
        size = 1.0
        while loss(w - size * step) > loss(w) and size > 1e-6:
            size /= 2
        w = w - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return float(w[0] / spread), float(w[1] - w[0] * mean / spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReading:
    """How a gate did on fresh answers whose key is known, with intervals over their questions: the share of `right` ones,
    that of those it lets through (`open`), and of these the right ones (`precision`; None: it let none through). `dropped`
    had a score that is no number. `action` says what became of the gate."""

    right: Estimate
    open: Estimate
    precision: Estimate | None
    dropped: int
    action: str = "kept"

    def __str__(self) -> str:
        through = f"lets {told(self.open)} of fresh answers through"
        if self.precision is None:
            return f"the reward model's gate lets none of {self.open.n:,} fresh answers through"
        return (
            f"the reward model's gate {through}; {told(self.precision)} of these are right, of all {told(self.right)}"
        )

    def as_metrics(self) -> dict[str, Any]:
        """By names that begin with "gate_check_", for `metrics.jsonl`."""
        found: dict[str, Any] = {"gate_check_action": self.action, "gate_check_dropped": self.dropped}
        for name in ("right", "open", "precision"):
            rate: Estimate | None = getattr(self, name)
            if rate is not None:
                found[f"gate_check_{name}"] = rate.value
                found |= {f"gate_check_{name}_{k}": getattr(rate, k) for k in ("se", "n", "clusters")}
        return found


def remeasure(
    term: ModelTerm,
    raw: NDArray[np.float64],
    right: NDArray[np.bool_],
    config: "RewardConfig",
    questions: Sequence[str],
) -> tuple[GateReading | None, ModelTerm]:
    """How the gate did on fresh answers of the policy (arguments as of `fit_model_term`; None: no score is a number), and
    the term from now on.

    It is the same, until of the answers that it lets through fewer than `gate_precision` are right even by the upper end of
    their 95% interval: then it is fitted on the fresh answers, which may close it. A closed gate is tried again each time,
    and opens where the fresh answers alone bear it out.
    """
    raw, right = np.asarray(raw, dtype=np.float64), np.asarray(right, dtype=bool)
    finite = np.isfinite(raw)
    scores, good, asked = raw[finite], right[finite], [q for q, known in zip(questions, finite, strict=True) if known]
    if not len(scores):
        return None, term
    through = np.array([term(x) > 0 for x in scores.tolist()])
    held = [q for q, is_open in zip(asked, through, strict=True) if is_open]
    precision = mean(good[through].astype(float).tolist(), held) if held else None
    contradicted = precision is not None and interval(precision)[1] < config.gate_precision
    found = term
    if contradicted or math.isinf(term.threshold):
        found = fit_model_term(raw, right, config, questions)
        if not contradicted and math.isinf(found.threshold):
            found = term
    action = "kept" if found is term else "closed" if math.isinf(found.threshold) else "moved" if held else "opened"
    rates = (mean(x.astype(float).tolist(), asked) for x in (good, through))
    return GateReading(
        right=next(rates), open=next(rates), precision=precision, dropped=int((~finite).sum()), action=action
    ), found


def ordered(scores: Sequence[float], right: Sequence[bool]) -> tuple[float, int]:
    """Of all pairs of a right and a wrong answer of one group, how many have the right one's score above (half for equal
    ones), and how many there are. Scores that are not numbers are left out."""
    ones, others = (
        [s for s, r in zip(scores, right, strict=True) if r == good and math.isfinite(s)] for good in (True, False)
    )
    return sum((a > b) + (a == b) / 2 for a in ones for b in others), len(ones) * len(others)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -x))
