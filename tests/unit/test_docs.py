"""What the documents cite is there."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from assay.curate.book import judged
from assay.curate.rules import rule_attributes
from assay.records import Case

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


def test_the_judge_of_the_tour_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code runs as it stands, up to the run itself, and its judge keeps the rules of judges."""
    code = re.search(r"```python\n(from dataclasses.*?)```", (ROOT / "docs" / "tour.md").read_text(), re.DOTALL)
    assert code is not None
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr("assay.pipeline.job.run_job", lambda *given, **named: calls.append((given, named)))
    exec(code[1], {})
    (((_, config, pool), named),) = calls
    assert not config.offline_judge, "a run has one judge"
    assert named["at_chance"]
    pairs = list(pool.pairs.values())[:20]
    cases = [Case(pair=p, attributes=rule_attributes(p)) for p in pairs]
    assert len(judged(named["judge"], cases)) == len(judged(named["people"], cases)) == 20
