"""Files of benchmarks that are larger than the memory: rows come one after the other."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from assay.bench.files import rows
from assay.errors import AssayError


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines_are_read_as_they_are_used(name: str, tmp_path: Path) -> None:
    file, line = tmp_path / name, json.dumps({"text": "x" * 100_000}) + "\n"
    with gzip.open(file, "wt", compresslevel=1) if name.endswith("gz") else file.open("w") as out:
        out.writelines([line] * 200)
    tracemalloc.start()
    try:
        count = sum(len(row.text("text")) == 100_000 for row in rows(file))
        assert (count, tracemalloc.get_traced_memory()[1] < 5_000_000) == (200, True), "of 20 MB"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}', [(1, 1), (3, 2)]),
        (b'\n\n[{"a": 1},\n {"a": 2}]\n', [(1, 1), (2, 2)]),
        (b'\xef\xbb\xbf [\n{"a": 1}]', [(1, 1)]),
        (b'{"a": "\xe2\x80\xa8"}\n', [(1, "\u2028")]),
        (b"", []),
    ],
)
def test_lines_and_lists(content: bytes, found: list[tuple[int, object]], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert [(r.number, r.value["a"]) for r in rows(tmp_path / "a.json")] == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \xff}\n', r"line 2: not UTF-8 text \(byte 6\)"),
        (b'\n[{"a": 1},\n {"a": }]', r"line 3: not valid JSON"),
        (b'{"a": 1}\n["a"]', r"row 2: expected a JSON object"),
        (gzip.compress(b'{"a": 1}\n' * 9)[:-9], "cannot be read"),
    ],
)
def test_what_is_broken_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(AssayError, match=message):
        list(rows(tmp_path / "a.json"))
