"""Content ids (32 hex digits) as numbers: sorting and partition of whole columns without a comparison of texts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bits = NDArray[np.uint64]


def parts_of(ids: pl.Series, parts: int) -> Ints:
    """(rows,) `shards.part_of` of each content id."""
    if parts == 1 or not len(ids):
        return np.zeros(len(ids), np.int64)
    numbers = _numbers(ids)
    assert numbers is not None, "not content ids"
    return ((numbers[0] >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def by_id(*columns: pl.Series) -> Ints:
    """The rows in the order of columns of ids, of which the first counts most."""
    numbers = [_numbers(c) for c in columns]
    order: Ints | None = None
    for found in reversed(numbers):
        if found is None:
            return _by_text(columns)
        order = np.argsort(found[0]) if order is None else order[np.argsort(found[0][order], kind="stable")]
    assert order is not None
    same = np.ones(max(0, len(order) - 1), bool)
    for high, low in (n for n in numbers if n is not None):
        same &= np.diff(high[order]) == 0
        if (np.diff(low[order])[same] != 0).any():  # two ids with the same first half, of which the order is not known
            return _by_text(columns)
    return order


def _by_text(columns: tuple[pl.Series, ...]) -> Ints:
    frame = pl.DataFrame([c.alias(str(n)) for n, c in enumerate(columns)])
    return frame.select(pl.arg_sort_by(frame.columns)).to_series().to_numpy().astype(np.int64)


@dataclass(frozen=True)
class Occurrences:
    """Rows in the order of their ids: `order`; `again`, the places in it of rows that share their id with others, and
    `which`, a number for the id of each of these."""

    order: Ints
    again: Ints
    which: Ints

    @staticmethod
    def of(ids: pl.Series) -> "Occurrences":
        order = by_id(ids)
        there = ids.gather(order)
        first = (there != there.shift(1)).fill_null(True).to_numpy()
        again = np.flatnonzero(~first | ~np.append(first[1:], True))
        return Occurrences(order, again, np.cumsum(first[again]))

    def sorted(self, rows: pl.DataFrame) -> Ints:
        """The rows in the order of their ids and then of these columns: only rows that share an id are compared."""
        inner = rows[self.order[self.again]]
        at = inner.select(pl.arg_sort_by(pl.Series("", self.which), *inner.columns)).to_series().to_numpy()
        order = self.order.copy()
        order[self.again] = order[self.again[at]]
        return order


def _numbers(ids: pl.Series) -> tuple[Bits, Bits] | None:
    """(rows,) the numbers that both halves of ids write; None where some are not 32 hex digits."""
    if not (ids.str.len_bytes() == 32).fill_null(False).all():
        return None
    begins, text = text_of(ids)
    digits = text[begins[0] : begins[-1]]
    if not ((digits - ord("0") < 10) | (digits - ord("a") < 6)).all():  # of bytes, which wrap around
        return None
    eights = _hex(digits.view(">u8").astype(np.uint64)).reshape(-1, 4)
    return eights[:, 0] << np.uint64(32) | eights[:, 1], eights[:, 2] << np.uint64(32) | eights[:, 3]


def text_of(texts: pl.Series) -> tuple[Ints, NDArray[np.uint8]]:
    """A column of texts end to end: (rows + 1,) where each begins, and their UTF-8. A null has none."""
    array: Any = pa.array(texts.rechunk().to_arrow(), pa.large_string())
    _, begin, text = array.buffers()
    begins = np.frombuffer(begin, np.int64)[array.offset : array.offset + len(array) + 1]
    return begins, np.frombuffer(text or b"", np.uint8)


def _hex(digits: Bits) -> Bits:
    """What eight ASCII digits write: each byte to four bits, which are then moved together."""
    x = (digits & 0x0F0F0F0F0F0F0F0F) + 9 * (digits >> np.uint64(6) & 0x0101010101010101)
    for shift, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        x = (x | x >> np.uint64(shift)) & np.uint64(mask)
    return x
