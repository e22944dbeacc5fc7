"""The stages that `bench_scale` measures, one to a process: what is measured of each, and what it must agree with.

    python benchmarks/scale_stages.py STAGE FOLDER          # prints one JSON line; bench_scale calls this

FOLDER holds the files of a pool (`scale_pool`) under files/, the pool under pool/, and what stages make beside it. CPU
seconds are of the stage alone, with those of its children, from after the imports on.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BAND = 0.1
VOTES = ["pair_id", "better", "by", "kind", "confidence", "problem", "strength"]


def used() -> float:
    """CPU seconds of this process and of those it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def known(folder: Path) -> dict[str, int]:
    told: dict[str, int] = json.loads((folder / "files" / "known.json").read_text())
    return told


def agree(what: str, found: int, told: int) -> None:
    if found != told:
        raise SystemExit(f"{what}: found {found:,}, but the generator made {told:,}")


def files(folder: Path, pairs: int, mean_bytes: int, seed: int, layouts: list[str]) -> dict[str, Any]:
    """The pool's files; they are made once."""
    from scale_pool import LAYOUTS, make

    asked: dict[str, Any] = {"pairs": pairs, "bytes": mean_bytes, "seed": seed, "layouts": layouts or [*LAYOUTS]}
    note = folder / "asked.json"
    if not note.exists() or json.loads(note.read_text()) != asked:
        shutil.rmtree(folder, ignore_errors=True)
        make(folder / "files", pairs, mean_bytes, seed, asked["layouts"])
        note.write_text(json.dumps(asked))
    return known(folder)


def import_(folder: Path) -> dict[str, Any]:
    """`assay pool add` of all files; the counts must be the generator's."""
    from assay.cli import main
    from assay.curate import pool as _  # noqa: F401  what the command imports lazily is not part of the work
    from assay.curate.shards import Pool

    shutil.rmtree(folder / "pool", ignore_errors=True)
    names = sorted(map(str, (folder / "files").glob("part-*.jsonl")))
    said, sys.argv = sys.stdout, ["assay", "pool", "add", *names, "--out", str(folder / "pool")]
    with (folder / "import.log").open("w") as sys.stdout:
        start = used()
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
        seconds = used() - start
    sys.stdout = said
    pool, told = Pool.open(folder / "pool"), known(folder)
    agree("pairs", pool.pairs, told["pairs"])
    agree("repeats", pool.repeats, told["repeats"])
    agree("conflicts", pool.conflicts, told["conflicts"])
    agree("votes", sum(s.votes for s in pool.shards), told["votes"])
    agree("rejected rows", rows_of(pool, "rejections"), told["malformed"])
    return {"cpu_s": seconds, "items": pool.pairs, "rows": told["rows"], "shards": len(pool.shards)}


def rows_of(pool: Any, name: str) -> int:
    import pyarrow.parquet as pq

    folder = Path(str(pool.place)) / name
    return sum(pq.ParquetFile(f).metadata.num_rows for f in folder.glob("*.parquet"))


def clean(folder: Path) -> dict[str, Any]:
    """Exact duplicates by id, and 13-grams of all prompts against the benchmark's; all planted overlaps must be found."""
    from assay.curate.decontaminate import Index, hits_of
    from assay.curate.shards import Pool
    from assay.tables import read_shard, stream_shard

    pool = Pool.open(folder / "pool")
    lines = (folder / "files" / "benchmark.jsonl").read_text().splitlines()
    hits_of_warm(Index, hits_of)
    start = used()
    index = Index.of({"made": [json.loads(line)["prompt"] for line in lines]})
    hit = kept = 0
    for shard in pool.shards:
        if not shard.pairs:
            continue
        ids = read_shard(pool.table("index").file(shard.name), ["pair_id"])["pair_id"]
        kept += len(ids.unique())
        found: set[str] = set()
        at = 0
        for part in stream_shard(pool.table("pairs").file(shard.name), ["prompt"]):
            found |= {h.pair_id for h in hits_of(part.append_column("pair_id", ids.slice(at, len(part))), index)}
            at += len(part)
        hit += len(found)
    seconds = used() - start
    agree("different pairs", kept, known(folder)["pairs"])
    agree("contaminated pairs", hit, known(folder)["contaminated"])
    return {"cpu_s": seconds, "items": kept}


def hits_of_warm(index: Any, hits_of: Any) -> None:
    """Builds the compiled part, which is done once on a machine."""
    import pyarrow as pa

    from assay.records import Pair, Response, user
    from assay.tables import to_arrow

    pair = Pair.of((user("one two"),), Response.of("a"), Response.of("b"))
    table = to_arrow(Pair, [pair]).append_column("pair_id", pa.array([pair.id]))
    hits_of(table, index.of({"made": ["one two"]}))


def judge(folder: Path) -> dict[str, Any]:
    """Judges' and people's words on some pairs, and two reward models' on all with a label, in the order of the index (as
    stage 2 writes them): made up, not measured."""
    import numpy as np
    import polars as pl

    from assay.curate.keep_rule import counts_frame
    from assay.curate.settle import wild_frame
    from assay.curate.shards import Pool

    pool = Pool.open(folder / "pool")
    for name in ("judgements", "evidence"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    for part in sorted({s.part for s in pool.shards}):
        rng = np.random.default_rng([part, 19])
        index = pool.votes(part, ["pair_id", "first", "second"], "index")
        words = [
            said(index, rng, share, kind, by, failures)
            for share, kind, by, failures in (
                (0.1, "llm", ("judge-a", "judge-b", "judge-c"), ("refused", "tie")),
                (0.02, "human", ("ann", "bob", "eve"), ("tie", "cannot decide")),
                (0.001, "lead", ("lead",), ("cannot decide",)),
            )
        ]
        pl.concat(words).write_parquet(folder / "judgements" / f"{part:04d}.parquet")
        wild = index.select("pair_id").join(wild_frame(pool.votes(part, VOTES)), on="pair_id", maintain_order="left")
        wild = wild.drop_nulls("original")
        numbers = {k: np.clip(rng.normal(0.7, 0.3, len(wild)), 0, 1) for k in ("p_best", "p_gold")}
        evidence = wild.select("pair_id").with_columns(**{k: pl.Series(v) for k, v in numbers.items()})
        word = index.select("pair_id", judge=either(rng, len(index)))
        asked = counts_frame(evidence, BAND)
        silent = pl.Series(rng.random(len(evidence)) < 0.05)
        problem = pl.when(asked & silent).then(pl.lit("refused")).otherwise(pl.lit(""))
        evidence = evidence.join(word, on="pair_id", how="left", maintain_order="left").with_columns(
            judge=pl.when(asked & ~silent).then("judge"), problem=problem
        )
        evidence.write_parquet(folder / "evidence" / f"{part:04d}.parquet")
    return {}


def either(rng: Any, n: int) -> Any:
    """The first or the second response, by chance."""
    import polars as pl

    return pl.when(pl.Series(rng.random(n) < 0.5)).then("first").otherwise("second")


def said(index: Any, rng: Any, share: float, kind: str, by: tuple[str, ...], failures: tuple[str, ...]) -> Any:
    """Judgements of each of `by` on a share of the pairs; 3 % of them are failures of each kind."""
    import numpy as np
    import polars as pl

    some = index.filter(pl.Series(rng.random(len(index)) < share))
    n = len(some)
    frames = []
    for name in by:
        failed = rng.random(n)
        problem = np.select([failed < 0.03 * (k + 1) for k in range(len(failures))], failures, "")
        frames.append(some.select(
            "pair_id",
            better=pl.when(pl.Series(problem != "")).then(None)
            .otherwise(either(rng, n)),
            by=pl.lit(name), kind=pl.lit(kind),
            confidence=pl.Series(rng.integers(4, 9, n) / 8 if kind == "llm" else np.ones(n), dtype=pl.Float64),
            problem=pl.Series(problem, dtype=pl.String),
            strength=pl.Series(rng.integers(0, 4, n) * (rng.random(n) < 0.3), dtype=pl.Float64),
        ))  # fmt: skip
    return pl.concat(frames)


def parts(folder: Path) -> tuple[Any, list[int]]:
    from assay.curate.shards import Pool

    pool = Pool.open(folder / "pool")
    return pool, sorted({s.part for s in pool.shards})


def settle(folder: Path) -> dict[str, Any]:
    """Labels of all pairs from votes and judgements, a part at a time, written as Parquet."""
    import polars as pl

    from assay.curate.settle import settle_frame

    out = fresh(folder / "settled")
    warm(folder)
    start, rows = used(), 0
    pool, all_parts = parts(folder)
    for part in all_parts:
        votes = pool.votes(part, VOTES).lazy().select(VOTES)
        judged = pl.scan_parquet(folder / "judgements" / f"{part:04d}.parquet").select(VOTES)
        both = pl.concat([votes, judged]).collect()
        write(out / f"{part:04d}.parquet", settle_frame(both, "stage1"))
        rows += len(both)
    return {"cpu_s": used() - start, "items": rows}


def stage2(folder: Path) -> dict[str, Any]:
    """The keep rule over all pairs, from votes, index and evidence, a part at a time, written as Parquet."""
    import polars as pl

    from assay.curate.keep_rule import beside, decided
    from assay.curate.settle import wild_frame

    out = fresh(folder / "decided")
    warm(folder)
    start, rows = used(), 0
    pool, all_parts = parts(folder)
    for part in all_parts:
        index = pool.votes(part, ["pair_id", "first", "second"], "index")
        wild = wild_frame(pool.votes(part, [c for c in VOTES if c not in ("by", "kind")]))
        evidence = pl.read_parquet(folder / "evidence" / f"{part:04d}.parquet")
        known = wild.select("pair_id", "original", "certainty", "strength")
        both = index.join(known, on="pair_id", how="left", maintain_order="left").with_columns(
            other=pl.when(pl.col("original") == pl.col("first")).then("second").otherwise("first")
        )
        found = beside(both, both["original"].is_not_null(), evidence)
        write(out / f"{part:04d}.parquet", decided(found, BAND))
        rows += len(index)
    return {"cpu_s": used() - start, "items": rows}


def write(file: Path, labels: Any) -> None:
    """As a stage writes its shard."""
    from assay.records import Label
    from assay.store import Place
    from assay.tables import frame_to_arrow, write_shard

    write_shard(Place.of(file), frame_to_arrow(Label, labels))


def warm(folder: Path) -> None:
    """One label from nothing to disk, so that what libraries load at their first use is not part of the work."""
    import polars as pl

    from assay.curate.settle import settle_frame

    text, number = ("pair_id", "better", "by", "kind", "problem"), ("confidence", "strength")
    vote = {"pair_id": "p", "better": "a", "by": "s", "kind": "wild", "problem": "", "confidence": 1.0, "strength": 0.0}
    schema = dict.fromkeys(text, pl.String) | dict.fromkeys(number, pl.Float64)
    write(folder / "warm.parquet", settle_frame(pl.DataFrame([vote], schema=schema), "warm"))
    pl.read_parquet(folder / "warm.parquet")


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def duckdb_settle(folder: Path) -> dict[str, Any]:
    from scale_sql import SETTLE

    return in_duckdb(folder, SETTLE, "settled.parquet")


def duckdb_stage2(folder: Path) -> dict[str, Any]:
    from scale_sql import STAGE2

    return in_duckdb(folder, STAGE2, "decided.parquet")


def in_duckdb(folder: Path, query: str, name: str) -> dict[str, Any]:
    import duckdb

    out = folder / "duckdb" / name
    out.parent.mkdir(exist_ok=True)
    with duckdb.connect() as db:
        db.execute(f"SET threads = {os.environ.get('POLARS_MAX_THREADS', '1')}")
        db.execute(f"SET temp_directory = '{folder / 'duckdb' / 'spill'}'")
        start = used()
        db.execute(f"COPY ({query.format(folder=folder, band=BAND)}) TO '{out}' (FORMAT parquet, COMPRESSION zstd)")
        seconds = used() - start
    return {"cpu_s": seconds}


def compare(folder: Path) -> dict[str, Any]:
    """That both came to the same labels, row by row; numbers to 1e-9."""
    import polars as pl

    for ours, theirs in (("settled", "settled.parquet"), ("decided", "decided.parquet")):
        a = pl.read_parquet(folder / ours / "*.parquet").sort("pair_id")
        b = pl.read_parquet(folder / "duckdb" / theirs).select(a.columns).sort("pair_id")
        agree(f"rows of {ours}", len(b), len(a))
        for column in a.columns:
            same = (
                (a[column] - b[column]).abs() < 1e-9
                if a[column].dtype == pl.Float64
                else a[column].eq_missing(b[column])
            )
            if not same.all():
                at = int((~same).arg_true()[0])
                raise SystemExit(f"{ours}, {column}: ours {a.row(at, named=True)}, DuckDB {b.row(at, named=True)}")
    return {}


STAGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "import": import_, "clean": clean, "judge": judge, "settle": settle, "stage2": stage2,
    "duckdb-settle": duckdb_settle, "duckdb-stage2": duckdb_stage2, "compare": compare,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=["files", *STAGES])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", nargs="+", default=[])
    args = parser.parse_args()
    if args.stage == "files":
        found = files(args.folder, args.pairs, args.bytes, args.seed, args.layouts)
    else:
        found = STAGES[args.stage](args.folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
