"""A stream of rows as judged pairs: in the layout that the file has or that was named, with what is open asked about first.

`decide` looks at a file and says its layout, `outcomes` reads it; both work for a single file as for the parts of a pool.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from assay.errors import AssayError
from assay.formats.ambiguous import Ambiguous, has_questions, resolved
from assay.formats.layouts import Layout, detect, explained, fitting, flattened, unread
from assay.formats.pictures import Keep
from assay.formats.pictures import resolved as with_pictures
from assay.formats.preferred import Outcome, Preferred
from assay.formats.rated import Rated, group
from assay.formats.rival_fields import LABELS
from assay.formats.rows import Row, RowError
from assay.formats.spelling import in_known_names
from assay.formats.texts import Cell, Flaw

SAMPLE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Fields renamed by hand, as ours -> theirs ("data.question" for one inside another), and those that are left out."""

    mapped: dict[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    @staticmethod
    def of(mapped: Sequence[str], ignored: Sequence[str] = ()) -> "Fields":
        """From the command line's FIELD=COLUMN. Raises AssayError where one is not in that form."""
        pairs = [m.partition("=") for m in mapped]
        wrong = next((m for m, (ours, _, theirs) in zip(mapped, pairs, strict=True) if not ours or not theirs), None)
        if wrong is not None:
            raise AssayError(f"--map {wrong}: write FIELD=COLUMN, as in chosen=win (our field, then your column)")
        return Fields(mapped={ours: theirs for ours, _, theirs in pairs}, ignored=frozenset(ignored))

    def applied(self, row: Row) -> Row:
        if not self.mapped and not self.ignored:
            return row
        named = frozenset({*self.ignored, *self.mapped.values()})
        row = in_known_names(row, named)
        left = {*named, *(LABELS if "label" in self.mapped else ())}
        made = {k: v for k, v in row.items() if k not in left}
        return {**made, **{ours: _inside(row, theirs) for ours, theirs in self.mapped.items()}}

    @staticmethod
    def found(name: str, rows: Iterable[Cell | Flaw]) -> bool:
        """Whether any of the first rows has a column of that name (or a known one spelled otherwise), or a path into one."""
        seen = (item.value for item in islice(rows, SAMPLE) if isinstance(item, Cell))
        return any(name in in_known_names(row) or name in row or _inside(row, name) is not None for row in seen)


def _inside(row: Row, path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        value = _object(value).get(key)
    return value


def _object(value: Any) -> Row:
    """An object, also where a cell holds it as JSON text; an empty one for all else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was made of one row, or of rows that belong together: `row` is the first of them, `rows` their number."""

    row: int
    rows: int
    layout: str
    value: Row
    made: tuple[Preferred | RowError | Flaw, ...]


def decide(
    rows: Callable[[], Iterable[Cell | Flaw]], where: str, *, wanted: Layout | None = None, fields: Fields | None = None
) -> Layout | None:
    """The layout of a file (`rows` begins it anew each time), or None where no row fits one.

    What is open in it (what numbers mean, which label holds) is looked for over the whole file. Raises AssayError where
    two readings fit, with both, a row read each way, and the flag to give.
    """
    fields = fields or Fields()
    first = list(islice(_rows(rows(), fields), SAMPLE))
    layout = wanted or detect(row for _, row in first)
    if layout is None or not has_questions(layout) or (wanted is not None and layout.base == "scored-list"):
        return layout
    found, survey = resolved(layout, _rows(rows(), fields), fields.mapped)
    if isinstance(found, Ambiguous):
        raise AssayError(f"{where}: {found.message(survey.examples)}")
    return found


def why_unread(rows: Iterable[Cell | Flaw], fields: Fields | None = None) -> list[str]:
    """Why the first row of a file fits no layout, in lines; none where there is no row."""
    return next((explained(row) for _, row in _rows(rows, fields or Fields())), [])


def _rows(stream: Iterable[Cell | Flaw], fields: Fields) -> Iterator[tuple[int, Row]]:
    for item in stream:
        if isinstance(item, Cell):
            try:
                yield item.row, flattened(fields.applied(item.value))
            except RowError:
                continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Lone:
    """A row of one response alone: those of one layout and prompt make pairs (`paired`)."""

    row: int
    layout: str
    rated: Rated


def outcomes(
    stream: Iterable[Cell | Flaw], layout: Layout | None, strict: bool = False, keep: Keep | None = None,
    fields: Fields | None = None,
) -> Iterator[Read]:  # fmt: skip
    """`readings` of a file that fits in memory: rows of one response each are held until the end."""
    lone: list[Lone] = []
    for read in readings(stream, layout, strict, keep, fields):
        if isinstance(read, Lone):
            lone.append(read)
        else:
            yield read
    yield from paired(lone)


def readings(
    stream: Iterable[Cell | Flaw], layout: Layout | None, strict: bool = False, keep: Keep | None = None,
    fields: Fields | None = None,
) -> Iterator[Read | Lone]:  # fmt: skip
    """Every row as pairs and errors, or as one response of several. A row that lacks the layout's fields is tried in the
    others unless `strict`. `keep` takes pictures in; without it, rows that show pictures are errors.
    """
    fields = fields or Fields()
    for item in stream:
        if isinstance(item, Flaw):
            yield Read(row=item.row, rows=int(item.row > 0), layout="", value={}, made=(item,))
            continue
        try:
            row = flattened(fields.applied(item.value))
            row = with_pictures(row, keep) if keep is not None else row
        except RowError as error:
            yield Read(row=item.row, rows=1, layout="", value=item.value, made=(error,))
            continue
        used = layout if layout is not None and (strict or layout.fits(row)) else fitting(row) or layout
        if used is not None and used.one is not None:
            try:
                yield Lone(row=item.row, layout=used.name, rated=used.one(row))
            except RowError as error:
                yield Read(row=item.row, rows=1, layout=used.name, value=item.value, made=(error,))
            continue
        yield Read(row=item.row, rows=1, layout=used.name if used else "", value=item.value, made=_made(row, used))


def paired(rows: Iterable[Lone]) -> Iterator[Read]:
    """The pairs of rows of one response each, in the order in which their prompts first occur."""
    groups: dict[tuple[str, str], list[tuple[int, Rated]]] = {}
    for one in rows:
        groups.setdefault((one.layout, one.rated.prompt_key), []).append((one.row, one.rated))
    for (name, _), members in groups.items():
        yield from _grouped(name, members)


def _grouped(name: str, members: Sequence[tuple[int, Rated]]) -> Iterator[Read]:
    try:
        made = tuple(group([rated for _, rated in members], wanted=name.startswith("unpaired")))
    except RowError as error:
        for number, rated in members:
            yield Read(row=number, rows=1, layout=name, value=rated.row, made=(error,))
        return
    yield Read(row=members[0][0], rows=len(members), layout=name, value=members[0][1].row, made=made)


def _made(row: Row, layout: Layout | None) -> tuple[Outcome, ...]:
    if layout is None:
        return (RowError("", unread(row)),)
    try:
        made = tuple(layout.read(row))
    except RowError as error:
        return (error,)
    return made or (RowError("", "holds nothing to compare"),)
