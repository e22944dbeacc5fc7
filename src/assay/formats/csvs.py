"""CSV and TSV as rows, with the header's names as fields."""

import csv
import re
from collections.abc import Iterator
from typing import Any

from assay.formats.lines import MAX_ROW, Broken, lines
from assay.formats.texts import Cell, Flaw


def csv_rows(blocks: Iterator[bytes]) -> Iterator[Cell | Flaw]:
    """Records below a header line; the delimiter is the commonest of comma, tab and semicolon in it, or what
    Excel's `sep=;` above it says.

    A quote that is never closed costs the record it is in: the lines that it swallowed are read again.
    """
    csv.field_size_limit(MAX_ROW >> 2)
    feed = _Feed(blocks)
    header, number = None, 1
    while True:
        number = feed.number + 1
        try:
            record = next(feed.reader, None)
            if record is None:
                break
        except csv.Error as error:
            yield Flaw(
                row=number, reason=f"not a CSV record ({error})", excerpt=feed.seen[0][:200] if feed.seen else ""
            )
            feed.again()
            continue
        feed.seen.clear()
        if header is None:
            header = record
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                yield Flaw(row=1, reason=f"two columns have the same name: rename one ({twice[:40]!r})")
                return
        elif len(record) == len(header):
            yield Cell(row=number, value=dict(zip(header, record, strict=True)))
        elif record:
            yield Flaw(
                row=number, reason=f"has another number of cells than the header ({len(record)}, not {len(header)})"
            )
    if feed.failure is not None:
        yield Flaw(row=feed.number + 1, reason=str(feed.failure))


class _Feed:
    """Lines for a csv.reader that can be given back: `seen` are those of the record being read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.seen: list[str] = []
        self.number = 0
        self.failure: Broken | None = None
        self._lines = lines(blocks)
        self._back: list[str] = []
        first = self._next()
        told = re.fullmatch(r'"?sep=(.)"?\s*', first or "", re.IGNORECASE)  # Excel's
        if told is not None:
            self.number, first = 1, self._next()
        self._back = [] if first is None else [first]
        counts = {mark: (first or "").count(mark) for mark in ",\t;"}
        self._mark = told[1] if told is not None else max(counts, key=lambda mark: counts[mark])
        self.reader = self._new()

    def _new(self) -> Any:
        return csv.reader(self, delimiter=self._mark, strict=True)

    def again(self) -> None:
        """Begin anew after the first line of the record that failed."""
        self._back += self.seen[:0:-1]
        self.number -= max(len(self.seen) - 1, 0)
        self.seen = []
        self.reader = self._new()

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        line = self._back.pop() if self._back else self._next()
        if line is None:
            raise StopIteration
        self.seen.append(line)
        self.number += 1
        return line

    def _next(self) -> str | None:
        try:
            for line in self._lines:
                return (line or b"").decode("utf-8", "surrogateescape") + "\n"
        except Broken as error:
            self.failure = error
        return None
