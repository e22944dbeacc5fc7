"""One turn of a conversation as data sets write it, as a `Message`: roles, parts, tool calls, reasoning, pictures.

What changes the meaning of a turn is kept, or the row is refused with the field and the reason; nothing is guessed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from assay.formats.pictures import LITERAL, MARK, Picture, counted, placed
from assay.formats.rows import Row, RowError, text
from assay.records import Conversation, Message, Role

ROLES: dict[str, Role] = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatbot": "assistant",
    "chatgpt": "assistant", "ai": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool", "function_response": "tool",
    "ipython": "tool", "environment": "tool",
}  # fmt: skip
_CALLING = {"function_call", "tool_call"}
"""Roles of turns whose text is a call by the assistant, as JSON (ShareGPT, ms-swift)."""
SAYS: dict[str, Role] = {w: r for w, r in ROLES.items() if r != "tool" and w not in _CALLING}
"""Roles of turns that can be a text and nothing else."""
_TEXT = {"text", "input_text", "output_text"}
_IMAGE = {"image", "image_url", "input_image"}
_THOUGHT = {"thinking", "reasoning", "thought"}
_CALL = {"tool_use", "tool_call", "function_call"}
_REASONING = ("reasoning_content", "reasoning", "thinking", "thoughts", "thought")
_UNKEPT = ("videos", "video", "audios", "audio", "reasoning_details", "tool_responses", "prefix", "documents")
_FLAGS = ("weight", "loss", "train", "training")
FIELDS = frozenset({
    "role", "from", "content", "value", "parts", "refusal", "tool_calls", "function_call", "tools", "tool_call_id", "name",
    "images", "image", *_REASONING, *_UNKEPT, *_FLAGS,
})  # fmt: skip
"""The fields of a turn that are looked at."""


def canonical(value: object) -> str:
    """A JSON value as the one text that all its spellings share."""
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError("", f"is no JSON value ({str(error)[:60]})") from error


def is_message(value: object) -> bool:
    """Whether a value is a turn in chat format or ShareGPT's from/value."""
    if not isinstance(value, Mapping):
        return False
    role = value.get("role", value.get("from"))
    return (
        isinstance(role, str)
        and role.lower() in ROLES
        and bool({"content", "value", "tool_calls", "parts"} & value.keys())
    )


def messages(value: object, field: str) -> Conversation:
    """A message list in chat format or ShareGPT's from/value; one message is a list of one. An empty system turn is none."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise RowError(field, f"is neither text nor a list of messages ({type(value).__name__})")
    if not value:
        raise RowError(field, "is an empty conversation")
    said: list[Message] = []
    for index, item in enumerate(value):
        turn = _message(item, f"{field}[{index}]")
        both_call = _calls_only(item) and index > 0 and _calls_only(value[index - 1])
        if both_call and said:
            calls = json.loads(said[-1].tool_calls) + json.loads(turn.tool_calls)
            said[-1] = Message(role="assistant", content="", tool_calls=canonical(calls))
        elif turn.role != "system" or turn.content.strip() or turn.tools:
            said.append(turn)
    if not said:
        raise RowError(field, "is an empty conversation")
    return tuple(said)


def _role(item: object) -> str:
    name = item.get("role", item.get("from")) if isinstance(item, Mapping) else None
    return name.lower() if isinstance(name, str) else ""


def _calls_only(item: object) -> bool:
    return _role(item) in _CALLING


def unweighted(value: object, last_only: bool) -> str:
    """The flag of an assistant's turn in a message list that takes it (or a part of it) out of training, or "".

    `last_only`: only the last turn counts, because the ones before belong to the prompt.
    """
    turns = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
    answers = [t for t in turns if isinstance(t, Mapping) and ROLES.get(_role(t)) == "assistant"]
    for turn in answers[-1:] if last_only else answers:
        if len(turn) == 2:  # a role and a text
            continue
        for flag in _FLAGS:
            if turn.get(flag) is not None and turn[flag] not in (1, True):
                return f"{flag}: {turn[flag]}"
    return ""


def _message(item: object, field: str) -> Message:
    if not isinstance(item, Mapping):
        raise RowError(field, f"is not a message with role and content ({type(item).__name__})")
    if len(item) == 2 and type(item.get("content")) is str and (said := item["content"]) and not said.isspace():
        name = item.get("role")  # most messages are a role and a text
        plain = SAYS.get(name) if type(name) is str else None
        if plain is not None and MARK not in said:
            return Message(role=plain, content=said)
    word = _role(item)
    role = ROLES.get(word)
    if role is None:
        raise RowError(f"{field}.role", f"is not a known role ({str(item.get('role', item.get('from')))[:40]})")
    unkept = next((name for name in _UNKEPT if item.get(name)), None)
    if unkept is not None:
        raise RowError(f"{field}.{unkept}", "is not kept with a message here, and would change what it means")
    content = next((item[k] for k in ("content", "value", "parts", "refusal") if item.get(k) is not None), None)
    called = calls(item.get("tool_calls"), f"{field}.tool_calls") + calls(
        item.get("function_call"), f"{field}.function_call"
    )
    thoughts = [str(t) for n in _REASONING if (t := _thought(item.get(n), f"{field}.{n}"))]
    if word in _CALLING:
        called, content = calls(content, f"{field}.content"), ""
        if not called:
            raise RowError(f"{field}.content", "is empty")
    if role == "tool" and content is not None and not isinstance(content, str) and not _are_parts(content):
        content = canonical(content)
    said, pictures, more_calls, more_thoughts = _content(content, f"{field}.content")
    called, thoughts = called + more_calls, list(dict.fromkeys([*thoughts, *more_thoughts]))
    said, images = _pictured(said, pictures, item, role, field)
    if not (called or images or role in ("system", "tool")) or (role == "tool" and content is None):
        text(said if content is not None else None, f"{field}.content")
    if called and role != "assistant":
        raise RowError(f"{field}.tool_calls", f"are of the role {role}: only an assistant calls tools")
    if len(thoughts) > 1 and not more_thoughts:
        raise RowError(
            field, f"has two different texts of reasoning ({', '.join(n for n in _REASONING if item.get(n))})"
        )
    return Message(
        role=role, content=said, images=images, reasoning="\n".join(thoughts),
        tool_calls=canonical(called) if called else "", tools=tools(item.get("tools"), f"{field}.tools"),
        tool_call_id=_id(item.get("tool_call_id"), f"{field}.tool_call_id"), name=_id(item.get("name"), f"{field}.name"),
    )  # fmt: skip


def _id(value: object, field: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise RowError(field, f"is not a name ({type(value).__name__})")
    return "" if value is None else str(value)


def _thought(value: object, field: str) -> str:
    if isinstance(value, Mapping):
        value = value.get("content", value.get("text"))
    if value is None or isinstance(value, str):
        return value if value and value.strip() else ""
    raise RowError(field, f"is not text ({type(value).__name__})")


def _are_parts(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(p, Mapping) and ("type" in p or "text" in p) for p in content)


def _content(value: object, field: str) -> tuple[str, list[Picture | None], list[dict[str, Any]], list[str]]:
    """A turn's text with a mark for each picture; the pictures (None: the next of the row's column); calls; reasoning."""
    if value is None or isinstance(value, str):
        return value or "", [], [], []
    parts = [value] if isinstance(value, Mapping) else value
    if not isinstance(parts, list):
        raise RowError(field, f"is not text ({type(value).__name__})")
    pieces: list[str] = []
    pictures: list[Picture | None] = []
    called: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for index, part in enumerate(parts):
        where = f"{field}[{index}]"
        if not isinstance(part, Mapping):
            raise RowError(
                field, f"has parts that are not text (a {type(part).__name__}, not an object with type and text)"
            )
        kind = part.get("type") or next((k for k in ("text", "image", "image_url") if part.get(k) is not None), None)
        kind = kind if isinstance(kind, str) else None
        if kind in _TEXT:
            said = part.get("text")
            said = said.get("value") if isinstance(said, Mapping) else said
            if not isinstance(said, str):
                raise RowError(f"{where}.text", "is not text")
            pieces.append(said)
        elif kind == "refusal":
            pieces.append(text(part.get("refusal"), f"{where}.refusal"))
        elif kind in _IMAGE:
            pictures.append(_picture(part, where))
            pieces.append(MARK)
        elif kind in _THOUGHT:
            thoughts.append(_thought(part.get(kind, part.get("text")), where))
        elif kind in _CALL:
            called += calls(part, where)
        else:
            raise RowError(field, f"has parts that are not text, pictures, reasoning or tool calls ({str(kind)[:40]})")
    return "\n".join(pieces), pictures, called, [t for t in thoughts if t]


def _picture(part: Mapping[str, Any], field: str) -> Picture | None:
    kept = part.get("picture")
    if kept is None and any(
        part.get(k) is not None for k in ("image", "image_url", "url", "path", "base64", "source", "data")
    ):
        raise RowError(
            field, "is a picture inside a text, or of a file without a folder for pictures: it cannot be kept"
        )
    return kept if isinstance(kept, Picture) else None


def _pictured(
    said: str, parts: Sequence[Picture | None], item: Mapping[str, Any], role: Role, field: str
) -> tuple[str, tuple[str, ...]]:
    """The text of a turn and the ids of its own pictures; parts that stand for the row's pictures become <image> marks."""
    beside = next((item[k] for k in ("images", "image") if item.get(k)), None)
    if beside is not None:
        own = [p for p in (beside if isinstance(beside, list) else [beside]) if isinstance(p, Picture)]
        if not own or parts:
            raise RowError(
                f"{field}.images", "cannot be kept: no folder for pictures, or pictures among the parts as well"
            )
        marks = said.count(LITERAL)
        if marks not in (0, len(own)):
            raise RowError(f"{field}.images", counted(len(own), marks))
        return placed(said, LITERAL), tuple(p.id for p in own)
    known = [p.id for p in parts if p is not None]
    if known and len(known) == len(parts):
        return placed(said, MARK), tuple(known)
    if known:
        raise RowError(
            f"{field}.content", "has pictures of its own and of the row's column: which are which cannot be told"
        )
    if parts and role == "assistant":
        raise RowError(f"{field}.content", "has a picture of which the data is missing")
    return said.replace(MARK, LITERAL), ()


def calls(value: object, field: str) -> list[dict[str, Any]]:
    """Tool calls in the forms of OpenAI, ShareGPT, Anthropic or as JSON text, in OpenAI's form with arguments as an object.

    Arguments that are no JSON object stay the text that they are: a call that is broken is an answer that is wrong.
    """
    value = _parsed(value, field)
    if value in (None, "", [], {}):
        return []
    items = value if isinstance(value, list) else [value]
    return [_call(item, f"{field}[{i}]" if isinstance(value, list) else field) for i, item in enumerate(items)]


def _call(item: object, field: str) -> dict[str, Any]:
    item = _parsed(item, field)
    if not isinstance(item, Mapping):
        raise RowError(field, f"is not a tool call with a name and arguments ({type(item).__name__})")
    inner = item.get("function", item)
    if isinstance(inner, str):
        inner = {**item, "name": inner}
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(name, str) or not name:
        raise RowError(field, "is not a tool call with a name and arguments")
    given: Any = next((inner[k] for k in ("arguments", "parameters", "input", "args") if inner.get(k) is not None), {})
    known = {
        "id",
        "call_id",
        "tool_call_id",
        "type",
        "index",
        "function",
        "name",
        "arguments",
        "parameters",
        "input",
        "args",
    }
    extra = sorted(str(k) for m in (item, inner) for k, v in m.items() if k not in known and v is not None)
    if extra:
        raise RowError(field, f"has a field that is not kept with a tool call ({extra[0]})")
    if isinstance(given, str):
        try:
            made = json.loads(given or "{}")
        except (ValueError, RecursionError):
            made = given
        given = made if isinstance(made, dict) else given
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": given}}
    number = next((item[k] for k in ("id", "call_id", "tool_call_id") if item.get(k) is not None), None)
    return call if number is None else {"id": str(number), **call}


def _parsed(value: object, field: str) -> object:
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(field, f"is not valid JSON ({value[:40]!r})") from None


def tools(value: object, field: str) -> str:
    """The functions that may be called as canonical JSON text in OpenAI's form, "" for none."""
    value = _parsed(value, field)
    if value in (None, "", [], {}):
        return ""
    items = [_parsed(t, f"{field}[{i}]") for i, t in enumerate(value)] if isinstance(value, list) else [value]
    made = []
    for index, item in enumerate(items):
        inner = item.get("function", item) if isinstance(item, Mapping) else None
        if not isinstance(item, Mapping) or not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise RowError(f"{field}[{index}]", "is not a tool with a name")
        made.append(dict(item) if "function" in item else {"type": "function", "function": dict(item)})
    return canonical(made)


def row_tools(row: Row) -> str:
    """The tools that a row names for its whole conversation; `functions` is their old name."""
    named = [made for n in ("tools", "functions") if (made := tools(row.get(n), n))]
    if len(set(named)) > 1:
        raise RowError("tools/functions", "are two different lists of tools")
    return named[0] if named else ""
