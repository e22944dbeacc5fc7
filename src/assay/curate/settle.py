"""Judgements to a label: one pure function in which a person outranks a machine, and a machine the source.

Paper A leaves adjudication open; here a lead who has seen all judgements of a pair outranks them, and the highest rank that
spoke decides alone, by majority of its votes. A tie is a vote against both responses. A pair on which one person cannot
decide is dropped, however many others can, and no judge may overrule them (A2, D.2); a lead may.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from assay.errors import AssayError
from assay.records import Judgement, Label, Tier

_RANKS: tuple[tuple[Tier, frozenset[str]], ...] = (
    ("gold", frozenset({"lead"})),
    ("gold", frozenset({"human", "oracle"})),
    ("silver", frozenset({"llm", "offline"})),
    ("wild", frozenset({"wild"})),
)


def settle(judgements: Iterable[Judgement], stage: str) -> Label:
    """The label of one pair from all judgements about it, whatever their order. Raises ValueError when there are none.

    `kept` and `relabelled` compare with the majority of the source's own votes; a pair that carries none is kept.
    """
    rows = sorted(judgements, key=lambda j: (j.kind, j.by, j.round, j.better or "", j.problem))
    if not rows or len({j.pair_id for j in rows}) != 1:
        raise ValueError("settle needs the judgements of exactly one pair")
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
    raise AssayError(
        f"pair {rows[0].pair_id}: only {', '.join(sorted({j.by for j in rows}))} judged it, and a reward model confirms "
        "labels but gives none; add the word of a person, a judge or the source"
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
    return max(0.5, sum(votes) / len(votes)) if votes else 1.0


def strength(judgements: Sequence[Judgement], chosen: str) -> float:
    """By how much `chosen` is better: the mean of the strengths that were told, those for the other response against it;
    0.0 where none was, or where they speak for the other."""
    told = [j.strength if j.better == chosen else -j.strength for j in judgements if j.better and j.strength]
    return max(0.0, sum(told) / len(told)) if told else 0.0


def majority(judgements: Sequence[Judgement]) -> str | None:
    """The response with more votes than the other one and "tie" together; None without one. Failures never vote."""
    votes = Counter(j.better for j in judgements if j.better is not None)
    ties = sum(j.problem == "tie" for j in judgements)
    best, most = max(votes.items(), key=lambda vote: vote[1], default=("", 0))
    return best if most > votes.total() - most + ties else None
