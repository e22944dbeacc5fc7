"""How each annotator works: speed, traps, sides, and what a lead should look at.

"No label wholly by LLM" cannot be proved from a log; what can be done is to record enough that copying shows. A flag is a
reason to talk with somebody, never a verdict: each says which numbers raised it. Thresholds are ours; the tests of sides and
machines are exact binomials. Honest simulated annotators are flagged in less than 3 of 100 cases (see the tests).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from assay.figures import counted
from assay.records import Judgement
from assay.statistics import binomial_tail, clopper_pearson

READABLE_WORDS_PER_SECOND = 12.0
"""Three times the mean silent reading speed of English, 238 words a minute (Brysbaert 2019): faster was not read."""
TRAP_ACCURACY = 0.7
FEW = 10
"""Below this number of judgements nothing but traps is flagged."""
_ALPHA = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One judgement as the page recorded it.

    `words` were on the screen (conversation and both responses); `panels` are the tools that were opened ("search",
    "assistant", "python", "verdicts", "difference"); `hint` is the response that a machine's verdict preferred, None where
    none was shown; `right` is the known answer of a trap, None for other pairs.
    """

    judgement: Judgement
    words: int
    panels: tuple[str, ...] = ()
    hint: str | None = None
    right: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotator:
    """What one person's work comes to. Shares are None without a case to take them of.

    `seconds` is the median per judgement, `first` the share of decisions for the response shown first, `followed` the
    share of decisions that agree with a machine's verdict that was on the screen.
    """

    name: str
    judged: int
    undecided: int
    seconds: float
    traps: int
    trap_accuracy: float | None
    trap_interval: tuple[float, float] | None
    first: float | None
    followed: float | None
    with_rationale: float
    panels: dict[str, int]
    flags: tuple[str, ...]
    words: Mapping[str, str]
    """`first`, `followed`, `reason` (with_rationale) and `traps` (trap_accuracy) with their intervals and n, for people."""


def annotators(works: Iterable[Work]) -> list[Annotator]:
    """One row per annotator, flagged ones first, then by number of judgements."""
    by: dict[str, list[Work]] = {}
    for work in works:
        by.setdefault(work.judgement.by, []).append(work)
    rows = [_annotator(name, own) for name, own in by.items()]
    return sorted(rows, key=lambda a: (-len(a.flags), -a.judged, a.name))


def _annotator(name: str, works: Sequence[Work]) -> Annotator:
    decided = [w for w in works if w.judgement.better]
    first = [w.judgement.better == w.judgement.shown[0] for w in decided if w.judgement.shown]
    followed = [w.judgement.better == w.hint for w in decided if w.hint]
    traps = [w.judgement.better == w.right for w in works if w.right]
    reasons = [bool(w.judgement.rationale) for w in works]
    shown = {"first": first, "followed": followed, "reason": reasons, "traps": traps}
    low, high = _bounds(traps)
    return Annotator(
        name=name, judged=len(works), undecided=len(works) - len(decided),
        seconds=median([w.judgement.seconds for w in works]), traps=len(traps), trap_accuracy=_share(traps),
        trap_interval=(low, high) if traps else None, first=_share(first),
        followed=_share(followed), with_rationale=_share(reasons) or 0.0,
        words={name: counted(sum(x), len(x), " %") for name, x in shown.items()},
        panels=dict(Counter(p for w in works for p in w.panels)), flags=tuple(_flags(works, first, followed, traps)),
    )  # fmt: skip


def _flags(works: Sequence[Work], first: list[bool], followed: list[bool], traps: list[bool]) -> Iterable[str]:
    """Each flag is a sentence with its numbers."""
    if traps and _bounds(traps)[1] < TRAP_ACCURACY:
        yield f"missed {len(traps) - sum(traps)} of {len(traps)} traps"
    if len(works) < FEW:
        return
    unread = [w for w in works if w.words > READABLE_WORDS_PER_SECOND * max(w.judgement.seconds, 0.1)]
    if len(unread) > 0.2 * len(works):
        yield f"answered {len(unread)} of {len(works)} pairs faster than they can be read"
    chosen = max(sum(first), len(first) - sum(first))
    if first and 2 * binomial_tail(chosen, len(first), 0.5) < _ALPHA:
        side = "first" if sum(first) > len(first) / 2 else "second"
        yield f"chose the {side} response in {chosen} of {len(first)} decisions"
    # People who see a good verdict agree with it often. More than nine in ten, beyond chance, and without a word of their
    # own on most of these pairs, is what copying looks like.
    hinted = [w for w in works if w.hint and w.judgement.better]
    silent = sum(not w.judgement.rationale for w in hinted)
    if followed and binomial_tail(sum(followed), len(followed), 0.9) < 0.05 and silent > 0.5 * len(hinted):
        yield f"agreed with the machine in {sum(followed)} of {len(followed)} decisions, {silent} without a reason"


def _bounds(traps: Sequence[bool]) -> tuple[float, float]:
    """The exact 95% interval of the accuracy on traps, which are independent pairs."""
    low, high = clopper_pearson(_share(traps) or 0.0, len(traps))
    return float(low), float(high)


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
