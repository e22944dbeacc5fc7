"""Are two formulas the same? What holds them together is compared here: lists, sets, tuples, intervals, matrices, equations,
units, words; numbers are worked out exactly; only what is left, single expressions with letters, goes to math-verify."""

import math
import re
from functools import lru_cache

from assay.bench.policy.arithmetic import agree, approximate, read_whole, tokens_of
from assay.bench.policy.beside import words_of
from assay.bench.policy.characters import written
from assay.bench.policy.equivalent import equivalent
from assay.bench.policy.intervals import differently_named
from assay.bench.policy.quantities import Quantity, named, quantity
from assay.bench.policy.texts import same_text
from assay.bench.policy.words import unit_of

LONGEST = 400
"""Characters of an answer that are compared as mathematics; a longer one is wrong, but for the very same text."""
MOST = 24
"""Parts of a list that are compared."""
_OPEN, _CLOSE = "([{", ")]}"
_EMPTY = re.compile(
    r"(?:there (?:is|are) )?no (?:real )?solutions?|none|empty set|无解|\\(?:emptyset|varnothing)|\\\{ ?\\\}", re.I
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z' .,-]*")
_SHORT_WORDS = words_of("yes no odd on all red one two six ten sun mon tue wed thu fri sat")
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|array)\}.*\\end\{\1\}", re.S)


@lru_cache(100_000)
def same_formula(given: str, right: str) -> bool:
    """Are these two the same in mathematics? What cannot be read, or takes too long, is not. Never raises but where
    math-verify is missing."""
    if squeezed(given) == squeezed(right) or max(len(given), len(right)) > LONGEST:
        return squeezed(given) == squeezed(right)
    one, other = (_OPTION.match(written(x)) for x in (given, right))
    if one and other and bool(one[2]) != bool(other[2]):
        return one[1] == other[1]
    if (based := _BASE.fullmatch(written(right))) and squeezed(given) == based[1]:
        return True
    texted = any(_TEXTED.fullmatch(x) for x in (given, right))
    return _same(_tidy(given), _tidy(right), texted)


def squeezed(text: str) -> str:
    """A formula without white space, and without what only sets its looks."""
    return "".join(written(text).split())


def _tidy(text: str) -> str:
    text = written(_ALL_REAL.sub(r"(-\\infty,\\infty)", re.sub(r"^[\s$]*=(?!=)", "", text)))
    for pattern, plainly in _PLAINLY:
        text = pattern.sub(plainly, text)
    return _BASE.sub(lambda m: _based(m[1], m[2]), text).strip()


_OPTION = re.compile(r"\(?([A-E])(?:\)\s*(.*\w.*)|\W*$)", re.S)
"""An option of a competition: (C), or (C) 12."""
_BASE = re.compile(r"^\(?(\d+)\)?\s*_\s*\{?\s*(\d{1,2})\s*\}?$")


def _based(digits: str, base: str) -> str:
    """1011_2 as 11; as it is where it is written in no such base."""
    try:
        return str(int(digits, int(base)))
    except ValueError:
        return f"{digits}_{base}"


_ALL_REAL = re.compile(r"\\mathbb\s*\{?\s*R\s*\}?(?![\^A-Za-z])|ℝ|\ball (?:the )?real(?: number)?s\b", re.I)
_PLAINLY = (
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\([lg]e)(?:q|qslant)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"(?<![\\A-Za-z])infinity(?![A-Za-z])", re.I), r"\\infty"),
    (re.compile(r"(?<![\\A-Za-z])(arc(?:sin|cos|tan)|sin|cos|tan|log|ln|exp|sqrt|pi|infty)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"\\pmod\s+(\w+)"), r"\\pmod{\1}"),
    (re.compile(r"^\([A-E]\)\s+(?=\S)"), ""),
    (re.compile("且"), " and "),
    (re.compile("或"), " or "),
    (re.compile(r"^\{([^{}]*,[^{}]*)\}$"), r"\\{\1\\}"),
    (re.compile(r"^([A-Za-z])\s*\^\s*\{\s*-1\s*\}\s*\(\s*([a-z])\s*\)\s*="), r"\1(\2)="),
    (re.compile(r"^[(\[]\s*(\\begin\{array\}.*\\end\{array\})\s*[)\]]$", re.S), r"\1"),
    (re.compile(r"^\(([A-Za-z]),\s*([A-Za-z])\)\s*=\s*\(([^(),]+),([^(),]+)\)$"), r"\1=\3, \2=\4"),
    (re.compile(r"^[A-Za-z]\s*\\in(?![A-Za-z])\s*(?=[(\[\\])"), ""),
    (
        re.compile(
            r"^(?:the |all )?(?:(?:final|possible|integer|real|required|ordered|complex) )*"
            r"(?:answer|solution|value|root|zero|point|pair|triple|tuple)s?\s*(?:is|are|:)\s*",
            re.I,
        ),
        "",
    ),
    (
        re.compile(r"[,\s]*(?:for (?:all|every|any)|\\forall)(?: real)? ?[a-z](?: ?\\in ?\(-\\infty,\\infty\))?$"),
        "",
    ),
)
"""What is read as another way to write the same."""
_TEXTED = re.compile(r"\s*\$*\s*\\(?:text|textbf|mathrm|mbox)\s*\{[^{}]*\}\s*\$*\s*\.?\s*")
"""What is set as a text, all of it."""


def _same(given: str, right: str, texted: bool = False) -> bool:
    one, other = "".join(given.split()), "".join(right.split())
    if one == other:
        return bool(one)
    if (words := _in_words(given, right, texted)) is not None:
        return words
    if differently_named(given, right) and equivalent(given, right):
        return True
    if any(bounds := [_BOUND.match(x) for x in (given, right)]):
        first, second = bounds
        return bool(first and second and first[1] == second[1] and _same(given[first.end() :], right[second.end() :]))
    if re.fullmatch(r"[\d.]+\s*:\s*[\d.]+", right):
        given = re.sub(r"(?<=\d) to (?=\d)", ":", given)
    sides = _sides(given), _sides(right)
    for ours, theirs in (sides, sides[::-1]):
        if len(ours) == 2 and len(theirs) == 1 and _is_name(ours[0]) and _braced(ours[1]) and _braced(theirs[0]):
            return _as_lists(ours[1], theirs[0])
    if len(sides[0]) > 1 or len(sides[1]) > 1:
        if _items(given)[1:] or _items(right)[1:]:
            return _as_lists(given, right)
        return _equations(sides[0], sides[1])
    one_, other_ = quantity(given, formula=True), quantity(right, formula=True)
    if one_ is not None and other_ is not None:
        return one_.equals(other_) or _turned(one_, other_, right) or _turned(other_, one_, given)
    if (held := _held(given, right)) is not None:
        return held
    values = [read_whole(tokens_of(x, comma=False)) for x in (given, right)]
    if values[0] is not None and values[1] is not None:
        return agree(values[0].value, values[1].value)
    return _expressions(given, right)


def _turned(degrees: Quantity, radians: Quantity, said: str) -> bool:
    """Whether an angle in degrees is the one that is written as a part of pi."""
    if not degrees.unit or degrees.unit[0] != "angle" or radians.unit or r"\pi" not in said:
        return False
    return agree(approximate(radians.value) * 180 / math.pi, approximate(degrees.value))


_BOUND = re.compile(r"[\s$]*([<>]=?|!=|\\(?:le|ge|lt|gt|neq?)(?![A-Za-z])|\\approx(?=\s*-?\d+\s*$))")
"""How a bound begins that names nothing: "< 17" is not 17."""


def _in_words(given: str, right: str, texted: bool) -> bool | None:
    """Whether two answers are the same words; None where they are formulas."""
    empty = [bool(_EMPTY.fullmatch(re.sub(r"\s+", " ", x).strip(" ."))) for x in (given, right)]
    if any(empty):
        return all(empty)
    words = [x for x in (given, right) if _WORDS.fullmatch(x)]
    long = any(
        texted or re.search("[A-Za-z]{4}", x) or _SHORT_WORDS & {*re.findall("[a-z]+", x.lower())} for x in words
    )
    return same_text(given, right) if long else None


def _sides(text: str) -> list[str]:
    """The sides of "=" at the top level."""
    return _cut(text, re.compile(r"(?<![<>!:=])=(?!=)|\\equiv(?![A-Za-z])"))


def _cut(text: str, mark: re.Pattern[str]) -> list[str]:
    """`text` cut at marks that stand in no bracket; intervals may be half open, so any bracket closes any."""
    parts, depth, start, at = list[str](), 0, 0, 0
    while at < len(text):
        if depth == 0 and (found := mark.match(text, at)):
            parts.append(text[start:at])
            start = at = max(found.end(), at + 1)
            continue
        depth += text.startswith("\\begin{", at) - text.startswith("\\end{", at)
        depth += (text[at] in _OPEN) - (text[at] in _CLOSE)
        at += 1
    return [p.strip() for p in (*parts, text[start:])]


def _equations(given: list[str], right: list[str]) -> bool:
    """Two statements with "=": the same name and value; or one of them without the name."""
    one, other = _reduced(given), _reduced(right)
    if one is None or other is None:
        return False
    if len(one) == 1 or len(other) == 1:
        if any(len(x) == 2 and not _is_name(x[0]) and not _SUM.fullmatch(x[0]) for x in (one, other)):
            return False
        return _same(one[-1], other[-1])
    if _is_name(one[0]) and _is_name(other[0]):
        if "".join(one[0].split()) == "".join(other[0].split()):
            return _same(one[1], other[1])
        if all(read_whole(tokens_of(x[1], comma=False)) is not None for x in (one, other)):
            return False
    return _expressions("=".join(one), "=".join(other))


_SUM = re.compile(r"\s*[A-Za-z](?:\([^()]*\))?(?:\s*\+\s*[A-Za-z](?:\([^()]*\))?)+\s*")
"""What a competition asks for, and answers are told with: m + n = 37, f(1) + f(2) = 37."""


def _reduced(sides: list[str]) -> list[str] | None:
    """[value] or [name, value] or both sides of a relation; None for a chain whose sides are not the same."""
    if len(sides) == 2 and not _is_name(sides[0]) and _is_name(sides[1]):
        sides = sides[::-1]
    if len(sides) == 2 and not all(read_whole(tokens_of(x, comma=False)) is not None for x in sides):
        return sides
    *before, last = sides
    if not all(_is_name(x) or _same(x, last) for x in before):
        return None
    return [before[0], last] if before and _is_name(before[0]) else [last]


def _is_name(text: str) -> bool:
    return bool(text) and named(tokens_of(text.strip("| "), comma=False))


def _held(given: str, right: str) -> bool | None:
    """The comparison of two lists, sets, tuples, intervals, unions or matrices; None where neither is one."""
    if _MATRIX.fullmatch(given) and _MATRIX.fullmatch(right):
        return bool(equivalent(given, right))
    unions = _cut(given, _CUP), _cut(right, _CUP)
    if len(unions[0]) > 1 or len(unions[1]) > 1:
        return _matched(unions[0], unions[1])
    given, right = (x[2:-2].strip() if _braced(x) and _bracketed(x[2:-2].strip()) else x for x in (given, right))
    one, other = _bracketed(given), _bracketed(right)
    if one and other:
        return (one[0], one[2], len(one[1])) == (other[0], other[2], len(other[1])) and all(
            map(_same, one[1], other[1])
        )
    if len(_items(given)) > 1 or len(_items(right)) > 1 or _braced(given) or _braced(right):
        return _as_lists(given, right)
    return False if one or other else None


_CUP = re.compile(r"\\cup(?![A-Za-z])")
_COMMA = re.compile(r"[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_COMMA_SPACED = re.compile(r"[,;](?!\d{3}(?!\d))|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")


def _bracketed(text: str) -> tuple[str, list[str], str] | None:
    """(bracket, parts, bracket) of a tuple or an interval that is the whole text."""
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]":
        return None
    parts = _cut(text[1:-1], re.compile(r"[,;]"))
    depth = 0
    for character in text[1:-1]:
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth < 0:
            return None
    return (text[0], parts, text[-1]) if len(parts) > 1 else None


def _braced(text: str) -> bool:
    return text.startswith(r"\{") and text.endswith(r"\}")


def _items(text: str) -> list[str]:
    """The members of a set or a list; a plus-minus sign makes two."""
    inside = text[2:-2] if _braced(text) else text
    parts = _cut(inside, _COMMA_SPACED if re.search(r",\s", inside) else _COMMA)
    signed = (dict.fromkeys(_PLUS_MINUS.sub(f" {sign} ", part) for sign in "+-") for part in filter(None, parts))
    members = [x.strip().removeprefix("+").strip() for pair in signed for x in pair]
    return list(dict.fromkeys(members)) if _braced(text) else members


_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")


def _as_lists(given: str, right: str) -> bool:
    """Two lists or sets in any order; assignments may stand for a tuple, or without their names where the other has none."""
    one, other = _bracketed(given), _bracketed(right)
    if bool(one) == bool(other):
        return _matched(_items(given), _items(right))
    values = [_sides(x) for x in _items(right if one else given)]
    if {v[0] for v in values} <= set("xyz"):
        values.sort()
    _, parts, _ = one or other or ("", [], "")
    named_all = len(values) == len(parts) and all(len(v) == 2 and _is_name(v[0]) for v in values)
    return named_all and all(_same(v[1], b) for v, b in zip(values, parts, strict=True))


def _matched(given: list[str], right: list[str]) -> bool:
    """Whether each part of one is a part of the other, in any order."""
    if len(given) != len(right) or len(right) > MOST:
        return sorted("".join(x.split()) for x in given) == sorted("".join(x.split()) for x in right)
    shared = _shared_name(given, right)
    given, right = ([_sides(x)[-1] for x in part] if shared else part for part in (given, right))
    left = list(right)
    for part in given:
        if (found := next((x for x in left if _same(part, x)), None)) is None:
            return False
        left.remove(found)
    return True


def _shared_name(given: list[str], right: list[str]) -> bool:
    """Whether all equations among the parts are of one and the same name ("x = 1 or 2", "x = 1, x = 2"); on one of the two
    sides it may be numbered (x_1 = 1, x_2 = 2)."""
    sides = [[_sides(x) for x in part] for part in (given, right)]
    names = [{"".join(s[0].split()) for s in part if len(s) > 1} for part in sides]
    bare = {re.sub(r"_\{?\d+\}?$", "", n) for n in names[0] | names[1]}
    fine = all(len(s) < 3 and (len(s) < 2 or _is_name(s[0])) for part in sides for s in part)
    return fine and len(bare) == 1 and any(part <= bare for part in names)


_LOOSE = re.compile(
    r"\\(?:to|lor|land|mid|text|overset|stackrel|def|color|[lc]?dots|sim|bmod|pmod)(?![A-Za-z])|\\#|\\\\|(?<![A-Za-z])or(?![A-Za-z])"
)
"""What math-verify would leave out of what it reads."""


_UNIT = re.compile(r"(.+?)\s+(?:(?:square|sq|cubic)\.?\s+)?(units?|[A-Za-z]{2,})(?:\s*\^\s*\{?\s*[23]\s*\}?)?", re.S)


def _bare(text: str) -> str:
    """An expression without the unit behind it."""
    found = _UNIT.fullmatch(text)
    return found[1] if found and (found[2].startswith("unit") or unit_of(found[2])) else text


_ROUNDED = re.compile(r"(?<=\S)\s*\\approx\s*-?\d*\.\d+$")
"""A formula told again as a rounded number."""
_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc))\s*\(?\s*(\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*\)?")
"""A function of an angle in degrees."""


def _expressions(given: str, right: str) -> bool:
    """By math-verify, where it would not take a letter for a unit, or read a part alone."""
    given, right = (_ROUNDED.sub("", x) for x in (given, right))
    if (_bare(given) == given) != (_bare(right) == right):
        given, right = _bare(given), _bare(right)
    if quantity(right, formula=True) is not None and not re.search(r"[A-Za-z|]", given):
        return False  # nothing but digits and marks, and yet no number: "3^-", "3:1", "3..."
    given, right = (_DEGREES.sub(r"\1(\\frac{\2\\pi}{180})", x) for x in (given, right))
    letters = [bool(re.search(r"[A-DF-HJ-Za-df-hj-z]", re.sub(r"\\[A-Za-z]+", " ", x))) for x in (given, right)]
    if _LOOSE.search(given) or _LOOSE.search(right) or letters[0] != letters[1]:
        return False
    return bool(equivalent(given, right))
