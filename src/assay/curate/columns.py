"""Judged pairs as columns: what an import makes of rows, without an object for each word of them.

A `Columns` takes pairs one by one, as records or as plain texts, and gives them back as one Arrow table (`SCHEMA`): the
text in the types of `Pair`, and beside it the ids, what the source says, and where the row stood.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from assay.curate.preferred import Preferred, Word
from assay.records import Message, Pair, Role
from assay.tables import arrow_schema, arrow_type

_TEXT = arrow_schema(Pair)
_MESSAGE = arrow_type(Message)
_NARROW = pa.schema([
    ("pair_id", pa.string()), ("prompt_id", pa.string()), ("question_id", pa.string()), ("first", pa.string()),
    ("second", pa.string()), ("better", pa.string()), ("chars", pa.int64()), ("images", pa.int64()), ("row", pa.int64()),
    ("layout", pa.string()), ("votes", pa.int64()), ("confidence", pa.float64()), ("strength", pa.float64()),
])  # fmt: skip
SCHEMA = pa.schema([*_NARROW, *_TEXT])
Turns = list[tuple[Role, str]]
"""(role, text) of messages of text alone."""
BATCH_CHARS, BATCH_ROWS = 1 << 22, 1 << 14
"""Texts are turned to Arrow at this many characters or rows, while the processor still has them at hand."""


class Columns:
    """Pairs as they come in. `chars` counts the characters of their texts since the last `taken`, `rows` the pairs."""

    def __init__(self) -> None:
        self.chars = self.rows = self._pending = 0
        self._narrow: list[tuple[Any, ...]] = []
        self._prompts, self._answers = _Said(), _Said()
        self._batches: list[pa.Table] = []

    def add(self, made: Preferred, row: int, layout: str) -> None:
        """Take in what was made of a row."""
        pair, (first, second) = made.pair, made.pair.responses
        turns = [*pair.prompt, *first.messages, *second.messages]
        chars = sum(len(m.content) for m in turns)
        self._narrow.append((
            pair.id, pair.prompt_id, pair.question_id, first.id, second.id, made.better, chars,
            sum(len(m.images) for m in turns), row, layout, made.votes, made.confidence, made.strength,
        ))  # fmt: skip
        self._prompts.take(pair.prompt)
        self._answers.take(first.messages)
        self._answers.take(second.messages)
        self._count(chars + sum(len(m.tools) + len(m.tool_calls) + len(m.reasoning) for m in turns))

    def add_turns(self, prompt: Turns, one: Turns, other: Turns, word: Word, row: int, layout: str) -> None:
        """Take in two responses to a prompt, each as the (role, text) of its messages, and what is said of them."""
        prompt_id, question_id, prompt_chars = _asked(prompt)
        first, second = _id(one), _id(other)
        better = None if word.side is None else second if word.side else first
        if first > second:
            first, second, one, other = second, first, other, one
        pair_id = blake2b(f'["{prompt_id}","{first}","{second}"]'.encode(), digest_size=16).hexdigest()
        chars = prompt_chars
        for turns in (one, other):
            for _, content in turns:
                chars += len(content)
        _, votes, confidence, strength = word
        self._narrow.append((
            pair_id, prompt_id, question_id, first, second, better, chars, 0, row, layout, votes, confidence, strength,
        ))  # fmt: skip
        self._prompts.plain(prompt)
        self._answers.plain(one)
        self._answers.plain(other)
        self._count(chars)

    def _count(self, chars: int) -> None:
        self.rows += 1
        self.chars += chars
        self._pending += chars
        if self._pending >= BATCH_CHARS or len(self._narrow) >= BATCH_ROWS:
            self._batches.append(self._batch())

    def taken(self) -> pa.Table:
        """All that came in, which is forgotten here."""
        made = pa.concat_tables([*self._batches, self._batch()]).combine_chunks()
        self._batches, self.chars, self.rows = [], 0, 0
        return made

    def _batch(self) -> pa.Table:
        narrow = [
            pa.array(column, of.type)
            for of, column in zip(_NARROW, zip(*self._narrow, strict=True) if self._narrow else [()] * 13, strict=True)
        ]
        prompts, answers = self._prompts.array(), self._answers.array()
        whole = pa.StructArray.from_arrays([answers], fields=list(_TEXT.field("responses").type.value_type))
        twos = pa.array(np.arange(0, 2 * len(self._narrow) + 1, 2, dtype=np.int32))
        responses = pa.ListArray.from_arrays(twos, whole, type=_TEXT.field("responses").type)
        self._narrow, self._pending = [], 0
        self._prompts, self._answers = _Said(), _Said()
        return pa.Table.from_arrays([*narrow, prompts, responses], schema=SCHEMA)


def _asked(prompt: Turns) -> tuple[str, str, int]:
    """The id of a prompt and of its question, and its characters."""
    prompt_id = _id(prompt)
    asked = next(content for role, content in prompt if role == "user")
    words = asked if _spaced(asked) else " ".join(asked.split())
    question_id = prompt_id if words == asked and len(prompt) == 1 else _id([("user", words)])
    return prompt_id, question_id, sum([len(content) for _, content in prompt])


def _spaced(text: str) -> bool:
    """Whether the only white space in a text is one space between two words. (Other white space is not printable.)"""
    return text.isprintable() and "  " not in text and text[0] != " " and text[-1] != " "


def _id(turns: Turns) -> str:
    """`records.messages_id` of messages of text alone."""
    return blake2b(orjson.dumps(turns), digest_size=16).hexdigest()


class _Said:
    """Lists of messages, end to end. `more` holds the messages that are more than a role and a text, by their place."""

    def __init__(self) -> None:
        self.roles: list[str] = []
        self.texts: list[str] = []
        self.counts: list[int] = []
        self.more: dict[int, Message] = {}

    def take(self, messages: Sequence[Message]) -> None:
        for m in messages:
            if m.images or m.reasoning or m.tool_calls or m.tool_call_id or m.name or m.tools:
                self.more[len(self.texts)] = m
            self.roles.append(m.role)
            self.texts.append(m.content)
        self.counts.append(len(messages))

    def plain(self, messages: Turns) -> None:
        for role, content in messages:
            self.roles.append(role)
            self.texts.append(content)
        self.counts.append(len(messages))

    def array(self) -> pa.ListArray:
        columns = [_column(f, self.roles, self.texts, self.more) for f in _MESSAGE]
        turns = pa.StructArray.from_arrays(columns, fields=list(_MESSAGE))
        ends = pa.array(np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int32))
        return pa.ListArray.from_arrays(ends, turns, type=pa.list_(_MESSAGE))


def _column(of: pa.Field, roles: list[str], texts: list[str], more: Mapping[int, Message]) -> pa.Array:
    """One field of all messages; most are empty."""
    if of.name in ("role", "content"):
        return pa.array(roles if of.name == "role" else texts, pa.string())
    if any(getattr(m, of.name) for m in more.values()):
        empty: Any = [] if of.name == "images" else ""
        return pa.array([getattr(more[i], of.name) if i in more else empty for i in range(len(texts))], of.type)
    offsets = pa.py_buffer(bytes(4 * (len(texts) + 1)))
    if of.name == "images":
        return pa.Array.from_buffers(of.type, len(texts), [None, offsets], children=[pa.array([], pa.string())])
    return pa.Array.from_buffers(pa.string(), len(texts), [None, offsets, pa.py_buffer(b"")])
