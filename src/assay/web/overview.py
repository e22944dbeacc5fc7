"""Where the verification stands, computed from cases and judgements alone: progress by category, and where people
disagree."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from assay.charts import Line, chart
from assay.curate.settle import settle
from assay.records import Case, Judgement, Label
from assay.statistics import clopper_pearson


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


def needed(cases: Iterable[Case], judgements: Iterable[Judgement], overlap: int) -> int:
    """How many answers of people are missing until every pair is done."""
    people = _by_pair(j for j in judgements if j.kind in ("human", "lead"))
    missing = 0
    for case in cases:
        given = people.get(case.pair.id, [])
        if not any(j.kind == "lead" for j in given):
            missing += max(0, overlap - len({j.by for j in given}))
    return missing


def charts(times: Sequence[float], missing: int, judgements: Iterable[Judgement]) -> list[Markup]:
    """Answers over time against all that are needed, and how often two people said the same, as pairs came in (95% intervals
    by Clopper and Pearson); [] before the second answer. `times` are in rising seconds."""
    if len(times) < 2:
        return []
    unit, name = (60.0, "minutes") if times[-1] - times[0] < 7200 else (3600.0, "hours")
    along = [(at - times[0]) / unit for at in times]
    every = [(at, float(n)) for n, at in enumerate(along, 1)]
    goal = [(at, float(len(times) + missing)) for at in (0.0, along[-1])]
    answers = chart(
        [Line(label="answers", values=every), Line(label="needed", values=goal, colour=6, dashed=True)],
        "Answers of people", f"{name} since the first", zero=True,
    )  # fmt: skip
    said: dict[str, str] = {}
    shares, bands, same = list[tuple[float, float]](), list[tuple[float, float]](), 0
    for j in judgements:
        if j.kind != "human":
            continue
        word = j.better or j.problem
        if j.pair_id not in said:
            said[j.pair_id] = word
            continue
        same += word == said[j.pair_id]
        n = len(shares) + 1
        shares.append((float(n), 100 * same / n))
        low, high = clopper_pearson(same / n, n)
        bands.append((100 * float(low), 100 * float(high)))
    if not shares:
        return [answers]
    agreed = Line(label="same answer", values=shares, bands=bands, colour=2)
    return [answers, chart([agreed], "Agreement with the first answer", "second answers", unit=" %")]


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
