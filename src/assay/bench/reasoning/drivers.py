"""Which library runs which of the ten benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from assay.bench.files import rows
from assay.bench.reasoning import evalscope
from assay.bench.reasoning.rows import Answered, Driver
from assay.bench.reasoning.tasks import TASKS
from assay.errors import AssayError

TEN = (
    "aime24", "livecodebench", "livebench", "ifeval", "bfcl", "mmmu", "mathvista", "olympiadbench", "mathvision", "mmmu-pro",
)  # fmt: skip
"""Paper B's ten, in the order of its Table 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A driver, and the library's name and version."""

    driver: Driver
    name: str


def library_of(benchmark: str, environments: Path, install: bool, say: Callable[[str], None] = print) -> Library:
    """What runs a benchmark. Raises AssayError, one line with what to do, where nothing does here."""
    if benchmark in TASKS:
        python = evalscope.python_of(environments, install, say)
        scorer = sandboxed if benchmark == "livecodebench" and _has_sandbox() else None
        return Library(driver=evalscope.driver(python, scorer), name=f"evalscope {evalscope.VERSION}")
    if benchmark == "livebench":
        raise AssayError(
            "livebench: its questions and judge are on the network, and no package carries them: run its own repository "
            "(livebench.ai) against the same server"
        )
    if benchmark == "bfcl" and find_spec("assay.bench.reasoning.bfcl") is not None:
        found: Library = import_module("assay.bench.reasoning.bfcl").library(environments, install, say)
        return found
    raise AssayError(f"{benchmark}: nothing here runs it; the ten are {', '.join(TEN)}")


def _has_sandbox() -> bool:
    return find_spec("assay.bench.reasoning.code") is not None


def sandboxed(answers: Sequence[Answered], data: Path) -> Iterable[Answered]:
    """LiveCodeBench's programs against their tests, in our sandbox."""
    code: Any = import_module("assay.bench.reasoning.code")
    task, asked = TASKS["livecodebench"], {r.question for r in answers}
    tests = dict(
        code.livecodebench(row.value) for f in task.paths(data) for row in rows(f)
        if str(row.value.get("question_id")) in asked
    )  # fmt: skip
    scored: Iterable[Answered] = code.score_code(answers, tests)
    return scored
