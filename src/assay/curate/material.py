"""The prepared pool as stages read it: narrow columns of every shard, and the text of the pairs that are chosen.

Whoever chooses pairs says where they are: rows travel as frames with the columns `pair_id` and `at` (the shard's name), so
that text is looked for in one shard only.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assay.curate.cells import Cells, recall
from assay.curate.measuring import words
from assay.curate.prepare import Slice, Use, packed, unpacked
from assay.curate.retrieve import Near, by_need, merged, nearest, neighbours_wanted, taken
from assay.curate.shards import Pool
from assay.engine import Engine, Here
from assay.errors import AssayError
from assay.figures import told
from assay.memory import compact
from assay.order import draws, in_order
from assay.records import Attributes, Pair, Preference, digest
from assay.store import Place
from assay.tables import read_json, read_shard, records, write_shard

LEVELS = {"low": 0, "medium": 1, "high": 2}
VOTES = ("pair_id", "better", "by", "kind", "confidence", "votes", "problem", "round", "strength")
"""Columns of judgements that labels are made of."""
SAMPLE = 64
"""Gold pairs whose neighbours are looked for exactly, to say what an approximate search missed."""
FREE = pl.Schema({"pair_id": pl.String, "at": pl.String, "question_id": pl.String, "held": pl.Boolean})
"""The columns of a chosen pair: where it is, and which side of the gold split its question is on."""

Rank = Callable[[Slice, pl.DataFrame], pl.DataFrame]
"""Rows of a shard with a column `rank`, by which the lowest are chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A pair with what describes it."""

    pair: Pair
    attributes: Attributes
    vector: NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The cleaned pool of a run with all that no seed decides."""

    pool: Pool
    slices: tuple[Slice, ...]
    out: Place
    """The folder of the run's tables."""
    engine: Engine = field(default_factory=Here)

    def save(self, folder: Place) -> None:
        """Note in a run folder (whose `tables` are `out`) what its pool and its shards are, for who reads the run later."""
        told = {
            "pool": _whole(self.pool.place).removeprefix(f"{_whole(folder)}/"),
            "slices": [
                {"name": s.name, "part": s.part, "hits": s.hits and s.hits.name}
                | {k: getattr(s, k).name for k in ("index", "attributes", "vectors")} for s in self.slices
            ],
        }  # fmt: skip
        (folder / "material.json").keep_text(json.dumps(told, indent=1))

    @staticmethod
    def open(folder: Place, engine: Engine | None = None) -> "Material":
        """What a run folder was made of. Raises AssayError where it is none, an earlier version made it, or its pool is gone
        from where it was."""
        note = folder / "material.json"
        if not note.exists():
            if (folder / "tables" / "pairs").names(".parquet"):
                raise AssayError(f"{folder}: an earlier version of Assay made this run, in another layout; run it anew")
            raise AssayError(f"{folder}: not a run folder; give the --out folder of an `assay run`")
        told = read_json(note)
        pool = Pool.open(folder / told["pool"] if not _absolute(told["pool"]) else Place.of(told["pool"]))
        out = folder / "tables"
        slices = tuple(
            Slice(name=s["name"], part=s["part"], pairs=pool.table("pairs").file(s["name"]),
                  hits=out / "contamination" / s["hits"] if s["hits"] else None,
                  **{k: out / k / s[k] for k in ("index", "attributes", "vectors")})
            for s in told["slices"]
        )  # fmt: skip
        return Material(pool=pool, slices=slices, out=out, engine=engine or Here())

    def frames(self, columns: Sequence[str], *uses: Use) -> Iterator[tuple[Slice, pl.DataFrame]]:
        """Columns of `Kept` of every shard, of the pairs for some uses (default: all), with `at`."""
        for part in self.slices:
            frame = part.frame([*dict.fromkeys([*columns, "use"])])
            yield part, (frame.filter(pl.col("use").is_in(uses)) if uses else frame).with_columns(at=pl.lit(part.name))

    def rows_of(self, ids: pl.Series, *uses: Use) -> pl.DataFrame:
        """The places (columns of `FREE`) of pairs, of those that have one of the uses."""
        found = [FREE.to_frame()]
        for _, frame in self.frames(FREE.names(), *uses) if len(ids) else ():
            found.append(compact(frame.filter(pl.col("pair_id").is_in(ids.implode())).select(FREE.names())))
        return pl.concat(found)

    def by_part(self) -> Iterator[tuple[Slice, ...]]:
        """The shards of a part together, part by part: all pairs of a prompt or question lie in one part."""
        ordered = sorted(self.slices, key=lambda s: s.part)
        return (tuple(some) for _, some in itertools.groupby(ordered, key=lambda s: s.part))

    def parts(self, chosen: pl.DataFrame) -> Iterator[tuple[Slice, pl.DataFrame]]:
        """The chosen rows, shard by shard, in the shards' order."""
        by_name = {str(name): rows for (name,), rows in chosen.group_by("at", maintain_order=True)}
        assert by_name.keys() <= {s.name for s in self.slices}, "rows of shards that the pool does not have"
        return ((s, by_name[s.name]) for s in self.slices if s.name in by_name)

    def known(self, chosen: pl.DataFrame) -> dict[str, Known]:
        """The chosen pairs with text, attributes and vector, in the order of `chosen`."""
        found: dict[str, Known] = {}
        for part, rows in self.parts(chosen):
            places = self._places(part, rows)
            text = part.text(places["row"])
            numbers = places["number"].to_numpy()
            attributes = records(Attributes, read_shard(part.attributes, rows=numbers))
            vectors = part.vector_rows(numbers)
            found |= {
                a.pair_id: Known(pair=text[a.pair_id], attributes=a, vector=v)
                for a, v in zip(attributes, vectors, strict=True)
            }
        return {i: found[i] for i in chosen["pair_id"]}

    def text(self, chosen: pl.DataFrame) -> dict[str, Pair]:
        """The chosen pairs, in the order of `chosen`."""
        found: dict[str, Pair] = {}
        for part, rows in self.parts(chosen):
            found |= part.text(self._places(part, rows)["row"])
        return {i: found[i] for i in chosen["pair_id"]}

    def preferences(self, labels: pl.DataFrame) -> list[Preference]:
        """The pairs of labels (pair_id, at, chosen, certainty, margin) that have a chosen response, in memory: of few."""
        told = labels.filter(pl.col("chosen").is_not_null())
        text = self.text(told)
        rows = told.select("pair_id", "chosen", "certainty", "margin").iter_rows()
        return [text[i].preferring(chosen, certainty, margin) for i, chosen, certainty, margin in rows]

    def votes(self, chosen: pl.DataFrame) -> pl.DataFrame:
        """What sources say of the chosen pairs."""
        found = [
            compact(self.pool.votes(part.part, VOTES).filter(pl.col("pair_id").is_in(rows["pair_id"].implode())))
            for part, rows in self.parts(chosen)
        ]
        return pl.concat(found) if found else self.pool.table("votes").frame(columns=VOTES).clear()

    def _places(self, part: Slice, rows: pl.DataFrame) -> pl.DataFrame:
        """`number` of each chosen row in the index, and its `row` in the shard of pairs, ascending."""
        index = part.frame(["pair_id", "row"]).with_row_index("number")
        found = index.filter(pl.col("pair_id").is_in(rows["pair_id"].implode()))
        if len(found) < rows["pair_id"].n_unique():
            raise AssayError(
                f"{part.index}: lacks pairs that the run has asked about; files or its pool were changed: use another --out"
            )
        return found

    def size(self, *uses: Use) -> int:
        """How many pairs there are for some uses."""
        return sum(len(frame) for _, frame in self.frames(["use"], *uses))

    def evaluation(self, limit: int = 0, use: Use = "evaluation") -> pl.DataFrame:
        """The pairs that only measure, labelled with what is known to be true, or with what people say who verified them for
        that: columns of labels, with `at` and `question_id`; at most `limit` (0: all), drawn at random. No more than these
        and a shard's are in memory. `use`: those that are like the rest of the pool, or "unseen" kinds."""
        said = words(self.out) if not self.pool.knows else words(self.out).clear()
        found = [FREE.to_frame().with_columns(chosen=pl.lit(""), place=pl.lit(0.0))]
        for _, frame in self.frames(["pair_id", "question_id", "held", "truth"], use):
            better = pl.coalesce("truth", "chosen")
            known = frame.join(said, on="pair_id", how="left").select(*FREE.names(), chosen=better).drop_nulls("chosen")
            place = pl.Series(draws(known["pair_id"].to_list(), "evaluation"), dtype=pl.Float64)
            found.append(compact(known.with_columns(place=place)))
            if limit and sum(map(len, found)) > limit:
                every = pl.concat(found)
                found = [compact(every[np.sort(np.argsort(every["place"].to_numpy())[:limit])])]
        return pl.concat(found).drop("place").with_columns(certainty=pl.lit(1.0), margin=pl.lit(0.0))

    def to_measure(self) -> pl.DataFrame:
        """The pairs that people verify to measure only (columns of `FREE`)."""
        if self.pool.knows:
            return FREE.to_frame()
        found = [f.select(FREE.names()) for _, f in self.frames(FREE.names(), "evaluation")]
        return compact(pl.concat([FREE.to_frame(), *found]))

    # What stage 1 chooses by: each a pass over narrow columns, a shard at a time

    def first(self, n: int, seed: int) -> pl.DataFrame:
        """The n pairs of stage 1 of the highest priority: objective first, then low controversiality (A2, D.2), within a
        class at random."""
        return self._least(n, partial(_priority, seed), FREE.to_frame(), None)

    def drawn(self, n: int, but: pl.DataFrame, *salt: object, held: bool | None) -> pl.DataFrame:
        """n pairs of stage 1 at random, of held questions or of the others (None: of any), none of `but`."""
        return self._least(n, partial(_chance, salt), but, held)

    def _least(self, n: int, rank: Rank, but: pl.DataFrame, held: bool | None) -> pl.DataFrame:
        best = FREE.to_frame().with_columns(rank=pl.lit(0.0))
        for found in self.engine.map(partial(_candidates, rank=rank, n=n, held=held), self._but(but)):
            best = compact(pl.concat([best, found]).sort("rank", "pair_id").head(n))
        return best.drop("rank")

    def _but(self, but: pl.DataFrame) -> "Iterator[tuple[Slice, pl.Series]]":
        """Every shard, with the ids that are not to be chosen of it."""
        by_name = {str(name): rows["pair_id"] for (name,), rows in but.group_by("at")}
        return ((s, by_name.get(s.name, pl.Series([], dtype=pl.String))) for s in self.slices)

    def look_alikes(
        self, asking: pl.DataFrame, p: Mapping[str, float], but: pl.DataFrame, k_max: int, limit: int, probe: float = 1.0,
        say: Callable[[str], None] = lambda _: None, fixed: int | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Retrieval 1: pairs of stage 1, not of held questions and none of `but`, that resemble gold pairs (`asking`) which
        the reward model gets wrong or is unsure of (`p`); the most needed first, at most `limit`. With `probe` below 1 only
        that share of cells is looked into (`cells`), and `say` hears what that missed of a sample. `fixed`, a seed: every
        gold pair asks for `k_max`, whatever the model says of it, in random order."""
        ids = asking["pair_id"].to_list()
        order = by_need(p, ids) if fixed is None else in_order(ids, "asking", fixed)
        if not order:
            return FREE.to_frame()
        of = self._vectors(asking)
        queries = np.stack([of[i] for i in order])
        (rows, scores), pairs = self._nearest(queries, but, k_max, probe)
        if probe < 1.0:
            sample = np.random.default_rng(0).permutation(len(order))[:SAMPLE]
            exact, _ = self._nearest(queries[sample], but, k_max, 1.0)
            share = recall((rows[sample], scores[sample]), exact)
            say(f"look-alikes: {told(share)} of the exact neighbours of {len(sample):,} gold pairs were found")
        of_code = dict(pairs.select("code", "pair_id").iter_rows())
        near = [[of_code[c] for c in row[score > -np.inf].tolist()] for row, score in zip(rows, scores, strict=True)]
        wanted = [neighbours_wanted(p[i], k_max) if fixed is None else k_max for i in order]
        chosen = taken(near, wanted, limit)
        return pl.DataFrame({"pair_id": chosen}, schema={"pair_id": pl.String}).join(
            pairs.unique("pair_id"), on="pair_id", how="left", maintain_order="left"
        ).select(FREE.names())  # fmt: skip

    def _vectors(self, chosen: pl.DataFrame) -> dict[str, NDArray[np.float16]]:
        found: dict[str, NDArray[np.float16]] = {}
        for part, rows in self.parts(chosen):
            places = self._places(part, rows)
            found |= zip(places["pair_id"], part.vector_rows(places["number"].to_numpy()), strict=True)
        return found

    def _nearest(
        self, queries: NDArray[np.float16], but: pl.DataFrame, k: int, probe: float
    ) -> tuple[Near, pl.DataFrame]:
        """The k nearest open pairs of each query, by their `code` in the frame; of equally near ones those of the lowest
        ids, in whatever shards they lie."""
        file = self.out / "queries" / f"{digest(queries.tobytes().hex())[:16]}.parquet"
        write_shard(file, packed(queries))
        best: Near = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), -np.inf)
        found = FREE.to_frame().with_columns(code=pl.lit(0, pl.Int64))
        for near in self.engine.map(partial(_near, queries=file, k=k, probe=probe), self._but(but)):
            best = merged(best, (near.codes, near.scores), k)
            left = pl.Series(np.unique(best[0][best[1] > -np.inf]))
            found = compact(pl.concat([found, near.pairs]).filter(pl.col("code").is_in(left.implode())))
        file.remove()
        return best, found

    def by_priority(self, chosen: pl.DataFrame, seed: int) -> pl.DataFrame:
        """The chosen rows by priority."""
        parts = [_priority(seed, part, rows) for part, rows in self.parts(chosen)]
        ranked = pl.concat([FREE.to_frame().with_columns(rank=pl.lit(0.0)), *parts])
        return ranked.sort("rank", "pair_id").drop("rank")


def _candidates(item: tuple[Slice, pl.Series], rank: Rank, n: int, held: bool | None) -> pl.DataFrame:
    """A shard's n pairs of stage 1 of the lowest rank."""
    return compact(rank(item[0], _open(*item, held)).sort("rank", "pair_id").head(n))


def _open(part: Slice, but: pl.Series, held: bool | None) -> pl.DataFrame:
    """A shard's pairs of stage 1 that may be chosen."""
    frame = part.frame(["pair_id", "question_id", "held", "use"]).filter(pl.col("use") == "stage1")
    frame = frame if held is None else frame.filter(pl.col("held") == held)
    return frame.filter(~pl.col("pair_id").is_in(but.implode())).with_columns(at=pl.lit(part.name)).select(FREE.names())


def _priority(seed: int, part: Slice, rows: pl.DataFrame) -> pl.DataFrame:
    attributes = pl.from_arrow(read_shard(part.attributes, ["pair_id", "objectivity", "controversiality"]))
    assert isinstance(attributes, pl.DataFrame)
    joined = rows.join(attributes, on="pair_id", how="left", maintain_order="left")
    level = 3 * (joined["objectivity"] != "objective").cast(pl.Int64)
    level += joined["controversiality"].replace_strict(LEVELS, return_dtype=pl.Int64)
    return rows.with_columns(rank=level + pl.Series(draws(rows["pair_id"].to_list(), "priority", seed)))


def _chance(salt: Sequence[object], part: Slice, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(rank=pl.Series(draws(rows["pair_id"].to_list(), *salt)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Near:
    """The nearest open pairs of one shard: their `code` in `pairs`, cosines."""

    codes: NDArray[np.int64]
    scores: NDArray[np.float64]
    pairs: pl.DataFrame


def _near(item: tuple[Slice, pl.Series], queries: Place, k: int, probe: float) -> _Near:
    part = item[0]
    index = part.frame(["pair_id"]).with_row_index("number")
    free = _open(*item, held=False).join(index, on="pair_id").sort("pair_id")  # equally near ones: by id
    vectors, asking = part.vector_rows(free["number"].to_numpy()), _queries(queries)
    if probe < 1.0 and len(vectors) > k:
        rows, scores = Cells.of(vectors).nearest(asking, vectors, k, probe)
    else:
        rows, scores = nearest(asking, vectors, k)
    pairs = free.with_columns(code=pl.Series(codes(free["pair_id"])))
    there, short = scores > -np.inf, ((0, 0), (0, k - rows.shape[1]))
    found = pairs["code"].to_numpy()[np.where(there, rows, 0)] if len(pairs) else rows
    return _Near(
        codes=np.pad(found, short), scores=np.pad(scores, short, constant_values=-np.inf),
        pairs=compact(pairs[np.unique(rows[there])].select(*FREE.names(), "code")),
    )  # fmt: skip


def codes(ids: pl.Series) -> NDArray[np.int64]:
    """The first 63 bits of ids, in the same order as these: they stand for pairs where many are compared."""
    return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").reshape(-1, 2)[:, 0].astype(np.uint64).__rshift__(
        np.uint64(1)
    ).astype(np.int64)  # fmt: skip


@lru_cache(maxsize=1)
def _queries(file: Place) -> NDArray[np.float16]:
    return unpacked(read_shard(file))


def pool_in(folder: Place) -> tuple[Pool, Material | None]:
    """The pool that a folder is or has inside, as a run or an `assay annotate` does; with the run's material, where it is
    one. Raises AssayError for a folder that is not there, that has no pairs, or of another layout."""
    if not folder.names():
        raise AssayError(
            f"{folder}: no pairs here, for nothing is; give a run (`assay runs` lists what there is) or a pool (`assay pool "
            "add` makes one)"
        )
    if (folder / "material.json").exists():
        material = Material.open(folder)
        return material.pool, material
    inside = not (folder / "pool.json").exists()
    if inside and (folder / "pool" / "pool.json").exists():
        return Pool.open(folder / "pool"), None
    if inside and (folder / "config.json").exists():
        Material.open(folder)
    return Pool.open(folder), None


def _whole(place: Place) -> str:
    """Its URL, or its path from the root: the run may be read from another folder than it was made in."""
    return place.url if place.path is None else str(place.path.absolute())


def _absolute(url: str) -> bool:
    return "://" in url or url.startswith("/")
