"""Benchmark results as one self-contained HTML page: the totals with intervals, best-of-N curves, the tables."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

from assay.bench import table
from assay.bench.best_of_n import Curve
from assay.bench.compare import COMPARED, Difference, compared
from assay.bench.results import BenchmarkResult, Skipped
from assay.look import MARK, drawn, paper
from assay.tables import write_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>assay bench: {{ model }}</title><style>{{ css }}</style><main>
<div class="mark">{{ mark }} Assay</div>
<h1>{{ model }}</h1><p class="dim">{{ machine }}. All with 95 % intervals, errors clustered by prompt.</p>
{% if verdicts %}<p class="lead">
{% for line in verdicts %}{{ line }}{% if not loop.last %}<br>{% endif %}{% endfor %}</p>{% endif %}
{% for title, picture in plots %}<figure tabindex="0">{{ picture }}
<figcaption>{{ title }}</figcaption></figure>{% endfor %}
{% macro of(i) %}{% if i in numbers %} class="n"{% endif %}{% endmacro %}
<div class="wide" tabindex="0" role="group" aria-label="Table"><table>
<tr>{% for h in header %}<th{{ of(loop.index0) }}>{{ h }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for v in row %}<td{{ of(loop.index0) }}>{{ v }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% for note in notes %}<p class="dim">{{ note }}</p>{% endfor %}</main></html>
"""


def write(
    path: Path, model: str, environment: Mapping[str, Any], results: Sequence[BenchmarkResult | Skipped],
    curves: Mapping[str, Curve],
) -> Path:  # fmt: skip
    """Write the page; returns its path."""
    plots = []
    told = [r for r in results if isinstance(r, BenchmarkResult)]
    if told:
        plots.append(
            (
                "Totals (filled), and parts of benchmarks without one (hollow), with 95 % intervals; |: chance",
                _totals(told),
            )
        )
    if curves:
        plots.append(("Best of N: picked by the reward model, at random, and the best there is", _curves(curves)))
    machine = ", ".join(f"{k} {v}" for k, v in environment.items() if isinstance(v, str | int | float))
    verdicts = [f"{r.name}: {r.verdict}" for r in told if r.verdict]
    return _page(path, model, machine, table.HEADER, table.NUMBERS, table.rows(results),
                 [*verdicts, *table.notes(results)], plots)  # fmt: skip


def write_compared(path: Path, a: str, b: str, differences: Sequence[Difference]) -> Path:
    """Write the page of a comparison of models `a` and `b`: a plot, the table, what is shown in words; returns its path."""
    verdicts = [f"{d.name}: A: {d.verdict}" for d in differences]
    notes = [f"{d.name}: {note}" for d in differences for note in d.notes]
    plots = [
        ("A less B in points, with 95 % intervals: to the right of the line A is better", _differences(differences))
    ]
    return _page(
        path, f"A: {a} · B: {b}", "Paired item by item", COMPARED, {3, 5}, compared(differences), notes, plots, verdicts
    )


def _page(
    path: Path, model: str, machine: str, header: Sequence[str], numbers: Set[int], rows: Sequence[Sequence[str]],
    notes: Sequence[str], plots: Sequence[tuple[str, Any]], verdicts: Sequence[str] = (),
) -> Path:  # fmt: skip
    page = jinja2.Environment(autoescape=True).from_string(PAGE).render(
        model=model, machine=machine, header=header, numbers=numbers, rows=rows, notes=notes, verdicts=verdicts,
        plots=[(title, drawn(figure, title)) for title, figure in plots], css=paper(), mark=MARK,
    )  # fmt: skip
    write_text(path, page)
    return path


def _differences(differences: Sequence[Difference]) -> Any:
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.32 * len(differences)), constrained_layout=True)
    for y, d in enumerate(reversed(differences)):
        axes.plot([d.low, d.high], [y, y], color="#2a6fbb")
        axes.plot([d.points], [y], "o", color="#2a6fbb")
    axes.set_yticks(range(len(differences)), [d.name for d in reversed(differences)])
    axes.axvline(0, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xlabel("points")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _totals(results: Sequence[BenchmarkResult]) -> Any:
    points = []
    for result in results:
        shown = [result.headline] if result.headline else [c for c in result.slices if "," not in c.name][:6]
        by_chance = result.chance if result.headline else None
        points += [(f"{result.name}: {c.name}", c, result.headline is not None, by_chance) for c in shown]
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.32 * len(points)), constrained_layout=True)
    for y, (_, cell, whole, by_chance) in enumerate(reversed(points)):
        low, high = cell.interval
        axes.plot([low, high], [y, y], color="#2a6fbb")
        axes.plot([cell.value], [y], "o", color="#2a6fbb", markerfacecolor="#2a6fbb" if whole else "white")
        if by_chance is not None:
            axes.plot([by_chance], [y], "|", color="#888888", markersize=12)
    axes.set_yticks(range(len(points)), [name for name, *_ in reversed(points)])
    axes.set_xlim(0, 100)
    axes.set_xlabel("%")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _curves(curves: Mapping[str, Curve]) -> Any:
    figure, every = plt.subplots(
        1, len(curves), figsize=(max(4.5, 3.2 * len(curves)), 3.4), constrained_layout=True, squeeze=False
    )
    lines = (("picked", "reward model", "#2a6fbb"), ("random", "random", "#888888"), ("oracle", "oracle", "#c0392b"))
    for axes, (name, curve) in zip(every[0], curves.items(), strict=True):
        for key, label, colour in lines:
            cells = getattr(curve, key)
            axes.plot(curve.sizes, [c.value for c in cells], marker=".", color=colour, label=label)
            if key == "picked":
                axes.fill_between(
                    curve.sizes, *zip(*(c.interval for c in cells), strict=True), color=colour, alpha=0.15
                )
        axes.set_xscale("log", base=2)
        axes.set_xticks(curve.sizes, [str(n) for n in curve.sizes])
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("N")
        axes.grid(alpha=0.3)
    every[0][0].set_ylabel("right, %")
    every[0][0].legend(frameon=False, fontsize=8)
    return figure
