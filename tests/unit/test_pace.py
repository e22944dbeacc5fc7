"""How many pairs are left for a person: those with known answers among them, so that nothing tells them apart."""

import pytest

from assay.web.pace import Pace, coming, duration


def simulated(real: int, traps: int, done: int, every: int) -> int:
    """As the queue gives them out (`seats.next_pair`), pair by pair."""
    met = 0
    while True:
        if every and traps and done % every == every - 1:
            traps, met = traps - 1, met + 1
        elif real:
            real -= 1
        else:
            return met
        done += 1


@pytest.mark.parametrize("every", [0, 1, 2, 3, 10])
def test_known_answers_come_as_the_queue_gives_them(every: int) -> None:
    for real in range(7):
        for traps in range(5):
            for done in range(6):
                assert coming(real, traps, done, every) == simulated(real, traps, done, every), (real, traps, done)


def test_what_is_left_falls_by_one_with_each_answer_whatever_it_was() -> None:
    real, traps, done, every = 12, 3, 0, 4
    left = [real + coming(real, traps, done, every)]
    while real:
        if done % every == every - 1 and traps:
            traps -= 1
        else:
            real -= 1
        done += 1
        left.append(real + coming(real, traps, done, every))
    assert left == list(range(left[0], left[-1] - 1, -1))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (38, "38 s"), (600, "10 min"), (7500, "2 h 05 min"), (5340, "89 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_no_pace_is_made_up() -> None:
    assert Pace(judged=1, left=4, seconds=None).words == ""
    assert Pace(judged=9, left=0, seconds=30.0).words == ""
    assert Pace(judged=9, left=4, seconds=30.0).words == "about 30\xa0s each, 2\xa0min to go at most"
