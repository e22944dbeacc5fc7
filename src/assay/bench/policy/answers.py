"""What answer a text gives, and whether it is the right one: rules that benchmarks and RL share.

An answer is looked for in <answer> tags, then in \\boxed{}, then after "the answer is". A text without any has no clear
final answer, which MPO's construction of pairs counts as wrong (MPO paper, section 3.1).
"""

import importlib
import math
import re
from fractions import Fraction

from assay.errors import missing_extra
from assay.records import AnswerKind

LONGEST = 400
"""Characters of an answer that are compared as mathematics; a longer one is wrong."""
_TAGS = re.compile(r"<answer>(?P<inside>(?:(?!<answer>).)*?)</answer>", re.S | re.I)
_SAID = re.compile(r"(?:final answer|the answer is|answer\s*:)[\s:*]*(?:is\b)?[\s:*]*(?P<inside>[^\n]+)", re.I)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?")
_NAMES = "zero one two three four five six seven eight nine ten eleven twelve"
_WORDS = {word: n for n, word in enumerate(_NAMES.split(" "))}
_CHOICE = re.compile(r"^\W*(?:(?:option|choice|answer)\W*)?\(?([a-z])\)?(?:[\s).:,]|$)", re.I)
_ARTICLES = {"a", "an", "the"}


def final_answer(text: str) -> str | None:
    """The last final answer of a text, stripped; None where there is none, or an empty one.

    What stands before a closing </think> is thought, not an answer; an unfinished tag gives none.
    """
    said = re.split(r"</think>", text, flags=re.I)[-1]
    if re.search(r"<think>", said, re.I):
        said = re.split(r"<think>", said, flags=re.I)[0]
    tags = _TAGS.findall(said)
    if tags:
        return tags[-1].strip() or None
    box = _boxed(said)
    if box is not None:
        return box.strip() or None
    lines = _SAID.findall(said)
    return (lines[-1].strip().rstrip(".").strip(" *") or None) if lines else None


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} whose braces are balanced."""
    for start in reversed([m.end() for m in re.finditer(r"\\boxed\s*\{", text)]):
        depth = 1
        for at in range(start, len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                return text[start:at]
    return None


def same(given: str, right: str, kind: AnswerKind) -> bool:
    """Is `given` the answer `right`? Never raises, whatever the text."""
    if kind == "math":
        return "".join(given.split()) == "".join(right.split()) or _equivalent(given, right)
    if kind == "number":
        one, other = number(given), number(right)
        return one is not None and other is not None and (one == other or math.isclose(one, other, rel_tol=1e-6))
    if kind == "choice":
        return letter(given) is not None and letter(given) == letter(right)
    return plain(given) == plain(right)


def plain(text: str) -> str:
    """Lower case, without punctuation, articles and surplus space; numbers keep their sign and point."""
    words = re.findall(r"[-+]?\d+(?:[.,]\d+)*|[^\W\d_]+(?:[.'][^\W\d_]+)*", text.lower())
    return " ".join(w for w in words if w not in _ARTICLES) or text.strip().lower()


def number(text: str) -> float | None:
    """The last number of a text: thousands separators, fractions, signs, percent and units aside; small numbers as words."""
    text = text.replace("−", "-").replace("\\$", "").replace("$", "")
    found = [m[0] for m in _NUMBER.finditer(text)]
    if not found:
        return float(_WORDS[plain(text)]) if plain(text) in _WORDS else None
    top, _, bottom = found[-1].replace(",", "").partition("/")
    try:
        return float(Fraction(top.strip()) / Fraction(bottom.strip() or "1"))
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def letter(text: str) -> str | None:
    """The letter of a choice: "B", "(b)", "B) Paris", "option B"."""
    found = _CHOICE.match(text.strip())
    return found[1].upper() if found else None


def _equivalent(given: str, right: str) -> bool:
    """math-verify's judgement. Its timeouts use signals, which only a main thread may; lengths are capped instead."""
    if max(len(given), len(right)) > LONGEST:
        return False
    try:
        verify = importlib.import_module("math_verify")
    except ImportError as error:
        raise missing_extra("math-verify", "policy") from error
    try:
        sides = [verify.parse(f"${s}$", parsing_timeout=None) for s in (right, given)]
        return bool(sides[0] and sides[1] and verify.verify(*sides, timeout_seconds=None))
    except Exception:  # noqa: BLE001 - a parser of anybody's text: what it cannot read is not the answer
        return False
