"""The bytes of text files by whole lines: plain, gzip or zstd; UTF-8, or UTF-16 and UTF-32 with a mark.

Readers take an iterator of byte blocks that may end in `Broken`: what came before it has been yielded by then.
"""

import codecs
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BLOCK, HELD = 1 << 16, 1 << 22
MAX_ROW = 1 << 26
"""Bytes of the longest line or JSON object that is read: 64 MiB."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip


class Broken(Exception):
    """The bytes of a file cannot be unpacked any further."""


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


def span(path: Path, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a plain file between two offsets, as UTF-8."""

    def blocks() -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            left = end - start
            while left > 0 and (block := file.read(min(4 * BLOCK, left))):
                left -= len(block)
                yield block

    return blocks() if start else _as_utf8(blocks())


def as_it_is(head: bytes) -> bool:
    """Whether a text that begins so is neither packed nor re-coded."""
    recoded = head.startswith(tuple(mark for mark, encoding in _MARKS if encoding != "utf-8"))
    packed = head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))
    return not packed and not recoded and b"\0" not in head[:2]


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
    for some in whole(blocks):
        if some is None:
            yield None
        else:
            yield from (line.rstrip(b"\r") for line in some.split(b"\n"))


def whole(blocks: Iterable[bytes]) -> Iterator[bytes | None]:
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
