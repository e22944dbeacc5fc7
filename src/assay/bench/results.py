"""What a benchmark gives: cells with their errors, a result of cells, and what stands in its place where there is none."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from assay import statistics
from assay.figures import FEW, NEEDED, in_words
from assay.records import Message, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a number is the mean of: a value in [0, 1], the cluster and the group of every item, and the groups' weights
    (None: plain). Clusters are digests of prompts, so that two models' results can be paired."""

    values: tuple[float, ...]
    clusters: tuple[str, ...]
    groups: tuple[str, ...]
    weights: Mapping[str, float] | None = None
    draws: int = 1
    """How many answers each value is the mean of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One reported number: `value` and its standard error `se` in percent, over `n` items in `clusters` independent prompts
    (see `statistics.Estimate`); `terms`: what it is made of."""

    name: str
    n: int
    value: float
    se: float
    clusters: float
    terms: Terms | None = field(default=None, repr=False, compare=False)
    draws: int = 1
    """How many answers each of the n is the mean of: they may tell as much as n times so many independent ones, not more."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval in percent; not symmetric, and never of zero width. Of a composite that may leave [0, 100] a
        little (RewardBench 2's ties), the part within."""
        low, high = statistics.interval(self.estimate)
        return 100 * low, 100 * high

    def renamed(self, name: str) -> "Cell":
        return replace(self, name=name)

    @property
    def estimate(self) -> statistics.Estimate:
        n = self.n * self.draws
        return statistics.Estimate(value=self.value / 100, se=self.se / 100, n=n, clusters=self.clusters)


def cell(
    name: str, values: Sequence[float], clusters: Sequence[Hashable], groups: Sequence[Hashable] | None = None,
    weights: Mapping[Any, float] | None = None, draws: int = 1,
) -> Cell:  # fmt: skip
    """The cell of values in [0, 1], each the mean of `draws` answers; with `groups`, of the mean of their means, plain or by
    `weights`."""
    found = statistics.mean(values, clusters, groups, weights)
    terms = Terms(
        values=tuple(values), clusters=tuple(map(_digest, clusters)), weights=weights,
        groups=tuple(map(str, groups)) if groups is not None else ("",) * len(values), draws=draws,
    )  # fmt: skip
    return Cell(
        name=name, n=found.n, value=100 * found.value, se=100 * found.se, clusters=found.clusters, terms=terms, draws=draws
    )  # fmt: skip


def _digest(cluster: Hashable) -> str:
    if isinstance(cluster, tuple) and all(isinstance(m, Message) for m in cluster):
        return digest([m.canonical() for m in cluster])[:16]
    return digest(str(cluster))[:16]


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
    diagnostics: tuple[Cell, ...] = ()
    """How the number depends on what should not matter: the length of answers."""
    failed: int = 0
    """Items without a reward for every answer: they are in no number, and coverage says how many there are."""
    whole: bool = False
    """All items of the published benchmark were scored: only then does it count for the mean over seven."""
    beside: tuple[Cell, ...] = ()
    """Those of the diagnostics that are other totals, by which models are compared too."""
    chance: float | None = None
    """What random rewards get as `headline`, in percent: not 50 where an answer has several rivals."""

    @property
    def verdict(self) -> str:
        """The headline against chance, in words; "" where either is not known."""
        if self.headline is None or self.chance is None:
            return ""
        low, high = self.headline.interval
        better = (
            "better than" if low > self.chance else "worse than" if high < self.chance else "not shown to differ from"
        )
        few = self.headline.clusters < NEEDED - 0.5
        words = f": {FEW} whether it is better than chance" if few else f" is {better} chance"
        share = in_words(self.headline.value / 100, low / 100, high / 100, self.headline.n, NEEDED, " %")
        return f"{share}{words} ({self.chance:.1f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A benchmark that could not be run because its data are not here: `reason` says where to get them."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.word}: {self.reason}"

    @property
    def word(self) -> str:
        return "skipped"


class Failed(Skipped):
    """A benchmark that was begun and has no number: `reason` says what went wrong. It is no zero."""

    __slots__ = ()

    @property
    def word(self) -> str:
        return "failed"
