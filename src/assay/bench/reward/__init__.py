"""The reward-model benchmarks by name, and what they share: where the data lie, and their prompts."""

import os
from pathlib import Path
from typing import Any

from assay.bench.benchmark import Benchmark
from assay.bench.reward.judgebench import JUDGEBENCH
from assay.bench.reward.rmb import RMB
from assay.bench.reward.rmbench import RM_BENCH
from assay.errors import AssayError

BENCHMARKS: dict[str, Benchmark[Any]] = {b.name: b for b in (JUDGEBENCH, RM_BENCH, RMB)}
VARIABLE = "ASSAY_BENCH_DATA"


def find_data(explicit: Path | None = None) -> Path | None:
    """The folder that holds judgebench/, rm-bench/, rmb/: `explicit`, else $ASSAY_BENCH_DATA, else None.

    Raises AssayError when the folder that was named is not there.
    """
    named = explicit or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None and not named.is_dir():
        raise AssayError(
            f"{named}: no such folder of benchmark data; correct the path (or ${VARIABLE}), or leave it out"
        )
    return named


def prompts(folder: Path) -> dict[str, list[str]]:
    """The distinct first user turns of every benchmark found under `folder`, by part ("judgebench", "rm-bench/chat", ...):
    what a pool must not contain. Raises AssayError when no benchmark is there, for nothing would be checked."""
    found: dict[str, dict[str, None]] = {}
    for benchmark in BENCHMARKS.values():
        if (folder / benchmark.folder).is_dir():
            for item in benchmark.load(folder / benchmark.folder):
                first = next(m.content for m in item.prompt if m.role == "user")
                found.setdefault(item.source, {})[first] = None
    if not found:
        names = ", ".join(f"{b.folder}/" for b in BENCHMARKS.values())
        raise AssayError(f"{folder}: no benchmark here (looked for {names}); give the folder that holds them")
    return {source: list(texts) for source, texts in found.items()}
