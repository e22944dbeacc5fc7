"""Append-only Parquet tables: one folder per table, one file per shard, the record's dataclass as the schema.

A shard appears whole or not at all (`store`), so its presence is its done-marker: a killed stage starts again at the first
shard that is missing. Nothing edits a shard. Row groups are bounded by bytes, so that a shard of any size is read in parts,
and every page carries a checksum, which is verified: a damaged file is an error, never other numbers.
"""

import dataclasses
import functools
import json
import shutil
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from assay.errors import AssayError
from assay.records import LATER
from assay.store import Place

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

    A field that is empty by default ("", () or 0), or marked `LATER`, may be absent: rows that were written before it was
    there lack it.
    """
    return _builder(hint)(value)


@functools.cache
def _builder(hint: Any) -> Callable[[Any], Any]:
    """`build` for one hint, which is looked into once."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _builder(next(a for a in args if a is not types.NoneType))
    if origin is tuple:
        item = _builder(args[0])
        return lambda value: None if value is None else tuple(map(item, value))
    if not dataclasses.is_dataclass(hint):
        return _same
    record = typing.cast(type, hint)
    empty = {f.name for f in dataclasses.fields(record) if f.default in ("", (), 0) or f.metadata is LATER}
    fields = [(name, _builder(h), name not in empty) for name, h in _hints(record).items()]

    def made(value: Any) -> Any:
        if value is None:
            return None
        return record(**{name: of(value[name]) for name, of, needed in fields if needed or name in value})

    return made


def _same(value: Any) -> Any:
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


GROUP_BYTES = 1 << 24
"""A row group holds at most about this many bytes (uncompressed)."""


def arrow_schema(record: type) -> pa.Schema:
    """The columns of a record's table."""
    return pa.schema([(name, arrow_type(h)) for name, h in _hints(record).items()])


def write_shard(file: Place, table: pa.Table) -> None:
    """Write a table as one Parquet file, which appears whole. Equal tables give equal bytes."""
    rows = max(1, min(1 << 20, GROUP_BYTES * table.num_rows // max(1, table.nbytes)))
    file.put(lambda path: pq.write_table(
        table, path, row_group_size=rows, compression="zstd", write_page_checksum=True, store_schema=True,
        use_dictionary=False,  # ids and texts hardly repeat, and zstd packs what does: smaller files in less time
    ))  # fmt: skip


def read_shard(file: Place, columns: Sequence[str] | None = None, rows: Any = None) -> pa.Table:
    """A Parquet file's rows, or those of the numbers `rows` (ascending) of it, a row group in memory at a time."""
    return pa.concat_tables([part for _, part in _groups(file, columns, rows)] or [_empty(file, columns)])


def read_frame(file: Place, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """`read_shard` as columns to decide by."""
    return typing.cast(pl.DataFrame, pl.from_arrow(read_shard(file, columns)))


def stream_shard(file: Place, columns: Sequence[str] | None = None, rows: Any = None) -> Iterator[pa.Table]:
    """`read_shard`, a row group at a time, those without a wanted row left out."""
    return (part for _, part in _groups(file, columns, rows))


def _groups(file: Place, columns: Sequence[str] | None, rows: Any) -> Iterator[tuple[int, pa.Table]]:
    """(number of the first row, rows) of each row group."""
    with opened(file) as shard:
        yield from _read(shard, file, columns, None if rows is None else np.asarray(rows))


def _read(
    shard: pq.ParquetFile, file: Place, columns: Sequence[str] | None, wanted: Any = None
) -> Iterator[tuple[int, pa.Table]]:
    start = 0
    for group in range(shard.num_row_groups):
        size = shard.metadata.row_group(group).num_rows
        here = None if wanted is None else wanted[(wanted >= start) & (wanted < start + size)] - start
        if here is None or len(here):
            try:
                part = shard.read_row_group(group, None if columns is None else list(columns))
            except (OSError, pa.ArrowException) as error:
                raise AssayError(f"{file}: damaged: row group {group} cannot be read ({error})") from error
            yield start, part if here is None else part.take(pa.array(here))
        start += size


def _empty(file: Place, columns: Sequence[str] | None) -> pa.Table:
    with opened(file) as shard:
        table = shard.schema_arrow.empty_table()
        return table if columns is None else table.select(list(columns))


def opened(file: Place) -> pq.ParquetFile:
    """The Parquet file. Raises AssayError where it is none."""
    try:
        return pq.ParquetFile(file.open(), page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise AssayError(f"{file}: not a readable Parquet shard ({error})") from error


def records(record: type[T], table: pa.Table) -> list[T]:
    """The rows of an Arrow table as records."""
    return [build(record, row) for row in table.to_pylist()]


def to_arrow(record: type[T], rows: Iterable[T]) -> pa.Table:
    """Records as an Arrow table."""
    return pa.Table.from_pylist([plain(r) for r in rows], schema=arrow_schema(record))


def frame_to_arrow(record: type, frame: pl.DataFrame) -> pa.Table:
    """A frame with the columns of a record, as its table; a column that the frame lacks is the field's default."""
    schema = arrow_schema(record)
    given = {f.name: f.default for f in dataclasses.fields(record) if f.name not in frame.columns}
    filled = frame.with_columns(**{
        name: pl.lit([] if default == () else default) for name, default in given.items()
    }) if given else frame  # fmt: skip
    return filled.select(schema.names).to_arrow().cast(schema)


def filled(record: type, columns: Mapping[str, Any], rows: int) -> pa.Table:
    """The table of a record from some of its columns (Arrow arrays of its types); a column that is not given is the field's
    default."""
    default = {f.name: f.default for f in dataclasses.fields(record)}
    schema, made = arrow_schema(record), dict(columns)
    for field in schema:
        if field.name not in made:
            value = default[field.name]
            made[field.name] = pa.array([value], field.type).take(pa.array(np.zeros(rows, np.int64)))
    return pa.table([made[name] for name in schema.names], schema=schema)


class Table(Generic[T]):
    """The rows of one record type under one folder, which may lie in an object store.

    Example: Table(run_folder / "tables/labels", Label).write("stage1-it0", labels)
    """

    def __init__(self, folder: Path | Place, record: type[T]) -> None:
        self.folder, self.record = Place.of(folder), record
        self.schema = arrow_schema(record)

    def file(self, shard: str) -> Place:
        return self.folder / f"{shard}.parquet"

    def done(self, shard: str) -> bool:
        return self.file(shard).exists()

    def shards(self, start: str = "") -> list[str]:
        """The names of all shards, or of those that begin with `start`."""
        return [n.removesuffix(".parquet") for n in self.folder.names(".parquet") if n.startswith(start)]

    def write(self, shard: str, rows: Iterable[T]) -> int:
        """Write one shard at once and return its row count. Raises AssayError when the shard is already there."""
        return self.put(shard, to_arrow(self.record, rows))

    def put(self, shard: str, table: pa.Table) -> int:
        """`write` for rows that are columns already."""
        if self.done(shard):
            raise AssayError(f"{self.file(shard)}: this shard is already written, and tables are append-only")
        write_shard(self.file(shard), table.select(self.schema.names).cast(self.schema))
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
        """The rows of all (or the named) shards, one row group in memory at a time."""
        for shard in shards or self.shards():
            for part in stream_shard(self.file(shard)):
                for batch in part.to_batches(4096):
                    for row in batch.to_pylist():
                        yield build(self.record, row)

    def empty(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """No rows."""
        table = self.schema.empty_table()
        return pl.DataFrame(pl.from_arrow(table if columns is None else table.select(list(columns))))

    def frame(self, *shards: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Columns of all (or the named) shards, for decisions over narrow tables. Shards that are older than a column hold
        nulls in it."""
        wanted = self.schema.names if columns is None else list(columns)
        read = [self.empty(wanted)]
        for shard in shards or self.shards():
            with opened(self.file(shard)) as file:
                held = [c for c in wanted if c in file.schema_arrow.names]
                parts = [part for _, part in _read(file, self.file(shard), held)]
            read.append(
                typing.cast(pl.DataFrame, pl.from_arrow(pa.concat_tables(parts))) if parts else self.empty(held)
            )
        alike = [frame for frame in read if frame.width == len(wanted)]
        return pl.concat(alike) if len(alike) == len(read) else pl.concat(read, how="diagonal")


def write_text(path: Path, text: str) -> None:
    """Write a whole small file atomically, making its folder."""
    Place(str(path)).write_text(text)


def read_json(file: Path | Place) -> dict[str, Any]:
    """What a small JSON file of ours says. Raises AssayError where it is cut off, or holds something else."""
    try:
        told = json.loads((file if isinstance(file, Place) else Place(str(file))).read_text())
    except ValueError as error:
        raise AssayError(
            f"{file}: this file is damaged ({error}); take a copy of it, or begin anew elsewhere"
        ) from error
    if not isinstance(told, dict):
        raise AssayError(
            f"{file}: this file is damaged (it holds no object); take a copy of it, or begin anew elsewhere"
        )
    return told


def remove(folder: Path) -> None:
    """Remove a folder so that a kill leaves it whole, or under a name that counts for nothing."""
    going = sibling(folder, ".removing")
    shutil.rmtree(going, ignore_errors=True)
    if folder.exists():
        folder.rename(going)
        shutil.rmtree(going)


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
