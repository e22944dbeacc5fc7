"""The numbers of `assay guidance` by hand: which votes are compared, and what a difference of arms is worth."""

import pytest

from assay.judges.guidance import _difference, _row
from assay.records import Judgement


def votes(pair: str, said: str, firsts: str, by: str = "llm:m") -> list[Judgement]:
    """A vote for each letter: a or b is named, the letter of `firsts` was shown first."""
    return [
        Judgement(
            pair_id=pair, better=f"{pair}{s}", by=by, kind="llm", shown=(f"{pair}{f}", f"{pair}{'ba'['ab'.index(f)]}")
        )
        for s, f in zip(said, firsts, strict=True)
    ]


def test_the_same_in_both_orders_is_of_votes_in_both_orders() -> None:
    """Three samples show a, b, a first; a judge that always names the first is never steady. Votes n and n + 1 of the list,
    two by two, were of the same order in a half of these pairs and made it 50%."""
    pairs = [f"p{n}" for n in range(8)]
    told = [v for p in pairs for v in votes(p, "aba", "aba")]
    gold, questions = {p: f"{p}a" for p in pairs}, {p: p for p in pairs}
    row = _row("none", [[]], [told], dict.fromkeys(pairs, 1.0), gold, questions)
    assert row.steady is not None
    assert row.first is not None
    assert (row.steady.value, row.steady.n, row.first.value) == (0.0, 16, 1.0)
    fair = [v for p in pairs for v in votes(p, "aaa", "aba")]
    steady = _row("none", [[]], [fair], dict.fromkeys(pairs, 1.0), gold, questions).steady
    assert steady is not None
    assert (steady.value, steady.n) == (1.0, 16)


def test_votes_of_two_seeds_or_judges_are_not_compared() -> None:
    one, other = votes("p", "a", "a"), votes("p", "b", "b")
    gold, questions = {"p": "pa"}, {"p": "q"}
    row = _row("random", [[]], [one, other], {"p": 1.0}, gold, questions)
    assert row.steady is not None
    assert row.steady.n == 0
    mixed = _row("random", [[]], [[*one, *votes("p", "b", "b", "llm:n")]], {"p": 1.0}, gold, questions).steady
    assert mixed is not None
    assert mixed.n == 0


def test_arms_that_never_differ_are_not_surely_equal() -> None:
    """Thirty questions, both arms right on all: 0.0 to 0.0 before; each may yet be ahead on one in nine."""
    pairs = [f"p{n}" for n in range(30)]
    credit = {"nearest": dict.fromkeys(pairs, 1.0), "none": dict.fromkeys(pairs, 1.0)}
    found = _difference("nearest", "none", credit, {p: p for p in pairs})
    assert (found.value, found.high, -found.low) == pytest.approx((0.0, 1 - 0.025 ** (1 / 30), 1 - 0.025 ** (1 / 30)))
