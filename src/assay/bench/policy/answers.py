r"""What answer a text gives, and whether it is the right one: rules that benchmarks and RL share.

An answer is looked for in <answer> tags, then in \boxed{}, then after "####", then after "the answer is"; a text that is
nothing but a letter, a number or a word is its own. A text without any has no clear final answer, which MPO's construction
of pairs counts as wrong (MPO paper, section 3.1).
"""

import re

from assay.bench.policy.arithmetic import approximate
from assay.bench.policy.formulas import same_formula, squeezed
from assay.bench.policy.quantities import Quantity, quantity
from assay.bench.policy.texts import letter, plain, same_text
from assay.rollouts import AnswerKind

_TAGS = re.compile(r"<answer>(?P<inside>(?:(?!<answer>).)*?)</answer>", re.S | re.I)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?P<inside>[^\n#]*\S)[ \t]*$", re.M)
_SAID = re.compile(
    r"(?:(?:final|correct|right|best)\s+(?:answer|option|choice)"
    r"|the\s+(?:answer|option|choice)(?:\s+to\s+[^\n.:]{1,80}?)?\s*(?=(?:is|would be|must be|should be)\b|[:=])"
    r"|\banswer\s*(?=is\b|[:=])|答案(?:应该)?(?:是|为)?)"
    r"[\s:=*]*(?:(?:is|would be|must be|should be)\b)?[\s:=*]*(?P<inside>[^\n]+)",
    re.I,
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*")
_LOOSE = re.compile(r"-?(?:\d[\d,.]*\d|\d|\\?[A-Za-z]+)")


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
    if (marked := _marked(said)) is not None:
        return marked
    lines = _SAID.findall(said.replace("：", ":"))
    if lines:
        return lines[-1].strip().rstrip(".。").strip(" *") or None
    return _bare(said)


def _marked(text: str) -> str | None:
    """What follows the last "####" (GSM8K), where it is a number, or the last line: elsewhere it marks a heading."""
    found = list(_HASHES.finditer(text))
    if not found:
        return None
    inside = found[-1]["inside"].strip()
    number = quantity(inside)
    return inside if not text[found[-1].end() :].strip() or (number is not None and not number.rest) else None


def _bare(text: str) -> str | None:
    """A text that is nothing but a letter, a number or a word."""
    said = text.strip()
    if not said or len(said) > 60 or "\n" in said or "<" in said:
        return None
    number = quantity(said)
    one = re.fullmatch(r"[*\"'(\[]*[^\W_][\w'-]*[*\"')\].!。]*", said)
    return said.rstrip(".。") if one or letter(said) or (number is not None and not number.rest) else None


def _boxed(text: str) -> str | None:
    """The content of the \\boxed{...} that begins last among those whose braces are balanced; one pass over the text."""
    starts, loose = set[int](), (-1, "")
    for m in _BOX.finditer(text):
        if text.startswith("{", m.end()):
            starts.add(m.end() + 1)
        elif after := _LOOSE.match(text, m.end()):
            loose = m.end(), after[0]
    open_, best = list[int](), (-1, -1)
    for at, sign in ((m.start(), m[0]) for m in re.finditer(r"[{}]", text)) if starts else ():
        if sign == "{":
            open_.append(at + 1)
        elif open_:
            start = open_.pop()
            best = max(best, (start, at)) if start in starts else best
    if loose[0] > best[0]:
        return loose[1]
    return text[best[0] : best[1]] if best[0] >= 0 else None


def same(given: str, right: str, kind: AnswerKind) -> bool:
    """Is `given` the answer `right`? Never raises, whatever the text.

    number: one number (`quantities`), exactly where it is whole, else to six digits. math: `formulas`. choice: one letter.
    text: the same words, or the same amount.
    """
    if kind == "math":
        return same_formula(given, right)
    if kind == "number":
        one, other = quantity(given), quantity(right)
        return one is not None and other is not None and one.equals(other)
    if kind == "choice":
        chosen = letter(given)
        return chosen is not None and chosen == letter(right)
    return same_text(given, right)


def correct(text: str, right: str, kind: AnswerKind) -> bool:
    """Is the final answer of a whole text the right one? Reward, evaluation and monitor all ask here; "" is no answer."""
    answer = final_answer(text)
    return answer is not None and bool(right) and same(answer, right, kind)


def normalised(answer: str, kind: AnswerKind) -> str:
    """A final answer so written that those which `same` takes for equal are equal, as a rule; of formulas, numbers alone.
    For counting how answers agree; whether one is right is `same`'s to say."""
    value = quantity(answer, formula=kind == "math") if kind != "choice" else None
    if value is not None and (kind != "text" or not value.rest):
        return _key(value)
    if kind == "choice":
        return letter(answer) or plain(answer)
    return squeezed(answer) if kind == "math" else plain(answer)


def _key(value: Quantity) -> str:
    number = value.value * (value.unit[1] if value.unit else 1)
    return str(number) if getattr(number, "denominator", 0) == 1 else f"{approximate(number):.6g}"
