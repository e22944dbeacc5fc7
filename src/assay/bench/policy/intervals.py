"""Sets of real numbers as the intervals that they name: 2 <= x < 5 is [2,5), "x < 3 or x > 5" a union, |x| > 1 and x != 0
too, {x : x > 2} what it says of x, ]2,5[ (2,5), and what is without some points the pieces between them."""

import re

from assay.bench.policy.arithmetic import Number, approximate, read_whole, tokens_of

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
    given, right = _plainer(given), _plainer(right)
    if _INTERVAL.fullmatch(right.strip()) and (found := _intervals(given)):
        return found, right
    if _INTERVAL.fullmatch(given.strip()) and (found := _intervals(right)):
        return given, found
    return given, right


_BUILDER = re.compile(
    r"\\?\{\s*([A-Za-z])\s*(?:\\in\s*(?:R|\(-\\infty,\\infty\)))?\s*(?:\||\\mid(?![A-Za-z])|:)\s*(.*?)\s*\\?\}", re.S
)
_OUTWARD = re.compile(r"(?:^|(?<=\\cup))\s*([(\[\]])([^()\[\]{},;]+)[,;]([^()\[\]{},;]+)([)\[\]])\s*(?=$|\\cup)")
_NOT = re.compile(r"\s*[A-Za-z]\s*(?:\\neq?(?![A-Za-z])|!=)\s*([^<>=]+)")
_ALL = r"(-\infty,\infty)"
_WITHOUT = re.compile(
    r"(?P<whole>.+?)\s*(?:\\setminus|\\backslash|(?<=\))\\(?=\\\{)|(?<=[)\]])\s*-(?=\s*\\\{))\s*\\?\{(?P<points>[^{}]*?)\\?\}"
)
_SIZE = re.compile(rf"\s*\|\s*([A-Za-z])\s*(?:([-+])\s*([^|<>=]+?))?\s*\|\s*{_SIGN}{_VALUE}")


def _plainer(text: str) -> str:
    """What says the same as intervals or inequalities; `text` where nothing does."""
    if built := _BUILDER.fullmatch(text.strip()):
        text = built[2]
    if "]" in text or "[" in text:
        text = _OUTWARD.sub(_facing, text)
    if size := _SIZE.fullmatch(text):
        return _sized(size) or text
    if (apart := _NOT.fullmatch(text)) and "," not in apart[1]:
        return _pieces(_ALL, [apart[1]]) or text
    if without := _WITHOUT.fullmatch(text.strip()):
        return _pieces(without["whole"], without["points"].split(",")) or text
    return text


def _facing(match: re.Match[str]) -> str:
    """]2,5[ as (2,5): a bracket that faces outward leaves its end out."""
    first = {"]": "(", "(": "(", "[": "["}[match[1]]
    return f"{first}{match[2]},{match[3]}{ {'[': ')', ')': ')', ']': ']'}[match[4]] }"


def _number(text: str) -> Number | None:
    text = text.strip()
    if text in (r"\infty", r"+\infty", r"-\infty"):
        return -float("inf") if text[0] == "-" else float("inf")
    read = read_whole(tokens_of(text, comma=False))
    return None if read is None else read.value


def _sized(match: re.Match[str]) -> str | None:
    """|x - c| < r as the interval around c, |x - c| > r as the two outside."""
    centre, radius, sign = _number(match[3] or "0"), _number(match[5]), _PLAIN.get(match[4], match[4])
    if centre is None or radius is None or radius <= 0:
        return None
    centre = centre if match[2] == "-" else -centre
    low, high = (x if isinstance(x, float) else f"{x}" for x in (centre - radius, centre + radius))
    closed = "=" in sign
    if sign[0] == "<":
        return f"{'[' if closed else '('}{low},{high}{']' if closed else ')'}"
    return rf"(-\infty,{low}{']' if closed else ')'}\cup{'[' if closed else '('}{high},\infty)"


def _pieces(whole: str, points: list[str]) -> str | None:
    """Intervals without some points of their insides."""
    said = [p.strip() for p in points]
    values = [_number(p) for p in said]
    parts = [_END.fullmatch(p.strip()) for p in whole.split(r"\cup")]
    if not all(parts) or any(v is None for v in values):
        return None
    found = list[str]()
    order = sorted(zip((approximate(v) for v in values if v is not None), said, strict=True))
    for part in filter(None, parts):
        low, high = _number(part[2]), _number(part[3])
        if low is None or high is None:
            return None
        inside = [p for v, p in order if approximate(low) < v < approximate(high)]
        ends = [part[1] + part[2], *(f"({p}" for p in inside)], [*(f"{p})" for p in inside), part[3] + part[4]]
        found += [f"{a},{b}" for a, b in zip(*ends, strict=True)]
    return r"\cup".join(found)


_END = re.compile(r"([(\[])([^,;]+)[,;]([^,;]+)([)\]])")


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
