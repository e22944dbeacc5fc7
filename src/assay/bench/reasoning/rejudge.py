"""`assay policy judge`: further judges on the answers that `assay policy bench` kept. The policy is asked nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assay.bench.reasoning import kept
from assay.bench.reasoning.cards import JUDGED, Card
from assay.bench.reasoning.drivers import WEIGHTS
from assay.bench.reasoning.judging import Said, asked, concluded, verdicts
from assay.bench.reasoning.measure import Measured, answers_file
from assay.bench.reasoning.rows import Answered
from assay.bench.results import BenchmarkResult, Failed, Skipped
from assay.errors import AssayError
from assay.identity import of_file
from assay.llm.chat import Chat
from assay.tables import read_json, write_text


def rejudge(
    out: Path, judges: Sequence[Chat], prompt: str, ready: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> tuple[Measured, dict[str, Any]]:  # fmt: skip
    """The results of the folder `out` with these judges beside those that its cards name, and the file of results as it was.
    A judge that is there already is taken as it is here. `ready` is called before any judge is asked.

    Raises AssayError where there are no results, where answers are not those of their cards, and where a judge has nothing
    to judge.
    """
    before, cards = (_read(out / name) for name in ("results.json", "cards.json"))
    measured = Measured([], [], [])
    if not JUDGED & cards.keys():
        raise AssayError(
            f"{out}: nothing here is for a judge: it has {', '.join(cards)}, and judges compare {', '.join(sorted(JUDGED))}"
        )
    _check(out, cards)
    ready()
    for told in before["results"]:
        name = str(told["name"])
        if name not in cards:
            kind = Failed if "failed" in told and "skipped" not in told else Skipped
            measured.results.append(
                kind(name=name, reason=str(told.get("skipped") or told.get("failed") or "no number"))
            )
            continue
        card, rows = Card.of(cards[name]), kept.read(answers_file(out, name))
        said, notes = asked(name, rows, judges, prompt, say, measured.short, measured.undone)
        result, card = _beside(out, card, rows, said, notes)
        measured.results.append(result)
        cards[name] = card.as_json()
        write_text(out / "cards.json", json.dumps(cards, indent=2))
    return measured, before


def _beside(
    out: Path, card: Card, rows: Sequence[Answered], said: Said, notes: Sequence[str]
) -> tuple[BenchmarkResult, Card]:  # fmt: skip
    """The number with the judges of earlier commands first."""
    new = {judge.id for judge, _ in said}
    earlier = [(j, verdicts(out, card.benchmark, j, rows)) for j in card.judges if j.id not in new]
    every = [(judge, told) for judge, told in earlier if told is not None]
    lost = [
        f"the verdicts of judge {j.name} are not in {out / 'answers'} any more" for j, told in earlier if told is None
    ]
    weigh = WEIGHTS.get(card.benchmark)
    return concluded(rows, card, [*every, *said], out, [*lost, *notes], weigh(rows) if weigh else None)


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise AssayError(f"{file.parent}: no results of `assay policy bench` ({file.name} is missing)")
    return read_json(file)


def _check(out: Path, cards: dict[str, Any]) -> None:
    """Raises AssayError before anybody is asked, where a card is not of the answers that lie beside it."""
    for name, told in cards.items():
        file = answers_file(out, name)
        if not file.exists() or told.get("answers") != of_file(file):
            raise AssayError(
                f"{file}: not the answers that cards.json tells of (another command began, or it is of an earlier "
                "version): give the command of `assay policy bench` again, which asks for nothing that was answered"
            )
