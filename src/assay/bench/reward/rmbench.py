"""RM-Bench (Liu et al. 2024, arXiv 2410.16184; github.com/THU-KEG/RM-Bench): three right and three wrong answers to a
prompt, in the styles concise, detailed plain and detailed Markdown. Every right answer meets every wrong one.

Hard: the wrong answer has the showier style (above the diagonal); normal: equal styles; easy: below. A domain is the mean
of the three, the total the plain mean of four domains; both safety files are one domain, pooled by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.bench.benchmark import Benchmark, Scores, Wins, beats
from assay.bench.files import Row, rows
from assay.bench.results import BenchmarkResult, Cell, cell
from assay.errors import AssayError
from assay.records import Conversation, assistant, user

NAME = "rm-bench"
HOME = "https://github.com/THU-KEG/RM-Bench"
FETCH = f"git clone --depth 1 {HOME} {{}}"
PROTOCOL = "RM-Bench (arXiv 2410.16184): strict wins over 3 x 3 styles; easy, normal, hard; mean of the four domains"
DOMAINS = {
    "chat": ("chat",), "math": ("math",), "code": ("code",), "safety": ("safety-refuse", "safety-response"),
}  # fmt: skip
"""Domain -> the files `{part}_filtered.json` that it pools."""
_STYLES = 3
LEVELS: dict[str, NDArray[np.bool_]] = {
    "easy": np.tri(_STYLES, k=-1, dtype=np.bool_),
    "normal": np.eye(_STYLES, dtype=np.bool_),
    "hard": np.tri(_STYLES, k=-1, dtype=np.bool_).T,
}
"""Level -> its cells of the matrix of right answers (rows) against wrong answers (columns)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleGrid:
    """A prompt with right and wrong answers as whole conversations, each in the three styles in order."""

    id: str
    source: str
    domain: str
    prompt: Conversation
    chosen: tuple[Conversation, ...]
    rejected: tuple[Conversation, ...]

    @property
    def stratum(self) -> str:
        return self.source

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return (*self.chosen, *self.rejected)

    @property
    def duels(self) -> tuple[tuple[Conversation, Conversation], ...]:
        return tuple((c, r) for c in self.chosen for r in self.rejected)

    def wins(self, scores: Scores | Wins) -> NDArray[np.bool_]:
        """(3, 3): whether chosen i strictly beats rejected j."""
        return np.array([[beats(scores, c, r) for r in self.rejected] for c in self.chosen])


def load(folder: Path) -> list[StyleGrid]:
    """The prompts of all files that are there; a missing domain leaves the total out, it is no error."""
    items = []
    for domain, parts in DOMAINS.items():
        for part in parts:
            for path in sorted(folder.rglob(f"{part}_filtered.json")):
                items += [_item(row, domain, part) for row in rows(path)]
    if not items:
        raise AssayError(f"{folder}: no *_filtered.json of RM-Bench here; get them from {HOME} (data/)")
    return items


def _item(row: Row, domain: str, part: str) -> StyleGrid:
    prompt = (user(row.text("prompt")),)
    chosen, rejected = (
        tuple((*prompt, assistant(text)) for text in row.texts(field, _STYLES)) for field in ("chosen", "rejected")
    )
    return StyleGrid(
        id=f"{part}/{row.get('id')}", source=f"{NAME}/{part}", domain=domain, prompt=prompt, chosen=chosen,
        rejected=rejected,
    )  # fmt: skip


def report(items: Sequence[StyleGrid], scores: Scores | Wins) -> BenchmarkResult:
    """Each domain with its levels; the total and the levels over all domains only where all four domains have items."""
    wins = [i.wins(scores) for i in items]
    prompts, domains = [i.prompt for i in items], [i.domain for i in items]
    present = [d for d in DOMAINS if d in domains]
    cells: list[Cell] = []
    for domain in present:
        at = [k for k, d in enumerate(domains) if d == domain]
        cells += _levels(domain, [wins[k] for k in at], [prompts[k] for k in at], None)
    headline: Cell | None = None
    notes: tuple[str, ...] = ()
    if len(present) == len(DOMAINS):
        headline, *levels = _levels("total", wins, prompts, domains)
        cells += levels
    else:
        absent = ", ".join(d for d in DOMAINS if d not in present)
        notes = (f"{absent} absent, so no total can be reported: it is the mean of all four domains",)
    return BenchmarkResult(
        name=NAME, n=len(items), total=len(items), headline=headline, slices=tuple(cells), notes=notes,
        protocol=PROTOCOL,
    )  # fmt: skip


def _levels(
    name: str, wins: Sequence[NDArray[np.bool_]], prompts: Sequence[Conversation], domains: Sequence[str] | None
) -> list[Cell]:
    """The mean of the three levels (equal numbers of cells, so the mean of the matrix), then each level."""
    masks = {name: np.ones((_STYLES, _STYLES), dtype=np.bool_)} | {f"{name}, {n}": mask for n, mask in LEVELS.items()}
    return [cell(n, [float(w[mask].mean()) for w in wins], prompts, domains) for n, mask in masks.items()]


RM_BENCH = Benchmark(name=NAME, folder="rm-bench", home=HOME, fetch=FETCH, load=load, report=report)
