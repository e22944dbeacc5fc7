"""Pairs of a run that its report shows: looked for in narrow columns, so that the text of these few alone is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from assay.curate.material import Material
from assay.memory import compact
from assay.records import Label, Pair
from assay.store import Place
from assay.tables import Table

FATES = ("relabelled", "flipped", "dropped")
EACH = 3
"""Of each fate at most so many are picked."""
CHARACTERS = 600
"""Of a longer text the rest is left out, and that is told."""


def examples(folder: Path) -> list[dict[str, Any]]:
    """A few corrected, flipped and dropped pairs of the first seed, with what was said about them, as texts for a page."""
    return pairs_told(folder, _picked(Table(folder / "seed-0" / "tables" / "labels", Label)))


def changed(folder: Path) -> pl.DataFrame:
    """All pairs of the first seed whose label is not as it came, with what became of them and why: no texts."""
    labels = Table(folder / "seed-0" / "tables" / "labels", Label)
    columns = ["pair_id", "chosen", "fate", "reason"]
    found = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String))]
    found += [
        compact(labels.frame(shard, columns=columns).filter(pl.col("fate").is_in(FATES))) for shard in labels.shards()
    ]
    return pl.concat(found).unique("pair_id", keep="first", maintain_order=True)


def pairs_told(folder: Path, picked: pl.DataFrame, characters: int = CHARACTERS) -> list[dict[str, Any]]:
    """Pairs by the columns pair_id, chosen, fate and reason, with what was said about them, as texts for a page."""
    if not len(picked):
        return []
    material = Material.open(Place.of(folder))
    where = pl.concat([
        compact(rows.filter(pl.col("pair_id").is_in(picked["pair_id"].implode())))
        for _, rows in material.frames(["pair_id", "original", "truth"])
    ])  # fmt: skip
    text, votes = material.text(where), material.votes(where)
    by = dict(votes.group_by("pair_id").agg(pl.col("by").unique().sort().str.join(", ")).iter_rows())
    rows = picked.join(where, on="pair_id", maintain_order="left").iter_rows(named=True)
    return [_example(text[row["pair_id"]], row, by.get(row["pair_id"], ""), characters) for row in rows]


def _picked(labels: Table[Label]) -> pl.DataFrame:
    """At most EACH labels of every fate of `FATES`, of as many reasons as there are; one shard in memory at a time."""
    columns = ["pair_id", "chosen", "fate", "reason"]
    found = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String))]
    for shard in labels.shards():
        of_fate = labels.frame(shard, columns=columns).filter(pl.col("fate").is_in(FATES))
        by_reason = of_fate.unique(["fate", "reason"], keep="first", maintain_order=True)
        some = of_fate.group_by("fate", maintain_order=True).head(EACH).select(columns)
        found.append(compact(pl.concat([by_reason, some])))
    every = pl.concat(found).unique("pair_id", keep="first", maintain_order=True)
    turn = pl.int_range(pl.len()).over("fate", "reason")
    ranked = every.with_columns(turn=turn, fate_at=pl.col("fate").replace_strict({f: n for n, f in enumerate(FATES)}))
    return ranked.sort("fate_at", "turn", maintain_order=True).group_by("fate", maintain_order=True).head(EACH)


def _example(pair: Pair, row: Mapping[str, Any], by: str, characters: int = CHARACTERS) -> dict[str, Any]:
    names = {r.id: f"response {n}" for n, r in enumerate(pair.responses, 1)}
    chosen, original, known = row["chosen"], row["original"], row["truth"]
    marks = {chosen: "good", pair.other(chosen): "bad"} if chosen else {}
    return {
        "id": pair.id, "fate": row["fate"], "reason": row["reason"], "prompt": _cut(pair.prompt[-1].content, characters),
        "responses": [(f"[{names[r.id]}] {_cut(r.text, characters)}", marks.get(r.id, "")) for r in pair.responses],
        "wild": f"The source ({by}) preferred {names.get(original or '', 'neither')}. " if by else "",
        "truth": f"In truth {names[known]} is better." if known else "",
    }  # fmt: skip


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters] + " ..."
