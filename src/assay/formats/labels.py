"""Scores and labels as people write them: 0/1, 1/2, "A", "a>b", "model_b", "tie"; and what numbers can mean over a file."""

import math
import re
from collections import Counter

from assay.formats.rows import Row, RowError

_NUMBER = re.compile(r"\s*[-+]?\d+(\.\d+)?\s*")
_BETTER = re.compile(
    r"(.+?)(?:\s+(?:is|are|was|were))?(?:\s+(?:much|far|significantly|clearly|slightly|somewhat|marginally|a bit|a little))?"
    r"\s+better"
)
"""What annotators choose from: "A is slightly better", "Response 2 is much better", "Neither is better"."""
_COMPARED = re.compile(r"([ab])\s*(>+|<+|=+)\s*([ab])")
_TIES = frozenset({
    "tie", "equal", "draw", "same", "both", "neither", "a=b", "both_bad", "bothbad", "both bad", "both good", "none", "c",
})  # fmt: skip

_SIDES = tuple(
    frozenset({letter, first, f"a{ordinal}", hand}) | {
        f"{stem}{gap}{mark}" for stem in ("model", "response", "answer", "output", "assistant")
        for gap in ("", "_", " ", "-") for mark in (letter, ordinal)
    } for letter, ordinal, first, hand in (("a", "1", "first", "left"), ("b", "2", "second", "right"))
)  # fmt: skip
"""The words for the first and for the second response."""

LabelCode = tuple[float, ...]
"""The numbers that stand for the first and the second response, and a third for a tie where it has one."""


def number(value: object, field: str) -> float:
    """A finite score; numbers written as text are read."""
    if value is None or isinstance(value, bool):
        raise RowError(field, "is missing" if value is None else "is true/false, not a number")
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise RowError(field, f"is not a number ({str(value)[:40]!r})") from None
    if not math.isfinite(result):
        raise RowError(field, f"is not a finite number ({result})")
    return result


def verdict(value: object, field: str, row: Row, names: tuple[str, str], code: LabelCode | None) -> int | None:
    """The side that a label names: 0 for the first response, 1 for the second, None for a tie."""
    if value is None or value == "":
        raise RowError(field, "is missing")
    asked = numeric(value)
    if asked is not None:
        return _numbered(asked, field, code)
    if not isinstance(value, str):
        raise RowError(field, f"is not a label ({type(value).__name__})")
    word = value.strip(" \t\r\n[]\"'").lower()
    word = said[1] if (said := _BETTER.fullmatch(word)) else word
    if word in _TIES or word.startswith("tie"):
        return None
    sides = _COMPARED.fullmatch(word)
    if sides and sides[1] != sides[3]:
        if sides[2][0] == "=":
            return None
        return "ab".index(sides[1] if sides[2][0] == ">" else sides[3])
    texts = [row.get(name) for name in names]
    named = [
        side for side, letter in enumerate("ab")
        if word in _SIDES[side]
        or word == names[side].lower()
        or ((model := row.get(f"model_{letter}")) and value == model)
        or texts[side] == value != texts[1 - side]
    ]  # fmt: skip
    if len(named) == 2:  # two answers "A" and "B" to a question with choices, say
        raise RowError(field, f"names one response and is the text of the other, or its model ({value[:40]!r})")
    if named:
        return named[0]
    raise RowError(field, f"is not a known label ({value[:40]!r})")


def numeric(value: object) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str) and not value[:1].isalpha() and _NUMBER.fullmatch(value):
        return float(value.strip())  # which takes off more than `float` does
    return None


def _numbered(value: float, field: str, code: LabelCode | None) -> int | None:
    if not math.isfinite(value):
        raise RowError(field, f"is not a finite number ({value})")
    if code is None:
        raise RowError(
            field, "is a number that can be read in two ways: name the layout as labelled:0/1, :1/2, :-1/1 or :1/0"
        )
    first, second, *tie = code
    if value in tie or (not tie and value == (first + second) / 2):
        return None
    if value in (first, second):
        return 0 if value == first else 1
    if not tie and sorted((first, second)) in ([0, 1], [1, 2]) and value == (0 if min(first, second) == 1 else 2):
        return None
    if min(first, second) < value < max(first, second) and value != (first + second) / 2:
        return 0 if abs(value - first) < abs(value - second) else 1
    raise RowError(field, f"is outside the label code {spelled(code)} ({value:g})")


def graded(value: object, code: LabelCode | None) -> tuple[float, float]:
    """(confidence, strength) of a number label that is not a tie.

    On a scale of one unit (0 to 1, 1 to 2) a part of it is the share that was for the better response; on a wider scale the
    distance from its middle says by how much it is better.
    """
    asked = numeric(value)
    if asked is None or code is None:
        return 1.0, 0.0
    first, second = code[:2]
    if abs(first - second) == 1 and min(first, second) <= asked <= max(first, second):
        return max(abs(asked - first), abs(asked - second)), 0.0
    return 1.0, abs(asked - (first + second) / 2) if abs(first - second) > 2 else 0.0


def spelled(code: LabelCode) -> str:
    return "/".join(f"{c:g}" for c in code)


def label_codes(seen: Counter[float], fields: tuple[str, str] | None) -> list[LabelCode]:
    """The codes that the number labels of a whole file can be in: one where nothing else fits.

    Only the fields' own numbers decide: {0, 1} beside x_0 and x_1, and 1 to 2 with both ends beside x1 and x2. All else, as
    0 and 1 beside x_a and x_b, is in use both ways. Empty where the numbers are in no usual code.
    """
    total = seen.total()
    usual = {v for v in seen if math.isfinite(v) and abs(v) <= 10}
    kept = {v for v in usual if v in (-1, 0, 1, 2) or seen[v] * 100 >= total}  # others are mistakes of single rows
    if not kept:
        return []
    ends = (fields[0][-1], fields[1][-1]) if fields else ("", "")
    low, high, whole = min(kept), max(kept), all(v == int(v) for v in kept)
    if ends == ("0", "1") and kept <= {0, 1}:
        return [(0, 1)]
    if ends == ("1", "2") and low == 1 and high == 2:
        return [(1, 2)]
    if not whole:
        span = next(((a, b) for a, b in ((0, 1), (1, 2)) if a <= low and high <= b), None)
        return [span, (span[1], span[0])] if span else _scales(low, high)
    if kept <= {0, 1}:
        return [(0, 1), (1, 0), *([(1, 2)] if ends == ("1", "2") or kept == {1} else [])]
    if kept <= {0, 1, 2}:
        return [(0, 1, 2), (1, 2, 0), *([(1, 0, 2)] if 0 in kept else [])]
    if kept <= {-1, 0, 1}:
        return [(-1, 1), (1, -1), *([(0, 1, -1), (1, 0, -1)] if 0 in kept or 1 in kept else [])]
    if kept <= {-1, 0, 1, 2}:
        return [(0, 1, 2), (1, 2, 0), (0, 1, -1), (1, 2, -1)]
    return _scales(low, high)


def _scales(low: float, high: float) -> list[LabelCode]:
    """A scale from one response to the other, either way round; around 0 where there are negative numbers."""
    end = math.ceil(max(abs(low), abs(high)))
    start = -end if low < 0 else 1 if low >= 1 else 0
    return [(start, end), (end, start)]
