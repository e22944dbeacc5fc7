"""Many votes to one judgement for each pair: by majority, by weights that gold gives, or by Dawid-Skene.

The paper merges across models without saying how; `annotate.merge` is the majority. Two more:

- *weighted*: a model's verdict counts by the log odds of being right on gold, ln(a / (1 - a)) with a = (right + 1) /
  (n + 2); a model that is no better than chance on gold is not heard (it is not turned round either).
- *dawid-skene*: EM over all votes, in which gold pairs are known. A worker is a model *in one of the two orders of the
  responses*, so a judge that leans to what it reads first is seen as two workers that err in opposite ways, and corrected.
  Dawid and Skene take votes for independent given the truth; samples of one model repeat its mistakes. So a model's samples
  in one order are one vote, their majority, and its two orders are half a vote each.

Gold pairs are merged without their own gold: weights and error rates come from gold of other questions (five parts), so
that the agreement of a merge with gold is honest. Without any gold, Dawid-Skene works from the votes alone.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Literal

import numpy as np

from assay.curate.annotate import merge, own_verdict
from assay.curate.dawid_skene import dawid_skene
from assay.errors import AssayError
from assay.records import Judgement, digest

Merge = Literal["majority", "weighted", "dawid-skene"]
PARTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """The better response of each gold pair, and the question that each pair belongs to (all pairs, not only gold)."""

    better: Mapping[str, str]
    questions: Mapping[str, str]

    def part(self, pair_id: str) -> int:
        """The part of the cross-fit that a gold pair's question falls into."""
        return int(digest(["part", self.questions[pair_id]])[:8], 16) % PARTS

    def without(self, part: int) -> dict[str, str]:
        return {p: b for p, b in self.better.items() if self.part(p) != part}


def by_pair(votes: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    """The votes of each pair, in the order in which pairs first occur."""
    found: defaultdict[str, list[Judgement]] = defaultdict(list)
    for vote in votes:
        found[vote.pair_id].append(vote)
    return dict(found)


def verdicts(votes: Sequence[Judgement]) -> list[Judgement]:
    """Each model's own verdict on each pair: the majority of its votes."""
    own: defaultdict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for vote in votes:
        own[vote.pair_id, vote.by].append(vote)
    return [_summed(own_verdict(group, by), group) for (_, by), group in own.items()]


def merge_votes(votes: Sequence[Judgement], how: Merge, gold: Gold) -> list[Judgement]:
    """One judgement per pair, in the order in which pairs first occur."""
    pairs = by_pair(votes)
    if how == "majority":
        return [merge(group) for group in pairs.values()]
    if how == "weighted" and not gold.better:
        raise AssayError("merging by weights needs gold pairs to weigh judges by; give --gold, or merge by majority")
    fit = _weighted if how == "weighted" else _estimated
    judged = {p: gold.part(p) for p in pairs if p in gold.better}
    found = fit(pairs, gold.better, [p for p in pairs if p not in judged])
    for part in sorted(set(judged.values())):
        found |= fit(pairs, gold.without(part), [p for p in judged if judged[p] == part])
    return [found[p] for p in pairs]


def weights(votes: Sequence[Judgement], gold: Mapping[str, str]) -> dict[str, float]:
    """The weight of each model: the log odds of its verdicts on gold, at least 0."""
    right: defaultdict[str, int] = defaultdict(int)
    seen: defaultdict[str, int] = defaultdict(int)
    for verdict in verdicts(votes):
        if verdict.better and verdict.pair_id in gold:
            seen[verdict.by] += 1
            right[verdict.by] += verdict.better == gold[verdict.pair_id]
    models = dict.fromkeys(v.by for v in votes)
    return {m: max(0.0, log((right[m] + 1) / (seen[m] - right[m] + 1))) for m in models}


def _weighted(
    pairs: Mapping[str, list[Judgement]], gold: Mapping[str, str], wanted: Sequence[str]
) -> dict[str, Judgement]:
    weight = weights([v for group in pairs.values() for v in group], gold) if wanted else {}
    found = {}
    for pair_id in wanted:
        votes = pairs[pair_id]
        score: defaultdict[str, float] = defaultdict(float)
        for verdict in verdicts(votes):
            if verdict.better:
                score[verdict.better] += weight[verdict.by]
        ranked = sorted(score.items(), key=lambda row: -row[1])
        lead = ranked[0][1] - (ranked[1][1] if len(ranked) > 1 else 0.0) if ranked else 0.0
        problem = "no judge is better than chance on gold" if ranked and ranked[0][1] == 0.0 else "tie"
        better = ranked[0][0] if lead > 1e-12 else None
        found[pair_id] = _decided(votes, better, 1 / (1 + exp(-lead)), problem if ranked else "")
    return found


def _estimated(
    pairs: Mapping[str, list[Judgement]], gold: Mapping[str, str], wanted: Sequence[str]
) -> dict[str, Judgement]:
    sides = {p: sorted({i for v in group for i in v.shown}) for p, group in pairs.items()}
    heard: dict[str, int] = {}
    workers: dict[tuple[str, bool], int] = {}
    rows = []
    for pair_id, group in pairs.items():
        told = _by_order(group, sides[pair_id])
        orders = Counter(by for by, _ in told)
        for (by, order), side in told.items():
            item, worker = heard.setdefault(pair_id, len(heard)), workers.setdefault((by, order), len(workers))
            rows.append((item, worker, sides[pair_id].index(side), 1 / orders[by]))
    known = {heard[p]: sides[p].index(b) for p, b in gold.items() if p in heard}
    if rows and wanted:
        items, by_V, said, weight = (list(column) for column in zip(*rows, strict=True))
        share_IC = dawid_skene(items, by_V, said, classes=2, known=known, prior=(0.5, 0.5), weights=weight).posterior
    else:
        share_IC = np.zeros((0, 2))
    found = {}
    for pair_id in wanted:
        share = float(share_IC[heard[pair_id], 1]) if pair_id in heard else 0.5
        better = sides[pair_id][int(share > 0.5)] if abs(share - 0.5) > 1e-9 else None
        found[pair_id] = _decided(pairs[pair_id], better, max(share, 1 - share), "tie" if pair_id in heard else "")
    return found


def _by_order(votes: Sequence[Judgement], ids: Sequence[str]) -> dict[tuple[str, bool], str]:
    """(model, whether the responses were shown in the order of `ids`) -> the response that most of these votes name."""
    counts: defaultdict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for vote in votes:
        if vote.better:
            counts[vote.by, list(vote.shown) == list(ids)][vote.better] += 1
    ranked = {key: count.most_common(2) for key, count in counts.items()}
    return {key: top[0][0] for key, top in ranked.items() if len(top) == 1 or top[0][1] > top[1][1]}


def _decided(votes: Sequence[Judgement], better: str | None, confidence: float, problem: str) -> Judgement:
    """The merged judgement for `better`; without one, a `problem` ("": that of the plain majority)."""
    plain = merge(votes)
    if better is None:
        return replace(plain, better=None, problem=problem or plain.problem or "tie", confidence=0.5, rationale="")
    reason = next((v.rationale for v in votes if v.better == better), "")
    return replace(plain, better=better, problem="", confidence=confidence, rationale=reason)


def _summed(verdict: Judgement, votes: Sequence[Judgement]) -> Judgement:
    return replace(
        verdict, votes=len(votes), tokens=sum(v.tokens for v in votes), seconds=sum(v.seconds for v in votes)
    )
