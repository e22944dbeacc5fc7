# ruff: noqa: E501  (one case a line)
"""Preference files as people publish them and as their trainers write them, through `assay pool add`.

Each row ends as the pair that a person would read in it, as a rejection that names field and cause, or as a question that
names both readings. Inputs are in our own words; their shapes are those of public formats and of public bug reports.
"""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pools
from assay.curate import pool
from assay.errors import AssayError
from assay.formats.reading import Fields
from assay.images import ImageStore
from assay.records import Judgement, Message, Pair, Rejection, tools_of
from in_process import assay_here

SHARED = Path(os.environ.get("ASSAY_SHARED_FIELD") or Path(__file__).parents[3] / "shared" / "field")


@dataclass(frozen=True)
class Got:
    """A pool as it came out: each pair with its judgement, and the rejections."""

    pairs: list[tuple[Pair, Judgement]]
    rejections: list[Rejection]
    lines: list[str]

    def one(self) -> tuple[tuple[Message, ...], Message, Message, Judgement]:
        """(prompt, the better response's last turn, the other's, the judgement) of the only pair."""
        assert not self.rejections, [(r.field, r.reason) for r in self.rejections]
        ((pair, judgement),) = self.pairs
        assert judgement.better is not None
        other = pair.response(pair.other(judgement.better))
        return pair.prompt, pair.response(judgement.better).messages[-1], other.messages[-1], judgement


def added(
    folder: Path, *rows: object, name: str = "rows.jsonl", layout: str | None = None, fields: Fields | None = None
) -> Got:
    source = folder / name
    if not source.exists():
        source.write_text("".join(json.dumps(r) + "\n" for r in rows))
    lines: list[str] = []
    pool.add([str(source)], folder / "pool", layout=layout, fields=fields, say=lines.append)
    pairs = [(pair, vote) for pair, vote, _ in pools.occurrences(folder / "pool")]
    return Got(pairs, pools.rejections(folder / "pool"), lines)


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def bot(content: object, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": content, **more}


AB = {"prompt": "p", "response_a": "yes", "response_b": "no"}
ASKED: list[tuple[str, list[dict[str, object]], list[str]]] = [
    ("0, 1, 2 beside response 1 and 2", [{"prompt": "p", "response 1": "yes", "response 2": "no", "label": n} for n in (0, 1, 2)], ["labelled:0/1", "labelled:1/2"]),
    ("0, 1, 2 beside a and b", [AB | {"label": n} for n in (0, 1, 2)], ["labelled:0/1", "labelled:1/2"]),
    ("a lone 1", [AB | {"label": 1}], ["labelled:0/1", "labelled:1/0", "labelled:1/2"]),
    ("0 and 1", [AB | {"winner": "0"}, AB | {"winner": "1"}], ["labelled:0/1", "labelled:1/0"]),
    ("1 and 2 beside a and b", [AB | {"label": 1}, AB | {"label": 2}], ["labelled:0/1/2", "labelled:1/2/0"]),
    ("1 and 2 without a 1", [{"prompt": "p", "response1": "yes", "response2": "no", "label": 2}], ["labelled:0/1/2", "labelled:1/2/0"]),
    ("-1, 0, 1", [AB | {"preference": n} for n in (-1, 0, 1)], ["labelled:-1/1", "labelled:1/-1"]),
    ("grades around 0", [AB | {"overall_preference": n} for n in (-2, 0, 3)], ["labelled:-3/3", "labelled:3/-3"]),
    ("a scale from 1 to 5", [AB | {"preference": n} for n in (1, 3, 5)], ["labelled:1/5", "labelled:5/1"]),
    ("a share", [AB | {"preference": 0.7}], ["labelled:0/1", "labelled:1/0"]),
    ("true", [AB | {"label": True}], ["labelled:1/0", "labelled:0/1"]),
    ("votes as numbers", [AB | {"votes": [1, 0, 1]}], ["voted:0/1", "voted:1/0"]),
    ("annotators as numbers", [{"prompt": "p", "response1": "yes", "response2": "no", "annotator1": 1, "annotator2": 0, "annotator3": 2}], ["voted:0/1/2", "voted:1/2/0"]),
    ("two labels that differ", [{"prompt": "p", "response_0": "yes", "response_1": "no", "better_response_id": 0, "safer_response_id": 1}], ["--map label=better_response_id", "--map label=safer_response_id"]),
    ("a label and scores that differ", [AB | {"label": 1, "score_a": a, "score_b": 0.5} for a in (1, 0)], ["--ignore label", "--ignore score_a"]),
    ("the number of the best", [{"prompt": "p", "responses": ["yes", "no"], "chosen": 1}], ["indexed:0", "indexed:1"]),
    ("ranks beside", [{"prompt": "p", "responses": ["yes", "no"], "ranks": [1, 2]}], ["ranked-list:low", "ranked-list:high"]),
    ("an order", [{"prompt": "p", "responses": ["yes", "no", "so"], "ranking": [2, 0, 1]}], ["ranked-list:low", "ranked-list:order"]),
    ("ranks inside", [{"prompt": "p", "completions": [{"text": "yes", "rank": 0}, {"text": "no", "rank": 1}]}], ["ranked-list:low", "ranked-list:high"]),
    ("0 and 1 for single answers", [{"prompt": "p", "completion": c, "label": n} for c, n in (("yes", 1), ("no", 0))], ["unpaired:1/0", "unpaired:0/1"]),
    ("numbered steps with scores", [{"prompt": "p", "completions": ["Step 1: add.", "Step 2: add again."], "scores": [0.9, 0.2]}], ["scored-list", "steps"]),
    ("steps that go on", [{"prompt": "p", "completions": ["Add 2 and 3.", "Then add 4.", "So it is 9."], "scores": [0.9, 0.8, 0.7]}], ["scored-list", "steps"]),
    ("steps marked 1 and -1", [{"prompt": "p", "responses": ["2+3=5", "5+4=8", "it is 8"], "ratings": [1, -1, -1]}], ["scored-list", "steps"]),
    ("texts marked true and false", [{"prompt": "p", "responses": ["2+3=5", "5+4=8"], "scores": [True, False]}], ["scored-list", "steps"]),
    ("two scores that differ", [{"instruction": "p", "completions": [{"response": "yes", "overall_score": 8, "fine-grained_score": 3}, {"response": "no", "overall_score": 2, "fine-grained_score": 4}]}], ["scored-list:overall_score", "scored-list:fine-grained_score"]),
    ("a word and numbers that differ", [AB | {"winner": w, "label": 0} for w in ("model_a", "model_b")], ["--map label=winner", "--map label=label"]),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "flags"), [(r, f) for _, r, f in ASKED], ids=[i for i, _, _ in ASKED])
def test_what_can_be_read_in_two_ways_is_asked_about(
    rows: list[dict[str, object]], flags: list[str], tmp_path: Path
) -> None:
    with pytest.raises(AssayError) as error:
        added(tmp_path, *rows)
    said = str(error.value)
    assert "rows.jsonl" in said
    assert "row 1 then" in said or "row 2 then" in said
    assert all(flag in said for flag in flags), said
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("layout", "rows", "winners"),
    [
        ("labelled:0/1", ASKED[0][1], ["yes", "no", None]),
        ("labelled:1/2", ASKED[0][1], [None, "yes", "no"]),
        ("labelled:1/0", ASKED[0][1][:2], ["no", "yes"]),
        ("labelled:-1/1", ASKED[6][1], ["yes", None, "no"]),
        ("labelled:3/-3", ASKED[7][1], ["no", None, "yes"]),
        ("labelled:1/5", ASKED[8][1], ["yes", None, "no"]),
        ("ranked-list:low", ASKED[16][1], ["yes"]),
        ("ranked-list:high", ASKED[16][1], ["no"]),
        ("indexed:0", ASKED[15][1], ["no"]),
        ("indexed:1", ASKED[15][1], ["yes"]),
        ("unpaired:0/1", ASKED[19][1], ["no"]),
        ("scored-list", ASKED[23][1], ["2+3=5"]),
        ("scored-list:fine-grained_score", ASKED[24][1], ["no"]),
        ("scored-list:low", [{"prompt": "p", "responses": ["yes", "no"], "scores": [0.1, 0.9]}], ["yes"]),
    ],
)  # fmt: skip
def test_each_answer_to_the_question_is_read_so(
    layout: str, rows: list[dict[str, object]], winners: list[str | None], tmp_path: Path
) -> None:
    got = added(
        tmp_path,
        *(r | ({"prompt": f"p{i}"} if layout[:8] != "unpaired" else {}) for i, r in enumerate(rows)),
        layout=layout,
    )
    assert [None if j.better is None else p.response(j.better).text for p, j in got.pairs] == winners
    assert not got.rejections


def test_grades_and_differences_of_scores_say_by_how_much(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], str | None, float, float]] = [
        ({"context": [user("p")], "response1": "a", "response2": "b", "overall_preference": -3}, None, 3.0, 1.0),
        ({"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 2}, None, 2.0, 1.0),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 8.5, "score_rejected": 2}, None, 6.5, 1.0),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "chosen-rating": 4.5, "rejected-rating": 4}, None, 0.5, 1.0),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": 0.25}, None, 0.25, 1.0),
        ({"history": "p", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "score_A": 12, "score_B": 3}, None, 9.0, 1.0),
        ({"instruction": "p", "generations": ["a", "b"], "ratings": [2, 5]}, None, 3.0, 1.0),
        (AB | {"preference": 0.75}, "labelled:1/0", 0.0, 0.75),
        (AB | {"preference": 6}, "labelled:1/7", 2.0, 1.0),
        ({"instruction": "p", "output": ["a", "b"]}, None, 0.0, 1.0),
    ]  # fmt: skip
    for index, (row, layout, strength, confidence) in enumerate(cases):
        folder = tmp_path / str(index)
        folder.mkdir()
        *_, judgement = added(folder, row, layout=layout).one()
        assert (judgement.strength, judgement.confidence) == (strength, confidence), row


KEPT: list[tuple[str, dict[str, object], list[str]]] = [
    ("history of pairs", {"instruction": "And its capital?", "input": "", "history": [["A country?", "France."]], "chosen": "Paris.", "rejected": "Rome."}, ["A country?", "France.", "And its capital?"]),
    ("history of messages", {"query": "And its capital?", "history": [user("A country?"), bot("France.")], "response": "Paris.", "rejected_response": "Rome."}, ["A country?", "France.", "And its capital?"]),
    ("history as JSON text", {"prompt": "And its capital?", "history": json.dumps([["A country?", "France."]]), "chosen": "Paris.", "rejected": "Rome."}, ["A country?", "France.", "And its capital?"]),
    ("history behind a system turn", {"prompt": [{"role": "system", "content": "s"}, user("q")], "history": [["a", "b"]], "chosen": "Paris.", "rejected": "Rome."}, ["s", "a", "b", "q"]),
    ("system column", {"system": "s", "instruction": "q", "input": "i", "chosen": "Paris.", "rejected": "Rome."}, ["s", "q\n\ni"]),
    ("empty system turn", {"messages": [{"role": "system", "content": ""}, user("q")], "chosen": bot("Paris."), "rejected": bot("Rome.")}, ["q"]),
    ("text parts", {"prompt": [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], "chosen": "Paris.", "rejected": "Rome."}, ["a\nb"]),
    ("JSON text of messages and tools", {"chosen": json.dumps({"messages": [user("q"), bot("Paris.")], "tools": []}), "rejected": json.dumps({"messages": [user("q"), bot("Rome.")], "tools": []})}, ["q"]),
    ("JSON text of one message", {"prompt": "q", "chosen": json.dumps(bot("Paris.")), "rejected": json.dumps(bot("Rome."))}, ["q"]),
    ("the conversation told twice", {"prompt": "q", "messages": [user("q"), bot("Paris.")], "chosen": [user("q"), bot("Paris.")], "rejected": [user("q"), bot("Rome.")]}, ["q"]),
    ("the chosen answer in messages", {"messages": [user("q"), bot("Paris.")], "chosen": "Paris.", "rejected": "Rome."}, ["q"]),
    ("a context that the prompt holds", {"context": "France is a country.", "prompt": "Read: France is a country.\nIts capital?", "chosen": "Paris.", "rejected": "Rome."}, ["Read: France is a country.\nIts capital?"]),
    ("names of fields for responses", {"prompt": "q", "response_a": "Rome.", "response_b": "Paris.", "chosen": "response_b", "rejected": "response_a"}, ["q"]),
    ("names of models for responses", {"prompt": "q", "model_a": "m", "model_b": "n", "response_a": "Rome.", "response_b": "Paris.", "chosen": "n", "rejected": "m"}, ["q"]),
    ("the text of a response as label", {"prompt": "q", "response_a": "Rome.", "response_b": "Paris.", "preferred": "Paris."}, ["q"]),
    ("two labels that agree", {"prompt": "q", "response_a": "Rome.", "response_b": "Paris.", "winner": "model_b", "label": "B", "preference": 1}, ["q"]),
    ("HelpSteer2's turns", {"prompt": "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nq", "chosen": "Paris.", "rejected": "Rome."}, ["a", "b", "q"]),
    ("MT-bench's vote on the first turn", {"turn": 1, "winner": "model_b", "conversation_a": [user("q"), bot("Rome."), user("r"), bot("c")], "conversation_b": [user("q"), bot("Paris."), user("r"), bot("d")]}, ["q"]),
    ("the Arena's two turns in lists", {"prompt": ["q", "r"], "response_a": ["Paris.", "Rome."], "response_b": ["Paris.", "Paris."], "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}, ["q", "Paris.", "r"]),
    ("a summary's post", {"info": {"post": "I was in France.", "title": "t", "subreddit": "s"}, "summaries": [{"text": "Rome."}, {"text": "Paris."}], "choice": 1}, ["SUBREDDIT: r/s\n\nTITLE: t\n\nPOST: I was in France.\n\nTL;DR:"]),
    ("Argilla's ranking", {"fields": {"prompt": "q", "response-1": "Rome.", "response-2": "Paris."}, "responses": {"order": [{"value": [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}], "user_id": "u"}], "why": [{"value": "it is", "user_id": "u"}]}}, ["q"]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "prompt"), [(r, p) for _, r, p in KEPT], ids=[i for i, _, _ in KEPT])
def test_what_changes_the_meaning_is_kept(row: dict[str, object], prompt: list[str], tmp_path: Path) -> None:
    before, better, other, _ = added(tmp_path, row).one()
    assert [m.content for m in before] == prompt
    assert (better.content, other.content) == ("Paris.", "Rome.")


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
KEPT_CALL = '[{"function":{"arguments":{"city":"Oslo"},"name":"weather"},"id":"c1","type":"function"}]'
CALLS: list[tuple[str, dict[str, object]]] = [
    ("OpenAI", {"tools": [{"type": "function", "function": TOOL}], "messages": [user("q"), bot(None, tool_calls=[CALL]), {"role": "tool", "tool_call_id": "c1", "content": "3"}], "chosen": bot("3."), "rejected": bot("30.")}),
    ("arguments as an object", {"tools": json.dumps([TOOL]), "messages": [user("q"), bot("", tool_calls=[{"id": "c1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]), {"role": "tool", "tool_call_id": "c1", "content": 3}], "chosen": bot("3."), "rejected": bot("30.")}),
    ("Anthropic's parts", {"tools": [TOOL], "messages": [user("q"), bot([{"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}}]), {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "3"}]}], "chosen": bot("3."), "rejected": bot("30.")}),
]  # fmt: skip


@pytest.mark.parametrize("row", [r for _, r in CALLS], ids=[i for i, _ in CALLS])
def test_tool_calls_tools_and_tool_turns_become_part_of_the_messages(row: dict[str, object], tmp_path: Path) -> None:
    prompt, better, _, _ = added(tmp_path, row).one()
    assert tools_of(prompt) == [{"type": "function", "function": TOOL}]
    asked, called, told = prompt
    assert (asked.content, called.content, told.content, better.content) == ("q", "", "3", "3.")
    assert called.tool_calls == KEPT_CALL
    assert (told.role, told.tool_call_id) == ("tool", "c1")


def test_sharegpt_calls_old_function_calls_and_ms_swift_calls(tmp_path: Path) -> None:
    call = json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})
    rows: list[dict[str, object]] = [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": call}, {"from": "observation", "value": "3"}], "chosen": {"from": "gpt", "value": "3."}, "rejected": {"from": "gpt", "value": "30."}},
        {"messages": [user("q"), bot(None, function_call={"name": "weather", "arguments": '{"city": "Oslo"}'}), {"role": "function", "content": "3"}], "chosen": bot("3."), "rejected": bot("30.")},
        {"messages": [user("q"), {"role": "tool_call", "content": call}, {"role": "tool_response", "content": "3"}, bot("3.")], "rejected_response": "30."},
    ]  # fmt: skip
    got = added(tmp_path, *rows)
    assert not got.rejections
    assert len({p.id for p, _ in got.pairs}) == 1


def test_answers_that_differ_in_their_call_alone_or_their_reasoning_alone_are_two(tmp_path: Path) -> None:
    broken = {**CALL, "function": {"name": "weather", "arguments": '{"city": Oslo}'}}
    got = added(
        tmp_path,
        {"messages": [user("q")], "chosen": bot("So.", tool_calls=[CALL]), "rejected": bot("So.", tool_calls=[broken])},
        {"messages": [user("q")], "chosen": [bot("4", reasoning_content="two and two")], "rejected": [bot("4", reasoning_content="a guess")]},
        {"messages": [user("q")], "chosen": bot([{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "4"}]), "rejected": bot("5")},
    )  # fmt: skip
    assert not got.rejections
    (one, better), (two, _), (three, _) = got.pairs
    assert {r.messages[0].tool_calls for r in one.responses} == {
        KEPT_CALL,
        KEPT_CALL.replace('{"city":"Oslo"}', r'"{\"city\": Oslo}"'),
    }
    assert one.response(str(better.better)).messages[0].tool_calls == KEPT_CALL
    assert {r.messages[0].reasoning for r in two.responses} == {"two and two", "a guess"}
    assert {(r.messages[0].reasoning, r.text) for r in three.responses} == {("t", "4"), ("", "5")}


def test_parquet_gives_no_call_the_arguments_of_another(tmp_path: Path) -> None:
    def row(city: dict[str, str]) -> dict[str, object]:
        call = {"type": "function", "function": {"name": "f", "arguments": city}}
        return {"messages": [user("q")], "chosen": [bot("x", tool_calls=[call])], "rejected": [bot("y")]}

    pq.write_table(pa.Table.from_pylist([row({"city": "Oslo"}), row({"town": "Rome"})]), tmp_path / "rows.parquet")
    got = added(tmp_path, name="rows.parquet")
    calls = [m.tool_calls for p, _ in got.pairs for r in p.responses for m in r.messages if m.tool_calls]
    assert [json.loads(c)[0]["function"]["arguments"] for c in calls] == [{"city": "Oslo"}, {"town": "Rome"}]


REFUSED: list[tuple[str, dict[str, object], str, str]] = [
    ("role user", {"messages": [user("q")], "chosen": bot("a"), "rejected": user("b")}, "rejected", 'has the role "user"'),
    ("from human", {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "human", "value": "b"}}, "rejected", 'has the role "user"'),
    ("context beside question", {"question": "q", "context": "A passage.", "chosen": "a", "rejected": "b"}, "context", "--ignore context"),
    ("instruction beside question", {"instruction": "Be brief.", "question": "q", "chosen": "a", "rejected": "b"}, "question", "says what the prompt does not"),
    ("two systems", {"system": "s", "prompt": [{"role": "system", "content": "t"}, user("q")], "chosen": "a", "rejected": "b"}, "system", "differs from the system turn"),
    ("Python's list as text", {"prompt": "q", "chosen": "[{'role': 'assistant', 'content': 'a'}]", "rejected": "b"}, "chosen", "not JSON"),
    ("JSON that is cut off", {"prompt": "q", "chosen": '[{"role": "assistant", "content": "a', "rejected": "b"}, "chosen", "not JSON"),
    ("a chat template's text", {"prompt": "<|im_start|>user\nq<|im_end|>\n", "chosen": "a", "rejected": "b"}, "prompt", "chat template"),
    ("Llama 2's marks", {"prompt": "<s>[INST] q [/INST]", "chosen": "a", "rejected": "b"}, "prompt", "chat template"),
    ("sound", {"prompt": [user([{"type": "input_audio", "input_audio": {}}])], "chosen": "a", "rejected": "b"}, "prompt[0].content", "input_audio"),
    ("videos", {"prompt": "<video>q", "chosen": "a", "rejected": "b", "videos": ["a.mp4"]}, "videos", "video"),
    ("an answer out of training", {"messages": [user("q")], "chosen": bot("a", weight=0), "rejected": bot("b")}, "chosen", "weight: 0"),
    ("a loss switched off", {"messages": [user("q")], "chosen": [bot("a", loss=False)], "rejected": bot("b")}, "chosen", "loss: False"),
    ("a weighted row", {"prompt": "q", "chosen": "a", "rejected": "b", "weight": 0.3}, "weight", "cannot keep"),
    ("scores against the labels", {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2}, "score_chosen/score_rejected", "--ignore"),
    ("documents", {"prompt": "q", "chosen": "a", "rejected": "b", "documents": [{"text": "d"}]}, "documents", "cannot keep"),
    ("a prompt that an answer ends", {"messages": [user("q"), bot("begun")], "chosen": "a", "rejected": "b"}, "messages", "neither of the responses"),
    ("a mark without a picture", {"prompt": "<image>\nq", "chosen": "a", "rejected": "b"}, "prompt", "no picture"),
    ("a picture on the network", {"prompt": "q", "chosen": "a", "rejected": "b", "images": ["https://example.org/a.png"]}, "images[0]", "remote address"),
    ("a picture that is not there", {"prompt": "q", "chosen": "a", "rejected": "b", "image": "gone.png"}, "image", "is not there"),
    ("an unknown field of a call", {"messages": [user("q")], "chosen": bot("", tool_calls=[{"name": "f", "arguments": {}, "cache": 1}]), "rejected": bot("b")}, "chosen[0].tool_calls[0]", "cache"),
    ("votes against the label", AB | {"votes": ["a", "a", "b"], "label": "b"}, "label/votes", "--ignore"),
    ("steps", {"prompt": "q", "completions": ["add", "add"], "labels": [True, False]}, "", "label for each step"),
    ("a tree", {"message_id": "1", "parent_id": "0", "text": "q", "role": "prompter"}, "", "tree of replies"),
    ("a bare list", {"prompt": "q", "completions": ["a", "b"]}, "", "ranked-list:first"),
    ("a list of measures", {"instruction": "q", "candidates": [{"text": "a", "scores": {"x": 1}}, {"text": "b", "scores": {"x": 2}}]}, "", "several scores"),
    ("two questions in Argilla", {"fields": {"prompt": "q", "response1": "a", "response2": "b"}, "responses": {"one": [{"value": "response1"}], "two": [{"value": "response2"}]}}, "responses", "--map votes=responses.one"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "field", "why"), [(r, f, w) for _, r, f, w in REFUSED], ids=[i for i, *_ in REFUSED])
def test_what_cannot_be_kept_is_refused_with_field_and_cause(
    row: dict[str, object], field: str, why: str, tmp_path: Path
) -> None:
    got = added(tmp_path, row)
    assert not got.pairs
    (rejection,) = got.rejections
    assert rejection.field == field
    assert why in rejection.reason, rejection.reason


def picture(folder: Path, name: str, colour: tuple[int, int, int]) -> bytes:
    Image.new("RGB", (6, 4), colour).save(folder / name)
    return (folder / name).read_bytes()


def test_pictures_go_to_the_image_store_whatever_holds_them(tmp_path: Path) -> None:
    red = picture(tmp_path, "red.png", (255, 0, 0))
    text = base64.b64encode(red).decode()
    asked = {"chosen": "Red.", "rejected": "Blue."}
    rows: list[dict[str, object]] = [
        {"prompt": "<image>Which colour?", "images": ["red.png"], **asked},
        {"prompt": "Which colour?\n<image>", "images": [str(tmp_path / "red.png")], **asked},
        {"prompt": "Which colour?", "image": {"path": "red.png"}, **asked},
        {"prompt": "Which colour?", "image": text, **asked},
        {"prompt": [user([{"type": "image"}, {"type": "text", "text": "Which colour?"}])], "images": [f"data:image/png;base64,{text}"], **asked},
        {"prompt": [user([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}, {"type": "text", "text": "Which colour?"}])], **asked},
        {"prompt": [user([{"type": "image", "index": 1}, {"type": "text", "text": "Which colour?"}])], "images": ["no.png", "red.png"], **asked},
        {"messages": [user("<image>Which colour?") | {"images": ["red.png"]}], **asked},
    ]  # fmt: skip
    picture(tmp_path, "no.png", (0, 0, 255))
    got = added(tmp_path, *rows)
    assert not got.rejections, [(r.row, r.field, r.reason) for r in got.rejections]
    assert len({p.id for p, _ in got.pairs}) == 1
    (turn,) = got.pairs[0][0].prompt
    assert turn.content == "Which colour?"
    (name,) = turn.images
    assert ImageStore(tmp_path / "pool" / "images").open(name).getpixel((0, 0)) == (255, 0, 0)


def test_pictures_of_a_parquet_file_and_their_order(tmp_path: Path) -> None:
    red, blue = picture(tmp_path, "r.png", (255, 0, 0)), picture(tmp_path, "b.png", (0, 0, 255))
    row = {
        "prompt": "Is <image> or <image> red?", "chosen": "The first.", "rejected": "The second.",
        "images": [{"bytes": red, "path": None}, {"bytes": blue, "path": "b.png"}], "image_path": "elsewhere/r.png",
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    (turn,), *_ = added(tmp_path, name="rows.parquet").one()
    assert turn.content == "Is [image 1] or [image 2] red?"
    store = ImageStore(tmp_path / "pool" / "images")
    assert [store.open(i).getpixel((0, 0)) for i in turn.images] == [(255, 0, 0), (0, 0, 255)]


def test_marks_and_pictures_of_different_number_and_broken_pictures_are_refused(tmp_path: Path) -> None:
    picture(tmp_path, "r.png", (255, 0, 0))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    asked = {"chosen": "a", "rejected": "b"}
    got = added(
        tmp_path,
        {"prompt": "<image><image>q", "images": ["r.png"], **asked},
        {"prompt": "q", "images": ["broken.png"], **asked},
        {"messages": [user("q"), bot("a"), user("r")], "images": ["r.png"], **asked},
        {"prompt": "q", "images": ["r.png"], "rejected_images": ["r.png"], **asked},
    )
    assert not got.pairs
    said = {r.row: f"{r.field} {r.reason}" for r in got.rejections}
    assert "(1, not 2)" in said[1]
    assert "cannot be decoded" in said[2]
    assert "which of the user's turns" in said[3]
    assert "rejected_images" in said[4]


def test_unpaired_answers_become_pairs_where_a_prompt_has_both_wherever_they_stand(tmp_path: Path) -> None:
    rows = [{"prompt": p, "completion": c, "label": w} for p, c, w in (("p", "yes", True), ("q", "yes", True), ("r", "so", True), ("p", "no", False), ("q", "no", False), ("r", "or", True))]  # fmt: skip
    got = added(tmp_path, *rows)
    assert [(p.prompt[0].content, p.response(str(j.better)).text) for p, j in got.pairs] == [("p", "yes"), ("q", "yes")]
    assert sorted(r.row for r in got.rejections) == [3, 6]
    assert all("says the same of all responses" in r.reason for r in got.rejections)


def test_unpaired_answers_with_other_tools_or_systems_are_of_other_prompts(tmp_path: Path) -> None:
    got = added(
        tmp_path, {"system": "s", "prompt": "p", "completion": "yes", "label": True},
        {"system": "t", "prompt": "p", "completion": "no", "label": False},
    )  # fmt: skip
    assert not got.pairs
    assert len(got.rejections) == 2


@pytest.mark.parametrize("row", [
    {"prompt": [user("q")], "chosen": bot("a"), "rejected": bot("b")},
    {"conversation_a": [user("q"), bot("a")], "conversation_b": [user("q"), bot("b")], "winner": "model_a"},
    {"prompt": [user("q")], "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]},
    {"instruction": "q", "completions": [{"response": "a", "overall_score": 3}, {"response": "b", "overall_score": 1}]},
])  # fmt: skip
@pytest.mark.parametrize("indent", [None, 1])
def test_a_document_that_is_one_row_is_one_row(row: dict[str, object], indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(row, indent=indent))
    prompt, better, other, _ = added(tmp_path, name="one.json").one()
    assert ([m.content for m in prompt], better.content, other.content) == (["q"], "a", "b")


def test_a_file_that_fits_nothing_is_told_what_it_has_and_what_each_layout_lacks(tmp_path: Path) -> None:
    got = added(tmp_path, {"query": "q", "win": "a", "lose": "b"})
    said = "\n".join(got.lines)
    assert "fields lose, query, win" in said
    assert "chosen-rejected lacks a chosen response" in said
    assert "labelled lacks two responses" in said
    assert "--map chosen=win" in said
    again = tmp_path / "again"
    again.mkdir()
    fields = Fields.of(["chosen=win", "rejected=data.lose"], ["context"])
    _, better, other, _ = added(
        again, {"query": "q", "win": "a", "data": {"lose": "b"}, "context": "left out"}, fields=fields
    ).one()
    assert (better.content, other.content) == ("a", "b")


def test_duplicates_and_conflicts_are_told_at_the_end(tmp_path: Path) -> None:
    one = {"prompt": "p", "chosen": "a", "rejected": "b"}
    got = added(tmp_path, one, one, one | {"prompt": "q"}, {"prompt": "p", "chosen": "b", "rejected": "a"})
    assert got.lines[-1] == (
        "duplicates: 2 rows repeat a pair that the pool holds already; conflicts: for 1 of these pairs the rows prefer "
        "different responses"
    )


def test_the_same_file_is_not_read_in_two_ways_into_one_pool(tmp_path: Path) -> None:
    added(tmp_path, AB | {"label": 1}, layout="labelled:0/1")
    with pytest.raises(AssayError, match=r"is in the pool .* already, read as labelled:0/1"):
        added(tmp_path, layout="labelled:1/0")


def test_every_text_of_a_message_is_checked(tmp_path: Path) -> None:
    got = added(
        tmp_path, {"messages": [user("q")], "chosen": bot("a", reasoning_content="half \ud800"), "rejected": bot("b")}
    )
    (rejection,) = got.rejections
    assert (rejection.field, "surrogate" in rejection.reason) == ("chosen.reasoning_content", True)


def test_the_command_asks_with_exit_code_2_and_takes_the_answer(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(AB | {"label": n, "win": "x"}) + "\n" for n in (0, 1)))
    asked = assay_here("pool", "add", source, "--out", tmp_path / "pool")
    assert asked.returncode == 2
    assert asked.stderr.startswith("error: ")
    assert asked.stderr.count("\n") == 1
    assert "--layout labelled:1/0" in asked.stderr
    told = assay_here("pool", "add", source, "--out", tmp_path / "pool", "--layout", "labelled:1/0", "--ignore", "win")
    assert (told.returncode, told.stderr) == (0, "")
    assert "layout labelled:1/0, named" in told.stdout
    mapped = tmp_path / "mapped.jsonl"
    mapped.write_text(json.dumps({"prompt": "p", "win": "a", "lose": "b"}) + "\n")
    done = assay_here("pool", "add", mapped, "--out", tmp_path / "more", "--map", "chosen=win", "rejected=lose")
    assert done.returncode == 0, done.stderr
    assert "1 rows -> 1 pairs" in done.stdout


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the field cases are not at {SHARED} (set ASSAY_SHARED_FIELD)")
def test_the_shared_field_cases_end_as_their_readme_expects(tmp_path: Path) -> None:
    for name in ("autoj-code", "pandalm-code"):
        with pytest.raises(AssayError, match=r"labelled:0/1.*labelled:1/2"):
            pool.add([str(SHARED / "01-labels-012" / f"{name}.jsonl")], tmp_path / name, say=lambda _: None)
    counts = {
        "02-tool-calls": 5,
        "03-alpaca-history": 6,
        "04-ms-swift": 4,
        "11-json-in-strings": 2,
        "26-images-column": 0,
    }
    for name, pairs in counts.items():
        report = pool.add([str(SHARED / name)], tmp_path / name, say=lambda _: None)
        assert report.pairs == pairs, (name, report.lines())
        assert report.rejected == (4 if name == "26-images-column" else 0)
        whole = [
            m for p, *_ in pools.occurrences(tmp_path / name) for r in p.responses for m in (*p.prompt, *r.messages)
        ]
        assert any(m.tools for m in whole) == any(m.tool_calls for m in whole) == (name == "02-tool-calls")
        assert not any("{" in m.content for m in whole if m.role != "tool")
