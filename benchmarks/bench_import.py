"""Speed and memory of `assay pool add`, against what was there before it and what a careful user would otherwise call.

    python benchmarks/bench_import.py [--rows 40000] [--small 100000] [--large 400000] [--repeats 3] [--datasets PYTHON]

Contenders on one JSON Lines file of pairs of about 2.5 KB (in `--rows` rows some repeat others, some must be refused):

- ours: `pool.add` into a new pool, in one process;
- before: the same call at commit 5005cc1, in a git worktree of it;
- datasets: `load_dataset("json")` and a map that computes the same ids. It refuses nothing, sorts nothing, keeps no votes.
  `--datasets` names a Python that has it, where this one does not (extra `bench`).

Each is a process of its own; CPU seconds are its user and system time with its children's, the start included. All must
find the same pairs, and the two imports the same rejections and duplicates. The rate and the peaks that count are those
of the larger files: cost of a pair and peak memory at `--large` rows, over those at `--small`, show how flat they are.
The last line is JSON.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "5005cc1"
IMPORT = """
import json, sys
from pathlib import Path
from assay.curate import pool
report = pool.add([sys.argv[1]], Path(sys.argv[2]), say=lambda _: None)
(file,) = report.files
print(json.dumps({"rows": file.rows, "pairs": file.pairs, "rejected": file.rejected, "repeated": report.repeated}))
"""
DATASETS = """
import hashlib, json, sys
import datasets

datasets.disable_progress_bars()

def digest(value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

def ids(row):
    prompt = digest([["user", row["prompt"]]])
    two = sorted(digest([["assistant", row[side]]]) for side in ("chosen", "rejected"))
    return {"prompt_id": prompt, "question_id": digest([["user", " ".join(row["prompt"].split())]]), "first": two[0],
            "second": two[1], "pair_id": digest([prompt, *two])}

rows = datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
made = rows.map(ids)
good = [i for i, r, c in zip(made["pair_id"], made["rejected"], made["chosen"]) if r.strip() and "\\0" not in c]
print(json.dumps({"rows": len(rows), "pairs": len(good), "repeated": len(good) - len(set(good))}))
"""


@dataclass(frozen=True)
class Ran:
    """What a contender said, its CPU seconds and its peak memory."""

    said: dict[str, object]
    cpu_s: float
    peak_mb: float


def write_pairs(path: Path, rows: int, seed: int = 0) -> None:
    """Pairs whose lengths are log-normal, of words by Zipf's law; one in 30 repeats another, one in 100 must be refused, and
    one text in five is not ASCII, two prompts in five and all answers have paragraphs."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(8000)]
    weights = 1 / (np.arange(8000) + 3)
    stream = [vocabulary[i] for i in rng.choice(8000, 2_000_000, p=weights / weights.sum())]

    def text(chars: float, paragraphs: float = 1.0) -> str:
        words = max(2, int(chars / 5.2))
        start = int(rng.integers(0, len(stream) - words))
        said = " ".join(stream[start : start + words])
        if rng.random() < 0.2:
            said = said.replace(" ", " – ", 1)
        if rng.random() > paragraphs:
            return said
        half = said.find(" ", len(said) // 2)
        return f"{said[:half]}.\n\n{said[half + 1 :]}"

    lengths = rng.lognormal([5.9, 6.6, 6.6], [0.6, 0.4, 0.4], (rows, 3))
    kept: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for index, (prompt, chosen, rejected) in enumerate(lengths):
            chance = rng.random()
            if chance < 1 / 30 and kept:
                file.write(kept[int(rng.integers(len(kept)))])
                continue
            row = {"prompt": text(prompt, 0.4), "chosen": text(chosen), "rejected": text(rejected), "id": index}
            if chance > 0.995:
                row["rejected"] = "  "
            elif chance > 0.99:
                row["chosen"] += "\0"
            line = json.dumps(row, ensure_ascii=False) + "\n"
            file.write(line)
            if chance < 0.99 and len(kept) < 5000:
                kept.append(line)


def run(python: str, script: str, source: Path, folder: Path, code: Path) -> Ran:
    """A contender as a process of its own, with what it and its children used."""
    environment = {
        **os.environ, "PYTHONPATH": str(code / "src"), "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"),
    }  # fmt: skip
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen([python, "-c", script, source, folder / "made"], stdout=out, env=environment)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0, f"a contender failed ({child.returncode})"
        out.seek(0)
        return Ran(json.loads(out.read().splitlines()[-1]), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def once(script: str, source: Path, code: Path, python: str = sys.executable) -> Ran:
    with tempfile.TemporaryDirectory(prefix="bench-import-") as folder:
        return run(python, script, source, Path(folder), code)


def compared(source: Path, rows: int, repeats: int, before: Path, datasets: str) -> dict[str, float]:
    """Median ratios of CPU seconds, theirs over ours, of interleaved repetitions; the counts must be the same."""
    contenders = {
        "ours": (IMPORT, ROOT, sys.executable), "before": (IMPORT, before, sys.executable),
        "datasets": (DATASETS, ROOT, datasets),
    }  # fmt: skip
    seen: dict[str, list[Ran]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, (script, code, python) in contenders.items():
            seen[name].append(once(script, source, code, python))
    ours, theirs, plain = (runs[0].said for runs in seen.values())
    assert ours == theirs, f"the same file ends otherwise: {ours}, before {theirs}"
    assert {k: ours[k] for k in plain} == plain, f"other pairs than those of datasets: {ours}, {plain}"
    print(f"{rows:,} rows: {ours}")
    for name, runs in seen.items():
        rate = [rows / r.cpu_s for r in runs]
        ratio = [r.cpu_s / o.cpu_s for r, o in zip(runs, seen["ours"], strict=True)]
        print(
            f"{name:9s} {statistics.median(rate):8,.0f} rows/CPU s ({min(rate):,.0f} to {max(rate):,.0f}), "
            f"{statistics.median(ratio):.2f} times ours ({min(ratio):.2f} to {max(ratio):.2f}), "
            f"peak {max(r.peak_mb for r in runs):,.0f} MB, n = {len(runs)}"
        )
    return {
        name: statistics.median(t.cpu_s / o.cpu_s for t, o in zip(seen[name], seen["ours"], strict=True))
        for name in ("before", "datasets")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 40_000), ("small", 100_000), ("large", 400_000), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--datasets", default=sys.executable)
    asked = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
          f"{platform.python_version()}")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-import-") as temporary:
        folder, before = Path(temporary), Path(temporary) / "before"
        subprocess.run(
            ["git", "-C", ROOT, "worktree", "add", "--detach", before, BEFORE], check=True, capture_output=True
        )
        try:
            write_pairs(folder / "rows.jsonl", asked.rows)
            size = (folder / "rows.jsonl").stat().st_size / asked.rows
            ratios = compared(folder / "rows.jsonl", asked.rows, asked.repeats, before, asked.datasets)
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", before], check=True)
        grown: dict[int, list[Ran]] = {}
        for rows in (asked.small, asked.large):
            write_pairs(folder / "more.jsonl", rows, seed=1)
            grown[rows] = [once(IMPORT, folder / "more.jsonl", ROOT) for _ in range(asked.repeats)]
            rates = [rows / r.cpu_s for r in grown[rows]]
            print(
                f"ours, {rows:,} rows: {statistics.median(rates):,.0f} rows/CPU s ({min(rates):,.0f} to {max(rates):,.0f}),"
                f" peak {max(r.peak_mb for r in grown[rows]):,.0f} MB, n = {asked.repeats}"
            )
    small, large = grown[asked.small], grown[asked.large]
    cost = [statistics.median(r.cpu_s for r in runs) / rows for rows, runs in grown.items()]
    peak = [max(r.peak_mb for r in runs) for runs in (small, large)]
    print(json.dumps({
        "bench": "import", "bytes_per_row": round(size), "import_pairs_per_cpu_s": round(1 / cost[1]),
        "before_vs_ours": round(ratios["before"], 2), "datasets_vs_ours": round(ratios["datasets"], 2),
        "peak_mb_small": round(peak[0]), "peak_mb_large": round(peak[1]), "peak_flatness": round(peak[1] / peak[0], 2),
        "cost_flatness": round(cost[1] / cost[0], 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
