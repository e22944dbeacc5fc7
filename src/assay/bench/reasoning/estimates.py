"""From answers to a benchmark's number: pass@1 as the mean of k answers, averaged per question first, errors by question.

    value = mean over questions of (mean over the question's answers of their scores)

The k answers to one question are no k questions: the interval is over questions (`assay.statistics`), which counts both that
questions differ and that answers do. What got no score is in no number; coverage says how much that is, and a diagnostic
what the number were if all of it was wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from assay.bench.reasoning.cards import Card
from assay.bench.reasoning.rows import Answered
from assay.bench.results import BenchmarkResult, Cell, cell
from assay.errors import AssayError

Value = Callable[[Answered], float | None]


def result(
    rows: Sequence[Answered], card: Card, more: Sequence[Cell] = (), notes: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
) -> BenchmarkResult:  # fmt: skip
    """The benchmark's result: the headline, its subsets, and what a reader must know. `more`: further diagnostics; by those
    that keep their terms models are compared too. `weights`: of the subsets whose weighted mean the total is; the others are
    in none.

    Raises AssayError where no answer has a score.
    """
    told = [r for r in rows if r.score is not None]
    if not told:
        first = next((r.fault for r in rows if r.fault), "the library gave no rows")
        raise AssayError(f"{card.benchmark}: none of {len(rows):,} answers has a score ({first})")
    headline = _headline(told, card, weights)
    parts = sorted({name for r in told for name in r.parts})
    slices = [over_questions(name, told, partial(_part, name)) for name in parts]
    if len(parts) > 1:
        slices.append(over_questions("mean of these", told, lambda r: sum(r.parts.values()) / len(r.parts)))
    subsets = sorted({r.subset for r in told})
    if len(subsets) > 1:
        slices += [over_questions(s or "(none)", [r for r in told if r.subset == s]) for s in subsets]
    worst = over_questions("missing as wrong", rows, lambda r: r.score or 0.0)
    asked = len({_place(r) for r in rows})
    answered = len({_place(r) for r in told})
    missing = len(rows) - len(told)
    return BenchmarkResult(
        name=card.benchmark, n=answered, total=card.questions, headline=headline, slices=tuple(slices),
        notes=(*_notes(rows, card), *card.lines(), *notes), protocol=card.line(), failed=asked - answered,
        diagnostics=(*((bare(worst),) if missing else ()), *more), beside=tuple(c for c in more if c.terms),
        whole=headline is not None and not missing and answered == card.questions == card.published,
    )  # fmt: skip


def _headline(told: Sequence[Answered], card: Card, weights: Mapping[str, float] | None) -> Cell | None:
    """The total; None where a subset that it is the mean of has no answers."""
    here = {r.subset for r in told}
    if weights is not None:
        if not set(weights) <= here:
            return None
        return over_questions(card.measure, [r for r in told if r.subset in weights], grouped=True, weights=weights)
    if card.by_subset and not set(card.subsets) <= here:
        return None
    return over_questions(card.measure, told, grouped=card.by_subset)


def over_questions(
    name: str, rows: Sequence[Answered], value: Value = lambda r: r.score, grouped: bool = False,
    weights: Mapping[str, float] | None = None,
) -> Cell:  # fmt: skip
    """The mean over questions of the means of their answers; rows without a value are left out. `grouped`: the plain mean of
    the subsets' means (MMMU-Pro: standard and vision), or that by `weights`. Where an answer's number is itself a mean over
    several things (its `weights`: IFEval's instructions), the mean is over those."""
    by: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    times: dict[tuple[str, str], int] = {}
    texts: dict[tuple[str, str], str] = {}
    for row in rows:
        if (found := value(row)) is not None:
            by[_place(row)].append(found)
            times[_place(row)] = round(row.weights.get(name, 1))
            texts[_place(row)] = "" if grouped else f"\n{row.text}"  # other data under the same ids are other questions
    places = [p for p in sorted(by) for _ in range(times[p])]
    means = [sum(by[p]) / len(by[p]) for p in places]
    clusters = [place[1] + texts[place] for place in places]
    draws = max(1, sum(map(len, by.values())) // max(1, len(by)))
    return cell(name, means, clusters, [subset for subset, _ in places] if grouped else None, weights, draws)


def repeats_apart(rows: Sequence[Answered]) -> Cell | None:
    """How often an answer to a question has the score of another answer to it; None without repeats. Questions whose
    answers never differ tell no more at five than at one."""
    by: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row.score is not None:
            by[_place(row)].append(row.score)
    pairs = {p: v for p, v in sorted(by.items()) if len(v) > 1}
    if not pairs:
        return None
    same = [_alike(v) for v in pairs.values()]
    return bare(cell("two answers score alike", same, [q for _, q in pairs]))


def _alike(scores: Sequence[float]) -> float:
    n = len(scores)
    return sum(c * (c - 1) for c in Counter(scores).values()) / (n * (n - 1))


def _part(name: str, row: Answered) -> float | None:
    return row.parts.get(name)


def _place(row: Answered) -> tuple[str, str]:
    return row.subset, row.question


def bare(cell_: Cell) -> Cell:
    """A number that is told and never compared with another model's."""
    return replace(cell_, terms=None)


def _notes(rows: Sequence[Answered], card: Card) -> list[str]:
    """Coverage, and what became of answers that did not end or say nothing."""
    n = len(rows)
    missing = [r for r in rows if r.score is None]
    lines = [f"coverage {(n - len(missing)) / n:.1%}: {n - len(missing):,} of {n:,} answers have a score"]
    lines += [
        f"without a score, {count:,} times: {why}" for why, count in Counter(r.fault for r in missing).most_common()
    ]
    thought = sum(r.all_thought for r in rows)
    cut = sum(not r.finished and not r.all_thought and r.score is not None for r in rows)
    if thought:
        lines.append(f"{thought:,} of {n:,} answers ended inside their thoughts: wrong, whatever box stands in them")
    if cut:
        became = "are wrong by that" if card.cut_is_wrong else "scored as they stand"
        lines.append(f"{cut:,} of {n:,} answers were cut at {card.cut_at} and {became}")
    if empty := sum(r.score is not None and not r.extracted and not r.all_thought for r in rows if card.extracts):
        lines.append(f"{empty:,} of {n:,} answers have nothing that the rule reads as an answer: wrong")
    if (asked := len({_place(r) for r in rows})) < card.questions:
        lines.append(f"{asked:,} of {card.questions:,} questions were asked: a sample, and no random one")
    return lines
