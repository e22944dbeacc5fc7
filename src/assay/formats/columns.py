"""Judged pairs as columns: what an import makes of rows, without an object for each word of them.

A `Columns` takes pairs one by one, as records or as plain texts, and gives them back as one Arrow table (`SCHEMA`): the
text in the types of `Pair`, and beside it the ids, what the source says, and where the row stood.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.formats.content_ids import Ids, pair_ids
from assay.formats.preferred import Preferred, Word
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
    """Pairs as they come in. `chars` counts the characters of their texts since the last `taken`, `rows` the pairs; `ties`
    all of which neither response is better."""

    def __init__(self) -> None:
        self.chars = self.rows = self.ties = self._pending = 0
        self._told: list[tuple[Any, ...]] = []
        self._known: dict[int, tuple[str | None, ...]] = {}
        self._prompts, self._answers = _Said(), _Said()
        self._batches: list[pa.Table] = []

    def add(self, made: Preferred, row: int, layout: str) -> None:
        """Take in what was made of a row."""
        pair, (first, second) = made.pair, made.pair.responses
        turns = [*pair.prompt, *first.messages, *second.messages]
        chars = sum(len(m.content) for m in turns)
        self._known[len(self._told)] = pair.id, pair.prompt_id, pair.question_id, first.id, second.id, made.better
        images = sum(len(m.images) for m in turns)
        self.ties += made.better is None
        self._told.append((0, chars, images, row, layout, made.votes, made.confidence, made.strength))
        self._prompts.take(pair.prompt)
        self._answers.take(first.messages)
        self._answers.take(second.messages)
        self._count(chars + sum(len(m.tools) + len(m.tool_calls) + len(m.reasoning) for m in turns))

    def add_turns(self, prompt: Turns, one: Turns, other: Turns, word: Word, row: int, layout: str) -> None:
        """Take in two responses to a prompt, each as the (role, text) of its messages, and what is said of them."""
        chars = 0
        for turns in (prompt, one, other):
            for _, content in turns:
                chars += len(content)
        side, votes, confidence, strength = word
        self.ties += side is None
        self._told.append((-1 if side is None else side, chars, 0, row, layout, votes, confidence, strength))
        self._prompts.turns += prompt
        self._prompts.counts.append(len(prompt))
        answers = self._answers
        answers.turns += one
        answers.turns += other
        answers.counts += (len(one), len(other))
        self._count(chars)

    def add_lists(
        self, prompts: pa.ListArray, answers: pa.ListArray, words: Sequence[Word], chars: NDArray[np.int64],
        rows: NDArray[np.int64], layout: str,
    ) -> None:  # fmt: skip
        """Take in pairs from their prompts and their responses, two after each other (`lists`). Rows with numbers between
        theirs may come later."""
        count = len(words)
        if not count:
            return
        sides, *told = zip(*words, strict=True)
        numbers = [chars, np.zeros(count, np.int64), rows, [layout] * count, *told]
        self.ties += sides.count(None)
        self._batches.append(self._table(prompts, answers, [-1 if side is None else side for side in sides], numbers))
        self.rows += count
        self.chars += int(chars.sum())

    def _count(self, chars: int) -> None:
        self.rows += 1
        self.chars += chars
        self._pending += chars
        if self._pending >= BATCH_CHARS or len(self._told) >= BATCH_ROWS:
            self._batches.append(self._batch())

    def taken(self) -> pa.Table:
        """All that came in, which is forgotten here; those of one row stand together, rows in any order."""
        made = pa.concat_tables([*self._batches, self._batch()]).combine_chunks()
        self._batches, self.chars, self.rows = [], 0, 0
        return made

    def _batch(self) -> pa.Table:
        count = len(self._told)
        sides, *told = zip(*self._told, strict=True) if count else [()] * 8
        made = self._table(self._prompts.array(), self._answers.array(), sides, told, self._known)
        self._told, self._known, self._pending = [], {}, 0
        self._prompts, self._answers = _Said(), _Said()
        return made

    @staticmethod
    def _table(
        prompts: pa.ListArray, answers: pa.ListArray, sides: Sequence[int], told: Sequence[Any],
        known: Mapping[int, tuple[str | None, ...]] = MappingProxyType({}),
    ) -> pa.Table:  # fmt: skip
        """Pairs with their ids; `told` are the columns of `_NARROW` after these, `known` the ids that are known, by row."""
        count = len(sides)
        ids, swapped = _ids(prompts, answers, np.array(sides, np.int64), known)
        if swapped.any():
            two = np.arange(2 * count).reshape(-1, 2)
            two[swapped] = two[swapped, ::-1]
            answers = answers.take(pa.array(two.ravel()))
        whole = pa.StructArray.from_arrays([answers], fields=list(_TEXT.field("responses").type.value_type))
        twos = pa.array(np.arange(0, 2 * count + 1, 2, dtype=np.int32))
        responses = pa.ListArray.from_arrays(twos, whole, type=_TEXT.field("responses").type)
        numbers = [pa.array(column, of.type) for of, column in zip(list(_NARROW)[6:], told, strict=True)]
        return pa.Table.from_arrays([*ids, *numbers, prompts, responses], schema=SCHEMA)


def _ids(
    prompts: pa.ListArray, answers: pa.ListArray, sides: NDArray[np.int64], known: Mapping[int, tuple[str | None, ...]]
) -> tuple[list[pa.Array], NDArray[np.bool_]]:
    """The first columns, all ids, and of which rows the responses are to change places."""
    made = pair_ids(prompts, answers)
    better = np.where((sides == 1) == made.swapped, made.first, made.second)
    columns = [made.pair, made.prompt, made.question, made.first, made.second, better]
    tied, swapped = sides < 0, made.swapped
    for at, ids in known.items():
        for column, one in zip(columns, ids, strict=True):
            column[at] = one or b""
        tied[at], swapped[at] = ids[5] is None, False
    return [_hex(c) for c in columns[:5]] + [_hex(columns[5], tied)], swapped


def _hex(ids: Ids, missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Ids of 32 digits as texts."""
    data = pa.py_buffer(np.ascontiguousarray(ids))
    array = (
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(ids), [None, data]).cast(pa.binary()).cast(pa.string())
    )
    return array if missing is None else pc.if_else(pa.array(missing), pa.scalar(None, pa.string()), array)


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
        return lists(self.counts, pa.array(roles, pa.string()), pa.array(texts, pa.string()), self.more)


def lists(
    counts: Sequence[int] | NDArray[np.int32], roles: pa.StringArray, texts: pa.StringArray,
    more: Mapping[int, Message] = MappingProxyType({}),
) -> pa.ListArray:  # fmt: skip
    """Lists of so many messages each, end to end; `more` as in `_Said`."""
    columns = [_column(f, roles, texts, more) for f in _MESSAGE]
    turns = pa.StructArray.from_arrays(columns, fields=list(_MESSAGE))
    ends = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    return pa.ListArray.from_arrays(ends, turns, type=pa.list_(_MESSAGE))


def _column(of: pa.Field, roles: pa.StringArray, texts: pa.StringArray, more: Mapping[int, Message]) -> pa.Array:
    """One field of all messages; most are empty."""
    if of.name in ("role", "content"):
        return roles if of.name == "role" else texts
    if any(getattr(m, of.name) for m in more.values()):
        empty: Any = [] if of.name == "images" else ""
        return pa.array([getattr(more[i], of.name) if i in more else empty for i in range(len(texts))], of.type)
    offsets = pa.py_buffer(bytes(4 * (len(texts) + 1)))
    if of.name == "images":
        return pa.Array.from_buffers(of.type, len(texts), [None, offsets], children=[pa.array([], pa.string())])
    return pa.Array.from_buffers(pa.string(), len(texts), [None, offsets, pa.py_buffer(b"")])
