"""Tools, tool calls and reasoning are before whoever judges a pair: models, people at the terminal, `show`, other tools."""

from pathlib import Path

import pytest
from rich.console import Console

from assay.curate.annotate import judge_request
from assay.curate.attributes import attribute_request, conversation_text, message_text, response_text
from assay.curate.interchange import Format, entries, read, write
from assay.curate.rules import rule_attributes
from assay.curate.shards import create
from assay.formats.turns import canonical
from assay.records import Case, Message, Pair, Response, assistant, user
from assay.show import show

TOOLS = canonical([{"type": "function", "function": {"name": "weather"}}])
CALL = canonical([{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}])
PROMPT = (
    Message(role="user", content="How warm is it?", tools=TOOLS),
    Message(role="assistant", content="", tool_calls=CALL),
    Message(role="tool", content="3", tool_call_id="c1", name="weather"),
)
PAIR = Pair.of(
    PROMPT,
    Response(messages=(Message(role="assistant", content="3.", reasoning="the tool said 3"),)),
    Response(messages=(Message(role="assistant", content="Let me look.", tool_calls=CALL),)),
)
CASE = Case(pair=PAIR, attributes=rule_attributes(PAIR))


def test_what_a_message_says_is_its_text_where_it_has_nothing_else() -> None:
    assert message_text(user("hi")) == "hi"
    assert response_text(Response.of("ho")) == "ho"
    assert conversation_text((user("hi"), assistant("ho"))) == "[user]\nhi\n\n[assistant]\nho"
    assert message_text(assistant("")) == ""


def told() -> list[str]:
    call = '{"arguments": {"city": "Oslo"}, "name": "weather"}'
    return ['"name": "weather"', call, "the tool said 3", "[tool weather]", "c1"]


def test_judges_and_describers_see_tools_calls_and_reasoning() -> None:
    for request in (attribute_request(PAIR), judge_request(CASE, "m", 0, 0)[0]):
        asked = "\n".join(m.content for m in request.messages)
        assert all(part in asked for part in told()), asked


def test_show_prints_them(tmp_path: Path) -> None:
    create(tmp_path, [PAIR], [])
    console = Console(record=True, width=200)
    show(tmp_path, PAIR.id, console)
    printed = console.export_text()
    assert all(part in printed for part in ('"name": "weather"', '"city": "Oslo"', "the tool said 3", "c1"))


@pytest.mark.parametrize("format", ["jsonl", "parquet", "argilla", "label-studio"])
def test_other_tools_get_them_and_bring_the_pair_back(format: Format, tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, format, entries([CASE]))
    (entry,) = read(path, format, cases=[CASE]).entries
    assert entry.pair == PAIR
    plain = Pair.of(PROMPT, Response.of("3."), Response.of("30."))
    write(path, format, entries([Case(pair=plain, attributes=rule_attributes(plain))]))
    found = read(path, format)
    assert not found.problems
    assert found.entries[0].pair == plain
