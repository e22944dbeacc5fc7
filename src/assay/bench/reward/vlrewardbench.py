"""VL-RewardBench (Li et al. 2024, arXiv 2411.17451; github.com/vl-rewardbench/VL_RewardBench): 1,250 pairs of answers to
questions about pictures, in three groups: general 183, hallucination 749, reasoning 318.

A pair is right on a strict win. The overall accuracy is over all pairs, the macro average the plain mean of the groups. The
published protocol is for generative judges: k judgements of each pair, each in an order drawn at random; pairs with one that
cannot be read are left out; of the rest the majority counts. A judge is asked k times in *both* orders here, so that his
verdicts give that number as well, under its own name; he is asked in our words, not in the benchmark's.

Groups are told by the folder of `image_path` (the repository's file) or the beginning of the id (the hub's), as the
benchmark's code does. The counts above give Skywork-VL Reward's published 73.1 of its 66.0, 80.0 and 61.0 (a test). The
hub's later release has 1,247 pairs. Schema and rules were read in the benchmark's code and its data file; the pictures are
on the hub only.
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
from assay.records import digest

NAME = "vl-rewardbench"
HOME = "https://huggingface.co/datasets/MMInstruction/VL-RewardBench"
FETCH = "hf download MMInstruction/VL-RewardBench --repo-type dataset --local-dir {}"
PROTOCOL = "VL-RewardBench (arXiv 2411.17451): strict wins, over all pairs; macro: mean of the three groups"
PUBLISHED = {"general": 183, "hallucination": 749, "reasoning": 318}
FOLDERS = {
    "vlfeedback": "general", "wildvision-battle": "general", "povid": "hallucination", "rlhf-v": "hallucination",
    "rlaif-v": "hallucination", "reasoning_tasks": "reasoning",
}  # fmt: skip
BEGINNINGS = {
    "wildvision": "general", "hallucination": "hallucination", "rlhf": "hallucination", "rlaif": "hallucination",
    "mathverse": "reasoning", "mmmu": "reasoning",
}  # fmt: skip
"""The first word of an id; any other is one of VLFeedback's many sources: general."""


def load(folder: Path, store: ImageStore | None = None) -> list[Shown]:
    """The pairs, in words alone where there is no store for their pictures."""
    files = found(folder, "test") or found(folder)
    if not files:
        raise AssayError(f"{folder}: no data files of VL-RewardBench here; get them from {HOME}")
    items: list[Shown] = []
    for path in files:
        own = dict[str, Shown]()
        for row in rows(path):
            item = _item(row, folder, store)
            if own.setdefault(item.id, item).right_first != item.right_first:
                row.fail(("human_ranking",), "the same pair stands before, with the other answer as the better one")
        items += own.values()
    return items


def _item(row: Row, folder: Path, store: ImageStore | None) -> Shown:
    name, question = row.text("id"), row.text("query").replace("<image>\n", "")
    one, other = row.texts("response", 2)
    ranking = row.get("human_ranking")
    if ranking not in ([0, 1], [1, 0]):
        row.fail(("human_ranking",), f"expected [0, 1] (the first is better) or [1, 0], found {ranking!r}")
    field = "image" if "image" in row.value else "image_path"
    return shown(
        row, f"{name}/{digest([question, one, other])[:8]}", NAME, _group(row, name), question, (one, other),
        ranking == [0, 1], (field, folder), store,
    )  # fmt: skip


def _group(row: Row, name: str) -> str:
    if "image_path" not in row.value:
        return BEGINNINGS.get(name.partition("-")[0].partition("_")[0].lower(), "general")
    inside = Path(row.text("image_path")).parts
    group = next((FOLDERS[p] for p in inside if p in FOLDERS), None)
    if group is None:
        row.fail(("image_path",), f"no folder of a known set in {'/'.join(inside)!r}; known are {', '.join(FOLDERS)}")
    return group


def report(items: Sequence[Shown], scores: Scores | Wins) -> BenchmarkResult:
    """The groups; overall and macro where all three are here."""
    cells, right = parts(items, scores, {g: (g,) for g in PUBLISHED})
    absent = [g for g in PUBLISHED if g not in cells]
    headline, slices, keys = None, list(cells.values()), clusters(items)
    if not absent:
        headline = cell("overall", right, keys)
        slices.append(cell("macro", right, keys, [i.stratum for i in items]))
    return BenchmarkResult(
        name=NAME, n=len(items), total=len(items), headline=headline, slices=tuple(slices),
        notes=(f"no total: {', '.join(absent)} absent",) if absent else (), protocol=PROTOCOL,
    )  # fmt: skip


def judged(items: Sequence[Shown], verdicts: Verdicts) -> tuple[Cell, ...]:
    """The published rule on a judge's verdicts: the majority of k, each in an order drawn at random (seed 0, by pair and
    draw); pairs of which one verdict names no better answer are left out."""
    told: list[tuple[Shown, float]] = []
    for item in items:
        read = [
            draw[random.Random(f"0 {item.id} {n}").randrange(2)] for n, draw in enumerate(draws(verdicts, item))
        ]  # fmt: skip
        if all(read):
            told.append((item, float(sum(x for x in read if x) > 0)))
    if not told:
        return ()
    k, kept, right = len(draws(verdicts, items[0])), [i for i, _ in told], [x for _, x in told]
    name, keys = f"published rule, majority of {k}", clusters(kept)
    cells: tuple[Cell, ...] = (cell(name, right, keys),)
    if {i.stratum for i in kept} == set(PUBLISHED):
        cells += (cell(f"{name}, macro", right, keys, [i.stratum for i in kept]),)
    return cells


def caveats(items: Sequence[Shown]) -> tuple[str, ...]:
    """Groups that have not as many pairs here as were published."""
    here = {g: sum(i.stratum == g for i in items) for g in PUBLISHED}
    gaps = [f"{g} {here[g]:,} of {n:,}" for g, n in PUBLISHED.items() if here[g] != n]
    return (f"not the 1,250 pairs of the paper ({'; '.join(gaps)})",) if gaps else ()


VL_REWARDBENCH = Benchmark(
    name=NAME, folder="vl-rewardbench", home=HOME, fetch=FETCH, load=load, report=report, caveats=caveats,
    shown=load, judged=judged,
)  # fmt: skip
