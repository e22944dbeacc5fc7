"""The faster ways of reading a row give exactly what the general ones do."""

import json
import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import native
from assay.curate.pool import add
from assay.curate.spill import trouble
from assay.formats import content_ids
from assay.formats.columns import SCHEMA, Columns
from assay.formats.layouts import Layout, named
from assay.formats.pictures import keeper
from assay.formats.plain import PlainRows
from assay.formats.preferred import Preferred
from assay.formats.reading import Read, readings
from assay.formats.rows import Row, RowError
from assay.formats.texts import Cell, Flaw, _json_line, quickly
from assay.images import ImageStore
from assay.records import Message, Response, Role, digest, messages_id, question_id

LONGEST, ROWS = 40, 3000
ANY = st.text(st.characters(exclude_categories=()), max_size=8)  # halves of surrogate pairs too
PLAIN = ("yes", "no", " yes", "no\n", "a  b", "a\tb c", "é", "日本", "a\n\nb", "q", "what is it?", "x" * 40)
TALKS = (
    "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c", "Human: a\n\nAssistant: b\n\nHuman: d",
    "\n\nHuman: a\n\nAssistant:", "## Human: a\n\n## Assistant: b", "System: s\n\nHuman: a\n \nAssistant: b",
    "Human: a\nAssistant: b", "Human: a\n\n\n\nAssistant: b\n\nc", "Human: a b\n\nAssistant: c", "User: a\n\nAssistant: b",
)  # fmt: skip
ODD = (
    "", " ", "\n", "\0", "x\0", "\ud800", "<image>", "<image>\nwhat", "a <image> b", "[1]", '{"role": "user"}',
    '[{"role": "user", "content": "q"}]', "[INST] q", " <|im_start|>user", "a\n\nAssistant: b", "Assistant: what",
    "q\n<extra_id_1>Assistant\nr", "x" * 41, "<b>", "<s> [INST]", "\u2028q", "\x1fq", "Human: \n\nAssistant: b",
    "Human: <image>\n\nAssistant: b", "A", "model_b", "response_a", '["yes"]', None, 3, True, 0.5,
)  # fmt: skip
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}, {"role": "user", "content": "a  b"}]
BESIDE = (
    "question", "context", "history", "input", "instruction", "messages", "system", "system_prompt", "tools", "images",
    "weight", "margin", "score_chosen", "score_rejected", "response_a", "response_b", "completion", "documents", "responses",
    "fields", "full_conversation", "info", "rejected_response", "A", "B", "conversation", "turn", "model_a", "model_b",
    "label", "winner", "votes", "prompt", "chosen", "rejected", "scores", "ranks", "metadata",
)  # fmt: skip
LAYOUTS = (
    "chosen-rejected", "chosen-rejected", "labelled", "labelled:0/1", "labelled:1/5", "voted", "voted:1/2/0", "scored-pair",
    "scored-pair:low", "scored-list", "scored-list:low", "ranked-list:first", "ranked-list:order", "indexed:0",
)  # fmt: skip


def said(random: Random) -> Any:
    kind = random.random()
    return random.choice(PLAIN if kind < 0.85 else TALKS if kind < 0.9 else ODD)


def talk(random: Random) -> Any:
    return random.choice(TALKS) if random.random() < 0.9 else said(random)


def turn(random: Random) -> Any:
    role = random.choice(
        ("user", "assistant", "system", "User", "human", "gpt", "tool", "function_call", "wizard", None)
    )
    kind = random.random()
    if kind < 0.7:
        return {"role": role, "content": said(random)}
    more = random.choice((
        {"weight": 0}, {"name": "x"}, {"images": ["x.png"]}, {}, {"id": 3}, {"loss": None}, {"meta": [1]}, {"value": "z"},
        {"tool_calls": []}, {"thinking": "hm"}, {"from": "user"}, {"weight": 1},
    ))  # fmt: skip
    if kind < 0.8:
        return {"from": role, "value": said(random), **more}
    return {"role": role, "content": said(random) if kind < 0.95 else [said(random)], **more}


def dialogue(random: Random) -> Any:
    odd = [turn(random)] if random.random() < 0.15 else []
    ends = {"role": random.choice(("assistant", "assistant", "gpt", "user")), "content": said(random)}
    more = [TURNS[2], {"role": "assistant", "content": said(random)}] if random.random() < 0.1 else []
    made = [*TURNS[: random.choice((1, 1, 3, 0, 0, 2))], *odd, ends, *more]
    return made[0] if len(made) == 1 and random.random() < 0.2 else made


def value(random: Random) -> Any:
    """Of a field beside the prompt and the responses."""
    return random.choice((
        None, "", "q", 1, 0.5, True, "x", float("nan"), [], {}, dialogue(random), said(random), {"kind": {"x": [1, None]}},
        {"type": "image", "url": "x.png"}, {"role": "user", "images": ["x.png"]}, [{"text": "q"}], ["a", "b"], [1, 2],
    ))  # fmt: skip


def number(random: Random) -> Any:
    return random.choice((0, 1, 2, 3, 3.5, -1, 5)) if random.random() < 0.9 else random.choice(
        (None, "2", True, float("nan"), float("inf"), "x", [1], 10**400)
    )  # fmt: skip


def word(random: Random) -> Any:
    return random.choice((
        "A", "b", "tie", "model_a", "model_b", "A>B", "a=b", "response_1", "yes", "q", 0, 1, 2, 4.5, "1", None, "", "maybe",
    ))  # fmt: skip


def row(random: Random, layout: str) -> dict[str, Any]:
    side = random.choice((said, said, dialogue, dialogue, talk, lambda r: r.choice((said, dialogue, talk, value))(r)))
    made: dict[str, Any] = {}
    if random.random() < (0.9 if side is said else 0.3 if side is talk else 0.5):
        made[random.choice(("prompt", "prompt", "instruction", "conversations"))] = random.choice(
            (said, said, said, dialogue, talk, value)
        )(random)
    elif random.random() < 0.5:
        made["instruction"], made["input"] = random.choices(
            ("", " ", "q", "what is it?", None, "\n\nHuman: a\n\n"), k=2
        )
    made |= responses(random, layout.partition(":")[0], side)
    for name in random.sample(("id", "meta", *BESIDE), random.choice((0, 0, 0, 0, 1, 1, 2))):
        made[name] = value(random)
    return made


def responses(random: Random, base: str, side: Any) -> dict[str, Any]:
    """The fields of a row's responses, and of what is said of them."""
    if base == "chosen-rejected":
        one = side(random)
        other = one if random.random() < 0.05 else side(random)
        if random.random() < 0.05:
            one = [side(random) for _ in range(random.randint(1, 3))]
        names = random.choice((("chosen", "rejected"), ("chosen", "rejected"), ("messages", "rejected_response")))
        return dict(zip(names, (one, other), strict=True))
    if base.endswith("-list") or base == "indexed":
        items = [side(random) for _ in range(random.choice((2, 2, 3, 4, 1)))]
        inside = random.random() < 0.4
        scores = [number(random) for _ in items]
        if base == "indexed":
            return {"responses": items, "choice": random.choice((0, 1, 2, "yes", "A", None))}
        if base == "ranked-list":
            scores = random.sample(range(len(items)), len(items)) if random.random() < 0.8 else scores
            rank = {"ranks": scores}
            return {"responses": items, **rank}
        if inside:
            return {"completions": [{"response": i, "score": s} for i, s in zip(items, scores, strict=True)]}
        return {"responses": items, "scores": scores}
    a, b = random.choice((
        ("response_a", "response_b"), ("conversation_a", "conversation_b"), ("response_1", "response_2"), ("A", "B"),
    ))  # fmt: skip
    one = side(random)
    two = {a: one, b: one if random.random() < 0.05 else side(random)}
    if base == "labelled":
        return {**two, random.choice(("winner", "label", "preference")): word(random)}
    if base == "voted":
        good = random.random() < 0.7
        votes = [random.choice(("a", "b", "tie")) if good else word(random) for _ in range(random.randint(1, 4))]
        return {**two, **random.choice(({"votes": votes}, {"votes_a": number(random), "votes_b": number(random)}))}
    return {**two, "score_a": number(random), "score_b": number(random)}


def general(row: dict[str, Any], layout: Layout, tmp: Any) -> pa.Table | RowError | None:
    """What the general way makes of a row, where it makes pairs and nothing else, or one error of the whole row."""
    found = list(readings([Cell(row=7, value=row)], layout, keep=keeper(ImageStore(tmp), tmp)))
    assert len(found) == 1
    assert isinstance(found[0], Read)
    made = found[0].made
    columns = Columns()
    if len(made) == 1 and isinstance(made[0], RowError):
        return made[0]
    for one in made:
        if not isinstance(one, Preferred):
            return None
        said = [one.pair.prompt, *(r.messages for r in one.pair.responses)]
        if any(trouble(m.content, LONGEST) for turns in said for m in turns):
            return None
        columns.add(one, 7, found[0].layout)
    return columns.taken()


def plainly(row: dict[str, Any], layout: Layout) -> pa.Table | RowError | None:
    """What the faster way makes of a row; None where it leaves it."""
    columns = Columns()
    refused: list[tuple[int, Row, RowError]] = []
    plain = PlainRows(columns, layout, LONGEST, lambda *told: refused.append(told))
    if not plain.taken(row, 7):
        assert not refused
        return None
    made = columns.taken()
    assert columns.ties == made["better"].null_count
    assert len(refused) == (made.num_rows == 0)
    assert all(number == 7 and seen is row for number, seen, _ in refused)
    return refused[0][2] if refused else made


@pytest.mark.parametrize("name", sorted(set(LAYOUTS)))
def test_a_plain_row_is_what_the_general_way_makes_of_it(name: str, tmp_path: Path) -> None:
    random, kinds, layout = Random(name), Counter[str](), named(name)
    for _ in range(ROWS):
        one = row(random, name)
        made = plainly(one, layout)
        kinds[type(made).__name__] += 1
        if made is None:
            continue
        expected = general(one, layout, tmp_path)
        if isinstance(made, RowError):
            assert isinstance(expected, RowError), one
            assert (made.field, made.reason) == (expected.field, expected.reason), one
        else:
            assert isinstance(expected, pa.Table), (one, expected)
            assert made.equals(expected), one
    assert min(kinds["Table"], kinds["NoneType"]) > ROWS // 20, kinds
    assert kinds["RowError"] or "-list" in name or "indexed" in name, kinds


def test_the_frequent_shapes_are_plain() -> None:
    q, a, b = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "b")))
    hh = "\n\nHuman: q\n\nAssistant: "
    for name, one in (
        ("chosen-rejected", {"prompt": "q", "chosen": "a", "rejected": "b", "id": 3}),
        ("chosen-rejected", {"question": "q", "chosen": " a", "rejected": "b\n", "system": "s"}),
        ("chosen-rejected", {"prompt": "q", "chosen": [q, a], "rejected": [q, b], "score_chosen": 8.5, "score_rejected": 2}),
        ("chosen-rejected", {"prompt": "q", "messages": [q, a], "chosen": [q, a], "rejected": [q, b], "prompt_id": "x"}),
        ("chosen-rejected", {"chosen": [q, a, q, b], "rejected": [q, b]}),
        ("chosen-rejected", {"prompt": [q], "chosen": [a], "rejected": [b], "score_chosen": 8, "score_rejected": 5}),
        ("chosen-rejected", {"chosen": hh + "a", "rejected": hh + "b"}),
        ("chosen-rejected", {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
                             "rejected": {"from": "gpt", "value": "b"}}),
        ("chosen-rejected", {"instruction": "q", "input": "x", "chosen": "a", "rejected": "b", "history": []}),
        ("chosen-rejected", {"messages": [q, a], "rejected_response": "b"}),
        ("chosen-rejected", {"prompt": "q", "chosen": ["a"], "rejected": ["b", "c"], "meta": {"x": [1]}}),
        ("labelled", {"conversation_a": [q, a], "conversation_b": [q, b], "winner": "model_a", "turn": 1, "language": "en"}),
        ("labelled:-3/3", {"context": [q], "response1": "a", "response2": "b", "overall_preference": -3}),
        ("labelled", {"prompt": "q", "response_a": "a", "response_b": "b", "label": "tie"}),
        ("voted", {"prompt": "q", "response_a": "a", "response_b": "b", "votes": ["a", "a", "b"]}),
        ("scored-pair", {"history": None, "question": "q", "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": -1.0}),
        ("scored-list", {"instruction": "q", "completions": [{"model": "m", "response": r, "overall_score": s}
                                                             for r, s in (("a", 9), ("b", 2), ("c", 5))]}),
        ("scored-list", {"text": [hh + "a", hh + "b"], "score": [1.0, 0.0]}),
        ("ranked-list", {"prompt": "q", "answers": [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}]}),
        ("indexed:0", {"prompt": "q", "responses": ["a", "b"], "chosen": 1}),
    ):  # fmt: skip
        made = plainly(one, named(name))
        assert isinstance(made, pa.Table), one
        assert made.schema.equals(SCHEMA)
    refused = plainly({"prompt": "q", "chosen": "a", "rejected": "a"}, named("chosen-rejected"))
    assert isinstance(refused, RowError)


def test_an_import_counts_the_ties_of_plain_rows_and_of_others(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{n}", "response_a": "a", "response_b": "b", "label": label}
        for n, label in enumerate(("tie", "A"))
    ]
    rows += [{**rows[0], "prompt": "q3", "tools": [{"name": "f"}]}, {**rows[0], "response_b": "a"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (file,) = add([str(tmp_path / "rows.jsonl")], tmp_path / "pool", say=lambda _: None).files
    assert (file.rows, file.pairs, file.ties) == (4, 3, 2)
    assert file.rejected == {"response_a/response_b hold the same response twice": 1}


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
    quick, general = quickly(line), list(_json_line(line, 1))
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
        assert quickly(line.encode()) is None, line
    assert quickly(b'{"a": 1, "b": 2, "a": 3}') == {"a": 3, "b": 2}
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


ESCAPED = 'ab \t\n\r\x0b\x0c\x1b\x1c\x1f\x7f"\\\b\x00é😀'
SPACES = "\x85\xa0\u1680\u180e\u2000\u200a\u200b\u2028\u202f\u205f\u3000"
TURN = st.tuples(
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.one_of(st.text(max_size=80), st.text(ESCAPED + SPACES, max_size=300)),
)


@settings(max_examples=300, deadline=None)
@given(pairs=st.lists(st.tuples(*[st.lists(TURN, min_size=1, max_size=3)] * 3), max_size=4))
def test_compiled_ids_are_those_of_records(pairs: list[tuple[list[tuple[Role, str]], ...]]) -> None:
    if native.library(content_ids._SOURCE) is None:
        pytest.skip("no compiler")
    lists = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    prompts = pa.array([[{"role": r, "content": c} for r, c in prompt] for prompt, _, _ in pairs], lists)
    answers = pa.array([[{"role": r, "content": c} for r, c in said] for _, *two in pairs for said in two], lists)
    for compiled in (True, False):
        made = content_ids.pair_ids(prompts, answers, compiled)
        for at, sides in enumerate(pairs):
            prompt, one, other = (tuple(Message(role=r, content=c) for r, c in turns) for turns in sides)
            first, second = sorted((messages_id(one), messages_id(other)))
            expected = (
                messages_id(prompt),
                question_id(prompt),
                first,
                second,
                digest([messages_id(prompt), first, second]),
            )
            columns = (made.prompt, made.question, made.first, made.second, made.pair)
            assert tuple(c[at].decode() for c in columns) == expected
            assert made.swapped[at] == (messages_id(one) > messages_id(other))


def test_compiled_ids_of_many_pairs_are_those_of_python() -> None:
    if native.library(content_ids._SOURCE) is None:
        pytest.skip("no compiler")
    random = Random(5)
    lists = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

    def turns() -> list[dict[str, str]]:
        length = random.choice((0, 1, 90, 105, 113, 114, 115, 128, 241, 242, 243, 500, 3000))
        content = "".join(random.choices('abcdefgh  \n"é', k=length))
        return [{"role": "user", "content": content}] * random.choice((0, 1, 1, 1, 2))

    prompts = pa.array([turns() for _ in range(200)], lists)
    answers = pa.array([turns() for _ in range(400)], lists)
    ours, theirs = (content_ids.pair_ids(prompts, answers, compiled) for compiled in (True, False))
    for name in content_ids.PairIds.__slots__:
        assert (getattr(ours, name) == getattr(theirs, name)).all(), name
