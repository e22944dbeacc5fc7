"""`assay show`: the whole life of one pair, from every table of a run or pool folder that mentions it."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.markup import escape

from assay.curate.attributes import message_text
from assay.errors import AssayError
from assay.records import Pair, tools_of
from assay.tables import Table

_HIDDEN = {"pair_id", "rule"}
_ORDER = ("origins", "wild", "contamination", "attributes", "judgements", "evidence", "labels", "claims", "truth")


def show(folder: Path, pair_id: str, console: Console) -> None:
    """Print the pair whose id starts with `pair_id` and every row about it, in the order in which they came to be.

    Raises AssayError when the folder holds no pairs, or when none or several ids start so.
    """
    pair = find(folder, pair_id)
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
    for table, shard, row in life(folder, pair.id):
        facts = (
            f"{k}={names.get(str(v), v)}" for k, v in row.items() if k not in _HIDDEN and v not in (None, "", [], 0)
        )
        console.print(f"[bold]{table}[/bold] [dim]{shard}[/dim]  " + escape("  ".join(facts)), soft_wrap=True)


def find(folder: Path, pair_id: str) -> Pair:
    """The pair of the folder whose id starts with `pair_id`."""
    table = Table(folder / "tables" / "pairs", Pair)
    if not table.shards():
        raise AssayError(f"{folder}: no pairs here; give a run folder (assay run) or a pool folder (assay pool add)")
    found = {p.id: p for p in table.stream() if p.id.startswith(pair_id)}
    if len(found) != 1:
        what = "no pair's id starts" if not found else f"{len(found)} pairs' ids start"
        raise AssayError(f"{folder}: {what} with '{pair_id}'; ids are in the report and in tables/labels")
    return next(iter(found.values()))


def life(folder: Path, pair_id: str) -> Iterator[tuple[str, str, dict[str, object]]]:
    """(table, shard, row) of every row about the pair, run-wide tables first, then seed by seed."""
    for root in (folder, *sorted(folder.glob("seed-*"))):
        for name in _ORDER:
            for path in sorted((root / "tables" / name).glob("*.parquet")):
                where = "/".join((*root.relative_to(folder).parts, path.stem))
                rows = pl.scan_parquet(path).filter(pl.col("pair_id") == pair_id).collect()
                for row in rows.iter_rows(named=True):
                    yield name, where, row
