"""Append-only Parquet tables: one folder per table, one file per shard, the record's dataclass as the schema.

A shard appears whole or not at all (written beside, synced, renamed), so its presence is its done-marker: a killed
stage starts again at the first shard that is missing. Nothing edits a shard.
"""

import dataclasses
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from assay.errors import AssayError

T = TypeVar("T")
_SCALARS: dict[object, pa.DataType] = {
    str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(),
}  # fmt: skip


def arrow_type(hint: Any) -> pa.DataType:
    """The Arrow type of a record field: scalars, literals, tuples, optionals and nested records."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return pa.string()
    if origin is types.UnionType:
        return arrow_type(next(a for a in args if a is not types.NoneType))
    if origin is tuple:
        return pa.list_(arrow_type(args[0]))
    if dataclasses.is_dataclass(hint):
        return pa.struct([(name, arrow_type(h)) for name, h in _hints(typing.cast(type, hint)).items()])
    return _SCALARS[hint]


def _hints(record: type) -> dict[str, Any]:
    hints = typing.get_type_hints(record)
    return {f.name: hints[f.name] for f in dataclasses.fields(record)}


def plain(value: Any) -> Any:
    """A record as nested dicts and lists, ready for Arrow or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value


def build(hint: Any, value: Any) -> Any:
    """The inverse of `plain`: nested dicts back to the record (or scalar) that `hint` names.

    A field that is empty by default ("", () or 0) may be absent: rows that were written before it was there lack it.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if origin is types.UnionType:
        return build(next(a for a in args if a is not types.NoneType), value)
    if origin is tuple:
        return tuple(build(args[0], v) for v in value)
    if dataclasses.is_dataclass(hint):
        empty = {f.name for f in dataclasses.fields(hint) if f.default in ("", (), 0)}
        given = {k: h for k, h in _hints(typing.cast(type, hint)).items() if k in value or k not in empty}
        return typing.cast(type, hint)(**{k: build(h, value[k]) for k, h in given.items()})
    return value


def check(hint: Any, value: Any, name: str = "row") -> None:
    """Raise TypeError where a value that `build` made of a stranger's JSON is not of the type that its record says."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        if value is not None:
            check(next(a for a in args if a is not types.NoneType), value, name)
    elif origin is tuple:
        for item in value:
            check(args[0], item, name)
    elif dataclasses.is_dataclass(hint):
        for field, of in _hints(typing.cast(type, hint)).items():
            check(of, getattr(value, field), field)
    elif origin is typing.Literal:
        if value not in args:
            raise TypeError(f"{name} is none of {', '.join(args)}")
    elif isinstance(value, bool) is not (hint is bool) or not isinstance(
        value, (int, float) if hint is float else hint
    ):
        raise TypeError(f"{name} is not of type {hint.__name__}")
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        raise TypeError(f"{name} is too large")


class Table(Generic[T]):
    """The rows of one record type under one folder.

    Example: Table(run_folder / "tables/labels", Label).write("stage1-it0", labels)
    """

    def __init__(self, folder: Path, record: type[T]) -> None:
        self.folder, self.record = folder, record
        self.schema = pa.schema([(name, arrow_type(h)) for name, h in _hints(record).items()])

    def done(self, shard: str) -> bool:
        return self._path(shard).exists()

    def shards(self) -> list[str]:
        return sorted(p.stem for p in self.folder.glob("*.parquet"))

    def write(self, shard: str, rows: Iterable[T]) -> int:
        """Write one shard at once and return its row count. Raises AssayError when the shard is already there."""
        if self.done(shard):
            raise AssayError(f"{self._path(shard)}: this shard is already written, and tables are append-only")
        self.folder.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist([plain(r) for r in rows], schema=self.schema)
        beside = self._path(shard).with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(table, beside, compression="zstd")
        replace(beside, self._path(shard))
        return int(table.num_rows)

    def once(self, shard: str, make: Callable[[], Iterable[T]]) -> list[T]:
        """The rows of `shard`, made and written first if it is not there: the way a killed stage repeats nothing."""
        if not self.done(shard):
            self.write(shard, make())
        return self.read(shard)

    def read(self, *shards: str) -> list[T]:
        """All rows, or those of the named shards, as records."""
        return list(self.stream(*shards))

    def stream(self, *shards: str) -> Iterator[T]:
        """The rows of all (or the named) shards, one batch in memory at a time."""
        for shard in shards or self.shards():
            for batch in self._open(shard).iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    yield build(self.record, row)

    def frame(self) -> pl.DataFrame:
        """All rows as columns, for decisions over narrow tables. Shards that are older than a column hold nulls in it."""
        read = [self.schema.empty_table(), *(self._open(s).read() for s in self.shards())]
        return pl.concat([typing.cast(pl.DataFrame, pl.from_arrow(t)) for t in read], how="diagonal")

    def _open(self, shard: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._path(shard))
        except (OSError, pa.ArrowInvalid) as error:
            raise AssayError(f"{self._path(shard)}: not a readable Parquet shard ({error})") from error

    def _path(self, shard: str) -> Path:
        return self.folder / f"{shard}.parquet"


def replace(beside: Path, path: Path) -> None:
    """Move a finished file into place so that a crash leaves the old state or the new one, never a part."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a whole small file atomically, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    replace(beside, path)


def sibling(path: Path, suffix: str) -> Path:
    """`path` with a suffix to its name. Raises AssayError for one without a name of its own (".", "..", "/")."""
    if path.name in ("", ".."):
        raise AssayError(f"{path}: name a new folder (or file) to write to, not one that is there")
    return path.with_name(path.name + suffix)


def check_new(file: Path) -> None:
    """Raise AssayError where there is anything at `file`: what a command writes anew replaces nothing."""
    if file.exists():
        raise AssayError(f"{file} is there already; choose another name, or remove it first")


def check_vacant(folder: Path, holds: str) -> None:
    """Raise AssayError unless there is nothing at `folder`, or an empty folder; `holds` is what it does not hold."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise AssayError(
            f"{folder} is there already and holds no {holds}; choose another folder, for it would be replaced"
        )
