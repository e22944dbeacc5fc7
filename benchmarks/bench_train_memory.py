"""Peak memory of a streamed training against the number of its pairs: a process for each size.

    PYTHONPATH=tests python benchmarks/bench_train_memory.py [PAIRS ...]    # 50,000 and 500,000, some minutes on one core

Each process trains a tiny random backbone for a few steps on a view of so many short pairs (the identity of the training
reads all of them), and then reads the whole epoch in its order, in steps of 1,024 pairs. It prints what the process held
before, and its peak. The last line of stdout is JSON: megabytes by number of pairs, and the peak of the largest over that
of the smallest.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARD, STEP, TRAINED = 16_384, 1_024, 4_096


def write(folder: Path, pairs: int) -> None:
    """A view of so many pairs of about 400 bytes, in shards; ids differ, texts come again in every shard."""
    import pyarrow as pa

    from assay.records import Pair, Preference, Response, digest, user
    from assay.tables import Table, to_arrow

    def preference(n: int) -> Preference:
        good = Response.of(f"answer {n}, and what there is to say of it " * 2)
        asked = user(f"question {n}: what of it, and why? " * 3)
        return Pair.of((asked,), good, Response.of(f"nothing of {n} " * 4)).preferring(good.id)

    texts, table = to_arrow(Preference, [preference(n) for n in range(min(SHARD, pairs))]), Table(folder, Preference)
    for at in range(0, pairs, SHARD):
        ids = pa.array([digest(n) for n in range(at, min(at + SHARD, pairs))])
        table.put(f"part-{at // SHARD:05d}", texts[: len(ids)].set_column(0, "pair_id", ids))


def child(pairs: int) -> dict[str, Any]:
    """Figures of this process, in megabytes and seconds."""
    from assay.reward.config import EngineConfig, TrainConfig
    from assay.reward.data import ParquetPairs
    from assay.reward.launch import train_view
    from paper_models import tiny_backbone

    with tempfile.TemporaryDirectory() as place:
        view, backbone = Path(place) / "view", tiny_backbone("Qwen3-0.6B", Path(place) / "backbone")
        subprocess.run([sys.executable, __file__, "write", str(view), str(pairs)], check=True)
        config = TrainConfig(
            backbone=str(backbone), batch_pairs=STEP, epochs=TRAINED / pairs, lr=1e-4, checks=1, max_tokens=256,
            engine=EngineConfig(tokens=2_048, compile="off"),
        )  # fmt: skip
        train_view(Path(place) / "warm", config, view_of_few(Path(place) / "few"), [])
        before, start = peak_mb(), time.process_time()
        trained = train_view(Path(place) / "rm", config, view, [])
        taken, start = time.process_time() - start, time.process_time()
        source = ParquetPairs(view)
        for at in range(0, pairs, STEP):
            assert source.take(0, 0, range(at, min(at + STEP, pairs)))
        read = time.process_time() - start
        assert trained.presented == TRAINED
        return {
            "pairs": pairs, "before_mb": before, "peak_mb": peak_mb(), "train_s": taken, "read_us": 1e6 * read / pairs,
            "view_mb": sum(f.stat().st_size for f in view.iterdir()) / 2**20,
        }  # fmt: skip


def view_of_few(folder: Path) -> Path:
    write(folder, TRAINED)
    return folder


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def training_memory(sizes: tuple[int, ...] = (50_000, 500_000)) -> list[dict[str, Any]]:
    """`child` of each size, in processes of their own, one after the other."""
    found = []
    for pairs in sizes:
        done = subprocess.run(
            [sys.executable, __file__, "child", str(pairs)], stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
        row = found[-1]
        print(
            f"{pairs:>10,} pairs ({row['view_mb']:.0f} MB on disk): {row['before_mb']:.0f} MB after a training on "
            f"{TRAINED:,} pairs, at its peak {row['peak_mb']:.0f} MB; reading an epoch {row['read_us']:.0f} CPU us a pair",
            flush=True,
        )
    return found


def main() -> None:
    found = training_memory(tuple(int(n) for n in sys.argv[1:]) or (50_000, 500_000))
    peaks = {row["pairs"]: round(row["peak_mb"]) for row in found}
    flat = round(found[-1]["peak_mb"] / found[0]["peak_mb"], 3)
    print(json.dumps({"bench": "train-memory", "peak_mb": peaks, "flatness": flat}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print("\n" + json.dumps(child(int(sys.argv[2]))))
    elif sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
