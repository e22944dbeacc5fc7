"""Answers that are programs, run in our sandbox against their tests: problems as LiveCodeBench and HumanEval have them.

Nothing runs bare: where the machine lacks one of the sandbox's walls (`assay.sandbox.isolation`) there is no score. What is
expected never enters the sandbox with the answer's program: it prints, or returns plain values, and they are compared here.
HumanEval's tests are programs themselves, so they run in a sandbox of their own, in which the function stands for the values
that the answer's program gave in another: first all arguments are collected, then the tests run on the values. So a function
that changes its argument in place, instead of returning, cannot be told right by such a test.

A problem is right when all its tests are (pass@1). A program that fails, is too slow or needs too much memory is wrong. One
that needs a package beyond the standard library, or that the sandbox could not take, has no score, and its fault is told.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import pickle
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from assay.bench.reasoning.rows import Absent, Answered
from assay.errors import AssayError
from assay.llm.parsing import after_thoughts
from assay.sandbox import Ran, isolation, run_python

HARNESS = (Path(__file__).parent / "harness.py").read_text(encoding="utf-8")
WALLS = ("namespaces", "files", "calls")
ROUNDS = 6
"""How often tests may ask for values that they did not ask for before: arguments may be made of earlier values."""
PREAMBLE = """import sys, math, re, string, random, itertools, functools, collections, heapq, bisect, operator, copy
import datetime, statistics
from math import *
from typing import *
from collections import *
from itertools import *
from functools import *
from heapq import *
from bisect import *
sys.setrecursionlimit(50_000)
"""
"""What LiveCodeBench's problems may use without asking for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What an answer's program must do. `kind`: it reads the tests' input and prints ("stdin"), its function `entry` is
    called ("call"; a method of `Solution` where there is one), or the program `check` tests `entry` ("check").

    `before` is put in front of the program. `tests`: (input, expected output); of "call" a JSON value a line, and one.
    `seconds` of processor time for each test.
    """

    kind: Literal["stdin", "call", "check"]
    tests: tuple[tuple[str, str], ...] = ()
    entry: str = ""
    check: str = ""
    before: str = ""
    prompt: str = ""
    seconds: int = 6
    memory_mb: int = 1_024


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a program is right, None with the `fault` where that could not be told; `why`: what was wrong."""

    right: bool | None
    why: str = ""
    fault: str = ""


def score_code(rows: Iterable[Answered], tests: Mapping[str, Problem]) -> Iterator[Answered]:
    """The rows, in order, each with the score of its answer's program: 1 where it passes all tests of its question.

    Raises Absent where the sandbox cannot be had, AssayError for a question without tests.
    """

    def tried() -> Iterator[tuple[Answered, Problem]]:
        for row in rows:
            if row.question not in tests:
                raise AssayError(f"question {row.question} of {row.benchmark} has no tests")
            yield row, tests[row.question]

    yield from score_each(tried())


def score_each(
    tried: Iterable[tuple[Answered, Problem]], workers: int = max(1, (os.cpu_count() or 2) - 1)
) -> Iterator[Answered]:
    """The same of rows that come with their problems: no more than `workers` + 1 of these are held at a time."""
    walled()
    with ThreadPoolExecutor(workers) as pool:
        under_way = deque[Future[Answered]]()
        for row, problem in tried:
            under_way.append(pool.submit(_scored, row, problem))
            if len(under_way) > workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _scored(row: Answered, problem: Problem) -> Answered:
    code = (program_of(row.answer) or bare(row.answer, problem)) if row.finished else ""
    found = judge(problem, code) if code else Verdict(False, "no program in the answer")
    return replace(
        row, score=None if found.right is None else float(found.right), extracted=code, fault=found.fault,
        by=f"tests in our sandbox{f': {found.why}' if found.why else ''}",
    )  # fmt: skip


def walled() -> None:
    """Raises Absent where the sandbox lacks one of its walls."""
    if lacking := [w for w in WALLS if w not in isolation()]:
        raise Absent(
            f"programs of a model are not run on this machine: its sandbox lacks {', '.join(lacking)} (it needs Linux 5.13 "
            "or later on x86_64 or aarch64, with unshare and user namespaces: docs/web.md)"
        )


def program_of(answer: str) -> str:
    """The last fenced block of an answer, thoughts aside; "" where there is none."""
    said = after_thoughts(answer) or ""
    blocks = re.findall(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", said, re.DOTALL | re.MULTILINE)
    python = [text for language, text in blocks if language.lower() in ("", "python", "python3", "py")]
    return python[-1] if python else ""


def bare(answer: str, problem: Problem) -> str:
    """An answer to a HumanEval question that is a program without a fence, or the rest of the one that the question
    begins; "" for anything else."""
    said = after_thoughts(answer) or ""
    if problem.kind != "check" or not said.strip():
        return ""
    for text in (said, problem.prompt + said):
        try:
            tree = ast.parse(text)
            compile(tree, "answer", "exec")  # nothing runs: a return outside a function is seen here only
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        if problem.entry in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}:
            return said
    return ""


def judge(problem: Problem, code: str) -> Verdict:
    """Whether a program is right."""
    return {"stdin": _printed, "call": _called, "check": _checked}[problem.kind](problem, code)


def _sandboxed(problem: Problem, code: str, given: str = "", room: int = 0) -> Ran:
    """A run; by the clock it may take several times its processor time, for others are at work beside it."""
    return run_python(
        code, given=given, seconds=5 * problem.seconds + 5, cpu=problem.seconds, memory_mb=problem.memory_mb,
        output_bytes=max(65_536, 4 * room),
    )  # fmt: skip


def _wrong(ran: Ran) -> Verdict | None:
    """What a run that did not end well says of its program; None for one that did."""
    if ran.problem in ("busy", "the program is too long") or ran.problem.startswith("not begun"):
        return Verdict(None, fault=f"sandbox: {ran.problem}")
    if ran.problem:
        return Verdict(False, ran.problem)
    if ran.exit_code:
        last = ran.stderr.strip().splitlines()[-1:] or [f"exit code {ran.exit_code}"]
        return _failed(last[0][:200])
    return None


def _failed(error: str) -> Verdict:
    """A program that raised: wrong, unless it is the sandbox that lacks what it needs."""
    missing = re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", error)
    if missing:
        return Verdict(None, fault=f"the program needs {missing[1]}, and the sandbox has the standard library only")
    return Verdict(False, error)


def _printed(problem: Problem, code: str) -> Verdict:
    for number, (given, expected) in enumerate(problem.tests, 1):
        ran = _sandboxed(problem, problem.before + code, given, len(expected))
        if (found := _wrong(ran)) is not None:
            return replace(found, why=found.why and f"test {number}: {found.why}")
        if not same_output(ran.stdout, expected):
            return Verdict(False, f"test {number}: another output")
    return Verdict(True)


def same_output(printed: str, expected: str) -> bool:
    """Line by line, white space around lines aside; a line of numbers by their values."""
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
    if len(ours) != len(theirs):
        return False
    return all(a == b or _numbers(a) == _numbers(b) != [] for a, b in zip(ours, theirs, strict=True))


def _numbers(line: str) -> list[Decimal]:
    try:
        return [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return []


def _called(problem: Problem, code: str) -> Verdict:
    for number, (given, expected) in enumerate(problem.tests, 1):
        arguments = [json.loads(line) for line in given.split("\n") if line.strip()]
        ran, values = _values(problem, code, [(arguments, {})], len(expected))
        if (found := _wrong(ran)) is not None:
            return replace(found, why=found.why and f"test {number}: {found.why}")
        said = values[0] if values else {"error": "it ended itself"}
        if "error" in said:
            failed = _failed(said["error"])
            return replace(failed, why=failed.why and f"test {number}: {failed.why}")
        if _plain(said["value"]) != json.loads(expected):
            return Verdict(False, f"test {number}: another value")
    return Verdict(True)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


Call = tuple[list[Any], dict[str, Any]]


def _values(
    problem: Problem, code: str, calls: Sequence[Call], room: int = 0
) -> tuple[Ran, list[dict[str, Any]] | None]:
    """What the answer's function gives for each call: {"value": ...} or {"error": ...}; None where nothing readable came."""
    request = repr({"program": problem.before + code, "entry": problem.entry, "calls": calls})
    ran = _sandboxed(problem, HARNESS, request, room + len(request))
    told = _read(ran.stdout)
    whole = isinstance(told, list) and len(told) == len(calls) and all(isinstance(x, dict) and x for x in told)
    return ran, told if whole else None


def _read(printed: str) -> Any:
    """The value that a harness printed last; None where it is none."""
    try:
        return ast.literal_eval(printed.strip().rsplit("\n", 1)[-1])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _checked(problem: Problem, code: str) -> Verdict:
    if f"def {problem.entry}" not in code:
        code = problem.prompt + code
    else:
        code = problem.prompt.partition(f"def {problem.entry}")[0] + code
    known: list[tuple[Call, dict[str, Any]]] = []
    for _ in range(ROUNDS):
        request = repr({"check": problem.check, "entry": problem.entry, "known": known})
        ran = _sandboxed(problem, HARNESS, request, 2 * len(request))
        told = _read(ran.stdout) if not ran.problem and not ran.exit_code else None
        if not isinstance(told, dict):
            return Verdict(None, fault=f"the problem's own test failed: {ran.problem or ran.stderr.strip()[-200:]}")
        if not told["asked"]:
            return Verdict(not told["failed"], told["failed"])
        ran, values = _values(problem, code, told["asked"])
        if (found := _wrong(ran)) is not None:
            return found
        if values is None:
            return Verdict(False, "it ended itself")
        for said in values:
            if (failed := _failed(said.get("error", ""))).fault:
                return failed
        known += zip(told["asked"], values, strict=True)
    return Verdict(None, fault=f"the problem's test asks for new values more than {ROUNDS} times")


def livecodebench(row: Mapping[str, Any]) -> tuple[str, Problem]:
    """(question, problem) of a row of LiveCodeBench's `test*.jsonl`. Raises AssayError for one of another form."""
    name = str(row.get("question_id", ""))
    try:
        tests = [*json.loads(row["public_test_cases"]), *_private(row["private_test_cases"])]
        entry = json.loads(row.get("metadata") or "{}").get("func_name", "")
        kinds = {t["testtype"] for t in tests}
        cases = tuple((str(t["input"]), str(t["output"])) for t in tests)
    except (KeyError, TypeError, ValueError, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise AssayError(
            f"question {name or '?'} of LiveCodeBench: {error!r}; fetch the released file again"
        ) from error
    if not name or not cases or kinds not in ({"stdin"}, {"functional"}) or (kinds == {"functional"}) != bool(entry):
        raise AssayError(f"question {name or '?'} of LiveCodeBench: tests of kind {sorted(kinds)}, function {entry!r}")
    kind: Literal["stdin", "call"] = "call" if entry else "stdin"
    return name, Problem(kind=kind, tests=cases, entry=entry, before=PREAMBLE)


class _Texts(pickle.Unpickler):
    """Reads a pickled text; anything that would call something is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it is no text: it names {module}.{name}")


def _private(told: str) -> list[dict[str, Any]]:
    """Private tests: JSON, or JSON as a pickled text, compressed, in base64."""
    try:
        return list(json.loads(told))
    except ValueError:
        text = _Texts(io.BytesIO(zlib.decompress(base64.b64decode(told)))).load()
        return list(json.loads(text))


def humaneval(row: Mapping[str, Any]) -> tuple[str, Problem]:
    """(question, problem) of a row of HumanEval. Raises AssayError for one of another form."""
    wanted = ("task_id", "prompt", "entry_point", "test")
    if gone := [k for k in wanted if not isinstance(row.get(k), str)]:
        raise AssayError(f"question {row.get('task_id', '?')} of HumanEval: no text in {', '.join(gone)}")
    check = f"{row['test']}\ncheck({row['entry_point']})\n"
    return row["task_id"], Problem(kind="check", entry=row["entry_point"], check=check, prompt=row["prompt"])


READERS: dict[str, Callable[[Mapping[str, Any]], tuple[str, Problem]]] = {
    "livecodebench": livecodebench, "humaneval": humaneval,
}  # fmt: skip
