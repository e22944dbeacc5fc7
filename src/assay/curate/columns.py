"""Judged pairs as columns: what an import makes of rows, without an object for each word of them.

A `Columns` takes pairs one by one, as records or as plain texts, and gives them back as one Arrow table (`SCHEMA`): the
text in the types of `Pair`, and beside it the ids, what the source says, and where the row stood.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from orjson import dumps

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
        prompt_id = blake2b(dumps(prompt), digest_size=16).hexdigest()
        first = blake2b(dumps(one), digest_size=16).hexdigest()
        second = blake2b(dumps(other), digest_size=16).hexdigest()
        side, votes, confidence, strength = word
        better = None if side is None else second if side else first
        if first > second:
            first, second, one, other = second, first, other, one
        pair_id = blake2b(f'["{prompt_id}","{first}","{second}"]'.encode(), digest_size=16).hexdigest()
        chars = 0
        for turns in (prompt, one, other):
            for _, content in turns:
                chars += len(content)
        self._narrow.append((
            pair_id, prompt_id, _question_id(prompt, prompt_id), first, second, better, chars, 0, row, layout, votes,
            confidence, strength,
        ))  # fmt: skip
        self._prompts.turns += prompt
        self._prompts.counts.append(len(prompt))
        answers = self._answers
        answers.turns += one
        answers.turns += other
        answers.counts += (len(one), len(other))
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


def _question_id(prompt: Turns, prompt_id: str) -> str:
    """`records.question_id`, which most often is the id of the prompt."""
    asked = prompt[0][1] if prompt[0][0] == "user" else next(text for role, text in prompt if role == "user")
    if asked.isprintable() and "  " not in asked and asked[0] != " " and asked[-1] != " ":  # other white space is not
        words = asked
    else:
        words = " ".join(asked.split())
    if len(prompt) == 1 and words == asked:
        return prompt_id
    return blake2b(dumps((("user", words),)), digest_size=16).hexdigest()


class _Said:
    """Lists of messages, end to end. `more` holds the messages that are more than a role and a text, by their place."""

    def __init__(self) -> None:
        self.turns: Turns = []
        self.counts: list[int] = []
        self.more: dict[int, Message] = {}

    def take(self, messages: Sequence[Message]) -> None:
        for m in messages:
            if m.images or m.reasoning or m.tool_calls or m.tool_call_id or m.name or m.tools:
                self.more[len(self.turns)] = m
            self.turns.append((m.role, m.content))
        self.counts.append(len(messages))

    def array(self) -> pa.ListArray:
        roles, texts = [role for role, _ in self.turns], [text for _, text in self.turns]
        columns = [_column(f, roles, texts, self.more) for f in _MESSAGE]
        turns = pa.StructArray.from_arrays(columns, fields=list(_MESSAGE))
        ends = pa.array(np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int32))
        return pa.ListArray.from_arrays(ends, turns, type=pa.list_(_MESSAGE))


def _column(of: pa.Field, roles: Sequence[str], texts: list[str], more: Mapping[int, Message]) -> pa.Array:
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
