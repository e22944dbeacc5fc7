"""What the documents cite is there."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compare-annotation.md").read_text()
CITED = re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", PAGE)


@cache
def _names(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def _missing(cited: list[tuple[str, str]]) -> list[str]:
    return [f"{file}::{name}" for file, name in cited
            if not (ROOT / file).is_file() or (name and name not in _names(file))]  # fmt: skip


def test_the_tests_that_the_comparison_names_exist() -> None:
    assert len(CITED) > 30
    assert _missing(CITED) == []
    assert _missing([("tests/unit/test_docs.py", "test_gone"), ("tests/unit/test_gone.py", "")]) == [
        "tests/unit/test_docs.py::test_gone",
        "tests/unit/test_gone.py::",
    ]


def test_every_row_of_the_comparison_has_its_note() -> None:
    rows = re.findall(r"^\| [^|]+\|.*\[(\d+)\] \|$", PAGE, re.MULTILINE)
    notes = re.findall(r"^(\d+)\. ", PAGE, re.MULTILINE)
    assert [int(n) for n in rows] == [int(n) for n in notes] == list(range(1, len(rows) + 1))
    assert PAGE.count("\n| ") == len(rows) + 2  # the head, and the state of the projects


def test_links_between_documents_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    dead = [f"{page.name}: {link}" for page in pages for link in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text())
            if not (page.parent / link).exists()]  # fmt: skip
    assert dead == []
