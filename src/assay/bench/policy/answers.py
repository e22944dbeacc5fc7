"""What answer a text gives, and whether it is the right one: rules that benchmarks and RL share.

An answer is looked for in <answer> tags, then in \\boxed{}, then after "the answer is". A text without any has no clear
final answer, which MPO's construction of pairs counts as wrong (MPO paper, section 3.1).
"""

import math
import re

from assay.bench.policy.equivalent import equivalent
from assay.records import AnswerKind

LONGEST = 400
"""Characters of an answer that are compared as mathematics; a longer one is wrong."""
_TAGS = re.compile(r"<answer>(?P<inside>(?:(?!<answer>).)*?)</answer>", re.S | re.I)
_SAID = re.compile(r"(?:final answer|the answer is|answer\s*:)[\s:*]*(?:is\b)?[\s:*]*(?P<inside>[^\n]+)", re.I)
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?")
_NAMES = "zero one two three four five six seven eight nine ten eleven twelve"
_WORDS = {word: n for n, word in enumerate(_NAMES.split(" "))}
_MARKED = re.compile(r"^\W*(?:(?:option|choice)\W+([a-z])\b|(?:answer\W+)?([a-z])(?:[).:,]|\W*$))", re.I)
_ALONE = re.compile(r"(?<![\w'’])([B-HJ-Z]|[AI](?!['’]| +(?!(?:is|or|and|because)\b)[a-z]))(?!\w)")
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
    """The content of the \\boxed{...} that begins last among those whose braces are balanced; one pass over the text."""
    starts = {m.end() for m in re.finditer(r"\\boxed\s*\{", text)}
    open_, best = list[int](), (-1, -1)
    for at, sign in ((m.start(), m[0]) for m in re.finditer(r"[{}]", text)) if starts else ():
        if sign == "{":
            open_.append(at + 1)
        elif open_:
            start = open_.pop()
            best = max(best, (start, at)) if start in starts else best
    return text[best[0] : best[1]] if best[0] >= 0 else None


def same(given: str, right: str, kind: AnswerKind) -> bool:
    """Is `given` the answer `right`? Whole numbers are compared exactly, others to six digits. Never raises, whatever the
    text."""
    if kind == "math":
        short = max(len(given), len(right)) <= LONGEST
        return "".join(given.split()) == "".join(right.split()) or (short and equivalent(given, right))
    if kind == "number":
        one, other = number(given), number(right)
        if one is None or other is None:
            return False
        return one == other or (other != int(other) and math.isclose(one, other, rel_tol=1e-6))
    if kind == "choice":
        return letter(given) is not None and letter(given) == letter(right)
    return plain(given) == plain(right)


def normalised(answer: str, kind: AnswerKind) -> str:
    """A final answer so written that those which `same` takes for equal are equal, as a rule; of formulas, numbers alone."""
    value = number(answer) if kind == "number" or (kind == "math" and _NUMBER.fullmatch(answer.strip(" $"))) else None
    if value is not None:
        return str(value) if isinstance(value, int) else f"{value:.6g}"
    if kind == "choice" and (chosen := letter(answer)):
        return chosen
    return "".join(answer.split()) if kind == "math" else plain(answer)


def plain(text: str) -> str:
    """Lower case, without punctuation, articles and surplus space; numbers keep their sign and point."""
    words = re.findall(r"[-+]?\d+(?:[.,]\d+)*|[^\W\d_]+(?:[.'][^\W\d_]+)*", text.lower())
    return " ".join(w for w in words if w not in _ARTICLES) or text.strip().lower()


def number(text: str) -> int | float | None:
    """The last number of a text: thousands separators, fractions, signs, percent and units aside; small numbers as words.
    Digits alone make an int, of any length that a float can reach."""
    text = text.replace("−", "-").replace("\\$", "").replace("$", "")
    found = [m[0] for m in _NUMBER.finditer(text)]
    if not found:
        return _WORDS.get(plain(text))
    top, _, bottom = found[-1].replace(",", "").partition("/")
    try:
        value = float(top) / float(bottom or "1")
    except (ValueError, ZeroDivisionError):
        return None
    if not math.isfinite(value):
        return None
    return int(top) if re.fullmatch(r"[-+]?\d+", top) and not bottom else value


def letter(text: str) -> str | None:
    """The letter of a choice: marked at the beginning ("b", "(b)", "b) Paris", "option b"), or an upper-case one that stands
    alone, at the beginning ("B Paris") or once ("I think B"). "A" and "I" before a small word are words ("A dog")."""
    text = text.strip()
    marked = _MARKED.match(text)
    if marked:
        return (marked[1] or marked[2]).upper()
    alone = list(_ALONE.finditer(text))
    if alone and (not text[: alone[0].start()].strip("*([{ \"'") or len({m[1] for m in alone}) == 1):
        return alone[0][1]
    return None
