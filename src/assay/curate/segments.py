"""Rows that an import lays down for later: files of segments, and the notes that say where the rows of each part stand.

A segment is the rows of one kind that fell to one part of the pool (or to one bucket), out of one chunk of a piece of a
file; those of a chunk lie end to end in one file. There are as many as chunks times parts, so notes hold their places as
columns of numbers, and a call is given those of its own part alone.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from assay.curate.ids import Ints, parts_of
from assay.errors import AssayError
from assay.formats.columns import SCHEMA
from assay.records import Rejection
from assay.store import Place
from assay.tables import arrow_schema

LONE = pa.schema([("prompt", pa.string()), ("row", pa.int64()), ("layout", pa.string()), ("value", pa.string())])
"""Rows of one response each, by a digest of their prompt."""
KINDS: dict[str, pa.Schema] = {"pairs": SCHEMA, "rejections": arrow_schema(Rejection), "lone": LONE}
_PLACE = np.dtype([
    ("chunk", np.int32), ("part", np.int32), ("start", np.int64), ("length", np.int64), ("bytes", np.int64),
    ("crc", np.uint32),
])  # fmt: skip
"""Of a segment: the chunk and the part, where its bytes begin in the chunk's file, how many they are, how many its rows take
in memory, and a checksum."""
Places = NDArray[np.void]


def split(table: pa.Table, parts: Ints) -> list[tuple[int, pa.Table]]:
    """(part, its rows) of each part that has rows; `parts` are (rows,). The rows are in the order of their numbers in the
    file, where they have any."""
    numbers = table["row"].to_numpy() if "row" in table.column_names else np.empty(0, np.int64)
    order, runs = _runs(parts, numbers)
    if (np.diff(order) != 1).any():
        table = table.take(pa.array(order))
    return [(part, table.slice(start, end - start)) for part, start, end in runs]


def _runs(parts: Ints, numbers: Ints) -> tuple[Ints, list[tuple[int, int, int]]]:
    """The order by part, and within it by number (if there are any), and the (part, start, end) of each in it."""
    order = np.argsort(parts, kind="stable") if not len(numbers) else np.lexsort((numbers, parts))
    found, starts, count = np.unique(parts[order], return_index=True, return_counts=True)
    return order, list(zip(found.tolist(), starts.tolist(), (starts + count).tolist(), strict=True))


def by_part(table: pa.Table, column: str, parts: int) -> list[tuple[int, pa.Table]]:
    """`split` by a column of content ids."""
    return split(table, parts_of(pl.Series(pl.from_arrow(table.column(column))), parts))


def lay(folder: Place, name: str, chunk: int, kinds: Mapping[str, list[tuple[int, pa.Table]]]) -> dict[str, Places]:
    """Write the segments of a chunk of the piece `name`, by kind, into one file, which is not made where there are none."""
    made: dict[str, list[tuple[int, ...]]] = {kind: [] for kind in kinds}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            for kind, parts in kinds.items():
                for part, table in parts:
                    (batch,) = table.combine_chunks().to_batches()
                    data = batch.serialize()
                    made[kind].append((chunk, part, file.tell(), data.size, table.nbytes, zlib.crc32(data)))
                    file.write(data)

    if any(kinds.values()):
        (folder / _file(name, chunk)).put(write)
    return {kind: np.array(rows, _PLACE) for kind, rows in made.items()}


def _damaged(file: Place, folder: Place) -> AssayError:
    return AssayError(f"{file}: damaged: remove {folder} and give the same `assay pool add` again")


def _file(name: str, chunk: int) -> str:
    return f"{name}-{chunk:05d}.arrow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What became of the piece `name`: rows read, pairs and ties made, "field reason" of rejections with their number (a row
    may have several, and pairs beside), of rows without any pair with theirs (`lost`), and where its
    segments are, by kind."""

    name: str
    source: str
    file: str
    rows: int
    pairs: int
    ties: int
    rejected: dict[str, int]
    lost: dict[str, int]
    places: dict[str, Places]

    @staticmethod
    def read(folder: Place, name: str) -> "Note":
        """Raises AssayError for what is no such note."""
        file, places = folder / f"{name}.json", dict[str, Places]()
        try:
            told = json.loads(file.read_text())
            for kind, columns in told["places"].items():
                places[kind] = np.empty(len(columns["part"]), _PLACE)
                for column, numbers in columns.items():
                    places[kind][column] = numbers
            return Note(**{**told, "places": places})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(file, folder) from error

    def write(self, folder: Place) -> None:
        """That it is there says that the piece is done."""
        told = {name: getattr(self, name) for name in self.__slots__}
        told["places"] = {k: {c: p[c].tolist() for c in _PLACE.names or ()} for k, p in self.places.items()}
        (folder / f"{self.name}.json").write_text(json.dumps(told))


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Some segments of one kind: `places`, in the pieces of these names, (segments,) of them; what `pieces` came from is
    (source, file) of each."""

    kind: str
    names: tuple[str, ...]
    pieces: tuple[tuple[str, str], ...]
    of: Ints
    places: Places

    @property
    def bytes(self) -> int:
        """That their rows take in memory."""
        return int(self.places["bytes"].sum())

    def read(self, folder: Place) -> Iterator[pa.Table]:
        """The rows of each. Raises AssayError where a file is damaged."""
        for n, place in zip(self.of, self.places, strict=True):
            name = folder / _file(self.names[n], place["chunk"])
            # Mapped where that can be: what is read must stay until all is sorted, and new memory costs more than the text.
            with name.open() if name.path is None else pa.memory_map(str(name.path)) as file:
                if file.size() < place["start"] + place["length"]:
                    raise _damaged(name, folder)
                file.seek(int(place["start"]))
                data = file.read_buffer(int(place["length"]))
            if zlib.crc32(data) != place["crc"]:
                raise _damaged(name, folder)
            yield pa.Table.from_batches([pa.ipc.read_record_batch(data, KINDS[self.kind])])

    @staticmethod
    def none(kind: str) -> "Segments":
        return Segments(kind=kind, names=(), pieces=(), of=np.empty(0, np.int64), places=np.empty(0, _PLACE))

    @staticmethod
    def by_part(kind: str, notes: Sequence[Note]) -> "dict[int, Segments]":
        """Those that the notes tell of, by part."""
        places = np.concatenate([np.empty(0, _PLACE), *(n.places[kind] for n in notes)])
        of = np.repeat(np.arange(len(notes)), [len(n.places[kind]) for n in notes])
        order, runs = _runs(places["part"], np.empty(0, np.int64))
        places, of = places[order], of[order]
        made = {}
        for part, start, end in runs:
            used, mine = np.unique(of[start:end], return_inverse=True)
            here = [notes[i] for i in used]
            made[part] = Segments(
                kind=kind, names=tuple(n.name for n in here), pieces=tuple((n.source, n.file) for n in here), of=mine,
                places=places[start:end],
            )  # fmt: skip
        return made
