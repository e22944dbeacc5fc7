"""What a training reads: labelled pairs, in memory or in Parquet, in an order that is a pure function of the seed.

Position p of epoch e is the same pair whatever the number of processes and wherever a killed run resumes: that is all
the state there is.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from assay.records import Conversation, Preference, digest, first_question, question_id
from assay.render import Rendered as Tokens
from assay.render import attempts, check
from assay.reward.left_out import SAME, LeftOut
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

    def asking(self, prompts: Iterable[Conversation], batch: int = 65_536) -> list[str]:
        """The ids of the pairs that ask a question of `prompts` (see `question_id`): one pass over the shards' prompts,
        `batch` rows at a time."""
        wanted = {question_id(p): first_question(p) for p in prompts}
        texts, found = pa.array(list(wanted.values()), pa.string()), []
        for shard in self.shards:
            for part in pq.ParquetFile(shard.path).iter_batches(batch, columns=["pair_id", "prompt"]):
                turns = part.column("prompt")
                said = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(turns.flatten().field("content")))
                alike = pc.is_in(pc.binary_join(said, " "), value_set=texts)
                rows = pc.unique(pc.list_parent_indices(turns).filter(alike))
                some = part.take(rows).to_pylist() if len(rows) else []
                read = ((row["pair_id"], build(Conversation, row["prompt"])) for row in some)
                found += [pair_id for pair_id, prompt in read if question_id(prompt) in wanted]
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
    """A pair as tokens: a group of two answers, chosen first; what its label says beyond the order; its question's id."""

    group: Group
    certainty: float
    margin: float
    cut: int
    question: str = ""


class Renderer:
    """Pairs to tokens, remembering what fits: small sets are read many times, large ones once.

    A pair that the model cannot read, or whose two answers are the same tokens to it, is left out and recorded in `left`.
    `spare` holds one pair that it can read, for a process that has none in a step.
    """

    REMEMBERED, AT_ONCE = 200_000, 1_000

    def __init__(self, tokenizer: Any, max_tokens: int, store: ImageStore | None = None) -> None:
        check(tokenizer)
        self.tokenizer, self.max_tokens, self.store = tokenizer, max_tokens, store
        self.left, self.spare = LeftOut(), list[Rendered]()
        self._known: dict[int, Rendered] = {}

    def __call__(self, numbered: Sequence[tuple[int, Preference]]) -> list[Rendered]:
        """The pairs that can be read, in order."""
        new = {n: p for n, p in numbered if n not in self._known}
        fresh = dict(zip(new, self.tried(list(new.values())), strict=True))
        self._remember({n: one for n, one in fresh.items() if isinstance(one, Rendered)})
        found = (fresh[n] if n in fresh else self._known[n] for n, _ in numbered)
        return [one for one in found if isinstance(one, Rendered)]

    def render(self, pairs: Sequence[Preference], of: str = "pairs") -> list[Rendered]:
        """The pairs that can be read, in order, not remembered; `of` says what they are."""
        return [one for one in self.tried(pairs, of) if isinstance(one, Rendered)]

    def readable(
        self, source: Pairs, gather: Callable[[list[Any]], list[Any]] = list, rank: int = 0, world: int = 1
    ) -> Pairs:
        """The pairs without those that the model cannot read, before anything is trained on: all of them where they are in
        memory, each process its share of the work. What is streamed is read as it comes.

        Raises AssayError when none is left, or a sample of a stream has none.
        """
        if not isinstance(source, MemoryPairs):
            numbered = source.take(0, 0, range(min(self.AT_ONCE, len(source))))
            if not self.render([p for _, p in numbered]):
                raise AssayError(f"none of the first {len(numbered):,} pairs can be read: {self._reason()}")
            return source
        own, kept = range(rank, len(source), world), dict[int, Rendered]()
        bad: list[tuple[int, str]] = []
        for at in range(0, len(own), self.AT_ONCE):
            part = own[at : at + self.AT_ONCE]
            for n, one in zip(part, self.tried([source.pairs[n] for n in part]), strict=True):
                if not isinstance(one, Rendered):
                    bad.append((n, str(one)))
                elif len(kept) < self.REMEMBERED:
                    kept[n] = one
        without: dict[int, str] = dict(gather(bad))
        for n, reason in without.items():
            self.left.add(source.pairs[n].pair_id, reason)
        numbers = [n for n in range(len(source)) if n not in without]
        if not numbers:
            raise AssayError(f"none of the {len(source):,} pairs can be read by this model: {self._reason()}")
        self._remember({new: kept[n] for new, n in enumerate(numbers) if n in kept})
        return MemoryPairs([source.pairs[n] for n in numbers])

    def _reason(self) -> str:
        return next(iter(self.left.counts()), "there are none")

    def _remember(self, fresh: dict[int, Rendered]) -> None:
        if len(self._known) + len(fresh) <= self.REMEMBERED:
            self._known.update(fresh)

    def tried(self, pairs: Sequence[Preference], of: str = "pairs") -> list[Rendered | CannotRead]:
        """The pairs as tokens, or why not; those that cannot be read are recorded."""
        whole = [p.prompt + r.messages for p in pairs for r in (p.chosen, p.rejected)]
        together = [(at, at + 1) for at in range(0, len(whole), 2)]
        flat = attempts(self.tokenizer, whole, self.max_tokens, self.store, together)
        made = [self._pair(p, c, r) for p, c, r in zip(pairs, flat[::2], flat[1::2], strict=True)]
        for pair, one in zip(pairs, made, strict=True):
            if isinstance(one, CannotRead):
                self.left.add(pair.pair_id, str(one), of)
            elif not self.spare:
                self.spare = [one]
        return made

    def _pair(
        self, pair: Preference, chosen: Tokens | CannotRead, rejected: Tokens | CannotRead
    ) -> Rendered | CannotRead:
        if isinstance(chosen, CannotRead):
            return chosen
        if isinstance(rejected, CannotRead):
            return rejected
        cut = chosen.cut + rejected.cut
        if chosen.ids == rejected.ids:
            return CannotRead(f"{SAME}, cut to {self.max_tokens:,} of them" if cut else SAME)
        types = (chosen.second, rejected.second) if chosen.second else ()
        group = share([chosen.ids, rejected.ids], types, [i for m in pair.prompt for i in m.images])
        return Rendered(
            group=group, certainty=pair.certainty, margin=pair.margin, cut=cut, question=question_id(pair.prompt)
        )


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
