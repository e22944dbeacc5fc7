"""Inequalities of one letter as the intervals that they name: 2 <= x < 5 is [2,5), "x < 3 or x > 5" a union."""

import re

_SIGN = r"(<=|>=|<|>|\\(?:leq?|geq?|lt|gt)(?![A-Za-z]))"
_VALUE = r"\s*([^<>=,;]+?)\s*"
_NAME = r"\s*([A-Za-z])\s*"
_LEFT = re.compile(rf"{_NAME}{_SIGN}{_VALUE}")
_RIGHT = re.compile(rf"{_VALUE}{_SIGN}{_NAME}")
_BOTH = re.compile(rf"{_VALUE}{_SIGN}{_NAME}{_SIGN}{_VALUE}")
_PLAIN = {r"\le": "<=", r"\leq": "<=", r"\ge": ">=", r"\geq": ">=", r"\lt": "<", r"\gt": ">"}
_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_INTERVAL = re.compile(r"[(\[][^<>=]*,[^<>=]*[)\]]")


def as_intervals(given: str, right: str) -> tuple[str, str]:
    """Both, the one of inequalities as intervals where the other is intervals; both as they are elsewhere."""
    if _INTERVAL.fullmatch(right.strip()) and (found := _intervals(given)):
        return found, right
    if _INTERVAL.fullmatch(given.strip()) and (found := _intervals(right)):
        return given, found
    return given, right


def _intervals(text: str) -> str | None:
    parts = re.split(r"(?<![A-Za-z\\])or(?![A-Za-z])|\\lor(?![A-Za-z])", text)
    found = [_interval(p) for p in parts]
    names = {f[0] for f in found if f}
    return r"\cup".join(f[1] for f in found if f) if all(found) and len(names) == 1 else None


def _interval(text: str) -> tuple[str, str] | None:
    """The letter and the interval of one inequality, or of a lower and an upper one that "and" joins."""
    halves = re.split(r"(?<![A-Za-z\\])and(?![A-Za-z])|\\land(?![A-Za-z])", text)
    if len(halves) == 1 and (both := _BOTH.fullmatch(text)):
        low, one, name, other, high = both.groups()
        halves = [f"{low} {one} {name}", f"{name} {other} {high}"]
    ends = dict[bool, str]()
    names = set[str]()
    for half in halves:
        if (m := _LEFT.fullmatch(half)) and not re.fullmatch(r"[A-Za-z]", m[3]):
            name, sign, value = m[1], _PLAIN.get(m[2], m[2]), m[3]
        elif m := _RIGHT.fullmatch(half):
            name, sign, value = m[3], _TURNED[_PLAIN.get(m[2], m[2])], m[1]
        else:
            return None
        lower = sign[0] == ">"
        if lower in ends:
            return None
        names.add(name)
        ends[lower] = ("[" if lower else "]") if "=" in sign else ("(" if lower else ")")
        ends[lower] = ends[lower] + value if lower else value + ends[lower]
    if len(names) != 1:
        return None
    return names.pop(), ends.get(True, r"(-\infty") + "," + ends.get(False, r"\infty)")
