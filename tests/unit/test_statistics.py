"""Errors and intervals against hand-computed values and simulation."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, t

from assay.statistics import (
    Z95,
    Estimate,
    beta_quantile,
    clopper_pearson,
    interval,
    mean,
    of_clusters,
    over_seeds,
    paired,
    seeds_apart,
    student95,
    trials,
)

SHARES = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=30)


def test_independent_items_have_the_usual_standard_error() -> None:
    values = [1.0, 1.0, 1.0, 0.0]
    found = mean(values)
    assert found.value == 0.75
    assert found.se == pytest.approx(np.std(values, ddof=1) / math.sqrt(4))
    assert found.n == 4


def test_clusters_by_hand() -> None:
    """Two prompts with three equal pairs each: as sure as two items, not as six."""
    found = mean([1, 1, 1, 0, 0, 0], clusters=["a", "a", "a", "b", "b", "b"])
    assert (found.value, found.n) == (0.5, 6)
    assert found.se == pytest.approx(mean([1.0, 0.0]).se) == pytest.approx(0.5)


def test_the_mean_of_groups_by_hand() -> None:
    """Group means 1/2 and 3/4; independent groups add their variances, each with its own G / (G - 1): that of all 6 items
    (6/5, as it was) makes the variance of many small groups too small."""
    found = mean([1, 0, 1, 1, 1, 0], groups=["x", "x", "y", "y", "y", "y"])
    assert found.value == pytest.approx(0.625)
    variance = (2 * 0.25 / 4 * 2 / 1 + (3 * 0.0625 + 0.5625) / 16 * 4 / 3) / 4
    assert found.se == pytest.approx(math.sqrt(variance))
    weight = [1 / 4] * 2 + [1 / 8] * 4
    assert found.clusters == pytest.approx(sum(w**2 for w in weight) ** 2 / sum(w**4 for w in weight) - 1)


def test_a_prompt_in_two_groups_is_counted_as_one_cluster() -> None:
    twice = mean([1, 0, 1, 0], clusters=[0, 1, 0, 1], groups=["x", "x", "y", "y"])
    assert twice.se == pytest.approx(mean([1.0, 0.0]).se)


def test_the_error_of_clustered_means_covers() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 5).tolist()
    found = []
    for _ in range(300):
        p = np.repeat(rng.beta(1, 1, 40), 5)
        estimate = mean((rng.random(200) < p).astype(float).tolist(), clusters)
        low, high = interval(estimate)
        found.append(low <= 0.5 <= high)
    assert 0.93 <= np.mean(found) <= 0.995


@given(SHARES)
def test_one_cluster_per_item_and_one_group_change_nothing(values: list[float]) -> None:
    plain = mean(values)
    assert mean(values, clusters=list(range(len(values))), groups=["g"] * len(values)) == plain


@given(SHARES, st.integers(0, 1000))
def test_order_is_irrelevant(values: list[float], seed: int) -> None:
    clusters, groups = [i // 2 for i in range(len(values))], [i % 2 for i in range(len(values))]
    order = np.random.default_rng(seed).permutation(len(values)).tolist()
    one = mean(values, clusters, groups)
    other = mean([values[i] for i in order], [clusters[i] for i in order], [groups[i] for i in order])
    assert (one.value, one.se) == pytest.approx((other.value, other.se))


def test_one_cluster_says_nothing_of_the_spread() -> None:
    found = mean([1.0, 1.0], clusters=["a", "a"])
    assert (found.se, found.clusters) == (0.5, 1)
    assert interval(found) == (0.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_clopper_pearson_by_hand() -> None:
    """Where all are right the bound is the share whose n-th power is 2.5%; 5 of 10 is the textbooks' 18.7 to 81.3%."""
    assert clopper_pearson(0.5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert clopper_pearson(1.0, 10) == pytest.approx((0.025**0.1, 1.0))
    assert clopper_pearson(0.0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert clopper_pearson(0.7, 0) == (0.0, 1.0)


@given(st.floats(0.01, 0.99), st.floats(0.02, 5_000), st.floats(0.02, 5_000))
def test_beta_quantiles_are_those_of_scipy(share: float, a: float, b: float) -> None:
    assert float(beta_quantile(share, a, b)) == pytest.approx(float(beta.ppf(share, a, b)), rel=1e-7, abs=1e-10)


def test_like_items_of_few_prompts_are_few_trials() -> None:
    """3 prompts x 50 pairs, all right: three trials, 29.2 to 100% (it was 97.5 to 100); one prompt x 100 pairs says nothing
    (96.3 to 100); two prompts with equal shares are two trials (100 items)."""
    assert interval(mean([1.0] * 150, [n // 50 for n in range(150)])) == pytest.approx((0.025 ** (1 / 3), 1.0))
    assert interval(mean([1.0] * 100, ["one"] * 100)) == (0.0, 1.0)
    low, high = interval(mean([1.0, 0.0] * 50, [n // 50 for n in range(100)]))
    assert (low, high) == pytest.approx((0.0126, 0.9874), abs=1e-4)


def test_a_group_in_one_cluster_has_the_spread_of_its_distance() -> None:
    """Two groups of one prompt each, shares 1 and 0: as sure as two items."""
    found = mean([1, 1, 0, 0], clusters=["a", "a", "b", "b"], groups=["x", "x", "y", "y"])
    assert (found.value, found.se, found.clusters) == (0.5, pytest.approx(0.5), pytest.approx(2))


@given(SHARES)
def test_intervals_hold_the_value_and_have_width(values: list[float]) -> None:
    found = mean(values)
    low, high = interval(found)
    assert 0.0 <= low <= found.value <= high <= 1.0
    assert low < high


def test_graded_values_are_at_most_as_many_trials() -> None:
    """Their error is smaller, and is told; the interval does not trust it (test_coverage has why)."""
    values = [0.4, 0.5, 0.6] * 30
    assert mean(values).se < 0.01
    found = trials(0.5, mean(values).se, 90, 90)
    assert float(found) == pytest.approx(90 * (Z95 / student95(89)) ** 2)


def test_trials_by_hand() -> None:
    """Twenty clusters of five, one pair of the 100 wrong, which might as well be independent: 99 trials by its error, less
    by Student's t; but a fifth of a cluster is all that tells so, and twenty trials count five times as much."""
    values = [0.0] + [1.0] * 99
    found = mean(values, [n // 5 for n in range(100)])
    assert found.se == pytest.approx(0.01)
    plain = 0.99 * 0.01 / 0.01**2 * (Z95 / student95(19)) ** 2
    expected = (0.2 + 1) / (0.2 / plain + 1 / 20)
    assert float(trials(found.value, found.se, 100, found.clusters)) == pytest.approx(expected)
    assert interval(found)[0] < 0.85, "0.945 if all were independent"


def test_clusters_widen_the_interval() -> None:
    values = [1, 1, 1, 0, 0, 0] * 4
    alone, joint = mean(values), mean(values, clusters=[i // 3 for i in range(24)])
    assert interval(joint)[0] < interval(alone)[0] < 0.5 < interval(alone)[1] < interval(joint)[1]


def test_over_seeds_by_hand() -> None:
    """One seed: the interval of its items. Three: 1 / trials add up, those between seeds by Student's t of two degrees."""
    told = Estimate(value=0.7, se=0.0205, n=500, clusters=500)
    one = over_seeds([told])
    assert (one.mean, one.low, one.high) == (0.7, *interval(told))
    assert (one.seeds, one.n, round(one.low, 3), round(one.high, 3)) == (1, 500, 0.658, 0.74)
    three = over_seeds([replace(told, value=v) for v in (0.6, 0.7, 0.8)])
    items = sum(1 / float(trials(v, 0.0205, 500, 500)) for v in (0.6, 0.7, 0.8)) / 3
    between = (4.30265 * 0.1 / math.sqrt(3) / Z95) ** 2 / 0.21
    low, high = map(float, clopper_pearson(0.7, 1 / (items + between)))
    assert (three.low, three.high) == pytest.approx((low, high), rel=1e-4)
    assert 0.7 - three.low > 4.3 * 0.1 / math.sqrt(3)
    with pytest.raises(ValueError, match="no seeds"):
        over_seeds([])


def test_seeds_that_all_reach_the_same_are_not_sure() -> None:
    """All right in every seed: 100.0 ± 0.0 before; now what 40 items can tell."""
    perfect = Estimate(value=1.0, se=0.0, n=40, clusters=40)
    found = over_seeds([perfect] * 5)
    assert (found.low, found.high) == pytest.approx((0.025 ** (1 / 40), 1.0))
    assert over_seeds([replace(perfect, clusters=1.0)]).low == 0.0


def test_differences_over_seeds_by_hand() -> None:
    def row(*values: float) -> list[Estimate]:
        return [Estimate(value=v, se=math.sqrt(v * (1 - v) / 99), n=100, clusters=100) for v in values]

    found = seeds_apart(row(0.7, 0.8, 0.9), row(0.6, 0.6, 0.6))
    assert found.value == pytest.approx(0.2)
    assert found.high - found.value == found.value - found.low == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-4)
    same = seeds_apart(row(0.9, 0.9), row(0.9, 0.9))
    low, high = interval(row(0.9)[0])
    assert same.value == 0
    assert (same.low, same.high) == pytest.approx(
        (-math.hypot(0.9 - low, high - 0.9), math.hypot(0.9 - low, high - 0.9))
    )
    assert seeds_apart(row(0.9), row(0.8)).low < 0.1 < seeds_apart(row(0.9), row(0.8)).high, "one seed has its items"


def test_a_paired_difference_by_hand() -> None:
    """Ten items: ahead on two, behind on none. Intervals of the two shares, put together."""
    found = paired([1.0] * 10, [1.0] * 8 + [0.0] * 2)
    ahead, behind = interval(mean([0.0] * 8 + [1.0] * 2)), interval(mean([0.0] * 10))
    assert (found.value, found.n) == (pytest.approx(0.2), 10)
    assert found.low == pytest.approx(0.2 - math.hypot(0.2 - ahead[0], behind[1]))
    assert found.high == pytest.approx(ahead[1])
    nothing = paired([1.0, 0.0] * 10, [1.0, 0.0] * 10)
    assert nothing.value == 0
    assert nothing.high == -nothing.low == pytest.approx(1 - 0.025 ** (1 / 20))


def test_student_quantiles() -> None:
    assert student95(1) == pytest.approx(12.706, abs=1e-3)
    assert [student95(df) for df in (11, 20, 60)] == pytest.approx([2.2010, 2.0860, 2.0003], abs=1e-4)
    assert student95(2.5) == pytest.approx(t.ppf(0.975, 2.5))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40))
def test_sums_of_clusters_are_as_good_as_their_values(rows: list[tuple[int, bool]]) -> None:
    by: dict[int, list[float]] = {}
    for cluster, hit in rows:
        by.setdefault(cluster, []).append(float(hit))
    whole = mean([float(hit) for _, hit in rows], [cluster for cluster, _ in rows])
    found = of_clusters(np.array([sum(v) for v in by.values()]), np.array([float(len(v)) for v in by.values()]))
    assert (found.value, found.se, found.clusters) == pytest.approx((whole.value, whole.se, whole.clusters))
    assert found.n == whole.n
    alike = Counter((sum(v), float(len(v))) for v in by.values())
    sums, counts = np.array(list(alike)).T
    counted = of_clusters(sums, counts, np.array(list(alike.values()), float))
    assert (counted.value, counted.se, counted.clusters) == pytest.approx((found.value, found.se, found.clusters))
    assert counted.n == found.n
