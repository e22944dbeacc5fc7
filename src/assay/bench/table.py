"""Benchmark results as a table for a terminal or a Markdown page, and as JSON."""

from collections.abc import Sequence
from typing import Any

from assay.bench.benchmark import BenchmarkResult, Cell, Skipped
from assay.tables import plain

HEADER = ("benchmark", "part", "n", "accuracy, %", "se", "95% interval")
_NUMBERS = {2, 3, 4, 5}


def rows(results: Sequence[BenchmarkResult | Skipped]) -> list[tuple[str, ...]]:
    """One row per reported number, under `HEADER`; the headline of a benchmark first, "-" where it has none."""
    table: list[tuple[str, ...]] = []
    for result in results:
        if isinstance(result, Skipped):
            table.append((result.name, "skipped", "0", "-", "-", "-"))
            continue
        if result.headline is None:
            table.append((result.name, "total", f"{result.n:,}", "-", "-", "-"))
        table += [_row(result.name, cell) for cell in cells(result)]
    return table


def cells(result: BenchmarkResult) -> list[Cell]:
    """The headline, where there is one, then the slices."""
    return [*([result.headline] if result.headline else []), *result.slices]


def _row(name: str, cell: Cell) -> tuple[str, ...]:
    low, high = cell.interval
    return (name, cell.name, f"{cell.n:,}", f"{cell.value:.2f}", f"{cell.se:.2f}", f"{low:.1f} to {high:.1f}")


def notes(results: Sequence[BenchmarkResult | Skipped]) -> list[str]:
    """What belongs under the table: protocols, caveats, and what was skipped and why."""
    lines = []
    for result in results:
        if isinstance(result, Skipped):
            lines.append(str(result))
        else:
            lines += [f"{result.name}: {text}" for text in (result.protocol, *result.notes)]
    return lines


def text(results: Sequence[BenchmarkResult | Skipped]) -> str:
    """The table in aligned columns, then the notes."""
    table = [HEADER, *rows(results)]
    widths = [max(len(row[k]) for row in table) for k in range(len(HEADER))]
    lines = [
        "  ".join(v.rjust(w) if k in _NUMBERS else v.ljust(w) for k, (v, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]
    return "\n".join([*(line.rstrip() for line in lines), *([""] if results else []), *notes(results)])


def markdown(results: Sequence[BenchmarkResult | Skipped]) -> str:
    """The table as Markdown, then the notes as a list."""
    rule = tuple("---:" if k in _NUMBERS else "---" for k in range(len(HEADER)))
    lines = ["| " + " | ".join(v.replace("|", "\\|") for v in row) + " |" for row in (HEADER, rule, *rows(results))]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(results))])


def as_json(result: BenchmarkResult | Skipped) -> dict[str, Any]:
    """A result as JSON-like data: what a run stores as the step `bench/NAME` and the report shows."""
    if isinstance(result, Skipped):
        return {"title": result.name, "skipped": result.reason, "headline": None, "cells": [], "notes": [str(result)]}
    return {
        "title": result.name, "n": result.n, "total": result.total, "protocol": result.protocol,
        "headline": _as_json(result.headline) if result.headline else None,
        "cells": [_as_json(c) for c in cells(result)], "notes": [result.protocol, *result.notes],
    }  # fmt: skip


def _as_json(cell: Cell) -> dict[str, Any]:
    low, high = cell.interval
    return {**plain(cell), "low": low, "high": high}
