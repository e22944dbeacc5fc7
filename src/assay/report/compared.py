"""`assay compare`: two runs, or two trainings: their settings, their labels pair by pair, and their models on the pairs that
both measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assay.curate.attributes import conversation_text
from assay.errors import AssayError
from assay.figures import told, verdict
from assay.pipeline.hits import Hit, compared
from assay.records import Label
from assay.run import changes, jsonable
from assay.show import find
from assay.stages import model_title
from assay.state import state
from assay.statistics import Difference, Estimate
from assay.store import Place
from assay.tables import Table, read_json

EXAMPLES = 5
"""Pairs that are shown of those whose labels differ."""
_LABEL = ["pair_id", "chosen", "tier", "fate", "reason"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Of the labels of one seed: pairs that only one run labels, or both, how many of these have another label (`differ`),
    by what became of them (`fates`: of the first, of the second, pairs), and the first few with both labels and reasons."""

    seed: str
    only: tuple[int, int]
    both: int
    differ: int
    fates: tuple[tuple[str, str, int], ...]
    examples: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Of a model that both runs measured: the paired difference (second less first) on the pairs that both measured, of so
    many `questions`, and how many pairs each measured. None: they share no pair, or only their own shares are known."""

    name: str
    measured: tuple[int, int]
    both: int
    questions: int
    difference: Difference | None
    shares: tuple[Estimate | None, Estimate | None] = (None, None)

    @property
    def alike(self) -> bool:
        """Whether both measured the very same pairs."""
        return self.measured == (self.both, self.both)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What `compare` finds. `settings`: a line for each that differs, first and second."""

    runs: tuple[Path, Path]
    settings: tuple[str, ...]
    labels: tuple[Labels, ...]
    models: tuple[Model, ...]

    @property
    def same(self) -> bool:
        """Whether settings and labels are the same, and no model is shown to differ."""
        shown = any(m.difference is not None and not m.difference.low <= 0 <= m.difference.high for m in self.models)
        return not self.settings and not any(x.differ or any(x.only) for x in self.labels) and not shown


def compare(one: Path, other: Path) -> Compared:
    """Compare two finished or unfinished runs of a kind. Raises AssayError where one is no run, or they are of two kinds."""
    kinds = [state(folder).kind.split()[0] + ("" if _config(folder) else " training") for folder in (one, other)]
    if kinds[0] != kinds[1]:
        raise AssayError(f"{one} is of the kind '{kinds[0]}' and {other} '{kinds[1]}': these cannot be compared")
    before, after = _settings(one), _settings(other)
    seeds = sorted({p.name for p in one.glob("seed-*")} & {p.name for p in other.glob("seed-*")})
    labels = [found for seed in seeds if (found := _labels(one, other, seed)) is not None]
    models = [m for seed in seeds for m in _models(one, other, seed, several=len(seeds) > 1)]
    return Compared(runs=(one, other), settings=tuple(changes(before, after)), labels=tuple(labels),
                    models=(*models, *_shares(one, other)))  # fmt: skip


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json") if (folder / "config.json").exists() else {}


def _settings(folder: Path) -> dict[str, Any]:
    if found := _config(folder):
        return found
    partial = folder.with_name(folder.name + ".partial")
    files = (folder / "training.json", partial / "identity.json")
    kept = next((read_json(f).get("identity") for f in files if f.exists()), None)
    return kept or {}


def _labels(one: Path, other: Path, seed: str) -> Labels | None:
    frames = [Table(Place.of(f / seed / "tables" / "labels"), Label) for f in (one, other)]
    if not all(t.shards() for t in frames):
        return None
    first, second = (t.frame(columns=_LABEL).unique("pair_id", keep="last", maintain_order=True) for t in frames)
    both = first.join(second, on="pair_id", suffix="_2")
    differ = both.filter(~pl.col("chosen").eq_missing(pl.col("chosen_2")) | (pl.col("tier") != pl.col("tier_2")))
    fates = (
        differ.group_by(
            pl.format("{} {}", "tier", "fate").alias("a"),
            pl.format("{} {}", "tier_2", "fate_2").alias("b"),
        )
        .len()
        .sort(["len", "a", "b"], descending=[True, False, False])
    )
    examples = [_example(one, row) for row in differ.sort("pair_id").head(EXAMPLES).iter_rows(named=True)]
    return Labels(
        seed=seed, only=(len(first) - len(both), len(second) - len(both)), both=len(both), differ=len(differ),
        fates=tuple((a, b, n) for a, b, n in fates.iter_rows()), examples=tuple(examples),
    )  # fmt: skip


def _example(run: Path, row: Mapping[str, Any]) -> dict[str, str]:
    pair = find(Place.of(run), row["pair_id"]).pair
    names = {r.id: f"response {n}" for n, r in enumerate(pair.responses, 1)}
    asks = " ".join(conversation_text(pair.prompt).split())
    return {
        "pair_id": pair.id, "prompt": asks if len(asks) <= 80 else f"{asks[:77]}...",
        "first": f"{names.get(row['chosen'], 'none')} ({row['tier']}, {row['fate']}: {row['reason']})",
        "second": f"{names.get(row['chosen_2'], 'none')} ({row['tier_2']}, {row['fate_2']}: {row['reason_2']})",
    }  # fmt: skip


def _models(one: Path, other: Path, seed: str, *, several: bool) -> list[Model]:
    tables = [Table(Place.of(f / seed / "tables" / "hits"), Hit) for f in (one, other)]
    names = sorted(set(tables[0].shards()) & set(tables[1].shards()))
    found = []
    for name in (n for n in names if not n.startswith("judge-")):
        first, second = (t.frame(name) for t in tables)
        apart = compared([(second, first)])
        found.append(Model(
            name=f"{seed}: {model_title(name)}" if several else model_title(name), measured=(len(first), len(second)),
            both=apart.found.n if apart else 0, questions=apart.questions if apart else 0,
            difference=apart.found if apart else None,
        ))  # fmt: skip
    return found


def _shares(one: Path, other: Path) -> list[Model]:
    """Policies' shares of right answers, which are kept for each policy as a whole, so not paired."""
    found = []
    for file in sorted((one / "steps" / "evaluate").glob("*.json")):
        if (twin := other / "steps" / "evaluate" / file.name).exists():
            readings = [read_json(f).get("reading", {}).get("accuracy") for f in (file, twin)]
            found.append(_unpaired(model_title(file.stem), readings))
    trained = [read_json(f / "training.json") for f in (one, other) if (f / "training.json").exists()]
    if len(trained) == 2:
        gold = [t.get("gold") for t in trained]
        found += [_unpaired("gold that chose the checkpoint", gold)] if gold[0] != gold[1] else []
        losses = [t["loss"] for t in trained if t.get("loss") is not None]
        if len(losses) == 2 and losses[0] != losses[1]:
            found.append(Model(name=f"loss: {losses[0]:.4g} and {losses[1]:.4g}", measured=(0, 0), both=0, questions=0,
                               difference=None))  # fmt: skip
    return found


def _unpaired(name: str, rows: Sequence[Mapping[str, Any] | None]) -> Model:
    """Two shares, each with its own interval; None of what was not measured."""
    one, other = (Estimate(**r) if r and "clusters" in r else None for r in rows)
    measured = one.n if one else 0, other.n if other else 0
    return Model(name=name, measured=measured, both=0, questions=0, difference=None, shares=(one, other))


def lines(found: Compared, name: str = "the first") -> list[str]:
    """For people."""
    told_of = [f"first:  {found.runs[0]}", f"second: {found.runs[1]}", ""]
    told_of += ["settings that differ (first -> second):", *(f"  {s}" for s in found.settings)] if found.settings else [
        "settings: the same"
    ]  # fmt: skip
    for labels in found.labels:
        told_of += ["", *_labels_told(labels)]
    if found.models:
        told_of += ["", "models:"]
    for m in found.models:
        told_of.append(f"  {_model_told(m, name)}")
    return told_of


def _labels_told(x: Labels) -> Sequence[str]:
    head = f"labels, {x.seed}: {x.both:,} pairs in both, {x.differ:,} with another label or tier"
    of = zip(x.only, ("first", "second"), strict=True)
    alone = [f"  {n:,} pairs have a label in the {which} alone" for n, which in of if n]
    fates = [f"  {n:,}: {a} -> {b}" for a, b, n in x.fates]
    some = [
        f"  {e['pair_id'][:12]} {e['prompt']}\n    first:  {e['first']}\n    second: {e['second']}" for e in x.examples
    ]
    return [head, *alone, *fates, *some]


def _model_told(m: Model, name: str) -> str:
    if any(m.shares):
        return f"{m.name}: {told(m.shares[0])} and {told(m.shares[1])} (not paired)"
    if m.difference is None:
        return m.name if not any(m.measured) else f"{m.name}: no pair that both measured; these cannot be compared"
    others = "" if m.alike else (
        f" (they measured different pairs: the first {m.measured[0]:,}, the second {m.measured[1]:,}, both {m.both:,})"
    )  # fmt: skip
    return f"{m.name}: the second: {verdict(m.difference, m.questions, name)}{others}"


def as_json(found: Compared) -> str:
    """The same for programs."""
    return json.dumps({**jsonable(found), "same": found.same}, indent=2)
