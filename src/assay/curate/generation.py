"""The second half of an import: what was laid down for a part of the pool becomes its next generation of shards.

A part's new pairs (those that no earlier generation holds) are written once each, sorted by prompt and pair, with the index
beside them; votes and origins keep every occurrence. All tables are sorted by all that is in them, so that neither the
order of the files nor the pieces that they were read in can be seen in the bytes. A part whose text would not fit in
memory is made in several shares, by the pair's id.
"""

import json
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from assay.curate.columns import SCHEMA
from assay.curate.shards import Indexed, Pool, Shard, said_digest
from assay.curate.spill import Note, Segment
from assay.memory import keep_tables
from assay.records import Judgement, Origin, Pair, Rejection, digest
from assay.store import Place
from assay.tables import arrow_schema, frame_to_arrow, write_shard

_TEXT = arrow_schema(Pair).names
SHARE_BYTES = 1 << 28
"""Bytes of text (as it comes in, repeats included) of which one shard is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The pairs of one part, or those of them whose id falls to `share` of `shares`: what a call of `gather` makes a
    shard of.

    `segments` hold the part's rows, each with the name of its source and its file; `rejections` are written as they come.
    """

    name: str
    part: int
    share: int
    shares: int
    segments: tuple[tuple[Segment, str, str], ...]
    rejections: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The shard that was made of a share (with or without pairs), and by how many pairs more the rows now disagree."""

    shard: Shard
    conflicts: int


def shares(notes: list[Note], generation: int) -> list[Share]:
    """What there is to gather, part by part."""
    text: dict[int, list[tuple[Segment, str, str]]] = {}
    rejected: dict[int, list[Segment]] = {}
    for note in notes:
        for s in note.segments:
            if s.kind == "pairs":
                text.setdefault(s.part, []).append((s, note.source, note.file))
            elif s.kind == "rejections":
                rejected.setdefault(s.part, []).append(s)
    made = []
    for part in sorted(text.keys() | rejected.keys()):
        here = text.get(part, [])
        count = 1 << max(0, (sum(s.bytes for s, _, _ in here) - 1) // SHARE_BYTES).bit_length()
        for share in range(count):
            end = f"-{share}" if count > 1 else ""
            made.append(Share(
                name=f"{part:04d}-{generation:02d}{end}", part=part, share=share, shares=count, segments=tuple(here),
                rejections=tuple(rejected.get(part, [])) if share == 0 else (),
            ))  # fmt: skip
    return made


def gather(folder: Place, pool: Pool, share: Share) -> None:
    """Write the shard of a share: its tables in the pool, and last, in `folder`, what it came to."""
    keep_tables()
    _rejections(folder, pool.place, share)
    new, narrow = _rows(folder, share, _held(pool, share))
    at = pc.sort_indices(new, [("prompt_id", "ascending"), ("pair_id", "ascending")])
    index = pl.DataFrame(pl.from_arrow(new.drop_columns(_TEXT).take(at))).with_columns(askable=pl.lit(value=True))
    votes, origins = _votes(narrow), _origins(narrow)
    for table, made in (
        ("pairs", new.select(_TEXT).take(at)),
        ("index", frame_to_arrow(Indexed, index)), ("votes", frame_to_arrow(Judgement, votes)),
        ("origins", frame_to_arrow(Origin, origins)),
    ):  # fmt: skip
        if made.num_rows:
            write_shard(pool.place / table / f"{share.name}.parquet", made)
    shard = Shard(
        name=share.name, part=share.part, pairs=len(at), votes=votes.height, chars=int(index["chars"].sum()),
        content=digest([[i, True] for i in index["pair_id"]]), said=said_digest(votes),
    )  # fmt: skip
    told = {n: getattr(shard, n) for n in Shard.__slots__}
    conflicts = _conflicts(pool, share, votes)
    (folder / f"{share.name}.json").write_text(json.dumps({"shard": told, "conflicts": conflicts}))


def gathered(folder: Place, share: Share) -> Gathered:
    told = json.loads((folder / f"{share.name}.json").read_text())
    return Gathered(shard=Shard(**told["shard"]), conflicts=told["conflicts"])


def _rows(folder: Place, share: Share, held: set[str]) -> tuple[pa.Table, pl.DataFrame]:
    """The first row of each pair that is not `held`; and all rows without their text, with the source and file of each.

    The text of a pair that was met is left behind at once: however often it comes, it is in memory once.
    """
    new, narrow = [SCHEMA.empty_table()], [pl.DataFrame(pl.from_arrow(SCHEMA.empty_table().drop_columns(_TEXT)))]
    narrow[0] = narrow[0].with_columns(source=pl.lit(""), file=pl.lit(""))
    for segment, source, file in share.segments:
        table = segment.read(folder)
        if share.shares > 1:
            table = table.filter(_mine(pl.Series(pl.from_arrow(table.column("pair_id"))), share).to_arrow())
        first = []
        for at, pair_id in enumerate(table.column("pair_id").to_pylist()):
            if pair_id not in held:
                held.add(pair_id)
                first.append(at)
        new.append(table if len(first) == table.num_rows else table.take(pa.array(first, pa.int64())))
        told = pl.DataFrame(pl.from_arrow(table.drop_columns(_TEXT)))
        narrow.append(told.with_columns(source=pl.lit(source), file=pl.lit(file)))
    return pa.concat_tables(new).combine_chunks(), pl.concat(narrow)


def _mine(ids: pl.Series, share: Share) -> pl.Series:
    """Which pair ids fall to the share: by their last digits, for the first ones are near each other in sorted tables."""
    return ids.str.slice(24).str.to_integer(base=16) % share.shares == share.share


def _held(pool: Pool, share: Share) -> set[str]:
    """The ids of the pairs that the part holds already."""
    names = [s.name for s in pool.shards if s.part == share.part and s.pairs]
    return set(pool.table("index").frame(*names, columns=["pair_id"])["pair_id"]) if names else set()


def _votes(rows: pl.DataFrame) -> pl.DataFrame:
    """What the sources say, a row for each occurrence."""
    tie = pl.when(pl.col("better").is_null()).then(pl.lit("tie")).otherwise(pl.lit(""))
    order = ["pair_id", "by", "better", "votes", "confidence", "strength"]
    return rows.select(
        "pair_id", "better", pl.format("wild:{}", "source").alias("by"), pl.lit("wild").alias("kind"), "confidence", "votes",
        tie.alias("problem"), "strength",
    ).sort(order)  # fmt: skip


def _origins(rows: pl.DataFrame) -> pl.DataFrame:
    columns = ["pair_id", "source", "file", "row", "layout"]
    return rows.select(columns).sort(columns)


def _rejections(folder: Place, place: Place, share: Share) -> None:
    if share.rejections:
        rows = pl.DataFrame(pl.from_arrow(pa.concat_tables([s.read(folder) for s in share.rejections])))
        ordered = rows.sort("source", "file", "row", "field", "reason", "excerpt")
        write_shard(place / "rejections" / f"{share.name}.parquet", frame_to_arrow(Rejection, ordered))


def _conflicts(pool: Pool, share: Share, votes: pl.DataFrame) -> int:
    """For how many pairs of the share rows prefer different responses now, less those for which they did before."""
    before = pool.votes(share.part, ["pair_id", "better"])
    if share.shares > 1 and before.height:
        before = before.filter(_mine(before["pair_id"], share))
    return _contradicted(pl.concat([before, votes.select("pair_id", "better")])) - _contradicted(before)


def _contradicted(votes: pl.DataFrame) -> int:
    told = votes.drop_nulls("better")
    return told.group_by("pair_id").agg(pl.col("better").n_unique().alias("sides")).filter(pl.col("sides") > 1).height
