"""A run folder to one self-contained HTML page: tables, plots as inline pictures, examples, costs. Needs no torch."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from assay import __version__
from assay.curate.cost import gains
from assay.examples import examples
from assay.figures import FEW, LEGEND, NEEDED, in_words, told, verdict
from assay.look import MARK, drawn, paper
from assay.memory import compact
from assay.pipeline.product import SETS
from assay.records import Judgement
from assay.report.claims import claims_told
from assay.report.counts import about, judge_rounds, judges_doubted, ledger, measured_by
from assay.report.policies import headline_of, policies_told
from assay.report.run import (
    Grid,
    RunSteps,
    arms,
    canvas,
    difference,
    html_of,
    sets_grid,
    sets_plot,
    shares,
    steps_of,
)  # fmt: skip
from assay.run import environments, machines
from assay.statistics import Estimate
from assay.tables import Table, read_json, write_text

SECTIONS = (("sets", "Models"), ("pool", "In and out"), ("loop", "Stage 1"), ("claims", "Claims"),
            ("policies", "Policies"), ("bench", "Benchmarks"),
            ("examples", "Pairs"), ("cost", "Cost"), ("next", "Use it"))  # fmt: skip
"""The report's parts; "claims" and "policies" where the run has them."""


ENOUGH = 10_000
"""Of fewer more pairs, points for each million of them say nothing."""


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path. Raises AssayError when no seed has finished."""
    run = RunSteps.open(folder)
    template = jinja2.Environment(autoescape=True).from_string(
        resources.files("assay.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    )
    judged = _judgements(folder)
    rows = {
        "recipe": run.config["recipe"], "folder": str(folder), "seeds": len(run.done("final")),
        "version": __version__, "machine": machines(environments(folder)),
        "headline": headline(run), "oracle": "oracle" in judged["kind"], "people": _who(judged, "lead", "human", "oracle"),
        "judges": _who(judged, "llm", "offline"),
        "ledger": ledger(run), "about": about(run), "chosen_by": chosen_by(run), "judge_rounds": judge_rounds(run),
        "doubted": judges_doubted(run),
        "loop": _loop(run), "loop_plot": _loop_plot(run),
        "measured_by": measured_by(run), "legend": LEGEND,
        "sets": sets_grid(run, SETS), "sets_plot": sets_plot(run, SETS), "claims": claims_told(run),
        "policies": policies_told(folder),
        "bench": _bench(run), "examples": examples(folder), "cost": _cost(judged),
        "time": _time(run),
        "gains": [
            f"Seed {n}: {g.line()}." for n, seed in enumerate(run.seeds) for g in gains(seed) if g.more >= ENOUGH
        ],
    }  # fmt: skip
    sections = [(id, title) for id, title in SECTIONS if id not in ("claims", "policies") or rows[id]]
    page = template.render(r=rows, sections=sections, table=html_of, css=paper(), mark=MARK)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def headline(run: RunSteps) -> str:
    """The run in one sentence: the product, whether it is shown to be better than the labels as they came, and by what."""
    chosen = [seed["final"]["set"] for seed in run.seeds]
    done = [seed[f"sets/{name}"] for name, seed in zip(chosen, run.seeds, strict=True)]
    final, raw = shares([d["accuracy"] for d in done]), shares([d["accuracy"] for d in run.done("sets/raw-more")])
    sets = ", ".join(SETS[name] for name in SETS if name in chosen)
    of = "pairs of held gold, which chose it," if done[0]["on_held"] else "held-out pairs"
    text = f"The released reward model ({sets}) ranks {told(final)} of {of} rightly"
    if final is not None and final.clusters < NEEDED - 0.5:
        text = f"Too few to say how good the released reward model ({sets}) is: it ranks {told(final)} of {of} rightly"
    if raw is not None:
        text += f", the one trained on all raw labels {told(raw)}"
    found, questions = difference(run, chosen)
    if found is not None:
        said = verdict(found, questions, "raw labels")
        if done[0]["on_held"] and questions >= NEEDED:  # what chose a model cannot show that it is better
            said = f"not shown to be better than raw labels, for these pairs chose it:{said.partition(':')[2]}"
        text += f". {said[0].upper()}{said[1:]}"
    seeds = f"{len(done)} seed{'s' * (len(done) > 1)}"
    return f"{text}. Measured on {measured_by(run)} ({seeds}, 95% intervals)."


def chosen_by(run: RunSteps) -> str:
    """What chose the released models."""
    told_of = []
    for folder, seed in zip(run.folders, run.seeds, strict=True):
        gold = seed["final"].get("gold") or dict.fromkeys(seed["final"]["held"])
        held = ", ".join(f"{SETS[name]} {told(Estimate(**g) if g else None, '')}" for name, g in gold.items())
        told_of.append(f"{folder.name}: {held}")
    if not any(seed["final"].get("n") for seed in run.seeds):
        return (
            "No gold is held, so nothing chose between candidates: the released model is that whose labels machines changed "
            "least, at its last checkpoint."
        )
    return (
        "The released model is the candidate that is right most often on held gold, which trains nothing; of equal ones "
        "that whose labels machines changed least. What chose looks a little too good: right, % of held gold: "
        f"{'; '.join(told_of)}."
    )


def _iterations(run: RunSteps) -> list[list[dict[str, Any]]]:
    """Per round, the numbers of every seed."""
    found: list[list[dict[str, Any]]] = []
    while done := run.done(f"stage1/it{len(found)}"):
        found.append(done)
    return found


def _loop(run: RunSteps) -> Grid:
    def mean(rows: Sequence[Mapping[str, float]], key: str) -> str:
        return f"{sum(r[key] for r in rows) / len(rows):,.0f}"

    rows = []
    for turn, done in enumerate(_iterations(run), 1):
        gold = shares([d["gold_accuracy"] for d in done])
        counts = [mean(done, key) for key in ("gold", "held", "silver", "mistakes", "retrieved", "free")]
        rows.append([str(turn), *counts[:3], told(gold, ""), *counts[3:]])
    header = (
        "round",
        "gold",
        "gold held out",
        "silver",
        "RM right on gold, %",
        "mistakes",
        "retrieved",
        "still free",
    )
    return Grid(header=header, rows=rows)


_LENGTHS = {
    "right is longer": "right, where the better response is the longer one",
    "right is shorter": "right, where it is the shorter one",
    "alike in length": "right, where both are alike in length",
    "longer wins": "the model prefers the longer one",
    "longer is right": "the longer one is the better one, whatever the model says",
}
"""What the diagnostics of `benchmark.by_length` are shares of, in words."""


def _bench(run: RunSteps) -> list[dict[str, Any]]:
    """The benchmarks of the first seed's final model."""
    found = []
    for step in (run.seeds[0][name] for name in sorted(run.seeds[0]) if name.startswith("bench/")):
        header = ("part: right, or what stands there", "%")
        rows = [
            [c["name"], in_words(c["value"] / 100, c["low"] / 100, c["high"] / 100, c["n"], c["clusters"])]
            for c in (*step["cells"], *({**d, "name": _LENGTHS.get(d["name"], d["name"])} for d in step["diagnostics"]))
        ]
        found.append({"title": step["title"], "table": Grid(header=header, rows=rows), "notes": step["notes"]})
    return found


def _loop_plot(run: RunSteps) -> Markup | str:
    loop = _iterations(run)
    if len(loop) < 2:
        return ""
    figure, axes = canvas(9, 3)
    every = [(n, shares([d["gold_accuracy"] for d in done])) for n, done in enumerate(loop, 1)]
    gold = [(n, g) for n, g in every if g is not None]
    axes.errorbar([n for n, _ in gold], [100 * g.mean for _, g in gold], yerr=arms([g for _, g in gold]), fmt="o-",
                  color="#b8860b", capsize=4)  # fmt: skip
    axes.set_xticks(range(1, len(loop) + 1))
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on gold, %")
    axes.set_title("all gold (the loop's models train on silver only)", fontsize=10)
    axes.grid(alpha=0.3)
    return drawn(figure, "Accuracy on gold per round")


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
    notes = sorted(run.folder.glob("seed-*/models/*/training.json"))
    trained = [read_json(p) for p in notes if p.parent.name != "final"]  # which is a copy
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
    claims = claims_told(run)
    grids = [("reward models by training labels", sets_grid(run, SETS)), ("judges, round by round", judge_rounds(run)),
             *(claims.tables() if claims else ())]  # fmt: skip
    _print(grids, console)
    if doubted := judges_doubted(run):
        console.print(doubted)
    console.print(headline(run))
    if (policies := policies_told(folder)) is not None:
        _print([("policies: good answers by the reward model that picks or rewards", policies.table)], console)
        console.print(headline_of(policies))


def first_summary(seed: Path, console: Console) -> None:
    """What is known of a seed whose second stage is still to come; nothing of one that is done."""
    steps = steps_of(seed)
    if "final" not in steps:
        run = RunSteps(seed.parent, read_json(seed / "config.json"), steps_of(seed.parent), [steps], [seed])
        _print([(f"first results, {seed.name}: stage 2 comes next", sets_grid(run, SETS))], console)


def _print(grids: Sequence[tuple[str, Grid]], console: Console) -> None:
    for title, grid in grids:
        if not grid.rows:  # of a pool that knows no truth
            continue
        table = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for n, name in enumerate(grid.header):
            table.add_column(name, justify="right" if n >= grid.words else "left")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    if any(FEW in cell for _, grid in grids for row in grid.rows for cell in row):
        console.print(f"{LEGEND}.\n")
