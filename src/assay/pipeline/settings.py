"""Settings of recipes that must load fast: without torch, without plots."""

from dataclasses import dataclass
from typing import Literal

from assay.errors import AssayError

SETS = ("raw", "stage1", "filtered", "flipped")
"""The label sets of a finished run, by size: see `assay.pipeline.finished`."""
Tool = Literal["parquet", "trl", "openrlhf", "llamafactory", "jsonl"]
"""For whom labels are written: see `assay.pipeline.exchange`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """Which models a sweep trains: every set x fraction x seed."""

    sets: tuple[str, ...] = ("raw", "filtered", "flipped")
    fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    seeds: int = 3

    def __post_init__(self) -> None:
        unknown = set(self.sets) - set(SETS)
        if unknown:
            raise AssayError(f"unknown set '{min(unknown)}'; the sets of a run are {', '.join(SETS)}")
        if not self.fractions or not all(0 < f <= 1 for f in self.fractions):
            raise AssayError(f"fractions lie in (0, 1], got {self.fractions}")
        if self.seeds < 1:
            raise AssayError(f"seeds must be at least 1, got {self.seeds}")
