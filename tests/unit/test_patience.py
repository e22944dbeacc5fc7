"""Tests wait for a state, and their limits only end a hang: one that is reached because others have the processors is a
failure of nobody's change."""

import ast
from collections.abc import Iterator
from pathlib import Path

LEAST_S = 120
TESTS = Path(__file__).parents[1]


def limits(tree: ast.AST) -> Iterator[tuple[int, float]]:
    """Lines and seconds of `timeout=`, of the waits of processes, threads and futures, and of `monotonic() + seconds`."""
    for node in ast.walk(tree):
        told: list[ast.expr] = []
        if isinstance(node, ast.Call):
            told = [k.value for k in node.keywords if k.arg == "timeout"]
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("wait", "join", "result"):
                told += node.args[:1]
        elif isinstance(node, ast.BinOp) and isinstance(node.left, ast.Call):
            told = [node.right] if ast.unparse(node.left) == "time.monotonic()" and isinstance(node.op, ast.Add) else []
        for value in told:
            if isinstance(value, ast.Constant) and isinstance(value.value, int | float):
                yield value.lineno, value.value


def test_what_is_waited_for_has_the_time_of_a_crowded_machine() -> None:
    short = [
        f"{file.relative_to(TESTS)}:{line}: {seconds} s"
        for file in sorted(TESTS.rglob("*.py"))
        for line, seconds in limits(ast.parse(file.read_text()))
        if seconds < LEAST_S
    ]
    assert short == []


def test_a_limit_that_is_too_small_is_found() -> None:
    said = (
        "p.wait(30)\nrun(line, timeout=60)\nuntil = time.monotonic() + 5\nt.join(300)\n' '.join(names)\nd - monotonic()"
    )
    assert list(limits(ast.parse(said))) == [(1, 30), (2, 60), (3, 5), (4, 300)]
