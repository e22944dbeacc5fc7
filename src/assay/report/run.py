"""A run folder as its reports read it: steps of every seed, shares over seeds, tables and pictures. Needs no torch."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl
from markupsafe import Markup

from assay.curate.material import Material
from assay.errors import AssayError
from assay.figures import points, told
from assay.look import drawn
from assay.pipeline.hits import Hit, compared
from assay.pipeline.product import CANDIDATES
from assay.statistics import Difference, Estimate, Spread, over_seeds
from assay.store import Place
from assay.tables import Table, read_json

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


@dataclass(slots=True)
class RunSteps:
    """A run folder as the report reads it: steps of the whole run and of each seed that has released a model."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    """Of the seeds."""

    @staticmethod
    def open(folder: Path) -> "RunSteps":
        if not (folder / "config.json").exists():
            raise AssayError(
                f"{folder}: not a run folder (no config.json); make one with: assay run tiny --out {folder}"
            )
        if (folder / "tables" / "pairs").is_dir():
            Material.open(Place.of(folder))  # says that it is of another layout
        found = [(p, steps_of(p)) for p in sorted(folder.glob("seed-*"), key=lambda p: (len(p.name), p.name))]
        found = [(p, steps) for p, steps in found if "final" in steps]
        seeds, folders = [s for _, s in found], [p for p, _ in found]
        run = RunSteps(folder, read_json(folder / "config.json"), steps_of(folder), seeds, folders)
        if any(f"sets/{s['final']['set']}" not in s or "n" not in s["final"] for s in seeds):
            raise AssayError(f"{folder}: an older Assay made this run; run it anew")
        if not found:
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
    rows, measured = [], MEASURED[False]
    for name, title in titles.items():
        done = run.done(f"sets/{name}")
        if not done:
            continue
        measured = MEASURED[done[0]["on_held"]]
        pairs = sum(d["pairs"] for d in done) / len(done)
        right = shares([d["labels"] for d in done])
        reached = shares([d["accuracy"] for d in done])
        more = () if name == RAW else (against_raw(run, name),)
        cells = (told(right, ""), told(reached, ""), *(more or ("",)), *([paper[1].get(name, "")] if paper else ()))
        rows.append([title, f"{pairs:,.0f}", *cells])
    header = (
        "trained on",
        "pairs",
        "labels right, %",
        f"RM {measured}, %",
        "than raw, points",
        *(paper[:1] if paper else ()),
    )
    return Grid(header=header, rows=rows)


MEASURED = {False: "held out", True: "on the gold that chose it"}
"""What reward models are measured on, by whether that is held gold."""
RAW = "raw-more"
"""The set that all others have to beat."""


def against_raw(run: RunSteps, name: str) -> str:
    """By how much the model of a set is better than that of all raw labels, pair by pair."""
    found, _ = difference(run, [name] * len(run.seeds))
    if found is None:
        return "not known"
    return points(found, found.n)


def difference(run: RunSteps, names: Sequence[str]) -> tuple[Difference | None, int]:
    """How much better the model of a set (one for each seed) is than that of all raw labels, on the pairs that both
    answered, and how many questions these are of; None where there is nothing to compare."""
    both = list[tuple[pl.DataFrame, pl.DataFrame]]()
    for folder, name in zip(run.folders, names, strict=True):
        table = Table(folder / "tables" / "hits", Hit)
        if table.done(name) and table.done(RAW):
            both.append((table.frame(name), table.frame(RAW)))
    apart = compared(both)
    return (apart.found, apart.questions) if apart else (None, 0)


def sets_plot(run: RunSteps, titles: Mapping[str, str]) -> Markup:
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
    measured = MEASURED[any(run.done(f"sets/{n}")[0]["on_held"] for n in names)]
    axes.set_xlabel(f"accuracy of the reward model, {measured}, % (bars: 95% interval; small dots: single seeds)")
    axes.grid(axis="x", alpha=0.3)
    return drawn(figure, f"Accuracy of reward models, {measured}, by the labels that trained them")


def arms(spreads: Sequence[Spread]) -> list[list[float]]:
    """The lengths below and above points, in percent, as matplotlib takes them."""
    return [[100 * (s.mean - s.low) for s in spreads], [100 * (s.high - s.mean) for s in spreads]]


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """An empty picture, in inches, and what to draw on."""
    figure, axes = plt.subplots(figsize=(width, height), layout="tight")
    return figure, axes


def steps_of(folder: Path) -> dict[str, dict[str, Any]]:
    root = folder / "steps"
    return {str(p.relative_to(root).with_suffix("")): read_json(p) for p in sorted(root.rglob("*.json"))}


def html_of(grid: Grid) -> Markup:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{at}{' class=n' if n >= grid.words else ''}>{html.escape(str(cell))}</{at}>"
            for n, cell in enumerate(row)
            for at in (tag if cell else "td",)  # a head without words is none
        )

    if not grid.rows:
        return Markup('<p class="dim">Nothing to show here.</p>')
    head = f"<tr>{cells('th', grid.header)}</tr>" if any(grid.header) else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in grid.rows)
    return Markup(f'<div class="wide" tabindex="0" role="group" aria-label="Table"><table>{head}{body}</table></div>')
