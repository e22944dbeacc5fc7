"""The order of the queue: objective and uncontroversial pairs first (A2, D.2), then what a reward model is unsure of."""

from collections.abc import Mapping, Sequence
from itertools import count

from assay.records import Case

_LEVELS = {"low": 0, "medium": 1, "high": 2}


def places(cases: Sequence[Case], margins: Mapping[str, float] | None = None) -> dict[str, float]:
    """A number for each pair id; lower is shown earlier.

    Tiers are objective before subjective, then low before high controversiality. Within a tier categories take turns,
    so that an early stop has seen all of them, and within a category the pair with the lowest margin comes first.
    `margins` are a reward model's scores for the source's choice minus the other: negative where it contradicts the
    source, near zero where it is unsure; pairs without one come after those with one.
    """
    known = margins or {}
    ranked = sorted(range(len(cases)), key=lambda n: (known.get(cases[n].pair.id, float("inf")), n))
    turns: dict[tuple[bool, int, str], count[int]] = {}
    keys = []
    for n in ranked:
        a = cases[n].attributes
        tier = (a.objectivity != "objective", _LEVELS.get(a.controversiality, 3))
        turn = next(turns.setdefault((*tier, a.category), count()))
        keys.append((*tier, turn, a.category, n))
    return {cases[key[-1]].pair.id: float(place) for place, key in enumerate(sorted(keys))}
