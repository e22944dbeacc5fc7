"""Pairs that say nearly the same: MinHash over shingles of words, joined band by band, every find verified on the texts.

Documents that agree in a whole band of their sketches (`minhash`) are compared exactly; those at least as alike as the
threshold are joined, and joined ones are clusters. What is held in memory is a few numbers a document (8 bytes a band are on
disk), and what is compared at a time.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay import native
from assay.curate.minhash import MinHash, Numbers, band_keys, offsets_of, shingle_sets
from assay.curate.words import Hashes

Batches = Iterable[tuple[Any, Any]]
"""(pair ids, texts) of as many documents as fit in memory; each a list or an Arrow column. Can be gone through twice."""
_SOURCE = Path(__file__).with_name("near_duplicates.cpp")
_COMPARED_AT_ONCE = 1 << 23


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


def near_duplicates(batches: Batches, how: MinHash | None = None, folder: Path | None = None) -> NearDuplicates:
    """The clusters of near-duplicates among all documents of `batches`, whatever their order.

    `folder` is where what does not fit in memory lies meanwhile (a temporary one): 8 bytes a band and document, and the
    sets of shingles of documents that meet another in a band. Raises ValueError where the second pass over `batches`
    gives other documents than the first.
    """
    how = how or MinHash()
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
        offsets, library = offsets_of(sizes), native.library(_SOURCE)
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
    sets.starts = offsets_of(sets.sizes)[:-1]
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
            starts = offsets_of(sizes)[:-1]
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
