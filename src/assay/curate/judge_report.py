"""How good judges are: agreement with gold, position, length, self-consistency, agreement among them, problems, cost.

Every share comes with a 95% interval whose errors are clustered by question. Agreement with gold counts decided pairs only;
coverage beside it says how many those are. Nothing here asks anybody: all is computed from votes that are on disk.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.curate.agreement import Agreement, fleiss, rater_kappas
from assay.curate.merging import Gold, verdicts
from assay.figures import in_words
from assay.records import Attributes, Judgement
from assay.statistics import interval, mean

Lengths = Mapping[str, Mapping[str, int]]
"""The characters of the last turn of both responses, by pair id and response id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of `n` things, `clusters` independent ones (`statistics.Estimate`), with its 95% interval; all None where
    there is nothing to count."""

    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    clusters: float = 0.0

    @staticmethod
    def of(found: Iterable[tuple[str, float]], questions: Mapping[str, str]) -> "Share":
        """The mean of (pair id, what it counts); errors clustered by question."""
        rows = list(found)
        if not rows:
            return Share(n=0)
        estimate = mean([float(value) for _, value in rows], [questions[p] for p, _ in rows])
        low, high = interval(estimate)
        return Share(n=len(rows), value=estimate.value, low=low, high=high, clusters=estimate.clusters)

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "-"
        return in_words(self.value, self.low, self.high, self.n, self.clusters)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRow:
    """One judge (a model, the merge of all, or the rule that the longer response wins) on all its pairs.

    `coverage`: decided, of the pairs asked about. `agreement`: with gold, of the decided gold pairs; `right`: the same of
    all gold pairs, undecided ones counted as wrong. `first`: decided votes for the response shown first. `steady`: pairs of
    votes in the two orders that name the same response. `longer`: decided votes for the longer response, on gold pairs,
    beside `longer_right`, how often gold does. `sure`: the same verdict in two votes of one model on one pair, in any order.
    """

    judge: str
    pairs: int
    coverage: Share
    agreement: Share
    right: Share
    first: Share
    steady: Share
    longer: Share
    longer_right: Share
    sure: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """What a model cost, and what one label that agrees with gold cost: of the price where prices are given, in tokens where
    not. None without gold."""

    judge: str
    answers: int
    untold: int
    tokens_in: int
    tokens_out: int
    cost: float
    cost_per_correct: float | None
    tokens_per_correct: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeReport:
    """`parts`: agreement of the merged judgement by objectivity, category and length. `problems`: votes without a verdict,
    by judge and reason."""

    merge: str
    votes: int
    gold: int
    judges: tuple[JudgeRow, ...]
    parts: Mapping[str, Share]
    problems: Mapping[str, Mapping[str, int]]
    between: tuple[Agreement, ...]
    costs: tuple[CostRow, ...]


def judge_report(
    votes: Sequence[Judgement], merged: Sequence[Judgement], merge: str, lengths: Lengths,
    attributes: Mapping[str, Attributes], gold: Gold, costs: Sequence[Mapping[str, Any]] = (),
) -> JudgeReport:  # fmt: skip
    """The report on raw `votes` and the judgements that they were merged to.

    Args:
        votes: Of all judges.
        merged: One for each pair.
        merge: How they were merged.
        lengths: Of the responses of every pair.
        attributes: Of gold pairs, by pair id, as far as they are known.
        gold: The better responses that are known, and the questions of all pairs.
        costs: Rows of `replies.ledger` with the judge's name as `judge` and the price as `cost`.
    """
    own = verdicts(votes)
    models = list(dict.fromkeys(v.by for v in votes))
    look = _Look(lengths, gold)
    rows = [look.row(m, [v for v in own if v.by == m], [v for v in votes if v.by == m]) for m in models]
    together = look.row(f"merged: {merge}", merged, ())
    longest = look.row("the longer response", [longer(j.pair_id, lengths[j.pair_id], "longer") for j in merged], ())
    return JudgeReport(
        merge=merge, votes=len(votes), gold=sum(j.pair_id in gold.better for j in merged),
        judges=(*rows, together, longest), parts=_parts(look, merged, attributes),
        problems={m: _reasons(v for v in votes if v.by == m) for m in models},
        between=_between(own, len(models), gold.questions),
        costs=tuple(_cost(row, rows) for row in costs),
    )  # fmt: skip


def _between(own: Sequence[Judgement], models: int, questions: Mapping[str, str]) -> tuple[Agreement, ...]:
    whole = (fleiss(own, between="all models", questions=questions),) if models > 2 else ()
    return (*(a for a in whole if a.pairs), *rater_kappas(own, questions=questions))


def _reasons(votes: Iterable[Judgement]) -> dict[str, int]:
    return dict(Counter(reason(v.problem) for v in votes if v.problem).most_common())


def reason(problem: str) -> str:
    """A problem without what differs from one to the next, so that it can be counted."""
    return problem.split(": ")[0] if problem.startswith(("unparsable", "connection", "not a chat")) else problem[:60]


class _Look:
    """What all rows need: lengths of responses, gold, and shares clustered by question."""

    def __init__(self, lengths: Lengths, gold: Gold) -> None:
        self.lengths, self.gold = lengths, gold

    def share(self, found: Iterable[tuple[str, bool]]) -> Share:
        """Of (pair id, whether it counts)."""
        return Share.of(found, self.gold.questions)

    def agreement(self, judged: Iterable[Judgement]) -> Share:
        better = self.gold.better
        return self.share(
            (j.pair_id, j.better == better[j.pair_id]) for j in judged if j.better and j.pair_id in better
        )

    def longer_wins(self, pair_id: str, better: str) -> bool | None:
        """Whether `better` is the longer response; None where both are equally long."""
        told = self.lengths[pair_id]
        other = sum(told.values()) - told[better]
        return None if told[better] == other else told[better] > other

    def row(self, name: str, judged: Sequence[Judgement], votes: Sequence[Judgement]) -> JudgeRow:
        gold = self.gold.better
        cast = [v for v in votes if v.better]
        sized = [(v.pair_id, v.better, gold[v.pair_id]) for v in cast or judged if v.better and v.pair_id in gold]
        return JudgeRow(
            judge=name, pairs=len(judged), coverage=self.share((j.pair_id, j.better is not None) for j in judged),
            agreement=self.agreement(judged),
            right=self.share((j.pair_id, j.better == gold[j.pair_id]) for j in judged if j.pair_id in gold),
            first=self.share((v.pair_id, v.better == v.shown[0]) for v in cast if v.shown),
            steady=self.share(steady(cast)),
            longer=self.share((p, w) for p, b, _ in sized if (w := self.longer_wins(p, b or "")) is not None),
            longer_right=self.share((p, w) for p, _, g in sized if (w := self.longer_wins(p, g)) is not None),
            sure=self.share(_twos(cast)),
        )  # fmt: skip


def steady(votes: Iterable[Judgement]) -> Iterable[tuple[str, bool]]:
    """(pair id, same response) of every two decided votes of one model on one pair that saw it in different orders."""
    return _twos([v for v in votes if v.better and v.shown], lambda a, b: a.shown != b.shown)


def _twos(
    votes: Sequence[Judgement], wanted: Callable[[Judgement, Judgement], bool] = lambda a, b: True
) -> Iterable[tuple[str, bool]]:
    """(pair id, same response) of every two wanted votes of one model on one pair."""
    own: defaultdict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for vote in votes:
        own[vote.pair_id, vote.by].append(vote)
    for (pair_id, _), group in own.items():
        for n, one in enumerate(group):
            yield from ((pair_id, one.better == other.better) for other in group[n + 1 :] if wanted(one, other))


def _parts(look: _Look, merged: Sequence[Judgement], attributes: Mapping[str, Attributes]) -> dict[str, Share]:
    groups: defaultdict[str, list[Judgement]] = defaultdict(list)
    for j in merged:
        if j.pair_id not in look.gold.better:
            continue
        if (about := attributes.get(j.pair_id)) is not None:
            groups[f"objectivity: {about.objectivity}"].append(j)
            groups[f"controversiality: {about.controversiality}"].append(j)
            groups[f"category: {about.category}"].append(j)
        longer = look.longer_wins(j.pair_id, look.gold.better[j.pair_id])
        if longer is not None:
            groups["length: gold prefers the longer" if longer else "length: gold prefers the shorter"].append(j)
    return {name: look.agreement(groups[name]) for name in sorted(groups)}


def longer(pair_id: str, told: Mapping[str, int], by: str) -> Judgement:
    """The longer response is the better one; `told`: the characters of both."""
    better = None if len(set(told.values())) == 1 else max(told, key=lambda r: told[r])
    return Judgement(
        pair_id=pair_id, better=better, by=by, kind="offline", problem="" if better else "tie",
        confidence=1.0 if better else 0.5,
    )  # fmt: skip


def _cost(row: Mapping[str, Any], judges: Sequence[JudgeRow]) -> CostRow:
    found = next((j for j in judges if j.judge == row["judge"]), None)
    labels = (found.coverage.value or 0.0) * found.pairs if found else 0.0
    right = labels * (found.agreement.value or 0.0) if found and found.agreement.value is not None else 0.0
    tokens = int(row["tokens_in"]) + int(row["tokens_out"])
    return CostRow(
        judge=row["judge"], answers=int(row["answers"]), untold=int(row["untold"]), tokens_in=int(row["tokens_in"]),
        tokens_out=int(row["tokens_out"]), cost=float(row["cost"]),
        cost_per_correct=float(row["cost"]) / right if right else None, tokens_per_correct=tokens / right if right else None,
    )  # fmt: skip
