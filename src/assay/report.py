"""A run folder to one self-contained HTML page: tables, plots as inline pictures, examples, costs. Needs no torch."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import polars as pl
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from assay import __version__
from assay.curate.cost import gains
from assay.curate.material import Material
from assay.errors import AssayError
from assay.examples import examples
from assay.memory import compact
from assay.recipes.claims import SETS
from assay.records import Judgement
from assay.run import environment
from assay.statistics import Estimate, Spread, over_seeds
from assay.store import Place
from assay.tables import Table, read_json, write_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SECTIONS = (("pool", "In and out"), ("loop", "Stage 1"), ("claims", "Claims"), ("bench", "Benchmarks"),
            ("examples", "Pairs"), ("cost", "Cost"))  # fmt: skip


ENOUGH = 10_000
"""Of fewer more pairs, points for each million of them say nothing."""


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


def _text(spread: Spread | None) -> str:
    return str(spread) if spread else "not known"


@dataclass(slots=True)
class _Run:
    """A run folder as the report reads it: steps of the whole run and of each seed."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[dict[str, dict[str, Any]]] = field(default_factory=list)

    @staticmethod
    def open(folder: Path) -> "_Run":
        if not (folder / "config.json").exists():
            raise AssayError(
                f"{folder}: not a run folder (no config.json); make one with: assay run tiny --out {folder}"
            )
        if (folder / "tables" / "pairs").is_dir():
            Material.open(Place.of(folder))  # says that it is of another layout
        seeds = [_steps(p) for p in sorted(folder.glob("seed-*"))]
        run = _Run(folder, read_json(folder / "config.json"), _steps(folder), seeds)
        if not run.done("claims-filters"):
            raise AssayError(
                f"{folder}: the run has not finished a seed yet; give the same `assay run` command to resume"
            )
        return run

    def done(self, name: str) -> list[dict[str, Any]]:
        """Step `name` of every seed that has finished it."""
        return [s[name] for s in self.seeds if name in s]


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path. Raises AssayError when no seed has finished."""
    run = _Run.open(folder)
    template = jinja2.Environment(autoescape=True).from_string(
        resources.files("assay").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    env, judged = environment(), _judgements(folder)
    rows = {
        "recipe": run.config["recipe"], "folder": str(folder), "seeds": len(run.done("claims-filters")),
        "version": __version__, "machine": f"{env['processor']}, {env['cores']} cores, Python {env['python']}",
        "headline": headline(run), "oracle": "oracle" in judged["kind"], "people": _who(judged, "lead", "human", "oracle"),
        "judges": _who(judged, "llm", "offline"),
        "pool": _pool(run), "fates": _fates(run), "loop": _loop(run), "loop_plot": _loop_plot(run),
        "truth": run.steps["prepare/split"]["evaluation"] > 0,
        "eval_n": f"{run.done('claims/stage1')[0]['accuracy']['n']:,}",
        "claims": claims_grid(run), "claims_plot": _claims_plot(run), "judge_table": _judge_grid(run),
        "filter_table": _filter_grid(run), "bench": _bench(run), "examples": examples(folder), "cost": _cost(judged),
        "time": _time(run),
        "gains": [
            f"Seed {n}: {g.line()}." for n, seed in enumerate(run.seeds) for g in gains(seed) if g.more >= ENOUGH
        ],
    }  # fmt: skip
    page = template.render(r=rows, sections=SECTIONS, table=_html)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def headline(run: _Run) -> str:
    """The run in one sentence: the product against the labels as they came."""
    chosen = [(seed["final"]["set"], seed) for seed in run.seeds if "final" in seed]
    done = [seed[f"claims/{name}"] for name, seed in chosen]
    final = shares([d["accuracy"] for d in done])
    raw = _text(_over_seeds(run, "claims/raw-more", "accuracy"))
    sets = ", ".join(sorted({SETS[name] for name, _ in chosen}))
    text = f"Held-out accuracy of the final reward model: {_text(final)} %, against {raw} % on all raw labels"
    seeds = f"{len(done)} seed" + "s" * (len(done) > 1)
    measured = f"95% intervals; {final.n if final else 0:,} pairs, {seeds}"
    if not run.steps["prepare/split"]["evaluation"]:
        measured += "; they chose the checkpoints and this model too, so the numbers are optimistic"
    return f"{text} ({measured}; the final model is the best on held gold: {sets})."


def claims_grid(run: _Run) -> Grid:
    """One row per set of labels: its size, how many labels are right, and what its reward model reaches."""
    rows = []
    for name, title in SETS.items():
        done = run.done(f"claims/{name}")
        if not done:
            continue
        pairs = sum(d["pairs"] for d in done) / len(done)
        checked = sum(d["labels"]["n"] if d["labels"] else 0 for d in done) / len(done)
        right = _over_seeds(run, f"claims/{name}", "labels")
        reached = _over_seeds(run, f"claims/{name}", "accuracy")
        known = _text(right) + (f" (of {checked:,.0f})" if right and checked < pairs else "")
        rows.append([title, f"{pairs:,.0f}", known, _text(reached), PAPER_CLAIMS.get(name, "")])
    return Grid(header=("trained on", "pairs", "labels right, %", "RM held out, %", "paper A3 T20"), rows=rows)


def _over_seeds(run: _Run, step: str, key: str) -> Spread | None:
    return shares([d.get(key) for d in run.done(step)])


def _pool(run: _Run) -> Grid:
    pool, split = run.steps["prepare/pool"], run.steps["prepare/split"]
    names = {"read": "pairs read", "duplicates": "duplicates merged", "conflicting": "pairs whose votes conflict",
             "contaminated": "removed: shares a 13-gram with a benchmark prompt",
             "left_out": "left out: resembles another pair, or is for evaluation and has no known answer",
             "pairs": "pairs in the pool",
             "prompts": "distinct prompts"}  # fmt: skip
    rows = [[title, f"{pool[key]:,}"] for key, title in names.items() if key in pool]
    rows += [[f"pairs for {use}", f"{split[key]:,}"] for key, use in
             (("evaluation", "evaluation only"), ("stage1", "stage 1"), ("stage2", "stage 2"))]  # fmt: skip
    if pool["wild_error"] is not None:
        rows.append(
            [f"raw labels that are wrong (of {pool['wild_checked']:,} known)", f"{100 * pool['wild_error']:.1f} %"]
        )
    return Grid(header=("", ""), rows=rows)


def _fates(run: _Run) -> Grid:
    seeds = run.done("labels")
    keys = sorted({k for s in seeds for k in s["counts"]})
    rows = [[*key.split(" | "), f"{sum(s['counts'].get(key, 0) for s in seeds) / len(seeds):,.0f}"] for key in keys]
    return Grid(header=("stage", "rests on", "end", "reason", "pairs"), rows=rows, words=4)


def _iterations(run: _Run) -> list[list[dict[str, Any]]]:
    """Per iteration, the numbers of every seed."""
    found: list[list[dict[str, Any]]] = []
    while done := run.done(f"stage1/it{len(found)}"):
        found.append(done)
    return found


def _loop(run: _Run) -> Grid:
    def mean(rows: Sequence[Mapping[str, float]], key: str) -> str:
        return f"{sum(r[key] for r in rows) / len(rows):,.0f}"

    rows = []
    for it, done in enumerate(_iterations(run)):
        gold = shares([d["gold_accuracy"] for d in done])
        counts = [mean(done, key) for key in ("gold", "held", "silver", "mistakes", "retrieved", "free")]
        rows.append([str(it), *counts[:3], _text(gold), *counts[3:]])
    header = (
        "iteration",
        "gold",
        "gold held out",
        "silver",
        "RM right on gold, %",
        "mistakes",
        "retrieved",
        "still free",
    )
    return Grid(header=header, rows=rows)


def _judge_grid(run: _Run) -> Grid:
    done = run.done("claims-judges")
    rows = []
    for name, cells in done[0].items():
        if isinstance(cells, dict) and cells["n"]:
            ours = shares([d[name]["agreement"] for d in done if name in d])
            share = sum(d[name]["undecided"] / max(1, d[name]["n"]) for d in done) / len(done)
            rows.append(
                [f"judge, {name}", f"{cells['n']:,}", f"{100 * share:.1f}", _text(ours), PAPER_JUDGES.get(name, "")]
            )
    header = ("", "judged pairs", "undecided, %", "agreement with the truth, %", "paper A3 T14, objective / subjective")
    return Grid(header=header, rows=rows)


PAPER_CLAIMS = {
    "raw": "70.0 (seed)", "raw-more": "72.2 (it. 8)", "unguided": "71.1 (it. 1, Fig. 6)", "stage1": "79.0 (it. 8)",
    "filtered": "~84.5 (Fig. 7)", "flipped": "~87.5 (Fig. 7)", "nohuman-filtered": "74.2 (it. 8)",
    "nohuman-flipped": "74.5 (it. 8)",
}  # fmt: skip
"""Paper A's benchmark means of models trained on the corresponding sets; other models, data and measures than ours."""
PAPER_JUDGES = {
    "no gold": "75 / 63 (pure LLM)",
    "random gold": "87 / 77 (LLM + human)",
    "nearest gold": "93 / 84 (+ retrieval)",
}
PAPER_FILTERS = {"best RM": "78 / 79", "gold RM": "84 / 88", "best + gold RM": "86 / 92"}


def _filter_grid(run: _Run) -> Grid:
    done = run.done("claims-filters")
    rows = []
    for name, cells in done[0].items():
        if isinstance(cells, dict) and cells["kept"] + cells["flipped"]:
            keep, flip = (shares([d[name][f"{what}_agreement"] for d in done]) for what in ("keep", "flip"))
            rows.append(
                [name, f"{cells['kept']:,}", _text(keep), f"{cells['flipped']:,}", _text(flip), PAPER_FILTERS[name]]
            )
    header = ("filter by", "kept", "rightly kept, %", "would flip", "rightly flipped, %", "paper A3 T19, keep / flip")
    return Grid(header=header, rows=rows)


def _bench(run: _Run) -> list[dict[str, Any]]:
    """The benchmarks of the first seed's final model."""
    found = []
    for step in (run.seeds[0][name] for name in sorted(run.seeds[0]) if name.startswith("bench/")):
        header = ("part", "n", "accuracy, %", "95% interval")
        rows = [
            [c["name"], f"{c['n']:,}", f"{c['value']:.1f}", f"{c['low']:.1f} to {c['high']:.1f}"] for c in step["cells"]
        ]
        found.append({"title": step["title"], "table": Grid(header=header, rows=rows), "notes": step["notes"]})
    return found


def _claims_plot(run: _Run) -> str:
    names = [n for n in SETS if run.done(f"claims/{n}")]
    values = [_over_seeds(run, f"claims/{n}", "accuracy") for n in names]
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(names) + 1.2))
    for y, (name, value) in enumerate(zip(names, values, strict=True)):
        assert value is not None
        colour = "#b8860b" if name in ("stage1", "filtered", "flipped") else "#888888" if name != "truth" else "#2a9d5c"
        axes.errorbar(100 * value.mean, y, xerr=_arms([value]), fmt="o", color=colour, capsize=4)
        for k, done in enumerate(run.done(f"claims/{name}")):
            axes.plot(100 * done["accuracy"]["value"], y + 0.18 + 0.02 * k, ".", color=colour, alpha=0.4, markersize=4)
    axes.set_yticks(range(len(names)), [SETS[n] for n in names])
    axes.invert_yaxis()
    axes.axvline(50, color="#cccccc", linewidth=1)
    axes.set_xlabel("held-out accuracy of the reward model, % (bars: 95% interval; small dots: single seeds)")
    axes.grid(axis="x", alpha=0.3)
    return _picture(figure)


def _loop_plot(run: _Run) -> str:
    loop = _iterations(run)
    if len(loop) < 2:
        return ""
    figure, axes = plt.subplots(figsize=(9, 3))
    every = [(n, shares([d["gold_accuracy"] for d in done])) for n, done in enumerate(loop)]
    gold = [(n, g) for n, g in every if g is not None]
    axes.errorbar([n for n, _ in gold], [100 * g.mean for _, g in gold], yerr=_arms([g for _, g in gold]), fmt="o-",
                  color="#b8860b", capsize=4)  # fmt: skip
    axes.set_xticks(range(len(loop)))
    axes.set_xlabel("iteration")
    axes.set_ylabel("accuracy on gold, %")
    axes.set_title("all gold (the loop's models train on silver only)", fontsize=10)
    axes.grid(alpha=0.3)
    return _picture(figure)


def _arms(spreads: Sequence[Spread]) -> list[list[float]]:
    """The lengths below and above points, in percent, as matplotlib takes them."""
    return [[100 * (s.mean - s.low) for s in spreads], [100 * (s.high - s.mean) for s in spreads]]


def _picture(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.tight_layout()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _judgements(folder: Path) -> pl.DataFrame:
    """Who judged, for what, how often and at what cost, over all seeds; one shard in memory at a time."""
    sums = [pl.col(c).sum() for c in ("judgements", "votes", "undecided", "tokens", "seconds")]
    found = [pl.DataFrame(schema={
        "use": pl.String, "kind": pl.String, "by": pl.String, "judgements": pl.Int64, "votes": pl.Int64,
        "undecided": pl.Int64, "tokens": pl.Int64, "seconds": pl.Float64,
    })]  # fmt: skip
    for path in sorted(folder.glob("seed-*")):
        for use in ("judgements", "claims"):
            table = Table(path / "tables" / use, Judgement)
            for shard in table.shards():
                rows = table.frame(shard, columns=["kind", "by", "votes", "problem", "tokens", "seconds"])
                told = rows.select(
                    pl.lit(use).alias("use"), "kind", "by", pl.lit(1, pl.Int64).alias("judgements"), "votes",
                    (pl.col("problem") != "").cast(pl.Int64).alias("undecided"), "tokens", "seconds",
                )  # fmt: skip
                found.append(compact(told.group_by("use", "kind", "by").agg(sums)))
    return pl.concat(found).group_by("use", "kind", "by").agg(sums)


def _cost(judged: pl.DataFrame) -> Grid:
    frame = judged.sort("use", "kind", "by", descending=[True, False, False])
    uses = {"judgements": "curation", "claims": "ablation only"}
    rows = [[by, kind, uses[use], *(f"{x:,.0f}" for x in numbers)] for use, kind, by, *numbers in frame.iter_rows()]
    header = ("judgements by", "kind", "for", "judgements", "votes", "undecided", "tokens", "seconds")
    return Grid(header=header, rows=rows, words=3)


def _time(run: _Run) -> Grid:
    claims = [sum(s["wall_s"] for n, s in seed.items() if n.startswith("claims")) for seed in run.seeds]
    trained = [read_json(p) for p in sorted(run.folder.glob("seed-*/models/*/training.json"))]
    rows = [
        ["reward models trained", f"{len(trained):,}"],
        ["pairs presented in training", f"{sum(t['presented'] for t in trained):,}"],
        ["tokens trained on", f"{sum(t['tokens'] for t in trained):,}"],
        ["seconds in training", f"{sum(t['wall_s'] for t in trained):,.0f}"],
        ["seconds to test the claims (per seed)", f"{sum(claims) / max(1, len(claims)):,.0f}"],
    ]
    return Grid(header=("", ""), rows=rows)


def _who(judged: pl.DataFrame, *kinds: str) -> str:
    """The names of those who judged during curation, of the given kinds."""
    frame = judged.filter(pl.col("kind").is_in(kinds), pl.col("use") == "judgements")
    return ", ".join(sorted(frame["by"].unique().to_list())) or "none"


def _steps(folder: Path) -> dict[str, dict[str, Any]]:
    root = folder / "steps"
    return {str(p.relative_to(root).with_suffix("")): read_json(p) for p in sorted(root.rglob("*.json"))}


def _html(grid: Grid) -> Markup:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if n >= grid.words else ''}>{html.escape(str(cell))}</{tag}>"
            for n, cell in enumerate(row)
        )

    if not grid.rows:
        return Markup('<p class="dim">Nothing to show here.</p>')
    head = f"<tr>{cells('th', grid.header)}</tr>" if any(grid.header) else ""
    return Markup("<table>" + head + "".join(f"<tr>{cells('td', row)}</tr>" for row in grid.rows) + "</table>")


def summary(folder: Path, console: Console) -> None:
    """The report's claims as tables in the terminal."""
    run = _Run.open(folder)
    for title, grid in (("reward models by training labels", claims_grid(run)), ("judges", _judge_grid(run)),
                        ("stage 2 filters", _filter_grid(run))):  # fmt: skip
        if not grid.rows:  # of a pool that knows no truth
            continue
        table = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for n, name in enumerate(grid.header):
            table.add_column(name, justify="right" if n >= grid.words else "left")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    console.print(headline(run))
