"""A reasoning benchmark's questions, to look at while a policy trains: how its answers compare, and a prompt for them.

A look, not a measurement: a sample, greedy, at the training's own length. `assay policy bench` measures.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from assay.bench.files import found as found_in
from assay.bench.files import rows
from assay.bench.reasoning.tasks import TASKS
from assay.bench.reward import VARIABLE
from assay.errors import AssayError
from assay.images import ImageStore
from assay.rollouts import AnswerKind, Prompt
from assay.tuning.config import Task, TuneConfig
from assay.tuning.exam import exam_of, overlap
from assay.tuning.questions import read as read_questions
from assay.tuning.questions import reason_of

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchable:
    """How a benchmark's answers compare (None: by what each looks like), and the field that holds them, or that does so in
    copies without it."""

    kind: AnswerKind | None = None
    answer: str = "answer"
    otherwise: str = ""


WATCHABLE = {
    "aime24": Watchable(kind="number", otherwise="solution"), "aime25": Watchable(kind="number"),
    "amc23": Watchable(kind="number"), "math500": Watchable(kind="math"), "olympiadbench": Watchable(answer="final_answer"),
    "mathvision": Watchable(), "mathvista": Watchable(),
}  # fmt: skip
OTHERS = ("livecodebench", "livebench", "ifeval", "bfcl", "mmmu", "mmmu-pro")
"""Of paper B those whose rule is no comparison with one answer, or whose questions have another form."""
_NAMED = re.compile(r"([a-z][a-z0-9-]*)(?::(\d+))?")


def benchmark_of(text: str) -> tuple[str, int] | None:
    """(benchmark, how many; 0: all) of NAME or NAME:N; None where it is no benchmark's name, so that it is a file's.

    Raises AssayError for a benchmark that cannot be watched, and where a file has the same name.
    """
    found = _NAMED.fullmatch(text)
    if found is None or found[1] not in (*WATCHABLE, *OTHERS):
        return None
    if Path(text).exists():
        raise AssayError(f"--watch {text}: is a benchmark and a file here: write ./{text} for the file")
    if found[1] in OTHERS:
        raise AssayError(
            f"--watch {text}: no rule of the training tells its right answers; what can be watched: {', '.join(WATCHABLE)}"
        )
    if found[2] == "0":
        raise AssayError(f"--watch {text}: no question would be watched")
    return found[1], int(found[2] or 0)


def questions_of(
    name: str, count: int, seed: int, data: Path | None, store: ImageStore, most: int = 0
) -> tuple[list[Prompt], str]:
    """(`count` random questions of a benchmark, 0: all, or `most` of them, as they stand; what was read, in words). `data`
    is the folder that holds the benchmark's (None: $ASSAY_BENCH_DATA).

    Raises AssayError where there is none, or several, and for fewer questions than were asked for.
    """
    folder = data or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if folder is None or not folder.is_dir():
        raise AssayError(
            f"--watch {name}: {folder or 'no folder of benchmarks'}: give --watch-data DIR, or set ${VARIABLE}"
        )
    file, what = _file(name, folder), WATCHABLE[name]
    other = what.otherwise and not any(what.answer in row.value for row in rows(file))
    prompts, rejections = read_questions(file, store, what.otherwise if other else what.answer)
    if kind := what.kind:
        prompts = [replace(p, kind=kind) for p in prompts]
    known = [p for p in prompts if p.answer]
    if count > len(known):
        raise AssayError(f"--watch {name}:{count}: {file} has {len(known):,} questions with an answer")
    none = f" ({len(prompts) - len(known):,} more have no answer)" if len(known) < len(prompts) else ""
    left = f"; {len(rejections):,} rows left out, the first: {reason_of(rejections[0])}" if rejections else ""
    order = np.random.default_rng(seed).permutation(len(known))[: count or most or len(known)]
    told = f"{name}: {len(order):,} of {len(known):,} questions of {file}{none}{left}"
    return [known[i] for i in sorted(order.tolist())], told


def watching(task: Task, config: TuneConfig, store: ImageStore, say: Callable[[str], None]) -> Task:
    """A recipe's task, watched by the benchmark that `config.watch` names in place of its own questions ("": as it is); what
    these share with those of the training is said.

    Raises AssayError as `benchmark_of` and `questions_of` do, and for pictures where the policy sees none.
    """
    if not config.watch:
        return task
    found = benchmark_of(config.watch)
    if found is None:
        raise AssayError(f"--watch {config.watch}: a recipe watches NAME or NAME:N, NAME one of {', '.join(WATCHABLE)}")
    few = config.monitor.prompts
    prompts, told = questions_of(*found, config.seed, config.watch_data, store, few)
    if any(p.images for p in prompts) and not task.test.prompts[0].images:
        raise AssayError(
            f"--watch {config.watch}: its questions show pictures, and the policy of {config.recipe} sees none"
        )
    say(f"watches {told}; not the recipe's own, so what it invents is not watched")
    stages = {"imitated": task.align, "gold": task.gold, "of pairs": task.pairs, "trained on": task.tune}
    for name, some in stages.items():
        for line in overlap({name: some, "watched": prompts}):
            say(line)
    return replace(task, watched=exam_of(prompts, config.seed))


def _file(name: str, folder: Path) -> Path:
    """The one file of a benchmark: that which `assay policy bench` reads, else one in a folder of its name, or itself called
    so."""
    found = TASKS[name].paths(folder) if name in TASKS else [
        p for p in found_in(folder) if any(part.lower().startswith(name) for part in p.relative_to(folder).parts)
    ]  # fmt: skip
    if len(found) != 1:
        seen = ", ".join(str(p.relative_to(folder)) for p in found[:5])
        raise AssayError(
            f"--watch {name}: expected one file {name}/*.jsonl or {name}*.jsonl in {folder}, found {seen or 'none'}"
        )
    return found[0]


def asking(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same questions, asked for an answer in a box."""
    return [
        replace(p, messages=(*p.messages[:-1], replace(p.messages[-1], content=f"{p.messages[-1].content}\n\n{BOXED}")))
        for p in prompts
    ]
