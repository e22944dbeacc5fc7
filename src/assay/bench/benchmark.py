"""What every reward-model benchmark is made of, and the one way to run it.

    load(folder) -> items;  conversations(items) -> what is to be scored, each once;  report(items, scores) -> result

`report` never sees a model: scores shipped with a benchmark, those of a local model and those of a judge take one path.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from assay import statistics
from assay.errors import AssayError
from assay.records import Conversation, Scorer, digest

Scores = Mapping[Conversation, float]
"""The reward of every whole conversation (prompt and response)."""


class Item(Protocol):
    """One question of a benchmark. `id` names it in errors, `source` its part of the benchmark (for decontamination),
    `stratum` its share in a sample; `prompt` is what its candidates answer and what errors are clustered by."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def stratum(self) -> str: ...
    @property
    def prompt(self) -> Conversation: ...
    @property
    def conversations(self) -> tuple[Conversation, ...]: ...


T = TypeVar("T", bound=Item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An item that is right when its best answer strictly beats every loser. `best` and `losers` are whole conversations.

    Example: Choice(id="1", source="rmb", stratum="S1", prompt=p, best=(*p, assistant("a")), losers=((*p, assistant("b")),))
    """

    id: str
    source: str
    stratum: str
    prompt: Conversation
    best: Conversation
    losers: tuple[Conversation, ...]

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return (self.best, *self.losers)

    def right(self, scores: Scores) -> bool:
        """A tie is wrong."""
        return scores[self.best] > max(scores[loser] for loser in self.losers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One reported number: `value` and its standard error `se` in percent, over `n` items."""

    name: str
    n: int
    value: float
    se: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval in percent; not symmetric, and never of zero width."""
        low, high = statistics.interval(self.estimate)
        return 100 * low, 100 * high

    @property
    def estimate(self) -> statistics.Estimate:
        return statistics.Estimate(value=self.value / 100, se=self.se / 100, n=self.n)


def cell(
    name: str, values: Sequence[float], clusters: Sequence[Hashable], groups: Sequence[Hashable] | None = None
) -> Cell:
    """The cell of values in [0, 1]; with `groups`, of the plain mean of their means."""
    found = statistics.mean(values, clusters, groups)
    return Cell(name=name, n=found.n, value=100 * found.value, se=100 * found.se)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """What a reward model scored. `headline` is None where the data do not allow the benchmark's own total; `notes` say
    what a reader must know; `n` of the benchmark's `total` loaded items were scored; `protocol` cites the scoring rule."""

    name: str
    n: int
    total: int
    headline: Cell | None
    slices: tuple[Cell, ...]
    notes: tuple[str, ...]
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A benchmark that could not be run because its data are not here: `reason` says where to get them."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: skipped: {self.reason}"


def _none(items: Sequence[object]) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark(Generic[T]):
    """A benchmark: its folder under the data folder, where its data are published, and its pure functions.

    `load` reads the benchmark's own folder. `caveats` says what is missing in the local copy, seen before sampling.
    """

    name: str
    folder: str
    home: str
    load: Callable[[Path], list[T]]
    report: Callable[[Sequence[T], Scores], BenchmarkResult]
    caveats: Callable[[Sequence[T]], tuple[str, ...]] = _none


def run(
    benchmark: Benchmark[T], folder: Path, scorer: Scorer, limit: int | None = None, seed: int = 0
) -> BenchmarkResult | Skipped:
    """Score a benchmark whose data lie under the data folder `folder`; `limit` items at most (None or 0: all).

    Raises AssayError for broken data and for a scorer that returns anything but one finite reward per conversation.
    """
    place = folder / benchmark.folder
    if not place.is_dir():
        return Skipped(name=benchmark.name, reason=f"no folder {place}; get the data from {benchmark.home}")
    items = benchmark.load(place)
    if not items:
        raise AssayError(f"{place}: no items of {benchmark.name} here; fetch the data again from {benchmark.home}")
    twice = [i for i, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise AssayError(f"{place}: item {twice[0]} occurs twice; does the folder hold two copies of the data?")
    return evaluate(items, benchmark.report, scorer, limit, seed, benchmark.caveats(items))


def evaluate(
    items: Sequence[T],
    report: Callable[[Sequence[T], Scores], BenchmarkResult],
    scorer: Scorer,
    limit: int | None = None,
    seed: int = 0,
    notes: tuple[str, ...] = (),
) -> BenchmarkResult:
    """Sample, score and report `items`; `notes` join those of the report."""
    chosen = sample(items, limit, seed) if limit else list(items)
    result = report(chosen, score(chosen, scorer))
    if len(chosen) < len(items):
        notes += (f"sample of {len(chosen):,} of {len(items):,} items, stratified, seed {seed}",)
    return replace(result, total=len(items), notes=result.notes + notes)


def sample(items: Sequence[T], limit: int, seed: int) -> list[T]:
    """At most `limit` items, every stratum in proportion, in the given order; which ones depends on ids and `seed` only.

    A systematic sample along the items sorted by stratum, and at random within it.
    """
    if limit < 1:
        raise AssayError(f"the limit of items must be at least 1 (or 0 for all), got {limit}")
    if limit >= len(items):
        return list(items)
    order = sorted(range(len(items)), key=lambda i: (items[i].stratum, digest([seed, items[i].id])))
    picked = {order[(2 * k + 1) * len(items) // (2 * limit)] for k in range(limit)}
    return [items[i] for i in sorted(picked)]


def conversations(items: Sequence[Item]) -> list[Conversation]:
    """All conversations to be scored, each once, in order of first use."""
    return list(dict.fromkeys(c for item in items for c in item.conversations))


def score(items: Sequence[Item], scorer: Scorer) -> dict[Conversation, float]:
    """The rewards of all conversations of the items. Raises AssayError for a wrong number of them or one not finite."""
    flat = conversations(items)
    rewards = np.asarray(scorer(flat), dtype=np.float64)
    if rewards.shape != (len(flat),):
        raise AssayError(
            f"the scorer returned shape {rewards.shape} for {len(flat)} conversations; it must be one each"
        )
    bad = np.flatnonzero(~np.isfinite(rewards))
    if len(bad):
        first = flat[bad[0]]
        item = next(i for i in items if first in i.conversations)
        raise AssayError(
            f"item {item.id} ({item.source}): the reward of answer {item.conversations.index(first) + 1} of "
            f"{len(item.conversations)} is {rewards[bad[0]]} ({len(bad)} of {len(flat)} rewards are not finite); "
            "check the reward model's precision and weights"
        )
    return dict(zip(flat, rewards.tolist(), strict=True))
