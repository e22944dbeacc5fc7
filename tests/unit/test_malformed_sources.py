# ruff: noqa: E501  (one case a line)
"""Broken sources: each gives a counted rejection with a clear reason (or a clear error), and loses nothing good."""

import bz2
import gzip
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pools
from assay.curate import pool
from assay.errors import AssayError
from assay.formats.sources import rows
from assay.formats.texts import Cell


def row(i: int, **more: object) -> dict[str, object]:
    return {"prompt": f"question {i}", "chosen": f"good answer {i}", "rejected": f"bad answer {i}"} | more


GOOD = [row(i) for i in range(3)]


def dumps(*rows: object) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


TEXT = dumps(*GOOD)


@dataclass(frozen=True)
class Case:
    """A broken file: its name and content, the good pairs to be found, and a piece of each rejection's words."""

    id: str
    name: str
    content: bytes | Callable[[Path], None]
    pairs: int
    says: tuple[str, ...]


def text(id_: str, content: str, pairs: int, *says: str, name: str = "a.jsonl") -> Case:
    return Case(id_, name, content.encode("utf-8", "surrogatepass"), pairs, says)


def with_bad(id_: str, bad: object, *says: str) -> Case:
    """A bad row between good ones."""
    return text(id_, dumps(GOOD[0], bad, *GOOD[1:]), 3, *says)


def without(field: str) -> dict[str, object]:
    return {k: v for k, v in row(9).items() if k != field}


def parquet(
    rows: list[dict[str, object]], damage: Callable[[bytes], bytes] = bytes, **options: object
) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        pq.write_table(pa.Table.from_pylist(rows), path, **options)
        path.write_bytes(damage(path.read_bytes()))

    return make


def arrow_cut(path: Path) -> None:
    table = pa.Table.from_pylist([row(i) for i in range(1000)])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    path.write_bytes(path.read_bytes()[:-5000])


def zstd(damage: Callable[[bytes], bytes], rows: int = 3000) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(dumps(*(row(i) for i in range(rows))).encode())
        path.write_bytes(damage(path.read_bytes()))

    return make


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.jsonl", TEXT)


def bad_utf8_parquet(path: Path) -> None:
    chosen = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"ok\xff\xfe")]
    )
    pq.write_table(pa.table({"prompt": ["p", "q"], "chosen": chosen, "rejected": ["r", "s"]}), path)


MANY = dumps(*(row(i) for i in range(2000)))
GZ = gzip.compress(MANY.encode())
CSV = "prompt,chosen,rejected\np0,c0,r0\np1,c1,r1\n"
CHAT = [{"role": "user", "content": "hi"}]
CASES = [
    # encodings
    Case("latin-1 line", "a.jsonl", TEXT.encode() + '{"prompt": "é", "chosen": "a", "rejected": "b"}'.encode("latin-1"), 3, ("not UTF-8",)),
    Case("byte-order mark", "a.jsonl", b"\xef\xbb\xbf" + TEXT.encode(), 3, ()),
    Case("utf-16 with mark", "a.jsonl", TEXT.encode("utf-16"), 3, ()),
    Case("utf-16 without mark", "a.jsonl", TEXT.encode("utf-16-le"), 3, ()),
    Case("utf-16 csv", "a.csv", CSV.encode("utf-16"), 2, ()),
    Case("latin-1 csv cell", "a.csv", CSV.encode() + b"p2,caf\xe9,r2\n", 2, ("not UTF-8",)),
    Case("latin-1 in a json array", "a.json", b'[{"prompt":"p","chosen":"caf\xe9","rejected":"b"},' + json.dumps(row(1)).encode() + b"]", 1, ("not UTF-8",)),
    with_bad("lone surrogate", row(9, chosen="half \ud800 pair"), "surrogate"),
    with_bad("null byte in a text", row(9, prompt="a\0b"), "null byte"),
    Case("null bytes at the end", "a.jsonl", TEXT.encode() + b"\0" * 512, 3, ("null bytes",)),
    Case("null bytes in a line", "a.jsonl", b'{"prompt": "\0\0"}\n' + TEXT.encode(), 3, ("not valid JSON",)),
    Case("null byte in csv", "a.csv", CSV.encode() + b"p\0,c,r\n", 2, ("",)),
    Case("bytes that are not text", "a.jsonl", bytes(range(128, 256)) * 8, 0, ("not UTF-8",)),
    # packing
    Case("gzip cut off", "a.jsonl.gz", GZ[: len(GZ) // 2], 600, ("not valid JSON", "gzip file is cut off")),
    Case("gzip without its last bytes", "a.jsonl.gz", GZ[:-4], 2000, ("gzip file is cut off",)),
    Case("gzip damaged", "a.jsonl.gz", GZ[:9000] + b"\xff" * 50 + GZ[9050:], 300, ("gzip file is damaged",)),
    Case("gzip of two members", "a.jsonl.gz", gzip.compress(TEXT.encode()) + gzip.compress(dumps(row(7)).encode()), 4, ()),
    Case("gzip named jsonl", "a.jsonl", gzip.compress(TEXT.encode()), 3, ()),
    Case("plain text named gz", "a.jsonl.gz", TEXT.encode(), 3, ()),
    Case("zstd cut off", "a.jsonl.zst", zstd(lambda b: b[:-40]), 0, ("zstd file is damaged or cut off",)),
    Case("zstd damaged", "a.jsonl.zst", zstd(lambda b: b[:200] + b"\0" * 50 + b[250:]), 0, ("zstd file is damaged|not valid JSON",)),
    Case("zip archive", "a.jsonl", zipped, 0, ("zip archive",)),
    Case("bzip2 file", "a.jsonl", bz2.compress(TEXT.encode()), 0, ("bzip2",)),
    # parquet and arrow
    Case("parquet cut off", "a.parquet", parquet(GOOD, lambda b: b[: len(b) // 2]), 0, ("damaged or cut off",)),
    Case("parquet of text", "a.parquet", TEXT.encode(), 0, ("does not begin as one",)),
    Case("parquet named jsonl", "a.jsonl", parquet(GOOD), 3, ()),
    Case("parquet row group damaged", "a.parquet", parquet([row(i) for i in range(300)], lambda b: b[:40] + b"\xff" * 60 + b[100:], row_group_size=100, compression="zstd"), 200, ("row group is damaged",)),
    Case("parquet with bytes that are not UTF-8", "a.parquet", bad_utf8_parquet, 1, ("cannot be read",)),
    Case("parquet with no rows", "a.parquet", lambda p: pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), p), 0, ("no rows",)),
    Case("parquet with numbers for text", "a.parquet", parquet([{"prompt": 1, "chosen": 2, "rejected": 3}]), 0, ("neither text nor",)),
    Case("parquet with nulls", "a.parquet", parquet([*GOOD, {"prompt": "p", "chosen": None, "rejected": "r"}]), 3, ("is missing",)),
    Case("arrow stream cut off", "a.arrow", arrow_cut, 900, ("damaged or cut off",)),
    # documents
    text("empty file", "", 0, "the file is empty"),
    text("blank lines only", "\n\n  \n", 0, "no rows"),
    text("empty array", "[]", 0, "no rows", name="a.json"),
    text("array cut off in a row", json.dumps(GOOD)[:-20], 2, "not valid JSON", "not closed", name="a.json"),
    text("array not closed", json.dumps(GOOD)[:-1], 3, "not closed", name="a.json"),
    text("array with a broken row", json.dumps(GOOD).replace('"chosen": "good answer 1"', '"chosen": good'), 2, "not valid JSON", name="a.json"),
    text("array in a jsonl file", json.dumps(GOOD), 3),
    text("json lines in a json file", TEXT, 3, name="a.json"),
    text("pretty-printed documents", "\n".join(json.dumps(r, indent=2) for r in GOOD), 3),
    text("rows under a key", json.dumps({"version": 1, "data": GOOD}, indent=1), 3, name="a.json"),
    text("rows under ids", json.dumps({"x": GOOD[0], "y": GOOD[1]}), 2, name="a.json"),
    text("cut-off last line", TEXT + TEXT[:30], 3, "not valid JSON"),
    text("lost line end", TEXT.replace("}\n{", "}{", 1), 3),
    text("line that is a list", TEXT + "[1, 2]\n", 3, "not an object"),
    text("line that is text", "hello\n" + TEXT, 3, "not valid JSON"),
    text("web page instead of data", "<!DOCTYPE html>\n<html>Not found</html>\n", 0, "not valid JSON", "not valid JSON"),
    text("git-lfs pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", 0, "not valid JSON", "not valid JSON"),
    text("nested without end", "[" * 100_000 + "\n" + TEXT, 3, "too deeply nested", name="a.jsonl"),
    text("nested row without end", TEXT + '{"a":' * 100_000 + "\n", 3, "too deeply nested|not valid JSON"),
    text("huge number", TEXT + '{"prompt": ' + "9" * 5000 + "}\n", 3, "not valid JSON"),
    # csv
    text("csv with a quote never closed", CSV + 'p2,"c2,r2\np3,c3,r3\n', 3, "not a CSV record", name="a.csv"),
    text("csv with a cell too few", CSV + "p2,c2\n", 2, "number of cells", name="a.csv"),
    text("csv with a cell too many", CSV + "p2,c2,r2,x2\n", 2, "number of cells", name="a.csv"),
    text("csv with one column twice", "prompt,chosen,chosen\np,c,r\n", 0, "same name", name="a.csv"),
    text("csv with the wrong columns", "a,b\n1,2\n", 0, "no known layout", name="a.csv"),
    text("csv with a header only", "prompt,chosen,rejected\n", 0, "no rows", name="a.csv"),
    text("csv with semicolons", CSV.replace(",", ";"), 2, name="a.csv"),
    # rows
    with_bad("missing column", without("chosen"), "is missing"),
    with_bad("null", row(9, rejected=None), "is missing"),
    with_bad("missing prompt", without("prompt"), "is missing or empty"),
    with_bad("empty prompt", row(9, prompt=""), "is missing or empty"),
    with_bad("empty response", row(9, chosen="  "), "is empty"),
    with_bad("empty conversation", row(9, chosen=[]), "empty conversation"),
    with_bad("responses the same", row(9, chosen="x", rejected="x"), "same response twice"),
    with_bad("number for text", row(9, chosen=5), "neither text nor"),
    with_bad("unknown role", row(9, chosen=[{"role": "wizard", "content": "x"}]), "known role"),
    with_bad("message without content", row(9, chosen=[*CHAT, {"role": "assistant", "content": None}]), "is missing"),
    with_bad("ends with the user", row(9, chosen=CHAT, rejected=[*CHAT, {"role": "assistant", "content": "x"}]), 'has the role "user"'),
    with_bad("dialogues of different prompts", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}, "different prompts"),
    with_bad("picture", row(9, chosen=[{"role": "assistant", "content": [{"type": "image"}]}]), "data is missing"),
    with_bad("huge field", row(9, prompt="x" * 5001), "longer than 5000"),
    with_bad("other fields", {"title": "x"}, "is missing"),
    text("duplicated ids", dumps(row(0, id=1), row(1, id=1)), 2),
    text("duplicated rows", TEXT + TEXT, 6),
    text("mixed layouts", TEXT + dumps({"prompt": "p", "response_a": "a", "response_b": "b", "label": "B"}), 4),
    text("NaN score", '{"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, NaN, 2]}\n', 1, "not a finite number"),
    text("infinite score", '{"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, -Infinity, 2]}\n', 1, "not a finite"),
    text("score in words", dumps({"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, "good", "2"]}), 1, "not a number"),
    text("scores of another length", dumps({"prompt": "p", "responses": ["a", "b"], "scores": [1]}), 0, "another length"),
    text("only one response", dumps({"prompt": "p", "responses": ["a"], "scores": [1]}), 0, "must hold 2"),
    text("label in no code", dumps({"prompt": "p", "response_a": "a", "response_b": "b", "label": "maybe"}), 0, "not a known label"),
    text("label that can be read in two ways among others", TEXT + dumps({"prompt": "p", "response_a": "a", "response_b": "b", "label": 1}), 3, "labelled:0/1"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_malformed_source_is_counted_and_loses_nothing_good(case: Case, tmp_path: Path) -> None:
    path = tmp_path / case.name
    if callable(case.content):
        case.content(path)
    else:
        path.write_bytes(case.content)
    report = pool.add([str(path)], tmp_path / "pool", max_field_chars=5000, say=lambda _: None)
    pairs = pools.occurrences(tmp_path / "pool")
    rejections = pools.rejections(tmp_path / "pool")
    assert len(pairs) == report.pairs
    if "cut off" in case.id or "damaged" in case.id:
        assert len(pairs) >= case.pairs  # as many as were readable before (and after) the damage
    else:
        assert len(pairs) == case.pairs
    assert report.rejected == len(rejections)
    said = [f"{r.field} {r.reason}" for r in rejections]
    for words in case.says:
        assert any(any(w in s for w in words.split("|")) for s in said), (words, said)
    if not case.says:
        assert not said
    assert all(r.file == case.name and r.reason for r in rejections)


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 40
    assert len({c.id for c in CASES}) == len(CASES)


@pytest.mark.parametrize("source", ["absent.jsonl", "./owner/name", "/no/such/folder", "three/part/name"])
def test_a_source_that_is_not_there_is_an_error_before_anything_is_written(source: str, tmp_path: Path) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text(TEXT)
    with pytest.raises(AssayError, match="no such file or folder"):
        pool.add([str(good), source], tmp_path / "pool", say=lambda _: None)
    assert not (tmp_path / "pool").exists()


def test_a_folder_without_data_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("x")
    with pytest.raises(AssayError, match="no data files"):
        pool.add([str(tmp_path / "notes")], tmp_path / "pool", say=lambda _: None)


def test_an_unknown_layout_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(TEXT)
    with pytest.raises(AssayError, match="is not a layout; use one of chosen-rejected"):
        pool.add([str(tmp_path / "a.jsonl")], tmp_path / "pool", layout="chosen", say=lambda _: None)


def _made(folder: Path, kind: str) -> Path:
    path = folder / f"a.{kind}"
    many = [row(i) for i in range(60)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(many), path, row_group_size=10)
    elif kind == "arrow":
        table = pa.Table.from_pylist(many)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(dumps(*many).encode()))
    elif kind == "jsonl.zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(dumps(*many).encode())
    elif kind == "csv":
        path.write_text("prompt,chosen,rejected\n" + "".join(",".join(map(str, r.values())) + "\n" for r in many))
    else:
        path.write_text(json.dumps(many) if kind == "json" else dumps(*many))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "jsonl.gz", "jsonl.zst", "parquet", "arrow"])
def test_random_damage_never_stops_the_reading_and_costs_only_what_it_touches(kind: str, tmp_path: Path) -> None:
    whole, random = _made(tmp_path, kind).read_bytes(), Random(0)
    for trial in range(150):
        data, size = bytearray(whole), random.choice((1, 1, 4, 30))
        at = random.randrange(len(data))
        if trial % 3:
            data[at : at + size] = random.randbytes(size)
        else:
            del data[at:]
        path = tmp_path / f"damaged.{kind}"
        path.write_bytes(data)
        found = list(rows(path))
        assert found
        good = [c.value for c in found if isinstance(c, Cell) and c.value in [row(i) for i in range(60)]]
        if kind in ("jsonl", "csv") and trial % 3 and at > 40:
            assert len(good) >= 57, (trial, at, size)
        if kind == "jsonl" and len(good) < 60 and trial % 3:
            assert len(found) > len(good)
