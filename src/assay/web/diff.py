"""What two answers do not share, word by word: `del` in the one, `ins` in the other, readable without colour."""

import re
from difflib import SequenceMatcher

from markupsafe import Markup, escape

from assay.web.text import reveal

MAX_WORDS = 4_000
"""Pairs with more words are compared line by line, for the comparison may need a time that grows with their product."""
MAX_LINES = 4_000

_WORD = re.compile(r"\s+|[^\W\d_]+|\d+|.", re.DOTALL)
_MARK = Markup('<{0} class="changed">{1}</{0}>')


def difference(one: str, other: str) -> tuple[Markup, Markup]:
    """Both texts as escaped HTML with `<del>` around words of `one` that `other` lacks, and `<ins>` the other way round.

    White space is kept (show it in a `pre` or with `white-space: pre-wrap`). A text beyond 4,000 lines is marked as one
    piece. `<del>` and `<ins>` tell assistive technology; the style sheet should strike and underline as well as colour.
    """
    one, other = reveal(one), reveal(other)
    left, right = _WORD.findall(one), _WORD.findall(other)
    if max(len(left), len(right)) > MAX_WORDS:
        left, right = one.splitlines(keepends=True), other.splitlines(keepends=True)
    if max(len(left), len(right)) > MAX_LINES:
        return (escape(one), escape(other)) if one == other else (_mark("del", one), _mark("ins", other))
    steps = SequenceMatcher(None, left, right, autojunk=max(len(left), len(right)) > 500).get_opcodes()
    return _side("del", left, [(a, b, same == "equal") for same, a, b, _, _ in steps]), _side(
        "ins", right, [(a, b, same == "equal") for same, _, _, a, b in steps]
    )


def _side(element: str, words: list[str], spans: list[tuple[int, int, bool]]) -> Markup:
    """Spans in order; changes that only white space parts are joined, so that a changed sentence is one mark."""
    joined: list[tuple[str, bool]] = []
    for start, end, same in spans:
        piece = "".join(words[start:end])
        if not piece:
            continue
        if not same and len(joined) >= 2 and joined[-1][1] and joined[-1][0].isspace() and not joined[-2][1]:
            gap, _ = joined.pop()
            joined[-1] = (joined[-1][0] + gap + piece, False)
        else:
            joined.append((piece, same))
    return Markup("").join(escape(piece) if same else _mark(element, piece) for piece, same in joined)


def _mark(element: str, text: str) -> Markup:
    return _MARK.format(Markup(element), text) if text else Markup("")
