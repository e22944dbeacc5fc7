"""From the texts and message lists that data sets hold to conversations, and from two of those to a pair.

Every function raises `RowError` with the field that is wrong; nothing is repaired by guessing. What a row says beside its
prompt and responses and what changes their meaning (system text, tools, history, pictures) is kept, or the row is refused.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from assay.formats.pictures import LITERAL, shown
from assay.formats.rows import Row, RowError, text
from assay.formats.turns import ROLES, is_message, messages, row_tools, tools, unweighted
from assay.records import Conversation, Message, Pair, Response, Role, assistant, user

_FIRST_TURN = re.compile(r"\s*(?:#+ ?)?(Human|User|Assistant|System):")
_TURN = re.compile(r"\n\s*\n(?:#+ ?)?(Human|User|Assistant|System):")
_EXTRA_ID = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
_TEMPLATE = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*"
    r"(\[INST\]|<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|(?:user|system|prompter|assistant)\|>|<｜User｜>)"
)
_NOT_JSON = re.compile(
    r"\s*\[?\s*\{\s*(?:'(?:role|content|from|value|messages)'|\"(?:role|messages|conversations)\")\s*:"
)
PROMPTS = (
    "prompt", "instruction", "question", "query", "context", "history", "input", "conversation_input", "messages",
    "conversation", "conversations", "post", "problem", "info",
)  # fmt: skip
"""Names of the field that holds the conversation so far, in the order in which they are looked for."""
SYSTEM = ("system", "system_prompt", "system_message")
WRAPPED = ("messages", "conversations", "conversation")
_UNKEPT = {
    "videos": "video", "video": "video", "audios": "sound", "audio": "sound",
    "rejected_images": "pictures of its own for one answer",
    "objects": "boxes in pictures",
    "documents": "documents for the chat template", "chat_template_kwargs": "settings of the chat template",
}  # fmt: skip

MEANING = frozenset({*PROMPTS, *SYSTEM, *_UNKEPT, "tools", "functions", "weight"})
"""The fields beside two responses that shape the pair of them, or forbid it; pictures are apart (`pictures.COLUMNS`)."""


def transcript(value: str) -> Conversation | None:
    """The turns of an HH-style "Human: ... Assistant: ..." text (webgpt's "## Human:" too), or None for other text.

    A last turn that is empty ("...\\n\\nAssistant:") marks where the response begins and is left out. HelpSteer2's turns
    begin with <extra_id_1>. Raises RowError for text that a chat template has already been applied to.
    """
    if (found := _TEMPLATE.match(value)) is not None:
        raise RowError("", f"holds a chat template's own marks: give the messages instead ({found[1]})")
    said = spoken(value)
    return None if said is None else tuple(Message(role=role, content=content) for role, content in said)


def spoken(value: str) -> list[tuple[Role, str]] | None:
    """The (role, text) of a transcript, or None for other text; `transcript` without a look at a template's marks."""
    if "<extra_id_1>" in value:
        turns = _EXTRA_ID.split(value)
        roles = ("User", *turns[1::2])
        said = [(ROLES[r.lower()], t.strip()) for r, t in zip(roles, turns[::2], strict=True)]
        said = said if len(said) > 1 else _marked(value)
    else:
        said = _marked(value) if "Assistant:" in value else []
    if not said:
        return None
    if said[-1] == ("assistant", ""):
        said.pop()
    for index, (role, content) in enumerate(said):
        if not content:
            raise RowError("", f"a turn of the dialogue is empty (turn {index + 1}, {role})")
    return said


def _marked(value: str) -> list[tuple[Role, str]]:
    """The turns of a text that begins with a speaker's mark, with an empty line before each further one; none of another."""
    mark = _FIRST_TURN.match(value)
    if mark is None:
        return []
    first, *more = _TURN.split(value[mark.end() :])
    roles = [mark[1], *more[::2]]
    if "Assistant" not in roles:
        return []
    return [(ROLES[r.lower()], said.strip()) for r, said in zip(roles, [first, *more[1::2]], strict=True)]


def decoded(value: object, field: str) -> object:
    """Messages that a CSV or Parquet cell holds as JSON text are those messages; all else is itself."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        if _NOT_JSON.match(value):
            raise RowError(
                field, f"looks like messages as text, and is not JSON: write it as JSON ({value[:40]!r})"
            ) from None
        return value
    inside = next((parsed[k] for k in WRAPPED if k in parsed), parsed) if isinstance(parsed, dict) else parsed
    listed = isinstance(inside, list) and bool(inside) and all(map(is_message, inside))
    return parsed if listed or is_message(inside) else value


def _unwrapped(value: object, field: str) -> tuple[object, str]:
    """The messages of {"messages": ..., "tools": ...} (OpenAI's preference files), and its tools."""
    if not isinstance(value, Mapping) or is_message(value):
        return value, ""
    name = next((k for k in WRAPPED if k in value), None)
    if name is None:
        return value, ""
    return value[name], tools(value.get("tools", value.get("functions")), f"{field}.tools")


def empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


class _Prompt:
    """The conversation so far, the fields that it was made from, and the tools that were named with it."""

    def __init__(self, row: Row, taken: tuple[str, ...] = ()) -> None:
        names = [n for n in PROMPTS if n not in taken and not empty(row.get(n))]
        self.name = next((n for n in names if n != "history"), names[0] if names else "")
        self.fields = {self.name}
        self.tools = ""
        self.messages: Conversation = ()
        if not self.name:
            return
        value, self.tools = _unwrapped(decoded(row[self.name], self.name), self.name)
        if (
            self.name == "instruction"
            and isinstance(value, str)
            and isinstance(row.get("input"), str)
            and row["input"].strip()
        ):
            value = f"{value}\n\n{row['input']}"
            self.fields.add("input")
        self.messages = _so_far(value, self.name)
        if self.name != "history" and "history" in names:
            self.fields.add("history")
            self.messages = _after(_history(row["history"]), self.messages)


def _so_far(value: object, name: str) -> Conversation:
    if isinstance(value, Mapping) and ("replies" in value or "message_tree_id" in value):
        raise RowError(name, "is a tree of replies: make a row of each two rival replies first")
    if isinstance(value, Mapping) and "full_text" in value:
        value = value["full_text"]
    if name == "info" and isinstance(value, Mapping):
        value = _summary_of(value)
    if isinstance(value, str):
        try:
            return transcript(value) or (user(text(value, name)),)
        except RowError as error:
            raise RowError(error.field or name, error.reason) from error
    return messages(value, name)


def _summary_of(info: Mapping[str, Any]) -> str:
    """The prompt of OpenAI's summaries (Stiennon et al. 2020, appendix B.2): a post of Reddit, or an article."""
    if not empty(info.get("article")):
        return f"Article: {text(info['article'], 'info.article')}\n\nTL;DR:"
    post = text(info.get("post"), "info.post")
    return f"SUBREDDIT: r/{info.get('subreddit') or ''}\n\nTITLE: {info.get('title') or ''}\n\nPOST: {post}\n\nTL;DR:"


def _history(value: object) -> Conversation:
    """Earlier turns: [[question, answer], ...] (LLaMA-Factory, ms-swift), messages, or a transcript."""
    value = decoded(value, "history")
    if isinstance(value, str):
        if value.lstrip().startswith("[["):
            try:
                value = json.loads(value)
            except ValueError:
                raise RowError("history", "is not valid JSON") from None
        elif (turns := transcript(value)) is not None:
            return turns
        else:
            raise RowError("history", "is a text beside the prompt, and not a list of earlier turns")
    if isinstance(value, list) and value and all(isinstance(t, list | tuple) for t in value):
        said: list[Message] = []
        for index, turn in enumerate(value):
            if len(turn) != 2:
                raise RowError(f"history[{index}]", f"is not a question and its answer ({len(turn)} texts)")
            said += [user(text(turn[0], f"history[{index}][0]")), assistant(text(turn[1], f"history[{index}][1]"))]
        return tuple(said)
    return messages(value, "history")


def _after(earlier: Conversation, now: Conversation) -> Conversation:
    """`now` with the earlier turns before it, behind its system turn; unless it begins with them already."""
    system = now[:1] if now and now[0].role == "system" else ()
    rest = now[len(system) :]
    if rest[: len(earlier)] == earlier or now[: len(earlier)] == earlier:
        return now
    if system and earlier[0].role == "system":
        raise RowError("history", "has a system turn, and so has the prompt")
    return (*system, *earlier, *rest)


def prompt_of(row: Row) -> Conversation | None:
    """The conversation so far, history included, or None where the row has no field for it (or an empty one)."""
    return _Prompt(row).messages or None


def system_first(row: Row, conversation: Conversation) -> Conversation:
    """The conversation with the row's system text before it. Raises RowError where it has another system turn already."""
    given = [(n, row[n]) for n in SYSTEM if not empty(row.get(n))]
    if not given:
        return conversation
    name, said = given[0][0], text(given[0][1], given[0][0])
    if any(other != said for _, other in given):
        raise RowError("/".join(n for n, _ in given), "are two different system texts")
    if conversation and conversation[0].role == "system":
        if conversation[0].content.strip() != said.strip():
            raise RowError(name, "differs from the system turn of the conversation")
        return conversation
    return (Message(role="system", content=said), *conversation)


def with_tools(conversation: Conversation, found: str, field: str = "tools") -> Conversation:
    """The conversation with the tools that it may call on its first message."""
    there = next((m.tools for m in conversation if m.tools), "")
    if not found or there == found:
        return conversation
    if there:
        raise RowError(field, "are other tools than the conversation names itself")
    return (replace(conversation[0], tools=found), *conversation[1:])


def turns(value: object, field: str) -> Conversation:
    """A response as messages: plain text is one assistant turn; a dialogue or a message list is itself."""
    value, _ = _unwrapped(decoded(value, field), field)
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
    refuse_unkept(row)
    tails = turns(one, fields[0]), turns(other, fields[1])
    for tail, field in zip(tails, fields, strict=True):
        if tail[-1].role != "assistant":
            what = "has the role" if len(tail) == 1 else "ends with a turn of the role"
            raise RowError(field, f'{what} "{tail[-1].role}"; a response is the assistant\'s')
    prompt, whole = None, tails
    if any(tail[0].role in ("assistant", "tool") for tail in tails):
        prompt = _Prompt(row, tuple(f for f in fields if f in row))
        if not prompt.messages:
            raise RowError(
                "prompt",
                "is missing or empty, and the responses do not hold the conversation; --map prompt=COLUMN names it",
            )
        before = _without_answer(prompt, tails)
        whole = _joined(before, tails[0]), _joined(before, tails[1])
    found = [_unwrapped(decoded(v, f), f)[1] for v, f in zip((one, other), fields, strict=True)]
    named = {t for t in (row_tools(row), prompt.tools if prompt else "", *found) if t}
    if len(named) > 1:
        raise RowError("tools", "are not the same everywhere in the row")
    first, second = (shown(with_tools(system_first(row, c), next(iter(named), "")), row) for c in whole)
    pair, ids = _parted(first, second, fields)
    several = any(len(r.messages) > 1 for r in pair.responses)
    for value, field in zip((one, other), fields, strict=True):
        if flag := unweighted(_unwrapped(decoded(value, field), field)[0], last_only=not several):
            raise RowError(field, f"has a turn that is left out of training, which pairs here do not know ({flag})")
    _nothing_lost(row, prompt.fields if prompt else set(), fields, pair)
    return pair, ids


def refuse_unkept(row: Row) -> None:
    """Raise RowError for columns that change the meaning of a row and that a pair cannot keep."""
    for name, what in () if _UNKEPT.keys().isdisjoint(row) else _UNKEPT.items():
        if not empty(row.get(name)):
            raise RowError(name, f"holds {what}, which a pair cannot keep")
    weight = row.get("weight")
    if isinstance(weight, int | float) and weight != 1:
        raise RowError("weight", f"is a weight of the row, which a pair cannot keep ({weight})")


def _without_answer(prompt: _Prompt, tails: tuple[Conversation, Conversation]) -> Conversation:
    """The prompt; where it ends with one of the two answers (the same conversation, told whole), without that."""
    last = prompt.messages[-1]
    if last.role != "assistant" or (last.tool_calls and all(t[0].role == "tool" for t in tails)):
        return prompt.messages
    if any(len(t) == 1 and t[0].content == last.content for t in tails) and len(prompt.messages) > 1:
        return prompt.messages[:-1]
    raise RowError(prompt.name, "ends with an assistant's turn that is neither of the responses")


def _joined(prompt: Conversation, tail: Conversation) -> Conversation:
    return tail if tail[0].role in ("user", "system") else (*prompt, *tail)


def _parted(first: Conversation, second: Conversation, fields: tuple[str, str]) -> tuple[Pair, tuple[str, str]]:
    shared = _shared(first, second)
    if shared == len(first) == len(second):
        raise RowError("/".join(fields), "hold the same response twice")
    prompt = first[:shared]
    if not any(m.role == "user" for m in prompt):
        apart = {c[shared].role for c in (first, second) if len(c) > shared}
        why = "have different system turns" if apart == {"system"} else "answer different prompts"
        raise RowError("/".join(fields), why)
    ids = (_response(first[shared:], fields[0]), _response(second[shared:], fields[1]))
    return Pair.of(prompt, *ids), (ids[0].id, ids[1].id)


def _shared(first: Conversation, second: Conversation) -> int:
    """How many messages the two have in common from the start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _response(tail: Conversation, field: str) -> Response:
    if not tail:
        raise RowError(field, "is only the beginning of the other conversation")
    return Response(messages=tail)


def _nothing_lost(row: Row, used: set[str], fields: tuple[str, str], pair: Pair) -> None:
    """Raise RowError where another field for a prompt says what the pair does not."""
    left = [n for n in PROMPTS if n not in fields and n not in used and not empty(row.get(n))]
    if not used:  # a conversation beside two whole ones is where they came from, or an example for another training
        left = [n for n in left if n not in WRAPPED]
    if not left:
        return
    said = (m.content for part in (pair.prompt, *(r.messages for r in pair.responses)) for m in part)
    held = " ".join(" ".join(said).split())
    for name in left:
        texts = (t.replace(LITERAL, " ") for t in _texts(row[name], name))
        lost = next((t for t in texts if " ".join(t.split()) not in held), None)
        if lost is not None:
            raise RowError(
                name, f"says what the prompt does not: map it, or leave it out with --ignore {name} ({lost[:60]!r})"
            )


def _texts(value: object, name: str) -> Iterator[str]:
    """All that a field says: the turns of messages and transcripts, else every text in it."""
    value = decoded(value, name)
    if isinstance(value, str):
        turns = transcript(value) if not _TEMPLATE.match(value) else None
        yield from (m.content for m in turns) if turns else (value,)
    elif isinstance(value, Mapping):
        if is_message(value):
            yield from (m.content for m in messages(value, name))
        elif "full_text" in value:
            yield str(value["full_text"])
        else:
            for inner in value.values():
                yield from _texts(inner, name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, name)
