"""A run folder to one self-contained HTML page: tables, plots as inline pictures, examples, costs. Needs no torch."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from assay import __version__
from assay.curate.cost import gains
from assay.examples import examples
from assay.memory import compact
from assay.recipes.product import SETS
from assay.records import Judgement
from assay.report_claims import claims_told
from assay.report_run import Grid, RunSteps, arms, canvas, html_of, picture, sets_grid, sets_plot, shares, text_of
from assay.run import environment
from assay.tables import Table, read_json, write_text

SECTIONS = (("sets", "Models"), ("pool", "In and out"), ("loop", "Stage 1"), ("claims", "Claims"), ("bench", "Benchmarks"),
            ("examples", "Pairs"), ("cost", "Cost"))  # fmt: skip
"""The report's parts; "claims" where the run has tested them."""


ENOUGH = 10_000
"""Of fewer more pairs, points for each million of them say nothing."""


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path. Raises AssayError when no seed has finished."""
    run = RunSteps.open(folder)
    template = jinja2.Environment(autoescape=True).from_string(
        resources.files("assay").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    env, judged = environment(), _judgements(folder)
    rows = {
        "recipe": run.config["recipe"], "folder": str(folder), "seeds": len(run.done("final")),
        "version": __version__, "machine": f"{env['processor']}, {env['cores']} cores, Python {env['python']}",
        "headline": headline(run), "oracle": "oracle" in judged["kind"], "people": _who(judged, "lead", "human", "oracle"),
        "judges": _who(judged, "llm", "offline"),
        "pool": _pool(run), "fates": _fates(run), "loop": _loop(run), "loop_plot": _loop_plot(run),
        "truth": run.steps["prepare/split"]["evaluation"] > 0,
        "eval_n": f"{run.done('sets/stage1')[0]['accuracy']['n']:,}",
        "sets": sets_grid(run, SETS), "sets_plot": sets_plot(run, SETS), "claims": claims_told(run),
        "bench": _bench(run), "examples": examples(folder), "cost": _cost(judged),
        "time": _time(run),
        "gains": [
            f"Seed {n}: {g.line()}." for n, seed in enumerate(run.seeds) for g in gains(seed) if g.more >= ENOUGH
        ],
    }  # fmt: skip
    sections = [(id, title) for id, title in SECTIONS if id != "claims" or rows["claims"]]
    page = template.render(r=rows, sections=sections, table=html_of)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def headline(run: RunSteps) -> str:
    """The run in one sentence: the product against the labels as they came."""
    chosen = [(seed["final"]["set"], seed) for seed in run.seeds if "final" in seed]
    done = [seed[f"sets/{name}"] for name, seed in chosen]
    final = shares([d["accuracy"] for d in done])
    raw = text_of(shares([d["accuracy"] for d in run.done("sets/raw-more")]))
    sets = ", ".join(sorted({SETS[name] for name, _ in chosen}))
    text = f"Held-out accuracy of the final reward model: {text_of(final)} %, against {raw} % on all raw labels"
    seeds = f"{len(done)} seed" + "s" * (len(done) > 1)
    measured = f"95% intervals; {final.n if final else 0:,} pairs, {seeds}"
    if not run.steps["prepare/split"]["evaluation"]:
        measured += "; they chose the checkpoints and this model too, so the numbers are optimistic"
    return f"{text} ({measured}; the final model is the best on held gold: {sets})."


def _pool(run: RunSteps) -> Grid:
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


def _fates(run: RunSteps) -> Grid:
    seeds = run.done("labels")
    keys = sorted({k for s in seeds for k in s["counts"]})
    rows = [[*key.split(" | "), f"{sum(s['counts'].get(key, 0) for s in seeds) / len(seeds):,.0f}"] for key in keys]
    return Grid(header=("stage", "rests on", "end", "reason", "pairs"), rows=rows, words=4)


def _iterations(run: RunSteps) -> list[list[dict[str, Any]]]:
    """Per iteration, the numbers of every seed."""
    found: list[list[dict[str, Any]]] = []
    while done := run.done(f"stage1/it{len(found)}"):
        found.append(done)
    return found


def _loop(run: RunSteps) -> Grid:
    def mean(rows: Sequence[Mapping[str, float]], key: str) -> str:
        return f"{sum(r[key] for r in rows) / len(rows):,.0f}"

    rows = []
    for it, done in enumerate(_iterations(run)):
        gold = shares([d["gold_accuracy"] for d in done])
        counts = [mean(done, key) for key in ("gold", "held", "silver", "mistakes", "retrieved", "free")]
        rows.append([str(it), *counts[:3], text_of(gold), *counts[3:]])
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


def _bench(run: RunSteps) -> list[dict[str, Any]]:
    """The benchmarks of the first seed's final model."""
    found = []
    for step in (run.seeds[0][name] for name in sorted(run.seeds[0]) if name.startswith("bench/")):
        header = ("part", "n", "accuracy, %", "95% interval")
        rows = [
            [c["name"], f"{c['n']:,}", f"{c['value']:.1f}", f"{c['low']:.1f} to {c['high']:.1f}"] for c in step["cells"]
        ]
        found.append({"title": step["title"], "table": Grid(header=header, rows=rows), "notes": step["notes"]})
    return found


def _loop_plot(run: RunSteps) -> str:
    loop = _iterations(run)
    if len(loop) < 2:
        return ""
    figure, axes = canvas(9, 3)
    every = [(n, shares([d["gold_accuracy"] for d in done])) for n, done in enumerate(loop)]
    gold = [(n, g) for n, g in every if g is not None]
    axes.errorbar([n for n, _ in gold], [100 * g.mean for _, g in gold], yerr=arms([g for _, g in gold]), fmt="o-",
                  color="#b8860b", capsize=4)  # fmt: skip
    axes.set_xticks(range(len(loop)))
    axes.set_xlabel("iteration")
    axes.set_ylabel("accuracy on gold, %")
    axes.set_title("all gold (the loop's models train on silver only)", fontsize=10)
    axes.grid(alpha=0.3)
    return picture(figure)


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


def _time(run: RunSteps) -> Grid:
    trained = [read_json(p) for p in sorted(run.folder.glob("seed-*/models/*/training.json"))]
    rows = [
        ["reward models trained", f"{len(trained):,}"],
        ["pairs presented in training", f"{sum(t['presented'] for t in trained):,}"],
        ["tokens trained on", f"{sum(t['tokens'] for t in trained):,}"],
        ["seconds in training", f"{sum(t['wall_s'] for t in trained):,.0f}"],
    ]
    return Grid(header=("", ""), rows=rows)


def _who(judged: pl.DataFrame, *kinds: str) -> str:
    """The names of those who judged during curation, of the given kinds."""
    frame = judged.filter(pl.col("kind").is_in(kinds), pl.col("use") == "judgements")
    return ", ".join(sorted(frame["by"].unique().to_list())) or "none"


def summary(folder: Path, console: Console) -> None:
    """The report's tables in the terminal."""
    run = RunSteps.open(folder)
    told = claims_told(run)
    grids = [("reward models by training labels", sets_grid(run, SETS)), *(told.tables() if told else ())]
    for title, grid in grids:
        if not grid.rows:  # of a pool that knows no truth
            continue
        table = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for n, name in enumerate(grid.header):
            table.add_column(name, justify="right" if n >= grid.words else "left")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    console.print(headline(run))
