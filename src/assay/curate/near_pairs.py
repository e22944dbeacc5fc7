"""Which pairs of a pool a run leaves out because an older pair says nearly the same (`near_duplicates`).

The clusters are found over the whole pool; what is kept is a narrow file for each shard, so that whoever works on a shard
reads no more than is about it.
"""

from collections.abc import Callable, Iterator, Sequence

import polars as pl
import pyarrow as pa

from assay.curate.minhash import MinHash, documents
from assay.curate.near_duplicates import near_duplicates
from assay.curate.shards import Pool, Shard
from assay.records import digest
from assay.store import Place
from assay.tables import read_frame, read_shard, stream_shard, write_shard


class Documents:
    """The texts of a pool's pairs (or of some of its shards), as `near_duplicates` goes through them."""

    def __init__(self, pool: Pool, shards: Sequence[Shard] | None = None) -> None:
        self.pool, self.shards = pool, pool.shards if shards is None else shards

    def __iter__(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        for shard in self.shards:
            if shard.pairs:
                ids, start = read_shard(self.pool.table("index").file(shard.name), ["pair_id"])["pair_id"], 0
                for part in stream_shard(self.pool.table("pairs").file(shard.name), ["prompt", "responses"]):
                    yield ids.slice(start, len(part)), documents(part)
                    start += len(part)


def near_pairs(
    pool: Pool, shards: Sequence[Shard], out: Place, threshold: float, rule: int, say: Callable[[str], None]
) -> dict[str, Place]:
    """For every shard a file with the ids of its pairs that are near-duplicates of others: of all pairs until its
    generation, of which the oldest stays. So what comes later takes no pair away that a run works with."""
    files: dict[str, Place] = {}
    for generation in sorted({s.generation for s in shards}):
        until = [s for s in shards if s.generation <= generation]
        of = digest([threshold, rule, *(s.content for s in until)])[:12]
        own = [s for s in until if s.generation == generation]
        made = {s.name: out / "near_duplicates" / f"{s.name}_{of}.parquet" for s in own}
        if not all(file.exists() for file in made.values()):
            found = near_duplicates(Documents(pool, until), MinHash(threshold=threshold))
            for line in found.lines():
                say(line)
            _write(pool, until, found.table, made)
        files |= made
    return files


def _write(pool: Pool, shards: Sequence[Shard], clusters: pa.Table, files: dict[str, Place]) -> None:
    """The ids of clusters without the oldest of each, which of equally old ones is the smallest: to the shards' files."""
    told = pl.DataFrame(pl.from_arrow(clusters.select(["pair_id", "cluster"])))
    ages = [told.clear().with_columns(age=pl.lit(0, pl.Int32), shard=pl.lit(0, pl.Int32))]
    for n, shard in enumerate(shards):
        ids = read_frame(pool.table("index").file(shard.name), ["pair_id"])
        of = told.join(ids, on="pair_id", how="semi")
        ages.append(of.with_columns(age=pl.lit(shard.generation, pl.Int32), shard=pl.lit(n, pl.Int32)))
    aged = pl.concat(ages).sort("cluster", "age", "pair_id")
    others = aged.filter(pl.int_range(pl.len()).over("cluster") > 0).select("pair_id", "shard")
    for n, shard in enumerate(shards):
        if shard.name in files:
            some = others.filter(pl.col("shard") == n).select("pair_id").sort("pair_id")
            write_shard(files[shard.name], some.to_arrow())
