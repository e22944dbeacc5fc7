"""What watched a training, as sections of its page: reward against the answer key, the reward model's gate over time, and
hallucination by claim and by length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from assay.figures import told
from assay.policy.reading import Reading
from assay.statistics import Estimate, interval, of_clusters
from assay.tuning.plots import Band, bands

WINDOWS = 8
"""Of a training's steps, in which its reward model is told of."""
Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A title, a picture (inline SVG; "": none), a table, and what is to be said below them."""

    title: str
    picture: Markup | str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


def sections(metrics: Metrics) -> list[Section]:
    """All that this training has."""
    readings = [Reading.of_metrics(m) for m in metrics if "watch_n" in m]
    made = (against_key(metrics), gate(metrics), hallucination({f"{r.step:,}": r for r in readings}, "step"))
    return [s for s in made if s is not None]


def against_key(metrics: Metrics) -> Section | None:
    """What the rewards give against what the key says, by readings (`policy.hacking`)."""
    found = [m for m in metrics if "hack_n" in m]
    if not found:
        return None
    steps = [m["step"] for m in found]

    def band(name: str, label: str, colour: str, times: float = 1.0) -> Band:
        values = [tuple(times * m[f"hack_{name}{end}"] for end in ("", "_low", "_high")) for m in found]
        return Band(label=label, colour=colour, steps=steps, values=values)

    picture = bands([
        ("right, change in points", [band("accuracy", "right by the key", "#2a6fbb", 100)]),
        ("paid beside the key, change", [band("paid", "reward but for the key's part", "#c0392b")]),
        ("length, times the start's", [band("length", "tokens", "#888888")]),
    ])  # fmt: skip
    rows = [
        [
            f"{m['step']:,}", f"{100 * m['hack_right']:.1f}", _range(m, "accuracy", 100, "+.1f"),
            _range(m, "paid", 1, "+.2f"), _range(m, "length", 1, ".2f"), f"{m['hack_since']:,}",
            "suspicious" if m["hack_suspected"] else "",
        ]
        for m in found
    ]  # fmt: skip
    return Section(
        title="Reward against the answer key", picture=picture, rows=rows,
        header=("step", "right, %", "change, points", "paid beside the key, change", "length, times", "since step", ""),
        note=f"Greedy answers to the {found[-1]['hack_n']:,} watched questions whose answer is known, always the same ones; "
        "changes with 95% intervals. Suspicious: what is paid rises while the accuracy falls or stands.",
    )  # fmt: skip


def _range(row: Mapping[str, Any], name: str, times: float, form: str) -> str:
    value, low, high = (times * row[f"hack_{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def gate(metrics: Metrics) -> Section | None:
    """How often the reward model was right where the key tells: its gate, and the order that it puts answers into."""
    found = [m for m in metrics if "order_pairs" in m]
    checks = [m for m in metrics if "gate_check_action" in m]
    if not found:
        return None
    lines = [
        ("of what the gate lets through, right", "gate_open_right", "gate_open", "#2a6fbb"),
        ("of all answers, right", "gate_known_right", "gate_known", "#888888"),
        ("let through", "gate_open", "gate_known", "#b8860b"),
    ]
    orders = [
        ("by the reward model", "order_model", "order_pairs", "#2a6fbb"),
        ("by the whole reward", "order_reward", "order_pairs", "#c0392b"),
    ]
    gated = [b for line in lines if (b := _windows(found, *line)) is not None]
    ordered = [b for line in orders if (b := _windows(found, *line)) is not None]
    rows = [
        [f"{m['step']:,}", *(_estimate(m, n) for n in ("right", "open", "precision")), m["gate_check_action"]]
        for m in checks
    ]
    return Section(
        title="The reward model over time", rows=rows,
        picture=bands([("answers in training, %", gated)] * bool(gated) + [("pairs in the right order, %", ordered)]),
        header=("step", "fresh gold answers, right, %", "let through, %", "of these right, %", "the gate was"),
        note="Answers in training whose key is known, in windows of steps, with 95% intervals over steps; pairs are of a "
        "right and a wrong answer of one group. The table: the gate measured again on fresh answers to gold questions.",
    )  # fmt: skip


def _windows(metrics: Metrics, label: str, some: str, of: str, colour: str) -> Band | None:
    """The share of `some` in `of` in windows of steps, in percent."""
    known = [m for m in metrics if m.get(of)]
    if not known:
        return None
    steps, values = list[float](), list[tuple[float, ...]]()
    for part in np.array_split(np.arange(len(known)), min(WINDOWS, len(known))):
        sums, counts = (np.array([float(known[i][n]) for i in part]) for n in (some, of))
        share = of_clusters(sums, counts)
        steps.append(float(np.mean([known[i]["step"] for i in part])))
        values.append(tuple(100 * x for x in (share.value, *interval(share))))
    return Band(label=label, colour=colour, steps=steps, values=values)


def _estimate(row: Mapping[str, Any], name: str) -> str:
    if f"gate_check_{name}" not in row:
        return "-"
    rest = {k: row[f"gate_check_{name}_{k}"] for k in ("se", "n", "clusters")}
    return told(Estimate(value=row[f"gate_check_{name}"], **rest), "")


RATES = (
    ("answers, %", "hallucination_rate"), ("shortest third, %", "hallucination_short"),
    ("middle, %", "hallucination_middle"), ("longest third, %", "hallucination_long"),
    ("false of the claims, %", "false_claims_rate"), ("named of what is there, %", "named"),
    ("a judge: answers, %", "judged_rate"), ("a judge: of the claims, %", "judged_false_claims"),
)  # fmt: skip
COLOURS = ("#c0392b", "#9ecae1", "#2a6fbb", "#08306b", "#b8860b", "#888888", "#2a7a2a", "#7fbf7f")


def hallucination(readings: Mapping[str, Reading], first: str) -> Section | None:
    """False claims: of answers, by their length, and of claims. `first` is what readings are named by."""
    known = [
        (title, name, colour) for (title, name), colour in zip(RATES, COLOURS, strict=True)
        if any(getattr(r, name) is not None for r in readings.values())
    ]  # fmt: skip
    if not any(name in ("hallucination_rate", "judged_rate") for _, name, _ in known):
        return None
    rows = [[key, *(_rate(getattr(r, name)) for _, name, _ in known)] for key, r in readings.items()]
    failed = sum(r.judge_failed for r in readings.values())
    parts = [
        [_band(readings, *line) for line in known if line[1] in names]
        for names in (("hallucination_short", "hallucination_middle", "hallucination_long"),
                      ("hallucination_rate", "false_claims_rate", "judged_rate", "judged_false_claims"))
    ]  # fmt: skip
    titles = ("answers with a false claim, %", "false claims, %")
    drawn = [(title, part) for title, part in zip(titles, parts, strict=True) if part]
    return Section(
        title="Hallucination by claim and by length", rows=rows, header=(first, *(title for title, _, _ in known)),
        picture=bands(drawn, first) if len(readings) > 1 else "",
        note="An answer hallucinates where its reasoning asserts something known not to be in its picture; 95% intervals "
        "over pictures. Thirds of the answers by their tokens: more words have more room for a false one. A judge holds "
        "each claim against the picture" + (f"; {failed:,} answers on which he failed are left out" if failed else "") + ".",
    )  # fmt: skip


def _rate(estimate: Estimate | None) -> str:
    return "-" if estimate is None else told(estimate, "")


def _band(readings: Mapping[str, Reading], title: str, name: str, colour: str) -> Band:
    known = [(at, e) for at, r in enumerate(readings.values(), 1) if (e := getattr(r, name)) is not None]
    by_step = all(r.step for r in readings.values())
    steps = [list(readings.values())[at - 1].step if by_step else at for at, _ in known]
    values = [tuple(100 * x for x in (e.value, *interval(e))) for _, e in known]
    return Band(label=title.removesuffix(", %"), colour=colour, steps=steps, values=values)
