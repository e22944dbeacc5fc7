"""The words of a text, by which benchmarks are found in pairs and near-duplicates in pools; compiled, and in Python.

A word is a run of letters and digits in lower case after Unicode's NFKC; each Chinese, Japanese and Korean character is a
word of its own, for they write no spaces. The compiled reader (words.h) takes UTF-8 as Arrow holds it. What a character
becomes it knows from a table made of this Python's own `unicodedata`; the few texts in which that depends on a
character's neighbours (accents apart from their letters, the capital sigma) are brought to their form here and read again.
"""

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
START, STEP, BASE = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA24BAED4963EE407  # words.h has the same
PART = "\x1e"
_ALL = 2**64 - 1
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_SINGLE = re.compile(f"[{_CJK}]")
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_PLANES = (0, 1, 2, 3, 14)  # those in which Unicode has assigned characters
_ITSELF, _ANOTHER, _SEVERAL, _IN_CONTEXT = range(4)
_UNSETTLED = 255
"""The order of what follows a form that ends in a mark of its own: any mark after it asks for Unicode's own sorting."""


def words(text: str) -> list[str]:
    """Lower-case words; each Chinese, Japanese and Korean character is a word, for they write no spaces."""
    return _WORD.findall(_form(text))


def _form(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


@functools.lru_cache(1 << 16)
def _hashed(word: str) -> int:
    """Eight bytes at a time, the last eight filled up with zeros."""
    data, value = word.encode(), START
    for at in range(0, len(data) + 1, 8):
        value = mixed(value ^ int.from_bytes(data[at : at + 8], "little"))
    return value


def mixed(x: int) -> int:
    """All 64 bits of the result depend on all of x; one to one."""
    x = ((x ^ (x >> 32)) * STEP) & _ALL
    x = ((x ^ (x >> 29)) * STEP) & _ALL
    return x ^ (x >> 32)


def hashes(said: list[str] | tuple[str, ...]) -> Hashes:
    """(words,) the 64-bit hash of each word: the same in every process and on every machine, unlike Python's own."""
    return np.fromiter(map(_hashed, said), np.uint64, len(said))


def runs(of: Hashes, n: int) -> Hashes:
    """(words - n + 1,) the hash of every n words in a row: a polynomial of their hashes modulo 2^64."""
    count = max(0, len(of) - n + 1)
    total = np.zeros(count, np.uint64)
    for k in range(n):
        total = total * np.uint64(BASE) + of[k : k + count]
    return total


def whole(of: Hashes) -> int:
    """The hash of all words together; never that of a run."""
    total = 0
    for value in of.tolist():
        total = (total * BASE + value) & _ALL
    return mixed(total ^ (len(of) * START & _ALL))


def strings(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Any Arrow column of text as one array with 64-bit offsets; what is null is empty."""
    chunks = [column] if isinstance(column, pa.Array) else column.chunks
    cast = [chunk if pa.types.is_large_string(chunk.type) else chunk.cast(pa.large_string()) for chunk in chunks]
    one = cast[0] if len(cast) == 1 else pa.concat_arrays(cast or [pa.array([], pa.large_string())])
    return pc.fill_null(one, "") if one.null_count else one


def read(texts: pa.Array, reading: Callable[[Any, Any, int, int, NDArray[np.uint8]], None]) -> None:
    """Have a compiled reader read `texts` (from `strings`).

    `reading(data, offsets, count, done, states)` reads those of the `count` texts whose state is 0 and sets it to 1, or to
    2 where it cannot: these are brought to their form, and it is called once more for them, with `done`. The other texts
    are empty then, and their state is 1.
    """
    states = np.zeros(len(texts), np.uint8)
    _call(texts, reading, 0, states)
    left = np.flatnonzero(states == 2)
    if len(left):
        formed = [_form(text) for text in texts.take(pa.array(left)).to_pylist()]
        lengths = np.zeros(len(texts) + 1, np.int64)
        data = [text.encode() for text in formed]
        lengths[left + 1] = [len(d) for d in data]
        offsets = pa.py_buffer(np.cumsum(lengths))
        states[left] = 0
        again = pa.Array.from_buffers(pa.large_string(), len(texts), [None, offsets, pa.py_buffer(b"".join(data))])
        _call(again, reading, 1, states)


def _call(texts: pa.Array, reading: Callable[..., None], done: int, states: NDArray[np.uint8]) -> None:
    _, offsets, data = texts.buffers()
    if len(texts):
        at = offsets.address + 8 * texts.offset
        reading(data.address if data and data.size else offsets.address, at, len(texts), done, states)


@functools.cache
def characters() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(0x110000,) what every character is and becomes, and the sequences of those that become several (words.h)."""
    every = [chr(code) for plane in _PLANES for code in range(plane << 16, plane + 1 << 16) if code != ord("\n")]
    normal = unicodedata.normalize("NFKC", "\n".join(every)).split("\n")
    seconds = _seconds(every)
    entries, sequences = np.zeros(0x110000, np.uint32), [0]
    for c, becomes, category in zip(every, normal, map(unicodedata.category, every), strict=True):
        if category == "Lo" and becomes == c and c not in seconds:
            entries[ord(c)] = 1
        elif category not in ("Cn", "Co", "Cs"):  # unassigned, private and half characters are gaps
            entries[ord(c)] = _entry(c, becomes, seconds, sequences)
    for code in range(0x3040, 0xD7B0):  # some of these are no letters, or not assigned
        if _SINGLE.match(chr(code)):
            entries[code] = entries[code] & ~np.uint32(3) | 2
    return entries, np.array(sequences, np.uint32)


def _seconds(every: list[str]) -> set[str]:
    """Those that may become one with the character before: the second of a canonical decomposition, and parts of Hangul."""
    found = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    apart = unicodedata.normalize("NFD", "\n".join(every)).split("\n")
    for c, parts in zip(every, apart, strict=True):
        if parts != c and not "가" <= c <= "힣" and len(two := unicodedata.decomposition(c).split()) == 2:
            found.add(chr(int(two[1], 16)))
    return found


def _entry(c: str, normal: str, seconds: set[str], sequences: list[int]) -> int:
    own, order, form = int(c.isalnum()), unicodedata.combining(c), normal.lower()
    first = normal[:1]
    if c in seconds or first in seconds or "Σ" in normal or (unicodedata.combining(first) and form != c):
        return own | _IN_CONTEXT << 2
    if form == c:
        return own | _ITSELF << 2 | order << 4
    ends = _UNSETTLED if unicodedata.combining(form[-1]) or unicodedata.combining(normal[-1]) else 0
    if len(form) == 1:
        return own | _ANOTHER << 2 | ends << 4 | ord(form) << 12
    sequences += [len(form), *map(ord, form)]
    return own | _SEVERAL << 2 | ends << 4 | len(sequences) - len(form) - 1 << 12
