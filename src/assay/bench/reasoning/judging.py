"""A benchmark's number from its rows, by the rule and by judges of equivalence: those of this command, and of earlier ones.

OUT/answers/NAME.judge-ID.jsonl    a judge's verdicts, in the order of the answers
OUT/cards.json                     of each benchmark its judges, and of which answers their verdicts are
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from assay.bench.reasoning import equivalence, estimates
from assay.bench.reasoning.cards import JUDGED, Card, Judge
from assay.bench.reasoning.rows import Answered
from assay.bench.results import BenchmarkResult
from assay.errors import AssayError, Stopped
from assay.llm.chat import Chat
from assay.records import digest
from assay.tables import write_text

Said = list[tuple[Judge, list[Answered]]]
"""Judges, and of each the rows with its verdicts as scores."""


def judge_of(chat: Chat, prompt: str) -> Judge:
    """Who judges, and how it is asked."""
    config = getattr(chat, "config", None)
    known = {"url": config.home, "temperature": config.temperature, "max_tokens": config.max_tokens} if config else {}
    return Judge(name=chat.name, prompt=digest(prompt)[:8], own_prompt=prompt != equivalence.PROMPT, **known)


def asked(
    benchmark: str, rows: Sequence[Answered], judges: Sequence[Chat], prompt: str, say: Callable[[str], None],
    short: list[str], undone: list[str],
) -> tuple[Said, list[str]]:  # fmt: skip
    """What each judge says of the rows, and notes of those that did not answer: these take nothing from the others. Where a
    budget ended is added to `short`, what a judge left undone to `undone`."""
    found, notes = Said(), list[str]()
    for chat in judges if benchmark in JUDGED else ():
        say(f"{benchmark}: {chat.name} judges {len(rows):,} answers")
        try:
            found.append((judge_of(chat, prompt), equivalence.judged(rows, chat, prompt)))
        except Stopped as error:
            short.append(f"{benchmark} (judge {chat.name})")
            notes.append(f"judge {chat.name}: {error}")
        except AssayError as error:
            undone.append(f"{benchmark}: judge {chat.name}: {error}")
            notes.append(f"no numbers of judge {chat.name}: {error}")
    return found, notes


def concluded(
    rows: Sequence[Answered], card: Card, said: Said, out: Path, notes: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
) -> tuple[BenchmarkResult, Card]:  # fmt: skip
    """The number of rows, with what each judge makes of them, and its card; verdicts are kept in the folder `out`."""
    judges = tuple(judge for judge, _ in said)
    for judge, told in said:
        write_text(verdicts_file(out, card.benchmark, judge), "".join(map(_verdict, told)))
    by = [(name, told) for name, (_, told) in zip(labels(judges), said, strict=True)]
    none = "none: the rule alone, for no judge answered" if notes and not judges else "none: the rule alone"
    named = ", ".join(f"{name} ({judge.how})" for (name, _), judge in zip(by, judges, strict=True))
    card = replace(card, judges=judges, judge=f"rule first, then {named}" if named else none)
    more = equivalence.totals(rows, by)
    if (same := estimates.repeats_apart(rows)) is not None:
        more.append(same)
    lines = [*card.flaws, *notes, *equivalence.lines(rows, by)]
    return estimates.result(rows, card, more, lines, weights), card


def labels(judges: Sequence[Judge]) -> list[str]:
    """Their names; those of one name are told apart by what differs: their address, prompt and temperature."""
    named = [j.name for j in judges]
    apart: tuple[Callable[[Judge], str], ...] = (
        lambda j: f"at {j.url}",
        lambda j: f"prompt {j.prompt}",
        lambda j: f"temperature {j.temperature}",
    )
    for tell in apart:
        for name, count in Counter(named).items():
            alike = [n for n, other in enumerate(named) if other == name]
            if count > 1 and len({tell(judges[n]) for n in alike}) > 1:
                for n in alike:
                    named[n] = f"{name} {tell(judges[n])}"
    return named


def verdicts_file(out: Path, benchmark: str, judge: Judge) -> Path:
    return out / "answers" / f"{benchmark}.judge-{judge.id}.jsonl"


def _verdict(row: Answered) -> str:
    told = ("subset", "question", "repeat", "by", "score", "fault")
    return json.dumps({name: getattr(row, name) for name in told}) + "\n"


def verdicts(out: Path, benchmark: str, judge: Judge, rows: Sequence[Answered]) -> list[Answered] | None:
    """The rows with the verdicts that a judge gave of them earlier; None where these are not there, or of other answers."""
    try:
        text = verdicts_file(out, benchmark, judge).read_text(encoding="utf-8")
        told = [json.loads(line) for line in text.split("\n") if line]
        places = [(r["subset"], r["question"], r["repeat"]) for r in told]
        if places != [(r.subset, r.question, r.repeat) for r in rows]:
            return None
        return [
            replace(row, by=r["by"], score=r["score"], fault=r["fault"], parts={})
            for row, r in zip(rows, told, strict=True)
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
