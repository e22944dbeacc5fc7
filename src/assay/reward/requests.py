"""Bodies of requests to the reward server -> conversations, texts or token ids, each with its place; or what is wrong where.

Nothing is dropped that would change a reward: content in parts, tool calls and reasoning are read, the rest is refused.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, cast

from assay.records import Conversation, Message, Role, assistant, user

Body = dict[str, Any]
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
DEPTH = 64
"""Levels of nesting that a body may have."""
UNSUPPORTED = (
    "chat_template", "continue_final_message", "add_generation_prompt", "add_special_tokens",
    "dimensions", "instruction",
)  # fmt: skip
"""What vLLM's requests may ask for, would change a reward, and is not done here."""
IGNORED = frozenset({"audio", "function_call", "images", "image", "videos", "video", "documents"})
"""What a turn may carry in other APIs and would change it: refused, unless empty."""


class Refused(Exception):
    """A request that is answered with a status and a reason."""

    def __init__(self, status: int, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.after_s = status, reason, after_s


def wrong(where: str, what: str) -> NoReturn:
    raise Refused(422, f"{where}: {what}")


@dataclass(frozen=True, slots=True)
class Given:
    """What is to be scored: conversations, and where in the request each stands. What came as rendered `texts` or token
    `ids` has but a key for a conversation, by which answers to one prompt are scored together."""

    conversations: list[Conversation]
    places: list[str]
    texts: list[str] | None = None
    ids: list[list[int]] | None = None
    room: int | None = None
    """At most so many tokens of each are to be read (None: as many as the server reads)."""


def parsed(raw: bytes) -> Body:
    """The JSON object of a body, whatever its Content-Type says."""

    def number(name: str) -> NoReturn:
        wrong("body", f"{name} is no JSON")

    try:
        body = json.loads(raw.decode(), parse_constant=number)
    except UnicodeDecodeError as error:
        wrong("body", f"is not UTF-8 (byte {error.start})")
    except RecursionError:
        wrong("body", "is nested too deeply")
    except ValueError as error:
        wrong("body", f"is not JSON ({str(error)[:100]})")
    if not isinstance(body, dict):
        wrong("body", f"must be a JSON object, not {_kind(body)}")
    level, todo = 0, list[Any]([body])
    while todo:
        level += 1
        if level > DEPTH:
            wrong("body", f"is nested more than {DEPTH} levels deep")
        todo = [
            x for value in todo for x in (value.values() if isinstance(value, dict) else value)
            if isinstance(x, dict | list)
        ]  # fmt: skip
    return body


def known(body: Body, *names: str) -> None:
    """Refuse fields that an endpoint of ours does not know."""
    for name in body:
        if name not in (*names, "model"):
            wrong(str(name)[:40], f"is not known here; this endpoint takes {', '.join(names)}")
    if not isinstance(body.get("model") or "", str):
        wrong("model", "must be a name")


# Pieces


def text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        wrong(where, f"must be a text, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        wrong(where, f"character {error.start + 1} is half of a surrogate pair")
    return value


def items(value: Any, where: str, read: Callable[[Any, str], Any], empty: bool = False) -> list[Any]:
    if not isinstance(value, list):
        wrong(where, f"must be a list, not {_kind(value)}")
    if not value and not empty:
        wrong(where, "is an empty list")
    return [read(x, f"{where}[{i}]") for i, x in enumerate(value)]


def texts(value: Any, where: str) -> tuple[list[str], list[str]]:
    """One text or several, and their places."""
    if isinstance(value, list):
        return items(value, where, text), [f"{where}[{i}]" for i in range(len(value))]
    return [text(value, where)], [where]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _content(value: Any, where: str, may_lack: bool) -> str:
    """A turn's text; parts of text are joined by line breaks, as vLLM does."""
    if value is None and may_lack:
        return ""
    if not isinstance(value, list):
        return text(value, where)

    def part(value: Any, where: str) -> str:
        if isinstance(value, str):
            return text(value, where)
        if not isinstance(value, dict):
            wrong(where, f"must be a part with type and text, not {_kind(value)}")
        kind = value.get("type", "text")
        if kind not in ("text", "input_text", "output_text", "refusal"):
            wrong(where, f"is of type {str(kind)[:40]}; this server reads text")
        return text(value.get("refusal" if kind == "refusal" else "text"), f"{where}.text")

    return "\n".join(items(value, where, part, empty=may_lack))


def _json(value: Any, where: str) -> str:
    """Canonical JSON of a list of objects that each name a function."""

    def named(value: Any, where: str) -> Body:
        function = value.get("function", value) if isinstance(value, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            wrong(where, "must name a function")
        return cast(Body, value)

    made = json.dumps(items(value, where, named), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text(made, where)


def turn(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        wrong(where, f"must be a turn with role and content, not {_kind(value)}")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        wrong(f"{where}.role", f"must be one of {', '.join(ROLES)}")
    for name in sorted(IGNORED & value.keys()):
        if value[name]:
            wrong(f"{where}.{name}", "is not read by this server")
    calls = _json(value["tool_calls"], f"{where}.tool_calls") if value.get("tool_calls") else ""
    if calls and role != "assistant":
        wrong(f"{where}.tool_calls", f"are of the role {role}: only an assistant calls tools")
    thoughts = [text(v, f"{where}.{n}") for n in ("reasoning_content", "reasoning") if (v := value.get(n)) is not None]
    if len(set(thoughts)) > 1:
        wrong(f"{where}.reasoning", "is another text than reasoning_content")
    if "content" not in value and not (calls or thoughts):
        wrong(f"{where}.content", "is missing")
    call, name = (text(value.get(n) or "", f"{where}.{n}") for n in ("tool_call_id", "name"))
    said = _content(value.get("content"), f"{where}.content", may_lack=bool(calls or thoughts))
    return Message(
        role=ROLES[role], content=said, tool_calls=calls, reasoning=thoughts[0] if thoughts else "", tool_call_id=call,
        name=name,
    )  # fmt: skip


def turns(value: Any, where: str, tools: Any = None) -> Conversation:
    said = tuple(items(value, where, turn))
    if tools:
        said = (replace(said[0], tools=_json(tools, "tools")), *said[1:])
    return said


# Bodies


def whole(value: Any, where: str, tools: Any = None) -> Conversation:
    """A conversation that ends with the assistant's turn, which is scored."""
    said = turns(value, where, tools)
    if said[-1].role != "assistant":
        wrong(where, "must end with the assistant's turn")
    return said


def conversations(body: Body) -> Given:
    """Of /v1/score: whole conversations, or one prompt with its responses."""
    known(body, "conversations", "prompt", "responses", "tools")
    given = {n for n in ("conversations", "prompt", "responses") if body.get(n) is not None}
    if given not in ({"conversations"}, {"prompt", "responses"}):
        raise Refused(422, "give either conversations, or prompt and responses")
    if "prompt" in given:
        return answered({k: v for k, v in body.items() if k != "conversations"})
    chats = items(body["conversations"], "conversations", lambda v, w: whole(v, w, body.get("tools")))
    return Given(chats, [f"conversations[{i}]" for i in range(len(chats))])


def answered(body: Body) -> Given:
    """One prompt (text or turns) with each of its responses (texts, or assistant's turns)."""
    known(body, "prompt", "responses", "tools")
    if isinstance(body.get("prompt"), str):
        said = text(body["prompt"], "prompt")
        history = turns([{"role": "user", "content": said}], "prompt", body.get("tools"))
    else:
        history = turns(body.get("prompt"), "prompt", body.get("tools"))
    if history[-1].role not in ("user", "tool"):
        wrong("prompt", "must end with the user's turn")

    def response(value: Any, where: str) -> Message:
        if not isinstance(value, dict):
            return assistant(text(value, where))
        said = turn(value, where)
        return said if said.role == "assistant" else wrong(f"{where}.role", "must be assistant")

    answers = items(body.get("responses"), "responses", response)
    return Given([(*history, r) for r in answers], [f"responses[{i}]" for i in range(len(answers))])


def paired(body: Body) -> Given:
    """vLLM's score request: `text_1` and `text_2`, or `queries` and `documents`; one with many, or as many with as many."""
    names = [n for n in (("text_1", "text_2"), ("queries", "documents")) if any(k in body for k in n)]
    if len(names) != 1:
        raise Refused(422, "give text_1 and text_2, or queries and documents")
    most = room(body)
    (first, _), (second, places) = (texts(body.get(n), n) for n in names[0])
    if len(first) not in (1, len(second)):
        wrong(names[0][0], f"has {len(first):,} texts for {len(second):,} of {names[0][1]}; give one, or as many")
    asked = first * len(second) if len(first) == 1 else first
    return Given([(user(q), assistant(a)) for q, a in zip(asked, second, strict=True)], places, room=most)


def pooled(body: Body, vocabulary: int) -> Given:
    """vLLM's /pooling and /classify, SGLang's /classify: a chat, rendered texts, or token ids."""
    most = room(body)
    given = [n for n in ("messages", "input", "text") if body.get(n) is not None]
    if len(given) != 1:
        raise Refused(422, "give input, text or messages" + (f", not {' and '.join(given)}" if given else ""))
    where, value = given[0], body[given[0]]
    if where == "messages":
        return Given([whole(value, where, _tools(body))], [where], room=most)
    rows = value if isinstance(value, list) else [value]
    if rows and not isinstance(rows[0], str):
        single = not isinstance(rows[0], list)
        ids = [_ids(value, where, vocabulary)] if single else items(value, where, lambda v, w: _ids(v, w, vocabulary))
        places = [where] if single else [f"{where}[{i}]" for i in range(len(ids))]
        return Given(
            [(user(f"{w} {i}"), assistant("")) for w, i in zip(places, ids, strict=True)], places, ids=ids, room=most
        )
    said, places = texts(value, where)
    return Given([(user(t), assistant(t)) for t in said], places, texts=said, room=most)


def _ids(value: Any, where: str, vocabulary: int) -> list[int]:
    def token(value: Any, where: str) -> int:
        if type(value) is not int:
            wrong(where, f"must be a text or a token id, not {_kind(value)}")
        if not 0 <= value < vocabulary:
            wrong(where, f"is no token id of this model, which has {vocabulary:,}")
        return value

    return cast(list[int], items(value, where, token))


def queries(body: Body) -> Given:
    """OpenRLHF's: rendered texts, and the prompts that they answer, by which they are scored together."""
    if not isinstance(body.get("query"), list):
        wrong("query", "must be a list of texts")
    said, places = texts(body["query"], "query")
    prompts = said if body.get("prompts") is None else texts(body["prompts"], "prompts")[0]
    if len(prompts) != len(said):
        wrong("prompts", f"are {len(prompts):,} for {len(said):,} texts of query")
    return Given([(user(p), assistant(t)) for p, t in zip(prompts, said, strict=True)], places, texts=said)


def room(body: Body) -> int | None:
    """The tokens that vLLM's request wants to be read of each conversation (None: as many as the server reads).

    Raises Refused for options that would change the reward and are not supported here.
    """
    for name in UNSUPPORTED:
        if body.get(name):
            wrong(name, "is not supported by this server")
    if body.get("encoding_format") not in (None, "float"):
        wrong("encoding_format", "must be float")
    most, side = body.get("truncate_prompt_tokens"), body.get("truncation_side")
    if side not in (None, "left"):
        wrong("truncation_side", "must be left: what is too long loses its front here")
    if most is None or (type(most) is int and most == -1):
        return None
    if type(most) is not int or most < 1:
        wrong("truncate_prompt_tokens", "must be a number above 0, or -1 for the model's length")
    if side is None:
        wrong("truncation_side", "must be left beside truncate_prompt_tokens (vLLM's default is the right)")
    return most


def _tools(body: Body) -> Any:
    """The functions that may be called: beside the messages, or where vLLM's /pooling takes them."""
    named = body.get("chat_template_kwargs")
    if not named:
        return body.get("tools")
    if not isinstance(named, dict) or set(named) != {"tools"}:
        wrong("chat_template_kwargs", "is not supported by this server, but for tools")
    return named["tools"]


def activated(body: Body) -> bool:
    """Does the request ask for the sigmoid of the reward, by any of the names that vLLM has had for it?"""
    told = {}
    for name in ("use_activation", "activation", "softmax"):
        if body.get(name) is not None:
            if not isinstance(body[name], bool):
                wrong(name, f"must be true or false, not {_kind(body[name])}")
            told[name] = body[name]
    if len(set(told.values())) > 1:
        wrong(" and ".join(told), "say different things")
    return next(iter(told.values()), False)


def printable(reason: str) -> str:
    """A reason that any client can read, whatever it quotes of a request."""
    return re.sub(r"[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", reason)


def check_lengths(given: Given, ids: Sequence[Sequence[int]]) -> None:
    """Refuse what has no token: no reward can be read there."""
    for where, row in zip(given.places, ids, strict=True):
        if not row:
            wrong(where, "has no token")
