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
from typing import Any

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
        return abs(given) != math.inf
    one, other, whole = approximate(given), approximate(right), getattr(right, "denominator", 0) == 1
    near = math.isfinite(one) and math.isclose(one, other, rel_tol=1e-12 if whole else 1e-6)
    return near and (not whole or isinstance(given, float))


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
    return Fraction(body.replace(",", "")) * Fraction(10) ** power


_TIMES, _OVER = ("*", r"\times", r"\cdot", r"\ast"), ("/", r"\div")


class _Reader:
    """Recursive descent over tokens, from `at` on."""

    def __init__(self, tokens: Sequence[Token], whole: bool, at: int = 0) -> None:
        self.tokens, self.whole, self.at, self.undone = tokens, whole, at, set[str]()

    def token(self, ahead: int = 0) -> Token:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else Token("", "", False)

    def peek(self, ahead: int = 0) -> str:
        return self.token(ahead).text

    def operand(self, read: Callable[[], Number], skip: bool) -> Number | None:
        """What `read` gives, behind a sign; None, back at the sign, where a sentence goes on with something else."""
        before = self.at
        self.at += skip
        try:
            return read()
        except _NoNumber:
            if self.whole:
                raise
            self.at = before
            return None

    def sum(self) -> Number:
        value = self.product()
        while (sign := self.peek()) in ("+", "-") and (other := self.operand(self.product, skip=True)) is not None:
            self.undone.add("+")
            value = _worked(add if sign == "+" else sub, value, other)
        return value

    def product(self) -> Number:
        value = self.signed()
        while sign := self.times():
            signed = self.peek() in _TIMES + _OVER
            ten = self.peek(signed) == "10" and self.peek(signed + 1) in ("^", "**")
            constant = ten or self.peek(signed) in (r"\pi", r"\sqrt" * (not signed))
            if (other := self.operand(self.signed, skip=signed)) is None:
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
        behind = self.token().kind == "number" and self.tokens[self.at - 1].text in (")", "}", "]")
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
        if self.peek() not in ("^", "**") or self.peek(1 + (self.peek(1) == "{")) == r"\circ":
            return base
        self.at += 1
        exponent = self.signed() if self.peek() in ("-", "+") else self.power()
        self.undone.add("^")
        return _power(base, exponent)

    def atom(self) -> Number:
        text = self.peek()
        if self.token().kind == "number":
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
        over = [self.peek(i) for i in range(4)]
        if over[0] == r"\frac":
            inner = _Reader(self.tokens, True, self.at)
            part, end = inner.atom(), inner.at
        elif self.token().spaced and over[0].isdigit() and over[1] == "/" != over[3] and over[2].isdigit():
            part, end = Fraction(int(over[0]), int(over[2]) or 1), self.at + 3
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


def _float(value: Number) -> float:
    if not math.isfinite(found := approximate(value)):
        raise _NoNumber
    return found


def _worked(operation: Callable[[Any, Any], Any], one: Number, other: Number) -> Number:
    if operation is truediv and not other:
        raise _NoNumber
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _exact(operation(one, other))
    return _float(operation(_float(one), _float(other)))


def _power(base: Number, exponent: Number) -> Number:
    if base == 0 and exponent <= 0:
        raise _NoNumber
    exact = (base, exponent) if isinstance(base, Fraction) and isinstance(exponent, Fraction) else None
    if exact and exact[1].denominator == 1:
        whole = exact[1].numerator
        if abs(base) == 1:
            return base ** (whole % 2)
        if max(n.bit_length() for n in base.as_integer_ratio()) * abs(whole) > BITS:
            raise _OutOfReach
        return exact[0] ** whole
    low, high = _float(base), _float(exponent)
    try:
        value = _float(low**high) if low >= 0 else math.nan
    except OverflowError as error:
        raise _NoNumber from error
    root = Fraction(_float(value)).limit_denominator(10**6)
    small = exact and max(map(abs, exact[1].as_integer_ratio())) <= 64
    return root if exact and small and root ** exact[1].denominator == exact[0] ** exact[1].numerator else value
