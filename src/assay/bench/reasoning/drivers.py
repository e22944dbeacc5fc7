"""Which library runs which of the ten benchmarks."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from assay.bench.progress import EVERY_S
from assay.bench.reasoning import bfcl, code, evalscope, livebench_ask
from assay.bench.reasoning.environments import environment
from assay.bench.reasoning.livebench import livebench, was_asked
from assay.bench.reasoning.livebench import weights as livebench_weights
from assay.bench.reasoning.rows import Absent, Answered, Driver, Job
from assay.bench.reasoning.tasks import TASKS
from assay.errors import AssayError

TEN = (
    "aime24", "livecodebench", "livebench", "ifeval", "bfcl", "mmmu", "mathvista", "olympiadbench", "mathvision", "mmmu-pro",
)  # fmt: skip
"""Paper B's ten, in the order of its Table 1."""
MORE = ("bfcl-fc", "humaneval")
"""Asked where they are named: BFCL with its functions as tools, and HumanEval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A driver, and the library's name and version.

    `keeps_ids`: its rows say which completion they are of (`Answered.reply`); else it is told of failures as errors, and
    gives them faults. `reads`: of a job whether it asks no server, but reads what was left elsewhere. `weights`: of the
    subsets whose weighted mean is the total, from the rows (None: plain). `release`, `split` and `questions`: of data that
    the library carries.
    """

    driver: Driver
    name: str
    keeps_ids: bool = True
    reads: Callable[[Job], bool] = lambda _: False
    weights: Callable[[Sequence[Answered]], Mapping[str, float]] | None = None
    release: str = ""
    split: str = "all categories"
    questions: int = 0


def library_of(benchmark: str, environments: Path, install: bool, say: Callable[[str], None] = print) -> Library:
    """What runs a benchmark. Raises Absent, one line with what to do, where nothing does here."""
    if benchmark in TASKS:
        if TASKS[benchmark].programs:
            code.walled()
        python = evalscope.python_of(environments, install, say)
        scorer = sandboxed if TASKS[benchmark].programs else None
        return Library(driver=evalscope.driver(python, scorer), name=f"evalscope {evalscope.VERSION}")
    if benchmark in ("bfcl", "bfcl-fc"):
        return _bfcl(benchmark, environments, install, say)
    if benchmark == "livebench":
        return Library(
            driver=_livebench, name="LiveBench's own package", weights=WEIGHTS[benchmark], reads=_livebench_left,
            release="the questions that it had when it was asked",
        )  # fmt: skip
    raise Absent(f"{benchmark}: nothing here runs it")


def _livebench_left(job: Job) -> bool:
    """Whether there is nothing to ask: its package did, or its questions are not here."""
    data = job.data / "livebench"
    return was_asked(data, job.model) or next(data.rglob("question.jsonl"), None) is None


def _livebench(job: Job) -> Iterator[Answered]:
    here = replace(job, data=job.data / "livebench")
    return livebench(here) if _livebench_left(job) else livebench_ask.ask(here)


def _bfcl(mode: str, environments: Path, install: bool, say: Callable[[str], None]) -> Library:
    python = environment("bfcl", bfcl.PINS, environments, install, size=bfcl.SIZE, say=say, alone=bfcl.ALONE)
    return Library(
        driver=bfcl.driver(python), name=f"bfcl-eval {bfcl.VERSION}", keeps_ids=False, weights=WEIGHTS[mode],
        release=bfcl.CARDS[mode]["release"], split=f"{bfcl.CARDS[mode]['mode']}; {bfcl.CARDS[mode]['split']}",
        questions=sum(bfcl.SIZES.values()),
    )  # fmt: skip


def leaderboard_weights(answers: Sequence[Answered]) -> dict[str, float]:
    """BFCL v3's total: the mean of non-live (of simple, itself the mean of three languages, multiple, parallel and parallel
    multiple), live (over its questions) and multi turn (of its four)."""
    simple = {f"simple_{x}": 1 / 36 for x in ("python", "java", "javascript")}
    others = dict.fromkeys(("multiple", "parallel", "parallel_multiple"), 1 / 12)
    turns = {f"multi_turn_{x}": 1 / 12 for x in ("base", "miss_func", "miss_param", "long_context")}
    live = [f"live_{x}" for x in ("simple", "multiple", "parallel", "parallel_multiple")]
    counts = {c: len({a.question for a in answers if a.subset == c and a.score is not None}) for c in live}
    whole = sum(counts.values())
    return {**simple, **others, **turns, **{c: n / whole / 3 if whole else 0.0 for c, n in counts.items()}}


WEIGHTS: dict[str, Callable[[Sequence[Answered]], Mapping[str, float]]] = {
    "livebench": livebench_weights, "bfcl": leaderboard_weights, "bfcl-fc": leaderboard_weights,
}  # fmt: skip
"""Of the benchmarks whose total is a weighted mean of their subsets."""


def sandboxed(answers: Sequence[Answered], data: Path) -> Iterator[Answered]:
    """Programs against the tests of their questions, in our sandbox, in the order of `answers`. Tests are read as they are
    needed: all of a release are more than a machine's memory."""
    asked: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(answers):
        asked[row.benchmark, row.question].append(place)
    order = list[int]()

    def tried() -> Iterator[tuple[Answered, code.Problem]]:
        for name in dict.fromkeys(r.benchmark for r in answers):
            for row, question in TASKS[name].each(data):
                if places := asked.pop((name, question.id), ()):
                    problem = code.READERS[name](row.value)[1]
                    order.extend(places)
                    yield from ((answers[place], problem) for place in places)

    scored, told = dict[int, Answered](), time.monotonic()
    for number, row in enumerate(code.score_each(tried())):
        scored[order[number]] = row
        if time.monotonic() > told + EVERY_S:
            told = time.monotonic()
            print(f"{row.benchmark}: {number + 1:,} of {len(answers):,} programs tried", file=sys.stderr)
    if asked:
        raise AssayError("question {1} of {0} has no tests".format(*next(iter(asked))))
    yield from (scored[place] for place in range(len(answers)))
