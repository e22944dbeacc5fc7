"""Judgements as columns: who named which side of each pair, and what that adds up to. `settle` says what follows.

Sums are rounded once and names are sorted, so that nothing depends on the order in which rows were read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from assay.curate.ids import Ints, by_id
from assay.errors import AssayError

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]
_GRID = 1 << 53
"""A confidence in [0.5, 1], and what it leaves of 1, are whole multiples of one part in so many: as integers they add up
exactly."""
_MANY = 512
"""So many votes on one pair are added one by one; the integers would overflow at 1,023."""


def three_responses(pair_id: str, named: int) -> AssayError:
    return AssayError(
        f"pair {pair_id}: its judgements name {named} different responses, and a pair has two; a file of judgements is of "
        "another pool"
    )


@dataclass(frozen=True)
class Coded:
    """A column of texts as numbers: `codes` (rows,) count through `names`, which are sorted."""

    names: pl.Series
    codes: Ints

    @staticmethod
    def of(texts: pl.Series) -> "Coded":
        names = texts.unique().sort()
        return Coded(names, texts.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64))

    def are(self, *texts: str) -> Rows:
        """(rows,) which rows have one of these texts."""
        return np.asarray(self.names.is_in(texts).to_numpy()[self.codes], bool)

    def sort(self, order: Ints) -> "Coded":
        return Coded(self.names, self.codes[order])


@dataclass(frozen=True)
class Votes:
    """Judgements in the order of pairs. Of a pair's responses, side 1 is the one that a judgement names first, side 2 the
    other; 0 is neither. `ids`, `start` and `named` are (pairs,), the others (rows,)."""

    ids: pl.Series
    start: Ints
    """The first row of each pair."""
    pair: Ints
    """The number of the pair."""
    better: pl.Series
    side: NDArray[np.int8]
    named: tuple[Ints, Ints]
    """A row that names side 1, and one that names side 2; -1 where there is none."""
    confidence: Floats
    strengths: Floats
    texts: dict[str, Coded]
    """The columns problem and, where they are there, kind and by."""

    @staticmethod
    def of(judgements: pl.DataFrame | pl.LazyFrame) -> "Votes":
        """Read the columns pair_id, better, problem, confidence (null: 1), strength (null: 0), kind and by.

        Rows may come in any order. Raises AssayError where the judgements of a pair name three responses.
        """
        frame = judgements.lazy()
        coded = ["problem", *(c for c in ("kind", "by") if c in frame.collect_schema())]
        rows = frame.select(
            pl.col("pair_id", "better"), pl.col(coded).fill_null(""),
            pl.col("confidence").fill_null(1.0), pl.col("strength").fill_null(0.0),
        ).collect()  # fmt: skip
        texts = {c: Coded.of(rows[c]) for c in coded}
        ids, better = rows["pair_id"], rows["better"]
        numbers = [rows[c].to_numpy() for c in ("confidence", "strength")]
        if not ids.is_sorted():
            order = by_id(ids)
            ids, better = ids.gather(order), better.gather(order)
            numbers, texts = [n[order] for n in numbers], {c: t.sort(order) for c, t in texts.items()}
        heads = (ids != ids.shift(1)).fill_null(True).to_numpy()
        start, pair = np.flatnonzero(heads), np.cumsum(heads) - 1
        side, named = _sides(better, pair, len(start))
        if (third := np.flatnonzero(side == 3)).size:
            pair_id = ids[int(third[0])]
            raise three_responses(pair_id, better.filter(ids == pair_id).drop_nulls().n_unique())
        return Votes(ids.gather(start), start, pair, better, side, named, numbers[0], numbers[1], texts)

    @property
    def pairs(self) -> int:
        return len(self.start)

    @cached_property
    def tie(self) -> Rows:
        return self.texts["problem"].are("tie")

    def count(self, rows: Rows) -> Ints:
        """(pairs,) how many of these rows a pair has."""
        return np.bincount(self.pair[rows], minlength=self.pairs)

    def majority(self, rows: Rows) -> NDArray[np.int8]:
        """(pairs,) the side with more of these rows than the other side and "tie" together; 0 without one."""
        one, two = (self.count(rows & (self.side == side)) for side in (1, 2))
        ties = self.count(rows & self.tie)
        return np.where(one > two + ties, 1, np.where(two > one + ties, 2, 0)).astype(np.int8)

    def response(self, side: NDArray[np.int8]) -> pl.Series:
        """(pairs,) the id of the response on a side, null for side 0."""
        one, two = self.named
        return self.better.gather(_places(np.where(side == 1, one, np.where(side == 2, two, -1))))

    def certainty(self, rows: Rows, win: NDArray[np.int8]) -> Floats:
        """(pairs,) `settle.certainty` of side `win` among these rows; of no meaning where that is 0."""
        votes = rows & ((self.side > 0) | self.tie)
        pair, side, sure = self.pair[votes], self.side[votes], self.confidence[votes]
        share = np.where(side == 0, 0.5, np.where(side == win[pair], sure, 1 - sure))
        n = np.bincount(pair, minlength=self.pairs)
        whole = np.rint(share * _GRID)
        odd = (whole != share * _GRID) | (share < 0) | (share > 1)
        singly = (n > _MANY) | (np.bincount(pair[odd], minlength=self.pairs) > 0)
        total = _segments(np.where(odd, 0.0, whole).astype(np.int64), n).astype(np.float64) / _GRID
        _one_by_one(total, share, n, singly)
        return np.maximum(0.5, np.divide(total, n, out=np.ones(len(n)), where=n > 0))

    def strength(self, rows: Rows, win: NDArray[np.int8]) -> Floats:
        """(pairs,) the mean of the strengths that these rows tell, for side `win`; negative for the other side."""
        told = rows & (self.side > 0) & (self.strengths != 0)
        pair, strength = self.pair[told], self.strengths[told]
        signed = np.where(self.side[told] == win[pair], strength, -strength)
        n = np.bincount(pair, minlength=self.pairs)
        total = np.bincount(pair, signed, minlength=self.pairs).astype(np.float64)
        _one_by_one(total, signed, n, n > 2)
        return np.divide(total, n, out=np.zeros(len(n)), where=n > 0)

    def lists(self, rows: Rows, column: str) -> pl.Series:
        """(pairs,) the different texts of a column in these rows, sorted."""
        coded = self.texts[column]
        keys = self.pair[rows] * len(coded.names) + coded.codes[rows]
        if not (np.diff(keys) > 0).all():
            keys = np.sort(keys)
            keys = keys[np.diff(keys, prepend=-1) > 0]
        pair, code = np.divmod(keys, max(1, len(coded.names)))
        ends = np.cumsum(np.bincount(pair, minlength=self.pairs))
        offsets = pa.array(np.concatenate([[0], ends]), pa.int64())
        texts = pa.array(coded.names.gather(code).to_arrow(), pa.large_string())
        return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(offsets, texts)))


def pick(texts: Sequence[str] | pl.Series, codes: NDArray[Any]) -> pl.Series:
    """A column of texts from their numbers."""
    return pl.Series(texts, dtype=pl.String).gather(codes)


def _sides(better: pl.Series, pair: Ints, pairs: int) -> tuple[NDArray[np.int8], tuple[Ints, Ints]]:
    """The side that each row names, 3 for a third response, and a row that names side 1 and side 2 of each pair."""
    named = better.is_not_null().to_numpy()
    one = _first(np.flatnonzero(named), pair, pairs)
    same = (better == better.gather(_places(one[pair]))).fill_null(False).to_numpy()
    side = same.astype(np.int8)
    rest = np.flatnonzero(named & ~same)
    two = _first(rest, pair, pairs)
    side[rest] = np.where(better.gather(rest) == better.gather(two[pair[rest]]), 2, 3)
    return side, (one, two)


def _first(rows: Ints, pair: Ints, pairs: int) -> Ints:
    """(pairs,) the first of these rows that is of the pair; -1 for none."""
    first = np.full(pairs, -1, np.int64)
    first[pair[rows][::-1]] = rows[::-1]
    return first


def _places(at: Ints) -> pl.Series:
    """Places to gather from; -1 gathers a null."""
    places = pl.Series(at)
    return places if (at >= 0).all() else places.set(places < 0, None)


def _segments(values: Ints, n: Ints) -> Ints:
    """(pairs,) the sums of so many values each, in order."""
    ends = np.cumsum(n)
    running = np.concatenate([[0], np.cumsum(values)])
    return np.asarray(running[ends] - running[ends - n])


def _one_by_one(total: Floats, values: Floats, n: Ints, where: Rows) -> None:
    """Set `total` of some pairs to the sum of their values, rounded once; a pair has so many values, in order."""
    ends = np.cumsum(n)
    for at in np.flatnonzero(where):
        total[at] = math.fsum(values[ends[at] - n[at] : ends[at]].tolist())
