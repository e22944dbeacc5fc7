"""The answers of a benchmark on disk: `OUT/answers/NAME.jsonl`, a line each, with its thoughts and all of its text.

In memory is the end of each alone: five answers of 64K tokens to each of 675 questions are a gigabyte of thoughts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from assay.bench.reasoning.equivalence import END
from assay.bench.reasoning.recorder import Heard
from assay.bench.reasoning.rows import Answered
from assay.bench.reasoning.thoughts import Said, all_thought, template_opens
from assay.errors import AssayError
from assay.store import Place


def short(row: Answered) -> Answered:
    """The row as it is held: without thoughts, and no more of its answer than a judge reads."""
    return replace(row, answer=row.answer[-END:], thoughts="")


def spooled(rows: Iterable[Answered], file: Path) -> Iterator[Answered]:
    """The rows, short, after their lines are in the file. Raises AssayError where they cannot be written."""
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            try:
                lines.write(_line(row))
            except OSError as error:
                raise AssayError(f"{file}: cannot be written ({error.strerror or error})") from error
            yield short(row)


def write(file: Path, whole: Path, rows: Iterable[Answered], said: Callable[[str], Said | None]) -> None:
    """The file of answers: of each line of the spool `whole` the texts, of `rows` all else. `said`: an answer with its
    thoughts, by its row's id of the completion; None where that is not known."""

    def lines(into: Path) -> None:
        with into.open("w", encoding="utf-8") as out:
            for told, row in zip(read_whole(whole), rows, strict=True):
                heard = said(row.reply)
                out.write(_line(replace(row, answer=told.answer, thoughts=heard.thoughts if heard else told.thoughts)))

    Place(str(file)).put(lines)


def read(file: Path) -> list[Answered]:
    """The rows of a file of answers, short."""
    return [short(row) for row in read_whole(file)]


def read_whole(file: Path) -> Iterator[Answered]:
    """The rows of a file of answers, one in memory at a time. Raises AssayError for a line that is none."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                told: dict[str, Any] = json.loads(line)
                row = Answered(**{k: v for k, v in told.items() if k in _FIELDS})
            except (ValueError, TypeError, AttributeError) as error:
                raise AssayError(
                    f"{file}, line {number}: not an answer that `assay policy bench` kept ({error}); give its command again"
                ) from error
            yield row


_FIELDS = frozenset(f.name for f in fields(Answered))


def _line(row: Answered) -> str:
    """A line of JSON. A lone surrogate, which JSON knows and no text may hold, is a mark."""
    text = json.dumps(asdict(row), ensure_ascii=False)
    return text.encode("utf-8", "replace").decode() + "\n"


def joined(rows: Iterable[Answered], heard: Mapping[str, Heard]) -> list[Answered]:
    """Rows of a library with what the recorder heard: answers that did not end, and questions that got no answer, which no
    library may score. Raises AssayError where some failed, and the library's rows do not say which."""
    opens = template_opens([h.said for h in heard.values() if not h.fault])
    found = []
    for row in rows:
        told = heard.get(row.reply) if row.reply else None
        if told is None:
            found.append(row)
        elif told.fault:
            found.append(replace(row, score=None, parts={}, fault=told.fault, finished=False))
        elif all_thought(told.said, opens):
            score = None if row.score is None else 0.0
            found.append(
                replace(row, score=score, parts=dict.fromkeys(row.parts, 0.0), finished=False, all_thought=True)
            )
        else:
            found.append(replace(row, finished=not told.said.cut))
    failed = [h.fault for h in heard.values() if h.fault]
    if failed and not any(r.reply for r in found):
        raise AssayError(
            f"{len(failed):,} requests got no answer ({failed[0]}), and the library's rows do not say which: nothing was "
            "decided by that; see to the server, then give this command again, which asks only what failed"
        )
    return found
