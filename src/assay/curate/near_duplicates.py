"""Pairs that say nearly the same: MinHash over shingles of words, joined band by band, every find verified on the texts.

A document is a text in parts (of a pair: its messages), `words.PART` between each two. Its shingles are every five words
in a row of a part (`words.words`: lower case, no punctuation), or all words of a shorter one; two documents are alike as far
as the Jaccard coefficient of their sets of shingles says: shared / all. MinHash (Broder 1997) makes of a set P numbers, of
which two sets share as large a part, on the average, as they are alike. The numbers lie in bands, and documents that agree
in a whole band are compared exactly; those at least as alike as the threshold are joined, and joined ones are clusters.

What is held in memory is a few numbers a document (8 bytes a band are on disk), and what is compared at a time. A hash of 64
bits stands for a shingle: two shingles of a pair of documents are taken for one at odds of one in 10^14.
"""

import functools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay import native
from assay.curate.words import PART, Hashes, characters, hashes, mixed, read, runs, strings, whole, words

Batches = Iterable[tuple[Any, Any]]
"""(pair ids, texts) of as many documents as fit in memory; each a list or an Arrow column. Can be gone through twice."""
Numbers = NDArray[np.int64]
_SOURCE = Path(__file__).with_name("near_duplicates.cpp")
_AT_ONCE = 32
_COMPARED_AT_ONCE = 1 << 23


@dataclass(frozen=True, slots=True, kw_only=True)
class MinHash:
    """How documents are sketched and from where on they are near-duplicates. Raises ValueError for what cannot be."""

    shingle: int = 5
    """Words in a shingle."""
    permutations: int = 128
    """Numbers in a signature."""
    bands: int = 16
    """In how many bands the numbers lie."""
    threshold: float = 0.8
    """Jaccard coefficient of near-duplicates, at least."""
    rounds: int = 64
    """In a band's bucket of k documents so many are compared with all others; with up to this many, each is with each."""

    def __post_init__(self) -> None:
        for name in ("shingle", "permutations", "bands", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.permutations % self.bands:
            raise ValueError(f"{self.permutations} permutations do not lie in {self.bands} bands of equal size")
        if not 0.0 < self.threshold <= 1.0:
            raise ValueError(f"the threshold must lie between 0 and 1, not at {self.threshold}")

    def recall(self, jaccard: float) -> float:
        """The share of pairs of documents so much alike that meet in a band, and are compared."""
        return float(1 - (1 - jaccard ** (self.permutations // self.bands)) ** self.bands)

    def factors(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """(a, b) of the permutations a x + b modulo 2^32, filled up for the compiled loop; the same on every machine."""
        return _factors(-(-self.permutations // _AT_ONCE) * _AT_ONCE)


@functools.cache
def _factors(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    drawn = np.array([mixed(i + 1) >> 32 for i in range(2 * count)], np.uint32)
    return drawn[::2] | np.uint32(1), drawn[1::2].copy()


def documents(rows: pa.Table | pa.RecordBatch) -> pa.ChunkedArray:
    """The documents of pairs in Arrow (columns prompt, responses): every message's content is a part."""
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    made = []
    for batch in table.select(["prompt", "responses"]).to_batches():
        answers = batch.column("responses")
        each = _lines(pc.struct_field(answers.values, "messages"))
        both = (_lines(batch.column("prompt")), _joined(answers.offsets, each))
        made.append(pc.binary_join_element_wise(*both, pa.scalar(PART, pa.large_string())))
    return pa.chunked_array(made, pa.large_string())


def _lines(conversations: pa.Array) -> pa.Array:
    return _joined(conversations.offsets, strings(pc.struct_field(conversations.values, "content")))


def _joined(offsets: pa.Array, texts: pa.Array) -> pa.Array:
    lists = pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), texts)
    return pc.binary_join(lists, pa.scalar(PART, pa.large_string()))


def signatures(texts: Any, how: MinHash = MinHash()) -> NDArray[np.uint32]:
    """(texts, permutations) the least number of each permutation over a text's shingles; all ones where it has no words."""
    found = np.full((len(texts), how.permutations), 2**32 - 1, np.uint32)
    _sketch(texts, how, found, None)
    return found


def band_keys(texts: Any, how: MinHash = MinHash()) -> tuple[Hashes, NDArray[np.bool_]]:
    """(bands, texts) the key of each band of a text's signature, and (texts,) whether it has words: one shard's work."""
    found = np.zeros((how.bands, len(texts)), np.uint64)
    return found, _sketch(texts, how, None, found) > 0


def _sketch(texts: Any, how: MinHash, signed: NDArray[np.uint32] | None, keys: Hashes | None) -> Numbers:
    library, sizes = native.library(_SOURCE), np.zeros(len(texts), np.int64)
    column, (a, b) = strings(texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts)), how.factors()
    if library is None:
        for i, text in enumerate(column.to_pylist()):
            values = np.array([mixed(h) >> 32 for h in _shingles(text, how.shingle).tolist()], np.uint32)
            sizes[i] = len(values)
            least = (values[:, None] * a + b)[:, : how.permutations].min(0, initial=2**32 - 1)
            if signed is not None:
                signed[i] = least
            if keys is not None:
                banded = runs_of_rows(least.reshape(how.bands, -1))
                keys[:, i] = [mixed(key) for key in banded.tolist()]
        return sizes
    entries, sequences = characters()

    def reading(data: int, offsets: int, count: int, done: int, states: NDArray[np.uint8]) -> None:
        library.sketched(
            *native.places(data, offsets), *native.longs(count), done, *native.places(states, entries, sequences),
            *native.longs(how.shingle), *native.places(a, b), *native.longs(how.permutations, len(a), how.bands),
            *(native.places(x)[0] if x is not None else None for x in (signed, keys)), *native.places(sizes),
        )  # fmt: skip

    read(column, reading)
    return sizes


def runs_of_rows(numbers: NDArray[np.uint32]) -> Hashes:
    """(rows,) the polynomial of each row's numbers, as of a run of words."""
    return np.concatenate([runs(row.astype(np.uint64), len(row)) for row in numbers])


def _shingles(text: str, size: int) -> Hashes:
    found = [np.zeros(0, np.uint64)]
    for part in text.split(PART):
        of = hashes(words(part))
        found.append(np.array([whole(of)], np.uint64) if 0 < len(of) < size else runs(of, size))
    return np.concatenate(found)


def shingle_sets(texts: Any, how: MinHash = MinHash()) -> tuple[Hashes, Numbers]:
    """The texts' sets of shingles: all hashes, sorted in each set, and (texts + 1,) where the sets begin."""
    library, sizes = native.library(_SOURCE), np.zeros(len(texts), np.int64)
    column = strings(texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts))
    if library is None:
        sets = [np.unique(_shingles(text, how.shingle)) for text in column.to_pylist()]
        return np.concatenate([np.zeros(0, np.uint64), *sets]), _offsets([len(s) for s in sets])
    entries, sequences = characters()
    room: Hashes | None = None
    at = np.zeros(len(texts) + 1, np.int64)

    def reading(data: int, offsets: int, count: int, done: int, states: NDArray[np.uint8]) -> None:
        library.shingled(
            *native.places(data, offsets), *native.longs(count), done, *native.places(states, entries, sequences),
            *native.longs(how.shingle), native.places(room)[0] if room is not None else None, *native.places(at, sizes),
        )  # fmt: skip

    read(column, reading)
    at = _offsets(sizes)
    room, most = np.zeros(at[-1], np.uint64), sizes.copy()
    read(column, reading)
    used = np.arange(at[-1]) - np.repeat(at[:-1], most) < np.repeat(sizes, most)
    return room[used], _offsets(sizes)


def _offsets(sizes: Sequence[int] | Numbers) -> Numbers:
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """`table`: one row for each document that is in a cluster, sorted by cluster and id.

    Its columns: pair_id; cluster, from 0 by their representatives' ids; representative, the smallest id of the cluster, the
    one to keep; and jaccard, exact, with the representative (below the threshold where a third document joins the two).
    """

    table: pa.Table
    documents: int
    wordless: int
    compared: int
    uncompared: int
    """Pairs that met in a bucket so large that not each was compared with each (`MinHash.rounds`)."""

    def lines(self) -> list[str]:
        """What was found and what was not looked at."""
        clusters = pc.count_distinct(self.table["cluster"]).as_py()
        lines = [
            f"{self.table.num_rows - clusters:,} of {self.documents:,} pairs are near-duplicates of {clusters:,} others "
            f"({self.compared:,} comparisons)"
        ]
        if self.wordless:
            lines.append(f"  {self.wordless:,} have no words and are like none")
        if self.uncompared:
            lines.append(f"  {self.uncompared:,} comparisons left out: too many pairs look alike in one band")
        return lines


def near_duplicates(batches: Batches, how: MinHash = MinHash(), folder: Path | None = None) -> NearDuplicates:
    """The clusters of near-duplicates among all documents of `batches`, whatever their order.

    `folder` is where what does not fit in memory lies meanwhile (a temporary one): 8 bytes a band and document, and the
    sets of shingles of documents that meet another in a band. Raises ValueError where the second pass over `batches`
    gives other documents than the first.
    """
    if iter(batches) is batches:
        raise ValueError("near-duplicates go through the batches twice: give what can be, not a generator")
    with tempfile.TemporaryDirectory(prefix="assay-near-duplicates-", dir=folder) as name:
        place = Path(name)
        worded = _sketched(batches, how, place)
        buckets = _Buckets(place, how, worded)
        with _Sets(place / "sets") as sets:
            ids = _gather(batches, how, buckets.members, sets)
            parents = np.arange(len(ids), dtype=np.int64)
            uncompared = sum(_join(*buckets.of(band), parents, sets, how) for band in range(how.bands))
            table = _clusters(ids, _roots(parents, parents), sets)
    return NearDuplicates(
        table=table, documents=len(worded), wordless=int((~worded).sum()), compared=sets.compared, uncompared=uncompared
    )


def _sketched(batches: Batches, how: MinHash, place: Path) -> NDArray[np.bool_]:
    """Writes every band's keys to a file of their own, and returns which documents have words."""
    worded = [np.zeros(0, bool)]
    files = [(place / str(band)).open("wb") for band in range(how.bands)]
    try:
        for _, texts in batches:
            keys, some = band_keys(texts, how)
            worded.append(some)
            for file, band in zip(files, keys, strict=True):
                file.write(band.tobytes())
    finally:
        for file in files:
            file.close()
    return np.concatenate(worded)


class _Buckets:
    """Documents that agree in a band. `members` (n,): whether a document meets another in any."""

    def __init__(self, place: Path, how: MinHash, worded: NDArray[np.bool_]) -> None:
        self.place, self.bits = place, np.uint64(len(worded).bit_length())
        self.members, rows = np.zeros(len(worded), bool), np.flatnonzero(worded).astype(np.uint64)
        for band in range(how.bands):
            keys = np.fromfile(place / str(band), np.uint64)[worded]
            keys >>= (
                self.bits
            )  # a key's lower bits give way to the document's number: what meets by chance is compared, too
            keys <<= self.bits
            keys |= rows
            keys.sort()
            same = np.flatnonzero(np.diff(keys >> self.bits) == 0)
            keys = keys[np.union1d(same, same + 1)]
            self.members[self._rows(keys)] = True
            keys.tofile(place / str(band))
        self._slots = (np.cumsum(self.members, dtype=np.int64) - 1).astype(np.uint32)

    def _rows(self, keys: Hashes) -> Numbers:
        return (keys & np.uint64((1 << int(self.bits)) - 1)).astype(np.int64)

    def of(self, band: int) -> tuple[Numbers, Numbers]:
        """The members (by their number among members) of all buckets of a band, and where each bucket begins."""
        keys = np.fromfile(self.place / str(band), np.uint64)
        high = keys >> self.bits
        return self._slots[self._rows(keys)].astype(np.int64), np.flatnonzero(
            np.append(True, high[1:] != high[:-1])[: len(keys)]
        )


class _Sets:
    """The members' sets of shingles, in a file: `sizes` (members,) of the sets that lie there one after the other, and where
    each `starts`."""

    def __init__(self, path: Path) -> None:
        self.file, self.compared = path.open("w+b"), 0
        self.sizes = self.starts = np.zeros(0, np.int64)

    def __enter__(self) -> "_Sets":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, sets: Hashes, offsets: Numbers) -> Numbers:
        """Put sets behind those that are there; returns their sizes."""
        self.file.write(sets.tobytes())
        return np.diff(offsets)

    def jaccards(self, one: Numbers, other: Numbers) -> NDArray[np.float64]:
        """(pairs,) exact; so many at a time as lie in memory together."""
        found = np.zeros(len(one))
        blocks = np.cumsum(self.sizes[one] + self.sizes[other]) // _COMPARED_AT_ONCE
        for block in np.split(np.arange(len(one)), np.flatnonzero(np.diff(blocks)) + 1):
            found[block] = self._block(one[block], other[block])
        self.compared += len(one)
        return found

    def _block(self, one: Numbers, other: Numbers) -> NDArray[np.float64]:
        slots, places = np.unique(np.concatenate([one, other]), return_inverse=True)
        a, b = places[: len(one)], places[len(one) :]
        sizes, begin, found = self.sizes[slots], self.starts[slots], np.zeros(len(one))
        offsets, library = _offsets(sizes), native.library(_SOURCE)
        sets = np.zeros(offsets[-1], np.uint64)
        self.file.flush()
        if library is None:
            for i, size in enumerate(sizes.tolist()):
                self.file.seek(8 * int(begin[i]))
                sets[offsets[i] : offsets[i + 1]] = np.frombuffer(self.file.read(8 * size), np.uint64)
            each = [sets[offsets[i] : offsets[i + 1]] for i in range(len(sizes))]
            shared: Numbers = np.array([len(np.intersect1d(each[x], each[y], True)) for x, y in zip(a, b, strict=True)])
            found[:] = shared / np.maximum(sizes[a] + sizes[b] - shared, 1)
            return found
        count, at = native.longs(len(sizes)), native.places(begin, sizes)
        if not library.gathered(self.file.fileno(), *at, *count, *native.places(sets)):
            raise OSError(f"{self.file.name}: cannot be read back")
        library.compared(*native.places(sets, offsets, a, b), *native.longs(len(one)), *native.places(found))
        return found


def _gather(batches: Batches, how: MinHash, members: NDArray[np.bool_], sets: _Sets) -> pa.ChunkedArray:
    """The members' ids; their sets go to `sets`."""
    ids, sizes, at = list[pa.Array](), [np.zeros(0, np.int64)], 0
    for names, texts in batches:
        chosen = pa.array(np.flatnonzero(members[at : at + len(texts)]))
        at += len(texts)
        if len(names) != len(texts) or at > len(members):
            break
        some, said = (x if isinstance(x, pa.Array | pa.ChunkedArray) else pa.array(x) for x in (names, texts))
        taken = some.take(chosen).cast(pa.string())
        ids += taken.chunks if isinstance(taken, pa.ChunkedArray) else [taken]
        sizes.append(sets.add(*shingle_sets(said.take(chosen), how)))
    sets.sizes = np.concatenate(sizes)
    sets.starts = _offsets(sets.sizes)[:-1]
    if at != len(members) or sum(map(len, ids)) != len(sets.sizes):
        raise ValueError(
            f"the batches had {len(members):,} documents when they were gone through first, and now others"
        )
    return pa.chunked_array(ids, pa.string())


def _roots(parents: Numbers, of: Numbers) -> Numbers:
    found = parents[of]
    while len(further := np.flatnonzero(parents[found] != found)):
        found[further] = parents[found[further]]
    return found


def _join(slots: Numbers, starts: Numbers, parents: Numbers, sets: _Sets, how: MinHash) -> int:
    """Compare a band's buckets, each first member with the others of its bucket, then each second, and join what is alike.

    Returns how many pairs were left. Those that are joined already are not compared.
    """
    for turn in range(how.rounds + 1):
        sizes = np.diff(np.append(starts, len(slots)))
        roots = _roots(parents, slots)
        if len(starts):
            open_ = np.minimum.reduceat(roots, starts) != np.maximum.reduceat(roots, starts)
            slots, roots = slots[np.repeat(open_, sizes)], roots[np.repeat(open_, sizes)]
            sizes = sizes[open_]
            starts = _offsets(sizes)[:-1]
        if not len(starts):
            return 0
        if turn == how.rounds:
            break
        first, first_root = np.repeat(slots[starts], sizes), np.repeat(roots[starts], sizes)
        smaller = np.minimum(sets.sizes[first], sets.sizes[slots])
        could = smaller >= how.threshold * np.maximum(sets.sizes[first], sets.sizes[slots])  # shared / all is no more
        asked = (roots != first_root) & could
        one, other = first[asked], slots[asked]
        alike = sets.jaccards(one, other) >= how.threshold
        _unite(parents, one[alike], other[alike])
        slots = np.delete(slots, starts)
        starts = starts - np.arange(len(starts))
    buckets = np.repeat(np.arange(len(sizes)), sizes)
    _, together = np.unique(np.stack([buckets, roots]), axis=1, return_counts=True)
    return int((sizes**2).sum() - (together**2).sum()) // 2


def _unite(parents: Numbers, one: Numbers, other: Numbers) -> None:
    if (library := native.library(_SOURCE)) is not None:
        one, other = np.ascontiguousarray(one), np.ascontiguousarray(other)
        library.joined(*native.places(parents, one, other), *native.longs(len(one)))
        return
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        x, y = (int(_roots(parents, np.array([slot]))[0]) for slot in (a, b))
        parents[max(x, y)] = min(x, y)


def _clusters(ids: pa.ChunkedArray, roots: Numbers, sets: _Sets) -> pa.Table:
    many = np.flatnonzero(np.bincount(roots, minlength=len(roots))[roots] > 1)
    names = pl.Series("pair_id", pl.from_arrow(ids.take(pa.array(many))), pl.String)
    frame = pl.DataFrame([names, pl.Series("root", roots[many]), pl.Series("slot", many)]).sort("pair_id")
    frame = frame.with_columns(
        representative=pl.col("pair_id").first().over("root"), first=pl.col("slot").first().over("root")
    ).with_columns(cluster=pl.col("representative").rank("dense").cast(pl.Int64) - 1)
    jaccards = sets.jaccards(frame["first"].to_numpy(), frame["slot"].to_numpy())
    return pa.table({
        "pair_id": frame["pair_id"].to_arrow().cast(pa.string()), "cluster": frame["cluster"].to_numpy(),
        "representative": frame["representative"].to_arrow().cast(pa.string()), "jaccard": jaccards,
    }).sort_by([("cluster", "ascending"), ("pair_id", "ascending")])  # fmt: skip
