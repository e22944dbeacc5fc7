"""Arithmetic on written numbers: tokens, and the value of an expression of them, exact wherever it is rational.

Nothing here is symbolic: a text with a letter that is no constant has no value. Powers, roots and factorials are bounded, so
that a text written to take for ever ends at once.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Number = Fraction | float
BITS = 12_000
"""The most bits of a numerator or denominator."""
_GROUPED = (
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", r"\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?", r"\d{1,3}(?:[ ']\d{3})+(?:[.,]\d+)?",
    r"\d{1,3}(?:\.\d{3})+,\d+", r"\d{1,3}(?:\.\d{3}){2,}", r"\d{1,3}(?:_\d{3})+(?!\w)",
)  # fmt: skip
_END = r"(?![\d']|[.,]\d|[eE][-+]?\d| \d{3}(?!\d))"
_EXPONENT = r"(?:[eE][-+]?\d{1,4}(?!\d))?"


def _token_pattern(comma: bool) -> re.Pattern[str]:
    number = "|".join([
        r"\d*\.\d*\\overline\s*\{\d+\}", *(f"(?:{g}){_END}" for g in _GROUPED),
        *([rf"\d+,\d+{_EXPONENT}{_END}"] if comma else []), rf"(?:\d+(?:\.\d+)?|\.\d+){_EXPONENT}(?!\.\d)",
    ])  # fmt: skip
    return re.compile(
        rf"(?P<space>\s+)|(?P<number>{number})|(?P<command>\\[A-Za-z]+|\\.)|(?P<word>[^\W\d_](?:[\w']*[^\W_])?)|(?P<sign>\*\*|\S)"
    )


_TOKENS = {comma: _token_pattern(comma) for comma in (True, False)}


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: number, command (\\pi), word or sign; `spaced`: white space stands before it."""

    kind: str
    text: str
    spaced: bool


def tokens_of(text: str, comma: bool) -> list[Token]:
    """The tokens of a text; `comma`: a comma may be the decimal one."""
    found, spaced = list[Token](), False
    for match in _TOKENS[comma].finditer(text):
        kind = match.lastgroup or ""
        if kind != "space":
            name = match[0].lower() in ("sqrt", "pi")
            found.append(Token("command" if name else kind, "\\" * name + match[0], spaced))
        spaced = kind == "space"
    return found


@dataclass(frozen=True, slots=True)
class Read:
    """A value, the operations that are left undone in it, and the token after it."""

    value: Number
    undone: frozenset[str]
    end: int


class _NoNumber(Exception):
    """Not an expression with a value."""


class _OutOfReach(_NoNumber):
    """A value that is too large to work out."""


def read_whole(tokens: Sequence[Token]) -> Read | None:
    """The value of all these tokens as one expression, or None; one out of reach is infinite, and agrees with none."""
    reader = _Reader(tokens, whole=True)
    try:
        value = reader.sum()
    except _OutOfReach:
        return Read(math.inf, frozenset(), len(tokens))
    except (_NoNumber, RecursionError):
        return None
    return Read(value, frozenset(reader.undone), reader.at) if reader.at == len(tokens) else None


def read_at(tokens: Sequence[Token], at: int) -> Read | None:
    """The longest expression that begins at a token, as a sentence would have it: a bracket after a number is a remark, not
    a product, and "!" a mark of joy."""
    reader = _Reader(tokens, whole=False, at=at)
    try:
        value = reader.sum()
    except (_NoNumber, RecursionError):
        return None
    return Read(value, frozenset(reader.undone), reader.at)


def agree(given: Number, right: Number) -> bool:
    """Equal; where `right` is no whole number, to six digits."""
    if given == right:
        return not (isinstance(given, float) and math.isinf(given))
    one, other = approximate(given), approximate(right)
    if not (math.isfinite(one) and math.isfinite(other)):
        return False
    if isinstance(right, Fraction) and right.denominator == 1:
        return isinstance(given, float) and math.isclose(one, other, rel_tol=1e-12)
    return math.isclose(one, other, rel_tol=1e-6)


def approximate(value: Number) -> float:
    """As a float; infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def decimal(text: str) -> Fraction:
    """The value of a number token. Raises ValueError for one that is out of reach."""
    if repeating := re.fullmatch(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}", text):
        whole, fixed, again = repeating.groups()
        scale, period = 10 ** len(fixed), 10 ** len(again) - 1
        return Fraction(int(whole or 0) * scale + int(fixed or 0), scale) + Fraction(int(again), period * scale)
    body, _, exponent = re.sub(r"[ '_]", "", text).lower().partition("e")
    if re.fullmatch(r"\d+(?:\.\d{3}){2,}|\d+(?:\.\d{3})+,\d+", body):
        body = body.replace(".", "")
    if body.count(",") == 1 and not re.fullmatch(r"[1-9]\d{0,2},\d{3}(?:\.\d+)?", body):
        body = body.replace(",", ".")
    power = int(exponent or 0)
    if abs(power) > BITS // 8 or len(body) > BITS // 8:
        raise ValueError(f"out of reach: {text[:40]}")
    return Fraction(body.replace(",", "")) * (Fraction(10**power) if power >= 0 else Fraction(1, 10**-power))


class _Reader:
    """Recursive descent over tokens, from `at` on."""

    def __init__(self, tokens: Sequence[Token], whole: bool, at: int = 0) -> None:
        self.tokens, self.whole, self.at, self.undone = tokens, whole, at, set[str]()

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead].text if self.at + ahead < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead].kind if self.at + ahead < len(self.tokens) else ""

    def spaced(self, ahead: int = 0) -> bool:
        return self.at + ahead < len(self.tokens) and self.tokens[self.at + ahead].spaced

    def sum(self) -> Number:
        value = self.product()
        while self.peek() in ("+", "-"):
            before, sign = self.at, self.peek()
            self.at += 1
            try:
                other = self.product()
            except _NoNumber:
                if self.whole:
                    raise
                self.at = before
                break
            self.undone.add("+")
            value = _sized(_combined(value, other, sign))
        return value

    def product(self) -> Number:
        value = self.signed()
        while True:
            before, sign = self.at, self.peek()
            if sign in ("*", r"\times", r"\cdot", "/", r"\div", r"\ast"):
                self.at += 1
            elif not self.whole or (
                not (self.kind() == "number" and self.tokens[self.at - 1].text in (")", "}", "]"))
                and (sign not in ("(", r"\sqrt", r"\pi", r"\frac", "["))
            ):
                if sign not in (r"\sqrt", r"\pi"):
                    return value
                sign = "constant"
            else:
                sign = "*"
            try:
                ten = self.peek() == "10" and self.peek(1) in ("^", "**")
                constant = self.peek() == r"\pi"
                other = self.signed()
            except _NoNumber:
                if self.whole:
                    raise
                self.at = before
                return value
            if sign in ("/", r"\div"):
                self.undone.add("//" if "/" in self.undone else "/")
                value = _divided(value, other)
            else:
                self.undone.add("constant" if sign == "constant" or ten or constant else "*")
                value = _sized(_combined(value, other, "*"))

    def signed(self) -> Number:
        sign = self.peek()
        if sign in ("-", "+"):
            self.at += 1
            value = self.signed()
            return -value if sign == "-" else value
        return self.power()

    def power(self) -> Number:
        base = self.atom()
        if self.whole and self.peek() == "!":
            self.at += 1
            if not isinstance(base, Fraction) or base.denominator != 1 or base < 0:
                raise _NoNumber
            if base > 200:
                raise _OutOfReach
            base = Fraction(math.factorial(int(base)))
        if self.peek() not in ("^", "**") or (
            self.peek(1) == r"\circ" or (self.peek(1) == "{" and self.peek(2) == r"\circ")
        ):
            return base
        self.at += 1
        exponent = self.signed() if self.peek() in ("-", "+") else self.power()
        self.undone.add("^")
        return _power(base, exponent)

    def atom(self) -> Number:
        kind, text = self.kind(), self.peek()
        if kind == "number":
            self.at += 1
            return self.mixed(_decimal(text))
        if text in ("(", "{", "["):
            self.at += 1
            inner = _Reader(self.tokens, True, self.at)
            value = inner.sum()
            self.at = inner.at
            if self.peek() != {"(": ")", "{": "}", "[": "]"}[text]:
                raise _NoNumber
            self.at += 1
            self.undone |= inner.undone
            return value
        if text == r"\frac":
            self.at += 1
            top, bottom = self.argument(), self.argument()
            self.undone.add("/")
            return _divided(top, bottom)
        if text == r"\sqrt":
            self.at += 1
            degree: Number = Fraction(2)
            if self.peek() == "[":
                degree = self.atom()
            self.undone.add("^")
            return _power(self.argument(), _divided(Fraction(1), degree))
        if text == r"\pi":
            self.at += 1
            self.undone.add("constant")
            return math.pi
        raise _NoNumber

    def argument(self) -> Number:
        """What a command takes: a group, or a single token, of which a number gives one digit (\\frac12)."""
        if self.kind() == "number" and len(self.peek()) > 1 and self.peek().isdigit():
            first, rest = self.peek()[0], self.peek()[1:]
            here = self.tokens[self.at]
            self.tokens = [*self.tokens[: self.at], Token(here.kind, first, here.spaced), Token("number", rest, False),
                           *self.tokens[self.at + 1 :]]  # fmt: skip
            self.at += 1
            return _decimal(first)
        if self.kind() == "number":
            self.at += 1
            return _decimal(self.tokens[self.at - 1].text)
        return self.atom()

    def mixed(self, whole: Fraction) -> Number:
        """A whole number with a proper fraction behind it is their sum: 1 1/2, 1\\frac{1}{2}."""
        if whole.denominator != 1 or (self.at > 1 and self.tokens[self.at - 2].text in ("/", "^")):
            return whole
        before, value = self.at, whole
        if self.peek() == r"\frac":
            inner = _Reader(self.tokens, True, self.at)
            part = inner.atom()
            self.tokens, end = inner.tokens, inner.at
        elif self.kind() == "number" and self.peek(1) == "/" and self.kind(2) == "number" and self.spaced():
            if not (self.peek().isdigit() and self.peek(2).isdigit()) or self.peek(3) == "/":
                return whole
            part, end = _divided(_decimal(self.peek()), _decimal(self.peek(2))), self.at + 3
        else:
            return whole
        if isinstance(part, Fraction) and 0 < part < 1:
            self.at, value = end, whole + part
            self.undone.add("/")
        else:
            self.at = before
        return value


def _decimal(text: str) -> Fraction:
    try:
        return _exact(decimal(text))
    except ValueError as error:
        raise _NoNumber from error


def _exact(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > BITS:
        raise _OutOfReach
    return value


def _sized(value: Number) -> Number:
    if isinstance(value, Fraction):
        return _exact(value)
    if not math.isfinite(value):
        raise _NoNumber
    return value


def _combined(one: Number, other: Number, sign: str) -> Number:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one + other if sign == "+" else one - other if sign == "-" else one * other
    a, b = _float(one), _float(other)
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def _float(value: Number) -> float:
    found = approximate(value)
    if not math.isfinite(found):
        raise _NoNumber
    return found


def _divided(top: Number, bottom: Number) -> Number:
    if not bottom:
        raise _NoNumber
    if isinstance(top, Fraction) and isinstance(bottom, Fraction):
        return _exact(top / bottom)
    return _sized(_float(top) / _float(bottom))


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            size = max(base.numerator.bit_length(), base.denominator.bit_length())
            if base == 0 and exponent <= 0:
                raise _NoNumber
            if abs(base) == 1:
                return base ** (exponent.numerator % 2)
            if size * abs(exponent) > BITS:
                raise _OutOfReach
            return _exact(base**exponent.numerator)
        if base > 0 and abs(exponent.numerator) <= 64 and exponent.denominator <= 64:
            roots = [_root(n, exponent.denominator) for n in (base.numerator, base.denominator)]
            if roots[0] is not None and roots[1] is not None:
                return _power(Fraction(roots[0], roots[1]), Fraction(exponent.numerator))
    low, high = _float(base), _float(exponent)
    if low < 0 or (low == 0 and high <= 0):
        raise _NoNumber
    try:
        return _sized(low**high)
    except OverflowError as error:
        raise _NoNumber from error


def _root(value: int, degree: int) -> int | None:
    """The whole root of a whole number, if it has one."""
    guess = round(value ** (1 / degree)) if value < 1 << 1000 else 0
    return guess if guess**degree == value else None
