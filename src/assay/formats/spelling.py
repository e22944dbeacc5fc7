"""Columns as spreadsheets head them ("Prompt", "Response A", "chosen response"), by the names that the layouts know."""

import re
from functools import lru_cache

from assay.formats.dialogues import MEANING
from assay.formats.lists import INDEX, LISTS, ORDERED, RANKS, SCORE, SCORES
from assay.formats.pictures import COLUMNS
from assay.formats.rated import DESIRED, ONE
from assay.formats.rival_fields import CHOSEN, SAYING, TWO_NAMES
from assay.formats.rows import Row


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


_CHOSEN = dict.fromkeys(name for two in CHOSEN for name in two)
_KNOWN = {
    *_CHOSEN, *TWO_NAMES, *SAYING, *MEANING, *COLUMNS, *LISTS, *SCORE, *SCORES, *RANKS, *ORDERED, *INDEX, *ONE, *DESIRED,
}  # fmt: skip
_BY_BARE = {_bare(name): name for name in sorted(_KNOWN, key=lambda n: (n == _bare(n), n))}
"""The known name of each spelling; of several ("response_a", "response A") the plain one."""


@lru_cache(maxsize=4096)
def respelled(names: tuple[str, ...]) -> dict[str, str]:
    """Known names of the columns that are spelled otherwise; none where a column has that name, or two would get it."""
    bare = [_bare(n) for n in names]
    found = {n: _known(b) for n, b in zip(names, bare, strict=True) if n not in _KNOWN and bare.count(b) == 1}
    return {name: known for name, known in found.items() if known and known not in names}


def _known(bare: str) -> str:
    """The known name, also of a third response or of its score."""
    more = len(bare) > 1 and any(bare[:-1] + end in _BY_BARE for end in "a1")
    return _BY_BARE.get(bare, bare if more else "")


def in_known_names(row: Row, but: frozenset[str] = frozenset()) -> Row:
    """The row with such columns renamed, those in `but` apart."""
    names = {n: known for n, known in respelled(tuple(row)).items() if n not in but}
    return {names.get(k, k): v for k, v in row.items()} if names else row
