"""Conversations to text by a model's own chat template: what it refuses, what it leaves out, and what day it takes it for.

A conversation that the template refuses, or would show without one of its turns, tool calls or tools, is one that the model
cannot read (`CannotRead`), never another conversation. What a template does within a turn is its own way of reading
(many cut what stands before </think>).
"""

import json
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from assay.errors import AssayError, CannotRead, first_line
from assay.records import Conversation, tools_of

TODAY = date(2024, 7, 26)
"""What templates that ask for today's date are told, everywhere and always: what Llama 3.x falls back to by itself."""
FAULTS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a template's program raises over a conversation that it was not written for."""
OTHER = "zxqv"
"""What stands in for a text, to see whether a template shows it."""
_SEEN: dict[tuple[str, tuple[str, ...], tuple[bool, bool]], tuple[int, ...]] = {}
"""By template and shape of the conversation: the turns that are left out."""


def with_fixed_date(owner: Any) -> None:
    """Write `TODAY` into the chat template of a tokenizer or processor, so that it is saved with the model: with the real
    date, other tokens and so other rewards would come each day, and a resumed training would read other data."""
    template = getattr(owner, "chat_template", None)
    if isinstance(template, dict):
        owner.chat_template = {name: _dated(text) for name, text in template.items()}
    elif template:
        owner.chat_template = _dated(template)


def _dated(template: str) -> str:
    def told(found: re.Match[str]) -> str:
        return json.dumps(TODAY.strftime(found[2]))

    fixed = re.sub(r"""strftime_now\(\s*(["'])((?:(?!\1).)*)\1\s*\)""", told, template)
    if re.search(r"strftime_now\s*\(", fixed):
        fixed = "{%- macro strftime_now(format) -%}" + TODAY.isoformat() + "{%- endmacro %}" + fixed
    return fixed


def chat_text(
    owner: Any, conversation: Conversation, asking: bool = False, tools: list[Any] | None = None,
    contents: Sequence[object] = (),
) -> str:  # fmt: skip
    """The text of a conversation by the chat template of `owner` (a tokenizer or a processor).

    Args:
        asking: End where the answer begins.
        tools: The functions that may be called (None: those that the conversation names).
        contents: What the template gets as the turns' contents (none: their text).

    Arguments of tool calls are handed over as objects, as transformers asks for, and as text where a template wants that.
    The last turn's reasoning is put before its text, between <think> marks, where the template does not know
    `reasoning_content`.
    Raises CannotRead for what the template refuses, or would leave out: a turn, a tool call, the tools.
    """
    chat = [m.chat(c) for m, c in zip(conversation, contents or [m.content for m in conversation], strict=True)]
    tools = tools_of(conversation) if tools is None else tools
    page = _Page(owner, tools, asking)
    if chat and "reasoning_content" in chat[-1] and not page.shows(chat, len(chat) - 1, reasoning_content=OTHER):
        said = chat[-1].pop("reasoning_content")
        chat[-1] = _with_text(chat[-1], f"<think>\n{said}\n</think>\n\n{_text(chat[-1])}")
    text = page.text(chat)
    _check_turns(page, chat, text)
    for at, turn in enumerate(chat):
        _check_calls(page, chat, at, turn.get("tool_calls") or [], text)
    names = [str(t.get("function", t).get("name", "")) for t in tools or [] if isinstance(t, dict)]
    if tools and not all(n in text for n in names) and not _shows_tools(owner, chat, asking, text):
        raise CannotRead("the chat template leaves out the tools that may be called")
    return text


def _shows_tools(owner: Any, chat: Sequence[dict[str, Any]], asking: bool, text: str) -> bool:
    other = {"type": "function", "function": {"name": OTHER, "description": OTHER, "parameters": {}}}
    try:
        return _Page(owner, [other], asking).text(chat) != text
    except CannotRead:
        return True


class _Page:
    """A chat template with what stays the same over several tries of one conversation."""

    def __init__(self, owner: Any, tools: list[Any] | None, asking: bool) -> None:
        self.owner, self.tools, self.asking = owner, tools, asking

    def text(self, chat: Sequence[dict[str, Any]]) -> str:
        parsed = [_parsed(turn) for turn in chat]
        try:
            return self._apply(parsed)
        except CannotRead:
            if parsed == list(chat):
                raise
            return self._apply(chat)

    def _apply(self, chat: Sequence[dict[str, Any]]) -> str:
        try:
            return str(self.owner.apply_chat_template(
                list(chat), tools=self.tools, tokenize=False, add_generation_prompt=self.asking
            ))  # fmt: skip
        except TemplateSyntaxError as error:
            raise AssayError(f"the chat template of {_name(self.owner)} is broken: {error}") from error
        except FAULTS as error:
            raise CannotRead(f"the chat template refuses it: {first_line(error)}") from error

    def shows(self, chat: Sequence[dict[str, Any]], at: int, **changed: Any) -> bool:
        """Does the text change with something in a turn? Where the template then refuses, it has looked."""
        other = [turn | changed if i == at else turn for i, turn in enumerate(chat)]
        before = self.text(chat)
        try:
            return self.text(other) != before
        except CannotRead:
            return True


def _check_turns(page: _Page, chat: Sequence[dict[str, Any]], text: str) -> None:
    """Raise CannotRead where a turn does not come through: of its shape of conversation (tried once), or by its own text."""
    key = str(page.owner.chat_template), tuple(t["role"] for t in chat), (page.asking, bool(page.tools))

    def shown(at: int) -> bool:
        return page.shows(chat, at, **_with_text({"content": chat[at]["content"]}, OTHER))

    if key not in _SEEN:
        if len(_SEEN) > 10_000:
            _SEEN.clear()
        _SEEN[key] = tuple(i for i in range(len(chat)) if not shown(i))
    unseen = {i for i, turn in enumerate(chat) if (said := _text(turn).strip()) and said not in text and not shown(i)}
    for at in sorted({i for i in _SEEN[key] if _text(chat[i]).strip()} | unseen):
        raise CannotRead(f"the chat template leaves out turn {at + 1} ({chat[at]['role']})")


def _check_calls(page: _Page, chat: Sequence[dict[str, Any]], at: int, calls: Sequence[Any], text: str) -> None:
    for number, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else {}
        name, arguments = str(function.get("name", "")), function.get("arguments")
        if name in text and all(x in text for x in _leaves(_loaded(arguments))):
            continue
        for key, value in (("name", OTHER), ("arguments", {OTHER: OTHER})):
            changed = {**call, "function": {**function, key: value}} if "function" in call else {**call, key: value}
            others = [changed if i == number else c for i, c in enumerate(calls)]
            if not page.shows(chat, at, tool_calls=others):
                raise CannotRead(f"the chat template leaves out the tool call in turn {at + 1} ({name})")


def _parsed(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn whose tool calls have their arguments as objects."""
    calls = turn.get("tool_calls")
    if not calls:
        return turn

    def parsed(call: Any) -> Any:
        if not isinstance(call, dict):
            return call
        if isinstance(function := call.get("function"), dict):
            return {**call, "function": parsed(function)}
        return {**call, "arguments": _loaded(call["arguments"])} if "arguments" in call else call

    return {**turn, "tool_calls": [parsed(c) for c in calls]}


def _loaded(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _leaves(value: Any) -> list[str]:
    """The names and values in an object, however deep."""
    found, todo = [], [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            todo += [*one, *one.values()]
        elif isinstance(one, list):
            todo += one
        elif one is not None and not isinstance(one, bool):
            found.append(str(one))
    return found


def _text(turn: dict[str, Any]) -> str:
    content = turn["content"]
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)


def _with_text(turn: dict[str, Any], text: str) -> dict[str, Any]:
    """The turn with another text, its pictures kept."""
    content = turn["content"]
    if isinstance(content, str):
        return turn | {"content": text}
    return turn | {"content": [*(p for p in content if p.get("type") != "text"), {"type": "text", "text": text}]}


def _name(owner: Any) -> str:
    return str(getattr(owner, "name_or_path", "") or "this model")


def plain_turn(message: Any) -> str:
    """A turn as text, for models without a chat template: its thoughts, what it says, the calls it makes."""
    thoughts = f"<think>\n{message.reasoning}\n</think>" if message.reasoning else ""
    return "\n".join(part for part in (thoughts, message.content, message.tool_calls) if part)
