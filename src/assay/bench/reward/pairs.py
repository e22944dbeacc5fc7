"""Any labelled pairs as a benchmark: the held-out part of the embedded pool, held-out pairs of people, a user's own."""

from collections.abc import Callable, Sequence

from assay.bench.benchmark import BenchmarkResult, Choice, Scores, cell, evaluate
from assay.errors import AssayError
from assay.records import Preference, Scorer

PROTOCOL = "share of pairs in which the chosen response has the strictly higher reward; errors clustered by prompt"


def choices(preferences: Sequence[Preference], name: str) -> list[Choice]:
    """The preferences as items of the benchmark `name`, by pair id."""
    return [
        Choice(
            id=p.pair_id,
            source=name,
            stratum="",
            prompt=p.prompt,
            best=p.prompt + p.chosen.messages,
            losers=(p.prompt + p.rejected.messages,),
        )
        for p in preferences
    ]


def report(name: str) -> Callable[[Sequence[Choice], Scores], BenchmarkResult]:
    """The `report` function of the pair set `name`."""

    def accuracy(items: Sequence[Choice], scores: Scores) -> BenchmarkResult:
        prompts = [i.prompt for i in items]
        headline = cell("all pairs", [float(i.right(scores)) for i in items], prompts)
        notes = (f"{len(items):,} pairs over {len(set(prompts)):,} prompts",)
        return BenchmarkResult(
            name=name, n=len(items), total=len(items), headline=headline, slices=(), notes=notes, protocol=PROTOCOL
        )

    return accuracy


def evaluate_pairs(
    preferences: Sequence[Preference],
    scorer: Scorer,
    name: str = "held-out pairs",
    limit: int | None = None,
    seed: int = 0,
) -> BenchmarkResult:
    """The accuracy of `scorer` on labelled pairs. Raises AssayError when there are none."""
    if not preferences:
        raise AssayError(f"{name}: there are no labelled pairs to measure on; hold out a larger share")
    return evaluate(choices(preferences, name), report(name), scorer, limit, seed)
