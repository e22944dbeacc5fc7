"""The check of the load test finds what it is there to find, in the database and in the run's file."""

from dataclasses import replace
from typing import Any

import pytest
from web_check import Given, Stored, check

GIVEN = [Given("s1", "p1", "ann", "1"), Given("s2", "p2", "ann", "tie"), Given("s3", "p2", "bob", "2 much")]
FINE = {"lost": 0, "double": 0, "beyond": 0, "unasked": 0}


def stored(submission: str, pair_id: str, by: str, side: int | None, strength: int, problem: str = "") -> Stored:
    return Stored(submission=submission, pair_id=pair_id, by=by, side=side, strength=strength, problem=problem,
                  better=None if side is None else f"r{side}", stands=True, trap=False)  # fmt: skip


STORED = [stored("s1", "p1", "ann", 0, 2), stored("s2", "p2", "ann", None, 0, "tie"), stored("s3", "p2", "bob", 1, 3)]
LINES: list[dict[str, Any]] = [
    {"pair_id": "p1", "by": "ann", "better": "r0", "problem": ""},
    {"pair_id": "p2", "by": "ann", "better": None, "problem": "tie"},
    {"pair_id": "p2", "by": "bob", "better": "r1", "problem": ""},
]


def found(
    given: list[Given] = GIVEN, kept: list[Stored] = STORED, lines: list[dict[str, Any]] = LINES, overlap: int = 2
) -> dict[str, int]:
    """What `check` finds beyond nothing."""
    return {k: n for k, n in check(given, kept, lines, overlap).items() if n}


def test_a_whole_run_is_fine() -> None:
    assert check(GIVEN, STORED, LINES, 2) == FINE
    assert found(lines=LINES[1:]) == {}  # p1 is not finished: one person of two
    undone = replace(stored("s0", "p1", "ann", 1, 2), stands=False)
    assert found(kept=[undone, *STORED]) == {}
    assert found(lines=[{**LINES[0], "better": "r1"}, {"withdrawn": "p1", "by": "ann"}, *LINES]) == {}


@pytest.mark.parametrize("n", range(3))
def test_a_removed_judgement_is_lost(n: int) -> None:
    assert found(kept=STORED[:n] + STORED[n + 1 :], lines=[])["lost"] >= 1
    assert found(kept=[replace(s, stands=n != m) for m, s in enumerate(STORED)], lines=[])["lost"] >= 1


@pytest.mark.parametrize("changed", [{"side": 1}, {"strength": 1}, {"side": None, "problem": "tie"}, {"by": "bob"}])
def test_a_judgement_that_says_something_else_is_lost(changed: dict[str, Any]) -> None:
    assert found(kept=[replace(STORED[0], **changed), *STORED[1:]])["lost"] >= 1


def test_a_line_that_is_not_in_the_file_is_lost() -> None:
    assert found(lines=LINES[:2]) == {"lost": 1}
    assert found(lines=[*LINES, {"withdrawn": "p2", "by": "bob"}]) == {"lost": 1}


def test_a_duplicated_judgement_is_double() -> None:
    assert found(kept=[*STORED, STORED[0]])["double"] >= 1
    assert found(kept=[*STORED, replace(STORED[0], submission="s9")])["double"] >= 1
    assert found(lines=[*LINES, LINES[0]]) == {"double": 1}


def test_too_many_people_at_a_pair_are_seen_and_traps_are_for_everybody() -> None:
    assert found(overlap=1) == {"beyond": 1}
    traps = [replace(s, trap=True) for s in STORED]
    assert found(kept=traps, lines=[], overlap=1) == {}


def test_an_answer_that_was_taken_back_and_still_stands_is_seen() -> None:
    assert found(given=GIVEN[1:]) == {"unasked": 1}
    assert found(given=GIVEN[1:], kept=STORED[1:]) == {"unasked": 1}  # in the file alone
