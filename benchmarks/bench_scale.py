"""A pool of up to ten million pairs through import, cleaning and decisions on this machine: CPU seconds, memory, counts.

    make bench-scale                                               # all parts, all sizes: an hour or two, 30 GB of disk
    python benchmarks/bench_scale.py --only import,clean --sizes 100000 --short-sizes 100000

Pools are made by `scale_pool` after the real sets: of 2.5 KB of text a pair (`--sizes`), and of 250 bytes (`--short-sizes`),
of which ten million fit on a disk. Every stage runs in a process of its own, with one thread, and must find what the
generator wrote: pairs, repeats, conflicts, rejected rows, overlaps with benchmarks; a wrong count ends the benchmark.

- import: `assay pool add` of eight JSONL files in five layouts, in one process. layouts: the same of a file of each layout.
- clean: exact duplicates by id, and 13-grams of all prompts against 4,000 prompts.
- settle: labels from all votes and judgements; stage2: the keep rule over all pairs. duckdb: the same rules in SQL over the
  same Parquet files (scale_sql.py), up to a million pairs; both write their labels, which are compared row by row.
- near, score: from `bench_clean.py` and `bench_score.py`.

CPU seconds are of the work, after imports, with those of child processes; peak memory is that of the process with
everything. Flatness is the greatest over the least CPU time a pair of import + clean + settle + stage2, over the short
sizes. The folder of `--work` gets measured.json, with all numbers, for `forty_million.py`. The last line is JSON, with
null for what was not measured.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOC = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- bench-scale -->", "<!-- /bench-scale -->"
OURS = ("import", "clean", "settle", "stage2")
PARTS = (*OURS, "layouts", "duckdb", "near", "score")
LONG, SHORT = 2500, 250


@dataclass(frozen=True)
class Found:
    """What a stage took: CPU seconds of its work, megabytes at the peak of its process, and what it handled."""

    cpu_s: float
    peak_mb: float
    items: int


def run(*arguments: str) -> tuple[dict[str, Any], float]:
    """(the last line of a child's output as JSON, its peak in MB). Ends the benchmark where the child fails."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "ARROW_NUM_THREADS"), "1")
    child = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, env={**os.environ, **threads}, text=True, cwd=HERE
    )
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)}: ended with {child.returncode}\n{said}")
    return json.loads(said.splitlines()[-1]), usage.ru_maxrss / 1024


def stage(name: str, folder: Path) -> Found:
    told, peak = run("scale_stages.py", name, str(folder))
    return Found(told.get("cpu_s", 0.0), peak, told.get("items", 0))


def said(f: Found) -> str:
    rate = f"{f.items / f.cpu_s:12,.0f} a CPU second" if f.items else ""
    return f"{f.cpu_s:9.2f} CPU s {f.peak_mb:7.0f} MB {rate}"


def measured(folder: Path, pairs: int, size: int, parts: set[str], repeats: int, keep: bool) -> dict[str, Any]:
    """The stages on one pool, made first where it is not there. Of repetitions the least CPU time counts."""
    need = pairs * size * 3.2 / 1e9
    if (free := shutil.disk_usage(folder.parent).free / 1e9) < need and not (folder / "pool").exists():
        print(f"{pairs:,} pairs of {size} bytes: left out, for they need {need:.0f} GB of disk and {free:.0f} are free")
        return {}
    known, _ = run("scale_stages.py", "files", str(folder), "--pairs", str(pairs), "--bytes", str(size))
    found: dict[str, Any] = {"known": known}

    def least(name: str) -> None:
        turns = [stage(name, folder) for _ in range(1 if pairs > 1_000_000 else repeats)]
        found[name] = min(turns, key=lambda t: t.cpu_s)
        rate = f"{found[name].items / found[name].cpu_s:12,.0f} a CPU second" if found[name].items else ""
        print(
            f"{pairs:>10,} x {size:>4} B  {name:14s} {found[name].cpu_s:9.2f} CPU s {found[name].peak_mb:7.0f} MB {rate}",
            flush=True,
        )

    if "import" in parts or not (folder / "pool" / "pool.json").exists():
        least("import")
    if "clean" in parts:
        least("clean")
    if parts & {"settle", "stage2", "duckdb"}:
        stage("judge", folder)
    for name in ("settle", "stage2"):
        if name in parts or "duckdb" in parts:
            least(name)
            if "duckdb" in parts and pairs <= 1_000_000:
                least(f"duckdb-{name}")
    if "duckdb" in parts and pairs <= 1_000_000:
        stage("compare", folder)
    if not keep:
        shutil.rmtree(folder)
    return found


def other(name: str, code: str) -> dict[str, Any]:
    """What a piece of another benchmark says of itself, {} where it cannot run here."""
    try:
        return run("-c", f"import json, statistics\n{code}\nprint(json.dumps(found))")[0]
    except (SystemExit, ValueError) as error:
        print(f"{name}: {str(error)[-400:]}")
        return {}


def by_layout(folder: Path, pairs: int) -> dict[str, Found]:
    """The import of a file of each layout alone."""
    found = {}
    for layout in ("texts", "messages", "prompt", "dialogue", "conversation"):
        place = folder / layout
        run("scale_stages.py", "files", str(place), "--pairs", str(pairs), "--layouts", layout)
        found[f"import {layout}"] = stage("import", place)
        shutil.rmtree(place)
    return found


def line(long: dict[int, Any], short: dict[int, Any], near: dict[str, Any], score: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the issue, null where not measured."""

    def rate(name: str, pools: dict[int, Any]) -> float | None:
        sizes = [n for n in pools if name in pools[n]]
        return round(pools[max(sizes)][name].items / pools[max(sizes)][name].cpu_s) if sizes else None

    def peak(pairs: int) -> float | None:
        peaks = [f.peak_mb for k, f in short.get(pairs, {}).items() if k in OURS]
        return round(max(peaks)) if len(peaks) == len(OURS) else None

    whole = {n: sum(f[k].cpu_s for k in OURS) / n for n, f in short.items() if all(k in f for k in OURS)}
    against = [f for _, f in sorted({**long, **short}.items()) if "duckdb-settle" in f and "duckdb-stage2" in f]
    ratio = None
    if against:
        ours, theirs = (sum(against[-1][p + k].cpu_s for k in ("settle", "stage2")) for p in ("", "duckdb-"))
        ratio = round(theirs / ours, 2)
    return {
        "bench": "scale", "import_pairs_per_cpu_s": rate("import", long), "clean_pairs_per_cpu_s": rate("clean", long),
        "settle_rows_per_cpu_s": rate("settle", short) or rate("settle", long), "settle_vs_duckdb": ratio,
        "peak_mb_1m": peak(1_000_000), "peak_mb_10m": peak(10_000_000),
        "flatness": round(max(whole.values()) / min(whole.values()), 3) if len(whole) > 1 else None,
        **{k: near.get(k) and round(near[k], 2) for k in ("near_duplicates_vs_datatrove", "near_duplicates_vs_rensa")},
        "score_vs_engine": score.get("score_vs_engine"),
    }  # fmt: skip


def table(pools: list[dict[int, Any]], told: dict[str, Any], command: str) -> str:
    lines = [
        f"{machine()}. `{command}`, one thread a process.", "",
        "| pairs | text a pair | rows | stage | handled a CPU second | CPU s | microseconds a pair | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for by_pairs in pools:
        for pairs, found in sorted(by_pairs.items()):
            for name, f in found.items():
                if name == "known":
                    continue
                size, rows = found["known"]["text_bytes"] / pairs, found["known"]["rows"]
                rate = f"{f.items / f.cpu_s:,.0f}" if f.items else "-"
                cost = f"{f.cpu_s:,.1f} | {f.cpu_s / pairs * 1e6:.1f} | {f.peak_mb:,.0f}"
                lines.append(f"| {pairs:,} | {size:,.0f} B | {rows:,} | {name} | {rate} | {cost} |")
    missing = [k for k, v in told.items() if v is None]
    lines += ["", f"`{json.dumps(told)}`"]
    lines += [f"\nNot measured in this run: {', '.join(missing)}."] if missing else []
    return "\n".join(lines)


def write_measured(file: Path, pools: list[dict[int, Any]]) -> None:
    """All that was measured, for `forty_million.py`."""
    told = [
        {"pairs": pairs, "bytes": size, "stages": {n: asdict(f) for n, f in found.items() if n != "known"}}
        for size, by_pairs in zip((LONG, SHORT), pools, strict=True)
        for pairs, found in by_pairs.items()
    ]
    file.write_text(json.dumps(told, indent=1))


def machine() -> str:
    names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    name = names[0].partition(": ")[2] if names else platform.processor()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, load average {load}"


def numbers(text: str) -> list[int]:
    return [int(x) for x in text.split(",") if x]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--sizes", default="100000,1000000", help="pairs of pools with 2.5 KB of text a pair")
    parser.add_argument("--short-sizes", default="100000,1000000,10000000", help="pairs of pools with 250 bytes a pair")
    parser.add_argument("--repeats", type=int, default=3, help="of each stage up to a million pairs; the least counts")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-scale"), help="the folder for pools")
    parser.add_argument("--keep", action="store_true", help="keep the pools for another run")
    parser.add_argument(
        "--datatrove", metavar="PYTHON", type=Path, help="the Python of an environment that has datatrove"
    )
    parser.add_argument("--document", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    parts = set(args.only.split(","))
    if unknown := parts - set(PARTS):
        parser.error(f"--only {', '.join(sorted(unknown))}: give some of {', '.join(PARTS)}")
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    here = parts - {"near", "score", "layouts"}
    pools: list[dict[int, Any]] = []
    for size, sizes in ((LONG, numbers(args.sizes)), (SHORT, numbers(args.short_sizes))):
        found = (
            {n: measured(work / f"{n}x{size}", n, size, here, args.repeats, args.keep) for n in sizes} if here else {}
        )
        pools.append({n: f for n, f in found.items() if f})
    if "layouts" in parts:
        pairs = min(numbers(args.sizes), default=100_000)
        pools[0].setdefault(pairs, {"known": {"text_bytes": LONG * pairs, "rows": pairs}}).update(
            by_layout(work, pairs)
        )
    theirs = args.datatrove and str(args.datatrove.absolute())  # children work in another folder
    near = other("near", f"from bench_clean import near\nfound = near({theirs!r})") if "near" in parts else {}
    ratio = 'found = {"score_vs_engine": round(statistics.median(score_vs_engine()["ratios"]), 3)}'
    score = other("score", f"from bench_score import score_vs_engine\n{ratio}") if "score" in parts else {}
    write_measured(work / "measured.json", pools)
    told = line(*pools, near, score)
    page = table(pools, told, " ".join(["python benchmarks/bench_scale.py", *sys.argv[1:]]))
    print(page)
    if args.document:
        before = DOC.read_text()
        start, end = before.index(BEGIN) + len(BEGIN), before.index(END)
        DOC.write_text(before[:start] + "\n" + page + "\n" + before[end:])
    print(json.dumps(told))


if __name__ == "__main__":
    main()
