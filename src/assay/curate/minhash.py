"""MinHash sketches of documents, and their sets of shingles (see `near_duplicates`).

A document is a text in parts (of a pair: its messages), `words.PART` between each two. Its shingles are every five words
in a row of a part (`words.words`: lower case, no punctuation), or all words of a shorter one; two documents are alike as far
as the Jaccard coefficient of their sets of shingles says: shared / all. MinHash (Broder 1997) makes of a set P numbers, of
which two sets share as large a part, on the average, as they are alike. The numbers lie in bands.

A hash of 64 bits stands for a shingle: two shingles of a pair of documents are taken for one at odds of one in 10^14.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay import native
from assay.curate.words import PART, Hashes, characters, hashes, mixed, read, runs, strings, whole, words

Numbers = NDArray[np.int64]
_SOURCE = Path(__file__).with_name("minhash.cpp")
_AT_ONCE = 32


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
        return np.concatenate([np.zeros(0, np.uint64), *sets]), offsets_of([len(s) for s in sets])
    entries, sequences = characters()
    room: Hashes | None = None
    at = np.zeros(len(texts) + 1, np.int64)

    def reading(data: int, offsets: int, count: int, done: int, states: NDArray[np.uint8]) -> None:
        library.shingled(
            *native.places(data, offsets), *native.longs(count), done, *native.places(states, entries, sequences),
            *native.longs(how.shingle), native.places(room)[0] if room is not None else None, *native.places(at, sizes),
        )  # fmt: skip

    read(column, reading)
    at = offsets_of(sizes)
    room, most = np.zeros(at[-1], np.uint64), sizes.copy()
    read(column, reading)
    used = np.arange(at[-1]) - np.repeat(at[:-1], most) < np.repeat(sizes, most)
    return room[used], offsets_of(sizes)


def offsets_of(sizes: Sequence[int] | Numbers) -> Numbers:
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
