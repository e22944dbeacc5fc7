"""The Berkeley Function Calling Leaderboard (Patil et al. 2025) by its own package, `bfcl-eval`, in its own environment.

Two ways of asking, which are two benchmarks: "bfcl" writes the functions into the prompt and reads calls from the text (any
server can be asked), "bfcl-fc" hands them over as tools, so that the server's chat template and tool parser take part: with
a wrong parser a good model gets 0.

Paper B (2025-04) names no version; at that time the leaderboard was v3. The package has v4's data: v3's categories in a
later state, without those that v3 ran ("executable"), and with agentic ones (web search, memory), which are left out here,
for they need the network. So no number of it stands under the paper's name.

The package counts a reply that could not be had as a wrong one, an empty one as right where no call is due, and a category
that was not asked as 0: here the first has no score and its fault, the second is wrong, and `totals` says how much of each
group was asked. It goes on where it was killed: what it wrote is
kept, a line that was cut and what failed is asked again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from assay.bench.reasoning.rows import Answered, Driver, Job
from assay.errors import AssayError
from assay.tables import write_text

VERSION = "2026.3.23"
ALONE = (f"bfcl-eval=={VERSION}",)
"""Without what it names: the packages of a dozen vendors, torch and faiss, 1.9 GB, none of which is needed here."""
PINS = (
    "openai==3.57.0", "numpy==1.26.4", "pandas==3.0.6", "requests==2.34.2", "tqdm==4.70.1", "python-dotenv==1.2.4",
    "filelock==3.20.0", "overrides==7.7.0", "tenacity==9.1.4", "mpmath==1.3.0", "tree_sitter==0.21.3",
    "tree-sitter-java==0.21.0", "tree-sitter-javascript==0.21.4",
)  # fmt: skip
SIZE = "about 255 MB"
GROUPS = {
    "non-live": ("simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple",
                 "irrelevance"),
    "live": ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple", "live_irrelevance",
             "live_relevance"),
    "multi-turn": ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"),
}  # fmt: skip
CATEGORIES = tuple(c for group in GROUPS.values() for c in group)
SIZES = {
    "simple_python": 400, "simple_java": 100, "simple_javascript": 50, "multiple": 200, "parallel": 200,
    "parallel_multiple": 200, "irrelevance": 240, "live_simple": 258, "live_multiple": 1_053, "live_parallel": 16,
    "live_parallel_multiple": 24, "live_irrelevance": 884, "live_relevance": 16, "multi_turn_base": 200,
    "multi_turn_miss_func": 200, "multi_turn_miss_param": 200, "multi_turn_long_context": 200,
}  # fmt: skip
"""Questions in each, in the package's data (a test)."""
MODES = {"bfcl": "prompt", "bfcl-fc": "fc"}
CARDS = {
    name: {
        "release": f"v4's data, in bfcl-eval {VERSION}; v3's categories without its executable ones",
        "mode": {"prompt": "prompt: functions in the system prompt", "fc": "function calling: functions as tools"}[mode],
        "split": "single turn (non-live, live) and multi turn", "extractor": "bfcl-eval's, of the text after thoughts;",
        "judge": "bfcl-eval's checkers: syntax trees, and states for multi turn",
        "paper": "no: it names no version, v3 was the leaderboard's then",
    }
    for name, mode in MODES.items()
}  # fmt: skip
FAILED = "Error during inference: "
RUNNER = Path(__file__).with_name("bfcl_run.py")


def driver(python: Path, categories: Sequence[str] = CATEGORIES) -> Driver:
    """The driver that runs in the environment whose interpreter is `python`."""
    if unknown := [c for c in categories if c not in CATEGORIES]:
        raise AssayError(f"unknown category {unknown[0]!r} of BFCL; known are {', '.join(CATEGORIES)}")
    return partial(_ask, python=python, categories=tuple(categories))


def _ask(job: Job, python: Path, categories: tuple[str, ...]) -> Iterator[Answered]:
    """Asks what has no answer yet; all rows. With a limit, in turn one question of each category. Several repeats are begun
    anew, each in its turn: the recorder between, which tells answers to one question apart by their order, remembers them.
    Raises AssayError where the package fails."""
    if job.benchmark not in MODES:
        raise AssayError(f"{job.benchmark} is not asked by bfcl-eval; known are {', '.join(MODES)}")
    for repeat in range(job.repeats):
        work = (job.work / f"repeat-{repeat}").resolve()
        if job.repeats > 1:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        for file in work.glob("result/**/*_result.json"):
            tidy(file)
        write_text(work / "task.json", json.dumps(_task(job, repeat, categories)))
        _run([str(python), str(RUNNER), str(work / "task.json"), str(os.getpid())], job, work)
        yield from rows(job.benchmark, work, repeat)


def _task(job: Job, repeat: int, categories: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": job.benchmark, "mode": MODES[job.benchmark], "model": job.model, "categories": categories,
        "limit": job.limit, "temperature": job.temperature, "max_tokens": job.max_tokens, "seed": job.seed + repeat,
        "at_once": job.at_once,
    }  # fmt: skip


def _run(command: list[str], job: Job, work: Path) -> None:
    """Its progress (on stderr) is shown as it comes; what it says of each turn goes to a file."""
    key = job.key or "-"
    own = {"BFCL_PROJECT_ROOT": str(work), "OPENAI_BASE_URL": job.url, "OPENAI_API_KEY": key, "OMP_NUM_THREADS": "1"}
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OPENAI_DEFAULT_HEADERS")}
    with (work / "log.txt").open("wb") as log:
        done = subprocess.run(command, env={**kept, **own}, stdout=log, check=False, cwd=work)
    if done.returncode:
        raise AssayError(
            f"bfcl-eval ended with {done.returncode} (what it said is above, and in {work / 'log.txt'}); what it has is in "
            f"{work}, and the same command goes on with it"
        )


def tidy(file: Path) -> None:
    """Leave in a result file what was answered: no line that was cut, no request that failed."""
    with file.open(encoding="utf-8", newline="\n") as text:
        lines = list(text)
    whole = [line for line in lines if line.endswith("\n") and not _failure(json.loads(line))]
    if whole != lines:
        write_text(file, "".join(whole))


def _failure(row: dict[str, Any]) -> str:
    """Why a reply could not be had; "" where it could."""
    result = row["result"]
    return result if isinstance(result, str) and "finish" not in row and result.startswith(FAILED) else ""


def rows(benchmark: str, work: Path, repeat: int) -> Iterator[Answered]:
    """What the package left in a folder, answer by answer, in its order; a question without a result has a fault.

    Raises AssayError where it left no list of what was asked.
    """
    try:
        asked = json.loads((work / "asked.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssayError(f"{work}: bfcl-eval left no list of what it asked ({error})") from error
    for category, told in asked.items():
        results = {r["id"]: r for r in _lines(work, category, "result")}
        scores = _lines(work, category, "score")
        wrong = {r["id"]: r for r in scores[1:]}
        for name, expected in told["asked"].items():
            yield _row(benchmark, name, repeat, category, expected, results.get(name), wrong.get(name), bool(scores))


def _row(
    benchmark: str, name: str, repeat: int, category: str, expected: Any, result: dict[str, Any] | None,
    wrong: dict[str, Any] | None, scored: bool,
) -> Answered:  # fmt: skip
    by = f"bfcl-eval {VERSION}, {MODES[benchmark]}"
    told: dict[str, Any] = {
        "benchmark": benchmark, "question": name, "repeat": repeat, "subset": category,
        "expected": "" if expected is None else json.dumps(expected),
    }  # fmt: skip
    if result is None or _failure(result):
        return Answered(
            **told, answer="", score=None, finished=False, by=by, fault=_failure(result) if result else "not asked"
        )
    said = result["result"]
    answer = said if isinstance(said, str) else json.dumps(said)
    silent = said in ("", None, [])  # the package takes it for "no call is due": of a thought without an end as well
    finished = not silent and "length" not in result.get("finish", ())
    score = None if not scored else 0.0 if wrong or not finished else 1.0
    thoughts = "\n\n".join(filter(None, result.get("thoughts", ())))
    return Answered(
        **told, answer=answer, score=score, finished=finished, thoughts=thoughts,
        extracted="" if wrong and "decoder" in _why(wrong) else answer,
        by=f"{by}: {_why(wrong)}" if wrong else by, fault="" if scored else "not scored",
    )  # fmt: skip


def _why(wrong: dict[str, Any]) -> str:
    """The kind of error; of several turns it lies one deeper."""
    error = wrong.get("error")
    return str(wrong.get("error_type") or (error.get("error_type") if isinstance(error, dict) else "") or "wrong")


def _lines(work: Path, category: str, kind: str) -> list[dict[str, Any]]:
    files = list(work.glob(f"{kind}/**/BFCL_v4_{category}_{kind}.json"))
    text = files[0].read_text(encoding="utf-8") if files else ""
    return [json.loads(line) for line in text.split("\n") if line.strip()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A group's number in percent, as the leaderboard puts it together: None where a category of it has no score at all.
    `n` of its `of` questions have a score."""

    name: str
    value: float | None
    n: int
    of: int


def totals(answers: Sequence[Answered]) -> list[Total]:
    """The leaderboard's three groups. Non-live: the mean of simple (itself the mean of its three languages), multiple,
    parallel and parallel multiple; live: over all its questions but relevance's; multi turn: the mean of its four. What is
    irrelevant is apart, as there."""
    own = {c: [a.score for a in answers if a.subset == c and a.score is not None] for c in CATEGORIES}
    mean = {c: 100 * sum(s) / len(s) if s else None for c, s in own.items()}
    simple = _mean([mean[c] for c in GROUPS["non-live"][:3]])
    live = GROUPS["live"][:4]
    all_live = [s for c in live for s in own[c]] if all(own[c] for c in live) else []
    hallucination = ("irrelevance", "live_irrelevance")
    found = {
        "non-live": (GROUPS["non-live"][:6], _mean([simple, *(mean[c] for c in GROUPS["non-live"][3:6])])),
        "live": (live, 100 * sum(all_live) / len(all_live) if all_live else None),
        "multi-turn": (GROUPS["multi-turn"], _mean([mean[c] for c in GROUPS["multi-turn"]])),
        "irrelevance": (hallucination, _mean([mean[c] for c in hallucination])),
    }
    repeats = 1 + max((a.repeat for a in answers), default=0)
    return [
        Total(name=n, value=v, n=sum(len(own[c]) for c in cs), of=repeats * sum(SIZES[c] for c in cs))
        for n, (cs, v) in found.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
