"""`assay pool add`: any source of preferences becomes shards of pairs, origins, in-the-wild judgements and rejections.

A file is read as a stream and written in parts of 50,000 rows. Its shards are named by its content, so adding it again
does nothing, and an import that was killed continues at the first part that is missing. Every row ends as pairs or as a
counted `Rejection`; nothing vanishes.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from assay.curate.dialogues import Row, RowError
from assay.curate.labels import label_code
from assay.curate.layouts import (
    LAYOUTS,
    RATED,
    Layout,
    Preferred,
    Rated,
    coded,
    detect,
    fitting,
    named,
    numbers,
    pair_fields,
    rated_group,
    rated_row,
)
from assay.curate.sources import Part, find
from assay.curate.texts import Cell, Flaw
from assay.records import Judgement, Origin, Pair, Rejection, digest
from assay.tables import Table, write_text

PART_ROWS = 50_000
PART_CHARS = 50_000_000
"""A part is closed at this many rows or characters of text, so that memory is bounded."""
SAMPLE = 200
_UNSAFE = re.compile(r"[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What became of one file: `rejected` maps "field reason" to a count; `already` means that nothing was done."""

    source: str
    file: str
    layout: str
    rows: int
    pairs: int
    ties: int
    rejected: dict[str, int]
    already: bool = False

    def lines(self) -> list[str]:
        where = self.file if self.file == self.source else f"{self.source} ({self.file})"
        if self.already:
            return [f"{where}: already in the pool ({self.pairs} pairs); nothing done"]
        head = f"{where}: layout {self.layout}, {self.rows} rows -> {self.pairs} pairs ({self.ties} ties)"
        total = sum(self.rejected.values())
        worst = sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))
        more = [f"    ... and {len(worst) - 12} more reasons"] if len(worst) > 12 else []
        return [f"{head}, {total} rejected", *(f"    {count} x {reason}" for reason, count in worst[:12]), *more]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """What an import did, file by file."""

    files: tuple[FileReport, ...]

    @property
    def pairs(self) -> int:
        return sum(f.pairs for f in self.files)

    @property
    def rejected(self) -> int:
        return sum(sum(f.rejected.values()) for f in self.files)

    def lines(self) -> list[str]:
        return [line for f in self.files for line in f.lines()]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def add(
    sources: Sequence[str], out: Path, *, layout: str | None = None, name: str | None = None,
    max_field_chars: int = 1_000_000, say: Callable[[str], None] = print,
) -> PoolReport:  # fmt: skip
    """Import files, folders or hub ids into the pool folder `out`, after what is there already.

    `layout` names the shape of the rows instead of detecting it; `name` replaces the sources' own names. Raises
    AssayError before anything is written when a source does not exist or the layout is unknown.
    """
    wanted = named(layout) if layout is not None else None
    parts = [part for source in sources for part in find(source)]
    reports = []
    for part in parts:
        report = _import(part, out, wanted, layout or "", name or part.source, max_field_chars, say)
        for line in report.lines():
            say(line)
        reports.append(report)
    return PoolReport(files=tuple(reports))


def _import(
    part: Part, out: Path, wanted: Layout | None, asked: str, source: str, max_field_chars: int,
    say: Callable[[str], None],
) -> FileReport:  # fmt: skip
    key = digest([part.key, asked])[:12]
    note = next(iter(sorted((out / "imports").glob(f"*-{key}.json"))), None)
    if note is not None:
        return FileReport(**{**json.loads(note.read_text(encoding="utf-8")), "already": True})
    layout, chosen_by = wanted, "named"
    if layout is None:
        layout, chosen_by = _detected(part), "detected"
    what = layout.name if layout else f"none fits (known: {', '.join(x.name for x in LAYOUTS)})"
    say(f"{source} ({part.file}): layout {what}, {chosen_by}")
    shard = f"{_slug(source)}-{_slug(Path(part.file).name)}-{key}"
    writer = _Writer(out, shard, source, part.file)
    for item in outcomes(part.rows(), layout, strict=wanted is not None):
        writer.take(item, max_field_chars)
    writer.flush()
    report = writer.report(asked or (layout.name if layout else "none"))
    write_text(out / "imports" / f"{shard}.json", json.dumps(_plain(report), indent=2))
    return report


def _plain(report: FileReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in FileReport.__slots__ if name != "already"}


def _slug(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", value).strip("-")[:40] or "source"


def _detected(part: Part) -> Layout | None:
    """The layout of the first rows; where labels are numbers, what they mean is decided over the whole file."""
    sample = [cell.value for cell in islice((c for c in part.rows() if isinstance(c, Cell)), SAMPLE)]
    layout = detect(sample)
    if layout is None or layout.name not in ("labelled", "voted") or not any(map(numbers, sample)):
        return layout
    seen: set[float] = set()
    for cell in part.rows():
        if isinstance(cell, Cell):
            seen |= numbers(cell.value)
    return coded(layout, label_code(seen, next(filter(None, map(pair_fields, sample)), None)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was made of one row, or of a run of rows that belong together: `row` and `rows` say which and how many."""

    row: int
    rows: int
    layout: str
    value: Row
    made: tuple[Preferred | RowError | Flaw, ...]


def outcomes(stream: Iterable[Cell | Flaw], layout: Layout | None, strict: bool = False) -> Iterator[Read]:
    """Every row as pairs and errors. A row that lacks the layout's fields is tried in the others unless `strict`."""
    group: list[tuple[int, Rated]] = []
    for item in stream:
        if isinstance(item, Flaw):
            yield Read(row=item.row, rows=int(item.row > 0), layout="", value={}, made=(item,))
            continue
        used = layout if layout is not None and (strict or layout.fits(item.value)) else fitting(item.value) or layout
        if used is not None and used.name == RATED.name:
            try:
                rated = rated_row(item.value)
            except RowError as error:
                yield Read(row=item.row, rows=1, layout=used.name, value=item.value, made=(error,))
                continue
            if group and group[-1][1].prompt_key != rated.prompt_key:
                yield _grouped(group)
                group = []
            group.append((item.row, rated))
            continue
        if group:
            yield _grouped(group)
            group = []
        yield Read(
            row=item.row, rows=1, layout=used.name if used else "", value=item.value, made=_made(item.value, used)
        )
    if group:
        yield _grouped(group)


def _grouped(group: Sequence[tuple[int, Rated]]) -> Read:
    made: tuple[Preferred | RowError, ...]
    try:
        made = tuple(rated_group([rated for _, rated in group]))
    except RowError as error:
        made = (error,)
    return Read(row=group[0][0], rows=len(group), layout=RATED.name, value=group[0][1].row, made=made)


def _made(row: Row, layout: Layout | None) -> tuple[Preferred | RowError, ...]:
    if layout is None:
        fields = ", ".join(sorted(map(str, row)))[:160]
        return (RowError("", f"has the fields of no known layout ({fields})"),)
    try:
        made = tuple(layout.read(row))
    except RowError as error:
        return (error,)
    return made or (RowError("", "holds nothing to compare"),)


@dataclass
class _Writer:
    """The part being filled and the counts so far; the same rows always fill the same parts."""

    out: Path
    shard: str
    source: str
    file: str
    part: int = 0
    rows: int = 0
    pairs: int = 0
    ties: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    held: tuple[list[Pair], list[Origin], list[Judgement], list[Rejection]] = field(
        default_factory=lambda: ([], [], [], [])
    )
    held_rows: int = 0
    held_chars: int = 0

    def take(self, read: Read, max_field_chars: int) -> None:
        self.rows += read.rows
        for made in read.made:
            if isinstance(made, Preferred):
                self._pair(made, read, max_field_chars)
            elif isinstance(made, Flaw):
                self._reject(read.row, "", made.reason, made.excerpt)
            else:
                self._reject(read.row, made.field, made.reason, json.dumps(read.value, default=str)[:400])
        self.held_rows += read.rows
        if self.held_rows >= PART_ROWS or self.held_chars >= PART_CHARS:
            self.flush()

    def _pair(self, made: Preferred, read: Read, max_field_chars: int) -> None:
        pair = made.pair
        contents = [m.content for part in (pair.prompt, *(r.messages for r in pair.responses)) for m in part]
        wrong = next(((c, why) for c in contents if (why := trouble(c, max_field_chars))), None)
        if wrong is not None:
            self._reject(read.row, field_of(read.value, wrong[0]), wrong[1], wrong[0][:200])
            return
        pairs, origins, judgements, _ = self.held
        pairs.append(pair)
        origins.append(Origin(pair_id=pair.id, source=self.source, file=self.file, row=read.row, layout=read.layout))
        judgements.append(Judgement(
            pair_id=pair.id, better=made.better, by=f"wild:{self.source}", kind="wild", confidence=made.confidence,
            votes=made.votes, problem="" if made.better else "tie",
        ))  # fmt: skip
        self.pairs += 1
        self.ties += made.better is None
        self.held_chars += sum(map(len, contents))

    def _reject(self, row: int, where: str, reason: str, excerpt: str) -> None:
        where, reason, shown = (_UNSAFE.sub("\ufffd", t) for t in (where, reason, excerpt[:200]))
        self.held[3].append(
            Rejection(source=self.source, file=self.file, row=row, field=where, reason=reason, excerpt=shown)
        )
        general = re.sub(r"\[\d+\]|(?<=response )\d+", "[.]", where)
        self.rejected[f"{general} {reason.partition(' (')[0]}".strip()] += 1

    def flush(self) -> None:
        """Write the held rows as one part, and do nothing where a killed import has already written it."""
        held: tuple[list[Any], ...] = self.held
        names = ("pairs", "origins", "wild", "rejections")
        records: tuple[type[Any], ...] = (Pair, Origin, Judgement, Rejection)
        for name, record, rows in zip(names, records, held, strict=True):
            table: Table[Any] = Table(self.out / "tables" / name, record)
            shard = f"{self.shard}-{self.part:05d}"
            if rows and not table.done(shard):
                table.write(shard, rows)
        self.held = ([], [], [], [])
        self.part, self.held_rows, self.held_chars = self.part + 1, 0, 0

    def report(self, layout: str) -> FileReport:
        return FileReport(
            source=self.source, file=self.file, layout=layout, rows=self.rows, pairs=self.pairs, ties=self.ties,
            rejected=dict(self.rejected),
        )  # fmt: skip


def trouble(content: str, max_field_chars: int) -> str:
    """Why a text cannot be kept, or "" if it can."""
    if len(content) > max_field_chars:
        return f"is longer than {max_field_chars} characters ({len(content)})"
    if (match := _UNSAFE.search(content)) is None:
        return ""
    if match[0] == "\0":
        return "contains a null byte"
    return "contains bytes that are not UTF-8, or half of a surrogate pair"


def field_of(value: object, content: str, path: str = "") -> str:
    """The path of the text in a row that holds `content`, as in "chosen[1].content"; "" when it is in none."""
    if isinstance(value, str):
        return path if content in value else ""
    if isinstance(value, dict):
        inside = ((f"{path}.{k}" if path else str(k), v) for k, v in value.items())
    elif isinstance(value, list):
        inside = ((f"{path}[{i}]", v) for i, v in enumerate(value))
    else:
        return ""
    return next((found for p, v in inside if (found := field_of(v, content, p))), "")
