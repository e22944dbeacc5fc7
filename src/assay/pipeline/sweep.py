"""Accuracy against the amount of data (paper A, Fig. 7): a reward model for each set of labels, fraction and seed.

The paper trains one model to 16M pairs and reads its curve off checkpoints, with one seed; here each point is a model of
its own, trained on a nested random part of the set under the run's own settings, and the seeds give the intervals.
"""

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from rich import box
from rich.table import Table as RichTable

from assay.bench.reward.pairs import evaluate_pairs
from assay.curate.views import LabelSet, drawn
from assay.errors import AssayError
from assay.figures import in_words
from assay.models import whose
from assay.pipeline.finished import Finished, read_run
from assay.pipeline.flow import FlowConfig
from assay.pipeline.settings import SweepConfig
from assay.pipeline.training import trainer
from assay.records import digest
from assay.reward.data import MemoryPairs
from assay.run import Run, jsonable
from assay.statistics import Estimate, over_seeds
from assay.store import Place
from assay.tables import write_text

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = {"raw": "#888888", "stage1": "#b58900", "filtered": "#2a6fbb", "flipped": "#c0392b"}


def sweep(source: Path, out: Path, config: SweepConfig) -> Path:
    """Train and measure every point of the sweep of a finished run; resume what is in `out`. Returns the plot's path."""
    finished = read_run(source)
    _same_weights(source, finished.train.backbone)
    with closing(Run(out, {**jsonable(config), "inputs": _inputs(finished)})) as run:
        for seed in range(config.seeds):
            for name in config.sets:
                for fraction in config.fractions:
                    point = f"{name}-{fraction:.12g}-seed{seed}"
                    run.once(f"points/{point}", partial(_point, run, finished, point, name, fraction, seed))
        curves = _curves(run, config)
        write_text(out / "sweep.json", json.dumps(curves, indent=2))
        run.console.print(_table(curves))
        return _plot(curves, len(finished.evaluation), config.seeds, out / "sweep.png")


def _same_weights(source: Path, backbone: str) -> None:
    """Raise AssayError where the run's models began from other weights than there are now under that name."""
    note = source / "seed-0" / "models" / "final" / "training.json"
    began = json.loads(note.read_text()).get("identity", {}).get("backbone") if note.exists() else None
    if began is not None and began != whose(backbone):
        raise AssayError(
            f"{backbone}: other weights than those that the models of {source} began with; a sweep would compare the two: "
            "give the backbone as it was, or run it anew"
        )


def _inputs(finished: Finished) -> dict[str, Any]:
    """What a sweep's points are made of: the run's labels, what measures them, and how it trained."""
    measured = {"held": MemoryPairs(finished.held), "evaluation": MemoryPairs(finished.evaluation)}
    parts: dict[str, LabelSet | MemoryPairs] = {**finished.sets, **measured}
    digests = {name: {"n": len(pairs), "digest": digest(pairs.identity())} for name, pairs in parts.items()}
    return {
        **digests, "train": finished.train, "backbone": whose(finished.train.backbone),
        "presentations": finished.presentations,
    }  # fmt: skip


def _point(run: Run, finished: Finished, point: str, name: str, fraction: float, seed: int) -> dict[str, Any]:
    """A model of a random part of a set; of the same seed, a smaller part lies within a larger one."""
    labels = finished.sets[name]
    count = max(1, round(fraction * len(labels)))
    part = drawn(labels, count, Place.of(run.folder.absolute()) / "tables", point, "sweep", seed)
    how = FlowConfig(recipe="sweep", train=finished.train, presentations=finished.presentations)
    scorer = trainer(run, how, seed)(point, part, finished.held)
    told = json.loads((run.folder / "models" / point / "training.json").read_text())
    result = evaluate_pairs(finished.evaluation, scorer).headline
    assert result is not None
    return {"set": name, "fraction": fraction, "seed": seed, "pairs": len(part), "presented": told["presented"],
            "n": result.n, "accuracy": result.value / 100, "se": result.se / 100,
            "clusters": result.clusters}  # fmt: skip


def _curves(run: Run, config: SweepConfig) -> list[dict[str, Any]]:
    """One row per set and fraction: pairs, mean accuracy and its 95% interval over seeds and evaluation pairs."""
    rows = []
    for name in config.sets:
        for fraction in sorted(config.fractions):
            points = [run.result(f"points/{name}-{fraction:.12g}-seed{s}") for s in range(config.seeds)]
            if any("clusters" not in p for p in points):
                raise AssayError(
                    f"{run.folder}: an older Assay measured these points, without prompts; give a new --out"
                )
            spread = over_seeds([
                Estimate(value=p["accuracy"], se=p["se"], n=p["n"], clusters=p["clusters"]) for p in points
            ])  # fmt: skip
            rows.append({
                "set": name, "fraction": fraction, "pairs": points[0]["pairs"], "presented": points[0]["presented"],
                "accuracy": spread.mean, "low": spread.low, "high": spread.high, "seeds": config.seeds,
                "n": spread.n, "clusters": spread.clusters,
                "by_seed": [p["accuracy"] for p in points],
            })  # fmt: skip
    return rows


def _table(curves: list[dict[str, Any]]) -> RichTable:
    table = RichTable("set", "fraction", "pairs", "presented", "held out, %", box=box.SIMPLE)
    for row in curves:
        accuracy = in_words(row["accuracy"], row["low"], row["high"], row["n"], row["clusters"])
        table.add_row(row["set"], f"{row['fraction']:g}", f"{row['pairs']:,}", f"{row['presented']:,}", accuracy)
    return table


def _plot(curves: list[dict[str, Any]], n: int, seeds: int, path: Path) -> Path:
    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    for name in dict.fromkeys(row["set"] for row in curves):
        rows = [r for r in curves if r["set"] == name]
        axes.errorbar(
            [r["pairs"] for r in rows], [100 * r["accuracy"] for r in rows],
            yerr=[[100 * (r["accuracy"] - r["low"]) for r in rows], [100 * (r["high"] - r["accuracy"]) for r in rows]],
            color=COLOURS[name], label=name, marker="o", capsize=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda pairs, _: f"{pairs:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = 100 * min(r["low"] for r in curves), 100 * max(r["high"] for r in curves)
    axes.set_ylim(max(0.0, low - 2), min(100.0, high + 2))
    axes.axhline(50, color="#bbbbbb", linewidth=1, linestyle=":")
    axes.set_xlabel("pairs in the training set (log scale)")
    axes.set_ylabel("accuracy on held-out pairs, %")
    axes.set_title(f"{n:,} held-out pairs, {seeds} seed{'s' * (seeds > 1)}, 95% intervals", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
