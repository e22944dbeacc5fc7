"""Which fields of a row hold two rival responses, and which of them say which is better, by the names in use.

What depends on a row's field names alone is worked out once for each set of them.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from assay.formats.labels import LabelCode, numeric, verdict
from assay.formats.rows import Row, RowError, has

CHOSEN = (
    ("chosen", "rejected"), ("chosen", "reject"), ("preferred", "dispreferred"), ("preferred", "rejected"),
    ("response_w", "response_l"), ("chosen_response", "rejected_response"), ("positive", "negative"),
    ("messages", "rejected_messages"), ("messages", "rejected_response"), ("response", "rejected_response"),
    ("preferred_output", "non_preferred_output"), ("response", "rejected"), ("completion", "rejected"),
    ("chosen", "rejected_response"), ("accepted", "rejected"), ("chosen_messages", "rejected_messages"),
    ("better_response", "worse_response"),
    ("response_chosen", "response_rejected"), ("chosen_completion", "rejected_completion"), ("y_w", "y_l"),
)  # fmt: skip
_STEMS = (
    "response",
    "answer",
    "output",
    "completion",
    "conversation",
    "candidate",
    "text",
    "summary",
    "human_ref",
    "generation",
)
_ENDS = (
    ("_a", "_b"), ("_A", "_B"), ("_1", "_2"), ("1", "2"), ("_0", "_1"), (" 1", " 2"), (" A", " B"), ("-1", "-2"),
    ("0", "1"), ("-a", "-b"), ("_left", "_right"),
)  # fmt: skip
TWO = (*((stem + one, stem + two) for stem in _STEMS for one, two in _ENDS), ("a1", "a2"), ("A", "B"))
TWO_SCORES = tuple((f"{stem}{a}", f"{stem}{b}") for stem in ("score", "rating", "reward") for a, b in _ENDS)
TWO_NAMES = frozenset(name for two in TWO for name in two)
LABELS = (
    "label", "winner", "preference", "overall_preference", "preference_strength", "preferred", "better",
    "better_response_id", "safer_response_id", "choice", "human", "verdict", "result", "chosen", "labels",
)  # fmt: skip
ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")
_VOTES = ("votes", "worker_labels", "labels", "annotations", "annotator_labels", "judgments", "judgements")
_SCORES_OF_TWO = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating"),
    ("rating_chosen", "rating_rejected"), ("chosen_rating", "rejected_rating"), ("chosen_reward", "rejected_reward"),
    ("reward_chosen", "reward_rejected"), ("chosen-score", "rejected-score"),
)  # fmt: skip
TELLING = frozenset({*(name for two in _SCORES_OF_TWO for name in two), "margin"})
"""The fields that say by how much the chosen response is better."""
SAYING = TELLING | {
    *LABELS, *ONE_HOT, *_VOTES, *(name for two in TWO_SCORES for name in two), "votes_a", "votes_b", "votes_tie",
    "model_a", "model_b",
}  # fmt: skip
"""The fields that say which response is better, annotators' numbered ones apart."""
_PUBLISHED: tuple[tuple[tuple[str, ...], str, LabelCode], ...] = (
    (("context", "response1", "response2"), "overall_preference", (-3, 3)),  # HelpSteer3: below 0 the first is better
    (("prompt", "response_1", "response_2"), "preference_strength", (-3, 3)),  # HelpSteer2-preference: the same
    (("question", "answer_a", "answer_b"), "overall_preference", (-1, 1)),  # LFQA: the same
    (("human_ref_A", "human_ref_B"), "labels", (1, 0)),  # SHP: 1 is A
)


def present(row: Row, names: Iterable[str]) -> str | None:
    return next((n for n in names if row.get(n) is not None), None)


def both(row: Row, choices: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """The first two names of `choices` that the row has, else the first of which it has one (the other is missing)."""
    known = [two for two in choices if two[0] in row or two[1] in row]
    return next((two for two in known if has(row, *two)), known[0] if known else None)


def pair_fields(row: Row) -> tuple[str, str] | None:
    """The names of the two response fields, where the row has both."""
    if TWO_NAMES.isdisjoint(row):
        return None
    for two in _known_twos(tuple(row)):
        if row[two[0]] is not None and row[two[1]] is not None:
            return two
    return None


@lru_cache(maxsize=4096)
def columns_of_more(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(field, end) of three or more responses in columns of their own: response_a, response_b, response_c; else none."""
    found: list[tuple[tuple[str, str], ...]] = [()]
    for one, _ in (two for two in _known_twos(names) if two[0][:-1] == two[1][:-1]):
        run = ((one[:-1] + chr(ord(one[-1]) + i), chr(ord(one[-1]) + i)) for i in range(26))
        found.append(tuple(itertools.takewhile(lambda column: column[0] in names, run)))
    most = max(found, key=len)
    return most if len(most) > 2 else ()


@lru_cache(maxsize=4096)
def _known_twos(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple(two for two in TWO if two[0] in names and two[1] in names)


def chosen_fields(row: Row) -> tuple[str, str] | None:
    """The names of the chosen and the rejected response, where the row has both as texts or messages.

    Numbers and true/false there are indexes, and words such as "response_a" names of two other fields: not responses.
    """
    get = row.get
    for fields in CHOSEN:
        if get(fields[0]) is not None and get(fields[1]) is not None:
            break
    else:
        return None
    if isinstance(row[fields[0]], int | float) or isinstance(row[fields[1]], int | float):
        return None
    two = pair_fields(row)
    if two is None or set(two) & set(fields):
        return fields
    try:
        sides = [verdict(row[f], f, row, two, None) for f in fields]
    except RowError:
        return fields
    return None if None not in sides else fields


def label_of(row: Row) -> str | None:
    """The name of the row's label, where it is one value and not a list; of several, the first that is no number."""
    named = label_names(row)
    for name in named if len(named) > 1 else ():
        if numeric(row[name]) is None:
            return name
    return named[0] if named else None


def label_names(row: Row) -> list[str]:
    """All of the row's labels, where there are several."""
    return [n for n in _known_labels(tuple(row)) if row[n] not in (None, "") and not isinstance(row[n], list | Mapping)]


@lru_cache(maxsize=4096)
def _known_labels(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(n for n in LABELS if n in names)


def published_code(row: Row) -> LabelCode | None:
    """The label code of a published set, known by its fields."""
    name = label_of(row)
    for fields, label, code in _PUBLISHED:
        if label == name and has(row, *fields):
            return code
    return None


def one_hot(row: Row) -> bool:
    return has(row, *ONE_HOT[:2])


@lru_cache(maxsize=4096)
def scores_told(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The pairs of fields with a score of the chosen response and one of the rejected."""
    return tuple(two for two in _SCORES_OF_TWO if two[0] in names and two[1] in names)


def votes_of(row: Row) -> list[tuple[str, Any]]:
    """(field, vote) of every vote of a row with two responses."""
    lists, people = _known_votes(tuple(row))
    for name in lists:
        if isinstance(row[name], list):
            return [(f"{name}[{i}]", value) for i, value in enumerate(row[name])]
    return [(n, row[n]) for n in people if row[n] is not None]


@lru_cache(maxsize=4096)
def _known_votes(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(n for n in _VOTES if n in names), tuple(n for n in names if re.fullmatch(r"annotator_?\d+", n))


@lru_cache(maxsize=4096)
def saying(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a row's fields that say which response is better."""
    return tuple(n for n in names if n in SAYING or re.fullmatch(r"annotator_?\d+", n))


def numbers(row: Row) -> list[float]:
    """The numbers among the row's labels and votes; true and false are none, for they never say which response."""
    if pair_fields(row) is None or published_code(row) is not None or one_hot(row):
        return []
    votes = [v for _, v in votes_of(row)]
    name = label_of(row)
    values = votes or ([row[name]] if name else [])
    return [n for v in values if not isinstance(v, bool) and (n := numeric(v)) is not None]
