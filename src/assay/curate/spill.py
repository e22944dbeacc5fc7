"""The first half of an import: the rows of a file, or of a piece of one, read and laid down by part of the pool.

A call of `spill` reads one piece and leaves files of segments (`segments`) and, last, a note with their places and with
what became of the rows: that the note is there says that the piece is done.
Rows of one response each go to buckets by their prompt; `pair_up` makes the pairs of a bucket, when all pieces of the
file are done.
"""

import base64
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from assay.curate.segments import KINDS, LONE, Note, Places, Segments, by_part, lay, split
from assay.formats.blocks import Blocks
from assay.formats.columns import Columns
from assay.formats.layouts import named
from assay.formats.lines import Lines
from assay.formats.pictures import Picture, keeper
from assay.formats.plain import PlainRows
from assay.formats.preferred import MAX_LISTED, Preferred
from assay.formats.rated import Rated, crowded
from assay.formats.reading import Fields, Lone, Read, paired, readings
from assay.formats.rows import Row, RowError, encodes
from assay.formats.texts import Cell, Flaw
from assay.images import ImageStore
from assay.memory import keep_tables
from assay.records import Message, Rejection, digest
from assay.store import Place
from assay.tables import to_arrow

CHUNK_CHARS = 1 << 25
CHUNK_ROWS = 200_000
"""A file of segments is closed at this many characters or rows, so that memory is bounded."""
BUCKET = 1 << 25
"""About how many bytes of rows of one response each are paired at a time."""
UNSAFE = re.compile(r"[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one call reads, and how: `rows()` begins it (`lines`: as in `Part`); `layout` is a name ("": none was found);
    `strict`: it was named by hand.

    `name` is a function of the content of the file, of how it is read, and of which piece of it this is. `folder` is
    where the names of pictures are looked for, `images` the pool's folder of them (None: the pool keeps none).
    """

    name: str
    source: str
    file: str
    rows: Callable[..., Iterator[Cell | Flaw]]
    lines: bool
    layout: str
    strict: bool
    fields: Fields
    parts: int
    buckets: int
    max_field_chars: int
    folder: Path | None
    images: Path | None


def spill(folder: Place, piece: Piece) -> None:
    """Read a piece into files of segments in `folder`."""
    keep_tables()
    layout = named(piece.layout) if piece.layout else None
    sink = _Sink(folder, piece)
    keep = keeper(ImageStore(piece.images), piece.folder) if piece.images is not None else _keeps_none
    plain, blocks, until = None, None, 0
    if layout is not None and PlainRows.reads(layout) and piece.fields == Fields():
        plain = PlainRows(sink.columns, layout, piece.max_field_chars, sink.refuse)
        if piece.lines and Blocks.reads(layout):
            blocks = Blocks(sink.columns, layout, piece.max_field_chars)

    def take(some: Lines) -> Sequence[int]:
        nonlocal until
        assert blocks is not None
        sink.flush_if_full()
        left = blocks.take(some)
        until = some.first + len(some) - 1
        sink.rows += len(some) - len(left)
        return left

    for item in piece.rows(take=take) if blocks is not None else piece.rows():
        if plain is not None and isinstance(item, Cell) and plain.taken(item.value, item.row):
            sink.rows += 1
        else:
            for read in readings((item,), layout, piece.strict, keep, piece.fields):
                sink.take(read)
        if item.row >= until:  # a chunk holds all rows up to its last one
            sink.flush_if_full()
    sink.close()


def pair_up(folder: Place, item: tuple[Piece, int, Segments]) -> None:
    """Make the pairs of a bucket of rows of one response each, which stand in these segments of the pieces of one file."""
    piece, bucket, segments = item
    sink = _Sink(folder, replace(piece, name=bucket_name(piece, bucket)))
    count = Counter(prompt for table in segments.read(folder) for prompt in table.column("prompt").to_pylist())
    rows = []
    for row in (row for table in segments.read(folder) for row in table.to_pylist()):
        if count[row["prompt"]] <= MAX_LISTED:
            rows.append(row)
        else:  # one after another, for a prompt may have any number of them
            sink.take(Read(row=row["row"], rows=1, layout=row["layout"], value=_rated(row).row, made=(crowded(),)))
            sink.flush_if_full()
    rows.sort(key=lambda r: r["row"])
    for read in paired(Lone(row=r["row"], layout=r["layout"], rated=_rated(r)) for r in rows):
        sink.take(read)
        sink.flush_if_full()
    sink.close()


def bucket_name(piece: Piece, bucket: int) -> str:
    return f"{piece.name.partition('+')[0]}+lone-{bucket:05d}"


def _keeps_none(_: object) -> str:
    raise RowError(
        "", "is a picture, and a pool in an object store keeps none: add it to a pool in a folder of a file system"
    )


class _Sink:
    """The chunk being filled, the segments of those before, and the counts so far."""

    def __init__(self, folder: Place, piece: Piece) -> None:
        self.folder, self.piece, self.columns = folder, piece, Columns()
        self.rows = self.pairs = 0
        self.rejected, self.lost = Counter[str](), Counter[str]()
        self.places: list[dict[str, Places]] = []
        self.rejections: list[Rejection] = []
        self.lone: list[tuple[str, int, str, str]] = []
        self.lone_chars = 0

    def take(self, read: Read | Lone) -> None:
        if isinstance(read, Lone):
            self._lone(read)
        else:
            self.rows += read.rows
            pairs, why = self.columns.rows, ""
            for made in read.made:
                if isinstance(made, Preferred):
                    why = self._pair(made, read) or why
                elif isinstance(made, Flaw):
                    why = self._reject(read.row, "", made.reason, made.excerpt)
                else:
                    why = self._refuse(read.row, read.value, made)
            if self.columns.rows == pairs and read.rows:
                self.lost[why] += read.rows

    def flush_if_full(self) -> None:
        held = self.columns.rows + len(self.rejections) + len(self.lone)
        if self.columns.chars + self.lone_chars >= CHUNK_CHARS or held >= CHUNK_ROWS:
            self.flush()

    def _pair(self, made: Preferred, read: Read) -> str:
        """Take in a pair; why it cannot be, else ""."""
        pair = made.pair
        turns = [m for part in (pair.prompt, *(r.messages for r in pair.responses)) for m in part]
        for content in (t for m in turns for t in _texts(m)):
            if why := trouble(content, self.piece.max_field_chars):
                return self._reject(read.row, field_of(read.value, content), why, content[:200])
        self.columns.add(made, read.row, read.layout)
        return ""

    def _lone(self, read: Lone) -> None:
        rated = read.rated
        value, wrong = "", ""
        marks = _Marks()
        try:
            value = json.dumps([rated.row, rated.response, rated.score], default=marks)
        except RecursionError:
            wrong = "is too deeply nested"
        if value.count(r'"\u0000picture"') + value.count(r'"\u0000bytes"') > marks.made:
            wrong = "contains a null byte"
        if wrong:
            self.rows += 1
            self.lost[self._reject(read.row, "", wrong, value)] += 1
            return
        self.lone.append((digest([read.layout, rated.prompt_key]), read.row, read.layout, value))
        self.lone_chars += len(value)

    def refuse(self, number: int, row: Row, error: RowError) -> None:
        """Take in why a row made no pair."""
        self.lost[self._refuse(number, row, error)] += 1

    def _refuse(self, number: int, row: Row, error: RowError) -> str:
        return self._reject(number, error.field, error.reason, json.dumps(row, default=str)[:400])

    def _reject(self, row: int, where: str, reason: str, excerpt: str) -> str:
        """Take in why a row, or a part of it, made no pair; returns that as it is counted."""
        where, reason, shown = (UNSAFE.sub("\ufffd", t) for t in (where, reason, excerpt[:200]))
        piece = self.piece
        self.rejections.append(
            Rejection(source=piece.source, file=piece.file, row=row, field=where, reason=reason, excerpt=shown)
        )
        general = re.sub(r"\[\d+\]|(?<=response )\d+", "[.]", where)
        told = f"{general} {reason.partition(' (')[0]}".strip()
        self.rejected[told] += 1
        return told

    def flush(self) -> None:
        """Write what is held as one file of segments."""
        parts = self.piece.parts
        self.pairs += self.columns.rows
        lone = pa.Table.from_pylist([dict(zip(LONE.names, r, strict=True)) for r in self.lone], schema=LONE)
        at = np.array([zlib.crc32(str(r.row).encode()) % parts for r in self.rejections], np.int64)
        self.places.append(lay(self.folder, self.piece.name, len(self.places), {
            "pairs": by_part(self.columns.taken(), "question_id", parts),
            "rejections": split(to_arrow(Rejection, self.rejections), at),
            "lone": by_part(lone, "prompt", self.piece.buckets),
        }))  # fmt: skip
        self.rejections, self.lone, self.lone_chars = [], [], 0

    def close(self) -> None:
        """Write what is left, and the note."""
        self.flush()
        Note(
            name=self.piece.name, source=self.piece.source, file=self.piece.file, rows=self.rows, pairs=self.pairs,
            ties=self.columns.ties, rejected=dict(self.rejected), lost=dict(self.lost),
            places={kind: np.concatenate([p[kind] for p in self.places]) for kind in KINDS},
        ).write(self.folder)  # fmt: skip


class _Marks:
    """What JSON does not have: pictures and bytes as an object with a key of our own (`made` counts them), else its text."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, value: object) -> object:
        if not isinstance(value, Picture | bytes):
            return str(value)
        self.made += 1
        if isinstance(value, Picture):
            return {"\0picture": value.id}
        return {"\0bytes": base64.b64encode(value).decode()}


def _unmarked(value: dict[str, Any]) -> Any:
    if len(value) == 1 and "\0picture" in value:
        return Picture(value["\0picture"])
    return base64.b64decode(value["\0bytes"]) if len(value) == 1 and "\0bytes" in value else value


def _rated(row: dict[str, Any]) -> Rated:
    value, response, score = json.loads(row["value"], object_hook=_unmarked)
    return Rated(prompt_key=row["prompt"], row=value, response=response, score=score)


def _texts(message: Message) -> list[str]:
    """Every text of a message."""
    more = (message.reasoning, message.tool_calls, message.tool_call_id, message.name, message.tools)
    return [message.content, *(t for t in more if t)]


def trouble(content: str, max_field_chars: int) -> str:
    """Why a text cannot be kept, or "" if it can."""
    if len(content) > max_field_chars:
        return f"is longer than {max_field_chars} characters ({len(content)})"
    if "\0" not in content and (content.isascii() or encodes(content)):
        return ""
    if (match := UNSAFE.search(content)) is None:
        return ""
    if match[0] == "\0":
        return "contains a null byte"
    return (
        "contains bytes that are not UTF-8, or half of a surrogate pair: save the file as UTF-8, in Excel as CSV UTF-8"
    )


def field_of(value: object, content: str, path: str = "") -> str:
    """The path of the text in a row that holds `content`, as in "chosen[1].content"; "" when it is in none."""
    if isinstance(value, str):
        return path if content in value else ""
    if isinstance(value, dict):
        inside = ((f"{path}.{k}" if path else str(k), v) for k, v in value.items())
    elif isinstance(value, list):
        inside = ((f"{path}[{i}]", v) for i, v in enumerate(value))
    else:
        return ""
    return next((found for p, v in inside if (found := field_of(v, content, p))), "")
