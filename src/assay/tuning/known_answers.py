"""The right answer of a row of questions, in the fields and forms in which people keep it, and how answers are compared.

An answer is a field of its own, or the end of a whole solution: what follows GSM8K's ####, what the last \\boxed{} holds, or
what "the answer is". Two fields that say different things are asked about; what no answer could equal is a fault.
"""

import ast
import math
import re
import typing
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from assay.bench.policy.answers import final_answer, same
from assay.bench.policy.letters import letters
from assay.bench.policy.quantities import quantity
from assay.rollouts import AnswerKind

KINDS: tuple[str, ...] = typing.get_args(AnswerKind)
FINAL = (
    "answer", "final_answer", "ground_truth", "reward_model.ground_truth", "gold_answer", "gold", "gt_answer", "gt",
    "expected_answer", "reference_answer", "correct_answer", "answerKey", "answer_key",
)  # fmt: skip
"""Fields that hold the right answer."""
LAST = ("label", "target")
"""The same, where there is none of these: elsewhere they may be something else."""
WORKED = ("solution", "output", "completion", "response")
"""Fields that hold a solution or a reference, which ends with the answer."""
OPTIONS = ("options", "choices")
SHORT = 60
"""Characters of a text that can be nothing but an answer."""


class RowFault(Exception):
    """Why a row is left out, with the field."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


class Unclear(Exception):
    """What a whole file says in two ways: to be asked about."""


def options_of(row: Mapping[str, Any]) -> list[str]:
    """The options of a question, in order."""
    field = next((f for f in OPTIONS if row.get(f) not in (None, "", [])), None)
    if field is None:
        return []
    value = row[field]
    if isinstance(value, str):  # MMMU keeps its lists as Python writes them
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if isinstance(value, Mapping):
        value = value["text"] if isinstance(value.get("text"), list) else list(value.values())
    if not isinstance(value, list) or not all(isinstance(v, str | int | float) for v in value):
        raise RowFault(field, "is not a list of texts")
    return [str(v) for v in value]


def field(row: Mapping[str, Any], path: str) -> object:
    """The value under a path such as reward_model.ground_truth, None where there is none."""
    if path in row:
        return row[path]
    value: object = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def answer_of(
    row: Mapping[str, Any], named: str, options: list[str], first_option: int | None
) -> tuple[str, AnswerKind]:
    """The right answer of a row ("": not known) and how answers are compared with it."""
    kind = row.get("kind")
    if kind is not None and kind not in KINDS:
        raise RowFault("kind", f"is {kind!r}; use one of {', '.join(KINDS)}")
    where, value = _answer_field(row, named)
    if value is None:
        return "", kind or "text"
    text = str(value).strip()
    if (
        options
        and kind in (None, "choice")
        and re.fullmatch(r"\d{1,2}", text)
        and (text not in options or int(text) <= len(options))
    ):
        return _numbered(int(text), options, first_option, where), "choice"
    number = isinstance(value, int | float)
    final, how = (text, "") if number or not text else _final(text, where in WORKED, kind)
    if "\n" in final and kind is None and where not in WORKED:
        raise RowFault(
            where, f"is of several lines and marks no final answer: {_MARKED}; or say kind text, if all of it is meant"
        )
    if kind is None and re.fullmatch(r"[-+]?\d+,\d+", final) and quantity(final, formula=True) is None:
        raise RowFault(where, f"is {final}, one number with a decimal comma or two: say kind number or math")
    guess: AnswerKind = kind or ("number" if number else _kind(row, final, how, options))
    if reason := fault(final, guess, long=final == text and len(text) > SHORT):
        raise RowFault(where, reason)
    return final, guess


_MARKED = "write the answer alone, or after ####, in \\boxed{} or after 'the answer is'"


def fault(answer: str, kind: AnswerKind, long: bool = False) -> str:
    """Why no answer could ever be right, "" where one could: a known answer must at least equal itself."""
    if not answer or (same(answer, answer, kind) and not (long and kind == "math" and _prose(answer))):
        return ""
    if long:
        return f"the answer is no {kind} but a whole solution that marks none: {_MARKED}"
    return f"the answer is no {kind}: nothing could be right"


def _prose(text: str) -> bool:
    return len(re.findall(r"(?<![\\A-Za-z])[a-z]{3,}\b", re.sub(r"\\text\{[^}]*\}", "", text))) > 5


def _answer_field(row: Mapping[str, Any], named: str) -> tuple[str, str | int | float | None]:
    """The field of the answer and its value. Raises Unclear where two fields say different things."""
    if named:
        return named, _single(field(row, named), named)
    told = [(f, v) for f in FINAL if (v := _single(field(row, f), f)) is not None]
    told = told or [(f, v) for f in LAST if (v := _single(field(row, f), f)) is not None]
    worked = [(f, v) for f in WORKED if isinstance(v := row.get(f), str) and v.strip()]
    told += worked[:1] if not told else [(f, v) for f, v in worked if len(v.split()) < 5 and str(told[0][1]) not in v]
    if not told:
        return "answer", None
    for other, value in told[1:]:
        if not _alike(str(told[0][1]), str(value)):
            raise Unclear(
                f"fields '{told[0][0]}' ({str(told[0][1])[:40]!r}) and '{other}' ({str(value)[:40]!r}) could both be the "
                "answer: name the right one with --answer-field, or keep one of them"
            )
    return told[0]


def _alike(one: str, other: str) -> bool:
    finals = [_final(x, False, None)[0] for x in (one, other)]
    return (
        same(finals[0], finals[1], "text") or same(finals[0], finals[1], "number") or same(finals[0], finals[1], "math")
    )


def _single(value: object, where: str) -> str | int | float | None:
    """A value that can be an answer; a list of one is that one."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if value is None or value == [] or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        several = isinstance(value, list | tuple)
        raise RowFault(where, f"is neither a text nor a number{' but a list of several answers' if several else ''}")
    if isinstance(value, float) and not math.isfinite(value):
        raise RowFault(where, "the answer is no number: nothing could be right")
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53 else value


def _final(text: str, worked: bool, kind: str | None) -> tuple[str, str]:
    """The final answer of a text that may be a whole solution, and what it was found by ("": the text is the answer)."""
    hashes = re.findall(r"^[ \t]*####[ \t]*(\S[^\n]*?)[ \t]*$", text, re.M) or re.findall(r"\nA: (\S[^\n]*)\s*$", text)
    if hashes and kind != "text" and quantity(hashes[-1]) is not None:
        return hashes[-1], "####"
    boxed = re.search(r"\\(?:boxed|fbox)\b|<answer>", text)
    if boxed and kind != "text" and (found := final_answer(text)):
        return found, "box"
    whole = "\n" in text or len(text) > (SHORT if worked else 2 * SHORT)
    marked = re.search(r"\b(?:answer|option|choice)\b|答案", text, re.I)
    if kind != "text" and whole and marked and (found := final_answer(text)) and (quantity(found) or kind):
        return found, "said"
    return text, ""


_FORMULA = re.compile(r"\\[a-zA-Z]|\^|^\s*\$.*[^\d.,\s].*\$\s*$")
_SIGNS = re.compile(r"(?=.*\d)(?!.*(?:[A-Za-z]{2}|:|\d-\d))(?=.*[,;=+*(){}\[\]<>]).*")
"""Digits and signs that are no number: a list, a tuple, an equation."""
_MATHS = re.compile(r"math|gsm|aime|amc|olympiad|geometry|algebra|numina|dapo", re.I)


def _kind(row: Mapping[str, Any], answer: str, how: str, options: list[str]) -> AnswerKind:
    """How answers are compared where a row does not say: by what its answer looks like, and what it says it is about."""
    value = quantity(answer)
    if how == "####":
        return "number"
    if options and (re.fullmatch(r"\W*[A-Za-z]\W*", answer) or letters(answer)):
        return "choice"
    about = " ".join(str(row.get(f, "")) for f in ("ability", "data_source"))
    if how == "box" or "problem" in row or _MATHS.search(about) or _FORMULA.search(answer):
        return "math"
    if value is None and _SIGNS.fullmatch(answer):
        return "math"
    return "number" if value is not None and not value.rest else "text"


def _numbered(value: int, options: list[str], first: int | None, where: str) -> str:
    """The letter of an option that is given by its number."""
    if str(value) in options:
        raise RowFault(
            where, f"is {value}, which is an option and may be the number of one: write the letter or the text"
        )
    if first is None:
        raise Unclear(f"field '{where}' numbers the options, from 0 or from 1: write letters, or the options' texts")
    if not first <= value < first + len(options):
        raise RowFault(where, f"is {value}, and there are {len(options)} options")
    return chr(65 + value - first)


def first_option(rows: list[Mapping[str, Any]]) -> int | None:
    """The number of the first option in a file whose answers are numbers of options, None where it cannot be told."""
    told = [(str(r.get("answer")), _found(r)) for r in rows]
    seen = [(int(v), len(o)) for v, o in told if o and re.fullmatch(r"\d{1,2}", v) and v not in o]
    zero, top = any(v == 0 for v, _ in seen), any(v == n for v, n in seen)
    return None if zero == top else 0 if zero else 1


def _found(row: Mapping[str, Any]) -> list[str]:
    try:
        return options_of(row)
    except RowFault:
        return []
