"""The shapes in which people keep preferences, and how one row of each becomes judged pairs.

One small pure function per layout: a row in, a list of `Preferred` out, with a `RowError` in the place of each pair
that could not be made. `detect` looks at the first rows; a layout can also be named, with the label code where numbers
are ambiguous ("labelled:0/1").
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

from assay.curate.dialogues import PROMPTS, Row, RowError, has, pair_of, prompt_of, text
from assay.curate.labels import LabelCode, higher, number, numeric, verdict
from assay.errors import AssayError
from assay.records import Pair

MAX_LISTED = 64
"""Responses in one list: it becomes n (n - 1) / 2 pairs."""
_CHOSEN = (
    ("chosen", "rejected"), ("chosen", "reject"), ("preferred", "dispreferred"), ("preferred", "rejected"),
    ("response_w", "response_l"), ("chosen_response", "rejected_response"), ("positive", "negative"),
)  # fmt: skip
_STEMS = ("response", "answer", "output", "completion", "conversation", "candidate", "text", "summary", "human_ref")
_ENDS = (("_a", "_b"), ("_A", "_B"), ("_1", "_2"), ("1", "2"), ("_0", "_1"), (" 1", " 2"), (" A", " B"))
_TWO = (*((stem + one, stem + two) for stem in _STEMS for one, two in _ENDS), ("a1", "a2"), ("A", "B"))
_TWO_SCORES = tuple((f"{stem}{a}", f"{stem}{b}") for stem in ("score", "rating", "reward") for a, b in _ENDS)
_LABELS = (
    "label", "winner", "preference", "overall_preference", "preferred", "better", "better_response_id", "choice",
    "human", "verdict", "result", "chosen", "labels",
)  # fmt: skip
_VOTES = ("votes", "worker_labels", "labels", "annotations", "annotator_labels", "judgments", "judgements")
_LISTS = ("responses", "completions", "answers", "candidates", "outputs", "generations", "texts", "text", "summaries")
_SCORE = (
    "overall_score",
    "score",
    "rating",
    "reward",
    "helpfulness",
    "overall",
    "fine-grained_score",
    "quality",
    "pm_score",
)
_SCORES = ("scores", "score", "ratings", "rating", "rewards", "overall_scores")
_RANKS = ("ranks", "rank", "ranking", "rankings")
_ORDERED = ("ranked_responses", "ranked", "ranked_completions", "responses_best_first")
_TEXTS = ("response", "text", "content", "output", "answer", "completion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferred:
    """A pair with what its source says about it: `better` is a response id, or None for a tie.

    `votes` counts all opinions; `confidence` is the share of those naming a side that named `better` (1.0 for one).

    Example: Preferred(pair=pair, better=pair.responses[0].id, votes=3, confidence=2 / 3)
    """

    pair: Pair
    better: str | None
    votes: int = 1
    confidence: float = 1.0


Outcome = Preferred | RowError


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A named shape: whether a row has its fields, and how to read one."""

    name: str
    fits: Callable[[Row], bool]
    read: Callable[[Row], list[Outcome]]


def _present(row: Row, names: Iterable[str]) -> str | None:
    return next((n for n in names if row.get(n) is not None), None)


def _both(row: Row, choices: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """The first two names of `choices` that the row has, else the first of which it has one (the other is missing)."""
    known = [two for two in choices if two[0] in row or two[1] in row]
    return next((two for two in known if has(row, *two)), known[0] if known else None)


def chosen_rejected(row: Row) -> list[Outcome]:
    """chosen and rejected: texts after a prompt, HH dialogues, or message lists with or without the prompt."""
    fields = _both(row, _CHOSEN) or _CHOSEN[0]
    pair, (chosen, _) = pair_of(row, row.get(fields[0]), row.get(fields[1]), fields)
    return [Preferred(pair=pair, better=chosen)]


def _two(row: Row) -> tuple[Pair, tuple[str, str], tuple[str, str]]:
    fields = _both(row, _TWO) or ("response_a", "response_b")
    return *pair_of(row, row.get(fields[0]), row.get(fields[1]), fields), fields


def scored_pair(row: Row) -> list[Outcome]:
    """Two responses with a score each (WebGPT comparisons, SHP)."""
    fields = _both(row, _TWO_SCORES) or _TWO_SCORES[0]
    scores = [number(row.get(name), name) for name in fields]
    pair, ids, _ = _two(row)
    return [Preferred(pair=pair, better=higher(ids, scores))]


def labelled(row: Row, code: LabelCode | None = None) -> list[Outcome]:
    """A prompt, two responses and a label that names one of them or a tie."""
    name = _present(row, _LABELS) or "label"
    pair, ids, fields = _two(row)
    side = verdict(row.get(name), name, row, fields, code)
    return [Preferred(pair=pair, better=None if side is None else ids[side])]


def voted(row: Row, code: LabelCode | None = None) -> list[Outcome]:
    """Two responses and several people's labels: a list, numbered annotator fields, or two counts."""
    pair, ids, fields = _two(row)
    if has(row, "votes_a", "votes_b"):
        counts = [number(row[n], n) for n in ("votes_a", "votes_b")] + [number(row.get("votes_tie") or 0, "votes_tie")]
        if any(c < 0 or c != int(c) for c in counts) or not sum(counts):
            raise RowError("votes_a/votes_b", "are not counts of votes")
        return [tally(pair, ids, [0] * int(counts[0]) + [1] * int(counts[1]) + [None] * int(counts[2]))]
    good: list[int | None] = []
    bad: list[Outcome] = []
    for name, value in _votes(row):
        try:
            good.append(verdict(value, name, row, fields, code))
        except RowError as error:
            bad.append(error)
    if not good:
        raise bad[0] if bad and isinstance(bad[0], RowError) else RowError("votes", "hold no vote")
    return [tally(pair, ids, good), *bad]


def _votes(row: Row) -> list[tuple[str, Any]]:
    name = next((n for n in _VOTES if isinstance(row.get(n), list)), None)
    if name is not None:
        return [(f"{name}[{i}]", value) for i, value in enumerate(row[name])]
    return [(n, row[n]) for n in row if re.fullmatch(r"annotator_?\d+", n) and row[n] is not None]


def tally(pair: Pair, ids: tuple[str, str], sides: Sequence[int | None]) -> Preferred:
    """What several votes (0, 1, or None for a tie) come to: more votes win; equally many are a tie.

    `confidence` is the winner's share of all votes that name a side, so it is above 0.5.
    """
    ones, twos = sides.count(0), sides.count(1)
    if ones == twos:
        return Preferred(pair=pair, better=None, votes=len(sides))
    winner = ids[0] if ones > twos else ids[1]
    return Preferred(pair=pair, better=winner, votes=len(sides), confidence=max(ones, twos) / (ones + twos))


def scored_list(row: Row) -> list[Outcome]:
    """A list of responses with scores, beside them or inside them (UltraFeedback); every two make a pair."""
    name, items = _listed(row, _LISTS)
    beside = next((n for n in _SCORES if isinstance(row.get(n), list)), None)
    if beside is not None and len(row[beside]) != len(items):
        raise RowError(beside, f"has another length than {name} ({len(row[beside])}, not {len(items)})")
    entries: list[tuple[str, object, float] | RowError] = []
    for index, item in enumerate(items):
        field = f"{name}[{index}]"
        inside = _present(item, _SCORE) if isinstance(item, dict) else None
        try:
            if beside is not None:
                entries.append((field, _said(item), number(row[beside][index], f"{beside}[{index}]")))
            elif inside is not None:
                entries.append((field, _said(item), number(item[inside], f"{field}.{inside}")))
            else:
                raise RowError(field, "has no score")
        except RowError as error:
            entries.append(error)
    return compared(row, entries)


def ranked_list(row: Row) -> list[Outcome]:
    """A list of responses ordered best first, or with ranks (1 = best) beside or inside them (Nectar)."""
    if (ordered := _present(row, _ORDERED)) is not None:
        name, items = _listed(row, (ordered,))
        ranks: list[object] = list(range(len(items)))
    else:
        name, items = _listed(row, _LISTS)
        beside = _present(row, _RANKS)
        inside = [i.get("rank") if isinstance(i, dict) else None for i in items]
        ranks = list(row[beside]) if beside and isinstance(row[beside], list) else inside
    if len(ranks) != len(items):
        raise RowError("ranks", f"have another length than {name} ({len(ranks)}, not {len(items)})")
    entries: list[tuple[str, object, float] | RowError] = []
    for index, (item, rank) in enumerate(zip(items, ranks, strict=True)):
        try:
            entries.append((f"{name}[{index}]", _said(item), -number(rank, f"{name}[{index}].rank")))
        except RowError as error:
            entries.append(error)
    return compared(row, entries)


def _listed(row: Row, names: Sequence[str]) -> tuple[str, list[Any]]:
    name = next((n for n in names if isinstance(row.get(n), list)), None)
    if name is None:
        raise RowError(names[0], "is not a list of responses")
    if not 2 <= len(row[name]) <= MAX_LISTED:
        raise RowError(name, f"must hold 2 to {MAX_LISTED} responses ({len(row[name])})")
    return name, row[name]


def _said(item: object) -> object:
    return item[_present(item, _TEXTS) or "response"] if isinstance(item, dict) and _present(item, _TEXTS) else item


def compared(row: Row, entries: Sequence[tuple[str, object, float] | RowError]) -> list[Outcome]:
    """Every two of (field, response, score) as a pair; what is wrong with one response does not harm the others."""
    outcomes: list[Outcome] = [e for e in entries if isinstance(e, RowError)]
    good: list[tuple[str, object, float]] = []
    for entry in entries:
        if isinstance(entry, tuple):
            try:
                if not isinstance(entry[1], list):
                    text(entry[1], entry[0])
                good.append(entry)
            except RowError as error:
                outcomes.append(error)
    for (field, one, high), (other_field, other, low) in combinations(good, 2):
        try:
            pair, ids = pair_of(row, one, other, (field, other_field))
            outcomes.append(Preferred(pair=pair, better=higher(ids, (high, low))))
        except RowError as error:
            outcomes.append(error)
    return outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """One response with a score, of which rows with the same `prompt_key` that follow each other make pairs."""

    prompt_key: str
    row: Row
    response: str
    score: float


def rated_row(row: Row) -> Rated:
    """A row of the layout "rated": one response a row with its rating (HelpSteer)."""
    prompt = prompt_of(row)
    if prompt is None:
        raise RowError("prompt", "is missing or empty")
    name = _present(row, _SCORE) or "score"
    score, said = number(row.get(name), name), text(row.get("response"), "response")
    return Rated(prompt_key=repr(prompt), row=row, response=said, score=score)


def rated_group(group: Sequence[Rated]) -> list[Outcome]:
    if len(group) > MAX_LISTED:
        raise RowError("prompt", f"has more than {MAX_LISTED} rated responses in a row")
    if len(group) < 2:
        raise RowError("response", "is the only one to its prompt: nothing to compare it with in the next rows")
    return compared(group[0].row, [(f"response {i + 1}", r.response, r.score) for i, r in enumerate(group)])


def _unread(row: Row) -> list[Outcome]:
    raise AssertionError("rows of the layout 'rated' are read in groups")


def numbers(row: Row) -> set[float]:
    """The numbers among the row's labels and votes; true and false are none, for they never say which response."""
    name = _present(row, _LABELS)
    values = [v for _, v in _votes(row)] + ([row[name]] if name and name != "overall_preference" else [])
    return {n for v in values if not isinstance(v, bool) and (n := numeric(v)) is not None}


def pair_fields(row: Row) -> tuple[str, str] | None:
    """The names of the two response fields, where the row has both."""
    fields = _both(row, _TWO)
    return fields if fields and has(row, *fields) else None


def _is_scored(row: Row) -> bool:
    items = next((row[n] for n in _LISTS if isinstance(row.get(n), list)), None)
    return items is not None and (
        any(isinstance(row.get(n), list) for n in _SCORES)
        or any(isinstance(i, dict) and _present(i, _SCORE) for i in items)
    )


def _is_ranked(row: Row) -> bool:
    items: list[Any] = next((row[n] for n in _LISTS if isinstance(row.get(n), list)), [])
    inside = any(isinstance(i, dict) and "rank" in i for i in items)
    return bool(_present(row, _ORDERED)) or inside or (bool(items) and bool(_present(row, _RANKS)))


def _is_voted(row: Row) -> bool:
    return bool(pair_fields(row)) and (bool(_votes(row)) or has(row, "votes_a", "votes_b"))


def _is_scored_pair(row: Row) -> bool:
    return bool(pair_fields(row)) and any(has(row, *two) for two in _TWO_SCORES)


def _is_labelled(row: Row) -> bool:
    return bool(pair_fields(row)) and bool(_present(row, _LABELS))


def _is_rated(row: Row) -> bool:
    return has(row, "response") and bool(_present(row, PROMPTS)) and bool(_present(row, _SCORE))


RATED = Layout(name="rated", fits=_is_rated, read=_unread)
LAYOUTS = (
    Layout(name="chosen-rejected", fits=lambda row: any(has(row, *two) for two in _CHOSEN), read=chosen_rejected),
    Layout(name="voted", fits=_is_voted, read=voted),
    Layout(name="scored-pair", fits=_is_scored_pair, read=scored_pair),
    Layout(name="labelled", fits=_is_labelled, read=labelled),
    Layout(name="ranked-list", fits=_is_ranked, read=ranked_list),
    Layout(name="scored-list", fits=_is_scored, read=scored_list),
    RATED,
)
"""In the order in which a row is tried."""


def named(name: str) -> Layout:
    """The layout of that name, with a label code if one follows ("labelled:1/2"). Raises AssayError when unknown."""
    stem, _, code = name.partition(":")
    layout = next((x for x in LAYOUTS if x.name == stem), None)
    given = re.fullmatch(r"(-?\d)/(-?\d)", code) if code else None
    if layout is None or (code and (given is None or given[1] == given[2] or stem not in ("labelled", "voted"))):
        known = ", ".join(x.name for x in LAYOUTS)
        raise AssayError(
            f"'{name}' is not a layout; use one of {known}; labelled and voted can carry the numbers that stand "
            "for the first and second response, as in labelled:0/1 or labelled:1/2"
        )
    return layout if given is None else coded(layout, (float(given[1]), float(given[2])))


def coded(layout: Layout, code: LabelCode | None) -> Layout:
    """`layout` with its number labels read by `code`, which its name then tells (labelled:0/1)."""
    if code is None:
        return layout
    read = {"labelled": labelled, "voted": voted}[layout.name]
    return dataclasses.replace(layout, name=f"{layout.name}:{code[0]:g}/{code[1]:g}", read=partial(read, code=code))


def fitting(row: Row) -> Layout | None:
    """The first layout whose fields the row has."""
    return next((x for x in LAYOUTS if x.fits(row)), None)


def detect(rows: Iterable[Row]) -> Layout | None:
    """The layout of most rows, or None when no row has the fields of any."""
    counts = Counter(layout.name for row in rows if (layout := fitting(row)) is not None)
    return named(counts.most_common(1)[0][0]) if counts else None
