"""Simulated people, where a pool knows its truth: they err, and at times cannot decide.

The people of paper A agree with its gold in 81 % of objective pairs, with an LLM's help in 87 % (A3, Table 14): a run whose
people are always right shows what no project can buy. Which pairs an annotator gets wrong is drawn from the pair and the
annotator alone: the same whenever, and among whatever others, the pair is asked about. Their judgements have the kind
`oracle`, for the truth is behind them, and the name of who spoke.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assay.errors import AssayError
from assay.order import draws
from assay.records import Case, Judge, Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotator:
    """One simulated person: the share of pairs that they cannot decide, and of the others the share that they get wrong."""

    name: str
    wrong: float
    undecided: float

    def __post_init__(self) -> None:
        for field in ("wrong", "undecided"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise AssayError(f"annotator {self.name}: {field} must lie in [0, 1), got {getattr(self, field)}")


ANNOTATORS = (
    Annotator(name="simulated:careful", wrong=0.10, undecided=0.06),
    Annotator(name="simulated:hasty", wrong=0.15, undecided=0.02),
)
"""The people of `assay run tiny`."""


def erring(truth: Mapping[str, str], annotators: Sequence[Annotator] = ANNOTATORS) -> Judge:
    """People who know the better response of each pair id in `truth`, and err. Each pair is put to one of the annotators,
    drawn by its id; a pair without a truth is a problem."""

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        ids = [c.pair.id for c in cases]
        who = [annotators[int(x * len(annotators))] for x in (draws(ids, "annotator") if ids else ())]
        return [_word(case, a, truth.get(case.pair.id)) for case, a in zip(cases, who, strict=True)]

    return judge


def _word(case: Case, who: Annotator, better: str | None) -> Judgement:
    pair, (silent, slip) = case.pair, (float(draws([case.pair.id], w, who.name)[0]) for w in ("undecided", "wrong"))
    problem = "no truth" if better is None else "cannot decide" if silent < who.undecided else ""
    if problem or better is None:
        return Judgement(pair_id=pair.id, better=None, by=who.name, kind="oracle", problem=problem)
    said = pair.other(better) if slip < who.wrong else better
    return Judgement(pair_id=pair.id, better=said, by=who.name, kind="oracle")


def coin(seed: int = 0) -> Judge:
    """A control: answers that have nothing to do with the pairs. What is learned from them must come out at 50 %."""

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        sides = draws([c.pair.id for c in cases], "coin", seed) if cases else ()
        return [
            Judgement(pair_id=c.pair.id, better=c.pair.responses[int(x < 0.5)].id, by="coin", kind="oracle")
            for c, x in zip(cases, sides, strict=True)
        ]

    return judge
