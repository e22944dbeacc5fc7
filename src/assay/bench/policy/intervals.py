"""Sets of real numbers, however they are named: 2 <= x < 5 and [2,5), "x < 3 or x > 5" and a union, |x| > 1, x != 0,
{x : x > 2}, ]2,5[, and what is without some points. Which formulas name one is told here; sympy works them out."""

import re
from typing import Any

from assay.bench.policy.words import unit_of

_SIGN = re.compile(r"[<>]|!=|\\(?:[lg]eq?|[lg]t|neq?)(?![A-Za-z])")
_INTERVAL = re.compile(r"\s*[(\[][^<>=]*,[^<>=]*[)\]]\s*")
_OUTWARD = re.compile(r"(?:^|(?<=\\cup))\s*(?:\]([^][()]*)([\[\])])|([(\[])([^][()]*)\[)\s*(?=$|\\cup)")
_WITHOUT = re.compile(r"(?<=[)\]])\s*(?:\\setminus(?![A-Za-z])|\\backslash(?![A-Za-z])|\\|-)\s*(?=\\\{)")
_BUILDER = re.compile(
    r"\\?\{\s*[A-Za-z]\s*(?:\\in\s*(?:R|\(-\\infty,\\infty\)))?\s*(?:\||\\mid(?![A-Za-z])|:)\s*(.*?)\s*\\?\}", re.S
)
_UNITS = re.compile(r"[$€£%]|(?<=\d)\s*([A-Za-z]+)(?:\s*\^\s*\{?[23]\}?)?")
_OR = re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])|\\lor(?![A-Za-z])")
_AND = re.compile(r"(?<![A-Za-z\\])and(?![A-Za-z])|\\land(?![A-Za-z])")


def differently_named(given: str, right: str) -> bool:
    """Whether both name sets of numbers, each in a way of its own: an interval, a condition, or one of the odder ways."""
    ways = _way(given), _way(right)
    return all(ways) and (ways[0] != ways[1] or ways[0] == "odd")


def _way(text: str) -> str:
    if _WITHOUT.search(text) or _BUILDER.fullmatch(text) or _OUTWARD.search(text):
        return "odd"
    return "interval" if _INTERVAL.fullmatch(text) else "condition" if _SIGN.search(text) else ""


def _facing(match: re.Match[str]) -> str:
    """]2,5[ as (2,5): a bracket that faces outward leaves its end out."""
    outward, close, opening, inside = match.groups()
    return f"({outward}{close.replace('[', ')')}" if close else f"{opening}{inside})"


def real_set(text: str) -> Any:
    """The set by sympy; None where the text names none, or conditions on more than one letter."""
    import math_verify
    import sympy

    def parsed(part: str) -> Any:
        said: Any = next(iter(math_verify.parse(f"${part}$", parsing_timeout=None)), None)
        floats = said.atoms(sympy.Float) if hasattr(said, "atoms") else ()
        return said.xreplace({x: sympy.Rational(str(x)) for x in floats}) if floats else said

    text = _UNITS.sub(lambda m: m[0] if m[1] and not unit_of(m[1], letters=False) else "", text)
    text = built[1] if (built := _BUILDER.fullmatch(text)) else text
    if not _SIGN.search(text):
        return parsed(_WITHOUT.sub(r"\\setminus ", _OUTWARD.sub(_facing, text).replace(";", ",")))
    parts = [[parsed(x) for x in _AND.split(part)] for part in _OR.split(text)]
    names = {n for part in parts for x in part for n in getattr(x, "free_symbols", "no")}
    return sympy.Union(*[sympy.Intersection(*[x.as_set() for x in p]) for p in parts]) if len(names) == 1 else None
