"""Benchmark results in the card of a model's folder: of each benchmark the newest, of the weights that lie there now."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay import __version__
from assay.bench import table
from assay.bench.results import BenchmarkResult, Cell, Skipped
from assay.identity import BENCHMARKS, of_model
from assay.reward import card
from assay.tables import write_text

_HEADER = ("benchmark", "part", "n", "accuracy, %", "95% interval", "chance, %")


def put_in_card(folder: Path, results: Sequence[BenchmarkResult | Skipped], max_tokens: int) -> bool:
    """Keep results in FOLDER/benchmarks.json and show them in its card; whether there is a card. A result takes the place
    of an earlier one of its benchmark; those of other weights are dropped. `max_tokens`: of a conversation that was read.
    """
    found = [r for r in results if isinstance(r, BenchmarkResult)]
    if not found or not (folder / card.CARD).exists():
        return False
    kept, model = folder / BENCHMARKS, of_model(folder)
    try:
        before = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    rows = before["results"] if before.get("model") == model else {}
    how = {"max_tokens": max_tokens, "day": time.strftime("%Y-%m-%d"), "assay": __version__}
    rows |= {r.name: {**table.as_json(r), "chance": r.chance, **how} for r in found}
    write_text(kept, json.dumps({"model": model, "results": rows}, indent=1))
    card.put(folder, "Benchmarks", [*_table(rows), "", *_notes(rows)])
    return True


def _table(rows: dict[str, Any]) -> list[str]:
    lines = list[tuple[str, ...]]()
    for name, row in sorted(rows.items()):
        for told in [row["headline"]] if row["headline"] else row["cells"]:
            cell = Cell(**{k: told[k] for k in ("name", "n", "value", "se", "clusters")})
            _, part, n, value, _, interval = table.row(name, cell)
            chance = f"{row['chance']:.1f}" if row["headline"] and row["chance"] is not None else "-"
            lines.append((name, part, n, value, interval, chance))
    return table.grid(_HEADER, lines)


def _notes(rows: dict[str, Any]) -> list[str]:
    return [
        f"- {name}: {'; '.join(row['notes'])}; {row['n']:,} of {row['total']:,} items, at most {row['max_tokens']:,} tokens "
        f"of a conversation; measured by `assay bench` {row['assay']} on {row['day']}"
        for name, row in sorted(rows.items())
    ]  # fmt: skip
