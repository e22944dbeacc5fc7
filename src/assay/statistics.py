"""How sure a measured number is: errors over clusters, intervals of shares, of paired differences, and over seeds.

Items that share a prompt are not independent, so errors are taken over prompts, not over pairs (Miller 2024, "Adding
Error Bars to Evals", section 2.2, with the small-sample correction CR2 of Bell and McCaffrey 2002). Values lie in [0, 1].

The interval of a share is Korn and Graubard's (1998, "Confidence intervals for proportions with small expected number of
positive counts estimated from survey data"): Clopper and Pearson's (1934) with the effective number of trials, which
Student's t lessens where clusters are few; where a sample has little or no spread, its clusters are the trials (`trials`).
`tests/unit/test_coverage.py` measures how often each kind of interval holds the truth: 93% and more, and nearly always where
clusters are few.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Z95 = 1.959964
_FEW = 0.1
"""Degrees of freedom below which nothing can be said of a spread: Student's t is beyond 10^12 there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean in [0, 1] of `n` values and its standard error.

    `clusters`: how many equal, independent clusters the error rests on: (sum w^2)^2 / sum w^4, w being a cluster's weight in
    the mean (Satterthwaite 1946, for clusters of like items), less one for each group after the first. It is the number of
    clusters where all weigh the same. At 1 nothing is known of the spread.
    """

    value: float
    se: float
    n: int
    clusters: float


def mean(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, groups: Sequence[Hashable] | None = None,
    weights: Mapping[Any, float] | None = None,
) -> Estimate:  # fmt: skip
    """The mean of `values`, or that of the means of `groups` (plain, or with the `weights` of the groups as they are: they
    need not sum to one), with a standard error robust to `clusters`.

    All lists have one entry per item. Clusters may span groups (a prompt in two sections): their covariance is counted.
    A group that lies in one cluster has no spread of its own: its distance from the whole mean stands in. With one cluster
    nothing is known of the spread, and the error is 0.5, the largest that a share can have.
    """
    return _mean(values, clusters, groups, weights)[0]


def _mean(
    values: Sequence[float], clusters: Sequence[Hashable] | None, groups: Sequence[Hashable] | None,
    weights: Mapping[Any, float] | None,
) -> tuple[Estimate, dict[Hashable, float]]:  # fmt: skip
    """The mean, and how far each cluster pulls it from its centre."""
    if not len(values):
        raise ValueError("the mean of no values is not defined")
    group_of = list(groups) if groups is not None else [None] * len(values)
    cluster_of: Sequence[Hashable] = clusters if clusters is not None else range(len(values))
    sums: defaultdict[tuple[Hashable, Hashable], float] = defaultdict(float)
    counts: Counter[tuple[Hashable, Hashable]] = Counter()
    for value, group, cluster in zip(values, group_of, cluster_of, strict=True):
        sums[group, cluster] += value
        counts[group, cluster] += 1
    sizes = Counter(group_of)
    share = {g: weights[g] if weights is not None else 1 / len(sizes) for g in sizes}
    whole = math.fsum(share.values())
    spans = Counter(g for g, _ in counts)
    total = dict.fromkeys(sizes, 0.0)
    for (g, _), value in sums.items():
        total[g] += value
    centre = {g: total[g] / sizes[g] for g in sizes}
    middle = math.fsum(share[g] * centre[g] for g in sizes)
    pull: defaultdict[Hashable, float] = defaultdict(float)
    weight: defaultdict[Hashable, float] = defaultdict(float)
    for (g, c), count in counts.items():
        alone = spans[g] == 1
        at, lever = (middle / whole, share[g] / whole) if alone else (centre[g], count / sizes[g])
        pull[c] += (sums[g, c] - count * at) * share[g] / sizes[g] / math.sqrt(max(1 - lever, 1e-12))
        weight[c] += count * share[g] / sizes[g]
    effective = math.fsum(w**2 for w in weight.values()) ** 2 / math.fsum(w**4 for w in weight.values())
    effective -= max(0, sum(n > 1 for n in spans.values()) - 1)
    se = math.sqrt(math.fsum(p * p for p in pull.values())) if len(pull) > 1 else 0.5
    return Estimate(value=middle, se=se, n=len(values), clusters=max(1.0, effective)), dict(pull)


def of_clusters(sums: Array, counts: Array, times: Array | None = None) -> Estimate:
    """`mean` of values that are added up by cluster already: (c,) sums of the values, and how many there are of each.
    `times` (c,): how many clusters are like each (default: one)."""
    times = np.ones(len(counts)) if times is None else times
    n = (times * counts).sum()
    if not n:
        raise ValueError("the mean of no values is not defined")
    centre, share = (times * sums).sum() / n, counts / n
    pull = (sums - counts * centre) / n / np.sqrt(np.maximum(1 - share, 1e-12))
    effective = (times * share**2).sum() ** 2 / (times * share**4).sum()
    se = float(np.sqrt((times * pull**2).sum())) if times.sum() > 1 else 0.5
    return Estimate(value=float(centre), se=se, n=int(n), clusters=max(1.0, float(effective)))


def interval(estimate: Estimate) -> tuple[float, float]:
    """The 95% interval of a share (see `bounds`); of a mean beyond [0, 1], that of the part within."""
    low, high = bounds(min(1.0, max(0.0, estimate.value)), estimate.se, estimate.n, estimate.clusters)
    return float(low), float(high)


def bounds(value: ArrayLike, se: ArrayLike, n: ArrayLike, clusters: ArrayLike) -> tuple[Array, Array]:
    """The 95% intervals of shares: the fields of `Estimate` as numbers or arrays of one shape. Never of zero width."""
    return clopper_pearson(value, trials(value, se, n, clusters))


def trials(value: ArrayLike, se: ArrayLike, n: ArrayLike, clusters: ArrayLike) -> Array:
    """How many independent trials shares are as sure as: value (1 - value) / se^2, times (z / t)^2 for the clusters behind
    the error, and never more than there are items: few graded values may by chance have less spread than they should.

    How alike the items of a cluster are is told by those that are not like the most, and few tell little: a single wrong
    answer in twenty clusters of five looks like an independent one. So clusters that are alike throughout, which are one
    trial each, enter with the weight of one cluster of the rarer kind; without any spread they are all there is.
    0 where a single cluster tells nothing.
    """
    share, error, items, known = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (value, se, n, clusters))
    )
    spread = share * (1 - share)
    seen = (error > 1e-9) & (spread > 0)
    distinct, at = np.unique(known, return_inverse=True)
    shrink = np.array([(Z95 / student95(c - 1)) ** 2 if c - 1 > _FEW else 1.0 for c in distinct])[at].reshape(
        known.shape
    )
    found = np.where(seen, np.minimum(items, spread / np.where(seen, error, 1.0) ** 2) * shrink, known)
    rare = np.where(seen, np.minimum(share, 1 - share) * known, 0.0)
    doubt = (rare / found + np.maximum(1 / found, 1 / known)) / (rare + 1)
    return np.where(known - 1 > _FEW, 1 / doubt, 0.0)


def clopper_pearson(share: ArrayLike, n: ArrayLike) -> tuple[Array, Array]:
    """The exact 95% intervals (Clopper and Pearson 1934) of shares of `n` independent trials; n need not be whole.

    0 to 1 for no trial. An interval never has zero width.
    """
    p, k = np.broadcast_arrays(np.asarray(share, dtype=np.float64), np.asarray(n, dtype=np.float64))
    hits, misses = p * k, (1 - p) * k
    ends = beta_quantile(0.025, np.maximum(np.stack([hits, misses]), 1e-12), np.stack([misses, hits]) + 1)
    low, high = ends[0], 1 - ends[1]
    return np.where(hits > 1e-12, np.minimum(low, p), 0.0), np.where(misses > 1e-12, np.maximum(high, p), 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference of two means on the same items, in [-1, 1], with its 95% interval."""

    value: float
    low: float
    high: float
    n: int


def paired(
    one: Sequence[float], other: Sequence[float], clusters: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None, weights: Mapping[Any, float] | None = None,
) -> Difference:  # fmt: skip
    """The mean of one - other, item by item, as `mean` takes it; values in [0, 1].

    It is the share by which `one` is ahead less the share by which `other` is: each has its interval, and the two make that
    of the difference (Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data"; with their correlation, Zou and Donner 2008). So it has width where all items are equal, and rare
    differences do not look sure, as they do to a bootstrap that draws none of them.
    """
    apart = [a - b for a, b in zip(one, other, strict=True)]
    ahead, pull = _mean([max(0.0, d) for d in apart], clusters, groups, weights)
    behind, counter = _mean([max(0.0, -d) for d in apart], clusters, groups, weights)
    both = math.fsum(p * counter[c] for c, p in pull.items())
    r = both / (ahead.se * behind.se) if min(ahead.se, behind.se) > 1e-9 else 0.0
    low, high = difference_bounds(ahead.value, ahead.se, behind.value, behind.se, r, len(apart), ahead.clusters)
    return Difference(value=ahead.value - behind.value, low=float(low), high=float(high), n=len(apart))


def difference_bounds(
    ahead: ArrayLike, ahead_se: ArrayLike, behind: ArrayLike, behind_se: ArrayLike, r: ArrayLike, n: ArrayLike,
    clusters: ArrayLike,
) -> tuple[Array, Array]:  # fmt: skip
    """The 95% intervals of ahead - behind, two shares of the same items whose errors have the correlation `r`: numbers or
    arrays of one shape, see `paired`."""
    one, other = (np.clip(np.asarray(x, dtype=np.float64), 0, 1) for x in (ahead, behind))
    low, high = bounds(one, ahead_se, n, clusters)
    least, most = bounds(other, behind_se, n, clusters)
    down, up = _apart(one - low, most - other, r), _apart(high - one, other - least, r)
    return np.maximum(-1.0, one - other - down), np.minimum(1.0, one - other + up)


def _apart(a: ArrayLike, b: ArrayLike, r: ArrayLike = 0.0) -> Array:
    """The half-width of a difference of two numbers with half-widths a, b and correlation r."""
    one, other, both = (np.asarray(x, dtype=np.float64) for x in (a, b, r))
    return np.sqrt(np.maximum(0.0, one**2 + other**2 - 2 * both * one * other))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over seeds of shares of `n` items in `clusters` independent ones (see `Estimate`), and its 95% interval."""

    mean: float
    low: float
    high: float
    seeds: int
    n: int
    clusters: float


def over_seeds(estimates: Sequence[Estimate]) -> Spread:
    """Mean and interval over models that differ in the seed only, measured on the same items.

    Two errors add in squares: between seeds (Student's t of their standard error) and of the finite set of items, which
    more seeds do not lessen. One seed leaves only the second. Both are counted in effective trials, see `trials`.
    """
    if not len(estimates):
        raise ValueError("no seeds to average")
    table = np.array([(e.value, e.se, e.n, e.clusters) for e in estimates]).T
    centre, low, high = (float(x) for x in seed_bounds(*table))
    n, known = min(e.n for e in estimates), min(e.clusters for e in estimates)
    return Spread(mean=centre, low=low, high=high, seeds=len(estimates), n=n, clusters=known)


def seed_bounds(value: Array, se: Array, n: Array, clusters: Array) -> tuple[Array, Array, Array]:
    """Means over the last axis, the seeds, and their 95% intervals, see `over_seeds`: the fields of `Estimate` as arrays."""
    shares, k = np.clip(value, 0, 1), value.shape[-1]
    centre, known = shares.mean(-1), trials(shares, se, n, clusters)
    doubt = np.where(known > 0, 1 / np.maximum(known, 1e-12), np.inf).mean(-1)
    spread = centre * (1 - centre)
    if k > 1:
        between = student95(k - 1) ** 2 * value.var(-1, ddof=1) / k
        doubt = doubt + np.where(spread > 0, between / np.maximum(spread, 1e-12), 0.0) / Z95**2
    return centre, *clopper_pearson(centre, 1 / doubt)


def seeds_apart(ones: Sequence[Estimate], others: Sequence[Estimate]) -> Difference:
    """The mean over seeds of one - other, each seed measuring both on items of its own; with Student's interval over seeds.

    One seed, or seeds that all differ by the same, tell nothing of the spread: there the two intervals make that of the
    difference, as if their items were not the same, which errs on the safe side (Newcombe 1998).
    """
    apart = [a.value - b.value for a, b in zip(ones, others, strict=True)]
    value, n = math.fsum(apart) / len(apart), min(e.n for e in (*ones, *others))
    half = _between(apart) if len(apart) > 1 else 0.0
    if half > 1e-9:
        return Difference(value=value, low=max(-1.0, value - half), high=min(1.0, value + half), n=n)
    a, b = over_seeds(ones), over_seeds(others)
    down, up = float(_apart(a.mean - a.low, b.high - b.mean)), float(_apart(a.high - a.mean, b.mean - b.low))
    return Difference(value=value, low=max(-1.0, value - down), high=min(1.0, value + up), n=n)


def paired_over_seeds(
    ones: Sequence[Sequence[float]], others: Sequence[Sequence[float]], clusters: Sequence[Sequence[Hashable]]
) -> Difference:
    """The mean of one - other over seeds, each of which measures both on the same items: lists by seed, a value and a
    cluster (its question) for each item.

    Items of all seeds are paired as one list, clustered by question: a question that several seeds ask counts once. That the
    seeds' own differences vary (Student's interval of their mean) is added in squares, which errs on the safe side, for some
    of it is in the first part too. `n`: the items of the seed that has fewest.
    """
    one, other = ([v for seed in seeds for v in seed] for seeds in (ones, others))
    found = paired(one, other, [c for seed in clusters for c in seed])
    apart = [math.fsum(a) / len(a) - math.fsum(b) / len(b) for a, b in zip(ones, others, strict=True)]
    half = _between(apart) if len(apart) > 1 else 0.0
    down, up = math.hypot(found.value - found.low, half), math.hypot(found.high - found.value, half)
    return Difference(
        value=found.value, low=max(-1.0, found.value - down), high=min(1.0, found.value + up), n=min(map(len, ones))
    )


def _between(values: Sequence[float]) -> float:
    """Half Student's 95% interval of the mean of two or more values."""
    k = len(values)
    centre = math.fsum(values) / k
    return student95(k - 1) * math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (k - 1) / k)


@lru_cache(maxsize=4_096)
def student95(df: float) -> float:
    """The 97.5% quantile of Student's t with `df` degrees of freedom, which need not be whole."""
    x = float(beta_quantile(0.05, df / 2, 0.5))
    return math.sqrt(df * (1 - x) / x) if x > 0 else math.inf


def beta_quantile(share: ArrayLike, a: ArrayLike, b: ArrayLike) -> Array:
    """Quantiles of the beta distribution with parameters a, b > 0, to 1e-10: Newton's steps on its distribution function,
    halved where they leave the bracket. (Scipy has it, and is no dependency of the core.)"""
    wanted, one, two = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (share, a, b)))
    scale = _lgamma(one + two) - _lgamma(one) - _lgamma(two)
    low, high = np.zeros(wanted.shape), np.ones(wanted.shape)
    x = one / (one + two)
    for _ in range(200):
        off = _beta_cdf(x, one, two, scale) - wanted
        low, high = np.where(off < 0, x, low), np.where(off < 0, high, x)
        with np.errstate(all="ignore"):
            step = off / np.exp(scale + (one - 1) * np.log(x) + (two - 1) * np.log1p(-x))
        inside = (x - step > low) & (x - step < high)
        moved = np.where(inside, x - step, (low + high) / 2)
        still = np.abs(moved - x) <= 1e-12 + 1e-9 * moved
        x = moved
        if still.all():
            break
    return np.asarray(x)


def binomial_tail(successes: int, n: int, probability: float) -> float:
    """The chance of this many successes or more in n trials: an incomplete beta function, at any n without overflow."""
    if successes <= 0 or successes > n:
        return float(successes <= 0)
    a, b = np.array(float(successes)), np.array(float(n - successes + 1))
    return float(_beta_cdf(np.array(probability), a, b, _lgamma(a + b) - _lgamma(a) - _lgamma(b)))


def _beta_cdf(x: Array, a: Array, b: Array, scale: Array) -> Array:
    """The regularised incomplete beta function by its continued fraction (Numerical Recipes, section 6.4, Lentz's way)."""
    turned = x > (a + 1) / (a + b + 2)
    y, p, q = np.where(turned, 1 - x, x), np.where(turned, b, a), np.where(turned, a, b)
    tiny = 1e-300
    c, d = np.ones_like(y), 1 - (p + q) * y / (p + 1)
    d = 1 / np.where(np.abs(d) < tiny, tiny, d)
    value = d
    for m in range(1, 10_000):
        for top in (
            m * (q - m) * y / ((p + 2 * m - 1) * (p + 2 * m)),
            -(p + m) * (p + q + m) * y / ((p + 2 * m) * (p + 2 * m + 1)),
        ):
            d, c = 1 + top * d, 1 + top / c
            d, c = 1 / np.where(np.abs(d) < tiny, tiny, d), np.where(np.abs(c) < tiny, tiny, c)
            value = value * d * c
        if (np.abs(d * c - 1) < 1e-12).all():
            break
    with np.errstate(divide="ignore"):
        part = np.exp(scale + p * np.log(y) + q * np.log1p(-y)) * value / p
    return np.asarray(np.where(turned, 1 - part, part))


_lgamma = np.vectorize(math.lgamma, otypes=[np.float64])
