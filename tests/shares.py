"""Finds shares that a page or a terminal prints without how many items they are of, and without an interval."""

import re
from html.parser import HTMLParser

SHARE = re.compile(r"\d+(?:\.\d+)? ?%")
TOLD = re.compile(r"\d+(?:\.\d+)? ?%? \((?:at least )?-?\d+(?:\.\d+)? ?%? to -?\d+(?:\.\d+)? ?%?; n [\d,]+[^)]*\)")
"""A share as `figures.told` says it."""
EXACT = re.compile(r"(?<![\d.])95 ?%(?= (?:interval|confidence))|even 70 % right is not told from a coin")
"""No share of anything."""
NO_SHARE = ("paper", "interval", "by chance", "share done")
"""Columns of other people's numbers, of intervals beside their share, and of counts."""
_COUNTS = {"n", "of n"}


class _Page(HTMLParser):
    """The tables and the prose of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.prose: list[str] = []
        self._cell: list[str] | None = None
        self._skip = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("style", "script", "pre", "code", "title", "form", "figcaption"):
            self._skip += 1
        if tag == "table":
            self.tables.append([])
        if tag == "tr" and self.tables:
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script", "pre", "code", "title", "form", "figcaption"):
            self._skip -= 1
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        elif not self._skip:
            self.prose.append(data)


def in_prose(text: str) -> list[str]:
    """Shares in sentences that are told without n."""
    left = EXACT.sub("", TOLD.sub("", " ".join(text.split())))
    return [left[max(0, m.start() - 60) : m.end() + 20] for m in SHARE.finditer(left)]


def in_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Cells of columns of shares ("%" or "points" in the header) that have neither an n of their own nor a column of n."""
    beside = any(h.strip().lower() in _COUNTS for h in header)
    found = []
    for at, title in enumerate(header):
        if any(word in title.lower() for word in NO_SHARE) or not re.search(r"%|points", title):
            continue
        for row in rows:
            if at < len(row) and re.search(r"\d", row[at]) and not beside and "; n " not in row[at]:
                found.append(f"{title}: {row[0]}: {row[at]}")
    return found


def naked(page: str) -> tuple[list[str], int]:
    """The shares of an HTML page that lack their n, and how many tables were looked at."""
    told = _Page()
    told.feed(re.sub(r"<svg\b.*?</svg>", "", page, flags=re.DOTALL))  # axes have numbers without n
    found = in_prose(" ".join(told.prose))
    for table in told.tables:
        rows = [row for row in table if row]
        if rows:
            found += in_table(rows[0], rows[1:])
            found += [cell for row in rows[1:] for cell in row if in_prose(cell)]
    return found, len(told.tables)
