"""Pairs of a pool that knows no truth which people verify to measure only, and what they say of them.

They are chosen before anything else is: whole questions at random, each source of labels by its share of the pool, at most
`PER_QUESTION` pairs of a question, and of a fifth of the pool. Nothing else is made of these questions: no gold, no held
gold, no look-alikes, nothing to train on. The choice is written once, so a pool that grows keeps it.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from assay.curate.shards import Pool, Shard
from assay.memory import compact
from assay.order import draws
from assay.records import Case, Judge, Judgement
from assay.store import Place
from assay.tables import Table, frame_to_arrow, read_frame, read_shard, write_shard

PER_QUESTION = 4
AT_MOST = 0.2
"""Of the pool's pairs, those of the same questions that nobody is asked about included: they cannot be trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A pair that people verify to measure only. No other pair of its question is in the run."""

    pair_id: str
    question_id: str


def chosen(
    pool: Pool, shards: Sequence[Shard], left_out: Sequence[Mapping[str, Place]], wanted: int, out: Place
) -> Place | None:
    """The file of `Measured` rows, about `wanted` of them, made once; None of a pool that knows what is true, and where none
    are wanted. `left_out`: by shard, files of pairs (`pair_id`) that are none of the run's."""
    file = out / "measuring" / "pairs.parquet"
    if pool.knows or not wanted:
        return None
    if not file.exists():
        write_shard(file, frame_to_arrow(Measured, _choose(pool, shards, left_out, wanted)))
    return file


def _choose(pool: Pool, shards: Sequence[Shard], left_out: Sequence[Mapping[str, Place]], wanted: int) -> pl.DataFrame:
    sizes, best = dict[str, int](), _open_questions([], []).with_columns(place=pl.lit(0.0))
    for part, some in itertools.groupby(sorted(shards, key=lambda s: s.part), key=lambda s: s.part):
        frames = [_of_shard(pool, shard, left_out) for shard in some]
        votes = [read_frame(f, ["pair_id", "by"]) for f in pool.files(part, "votes")]
        found = _open_questions(frames, votes)
        for source, n in found.group_by("source").agg(pl.col("all").sum()).iter_rows():
            sizes[source] = sizes.get(source, 0) + n
        place = pl.Series(draws(found["question_id"].to_list(), "measured"), dtype=pl.Float64)
        best = pl.concat([best, found.with_columns(place=place)]).sort("place", "question_id")
        before = pl.col("ids").list.len().cum_sum().over("source") - pl.col("ids").list.len()
        best = compact(best.filter(before < wanted))  # of each source as many as could be needed
    quotas = _quotas(sizes, min(wanted, int(AT_MOST * sum(sizes.values()))))
    rows, most = list[tuple[str, str]](), AT_MOST * sum(sizes.values())
    for question, ids, source, pairs in best.select("question_id", "ids", "source", "all").iter_rows():
        if quotas[source] and pairs <= most:
            rows += [(i, question) for i in ids[: quotas[source]]]
            quotas[source] -= min(quotas[source], len(ids))
            most -= pairs
    return pl.DataFrame(rows, schema={"pair_id": pl.String, "question_id": pl.String}, orient="row")


def _of_shard(pool: Pool, shard: Shard, left_out: Sequence[Mapping[str, Place]]) -> pl.DataFrame:
    """The pairs of a shard that people can be asked about."""
    frame = read_frame(pool.table("index").file(shard.name), ["pair_id", "question_id", "askable"]).filter("askable")
    for files in left_out:
        if shard.name in files:
            gone = read_shard(files[shard.name], ["pair_id"])["pair_id"].to_pylist()
            frame = frame.filter(~pl.col("pair_id").is_in(gone))
    return frame.select("pair_id", "question_id")


def _open_questions(frames: Sequence[pl.DataFrame], votes: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The questions of a part: at most `PER_QUESTION` of their pairs (`ids`), how many there are in `all`, and the first of
    the `source`s that label them."""
    none = {"pair_id": pl.String, "question_id": pl.String}
    pairs = pl.concat([pl.DataFrame(schema=none), *frames]).unique("pair_id").sort("pair_id")
    said = pl.concat([pl.DataFrame(schema={"pair_id": pl.String, "by": pl.String}), *votes])
    pairs = pairs.join(said.group_by("pair_id").agg(pl.col("by").min()), on="pair_id", how="left")
    pairs = pairs.with_columns(draw=pl.Series(draws(pairs["pair_id"].to_list(), "measured"), dtype=pl.Float64))
    return pairs.sort("draw", "pair_id").group_by("question_id", maintain_order=True).agg(
        ids=pl.col("pair_id").head(PER_QUESTION), all=pl.len().cast(pl.Int64), source=pl.col("by").min().fill_null("")
    )  # fmt: skip


def _quotas(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """`wanted` dealt out in proportion, by the largest remainders."""
    names, total = sorted(sizes), max(1, sum(sizes.values()))
    shares = np.array([wanted * sizes[n] / total for n in names])
    quotas = np.floor(shares).astype(int)
    for at in np.argsort(quotas - shares, kind="stable")[: wanted - int(quotas.sum())]:
        quotas[at] += 1
    return dict(zip(names, quotas.tolist(), strict=True))


def words(out: Place) -> pl.DataFrame:
    """The last words of people on the pairs that only measure: `pair_id`, and `chosen` where they decided."""
    table = Table(out / "measured", Judgement)
    shards = table.shards()
    frame = table.frame(last(shards), columns=["pair_id", "better"]) if shards else table.empty(["pair_id", "better"])
    return frame.rename({"better": "chosen"})


class Measuring:
    """People who verify the pairs that only measure as well, the first time that they are asked about anything. In the queue
    these are among all others, in no order that tells them apart."""

    def __init__(self, out: Place, cases: Sequence[Case], people: Judge) -> None:
        self.table, self.cases, self.people = Table(out / "measured", Judgement), cases, people

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        if not self.cases or self.table.shards():
            return self.people(cases)
        given = {j.pair_id: j for j in self.people(sorted([*self.cases, *cases], key=lambda c: c.pair.id))}
        self.table.write("people-0", [given[c.pair.id] for c in self.cases])
        return [given[c.pair.id] for c in cases]

    def today(self, said: Mapping[str, Judgement]) -> list[Judgement]:
        """Their words with what they `said` since, where that is anything else; else none."""
        shards = self.table.shards()
        before = self.table.read(last(shards)) if shards else []
        now = [said.get(j.pair_id, j) for j in before]
        return (
            now if any((a.better, a.problem) != (b.better, b.problem) for a, b in zip(before, now, strict=True)) else []
        )

    def take(self, words: Sequence[Judgement]) -> None:
        """Measure by these words from now on."""
        self.table.write(f"people-{len(self.table.shards())}", words)


def last(shards: Sequence[str]) -> str:
    """The newest of the shards of words."""
    return max(shards, key=lambda name: int(name.rpartition("-")[2]))
