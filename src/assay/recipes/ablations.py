"""Paper B's ablations on the embedded policy, each with seeds and intervals; one folder per seed, shared by all of them.

stages      aligned, SFT, DPO, MPO, MPO + GRPO: accuracy and hallucination rate (B3, Tables 2 and 3)
buffer      what becomes of groups without signal: SSB, kept, dropped, drawn again (B3, section 4.3)
parts       GRPO trains the adapter, adapter + LLM, adapter + vision (B3, Table 4)
threshold   MPO on pairs whose reward-model margin is at least 0, middling, high: curves over steps (B3, section 4.4)
filter      GRPO on all questions, or on those that were answered neither always nor never right (SSB offline)
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from assay.errors import AssayError
from assay.images import ImageStore
from assay.journal import read
from assay.policy.config import PolicyConfig
from assay.policy.hallucination import Reading
from assay.recipes import policies
from assay.recipes.tune import Tuner
from assay.run import Run
from assay.statistics import Estimate, Spread, over_seeds
from assay.tables import write_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Variant = Callable[[Tuner, str], Reading]


def ablate(name: str, out: Path, seeds: int, console: Console) -> Path:
    """Run every variant for every seed (what is done already is found), print the table, write it and a plot. Returns the
    path of the plot."""
    made = _variants(name)
    found: dict[str, list[Reading]] = {v: [] for v in made}
    for seed in range(seeds):
        config = replace(policies.tiny_vlm(), seed=seed)
        run = Run(out / f"seed-{seed}", config)
        try:
            tuner = Tuner(run, config, policies.visual_task(config)(ImageStore(run.folder / "images")))
            tuner.base()
            tuner.align()
            tuner.reward_model()
            for variant, work in made.items():
                found[variant].append(work(tuner, variant))
        finally:
            run.close()
    table = _table(found)
    console.print(table)
    curves = {v: [read(out / f"seed-{s}" / "models" / v / "metrics.jsonl") for s in range(seeds)] for v in made}
    lines = [" | ".join(map(str, row)) for row in _rows(found)]
    write_text(out / f"{name}.txt", "\n".join(lines) + "\n")
    return _plot(name, curves, out / f"{name}.png")


def variants(name: str) -> list[str]:
    return list(_variants(name))


def _variants(name: str) -> dict[str, Variant]:
    known = {"stages": _stages, "buffer": _buffer, "parts": _parts, "threshold": _threshold, "filter": _filter}
    if name not in known:
        raise AssayError(f"unknown ablation '{name}'; known: {', '.join(known)}")
    return known[name]()


def _stages() -> dict[str, Variant]:
    def preference(weights: tuple[float, float, float]) -> Variant:
        def work(tuner: Tuner, name: str) -> Reading:
            settings = replace(tuner.config.mpo, weights=weights)
            return tuner.evaluate(tuner.mpo(name, "aligned", 1, settings, watch_every=10))

        return work

    return {
        "aligned": lambda tuner, _: tuner.evaluate("aligned"),
        "sft": preference((0.0, 0.0, 1.0)), "dpo": preference((1.0, 0.0, 0.0)), "mpo": preference((0.8, 0.2, 1.0)),
        "mpo+grpo": lambda tuner, name: tuner.evaluate(tuner.grpo(name, "mpo")),
    }  # fmt: skip


def _buffer() -> dict[str, Variant]:
    def way(zero_groups: Literal["buffer", "keep", "drop", "resample"]) -> Variant:
        def work(tuner: Tuner, name: str) -> Reading:
            settings = replace(tuner.config.grpo, zero_groups=zero_groups)
            return tuner.evaluate(tuner.grpo(name, "aligned", settings))

        return work

    return {
        "grpo-buffer": way("buffer"), "grpo-keep": way("keep"), "grpo-drop": way("drop"),
        "grpo-resample": way("resample"),
    }  # fmt: skip


def _parts() -> dict[str, Variant]:
    def trained(*parts: Any) -> Variant:
        def work(tuner: Tuner, name: str) -> Reading:
            settings: PolicyConfig = replace(tuner.config.policy, train=parts)
            return tuner.evaluate(tuner.grpo(name, "aligned", policy=settings))

        return work

    return {
        "adapter": trained("adapter"), "adapter+llm": trained("adapter", "llm"),
        "adapter+vision": trained("adapter", "vision"),
    }  # fmt: skip


def _threshold() -> dict[str, Variant]:
    """The thresholds are quantiles of the margins of this policy's own pairs: the paper's 7, 10, 15 are in the units of its
    own reward model."""

    def above(quantile: float) -> Variant:
        def work(tuner: Tuner, name: str) -> Reading:
            pairs = replace(tuner.config.pairs, threshold=tuner.margin(quantile) if quantile else None)
            before, tuner.config = tuner.config, replace(tuner.config, pairs=pairs)
            try:
                settings = replace(before.mpo, epochs=3.0)
                return tuner.evaluate(tuner.mpo(name, "aligned", 1, settings, watch_every=5))
            finally:
                tuner.config = before

        return work

    return {"no threshold": above(0.0), "median": above(0.5), "highest quarter": above(0.75)}


def _filter() -> dict[str, Variant]:
    def filtered(keep: bool) -> Variant:
        def work(tuner: Tuner, name: str) -> Reading:
            before = tuner.task
            if keep:
                tuner.task = replace(before, tune=tuner.mixed("aligned"))
            try:
                return tuner.evaluate(tuner.grpo(name, "aligned"))
            finally:
                tuner.task = before

        return work

    return {"all questions": filtered(False), "filtered questions": filtered(True)}


def _spread(estimates: list[Estimate | None]) -> str:
    known = [e for e in estimates if e is not None]
    if not known:
        return "-"
    spread: Spread = over_seeds(known)
    return f"{100 * spread.mean:.1f} ± {100 * spread.half:.1f}"


def _rows(found: Mapping[str, list[Reading]]) -> list[list[str]]:
    return [
        [
            name, _spread([r.accuracy for r in readings]), _spread([r.hallucination_rate for r in readings]),
            _spread([r.blind_agreement for r in readings]), _spread([r.swap_agreement for r in readings]),
            str(len(readings)),
        ]
        for name, readings in found.items()
    ]  # fmt: skip


def _table(found: Mapping[str, list[Reading]]) -> RichTable:
    header = (
        "variant",
        "right, %",
        "hallucination rate, %",
        "same, blank picture, %",
        "same, other picture, %",
        "seeds",
    )
    table = RichTable(*header, box=box.SIMPLE)
    for row in _rows(found):
        table.add_row(*row)
    return table


def _plot(name: str, curves: Mapping[str, list[list[dict[str, Any]]]], path: Path) -> Path:
    """Means over seeds: of GRPO, the right answers and the effective share; else the watched accuracy and hallucinations."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    for variant, runs in curves.items():
        told = [r for r in runs if r]
        if not told:
            continue
        tuned = "effective" in told[0][0]
        keys = ("rule", "batch_effective") if tuned else ("watch_accuracy", "watch_hallucination_rate")
        for place, key in zip(axes, keys, strict=True):
            points = [[(m["step"], 100 * m[key]) for m in run if key in m] for run in told]
            length = min(map(len, points))
            if length:
                steps = [s for s, _ in points[0][:length]]
                place.plot(steps, np.mean([[y for _, y in p[:length]] for p in points], axis=0), label=variant)
                titles = {"rule": "right answers sampled, %", "batch_effective": "effective share of the batch, %",
                          "watch_accuracy": "accuracy, %", "watch_hallucination_rate": "hallucination rate, %"}  # fmt: skip
                place.set_ylabel(titles[key])
    for place in axes:
        place.set_xlabel("step")
        place.grid(alpha=0.3)
        if place.lines:
            place.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{name}: means over seeds", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
