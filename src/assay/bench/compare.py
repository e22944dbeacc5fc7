"""Two models on the same benchmarks: is one better? And many models: which benchmarks agree?

`save` keeps of each benchmark's headline what it is the mean of; `compare` draws prompts with replacement, the same ones for
both models (a paired bootstrap over clusters), so what both find hard cancels out. `correlate` is paper A's Figure 2.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.bench import table
from assay.bench.benchmark import BenchmarkResult, Skipped, Terms
from assay.errors import AssayError
from assay.tables import write_text

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A file of results: the model's name, and of each benchmark its table and what its headline is made of."""

    path: Path
    model: str
    results: Mapping[str, dict[str, Any]]

    def terms(self, name: str) -> Terms | None:
        told = self.results[name].get("terms")
        if not told:
            return None
        values, clusters, groups = (tuple(told[key]) for key in ("values", "clusters", "groups"))
        return Terms(values=values, clusters=clusters, groups=groups, weights=told["weights"])

    def headline(self, name: str) -> float | None:
        cell = self.results[name].get("headline")
        return None if cell is None else float(cell["value"])


def save(path: Path, model: str, environment: Mapping[str, Any], results: Sequence[BenchmarkResult | Skipped]) -> None:
    """Write results so that they can be compared later."""
    rows = []
    for result in results:
        row = {"name": result.name, **table.as_json(result)}
        if isinstance(result, BenchmarkResult) and result.headline and (t := result.headline.terms):
            row["terms"] = {"values": t.values, "clusters": t.clusters, "groups": t.groups, "weights": t.weights}
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
    """Model a less model b on one benchmark, in points: the difference, its 95% bootstrap interval, and the share of draws
    in which b is not worse (two-sided p is twice the smaller of it and its rest)."""

    name: str
    a: float
    b: float
    low: float
    high: float
    share: float

    @property
    def points(self) -> float:
        return self.a - self.b


def compare(a: Saved, b: Saved, draws: int = 10_000, seed: int = 0) -> list[Difference]:
    """The difference on every benchmark whose headline both files have.

    Raises AssayError when they share none, or when the items of a shared one differ (another sample, another release).
    """
    found = []
    for name in a.results:
        one, two = (s.terms(name) if name in s.results else None for s in (a, b))
        if one is None or two is None:
            continue
        if (one.clusters, one.groups) != (two.clusters, two.groups):
            raise AssayError(
                f"{name}: {a.path} and {b.path} are of different items; run both on the same data and limit"
            )
        found.append(_difference(name, one, two, draws, np.random.default_rng([seed, len(name)])))
    if not found:
        raise AssayError(f"{a.path} and {b.path} have no benchmark with a total in common")
    return found


def _difference(name: str, one: Terms, two: Terms, draws: int, random: np.random.Generator) -> Difference:
    clusters, at = np.unique(one.clusters, return_inverse=True)
    groups, of = np.unique(one.groups, return_inverse=True)
    weights = np.array([one.weights[g] if one.weights else 1 / len(groups) for g in groups])
    shape = len(clusters), len(groups)
    sums, counts = np.zeros((2, *shape)), np.zeros(shape)
    np.add.at(counts, (at, of), 1.0)
    for k, terms in enumerate((one, two)):
        np.add.at(sums[k], (at, of), np.array(terms.values))
    values = [float((s.sum(0) / counts.sum(0)) @ weights) for s in sums]
    apart = np.concatenate([
        _drawn(sums[0] - sums[1], counts, weights, size, random) for size in _chunks(draws, len(clusters))
    ])  # fmt: skip
    low, high = np.quantile(apart, (0.025, 0.975))
    return Difference(
        name=name, a=100 * values[0], b=100 * values[1], low=100 * float(low), high=100 * float(high),
        share=float(np.mean(apart <= 0)),
    )  # fmt: skip


def _chunks(draws: int, clusters: int) -> list[int]:
    size = max(1, min(draws, 4_000_000 // clusters))
    return [min(size, draws - at) for at in range(0, draws, size)]


def _drawn(apart: Array, counts: Array, weights: Array, draws: int, random: np.random.Generator) -> Array:
    """Differences of `draws` samples of clusters; a group that a sample misses keeps its own mean."""
    n = len(counts)
    taken = random.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    sizes = taken @ counts
    means = np.where(sizes > 0, (taken @ apart) / np.maximum(sizes, 1e-12), apart.sum(0) / counts.sum(0))
    return np.asarray(means @ weights)


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
        z, half = np.arctanh(np.clip(r, -0.999999, 0.999999)), 1.959964 / np.sqrt(n - 3)
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
