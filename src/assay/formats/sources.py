"""Files, folders and hub data sets as streams of rows, in bounded memory; broken parts become `Flaw`s in the stream.

The first bytes decide what a file is, not its name: Parquet, Arrow (also what `datasets` saves to disk), gzip, zstd, and
else text: JSON lines, JSON documents, CSV or TSV. What comes before and after a broken part is still read.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assay.errors import AssayError, missing_extra
from assay.formats.csvs import csv_rows
from assay.formats.lines import Lines, Take, unpacked
from assay.formats.texts import Cell, Flaw, json_rows, lines_from, plain_lines

BATCH = 1024
PIECE = 1 << 25
"""Bytes of a file that one call reads, where a file can be read in pieces: JSON lines as they are, and Parquet."""
_UNPACKED = {".gz": 4, ".zst": 4, ".parquet": 3}
"""About how many bytes of text a byte of such a file holds."""
_SUFFIXES = {".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".arrow"}
_PACKED = {".gz", ".zst"}
_FOREIGN = {
    b"PK\x03\x04": "a zip archive", b"BZh": "a bzip2 file", b"\xfd7zXZ\x00": "an xz file", b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database", b"\x80\x04\x95": "a Python pickle", b"\x89HDF": "an HDF5 file",
}  # fmt: skip
_SPLIT = re.compile(r"(?:^|/)(train|test|validation|valid|val|dev|eval)(?=[-_./\d]|$)", re.I)
_HUB = re.compile(r"(?:hf:/?/?)?([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?:@([\w.-]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file (or one split of a hub data set): `source` is what it belongs to, `key` its content id.

    `rows()` streams it from the start each time it is called, and each of `pieces` some rows of it, all of them together;
    where `lines`, a piece leaves out the lines that a `Take` took in, which it is given as `take`.
    `path` is where the file lies, "" for a hub data set; `chars` about how much text it holds (0: not known).
    """

    source: str
    file: str
    key: str
    rows: Callable[[], Iterator[Cell | Flaw]]
    pieces: tuple[Callable[..., Iterator[Cell | Flaw]], ...]
    path: str = ""
    chars: int = 0
    lines: bool = False


def find(source: str) -> list[Part]:
    """The parts of a file, a folder or a hub id (owner/name, owner/name:CONFIG; @SPLIT behind it: one split), in a stable
    order. Raises AssayError when there is nothing to read."""
    path = Path(source).expanduser()
    if path.is_file():
        return [_part(_stem(path), path, path.name)]
    if path.is_dir():
        if _is_ours(path):
            raise AssayError(f"{source}: Assay made this (a pool or a run); give the files that the pairs came from")
        ours = {f for f in path.rglob("*") if f.is_dir() and _is_ours(f)}
        found = _saved(path) or [f for f in path.rglob("*") if _is_data(f, path)]
        files = sorted(f for f in found if ours.isdisjoint(f.parents))
        if not files:
            raise AssayError(f"{source}: no data files in this folder (looked for {', '.join(sorted(_SUFFIXES))})")
        return [_part(path.resolve().name, f, str(f.relative_to(path))) for f in files]
    if (
        (match := _HUB.fullmatch(source)) is None
        or source.startswith((".", "/", "~"))
        or path.suffix in _SUFFIXES | _PACKED
    ):
        raise AssayError(f"{source}: there is no such file or folder, and it is not a hub id like owner/name")
    return _hub(match[1], match[2], match[3])


def splits(parts: Iterable[Part]) -> list[str]:
    """The splits after which files and folders are called (`train/data.arrow`, `data/test-00000.parquet`), in order of
    their names; where there are several, what trains and what measures lie together."""
    found = (_SPLIT.search(part.file) for part in parts)
    return sorted({match[1].lower() for match in found if match})


def _stem(path: Path) -> str:
    name = path.name
    for suffix in reversed(path.suffixes):
        if suffix in _SUFFIXES | _PACKED:
            name = name.removesuffix(suffix)
    return name


def _is_data(file: Path, root: Path) -> bool:
    suffixes = [s for s in file.suffixes if s not in _PACKED]
    visible = not any(p.startswith((".", "_")) for p in file.relative_to(root).parts)
    return visible and bool(suffixes) and suffixes[-1] in _SUFFIXES and file.is_file() and not _is_notes(file)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a pool, part of one, or a run: what we made is no source."""
    pool = (folder / "pool.json").is_file() and (folder / "imports").is_dir()
    return pool or any((folder / name).is_file() for name in ("importing/plan.json", "material.json"))


def _is_notes(file: Path) -> bool:
    return file.name in {"dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json"}


def _saved(folder: Path) -> list[Path]:
    """The Arrow files that `Dataset.save_to_disk` lists; caches that lie beside them are not data."""
    files: list[Path] = []
    for state in folder.rglob("state.json"):
        try:
            listed = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
            files += [state.parent / entry["filename"] for entry in listed]
        except (ValueError, KeyError, TypeError):
            continue
    missing = [f for f in files if not f.is_file()]
    if missing:
        raise AssayError(f"{folder}: its state.json names {missing[0].name}, which is not there; copy the folder again")
    return files


def _part(source: str, path: Path, file: str) -> Part:
    content = hashlib.sha256()  # not blake2b: processors have instructions for it
    cuts, at, number = [(0, 1)], 0, 1
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                content.update(block)
                if size <= PIECE:
                    continue
                while (end := block.find(b"\n", max(0, cuts[-1][0] + PIECE - 1 - at))) >= 0:
                    cuts.append((at + end + 1, number + block.count(b"\n", 0, end + 1)))
                at, number = at + len(block), number + int(np.count_nonzero(np.frombuffer(block, np.uint8) == 10))
    except OSError as error:
        raise AssayError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    pieces = (_pieces(path, cuts, at) if at > PIECE else ()) or (partial(rows, path),)
    return Part(
        source=source, file=file, key=content.hexdigest()[:16], rows=partial(rows, path), path=str(path), pieces=pieces,
        chars=size * _UNPACKED.get(path.suffix, 1), lines=pieces[0].func is not _parquet,
    )  # fmt: skip


def _pieces(path: Path, cuts: list[tuple[int, int]], size: int) -> tuple[partial[Iterator[Cell | Flaw]], ...]:
    """Readers of a large file's pieces; `cuts` are offsets at which lines begin, with their numbers. None where it has
    none."""
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"PAR1"):
        return _row_groups(path)
    binary = (b"ARROW1", b"\xff\xff\xff\xff", *_FOREIGN)
    if head.startswith(binary) or path.suffix == ".parquet" or _kind(path) in (".csv", ".tsv") or not plain_lines(path):
        return ()
    ends = [*(start for start, _ in cuts[1:]), size]
    spans = zip(cuts, ends, strict=True)
    return tuple(partial(lines_from, path, start, end, first) for (start, first), end in spans if start < end)


def _row_groups(path: Path) -> tuple[partial[Iterator[Cell | Flaw]], ...]:
    """Runs of row groups of a sound Parquet file; none of any other file."""
    try:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    except (OSError, pa.ArrowException):
        return ()
    runs: list[tuple[list[int], int]] = []
    size, start = PIECE, 1
    for index, group in enumerate(groups):
        if size >= PIECE:
            runs.append(([], start))
            size = 0
        runs[-1][0].append(index)
        size, start = size + group.total_byte_size, start + group.num_rows
    return tuple(partial(_parquet, path, tuple(run), first) for run, first in runs)


def rows(path: Path, take: Take | None = None) -> Iterator[Cell | Flaw]:
    """Every row of a file with its number from 1 (the line, where rows are lines), and a flaw for each broken part.

    Of JSON lines, those that `take` took in are left out.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    foreign = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
    if not head:
        yield Flaw(row=0, reason="the file is empty")
    elif foreign:
        yield Flaw(row=0, reason=f"the file is {foreign}: unpack or convert it to JSON lines, Parquet or CSV")
    elif head.startswith(b"PAR1"):
        yield from _parquet(path)
    elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        yield from _arrow(path, head)
    elif path.suffix == ".parquet":
        yield Flaw(row=0, reason="the file is named .parquet but does not begin as one: download it again")
    else:
        yield from _text(path, head, take)


def _text(path: Path, head: bytes, take: Take | None) -> Iterator[Cell | Flaw]:
    chunks, took = unpacked(path, head), False

    def noted(some: Lines) -> Sequence[int]:
        nonlocal took
        left = take(some) if take is not None else []
        took = took or len(left) < len(some)
        return left

    empty = True
    for item in csv_rows(chunks) if _kind(path) in (".csv", ".tsv") else json_rows(chunks, take and noted):
        empty = False
        yield item
    if empty and not took:
        yield Flaw(row=0, reason="the file has no rows")


def _kind(path: Path) -> str:
    kinds = [s for s in path.suffixes if s not in _PACKED]
    return kinds[-1] if kinds else ""


def _parquet(path: Path, groups: tuple[int, ...] | None = None, start: int = 1) -> Iterator[Cell | Flaw]:
    """The rows of a Parquet file, or those of some of its row groups, of which `start` is the number of the first row."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        yield Flaw(row=0, reason=f"the Parquet file is damaged or cut off: download it again ({_line(error)})")
        return
    for group in groups or range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        try:
            for batch in file.iter_batches(batch_size=BATCH, row_groups=[group]):
                yield from _batch(batch, start)
                start += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            yield Flaw(row=start, reason=f"a row group is damaged (rows {start} to {end - 1}: {_line(error)})")
        start = end
    if start == 1 and groups is None:
        yield Flaw(row=0, reason="the file has no rows")


def _arrow(path: Path, head: bytes) -> Iterator[Cell | Flaw]:
    """Arrow's file format, or the stream format in which `datasets` keeps its files."""
    start = 1
    try:
        with pa.memory_map(str(path)) as file:
            if head.startswith(b"ARROW1"):
                reader = pa.ipc.open_file(file)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                batches = iter(pa.ipc.open_stream(file))
            for batch in batches:
                yield from _batch(batch, start)
                start += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        yield Flaw(row=start, reason=f"the Arrow file is damaged or cut off from this row on ({_line(error)})")


def _batch(batch: Any, start: int) -> Iterator[Cell | Flaw]:
    """The rows of a record batch. It is validated first: damaged offsets would make reading it unsafe."""
    try:
        batch.validate(full=True)
        values = [_present(v) for v in batch.to_pylist()]
    except (pa.ArrowException, ValueError, OverflowError):
        values = None
    for index in range(batch.num_rows):
        if values is not None:
            yield Cell(row=start + index, value=values[index])
            continue
        one = batch.slice(index, 1)
        try:
            one.validate(full=True)
            yield Cell(row=start + index, value=_present(one.to_pylist()[0]))
        except (pa.ArrowException, ValueError, OverflowError) as error:
            yield Flaw(row=start + index, reason=f"a cell cannot be read ({_line(error)})")


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the nulls inside its fields: Arrow gives every object in a column the fields of all of them."""
    return {k: _without_nulls(v) if isinstance(v, dict | list) else v for k, v in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return (
        [_without_nulls(v) for v in value]
        if isinstance(value, list) and value and isinstance(value[0], dict | list)
        else value
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _numbered(values: Iterable[dict[str, Any]]) -> Iterator[Cell | Flaw]:
    try:
        for index, value in enumerate(values, 1):
            yield Cell(row=index, value=value)
    except OSError as error:
        raise AssayError(f"the hub stopped answering ({_line(error)}); run the same command again to resume") from error


def _hub(name: str, config: str | None, split: str | None) -> list[Part]:
    """The splits of a hub data set, or one of them, streamed. Needs the extra `hub` and a network."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "hub") from error
    try:
        found = datasets.load_dataset(name, config, streaming=True)
    except (OSError, ValueError) as error:
        raise AssayError(
            f"{name}: cannot be opened on the Hugging Face hub ({_line(error)}); check the id, or download it and "
            "name the folder"
        ) from error
    if split is not None and split not in found:
        raise AssayError(f"{name}: has no split '{split}', but {', '.join(found)}")
    return [
        Part(
            source=name, file=f"{config + '/' if config else ''}{each}",
            key=hashlib.blake2b(f"{name}:{config}:{each}".encode(), digest_size=8).hexdigest(),
            rows=partial(_numbered, stream), pieces=(partial(_numbered, stream),),
        )
        for each, stream in found.items() if split in (None, each)
    ]  # fmt: skip
