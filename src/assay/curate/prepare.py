"""What a run makes of every shard of its pool before any seed: four stages, each a function over one shard.

    contamination   which pairs share text with benchmark prompts                         (reads the text)
    index           the pairs that are left: what they are for, and what their sources say  (reads narrow columns)
    attributes      what an LLM, or rules, say of a pair                                   (reads the text)
    vectors         embeddings of conversations (and attributes), float16, a row for each of `index`

A shard's file is named by all that it was made from, so a stage repeats nothing, and new shards of a pool that grew are made
when they are met.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from assay import session
from assay.curate import measuring
from assay.curate.attributes import RetrieveBy, retrieval_text
from assay.curate.decontaminate import Hit, Index, hits_of
from assay.curate.near_pairs import near_pairs
from assay.curate.rules import rule_attributes
from assay.curate.settle import wild_frame
from assay.curate.shards import Pool, Shard, Unseen
from assay.engine import Engine, make
from assay.errors import AssayError
from assay.order import draws
from assay.records import Attributes, Embedder, Judgement, Pair, Truth, digest
from assay.run import jsonable
from assay.store import Place
from assay.tables import (
    arrow_schema,
    frame_to_arrow,
    read_frame,
    read_shard,
    records,
    stream_shard,
    to_arrow,
    write_shard,
)

Use = Literal["evaluation", "unseen", "stage1", "stage2"]
"""`evaluation` and `unseen` only measure: what is like the rest of the pool, and kinds of which the rest has nothing."""
RULE = 1
"""Of the stages in this file: raise it where one of them gives other rows of the same inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Which questions are for what; shares in (0, 1)."""

    eval_share: float = 0.2
    """Share of the prompts with a known answer that are held out for evaluation only."""
    stage1_share: float = 0.4
    """Share of the remaining prompts that form the pool of stage 1; the rest is in the wild (stage 2)."""
    held_share: float = 0.3
    """Of the questions of stage 1, those whose gold chooses checkpoints and is never trained on."""
    near_duplicates: float = 0.0
    """Of pairs that are at least so alike (Jaccard, verified; `near_duplicates`) one is kept (0: all are)."""
    evaluation_gold: int = 0
    """Of a pool that knows no truth, about so many pairs are for people to verify, to measure only (`measuring`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A pair of a run, without its text. `row` is its place in the shard of pairs; `original` is the response that its
    sources prefer (None: tied, or silent), with `certainty` and `strength` as `settle` has them; `conflict`: sources prefer
    different responses; `truth` is the better response, where it is known."""

    row: int
    pair_id: str
    prompt_id: str
    question_id: str
    first: str
    second: str
    chars: int
    use: Use
    held: bool
    original: str | None
    certainty: float
    strength: float
    conflict: bool
    truth: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One shard of a pool as a run works on it: its text, and what was made of it."""

    name: str
    part: int
    pairs: Place
    index: Place
    attributes: Place
    vectors: Place
    hits: Place | None = None
    """What was left out for sharing text with benchmarks, where that was looked for."""

    @property
    def key(self) -> str:
        """The name of its index: what the shard is of, and a digest of its pairs, of what their sources say, and of the
        split."""
        return _stem(self.index)

    def frame(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Rows of `Kept`, as columns."""
        return read_frame(self.index, columns)

    def text(self, rows: Sequence[int] | NDArray[np.int64] | pl.Series) -> dict[str, Pair]:
        """The pairs at some rows of the shard of pairs."""
        found: list[Pair] = []
        for part in stream_shard(self.pairs, rows=np.sort(np.asarray(rows))):
            found += records(Pair, part)
        return {p.id: p for p in found}

    def vector_rows(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, d): the vectors of some rows of the index, in their order; a row group and these are in memory."""
        order, at = np.argsort(rows), 0
        found = np.zeros((0, 1), np.float16)
        for part in stream_shard(self.vectors, rows=rows[order]):
            some = unpacked(part)
            found = found if at else np.empty((len(rows), some.shape[1]), np.float16)
            found[order[at : at + len(some)]] = some
            at += len(some)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """How pairs are described: by rules, or by what `ask` says of a shard's pairs (an LLM, asked from this process)."""

    name: str = f"rules-{RULE}"
    ask: Callable[[str, Sequence[Pair]], Sequence[Attributes]] | None = None


def prepare(
    pool: Pool, out: Place, split: SplitConfig, benchmarks: Mapping[str, Sequence[str]], embed: Embedder, embedder: str,
    engine: Engine, described: Described | None = None, say: Callable[[str], None] = lambda _: None,
    timed: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(), by: RetrieveBy = "conversation",
) -> tuple[Slice, ...]:  # fmt: skip
    """Make, or find, all four tables of every shard under `out`; returns the shards.

    Args:
        pool: The pool.
        out: The folder of tables.
        split: Shares of questions.
        benchmarks: Prompts by benchmark that a pair must share no text with; {} checks nothing.
        embed: The encoder; on other engines than `Here` it must be picklable. One that says of itself that it `holds_model`
            not (of hashed words) runs wherever other stages do.
        embedder: What the encoder is, for the names of files.
        engine: Where the stages run.
        described: How attributes are given (default: rules).
        say: Hears about progress.
        timed: Gets the name of each stage, and is entered while it runs.
        by: What the vectors are of: conversations alone, or with their attributes.

    Raises Unreached where the server that describes did not answer.
    """
    how = described or Described()
    shards = [s for s in pool.shards if s.pairs]
    watched = _written(out, benchmarks) if benchmarks else None
    with timed("contamination"):
        hits = _contamination(pool, shards, out, watched, engine, say) if watched else {}
    with timed("near-duplicates"):
        near = near_pairs(pool, shards, out, split.near_duplicates, RULE, say) if split.near_duplicates else {}
    measured = measuring.chosen(pool, shards, (hits, near), split.evaluation_gold, out)
    work = dict(_kept_of(pool, s, split, hits.get(s.name), near.get(s.name), measured) for s in shards)
    with timed("index"):
        index = make(engine, out / "index", keep, work, told=teller(say, "shards indexed"))
    bare = []
    for shard, file in zip(shards, index.values(), strict=True):
        ids = digest(read_shard(file, ["pair_id"])["pair_id"].to_pylist())  # what sources say of them changes no text
        told = _name(shard.name, ids, how.name)
        vectors = _name(told, embedder, RULE) if by == "attributes" else _name(shard.name, ids, embedder, by, RULE)
        bare.append(Slice(
            name=shard.name, part=shard.part, pairs=pool.table("pairs").file(shard.name), index=file,
            attributes=out / "attributes" / f"{told}.parquet",
            vectors=out / "vectors" / f"{vectors}.parquet", hits=hits.get(shard.name),
        ))  # fmt: skip
    with timed("attributes"):
        if how.ask is None:
            make(engine, out / "attributes", describe, {_stem(s.attributes): s for s in bare},
                 told=teller(say, "shards described"))  # fmt: skip
        else:
            for s in (s for s in bare if not s.attributes.exists()):
                write_shard(s.attributes, asked(s, how.ask))
    with timed("vectors"):
        model = getattr(embed, "holds_model", True)
        make(engine, out / "vectors", partial(embed_slice, embed, by), {_stem(s.vectors): s for s in bare}, model=model,
             told=teller(say, "shards embedded"))  # fmt: skip
    return tuple(bare)


def bare(pool: Pool, out: Place, engine: Engine) -> tuple[Slice, ...]:
    """The index alone, of all pairs of a pool: its own labels need no more. These shards have neither attributes nor
    vectors, and no pair is for evaluation."""
    split = SplitConfig(eval_share=0.0)
    shards = [s for s in pool.shards if s.pairs]
    files = make(engine, out / "index", keep, dict(_kept_of(pool, s, split) for s in shards))
    return tuple(
        Slice(name=s.name, part=s.part, pairs=pool.table("pairs").file(s.name), index=file,
              attributes=out / "attributes" / "none", vectors=out / "vectors" / "none")
        for s, file in zip(shards, files.values(), strict=True)
    )  # fmt: skip


def _stem(file: Place) -> str:
    return file.name.removesuffix(".parquet")


def _name(start: str, *made_of: object) -> str:
    """The name of a shard's file: what it is of, and a digest of what it was made from."""
    return f"{start.split('_')[0]}_{digest(jsonable([start, *made_of]))[:12]}"


def teller(say: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    """Says how far a stage is that takes long."""
    return lambda done, total: session.at(what, done, total, say)


def _written(out: Place, benchmarks: Mapping[str, Sequence[str]]) -> Place:
    """The benchmark prompts as a file that workers read: one for each set of prompts."""
    text = json.dumps({k: list(v) for k, v in sorted(benchmarks.items())}, ensure_ascii=False)
    file = out / "benchmarks" / f"{digest(text)[:12]}.json"
    if not file.exists():
        file.write_text(text)
    return file


def _contamination(
    pool: Pool, shards: Sequence[Shard], out: Place, watched: Place, engine: Engine, say: Callable[[str], None]
) -> dict[str, Place]:
    key = {s.name: _name(s.name, s.content, watched.name, RULE) for s in shards}
    items = {key[s.name]: (pool.table("pairs").file(s.name), pool.table("index").file(s.name)) for s in shards}
    told = teller(say, "shards compared with benchmarks")
    files = make(engine, out / "contamination", partial(contamination, watched), items, told=told)
    return {s.name: files[key[s.name]] for s in shards}


@cache
def _watched(file: Place) -> Index:
    return Index.of(json.loads(file.read_text()))


def contamination(watched: Place, item: tuple[Place, Place]) -> pa.Table:
    """Stage: the `Hit` rows of a shard (its pairs, its index), against the prompts in the file `watched`."""
    ids, hits, start = read_shard(item[1], ["pair_id"])["pair_id"], list[Hit](), 0
    for part in stream_shard(item[0], ["prompt"]):
        hits += hits_of(part.append_column("pair_id", ids.slice(start, len(part))), _watched(watched))
        start += len(part)
    return to_arrow(Hit, hits)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keeping:
    index: Place
    votes: tuple[Place, ...]
    truth: tuple[Place, ...]
    unseen: tuple[Place, ...]
    hits: Place | None
    near: Place | None
    split: SplitConfig
    knows: bool
    chosen: bool
    measured: Place | None


def _kept_of(
    pool: Pool, shard: Shard, split: SplitConfig, hits: Place | None = None, near: Place | None = None,
    measured: Place | None = None,
) -> tuple[str, _Keeping]:  # fmt: skip
    """The name of a shard's index, and what it is made of."""
    asked = digest(read_shard(measured, ["pair_id"])["pair_id"].to_pylist()) if measured is not None else ""
    known = (pool.knows, pool.chosen, hits and hits.name, near and near.name.rpartition("_")[2], asked)
    return _name(shard.name, shard.content, pool.said(shard.part), split, *known, RULE), _Keeping(
        index=pool.table("index").file(shard.name), votes=pool.files(shard.part, "votes"),
        truth=pool.files(shard.part, "truth"), unseen=pool.files(shard.part, "unseen"), hits=hits, near=near, split=split,
        knows=pool.knows, chosen=pool.chosen, measured=measured,
    )  # fmt: skip


def keep(item: _Keeping) -> pa.Table:
    """Stage: the `Kept` rows of a shard. Whole questions go to one side of every split, by their id alone."""
    frame = read_frame(item.index).with_row_index("row")
    unseen = _said(item.unseen, Unseen, ("question_id",))["question_id"]
    if item.hits is not None:
        frame = frame.filter(~pl.col("pair_id").is_in(read_shard(item.hits, ["pair_id"])["pair_id"].to_pylist()))
    if item.near is not None:
        frame = frame.join(read_frame(item.near, ["pair_id"]), on="pair_id", how="anti", maintain_order="left")
    votes = _said(item.votes, Judgement, SOURCE).filter(pl.col("pair_id").is_in(frame["pair_id"].implode()))
    truth = _said(item.truth, Truth, ("pair_id", "better")).unique("pair_id", keep="any").rename({"better": "truth"})
    frame = frame.join(wild_frame(votes), on="pair_id", how="left", maintain_order="left")
    frame = frame.join(truth, on="pair_id", how="left", maintain_order="left")
    held = draws(frame["question_id"].to_list(), "held") < item.split.held_share
    asked = _said(() if item.measured is None else (item.measured,), measuring.Measured, ("pair_id", "question_id"))
    only = frame.select(pl.col("question_id").is_in(asked["question_id"].implode())).to_series()
    frame = frame.with_columns(
        use=pl.select(pl.when(only).then(pl.lit("evaluation")).otherwise(uses(item, item.split, frame, unseen))).to_series(),
        held=pl.Series(held),
        certainty=pl.col("certainty").fill_null(1.0), strength=pl.col("strength").fill_null(0.0),
        conflict=pl.col("conflict").fill_null(False),
    ).filter(
        ~pl.col("use").is_in(["evaluation", "unseen"]) | pl.col("truth").is_not_null()
        | pl.col("pair_id").is_in(asked["pair_id"].implode())
    )  # fmt: skip
    return frame_to_arrow(Kept, frame)


SOURCE = ("pair_id", "better", "kind", "confidence", "problem", "strength")
"""What `settle.wild_frame` reads of votes."""


def _said(files: Sequence[Place], record: type, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of the rows of some files, of a record type where there are none."""
    empty = pl.DataFrame(pl.from_arrow(arrow_schema(record).empty_table())).select(columns)
    return pl.concat([empty, *(read_frame(file, columns) for file in files)])


def uses(pool: "Pool | _Keeping", split: SplitConfig, index: pl.DataFrame, unseen: pl.Series) -> pl.Series:
    """What the pairs of a pool's index (question_id, askable) are for, by their questions alone; those that are `unseen`
    only measure."""
    place, eval_share = draws(index["question_id"].to_list(), "split"), split.eval_share if pool.knows else 0.0
    rest = (place - eval_share) / (1 - eval_share)
    first = index["askable"].to_numpy() & (pool.chosen | (rest < split.stage1_share))
    seen = np.where(place < eval_share, "evaluation", np.where(first, "stage1", "stage2"))
    return pl.Series("use", np.where(index["question_id"].is_in(unseen.implode()), "unseen", seen), pl.String)


def describe(item: Slice) -> pa.Table:
    """Stage: attributes by rules, a row for each of the index."""
    return asked(item, lambda _, pairs: [rule_attributes(p) for p in pairs])


AT_ONCE = 4_096
"""Pairs whose text is in memory at a time."""


def asked(item: Slice, ask: Callable[[str, Sequence[Pair]], Sequence[Attributes]]) -> pa.Table:
    """Attributes of a shard's pairs in the order of its index; `ask` gets them in parts, each with a name of its own."""
    parts = []
    for n, some in enumerate(_in_parts(item)):
        rows = ask(f"{item.name}-{n}", some)
        if [a.pair_id for a in rows] != [p.id for p in some]:
            raise AssayError(f"{item.name}: the attributes that were given are not of the pairs that were asked about")
        parts.append(to_arrow(Attributes, rows))
    return pa.concat_tables([to_arrow(Attributes, []), *parts])


def _in_parts(item: Slice) -> Iterator[list[Pair]]:
    rows = item.frame(["row"])["row"].to_numpy()
    return (list(item.text(rows[at : at + AT_ONCE]).values()) for at in range(0, len(rows), AT_ONCE))


def embed_slice(embed: Embedder, by: RetrieveBy, item: Slice) -> pa.Table:
    """Stage: unit vectors of x, the conversation, or of (x, a), with its attributes; equal texts of a part are
    embedded once."""
    parts, attributes = [], _attributes(item) if by == "attributes" else itertools.repeat(None)
    done, total, what = 0, len(item.frame(["row"])), f"making vectors of pairs, shard {item.name}"
    for some in _in_parts(item):
        texts = [retrieval_text(p, a) for p, a in zip(some, itertools.islice(attributes, len(some)), strict=True)]
        distinct = list(dict.fromkeys(texts))
        at = {text: n for n, text in enumerate(distinct)}
        with session.inside(done, total, what):
            parts.append(packed(embed(distinct)[[at[t] for t in texts]].astype(np.float16)))
        done += len(some)
    return pa.concat_tables(parts) if parts else packed(np.zeros((0, 1), np.float16))


def _attributes(item: Slice) -> Iterator[Attributes]:
    for part in stream_shard(item.attributes):
        for batch in part.to_batches(AT_ONCE):
            yield from records(Attributes, pa.Table.from_batches([batch]))


def packed(vectors: NDArray[np.float16]) -> pa.Table:
    """(n, d) vectors as a table of one column of bytes."""
    n, d = vectors.shape
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2 * d), n, [None, pa.py_buffer(vectors.tobytes())])
    return pa.table({"vector": column})


def unpacked(table: pa.Table) -> NDArray[np.float16]:
    """The inverse of `packed`."""
    width = table.schema.field("vector").type.byte_width // 2
    chunks = [np.frombuffer(c.buffers()[1], np.float16, len(c) * width, c.offset * 2 * width).reshape(-1, width)
              for c in table["vector"].chunks if len(c)]  # fmt: skip
    return np.concatenate(chunks) if chunks else np.zeros((0, width), np.float16)
