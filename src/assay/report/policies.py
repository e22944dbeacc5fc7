"""The section of a run's report on policies (`assay run --tune`): does curation pay there? Needs no torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from assay.figures import points, told
from assay.look import drawn
from assay.pipeline.paid import Scored
from assay.report.run import Grid, arms, canvas, shares, steps_of
from assay.statistics import Difference, Estimate, Spread
from assay.tables import Table, read_json

Steps = Mapping[str, Mapping[str, Any]]
ARMS = ("raw", "curated")
TITLES = {"raw": "all raw labels", "curated": "curated labels"}
_COLOURS = {"raw": "#888888", "curated": "#b8860b"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesTold:
    """The section's parts. `verdicts` are sentences: the best of n, GRPO, and either arm against the untuned policy."""

    about: str
    verdicts: Sequence[str]
    table: Grid
    plot: Markup
    gates: Grid
    policies: Grid
    cost: str


def policies_told(folder: Path) -> PoliciesTold | None:
    """None where the run tuned no policy, or is not done with it."""
    steps = steps_of(folder / "policies")
    done = sorted((int(name.rpartition("-")[2]) for name in steps if name.startswith("compared-")), reverse=True)
    if not done:
        return None
    trainings = done[0]
    found, tuning = steps[f"compared-{trainings}"], read_json(folder / "policies" / "config.json")["tuning"]
    seeds = sum(name.startswith("best-of-n/raw-") for name in steps)
    return PoliciesTold(
        about=_about(steps, tuning, found), verdicts=_verdicts(found), table=_table(steps, found, seeds),
        plot=_plot(steps, found, seeds), gates=_gates(steps, seeds), policies=_policies(folder, steps, trainings, seeds),
        cost=_cost(steps, tuning, trainings, seeds),
    )  # fmt: skip


def headline_of(told_of: PoliciesTold) -> str:
    """For the terminal."""
    return " ".join(told_of.verdicts[:2])


def _about(steps: Steps, tuning: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    grpo, sampler, summed = tuning["grpo"], tuning["sampler"], tuning["rewards"]["combine"] == "sum"
    rewards = "raw score" if summed else "probability that an answer is right, behind a gate, both fitted on held gold"
    parts = (
        f"The policy is {tuning['model']}. Measured by {found['measured_by']}, on questions that are neither in the pool",
        f"nor trained on. The best of n picks among {tuning['candidates']} answers of the untuned policy to each, on",
        f"average over all choices of n. GRPO: {grpo['steps']} steps of {grpo['prompts']} questions with {grpo['group']}",
        f"answers; {steps['start']['train']:,} questions to train on; the reward is the reward model's {rewards}.",
        "Questions, settings and seeds are the same for both reward models. Answers have at most",
        f"{sampler['max_tokens']} tokens, at temperature {sampler['temperature']:g}.",
    )
    return " ".join(parts)


def _verdicts(found: Mapping[str, Any]) -> list[str]:
    n, k = found["most"], found["trainings"]
    times = f"{k} training{'s' * (k > 1)} each"
    lines = [
        f"Best of {n}, picked by the reward model of curated labels: {found['best_of_n']['verdict']}.",
        f"GRPO ({times}), rewarded by the reward model of curated labels: {found['grpo']['verdict']}.",
        *(f"GRPO, rewarded by that of {TITLES[arm]}: {found[f'{arm}_than_start']['verdict']}." for arm in ARMS),
    ]
    return lines + [
        f"{skipped} of {k} trainings with the reward model of {TITLES[arm]} had no reward, for its gate is closed: the "
        "untuned policy stands for them."
        for arm, skipped in found["skipped"].items() if skipped
    ]  # fmt: skip


def _sizes(steps: Steps) -> list[int]:
    return sorted(int(n) for n in steps["best-of-n/raw-0"] if n.isdecimal())


def _picked(steps: Steps, arm: str, n: int, seeds: int) -> Spread | None:
    return shares([steps[f"best-of-n/{arm}-{s}"][str(n)] for s in range(seeds)])


def _tuned(steps: Steps, arm: str, trainings: int) -> Spread | None:
    return shares([steps[f"policy/{arm}-{i}"]["value"] for i in range(trainings)])


def _table(steps: Steps, found: Mapping[str, Any], seeds: int) -> Grid:
    start = told(Estimate(**steps["start"]["value"]), "")
    rows = [["the untuned policy", start, start, ""]]
    for n in _sizes(steps):
        cells = [told(_picked(steps, arm, n, seeds), "") for arm in ARMS]
        rows.append([f"best of {n}", *cells, _points(found["best_of_n"]) if n == found["most"] else ""])
    after = [told(_tuned(steps, arm, found["trainings"]), "") for arm in ARMS]
    rows.append(["after GRPO", *after, _points(found["grpo"])])
    header = ("good answers", *(f"by {TITLES[arm]}, %" for arm in ARMS), "curated less raw, points")
    return Grid(header=header, rows=rows)


def _points(one: Mapping[str, Any]) -> str:
    found = Difference(**one["difference"])
    return points(found, found.n)


def _gates(steps: Steps, seeds: int) -> Grid:
    rows = []
    for s in range(seeds):
        for arm in ARMS:
            step = steps[f"gate/{arm}-{s}"]
            precise = "-" if step["precision"] is None else told(Estimate(**step["precision"]), "")
            which = TITLES[arm] if seeds == 1 else f"{TITLES[arm]}, seed {s}"
            rows.append([which, *_gate(step["term"]), told(Estimate(**step["open"]), ""), precise])
    header = ("reward model of", "gate", "right of held gold there", "policy's answers there, %", "good of these, %")
    return Grid(header=header, rows=rows, words=2)


def _gate(term: Mapping[str, Any]) -> tuple[str, str]:
    """Where a gate is open, and what held gold says of that; or why it is closed."""
    if term["reason"]:
        return "closed: " + re.sub(r"(\d+)%", lambda m: f"{int(m[1]) / 100:.2f}", term["reason"]), "-"
    there = round(term["kept"] * term["n_gold"])
    right = f"{round(term['precision'] * there):,} of {there:,}, at least {term['precision_low']:.2f}"
    return f"open above p = {term['threshold']:.2f}", right


def _scored(folder: Path) -> dict[str, float]:
    """The mean rewards of the untuned policy's answers, by the first seed's reward models."""
    table = Table(folder / "policies" / "tables" / "rewards", Scored)
    return {f"reward_{arm}": float(table.frame(f"{arm}-0-of-start")["reward"].mean()) for arm in ARMS}  # type: ignore[arg-type]


def _policies(folder: Path, steps: Steps, trainings: int, seeds: int) -> Grid:
    def row(title: str, step: Mapping[str, Any]) -> list[str]:
        scores = [f"{step[f'reward_{arm}']:+.2f}" if f"reward_{arm}" in step else "-" for arm in ARMS]
        good = told(Estimate(**step["value"]), "")
        cut = f"{round(step['cut_off'] * step['answers']):,} of {step['answers']:,}"
        return [title, good, *scores, f"{step['tokens']:.1f}", cut, f"{step['unmeasured']:,}"]

    by = "" if seeds == 1 else ", scored by seed 0's"
    rows = [row(f"untuned{by}", {**_scored(folder), **steps["start"]})]
    for i in range(trainings):
        for arm in ARMS:
            skipped = " (gate closed: untuned)" if "skipped" in steps[f"grpo/{arm}-{i}"] else ""
            rows.append(row(f"GRPO, {TITLES[arm]}, {i + 1}{skipped}", steps[f"policy/{arm}-{i}"]))
    header = ("policy", "good answers, %", "score by raw", "by curated", "tokens", "cut off", "not measured")
    return Grid(header=header, rows=rows)


def _cost(steps: Steps, tuning: Mapping[str, Any], trainings: int, seeds: int) -> str:
    names = [f"{arm}-{i}" for i in range(trainings) for arm in ARMS]
    sampled = sum(int(steps[f"grpo/{n}"].get("samples", 0)) for n in names)
    measured = steps["start"]["answers"] + sum(
        steps[f"policy/{n}"]["answers"] for n in names if "skipped" not in steps[f"grpo/{n}"]
    )
    seconds = sum(float(step.get("wall_s", 0.0)) for step in steps.values())
    return (
        f"{len(names):,} trainings of {tuning['grpo']['steps']} steps on {sampled:,} answers, {measured:,} answers "
        f"measured, {seeds} seed{'s' * (seeds > 1)} of reward models, {seconds:,.0f} seconds."
    )


def _plot(steps: Steps, found: Mapping[str, Any], seeds: int) -> Markup:
    sizes, trainings = _sizes(steps), found["trainings"]
    figure, axes = canvas(9, 3.6)
    start = shares([steps["start"]["value"]])
    assert start is not None
    at = list(range(len(sizes) + 1))
    axes.axhline(100 * start.mean, color="#cccccc", linewidth=1)
    for arm, aside in zip(ARMS, (-0.06, 0.06), strict=True):
        picked = [s for n in sizes if (s := _picked(steps, arm, n, seeds)) is not None]
        after = _tuned(steps, arm, trainings)
        assert after is not None
        spreads, x = [start, *picked], [a + aside for a in at]
        axes.errorbar(x, [100 * s.mean for s in spreads], yerr=arms(spreads), fmt="o-", color=_COLOURS[arm], capsize=4,
                      label=f"by the reward model of {TITLES[arm]}")  # fmt: skip
        last = len(at) + 0.2 + aside
        axes.errorbar(last, 100 * after.mean, yerr=arms([after]), fmt="s", color=_COLOURS[arm], capsize=4)
        single = [100 * steps[f"policy/{arm}-{i}"]["value"]["value"] for i in range(trainings)]
        if trainings > 1:
            axes.plot([last + 2 * aside] * trainings, single, ".", color=_COLOURS[arm], alpha=0.5, markersize=5)
    names = ["untuned", *(f"best of {n}" for n in sizes), f"after GRPO\n({trainings} each)"]
    axes.set_xticks([*at, len(at) + 0.2], names)
    axes.set_ylabel("good answers, %")
    axes.legend(fontsize=9, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    axes.grid(axis="y", alpha=0.3)
    return drawn(figure, "Good answers of the policy, by the reward model that picks or rewards")
