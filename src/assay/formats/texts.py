"""Text files as rows: JSON lines and JSON documents, from the blocks of bytes that `lines` makes of a file."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from assay.formats.layouts import fitting
from assay.formats.lines import BLOCK, MAX_ROW, Broken, Lines, Take, as_it_is, lines, span, whole
from assay.formats.turns import is_message

_NEXT_ROW = re.compile(r"\}\s*[,\n]\s*(?=\{)")
_BETWEEN = re.compile(r"[\s,\[\]]*")


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
    return _json_lines(span(path, start, end), first, take)


def plain_lines(path: Path) -> bool:
    """Whether a file is JSON lines as they are: neither packed nor re-coded, nor one document."""
    with path.open("rb") as file:
        head = file.read(4 * BLOCK)
    return as_it_is(head) and _is_lines(head.removeprefix(codecs.BOM_UTF8))


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
        for data in whole(blocks):
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
