"""Runs inside the sandbox, as a script: calls an answer's function, or a problem's test with the values of one.

It reads one Python literal from its input: {"program", "entry", "calls"} or {"check", "entry", "known"}; the last line that
it prints is a literal. The two are never in one process, so a program never sees a test.
"""

import ast
import os
import random
import sys
from collections.abc import Iterator
from typing import Any


class _Unknown:
    """Stands for a value that is not known yet: equal to all, and whatever else is done with it may fail."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __bool__(self) -> bool:
        return True

    def __float__(self) -> float:
        return 0.0

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[object]:
        return iter(())


def _plain(value: object) -> bool:
    """Whether a value comes back equal from its text."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _answers(task: dict[str, Any]) -> list[dict[str, Any]]:
    names: dict[str, Any] = {"__name__": "answer"}
    exec(compile(task["program"], "program.py", "exec"), names)
    solution = names.get("Solution")
    told = []
    for arguments, named in task["calls"]:
        function = getattr(solution(), task["entry"], None) if solution else names.get(task["entry"])
        if function is None:
            raise NameError(f"there is no function {task['entry']}")
        try:
            value = function(*arguments, **named)
            told.append(
                {"value": value} if _plain(value) else {"error": f"gives no plain value, but {type(value).__name__}"}
            )
        except Exception as error:  # noqa: BLE001 (whatever an answer raises is what it gives)
            told.append({"error": f"{type(error).__name__}: {error}"[:200]})
    return told


class _NoAssert(ast.NodeTransformer):
    """Whatever is asserted is looked at, and what it is does not matter."""

    def visit_Assert(self, node: ast.Assert) -> ast.Try:
        handler = ast.ExceptHandler(type=ast.Name("Exception", ast.Load()), name=None, body=[ast.Pass()])
        return ast.Try(body=[ast.Expr(node.test)], handlers=[handler], orelse=[], finalbody=[])


def _test(task: dict[str, Any]) -> dict[str, Any]:
    known = {repr(call): said for call, said in task["known"]}
    asked: list[Any] = []

    def entry(*arguments: object, **named: object) -> object:
        call = (list(arguments), named)
        said = known.get(repr(call))
        if said is None:
            if not _plain(call):
                raise TypeError("the test's arguments are no plain values")
            asked.append(ast.literal_eval(repr(call)))
            return _Unknown()
        if "error" in said:
            raise RuntimeError(said["error"])
        return ast.literal_eval(repr(said["value"]))

    def tried(tree: Any) -> str:
        random.seed(0)  # the same arguments every time
        try:
            exec(compile(tree, "test.py", "exec"), {"__name__": "test", task["entry"]: entry})
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"[:200]
        return ""

    tried(ast.fix_missing_locations(_NoAssert().visit(ast.parse(task["check"]))))
    failed = "" if asked else tried(ast.parse(task["check"]))
    once = {repr(call): call for call in asked}
    return {"asked": list(once.values()), "failed": failed}


def main() -> None:
    task = ast.literal_eval(sys.stdin.read())
    real, sys.stdout = sys.stdout, sys.stderr  # what a program prints is not what it gives
    told = _test(task) if "check" in task else _answers(task)
    real.write(f"\n{told!r}\n")
    real.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
