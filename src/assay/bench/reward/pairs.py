"""Any labelled pairs as a benchmark: the held-out part of the embedded pool, held-out pairs of people, a user's own."""

from collections.abc import Callable, Mapping, Sequence

from assay.bench.benchmark import Choice, Pairwise, Scores, Wins, evaluate
from assay.bench.results import BenchmarkResult, cell
from assay.errors import AssayError
from assay.records import Preference, Scorer, question_id

PROTOCOL = "share of pairs in which the chosen response has the strictly higher reward; errors clustered by question"


def choices(preferences: Sequence[Preference], name: str, parts: Mapping[str, str] | None = None) -> list[Choice]:
    """The preferences as items of the benchmark `name`; `parts` names the part of a pair id that is reported apart."""
    return [
        Choice(
            id=p.pair_id,
            source=name,
            stratum=(parts or {}).get(p.pair_id, ""),
            prompt=p.prompt,
            best=p.prompt + p.chosen.messages,
            losers=(p.prompt + p.rejected.messages,),
        )
        for p in preferences
    ]


def report(name: str) -> Callable[[Sequence[Choice], Scores | Wins], BenchmarkResult]:
    """The `report` function of the pair set `name`."""

    def accuracy(items: Sequence[Choice], scores: Scores | Wins) -> BenchmarkResult:
        asked = [question_id(i.prompt) for i in items]
        right = [float(i.right(scores)) for i in items]
        headline = cell("all pairs", right, asked)
        strata = sorted({i.stratum for i in items})
        at = {s: [n for n, i in enumerate(items) if i.stratum == s] for s in strata if len(strata) > 1}
        slices = tuple(cell(s or "other", [right[n] for n in rows], [asked[n] for n in rows]) for s, rows in at.items())
        notes = (f"{len(items):,} pairs over {len(set(asked)):,} questions",)
        return BenchmarkResult(
            name=name, n=len(items), total=len(items), headline=headline, slices=slices, notes=notes, protocol=PROTOCOL
        )

    return accuracy


def evaluate_pairs(
    preferences: Sequence[Preference],
    scorer: Scorer | Pairwise,
    name: str = "held-out pairs",
    limit: int | None = None,
    seed: int = 0,
    parts: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> BenchmarkResult:
    """The accuracy of `scorer` on labelled pairs; `notes` join the result's. Raises AssayError when there are none."""
    if not preferences:
        raise AssayError(f"{name}: there are no labelled pairs to measure on; hold out a larger share")
    return evaluate(choices(preferences, name, parts), report(name), scorer, limit, seed, notes)
