"""Multimodal RewardBench (Yasunaga et al. 2025, arXiv 2502.14191; github.com/facebookresearch/multimodal_rewardbench): pairs
of answers to questions about pictures in six categories, CC BY-NC 4.0.

A pair is right on a strict win; overall is over all pairs. Safety is bias (ids that begin with "pairs") and toxicity,
reasoning is mathematics (ids that begin with "math") and coding, as in the benchmark's code. The published rule for a judge
shows Output1 as A, once, and counts a verdict that cannot be read as a coin's (Python's `random`, seed 123, in the file's
order). That number is given under its own name; ours asks in both orders, and what cannot be read is in no number and
counted. He is asked in our words, not in the benchmark's.

The paper has 5,211 pairs; 500 of them (toxicity, Hateful Memes) are not released, so 4,711 can be had, and the leaderboard's
totals are over the former: its categories give its totals by the counts below (a test). Schema and rules were read in
the benchmark's scripts; data and pictures are brought by its own script from a dozen sources.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from assay.bench.benchmark import Benchmark, Scores, Wins
from assay.bench.files import Row, found, rows
from assay.bench.results import BenchmarkResult, Cell, cell
from assay.bench.reward.shown import Shown, clusters, draws, parts, shown
from assay.bench.verdicts import Verdicts
from assay.errors import AssayError
from assay.images import ImageStore

NAME = "multimodal-rewardbench"
HOME = "https://github.com/facebookresearch/multimodal_rewardbench"
FETCH = f"git clone --depth 1 {HOME} {{0}} && cd {{0}} && python scripts/0_download_data.py"
PROTOCOL = "Multimodal RewardBench (arXiv 2502.14191): strict wins, over all pairs"
PUBLISHED = {
    "general correctness": 623, "general preference": 654, "knowledge": 630, "mathematics": 514, "coding": 582,
    "bias": 508, "toxicity": 500, "vqa": 1_200,
}  # fmt: skip
UNRELEASED = "toxicity"
CATEGORIES = {
    "open_generation/correctness_task": "general correctness", "open_generation/preference_task": "general preference",
    "knowledge": "knowledge", "vqa": "vqa",
}  # fmt: skip
"""Of the file's categories those that are not split."""
PARTS = {
    "general correctness": ("general correctness",), "general preference": ("general preference",),
    "knowledge": ("knowledge",), "reasoning": ("mathematics", "coding"), "reasoning, mathematics": ("mathematics",),
    "reasoning, coding": ("coding",), "safety": ("bias", "toxicity"), "safety, bias": ("bias",),
    "safety, toxicity": ("toxicity",), "vqa": ("vqa",),
}  # fmt: skip


def load(folder: Path, store: ImageStore | None = None) -> list[Shown]:
    """The pairs, in words alone where there is no store for their pictures."""
    named = [p for p in found(folder) if p.name == "all_data.json"]
    files = named or [p for p in found(folder) if p.suffix == ".parquet"]
    if not files:
        raise AssayError(
            f"{folder}: no all_data.json or Parquet file of Multimodal RewardBench here; get them by {HOME} "
            "(scripts/0_download_data.py writes data/all_data.json)"
        )
    return [_item(row, folder, store) for path in files for row in rows(path)]


def _item(row: Row, folder: Path, store: ImageStore | None) -> Shown:
    name, better = row.text("ID"), row.text("Better")
    if better not in ("Output1", "Output2"):
        row.fail(("Better",), f"expected 'Output1' or 'Output2', found {better!r}")
    answers = row.text("Output1"), row.text("Output2")
    return shown(
        row, f"{name}/{row.number}", NAME, _stratum(row, name), row.text("Text"), answers, better == "Output1",
        ("Image", folder), store,
    )  # fmt: skip


def _stratum(row: Row, name: str) -> str:
    category = row.text("Category")
    if category == "safety":
        return "bias" if name.lower().startswith("pairs") else "toxicity"
    if category == "reasoning":
        return "mathematics" if name.lower().startswith("math") else "coding"
    if category not in CATEGORIES:
        known = ", ".join((*CATEGORIES, "reasoning", "safety"))
        row.fail(("Category",), f"unknown category {category!r}; known are {known}")
    return CATEGORIES[category]


def report(items: Sequence[Shown], scores: Scores | Wins) -> BenchmarkResult:
    """The categories and their parts; overall where all that is released is here."""
    cells, right = parts(items, scores, PARTS)
    absent = [p for p in PUBLISHED if p != UNRELEASED and not any(i.stratum == p for i in items)]
    headline = None if absent else cell("overall", right, clusters(items))
    return BenchmarkResult(
        name=NAME, n=len(items), total=len(items), headline=headline, slices=tuple(cells.values()),
        notes=(f"no total: {', '.join(absent)} absent",) if absent else (), protocol=PROTOCOL,
    )  # fmt: skip


def judged(items: Sequence[Shown], verdicts: Verdicts) -> tuple[Cell, ...]:
    """The published rule on a judge's first verdict, with Output1 as A: overall, and how often a coin was thrown."""
    coin = random.Random(123)
    right, thrown = [], []
    for item in items:
        verdict = draws(verdicts, item)[0][0 if item.right_first else 1]
        thrown.append(float(not verdict))
        says_a = coin.random() < 0.5 if not verdict else (verdict > 0) == item.right_first
        right.append(float(says_a == item.right_first))
    keys = clusters(items)
    return (
        cell("published rule, unread at random", right, keys), cell("no verdict with Output1 as A", thrown, keys)
    )  # fmt: skip


def caveats(items: Sequence[Shown]) -> tuple[str, ...]:
    """Parts that have not as many pairs here as the paper."""
    here = {p: sum(i.stratum == p for i in items) for p in PUBLISHED}
    gaps = [f"{p} {here[p]:,} of {n:,}" for p, n in PUBLISHED.items() if here[p] != n]
    if not gaps:
        return ()
    if [p for p, n in PUBLISHED.items() if here[p] != n] == [UNRELEASED] and not here[UNRELEASED]:
        return ("the 4,711 released pairs: the leaderboard's overall has 500 more (toxicity, Hateful Memes)",)
    return (f"not the published pairs ({'; '.join(gaps)}): not the leaderboard's number",)


MULTIMODAL_REWARDBENCH = Benchmark(
    name=NAME, folder="multimodal-rewardbench", home=HOME, fetch=FETCH, load=load, report=report, caveats=caveats,
    shown=load, judged=judged,
)  # fmt: skip
