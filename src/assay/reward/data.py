"""What a training reads: labelled pairs, in memory or in Parquet, in an order that is a pure function of the seed.

Position p of epoch e is the same pair whatever the number of processes and wherever a killed run resumes: that is all
the state there is.
"""

import copy
import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.errors import AssayError
from assay.order import Orders
from assay.records import Conversation, Preference, digest, first_question, question_id
from assay.store import Place
from assay.tables import arrow_type, build, opened, records, to_arrow

Places = NDArray[np.int64]
SLICE = 4_096
"""Rows that are taken into a digest at a time; it depends on this number."""


class Pairs(Protocol):
    """Labelled pairs that can be read at any place of their shuffled order."""

    @property
    def whole(self) -> bool:
        """Whether all are in memory, so that `at` and `without` can be asked: they are looked through before training."""
        ...

    def __len__(self) -> int: ...

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        """The pairs at some positions (ascending) of an epoch's order, each with its number, the same in every epoch."""
        ...

    def at(self, numbers: Sequence[int]) -> list[Preference]:
        """The pairs with these numbers."""
        ...

    def without(self, numbers: Collection[int]) -> "Pairs":
        """The other pairs, numbered anew in the same order."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the pairs are, as digests of all that is in them: two sets with the same identity train the same model.
        "pairs" are ids and prompts, "labels" the answers, which of them is chosen, and how sure that is."""
        ...

    def graded(self) -> tuple[bool, bool]:
        """Whether any certainty is below 1, and any margin not 0: else soft labels, or margins, would change nothing."""
        ...


class MemoryPairs:
    """Pairs in memory, shuffled whole. The order in which they were given does not matter."""

    whole = True

    def __init__(self, pairs: Sequence[Preference]) -> None:
        self.pairs = sorted(pairs, key=lambda p: (p.pair_id, p.chosen.id))
        self._orders = Orders(len(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        order = self._orders.of(seed, epoch)
        return [(int(order[p]), self.pairs[order[p]]) for p in positions]

    def at(self, numbers: Sequence[int]) -> list[Preference]:
        return [self.pairs[n] for n in numbers]

    def without(self, numbers: Collection[int]) -> "MemoryPairs":
        return MemoryPairs([p for n, p in enumerate(self.pairs) if n not in numbers])

    def identity(self) -> dict[str, Any]:
        slices = (self.pairs[at : at + SLICE] for at in range(0, len(self.pairs), SLICE))
        return _identity(len(self.pairs), [(to_arrow(Preference, some) for some in slices)])

    def graded(self) -> tuple[bool, bool]:
        return any(p.certainty != 1.0 for p in self.pairs), any(p.margin for p in self.pairs)


class _Piece(NamedTuple):
    """A run of rows of a row group; `first` is the number of its first row."""

    shard: int
    group: int
    start: int
    rows: int
    size: int
    first: int


class ParquetPairs:
    """Pairs in a folder of Parquet shards of `Preference` rows (`assay reward export` writes them), of any number.

    Folders within `window` rows and `window_bytes` are held whole, as Arrow, and shuffled whole, as `MemoryPairs` are: into
    how many shards they are split makes no difference. Of larger ones, pieces (row groups, or parts of those that are
    larger than a window) come in random order, and one window of them is held and shuffled. Either way memory does not grow
    with the number of pairs, and what the shards are called makes no difference.

    Args:
        folder: Here or in an object store.
        window: Rows that are held at a time, about.
        window_bytes: And their bytes.

    Raises AssayError for a folder without shards or with other columns.
    """

    COLUMNS = ("pair_id", "prompt", "chosen", "rejected", "certainty", "margin")

    def __init__(self, folder: Path | Place, window: int = 65_536, window_bytes: int = 1 << 27) -> None:
        self.folder, self.window, self.window_bytes = Place.of(folder), window, window_bytes
        shards = [_Shard.open(self.folder / name) for name in self.folder.names(".parquet")]
        if not shards:
            raise AssayError(f"{folder}: no Parquet shards of preferences here; `assay reward export` writes them")
        for other in shards:
            if other.types != shards[0].types:
                raise AssayError(f"{other.file}: its columns are of other types than those of {shards[0].file}")
        self.shards = sorted(shards, key=lambda s: s.order)
        self.pieces = list(self._pieces())
        self.rows = sum(p.rows for p in self.pieces)
        self.whole = self.rows <= window and sum(p.size for p in self.pieces) <= window_bytes
        self._orders = Orders(self.rows if self.whole else len(self.pieces))
        self._spans: tuple[tuple[int, int], Places, list[list[_Piece]]] | None = None
        self._held: tuple[tuple[int, ...], _Held] | None = None

    def _pieces(self) -> Iterator[_Piece]:
        first = 0
        for number, shard in enumerate(self.shards):
            for group, (rows, size) in enumerate(shard.groups):
                parts = max(1, -(-rows // self.window), min(rows, -(-size // self.window_bytes)))
                for start, stop in _bounds(rows, parts):
                    yield _Piece(number, group, start, stop - start, size // parts, first + start)
                first += rows

    def __len__(self) -> int:
        return self.rows

    def identity(self) -> dict[str, Any]:
        """One pass over the shards. Of a folder that is held whole, the same as of `MemoryPairs` of these pairs; of a larger
        one, "shards" are the shards' footers, on which its order depends."""
        if self.whole:
            slices = (np.arange(at, min(at + SLICE, self.rows)) for at in range(0, self.rows, SLICE))
            return _identity(self.rows, [(self._all().table(some) for some in slices)])
        parts = itertools.groupby(self._parts(self.pieces, self.COLUMNS), key=lambda p: p[0].shard)
        told = _identity(self.rows, ((part for _, part in shard) for _, shard in parts))
        return told | {"shards": {"digest": digest(sorted(s.order[0] for s in self.shards))}}

    def graded(self) -> tuple[bool, bool]:
        def any_but(name: str, plain: float) -> bool:
            parts = self._parts([p for p in self.pieces if name in self.shards[p.shard].columns], [name])
            return any(bool(pc.any(pc.not_equal(part.column(name), plain)).as_py()) for _, part in parts)

        return any_but("certainty", 1.0), any_but("margin", 0.0)

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        wanted, found = np.asarray(positions, dtype=np.int64), list[tuple[int, Preference]]()
        starts, windows = self._windows(seed, epoch)
        which = np.searchsorted(starts, wanted, "right") - 1
        for number in np.unique(which).tolist():
            held, order = self._window((seed, epoch, number), windows[number])
            here = order[wanted[which == number] - starts[number]]
            found += zip(held.numbers[here].tolist(), held.pairs(here), strict=True)
        return found

    def at(self, numbers: Sequence[int]) -> list[Preference]:
        assert self.whole
        return self._all().pairs(np.asarray(numbers, dtype=np.int64))

    def without(self, numbers: Collection[int]) -> "ParquetPairs":
        assert self.whole
        held, rest = self._all(), copy.copy(self)
        kept = np.setdiff1d(np.arange(self.rows), np.fromiter(numbers, np.int64, len(numbers)))
        rest.rows, rest._held = len(kept), ((), held.only(kept))
        rest._orders, rest._spans = Orders(len(kept)), None
        return rest

    def asking(self, prompts: Iterable[Conversation]) -> list[str]:
        """The ids of the pairs that ask a question of `prompts` (see `question_id`): one pass over the shards' prompts."""
        wanted = {question_id(p): first_question(p) for p in prompts}
        texts, found = pa.array(list(wanted.values()), pa.string()), []
        parts = self._parts(self.pieces, ["pair_id", "prompt"])
        for batch in (batch for _, part in parts for batch in part.to_batches()):
            turns = batch.column("prompt")
            said = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(turns.flatten().field("content")))
            alike = pc.is_in(pc.binary_join(said, " "), value_set=texts)
            rows = pc.unique(pc.list_parent_indices(turns).filter(alike))
            some = batch.take(rows).to_pylist() if len(rows) else []
            read = ((row["pair_id"], build(Conversation, row["prompt"])) for row in some)
            found += [pair_id for pair_id, prompt in read if question_id(prompt) in wanted]
        return found

    def _windows(self, seed: int, epoch: int) -> tuple[Places, list[list[_Piece]]]:
        """The first position of each window of an epoch, and its pieces."""
        if self.whole:
            return np.zeros(1, np.int64), [self.pieces]
        if self._spans is None or self._spans[0] != (seed, epoch):
            starts, windows, at, size = [0], [list[_Piece]()], 0, 0
            for number in self._orders.of(seed, epoch).tolist():
                if at - starts[-1] >= self.window or size >= self.window_bytes:
                    starts, windows, size = [*starts, at], [*windows, []], 0
                windows[-1].append(self.pieces[number])
                at, size = at + windows[-1][-1].rows, size + windows[-1][-1].size
            self._spans = (seed, epoch), np.array(starts), windows
        return self._spans[1:]

    def _window(self, key: tuple[int, int, int], pieces: Sequence[_Piece]) -> "tuple[_Held, Places]":
        """The rows of a window, and their order."""
        if self.whole:
            return self._all(), self._orders.of(*key[:2])
        if self._held is None or self._held[0] != key:
            self._held = None  # let go of the last window before the next one is read
            self._held = key, self._read(pieces)
            self._order = np.random.default_rng(key).permutation(len(self._held[1].numbers))
        return self._held[1], self._order

    def _all(self) -> "_Held":
        """All rows, sorted as `MemoryPairs` sorts them."""
        if self._held is None:
            self._held = (), self._read(self.pieces).sorted()
        return self._held[1]

    def _read(self, pieces: Sequence[_Piece]) -> "_Held":
        parts = dict(self._parts(sorted(pieces), self.COLUMNS))
        numbers = [np.arange(p.first, p.first + p.rows) for p in pieces]
        return _Held.of([parts[p] for p in pieces], np.concatenate([np.zeros(0, np.int64), *numbers]))

    def _parts(self, pieces: Sequence[_Piece], columns: Sequence[str]) -> Iterator[tuple[_Piece, pa.Table]]:
        """The rows of pieces that are sorted by shard, which is opened once."""
        file, last = None, -1
        for piece in pieces:
            shard = self.shards[piece.shard]
            if piece.shard != last:
                file, last = opened(shard.file), piece.shard
            try:
                part = _rows(file, piece, [c for c in columns if c in shard.columns])
            except (OSError, pa.ArrowException) as error:
                raise AssayError(f"{shard.file}: damaged: row group {piece.group} cannot be read ({error})") from error
            for name, default in (("certainty", 1.0), ("margin", 0.0)):
                if name in columns and name not in part.column_names:
                    part = part.append_column(name, pa.array([default] * len(part), arrow_type(float)))
            yield piece, part.select(list(columns))


def _bounds(rows: int, parts: int) -> list[tuple[int, int]]:
    """Where each of so many nearly equal parts of some rows begins and ends."""
    at = [rows * n // parts for n in range(parts + 1)]
    return [(a, b) for a, b in itertools.pairwise(at) if a < b]


def _rows(file: Any, piece: _Piece, columns: Sequence[str]) -> pa.Table:
    """The rows of a piece. Of a part of a row group, what stands before it is decoded too, and let go."""
    if piece.rows == file.metadata.row_group(piece.group).num_rows:
        return file.read_row_group(piece.group, list(columns))
    found, at = [], 0
    for batch in file.iter_batches(SLICE, row_groups=[piece.group], columns=list(columns)):
        low, high = max(piece.start - at, 0), min(piece.start + piece.rows - at, len(batch))
        if low < high:
            found.append(batch.slice(low, high - low))
        at += len(batch)
        if at >= piece.start + piece.rows:
            break
    return pa.Table.from_batches(found).combine_chunks()


@dataclass(frozen=True, slots=True)
class _Held:
    """Rows in memory, as Arrow, in parts that are never joined. Row n lies at `places[n]` of the parts one after the other,
    and has the number `numbers[n]`."""

    parts: list[pa.Table]
    starts: Places
    places: Places
    numbers: Places

    @staticmethod
    def of(parts: list[pa.Table], numbers: Places) -> "_Held":
        sizes = [len(p) for p in parts]
        return _Held(parts, np.cumsum([0, *sizes])[:-1], np.arange(sum(sizes)), numbers)

    def table(self, rows: Places) -> pa.Table:
        """Some rows, in the order that is asked for."""
        places = self.places[rows]
        part = np.searchsorted(self.starts, places, "right") - 1
        by_part = np.argsort(part, kind="stable")
        used = np.unique(part).tolist()
        some = [self.parts[n].take(pa.array(places[part == n] - self.starts[n])) for n in used]
        return pa.concat_tables(some).take(pa.array(np.argsort(by_part, kind="stable"))) if some else self.parts[0][:0]

    def pairs(self, rows: Places) -> list[Preference]:
        return records(Preference, self.table(rows))

    def only(self, rows: Places) -> "_Held":
        """Some rows, numbered anew."""
        return _Held(self.parts, self.starts, self.places[rows], np.arange(len(rows)))

    def sorted(self) -> "_Held":
        """By pair id and, where one is there more than once, by the chosen response."""
        ids = pa.chunked_array([c for p in self.parts for c in p.column("pair_id").cast(pa.string()).chunks])
        order = pc.sort_indices(ids).to_numpy().astype(np.int64)
        again = pc.equal(ids.take(pa.array(order[1:])), ids.take(pa.array(order[:-1]))).to_numpy()
        twice = np.flatnonzero(np.concatenate([again, [False]]) | np.concatenate([[False], again]))
        chosen = [(p.pair_id, p.chosen.id) for p in self.pairs(order[twice])]
        order[twice] = order[twice][sorted(range(len(chosen)), key=chosen.__getitem__)]
        return self.only(order)


@dataclass(frozen=True, slots=True, eq=False)
class _Shard:
    """A Parquet file, with rows and bytes of its row groups. `order` sorts shards by what is in them, not by their names."""

    file: Place
    columns: frozenset[str]
    types: tuple[Any, ...]
    groups: list[tuple[int, int]]
    order: tuple[str, str]

    @staticmethod
    def open(file: Place) -> "_Shard":
        with opened(file) as shard:
            schema, meta = shard.schema_arrow, shard.metadata
            groups = [meta.row_group(n) for n in range(meta.num_row_groups)]
            sizes = [(g.num_rows, g.total_byte_size) for g in groups]
        with file.open() as raw:
            raw.seek(raw.size() - 8)  # the footer's length, and "PAR1"
            raw.seek(raw.size() - 8 - int.from_bytes(raw.read(4), "little"))
            footer = hashlib.blake2b(raw.read()).hexdigest()
        needed = ("pair_id", "prompt", "chosen", "rejected")
        missing = set(needed) - set(schema.names)
        if missing:
            raise AssayError(f"{file}: the columns {', '.join(sorted(missing))} are missing; not preferences")
        types = tuple(schema.field(name).type for name in needed)
        return _Shard(file, frozenset(schema.names), types, sizes, (footer, file.name))


def _identity(n: int, shards: Iterable[Iterable[pa.Table]]) -> dict[str, Any]:
    """`Pairs.identity` of the rows of some shards, whose own order is of no account."""
    found = []
    for shard in shards:
        asked, told = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        for part in shard:
            for name in ParquetPairs.COLUMNS:
                into = asked if name in ("pair_id", "prompt") else told
                _feed(into.update, part.column(name).combine_chunks())
        found.append((asked.hexdigest(), told.hexdigest()))
    return {
        "pairs": {"n": n, "digest": digest(sorted(a for a, _ in found))},
        "labels": {"digest": digest(sorted(t for _, t in found))},
    }


def _feed(take_in: Callable[[Any], None], values: Any) -> None:
    """Hand over the values of a column, whatever its buffers look like: lengths before what is in them."""
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        take_in(pc.list_value_length(values).cast(pa.int64()).fill_null(-1).to_numpy().tobytes())
        _feed(take_in, values.flatten())
    elif pa.types.is_struct(kind):
        for name, column in sorted(zip((f.name for f in kind), values.flatten(), strict=True), key=lambda c: c[0]):
            take_in(name.encode())
            _feed(take_in, column)
    elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
        take_in(values.cast(pa.float64()).to_numpy(zero_copy_only=False).tobytes())
    else:
        texts = values.cast(pa.large_binary())
        take_in(pc.binary_length(texts).fill_null(-1).to_numpy().tobytes())
        texts = texts.fill_null(b"")
        _, offsets, data = texts.buffers()
        ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        take_in(memoryview(data or b"")[ends[0] : ends[-1]] if len(texts) else b"")


def positions(n: int, at: int, size: int) -> list[tuple[int, list[int]]]:
    """The (epoch, positions) of `size` pairs after the first `at`: consecutive slices of the orders of epochs of n pairs."""
    spans: list[tuple[int, list[int]]] = []
    left = size
    while left:
        epoch, offset = divmod(at, n)
        taken = min(left, n - offset)
        spans.append((epoch, list(range(offset, offset + taken))))
        at, left = at + taken, left - taken
    return spans
