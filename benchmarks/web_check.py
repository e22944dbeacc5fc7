"""Acknowledged answers against what the database and judgements.jsonl hold: nothing lost, nothing double."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from assay.web import schema
from assay.web.schema import Database
from assay.web.task import ANSWERS


@dataclass(frozen=True, slots=True)
class Given:
    """An answer that the server acknowledged."""

    submission: str
    pair_id: str
    by: str
    answer: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of judgements as the database has it; `side` is that of the better response as it was shown."""

    submission: str
    pair_id: str
    by: str
    side: int | None
    problem: str
    strength: int
    better: str | None
    stands: bool
    trap: bool


def read_stored(database: str) -> list[Stored]:
    """All judgements in the database, withdrawn ones too, without the page's own code to read them."""
    base = Database(database)
    j, s, p = schema.judgements.c, schema.seats.c, schema.pairs.c
    joined = schema.judgements.join(schema.pairs).outerjoin(schema.seats, sa.and_(s.submission == j.id, s.judged))
    with base.read() as connection:
        rows = connection.execute(sa.select(j.id, j.pair_id, j.by, j.body, s.seat, p.truth).select_from(joined)).all()
    base.close()
    found = []
    for row in rows:
        body = json.loads(row.body)
        said = body["judgement"]
        found.append(Stored(
            submission=row.id, pair_id=row.pair_id, by=row.by, stands=row.seat is not None, trap=row.truth is not None,
            side=None if said["better"] is None else said["shown"].index(said["better"]), problem=said["problem"],
            strength=body["strength"], better=said["better"],
        ))  # fmt: skip
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def beyond(stored: Sequence[Stored], overlap: int) -> int:
    """How many pairs more than `overlap` people judged; traps are for everybody."""
    people = Counter(pair for pair, _ in {(r.pair_id, r.by) for r in stored if r.stands and not r.trap})
    return sum(n > overlap for n in people.values())


def check(
    given: Sequence[Given], stored: Sequence[Stored], lines: Sequence[dict[str, Any]], overlap: int
) -> dict[str, int]:
    """Acknowledged answers against what the database and judgements.jsonl (`lines`) hold.

    lost: acknowledged, and not standing in the database, or not as it was given, or not in the file though its pair is
    finished. double: stored or written twice. unasked: standing in either place, and not acknowledged or taken back.
    """
    standing = [r for r in stored if r.stands]
    kept = {r.submission: (r.pair_id, r.by, (r.side, r.strength, r.problem)) for r in standing}
    wanted = {g.submission: (g.pair_id, g.by, ANSWERS[g.answer]) for g in given}
    file: dict[tuple[str, str], str | None] = {}
    written: Counter[tuple[str, str]] = Counter()
    for line in lines:
        key = (str(line.get("withdrawn", line.get("pair_id"))), str(line["by"]))
        if "withdrawn" in line:
            written[key] = 0
            file.pop(key, None)
        else:
            word = line["better"] or line["problem"]
            written[key] += file.get(key, word) == word  # another word replaces the one before it
            file[key] = word
    people = Counter(r.pair_id for r in standing if not r.trap)
    finished = {
        (r.pair_id, r.by): r.better or r.problem for r in standing if people[r.pair_id] >= overlap and not r.trap
    }
    now = {(r.pair_id, r.by): r.better or r.problem for r in standing if not r.trap}
    stored_once = Counter(r.submission for r in stored), Counter((r.pair_id, r.by) for r in standing)
    return {
        "lost": sum(kept.get(s) != w for s, w in wanted.items()) + sum(file.get(k) != v for k, v in finished.items()),
        "double": sum(n - 1 for counter in (*stored_once, written) for n in counter.values() if n > 1),
        "beyond": beyond(stored, overlap),
        "unasked": len(kept.keys() - wanted.keys()) + sum(now.get(k) != v for k, v in file.items()),
    }
