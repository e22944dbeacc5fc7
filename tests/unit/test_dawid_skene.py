"""Dawid-Skene against one step by hand, against a planted truth, and what known items and biased workers do to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.curate.dawid_skene import dawid_skene


def test_one_step_by_hand() -> None:
    """Two items, three workers. Item 0: votes 0 0 1; item 1: votes 1 1 1. Start: shares (2/3, 1/3) and (0, 1).

    Prior: (1/3, 2/3). Worker 0 (and 1): of class 0 weight 2/3, all voted 0; of class 1 weight 1/3 voted 0 and 1 voted 1:
    rows (1, 0) and (1/4, 3/4). Worker 2: of class 0 weight 2/3 voted 1: (0, 1); of class 1 weight 4/3 voted 1: (0, 1).
    Item 0: 1/3 * 1 * 1 * 1 against 2/3 * 1/4 * 1/4 * 1: 1/3 against 1/24, so 8/9. Item 1: 0 against 2/3 * 9/16: 1.
    Likelihood: ln(1/3 + 1/24) + ln(3/8).
    """
    items, workers, votes = [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 1, 1]
    found = dawid_skene(items, workers, votes, classes=2, smoothing=0.0, steps=1)
    assert found.posterior == pytest.approx(np.array([[8 / 9, 1 / 9], [0, 1]]))
    assert found.prior == pytest.approx([1 / 3, 2 / 3])
    assert found.confusion[0] == pytest.approx(np.array([[1, 0], [1 / 4, 3 / 4]]))
    assert found.confusion[2] == pytest.approx(np.array([[0, 1], [0, 1]]))
    assert found.log_likelihood == pytest.approx((np.log(3 / 8) + np.log(3 / 8),))


def test_smoothing_by_hand() -> None:
    """One pseudo-vote, half for each class: worker 2's row of class 0 becomes (1/2, 2/3 + 1/2) / (2/3 + 1)."""
    items, workers, votes = [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 1, 1]
    found = dawid_skene(items, workers, votes, classes=2, smoothing=1.0, steps=1)
    assert found.confusion[2, 0] == pytest.approx([0.3, 0.7])


def planted(
    accuracy: list[float], items: int, seed: int, lean: float = 0.0
) -> tuple[list[int], list[int], list[int], np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, items)
    rows = []
    for worker, right in enumerate(accuracy):
        for item in range(items):
            vote = truth[item] if rng.random() < right else 1 - truth[item]
            if worker == 0 and rng.random() < lean:
                vote = 0
            rows.append((item, worker, int(vote)))
    a, b, c = (list(x) for x in zip(*rows, strict=True))
    return a, b, c, truth


def test_a_planted_truth_is_found_and_so_are_the_workers() -> None:
    accuracy = [0.9, 0.75, 0.7, 0.6, 0.6]
    a, b, c, truth = planted(accuracy, 2_000, seed=0)
    found = dawid_skene(a, b, c, classes=2)
    votes = np.zeros((len(truth), 2))
    np.add.at(votes, (a, c), 1)
    majority = (votes.argmax(1) == truth).mean()
    right = (found.posterior.argmax(1) == truth).mean()
    assert right > majority + 0.04
    assert right > 0.88
    diagonal = found.confusion.diagonal(axis1=1, axis2=2).mean(1)
    assert diagonal == pytest.approx(accuracy, abs=0.04)


def test_a_worker_that_leans_to_one_class_is_seen_through() -> None:
    a, b, c, _ = planted([0.8, 0.8, 0.8], 3_000, seed=1, lean=0.5)
    found = dawid_skene(a, b, c, classes=2)
    assert found.confusion[0, 0, 0] == pytest.approx(0.9, abs=0.04)
    assert found.confusion[0, 1, 1] == pytest.approx(0.4, abs=0.04)


def test_known_items_turn_round_what_votes_alone_get_wrong() -> None:
    """Workers that are mostly wrong: without gold the majority is believed, with gold they are read the other way round."""
    a, b, c, truth = planted([0.2, 0.25, 0.3], 600, seed=2)
    blind = dawid_skene(a, b, c, classes=2).posterior.argmax(1)
    guided = dawid_skene(a, b, c, classes=2, known={i: int(truth[i]) for i in range(200)}).posterior.argmax(1)
    assert (blind == truth)[200:].mean() < 0.2
    assert (guided == truth)[200:].mean() > 0.8
    assert (guided == truth)[:200].all()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=60))
def test_em_never_loses_likelihood_and_posteriors_are_shares(rows: list[tuple[int, int, int]]) -> None:
    a, b, c = (list(x) for x in zip(*rows, strict=True))
    found = dawid_skene(a, b, c, classes=3, smoothing=0.0, steps=60)
    assert found.posterior.sum(axis=1) == pytest.approx(1.0)
    steps = np.diff(found.log_likelihood)
    assert (steps > -1e-7).all()


def test_no_votes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one vote"):
        dawid_skene([], [], [], classes=2)
