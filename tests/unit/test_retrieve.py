"""The k rule at its boundaries, and exact nearest neighbours against a brute-force reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.curate import retrieve
from assay.curate.retrieve import by_need, merged, nearest, nearest_gold, neighbours_wanted, taken


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


def units(rng: np.random.Generator, n: int, d: int = 5) -> np.ndarray:
    x = rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 9), st.integers(0, 99), st.booleans())
def test_streamed_search_is_exact_whatever_the_blocks(n: int, k: int, block: int, seed: int, copies: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries = units(rng, n), units(rng, 3)
    if copies:  # equal vectors: ties, in the order of the rows
        vectors = vectors[rng.integers(0, max(1, n // 3), n)]
    before, retrieve.BLOCK = retrieve.BLOCK, block
    try:
        rows, scores = nearest(queries, vectors, k)
    finally:
        retrieve.BLOCK = before
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    assert (rows == expected).all()
    assert (scores == np.take_along_axis(exact, expected, 1)).all()


def test_no_order_of_adding_up_changes_a_cosine_of_half_precision_vectors() -> None:
    """A product of two float16 numbers, and a sum of such of unit vectors, is a float64 without rounding."""
    rng = np.random.default_rng(0)
    one, other = (units(rng, 200, 1024).astype(np.float64) for _ in range(2))
    for _ in range(5):
        order = rng.permutation(1024)
        assert (one[:, order] @ other[:, order].T == one @ other.T).all()


def unit(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def test_mistakes_ask_for_more_look_alikes_and_come_first() -> None:
    pool = [f"u{i}" for i in range(16)]
    p, gold = {"wrong": 0.2, "sure": 0.95}, {"wrong": unit(0.0), "sure": unit(1.5)}
    order = by_need(p, ["sure", "wrong"])
    assert order == ["wrong", "sure"]
    rows, _ = nearest(np.stack([gold[g] for g in order]), np.stack([unit(i / 10) for i in range(16)]), 8)
    ids, wanted = [[pool[r] for r in row] for row in rows], [neighbours_wanted(p[g]) for g in order]
    assert taken(ids, wanted, 100) == [*(f"u{i}" for i in range(8)), "u15"]
    assert taken(ids, wanted, 3) == ["u0", "u1", "u2"]


def test_lists_of_shards_are_merged_as_one_search_finds_them() -> None:
    rng = np.random.default_rng(1)
    vectors, queries = units(rng, 90), units(rng, 7)
    whole = nearest(queries, vectors, 6)
    one, other = nearest(queries, vectors[:50], 6), nearest(queries, vectors[50:], 6)
    rows, scores = merged(one, (other[0] + 50, other[1]), 6)
    assert (rows == whole[0]).all()
    assert (scores == whole[1]).all()


def test_a_pair_is_never_its_own_example() -> None:
    gold = np.stack([unit(i / 10) for i in range(12)])
    questions = [f"g{i}" for i in range(12)]
    assert nearest_gold(gold[:1], gold, 8, ["g0"], questions) == [list(range(1, 9))]
    assert nearest_gold(gold[:1], gold[:0], 8, ["g0"], []) == [[]]
    pairs = [f"g{i // 2}" for i in range(12)]
    assert nearest_gold(gold[:1], gold, 3, ["g0"], pairs) == [[2, 3, 4]], "nor is another pair of its question"
