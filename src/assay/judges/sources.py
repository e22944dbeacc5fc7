"""Where pairs, gold and attributes of a judging command come from: a pool, a run, a file of judgements, published sets.

In memory are narrow columns and gold; text is read of the pairs that are asked for, in the order in which it lies on disk.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl

from assay.curate.material import VOTES, Material, pool_in
from assay.curate.settle import settle_frame
from assay.curate.shards import Pool
from assay.curate.verify import read_judgements
from assay.errors import AssayError
from assay.formats.human_sets import HUMAN_SETS, read_human_sets
from assay.records import Attributes, Judgement, Pair
from assay.store import Place
from assay.tables import Table, read_shard, records, to_arrow

T = TypeVar("T")
Where = str | Path | Place
_PEOPLE = ("lead", "human", "oracle")
_LIES = {"pair_id": pl.String, "file": pl.Int64, "row": pl.Int64}
PAIRS = {**_LIES, "question_id": pl.String, "chars": pl.Int64}
"""The columns that are known of pairs: where the text lies, the question, the characters of all messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf(Generic[T]):
    """Records by pair id of which only the places are in memory: `rows` has the columns pair_id, file (the number of a shard
    in `files`, or -1: it is in `kept`) and row, a row for each record."""

    record: type[T]
    rows: pl.DataFrame
    files: tuple[Place, ...] = ()
    kept: Mapping[str, T] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, ids: Iterable[str]) -> dict[str, T]:
        """The records of these pairs, in the order in which they lie on disk; of what is not here, none."""
        found: dict[str, T] = {}
        for file, rows in self._by_file(ids):
            if file < 0:
                found |= {i: self.kept[i] for i in rows["pair_id"]}
            else:
                some = records(self.record, read_shard(self.files[file], rows=rows["row"].to_numpy()))
                found |= zip(rows["pair_id"], some, strict=True)
        return found

    def _by_file(self, ids: Iterable[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        wanted = self.rows.filter(pl.col("pair_id").is_in(pl.Series(list(ids), dtype=pl.String).implode()))
        parts = wanted.sort("file", "row").group_by("file", maintain_order=True)
        return ((int(str(file)), rows) for (file,), rows in parts)

    def with_more(self, other: "Shelf[T]") -> "Shelf[T]":
        """Both, where this one's record of a pair counts."""
        more = other.rows.filter(~pl.col("pair_id").is_in(self.rows["pair_id"].implode()))
        moved = pl.when(pl.col("file") < 0).then(pl.col("file")).otherwise(pl.col("file") + len(self.files))
        return Shelf(
            record=self.record, rows=pl.concat([self.rows, more.with_columns(file=moved)]),
            files=(*self.files, *other.files), kept={**other.kept, **self.kept},
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Pairs, the better response of those that are gold, and the attributes that are known."""

    pairs: Shelf[Pair]
    gold: Mapping[str, str]
    attributes: Shelf[Attributes]


def read_material(
    source: Where, gold: Sequence[Path] = (), attributes: Where | None = None, sets: Sequence[str] = ()
) -> Given:
    """What `source` holds, with `gold` of other places.

    `source` is a pool, a run, the folder of an earlier `assay annotate`, or a folder of published sets of people's choices,
    of which `sets` names those to read; their choices are gold. `gold`: files of judgements (JSON lines; people's count) or
    folders like `source`, whose labels are taken as people's: say so only of a pool that people labelled.
    """
    place = Place.of(source)
    if sets:
        pairs, better = _published(place.local("--sets"), sets)
    else:
        pairs, better = _pairs(*pool_in(place)), {}
    for where in gold:
        found, theirs = _gold(where, pairs)
        pairs = pairs.with_more(found)
        better |= theirs
    known = better.keys() & set(pairs.rows["pair_id"]) if better else set()
    if gold and better and not known:
        raise AssayError(
            f"no pair of --gold {' '.join(map(str, gold))} is in {source}: give the folder that has them too"
        )
    if attributes is not None or not sets:
        described = _attributes(Place.of(attributes) if attributes is not None else place, attributes is not None)
    else:
        described = _shelf(Attributes, [])
    return Given(pairs=pairs, gold={p: b for p, b in better.items() if p in known}, attributes=described)


def _shelf(record: type[T], parts: Iterable[tuple[Place, pl.DataFrame]], schema: Mapping[str, Any] = _LIES) -> Shelf[T]:
    """Of files, each with a frame that has a row for each record of interest (pair_id, row, ...)."""
    files: list[Place] = []
    frames = [pl.DataFrame(schema=schema)]
    for file, rows in parts:
        frames.append(
            rows.with_columns(pl.col("row").cast(pl.Int64), file=pl.lit(len(files), pl.Int64)).select(*schema)
        )
        files.append(file)
    return Shelf(record=record, rows=pl.concat(frames), files=tuple(files))


def _pairs(pool: Pool, run: Material | None) -> Shelf[Pair]:
    """The pairs of a pool, or those of it that a run kept."""
    columns = ["pair_id", "question_id", "chars"]
    if run is not None:
        return _shelf(Pair, ((s.pairs, s.frame([*columns, "row"])) for s in run.slices), PAIRS)
    names = [s.name for s in pool.shards if s.pairs]
    index = pool.table("index")
    return _shelf(
        Pair,
        ((pool.table("pairs").file(n), index.frame(n, columns=columns).with_row_index("row")) for n in names),
        PAIRS,
    )


def _attributes(folder: Place, required: bool) -> Shelf[Attributes]:
    """Those of a run, or in the tables of `assay attributes` or `assay annotate`."""
    if (folder / "material.json").exists():
        files = [s.attributes for s in Material.open(folder).slices]
    else:
        table = Table(folder / "tables" / "attributes", Attributes)
        files = [table.file(shard) for shard in table.shards()]
    if required and not files:
        raise AssayError(f"--attributes {folder}: no attributes here; make them with: assay attributes")
    ids = (pl.DataFrame(pl.from_arrow(read_shard(file, ["pair_id"]))) for file in files)
    return _shelf(Attributes, ((f, frame.with_row_index("row")) for f, frame in zip(files, ids, strict=True)))


def _gold(where: Path, known: Shelf[Pair]) -> tuple[Shelf[Pair], dict[str, str]]:
    """(pairs, better response by pair id) of a file or folder given as gold; `known` are pairs that a file may be about."""
    if where.is_file():
        return _shelf(Pair, [], PAIRS), _settled(_people(where, known))
    pool, run = pool_in(Place.of(where))
    pairs = _pairs(pool, run)
    truth = _truth(pool, run)
    people = _people(where / "judgements.jsonl", pairs)
    if run is not None and not len(people):  # they were recorded before, or know the truth: no file of theirs
        tables = [Table(p / "tables" / "judgements", Judgement) for p in sorted(where.glob("seed-*"))]
        told = [t.frame(shard, columns=VOTES) for t in tables for shard in t.shards()]
        own = [frame.filter(pl.col("kind").is_in(_PEOPLE)) for frame in told]
        people = pl.concat([people, *own]).unique(["pair_id", "by"], keep="first", maintain_order=True)
    better = {**truth, **_settled(people)}
    if not truth and not len(people):
        for part in sorted({s.part for s in pool.shards}):
            better |= _settled(pool.votes(part, VOTES))
    if not better:
        raise AssayError(f"--gold {where}: no labels here")
    return pairs, better


def _truth(pool: Pool, run: Material | None) -> dict[str, str]:
    if run is not None:
        frames = (frame.filter(pl.col("truth").is_not_null()) for _, frame in run.frames(["pair_id", "truth"]))
        return {i: better for frame in frames for i, better in frame.select("pair_id", "truth").iter_rows()}
    return dict(pool.table("truth").frame(columns=["pair_id", "better"]).iter_rows())


def _people(file: Path, known: Shelf[Pair]) -> pl.DataFrame:
    """What people say in a file of judgements (columns of `VOTES`), which must name responses that their pairs have."""
    about = {j.pair_id for j in read_judgements(file)}
    people = [j for j in read_judgements(file, known.of(about)) if j.kind in _PEOPLE]
    return pl.DataFrame(pl.from_arrow(to_arrow(Judgement, people))).select(VOTES)


def _settled(votes: pl.DataFrame) -> dict[str, str]:
    labels = settle_frame(votes, "gold").filter(pl.col("chosen").is_not_null())
    return dict(labels.select("pair_id", "chosen").iter_rows())


def _published(folder: Path, sets: Sequence[str]) -> tuple[Shelf[Pair], dict[str, str]]:
    """Pairs of published sets with what people chose; a pair on which sets contradict each other is not gold."""
    wrong = sorted(set(sets) - HUMAN_SETS.keys())
    if wrong:
        raise AssayError(f"unknown set '{wrong[0]}'; known: {', '.join(HUMAN_SETS)}")
    pairs: dict[str, Pair] = {}
    better: dict[str, str | None] = {}
    for _, found, people in read_human_sets(folder, tuple(sets)):
        pairs[found.pair.id] = found.pair
        if people == "human" and found.better is not None:
            same = better.get(found.pair.id, found.better) == found.better
            better[found.pair.id] = found.better if same else None
    rows = pl.DataFrame(
        {"pair_id": list(pairs), "file": [-1] * len(pairs), "row": list(range(len(pairs))),
         "question_id": [p.question_id for p in pairs.values()], "chars": [p.chars for p in pairs.values()]}, schema=PAIRS,
    )  # fmt: skip
    return Shelf(record=Pair, rows=rows, kept=pairs), {p: b for p, b in better.items() if b is not None}
