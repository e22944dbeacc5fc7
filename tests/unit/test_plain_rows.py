"""The faster ways of reading a row give exactly what the general ones do."""

import json
import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.curate.columns import SCHEMA, Columns
from assay.curate.layouts import named
from assay.curate.pictures import keeper
from assay.curate.plain import PlainRows
from assay.curate.preferred import Preferred
from assay.curate.reading import Read, readings
from assay.curate.spill import trouble
from assay.curate.texts import Cell, Flaw, _json_line, _quickly
from assay.images import ImageStore
from assay.records import Message, Response, digest, messages_id

LAYOUT = named("chosen-rejected")
LONGEST = 40
ANY = st.text(st.characters(exclude_categories=()), max_size=8)  # halves of surrogate pairs too
PLAIN = ("yes", "no", " yes", "no\n", "a  b", "a\tb c", "é", "日本", "a\n\nb", "q", "what is it?", "x" * 40)
ODD = (
    "", " ", "\n", "\0", "x\0", "\ud800", "<image>", "<image>\nwhat", "a <image> b", "[1]", '{"role": "user"}',
    '[{"role": "user", "content": "q"}]', "[INST] q", " <|im_start|>user", "Human: a\n\nAssistant: b", "a\n\nAssistant: b",
    "\n\nHuman: a\n\nAssistant: b", "q\n<extra_id_1>Assistant\nr", "x" * 41, "<b>", "Assistant: what", "<s> [INST]",
    "\u2028q", "\x1fq", None, 3,
)  # fmt: skip
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}, {"role": "user", "content": "a  b"}]
BESIDE = (
    "question", "context", "history", "input", "instruction", "messages", "system", "tools", "images", "weight", "margin",
    "score_chosen", "score_rejected", "response_a", "response_b", "completion", "documents", "responses", "fields",
    "full_conversation", "info", "rejected_response", "A", "B", "conversation",
)  # fmt: skip


def said(random: Random) -> Any:
    return random.choice(PLAIN) if random.random() < 0.85 else random.choice(ODD)


def turn(random: Random) -> Any:
    role = random.choice(
        ("user", "assistant", "system", "User", "human", "gpt", "tool", "function_call", "wizard", None)
    )
    kind = random.random()
    if kind < 0.8:
        return {"role": role, "content": said(random)}
    more = random.choice(({"weight": 0}, {"name": "x"}, {"images": ["x.png"]}, {}))
    return {"from": role, "value": said(random)} if kind < 0.9 else {"role": role, "content": [said(random)], **more}


def dialogue(random: Random) -> Any:
    odd = [turn(random)] if random.random() < 0.15 else []
    ends = {"role": random.choice(("assistant", "assistant", "gpt", "user")), "content": said(random)}
    return [*TURNS[: random.choice((1, 1, 3, 0, 2))], *odd, ends]


def value(random: Random) -> Any:
    """Of a field beside the prompt and the two responses."""
    return random.choice((
        None, "", "q", 1, 0.5, True, "x", float("nan"), [], {}, dialogue(random), said(random),
        {"type": "image", "url": "x.png"}, {"role": "user", "images": ["x.png"]}, [{"text": "q"}],
    ))  # fmt: skip


def row(random: Random) -> dict[str, Any]:
    side = random.choice((said, said, dialogue, dialogue, lambda r: r.choice((said, dialogue, value))(r)))
    made: dict[str, Any] = {"chosen": side(random), "rejected": side(random)}
    if random.random() < (0.9 if side is said else 0.5):
        made = {"prompt": random.choice((said, said, said, dialogue, value))(random), **made}
    for name in random.sample(("id", "meta", *BESIDE), random.choice((0, 0, 0, 1, 1, 2))):
        made[name] = value(random)
    return made


def general(row: dict[str, Any], tmp: Any) -> pa.Table | None:
    """What the general way makes of a row, where it makes a pair and nothing else."""
    found = list(readings([Cell(row=7, value=row)], LAYOUT, keep=keeper(ImageStore(tmp), tmp)))
    assert len(found) == 1
    assert isinstance(found[0], Read)
    made = found[0].made
    if len(made) != 1 or not isinstance(made[0], Preferred):
        return None
    said = [made[0].pair.prompt, *(r.messages for r in made[0].pair.responses)]
    if any(trouble(m.content, LONGEST) for turns in said for m in turns):
        return None
    columns = Columns()
    columns.add(made[0], 7, found[0].layout)
    return columns.taken()


def test_a_plain_row_is_what_the_general_way_makes_of_it(tmp_path: Path) -> None:
    random, kinds = Random(0), Counter[tuple[bool, type]]()
    for _ in range(8000):
        one, columns = row(random), Columns()
        taken = PlainRows(columns, LONGEST).taken(one, 7)
        kinds[taken, type(one["chosen"])] += 1
        if taken:
            expected = general(one, tmp_path)
            assert expected is not None, one
            assert columns.taken().equals(expected), one
    assert min(kinds[True, str], kinds[True, list], kinds[False, str], kinds[False, list]) > 200, kinds


def test_the_frequent_shapes_are_plain() -> None:
    q, a, b = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "b")))
    for one in (
        {"prompt": "q", "chosen": "a", "rejected": "b", "id": 3}, {"question": "q", "chosen": " a", "rejected": "b\n"},
        {"prompt": "q", "chosen": [q, a], "rejected": [q, b], "score_chosen": 8.5, "score_rejected": 2},
        {"chosen": [q, a, q, b], "rejected": [q, b]},
    ):  # fmt: skip
        columns = Columns()
        assert PlainRows(columns, LONGEST).taken(one, 1), one
        assert columns.taken().schema.equals(SCHEMA)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.integers(-(2**70), 2**70), st.floats(), ANY),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY, inner, max_size=3)),
    max_leaves=6,
)


def same(one: Any, other: Any) -> bool:
    """Equal, types and NaN included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@settings(max_examples=500, deadline=None)
@given(
    value=st.dictionaries(ANY, VALUES, max_size=4), ascii_=st.booleans(), end=st.sampled_from(["", " ", ",", "\t", "}"])
)
def test_the_faster_parser_reads_what_json_reads_or_leaves_it(value: dict[str, Any], ascii_: bool, end: str) -> None:
    line = (json.dumps(value, ensure_ascii=ascii_) + end).encode("utf-8", "surrogatepass")
    quick, general = _quickly(line), list(_json_line(line, 1))
    if quick is not None:
        assert len(general) == 1
        assert isinstance(general[0], Cell)
        assert same(quick, general[0].value)


def test_what_the_faster_parser_must_leave() -> None:
    for line in (
        '{"a": 123456789012345678901}',
        '{"a": [1e19]}',
        '{"a": NaN}',
        '{"a": "\\ud800"}',
        ' {"a": 1}',
        '{"a": 1}{"a": 2}',
        "[1]",
    ):
        assert _quickly(line.encode()) is None, line
    assert _quickly(b'{"a": 1, "b": 2, "a": 3}') == {"a": 3, "b": 2}
    (flaw,) = _json_line(b"\xff", 3)
    assert isinstance(flaw, Flaw)


@settings(max_examples=500, deadline=None)
@given(said=st.lists(st.builds(
    Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=ANY,
    images=st.lists(ANY, max_size=2).map(tuple), reasoning=ANY, tool_calls=ANY, tool_call_id=ANY, name=ANY, tools=ANY,
), max_size=3))  # fmt: skip
def test_the_id_of_messages_is_the_digest_of_their_canonical_form(said: list[Message]) -> None:
    assert messages_id(tuple(said)) == digest([m.canonical() for m in said])
    response = Response(messages=(*said, Message(role="assistant", content="x")))
    assert response.id == digest([m.canonical() for m in response.messages])
