"""evalscope as a driver: its tasks, prompts and rules in an environment of its own, on local data, read back row by row.

It is started anew each time, without its own cache (which loses what was under way, and cannot tell repeats of a question
apart from questions): `assay.bench.reasoning.recorder` answers what was answered before. What it leaves out of its means
(rows that it excludes, rows that it could not review, questions that it has no row of) comes back as a row with a fault.

Code is never run here: answers that are programs come back as code, for the sandbox (`score_code`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from assay.bench.reasoning.environments import environment
from assay.bench.reasoning.rows import Answered, Driver, Job
from assay.bench.reasoning.tasks import TASKS, Question, Task
from assay.errors import AssayError

VERSION = "1.14.1"
PINS = (f"evalscope=={VERSION}", "langdetect==1.0.9")
ALONE = ("llama-index-core==0.14.25",)
"""A package that carries NLTK's punkt_tab, with which IFEval counts sentences; nothing else of it is used."""
SIZE = "1.2 GB, 114 packages, no torch"
_RUN = """
import ctypes, json, os, sys
if sys.platform == "linux": ctypes.CDLL(None).prctl(1, 9)  # it ends with whoever started it
if os.getppid() != int(sys.argv[2]): sys.exit(1)
from evalscope import run_task
import evalscope.benchmarks.live_code_bench.evaluate_utils as code, evalscope.benchmarks.humaneval.utils as human
def never(*_, **__): raise RuntimeError("code is judged in the sandbox")
code.codegen_metrics = never
human.check_correctness = lambda *_, **__: {"passed": False}
run_task(json.load(open(sys.argv[1])))
"""
_NLTK = "llama_index/core/_static/nltk_cache"


ScoreCode = Callable[[Sequence[Answered], Path], Iterable[Answered]]
"""(rows whose answers are programs, the folder of data) -> the rows, in order, with the sandbox's scores."""


def python_of(folder: Path, install: bool, say: Callable[[str], None] = print) -> Path:
    """The python of evalscope's environment. Raises AssayError where it is missing and not to be made."""
    limits = Path(__file__).with_name("evalscope.txt")
    return environment(
        "evalscope", PINS, folder, install, size=SIZE, alone=ALONE, constraints=limits, say=say
    )  # fmt: skip


def driver(python: Path, score_code: ScoreCode | None = None) -> Driver:
    """The driver, with evalscope's python. `job.url` is asked for every answer: give it a recorder's."""
    return partial(_run, python=python, score_code=score_code)


def _run(job: Job, python: Path, score_code: ScoreCode | None) -> Iterator[Answered]:
    task = TASKS[job.benchmark]
    if task.programs and score_code is None:
        raise AssayError(f"{task.name}: its answers are programs, and there is no sandbox here to judge them in")
    questions = task.questions(job.data, job.window)
    by_part: defaultdict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_part[question.part].append(question)
    for part, some in by_part.items():
        asked = some[: job.limit] if job.limit else some
        folder = job.work / (part or "all").replace(" ", "-")
        _evaluate(job, task, asked, task.extra[part], folder, python)
        found = read_back(task, asked, folder, job.repeats)
        yield from found if score_code is None else _judged(list(found), job.data, score_code)


def _judged(found: Sequence[Answered], data: Path, score_code: ScoreCode) -> Iterator[Answered]:
    """Programs by the sandbox; evalscope's own score of them is that it ran none."""
    sound = iter(score_code([replace(r, score=None) for r in found if not r.fault], data))
    for row in found:
        yield row if row.fault else next(sound)


def _evaluate(
    job: Job, task: Task, asked: Sequence[Question], extra: Mapping[str, Any], folder: Path, python: Path
) -> None:
    """One run of evalscope, from an empty folder. Raises AssayError with its last words where it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    data = folder / "data"
    data.mkdir(parents=True)
    write(task, asked, job.data, data / "test.parquet")
    if part := asked[0].part:  # evalscope asks for a form of a data set as a config of its name
        form = f'configs:\n- config_name: "{part}"\n  data_files:\n  - split: test\n    path: test.parquet\n'
        (data / "README.md").write_text(f"---\n{form}---\n")
    given: dict[str, Any] = {"local_path": str(data), "eval_split": "test"}
    if task.dataset not in ("math_vision", "mmmu_pro"):  # these two make their subsets of the rows themselves
        given["subset_list"] = ["default"]
    if extra:
        given["extra_params"] = dict(extra)
    config = {
        "model": job.model, "api_url": job.url, "api_key": "EMPTY", "eval_type": "openai_api",
        "datasets": [task.dataset], "dataset_args": {task.dataset: given}, "repeats": job.repeats,
        "generation_config": {"temperature": job.temperature, "max_tokens": job.max_tokens, "retries": 1,
                              "timeout": 864_000, "stream": False},
        "model_args": {"max_retries": 0}, "eval_batch_size": job.at_once, "work_dir": str(folder / "out"),
        "no_timestamp": True, "ignore_errors": True, "seed": job.seed, "collect_perf": False,
    }  # fmt: skip
    (folder / "task.json").write_text(json.dumps(config))
    here = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"),
        "MODELSCOPE_CACHE": str(folder / "ms"), "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost",
        "NLTK_DATA": os.pathsep.join(str(p / _NLTK) for p in python.parent.parent.glob("lib/python*/site-packages")),
        "PYTHONPATH": "", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with (folder / "log.txt").open("wb") as log:
        done = subprocess.run(
            [str(python), "-c", _RUN, str(folder / "task.json"), str(os.getpid())], stdout=log, stderr=subprocess.STDOUT,
            env=here, cwd=folder, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    if done.returncode:
        said = [line for line in (folder / "log.txt").read_text(errors="replace").splitlines() if line.strip()]
        raise AssayError(
            f"{task.name}: evalscope ended with {done.returncode}: {said[-1][:300] if said else 'it said nothing'} "
            f"({folder / 'log.txt'})"
        )


AT_ONCE = 64
"""Questions whose pictures are in memory at a time."""


def write(task: Task, asked: Sequence[Question], data: Path, file: Path) -> None:
    """The questions' records as Parquet, for the library, in their order; their pictures come from the folder `data`. A
    field that only some questions have (a second picture) is a column of all."""
    names = list(dict.fromkeys(name for q in asked for name in q.record))
    form = pa.Table.from_pylist([{n: q.record.get(n) for n in names} for q in asked]).schema
    wanted = {(q.part, q.id) for q in asked}
    whole = (q for _, q in task.each(data) if (q.part, q.id) in wanted) if task.pictures else iter(asked)
    with parquet.ParquetWriter(file, form) as out:
        while some := list(islice(whole, AT_ONCE)):
            out.write_table(pa.Table.from_pylist([dict(q.record) for q in some], schema=form))


def read_back(task: Task, asked: Sequence[Question], folder: Path, repeats: int) -> Iterator[Answered]:
    """A row for each answer that was asked for: those of evalscope's predictions and reviews, and one with a fault for each
    that it has no row of, or no score. One answer is in memory at a time."""
    predictions, reviews = (_rows_of(folder / "out" / kind, task) for kind in ("predictions", "reviews"))
    places = _places(task, asked, repeats)
    for (subset, index), (question, repeat) in sorted(places.items(), key=lambda p: (p[1][0].id, p[1][1])):
        row = Answered(
            benchmark=task.name, question=question.id, repeat=repeat, answer="", score=None, expected=question.expected,
            subset=question.subset, text=question.text, by=f"evalscope {VERSION}",
        )  # fmt: skip
        yield _read(task, row, *(_row_at(rows.get((subset, index))) for rows in (predictions, reviews)))


def _rows_of(folder: Path, task: Task) -> dict[tuple[str, int], tuple[Path, int]]:
    """Where evalscope's rows are, by subset and number: the last of each, as it takes them itself."""
    found = {}
    for file in sorted(folder.rglob(f"{task.dataset}_*.jsonl")):
        subset, at = file.stem.removeprefix(f"{task.dataset}_"), 0
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    found[subset, int(json.loads(line)["index"])] = (file, at)
                except (ValueError, KeyError, TypeError) as error:
                    raise AssayError(f"{file}, line {number}: not a row of evalscope {VERSION} ({error!r})") from error
                at += len(line)
    return found


def _row_at(place: tuple[Path, int] | None) -> dict[str, Any] | None:
    if place is None:
        return None
    with place[0].open("rb") as lines:
        lines.seek(place[1])
        row: dict[str, Any] = json.loads(lines.readline())
    return row


def _places(task: Task, asked: Sequence[Question], repeats: int) -> dict[tuple[str, int], tuple[Question, int]]:
    """Where evalscope has each answer: it numbers a subset's questions, each `repeats` times in a row, from 0."""
    counts: defaultdict[str, int] = defaultdict(int)
    found = {}
    for question in asked:
        subset = _subset(task, question)
        for repeat in range(repeats):
            found[subset, counts[subset]] = (question, repeat)
            counts[subset] += 1
    return found


def _subset(task: Task, question: Question) -> str:
    """What evalscope calls the part of a data set that a question is of."""
    if task.dataset == "math_vision":
        return question.subset
    return str(question.record["subject"]) if task.dataset == "mmmu_pro" else "default"


def _read(
    task: Task, row: Answered, prediction: Mapping[str, Any] | None, review: Mapping[str, Any] | None
) -> Answered:  # fmt: skip
    output = (prediction or {}).get("model_output") or {}
    choice = (output.get("choices") or [{}])[0]
    if output.get("error"):
        return replace(row, fault=f"evalscope could not ask: {str(output['error'])[:200]}")
    row = replace(
        row, reply=str(output.get("id") or ""), answer=_text((choice.get("message") or {}).get("content")),
        finished=choice.get("stop_reason", "stop") == "stop",
    )  # fmt: skip
    if prediction is None:
        return replace(row, fault="evalscope has no prediction of it")
    if review is None:
        return replace(row, fault="evalscope has no review of it")
    score = review["sample_score"]["score"]
    row = replace(row, extracted=str(score.get("extracted_prediction") or ""))
    values = {k: float(v) for k, v in (score.get("value") or {}).items()}
    name = task.metric if task.metric in values else next(iter(values), "")
    if not name or str(score.get("status") or "success").lower() not in ("success", "fallback"):
        why = (score.get("metadata") or {}).get(task.metric) or "no reason given"
        return replace(row, fault=f"evalscope excludes it: {str(why)[:120]}")
    weights = (score.get("metadata") or {}).get("metric_weights") or {}
    return replace(row, score=values[name], parts={k: values[k] for k in task.more if k in values}, weights=weights)


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(p.get("text") or "") for p in content if isinstance(p, dict))
    return content if isinstance(content, str) else ""
