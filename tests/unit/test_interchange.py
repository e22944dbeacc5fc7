"""Pairs and judgements out and in again, and what other tools' files may hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.curate import argilla, label_studio
from assay.curate.entries import Entry
from assay.curate.interchange import Format, Imported, entries, read, write
from assay.curate.rules import rule_attributes
from assay.errors import AssayError
from assay.records import Case, Judgement, Message, Pair, Response, assistant, user

FORMATS: tuple[Format, ...] = ("jsonl", "parquet", "argilla", "label-studio")
OTHERS: tuple[Format, ...] = ("argilla", "label-studio")


def case(n: int, one: str = "", other: str = "") -> Case:
    prompt = (Message(role="system", content="Be kind."), user(f"Question {n}?"), assistant("Which?"), user("That."))
    pair = Pair.of(
        prompt, Response.of(one or f"first {n} é \u202e"), Response.of(other or f"second {n}\n```\ncode\n```")
    )
    return Case(pair=pair, attributes=rule_attributes(pair))


def human(c: Case, side: int | str, by: str = "ann", **more: Any) -> Judgement:
    """`side`: 0 or 1, the response in the pair's own order, or a problem."""
    ids = tuple(r.id for r in c.pair.responses)
    better = ids[side] if isinstance(side, int) else None
    return Judgement(
        pair_id=c.pair.id, better=better, problem="" if better else str(side), by=by, kind="human", shown=ids, **more
    )


CASES = [case(n) for n in range(6)]
GIVEN = [
    human(CASES[0], 0, "ann", rationale="because\nof é", seconds=12.5), human(CASES[0], 1, "bob"),
    human(CASES[1], "tie", "ann"),
    human(CASES[2], "cannot decide", "bob", rationale="no idea"),
    Judgement(pair_id=CASES[3].pair.id, better=CASES[3].pair.responses[1].id, by="llm:x", kind="llm",
              confidence=0.75, votes=4),
]  # fmt: skip


def there_and_back(tmp_path: Path, format: Format, known: list[Case], users: dict[str, str] | None = None) -> Imported:
    path = tmp_path / "file"
    assert write(path, format, entries(CASES, GIVEN)) == len(CASES)
    return read(path, format, cases=known, users=users)


def opinion(j: Judgement) -> tuple[object, ...]:
    return j.pair_id, j.better, j.problem, j.by, j.kind


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("known", [CASES, []])
def test_round_trip(tmp_path: Path, format: Format, known: list[Case]) -> None:
    users = {argilla.user_id(name): name for name in ("ann", "bob")}
    back = there_and_back(tmp_path, format, known, users)
    assert back.problems == ()
    assert [e.pair for e in back.entries] == [c.pair for c in CASES]
    assert [e.attributes for e in back.entries] == [c.attributes for c in CASES]
    assert sorted(map(str, map(opinion, back.judgements))) == sorted(map(str, map(opinion, GIVEN)))
    assert {j.rationale for j in back.judgements} == {"because\nof é", "", "no idea"}
    for entry in back.entries:
        assert set(entry.shown) == {r.id for r in entry.pair.responses}
        assert entry.shown in [e.shown for e in entries(CASES) if e.pair == entry.pair]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_our_own_formats_keep_everything(tmp_path: Path, format: Format) -> None:
    assert there_and_back(tmp_path, format, []).judgements == GIVEN


def test_what_the_others_keep(tmp_path: Path) -> None:
    back = there_and_back(tmp_path, "label-studio", CASES)
    assert max(j.seconds for j in back.judgements) == 12.5
    assert [j.confidence for j in back.judgements if j.kind == "llm"] == [0.75]
    back = there_and_back(tmp_path, "argilla", CASES)
    assert {j.by for j in back.judgements if j.kind == "human"} == {argilla.user_id("ann"), argilla.user_id("bob")}


def test_sides_are_random_and_do_not_matter(tmp_path: Path) -> None:
    many = [case(n) for n in range(200)]
    shown = [e.shown[0] == e.pair.responses[0].id for e in entries(many)]
    assert 70 < sum(shown) < 130
    given = [human(c, 0) for c in many]
    for format in OTHERS:
        path = tmp_path / format
        write(path, format, entries(many, given))
        assert {(j.pair_id, j.better) for j in read(path, format).judgements} == {(j.pair_id, j.better) for j in given}


@pytest.mark.parametrize("format", OTHERS)
def test_a_response_of_several_turns_needs_its_pair_to_be_known(tmp_path: Path, format: Format) -> None:
    longer = Response(messages=(assistant("a"), user("b"), assistant("c")))
    pair = Pair.of((user("q"),), longer, Response.of("d"))
    both = [Case(pair=pair, attributes=rule_attributes(pair))]
    write(tmp_path / "f", format, entries(both, [human(both[0], 1)]))
    assert read(tmp_path / "f", format, cases=both).judgements[0].better == pair.responses[1].id
    (problem,) = read(tmp_path / "f", format).problems
    assert "row 1: pair" in problem
    assert "is not known here" in problem


@pytest.mark.parametrize("format", OTHERS)
def test_changed_texts_are_noticed(tmp_path: Path, format: Format) -> None:
    path = tmp_path / "f"
    write(path, format, entries(CASES))
    path.write_text(path.read_text().replace("Question 3?", "Question 33?"))
    back = read(path, format)
    assert len(back.entries) == 5
    assert "row 4" in back.problems[0]


def test_an_export_of_label_studio_itself(tmp_path: Path) -> None:
    """Its template's data names, an annotator's id, one with an email, a skipped task, and an empty result."""
    pick = {"id": "Xy1", "from_name": "pw", "to_name": "text1,text2", "type": "pairwise", "origin": "manual"}
    tasks = [
        {"id": 7, "data": {"prompt": "Q?", "text1": "left text", "text2": "right text"}, "meta": {}, "predictions": [],
         "annotations": [
             {"id": 1, "completed_by": 3, "lead_time": 8.25, "was_cancelled": False,
              "result": [{**pick, "value": {"selected": "right"}}]},
             {"id": 2, "completed_by": {"id": 4, "email": "bo@x.org"}, "result": [{**pick, "value": {"selected": "left"}}]},
             {"id": 3, "completed_by": 5, "was_cancelled": True, "result": []},
             {"id": 4, "completed_by": 6, "was_cancelled": False, "result": []}]},
    ]  # fmt: skip
    (tmp_path / "f").write_text(json.dumps(tasks))
    back = read(tmp_path / "f", "label-studio", users={"3": "ann"})
    pair = Pair.of((user("Q?"),), Response.of("left text"), Response.of("right text"))
    ann, bo = back.judgements
    assert (ann.by, ann.better, ann.seconds) == ("ann", Response.of("right text").id, 8.25)
    assert (bo.by, bo.better) == ("bo@x.org", Response.of("left text").id)
    assert ann.shown == (Response.of("left text").id, Response.of("right text").id)
    assert back.entries[0].pair == pair
    assert back.problems == ("row 1: an annotation says no side",)


def test_an_export_of_argilla_itself(tmp_path: Path) -> None:
    records = [
        {"id": "r1", "fields": {"prompt": "Q?", "response_1": "A", "response_2": "B"}, "metadata": {}, "vectors": {},
         "suggestions": {"better": {"value": "response_2", "score": None, "agent": "gpt"}}, "_server_id": "s",
         "responses": {"better": [{"value": "response_1", "user_id": "u1"},
                                  {"value": "tie", "user_id": "u2", "status": "submitted"},
                                  {"value": None, "user_id": "u3", "status": "discarded"},
                                  {"value": "response_1", "user_id": "u4", "status": "draft"},
                                  {"value": "good", "user_id": "u5"}]}},
    ]  # fmt: skip
    (tmp_path / "f").write_text(json.dumps(records))
    back = read(tmp_path / "f", "argilla", users={"u1": "ann"})
    found = {j.by: j.better or j.problem for j in back.judgements}
    a, b = Response.of("A").id, Response.of("B").id
    assert found == {"ann": a, "u2": "tie", "u3": "cannot decide", "gpt": b}
    assert back.problems == ("row 1: the answer 'good' is none of response_1, response_2, tie, cannot decide",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["data", "fields", "metadata", "annotations", "predictions", "responses", "suggestions", "better",
                         "result", "type", "value", "prompt", "response_1", "response_2", "pair_id", "pair", "shown",
                         "judgements", "completed_by", "meta", "role", "content", "rationale"]), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=200)
@given(st.lists(JSON, max_size=3))
def test_no_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("f")
    (folder / "list").write_text(json.dumps(rows))
    (folder / "lines").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for format in OTHERS:
        back = read(folder / "list", format)
        assert len(back.entries) + len({p.split(":")[0] for p in back.problems}) >= len(rows)
    assert len(read(folder / "lines", "jsonl", cases=CASES).problems) >= 0


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("content", ["", "{", "{}", "PAR1"])
def test_a_file_of_another_format_is_explained(tmp_path: Path, format: Format, content: str) -> None:
    (tmp_path / "f").write_text(content)
    if format == "jsonl":
        assert not read(tmp_path / "f", format).entries
        return
    with pytest.raises(AssayError, match=r"not a (file|list) of"):
        read(tmp_path / "f", format)
    with pytest.raises(AssayError, match="no such file"):
        read(tmp_path / "none", format)


def test_a_file_of_plain_judgements_is_read_too(tmp_path: Path) -> None:
    from assay.tables import plain

    rows = [plain(GIVEN[0]), plain(human(case(99), 0)), {**plain(GIVEN[1]), "better": "elsewhere"}]
    (tmp_path / "f").write_text("".join(json.dumps(r) + "\n" for r in rows))
    back = read(tmp_path / "f", "jsonl", cases=CASES)
    assert back.judgements == [GIVEN[0]]
    assert len(back.problems) == 2


def test_rows_of_other_tools_name_only_what_they_show() -> None:
    """What a rendered row holds is what an annotator may see: machine judgements are no answers of people."""
    entry = Entry(
        pair=CASES[3].pair,
        shown=tuple(r.id for r in CASES[3].pair.responses),
        attributes=None,
        judgements=tuple(GIVEN[4:]),
    )  # type: ignore[arg-type]
    assert argilla.row(entry)["responses"] == {}
    assert label_studio.row(entry)["annotations"] == []
