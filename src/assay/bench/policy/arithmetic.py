"""Arithmetic on written numbers: tokens, and the value of an expression of them, exact wherever it is rational.

Nothing here is symbolic: a text with a letter that is no constant has no value. Powers, roots and factorials are bounded, so
that a text written to take for ever ends at once.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv

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
_ONE_DIGIT = re.compile(r"(\\(?:frac(?:\s*\{[^{}]*\})?|sqrt))\s*(\d)(?!\d*[.,]\d)")
"""An argument without braces is one digit: \\frac12."""


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: number, command (\\pi), word or sign; `spaced`: white space stands before it."""

    kind: str
    text: str
    spaced: bool


def tokens_of(text: str, comma: bool) -> list[Token]:
    """The tokens of a text; `comma`: a comma may be the decimal one."""
    found, spaced = list[Token](), False
    for match in _TOKENS[comma].finditer(_ONE_DIGIT.sub(r"\1{\2}", _ONE_DIGIT.sub(r"\1{\2}", text))):
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
    """The value of a number token."""
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
        raise _NoNumber
    return Fraction(body.replace(",", "")) * (Fraction(10**power) if power >= 0 else Fraction(1, 10**-power))


_TIMES, _OVER = ("*", r"\times", r"\cdot", r"\ast"), ("/", r"\div")


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
            value = _worked(add if sign == "+" else sub, value, other)
        return value

    def product(self) -> Number:
        value = self.signed()
        while sign := self.times():
            before = self.at
            self.at += self.peek() in _TIMES + _OVER
            ten = self.peek() == "10" and self.peek(1) in ("^", "**")
            constant = ten or self.peek() == r"\pi" or sign in (r"\sqrt", r"\pi")
            try:
                other = self.signed()
            except _NoNumber:
                if self.whole:
                    raise
                self.at = before
                break
            if sign in _OVER:
                self.undone.add("//" if "/" in self.undone else "/")
            else:
                self.undone.add("constant" if constant else "*")
            value = _worked(truediv if sign in _OVER else mul, value, other)
        return value

    def times(self) -> str:
        """The sign of a product here, or what begins a factor without one; "" for neither."""
        sign = self.peek()
        if sign in _TIMES + _OVER + (r"\sqrt", r"\pi"):
            return sign
        behind = self.kind() == "number" and self.tokens[self.at - 1].text in (")", "}", "]")
        return "*" * (self.whole and (behind or sign in ("(", r"\frac", "[")))

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
            return self.mixed(_exact(decimal(text)))
        if text in ("(", "{", "["):
            return self.inside({"(": ")", "{": "}", "[": "]"}[text])
        if text == r"\frac":
            self.at += 1
            top, bottom = self.atom(), self.atom()
            self.undone.add("/")
            return _worked(truediv, top, bottom)
        if text == r"\sqrt":
            self.at += 1
            degree = self.atom() if self.peek() == "[" else Fraction(2)
            self.undone.add("^")
            return _power(self.atom(), _worked(truediv, Fraction(1), degree))
        if text == r"\pi":
            self.at += 1
            self.undone.add("constant")
            return math.pi
        raise _NoNumber

    def inside(self, close: str) -> Number:
        """What stands in brackets: a whole expression."""
        whole, self.whole = self.whole, True
        self.at += 1
        try:
            value = self.sum()
        finally:
            self.whole = whole
        if self.peek() != close:
            raise _NoNumber
        self.at += 1
        return value

    def mixed(self, whole: Fraction) -> Number:
        """A whole number with a proper fraction behind it is their sum: 1 1/2, 1\\frac{1}{2}."""
        if whole.denominator != 1 or (self.at > 1 and self.tokens[self.at - 2].text in ("/", "^")):
            return whole
        if self.peek() == r"\frac":
            inner = _Reader(self.tokens, True, self.at)
            part, end = inner.atom(), inner.at
        elif (
            self.spaced()
            and self.peek().isdigit()
            and self.peek(1) == "/"
            and self.peek(2).isdigit()
            and self.peek(3) != "/"
        ):
            part, end = _worked(truediv, decimal(self.peek()), decimal(self.peek(2))), self.at + 3
        else:
            return whole
        if not (isinstance(part, Fraction) and 0 < part < 1):
            return whole
        self.at = end
        self.undone.add("/")
        return whole + part


def _exact(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > BITS:
        raise _OutOfReach
    return value


def _sized(value: float) -> float:
    if not math.isfinite(value):
        raise _NoNumber
    return value


def _worked(operation: Callable[[Number, Number], Number], one: Number, other: Number) -> Number:
    if operation is truediv and not other:
        raise _NoNumber
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _exact(operation(one, other))
    return _sized(operation(_float(one), _float(other)))


def _float(value: Number) -> float:
    return _sized(approximate(value))


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
    low, high = _float(base), _float(exponent)
    if low < 0 or (low == 0 and high <= 0):
        raise _NoNumber
    try:
        value = _sized(low**high)
    except OverflowError as error:
        raise _NoNumber from error
    if (
        isinstance(base, Fraction)
        and isinstance(exponent, Fraction)
        and max(map(abs, exponent.as_integer_ratio())) <= 64
    ):
        root = Fraction(value).limit_denominator(10**6)
        return root if root**exponent.denominator == base**exponent.numerator else value
    return value
