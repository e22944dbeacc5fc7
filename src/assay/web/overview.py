"""Where the verification stands, computed from cases and judgements alone: progress by category, and where people
disagree."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from assay.curate.settle import settle
from assay.records import Case, Judgement, Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one category is: `started` pairs have a judgement by a person, `done` as many as asked for (or a lead's)."""

    category: str
    pairs: int
    started: int
    done: int
    undecided: int

    @property
    def share(self) -> float:
        return self.done / self.pairs if self.pairs else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A pair whose people disagree or cannot decide, with all judgements about it and what it would be labelled now."""

    case: Case
    judgements: tuple[Judgement, ...]
    label: Label
    settled: bool
    """A lead has decided."""

    @property
    def ids(self) -> list[str]:
        return [r.id for r in self.case.pair.responses]


def progress(cases: Iterable[Case], judgements: Iterable[Judgement], overlap: int) -> list[Progress]:
    """One row per category, those with most pairs first, and a last one over all."""
    people = _by_pair(j for j in judgements if j.kind in ("human", "lead"))
    rows: dict[str, Counter[str]] = {}
    for case in cases:
        given = people.get(case.pair.id, [])
        judges = {j.by for j in given if j.kind == "human"}
        finished = len(judges) >= overlap or any(j.kind == "lead" for j in given)
        for name in (case.attributes.category, "all"):
            row = rows.setdefault(name, Counter())
            row["pairs"] += 1
            row["started"] += bool(given)
            row["done"] += finished
            row["undecided"] += finished and settle(given, "web").chosen is None
    order = sorted(rows, key=lambda name: (name == "all", -rows[name]["pairs"], name))
    return [Progress(category=n, **{k: rows[n][k] for k in ("pairs", "started", "done", "undecided")}) for n in order]


def disputes(cases: Mapping[str, Case], judgements: Iterable[Judgement]) -> list[Dispute]:
    """Pairs on which two people said different things or one could not decide; what no lead has decided comes first."""
    found = []
    for pair_id, given in _by_pair(judgements).items():
        people = {j.better or j.problem for j in given if j.kind == "human"}
        if pair_id in cases and (len(people) > 1 or any(j.better is None and j.kind == "human" for j in given)):
            settled = any(j.kind == "lead" for j in given)
            label = settle(given, "web")
            found.append(Dispute(case=cases[pair_id], judgements=tuple(given), label=label, settled=settled))
    return sorted(found, key=lambda d: (d.settled, d.case.pair.id))


def _by_pair(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    by: dict[str, list[Judgement]] = {}
    for j in judgements:
        by.setdefault(j.pair_id, []).append(j)
    return by


def verdict(judgement: Judgement, pair_ids: Sequence[str]) -> str:
    """What a judgement says, in words: "response 1", "response 2", or its problem."""
    return judgement.problem if judgement.better is None else f"response {pair_ids.index(judgement.better) + 1}"
