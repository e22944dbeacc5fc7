"""Paper B's ablations on the embedded policy, each with seeds and intervals; one folder per seed, shared by all of them.

stages      aligned, SFT, DPO, MPO, GRPO, MPO + GRPO: accuracy and hallucination rate (B3, Tables 2 and 3)
buffer      what becomes of groups without signal: SSB, kept, dropped, drawn again (B3, section 4.3)
parts       GRPO trains the adapter, adapter + LLM, adapter + vision (B3, Table 4)
threshold   MPO on pairs whose reward-model margin is at least 0, middling, high: curves over steps (B3, section 4.4)
rewards     each answer's rewards added and then normalised (eq. 7), or normalised one by one (GDPO)
filter      GRPO on all questions, or on those that were answered neither always nor never right (SSB offline)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from assay.errors import AssayError
from assay.figures import points, told
from assay.images import ImageStore
from assay.journal import read
from assay.policy.reading import Reading
from assay.recipes import policies
from assay.run import Run
from assay.statistics import Estimate, over_seeds, seeds_apart
from assay.tables import write_text
from assay.tuning.config import Task
from assay.tuning.stages import Tuner

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy to compare: `work` makes it, as models/`model`, and measures it. Ablations share the policies they share."""

    model: str
    work: Callable[[Tuner, str], Reading]


def ablate(name: str, out: Path, seeds: Sequence[int], console: Console) -> Path:
    """Run every variant for every seed (what is done already is found), print the table, write it and a plot. Returns the
    path of the plot."""
    made = _variants(name)
    found: dict[str, list[Reading]] = {v: [] for v in made}
    for seed in seeds:
        config = replace(policies.tiny_vlm(), seed=seed)
        run = Run(out / f"seed-{seed}", config)
        try:
            tuner = Tuner(run, config, policies.visual_task(config)(ImageStore(run.folder / "images")))
            tuner.base()
            tuner.align()
            tuner.reward_model()
            for label, variant in made.items():
                found[label].append(variant.work(tuner, variant.model))
        finally:
            run.close()
    curves = {
        label: [read(out / f"seed-{s}" / "models" / v.model / "metrics.jsonl") for s in seeds]
        for label, v in made.items()
    }
    tables = [t for t in (_readings(found), _batches(curves)) if t]
    for rows in tables:
        table = RichTable(*rows[0], box=box.SIMPLE, padding=(0, 1, 0, 0))
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    write_text(out / f"{name}.md", "\n".join(map(_markdown, tables)))
    drawn, path = figure(name, curves), out / f"{name}.png"
    drawn.savefig(path, dpi=130)
    plt.close(drawn)
    return path


def variants(name: str) -> list[str]:
    return list(_variants(name))


def _variants(name: str) -> dict[str, Variant]:
    known = {"stages": _stages, "buffer": _buffer, "parts": _parts, "threshold": _threshold, "rewards": _rewards,
             "filter": _filter}  # fmt: skip
    if name not in known:
        raise AssayError(f"unknown ablation '{name}'; known: {', '.join(known)}")
    return known[name]()


@contextmanager
def _changed(tuner: Tuner, task: Task | None = None, **settings: Any) -> Iterator[None]:
    """Another task, or other settings of the whole run, for one variant."""
    before = tuner.config, tuner.task
    tuner.config, tuner.task = replace(tuner.config, **settings), task or tuner.task
    try:
        yield
    finally:
        tuner.config, tuner.task = before


def _tuned(
    model: str, start: str = "aligned", train: tuple[Any, ...] = (), claims: float = 0.0, **settings: Any
) -> Variant:
    """GRPO with some settings changed, from `start`; `train` names other parts, `claims` is that reward's weight."""

    def work(tuner: Tuner, name: str) -> Reading:
        policy = replace(tuner.config.policy, train=train) if train else None
        with _changed(tuner, rewards=replace(tuner.config.rewards, claims=claims)):
            return tuner.evaluate(tuner.grpo(name, start, replace(tuner.config.grpo, **settings), policy))

    return Variant(model, work)


SSB = _tuned("grpo-buffer")
"""GRPO + SSB straight from the aligned policy: a row of three ablations."""


def _stages() -> dict[str, Variant]:
    def preference(name: str, *weights: float) -> Variant:
        def work(tuner: Tuner, name: str) -> Reading:
            settings = replace(tuner.config.mpo, weights=(weights[0], weights[1], weights[2]))
            return tuner.evaluate(tuner.mpo(name, "aligned", 1, settings, watch_every=10))

        return Variant(name, work)

    return {
        "aligned": Variant("aligned", lambda tuner, name: tuner.evaluate(name)),
        "SFT": preference("sft", 0.0, 0.0, 1.0), "DPO": preference("dpo", 1.0, 0.0, 0.0),
        "MPO": preference("mpo", 0.8, 0.2, 1.0), "GRPO": SSB, "MPO + GRPO": _tuned("mpo-grpo", "mpo"),
        "... claims checked": _tuned("mpo-grpo-claims", "mpo", claims=0.5),
    }  # fmt: skip


def _buffer() -> dict[str, Variant]:
    return {
        "SSB": SSB, "kept (plain GRPO)": _tuned("grpo-keep", zero_groups="keep"),
        "dropped": _tuned("grpo-drop", zero_groups="drop"),
        "drawn again (DAPO)": _tuned("grpo-resample", zero_groups="resample"),
    }  # fmt: skip


def _rewards() -> dict[str, Variant]:
    return {"sum": SSB, "GDPO": _tuned("grpo-gdpo", combine="gdpo")}


def _parts() -> dict[str, Variant]:
    return {
        "adapter": _tuned("grpo-adapter", train=("adapter",)), "adapter + LLM": SSB,
        "adapter + vision": _tuned("grpo-vision", train=("adapter", "vision")),
    }  # fmt: skip


def _threshold() -> dict[str, Variant]:
    """The thresholds are quantiles of the margins of this policy's own pairs: the paper's 7, 10, 15 are in the units of its
    own reward model. Each sees its pairs three times."""

    def above(name: str, quantile: float) -> Variant:
        def work(tuner: Tuner, name: str) -> Reading:
            pairs = replace(tuner.config.pairs, threshold=tuner.margin(quantile) if quantile else None)
            with _changed(tuner, pairs=pairs):
                settings = replace(tuner.config.mpo, epochs=3.0)
                return tuner.evaluate(tuner.mpo(name, "aligned", 1, settings, watch_every=5))

        return Variant(name, work)

    return {
        "none": above("mpo-all", 0.0), "median": above("mpo-median", 0.5), "highest quarter": above("mpo-high", 0.75),
    }  # fmt: skip


def _filter() -> dict[str, Variant]:
    def filtered(tuner: Tuner, name: str) -> Reading:
        with _changed(tuner, replace(tuner.task, tune=tuner.mixed("aligned"))):
            return tuner.evaluate(tuner.grpo(name, "aligned"))

    return {"all questions": SSB, "filtered questions": Variant("grpo-filtered", filtered)}


Curve = list[dict[str, Any]]


def _readings(found: Mapping[str, list[Reading]]) -> list[list[str]]:
    """A header and a row for each variant: means over seeds with 95% intervals, and what differs from the first one."""
    first = next(iter(found))
    heads = ["variant", "right, %", f"- {first}", "hallucinates, %", f"- {first}", "names what is there, %"]
    rows = [[*heads, "same if blank, %", "if swapped, %", "seeds"]]
    for label, readings in found.items():
        row = [label]
        for name in ("accuracy", "hallucination_rate"):
            ours, theirs = ([getattr(r, name) for r in rs] for rs in (readings, found[first]))
            row += [_spread(ours), "" if label == first else _difference(ours, theirs)]
        row += [_spread([getattr(r, k) for r in readings]) for k in ("named", "blind_agreement", "swap_agreement")]
        rows.append([*row, str(len(readings))])
    return rows


def _spread(estimates: Sequence[Estimate | None]) -> str:
    known = [e for e in estimates if e is not None]
    return told(over_seeds(known), "") if known else "-"


def _difference(ours: Sequence[Estimate | None], theirs: Sequence[Estimate | None]) -> str:
    """Seed by seed, each with test questions of its own."""
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    if not both:
        return "-"
    found = seeds_apart([a for a, _ in both], [b for _, b in both])
    return points(found, found.n)


def _batches(curves: Mapping[str, list[Curve]]) -> list[list[str]]:
    """Of GRPO: shares in the last quarter of the steps, samples and CPU seconds of all steps; means over seeds."""
    rows = [["GRPO", "groups with signal, %", "of the batch, %", "samples", "CPU s"]]
    for label, runs in curves.items():
        told = [run for run in runs if run and "effective" in run[0]]
        if told:
            late = [m for run in told for m in run[3 * len(run) // 4 :]]
            seconds = [sum(m["sample_cpu_s"] + m["update_cpu_s"] for m in run) for run in told]
            shares = (100 * np.mean([m[key] for m in late]) for key in ("effective", "batch_effective"))
            samples = np.mean([run[-1]["samples"] for run in told])
            rows.append([label, *(f"{s:.0f}" for s in shares), f"{samples:,.0f}", f"{np.mean(seconds):.0f}"])
    return rows if len(rows) > 1 else []


def _markdown(rows: list[list[str]]) -> str:
    lines = (rows[0], ["---"] * len(rows[0]), *rows[1:])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TITLES = {
    "batch_effective": "effective share of the batch, %", "watch_accuracy": "accuracy, %",
    "watch_hallucination_rate": "hallucination rate, %",
    "step": "step", "samples": "answers sampled", "seconds": "CPU seconds of sampling and updates",
}  # fmt: skip
FITTED = (("step", "watch_accuracy"), ("step", "watch_hallucination_rate"))
"""What is plotted of MPO and its like: over what, and what, at the monitor's questions."""
REINFORCED = (
    ("samples", "watch_accuracy"), ("seconds", "watch_accuracy"), ("step", "watch_hallucination_rate"),
    ("step", "batch_effective"),
)  # fmt: skip
"""And of GRPO."""


def figure(name: str, curves: Mapping[str, list[Curve]]) -> Any:
    """Means over seeds: two panels for MPO and its like, four for GRPO, where there are such variants."""
    told = {v: [r for r in runs if r] for v, runs in curves.items()}
    grpo = {v: [_with_seconds(r) for r in runs] for v, runs in told.items() if runs and "effective" in runs[0][0]}
    others = {v: runs for v, runs in told.items() if runs and v not in grpo}
    panels = [(p, group) for wanted, group in ((FITTED, others), (REINFORCED, grpo)) if group for p in wanted]
    height = max(1, len(panels) // 2)
    made, axes = plt.subplots(height, 2, figsize=(10, 3.6 * height), constrained_layout=True, squeeze=False)
    for place, ((over, what), group) in zip(axes.flat, panels, strict=False):
        for variant, runs in group.items():
            points = [[(m[over], 100 * m[what]) for m in run if what in m] for run in runs]
            length = min(map(len, points))
            if length:
                mean_N2 = np.mean([p[:length] for p in points], axis=0)
                place.plot(*mean_N2.T, marker=".", label=variant)
        place.set_ylabel(TITLES[what])
        place.set_xlabel(TITLES[over])
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        place.grid(alpha=0.3)
        if place.lines:
            place.legend(frameon=False, fontsize=8)
    made.suptitle(f"{name}: means over seeds", fontsize=10)
    return made


def _with_seconds(run: Curve) -> Curve:
    spent = np.cumsum([m["sample_cpu_s"] + m["update_cpu_s"] for m in run])
    return [{**m, "seconds": float(s)} for m, s in zip(run, spent, strict=True)]
