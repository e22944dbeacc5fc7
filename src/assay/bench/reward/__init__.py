"""The reward-model benchmarks by name, and what they share: where the data lie, and their prompts."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.bench.benchmark import Benchmark, sample, score
from assay.bench.best_of_n import Curve, curve
from assay.bench.reward.judgebench import JUDGEBENCH
from assay.bench.reward.multimodal import MULTIMODAL_REWARDBENCH
from assay.bench.reward.ppe import PPE_CORRECTNESS, PPE_PREFERENCE, SETS
from assay.bench.reward.rewardbench import REWARDBENCH
from assay.bench.reward.rewardbench2 import REWARDBENCH_2
from assay.bench.reward.rmb import RMB
from assay.bench.reward.rmbench import RM_BENCH
from assay.bench.reward.vlrewardbench import VL_REWARDBENCH
from assay.errors import AssayError, Refused
from assay.records import Scorer

BENCHMARKS: dict[str, Benchmark[Any]] = {
    b.name: b for b in (REWARDBENCH, REWARDBENCH_2, PPE_PREFERENCE, PPE_CORRECTNESS, RMB, RM_BENCH, JUDGEBENCH)
}
"""The seven of paper A, in the order of its Table 1."""
WITH_PICTURES: dict[str, Benchmark[Any]] = {b.name: b for b in (VL_REWARDBENCH, MULTIMODAL_REWARDBENCH)}
"""For reward models that see. Paper B (the reward model of Skywork R1V2) reports the first."""
EVERY = BENCHMARKS | WITH_PICTURES
VARIABLE = "ASSAY_BENCH_DATA"


def named(names: Sequence[str]) -> list[Benchmark[Any]]:
    """The benchmarks of these names (none: the seven), in the paper's order. Raises AssayError for an unknown one."""
    unknown = [name for name in names if name not in EVERY]
    if unknown:
        raise AssayError(f"unknown benchmark '{unknown[0]}'; known: {', '.join(EVERY)}")
    return [b for name, b in EVERY.items() if name in names or (not names and name in BENCHMARKS)]


def find_data(explicit: Path | None = None) -> Path | None:
    """The folder that holds one for each benchmark (rmb/, judgebench/, ...): `explicit`, else $ASSAY_BENCH_DATA, else None.

    Raises AssayError when the folder that was named is not there.
    """
    named = explicit or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None and not named.is_dir():
        raise AssayError(
            f"{named}: no such folder of benchmark data; correct the path (or ${VARIABLE}), or leave it out"
        )
    return named


def curves(folder: Path, scorer: Scorer, limit: int | None = None) -> dict[str, Curve]:
    """Best-of-N curves on the sets of PPE correctness that are here (none where there are none)."""
    place = folder / PPE_CORRECTNESS.folder
    if not place.is_dir():
        return {}
    items = PPE_CORRECTNESS.load(place)
    chosen = sample(items, limit, 0) if limit else items
    scores = score(chosen, scorer)
    told = [i for i in chosen if all(a in scores for a in i.answers)]
    parts = {part: [i.candidates(scores) for i in told if i.stratum == part] for part in SETS.values()}
    return {part: curve(own) for part, own in parts.items() if own}


def prompts(folder: Path) -> dict[str, list[str]]:
    """The distinct first user turns of every benchmark found under `folder`, by part ("judgebench", "rm-bench/chat", ...):
    what a pool must not contain. Raises Refused when no benchmark is there, for nothing would be checked."""
    found: dict[str, dict[str, None]] = {}
    for benchmark in EVERY.values():
        if (folder / benchmark.folder).is_dir():
            for item in benchmark.load(folder / benchmark.folder):
                first = next(m.content for m in item.prompt if m.role == "user")
                found.setdefault(item.source, {})[first] = None
    if not found:
        names = ", ".join(f"{b.folder}/" for b in EVERY.values())
        raise Refused(f"{folder}: no benchmark here (looked for {names}); give the folder that holds them")
    return {source: list(texts) for source, texts in found.items()}
