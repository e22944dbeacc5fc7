"""LiveBench (White et al. 2024; github.com/LiveBench/LiveBench), read from what its own package leaves.

It is not on a package index, its questions are on the hub alone, and it runs the programs of its coding questions bare on
the machine that scores: so it is asked by hand, where that is wanted, and what it leaves is read row by row here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assay.bench.reasoning.rows import Absent, Answered, Job
from assay.errors import AssayError

BY_HAND = (
    "LiveBench is asked by its own package, on a machine with a network (its coding questions run a model's programs bare): "
    "git clone https://github.com/LiveBench/LiveBench {data}; pip install -e {data}; cd {data}/livebench; "
    "python gen_api_answer.py --model {model} --bench-name live_bench --api-base {url}; "
    "python gen_ground_truth_judgment.py --bench-name live_bench --model-list {model}; then the same command again reads "
    "what it left"
)
CARD = {
    "release": "the questions that its package had when it was asked", "judge": "none: its own ground truth",
    "mode": "read from its package's files", "paper": "no: it names no release",
}  # fmt: skip


def livebench(job: Job) -> Iterator[Answered]:
    """The rows of what LiveBench's package left of this model in its clone `job.data`. Raises Absent, with what to type,
    where there is nothing."""
    judged = sorted(job.data.rglob("model_judgment/ground_truth_judgment.jsonl"))
    answers = {r["question_id"]: r for f in sorted(job.data.rglob(f"model_answer/{job.model}.jsonl")) for r in _rows(f)}
    found = 0
    for file in judged:
        for row in _rows(file):
            if row["model"] == job.model:
                found += 1
                yield _answered(job, file, row, answers.get(row["question_id"]))
    if not found:
        raise Absent(BY_HAND.format(data=job.data, model=job.model, url=job.url))


def _answered(job: Job, file: Path, row: dict[str, Any], answer: dict[str, Any] | None) -> Answered:
    score = row["score"]
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise AssayError(f"{file}: the score of question {row['question_id']} is {score!r}, not a number from 0 to 1")
    text = answer["choices"][0]["turns"][-1] if answer is not None else ""
    return Answered(
        benchmark=job.benchmark, question=str(row["question_id"]), repeat=0, answer=str(text), score=float(score),
        subset=str(row["category"]), by=f"LiveBench, {row['task']}",
    )  # fmt: skip


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise AssayError(f"{file}: cannot be read ({error}); let LiveBench's package write it again") from error
