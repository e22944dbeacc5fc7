"""One row of any annotation tool's file: a pair in a shown order, what is known of it, and judgements about it.

`interchange` writes and reads files of them; each tool's form of a row is a module of its own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.curate.attributes import response_text
from assay.formats.turns import canonical
from assay.records import Attributes, Case, Judgement, Message, Pair, Response, user


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one row of any format holds: a pair in a shown order, its attributes if known, and judgements about it."""

    pair: Pair
    shown: tuple[str, str]
    attributes: Attributes | None
    judgements: tuple[Judgement, ...] = ()


class RowProblem(Exception):
    """Why one row (or one judgement in it) cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a reader may lean on: pairs by id, names of annotators by the other tool's ids, and where problems go."""

    cases: Mapping[str, Case]
    users: Mapping[str, str]
    problem: Callable[[str], None]


def checked(judgement: Judgement, pair: Pair, context: Context) -> bool:
    """Whether a judgement names responses of its pair; if not, that is a problem."""
    ids = {r.id for r in pair.responses}
    fits = judgement.better in (None, *ids) and set(judgement.shown) <= ids
    if not fits:
        context.problem(f"the judgement by {judgement.by} names a response that pair {pair.id} does not have")
    return fits


def shown_texts(entry: Entry) -> tuple[str, str]:
    """The responses as text in the order shown; one of several turns as a transcript."""
    first, second = (entry.pair.response(i) for i in entry.shown)
    return response_text(first), response_text(second)


def identify(
    ids: Mapping[str, Any], prompt: object, texts: Sequence[object], context: Context
) -> tuple[Pair, tuple[str, str]]:
    """The pair of a row of another tool, and its responses' ids in the order shown.

    With `pair_id`, `response_1_id` and `response_2_id` in `ids`: the known pair of that id, or the one made from the texts
    if its id is the same. Without them: the pair made from the texts. Raises RowProblem when the row is neither.
    """
    pair_id = ids.get("pair_id")
    shown = (str(ids.get("response_1_id", "")), str(ids.get("response_2_id", "")))
    if isinstance(pair_id, str) and pair_id in context.cases:
        pair = context.cases[pair_id].pair
        if {*shown} != {r.id for r in pair.responses}:
            raise RowProblem(f"response_1_id and response_2_id are not those of pair {pair_id}")
        return pair, shown
    pair, made = _from_texts(prompt, texts)
    if pair_id and pair.id != pair_id:
        raise RowProblem(f"pair {pair_id} is not known here, and the texts give another ({pair.id}): they were changed")
    return pair, made


def _from_texts(prompt: object, texts: Sequence[object]) -> tuple[Pair, tuple[str, str]]:
    if not all(isinstance(t, str) and t.strip() for t in texts) or len(texts) != 2:
        raise RowProblem("needs two responses as text")
    one, other = (Response.of(str(t)) for t in texts)
    if one.id == other.id:
        raise RowProblem("the two responses are identical")
    return Pair.of(_conversation(prompt), one, other), (one.id, other.id)


def _conversation(prompt: object) -> tuple[Message, ...]:
    if isinstance(prompt, str) and prompt.strip():
        return (user(prompt),)
    if isinstance(prompt, list) and prompt:
        try:
            return tuple(_message(m) for m in prompt)
        except (KeyError, TypeError, AttributeError) as error:
            raise RowProblem("its prompt is not a list of messages with role and content") from error
    raise RowProblem("has no prompt")


def _message(turn: Mapping[str, Any]) -> Message:
    """One turn of `chat`."""
    calls, tools = (canonical(turn[k]) if turn.get(k) else "" for k in ("tool_calls", "tools"))
    return Message(
        role=turn["role"], content=turn["content"], images=tuple(turn.get("images", ())),
        reasoning=str(turn.get("reasoning_content") or ""), tool_calls=calls, tools=tools,
        tool_call_id=str(turn.get("tool_call_id") or ""), name=str(turn.get("name") or ""),
    )  # fmt: skip


def chat(pair: Pair) -> list[dict[str, object]]:
    """The prompt as other tools take chats, with what else its turns carry."""
    return [
        {
            **m.chat(),
            **({"images": list(m.images)} if m.images else {}),
            **({"tools": json.loads(m.tools)} if m.tools else {}),
        }
        for m in pair.prompt
    ]


def labels(attributes: Attributes | None) -> dict[str, str]:
    """Attributes as flat text fields; `desired` one to a line."""
    if attributes is None:
        return {}
    return {
        "category": attributes.category, "objectivity": attributes.objectivity,
        "controversiality": attributes.controversiality, "desired": "\n".join(attributes.desired),
        "guideline": attributes.guideline, "attributes_by": attributes.by,
    }  # fmt: skip


def attributes_of(fields: Mapping[str, Any], pair: Pair, context: Context) -> Attributes | None:
    """The inverse of `labels`; where the row has none, those that the known pair came with."""
    if not all(isinstance(fields.get(n), str) and fields[n] for n in ("category", "objectivity", "controversiality")):
        return context.cases[pair.id].attributes if pair.id in context.cases else None
    return Attributes(
        pair_id=pair.id, category=fields["category"], objectivity=fields["objectivity"],
        controversiality=fields["controversiality"], by=str(fields.get("attributes_by") or "import"),
        desired=tuple(str(fields.get("desired") or "").splitlines()), guideline=str(fields.get("guideline") or ""),
    )  # fmt: skip
