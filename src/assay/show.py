"""`assay show`: the whole life of one pair, from every table of a pool or run that mentions it.

The pair is looked for in the narrow index; of its text one row group is read. Tables of which a shard belongs to a shard of
the pool are read where the pair is.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape

from assay.curate.attributes import message_text
from assay.curate.material import pool_in
from assay.curate.prepare import Slice
from assay.curate.shards import Pool
from assay.errors import AssayError
from assay.records import Pair, tools_of
from assay.store import Place
from assay.tables import read_shard, records

_HIDDEN = {"pair_id", "rule", "prompt_id", "question_id", "chars", "at"}
_PLACES = {"index": {"row", "first", "second"}}
"""Columns that say where things are, by table; other tables have something to say in columns of these names."""
_POOL = ("origins", "votes", "truth")
_RUN = ("contamination", "near_duplicates", "measuring", "measured", "index", "attributes", "votes")
_SEED = ("asked", "judgements", "wins", "rewards", "evidence", "labels", "sets", "checks", "hits", "claims")
_OF_SHARD = re.compile(r"(?:^|-)(\d{4,}-\d{2,}(?:-\d+)?)_[0-9a-f]+(?:-\d+)?$")
"""A shard that was made of one shard of the pool."""
_ID = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A pair, where in its pool it is, and what a run made of that shard."""

    pair: Pair
    pool: Pool
    shard: str
    part: int
    made: Slice | None


def show(folder: str | Path | Place, pair_id: str, console: Console) -> None:
    """Print the pair whose id starts with `pair_id`, what each annotator said, and every row about it, in the order in which
    they came to be.

    Raises AssayError when the folder holds no pairs, or when none or several ids start so.
    """
    place = Place.of(folder)
    found = find(place, pair_id)
    pair = found.pair
    names = {r.id: f"response {n}" for n, r in enumerate(pair.responses, 1)}
    console.print(f"[bold]pair {pair.id}[/bold]")
    if tools := tools_of(pair.prompt):
        console.print(f"[cyan]tools[/cyan]: {escape(json.dumps(tools, ensure_ascii=False))}", soft_wrap=True)
    for message in pair.prompt:
        console.print(f"[cyan]{message.role}[/cyan]: {escape(message_text(message))}", soft_wrap=True)
    for response in pair.responses:
        console.print(f"[magenta]{names[response.id]}[/magenta] ({response.id})")
        for message in response.messages:
            console.print(f"  {escape(message_text(message))}", soft_wrap=True)
    for line in said(place, pair.id):
        who = f"{line.pop('by')}{line.pop('state')}"
        words = "  ".join(f"{k}={names.get(str(v), v)}" for k, v in line.items() if v not in (None, "", [], 0))
        console.print(f"[bold]said by {escape(who)}[/bold]  {escape(words)}", soft_wrap=True)
    for table, shard, row in life(place, found):
        hidden = _HIDDEN | _PLACES.get(table, set())
        facts = (
            f"{k}={names.get(str(v), v)}" for k, v in row.items()
            if k not in hidden and (k == "right" or v not in (None, "", [], 0))
        )  # fmt: skip
        console.print(f"[bold]{table}[/bold] [dim]{shard}[/dim]  " + escape("  ".join(facts)), soft_wrap=True)


def said(place: Place, pair_id: str) -> Iterator[dict[str, Any]]:
    """All that people ever said of the pair in RUN/judgements.jsonl, whoever it was, in order: also what others contradict,
    and what was replaced or taken back later (`state`). The tables have what these came to together."""
    file = place.path / "judgements.jsonl" if place.path is not None else None
    if file is None or not file.exists():
        return
    rows = list[dict[str, Any]]()
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except ValueError:
            continue  # the run says which line that is
        if isinstance(row, dict) and pair_id in (row.get("pair_id"), row.get("withdrawn")):
            for before in rows:
                if before["by"] == row.get("by") and not before["state"]:
                    before["state"] = " (taken back)" if "withdrawn" in row else " (replaced later)"
            if "pair_id" in row:
                kept = {k: v for k, v in row.items() if k not in _HIDDEN | {"by", "shown"}}
                rows.append({"by": row.get("by"), "state": "", **kept})
    yield from rows


def find(place: Place, pair_id: str) -> Found:
    """The pair of the folder whose id starts with `pair_id`."""
    pool, material = pool_in(place)
    hits: list[tuple[str, str, int]] = []
    for shard in (s for s in pool.shards if s.pairs):
        ids = read_shard(pool.table("index").file(shard.name), ["pair_id"])["pair_id"]
        rows = pc.indices_nonzero(pc.starts_with(ids, pair_id)).to_pylist()
        hits += [(ids[row].as_py(), shard.name, row) for row in rows]
        if hits and len(pair_id) == _ID:
            break
    if len(hits) != 1:
        what = "no pair's id starts" if not hits else f"{len(hits):,} pairs' ids start"
        raise AssayError(f"{place}: {what} with '{pair_id}'; ids are in the report and in the tables index and labels")
    _, name, row = hits[0]
    (pair,) = records(Pair, read_shard(pool.table("pairs").file(name), rows=[row]))
    part = next(s.part for s in pool.shards if s.name == name)
    made = next((s for s in material.slices if s.name == name), None) if material else None
    return Found(pair=pair, pool=pool, shard=name, part=part, made=made)


def life(place: Place, found: Found) -> Iterator[tuple[str, str, dict[str, object]]]:
    """(table, shard, row) of every row about the pair: what the pool says, then the run, then seed by seed."""
    names = [s.name for s in found.pool.shards if s.part == found.part]
    for table in _POOL:
        shards = (found.pool.place / table / f"{name}.parquet" for name in names)
        yield from _about(found.pair.id, table, "", (f for f in shards if f.exists()))
    seeds = [name for name in place.names() if name.startswith("seed-")]
    for root, tables in ((place, _RUN), *((place / seed, _SEED) for seed in seeds)):
        for table in tables:
            files = _files(root / "tables" / table, found)
            if found.made and table in ("index", "attributes"):  # others may be of the pool as it was before
                files = iter((found.made.index if table == "index" else found.made.attributes,))
            yield from _about(found.pair.id, table, root.name if root != place else "", files)


def _files(folder: Place, found: Found) -> Iterator[Place]:
    """The shards in a folder, and in its folders, that may have a row about the pair."""
    for name in folder.names():
        if name.endswith(".parquet"):
            of = _OF_SHARD.search(name.removesuffix(".parquet"))
            if of is None or of[1] == found.shard:
                yield folder / name
        elif not name.endswith(".json"):
            yield from _files(folder / name, found)


def _about(pair_id: str, table: str, seed: str, files: Iterator[Place]) -> Iterator[tuple[str, str, dict[str, object]]]:
    for file in files:
        rows = pc.indices_nonzero(pc.equal(read_shard(file, ["pair_id"])["pair_id"], pair_id))
        if len(rows):
            where = "/".join(filter(None, (seed, *_inside(file, table))))
            found: pa.Table = read_shard(file, rows=rows.to_numpy())
            yield from ((table, where, row) for row in found.to_pylist())


def _inside(file: Place, table: str) -> tuple[str, ...]:
    """The name of a shard, behind that of the folder in which it lies within its table."""
    folder, _, name = file.url.removesuffix(".parquet").rpartition("/")
    inner = folder.rsplit(f"/{table}", 1)[-1].strip("/")
    return (inner, name) if inner else (name,)
