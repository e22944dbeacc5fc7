"""Programs of answers against their tests, in the sandbox. The problems, in the two benchmarks' form, are ours."""

import base64
import json
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import reasoning_sets
from assay.bench.reasoning import code as code_module
from assay.bench.reasoning.code import (
    Problem,
    Verdict,
    humaneval,
    judge,
    livecodebench,
    program_of,
    same_output,
    score_code,
    score_each,
)
from assay.bench.reasoning.drivers import sandboxed
from assay.bench.reasoning.rows import Answered
from assay.errors import AssayError
from assay.sandbox import isolation

pytestmark = pytest.mark.skipif(
    set(code_module.WALLS) > set(isolation()),
    reason="this machine has no whole sandbox: programs of answers are not run",
)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowded machine may take long to begin a program: what bounds these is their processor's time."""
    run = code_module.run_python
    monkeypatch.setattr(code_module, "run_python", lambda *of, seconds, **more: run(*of, seconds=seconds + 300, **more))


ADD = Problem(kind="stdin", tests=(("1 2\n", "3\n"), ("10 -4\n", "6")), seconds=2)
PAIR = Problem(
    kind="call",
    entry="both",
    tests=(("[1, 2]\n3", "[[1, 2], 3]"), ("[]\n0", "[[], 0]")),
    before=code_module.PREAMBLE,
    seconds=2,
)
CHECK = {
    "task_id": "HumanEval/0", "entry_point": "double", "canonical_solution": "    return 2 * x\n",
    "prompt": "from typing import List\n\n\ndef double(x: int) -> int:\n    \"\"\" Twice x.\n    \"\"\"\n",
    "test": (
        "METADATA = {}\n\n\ndef check(candidate):\n    import math, random\n    assert candidate(2) == 4\n"
        "    for _ in range(20):\n        n = random.randint(0, 9)\n"
        "        assert math.fabs(candidate(n) - 2 * n) < 1e-6, 'sum'\n"
        "    assert candidate(candidate(3)) == 12\n"
    ),
}  # fmt: skip


def fenced(text: str) -> str:
    return f"Here it is.\n```python\n{text}\n```\nIt adds."


def answered(question: str, answer: str, **more: Any) -> Answered:
    return Answered(benchmark="b", question=question, repeat=0, answer=answer, score=None, **more)


def test_right_wrong_and_no_program() -> None:
    rows = [
        answered("add", fenced("a, b = map(int, input().split())\nprint(a + b)")),
        answered("add", fenced("a, b = map(int, input().split())\nprint(abs(a) + abs(b))")),
        answered("add", "The sum is 3."),
        answered("add", "```python\nprint(1", finished=False),
        answered("pair", fenced("class Solution:\n    def both(self, a: List[int], b: int):\n        return a, b")),
        answered("pair", fenced("def both(a, b):\n    return [a, b]")),
        answered("pair", fenced("def both(a, b):\n    return [b, a]")),
        answered("add", fenced("import numpy\nprint(3)")),
        answered("pair", fenced("def both(a, b):\n    import numpy\n    return [a, b]")),
    ]
    found = list(score_code(rows, {"add": ADD, "pair": PAIR}))
    assert [r.score for r in found] == [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, None, None]
    assert [r.question for r in found] == [r.question for r in rows]
    assert found[1].by == "tests in our sandbox: test 2: another output"
    assert found[2].by.endswith("no program in the answer")
    assert all("needs numpy" in r.fault for r in found[7:])
    assert not any(r.fault for r in found[:7])


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ("    return 2 * x\n", True), ("    return x + x if x != 6 else 0\n", False), ("    return x\n", False),
        ("from math import *\n\ndef double(x):\n    return 2 * x\n", True), ("    raise ValueError(x)\n", False),
        ("    return {'a': [2 * x]}['a'][0]\n", True), ("    return object()\n", False),
    ],
)  # fmt: skip
def test_humaneval(body: str, right: bool) -> None:
    """Also tests that draw their arguments, and that call the function on what it gave."""
    _, problem = humaneval(CHECK)
    assert judge(problem, body).right is right


def test_a_program_without_a_fence() -> None:
    """HumanEval asks for code alone: the whole function, or the rest of the one that it begins; words are no program."""
    name, problem = humaneval(CHECK)
    rows = [
        answered(name, text)
        for text in ("def double(x: int) -> int:\n    return 2 * x\n", "    return 2 * x\n", "    return x\n",
                     "Return twice x.", "return 2 * x")
    ]  # fmt: skip
    found = list(score_code(rows, {name: problem}))
    assert [r.score for r in found] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert [bool(r.extracted) for r in found] == [True, True, True, False, False]
    (other,) = score_code([answered("add", "print(3)")], {"add": ADD})
    assert (other.score, other.extracted) == (0.0, "")


def test_a_test_that_is_broken_is_no_wrong_answer() -> None:
    _, problem = humaneval(CHECK | {"test": "def check(candidate)\n"})
    found = judge(problem, "    return 2 * x\n")
    assert found.right is None
    assert "own test failed" in found.fault


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("while True: pass", "timed out"), ("x = bytearray(3 << 30)", "out of memory"), ("print('x' * 10**6)", "too much"),
        ("import os\nos._exit(3)", "exit code 3"), ("1 / 0", "ZeroDivisionError"), ("print(", "SyntaxError"),
    ],
)  # fmt: skip
def test_a_program_that_fails_is_wrong(program: str, why: str) -> None:
    found = judge(Problem(kind="stdin", tests=(("", "3"),), seconds=1), program)
    assert found.right is False
    assert why in found.why


ESCAPES = {
    "a file of the host": "print(open('{secret}').read())",
    "the folder of tests": "import os\nprint(os.listdir('{folder}'))",
    "the network": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\nprint('out')",
    "a fork": "import os\nwhile True: os.fork()",
    "a program": "import subprocess\nprint(subprocess.run(['/bin/echo', 'out'], capture_output=True).stdout)",
    "tracing": "import ctypes\nprint('out' if ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0 else '')",
    "other processes": "import os\nprint('out' if len([p for p in os.listdir('/proc') if p.isdigit()]) > 2 else '')",
    "a signal to the parent": "import os\nos.kill(os.getppid(), 9)\nprint('out')",
    "the environment": "import os\nprint(os.environ['ASSAY_SECRET'])",
}


@pytest.mark.parametrize("way", ESCAPES)
@pytest.mark.parametrize("kind", ["stdin", "call", "check"])
def test_no_way_out(way: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way out would print or return a word that a program here cannot know."""
    (tmp_path / "secret").write_text("out")
    monkeypatch.setenv("ASSAY_SECRET", "out")
    program = ESCAPES[way].format(secret=tmp_path / "secret", folder=tmp_path, port=9)
    test = (("", "out"),)
    if kind == "stdin":
        found = judge(Problem(kind="stdin", tests=test, seconds=2), program)
    else:
        function = (
            "def f():\n    import contextlib, io\n    said = io.StringIO()\n    with contextlib.redirect_stdout(said):\n"
            f"        exec({program!r})\n    return said.getvalue().strip()\n"
        )
        check = Problem(kind="check", entry="f", check="assert f() == 'out'\n", seconds=2)
        found = judge(
            Problem(kind="call", entry="f", tests=(("", '"out"'),), seconds=2) if kind == "call" else check, function
        )
    assert found.right is not True


SEARCH = """
def f(x):
    import gc, sys, os
    seen = [repr(o) for o in gc.get_objects() if isinstance(o, (dict, list, tuple, str))]
    frame = sys._getframe()
    while frame:
        seen += [repr(frame.f_locals), repr(frame.f_globals)]
        frame = frame.f_back
    for folder, _, files in os.walk('.'):
        seen += [open(os.path.join(folder, file)).read() for file in files]
    seen.append(repr(sys.argv))
    number = ''.join(['7712', str(3)])
    return int(number) if any(number in text for text in seen if len(text) < 10**6) else 0
"""


def test_what_is_expected_is_not_where_the_program_is() -> None:
    """A program that looks through its own process for the answer finds none (it must not hold the number itself)."""
    call = Problem(kind="call", entry="f", tests=(("1", "77123"),), seconds=4)
    check = Problem(kind="check", entry="f", check="assert f(1) == 77123\n", seconds=4)
    printed = Problem(kind="stdin", tests=(("1", "77123"),), seconds=4)
    assert judge(call, SEARCH).right is False
    assert judge(check, SEARCH).right is False
    assert judge(printed, SEARCH + "print(f(1))").right is False
    assert judge(call, "def f(x):\n    return 77123").right is True


def test_a_test_cannot_be_turned_by_the_answer() -> None:
    """In one process an answer could make every assertion pass."""
    program = (
        "class Yes(int):\n    __eq__ = lambda *a: True\n    __sub__ = lambda *a: 0\ndef double(x):\n    return Yes(1)\n"
    )
    _, problem = humaneval(CHECK)
    assert judge(problem, program).right is False
    assert judge(problem, "import os\nprint({'asked': [], 'failed': ''})\nos._exit(0)\n").right is False


def test_without_the_walls_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_module, "isolation", lambda: ("calls",))
    with pytest.raises(AssayError, match="lacks namespaces, files"):
        list(score_code([answered("add", fenced("print(3)"))], {"add": ADD}))


def test_a_question_without_tests_is_an_error() -> None:
    with pytest.raises(AssayError, match="question x of b has no tests"):
        list(score_code([answered("x", fenced("print(3)"))], {}))


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("```python\na\n```\nor better:\n```python\nb\n```", "b\n"), ("```\nx\n```", "x\n"), ("no code", ""),
        ("<think>```python\na\n```</think>nothing", ""), ("```python\na", ""), ("```bash\nls\n```", ""),
        ("```python\na\n```\n```text\n3\n```", "a\n"),
    ],
)  # fmt: skip
def test_the_program_of_an_answer(answer: str, program: str) -> None:
    assert program_of(answer) == program


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("3\n", "3", True), (" 3 \n\n", "3", True), ("3.0", "3", True), ("1 2.50", "1 2.5", True), ("yes", "Yes", False),
        ("1\n2", "1 2", False), ("", "", True), ("3.0000001", "3", False), ("a 1", "a 1.0", False),
    ],
)  # fmt: skip
def test_outputs(printed: str, expected: str, same: bool) -> None:
    assert same_output(printed, expected) is same


def lcb(private: str, kind: str = "stdin") -> dict[str, Any]:
    public = [{"input": "1 2", "output": "3", "testtype": kind}]
    return {
        "question_id": "abc301_a", "public_test_cases": json.dumps(public), "private_test_cases": private,
        "metadata": json.dumps({"func_name": "add"} if kind == "functional" else {}),
    }  # fmt: skip


def test_a_sandbox_that_fails_makes_no_program_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.sandbox.FOLDER_BYTES", "much")
    (found,) = score_code([answered("add", fenced("print(3)"))], {"add": ADD})
    assert found.score is None
    assert found.fault.startswith("sandbox: not begun: ValueError")


def test_no_more_problems_are_held_than_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of a release are more than a machine's memory."""
    monkeypatch.setattr(code_module, "judge", lambda problem, program: Verdict(True))
    given, taken, most = 0, 0, 0

    def tried() -> Iterator[tuple[Answered, Problem]]:
        nonlocal given, most
        for n in range(50):
            given, most = given + 1, max(most, given + 1 - taken)
            yield answered(str(n), fenced("print(3)")), ADD

    for n, row in enumerate(score_each(tried(), workers=2)):
        taken += 1
        assert (row.question, row.score) == (str(n), 1.0)
    assert (taken, most) == (50, 3)


def test_programs_meet_their_own_tests_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers stand in another order than questions in the files, and a question has several."""
    monkeypatch.setattr(code_module, "judge", lambda problem, program: Verdict(problem.entry in program))
    data, right = reasoning_sets.write(tmp_path), {"p1": "print(3)", "p2": "total = sum"}
    rows = [
        replace(answered(q, fenced(right[q] if good else "1")), benchmark="livecodebench", repeat=n)
        for n, (q, good) in enumerate((("p2", True), ("p1", True), ("p2", False), ("p1", True)))
    ]
    found = list(sandboxed(rows, data))
    assert [(r.question, r.repeat, r.score) for r in found] == [("p2", 0, 1), ("p1", 1, 1), ("p2", 2, 0), ("p1", 3, 1)]
    with pytest.raises(AssayError, match="question p9 of livecodebench has no tests"):
        list(sandboxed([replace(rows[0], question="p9")], data))


def test_livecodebench_rows() -> None:
    hidden = json.dumps([{"input": "4 5", "output": "9", "testtype": "stdin"}])
    packed = base64.b64encode(zlib.compress(pickle.dumps(hidden))).decode()
    for private in (hidden, packed):
        name, problem = livecodebench(lcb(private))
        assert (name, problem.kind, problem.tests) == ("abc301_a", "stdin", (("1 2", "3"), ("4 5", "9")))
    assert livecodebench(lcb("[]", "functional"))[1].entry == "add"


def test_a_pickle_that_calls_is_refused() -> None:
    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("out",))

    packed = base64.b64encode(zlib.compress(pickle.dumps(Bad()))).decode()
    with pytest.raises(AssayError, match=r"question abc301_a of LiveCodeBench: .*it is no text"):
        livecodebench(lcb(packed))
    with pytest.raises(AssayError, match="question abc301_a"):
        livecodebench(lcb("!"))
    with pytest.raises(AssayError, match="HumanEval"):
        humaneval({"task_id": "x"})
