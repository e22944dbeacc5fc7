"""Rule and judges on the same answers: what each makes of them, and how often they agree.

Public totals of one model move by 2 to 12 points with who compares answers, so each is told: the rule's total, each judge's,
and "rule, then judge" (what the rule takes for right, and what the judge does of the rest: the usual way, and paper B's as
far as it says). A reply of a judge that is no verdict is a failure, counted, and in none of these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from assay.bench.reasoning.estimates import bare, over_questions
from assay.bench.reasoning.rows import Answered
from assay.bench.results import Cell
from assay.errors import AssayError
from assay.llm.chat import Chat, Request
from assay.llm.outage import ask_all
from assay.llm.parsing import objects
from assay.records import user

PROMPT = (Path(__file__).parent.parent / "prompts" / "equivalence.md").read_text(encoding="utf-8")
END = 1_500
"""Characters of an answer's end that a judge reads: where the final answer stands."""
_FIELD = re.compile(r"\{\{(\w+)\}\}")
SCHEMA = (
    '{"type": "object", "properties": {"equivalent": {"type": "boolean"}}, "required": ["equivalent"], '
    '"additionalProperties": false}'
)


def prompt_of(file: Path | None) -> str:
    """A judge's prompt: the file's, or ours. Raises AssayError for one without the reference and the answer."""
    if file is None:
        return PROMPT
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AssayError(f"--judge-prompt {file}: cannot be read ({error})") from error
    named = set(_FIELD.findall(text))
    if not {"reference", "answer"} <= named or not named <= {"question", "reference", "answer"}:
        raise AssayError(
            f"--judge-prompt {file}: it must have {{{{reference}}}} and {{{{answer}}}}, may have {{{{question}}}}, and no "
            f"other; it has {', '.join(f'{{{{{n}}}}}' for n in sorted(named)) or 'none'}"
        )
    if "equivalent" not in text:
        raise AssayError(
            f'--judge-prompt {file}: it must ask for {{"equivalent": true}} or {{"equivalent": false}}, what is read'
        )
    return text


def judged(rows: Sequence[Answered], chat: Chat, prompt: str = PROMPT) -> list[Answered]:
    """The rows with the judge's verdicts as scores (None, with a fault, where it gave none). Not asked: answers that are
    empty or ended in their thoughts, which are wrong, and rows without an answer. Raises Unreached where the judge's server
    did not answer, AssayError where none of its replies is a verdict."""
    asked = [i for i, r in enumerate(rows) if not r.fault and not r.all_thought and r.answer.strip()]
    replies = ask_all(chat, (request(rows[i], prompt) for i in asked))
    found = [replace(r, by=chat.name, score=None if r.fault else 0.0, parts={}) for r in rows]
    for i, reply in zip(asked, replies, strict=True):
        verdict = None if reply.problem else read_verdict(reply.text)
        fault = "" if verdict is not None else f"{chat.name}: {reply.problem or 'no verdict'}"
        found[i] = replace(found[i], score=None if verdict is None else float(verdict), fault=fault)
    if asked and all(found[i].fault for i in asked):
        raise AssayError(f"none of its {len(asked):,} replies is a verdict, the first: {found[asked[0]].fault}")
    return found


def request(row: Answered, prompt: str = PROMPT) -> Request:
    """What a judge is asked of one answer."""
    fields = {"question": row.text, "reference": row.expected, "answer": row.answer[-END:]}
    text = _FIELD.sub(lambda found: fields[found[1]], prompt)
    return Request(messages=(user(text),), schema=SCHEMA)


def read_verdict(text: str) -> bool | None:
    """What a judge says; None where that is nothing, or two things."""
    told = {found.data.get("equivalent") for found in objects(text) or []}
    only = told.pop() if len(told) == 1 else None
    return only if isinstance(only, bool) else None


def totals(rule: Sequence[Answered], judges: Sequence[tuple[str, Sequence[Answered]]]) -> list[Cell]:
    """Of each judge: its total, "rule, then judge" (which models are compared by as well), its agreement with the rule; and
    of each two judges their agreement."""
    found = []
    for name, rows in judges:
        found.append(bare(over_questions(f"judge {name}", rows)))
        found.append(over_questions(f"rule, then judge {name}", then(rule, rows)))
        if (cell := agreement(f"agreement of rule and {name}", rule, rows)) is not None:
            found.append(cell)
    for at, (name, rows) in enumerate(judges):
        for other, others in judges[at + 1 :]:
            if (cell := agreement(f"agreement of {name} and {other}", rows, others)) is not None:
                found.append(cell)
    return found


def then(rule: Sequence[Answered], rows: Sequence[Answered]) -> list[Answered]:
    """The rule where it says right, else the judge; of the answers that have his verdict. (Of the others only those would
    count that the rule takes for right.)"""
    return [a if a.score == 1.0 and b.score is not None else b for a, b in zip(rule, rows, strict=True)]


def agreement(name: str, ones: Sequence[Answered], others: Sequence[Answered]) -> Cell | None:
    """How often two say the same of an answer, over answers that both have a verdict on; errors by question."""
    both = [
        replace(a, score=float(a.score == b.score))
        for a, b in zip(ones, others, strict=True) if a.score is not None and b.score is not None
    ]  # fmt: skip
    return bare(over_questions(name, both)) if both else None


def kappa(ones: Sequence[Answered], others: Sequence[Answered]) -> float | None:
    """Cohen's kappa of two on the same answers; None where either always says the same."""
    pairs = [
        (a.score, b.score)
        for a, b in zip(ones, others, strict=True) if a.score is not None and b.score is not None
    ]  # fmt: skip
    if not pairs:
        return None
    a, b = np.array(pairs, dtype=np.float64).T
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    same = float((a == b).mean())
    return None if chance > 1 - 1e-9 or len(set(a)) < 2 or len(set(b)) < 2 else float((same - chance) / (1 - chance))


def lines(rule: Sequence[Answered], judges: Sequence[tuple[str, Sequence[Answered]]]) -> list[str]:
    """Where rule and judge part, and what judges failed on."""
    found = []
    for name, rows in judges:
        pairs = list(zip(rule, rows, strict=True))
        lone = sum(a.score == 1.0 and b.score == 0.0 for a, b in pairs)
        more = sum(a.score == 0.0 and b.score == 1.0 for a, b in pairs)
        failed = sum(a.score is not None and b.score is None for a, b in pairs)
        agreed = kappa(rule, rows)
        told = "" if agreed is None else f", Cohen's kappa {agreed:.2f}"
        found.append(f"rule and {name}: {lone:,} answers right by the rule alone, {more:,} by the judge alone{told}")
        if failed:
            found.append(f"{name} gave no verdict on {failed:,} answers: they are in none of its numbers")
    return found
