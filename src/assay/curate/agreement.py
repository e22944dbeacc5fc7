"""How far people, LLM judges and reward models agree beyond chance, with intervals over pairs.

Judgements are nominal ratings of pairs. Names of responses differ from pair to pair, so a rating says which of the two
ids, in sorted order, is better: "first" or "second" (ids are hashes, so sides are as good as tossed, and chance
agreement is a half). People who tie or cannot decide agree with each other when both do so: "undecided" is a third
category, unless `undecided="missing"`. Whatever else went wrong (skipped, refused, unparsable, timed out) is missing.

Intervals are over *pairs*, or over questions where they are given: all their ratings go together, for they are not
independent. A coefficient's error is that of the jackknife (Efron 1982), which leaves out one of them at a time; agreement
beyond a given chance is a share, so the interval is that of a share with this error (`assay.statistics`). A bootstrap draws
no disagreement where few pairs hold none, and then calls agreement certain. Coefficients are a few lines each; tests hold
them to the `krippendorff` library, scikit-learn and published examples.

Sources: Cohen (1960) "A Coefficient of Agreement for Nominal Scales"; Fleiss (1971) "Measuring Nominal Scale Agreement Among
Many Raters"; Krippendorff (2011) "Computing Krippendorff's Alpha-Reliability"; Vanbelle and Albert (2009) for groups.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assay.figures import counted
from assay.records import Judgement
from assay.statistics import Estimate, interval

Undecided = Literal["category", "missing"]
Measure = Literal["alpha", "fleiss", "cohen"]
_UNDECIDED = frozenset({"tie", "cannot decide"})
_GROUPS: Mapping[str, str] = {"human": "people", "llm": "judges", "offline": "judges", "rm": "reward models"}
_CATEGORIES = 3
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One coefficient: 1 is perfect, 0 is chance, below 0 is worse than chance.

    `value` is None where it is not defined (no pair rated twice, or only one category ever used); `low` and `high` bound the
    95% interval, None with fewer than two pairs or without a value. `observed` is the raw share of agreeing pairs of
    ratings. `pairs` were rated twice or more, with `ratings` ratings of `raters` raters in all.
    """

    between: str
    measure: Measure
    value: float | None
    low: float | None
    high: float | None
    observed: float | None
    pairs: int
    ratings: int
    raters: int

    @property
    def same(self) -> str:
        """The raw share in words, as if each pair of responses were one pair of ratings; "" of none."""
        return counted(round(self.observed * self.pairs), self.pairs, " %") if self.observed is not None else ""


Ratings = dict[str, dict[str, int]]
"""pair id -> rater -> 0 (first), 1 (second) or 2 (undecided)."""
Questions = Mapping[str, str] | None
"""pair id -> the question that it belongs to; a pair that is not there is one of its own."""


def ratings(judgements: Iterable[Judgement], undecided: Undecided = "category") -> Ratings:
    """The ratings in `judgements`; of several by one rater on one pair, the one of the latest round, then the last."""
    rows = list(judgements)
    ids: dict[str, set[str]] = {}
    for j in rows:
        ids.setdefault(j.pair_id, set()).update({*j.shown, *([j.better] if j.better else [])})
    latest: dict[tuple[str, str], Judgement] = {}
    for j in rows:
        held = latest.get((j.pair_id, j.by))
        if held is None or j.round >= held.round:
            latest[j.pair_id, j.by] = j
    found: Ratings = {}
    for (pair_id, by), j in latest.items():
        side = _side(j, sorted(ids[pair_id]), undecided)
        if side is not None:
            found.setdefault(pair_id, {})[by] = side
    return found


def _side(j: Judgement, ids: Sequence[str], undecided: Undecided) -> int | None:
    if j.better is None:
        return 2 if undecided == "category" and j.problem in _UNDECIDED else None
    if len(ids) > 2:
        raise ValueError(f"the judgements of pair {j.pair_id} name {len(ids)} responses; a pair has two")
    # Where only one id is known, everybody chose it: which side it is called matters to the base rates alone.
    return ids.index(j.better) if len(ids) == 2 else int(j.better[-1:] in "13579bdf")


def alpha(
    judgements: Iterable[Judgement],
    *,
    between: str = "all",
    undecided: Undecided = "category",
    questions: Questions = None,
) -> Agreement:
    """Krippendorff's alpha of all raters, any of whom may have skipped any pair."""
    table = {p: by for p, by in ratings(judgements, undecided).items() if len(by) > 1}
    return _agreement(between, "alpha", _rated(_counts(table)), _krippendorff, table, questions)


def fleiss(
    judgements: Iterable[Judgement],
    *,
    between: str = "all",
    undecided: Undecided = "category",
    questions: Questions = None,
) -> Agreement:
    """Fleiss' kappa. It needs equally many ratings of each pair: pairs with another number than the most frequent one
    (two or more) are left out, and `pairs` says how many were used."""
    table = {p: by for p, by in ratings(judgements, undecided).items() if len(by) > 1}
    sizes = Counter(len(by) for by in table.values())
    size = max(sizes, key=lambda n: (sizes[n], n), default=0)
    table = {p: by for p, by in table.items() if len(by) == size}
    return _agreement(between, "fleiss", _rated(_counts(table)), _fleiss, table, questions)


def cohen(
    judgements: Iterable[Judgement],
    one: str,
    other: str,
    *,
    undecided: Undecided = "category",
    questions: Questions = None,
) -> Agreement:
    """Cohen's kappa of the raters named `one` and `other`, over the pairs that both rated."""
    table = ratings(judgements, undecided)
    return _pooled(table, f"{one} and {other}", lambda by: by == one, lambda by: by == other, questions)


def report(
    judgements: Iterable[Judgement], *, undecided: Undecided = "category", questions: Questions = None
) -> list[Agreement]:
    """Alpha (and Fleiss' kappa of people) within people, judges and reward models; kappa between these groups.

    Between groups, every rating of the one is paired with every rating of the other on the same pair, and Cohen's kappa is
    taken of the pooled table. Rows without a pair rated twice are left out. Other kinds (oracle, wild) do not take part.
    """
    rows = [j for j in judgements if j.kind in _GROUPS]
    group = {j.by: _GROUPS[j.kind] for j in rows}
    names = [g for g in dict.fromkeys(_GROUPS.values()) if g in group.values()]
    found: list[Agreement] = []
    for name in names:
        own = [j for j in rows if _GROUPS[j.kind] == name]
        found.append(alpha(own, between=f"{name} among themselves", undecided=undecided, questions=questions))
        if name == "people":
            found.append(fleiss(own, between=f"{name} among themselves", undecided=undecided, questions=questions))
    table = ratings(rows, undecided)
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            found.append(_between(table, one, other, group, questions))
    return [a for a in found if a.pairs]


def rater_kappas(
    judgements: Iterable[Judgement], *, undecided: Undecided = "category", questions: Questions = None
) -> list[Agreement]:
    """Cohen's kappa of every two raters that share a pair, most shared pairs first."""
    table = ratings(judgements, undecided)
    shared = Counter((a, b) for by in table.values() for a in by for b in by if a < b)
    return [
        _pooled(table, f"{a} and {b}", lambda by, a=a: by == a, lambda by, b=b: by == b, questions)  # type: ignore[misc]
        for (a, b), _ in shared.most_common()
    ]


def fleiss_kappa(counts: Array) -> float:
    """Fleiss' kappa of (pairs, categories) counts with equal row sums of two or more; nan where not defined."""
    return float(_beyond(*_fleiss(_rated(counts).sum(axis=0))))


def cohen_kappa(table: Array) -> float:
    """Cohen's kappa of a (categories, categories) table of counts; nan where not defined."""
    return float(_beyond(*_cohen(table.reshape(-1))))


Terms = Callable[[Array], tuple[Array, Array]]
"""Sums over pairs, shape (..., k) -> the agreement observed, and that expected by chance."""


def _krippendorff(terms: Array) -> tuple[Array, Array]:
    """Of nominal alpha, from sums of `_rated` (Krippendorff 2011, section C)."""
    values, agreeing, each = terms[..., 0], terms[..., 1], terms[..., 2:]
    return agreeing / np.maximum(values, 1), (each * (each - 1)).sum(-1) / np.maximum(values * (values - 1), 1)


def _fleiss(terms: Array) -> tuple[Array, Array]:
    """Of Fleiss' kappa, from sums of `_rated` of pairs with equally many ratings."""
    values, agreeing, each = terms[..., 0], terms[..., 1], terms[..., 2:]
    return agreeing / np.maximum(values, 1), ((each / np.maximum(values, 1)[..., None]) ** 2).sum(-1)


def _cohen(terms: Array) -> tuple[Array, Array]:
    """Of Cohen's kappa, from flat tables of counts."""
    side = math.isqrt(terms.shape[-1])
    shares = terms.reshape(*terms.shape[:-1], side, side) / np.maximum(terms.sum(-1), 1)[..., None, None]
    return np.trace(shares, axis1=-2, axis2=-1), (shares.sum(-1) * shares.sum(-2)).sum(-1)


def _beyond(observed: Array, chance: Array) -> Array:
    known = chance < 1 - 1e-12
    return np.where(known, (observed - chance) / np.where(known, 1 - chance, 1), np.nan)


def _between(table: Ratings, one: str, other: str, group: Mapping[str, str], questions: Questions) -> Agreement:
    return _pooled(table, f"{one} and {other}", lambda by: group[by] == one, lambda by: group[by] == other, questions)


def _pooled(
    table: Ratings, between: str, one: Callable[[str], bool], other: Callable[[str], bool], questions: Questions
) -> Agreement:
    both = {p: by for p, by in table.items() if any(map(one, by)) and any(map(other, by))}
    crossed = np.zeros((len(both), _CATEGORIES, _CATEGORIES))
    for n, by in enumerate(both.values()):
        for a in filter(one, by):
            for b in filter(other, by):
                crossed[n, by[a], by[b]] += 1
    used = {p: {r: v for r, v in by.items() if one(r) or other(r)} for p, by in both.items()}
    return _agreement(between, "cohen", crossed.reshape(len(both), -1), _cohen, used, questions)


def _counts(table: Ratings) -> Array:
    """(pairs, categories) numbers of ratings."""
    counts = np.zeros((len(table), _CATEGORIES))
    for n, by in enumerate(table.values()):
        for side in by.values():
            counts[n, side] += 1
    return counts


def _rated(counts: Array) -> Array:
    """(pairs, 2 + categories) of (pairs, categories) counts, two or more a pair: ratings; each weighed by the share of the
    pair's other ratings that agree with it; ratings by category."""
    sizes = counts.sum(axis=1)
    agreeing = (counts * (counts - 1)).sum(axis=1) / np.maximum(sizes - 1, 1)
    return np.column_stack([sizes, agreeing, counts])


def _agreement(
    between: str, measure: Measure, terms: Array, of: Terms, table: Ratings, questions: Questions
) -> Agreement:
    """The coefficient of all pairs together; row n of `terms` is pair n of the table."""
    value = low = high = raw = None
    if len(terms):
        observed, chance = of(terms.sum(axis=0))
        raw = float(observed)
        if measure != "cohen":
            sizes, counts = terms[:, 0], terms[:, 2:]
            raw = float((counts * (counts - 1)).sum() / (sizes * (sizes - 1)).sum())
        if chance < 1 - 1e-12:
            value = float(_beyond(np.asarray(observed), chance))
            clusters = [(questions or {}).get(p, p) for p in table]
            if len(set(clusters)) > 1:
                told, by_chance = spread(terms, of, clusters, [len(by) for by in table.values()])
                low, high = np.clip(_beyond(np.array(interval(told)), by_chance), -1.0, 1.0).tolist()
    return Agreement(
        between=between, measure=measure, value=value, low=low, high=high, observed=raw, pairs=len(table),
        ratings=sum(map(len, table.values())), raters=len({r for by in table.values() for r in by}),
    )  # fmt: skip


def spread(terms: Array, of: Terms, clusters: Sequence[str], sizes: Sequence[int]) -> tuple[Estimate, Array]:
    """The agreement, with the error that the whole coefficient has on its scale by the jackknife over two or more clusters,
    and the chance: with the chance as it is, a coefficient is an agreement on another scale. `sizes`: ratings of each pair.
    Where a coefficient is not defined without some cluster, the agreement alone moves."""
    names, at = np.unique(np.array(clusters), return_inverse=True)
    sums = np.zeros((len(names), terms.shape[1]))
    np.add.at(sums, at, terms)
    total, weight = sums.sum(axis=0), np.bincount(at, sizes)
    (agreed, chance), (left, by_chance) = of(total), of(total - sums)
    moved = np.where(by_chance < 1 - 1e-12, _beyond(left, by_chance) * (1 - chance), left - chance)
    se = math.sqrt((len(names) - 1) / len(names) * float(((moved - moved.mean()) ** 2).sum()))
    known = float((weight**2).sum() ** 2 / (weight**4).sum())
    return Estimate(value=float(agreed), se=se, n=len(terms), clusters=known), chance
