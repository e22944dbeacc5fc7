"""What a training reads: labelled pairs, in memory or in Parquet, in an order that is a pure function of the seed.

Position p of epoch e is the same pair whatever the number of processes and wherever a killed run resumes: that is all
the state there is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.pack import Group, share
from assay.records import Conversation, Preference, first_question, question_id
from assay.render import render
from assay.tables import arrow_type, build


class Pairs(Protocol):
    """Labelled pairs that can be read at any place of their shuffled order."""

    def __len__(self) -> int: ...

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        """The pairs at some positions (ascending) of an epoch's order, each with its number, the same in every epoch."""
        ...


class MemoryPairs:
    """Pairs in memory, shuffled whole. The order in which they were given does not matter."""

    def __init__(self, pairs: Sequence[Preference]) -> None:
        self.pairs = sorted(pairs, key=lambda p: (p.pair_id, p.chosen.id))

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        order = np.random.default_rng((seed, epoch)).permutation(len(self.pairs))
        return [(int(order[p]), self.pairs[order[p]]) for p in positions]


class ParquetPairs:
    """Pairs in a folder of Parquet shards of `Preference` rows (`assay reward export` writes them), of any number.

    Row groups come in random order; `window` rows of them are held in memory (as Arrow, a few hundred bytes and the
    text per row) and shuffled among themselves. Raises AssayError for a folder without shards or with other columns.
    """

    def __init__(self, folder: Path, window: int = 65_536) -> None:
        self.folder, self.window = folder, window
        files = sorted(folder.glob("*.parquet"))
        if not files:
            raise AssayError(f"{folder}: no Parquet shards of preferences here; `assay reward export` writes them")
        self.groups: list[tuple[Path, int, int]] = []
        wanted = {"pair_id", "prompt", "chosen", "rejected"}
        for file in files:
            try:
                meta, names = pq.read_metadata(file), set(pq.read_schema(file).names)
            except (OSError, pa.ArrowInvalid) as error:
                raise AssayError(f"{file}: not a readable Parquet shard ({error})") from error
            if not wanted <= names:
                raise AssayError(
                    f"{file}: the columns {', '.join(sorted(wanted - names))} are missing; not preferences"
                )
            self.groups += [(file, i, meta.row_group(i).num_rows) for i in range(meta.num_row_groups)]
        self.rows = sum(n for _, _, n in self.groups)
        self._held: tuple[tuple[int, int, int], Any] | None = None
        self._first = np.concatenate([[0], np.cumsum([n for _, _, n in self.groups])])

    def __len__(self) -> int:
        return self.rows

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        found: list[tuple[int, Preference]] = []
        wanted = np.asarray(positions)
        for number, (start, members) in enumerate(self._windows(seed, epoch)):
            size = sum(self.groups[g][2] for g in members)
            here = wanted[(wanted >= start) & (wanted < start + size)] - start
            if len(here):
                order = np.random.default_rng((seed, epoch, number)).permutation(size)[here]
                numbers = np.concatenate([np.arange(self._first[g], self._first[g + 1]) for g in members])[order]
                table = self._load((seed, epoch, number), members).take(pa.array(order))
                rows = [build(Preference, row) for row in table.to_pylist()]
                found += zip(numbers.tolist(), rows, strict=True)
        return found

    def asking(self, prompts: Iterable[Conversation], batch: int = 65_536) -> list[str]:
        """The ids of the pairs that ask a question of `prompts` (see `question_id`): one pass over the shards' prompts,
        `batch` rows at a time."""
        wanted = {question_id(p): first_question(p) for p in prompts}
        texts, found = pa.array(list(wanted.values()), pa.string()), []
        for file in dict.fromkeys(f for f, _, _ in self.groups):
            for part in pq.ParquetFile(file).iter_batches(batch, columns=["pair_id", "prompt"]):
                turns = part.column("prompt")
                said = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(turns.flatten().field("content")))
                alike = pc.is_in(pc.binary_join(said, " "), value_set=texts)
                rows = pc.unique(pc.list_parent_indices(turns).filter(alike))
                some = part.take(rows).to_pylist() if len(rows) else []
                read = ((row["pair_id"], build(Conversation, row["prompt"])) for row in some)
                found += [pair_id for pair_id, prompt in read if question_id(prompt) in wanted]
        return found

    def _windows(self, seed: int, epoch: int) -> Iterator[tuple[int, list[int]]]:
        """(first position, row groups) of each window of an epoch."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self.groups))
        start, rows, members = 0, 0, []
        for group in order.tolist():
            members.append(group)
            rows += self.groups[group][2]
            if rows >= self.window:
                yield start, members
                start, rows, members = start + rows, 0, []
        if members:
            yield start, members

    def _load(self, key: tuple[int, int, int], members: Sequence[int]) -> Any:
        if self._held is None or self._held[0] != key:
            self._held = None  # let go of the last window before the next one is read
            columns = ["pair_id", "prompt", "chosen", "rejected", "certainty", "margin"]
            parts = []
            for group in members:
                file, index, _ = self.groups[group]
                part = pq.ParquetFile(file).read_row_group(index)
                for name, default in (("certainty", 1.0), ("margin", 0.0)):
                    if name not in part.column_names:
                        part = part.append_column(name, pa.array([default] * len(part), arrow_type(float)))
                parts.append(part.select(columns))
            self._held = key, pa.concat_tables(parts)
        return self._held[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A pair as tokens: a group of two answers, chosen first; what its label says beyond the order; its question's id."""

    group: Group
    certainty: float
    margin: float
    cut: int
    question: str = ""


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
            made.append(Rendered(
                group=group, certainty=pair.certainty, margin=pair.margin, cut=chosen.cut + rejected.cut,
                question=question_id(pair.prompt),
            ))  # fmt: skip
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


def positions(n: int, size: int, step: int) -> list[tuple[int, list[int]]]:
    """The (epoch, positions) of one step's pairs: consecutive slices of the epochs' orders, as many as `size`."""
    spans: list[tuple[int, list[int]]] = []
    at, left = step * size, size
    while left:
        epoch, offset = divmod(at, n)
        taken = min(left, n - offset)
        spans.append((epoch, list(range(offset, offset + taken))))
        at, left = at + taken, left - taken
    return spans
