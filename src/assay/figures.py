"""Shares and differences as people read them: never without how many items they are of, nor without an interval.

`NEEDED` is where a share begins to say something; below it the words "too few to say" stand beside the number, whatever it
is.
"""

import math
from typing import Protocol

from assay.statistics import Difference, Estimate, Spread, clopper_pearson, interval

NEEDED = 30
"""Independent items (questions, prompts) from which a share says something: with fewer, even 70 % right is not told from a
coin's 50 (Clopper and Pearson's interval of 21 in 30 is 50.6 to 85.3)."""


def told(share: Estimate | Spread | None, sign: str = " %") -> str:
    """A share in percent with its 95% interval and n: "60.0 % (49.7 to 69.7; n 100)"; "not known" of none."""
    if share is None:
        return "not known"
    if isinstance(share, Spread):
        return in_words(share.mean, share.low, share.high, share.n, share.clusters, sign)
    return in_words(share.value, *interval(share), share.n, share.clusters, sign)


def beside_a_coin(share: Estimate | Spread) -> str:
    """What a share of right choices between two is not: ": not shown to be better than a coin", "" where it is shown."""
    low, high = (share.low, share.high) if isinstance(share, Spread) else interval(share)
    return "" if low > 0.5 else ": worse than a coin" if high < 0.5 else ": not shown to be better than a coin"


def in_words(value: float, low: float, high: float, n: int, clusters: float, sign: str = "") -> str:
    """The same of its parts, as shares of 1; `clusters`: how many independent ones the n items are. Without a sign, for
    tables, in few words."""
    few = f", {FEW}" if clusters < NEEDED - 0.5 else ""
    if few and sign:
        few = f"{f' like {clusters:,.0f} independent ones' if clusters < 0.9 * n else ''}{few}: {NEEDED} needed"
    return f"{100 * value:.1f}{sign} ({100 * low:.1f} to {100 * high:.1f}; n {n:,}{few})"


def counted(hits: int, n: int, sign: str = "") -> str:
    """The share of `n` independent items that `hits` of them are."""
    if not n:
        return "-"
    low, high = (float(x) for x in clopper_pearson(hits / n, n))
    return in_words(hits / n, low, high, n, n, sign)


FEW = "too few to say"
LEGEND = f"{FEW}: of fewer than {NEEDED} independent questions even 70 % right is not told from a coin"
"""What belongs under a table that says so."""


class Apart(Protocol):
    """A difference with its 95% interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def points(found: Apart, n: int) -> str:
    """A difference of shares in points, with its interval and n: "+3.0 (-5.0 to +11.0; n 210)"."""
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f}; n {n:,})"


def verdict(found: Difference, questions: int, than: str, what: str = "pairs") -> str:
    """Whether a paired difference shows that something is better `than` another, in words, with what it rests on.

    "not shown to be better than raw labels: +3.0 points (-5.0 to +11.0), 210 pairs of 190 questions"
    """
    points = f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    rests = f"{found.n:,} {what} of {questions:,} questions"
    if questions < NEEDED:
        return f"{FEW} whether it is better than {than}: {points}, {rests}; at least {NEEDED} questions are needed"
    if found.low > 0:
        return f"shown to be better than {than}: {points}, {rests}"
    if found.high < 0:
        return f"shown to be worse than {than}: {points}, {rests}"
    return f"not shown to be better than {than}: {points}, {rests}{_needed(found)}"


def _needed(found: Difference) -> str:
    """How many items would tell a difference of the size that was found."""
    if found.value <= 0:
        return ""
    more = math.ceil(found.n * ((found.value - found.low) / found.value) ** 2)
    return f"; a difference of this size takes about {float(f'{more:.2g}'):,.0f} to show"
