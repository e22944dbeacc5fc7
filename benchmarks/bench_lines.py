"""JSON lines to columns: the import's compiled reader against Arrow's, Polars' and orjson's, on the same lines.

    python benchmarks/bench_lines.py [--pairs 20000] [--bytes 2500] [--repeats 3]

A file of each layout of `scale_pool`, of which only lines that end as JSON are kept. Ours makes prompts, responses and what
is said of them, in the types of the pool, and leaves what is not surely plain (`left`, a share of rows); Arrow and Polars
make columns of the fields as they stand, orjson Python objects: none of them looks at roles, empty texts or equal responses.
One thread each; the least CPU time of the repeats counts. The last line is JSON: CPU microseconds a row.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.json
from scale_pool import make

from assay import native
from assay.formats import blocks
from assay.formats.columns import Columns
from assay.formats.layouts import named
from assay.formats.lines import HELD, Lines

THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "ARROW_NUM_THREADS")
KINDS = ("texts", "messages", "prompt", "dialogue", "conversation")


class Kept(Columns):
    """Takes what is read, without ids."""

    def add_lists(self, *_: Any) -> None:
        pass


def parts(lines: list[bytes]) -> list[bytes]:
    """The lines in runs of about what the import reads at a time."""
    made, size = [[]], 0
    for line in lines:
        if size > HELD:
            made.append([])
            size = 0
        made[-1].append(line)
        size += len(line)
    return [b"\n".join(part) for part in made]


def ours(layout: str, data: list[bytes]) -> Callable[[], int]:
    def read() -> int:
        reader, number, left = blocks.Blocks(Kept(), named(layout), 1_000_000), 1, 0
        for part in data:
            some = Lines.of(part, number)
            left += len(reader.take(some))
            number += len(some)
        return left

    return read


def least(work: Callable[[], Any], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=2_500)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if any(os.environ.get(name) != "1" for name in THREADS):  # read when the libraries are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(THREADS, "1")})
    pa.set_cpu_count(1)
    if native.library(blocks._SOURCE) is None:
        raise SystemExit("no C++ compiler here: there is nothing to compare")
    blocks.ENOUGH = 0
    result: dict[str, Any] = {"bench": "lines"}
    options = pa.json.ReadOptions(use_threads=False, block_size=1 << 26)
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            make(Path(folder), args.pairs, args.bytes, 7, [kind])
            rows = [r for r in (Path(folder) / "part-00.jsonl").read_bytes().split(b"\n") if r.endswith(b"}")]
            data = parts(rows)
            read = ours("labelled" if kind == "conversation" else "chosen-rejected", data)
            works = {
                "ours": read,
                "arrow": lambda d=data: [pa.json.read_json(pa.BufferReader(p), read_options=options) for p in d],
                "polars": lambda d=data: [pl.read_ndjson(p, ignore_errors=True) for p in d],
                "orjson": lambda r=rows: [orjson.loads(line) for line in r],
            }
            took = {name: least(work, args.repeats) / len(rows) * 1e6 for name, work in works.items()}
            result[kind] = {**{n: round(t, 1) for n, t in took.items()}, "left": round(read() / len(rows), 3)}
            print(f"{kind:14s} {len(rows):,} rows  " + "  ".join(f"{n} {t:.1f}" for n, t in took.items()), flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
