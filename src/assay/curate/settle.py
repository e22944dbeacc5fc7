"""Judgements to a label: a pure function in which a person outranks a machine, and a machine the source.

`settle` is the definition, one pair at a time; `settle_frame` is the same over columns, for pools that no list holds.

Paper A leaves adjudication open; here a lead who has seen all judgements of a pair outranks them, and the highest rank that
spoke decides alone, by majority of its votes. A tie is a vote against both responses. A pair on which one person cannot
decide is dropped, however many others can, and no judge may overrule them (A2, D.2); a lead may.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assay.curate.votes import Votes, pick, three_responses
from assay.errors import AssayError
from assay.records import Judgement, Label, Tier

_RANKS: tuple[tuple[Tier, frozenset[str]], ...] = (
    ("gold", frozenset({"lead"})),
    ("gold", frozenset({"human", "oracle"})),
    ("silver", frozenset({"llm", "offline"})),
    ("wild", frozenset({"wild"})),
)


def settle(judgements: Iterable[Judgement], stage: str) -> Label:
    """The label of one pair from all judgements about it, whatever their order. Raises ValueError when there are none,
    AssayError where they name three responses or only reward models spoke.

    `kept` and `relabelled` compare with the majority of the source's own votes; a pair that carries none is kept.
    """
    rows = sorted(judgements, key=lambda j: (j.kind, j.by, j.round, j.better or "", j.problem))
    if not rows or len({j.pair_id for j in rows}) != 1:
        raise ValueError("settle needs the judgements of exactly one pair")
    if (named := len({j.better for j in rows} - {None})) > 2:
        raise three_responses(rows[0].pair_id, named)
    original = wild_choice(rows)
    tier, deciding = _rank(rows)
    by = tuple(sorted({j.by for j in deciding}))
    undecided = tier == "gold" and any(j.problem == "cannot decide" for j in deciding)
    chosen = None if undecided else majority(deciding)
    who = {"gold": "people", "silver": "judges", "wild": "source votes"}[tier]
    if deciding[0].kind == "lead":
        who = "leads"
    if chosen is None:
        problems = ", ".join(sorted({j.problem for j in deciding if j.problem})) or "votes are tied"
        return Label(pair_id=rows[0].pair_id, chosen=None, tier=tier, fate="dropped", by=by, stage=stage,
                     reason=f"{who} did not decide: {problems}")  # fmt: skip
    agrees = original in (None, chosen)
    reason = f"{who} confirm the original label" if agrees else f"{who} prefer the other response"
    if original is None:
        reason = f"{who} decide; the source has no label"
    elif tier == "wild":
        reason = "the source's own label, not checked"
    return Label(pair_id=rows[0].pair_id, chosen=chosen, tier=tier, fate="kept" if agrees else "relabelled", by=by,
                 stage=stage, reason=reason, certainty=certainty(deciding, chosen),
                 margin=strength(deciding, chosen) or strength(rows, chosen))  # fmt: skip


def _rank(rows: Sequence[Judgement]) -> tuple[Tier, list[Judgement]]:
    """The highest rank that spoke, and its judgements."""
    for tier, kinds in _RANKS:
        if deciding := [j for j in rows if j.kind in kinds]:
            return tier, deciding
    raise _only_confirmed(rows[0].pair_id, {j.by for j in rows})


def _only_confirmed(pair_id: str, by: Iterable[str]) -> AssayError:
    return AssayError(
        f"pair {pair_id}: only {', '.join(sorted(by))} judged it, and a reward model confirms labels but gives none; "
        "add the word of a person, a judge or the source"
    )


def settle_all(judgements: Iterable[Judgement], stage: str) -> list[Label]:
    """One label per pair that occurs, in the order of pair ids."""
    by_pair: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_pair.setdefault(judgement.pair_id, []).append(judgement)
    return [settle(by_pair[pair_id], stage) for pair_id in sorted(by_pair)]


def wild_choice(judgements: Sequence[Judgement]) -> str | None:
    """The response that the source itself prefers, or None when it is tied or silent."""
    return majority([j for j in judgements if j.kind == "wild"])


def certainty(judgements: Sequence[Judgement], chosen: str) -> float:
    """The share of votes for `chosen`, each counted by its confidence and a tie as half; at least 0.5, for it has won."""
    votes = [j.confidence if j.better == chosen else 1 - j.confidence for j in judgements if j.better]
    votes += [0.5 for j in judgements if j.problem == "tie"]
    return max(0.5, math.fsum(votes) / len(votes)) if votes else 1.0


def strength(judgements: Sequence[Judgement], chosen: str) -> float:
    """By how much `chosen` is better: the mean of the strengths that were told, those for the other response against it;
    0.0 where none was, or where they speak for the other."""
    told = [j.strength if j.better == chosen else -j.strength for j in judgements if j.better and j.strength]
    return max(0.0, math.fsum(told) / len(told)) if told else 0.0


def majority(judgements: Sequence[Judgement]) -> str | None:
    """The response with more votes than the other one and "tie" together; None without one. Failures never vote."""
    votes = Counter(j.better for j in judgements if j.better is not None)
    ties = sum(j.problem == "tie" for j in judgements)
    best, most = max(votes.items(), key=lambda vote: vote[1], default=("", 0))
    return best if most > votes.total() - most + ties else None


_WHO = ("leads", "people", "judges", "source votes")
"""In the order of `_RANKS`."""
_SAID = ("confirm the original label", "prefer the other response", "decide; the source has no label")
_PERSON, _SOURCE = 1, 3


def settle_frame(judgements: pl.DataFrame | pl.LazyFrame, stage: str) -> pl.DataFrame:
    """`settle_all` over columns: the columns of `Label`, a row for each pair that occurs, in the order of pair ids.

    `judgements` has the columns of `Judgement` that settle reads: pair_id, better, by, kind, problem, confidence (null: 1)
    and strength (null: 0); others are ignored. Rows may come in any order; sorted by pair id is fastest. The numbers are
    `settle`'s to the last bit. Raises AssayError as `settle` does.
    """
    v = Votes.of(judgements)
    rank = _ranks(v)
    top = np.minimum.reduceat(rank, v.start) if v.pairs else rank
    deciding = rank == top[v.pair]
    unsure = v.texts["problem"].are("cannot decide") & deciding & (rank <= _PERSON)
    win = np.where(v.count(unsure) > 0, 0, v.majority(deciding))
    original = v.majority(rank == _SOURCE)
    agrees = (original == 0) | (original == win)
    fate = np.where(win == 0, 2, np.where(agrees, 0, 1))
    margin = np.maximum(0.0, v.strength(deciding, win))
    if not deciding.all():
        margin = np.where(margin > 0, margin, np.maximum(0.0, v.strength(np.ones_like(deciding), win)))
    return pl.DataFrame({
        "pair_id": v.ids,
        "chosen": v.response(win),
        "tier": pick([tier for tier, _ in _RANKS], top),
        "fate": pick(["kept", "relabelled", "dropped"], fate),
        "reason": _reasons(v, deciding, top, win, np.where(original == 0, 2, np.where(agrees, 0, 1))),
        "by": v.lists(deciding, "by"),
        "stage": pl.repeat(stage, v.pairs, dtype=pl.String, eager=True),
        "certainty": np.where(win > 0, v.certainty(deciding, win), 1.0),
        "margin": np.where(win > 0, margin, 0.0),
    })  # fmt: skip


def _ranks(v: Votes) -> NDArray[np.int64]:
    """(rows,) the place of a judgement's kind in `_RANKS`; what ranks nowhere comes after all."""
    rank = np.full(len(v.pair), len(_RANKS))
    for n, (_, kinds) in enumerate(_RANKS):
        rank[v.texts["kind"].are(*kinds)] = n
    ranked = v.count(rank < len(_RANKS))
    if (alone := np.flatnonzero(ranked == 0)).size:
        rows = v.pair == alone[0]
        raise _only_confirmed(v.ids[int(alone[0])], pick(v.texts["by"].names, v.texts["by"].codes[rows]).unique())
    return rank


def _reasons(
    v: Votes, deciding: NDArray[np.bool_], top: NDArray[np.int64], win: NDArray[np.int8], said: NDArray[np.int64]
) -> pl.Series:
    """(pairs,) the reason of each label; `said` counts through `_SAID`."""
    texts = [f"{who} {what}" for who in _WHO for what in _SAID]
    texts[_SOURCE * len(_SAID)] = "the source's own label, not checked"
    code = top * len(_SAID) + said
    unsettled = np.flatnonzero(win == 0)
    code[unsettled] = len(texts) + np.arange(len(unsettled))
    failed = deciding & ~v.texts["problem"].are("") & (win[v.pair] == 0)
    problems = v.lists(failed, "problem").gather(unsettled).list.join(", ").replace("", "votes are tied")
    why = pick([f"{who} did not decide: " for who in _WHO], top[unsettled]) + problems
    return pick(pl.concat([pl.Series(texts, dtype=pl.String), why]), code)


def wild_frame(votes: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """What the source says of each pair, in the order of pair ids, from its own votes (columns as of `settle_frame`, of
    which `by` and `kind` may be missing; rows of another kind than "wild" are ignored).

    Columns: pair_id; `original`, the response that it prefers, null where it is tied or silent; `certainty`, the share of
    its votes for that one, and `strength`, by how much it is better (negative where the strengths speak for the other
    response), both null without an original; `conflict`, whether votes name different responses; `n`, how many votes.
    """
    frame = votes.lazy()
    if "kind" in frame.collect_schema():
        frame = frame.filter(pl.col("kind") == "wild").drop("kind")
    v = Votes.of(frame.drop("by", strict=False))
    everyone = np.ones(len(v.pair), bool)
    win = v.majority(everyone)
    found = pl.DataFrame({
        "pair_id": v.ids,
        "original": v.response(win),
        "certainty": v.certainty(everyone, win),
        "strength": v.strength(everyone, win),
        "conflict": v.named[1] >= 0,
        "n": np.diff(v.start, append=len(v.pair)),
    })  # fmt: skip
    return found.with_columns(pl.when(pl.col("original").is_not_null()).then(pl.col("certainty", "strength")))
