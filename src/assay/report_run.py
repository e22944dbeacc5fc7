"""A run folder as its reports read it: steps of every seed, shares over seeds, tables and pictures. Needs no torch."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup

from assay.curate.material import Material
from assay.errors import AssayError
from assay.recipes.product import CANDIDATES
from assay.statistics import Estimate, Spread, over_seeds
from assay.store import Place
from assay.tables import read_json

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table to print: a header and rows of text; columns after the first `words` are right-aligned numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


def shares(rows: Sequence[Mapping[str, Any] | None]) -> Spread | None:
    """Mean and 95% interval of shares with a `statistics.Estimate` per seed, as steps keep them; None where none has one.
    Raises AssayError for what an older Assay kept."""
    found = [r for r in rows if r is not None]
    try:
        return over_seeds([Estimate(**r) for r in found]) if found else None
    except TypeError as error:
        raise AssayError(
            "this run has shares without the number of questions behind them: an older Assay made it; run it anew"
        ) from error


def text_of(spread: Spread | None) -> str:
    return str(spread) if spread else "not known"


@dataclass(slots=True)
class RunSteps:
    """A run folder as the report reads it: steps of the whole run and of each seed."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[dict[str, dict[str, Any]]] = field(default_factory=list)

    @staticmethod
    def open(folder: Path) -> "RunSteps":
        if not (folder / "config.json").exists():
            raise AssayError(
                f"{folder}: not a run folder (no config.json); make one with: assay run tiny --out {folder}"
            )
        if (folder / "tables" / "pairs").is_dir():
            Material.open(Place.of(folder))  # says that it is of another layout
        seeds = [steps_of(p) for p in sorted(folder.glob("seed-*"))]
        run = RunSteps(folder, read_json(folder / "config.json"), steps_of(folder), seeds)
        if not run.done("final"):
            raise AssayError(
                f"{folder}: the run has not finished a seed yet; give the same `assay run` command to resume"
            )
        return run

    def done(self, name: str) -> list[dict[str, Any]]:
        """Step `name` of every seed that has finished it."""
        return [s[name] for s in self.seeds if name in s]


def sets_grid(run: RunSteps, titles: Mapping[str, str], paper: tuple[str, Mapping[str, str]] | None = None) -> Grid:
    """One row per set of labels: its size, how many labels are right, and what its reward model reaches; `paper` is a column
    of numbers to compare with."""
    rows = []
    for name, title in titles.items():
        done = run.done(f"sets/{name}")
        if not done:
            continue
        pairs = sum(d["pairs"] for d in done) / len(done)
        checked = sum(d["labels"]["n"] if d["labels"] else 0 for d in done) / len(done)
        right = shares([d["labels"] for d in done])
        reached = shares([d["accuracy"] for d in done])
        known = text_of(right) + (f" (of {checked:,.0f})" if right and checked < pairs else "")
        rows.append([title, f"{pairs:,.0f}", known, text_of(reached), *([paper[1].get(name, "")] if paper else ())])
    header = ("trained on", "pairs", "labels right, %", "RM held out, %", *([paper[0]] if paper else ()))
    return Grid(header=header, rows=rows)


def sets_plot(run: RunSteps, titles: Mapping[str, str]) -> str:
    """What the reward models of sets reach, as a picture."""
    names = [n for n in titles if run.done(f"sets/{n}")]
    figure, axes = canvas(9, 0.45 * len(names) + 1.2)
    for y, name in enumerate(names):
        value = shares([d["accuracy"] for d in run.done(f"sets/{name}")])
        assert value is not None
        colour = "#b8860b" if name in CANDIDATES else "#888888" if name != "truth" else "#2a9d5c"
        axes.errorbar(100 * value.mean, y, xerr=arms([value]), fmt="o", color=colour, capsize=4)
        for k, done in enumerate(run.done(f"sets/{name}")):
            axes.plot(100 * done["accuracy"]["value"], y + 0.18 + 0.02 * k, ".", color=colour, alpha=0.4, markersize=4)
    axes.set_yticks(range(len(names)), [titles[n] for n in names])
    axes.invert_yaxis()
    axes.axvline(50, color="#cccccc", linewidth=1)
    axes.set_xlabel("held-out accuracy of the reward model, % (bars: 95% interval; small dots: single seeds)")
    axes.grid(axis="x", alpha=0.3)
    return picture(figure)


def arms(spreads: Sequence[Spread]) -> list[list[float]]:
    """The lengths below and above points, in percent, as matplotlib takes them."""
    return [[100 * (s.mean - s.low) for s in spreads], [100 * (s.high - s.mean) for s in spreads]]


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """An empty picture, in inches, and what to draw on."""
    figure, axes = plt.subplots(figsize=(width, height))
    return figure, axes


def picture(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.tight_layout()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def steps_of(folder: Path) -> dict[str, dict[str, Any]]:
    root = folder / "steps"
    return {str(p.relative_to(root).with_suffix("")): read_json(p) for p in sorted(root.rglob("*.json"))}


def html_of(grid: Grid) -> Markup:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if n >= grid.words else ''}>{html.escape(str(cell))}</{tag}>"
            for n, cell in enumerate(row)
        )

    if not grid.rows:
        return Markup('<p class="dim">Nothing to show here.</p>')
    head = f"<tr>{cells('th', grid.header)}</tr>" if any(grid.header) else ""
    return Markup("<table>" + head + "".join(f"<tr>{cells('td', row)}</tr>" for row in grid.rows) + "</table>")
