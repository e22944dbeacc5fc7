"""The five preference attributes of a pair (paper A, section 3.2), by rules or by an LLM.

The paper gives no prompt and no schema, so both are ours: `prompts/attributes.md` asks for one JSON object, and what
does not parse is kept as an `AttributesProblem`, never guessed. Those by rules are `rules.py`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from assay.llm.batches import BatchServer
from assay.llm.chat import Chat, Request
from assay.llm.outage import Unreached, ask_all
from assay.llm.parsing import objects
from assay.llm.replies import Reply
from assay.records import Attributes, Conversation, Message, Pair, Response, tools_of

CATEGORIES = (
    "Information seeking", "Coding & Debugging", "Advice seeking", "Math", "Creative writing", "Reasoning",
    "Planning", "Data analysis", "Editing", "Role playing", "Brainstorming", "Other",
)  # fmt: skip
"""The twelve task categories of paper A3, Table 8 (the taxonomy of Magpie, Xu et al. 2024)."""
OBJECTIVITY = ("objective", "subjective")
CONTROVERSIALITY = ("low", "medium", "high")
MOST_DESIRED = 20
"""A list of more qualities than this is a model that repeats itself."""
SCHEMA = json.dumps({
    "type": "object", "additionalProperties": False,
    "required": ["category", "objectivity", "controversiality", "desired", "guideline"],
    "properties": {
        "category": {"type": "string", "enum": CATEGORIES}, "objectivity": {"type": "string", "enum": OBJECTIVITY},
        "controversiality": {"type": "string", "enum": CONTROVERSIALITY},
        "desired": {"type": "array", "maxItems": MOST_DESIRED, "items": {"type": "string", "maxLength": 300}},
        "guideline": {"type": "string", "maxLength": 2000},
    },
})  # fmt: skip
"""The form of an answer, for servers that can hold a model to one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesProblem:
    """Attributes that could not be had: the chat failed, or its answer was not the JSON that was asked for."""

    pair_id: str
    by: str
    problem: str


RetrieveBy = Literal["conversation", "attributes"]
"""What look-alikes are alike in: the conversation alone, or with it the attributes."""


def retrieval_text(pair: Pair, attributes: Attributes | None = None) -> str:
    """The text of a pair that is embedded for retrieval: never the responses. With `attributes` that of (x, a), as in
    paper A3, section 3.3, where LLMs give them; without, that of x, the conversation: rules know too little to be of help,
    or, where they know the very demands of a pool, too much.

    The template is ours. What the user asked last comes first, then the attributes, then the other turns from the latest
    back, so that an encoder's window cuts the oldest turns and never the question.
    """
    last = max((n for n, m in enumerate(pair.prompt) if m.role == "user"), default=len(pair.prompt) - 1)
    said = ((m.role, message_text(m)) for m in pair.prompt)
    told = [text if role == "user" else f"{role}: {text}" for role, text in said]
    question, others = told[last : last + 1], [t for n, t in enumerate(told) if n != last]
    known: tuple[str, ...] = ()
    if attributes is not None:
        kind = f"{attributes.category}, {attributes.objectivity}, {attributes.controversiality} controversiality"
        known = (f"Desired: {'; '.join(attributes.desired)}", attributes.guideline, kind)
    return "\n".join((*question, *known, *reversed(others)))


@cache
def prompt_text(name: str) -> str:
    """The text of `prompts/<name>.md`."""
    return resources.files("assay.curate").joinpath(f"prompts/{name}.md").read_text(encoding="utf-8")


def fill_prompt(name: str, fields: Mapping[str, str]) -> str:
    """The text of `prompts/<name>.md` with each {field} replaced; text that is filled in is not read again."""
    return re.sub(r"\{(\w+)\}", lambda m: fields.get(m[1], m[0]), prompt_text(name))


def fenced(tag: str, text: str) -> str:
    """`text` between <tag> and </tag>; a closing tag inside it is broken up, so that no text can end its own fence."""
    return f"<{tag}>\n{text.replace(f'</{tag}', f'< /{tag}')}\n</{tag}>"


def conversation_text(messages: Conversation) -> str:
    """Messages as people and judges read them: each under the name of its role, the tools that may be called first."""
    tools = tools_of(messages)
    first = [f"[tools]\n{json.dumps(tools, ensure_ascii=False)}"] if tools else []
    return "\n\n".join([*first, *(f"[{m.role}{f' {m.name}' if m.name else ''}]\n{message_text(m)}" for m in messages)])


def response_text(response: Response) -> str:
    """A response as people and judges read it: bare when it is one message."""
    if len(response.messages) > 1:
        return conversation_text(response.messages)
    return message_text(response.messages[0])


def message_text(message: Message) -> str:
    """What a message says: its text, behind its reasoning and before its tool calls where it has any."""
    before = [f"(reasoning)\n{message.reasoning}"] if message.reasoning else []
    after = [f"({name})\n{text}" for name, text in said_beside(message) if name != "reasoning"]
    return "\n\n".join([*before, *([message.content] if message.content or not before + after else []), *after])


def said_beside(message: Message) -> list[tuple[str, str]]:
    """(name, text) of what a message holds beside its text: reasoning, tool calls (one a line), what a tool answers to."""
    calls = json.loads(message.tool_calls) if message.tool_calls else []
    named = {
        "reasoning": message.reasoning,
        "tool calls": "\n".join(json.dumps(c.get("function", c), ensure_ascii=False) for c in calls),
        "answers the call": message.tool_call_id,
    }
    return [(name, text) for name, text in named.items() if text]


def attribute_request(pair: Pair) -> Request:
    """The chat request that asks an LLM for the attributes of `pair`; the responses stand in their canonical order."""
    first, second = (response_text(r) for r in pair.responses)
    fields = {
        "categories": ", ".join(CATEGORIES),
        "conversation": fenced("conversation", conversation_text(pair.prompt)),
        "responses": f"{fenced('response_1', first)}\n\n{fenced('response_2', second)}",
    }
    return Request(messages=(asking(pair, fill_prompt("attributes", fields)),), schema=SCHEMA)


def asking(pair: Pair, text: str) -> Message:
    """A user's message about a pair, with the pictures that belong to it."""
    return Message(role="user", content=text, images=tuple(dict.fromkeys(i for m in pair.turns for i in m.images)))


def llm_attributes(chat: Chat, pairs: Sequence[Pair]) -> list[Attributes | AttributesProblem]:
    """The attributes of each pair by one LLM, in order; what it answered wrongly comes back as a problem with a reason.

    Raises Unreached, with all that came in the cache, where the server did not answer.
    """
    if isinstance(chat, BatchServer):  # all at once: a batch takes hours, however small it is
        chat.complete([attribute_request(p) for p in pairs])
    replies = ask_all(chat, (attribute_request(p) for p in pairs))
    return [_read_reply(p, r, f"llm:{chat.name}") for p, r in zip(pairs, replies, strict=True)]


def _described(chat: Chat, pairs: Sequence[Pair]) -> list[Attributes | AttributesProblem] | Unreached:
    try:
        return llm_attributes(chat, pairs)
    except Unreached as failed:
        return failed


def ask_ahead(chats: Sequence[Chat], pairs: Sequence[Pair]) -> None:
    """Ask the chats that answer in providers' batches about all pairs that are dealt to them first."""
    waiting = [
        (c, [attribute_request(p) for p in pairs if dealt(p, 0, len(chats)) == n])
        for n, c in enumerate(chats) if isinstance(c, BatchServer)
    ]  # fmt: skip
    with ThreadPoolExecutor(max(1, len(waiting))) as pool:
        list(pool.map(lambda asked: asked[0].complete(asked[1]), waiting))


def dealt(pair: Pair, turn: int, count: int) -> int:
    """Which of `count` models a pair goes to in this turn."""
    return (int(pair.id[:8], 16) + turn) % count


def shared_attributes(
    chats: Sequence[Chat], pairs: Sequence[Pair]
) -> tuple[dict[str, Attributes], list[AttributesProblem]]:
    """The pairs dealt out over several LLMs, by content; what one cannot describe goes to the next. By pair id; pairs that
    are missing were beyond all of them, and every failure on the way is among the problems. What a server did not answer
    goes to no other, or an outage would decide who describes a pair: it raises Unreached."""
    found: dict[str, Attributes] = {}
    problems: list[AttributesProblem] = []
    for turn in range(len(chats)):
        parts: list[list[Pair]] = [[] for _ in chats]
        for pair in (p for p in pairs if p.id not in found):
            parts[dealt(pair, turn, len(chats))].append(pair)
        with ThreadPoolExecutor(len(chats)) as pool:
            told = list(pool.map(_described, chats, parts))
        if losses := [loss for t in told if isinstance(t, Unreached) for loss in t.losses]:
            raise Unreached(losses)
        for answer in (a for t in told if not isinstance(t, Unreached) for a in t):
            if isinstance(answer, Attributes):
                found[answer.pair_id] = answer
            else:
                problems.append(answer)
    return found, problems


def _read_reply(pair: Pair, reply: Reply, by: str) -> Attributes | AttributesProblem:
    if reply.problem:
        return AttributesProblem(pair_id=pair.id, by=by, problem=reply.problem)
    try:
        return parse_attributes(pair.id, reply.text, by)
    except ValueError as error:
        return AttributesProblem(pair_id=pair.id, by=by, problem=f"unparsable: {error}")


def parse_attributes(pair_id: str, text: str, by: str) -> Attributes:
    """Attributes from an LLM's answer: the one JSON object in it that has all five fields. Raises ValueError with the
    reason; two such objects that differ are one."""
    found = objects(text)
    if found is None:
        raise ValueError("a thought that does not end")
    fields = set(json.loads(SCHEMA)["required"])
    told = [one.data for one in found if one.whole or fields <= one.data.keys()]
    if not told or any(data != told[0] for data in told):
        raise ValueError("two answers that differ" if told else "no JSON object with all fields")
    data = told[0]
    desired, guideline = data.get("desired"), data.get("guideline")
    if not isinstance(desired, list) or not desired or not all(isinstance(d, str) and d.strip() for d in desired):
        raise ValueError("`desired` must be a list of texts")
    if len(desired) > MOST_DESIRED:
        raise ValueError(f"`desired` has more than {MOST_DESIRED} texts")
    if not isinstance(guideline, str) or not guideline.strip():
        raise ValueError("`guideline` must be a text")
    return Attributes(
        pair_id=pair_id,
        category=_one_of(data, "category", CATEGORIES),
        objectivity=_one_of(data, "objectivity", OBJECTIVITY),
        controversiality=_one_of(data, "controversiality", CONTROVERSIALITY),
        desired=tuple(d.strip() for d in desired),
        guideline=guideline.strip(),
        by=by,
    )


def _one_of(data: dict[str, object], field: str, allowed: tuple[str, ...]) -> str:
    value = data.get(field)
    match = next((a for a in allowed if isinstance(value, str) and a.lower() == value.strip().lower()), None)
    if match is None:
        raise ValueError(f"`{field}` is {value!r}, not one of {', '.join(allowed)}")
    return match
