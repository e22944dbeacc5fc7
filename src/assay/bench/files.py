"""Benchmark files as rows: JSON lines or one JSON list (plain, gzip or zstd), Parquet, or the Arrow files that `datasets`
saves to disk. Stricter than the pool's readers:

a benchmark with a row left out is another benchmark, so every flaw is an error that names file, row and field. Lines and
Parquet are read as they are used, for a file may be larger than the memory (LiveCodeBench's largest has 4 GB); one JSON list
is read whole.
"""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, get_args

import pyarrow as pa
from pyarrow import ArrowException, parquet

from assay.errors import AssayError
from assay.records import Conversation, Message, Role

AT_ONCE = 64
"""Rows of a Parquet file that are held at a time: there may be pictures in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row (numbered from 1; the line, where rows are lines), read field by field with checks.

    Example: row.text("chosen", "answer")
    """

    file: Path
    number: int
    value: dict[str, Any]

    def get(self, *path: str) -> object:
        """The value under nested keys. Raises AssayError when a key is missing."""
        value: object = self.value
        for key in path:
            if not isinstance(value, dict) or key not in value:
                self.fail(path, "it is missing")
            value = value[key]
        return value

    def text(self, *path: str) -> str:
        value = self.get(*path)
        if not isinstance(value, str):
            self.fail(path, f"expected a text, found {_excerpt(value)}")
        return value

    def texts(self, field: str, count: int | None = None) -> tuple[str, ...]:
        """A list of `count` texts; None: of any number above none."""
        value = self.get(field)
        good = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
        if not isinstance(value, list) or not good or (count is not None and len(value) != count):
            self.fail(
                (field,), f"expected a list of {'' if count is None else f'{count} '}texts, found {_excerpt(value)}"
            )
        return tuple(value)

    def count(self, field: str) -> int:
        value = self.get(field)
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail((field,), f"expected a whole number, found {_excerpt(value)}")
        return value

    def conversation(self, field: str) -> Conversation:
        """A list of {role, content} that ends with the user's turn."""
        turns = self.get(field)
        if not isinstance(turns, list) or not turns:
            self.fail((field,), f"expected a list of messages, found {_excerpt(turns)}")
        for turn in turns:
            if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
                self.fail((field,), f"expected messages with role and content, found {_excerpt(turn)}")
            if turn.get("role") not in get_args(Role):
                self.fail((field,), f"unknown role {turn.get('role')!r}; known are {', '.join(get_args(Role))}")
        if turns[-1]["role"] != "user":
            self.fail((field,), f"expected the user's turn last, found {turns[-1]['role']!r}")
        return tuple(Message(role=t["role"], content=t["content"]) for t in turns)

    def picture(self, field: str, folder: Path) -> bytes | Path:
        """A picture that lies in the row (as `datasets` writes it to Parquet), or the path of one, from the row's file or
        from the benchmark's `folder`."""
        value = self.get(field)
        if isinstance(value, dict):
            if isinstance(value.get("bytes"), bytes):
                return bytes(value["bytes"])
            value = value.get("path")
        if not isinstance(value, str) or not value:
            self.fail((field,), f"expected a picture or the path of one, found {_excerpt(value)}")
        if Path(value).is_absolute() or ".." in Path(value).parts:
            self.fail((field,), f"the path of a picture must lead on from the benchmark's folder, found {value!r}")
        looked = dict.fromkeys((self.file.parent / value, folder / value, folder / "data" / value))
        found = next((p for p in looked if p.is_file()), None)
        if found is None:
            self.fail((field,), f"no picture {value} (looked in {', '.join(str(p.parent) for p in looked)})")
        return found

    def fail(self, path: tuple[str, ...], what: str) -> NoReturn:
        raise AssayError(
            f"{self.file}, row {self.number}, field '{'.'.join(path)}': {what}; fetch the released file again"
        )


def rows(path: Path) -> Iterator[Row]:
    """Every row of a file, a few in memory at a time. Raises AssayError at the first part that is not a row."""
    kind = path.suffix.lower()
    columns = _parquet(path) if kind == ".parquet" else _arrow(path) if kind == ".arrow" else None
    for number, value in _values(path) if columns is None else enumerate(columns, 1):
        if not isinstance(value, dict):
            raise AssayError(f"{path}, row {number}: expected a JSON object, found {_excerpt(value)}; fetch it again")
        yield Row(file=path, number=number, value=value)


def found(folder: Path, named: str = "", leave: str = "") -> list[Path]:
    """The data files under a folder whose path within it holds `named` (any case) and not `leave`, in order. Hidden files
    and folders are none (caches, checkpoints), and neither are the files in which `datasets` describes a data set."""
    inside = {
        p: str(p.relative_to(folder)).lower() for p in _files(folder) if p.suffix.lower() in KINDS and p.is_file()
    }
    return sorted(p for p, name in inside.items() if named in name and not (leave and leave in name) and _data(name))


KINDS = (".json", ".jsonl", ".gz", ".zst", ".parquet", ".arrow")
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


def _data(name: str) -> bool:
    parts = Path(name).parts
    return parts[-1] not in _ABOUT and not any(part.startswith((".", "__macosx")) for part in parts)


def _files(folder: Path) -> Iterator[Path]:
    """All files under a folder, in folders that links lead to as well, each folder once."""
    seen = set[str]()
    for place, inside, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            inside.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in names)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(AT_ONCE):
                yield from batch.to_pylist()
    except (OSError, ArrowException) as error:
        raise AssayError(f"{path}: not a Parquet file ({error}); fetch it again") from error


def _arrow(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pa.memory_map(str(path)) as file:
            for batch in pa.ipc.open_stream(file):
                for at in range(0, len(batch), AT_ONCE):
                    yield from batch.slice(at, AT_ONCE).to_pylist()
    except (OSError, ArrowException) as error:
        raise AssayError(f"{path}: not an Arrow file of `datasets` ({error}); save it again") from error


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, value) of the lines of a file, or of the one JSON list that it is."""
    lines, begun = _lines(path), False
    for number, line in lines:
        if not begun and line.lstrip().startswith("["):
            text = "\n" * (number - 1) + line + "".join(more for _, more in lines)
            yield from enumerate(_parsed(path, 0, text), 1)
        elif line.strip():
            begun = True
            yield number, _parsed(path, number, line)


def _parsed(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"row {number}" if number else f"line {error.lineno}"
        raise AssayError(
            f"{path}, {where}: not valid JSON ({error.msg}, column {error.colno}); fetch it again"
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file, plain, gzip or zstd, numbered from 1, each with its end."""
    try:
        with path.open("rb") as plain:
            begins = plain.read(4)
            plain.seek(0)
            with _unpacked(plain, begins) as file:
                for number, line in enumerate(file, 1):
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except (OSError, EOFError, zlib.error) as error:
        raise AssayError(f"{path}: cannot be read ({error}); check the path, or fetch the file again") from error
    except UnicodeDecodeError as error:
        raise AssayError(f"{path}, line {number}: not UTF-8 text (byte {error.start}); fetch the file again") from error


def _unpacked(plain: BinaryIO, begins: bytes) -> AbstractContextManager[Iterable[bytes]]:
    if begins == b"\x28\xb5\x2f\xfd":
        return io.BufferedReader(pa.CompressedInputStream(plain, "zstd"))
    return gzip.open(plain) if begins[:2] == b"\x1f\x8b" else nullcontext(plain)


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
