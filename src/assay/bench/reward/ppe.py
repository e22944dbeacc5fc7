"""PPE, Preference Proxy Evaluations (Frick et al. 2024, arXiv 2410.14872; github.com/lmarena/PPE): 16,038 pairs that people
of an arena voted on, and 32 answers each of one model to 2,555 prompts that can be checked.

Preference: share of strict wins over the pairs with a winner. Correctness: share of strict wins over the pairs of a right
and a wrong answer that the sets name (`sampled_conflict_pairs`), and what the answer with the highest reward is worth; the
mean of the five sets. Paper A's column is "PPE-Corr" without an aggregation: accuracy is meant here.

The data are published on the hub only, and PPE's own scoring code could not be read: this is the paper's description over
the released columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.bench.benchmark import Benchmark, Choice, Scores, Wins, beats
from assay.bench.best_of_n import Candidates, best_of_n
from assay.bench.files import Row, found, rows
from assay.bench.results import BenchmarkResult, cell
from assay.errors import AssayError
from assay.records import Conversation, assistant, user

PREFERENCE, CORRECTNESS = "ppe-preference", "ppe-correctness"
FETCH = "hf download lmarena-ai/PPE-Human-Preference-V1 --repo-type dataset --local-dir {}"
HOME = "https://huggingface.co/lmarena-ai (PPE-Human-Preference-V1)"
HOMES = "https://huggingface.co/lmarena-ai (five sets PPE-*-Best-of-K)"
FETCHES = (
    "for s in MMLU-Pro MATH GPQA MBPP-Plus IFEval; do hf download lmarena-ai/PPE-$s-Best-of-K --repo-type dataset "
    "--local-dir {}/$s; done"
)
PUBLISHED = 16_038
PROTOCOL = "PPE human preference (arXiv 2410.14872): strict wins over the pairs with a winner"
PROTOCOL_CORRECTNESS = (
    "PPE correctness (arXiv 2410.14872): strict wins over the sampled conflict pairs; mean of five sets"
)
SETS = {"mmlu-pro": "MMLU-Pro", "math": "MATH", "gpqa": "GPQA", "mbpp": "MBPP-Plus", "ifeval": "IFEval"}
"""What a file's path holds -> the set."""
FLAGS = ("hard_prompt", "easy_prompt", "if_prompt", "is_code", "math_prompt")


def load_preference(folder: Path) -> list[Choice]:
    """The pairs with a winner."""
    files = found(folder)
    if not files:
        raise AssayError(f"{folder}: no data files of PPE human preference here; get them from {HOME}")
    items = []
    for path in files:
        for row in rows(path):
            winner = row.text("winner")
            if winner in ("model_a", "model_b"):
                items.append(_preference(row, winner))
            elif "tie" not in winner:
                row.fail(("winner",), f"expected model_a, model_b or a tie, found {winner!r}")
    return items


def _preference(row: Row, winner: str) -> Choice:
    prompt = (user(row.text("prompt")),)
    one, two = ((*prompt, assistant(row.text(field))) for field in ("response_1", "response_2"))
    best, loser = (one, two) if winner == "model_a" else (two, one)
    flags = "+".join(f for f in FLAGS if row.value.get(f) is True)
    return Choice(
        id=str(row.get("question_id")), source=PREFERENCE, stratum=flags, prompt=prompt, best=best, losers=(loser,)
    )


def report_preference(items: Sequence[Choice], scores: Scores | Wins) -> BenchmarkResult:
    """All pairs, and those of each kind of prompt that the set marks."""
    right, prompts = [float(i.right(scores)) for i in items], [i.prompt for i in items]
    cells = []
    for flag in FLAGS:
        at = [k for k, i in enumerate(items) if flag in i.stratum.split("+")]
        if at:
            cells.append(cell(flag.replace("_", " "), [right[k] for k in at], [prompts[k] for k in at]))
    return BenchmarkResult(
        name=PREFERENCE, n=len(items), total=len(items), headline=cell("all pairs", right, prompts), slices=tuple(cells),
        notes=("pairs without a winner are left out",), protocol=PROTOCOL,
    )  # fmt: skip


def caveats_preference(items: Sequence[Choice]) -> tuple[str, ...]:
    """More pairs than were published cannot be; how many of them are ties is not known here, so fewer are not told."""
    return (f"{len(items):,} pairs, more than the {PUBLISHED:,} published",) if len(items) > PUBLISHED else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Answers of one model to a prompt as whole conversations, which are right, and the (right, wrong) pairs to tell apart,
    by place."""

    id: str
    stratum: str
    prompt: Conversation
    answers: tuple[Conversation, ...]
    correct: tuple[bool, ...]
    pairs: tuple[tuple[int, int], ...]
    source: str = CORRECTNESS

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return self.answers

    @property
    def duels(self) -> tuple[tuple[Conversation, Conversation], ...]:
        return tuple((self.answers[a], self.answers[b]) for a, b in self.pairs)

    def candidates(self, scores: Scores) -> Candidates:
        return Candidates(id=self.id, rewards=tuple(scores[a] for a in self.answers), correct=self.correct)


def load_correctness(folder: Path) -> list[Sampled]:
    """The prompts of every set that is here; a file is of the set that its path names."""
    items = []
    for path in found(folder):
        part = next((s for key, s in SETS.items() if key in str(path.relative_to(folder)).lower()), None)
        if part is None:
            raise AssayError(f"{path}: of which set? the path must hold one of {', '.join(SETS)}")
        items += [_sampled(row, part) for row in rows(path)]
    if not items:
        raise AssayError(f"{folder}: no data files of PPE correctness here; get them from {HOMES}")
    return items


def _sampled(row: Row, part: str) -> Sampled:
    prompt = (user(row.text("prompt")),)
    count = sum(key.startswith("response_") and key[9:].isdigit() for key in row.value)
    answers = tuple((*prompt, assistant(row.text(f"response_{k}"))) for k in range(1, count + 1))
    marks = row.get("scores")
    if not isinstance(marks, list) or len(marks) != count or not count:
        row.fail(("scores",), f"expected one mark for each of {count} responses")
    correct = tuple(float(m) >= 1 for m in marks)
    return Sampled(
        id=f"{part}/{row.get('question_id')}/{row.value.get('model_name', '')}", stratum=part, prompt=prompt,
        answers=answers, correct=correct, pairs=_pairs(row, correct),
    )  # fmt: skip


def _pairs(row: Row, correct: Sequence[bool]) -> tuple[tuple[int, int], ...]:
    """The pairs that the row names, the right answer first; all of a right and a wrong one where it names none."""
    named = row.value.get("sampled_conflict_pairs")
    if named is None:
        return tuple((a, b) for a, x in enumerate(correct) for b, y in enumerate(correct) if x and not y)
    pairs = []
    for pair in named:
        one, two = (int(k) for k in pair)
        if not (0 <= one < len(correct) and 0 <= two < len(correct)) or correct[one] == correct[two]:
            row.fail(("sampled_conflict_pairs",), f"{pair} is no pair of a right and a wrong answer")
        pairs.append((one, two) if correct[one] else (two, one))
    return tuple(pairs)


def report_correctness(items: Sequence[Sampled], scores: Scores | Wins) -> BenchmarkResult:
    """Pair accuracy and best-of-K of each set that is here; the mean of the five accuracies where all are."""
    cells, right, prompts, sets = [], [], [], []
    for part in SETS.values():
        own = [i for i in items if i.stratum == part]
        if not own:
            continue
        told = [(i, float(beats(scores, i.answers[a], i.answers[b]))) for i in own for a, b in i.pairs]
        if told:
            cells.append(cell(part, [x for _, x in told], [i.prompt for i, _ in told]))
            right += [x for _, x in told]
            prompts += [i.prompt for i, _ in told]
            sets += [part] * len(told)
        for size in sorted({len(i.answers) for i in own} if isinstance(scores, Mapping) else ()):
            assert isinstance(scores, Mapping)
            same = [i.candidates(scores) for i in own if len(i.answers) == size]
            cells.append(best_of_n(same).rm_at_k.renamed(f"{part}, best of {size}"))
    absent = [s for s in SETS.values() if s not in sets]
    headline = None if absent else cell("total", right, prompts, sets)
    notes = (f"no total: {', '.join(absent)} absent",) if absent else ()
    return BenchmarkResult(
        name=CORRECTNESS, n=len(items), total=len(items), headline=headline, slices=tuple(cells), notes=notes,
        protocol=PROTOCOL_CORRECTNESS,
    )  # fmt: skip


PPE_PREFERENCE = Benchmark(
    name=PREFERENCE, folder=PREFERENCE, home=HOME, fetch=FETCH, load=load_preference, report=report_preference,
    caveats=caveats_preference,
)  # fmt: skip
PPE_CORRECTNESS = Benchmark(
    name=CORRECTNESS, folder=CORRECTNESS, home=HOMES, fetch=FETCHES, load=load_correctness, report=report_correctness
)
