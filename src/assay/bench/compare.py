"""Two models on the same benchmarks: is one better? And many models: which benchmarks agree?

`save` keeps of each benchmark's headline what it is the mean of; `compare` pairs the two models item by item, clustered by
prompt, so what both find hard cancels out. `correlate` is paper A's Figure 2.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay import statistics
from assay.bench import table
from assay.bench.results import BenchmarkResult, Skipped, Terms, cell
from assay.errors import AssayError
from assay.figures import in_words, verdict
from assay.tables import write_text

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A file of results: the model's name, and of each benchmark its table and what its headline is made of."""

    path: Path
    model: str
    results: Mapping[str, dict[str, Any]]

    def terms(self, name: str, beside: str = "") -> Terms | None:
        """Of a benchmark's headline, or of a number beside it."""
        found = self.results.get(name, {})
        told = found.get("beside", {}).get(beside) if beside else found.get("terms")
        if not told:
            return None
        values, clusters, groups = (tuple(told[key]) for key in ("values", "clusters", "groups"))
        return Terms(
            values=values, clusters=clusters, groups=groups, weights=told["weights"], draws=told.get("draws", 1)
        )

    def headline(self, name: str) -> float | None:
        cell = self.results[name].get("headline")
        return None if cell is None else float(cell["value"])


def save(path: Path, model: str, environment: Mapping[str, Any], results: Sequence[BenchmarkResult | Skipped]) -> None:
    """Write results so that they can be compared later."""
    rows = []
    for result in results:
        row = {"name": result.name, **table.as_json(result)}
        if isinstance(result, BenchmarkResult) and result.headline and (t := result.headline.terms):
            row["terms"] = asdict(t)
            row["beside"] = {c.name: asdict(c.terms) for c in result.beside if c.terms}
        rows.append(row)
    write_text(path, json.dumps({"model": model, "environment": environment, "results": rows}))


def load(path: Path) -> Saved:
    """Read what `save` wrote. Raises AssayError for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Saved(path=path, model=str(data["model"]), results={r["name"]: r for r in data["results"]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssayError(f"{path}: not a file of `assay bench MODEL --out FILE` ({error!r})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Model a less model b on one benchmark, in points, its 95% interval, and the p-value of no difference. `shown_a` and
    `shown_b`: both with interval and n; `verdict`: whether a is better, in words; `notes`: what is not alike in the two,
    items that one alone has and protocols."""

    name: str
    a: float
    b: float
    low: float
    high: float
    p: float
    shown_a: str = ""
    shown_b: str = ""
    verdict: str = ""
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> float:
        return self.a - self.b


def compare(a: Saved, b: Saved, draws: int = 10_000, seed: int = 0) -> list[Difference]:
    """The difference on every benchmark whose headline both files have, and by each judge that both have beside it, over the
    items that both have (a failed request, a sample): how many one alone has is told.

    Raises AssayError when they share none, or of one no item, or none of some part of its total.
    """
    found = []
    for name, beside in [(n, c) for n, row in a.results.items() for c in ("", *row.get("beside", ()))]:
        one, two = (s.terms(name, beside) for s in (a, b))
        if one is None or two is None:
            continue
        both = shared(one, two)
        if not both[0].values or {*both[0].groups} != {*one.groups, *two.groups}:
            raise AssayError(
                f"{name}: {a.path} and {b.path} are of different items; run both on the same data and limit"
            )
        n, others = len(both[0].values), (len(one.values), len(two.values))
        notes = [f"paired on the {n:,} items that both have; A alone has {others[0] - n:,}, B alone {others[1] - n:,}"]
        notes = notes if {n} != {*others} else []
        ways = [s.results[name].get("protocol") for s in (a, b)]
        if ways[0] != ways[1]:
            notes.append(f"measured by different protocols; A: {ways[0]}; B: {ways[1]}")
        told = _difference(
            f"{name}, {beside}" if beside else name, *both, draws, np.random.default_rng([seed, len(name)])
        )
        found.append(replace(told, notes=tuple(notes)))
    if not found:
        raise AssayError(f"{a.path} and {b.path} have no benchmark with a total in common")
    return found


def shared(one: Terms, two: Terms) -> tuple[Terms, Terms]:
    """Both, cut to the prompts of which they have equally many items, in one order; by the weights of the first."""
    counts = [Counter(zip(t.groups, t.clusters, strict=True)) for t in (one, two)]

    def cut(terms: Terms) -> Terms:
        rows = sorted(zip(terms.groups, terms.clusters, terms.values, strict=True), key=lambda r: r[:2])
        kept = [r for r in rows if counts[0][r[:2]] == counts[1][r[:2]]]
        groups, clusters, values = zip(*kept, strict=True) if kept else ((), (), ())
        draws = min(one.draws, two.draws)
        return Terms(values=values, clusters=clusters, groups=groups, weights=one.weights, draws=draws)

    return cut(one), cut(two)


COMPARED = ("benchmark", "A, %", "B, %", "A - B", "95% interval", "p")


def compared(differences: Sequence[Difference]) -> list[tuple[str, ...]]:
    """A row of each benchmark, under `COMPARED`."""
    return [
        (d.name, d.shown_a, d.shown_b, f"{d.points:+.2f}", f"{d.low:+.2f} to {d.high:+.2f}",
         f"{d.p:.3f}" if d.p >= 0.001 else "< 0.001")
        for d in differences
    ]  # fmt: skip


def _difference(name: str, one: Terms, two: Terms, draws: int, random: np.random.Generator) -> Difference:
    n, k = len(one.values), one.draws
    a, b = (cell(name, t.values, t.clusters, t.groups, t.weights, k) for t in (one, two))
    found = paired(one, two)
    shown = [in_words(c.estimate.value, *statistics.interval(c.estimate), n, c.clusters) for c in (a, b)]
    return Difference(
        name=name, a=a.value, b=b.value, low=100 * found.low, high=100 * found.high,
        p=_sign_flips(one, two, draws, random), shown_a=shown[0], shown_b=shown[1],
        verdict=verdict(found, len(set(one.clusters)), "B", "items"),
    )  # fmt: skip


ENOUGH = 10
"""Questions whose means of several answers differ, from which Student's interval of the differences holds: in 92.7 % of runs
and more where 30 questions have five answers (simulated; docs/log.md). Newcombe's is up to twice as wide there."""


def paired(one: Terms, two: Terms) -> statistics.Difference:
    """Of single answers Newcombe's interval, which rare differences do not fool; of means of several Student's, where enough
    questions differ."""
    k, apart = one.draws, [x - y for x, y in zip(one.values, two.values, strict=True)]
    found = statistics.paired(one.values * k, two.values * k, one.clusters * k, one.groups * k, one.weights)
    found = replace(found, n=len(apart))
    if k == 1 or len({c for c, d in zip(one.clusters, apart, strict=True) if d}) < ENOUGH:
        return found
    told = statistics.mean(apart, one.clusters, one.groups, one.weights)
    half = statistics.student95(told.clusters - 1) * told.se
    return replace(found, low=max(-1.0, told.value - half), high=min(1.0, told.value + half))


def _sign_flips(one: Terms, two: Terms, draws: int, random: np.random.Generator) -> float:
    """The chance of a difference at least as large if each prompt could as well have had the two models' names exchanged: a
    paired randomisation test (Fisher 1935), exact at any number of prompts; two-sided, at least 1 / (draws + 1)."""
    _, at = np.unique(one.clusters, return_inverse=True)
    groups, of, sizes = np.unique(one.groups, return_inverse=True, return_counts=True)
    weights = np.array([one.weights[g] if one.weights else 1 / len(groups) for g in groups]) / sizes
    apart = np.bincount(at, (np.array(one.values) - np.array(two.values)) * weights[of])
    told, extreme = abs(apart.sum()) - 1e-12, 0
    for size in _chunks(draws, len(apart)):
        extreme += int((np.abs((2.0 * random.integers(0, 2, (size, len(apart))) - 1) @ apart) >= told).sum())
    return (extreme + 1) / (draws + 1)


def _chunks(draws: int, clusters: int) -> list[int]:
    size = max(1, min(draws, 4_000_000 // clusters))
    return [min(size, draws - at) for at in range(0, draws, size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Over models, of the headlines of two benchmarks: Pearson's r with a 95% interval (Fisher's z; None below four models)
    and Spearman's rank correlation."""

    one: str
    other: str
    models: int
    pearson: float
    low: float | None
    high: float | None
    spearman: float


def correlate(files: Sequence[Saved]) -> list[Correlation]:
    """Every pair of benchmarks that three or more models have a headline for. Raises AssayError when there is none."""
    names = list(dict.fromkeys(n for f in files for n in f.results))
    found = []
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            told = [(f.headline(one), f.headline(other)) for f in files if {one, other} <= set(f.results)]
            both = np.array([(x, y) for x, y in told if x is not None and y is not None])
            if len(both) >= 3 and (np.ptp(both, axis=0) > 0).all():
                found.append(_correlation(one, other, both))
    if not found:
        raise AssayError("no two benchmarks have totals of three models that differ: give more files of results")
    return found


def _correlation(one: str, other: str, both: Array) -> Correlation:
    n, r = len(both), _pearson(both[:, 0], both[:, 1])
    low = high = None
    if n > 3:
        z, half = np.arctanh(np.clip(r, -0.999999, 0.999999)), statistics.Z95 / np.sqrt(n - 3)
        low, high = float(np.tanh(z - half)), float(np.tanh(z + half))
    rank = _pearson(_ranks(both[:, 0]), _ranks(both[:, 1]))
    return Correlation(one=one, other=other, models=n, pearson=r, low=low, high=high, spearman=rank)


def _pearson(x: Array, y: Array) -> float:
    a, b = x - x.mean(), y - y.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _ranks(values: Array) -> Array:
    """Ranks, equal values sharing the mean of theirs."""
    _, block = np.unique(values, return_inverse=True)
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)
    return np.asarray((np.bincount(block, order) / np.bincount(block))[block])
