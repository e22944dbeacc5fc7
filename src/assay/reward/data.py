"""What a training reads: labelled pairs, in memory or in Parquet, in an order that is a pure function of the seed.

Position p of epoch e is the same pair whatever the number of processes and wherever a killed run resumes: that is all
the state there is.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assay.errors import AssayError, CannotRead
from assay.identity import of_file
from assay.images import ImageStore
from assay.order import Orders
from assay.pack import Group, share
from assay.records import Preference, digest
from assay.render import render
from assay.tables import arrow_type, build


class Pairs(Protocol):
    """Labelled pairs that can be read at any place of their shuffled order."""

    def __len__(self) -> int: ...

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        """The pairs at some positions (ascending) of an epoch's order, each with its number, the same in every epoch."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the pairs are, as digests of all that is in them: two sets with the same identity train the same model."""
        ...

    def graded(self) -> tuple[bool, bool]:
        """Whether any certainty is below 1, and any margin not 0: else soft labels, or margins, would change nothing."""
        ...


class MemoryPairs:
    """Pairs in memory, shuffled whole. The order in which they were given does not matter."""

    def __init__(self, pairs: Sequence[Preference]) -> None:
        self.pairs = sorted(pairs, key=lambda p: (p.pair_id, p.chosen.id))
        self._orders = Orders(len(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        order = self._orders.of(seed, epoch)
        return [(int(order[p]), self.pairs[order[p]]) for p in positions]

    def identity(self) -> dict[str, Any]:
        """The texts of the pairs apart from their labels, so that it can be said which of the two differ."""
        asked = (
            [p.pair_id, [m.canonical() for m in p.prompt], *sorted((p.chosen.id, p.rejected.id))] for p in self.pairs
        )
        told = ([p.pair_id, p.chosen.id, p.rejected.id, p.certainty, p.margin] for p in self.pairs)
        return {
            "pairs": {"n": len(self.pairs), "digest": digest(sorted(map(digest, asked)))},
            "labels": {"digest": digest(sorted(map(digest, told)))},
        }

    def graded(self) -> tuple[bool, bool]:
        return any(p.certainty != 1.0 for p in self.pairs), any(p.margin for p in self.pairs)


class ParquetPairs:
    """Pairs in a folder of Parquet shards of `Preference` rows (`assay reward export` writes them), of any number.

    Row groups come in random order; `window` rows of them are held in memory (as Arrow, a few hundred bytes and the
    text per row) and shuffled among themselves. What the shards are called makes no difference. Raises AssayError for a
    folder without shards or with other columns.
    """

    COLUMNS = ("pair_id", "prompt", "chosen", "rejected", "certainty", "margin")

    def __init__(self, folder: Path, window: int = 65_536) -> None:
        self.folder, self.window = folder, window
        shards = [_Shard.open(file) for file in sorted(folder.glob("*.parquet"))]
        if not shards:
            raise AssayError(f"{folder}: no Parquet shards of preferences here; `assay reward export` writes them")
        self.shards = sorted(shards, key=lambda s: s.order)
        self.groups = [(s, i, s.meta.row_group(i).num_rows) for s in self.shards for i in range(s.meta.num_row_groups)]
        self.rows = int(sum(n for _, _, n in self.groups))
        self._held: tuple[tuple[int, int, int], Any, Any] | None = None
        self._spans: tuple[tuple[int, int], list[tuple[int, int, list[int]]]] | None = None
        self._first = np.concatenate([[0], np.cumsum([n for _, _, n in self.groups])])

    def __len__(self) -> int:
        return self.rows

    def identity(self) -> dict[str, Any]:
        """The bytes of the shards, which are all read; not their names. Labels are in them."""
        told = digest(sorted(of_file(s.path) for s in self.shards))
        return {"pairs": {"n": self.rows, "shards": len(self.shards), "digest": told}}

    def graded(self) -> tuple[bool, bool]:
        def any_but(name: str, plain: float) -> bool:
            held = (s.read(range(s.meta.num_row_groups), [name])[name] for s in self.shards if name in s.columns)
            return any(bool(pc.any(pc.not_equal(column, plain)).as_py()) for column in held)

        return any_but("certainty", 1.0), any_but("margin", 0.0)

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        found: list[tuple[int, Preference]] = []
        wanted = np.asarray(positions)
        if self._spans is None or self._spans[0] != (seed, epoch):
            self._spans = (seed, epoch), list(self._windows(seed, epoch))
        for number, (start, size, members) in enumerate(self._spans[1]):
            here = wanted[(wanted >= start) & (wanted < start + size)] - start
            if len(here):
                held, order = self._load((seed, epoch, number), members)
                numbers = np.concatenate([np.arange(self._first[g], self._first[g + 1]) for g in members])[order[here]]
                rows = [build(Preference, row) for row in held.take(pa.array(order[here])).to_pylist()]
                found += zip(numbers.tolist(), rows, strict=True)
        return found

    def _windows(self, seed: int, epoch: int) -> Iterator[tuple[int, int, list[int]]]:
        """(first position, rows, row groups) of each window of an epoch."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self.groups))
        start, rows, members = 0, 0, []
        for group in order.tolist():
            members.append(group)
            rows += self.groups[group][2]
            if rows >= self.window:
                yield start, rows, members
                start, rows, members = start + rows, 0, []
        if members:
            yield start, rows, members

    def _load(self, key: tuple[int, int, int], members: Sequence[int]) -> tuple[Any, Any]:
        """The rows of a window, and their order."""
        if self._held is None or self._held[0] != key:
            self._held = None  # let go of the last window before the next one is read
            by_shard: dict[_Shard, list[int]] = {}
            for group in members:
                by_shard.setdefault(self.groups[group][0], []).append(group)
            parts: dict[int, Any] = {}
            for shard, groups in by_shard.items():
                columns = [c for c in self.COLUMNS if c in shard.columns]
                with shard.opened() as file:
                    parts |= {g: self._filled(file.read_row_group(self.groups[g][1], columns)) for g in groups}
            table = pa.concat_tables([parts[g] for g in members])
            self._held = key, table, np.random.default_rng(key).permutation(len(table))
        return self._held[1:]

    def _filled(self, part: Any) -> Any:
        for name, default in (("certainty", 1.0), ("margin", 0.0)):
            if name not in part.column_names:
                part = part.append_column(name, pa.array([default] * len(part), arrow_type(float)))
        return part.select(list(self.COLUMNS))


@dataclass(frozen=True, slots=True, eq=False)
class _Shard:
    """A Parquet file, its footer read once. `order` sorts shards by what is in them, whatever they are called."""

    path: Path
    meta: Any
    columns: frozenset[str]
    order: tuple[str, str]

    @staticmethod
    def open(path: Path) -> "_Shard":
        try:
            with pq.ParquetFile(path) as file:
                meta, columns = file.metadata, frozenset(file.schema_arrow.names)
            with path.open("rb") as raw:
                raw.seek(-8, os.SEEK_END)  # the footer's length, and "PAR1"
                raw.seek(-8 - int.from_bytes(raw.read(4), "little"), os.SEEK_END)
                footer = hashlib.blake2b(raw.read()).hexdigest()
        except (OSError, pa.ArrowInvalid) as error:
            raise AssayError(f"{path}: not a readable Parquet shard ({error})") from error
        missing = {"pair_id", "prompt", "chosen", "rejected"} - columns
        if missing:
            raise AssayError(f"{path}: the columns {', '.join(sorted(missing))} are missing; not preferences")
        return _Shard(path, meta, columns, (footer, path.name))

    def opened(self) -> Any:
        try:
            return pq.ParquetFile(self.path, metadata=self.meta)
        except (OSError, pa.ArrowInvalid) as error:
            raise AssayError(f"{self.path}: not a readable Parquet shard ({error})") from error

    def read(self, groups: Sequence[int], columns: Sequence[str]) -> Any:
        with self.opened() as file:
            return file.read_row_groups(list(groups), list(columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A pair as tokens: a group of two answers, chosen first; and what its label says beyond the order."""

    group: Group
    certainty: float
    margin: float
    cut: int


class Renderer:
    """Pairs to tokens, remembering what fits: small sets are read many times, large ones once."""

    REMEMBERED = 200_000

    def __init__(self, tokenizer: Any, max_tokens: int, store: ImageStore | None = None) -> None:
        self.tokenizer, self.max_tokens, self.store = tokenizer, max_tokens, store
        self._known: dict[int, Rendered] = {}

    def __call__(self, numbered: Sequence[tuple[int, Preference]]) -> list[Rendered]:
        new = {n: p for n, p in numbered if n not in self._known}
        fresh = dict(zip(new, self.render(list(new.values())), strict=True))
        if len(self._known) + len(fresh) <= self.REMEMBERED:
            self._known.update(fresh)
        return [fresh[n] if n in fresh else self._known[n] for n, _ in numbered]

    def render(self, pairs: Sequence[Preference]) -> list[Rendered]:
        """The pairs as tokens. Raises AssayError, with the pair's id, for one that cannot be read with its pictures."""
        whole = [p.prompt + r.messages for p in pairs for r in (p.chosen, p.rejected)]
        try:
            flat = render(self.tokenizer, whole, self.max_tokens, self.store)
        except CannotRead as error:
            raise self._named(pairs) or error from error
        made = []
        for pair, chosen, rejected in zip(pairs, flat[::2], flat[1::2], strict=True):
            types = (chosen.second, rejected.second) if chosen.second else ()
            group = share([chosen.ids, rejected.ids], types, [i for m in pair.prompt for i in m.images])
            cut = chosen.cut + rejected.cut
            made.append(Rendered(group=group, certainty=pair.certainty, margin=pair.margin, cut=cut))
        return made

    def _named(self, pairs: Sequence[Preference]) -> AssayError | None:
        """The error of the first pair that cannot be read."""
        for pair in pairs:
            try:
                render(self.tokenizer, [pair.prompt + r.messages for r in (pair.chosen, pair.rejected)], self.max_tokens,
                       self.store)  # fmt: skip
            except CannotRead as error:
                return AssayError(f"pair {pair.pair_id}: {error}; leave it out, or give --max-tokens more room")
        return None


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
