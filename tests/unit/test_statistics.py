"""Errors and intervals against hand-computed values and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.statistics import Estimate, interval, mean, over_seeds, student95, wilson

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
    """Group means 1/2 and 3/4; independent groups add their variances (with one factor G / (G - 1) for all 6 items)."""
    found = mean([1, 0, 1, 1, 1, 0], groups=["x", "x", "y", "y", "y", "y"])
    assert found.value == pytest.approx(0.625)
    variance = (2 * 0.25 / 4 + (3 * 0.0625 + 0.5625) / 16) / 4
    assert found.se == pytest.approx(math.sqrt(variance * 6 / 5))


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
    assert 0.91 <= np.mean(found) <= 0.98


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
    assert mean([1.0, 1.0], clusters=["a", "a"]).se == 0.5
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_wilson_by_hand() -> None:
    low, high = wilson(0.5, 10)
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@given(SHARES)
def test_intervals_hold_the_value_and_have_width(values: list[float]) -> None:
    found = mean(values)
    low, high = interval(found)
    assert 0.0 <= low <= found.value <= high <= 1.0
    assert low < high


def test_graded_values_narrow_the_interval() -> None:
    values = [0.4, 0.5, 0.6] * 30
    low, high = interval(mean(values))
    assert (0.5 - low, high - 0.5) == pytest.approx((1.96 * mean(values).se,) * 2, rel=0.01)


def test_clusters_widen_the_interval() -> None:
    values = [1, 1, 1, 0, 0, 0] * 4
    alone, joint = mean(values), mean(values, clusters=[i // 3 for i in range(24)])
    assert interval(joint)[0] < interval(alone)[0] < 0.5 < interval(alone)[1] < interval(joint)[1]


def test_over_seeds_by_hand() -> None:
    one = over_seeds([Estimate(value=0.7, se=0.02, n=500)])
    assert (one.mean, one.half, one.seeds) == (0.7, pytest.approx(1.96 * 0.02, abs=1e-5), 1)
    assert str(one) == "70.0 ± 3.9 (1 seed)"
    three = over_seeds([Estimate(value=v, se=0.0, n=500) for v in (0.6, 0.7, 0.8)])
    assert three.mean == pytest.approx(0.7)
    assert three.half == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    both = over_seeds([Estimate(value=v, se=0.02, n=500) for v in (0.6, 0.7, 0.8)])
    assert both.half == pytest.approx(math.hypot(three.half, one.half))
    with pytest.raises(ValueError, match="no seeds"):
        over_seeds([])


def test_student_quantiles() -> None:
    assert student95(1) == pytest.approx(12.706, abs=1e-3)
    assert [student95(df) for df in (11, 20, 60)] == pytest.approx([2.2010, 2.0860, 2.0003], abs=1e-3)
