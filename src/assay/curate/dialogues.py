"""From the texts and message lists that data sets hold to conversations, and from two of those to a pair.

Every function raises `RowError` with the field that is wrong; nothing is repaired by guessing.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from assay.records import Conversation, Message, Pair, Response, Role, assistant, user

Row = Mapping[str, Any]
_ROLES: dict[str, Role] = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatbot": "assistant",
    "system": "system", "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip
_TURN = re.compile(r"(?:\A\s*|\n\s*\n)(?:#+ ?)?(Human|User|Assistant|System):")
PROMPTS = (
    "prompt", "instruction", "question", "query", "context", "history", "input", "conversation_input", "messages",
    "conversation", "conversations", "post",
)  # fmt: skip
"""Names of the field that holds the conversation so far, in the order in which they are looked for."""


class RowError(ValueError):
    """Why a row, or a part of it, cannot become a pair. Details that vary by row stand in brackets at the end."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}" if field else reason)
        self.field, self.reason = field, reason


def has(row: Row, *names: str) -> bool:
    return all(row.get(name) is not None for name in names)


def text(value: object, field: str) -> str:
    """`value` if it is a text with something in it."""
    if value is None:
        raise RowError(field, "is missing")
    if not isinstance(value, str):
        raise RowError(field, f"is not text ({type(value).__name__})")
    if not value.strip():
        raise RowError(field, "is empty")
    return value


def transcript(value: str) -> Conversation | None:
    """The turns of an HH-style "Human: ... Assistant: ..." text (webgpt's "## Human:" too), or None for other text.

    A last turn that is empty ("...\\n\\nAssistant:") marks where the response begins and is left out.
    """
    marks = list(_TURN.finditer(value))
    if not marks or value[: marks[0].start()].strip() or "Assistant" not in {m[1] for m in marks}:
        return None
    ends = [m.start() for m in marks[1:]] + [len(value)]
    said = [(_ROLES[m[1].lower()], value[m.end() : end].strip()) for m, end in zip(marks, ends, strict=True)]
    if said[-1] == ("assistant", ""):
        said.pop()
    for index, (role, content) in enumerate(said):
        if not content:
            raise RowError("", f"a turn of the dialogue is empty (turn {index + 1}, {role})")
    return tuple(Message(role=role, content=content) for role, content in said)


def messages(value: object, field: str) -> Conversation:
    """A message list in chat format or ShareGPT's from/value; contents may be lists of text parts."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise RowError(field, f"is neither text nor a list of messages ({type(value).__name__})")
    if not value:
        raise RowError(field, "is an empty conversation")
    return tuple(_message(item, f"{field}[{index}]") for index, item in enumerate(value))


def _message(item: object, field: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(field, f"is not a message with role and content ({type(item).__name__})")
    name = item.get("role", item.get("from"))
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise RowError(f"{field}.role", f"is not a known role ({str(name)[:40]})")
    content = item.get("content", item.get("value"))
    if isinstance(content, list):
        texts = [p.get("text") for p in content if isinstance(p, Mapping)]
        if len(texts) < len(content) or not all(isinstance(t, str) for t in texts):
            raise RowError(f"{field}.content", "has parts that are not text")
        content = "\n".join(str(t) for t in texts)
    return Message(role=role, content=text(content, f"{field}.content"))


def _decoded(value: object) -> object:
    """A message list that a CSV or Parquet cell holds as JSON text is that list; all else is itself."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        if isinstance(parsed, list) and all(
            isinstance(m, dict) and ({"role", "content"} <= m.keys() or {"from", "value"} <= m.keys()) for m in parsed
        ):
            return parsed
    return value


def prompt_of(row: Row) -> Conversation | None:
    """The conversation so far, or None where the row has no field for it (or an empty one)."""
    name = next((n for n in PROMPTS if row.get(n) not in (None, "", [])), None)
    if name is None:
        return None
    value = _decoded(row[name])
    if name == "instruction" and isinstance(value, str) and isinstance(row.get("input"), str) and row["input"].strip():
        value = f"{value}\n\n{row['input']}"
    if isinstance(value, Mapping) and "full_text" in value:
        value = value["full_text"]
    if isinstance(value, str):
        return transcript(value) or (user(text(value, name)),)
    return messages(value, name)


def _system(row: Row, conversation: Conversation) -> Conversation:
    given = row.get("system", row.get("system_prompt"))
    if not isinstance(given, str) or not given.strip() or (conversation and conversation[0].role == "system"):
        return conversation
    return (Message(role="system", content=given), *conversation)


def turns(value: object, field: str) -> Conversation:
    """A response as messages: plain text is one assistant turn; a dialogue or a message list is itself."""
    value = _decoded(value)
    if not isinstance(value, str) and value is not None:
        return messages(value, field)
    said = text(value, field)
    try:
        return transcript(said) or (assistant(said),)
    except RowError as error:
        raise RowError(field, error.reason) from error


def pair_of(row: Row, one: object, other: object, fields: tuple[str, str]) -> tuple[Pair, tuple[str, str]]:
    """The pair of two responses found in `fields` of `row`, and the ids of the two in that order.

    Where the two are whole conversations, what they share is the prompt. If they part before the last turn, each
    response carries several messages (records.Response).
    """
    tails = turns(one, fields[0]), turns(other, fields[1])
    if any(tail[0].role in ("assistant", "tool") for tail in tails):
        prompt = prompt_of(row)
        if prompt is None:
            raise RowError("prompt", "is missing or empty, and the responses do not hold the conversation")
        tails = _joined(prompt, tails[0]), _joined(prompt, tails[1])
    first, second = (_system(row, tail) for tail in tails)
    shared = _shared(first, second)
    if shared == len(first) == len(second):
        raise RowError("/".join(fields), "hold the same response twice")
    prompt = first[:shared]
    if not any(m.role == "user" for m in prompt):
        raise RowError("/".join(fields), "answer different prompts")
    ids = (_response(first[shared:], fields[0]), _response(second[shared:], fields[1]))
    return Pair.of(prompt, *ids), (ids[0].id, ids[1].id)


def _joined(prompt: Conversation, tail: Conversation) -> Conversation:
    return tail if tail[0].role in ("user", "system") else (*prompt, *tail)


def _shared(first: Conversation, second: Conversation) -> int:
    """How many messages the two have in common from the start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _response(tail: Conversation, field: str) -> Response:
    if not tail:
        raise RowError(field, "is only the beginning of the other conversation")
    if tail[-1].role != "assistant":
        raise RowError(field, "does not end with an assistant turn")
    return Response(messages=tail)
