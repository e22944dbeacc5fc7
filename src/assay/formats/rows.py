"""A row of a data set, and why it cannot be used."""

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


class RowError(ValueError):
    """Why a row, or a part of it, cannot become a pair. Details that vary by row stand in brackets at the end."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}" if field else reason)
        self.field, self.reason = field, reason


def has(row: Row, *names: str) -> bool:
    return None not in map(row.get, names)


def encodes(text: str) -> bool:
    """Whether a text has no half of a surrogate pair: many times faster than looking for one by a pattern."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text(value: object, field: str) -> str:
    """`value` if it is a text with something in it."""
    if value is None:
        raise RowError(field, "is missing")
    if not isinstance(value, str):
        raise RowError(field, f"is not text ({type(value).__name__})")
    if not value.strip():
        raise RowError(field, "is empty")
    return value
