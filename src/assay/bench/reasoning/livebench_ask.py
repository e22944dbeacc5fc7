"""LiveBench's questions, asked here: from its question files, through the recorder, with its programs judged in our sandbox.

    DATA/livebench/.../data/live_bench/CATEGORY/TASK/    question.jsonl, test_cases_*.jsonl: its clone, with its questions
    OUT/livebench/data/live_bench/CATEGORY/TASK/         model_answer/NAME.jsonl: the answers, where its judge reads them
    OUT/livebench/judge.sh                               what is to be typed to have them judged

Its rules are its own and not on a package index, so its judge is run by hand, in between: the same command reads what that
left. NAME is a digest of the answers, so a judgement is always of what stands beside it. Its coding questions run a model's
programs bare there; those with LiveCodeBench's tests run in our sandbox here, by LiveBench's rule (what a question begins is
put before a program that does not begin with it), and are not handed to its judge. Its agent's questions, which need
Docker, are not asked. What is out of date in the files ("livebench_removal_date") is no question. Form and rules were read
in its repository.
"""

from __future__ import annotations

import json
import shlex
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from assay.bench.files import Row, rows
from assay.bench.reasoning import code
from assay.bench.reasoning.livebench import JUDGED, of_model
from assay.bench.reasoning.rows import Absent, Answered, Job
from assay.errors import AssayError
from assay.records import digest
from assay.tables import write_text

AGENT, CODING = "agentic_coding", "coding"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question without its tests. `file`: where it stands. `begun`: the program that it begins."""

    id: str
    category: str
    task: str
    file: Path
    turns: tuple[str, ...]
    system: str = ""
    begun: str = ""
    expected: str = ""
    released: str = ""


def questions(data: Path) -> list[Question]:
    """All questions of the newest release in the files below `data`, in their order. Raises AssayError where one cannot be
    read, or is there twice."""
    found = dict[str, Question]()
    for file in sorted(data.rglob("question.jsonl")):
        for row in rows(file):
            if row.value.get("livebench_removal_date"):
                continue
            question = _question(row)
            if before := found.get(question.id):
                raise AssayError(
                    f"livebench: question {question.id} occurs twice, in {before.file} and {file}; leave one"
                )
            found[question.id] = question
    return list(found.values())


def _question(row: Row) -> Question:
    value = row.value
    return Question(
        id=str(row.get("question_id")), category=row.text("category"), task=row.text("task"), file=row.file,
        turns=row.texts("turns"), system=str(value.get("system_prompt") or ""),
        begun=str(value.get("partial_solution") or ""), expected=str(value.get("ground_truth") or ""),
        released=str(value.get("livebench_release_date") or "")[:10],
    )  # fmt: skip


def ask(job: Job) -> Iterator[Answered]:
    """All rows of the job. Raises Absent, with what to type, while answers wait for LiveBench's judge."""
    asked = _some(questions(job.data), job.limit)
    answered = list[Answered]()
    for repeat in range(job.repeats):  # one after the other: a name of the journal stays with its repeat
        with ThreadPoolExecutor(job.at_once) as pool:
            answered += pool.map(lambda question, n=repeat: _ask(job, question, n), asked)
    by_id = {q.id: q for q in asked}
    programs = iter(_tried([r for r in answered if by_id[r.question].category == CODING], by_id))
    told = _judged(job, [r for r in answered if _for_judge(by_id[r.question])], by_id)
    for row in answered:
        question = by_id[row.question]
        yield (
            next(programs)
            if question.category == CODING
            else told[row.repeat, row.question]
            if _for_judge(question)
            else row
        )


def _for_judge(question: Question) -> bool:
    return question.category not in (CODING, AGENT)


def _some(every: Sequence[Question], limit: int | None) -> list[Question]:
    """With a limit in turn one question of each task, for the total is made of tasks."""
    tasks = dict[tuple[str, str], list[Question]]()
    for question in every:
        tasks.setdefault((question.category, question.task), []).append(question)
    in_turn = [q for some in zip_longest(*tasks.values()) for q in some if q is not None]
    return in_turn[:limit] if limit else list(every)


def _ask(job: Job, question: Question, repeat: int) -> Answered:
    """The answer to the last turn."""
    row = Answered(
        benchmark=job.benchmark, question=question.id, repeat=repeat, answer="", score=None, expected=question.expected,
        subset=f"{question.category}, {question.task}", text=question.turns[-1], by="LiveBench's own ground truth",
    )  # fmt: skip
    if question.category == AGENT:
        return replace(row, fault="not asked: it needs LiveBench's own agent, and Docker")
    messages = [{"role": "system", "content": question.system}] if question.system else []
    for turn in question.turns:
        messages.append({"role": "user", "content": turn})
        told = _post(job, {"messages": messages, "temperature": job.temperature, "max_tokens": job.max_tokens})
        choice = told["choices"][0]
        answer = str(choice["message"]["content"] or "")
        messages.append({"role": "assistant", "content": answer})
        row = replace(row, answer=answer, reply=str(told["id"]), finished=choice["finish_reason"] == "stop")
    return row


def _post(job: Job, body: Mapping[str, Any]) -> dict[str, Any]:
    data = json.dumps({"model": job.model, **body}).encode()
    request = urllib.request.Request(f"{job.url}/chat/completions", data, {"Content-Type": "application/json"})
    with _DIRECT.open(request) as response:
        told: dict[str, Any] = json.loads(response.read())
    return told


def _tried(answered: Sequence[Answered], by_id: Mapping[str, Question]) -> Iterator[Answered]:
    """Programs against their tests in our sandbox, in order; one whose tests are of another kind has a fault."""
    of = dict[str, list[int]]()
    for place, row in enumerate(answered):
        of.setdefault(row.question, []).append(place)
    order, scored = list[int](), dict[int, Answered]()
    files = dict.fromkeys(by_id[r.question].file for r in answered)
    every = chain.from_iterable(rows(f) for own in files for f in (own, *sorted(own.parent.glob("test_cases_*.jsonl"))))

    def tried() -> Iterator[tuple[Answered, code.Problem]]:
        for row in every:
            name = str(row.value.get("question_id"))
            if "public_test_cases" not in row.value or not (places := of.pop(name, ())):
                continue
            metadata = (row.value.get("original_json") or {}).get("metadata") or row.value.get("metadata")
            problem = code.livecodebench({**row.value, "question_id": name, "metadata": metadata})[1]
            order.extend(places)
            yield from ((_whole(answered[p], by_id[name].begun), problem) for p in places)

    for number, row in enumerate(code.score_each(tried()) if answered else ()):
        place = order[number]
        scored[place] = replace(row, answer=answered[place].answer)
    other = "its tests are none that our sandbox runs: have LiveBench's package judge it by hand"
    yield from (scored.get(place) or replace(row, fault=other) for place, row in enumerate(answered))


def _whole(row: Answered, begun: str) -> Answered:
    """The answer with what its question begins."""
    program = code.program_of(row.answer)
    if not program or not begun or program.startswith(begun):
        return row
    return replace(row, answer=f"```python\n{begun}\n{program}\n```")


def _judged(
    job: Job, answered: Sequence[Answered], by_id: Mapping[str, Question]
) -> dict[tuple[int, str], Answered]:  # fmt: skip
    """The rows with the scores of LiveBench's judge, by repeat and question. Raises Absent while some wait for it."""
    place, names, told, waiting = (
        job.work.parent.parent / "livebench",
        list[str](),
        dict[tuple[int, str], Answered](),
        0,
    )
    for repeat in range(job.repeats):
        own = [r for r in answered if r.repeat == repeat]
        names.append(f"assay-{digest([[r.question, r.answer] for r in own])[:12]}")
        for task, some in _by_task(own, by_id).items():
            folder = place / "data" / "live_bench" / task
            _write(folder, names[-1], some, by_id)
            judged = of_model(folder / JUDGED, names[-1]) if (folder / JUDGED).exists() else {}
            for row in some:
                found = judged.get(row.question)
                waiting += found is None
                score = None if found is None or found["score"] == -1 else float(found["score"])
                fault = "its package could not judge it" if found and score is None else ""
                told[repeat, row.question] = replace(row, score=score, fault=fault)
    if waiting:
        tasks = sorted(_by_task(answered, by_id))
        wait = "answers wait" if waiting > 1 else "answer waits"
        raise Absent(f"{waiting:,} {wait} for LiveBench's own judge: {_script(place, job.data, names, tasks)}")
    return told


def _by_task(some: Sequence[Answered], by_id: Mapping[str, Question]) -> dict[str, list[Answered]]:
    found = dict[str, list[Answered]]()
    for row in some:
        question = by_id[row.question]
        found.setdefault(f"{question.category}/{question.task}", []).append(row)
    return found


def _write(folder: Path, name: str, answered: Sequence[Answered], by_id: Mapping[str, Question]) -> None:
    """The questions and the answers of a task, as its judge looks for them."""
    lines = (
        {
            "question_id": r.question,
            "answer_id": r.reply,
            "model_id": name,
            "choices": [{"index": 0, "turns": [r.answer]}],
        }
        for r in answered
    )
    write_text(folder / "model_answer" / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    link, file = folder / "question.jsonl", by_id[answered[0].question].file.resolve()
    if not (link.is_symlink() and link.resolve() == file):
        link.unlink(missing_ok=True)
        link.symlink_to(file)


def _script(place: Path, data: Path, names: Sequence[str], tasks: Sequence[str]) -> str:
    """What to type, in words and as a script."""
    judge = next(iter(sorted(data.rglob("gen_ground_truth_judgment.py"))), None)
    clone = judge.resolve().parent.parent if judge else None
    line = [
        "python", str(judge.resolve() if judge else "CLONE/livebench/gen_ground_truth_judgment.py"), "--question-source",
        "jsonl", "--ignore-missing-answers", "--model", *names, "--bench-name", *(f"live_bench/{t}" for t in tasks),
    ]  # fmt: skip
    write_text(
        place / "judge.sh",
        f"# in an environment in which LiveBench is installed: pip install -e {clone or 'CLONE'}\n"
        f"cd {shlex.quote(str(place))} && {shlex.join(line)}\n",
    )
    where = (
        f"pip install -e {clone}" if clone else "a clone of https://github.com/LiveBench/LiveBench, named in the script"
    )
    return f"sh {place / 'judge.sh'} (needs {where}); then the same command again reads what it left"


def release(data: Path) -> tuple[str, int]:
    """The newest release date of the questions, in words, and how many questions there are."""
    every = questions(data)
    return f"questions to {max((q.released for q in every), default='') or 'no date'}", len(every)
