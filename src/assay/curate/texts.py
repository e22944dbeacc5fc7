"""Text files as rows: JSON lines and JSON documents; plain, gzip or zstd; UTF-8, or UTF-16 and UTF-32 with a mark.

Readers take an iterator of byte blocks that may end in `Broken`: what came before it has been yielded by then.
"""

import codecs
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from assay.curate.layouts import fitting
from assay.curate.turns import is_message

BLOCK, HELD = 1 << 16, 1 << 22
MAX_ROW = 1 << 26
"""Bytes of the longest line or JSON object that is read: 64 MiB."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
_NEXT_ROW = re.compile(r"\}\s*[,\n]\s*(?=\{)")
_BETWEEN = re.compile(r"[\s,\[\]]*")


class Broken(Exception):
    """The bytes of a file cannot be unpacked any further."""


class Cell(NamedTuple):
    """One row as it stands in the file, numbered from 1 (by line where rows are lines)."""

    row: int
    value: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """A part of a file that is no row, and why; `row` is where it begins, 0 for the whole file."""

    row: int
    reason: str
    excerpt: str = ""


def unpacked(path: Path, head: bytes) -> Iterator[bytes]:
    """The bytes of a plain, gzip or zstd file as UTF-8. Ends in `Broken` where it is damaged or cut off."""
    if head.startswith(b"\x1f\x8b"):
        blocks = _gunzip(path)
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        blocks = _unzstd(path)
    else:
        blocks = _plain(path)
    return _as_utf8(blocks)


def _plain(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _gunzip(path: Path) -> Iterator[bytes]:
    """All that can be unpacked: a damaged block is fed byte by byte up to the damage, which `gzip` would not do."""
    engine, fed = zlib.decompressobj(wbits=31), False
    for block in _plain(path):
        data = block
        while data:
            before = engine.copy()
            try:
                out = engine.decompress(data)
            except zlib.error as error:
                yield from _up_to_damage(before, data)
                raise Broken(f"the gzip file is damaged ({error})") from error
            fed, data = True, engine.unused_data
            if out:
                yield out
            if engine.eof:
                engine, fed, data = zlib.decompressobj(wbits=31), False, data.lstrip(b"\0")
    if fed:
        raise Broken("the gzip file is cut off")


def _up_to_damage(engine: Any, data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        try:
            out = engine.decompress(data[index : index + 1])
        except zlib.error:
            return
        if out:
            yield out


def _unzstd(path: Path) -> Iterator[bytes]:
    try:
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as file:
            while block := file.read(BLOCK):
                yield block
    except (OSError, pa.ArrowException) as error:
        raise Broken(f"the zstd file is damaged or cut off ({' '.join(str(error).split())[:120]})") from error


def _as_utf8(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Without a byte-order mark, and UTF-16 and UTF-32 re-coded; other text as it is."""
    first = next(blocks, b"")
    mark, encoding = next(((m, e) for m, e in _MARKS if first.startswith(m)), (b"", "utf-8"))
    if not mark and len(first) > 3 and first[1:2] == b"\0" and first[:1] in b'{["':
        encoding = "utf-16-le"
    elif not mark and first[:1] == b"\0" and first[1:2] in (b"{", b"[", b'"'):
        encoding = "utf-16-be"
    if encoding == "utf-8":
        yield first[len(mark) :]
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    yield decoder.decode(first[len(mark) :]).encode("utf-8", "surrogatepass")
    for block in blocks:
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    if decoder.decode(b"", final=True):
        raise Broken(f"the {encoding} text is cut off in the middle of a character")


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines end to end: `first` is the number of the first one in its file, `ends` (lines,) where each ends."""

    data: bytes
    first: int
    ends: NDArray[np.int64]

    @staticmethod
    def of(data: bytes, first: int) -> "Lines":
        return Lines(data, first, np.append(np.flatnonzero(np.frombuffer(data, np.uint8) == 10), len(data)))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, at: int) -> bytes:
        if not 0 <= at < len(self.ends):
            raise IndexError(at)
        return self.data[self.ends[at - 1] + 1 if at else 0 : self.ends[at]].rstrip(b"\r")


Take = Callable[[Lines], Sequence[int]]
"""Takes in what it can of lines; returns the places of those it left, in their order."""


def lines(blocks: Iterable[bytes]) -> Iterator[bytes | None]:
    """Lines without their ends; None for a line longer than MAX_ROW, which is skipped. Yields all before `Broken`."""
    for some in _whole(blocks):
        if some is None:
            yield None
        else:
            yield from (line.rstrip(b"\r") for line in some.split(b"\n"))


def _whole(blocks: Iterable[bytes]) -> Iterator[bytes | None]:
    """Whole lines, some MB at a time, without the end of the last one; None for one longer than MAX_ROW, which is skipped.
    Yields all before `Broken`."""
    held: list[bytes] = []
    first = wanted = min(HELD, MAX_ROW + 1)
    size, skipping, failure = 0, False, None
    stream = iter(blocks)
    while failure is None:
        try:
            block = next(stream, None)
        except Broken as error:
            failure, block = error, None
        if block is None:
            break
        if skipping:
            _, end, block = block.partition(b"\n")
            if not end:
                continue
            yield None
            skipping = False
        held.append(block)
        size += len(block)
        if size < wanted:
            continue
        data = b"".join(held)
        end_at = data.rfind(b"\n")
        if end_at >= 0:
            yield data[:end_at]
        held = [data[end_at + 1 :]]
        size = len(held[0])
        wanted = min(size + max(HELD, size), MAX_ROW + 1)  # a long line is put together few times
        if size > MAX_ROW:
            skipping, held, size, wanted = True, [], 0, first
    data = b"".join(held)
    if data or skipping:
        yield None if skipping else data.removesuffix(b"\n")
    if failure is not None:
        raise failure


def json_rows(blocks: Iterator[bytes], take: Take | None = None) -> Iterator[Cell | Flaw]:
    """JSON lines, or one document (an array of rows, or an object that holds one), told apart by the first lines.

    Of lines, those that `take` took in are left out.
    """
    held: list[bytes] = []
    size, failure = 0, None
    try:
        for block in blocks:
            held.append(block)
            size += len(block)
            if size >= 4 * BLOCK:
                break
    except Broken as error:
        failure = error

    def again() -> Iterator[bytes]:
        yield from held
        if failure is not None:
            raise failure
        yield from blocks

    return _json_lines(again(), take=take) if _is_lines(b"".join(held)) else _json_values(again())


def _is_lines(head: bytes) -> bool:
    """Whether one of several first lines is a JSON object of its own, or none begins as a document would."""
    first = [line.strip() for line in head.split(b"\n")[:50] if line.strip()]
    for line in first if len(first) > 1 else ():
        try:
            if isinstance(json.loads(line.decode("utf-8")), dict):
                return True
        except (ValueError, RecursionError):
            continue
    return bool(first) and not first[0].startswith((b"[", b"{"))


def lines_from(path: Path, start: int, end: int, first: int, take: Take | None = None) -> Iterator[Cell | Flaw]:
    """The rows of JSON lines between two offsets at which lines begin; `first` is the number of the first.

    Those that `take` took in are left out.
    """

    def blocks() -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            left = end - start
            while left > 0 and (block := file.read(min(4 * BLOCK, left))):
                left -= len(block)
                yield block

    return _json_lines(blocks() if start else _as_utf8(blocks()), first, take)


def plain_lines(path: Path) -> bool:
    """Whether a file is JSON lines as they are: neither packed nor re-coded, nor one document."""
    with path.open("rb") as file:
        head = file.read(4 * BLOCK)
    recoded = head.startswith(tuple(mark for mark, encoding in _MARKS if encoding != "utf-8"))
    packed = head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))
    return not packed and not recoded and b"\0" not in head[:2] and _is_lines(head.removeprefix(codecs.BOM_UTF8))


def _json_lines(blocks: Iterable[bytes], first: int = 1, take: Take | None = None) -> Iterator[Cell | Flaw]:
    number = first - 1
    try:
        for number, line in enumerate(lines(blocks), first) if take is None else _left(blocks, first, take):
            if line is None:
                yield Flaw(row=number, reason=f"the line is longer than {MAX_ROW >> 20} MiB")
            elif (value := quickly(line)) is not None:
                yield Cell(row=number, value=value)
            elif line.strip(b" \t\r\0"):
                yield from _json_line(line, number)
            elif b"\0" in line:
                yield Flaw(row=number, reason="the line holds only null bytes")
    except Broken as error:
        yield Flaw(row=number + 1, reason=str(error))


def _left(blocks: Iterable[bytes], first: int, take: Take) -> Iterator[tuple[int, bytes | None]]:
    """Of numbered lines, those that `take` left, to which some MB are given at a time; the last one is here in any case."""
    number, failure = first - 1, None
    try:
        for data in _whole(blocks):
            if data is None:
                number += 1
                yield number, None
                continue
            some = Lines.of(data, number + 1)
            number += len(some)
            for place in take(some):
                yield some.first + place, some[place]
    except Broken as error:
        failure = error
    if number >= first:
        yield number, b""
    if failure is not None:
        raise failure


def quickly(line: bytes) -> dict[str, Any] | None:
    """The object that a line holds, by the faster parser; None where `json` would or might read it in another way."""
    if not line.startswith(b"{"):
        return None
    try:
        value: dict[str, Any] = orjson.loads(line)
        return value if _exact(value.values()) else None
    except (ValueError, RecursionError):
        return None


def _exact(values: Iterable[Any]) -> bool:
    """Whether no number in these may have been an integer of more than 64 bits, which the faster parser rounds."""
    for value in values:
        kind = type(value)
        if kind is str:
            continue
        if kind is dict:
            if not _exact(value.values()):
                return False
        elif (kind is list and not _exact(value)) or (kind is float and not abs(value) < 1e18):
            return False
    return True


def _json_line(line: bytes, number: int) -> Iterator[Cell | Flaw]:
    """One object; or several that lost the line end between them."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        yield Flaw(row=number, reason=f"not UTF-8 text (byte {error.start + 1})", excerpt=excerpt(line))
        return
    at = 0
    while at < len(text):
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield Flaw(row=number, reason=_why(error), excerpt=text[at : at + 200])
            return
        yield _row(value, number)
        at = end + len(text[end:]) - len(text[end:].lstrip(" \t\r,"))


def _why(error: Exception) -> str:
    detail = "too deeply nested" if isinstance(error, RecursionError) else str(error)[:100]
    return f"not valid JSON ({detail})"


def _row(value: object, number: int) -> Cell | Flaw:
    if isinstance(value, dict):
        return Cell(row=number, value=value)
    return Flaw(row=number, reason=f"not an object with fields ({type(value).__name__})", excerpt=str(value)[:200])


class _Window:
    """The decoded text being parsed, from `at` on; it grows when a value does not end in it."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.text, self.at, self.depth, self.ended = "", 0, 0, False
        self.failure: Broken | None = None
        self._blocks = blocks
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")

    def more(self) -> None:
        """Forget what is behind `at` and read at least as much again as is left, so that long values cost no more."""
        self.text, self.at = self.text[self.at :], 0
        parts, wanted = [self.text], max(len(self.text), BLOCK)
        while wanted > 0 and not self.ended:
            try:
                block = next(self._blocks, None)
            except Broken as error:
                self.failure, block = error, None
            self.ended = block is None
            parts.append(self._decoder.decode(block or b"", final=self.ended))
            wanted -= len(parts[-1])
        self.text = "".join(parts)

    def skip(self) -> bool:
        """Step over white space, commas and brackets; True when a value begins here."""
        match = _BETWEEN.match(self.text, self.at)
        if match is not None:
            self.depth += match[0].count("[") - match[0].count("]")
            self.at = match.end()
        return self.at < len(self.text)

    def broken(self, error: Exception) -> bool:
        """Whether the value at `at` is wrong in itself, and not merely unfinished."""
        if self.ended or len(self.text) - self.at > MAX_ROW or not isinstance(error, json.JSONDecodeError):
            return True
        return not error.msg.startswith("Unterminated") and error.pos < len(self.text) - 16

    def resume(self, error: Exception) -> None:
        """Go to where the next object seems to begin."""
        place = error.pos if isinstance(error, json.JSONDecodeError) else self.at
        found = _NEXT_ROW.search(self.text, max(place - 1, self.at))
        self.at = found.end() if found else len(self.text)


def _json_values(blocks: Iterator[bytes]) -> Iterator[Cell | Flaw]:
    """The objects of an array or of a sequence of documents, read as they come; after an error, from the next on."""
    window, number = _Window(blocks), 0
    while True:
        if not window.skip():
            if window.ended:
                break
            window.more()
            continue
        try:
            value, end = json.JSONDecoder().raw_decode(window.text, window.at)
        except (ValueError, RecursionError) as error:
            if window.broken(error):
                number += 1
                yield Flaw(row=number, reason=_why(error), excerpt=window.text[window.at : window.at + 200])
                window.resume(error)
            else:
                window.more()
            continue
        if end == len(window.text) and not window.ended:
            window.more()
            continue
        window.at = end
        for item in _document(value) if number == 0 and window.depth == 0 else [value]:
            number += 1
            yield _row(item, number)
    if window.failure is not None:
        yield Flaw(row=number + 1, reason=str(window.failure))
    elif window.depth > 0:
        yield Flaw(row=number + 1, reason="the JSON array is not closed: the file is cut off")


def _document(value: object) -> list[object]:
    """The rows of a whole document: lists of rows under its keys, rows under their ids, or the document itself.

    A document that has the fields of a row, or turns of a conversation under its keys, is one row.
    """
    if not isinstance(value, dict) or _is_row(value):
        return [value]
    if len(value) > 1 and all(isinstance(v, dict) for v in value.values()):
        return list(value.values())
    tables = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
    named = [value[k] for k in ("data", "rows", "examples", "instances") if isinstance(value.get(k), list)]
    if named or (tables and len(tables) == len(value)):
        return [row for table in (named[:1] or tables) for row in table]
    return [value]


def _is_row(value: dict[str, Any]) -> bool:
    turns = any(is_message(v) or (isinstance(v, list) and v and is_message(v[0])) for v in value.values())
    return turns or bool({"chosen", "responses", "messages"} & value.keys()) or fitting(value) is not None


def excerpt(value: bytes) -> str:
    return value[:200].decode("utf-8", "replace")
