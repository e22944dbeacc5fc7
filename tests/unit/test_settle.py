"""Judgements to labels: order never matters, a person outranks a machine, problems never vote."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.curate.settle import majority, settle, settle_all
from assay.errors import AssayError
from assay.records import Judgement, Kind

KINDS: tuple[Kind, ...] = ("lead", "human", "oracle", "llm", "offline", "rm", "wild")
judgements = st.builds(
    lambda better, kind, by, rnd: Judgement(
        pair_id="p", better=better, problem="" if better else "tie", kind=kind, by=by, round=rnd
    ),
    better=st.sampled_from(["a", "b", None]),
    kind=st.sampled_from([k for k in KINDS if k != "rm"]),
    by=st.sampled_from(["x", "y", "z"]),
    rnd=st.integers(0, 3),
)


def says(kind: Kind, better: str | None, by: str = "someone", problem: str = "cannot decide") -> Judgement:
    return Judgement(pair_id="p", better=better, by=by, kind=kind, problem="" if better else problem)


@given(st.lists(judgements, min_size=1, max_size=8), st.integers(0, 1000))
def test_the_order_of_judgements_does_not_matter(rows: list[Judgement], seed: int) -> None:
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    assert settle(rows, "s") == settle(shuffled, "s")


@given(st.lists(judgements, min_size=1, max_size=8))
def test_swapping_what_was_shown_never_changes_the_label(rows: list[Judgement]) -> None:
    import dataclasses

    one = [dataclasses.replace(j, shown=("a", "b")) for j in rows]
    other = [dataclasses.replace(j, shown=("b", "a")) for j in rows]
    assert settle(one, "s") == settle(other, "s")


def test_a_person_outranks_any_number_of_machines() -> None:
    label = settle([says("human", "a"), *(says("llm", "b", by=f"m{i}") for i in range(9)), says("wild", "b")], "s")
    assert (label.chosen, label.tier, label.fate) == ("a", "gold", "relabelled")


def test_an_adjudication_outranks_the_people_it_decides_between() -> None:
    people = [says("human", "a", by="x"), says("human", "a", by="y"), says("human", "b", by="z")]
    label = settle([*people, says("lead", "b", by="lead"), says("wild", "b")], "s")
    assert (label.chosen, label.tier, label.by, label.reason) == (
        "b",
        "gold",
        ("lead",),
        "leads confirm the original label",
    )
    dropped = settle([*people, says("lead", None, by="lead")], "s")
    assert (dropped.chosen, dropped.reason) == (None, "leads did not decide: cannot decide")


def test_a_person_who_cannot_decide_drops_the_pair_for_good() -> None:
    label = settle([says("human", None), says("llm", "a"), says("wild", "a")], "s")
    assert (label.chosen, label.fate) == (None, "dropped")
    assert "cannot decide" in label.reason


@pytest.mark.parametrize("others", [1, 2, 9])
def test_one_person_who_cannot_decide_drops_the_pair_however_many_can(others: int) -> None:
    rows = [says("human", "a", by=f"p{i}") for i in range(others)] + [
        says("human", None, by="unsure"),
        says("llm", "a"),
    ]
    label = settle(rows, "s")
    assert (label.chosen, label.tier, label.reason) == (None, "gold", "people did not decide: cannot decide")
    led = settle([*rows, says("lead", "b", by="lead")], "s")
    assert (led.chosen, led.tier, led.by) == ("b", "gold", ("lead",))
    unsure = settle([*rows, says("lead", "b", by="lead"), says("lead", None, by="other lead")], "s")
    assert unsure.chosen is None


@pytest.mark.parametrize(
    ("votes", "chosen"),
    [
        ("a", "a"), ("aab", "a"), ("aat", "a"), ("aaabt", "a"), ("bbbatt", None),
        ("at", None), ("attt", None), ("aabt", None), ("ab", None), ("t", None),
    ],
)  # fmt: skip
def test_ties_count_against_a_majority(votes: str, chosen: str | None) -> None:
    """t: the person says that both are alike. Two of four are no majority, nor is one against three."""
    kinds: tuple[Kind, ...] = ("lead", "human", "oracle", "wild")
    for kind in kinds:
        rows = [says(kind, None if v == "t" else v, by=f"p{i}", problem="tie") for i, v in enumerate(votes)]
        label = settle(rows, "s")
        assert label.chosen == chosen, kind
        assert (label.fate == "dropped") == (chosen is None)


def test_what_was_skipped_or_failed_is_no_vote_against() -> None:
    assert settle([says("human", "a"), says("human", None, by="later", problem="skipped")], "s").chosen == "a"
    assert settle([says("oracle", None, problem="no truth"), says("human", "a")], "s").chosen == "a"
    assert settle([says("llm", "a"), says("llm", None, by="m2", problem="refused")], "s").chosen == "a"


def test_reward_models_alone_make_no_label() -> None:
    with pytest.raises(AssayError, match="pair p: only best-rm, gold-rm judged it, and a reward model confirms labels"):
        settle([says("rm", "a", by="gold-rm"), says("rm", "a", by="best-rm")], "s")
    assert settle([says("rm", "a", by="gold-rm"), says("wild", "b")], "s").chosen == "b"


def test_a_judge_outranks_the_source_and_the_source_stands_alone() -> None:
    assert settle([says("offline", "a"), says("wild", "a")], "s").fate == "kept"
    assert settle([says("offline", "a"), says("wild", "b")], "s").fate == "relabelled"
    alone = settle([says("wild", "b")], "s")
    assert (alone.tier, alone.fate, alone.chosen) == ("wild", "kept", "b")


def test_failed_judges_are_a_reason_not_a_vote() -> None:
    label = settle([says("llm", None, problem="refused"), says("llm", None, by="m2", problem="timeout")], "s")
    assert label.fate == "dropped"
    assert "refused" in label.reason
    assert "timeout" in label.reason
    assert majority([says("llm", None), says("llm", "a", by="m2")]) == "a"
    assert majority([says("llm", "b"), says("llm", "a", by="m2")]) is None


def test_settle_takes_one_pair_at_a_time() -> None:
    import dataclasses

    with pytest.raises(ValueError, match="exactly one pair"):
        settle([], "s")
    two = [says("wild", "a"), dataclasses.replace(says("wild", "a"), pair_id="q")]
    with pytest.raises(ValueError, match="exactly one pair"):
        settle(two, "s")
    assert [label.pair_id for label in settle_all(two, "s")] == ["p", "q"]


def voted(kind: Kind, better: str | None, confidence: float = 1.0, strength: float = 0.0, by: str = "x") -> Judgement:
    return Judgement(
        pair_id="p", better=better, by=by, kind=kind, problem="" if better else "tie", confidence=confidence,
        strength=strength,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "certainty", "margin"),
    [
        ([voted("human", "a")], 1.0, 0.0),
        ([voted("human", "a", by="x"), voted("human", "a", by="y"), voted("human", "b", by="z")], 2 / 3, 0.0),
        ([voted("llm", "a", 0.75)], 0.75, 0.0),
        ([voted("llm", "a", 0.9), voted("llm", "a", 0.8, by="y"), voted("llm", "b", 0.6, by="z")], 2.1 / 3, 0.0),
        ([voted("wild", "a", 0.55), voted("wild", "a", 0.55, by="y"), voted("wild", "b", by="z")], 0.5, 0.0),
        ([voted("wild", "a", by="x"), voted("wild", "a", by="y"), voted("wild", None, by="z")], 2.5 / 3, 0.0),
        ([voted("wild", "a", strength=2.0)], 1.0, 2.0),
        (
            [voted("wild", "a", strength=2.0, by=b) for b in "xy"] + [voted("wild", "b", strength=1.0, by="z")],
            2 / 3,
            1.0,
        ),
        (
            [voted("human", "a"), voted("wild", "a", 0.5, strength=1.5)],
            1.0,
            1.5,
        ),  # people confirm: the source's strength
        (
            [voted("human", "b"), voted("wild", "a", strength=1.5)],
            1.0,
            0.0,
        ),  # people turn it round: it spoke for the other
        (
            [voted("human", "a", strength=0.5), voted("wild", "a", strength=9.0)],
            1.0,
            0.5,
        ),  # the deciders' own comes first
    ],
)
def test_certainty_and_margin_by_hand(rows: list[Judgement], certainty: float, margin: float) -> None:
    label = settle(rows, "s")
    assert label.chosen is not None
    assert (label.certainty, label.margin) == (pytest.approx(certainty), pytest.approx(margin))
