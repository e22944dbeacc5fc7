"""A number as people write it: digits in any grouping, fractions, powers, roots, words, with a unit or a sentence around it.

A text is read as one number or as none. Where several stand in it that are not the same, where it hedges or names a bound,
or leaves the arithmetic undone (12 + 30), there is none: the last number of a text is not its answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from assay.bench.policy.arithmetic import Number, Read, Token, agree, approximate, read_at, read_whole, tokens_of
from assay.bench.policy.beside import BEING, CHANGERS, HEDGES, counted, led, remarks, words_of
from assay.bench.policy.characters import written
from assay.bench.policy.words import digits_for_words, in_latin, unit_of

LONGEST = 400
"""Characters of an answer that are looked at; a longer one is no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A value with its unit, if it is a known one: what it measures, and how much of that kind's own unit one is (cm:
    length, 0.01). `rest`: other words stand beside it. `also`: the rounded form in "sqrt(10) = 3.162". `noun`: what is
    counted."""

    value: Number
    percent: bool = False
    unit: tuple[str, Fraction] | None = None
    rest: bool = False
    also: Number | None = None
    noun: str = ""

    def equals(self, right: "Quantity") -> bool:
        """Is this the quantity `right`? Units count where both have one. A percent sign means a hundredth, or nothing, where
        the other has none. Whole numbers are compared exactly, others to six digits."""
        if self.unit and right.unit:
            return self.unit[0] == right.unit[0] and agree(_times(self), _times(right))
        if (self.percent and right.unit) or (right.percent and self.unit) or not _alike(self.noun, right.noun):
            return False
        if (self.unit and right.noun) or (right.unit and self.noun):
            return False
        given = [v for v in (self.value, self.also) if v is not None]
        wanted = [v for v in (right.value, right.also) if v is not None]
        if self.percent and not right.percent:
            given += [v / 100 for v in given]
        if right.percent and not self.percent:
            wanted += [v / 100 for v in wanted]
        return any(agree(v, w) for v in given for w in wanted)

    def agrees(self, other: "Quantity") -> bool:
        """Whether the two may be the same, whichever is the right one."""
        return self.equals(other) or other.equals(self)


def _alike(one: str, other: str) -> bool:
    """Whether what is counted may be the same: unnamed, or one noun in singular or plural."""
    return not one or not other or one.rstrip("es") == other.rstrip("es")


def _times(quantity: Quantity) -> Number:
    return quantity.value * (quantity.unit[1] if quantity.unit else 1)


_TAIL = words_of("per each every for in after at on with when if within during over")
"""Words after which a number belongs to the sentence around the answer: "$18 per 2 hours"."""
_LIST = frozenset([",", ";", "&", "-", "/", ":", "and", "or", "to", "out", "nor", "versus", "vs"])
_DECADE = re.compile(r"\b[12]\d\d0'?s\b|\bthe \d0'?s\b")
_END = re.compile(
    r"(?<=[\w%)}])\s?(?:[.!?]\s+(?-i:(?=[A-Z]))|[,;.]?\s*\n"
    r"|[,;]?\s+\(?(?:because|since|rather than|instead of|(?:and )?not(?=\W*\d)|i\.e\.(?!\W*\d)|and no (?:other"
    r"|more)s?$|(?:and |so )we are done|as (?=we|the|it|there|\d)"
    r"|as (?:required|desired|claimed|expected|stated|asked|needed)|which is (?=an? \w+ (?:number|integer)\b"
    r"|even\b|odd\b|prime\b|positive\b))\b)",
    re.I,
)
"""Where a sentence goes on to say why."""
_AND = re.compile(
    r"(?<![\d.,/])(\d+)\s*(?:and|&)\s*(?:(\d+\s*/\s*\d+)|(a half|one half|half|a quarter|three quarters))\b", re.I
)
_PARTS = {"a half": "1/2", "one half": "1/2", "half": "1/2", "a quarter": "1/4", "three quarters": "3/4"}
_SCALES: dict[str, int | Fraction] = {
    "k": 10**3, "K": 10**3, "thousand": 10**3, "mn": 10**6, "M": 10**6, "million": 10**6, "millions": 10**6, "bn": 10**9,
    "billion": 10**9, "billions": 10**9, "trillion": 10**12, "hundred": 100, "dozen": 12,
    "tenths": Fraction(1, 10), "hundredths": Fraction(1, 100), "thousandths": Fraction(1, 1000),
}  # fmt: skip
_GLUED = frozenset(["k", "K", "mn", "M", "bn"])
_PERCENT = frozenset(["%", "percent", "pct"])
_MONEY = frozenset("$€£¥₹")
_MARKS = frozenset([*",;:.?!\"'()[]|/#&~-", r"\approx", r"\circ"])
_EQUALS = frozenset(["=", r"\approx", "~"])


@lru_cache(50_000)
def quantity(text: str, formula: bool = False) -> Quantity | None:
    """The one number of a text, or None. In a `formula` a comma is none of its digits' unless it parts thousands, and a
    single letter beside a number is a variable, unless it is set as text or apart. Never raises."""
    if len(text) > LONGEST:
        return None
    said = _AND.sub(lambda m: f"{m[1]} {m[2] or _PARTS[m[3].lower()]}", in_latin(digits_for_words(written(text))))
    if coded := re.fullmatch(r"\W*(0x[0-9A-F]+|0b[01]+)\W*", said, re.I):
        said = str(int(coded[1], 0))
    for pattern, plainly in _PLAINLY:
        said = pattern.sub(plainly, said)
    first = re.search(r"\d|\\pi\b", said)
    if first is None:
        return None
    why = _END.search(said, first.start())
    if _DECADE.search(said) or (why and "\n" in why[0] and _LINE.match(said, why.end())):
        return None
    said, cut = (said[: why.start()], True) if why else (said, False)
    if re.fullmatch(r"\W*[\d.,]+\s*!\W*|\W*(?:\\approx|~)\s*\d+\W*", said):
        return None
    as_text = not formula or re.search(r"\\(?:text|mathrm|mbox)", text)
    apart = not re.search(r"[\\$]", re.sub(r"\\times(?=\s*10\s*\^)", "", text))
    letters = "any" if as_text else "spaced" * apart
    parts = _split(tokens_of(said, comma=not formula))
    if len(parts) == 2 and parts[1] and named(parts[1]):
        parts = parts[::-1]
    found = _single(parts[-1], letters)
    for part in parts[:-1]:
        found = _led(part, parts[-1], found)
    return replace(found, rest=True) if found and cut else found


_PLAINLY = (
    (re.compile(r"(?<=\d)\s*[xX]\s*(?=\d)"), r" \\times "),
    (re.compile(r"\(\s*=\s*"), "("),
    (re.compile(r"^\s*(?:\([A-E]\)|[A-E][).])\s+(?=\S)"), ""),
    (re.compile(r"\b(?:minus|negative)\s+(?=[\d$€£¥.\\])", re.I), "-"),
    (re.compile(r"-\s*([$€£¥₹])\s*(?=[\d.])"), r"\1-"),
    (re.compile(r"(?<![\w\\])([B-HJ-Zb-z])\s+is\s+(?=[-$(]*[\d.])|^([A-Za-z])\s+is\s+", re.I), r"\1\2="),
    (re.compile(r"\bequals\b", re.I), "="),
    (re.compile(r"\\frac\s*\{\s*([A-Za-z]+)\s*\}\s*\{\s*([A-Za-z]+(?:\s*\^\s*\{?\s*[23]\s*\}?)?)\s*\}"), r"\1/\2"),
    (re.compile(r"(?<=\d)\s*in\.?$"), " inches"),
    (
        re.compile(r"(?<=[\d}])\s+of\s+an?\s+(?=hour|minute|second|day|mile|kilomet|met[er]|lit|gallon|pound|dollar)"),
        " ",
    ),
    (re.compile(r"^([\s$(]*)(\d+)\s+(?:in|out\s+of(?:\s+every)?)\s+(\d+)(?=\s+chances?\b|\W*$)", re.I), r"\1\2/\3"),
)
"""What is read as another way to write the same."""


_LINE = re.compile(r"\W*[\d.,/]*\d[^\w\n]*(?:\n|$)")
"""Another number alone on the next line."""


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    """The sides of "=" and its like."""
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.text in _EQUALS:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _led(part: Sequence[Token], last: Sequence[Token], found: Quantity | None) -> Quantity | None:
    """`found` after one more side of an equation before it: a name, or an expression of the same value; else None."""
    if found is None or named(part) or re.fullmatch(r"[A-Za-z](?:\+[A-Za-z])+", "".join(t.text for t in part)):
        return None if any(t.text.lower() in CHANGERS for t in part) else found
    start = next((i for i, t in enumerate(part) if t.kind not in ("word",) and t.text not in (":", ",", *_MONEY)), 0)
    whole: Read | Quantity | None = read_whole([t for t in part[start:] if t.text not in _MONEY])
    if whole is None:
        whole = _single(part, "any")
        if whole is None or whole.unit != found.unit:
            return found if whole is not None and whole.unit and whole.equals(found) else None
    if agree(found.value, whole.value) or (found.percent and agree(found.value / 100, whole.value)):
        return found
    digits = next((len(t.text.partition(".")[2]) for t in last if t.kind == "number"), 0)
    near = abs(approximate(whole.value) - approximate(found.value)) <= 0.5000001 * 10.0**-digits
    return replace(found, value=whole.value, also=found.value) if digits and near else None


def named(part: Sequence[Token]) -> bool:
    """Whether what stands before "=" is a name: nothing, a letter (with an index or an argument), or words."""
    lone = [t for t in part if len(t.text) == 1 and t.kind == "word" and t.text not in "aI"]
    marks = ("(", ")", "_", "{", "}", "'", ":", ",", r"\angle", r"\triangle")
    fine = all(
        t.kind in ("word", "command") or t.text in marks
        or (i > 1 and part[0].kind != "number" and (t.text == "-" or t.kind == "number") and part[i - 1].text in "(_{,-")
        for i, t in enumerate(part)
    )  # fmt: skip
    several = len(lone) > 1 + any(t.text == r"\angle" for t in part) and part[1].text not in "(_'"
    words = any(len(t.text) > 1 and t.kind == "word" for t in part)
    return fine and (words or not several) and not any(t.text in (r"\frac", r"\sqrt", r"\pi") for t in part)


def _single(tokens: Sequence[Token], letters: str) -> Quantity | None:
    """The one quantity in these tokens, with words and marks around it; None where there is none, or more."""
    found: Quantity | None = None
    between, rest, at, whole, first = list[Token](), False, 0, False, list[Token]()
    while at < len(tokens):
        if found is not None and tokens[at].text == "(":
            if not (at := _past_aside(tokens, at, found)):
                return None
            rest = True
            continue
        read = None if _dash(tokens, at) else read_at(tokens, at)
        if read is None:
            if not _prose(tokens[at], at == 0 or tokens[at].spaced):
                return None
            between.append(tokens[at])
            rest = rest or tokens[at].kind == "word"
            at += 1
            continue
        money = bool(between) and between[-1].text in _MONEY
        made, end = _measured(tokens, read, between[-1].text if money else "", letters)
        if not _apart(tokens, read, end):
            return None
        if found is not None and (sum_ := _compound(found, made, between)):
            found, at, between = sum_, end, []
            continue
        if found is not None and (not between or between[-1].text.lower() == "of") and tokens[at].text not in "([":
            return None
        if found is not None and not found.agrees(made):
            said = {t.text.lower() for t in between}
            if not said & _LIST and said & _TAIL and not any(t.text.lower() == "or" for t in tokens[end:]):
                last = between[:-1] if between[-1].text.lower() in _TAIL - {"per", "when", "if", "with"} else between
                return _worded(replace(found, rest=True), first, last, whole)
            if said & (_LIST - {","}) or not _told_of(first, between):
                return None
            first, found = [*first, *between], None
        if found is None:
            first, whole = between, all(t.text.isdigit() for t in tokens[at:end] if t.kind == "number")
        found, at, between = found or made, end, []
    return None if found is None else _worded(replace(found, rest=found.rest or rest), first, between, whole)


def _told_of(first: Sequence[Token], between: Sequence[Token]) -> bool:
    """Whether a number belongs to what the next one is told of ("The interest over 5 years is $2,125")."""
    of = [t.text.lower() for t in first if t.kind == "word"][-1:]
    verb = [t.text.lower() for t in between if t.kind == "word"][-1:]
    return bool(of and verb) and of[0] in _OF and verb[0] in BEING | {"equals"}


_OF = words_of("of in over after for on at by from with than the between within")


def _worded(found: Quantity, before: Sequence[Token], after: Sequence[Token], whole: bool) -> Quantity | None:
    """`found` with what it counts, where the words on both sides leave it as it is; else None."""
    part = after[:1] and after[0].text == "th" and before[-1:] and before[-1].text in ("a", "an")
    noun = counted(after, found.value) if led(before, whole) and not part else None
    return None if noun is None else replace(found, noun=noun)


def _compound(first: Quantity, second: Quantity, between: Sequence[Token]) -> Quantity | None:
    """2 hours and 30 minutes as 2.5 hours: whole numbers, the second of a smaller unit, and less than one of the first."""
    if (
        not first.unit
        or not second.unit
        or first.unit[0] != second.unit[0]
        or "".join(t.text for t in between) not in ",and"
    ):
        return None
    one, small = first.value, _times(second) / first.unit[1]
    return replace(first, value=one + small) if getattr(one, "denominator", 0) == 1 and one > 0 <= small < 1 else None


def _dash(tokens: Sequence[Token], at: int) -> bool:
    """Whether a minus sign is a dash between words and a number ("answer - 5"), not a sign."""
    if tokens[at].text not in "+-" or at == 0:
        return False
    before = tokens[at - 1]
    after = tokens[at + 1] if at + 1 < len(tokens) else before
    return before.kind == "word" and (not tokens[at].spaced or after.spaced)


def _prose(token: Token, spaced: bool) -> bool:
    """Whether a token may stand beside a number: words and marks, but no operators and no letters of a formula."""
    if token.kind == "word":
        return len(token.text) > 1 or (spaced and token.text in "aAI") or not token.text.isascii()
    return token.text in _MARKS or token.text in _MONEY


_ELSE = HEDGES | words_of("not also certain sure could may")


def _past_aside(tokens: Sequence[Token], at: int, found: Quantity) -> int:
    """The token behind a bracketed remark of words or arithmetic: "12 (3 x 4)"; 0 where it is none, such as "12 (or 13)"."""
    close = next((i for i in range(at, len(tokens)) if tokens[i].text == ")"), 0)
    inside = tokens[at + 1 : close]
    told = read_whole([t for t in inside if t.text.lower() not in ("or", "equivalently")])
    share = inside[1:2] and inside[-1].text in _PERCENT and (told := read_whole(inside[:-1])) is not None
    if told is not None and agree(told.value / 100 if share else told.value, found.value):
        return close + 1
    if any(t.text.lower() in _ELSE for t in inside) or not remarks(inside):
        return 0
    bare = all(t.kind == "number" or t.text in ("-", ",", *_MONEY, *_PERCENT) for t in inside)
    return 0 if bare else close + 1


def _apart(tokens: Sequence[Token], read: Read, end: int) -> bool:
    """Whether a number stands for itself: nothing is left undone in it, and nothing that changes it is attached."""
    if read.undone & {"+", "*", "//"}:
        return False
    after, follows = [*tokens[end : end + 2], None, None][:2]
    if after is None:
        return True
    if after.text == "-" and follows is None:
        return False
    if follows is not None and after.text in (":", ",", ".") and not after.spaced:
        return follows.kind != "number" or follows.spaced
    return after.text != "(" or after.spaced


def _exponent(tokens: Sequence[Token], at: int) -> tuple[int, int]:
    """The exponent that stands at a token (^2, ^{2}, ^{-2}), 0 where there is none, and the token after."""
    text = "".join(t.text for t in tokens[at : at + 5])
    found = re.match(r"\^(?:(-?[1-3])(?![\d}])|\{(-?[1-3])\})", text)
    return (int(found[1] or found[2]), at + len(found[0])) if found else (0, at)


def _below(tokens: Sequence[Token], at: int) -> tuple[tuple[str, Fraction, int] | None, int]:
    """The unit by which the one before is divided ("/s^2", "per hour", "s^{-2}"), and the token after it."""
    over = tokens[at].text in ("/", "per") if at < len(tokens) else False
    unit = unit_of(tokens[at + over].text) if at + over < len(tokens) else None
    if unit is None:
        return None, at
    raised, after = _exponent(tokens, at + over + 1)
    if over and raised >= 0:
        return (*unit[:2], raised or unit[2]), after
    return ((*unit[:2], -raised), after) if not over and raised < 0 else (None, at)


def _measured(tokens: Sequence[Token], read: Read, money: str, letters: str) -> tuple[Quantity, int]:
    """A number with what measures it behind it, and the token after."""
    at, value, percent = read.end, read.value, False

    def text(ahead: int = 0) -> str:
        return tokens[at + ahead].text if at + ahead < len(tokens) else ""

    if money and text() == "m" and not tokens[at].spaced:
        value, at = value * 10**6, at + 1
    if text() in _SCALES and (text() not in _GLUED or not tokens[at].spaced):
        value, at = value * _SCALES[text()], at + 1
    if text().lower() in _PERCENT:
        percent, at = True, at + 1
    unit = unit_of(money) if money else None
    if text() == "^" and (text(1) == r"\circ" or (text(1) == "{" and text(2) == r"\circ")):
        at, unit = at + (4 if text(1) == "{" else 2), unit_of("°")
        if text() in ("C", "F"):
            unit, at = (f"degrees {text()}", Fraction(1), 1), at + 1
    else:
        power = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}.get(text().lower(), 0)
        single = letters == "any" or (letters == "spaced" and at < len(tokens) and tokens[at].spaced)
        ahead = (1 + (text(1) == ".")) if power else 0
        named_unit = unit_of(text(ahead), single)
        if named_unit is not None:
            at += 1 + ahead
            raised, at = _exponent(tokens, at)
            unit = (*named_unit[:2], power or raised or named_unit[2])
    if unit is None or unit[0] == "unit":
        return Quantity(value=value, percent=percent), at
    told = (unit[0] + (f"^{unit[2]}" if unit[2] > 1 else ""), unit[1] ** unit[2])
    below, after = _below(tokens, at)
    if below is not None and unit[0] != "money":
        at = after
        told = f"{told[0]} per {below[0]}^{below[2]}", told[1] / below[1] ** below[2]
    return Quantity(value=value, percent=percent, unit=told), at
