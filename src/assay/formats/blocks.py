"""Lines of JSON by the block: those of one frequent shape, by compiled code and straight to Arrow's columns.

What is read here: rows of a layout with one pair each (chosen and rejected, labelled, voted, two scores), whose responses
are texts, transcripts or lists of messages of a role and a text, with or without one prompt of either kind, beside fields of
one value that mean nothing. What a row says of its responses is the layout's to say, as ever: labels, votes and scores are
read once for each way in which they are written.

What is not: a line that is not surely plain (`blocks.cpp` leaves it: doubled or unknown fields, halves of surrogate pairs,
bytes that are not UTF-8, pictures, equal responses, what is no JSON), and rows with a system text, earlier
turns, several prompts, or anything else that changes what they mean. Those go one by one through `PlainRows` and
`readings`, with which a test compares this. So does all where there is no compiler, and the first rows on a machine.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay import native
from assay.formats.columns import Columns, lists
from assay.formats.dialogues import PROMPTS, WRAPPED
from assay.formats.layouts import Layout
from assay.formats.lines import Lines
from assay.formats.pictures import without_pictures
from assay.formats.plain import MEANT
from assay.formats.preferred import Rival, Word
from assay.formats.rival_fields import CHOSEN, TWO_NAMES, columns_of_more, saying
from assay.formats.rows import RowError
from assay.formats.spelling import respelled
from assay.formats.texts import quickly
from assay.formats.turns import SAYS

ENOUGH = 1 << 26
"""So many bytes of lines of a process are read one by one where the compiled part is not built yet: it costs more."""
_MEANT = MEANT | TWO_NAMES | {name for two in CHOSEN for name in two} | {"turn"}
"""Fields that make a row another one than those that are read here."""
_ODD = re.compile(r'[\0-\x1f"\\\ud800-\udfff]')
_SOURCE = Path(__file__).with_name("blocks.cpp")
_IGNORED, _PROMPT, _ONE, _OTHER, _SAID = range(5)
_ROLES = ("system", "user", "assistant")
_SPELLINGS, _MOST_FIELDS, _VAIN = 100_000, 62, 3
"""So many ways of writing what is said are kept, fields read, and blocks of which little could be taken tried."""
_done = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The fields of rows with their kinds, the two of them that hold responses, and those that say which is better."""

    kinds: dict[str, int]
    two: tuple[str, str]
    said: tuple[str, ...]

    @property
    def looked_at(self) -> dict[str, int]:
        """The fields that a row must have."""
        return {name: kind for name, kind in self.kinds.items() if kind != _IGNORED}


class Blocks:
    """Takes in what it can of blocks of lines, into `columns`."""

    def __init__(self, columns: Columns, layout: Layout, max_field_chars: int) -> None:
        self._columns, self._layout, self._longest = columns, layout, max_field_chars
        self._shape: _Shape | None = None
        self._words: dict[tuple[bytes, ...], Word | None] = {}
        self._vain = 0

    @staticmethod
    def reads(layout: Layout) -> bool:
        return layout.base in ("chosen-rejected", "labelled", "voted", "scored-pair")

    def take(self, some: Lines) -> Sequence[int]:
        """Take in what it can of these lines; returns the places of those it left."""
        global _done
        _done += len(some.data)
        wanted = self._vain < _VAIN and (_done > ENOUGH or native.built(_SOURCE))
        library = native.library(_SOURCE) if wanted else None
        self._shape = (self._shape or self._learned(some)) if library is not None else None
        if self._shape is None:
            return range(len(some))
        taken = self._read(library, self._shape, some)
        if 2 * taken.sum() < len(some):
            self._shape, self._vain = None, self._vain + 1
        left: list[int] = np.flatnonzero(~taken).tolist()
        return left

    def _learned(self, some: Lines) -> _Shape | None:
        """The shape of the first line that has one, with the harmless fields of those after it."""
        shape: _Shape | None = None
        for row in filter(None, (quickly(some[at]) for at in range(min(64, len(some))))):
            found = self._shape_of(row)
            if shape is None:
                shape = found
            elif found is not None and found.looked_at == shape.looked_at:
                shape = _Shape(kinds={**found.kinds, **shape.kinds}, two=shape.two, said=shape.said)
        return shape if shape is not None and len(shape.kinds) <= _MOST_FIELDS else None

    def _shape_of(self, row: dict[str, Any]) -> _Shape | None:
        if (rival := self._rival(row)) is None:
            return None
        two = rival.fields
        prompts = [n for n in row if n in PROMPTS and n not in two]
        said = tuple(n for n in saying(tuple(row)) if n not in two)
        looked_at = {*two, *prompts}
        if not looked_at <= row.keys() or len(prompts) > 1 or looked_at & {*WRAPPED, "history", "info"}:
            return None
        names = tuple(row)
        if (
            columns_of_more(names)
            or respelled(names)
            or any(n in _MEANT or _ODD.search(n) for n in row.keys() - looked_at)
        ):
            return None
        kinds = dict.fromkeys(row, _IGNORED) | dict.fromkeys(prompts, _PROMPT) | {two[0]: _ONE, two[1]: _OTHER}
        return _Shape(kinds=kinds | {n: _SAID + at for at, n in enumerate(said)}, two=two, said=said)

    def _word(self, shape: _Shape, spelled: tuple[bytes, ...]) -> Word | None:
        """What a row says of its responses, by how the fields of it are written; None where that needs a second look."""
        if spelled not in self._words:
            if len(self._words) > _SPELLINGS:
                self._words.clear()
            self._words[spelled] = self._read_word(shape, spelled)
        return self._words[spelled]

    def _read_word(self, shape: _Shape, spelled: tuple[bytes, ...]) -> Word | None:
        fields = b",".join(
            b"%s:%s" % (json.dumps(n).encode(), value) for n, value in zip(shape.said, spelled, strict=True)
        )
        said = quickly(b"{%s}" % fields)
        if said is None or not all(map(without_pictures, said.values())):
            return None
        row = {**{n: "q" for n, kind in shape.kinds.items() if kind == _PROMPT}, **{n: [] for n in shape.two}, **said}
        rival = self._rival(row)
        alike = rival is not None and (rival.one, rival.other, rival.fields) == ([], [], shape.two)
        return rival.word if rival is not None and alike else None

    def _rival(self, row: dict[str, Any]) -> Rival | None:
        """The two responses of a row that holds just two, as it stands."""
        try:
            seen, rivals = self._layout.rivals(row)
        except RowError:
            return None
        found = rivals[0] if seen is row and len(rivals) == 1 else None
        return found if isinstance(found, Rival) else None

    def _read(self, library: Any, shape: _Shape, some: Lines) -> NDArray[np.bool_]:
        """Take in the rows of that shape; returns (lines,) which lines these are."""
        data, count = some.data, len(some)
        taken, chars = np.zeros(count, np.uint8), np.empty(count, np.int64)
        said, ends = np.empty(2 * count * len(shape.said), np.int64), np.zeros(2, np.int64)
        prompts, answers = _Room.of(count, len(data)), _Room.of(2 * count, len(data))
        fields, roles = _names(shape.kinds), _names({n: _ROLES.index(r) for n, r in SAYS.items()})
        lines, scratch = np.frombuffer(data, np.uint8), np.empty(len(data), np.uint8)
        rows = library.read_rows(
            *native.longs(
                len(data), self._longest, len(shape.said), len(shape.looked_at), len(shape.kinds), len(SAYS)
            ),
            *native.places(
                lines, *fields, *roles, taken, *prompts, *answers, chars, said, scratch, ends
            ),
        )  # fmt: skip
        places = np.flatnonzero(taken)
        spans = said[: 2 * rows * len(shape.said)].reshape(rows, len(shape.said), 2).tolist()
        words = [self._word(shape, tuple(data[start:end] for start, end in row)) for row in spans]
        asked, answered = prompts.lists(rows, ends[0]), answers.lists(2 * rows, ends[1])
        if None in words:
            kept = np.array([w is not None for w in words])
            asked, answered = asked.filter(pa.array(kept)), answered.filter(pa.array(np.repeat(kept, 2)))
            taken[places[~kept]] = 0
            places, chars = places[kept], chars[:rows][kept]
        self._columns.add_lists(
            asked,
            answered,
            [w for w in words if w is not None],
            chars[: len(places)],
            some.first + places,
            self._layout.name,
        )
        return taken.astype(bool)


class _Room(NamedTuple):
    """Where the compiled code puts lists of messages: how many each list has, their roles, and their texts, end to end."""

    counts: NDArray[np.int32]
    roles: NDArray[np.uint8]
    ends: NDArray[np.int32]
    text: NDArray[np.uint8]

    @staticmethod
    def of(most: int, size: int) -> "_Room":
        """For as many lists as that, from so many bytes of lines: a message takes seven at least."""
        return _Room(
            np.empty(most, np.int32), np.empty(size // 7 + 1, np.uint8), np.empty(size // 7 + 2, np.int32),
            np.empty(size, np.uint8),
        )  # fmt: skip

    def lists(self, count: int, messages: int) -> pa.ListArray:
        ends = self.ends[: messages + 1]
        texts = pa.StringArray.from_buffers(messages, pa.py_buffer(ends), pa.py_buffer(self.text[: ends[-1]]))
        roles = pa.array(_ROLES, pa.string()).take(pa.array(self.roles[:messages]))
        return lists(self.counts[:count], roles, texts)


def _names(of: dict[str, int]) -> tuple[NDArray[Any], ...]:
    """Names end to end, where each begins and ends, and what each stands for."""
    texts = [name.encode() for name in of]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return np.frombuffer(b"".join(texts) + b"\0", np.uint8), ends, np.array([*of.values()], np.int32)
