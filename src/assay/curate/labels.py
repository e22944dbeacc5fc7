"""Scores and labels as people write them: 0/1, 1/2, "A", "a>b", "model_b", "tie"; and what numbers mean over a file."""

import math
import re
from collections.abc import Sequence

from assay.curate.dialogues import Row, RowError

_TIES = frozenset({"tie", "equal", "draw", "same", "both", "neither", "a=b", "both_bad", "bothbad", "none", "c"})

LabelCode = tuple[float, float]
"""The numbers that stand for the first and the second response."""


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


def higher(ids: tuple[str, str], scores: Sequence[float]) -> str | None:
    return None if scores[0] == scores[1] else ids[0] if scores[0] > scores[1] else ids[1]


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
    if word in _TIES or word.startswith("tie"):
        return None
    sides = re.fullmatch(r"([ab])\s*(>+|<+|=+)\s*([ab])", word)
    if sides and sides[1] != sides[3]:
        if sides[2][0] == "=":
            return None
        return "ab".index(sides[1] if sides[2][0] == ">" else sides[3])
    for side, (letter, ordinal, first) in enumerate((("a", "1", "first"), ("b", "2", "second"))):
        model = row.get(f"model_{letter}")
        stems = {f"{stem}{gap}{mark}" for stem in ("model", "response", "answer", "output", "assistant")
                 for gap in ("", "_", " ") for mark in (letter, ordinal)}  # fmt: skip
        if word in {letter, first, f"a{ordinal}", names[side].lower(), *stems} or (model and value == model):
            return side
    raise RowError(field, f"is not a known label ({value[:40]!r})")


def numeric(value: object) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d+(\.\d+)?\s*", value):
        return float(value)
    return None


def _numbered(value: float, field: str, code: LabelCode | None) -> int | None:
    if not math.isfinite(value):
        raise RowError(field, f"is not a finite number ({value})")
    if code is None and field == "overall_preference":
        code = (-1, 1)  # HelpSteer3 and LFQA: below 0 the first is better
    if code is None:
        raise RowError(
            field, "is a number that can be read in two ways: name the layout as labelled:0/1, :1/2, :-1/1 or :1/0"
        )
    if code[0] == -code[1]:
        return None if value == 0 else 0 if value * code[0] > 0 else 1
    if value in code:
        return code.index(value)
    if value == sum(code) / 2 or value == (0 if min(code) == 1 else 2):
        return None
    raise RowError(field, f"is outside the label code {code[0]:g}/{code[1]:g} ({value:g})")


def label_code(seen: set[float], fields: tuple[str, str] | None) -> LabelCode | None:
    """The code that the numbers of a whole file must be in, or None where they can be read in two ways.

    {0, 1} count from 0 and {1, 2} from 1. With all three, the fields' own numbers decide (response1, response2).
    """
    whole = {v for v in seen if abs(v) <= 3 and v == int(v)}  # others are mistakes of single rows
    ends = (fields[0][-1], fields[1][-1]) if fields else ("", "")
    if whole == {0, 1} or (ends == ("0", "1") and whole and whole <= {0, 1}):
        return (0, 1)
    if 2 in whole and whole <= {1, 2}:
        return (1, 2)
    return (1, 2) if ends == ("1", "2") and whole == {0, 1, 2} else None
