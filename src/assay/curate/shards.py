"""A pool of pairs on disk: hash-partitioned shards of text, written once, with narrow tables beside it.

    pool/
      pool.json        what the pool holds; replacing it is how an import takes effect
      importing/       an import that is going on, or was cut off
      pairs/           text: `Pair` rows, each pair once, sorted by prompt and pair
      index/           `Indexed` rows, one for each row of the shard of pairs
      votes/           `Judgement` rows: what sources say, a row for each occurrence of a pair
      origins/         `Origin` rows: where pairs were read, a row for each occurrence
      truth/           `Truth` rows, where a pool knows it
      unseen/          `Unseen` rows: pairs that only measure
      rejections/      `Rejection` rows
      imports/         a note for each file that was read

The part of a pair is a function of its question, so that copies of a pair, the votes on it and all pairs of its question
meet in one part, whatever files they came from. A shard (PART-GENERATION, and -N where it had to be split) is never changed:
a later import adds shards with the pairs that are new, and votes on those that were there.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from assay.curate.ids import Occurrences, text_of
from assay.errors import AssayError
from assay.records import Judgement, Origin, Pair, Rejection, Truth
from assay.store import Place
from assay.tables import Table, plain, read_json, to_arrow, write_shard

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """That a pair only measures, and all others of its question: it is of a kind of which people, judges and trainings see
    nothing."""

    pair_id: str
    question_id: str


TABLES: dict[str, type] = {
    "votes": Judgement, "origins": Origin, "truth": Truth, "rejections": Rejection, "unseen": Unseen,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What is known of a pair without its text. `first` and `second` are the ids of its responses, `chars` the characters of
    all its messages, `images` the number of its pictures; `askable` is False where nobody can be asked about it."""

    pair_id: str
    prompt_id: str
    question_id: str
    first: str
    second: str
    chars: int
    images: int
    askable: bool = True

    @staticmethod
    def of(pair: Pair, askable: bool = True) -> "Indexed":
        return Indexed(
            pair_id=pair.id, prompt_id=pair.prompt_id, question_id=pair.question_id, first=pair.responses[0].id,
            second=pair.responses[1].id, chars=pair.chars,
            images=sum(len(m.images) for m in pair.turns), askable=askable,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of pairs and its tables. `pairs` may be 0: an import can bring votes alone. `content` is a digest of the ids
    of its pairs, `said` of its votes and of what it knows to be true."""

    name: str
    part: int
    pairs: int
    votes: int
    chars: int
    content: str
    said: str

    @property
    def generation(self) -> int:
        """The number of the import that made it."""
        return int(self.name.split("-")[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool folder as its manifest says it is. `generations` counts the imports that took effect, `repeats` counts the
    rows that repeat a pair, `conflicts` the pairs for which sources prefer different responses; `chosen` says that all
    `askable` pairs may enter stage 1, not a share of the questions, `knows` that the better response of some is known."""

    place: Place
    parts: int
    shards: tuple[Shard, ...]
    repeats: int = 0
    conflicts: int = 0
    chosen: bool = False
    knows: bool = False
    generations: int = 1
    version: int = field(default=VERSION)

    @property
    def pairs(self) -> int:
        return sum(s.pairs for s in self.shards)

    @staticmethod
    def open(where: object) -> "Pool":
        """The pool in a folder. Raises AssayError where there is none, where an import was cut off (part of a file's pairs
        would be taken for all of them), or where an earlier version made it."""
        place = where if isinstance(where, Place) else Place.of(str(where))
        if (place / "importing").names():
            raise AssayError(
                f"{place}: an import into this pool was cut off or is not over, so the pool has only some of its pairs; "
                "give the same `assay pool add` again to finish it"
            )
        return Pool.as_it_was(place)

    @staticmethod
    def as_it_was(place: Place) -> "Pool":
        """`open`, without what an import is adding: for the import itself."""
        manifest = place / "pool.json"
        if not manifest.exists():
            if (place / "config.json").exists():
                raise AssayError(f"{place}: a run, not a pool; give the pool that it was made of")
            if (place / "tables").names():
                raise AssayError(
                    f"{place}: an earlier version of Assay made this pool, in another layout; make it anew from its files: "
                    "assay pool add FILE --out NEW-FOLDER"
                )
            raise AssayError(f"{place}: no pairs here; make a pool with: assay pool add FILE --out {place}")
        told = read_json(manifest)
        if told.get("version") != VERSION:
            raise AssayError(f"{place}: not a pool of layout {VERSION}, which this version of Assay reads")
        try:
            return Pool(place=place, **{**told, "shards": tuple(Shard(**s) for s in told["shards"])})
        except (KeyError, TypeError) as error:
            raise AssayError(
                f"{manifest}: not as this version of Assay writes it ({error}); make the pool anew"
            ) from error

    def save(self) -> None:
        """Make the manifest say this: what was added takes effect at once."""
        told = {name: plain(getattr(self, name)) for name in self.__slots__ if name != "place"}
        (self.place / "pool.json").write_text(json.dumps(told, indent=1))

    def table(self, name: str) -> Table[object]:
        """One of `TABLES`, pairs or index: its shards are those of the same name in `shards`, where they have rows."""
        return Table((self.place / name), {**TABLES, "pairs": Pair, "index": Indexed}[name])

    def said(self, part: int) -> list[str]:
        """What the votes and truths of a part are, of all its generations: it changes when more is said."""
        return [s.said for s in self.shards if s.part == part]

    def files(self, part: int, table: str) -> tuple[Place, ...]:
        """The files of a table on the pairs of a part, of all generations."""
        of = self.table(table)
        return tuple(of.file(s.name) for s in self.shards if s.part == part and of.done(s.name))

    def votes(self, part: int, columns: Sequence[str] | None = None, table: str = "votes") -> pl.DataFrame:
        """The votes (or another table) on the pairs of a part, of all generations."""
        of = self.table(table)
        names = [s.name for s in self.shards if s.part == part and of.done(s.name)]
        return of.frame(*names, columns=columns) if names else of.empty(columns)


def part_of(question_id: str, parts: int) -> int:
    """The part of a pool that holds the pairs of a question: the leading digits of its id."""
    return int(question_id[:8], 16) * parts >> 32


def create(
    where: object, pairs: Iterable[Pair], votes: Iterable[Judgement], truth: Mapping[str, str] | None = None,
    not_askable: AbstractSet[str] = frozenset(), repeats: int = 0, parts: int = 1,
    unseen: AbstractSet[str] = frozenset(), chosen: bool | None = None,
) -> Pool:  # fmt: skip
    """Make a pool of pairs that fit in memory; where there is one already, it must be of the same pairs and votes.

    Args:
        where: A new folder.
        pairs: Each once.
        votes: What sources say of them.
        truth: The better response by pair id, where it is known.
        not_askable: Ids of pairs about which nobody can be asked.
        repeats: How many rows repeated a pair, as it is told.
        parts: Of the pool.
        unseen: Ids of pairs that only measure, with all pairs of their questions.
        chosen: All pairs that people can be asked about may enter stage 1, else a share of the questions (default: where
            there are others).

    Raises AssayError where the folder holds another pool.
    """
    place = where if isinstance(where, Place) else Place.of(str(where))
    rows = sorted(pairs, key=lambda p: (p.prompt_id, p.id))
    said = sorted(votes, key=lambda j: (j.pair_id, j.by, j.better or ""))
    known = truth or {}
    at = {p.id: part_of(p.question_id, parts) for p in rows}
    sides: dict[str, set[str]] = {}
    for j in said:
        if j.better is not None:
            sides.setdefault(j.pair_id, set()).add(j.better)
    work = [
        shard_of(f"{part:04d}-00", part, [p for p in rows if at[p.id] == part], known,
                 [j for j in said if at.get(j.pair_id) == part], not_askable, unseen)
        for part in sorted(set(at.values()))
    ]  # fmt: skip
    pool = Pool(
        place=place, parts=parts, shards=tuple(shard for shard, _ in work), repeats=repeats,
        chosen=bool(not_askable) if chosen is None else chosen, knows=bool(known),
        conflicts=sum(len(s) > 1 for s in sides.values()),
    )  # fmt: skip
    if (place / "pool.json").exists():
        if Pool.open(place) != pool:
            raise AssayError(f"{place}: holds another pool ({changed(Pool.open(place), pool)}); use another folder")
        return pool
    for shard, tables in work:
        put(place, shard, tables)
    pool.save()
    return pool


def shard_of(
    name: str, part: int, pairs: Sequence[Pair], truth: Mapping[str, str], votes: Sequence[Judgement] = (),
    not_askable: AbstractSet[str] = frozenset(), unseen: AbstractSet[str] = frozenset(),
) -> tuple[Shard, dict[str, pa.Table]]:  # fmt: skip
    """A shard of pairs that fit in memory (sorted by prompt and pair), and its tables by name; see `create`."""
    true = [Truth(pair_id=p.id, better=truth[p.id]) for p in pairs if p.id in truth]
    index = [Indexed.of(p, p.id not in not_askable) for p in pairs]
    tables = {
        "pairs": to_arrow(Pair, pairs), "index": to_arrow(Indexed, index), "votes": to_arrow(Judgement, votes),
        "truth": to_arrow(Truth, true),
        "unseen": to_arrow(Unseen, [Unseen(pair_id=p.id, question_id=p.question_id) for p in pairs if p.id in unseen]),
    }  # fmt: skip
    said = said_digest(*(pl.DataFrame(pl.from_arrow(tables[name])) for name in ("votes", "truth", "unseen")))
    shard = Shard(
        name=name, part=part, pairs=len(pairs), votes=len(votes), chars=sum(i.chars for i in index),
        content=content_digest(pl.Series([i.pair_id for i in index]), pl.Series([i.askable for i in index])), said=said,
    )  # fmt: skip
    return shard, tables


def put(place: Place, shard: Shard, tables: Mapping[str, pa.Table]) -> None:
    """Write the tables of a shard that have rows."""
    for name, table in tables.items():
        if table.num_rows:
            write_shard(place / name / f"{shard.name}.parquet", table)


def content_digest(ids: pl.Series, askable: pl.Series | bool) -> str:
    """What the pairs of a shard are: the `digest` of [id, askable] of each."""
    row = pl.format('["{}",{}]', ids, pl.lit(askable).cast(pl.String))
    text = pl.select(row.str.join(",")).item()
    return hashlib.blake2b(f"[{text}]".encode(), digest_size=16).hexdigest()


def said_digest(votes: pl.DataFrame, truth: pl.DataFrame | None = None, unseen: pl.DataFrame | None = None) -> str:
    """What the votes and truths of a shard are, and which pairs only measure, whatever their order."""
    columns = ["pair_id", "better", "by", "problem", "confidence", "votes", "strength"]
    made = hashlib.blake2b(digest_size=16)
    empty = pl.DataFrame()
    apart = unseen if unseen is not None and len(unseen) else empty  # a pool without any has the digest that it had
    for frame in (votes.select(columns), truth if truth is not None else empty, apart):
        if frame.width:
            order = Occurrences.of(frame["pair_id"]).sorted(frame)
            for column in frame[order]:
                if column.dtype == pl.String:
                    made.update(column.str.len_bytes().fill_null(1 << 31).to_numpy().astype("<u4").tobytes())
                    begins, text = text_of(column)
                    made.update(text[begins[0] : begins[-1]].data)
                else:
                    made.update(column.to_numpy().tobytes())
    return made.hexdigest()


def changed(before: Pool, now: Pool) -> str:
    """In words, how one pool differs from another."""
    if before.pairs != now.pairs:
        return f"{before.pairs:,} pairs then, {now.pairs:,} now"
    if sorted(s.content for s in before.shards) != sorted(s.content for s in now.shards):
        return f"{now.pairs:,} pairs then and now, but other ones"
    return "the same pairs, with other votes or known answers"
