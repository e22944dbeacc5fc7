"""Pairs out to other annotation tools, and people's judgements back in; nothing is lost in silence.

Every format carries the pair's id and the ids of its responses in the order shown, so what comes back names responses and
not sides. Rows of other projects, which carry no ids, are read too: the pair is then made from the texts. What cannot be
read is a line in `Imported.problems`, never dropped.

Formats: "jsonl" and "parquet" (ours, complete), "argilla" (records as JSON, Argilla 2) and "label-studio" (tasks as JSON).
What the last two have no place for (seconds, tokens, rounds, ...) is said in their modules.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from assay.curate.annotate import shown_order
from assay.curate.attributes import response_text
from assay.errors import AssayError
from assay.formats.turns import canonical
from assay.records import Attributes, Case, Judgement, Message, Pair, Response, user
from assay.store import replace
from assay.tables import arrow_type, build, check, plain

Format = Literal["jsonl", "parquet", "argilla", "label-studio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one row of any format holds: a pair in a shown order, its attributes if known, and judgements about it."""

    pair: Pair
    shown: tuple[str, str]
    attributes: Attributes | None
    judgements: tuple[Judgement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a file came to. Every row is an entry or a problem ("row 3: ..."); an entry may have had problems as well."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]

    @property
    def judgements(self) -> list[Judgement]:
        return [j for e in self.entries for j in e.judgements]


class RowProblem(Exception):
    """Why one row (or one judgement in it) cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a reader may lean on: pairs by id, names of annotators by the other tool's ids, and where problems go."""

    cases: Mapping[str, Case]
    users: Mapping[str, str]
    problem: Callable[[str], None]


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
    from assay.curate import argilla, label_studio

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
    from assay.curate import argilla, label_studio

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


def checked(judgement: Judgement, pair: Pair, context: Context) -> bool:
    """Whether a judgement names responses of its pair; if not, that is a problem."""
    ids = {r.id for r in pair.responses}
    fits = judgement.better in (None, *ids) and set(judgement.shown) <= ids
    if not fits:
        context.problem(f"the judgement by {judgement.by} names a response that pair {pair.id} does not have")
    return fits


def shown_texts(entry: Entry) -> tuple[str, str]:
    """The responses as text in the order shown; one of several turns as a transcript."""
    first, second = (entry.pair.response(i) for i in entry.shown)
    return response_text(first), response_text(second)


def identify(
    ids: Mapping[str, Any], prompt: object, texts: Sequence[object], context: Context
) -> tuple[Pair, tuple[str, str]]:
    """The pair of a row of another tool, and its responses' ids in the order shown.

    With `pair_id`, `response_1_id` and `response_2_id` in `ids`: the known pair of that id, or the one made from the texts
    if its id is the same. Without them: the pair made from the texts. Raises RowProblem when the row is neither.
    """
    pair_id = ids.get("pair_id")
    shown = (str(ids.get("response_1_id", "")), str(ids.get("response_2_id", "")))
    if isinstance(pair_id, str) and pair_id in context.cases:
        pair = context.cases[pair_id].pair
        if {*shown} != {r.id for r in pair.responses}:
            raise RowProblem(f"response_1_id and response_2_id are not those of pair {pair_id}")
        return pair, shown
    pair, made = _from_texts(prompt, texts)
    if pair_id and pair.id != pair_id:
        raise RowProblem(f"pair {pair_id} is not known here, and the texts give another ({pair.id}): they were changed")
    return pair, made


def _from_texts(prompt: object, texts: Sequence[object]) -> tuple[Pair, tuple[str, str]]:
    if not all(isinstance(t, str) and t.strip() for t in texts) or len(texts) != 2:
        raise RowProblem("needs two responses as text")
    one, other = (Response.of(str(t)) for t in texts)
    if one.id == other.id:
        raise RowProblem("the two responses are identical")
    return Pair.of(_conversation(prompt), one, other), (one.id, other.id)


def _conversation(prompt: object) -> tuple[Message, ...]:
    if isinstance(prompt, str) and prompt.strip():
        return (user(prompt),)
    if isinstance(prompt, list) and prompt:
        try:
            return tuple(_message(m) for m in prompt)
        except (KeyError, TypeError, AttributeError) as error:
            raise RowProblem("its prompt is not a list of messages with role and content") from error
    raise RowProblem("has no prompt")


def _message(turn: Mapping[str, Any]) -> Message:
    """One turn of `chat`."""
    calls, tools = (canonical(turn[k]) if turn.get(k) else "" for k in ("tool_calls", "tools"))
    return Message(
        role=turn["role"], content=turn["content"], images=tuple(turn.get("images", ())),
        reasoning=str(turn.get("reasoning_content") or ""), tool_calls=calls, tools=tools,
        tool_call_id=str(turn.get("tool_call_id") or ""), name=str(turn.get("name") or ""),
    )  # fmt: skip


def chat(pair: Pair) -> list[dict[str, object]]:
    """The prompt as other tools take chats, with what else its turns carry."""
    return [
        {
            **m.chat(),
            **({"images": list(m.images)} if m.images else {}),
            **({"tools": json.loads(m.tools)} if m.tools else {}),
        }
        for m in pair.prompt
    ]


def labels(attributes: Attributes | None) -> dict[str, str]:
    """Attributes as flat text fields; `desired` one to a line."""
    if attributes is None:
        return {}
    return {
        "category": attributes.category, "objectivity": attributes.objectivity,
        "controversiality": attributes.controversiality, "desired": "\n".join(attributes.desired),
        "guideline": attributes.guideline, "attributes_by": attributes.by,
    }  # fmt: skip


def attributes_of(fields: Mapping[str, Any], pair: Pair, context: Context) -> Attributes | None:
    """The inverse of `labels`; where the row has none, those that the known pair came with."""
    if not all(isinstance(fields.get(n), str) and fields[n] for n in ("category", "objectivity", "controversiality")):
        return context.cases[pair.id].attributes if pair.id in context.cases else None
    return Attributes(
        pair_id=pair.id, category=fields["category"], objectivity=fields["objectivity"],
        controversiality=fields["controversiality"], by=str(fields.get("attributes_by") or "import"),
        desired=tuple(str(fields.get("desired") or "").splitlines()), guideline=str(fields.get("guideline") or ""),
    )  # fmt: skip
