"""docs/layouts.md: every row on the page is imported, with the apple (or what else the page calls good) preferred."""

import json
import re
from pathlib import Path

import pytest

import pools
from assay.curate import pool
from assay.formats.layouts import LAYOUTS

PAGE = (Path(__file__).parents[2] / "docs" / "layouts.md").read_text(encoding="utf-8")
GOOD = re.compile(r"apple|banana|oak")


def sections() -> list[tuple[str, str, str]]:
    """(layout, what is named after --layout or "", the rows as JSON lines) of each block."""
    found = []
    for heading, body in re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL):
        found += [(heading, named, rows) for named, rows in re.findall(r"```json ?(\S*)\n(.*?)```", body, re.DOTALL)]
    return found


@pytest.mark.parametrize(("layout", "named", "rows"), sections(), ids=lambda value: str(value)[:60])
def test_a_row_of_the_page_is_read_as_it_says(layout: str, named: str, rows: str, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(rows)
    report = pool.add([str(source)], tmp_path / "pool", layout=named or None, say=lambda _: None)
    assert report.files[0].layout.partition(":")[0] == layout
    assert report.pairs >= 1, report.lines()
    if layout != "unpaired":
        assert not report.rejected, report.lines()
    for pair, judgement, _ in pools.occurrences(tmp_path / "pool"):
        assert judgement.better is not None
        better = pair.response(judgement.better).messages[-1]
        assert GOOD.search(better.content) or better.tool_calls, better


def test_each_layout_has_rows_on_the_page() -> None:
    assert {x.name for x in LAYOUTS} == {layout for layout, _, _ in sections()}
    assert len(sections()) > 35
    for _, _, rows in sections():
        assert all(json.loads(line) for line in rows.splitlines())
