"""Benchmark results as a table for a terminal or a Markdown page, and as JSON."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from assay.bench.results import BenchmarkResult, Cell, Skipped
from assay.figures import FEW, LEGEND, NEEDED

HEADER = ("benchmark", "part", "n", "accuracy, %", "se", "95% interval")
NUMBERS = {2, 3, 4, 5}


def rows(results: Sequence[BenchmarkResult | Skipped]) -> list[tuple[str, ...]]:
    """One row per reported number, under `HEADER`; the headline of a benchmark first, "-" where it has none."""
    table: list[tuple[str, ...]] = []
    for result in results:
        if isinstance(result, Skipped):
            table.append((result.name, result.word, "0", "-", "-", "-"))
            continue
        if result.headline is None:
            table.append((result.name, "total", f"{result.n:,}", "-", "-", "-"))
        table += [row(result.name, cell) for cell in cells(result)]
        table += [row(result.name, replace(c, name=f"({c.name})")) for c in result.diagnostics]
    mean = over_seven(results)
    return [*table, row("mean", mean)] if mean else table


SEVEN = ("rewardbench", "rewardbench-2", "ppe-preference", "ppe-correctness", "rmb", "rm-bench", "judgebench")


def over_seven(results: Sequence[BenchmarkResult | Skipped]) -> Cell | None:
    """The plain mean of paper A's seven benchmarks (JudgeBench by the mean of its four slices, as in the paper), where all
    seven are whole; else None. Their data are different, so their errors are independent; as sure as the one with the fewest
    prompts."""
    whole = {r.name: r for r in results if isinstance(r, BenchmarkResult) and r.whole}
    if not set(SEVEN) <= set(whole):
        return None
    judge = next(c for c in whole["judgebench"].slices if c.name == "mean of the four slices")
    parts = [judge if name == "judgebench" else whole[name].headline for name in SEVEN]
    known = [c for c in parts if c is not None]
    value, se = sum(c.value for c in known) / 7, math.sqrt(sum(c.se**2 for c in known)) / 7
    least = min(c.clusters for c in known)
    return Cell(name="of seven", n=sum(c.n for c in known), value=value, se=se, clusters=least)


def cells(result: BenchmarkResult) -> list[Cell]:
    """The headline, where there is one, then the slices."""
    return [*([result.headline] if result.headline else []), *result.slices]


def row(name: str, cell: Cell) -> tuple[str, ...]:
    """A reported number, under `HEADER`."""
    low, high = cell.interval
    few = f", {FEW}" if cell.clusters < NEEDED - 0.5 else ""
    return (name, cell.name, f"{cell.n:,}", f"{cell.value:.2f}", f"{cell.se:.2f}", f"{low:.1f} to {high:.1f}{few}")


def notes(results: Sequence[BenchmarkResult | Skipped]) -> list[str]:
    """What belongs under the table: protocols, caveats, and what was skipped and why."""
    every = [c for r in results if isinstance(r, BenchmarkResult) for c in (*cells(r), *r.diagnostics)]
    few = any(c.clusters < NEEDED - 0.5 for c in every)
    lines = [LEGEND] if few else []
    for result in results:
        if isinstance(result, Skipped):
            lines.append(str(result))
        else:
            lines += [f"{result.name}: {text}" for text in (result.protocol, *result.notes)]
    present = [r for r in results if r.name in SEVEN]
    if present and over_seven(results) is None:
        whole = sum(isinstance(r, BenchmarkResult) and r.whole for r in present)
        lines.append(f"no mean over the seven benchmarks: {whole} of 7 are whole here")
    return lines


def text(results: Sequence[BenchmarkResult | Skipped]) -> str:
    """The table in aligned columns, then the notes."""
    table = [HEADER, *rows(results)]
    widths = [max(len(r[k]) for r in table) for k in range(len(HEADER))]
    lines = [
        "  ".join(v.rjust(w) if k in NUMBERS else v.ljust(w) for k, (v, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    return "\n".join([*(line.rstrip() for line in lines), *([""] if results else []), *notes(results)])


def markdown(results: Sequence[BenchmarkResult | Skipped]) -> str:
    """The table as Markdown, then the notes as a list."""
    return "\n".join([*grid(HEADER, rows(results)), "", *(f"- {note}" for note in notes(results))])


def grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, of which all columns but the first two are numbers."""
    rule = ["---:" if k >= 2 else "---" for k in range(len(header))]
    return ["| " + " | ".join(v.replace("|", "\\|") for v in line) + " |" for line in (header, rule, *lines)]


def as_json(result: BenchmarkResult | Skipped) -> dict[str, Any]:
    """A result as JSON-like data: what a run stores as the step `bench/NAME` and the report shows."""
    if isinstance(result, Skipped):
        return {"title": result.name, result.word: result.reason, "headline": None, "cells": [], "notes": [str(result)]}
    return {
        "title": result.name, "n": result.n, "total": result.total, "failed": result.failed, "whole": result.whole,
        "protocol": result.protocol, "headline": _as_json(result.headline) if result.headline else None,
        "cells": [_as_json(c) for c in cells(result)], "notes": [result.protocol, *result.notes],
        "diagnostics": [_as_json(c) for c in result.diagnostics],
    }  # fmt: skip


def _as_json(cell: Cell) -> dict[str, Any]:
    low, high = cell.interval
    return {
        "name": cell.name, "n": cell.n, "value": cell.value, "se": cell.se, "clusters": cell.clusters, "low": low,
        "high": high,
    }  # fmt: skip
