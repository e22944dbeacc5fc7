"""`assay policy bench`: a model on the reasoning benchmarks, from its server to results with intervals.

    OUT/asked.sqlite          every answer that the model gave: a killed run asks none of them again
    OUT/answers/NAME.jsonl    a line for each answer: what was asked, said, read out of it, and its score
    OUT/cards.json            the protocol of each number
    OUT/results.json, .md, .html

The ends of a run: all benchmarks that can be run here are measured; each that cannot is a line that says what to do, and
each that was begun and has no number is a line with its reason.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from assay.bench.reasoning import bfcl, kept, livebench_ask
from assay.bench.reasoning.cards import Card, shortened
from assay.bench.reasoning.drivers import MORE, TEN, Library, library_of
from assay.bench.reasoning.equivalence import PROMPT
from assay.bench.reasoning.judging import asked as judged
from assay.bench.reasoning.judging import concluded
from assay.bench.reasoning.recorder import SPENT, Recorder, Tally, spent
from assay.bench.reasoning.rows import Absent, Answered, Job
from assay.bench.reasoning.serving import Endpoint
from assay.bench.reasoning.tasks import STANDARD, TASKS, VISION, Question
from assay.bench.results import BenchmarkResult, Failed, Skipped
from assay.errors import AssayError
from assay.identity import of_file
from assay.llm.budget import Budget
from assay.llm.chat import Chat
from assay.llm.dialect import WORDS
from assay.records import digest
from assay.tables import write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How benchmarks are asked. `repeats`: answers to each question (paper: 5). `temperature`: None is 0 for one answer, and
    0.6 for more. `budget`: tokens in and out of all benchmarks, earlier runs of this folder included."""

    only: tuple[str, ...] = ()
    repeats: int = 1
    limit: int | None = None
    temperature: float | None = None
    max_tokens: int = 4096
    seed: int = 0
    at_once: int = 8
    budget: int | None = None
    window: str = ""

    def __post_init__(self) -> None:
        if unknown := [n for n in self.only if n not in (*TEN, *MORE)]:
            raise AssayError(f"no benchmark is called {unknown[0]}; there are {', '.join((*TEN, *MORE))}")
        if len(set(self.only)) < len(self.only):
            raise AssayError(f"--only {' '.join(self.only)}: one is named twice")
        if min(self.repeats, self.max_tokens, self.at_once) < 1 or (self.limit is not None and self.limit < 1):
            raise AssayError("repeats, max_tokens, at_once and limit must be at least 1")
        if self.repeats > 1 and self.temperature == 0:
            raise AssayError("at temperature 0 repeats are one answer: give --temperature above 0, or --repeats 1")
        if not 0 <= self.drawn < math.inf:
            raise AssayError(f"--temperature must be a number from 0, got {self.temperature}")
        dates = self.window.split(":")
        if self.window and (len(dates) != 2 or not all(_DATE.fullmatch(d) for d in dates)):
            raise AssayError(
                f"--window {self.window}: write FIRST:LAST, ISO dates or their beginnings (2024-08:2025-01)"
            )
        if self.window and set(self.only) and "livecodebench" not in self.only:
            raise AssayError("--window is of livecodebench's questions, and --only names others")

    @property
    def drawn(self) -> float:
        return self.temperature if self.temperature is not None else 0.0 if self.repeats == 1 else 0.6

    def window_of(self, benchmark: str) -> str:
        """The window of a benchmark of dated questions; "" for any other."""
        return self.window if benchmark == "livecodebench" else ""


_DATE = re.compile(r"(?:\d{4}(?:-\d{2}(?:-\d{2})?)?)?")


class Measured(NamedTuple):
    """The results in order; the benchmarks in which a budget ended; what a judge or the server left undone, in words."""

    results: list[BenchmarkResult | Skipped]
    short: list[str]
    undone: list[str]

    @property
    def failed(self) -> list[Failed]:
        """Those that were begun and have no number."""
        return [r for r in self.results if isinstance(r, Failed)]


class _Judging(NamedTuple):
    judges: Sequence[Chat]
    prompt: str


def measure(
    endpoint: Endpoint, data: Path, out: Path, settings: Settings, environments: Path, install: bool = False,
    judges: Sequence[Chat] = (), say: Callable[[str], None] = print,
    library: Callable[..., Library] = library_of, judge_prompt: str = PROMPT,
) -> Measured:  # fmt: skip
    """All benchmarks, or those of `settings.only`, in order. What one of them lacks or fails at is its line (Skipped,
    Failed), and the others go on. Raises AssayError, before anything is asked, for one that was named and cannot be run or
    whose data are broken, at once for a server that takes no request, and at the end where none has a number."""
    if out.resolve().is_relative_to(data.resolve()):
        raise AssayError(
            f"--out {out} lies within --data {data}: what a run writes would be read as data; choose another"
        )
    for name in settings.only:
        library(name, environments, install, say)
        if name in TASKS:
            TASKS[name].questions(data, settings.window_of(name))
    budget = None
    if settings.budget is not None:
        budget = Budget(settings.budget)
        budget.spend(spent(out / "asked.sqlite"))
    told = Measured([], [], [])
    cards: dict[str, object] = {}
    gone = ""
    for name in settings.only or TEN:
        if gone:
            told.results.append(Failed(name=name, reason="not asked: the server takes no request"))
            continue
        try:
            found = library(name, environments, install, say)
            job = _job(name, endpoint, data, out, settings)
            questions = TASKS[name].questions(data, job.window) if name in TASKS else []
            asked = _answers(found, job, out, endpoint, budget, _asked(questions, job), say)
            rows = asked.rows
            if asked.spent:
                told.short.append(name)
            card = _card(job, found, questions, asked)
            if any(r.score is not None for r in rows):
                judging = _Judging(judges, judge_prompt)
                result, card = _result(asked, card, job, questions, out, judging, say, found, told)
                told.results.append(result)
                if asked.lost:
                    lost, s = len(asked.lost), "s" * (len(asked.lost) > 1)
                    told.undone.append(f"{name}: {lost:,} answer{s} could not be had ({asked.lost[0][:160]})")
                cards[name] = card.as_json()
                write_text(out / "cards.json", json.dumps(cards, indent=2))
            elif asked.spent:
                told.results.append(Skipped(name=name, reason=SPENT))
            else:
                fault = next((r.fault for r in rows if r.fault), "no rows")
                raise AssayError(f"none of {len(rows):,} answers has a score ({fault}); see to that, then run it again")
        except AssayError as error:
            gone = str(error) if isinstance(error, NoServer) else ""
            kind = Skipped if isinstance(error, Absent) and name not in settings.only else Failed
            told.results.append(kind(name=name, reason=str(error).removeprefix(f"{name}: ")))
            say(str(told.results[-1]))
    if told.failed and not any(isinstance(r, BenchmarkResult) for r in told.results):
        raise AssayError(gone or "; ".join(f"{r.name}: {r.reason}" for r in told.failed))
    return told


def _job(name: str, endpoint: Endpoint, data: Path, out: Path, settings: Settings) -> Job:
    return Job(
        benchmark=name, model=endpoint.model, url=endpoint.url, key=endpoint.key, data=data.absolute(),
        work=out.absolute() / "work" / name, repeats=settings.repeats, limit=settings.limit, temperature=settings.drawn,
        max_tokens=settings.max_tokens, seed=settings.seed, at_once=settings.at_once,
        window=settings.window_of(name),
    )  # fmt: skip


def _asked(questions: Sequence[Question], job: Job) -> int:
    """How many answers that makes; the limit is of each form of a benchmark (MMMU-Pro has two)."""
    parts = Counter(q.part for q in questions)
    return sum(min(n, job.limit or n) for n in parts.values()) * job.repeats


class NoServer(AssayError):
    """The server takes no request, whatever is asked."""


class _Asked(NamedTuple):
    """A benchmark's rows; one prompt; whether the budget refused some; what the server did otherwise than it was asked, in
    words; of the answers that could not be had, but may be at another time, the reason."""

    rows: list[Answered]
    prompt: str = ""
    spent: bool = False
    manners: tuple[str, ...] = ()
    lost: Sequence[str] = ()


def _answers(
    library: Library, job: Job, out: Path, endpoint: Endpoint, budget: Budget | None, asked: int,
    say: Callable[[str], None],
) -> _Asked:  # fmt: skip
    shutil.rmtree(job.work, ignore_errors=True)  # a library that remembers some answers would get others' for the rest
    job.work.mkdir(parents=True)
    file, spool = answers_file(out, job.benchmark), job.work / "rows.jsonl"
    if library.reads(job):
        rows = list(kept.spooled(library.driver(job), spool))
        kept.write(file, spool, rows, lambda _: None)
        spool.unlink()
        return _Asked(rows)
    with Recorder(
        job, out / "asked.sqlite", endpoint.identity, budget, Teller(job.benchmark, asked), errors=not library.keeps_ids,
        waits=not endpoint.ours, say=say,
    ) as recorder:  # fmt: skip
        try:
            rows = list(kept.spooled(library.driver(replace(job, url=recorder.url, key="-")), spool))
        except AssayError:
            _check(
                recorder, endpoint
            )  # what a library lacks or ended by may come of what was asked: a full disk, a key
            raise
        _check(recorder, endpoint)
        rows = kept.joined(rows, recorder.heard) if library.keeps_ids else rows
        kept.write(file, spool, rows, recorder.said)
        spool.unlink()
        found = _Asked(
            rows, recorder.prompt, SPENT in recorder.faults.values(), recorder.manners, recorder.lost
        )  # fmt: skip
        tally = recorder.tally
    say(
        f"{job.benchmark}: {tally.answered:,} answers ({tally.cached:,} from earlier runs), {tally.cut:,} cut, "
        f"{tally.failed:,} failed; {tally.tokens_in:,} tokens in, {tally.tokens_out:,} out"
    )
    return found


def _check(recorder: Recorder, endpoint: Endpoint) -> None:
    """Raises AssayError where answers cannot be kept, or none could be had."""
    if recorder.broken:
        raise AssayError(f"{recorder.broken}: make room there, then give this command again")
    if recorder.refused:
        raise NoServer(f"{endpoint.model} at {endpoint.url} takes no request: {recorder.refused}; nothing was answered")
    if recorder.heard and len(recorder.faults) == len(recorder.heard) and SPENT not in recorder.faults.values():
        why = next(iter(recorder.faults.values()))
        raise AssayError(f"none of {len(recorder.heard):,} answers has a score ({why}); see to that, then run it again")
    ended = [h.said for h in recorder.heard.values() if not h.fault and not h.said.cut]
    if len(ended) >= FEW and all(one.aside for one in ended):
        raise AssayError(
            f"all {len(ended):,} answers that ended by themselves came whole in the field for thoughts: start the server "
            "with the model's own reasoning parser, or without one, and ask anew in another --out"
        )


FEW = 3
"""Of fewer answers it may be chance that none says anything but its thoughts."""


def answers_file(out: Path, benchmark: str) -> Path:
    return out / "answers" / f"{benchmark}.jsonl"


def _card(job: Job, library: Library, questions: Sequence[Question], asked: _Asked) -> Card:
    task, rows = TASKS.get(job.benchmark), asked.rows
    first = next((r.text for r in rows if r.text and r.text in asked.prompt), "")
    files = task.paths(job.data) if task else []
    release = (
        f"digest {digest([of_file(f) for f in files])[:12]} of {', '.join(f.name for f in files[:2])}" if files else ""
    )
    measure = {"ifeval": "prompt, strict"}.get(job.benchmark, f"pass@1, mean of {job.repeats}")
    here, whole = not library.reads(job), library.questions
    if job.benchmark == "livebench":
        release, whole = livebench_ask.release(job.data / "livebench") if here else ("", 0)
        measure = f"mean of {len({r.subset.partition(', ')[0] for r in rows if r.score is not None})} categories"
    return Card(
        benchmark=job.benchmark, library=library.name, release=release or library.release or "as the library carries it",
        split=task.split if task else library.split, published=task.whole if task else library.questions,
        questions=len(questions) or whole or len({r.question for r in rows}),
        prompt="{question}" if job.benchmark == "bfcl-fc" else shortened(asked.prompt, first), server=asked.manners,
        temperature=None if any(WORDS["temperature"] in told for told in asked.manners) else job.temperature,
        max_tokens=job.max_tokens, repeats=job.repeats, seed=job.seed, window=job.window,
        extractor=EXTRACTORS.get(job.benchmark, "the library's own"),
        asked=len({(r.subset, r.question) for r in rows}),
        measure=measure,
        by_subset=bool(task and task.by_subset), subsets=(STANDARD, VISION) if task and task.by_subset else (),
        extracts=job.benchmark not in ("ifeval", "bfcl", "bfcl-fc", "livebench"), asked_here=here,
        cut_is_wrong=job.benchmark in bfcl.CARDS or bool(task and task.programs),
    )  # fmt: skip


_LETTER = "the letter of the last ANSWER: line, else the last capital letter"
EXTRACTORS = {
    "aime24": "the last box, else the last number; whole numbers by math-verify",
    "olympiadbench": "the last box, else the last formula; math-verify with the item's tolerance",
    "mathvision": f"options: {_LETTER}; else the last box, by math-verify",
    "mathvista": f"options: {_LETTER}; else the last box, by math-verify",
    "mmmu": f"options: {_LETTER}; open: the ANSWER: line, by MMMU's rule", "mmmu-pro": _LETTER,
    "ifeval": "none: the whole answer is checked", "livecodebench": "the last fenced program",
    "humaneval": "the last fenced program, else the whole answer",
    **{name: f"{told['extractor']} {told['judge']}" for name, told in bfcl.CARDS.items()},
}  # fmt: skip


def _result(
    asked: _Asked, card: Card, job: Job, questions: Sequence[Question], out: Path, judging: _Judging,
    say: Callable[[str], None], library: Library, measured: Measured,
) -> tuple[BenchmarkResult, Card]:  # fmt: skip
    """The rows, judged, as a number, and its card."""
    flaws = TASKS[job.benchmark].flaws(list(questions)) if job.benchmark in TASKS else []
    card = replace(card, flaws=tuple(flaws), answers=of_file(answers_file(out, job.benchmark)))
    said, notes = judged(job.benchmark, asked.rows, *judging, say, measured.short, measured.undone)
    weights = library.weights(asked.rows) if library.weights is not None else None
    return concluded(asked.rows, card, said, out, notes, weights)


class Teller:
    """Says on stderr how far a benchmark is: a line every quarter of a minute, on a terminal one that is written over.
    `asked`: how many answers there will be (0: it is not known, as with BFCL's turns)."""

    def __init__(self, name: str, asked: int, every_s: float = 15.0) -> None:
        self.name, self.asked = name, asked
        self.live = sys.stderr.isatty()
        self.every_s = 0.5 if self.live else every_s
        self.began, self.said, self.first = 0.0, time.monotonic(), 0

    def __call__(self, tally: Tally) -> None:
        now, done = time.monotonic(), tally.answered + tally.failed
        if not self.first and done > tally.cached:  # a library takes its time before it asks
            self.began, self.first = now, done - tally.cached
        if now - self.said < self.every_s and done != self.asked:
            return
        self.said = now
        new = done - tally.cached - self.first
        text = f"{self.name}: {done:,} of {self.asked:,} answers" if self.asked else f"{self.name}: {done:,} answers"
        text += f", {tally.cut:,} cut, {tally.failed:,} failed, {tally.tokens_out:,} tokens"
        if new > 0 and self.asked:
            text += f", left {(self.asked - done) * (now - self.began) / new:.0f} s"
        print(
            f"\r{text}  " if self.live else text, end="" if self.live and done != self.asked else "\n", file=sys.stderr
        )
