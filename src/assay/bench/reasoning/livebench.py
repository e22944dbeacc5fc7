"""LiveBench (White et al. 2024; github.com/LiveBench/LiveBench), read from what its own package leaves.

It is not on a package index, and its questions are on the hub alone. Where its question files are here, they are asked here
(`livebench_ask`). Where its package asked, by hand, what it left is read row by row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from assay.bench.reasoning.rows import Absent, Answered, Job
from assay.errors import AssayError

BY_HAND = (
    "LiveBench's question files are not in {data}: git clone https://github.com/LiveBench/LiveBench {data}; pip install -e "
    "{data}; cd {data}/livebench; python download_questions.py; then the same command again asks them"
)


def was_asked(data: Path, model: str) -> bool:
    """Whether its own package has asked this model already, and judged what it said."""
    return any(of_model(f, model) for f in data.rglob(JUDGED))


def livebench(job: Job) -> Iterator[Answered]:
    """The rows of what LiveBench's package left of this model in its clone `job.data`, one for each question: of its
    question files (`download_questions.py` brings them), or, where there are none, for each that was answered or judged.
    One without a judgement, or with -1, which is the package's word for none, has no score, and says so.

    Raises Absent, with what to type, where there is no judgement of the model.
    """
    found = {f.parent.parent: of_model(f, job.model) for f in job.data.rglob(JUDGED)}
    if not any(found.values()):
        raise Absent(BY_HAND.format(data=job.data, model=job.model, url=job.url))
    for folder in sorted({*found, *(f.parent for f in job.data.rglob("question.jsonl"))}):
        judged, asked, answered = found.get(folder, {}), folder / "question.jsonl", dict[str, dict[str, Any]]()
        for file in folder.glob("model_answer/*.jsonl"):
            if file.stem.lower() == job.model.lower():
                answered = {str(r["question_id"]): r for r in _rows(file)}
        questions = {str(r["question_id"]): r for r in (_rows(asked) if asked.exists() else ())}
        left_out = {k for k, r in questions.items() if r.get("livebench_removal_date") and k not in judged}
        for name in sorted({*(questions or answered), *judged} - left_out):
            yield _answered(job, folder, name, questions.get(name, {}), judged.get(name), answered.get(name))


JUDGED = "model_judgment/ground_truth_judgment.jsonl"


def of_model(file: Path, model: str) -> dict[str, dict[str, Any]]:
    """Of each question the judgement of a model, whose name the package may write in small letters: the last, as it takes
    them itself. Raises AssayError for a score that is none."""
    found: dict[str, dict[str, Any]] = {}
    for row in _rows(file):
        score = row.get("score")
        if str(row.get("model")).lower() != model.lower():
            continue
        if not isinstance(score, int | float) or not (0 <= score <= 1 or score == -1):
            raise AssayError(f"{file}: the score of question {row.get('question_id')} is {score!r}, not from 0 to 1")
        found[str(row["question_id"])] = row
    return found


def _answered(
    job: Job, folder: Path, name: str, question: dict[str, Any], told: dict[str, Any] | None, answer: dict[str, Any] | None
) -> Answered:  # fmt: skip
    category, task = folder.parent.name, folder.name
    if source := question or told:
        category, task = str(source["category"]), str(source["task"])
    score = None if told is None or told["score"] == -1 else float(told["score"])
    fault = "" if score is not None else "its package could not judge it" if told else "no judgement of it"
    return Answered(
        benchmark=job.benchmark, question=name, repeat=0, score=score, fault=fault, subset=f"{category}, {task}",
        answer=str(answer["choices"][0]["turns"][-1]) if answer else "", expected=str(question.get("ground_truth") or ""),
        text=str((question.get("turns") or [""])[-1]), by="LiveBench's own ground truth",
    )  # fmt: skip


def weights(rows: Sequence[Answered]) -> dict[str, float]:
    """LiveBench's total: the mean of its categories, each the mean of its tasks; of the tasks that are here."""
    tasks = {r.subset for r in rows if r.score is not None}
    counts = Counter(t.partition(", ")[0] for t in tasks)
    return {t: 1 / len(counts) / counts[t.partition(", ")[0]] for t in tasks}


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise AssayError(f"{file}: cannot be read ({error}); let LiveBench's package write it again") from error
