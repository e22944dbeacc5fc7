"""Identity: a pair is its content, whatever the order in which its responses come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.records import Judgement, Label, Message, Pair, Response, user

texts = st.text(min_size=1, max_size=40)


@given(prompt=texts, one=texts, other=texts)
def test_swapping_the_responses_changes_nothing(prompt: str, one: str, other: str) -> None:
    if one == other:
        return
    a, b = Response.of(one), Response.of(other)
    pair, swapped = Pair.of((user(prompt),), a, b), Pair.of((user(prompt),), b, a)
    assert pair == swapped
    assert pair.id == swapped.id
    assert pair.preferring(a.id) == swapped.preferring(a.id)
    assert pair.preferring(a.id).chosen == a
    assert pair.preferring(a.id).rejected == b


@given(prompt=texts, one=texts, other=texts, image=texts)
def test_every_part_of_the_content_is_in_the_id(prompt: str, one: str, other: str, image: str) -> None:
    if one == other:
        return
    pair = Pair.of((user(prompt),), Response.of(one), Response.of(other))
    longer = Pair.of((user(prompt + "x"),), Response.of(one), Response.of(other))
    pictured = Pair.of((Message(role="user", content=prompt, images=(image,)),), Response.of(one), Response.of(other))
    assert len({pair.id, longer.id, pictured.id}) == 3


def test_the_id_is_the_same_on_every_machine() -> None:
    pair = Pair.of((user("Say hi"),), Response.of("hi"), Response.of("no"))
    assert pair.id == "628f9c91f83e65cd5ae3aa2b76630563"


def test_impossible_records_are_refused() -> None:
    a, b = sorted((Response.of("a"), Response.of("b")), key=lambda r: r.id)
    with pytest.raises(ValueError, match="identical"):
        Pair.of((user("x"),), a, a)
    with pytest.raises(ValueError, match=r"Pair\.of"):
        Pair(prompt=(user("x"),), responses=(b, a))
    with pytest.raises(ValueError, match="assistant"):
        Response(messages=(user("x"),))
    with pytest.raises(ValueError, match="problem"):
        Judgement(pair_id="p", better=None, by="x", kind="llm")
    with pytest.raises(ValueError, match="problem"):
        Judgement(pair_id="p", better="r", by="x", kind="llm", problem="tie")
    with pytest.raises(ValueError, match="dropped"):
        Label(pair_id="p", chosen="r", tier="gold", fate="dropped", reason="", by=(), stage="s")
