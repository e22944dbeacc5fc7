"""`assay pool add`: any source of preferences becomes shards of pairs, origins, in-the-wild judgements and rejections.

A file is read as a stream and written in parts of 50,000 rows. Its shards are named by its content, so adding it again
does nothing, and an import that was killed continues at the first part that is missing. Every row ends as pairs or as a
counted `Rejection`; nothing vanishes.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from assay.curate.layouts import Layout, Preferred, named
from assay.curate.pictures import keeper
from assay.curate.reading import SAMPLE as SAMPLE
from assay.curate.reading import Fields, Read, decide, why_unread
from assay.curate.reading import outcomes as outcomes
from assay.curate.sources import Part, find
from assay.curate.texts import Flaw
from assay.errors import AssayError
from assay.images import ImageStore
from assay.records import Judgement, Message, Origin, Pair, Rejection, digest
from assay.tables import Table, write_text

PART_ROWS = 50_000
PART_CHARS = 50_000_000
"""A part is closed at this many rows or characters of text, so that memory is bounded."""
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
    """What an import did, file by file; how many rows of the pool repeat a pair, and how many pairs have votes for both."""

    files: tuple[FileReport, ...]
    repeated: int = 0
    contradicting: int = 0

    @property
    def pairs(self) -> int:
        return sum(f.pairs for f in self.files)

    @property
    def rejected(self) -> int:
        return sum(sum(f.rejected.values()) for f in self.files)

    def lines(self) -> list[str]:
        return [*(line for f in self.files for line in f.lines()), *self.ends()]

    def ends(self) -> list[str]:
        """What duplicates and conflicts came to, where there are any."""
        if not self.repeated:
            return []
        told = f"duplicates: {self.repeated:,} rows repeat a pair that the pool holds already; "
        return [f"{told}conflicts: for {self.contradicting:,} of these pairs the rows prefer different responses"]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def add(
    sources: Sequence[str], out: Path, *, layout: str | None = None, name: str | None = None,
    max_field_chars: int = 1_000_000, say: Callable[[str], None] = print, fields: Fields | None = None,
) -> PoolReport:  # fmt: skip
    """Import files, folders or hub ids into the pool folder `out`, after what is there already.

    `layout` names the shape of the rows instead of detecting it; `name` replaces the sources' own names; `fields` renames or
    leaves out columns. Raises AssayError before anything is written when a source does not exist, the layout is unknown, a
    file can be read in two ways, or is in the pool already and was read in another way.
    """
    wanted, fields = named(layout) if layout is not None else None, fields or Fields()
    parts = [part for source in sources for part in find(source)]
    how = _asked(layout, fields)
    found: list[Layout | None] = []
    for part in parts:
        known = _noted(out, part, how)
        found.append(None if known else _detected(part, wanted, fields))
    reports = []
    for part, chosen in zip(parts, found, strict=True):
        known = _noted(out, part, how)
        report = FileReport(**{**known, "already": True}) if known else _import(
            part, out, chosen, how, wanted is not None, name or part.source, max_field_chars, say, fields
        )  # fmt: skip
        for line in report.lines():
            say(line)
        reports.append(report)
    repeated, contradicting = _overlaps(out)
    whole = PoolReport(files=tuple(reports), repeated=repeated, contradicting=contradicting)
    for line in whole.ends():
        say(line)
    return whole


def _detected(part: Part, wanted: Layout | None = None, fields: Fields | None = None) -> Layout | None:
    """The layout of a part: the one that is wanted or the one that its rows have, made sure of over all of them."""
    return decide(part.rows, part.path or part.file, wanted=wanted, fields=fields)


def _asked(layout: str | None, fields: Fields) -> str:
    """What was said about how to read, in one text; "" for nothing."""
    mapped = [f"{ours}={theirs}" for ours, theirs in sorted(fields.mapped.items())]
    return " ".join([*([layout] if layout else []), *mapped, *(f"-{n}" for n in sorted(fields.ignored))])


def _noted(out: Path, part: Part, how: str) -> dict[str, Any] | None:
    """The note of an import of the same content. Raises AssayError where it was read in another way than is asked now."""
    key = digest([part.key, how])[:12]
    for note in sorted((out / "imports").glob("*.json")):
        held: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        content, was = held.pop("content", ""), held.pop("asked", "")
        if note.stem.endswith(f"-{key}"):
            return held
        if content == part.key:
            raise AssayError(
                f"{part.path or part.file}: is in the pool {out} already, read as {was or held['layout']}; to read it "
                "in another way, make the pool anew in another folder"
            )
    return None


def _overlaps(out: Path) -> tuple[int, int]:
    """(rows of the pool beyond the first of their pair, pairs for which rows prefer different responses)."""
    shards = sorted((out / "tables" / "wild").glob("*.parquet"))
    if not shards:
        return 0, 0
    wild = pl.concat([pl.read_parquet(shard, columns=["pair_id", "better"]) for shard in shards])
    pairs = wild.group_by("pair_id").agg(sides=pl.col("better").drop_nulls().n_unique())
    return wild.height - pairs.height, pairs.filter(pl.col("sides") > 1).height


def _import(
    part: Part, out: Path, layout: Layout | None, how: str, named_: bool, source: str, max_field_chars: int,
    say: Callable[[str], None], fields: Fields,
) -> FileReport:  # fmt: skip
    if layout is None:
        for line in [f"{source} ({part.file}): no layout", *why_unread(part.rows(), fields)]:
            say(line)
    else:
        say(f"{source} ({part.file}): layout {layout.name}, {'named' if named_ else 'detected'}")
    key = digest([part.key, how])[:12]
    shard = f"{_slug(source)}-{_slug(Path(part.file).name)}-{key}"
    writer = _Writer(out, shard, source, part.file)
    keep = keeper(ImageStore(out / "images"), Path(part.path).parent if part.path else None)
    for item in outcomes(part.rows(), layout, strict=named_, keep=keep, fields=fields):
        writer.take(item, max_field_chars)
    writer.flush()
    report = writer.report(layout.name if layout else "none")
    note = {**_plain(report), "content": part.key, "asked": how}
    write_text(out / "imports" / f"{shard}.json", json.dumps(note, indent=2))
    return report


def _plain(report: FileReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in FileReport.__slots__ if name != "already"}


def _slug(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", value).strip("-")[:40] or "source"


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
        turns = [m for part in (pair.prompt, *(r.messages for r in pair.responses)) for m in part]
        contents = [t for m in turns for t in _texts(m)]
        wrong = next(((c, why) for c in contents if (why := trouble(c, max_field_chars))), None)
        if wrong is not None:
            self._reject(read.row, field_of(read.value, wrong[0]), wrong[1], wrong[0][:200])
            return
        pairs, origins, judgements, _ = self.held
        pairs.append(pair)
        origins.append(Origin(pair_id=pair.id, source=self.source, file=self.file, row=read.row, layout=read.layout))
        judgements.append(Judgement(
            pair_id=pair.id, better=made.better, by=f"wild:{self.source}", kind="wild", confidence=made.confidence,
            votes=made.votes, problem="" if made.better else "tie", strength=made.strength,
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


def _texts(message: Message) -> list[str]:
    """Every text of a message."""
    more = (message.reasoning, message.tool_calls, message.tool_call_id, message.name, message.tools)
    return [message.content, *(t for t in more if t)]


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
