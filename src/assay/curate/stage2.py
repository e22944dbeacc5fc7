"""Stage 2 of paper A (section 3.3, our A.7): no people. Every in-the-wild pair is kept, flipped or dropped, with its reason.

    best RM sure of the wild label ---------------------+
    else: LLM judges, guided by the nearest gold -------+--> and the gold RM agrees --> kept
                                                        +--> else dropped --> all say the opposite --> flipped

Judges are asked only where their word can change a pair's fate. A server that did not answer leaves its pairs waiting
(`Unreached`); where no answer of the judges can be read the pair is dropped: neither is "did not decide".

Keep rule: kept iff the gold RM agrees with the original label AND (the best RM OR the judges do). The paper's text lets a
pair with p > 0.5 pass unchecked, its figure and its rule do not; we follow the rule. "Close to 0.5" is `band`.
"Flipped" recycles a dropped pair whose original label is contradicted by gold RM, best RM and, where they spoke, the
judges (A3, H.4); the paper defines the flipped pool in several ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from assay.curate.book import judged
from assay.curate.keep_rule import REASONS as REASONS
from assay.curate.keep_rule import UNDECIDED as UNDECIDED
from assay.curate.keep_rule import counts, decide
from assay.curate.settle import certainty, strength, wild_choice
from assay.curate.stage1 import Material, Stage1Result, cases, wins
from assay.errors import AssayError
from assay.records import Judge, Judgement, Label
from assay.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage2Config:
    """`band`: the best RM counts as sure of a label only above 0.5 + band (the paper gives no width)."""

    band: float = 0.1
    examples: int = 8
    shard_pairs: int = 100_000

    def __post_init__(self) -> None:
        if not 0.0 <= self.band < 0.5:
            raise AssayError(f"stage2.band must lie in [0, 0.5), got {self.band}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one wild pair: the probability that each RM gives its original label, and the judges' word."""

    pair_id: str
    original: str
    p_best: float
    p_gold: float
    judge: str | None
    """The response that the judges prefer; None when they were not asked or did not decide."""
    problem: str = ""
    """Why the judges, where they were asked, prefer none."""


def stage2(run: Run, config: Stage2Config, material: Material, stage1: Stage1Result, judge: Judge) -> list[Label]:
    """Settle the pairs of `material` shard by shard; resumes at the first shard that is not done."""
    labels: list[Label] = []
    ids = sorted(material.pairs)
    votes: dict[str, list[Judgement]] = {}
    for j in material.wild:
        votes.setdefault(j.pair_id, []).append(j)
    for n, at in enumerate(range(0, len(ids), config.shard_pairs)):
        part = ids[at : at + config.shard_pairs]
        original = {i: choice for i in part if (choice := wild_choice(votes.get(i, [])))}
        rows = run.table("evidence", Evidence).once(
            f"stage2-{n}",
            lambda n=n, o=original: _evidence(run, config, material, stage1, judge, n, o),  # type: ignore[misc]
        )
        labels += run.table("labels", Label).once(
            f"stage2-{n}",
            lambda p=part, o=original, r=rows: _labels(p, o, r, material, config, votes),  # type: ignore[misc]
        )
    return labels


def _evidence(
    run: Run, config: Stage2Config, material: Material, stage1: Stage1Result, judge: Judge, n: int,
    original: Mapping[str, str],
) -> list[Evidence]:  # fmt: skip
    views = [material.pairs[i].preferring(choice) for i, choice in original.items()]
    p_best = wins(run, f"stage2-{n}-best", stage1.best, views)
    p_gold = wins(run, f"stage2-{n}-gold", stage1.gold_rm, views)
    scored = [i for i in original if i in p_best and i in p_gold]
    unsure = [i for i in scored if counts(p_best[i], p_gold[i], config.band)]
    rows = run.table("judgements", Judgement).once(
        f"stage2-{n}-judges", lambda: judged(judge, cases(unsure, material, stage1.examples, config.examples))
    )
    word = {j.pair_id: (j.better, j.problem) for j in rows}
    if list(word) != unsure:
        raise AssayError(
            f"{run.folder}: the judgements in stage2-{n}-judges are not of the pairs that were asked about; an older Assay "
            "began this run, or files were changed: use another --out"
        )
    return [
        Evidence(pair_id=i, original=original[i], p_best=p_best[i], p_gold=p_gold[i], judge=better, problem=problem)
        for i in scored for better, problem in (word.get(i, (None, "")),)
    ]  # fmt: skip


def _labels(
    ids: Sequence[str], original: Mapping[str, str], rows: Sequence[Evidence], material: Material, config: Stage2Config,
    votes: Mapping[str, Sequence[Judgement]],
) -> list[Label]:  # fmt: skip
    frame = pl.DataFrame([[r.pair_id, r.original, r.p_best, r.p_gold, r.judge, r.problem] for r in rows], orient="row",
                         schema={"pair_id": pl.String, "original": pl.String, "p_best": pl.Float64,
                                 "p_gold": pl.Float64, "judge": pl.String, "problem": pl.String})  # fmt: skip
    decided = {row["pair_id"]: row for row in decide(frame, config.band).iter_rows(named=True)}
    labels = []
    for pair_id in ids:
        row = decided.get(pair_id)
        if row is None:
            reason = "a reward model gave no number for it"
            if pair_id not in original:
                reason = "the source has no label, or its votes are tied"
            labels.append(Label(pair_id=pair_id, chosen=None, tier="wild", fate="dropped", by=(), stage="stage2",
                                reason=reason))  # fmt: skip
            continue
        chosen = {"kept": row["original"], "flipped": material.pairs[pair_id].other(row["original"])}.get(row["fate"])
        by = ("best-rm", "gold-rm", *(("judges",) if row["judge"] else ()))
        sure, margin = _graded(row, chosen, votes[pair_id]) if chosen else (1.0, 0.0)
        labels.append(Label(pair_id=pair_id, chosen=chosen, tier="wild", fate=row["fate"], by=by, stage="stage2",
                            reason=row["reason"], certainty=sure, margin=margin))  # fmt: skip
    return labels


def _graded(row: Mapping[str, Any], chosen: str, votes: Sequence[Judgement]) -> tuple[float, float]:
    """(certainty, margin) of a label. The source, the two reward models and, where asked, the judges have a say each: the
    source by the share of its votes, a reward model by its probability."""
    original = row["original"]
    says = [certainty(votes, original), row["p_best"], row["p_gold"]]
    says += [float(row["judge"] == original)] if row["judge"] else []
    mean = sum(says) / len(says)
    return max(0.5, mean if chosen == original else 1 - mean), strength(votes, chosen)
