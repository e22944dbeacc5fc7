"""Pictures of a training's page, as inline SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup

from assay.errors import AssayError
from assay.look import drawn
from assay.policy.reading import Reading
from assay.statistics import Estimate, interval

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator


def curves(name: str, metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """Captions and plots of a training's steps."""
    if metrics and "effective" in metrics[0]:
        return [_captioned(f"{name}: rewards and effective samples over steps", _grpo_plot(metrics))]
    if metrics and "accuracy" in metrics[0]:
        return [_captioned(f"{name}: preference accuracy and margin over steps", _mpo_plot(metrics))]
    return [_captioned(f"{name}: NLL of the answers over steps", _nll_plot(metrics))] if metrics else []


def _captioned(caption: str, figure: Any) -> tuple[str, Markup]:
    return caption, drawn(figure, caption)


def _grpo_plot(metrics: Sequence[Mapping[str, Any]]) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    steps = [m["step"] for m in metrics]
    terms = (("rule", "rule", "#2a6fbb"), ("format", "well-formed", "#888888"), ("model", "model term", "#c0392b"))
    for name, label, colour in terms:
        left.plot(steps, [m[name] for m in metrics], label=label, color=colour)
    shares = (
        ("effective_rule", "groups, rule part", "#888888"), ("effective_total", "groups, total", "#2a6fbb"),
        ("batch_effective", "batch, buffer included", "#c0392b"),
    )  # fmt: skip
    for name, label, colour in shares:
        right.plot(steps, [100 * m[name] for m in metrics], label=label, color=colour)
    left.set_ylabel("mean reward of sampled answers")
    right.set_ylabel("with signal, %")
    for axes in (left, right):
        _along(axes, "step")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    return figure


def _mpo_plot(metrics: Sequence[Mapping[str, Any]]) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    steps = [m["step"] for m in metrics]
    left.plot(steps, [100 * m["accuracy"] for m in metrics], color="#2a6fbb")
    left.set_ylabel("pairs in the right order, %")
    right.plot(steps, [m["margin"] for m in metrics], color="#c0392b", label="margin of implicit rewards")
    right.plot(steps, [m["nll"] for m in metrics], color="#888888", label="NLL of the chosen answer")
    right.legend(frameon=False)
    for axes in (left, right):
        _along(axes, "step")
        axes.grid(alpha=0.3)
    return figure


def _nll_plot(metrics: Sequence[Mapping[str, Any]]) -> Any:
    figure, axes = plt.subplots(figsize=(6, 3.6), constrained_layout=True)
    axes.plot([m["step"] for m in metrics], [m["nll"] for m in metrics], color="#2a6fbb")
    _along(axes, "step")
    axes.set_ylabel("NLL of a token, nats")
    axes.grid(alpha=0.3)
    return figure


def _along(axes: Any, name: str) -> None:
    """What goes to the right is counted: there is no step 1.25."""
    axes.set_xlabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A line with its intervals: (value, low, high) at each of `steps`."""

    label: str
    colour: str
    steps: Sequence[float]
    values: Sequence[Sequence[float]]


def bands(parts: Sequence[tuple[str, Sequence[Band]]], along: str = "step") -> Markup:
    """Plots side by side, each with its title and its lines with their 95% intervals."""
    figure, every = plt.subplots(1, len(parts), figsize=(10, 3.6), constrained_layout=True, squeeze=False)
    for axes, (title, lines) in zip(every[0], parts, strict=True):
        for line in lines:
            middle, low, high = (np.array(x) for x in zip(*line.values, strict=True))
            axes.plot(line.steps, middle, "o-", markersize=3, color=line.colour, label=line.label)
            axes.fill_between(line.steps, low, high, color=line.colour, alpha=0.13, linewidth=0)
            if len(line.steps) == 1:
                axes.vlines(line.steps, low, high, color=line.colour)
        axes.set_title(title, fontsize=10)
        _along(axes, along)
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return drawn(figure, "; ".join(title for title, _ in parts))


def plot(readings: Sequence[Reading]) -> Markup:
    """Accuracy against hallucination rate, a point with 95% intervals for each reading that has both.

    Raises AssayError when no reading has both.
    """
    found = [(r.step, r.hallucination_rate, r.accuracy) for r in readings]
    points = [(step, x, y) for step, x, y in found if x is not None and y is not None]
    if not points:
        raise AssayError("no reading has both an accuracy and a hallucination rate: there is nothing to plot")
    figure, axes = plt.subplots(figsize=(9, 4), constrained_layout=True)
    axes.plot([100 * x.value for _, x, _ in points], [100 * y.value for *_, y in points], color="#888888", alpha=0.5)
    for step, x, y in points:
        axes.errorbar(100 * x.value, 100 * y.value, xerr=_arms(x), yerr=_arms(y), fmt="o", color="#b8860b", capsize=4)
        axes.annotate(str(step), (100 * x.value, 100 * y.value), xytext=(5, 5), textcoords="offset points")
    left = f"; without both rates: {len(found) - len(points)}" if len(points) < len(found) else ""
    axes.set_xlabel(f"hallucination rate, % (bars: 95% intervals; numbered in order{left})")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    return drawn(figure, "Accuracy against hallucination rate")


def _arms(rate: Estimate) -> list[list[float]]:
    """The lengths below and above a point, in percent, as matplotlib takes them."""
    low, high = interval(rate)
    return [[100 * (rate.value - low)], [100 * (high - rate.value)]]
