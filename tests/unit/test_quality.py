"""What the lead is told about annotators: the numbers, and that flags are raised for reasons only."""

import random

import pytest
from scipy.stats import binom

from assay.records import Judgement
from assay.statistics import binomial_tail
from assay.web.quality import Work, annotators


def work(n: int, side: int | None, by: str = "ann", *, seconds: float = 60.0, **more: object) -> Work:
    """`side`: 0 is the response shown first, 1 the second, None cannot decide."""
    shown = (f"{n}a", f"{n}b")
    better = None if side is None else shown[side]
    rationale = str(more.pop("rationale", ""))
    judgement = Judgement(pair_id=str(n), better=better, by=by, kind="human", shown=shown, seconds=seconds,
                          rationale=rationale, problem="" if better else "cannot decide")  # fmt: skip
    hint, right = (None if (s := more.pop(k, None)) is None else shown[s] for k in ("hint", "right"))  # type: ignore[index]
    return Work(judgement=judgement, words=300, hint=hint, right=right, **more)  # type: ignore[arg-type]


def test_the_numbers() -> None:
    works = [
        work(0, 0, seconds=10, right=0, panels=("search", "python")), work(1, 1, seconds=20, right=0, panels=("search",)),
        work(2, None, seconds=40, hint=1), work(3, 1, seconds=30, hint=1, rationale="because"), work(4, 0, "bob"),
    ]  # fmt: skip
    ann, bob = annotators(works)
    assert (ann.name, ann.judged, ann.undecided, ann.seconds) == ("ann", 4, 1, 25.0)
    assert (ann.traps, ann.trap_accuracy, ann.first, ann.followed) == (2, 0.5, pytest.approx(1 / 3), 1.0)
    assert (ann.with_rationale, ann.panels, ann.flags) == (0.25, {"search": 2, "python": 1}, ())
    assert ann.trap_interval is not None
    assert ann.trap_interval[0] < 0.5 < ann.trap_interval[1]
    assert (bob.trap_accuracy, bob.followed) == (None, None)
    assert annotators([]) == []


def honest(seed: int) -> list[Work]:
    """Sixty pairs: sides even, the machine right as often as people agree with it (0.85), traps at 0.95, a minute each."""
    rng = random.Random(seed)
    works = []
    for n in range(60):
        side = rng.randint(0, 1)
        hint = side if rng.random() < 0.85 else 1 - side
        right = (side if rng.random() < 0.95 else 1 - side) if n % 6 == 0 else None
        works.append(work(n, side, seconds=rng.uniform(30, 120), hint=hint, right=right))
    return works


def test_honest_people_are_rarely_flagged() -> None:
    flagged = sum(bool(annotators(honest(seed))[0].flags) for seed in range(200))
    assert flagged <= 6


@pytest.mark.parametrize(
    ("works", "flag"),
    [
        ([work(n, n % 2, seconds=2) for n in range(20)], "answered 20 of 20 pairs faster than they can be read"),
        ([work(n, 0) for n in range(20)], "chose the first response in 20 of 20 decisions"),
        ([work(n, n % 2, right=1 - n % 2) for n in range(6)], "missed 6 of 6 traps"),
        (
            [work(n, n % 2, hint=n % 2) for n in range(40)],
            "agreed with the machine in 40 of 40 decisions, 40 without a reason",
        ),
    ],
)
def test_each_pattern_is_flagged_alone(works: list[Work], flag: str) -> None:
    (row,) = annotators(works)
    assert row.flags == (flag,)


def test_who_gives_reasons_may_agree_with_the_machine() -> None:
    (row,) = annotators([work(n, n % 2, hint=n % 2, rationale="it adds up") for n in range(40)])
    assert row.flags == ()


def test_the_binomial_tail() -> None:
    for k, n, p in ((3, 10, 0.5), (0, 5, 0.3), (60, 60, 0.9), (7, 7, 0.01), (11, 10, 0.5), (2_600, 5_000, 0.5)):
        assert binomial_tail(k, n, p) == pytest.approx(binom.sf(k - 1, n, p))


def test_who_has_judged_thousands_of_pairs_has_a_row() -> None:
    """Binomial coefficients of more than 1,030 decisions are no floats: the lead's page ended there."""
    (row,) = annotators([work(n, n % 2, hint=n % 2, rationale="it adds up") for n in range(1_200)])
    assert (row.judged, row.first, row.flags) == (1_200, 0.5, ())
