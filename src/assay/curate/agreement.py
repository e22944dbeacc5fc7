"""How far people, LLM judges and reward models agree beyond chance, with intervals over pairs.

Judgements are nominal ratings of pairs. Names of responses differ from pair to pair, so a rating says which of the two
ids, in sorted order, is better: "first" or "second" (ids are hashes, so sides are as good as tossed, and chance
agreement is a half). People who tie or cannot decide agree with each other when both do so: "undecided" is a third
category, unless `undecided="missing"`. Whatever else went wrong (skipped, refused, unparsable, timed out) is missing.

Intervals are 95% percentile bootstraps over *pairs*: all ratings of a pair are drawn together, for they are not independent.
Krippendorff's alpha is computed by the `krippendorff` library; kappas are two lines each, and tests hold them to
scikit-learn and to published examples.

Sources: Cohen (1960) "A Coefficient of Agreement for Nominal Scales"; Fleiss (1971) "Measuring Nominal Scale Agreement Among
Many Raters"; Krippendorff (2011) "Computing Krippendorff's Alpha-Reliability"; Vanbelle and Albert (2009) for groups.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assay.errors import missing_extra
from assay.records import Judgement

Undecided = Literal["category", "missing"]
Measure = Literal["alpha", "fleiss", "cohen"]
_UNDECIDED = frozenset({"tie", "cannot decide"})
_GROUPS: Mapping[str, str] = {"human": "people", "llm": "judges", "offline": "judges", "rm": "reward models"}
_CATEGORIES = 3
RESAMPLES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One coefficient: 1 is perfect, 0 is chance, below 0 is worse than chance.

    `value` is None where it is not defined (no pair rated twice, or only one category ever used); `low` and `high` bound the
    95% interval, None with fewer than two pairs. `observed` is the raw share of agreeing pairs of ratings. `pairs` were
    rated twice or more, with `ratings` ratings of `raters` raters in all.
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


Ratings = dict[str, dict[str, int]]
"""pair id -> rater -> 0 (first), 1 (second) or 2 (undecided)."""


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
    judgements: Iterable[Judgement], *, between: str = "all", undecided: Undecided = "category", seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:  # fmt: skip
    """Krippendorff's alpha of all raters, any of whom may have skipped any pair. Needs the `krippendorff` library."""
    try:
        import krippendorff
    except ImportError as error:
        raise missing_extra("krippendorff", "web") from error
    table = {p: by for p, by in ratings(judgements, undecided).items() if len(by) > 1}
    counts = _counts(table)

    def value(counts: NDArray[np.int64]) -> float:
        used = counts[:, counts.sum(axis=0) > 0]
        if used.shape[1] < 2:  # one category: nobody could disagree
            return float("nan")
        return float(krippendorff.alpha(value_counts=used, level_of_measurement="nominal"))

    draws = (value(counts[rows]) for rows in _resamples(len(counts), seed, resamples))
    return _agreement(between, "alpha", value(counts) if len(counts) else float("nan"), draws, _agreeing(counts), table)


def fleiss(
    judgements: Iterable[Judgement], *, between: str = "all", undecided: Undecided = "category", seed: int = 0,
    resamples: int = RESAMPLES,
) -> Agreement:  # fmt: skip
    """Fleiss' kappa. It needs equally many ratings of each pair: pairs with another number than the most frequent one
    (two or more) are left out, and `pairs` says how many were used."""
    table = {p: by for p, by in ratings(judgements, undecided).items() if len(by) > 1}
    sizes = Counter(len(by) for by in table.values())
    size = max(sizes, key=lambda n: (sizes[n], n), default=0)
    table = {p: by for p, by in table.items() if len(by) == size}
    counts = _counts(table)
    draws = (fleiss_kappa(counts[rows]) for rows in _resamples(len(counts), seed, resamples))
    value = fleiss_kappa(counts) if len(counts) else float("nan")
    return _agreement(between, "fleiss", value, draws, _agreeing(counts), table)


def cohen(
    judgements: Iterable[Judgement], one: str, other: str, *, undecided: Undecided = "category", seed: int = 0
) -> Agreement:
    """Cohen's kappa of the raters named `one` and `other`, over the pairs that both rated."""
    return _pooled(
        ratings(judgements, undecided), f"{one} and {other}", lambda by: by == one, lambda by: by == other, seed
    )


def report(judgements: Iterable[Judgement], *, undecided: Undecided = "category", seed: int = 0) -> list[Agreement]:
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
        found.append(alpha(own, between=f"{name} among themselves", undecided=undecided, seed=seed))
        if name == "people":
            found.append(fleiss(own, between=f"{name} among themselves", undecided=undecided, seed=seed))
    table = ratings(rows, undecided)
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            found.append(_between(table, one, other, group, seed))
    return [a for a in found if a.pairs]


def rater_kappas(
    judgements: Iterable[Judgement], *, undecided: Undecided = "category", seed: int = 0
) -> list[Agreement]:
    """Cohen's kappa of every two raters that share a pair, most shared pairs first."""
    table = ratings(judgements, undecided)
    shared = Counter((a, b) for by in table.values() for a in by for b in by if a < b)
    return [
        _pooled(table, f"{a} and {b}", lambda by, a=a: by == a, lambda by, b=b: by == b, seed)  # type: ignore[misc]
        for (a, b), _ in shared.most_common()
    ]


def fleiss_kappa(counts: NDArray[np.int64]) -> float:
    """Fleiss' kappa of (pairs, categories) counts with equal row sums of two or more; nan where not defined."""
    size = counts[0].sum()
    observed = ((counts * (counts - 1)).sum(axis=1) / (size * (size - 1))).mean()
    return _beyond(float(observed), float(((counts.sum(axis=0) / counts.sum()) ** 2).sum()))


def cohen_kappa(table: NDArray[np.int64]) -> float:
    """Cohen's kappa of a (categories, categories) table of counts; nan where not defined."""
    shares = table / table.sum()
    return _beyond(float(np.trace(shares)), float(shares.sum(axis=0) @ shares.sum(axis=1)))


def _beyond(observed: float, chance: float) -> float:
    return (observed - chance) / (1 - chance) if chance < 1 - 1e-12 else float("nan")


def _between(table: Ratings, one: str, other: str, group: Mapping[str, str], seed: int) -> Agreement:
    return _pooled(table, f"{one} and {other}", lambda by: group[by] == one, lambda by: group[by] == other, seed)


def _pooled(
    table: Ratings, between: str, one: Callable[[str], bool], other: Callable[[str], bool], seed: int
) -> Agreement:
    both = {p: by for p, by in table.items() if any(map(one, by)) and any(map(other, by))}
    crossed = np.zeros((len(both), _CATEGORIES, _CATEGORIES), dtype=np.int64)
    for n, by in enumerate(both.values()):
        for a in filter(one, by):
            for b in filter(other, by):
                crossed[n, by[a], by[b]] += 1
    used = {p: {r: v for r, v in by.items() if one(r) or other(r)} for p, by in both.items()}
    total = crossed.sum(axis=0)
    draws = (cohen_kappa(crossed[rows].sum(axis=0)) for rows in _resamples(len(both), seed, RESAMPLES))
    value = cohen_kappa(total) if len(both) else float("nan")
    return _agreement(between, "cohen", value, draws, float(np.trace(total) / total.sum()) if len(both) else None, used)


def _counts(table: Ratings) -> NDArray[np.int64]:
    """(pairs, categories) numbers of ratings."""
    counts = np.zeros((len(table), _CATEGORIES), dtype=np.int64)
    for n, by in enumerate(table.values()):
        for side in by.values():
            counts[n, side] += 1
    return counts


def _agreeing(counts: NDArray[np.int64]) -> float | None:
    """The share of agreeing pairs of ratings among all pairs of ratings on the same pair."""
    sizes = counts.sum(axis=1)
    possible = (sizes * (sizes - 1)).sum()
    return float((counts * (counts - 1)).sum() / possible) if possible else None


def _resamples(n: int, seed: int, times: int) -> Iterable[NDArray[np.int64]]:
    """`times` draws of n of n rows with replacement; none where one row tells nothing about the spread."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, n, n) for _ in range(times if n > 1 else 0))


def _agreement(
    between: str, measure: Measure, value: float, draws: Iterable[float], observed: float | None, table: Ratings
) -> Agreement:
    known = np.array([d for d in draws if d == d])
    low, high = (float(q) for q in np.quantile(known, (0.025, 0.975))) if len(known) else (None, None)
    return Agreement(
        between=between, measure=measure, value=None if value != value else value, low=low, high=high, observed=observed,
        pairs=len(table), ratings=sum(map(len, table.values())), raters=len({r for by in table.values() for r in by}),
    )  # fmt: skip
