"""How sure a measured number is: cluster-aware standard errors, intervals of shares, and intervals over seeds.

Items that share a prompt are not independent, so errors are taken over prompts, not over pairs (Miller 2024, "Adding
Error Bars to Evals", section 2.2, here with the factor G / (G - 1) for G clusters). Values lie in [0, 1].
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Z95 = 1.959964
_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean in [0, 1] of `n` values and its standard error."""

    value: float
    se: float
    n: int


def mean(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, groups: Sequence[Hashable] | None = None,
    weights: Mapping[Any, float] | None = None,
) -> Estimate:  # fmt: skip
    """The mean of `values`, or that of the means of `groups` (plain, or with the `weights` of the groups as they are: they
    need not sum to one), with a standard error robust to `clusters`.

    All lists have one entry per item. Clusters may span groups (a prompt in two sections): their covariance is counted.
    With one cluster nothing is known of the spread, and the error is 0.5, the largest that a share can have.
    """
    if not len(values):
        raise ValueError("the mean of no values is not defined")
    group_of = list(groups) if groups is not None else [None] * len(values)
    cluster_of: Sequence[Hashable] = clusters if clusters is not None else range(len(values))
    sizes = Counter(group_of)
    share = {g: weights[g] if weights is not None else 1 / len(sizes) for g in sizes}
    sums: defaultdict[Hashable, float] = defaultdict(float)
    for value, group in zip(values, group_of, strict=True):
        sums[group] += value
    centre = {g: sums[g] / sizes[g] for g in sizes}
    pull: defaultdict[Hashable, float] = defaultdict(float)
    for value, group, cluster in zip(values, group_of, cluster_of, strict=True):
        pull[cluster] += (value - centre[group]) * share[group] / sizes[group]
    g = len(pull)
    se = math.sqrt(math.fsum(p * p for p in pull.values()) * g / (g - 1)) if g > 1 else 0.5
    return Estimate(value=math.fsum(share[g] * centre[g] for g in centre), se=se, n=len(values))


def wilson(share: float, n: float, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a share of `n` independent trials; it stays in [0, 1] and never has zero width."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def interval(estimate: Estimate) -> tuple[float, float]:
    """The 95% interval of a share: Wilson's with the effective number of trials, share (1 - share) / se^2.

    So clusters, groups and graded values enter through `se`; without any spread in the sample, n stands in.
    """
    spread = estimate.value * (1 - estimate.value)
    seen = estimate.se > 1e-9 and spread > 0
    return wilson(estimate.value, max(1.0, spread / estimate.se**2) if seen else estimate.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over seeds and half its 95% interval."""

    mean: float
    half: float
    seeds: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.half:.1f} ({self.seeds} seed{'s' * (self.seeds > 1)})"


def over_seeds(estimates: Sequence[Estimate]) -> Spread:
    """Mean and interval over models that differ in the seed only, measured on the same items.

    Two errors add in squares: between seeds (Student's t of their standard error) and of the finite set of items, which
    more seeds do not lessen. One seed leaves only the second.
    """
    if not len(estimates):
        raise ValueError("no seeds to average")
    k = len(estimates)
    centre = math.fsum(e.value for e in estimates) / k
    within = Z95**2 * math.fsum(e.se**2 for e in estimates) / k
    between = 0.0
    if k > 1:
        variance = math.fsum((e.value - centre) ** 2 for e in estimates) / (k - 1)
        between = student95(k - 1) ** 2 * variance / k
    return Spread(mean=centre, half=math.sqrt(within + between), seeds=k)


def student95(df: int) -> float:
    """The 97.5% quantile of Student's t: a table to 10 degrees of freedom, then Cornish-Fisher (error below 1e-3)."""
    if df <= len(_T95):
        return _T95[df - 1]
    z = Z95
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + math.fsum(term / df ** float(k) for k, term in enumerate(terms, 1))
