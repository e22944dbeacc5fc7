"""What can be read in two ways is asked about: over a whole file, which readings fit, and what a row says in each.

Nothing here decides by likelihood. A layout comes back ready to read when one reading fits all rows, else as an `Ambiguous`
whose message has every reading, a row read each way, and the flag that names it.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from assay.formats import lists, rated, rival_fields
from assay.formats.labels import LabelCode, label_codes, numeric, verdict
from assay.formats.layouts import LAYOUTS, Layout, coded, named
from assay.formats.preferred import Outcome, Preferred
from assay.formats.rows import Row, RowError

EXAMPLES = 64
_SHOWN, _KNOWN, _LONG = 8, 10_000, 1000
"""So many rows are kept as examples whatever they say; so many ways of saying something are known, of so many characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way to read a file: the flags that name it, what they mean in words, and what a row says then."""

    flags: str
    words: str
    tells: Callable[[Row], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ambiguous:
    """What can be read in several ways, and these."""

    what: str
    readings: tuple[Reading, ...]

    def message(self, examples: Sequence[tuple[int, Row]]) -> str:
        """All readings on one line, with the first row that they read differently."""
        shown = next(
            (e for e in examples if len({r.tells(e[1]) for r in self.readings}) > 1), examples[0] if examples else None
        )
        ways = []
        for reading in self.readings:
            then = f"; row {shown[0]} then {reading.tells(shown[1])}" if shown else ""
            ways.append(f"{reading.flags} ({reading.words}{then})")
        return f"{self.what}: more than one reading fits; say which it is: {'; or '.join(ways)}"


def _telling(read: Callable[[Row], list[Outcome]]) -> Callable[[Row], str]:
    """In words, which response a row prefers when it is read so."""

    def tells(row: Row) -> str:
        try:
            made = read(row)
        except RowError as error:
            return f"cannot be read: {error}"
        first = next((m for m in made if isinstance(m, Preferred)), None)
        if first is None:
            return "cannot be read"
        if first.better is None:
            return "is a tie"
        better, other = (first.pair.response(i).text[:40] for i in (first.better, first.pair.other(first.better)))
        return f"prefers {better!r} to {other!r}"

    return tells


def _between(what: str, *ways: tuple[str, str, Callable[[Row], list[Outcome]]]) -> Ambiguous:
    readings = tuple(Reading(flags=flags, words=words, tells=_telling(read)) for flags, words, read in ways)
    return Ambiguous(what=what, readings=readings)


def _layouts(*said: tuple[str, str]) -> list[tuple[str, str, Callable[[Row], list[Outcome]]]]:
    return [(f"--layout {name}", words, named(name).read) for name, words in said]


def _not_read(row: Row) -> str:
    return "is not read"


@dataclass
class Survey:
    """What the rows of one layout show: their numbers, which labels disagree, up to EXAMPLES telling rows."""

    numbers: Counter[float] = field(default_factory=Counter)
    fields: tuple[str, str] | None = None
    name: str = ""
    apart: set[str] = field(default_factory=set)
    by_scores: dict[tuple[float, int | None], int] = field(default_factory=dict)
    booleans: bool = False
    index: set[tuple[float, int]] = field(default_factory=set)
    kinds: set[str | None] = field(default_factory=set)
    beside: dict[tuple[str, float | None], set[int | str | None]] = field(default_factory=dict)
    steps: int = 0
    rows: int = 0
    examples: list[tuple[int, Row]] = field(default_factory=list)

    def size(self) -> tuple[int, ...]:
        """How much was seen that differs from row to row."""
        many = (self.numbers, self.apart, self.index, self.kinds, self.by_scores)
        return (*map(len, many), self.steps > 0, self.booleans)


def resolved(
    layout: Layout, rows: Iterable[tuple[int, Row]], mapped: Iterable[str] = ()
) -> tuple[Layout | Ambiguous, Survey]:
    """`layout` as all (number, row) of a file say that it must be read, or what has to be asked.

    `mapped` are the fields that were named by hand, which need no question.
    """
    survey = Survey()
    known: dict[Hashable, list[float] | None] = {}
    for number, row in rows:
        said = _said(layout, row) if len(survey.examples) >= _SHOWN else None
        if said in known:
            numbers = known[said]
            survey.rows += numbers is not None
            survey.numbers.update(numbers or ())
            continue
        fits = layout.fits(row)
        if fits:
            survey.rows += 1
            if _note(survey, layout, row) or len(survey.examples) < _SHOWN:
                survey.examples = [*survey.examples, (number, row)][:EXAMPLES]
        if said is not None and len(known) < _KNOWN:
            known[said] = _numbers(layout, row) if fits else None
    decide = _DECIDE.get(layout.base)
    return (decide(layout, survey, frozenset(mapped)) if decide and not layout.said else layout), survey


def _said(layout: Layout, row: Row) -> Hashable:
    """All that a survey looks at in a row of two responses, so that rows of which it is equal need one look together; None
    where the responses themselves are looked at (of several labels, each may be the text of one)."""
    if layout.base not in ("labelled", "voted", "scored-pair") or len(rival_fields.label_names(row)) > 1:
        return None
    said = [row[n] for n in rival_fields.saying(tuple(row))]
    told = repr(said)
    return (*row, *(v is None for v in row.values()), told) if len(told) < _LONG else None


def _numbers(layout: Layout, row: Row) -> list[float]:
    return rival_fields.numbers(row) if layout.base in ("labelled", "voted") else []


def has_questions(layout: Layout) -> bool:
    """Whether a layout that was found (or named) leaves something open that only all rows can tell."""
    return layout.base in _DECIDE and not layout.said


def _note(survey: Survey, layout: Layout, row: Row) -> bool:
    """Take in one row; True where it shows something new."""
    before = survey.size()
    if layout.base in ("labelled", "voted"):
        survey.numbers.update(_numbers(layout, row))
        survey.fields = survey.fields or rival_fields.pair_fields(row)
        name = rival_fields.label_of(row) or ""
        survey.name = survey.name or name
        survey.booleans |= isinstance(row.get(name), bool)
        if layout.base == "labelled" and not rival_fields.one_hot(row):
            _note_labels(survey, row)
    elif layout.base == "scored-pair":
        _note_scores(survey, row)
    elif layout.base == "indexed":
        _note_index(survey, row)
    elif layout.base == "ranked-list":
        survey.kinds.add(lists.rank_kind(row))
    elif layout.base == "scored-list":
        survey.steps += lists.steps(row)
        for (one, first), (other, second) in combinations(lists.measures(row).items(), 2):
            survey.apart.update([one, other] if lists.in_other_order(first, second) else [])
    elif layout.base == "rated":
        told = [n for n in lists.SCORE if row.get(n) is not None]
        survey.apart.update(told if len({str(row[n]) for n in told}) > 1 else [])
    elif layout.base == "unpaired":
        value = row.get(rival_fields.present(row, rated.DESIRED) or "")
        if not isinstance(value, bool) and (asked := numeric(value)) is not None:
            survey.numbers[asked] += 1
    return before != survey.size()


def _note_labels(survey: Survey, row: Row) -> None:
    """Labels that name different responses: words that do, numbers that are not equal, and numbers beside words that name
    now one response and now the other."""
    names, fields = rival_fields.label_names(row), survey.fields
    if len(names) < 2 or fields is None:
        return
    worded = {n: _side(row, n, fields) for n in names if numeric(row[n]) is None}
    counted = {n: numeric(row[n]) for n in names if n not in worded}
    if len(set(worded.values())) > 1 or (not worded and len(set(counted.values())) > 1):
        survey.apart.update(names)
    for name, value in counted.items():
        for side in worded.values():
            survey.beside.setdefault((name, value), set()).add(side)
            if len(survey.beside[name, value]) > 1:
                survey.apart.update(names)


def _side(row: Row, name: str, fields: tuple[str, str]) -> int | str | None:
    try:
        return verdict(row[name], name, row, fields, None)
    except RowError:
        return str(row[name])


def _note_index(survey: Survey, row: Row) -> None:
    name, items = lists.index_of(row), lists.listed(row)
    asked = numeric(row[name]) if name and not isinstance(row[name], bool) else None
    if asked is None or items is None or lists.counted_from(row) is not None:
        return
    survey.index.add((asked, len(items[1])))
    survey.name = name or ""
    if isinstance(row.get("rejected"), int | float) and name == "chosen":
        survey.index.add((float(row["rejected"]), len(items[1])))


def _note_scores(survey: Survey, row: Row) -> None:
    """Which side the scores prefer under each number of the label beside them."""
    name = rival_fields.label_of(row)
    asked = numeric(row[name]) if name else None
    scores = rival_fields.both(row, rival_fields.TWO_SCORES)
    if asked is None or scores is None or rival_fields.published_code(row) is not None:
        return
    one, other = (numeric(row[n]) for n in scores)
    if one is not None and other is not None and one != other:
        survey.name = name or ""
        survey.fields = scores
        key = (asked, int(other > one))
        survey.by_scores[key] = survey.by_scores.get(key, 0) + 1


def _labelled(layout: Layout, survey: Survey, mapped: frozenset[str]) -> Layout | Ambiguous:
    if survey.apart and not {"label", "votes"} & mapped:
        names = [n for n in rival_fields.LABELS if n in survey.apart]
        ways = ((f"--map label={n}", f"{n} says it", _mapped_label(layout, n, survey)) for n in names)
        return _between(f"{', '.join(names)} name different responses", *ways)
    if not survey.numbers and not survey.booleans:
        return layout
    first, second = survey.fields or ("the first", "the second")
    codes = label_codes(survey.numbers, survey.fields) if survey.numbers else [(1.0, 0.0), (0.0, 1.0)]
    if len(codes) == 1:
        return coded(layout, codes[0])
    where = "votes" if layout.base == "voted" else survey.name or "the label"
    seen = ", ".join(f"{v:g}" for v in sorted(survey.numbers)[:12]) or "true, false"
    readings = tuple(
        Reading(
            flags=f"--layout {(made := coded(layout, code)).name}",
            words=_code_words(code, first, second),
            tells=_telling(made.read),
        )
        for code in codes
    )
    if not readings:
        example = coded(layout, (0, 1, 2))
        readings = (
            Reading(flags=f"--layout {layout.base}:FIRST/SECOND/TIE", words=f"as in {example.name}", tells=_not_read),
        )
    return Ambiguous(what=f"the numbers in {where} ({seen})", readings=readings)


def _code_words(code: LabelCode, first: str, second: str) -> str:
    tie = f", {code[2]:g} a tie" if len(code) > 2 else ""
    return f"{code[0]:g} is for {first!r}, {code[1]:g} for {second!r}{tie}"


def _mapped_label(layout: Layout, name: str, survey: Survey) -> Callable[[Row], list[Outcome]]:
    only = Counter(n for _, r in survey.examples if (n := numeric(r.get(name))) is not None)
    codes: list[LabelCode] = label_codes(only, survey.fields) if only else []
    read = coded(layout, codes[0]).read if len(codes) == 1 else layout.read
    return lambda row: read({**{k: v for k, v in row.items() if k not in rival_fields.LABELS}, "label": row.get(name)})


def _scored_pair(layout: Layout, survey: Survey, mapped: frozenset[str]) -> Layout | Ambiguous:
    sides: dict[float, set[int | None]] = {}
    for value, side in survey.by_scores:
        sides.setdefault(value, set()).add(side)
    if all(len(s) == 1 for s in sides.values()) or survey.fields is None:
        return layout
    ignoring = " ".join(f"--ignore {n}" for n in survey.fields)
    labels = next(x for x in LAYOUTS if x.base == "labelled")
    return _between(
        f"{survey.name} and {'/'.join(survey.fields)} say different things",
        (f"--ignore {survey.name}", "the scores say it", lambda row: layout.read(_without(row, survey.name))),
        (ignoring, f"{survey.name} says it", labels.read),
    )


def _without(row: Row, *names: str) -> Row:
    return {k: v for k, v in row.items() if k not in names}


def _indexed(layout: Layout, survey: Survey, mapped: frozenset[str]) -> Layout | Ambiguous:
    if not survey.index:
        return layout
    zero = all(0 <= v < n for v, n in survey.index)
    one = all(1 <= v <= n for v, n in survey.index)
    two = all(n == 2 for _, n in survey.index)
    if zero != one and not two:
        return named(f"indexed:{0 if zero else 1}")
    what = f"the numbers in {survey.name} ({', '.join(sorted({f'{v:g}' for v, _ in survey.index})[:12])})"
    return _between(what, *_layouts(("indexed:0", "responses count from 0"), ("indexed:1", "responses count from 1")))


def _ranked(layout: Layout, survey: Survey, mapped: frozenset[str]) -> Layout | Ambiguous:
    if None not in survey.kinds:
        return layout
    words = {
        "low": "the lowest rank is the best",
        "high": "the highest is the best",
        "order": "they number the responses, best first",
    }
    return _between("the ranks of the responses", *_layouts(*((f"ranked-list:{k}", w) for k, w in words.items())))


def _scored(layout: Layout, survey: Survey, mapped: frozenset[str]) -> Layout | Ambiguous:
    if survey.apart:
        names = sorted(survey.apart)
        ways = ((f"{layout.base}:{n}", f"{n} says how good a response is") for n in names)
        return _between(f"the scores {', '.join(names)} say different things", *_layouts(*ways))
    if survey.steps * 2 < survey.rows or not survey.rows:
        return layout
    return Ambiguous(what="a list of scored texts that may be the steps of one solution", readings=(
        Reading(flags="--layout scored-list", words="they are rival responses", tells=_telling(layout.read)),
        Reading(flags="leave the file out", words="they are steps, which are no preferences", tells=_not_read),
    ))  # fmt: skip


def _rated(layout: Layout, survey: Survey, mapped: frozenset[str]) -> Layout | Ambiguous:
    if not survey.apart:
        return layout
    names = sorted(survey.apart)
    return Ambiguous(what=f"the scores {', '.join(names)} of each response", readings=tuple(
        Reading(flags=f"--layout rated:{n}", words=f"{n} says how good a response is", tells=_score(n)) for n in names
    ))  # fmt: skip


def _score(name: str) -> Callable[[Row], str]:
    return lambda row: f"has {row.get(name)}"


def _unpaired(layout: Layout, survey: Survey, mapped: frozenset[str]) -> Layout | Ambiguous:
    if not survey.numbers:
        return layout
    seen = sorted(survey.numbers)
    pairs: list[Any] = [(1, 0), (0, 1)] if set(seen) <= {0, 1} else [(seen[-1], seen[0]), (seen[0], seen[-1])]
    made = [(a, b, coded(layout, (a, b))) for a, b in pairs]
    what = f"the numbers in the label of each response ({', '.join(f'{v:g}' for v in seen[:12])})"
    return Ambiguous(what=what, readings=tuple(
        Reading(flags=f"--layout {x.name}", words=f"{a:g} is wanted, {b:g} is not", tells=_alone(x)) for a, b, x in made
    ))  # fmt: skip


def _alone(layout: Layout) -> Callable[[Row], str]:
    def tells(row: Row) -> str:
        assert layout.one is not None
        try:
            return "is wanted" if layout.one(row).score else "is not wanted"
        except RowError as error:
            return f"cannot be read: {error}"

    return tells


_DECIDE: dict[str, Callable[[Layout, Survey, frozenset[str]], Layout | Ambiguous]] = {
    "labelled": _labelled, "voted": _labelled, "scored-pair": _scored_pair, "indexed": _indexed, "ranked-list": _ranked,
    "scored-list": _scored, "unpaired": _unpaired, "rated": _rated,
}  # fmt: skip
