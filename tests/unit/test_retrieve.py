"""The k rule at its boundaries, and exact nearest neighbours against a brute-force reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.curate import retrieve
from assay.curate.retrieve import Index, look_alikes, nearest_gold, neighbours_wanted


@pytest.mark.parametrize(
    ("p", "k"),
    [(0.0, 8), (0.49, 8), (0.5, 8), (0.5000001, 4), (0.51, 4), (0.6, 4), (0.625, 3), (0.7, 3), (0.75, 2), (0.8, 2),
     (0.874, 2), (0.875, 1), (0.9, 1), (0.999999, 1), (1.0, 0)],
)  # fmt: skip
def test_k_rule_of_the_paper(p: float, k: int) -> None:
    assert neighbours_wanted(p) == k


def test_k_rule_is_not_moved_by_binary_fractions() -> None:
    assert neighbours_wanted(0.7, k_max=10) == 3
    assert neighbours_wanted(0.8, k_max=10) == 2


@given(st.floats(0, 1))
def test_k_is_never_between_half_and_all(p: float) -> None:
    assert neighbours_wanted(p) in {0, 1, 2, 3, 4, 8}


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_k_rule_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        neighbours_wanted(p)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 9), st.integers(0, 99))
def test_streamed_search_equals_brute_force(n: int, k: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 5)).astype(np.float32)
    queries = rng.normal(size=(3, 5)).astype(np.float32)
    before, retrieve.BLOCK = retrieve.BLOCK, block
    try:
        rows, scores = Index(tuple(map(str, range(n))), vectors).nearest(queries, k)
    finally:
        retrieve.BLOCK = before
    expected = np.sort(queries @ vectors.T, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert all(len(set(row)) == min(k, n) for row in rows)


def unit(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def test_mistakes_ask_for_more_look_alikes_and_come_first() -> None:
    vectors = {f"u{i}": unit(i / 10) for i in range(16)} | {"wrong": unit(0.0), "sure": unit(1.5)}
    taken = look_alikes(["sure", "wrong"], {"wrong": 0.2, "sure": 0.95}, vectors, [f"u{i}" for i in range(16)])
    assert taken == [*(f"u{i}" for i in range(8)), "u15"]
    assert look_alikes(["wrong"], {"wrong": 0.2}, vectors, [f"u{i}" for i in range(16)], limit=3) == ["u0", "u1", "u2"]


def test_a_pair_is_never_its_own_example() -> None:
    vectors = {f"g{i}": unit(i / 10) for i in range(12)}
    near = nearest_gold(["g0"], vectors, list(vectors), k=8)
    assert near == {"g0": [f"g{i}" for i in range(1, 9)]}
    assert nearest_gold(["g0"], vectors, [], k=8) == {"g0": []}
