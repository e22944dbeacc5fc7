"""Pairs out to other annotation tools, and people's judgements back in; nothing is lost in silence.

Every format carries the pair's id and the ids of its responses in the order shown, so what comes back names responses and
not sides. Rows of other projects, which carry no ids, are read too: the pair is then made from the texts. What cannot be
read is a line in `Imported.problems`, never dropped.

Formats: "jsonl" and "parquet" (ours, complete), "argilla" (records as JSON, Argilla 2) and "label-studio" (tasks as JSON).
What the last two have no place for (seconds, tokens, rounds, ...) is said in their modules.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from assay.curate import argilla, label_studio
from assay.curate.annotate import shown_order
from assay.curate.entries import Context, Entry, RowProblem, checked
from assay.errors import AssayError
from assay.records import Case, Judgement, Pair
from assay.store import replace
from assay.tables import arrow_type, build, check, plain

Format = Literal["jsonl", "parquet", "argilla", "label-studio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a file came to. Every row is an entry or a problem ("row 3: ..."); an entry may have had problems as well."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]

    @property
    def judgements(self) -> list[Judgement]:
        return [j for e in self.entries for j in e.judgements]


def entries(cases: Iterable[Case], judgements: Iterable[Judgement] = (), seed: int = 0) -> Iterator[Entry]:
    """One entry per case, in a random order of responses that `seed` decides, with the judgements about it."""
    about: dict[str, list[Judgement]] = {}
    for j in judgements:
        about.setdefault(j.pair_id, []).append(j)
    for case in cases:
        shown = shown_order(case.pair, "export", seed)
        yield Entry(
            pair=case.pair, shown=shown, attributes=case.attributes, judgements=tuple(about.get(case.pair.id, ()))
        )


def write(path: Path, format: Format, rows: Iterable[Entry]) -> int:
    """Write `rows` to `path`, whole or not at all, and return their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    if format == "parquet":
        table = pa.Table.from_pylist([plain(e) for e in rows], schema=_SCHEMA)
        pq.write_table(table, beside, compression="zstd")
        count = int(table.num_rows)
    else:
        lines = [
            _text(plain(e) if format == "jsonl" else (argilla if format == "argilla" else label_studio).row(e))
            for e in rows
        ]
        count = len(lines)
        body = "".join(f"{line}\n" for line in lines) if format == "jsonl" else "[" + ",\n".join(lines) + "]\n"
        beside.write_text(body, encoding="utf-8")
    replace(beside, path)
    return count


_SCHEMA = pa.schema([(name, arrow_type(Entry.__annotations__[name])) for name in Entry.__annotations__])


def _text(row: object) -> str:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode()


def read(
    path: Path, format: Format, *, cases: Iterable[Case] = (), users: Mapping[str, str] | None = None,
    most_rows: int | None = None,
) -> Imported:  # fmt: skip
    """Read what `write` wrote, or what Argilla or Label Studio exported.

    `cases` are known pairs: a row with the id of one is about it, whatever became of the texts. `users` gives names to the
    other tool's ids. Raises AssayError when the file is no file of this format at all, or has more than `most_rows`.
    """
    readers: dict[str, Callable[[Any, Context], Entry]] = {
        "argilla": argilla.entry, "label-studio": label_studio.entry, "jsonl": _entry, "parquet": _entry,
    }  # fmt: skip
    problems: list[str] = []
    found: list[Entry] = []
    known = {c.pair.id: c for c in cases}
    for number, row in enumerate(_rows(path, format), 1):
        if most_rows is not None and number > most_rows:
            raise AssayError(f"{path}: more than {most_rows:,} rows")
        where = f"row {number}"
        context = Context(cases=known, users=users or {}, problem=lambda text, w=where: problems.append(f"{w}: {text}"))  # type: ignore[misc]
        try:
            if isinstance(row, RowProblem):
                raise row
            found.append(readers[format](row, context))
        except RowProblem as problem:
            problems.append(f"{where}: {problem}")
        except RecursionError:
            problems.append(f"{where}: nested too deeply")
    return Imported(entries=tuple(found), problems=tuple(problems))


def _rows(path: Path, format: Format) -> Iterator[Any]:
    try:
        if format == "parquet":
            for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
                yield from batch.to_pylist()
        elif format == "jsonl":
            with path.open(encoding="utf-8") as file:
                for line in filter(str.strip, file):
                    try:
                        yield json.loads(line)
                    except (ValueError, RecursionError) as error:
                        yield RowProblem(f"not JSON ({error})")
        else:
            rows = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(rows, list):
                raise AssayError(
                    f"{path}: not a list of {'records' if format == 'argilla' else 'tasks'}; export as JSON"
                )
            yield from rows
    except FileNotFoundError as error:
        raise AssayError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise AssayError(f"{path}: not a file of format {format} ({error})") from error


def _entry(row: Any, context: Context) -> Entry:
    """One row of our own formats; a bare judgement or a bare case of other `assay` files is an entry as well."""
    if not isinstance(row, dict):
        raise RowProblem("not an object")
    try:
        if "better" in row:
            judgement: Judgement = build(Judgement, row)
            if judgement.pair_id not in context.cases:
                raise RowProblem(f"a judgement of the unknown pair {judgement.pair_id}")
            row = {"pair": plain(context.cases[judgement.pair_id].pair), "attributes": None, "judgements": [row]}
        pair: Pair = build(Pair, row["pair"])
        known = row.get("shown") or [r.id for r in pair.responses]
        found: Entry = build(Entry, {"judgements": [], **row, "shown": known})
        check(Entry, found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RowProblem(f"not a pair with judgements ({error!r})") from error
    if set(found.shown) != {r.id for r in pair.responses} or any(j.pair_id != pair.id for j in found.judgements):
        raise RowProblem("its parts belong to different pairs")
    return Entry(
        pair=pair, shown=found.shown, attributes=found.attributes,
        judgements=tuple(j for j in found.judgements if checked(j, pair, context)),
    )  # fmt: skip
