"""JudgeBench (Tan et al. 2024, arXiv 2410.12784; github.com/ScalerLab/JudgeBench), GPT-4o split: 350 pairs of answers,
one objectively right, in four slices by the prefix of `source`.

The leaderboard is the mean over all pairs; Skywork-Reward-V2 (paper A, Table 2) reports the mean of the four slices.
Both are given. A tie is wrong here; the benchmark's code reads it as B>A, and a note says what that would change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from assay.bench.benchmark import Benchmark, Scores, Wins, beats
from assay.bench.files import Row, rows
from assay.bench.results import BenchmarkResult, cell
from assay.errors import AssayError
from assay.records import Conversation, assistant, user

NAME = "judgebench"
HOME = "https://github.com/ScalerLab/JudgeBench"
FETCH = f"git clone --depth 1 {HOME} {{}}"
PROTOCOL = (
    "JudgeBench, GPT-4o split (arXiv 2410.12784): a scalar reward model is asked once; the higher reward is its verdict"
)
SLICES = {
    "mmlu-pro": "knowledge", "livebench-reasoning": "reasoning", "livebench-math": "math", "livecodebench": "code",
}  # fmt: skip
_FILE = "gpt-4o-2024-05-13.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePair:
    """A question with answers A and B as whole conversations, and which is right."""

    id: str
    stratum: str
    prompt: Conversation
    a: Conversation
    b: Conversation
    better: Literal["A", "B"]
    source: str = NAME

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return (self.a, self.b)

    @property
    def duels(self) -> tuple[tuple[Conversation, Conversation], ...]:
        return ((self.a, self.b),) if self.better == "A" else ((self.b, self.a),)

    def right(self, scores: Scores | Wins) -> bool:
        """The benchmark's own rules: of a scalar reward model A>B iff A scores higher, else B>A, a tie included; of a judge
        of pairs, the right answer must win."""
        if not isinstance(scores, Mapping):
            return beats(scores, *self.duels[0])
        a, b = scores[self.a], scores[self.b]
        return a > b if self.better == "A" else b >= a

    def tied(self, scores: Scores | Wins) -> bool:
        return isinstance(scores, Mapping) and scores[self.a] == scores[self.b]


def load(folder: Path) -> list[JudgePair]:
    """The pairs of the GPT-4o split, of a clone of the repository or of its data file alone."""
    found = sorted(folder.rglob(f"*{_FILE}"))
    if len(found) != 1:
        raise AssayError(f"{folder}: expected one file *{_FILE}, found {len(found)}; get it from {HOME} (data/)")
    return [_item(row) for row in rows(found[0])]


def _item(row: Row) -> JudgePair:
    source, label = row.text("source"), row.text("label")
    part = next((name for prefix, name in SLICES.items() if source.startswith(prefix)), None)
    if part is None:
        row.fail(("source",), f"{source!r} belongs to no slice; known prefixes are {', '.join(SLICES)}")
    if label not in ("A>B", "B>A"):
        row.fail(("label",), f"expected 'A>B' or 'B>A', found {label!r}")
    prompt = (user(row.text("question")),)
    return JudgePair(
        id=row.text("pair_id"),
        stratum=part,
        prompt=prompt,
        a=(*prompt, assistant(row.text("response_A"))),
        b=(*prompt, assistant(row.text("response_B"))),
        better="A" if label == "A>B" else "B",
    )


def report(items: Sequence[JudgePair], scores: Scores | Wins) -> BenchmarkResult:
    """The micro mean (headline), the four slices, and their mean where all four have items."""
    right = [float(i.right(scores)) for i in items]
    prompts, parts = [i.prompt for i in items], [i.stratum for i in items]
    cells = []
    for part in SLICES.values():
        at = [k for k, p in enumerate(parts) if p == part]
        if at:
            cells.append(cell(part, [right[k] for k in at], [prompts[k] for k in at]))
    notes = ["the headline is the mean over all pairs, as on the leaderboard; the paper reports the mean of the slices"]
    if len(cells) == len(SLICES):
        cells.append(cell("mean of the four slices", right, prompts, parts))
    ties = [i for i in items if i.tied(scores)]
    if ties:
        strict = 100 * (sum(right) - sum(i.better == "B" for i in ties)) / len(items)
        told = f"counted as wrong: {strict:.2f} (n {len(items):,})"
        notes.append(f"{len(ties)} ties are read as B>A, as the benchmark's code does; {told}")
    return BenchmarkResult(
        name=NAME, n=len(items), total=len(items), headline=cell("all pairs", right, prompts), slices=tuple(cells),
        notes=tuple(notes), protocol=PROTOCOL,
    )  # fmt: skip


JUDGEBENCH = Benchmark(name=NAME, folder="judgebench", home=HOME, fetch=FETCH, load=load, report=report)
