"""The second half of an import: what was laid down for a part of the pool becomes its next generation of shards.

A part's new pairs (those that no earlier generation holds) are written once each, sorted by prompt and pair, with the index
beside them; votes and origins keep every occurrence. All tables are sorted by all that is in them, so that neither the
order of the files nor the pieces that they were read in can be seen in the bytes. A part whose text would not fit in
memory is made in several shares, by the pair's id.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from assay.curate.ids import Ints, Occurrences, by_id
from assay.curate.segments import Note, Segments
from assay.curate.shards import Indexed, Pool, Shard, content_digest, said_digest
from assay.formats.columns import SCHEMA
from assay.memory import keep_tables
from assay.records import Judgement, Origin, Pair, Rejection
from assay.store import Place
from assay.tables import arrow_schema, filled, frame_to_arrow, write_shard

_TEXT = arrow_schema(Pair)
_NARROW = pa.schema([*(f for f in SCHEMA if f.name not in _TEXT.names), ("piece", pa.int64())])
SHARE_BYTES = 1 << 28
"""Bytes of text (as it comes in, repeats included) of which one shard is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The pairs of one part, or those of them whose id falls to `share` of `shares`: what a call of `gather` makes a
    shard of.

    `pool` knows the shards of this part alone; `pairs` are the segments of the part's rows; `rejections` are written as
    they come.
    """

    name: str
    pool: Pool
    part: int
    share: int
    shares: int
    pairs: Segments
    rejections: Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The shard that was made of a share (with or without pairs), and by how many pairs more the rows now disagree."""

    shard: Shard
    conflicts: int


def shares(pool: Pool, notes: list[Note]) -> Iterator[Share]:
    """What there is to gather for the next generation of a pool, part by part."""
    laid, rejected = Segments.by_part("pairs", notes), Segments.by_part("rejections", notes)
    for part in sorted(laid.keys() | rejected.keys()):
        pairs, none = laid.get(part, Segments.none("pairs")), Segments.none("rejections")
        known = replace(pool, shards=tuple(s for s in pool.shards if s.part == part))
        count = 1 << max(0, (pairs.bytes - 1) // SHARE_BYTES).bit_length()
        for share in range(count):
            yield Share(
                name=f"{part:04d}-{pool.generations:02d}{f'-{share}' if count > 1 else ''}", pool=known, part=part,
                share=share, shares=count, pairs=pairs, rejections=none if share else rejected.get(part, none),
            )  # fmt: skip


def gather(folder: Place, share: Share) -> None:
    """Write the shard of a share: its tables in the pool, and last, in `folder`, what it came to."""
    keep_tables()
    _rejections(folder, share)
    rows = _rows(folder, share)
    votes, origins = _occurrences(rows.narrow, share.pairs.pieces)
    index = rows.index()
    for name, made in (("pairs", rows.pairs()), ("index", index), ("votes", votes), ("origins", origins)):
        if made.num_rows:
            write_shard(share.pool.place / name / f"{share.name}.parquet", made)
    ids, said = pl.Series(pl.from_arrow(index.column("pair_id"))), pl.DataFrame(pl.from_arrow(votes))
    shard = Shard(
        name=share.name, part=share.part, pairs=index.num_rows, votes=votes.num_rows,
        chars=pc.sum(index.column("chars"), min_count=0).as_py(), content=content_digest(ids, True), said=said_digest(said),
    )  # fmt: skip
    told = {n: getattr(shard, n) for n in Shard.__slots__}
    conflicts = _conflicts(share, said.select("pair_id", "better"))
    (folder / f"{share.name}.json").write_text(json.dumps({"shard": told, "conflicts": conflicts}))


def gathered(folder: Place, name: str) -> Gathered:
    """What came of the share of this name."""
    told = json.loads((folder / f"{name}.json").read_text())
    return Gathered(shard=Shard(**told["shard"]), conflicts=told["conflicts"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The rows of a share: `narrow` holds all of them without their text, with the place of their piece among those of the
    share; `new` counts through those that are the first of a pair that the pool does not have, in the order of prompt and
    pair, and `at` through their texts."""

    narrow: pa.Table
    new: Ints
    text: pa.Table
    at: Ints

    def pairs(self) -> pa.Table:
        return self.text.take(pa.array(self.at))

    def index(self) -> pa.Table:
        columns = self.narrow.select([n for n in arrow_schema(Indexed).names if n != "askable"]).take(
            pa.array(self.new)
        )
        return filled(Indexed, dict(zip(columns.column_names, columns, strict=True)), columns.num_rows)


def _rows(folder: Place, share: Share) -> _Rows:
    held, rows, texts = _held(share), 0, 0
    new, at = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    narrow, text = [_NARROW.empty_table()], [_TEXT.empty_table()]
    for piece, table in zip(share.pairs.of, share.pairs.read(folder), strict=True):
        if share.shares > 1:
            table = table.filter(_mine(pl.Series(pl.from_arrow(table.column("pair_id"))), share).to_arrow())
        first = _first(table.column("pair_id").to_pylist(), held)
        told, said, there = table.drop_columns(_TEXT.names), table.select(_TEXT.names), first
        if 2 * len(first) < table.num_rows:  # however often a text comes, it is in memory twice at most
            told, said = told.take(pa.array(np.arange(table.num_rows))), said.take(pa.array(first))
            there = np.arange(len(first))
        narrow.append(told.append_column(_NARROW.field("piece"), pa.array(np.full(table.num_rows, piece))))
        text.append(said)
        new.append(rows + first)
        at.append(texts + there)
        rows, texts = rows + table.num_rows, texts + said.num_rows
    told, first = pa.concat_tables(narrow).combine_chunks(), np.concatenate(new)
    order = by_id(*pl.DataFrame(pl.from_arrow(told.select(["prompt_id", "pair_id"]).take(pa.array(first)))))
    whole = pa.concat_tables(text).combine_chunks()
    return _Rows(narrow=told, new=first[order], text=whole, at=np.concatenate(at)[order])


def _first(ids: Sequence[str], held: set[str]) -> Ints:
    """The places of those that are not `held`, each once; then they are."""
    before = len(held)
    found = []
    for at, pair_id in enumerate(ids):
        held.add(pair_id)
        if len(held) > before:
            found.append(at)
            before += 1
    return np.array(found, np.int64)


def _held(share: Share) -> set[str]:
    """The ids of the pairs that the part holds already."""
    names = [s.name for s in share.pool.shards if s.pairs]
    return set(share.pool.table("index").frame(*names, columns=["pair_id"])["pair_id"]) if names else set()


def _mine(ids: pl.Series, share: Share) -> pl.Series:
    """Which pair ids fall to the share: by their last digits, for the first ones are near each other in sorted tables."""
    return ids.str.slice(24).str.to_integer(base=16) % share.shares == share.share


def _occurrences(rows: pa.Table, pieces: Sequence[tuple[str, str]]) -> tuple[pa.Table, pa.Table]:
    """What the sources say, and where they say it: a row each for each occurrence of a pair."""
    for name, of in {
        "by": [f"wild:{source}" for source, _ in pieces], "source": [s for s, _ in pieces], "file": [f for _, f in pieces],
    }.items():  # fmt: skip
        rows = rows.append_column(name, pa.array(of, pa.string()).take(rows.column("piece")))
    frame = pl.DataFrame(pl.from_arrow(rows))
    same = Occurrences.of(frame["pair_id"])

    def ordered(*columns: str) -> dict[str, Any]:
        found = rows.select(["pair_id", *columns]).take(pa.array(same.sorted(frame.select(columns))))
        return dict(zip(found.column_names, found.columns, strict=True))

    votes, origins = (
        ordered("by", "better", "votes", "confidence", "strength"),
        ordered("source", "file", "row", "layout"),
    )
    votes["kind"] = pa.repeat("wild", rows.num_rows)
    votes["problem"] = pc.if_else(pc.is_null(votes["better"]), "tie", "")
    return filled(Judgement, votes, rows.num_rows), filled(Origin, origins, rows.num_rows)


def _rejections(folder: Place, share: Share) -> None:
    tables = [*share.rejections.read(folder)]
    if tables:
        rows = pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))
        ordered = rows.sort("source", "file", "row", "field", "reason", "excerpt")
        write_shard(share.pool.place / "rejections" / f"{share.name}.parquet", frame_to_arrow(Rejection, ordered))


def _conflicts(share: Share, votes: pl.DataFrame) -> int:
    """For how many pairs of the share rows prefer different responses now, less those for which they did before."""
    before = share.pool.votes(share.part, ["pair_id", "better"])
    if share.shares > 1 and before.height:
        before = before.filter(_mine(before["pair_id"], share))
    return _contradicted(pl.concat([before, votes])) - _contradicted(before)


def _contradicted(votes: pl.DataFrame) -> int:
    told = votes.drop_nulls("better")
    return told.group_by("pair_id").agg(pl.col("better").n_unique().alias("sides")).filter(pl.col("sides") > 1).height
