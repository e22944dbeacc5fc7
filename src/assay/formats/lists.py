"""Several responses to a prompt in one row: with scores, ranks or the best one's number (a row each: `rated`).

As in `preferred`: which responses of a row are rivals, and what is said of each two.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise, product
from typing import Any

from assay.formats.labels import number, numeric
from assay.formats.preferred import MAX_LISTED, Outcome, Rival, Rivals, Word, read_rivals
from assay.formats.rival_fields import columns_of_more, present
from assay.formats.rows import Row, RowError, has, text

LISTS = (
    "responses",
    "completions",
    "answers",
    "candidates",
    "outputs",
    "generations",
    "texts",
    "text",
    "summaries",
    "output",
)
SCORE = (
    "overall_score", "score", "rating", "reward", "helpfulness", "overall", "fine-grained_score", "quality", "pm_score",
)  # fmt: skip
SCORES = ("scores", "score", "ratings", "rating", "rewards", "overall_scores")
RANKS = ("ranks", "rank", "ranking", "rankings")
ORDERED = ("ranked_responses", "ranked", "ranked_completions", "responses_best_first")
_TEXTS = ("response", "text", "content", "output", "answer", "completion")
INDEX = ("chosen", "choice", "best", "chosen_index", "best_index", "best_response", "label", "winner", "preference")
_STEP = re.compile(r"\s*(?:#+\s*)?(?:\*\*)?(?:step\s*(\d+)|\(?(\d+)[.):])", re.IGNORECASE)
_GOES_ON = re.compile(
    r"\s*(?:then|next|so|thus|hence|therefore|finally|now|second(?:ly)?|third(?:ly)?|after that|and)\b", re.IGNORECASE
)

Entry = tuple[str, object, float]
"""(field, response, score)"""


def listed(row: Row) -> tuple[str, list[Any]] | None:
    """The row's list of responses and its name."""
    return next(((n, row[n]) for n in LISTS if isinstance(row.get(n), list)), None)


def _listed(row: Row, names: Sequence[str] = LISTS) -> tuple[str, list[Any]]:
    name = next((n for n in names if isinstance(row.get(n), list)), None)
    if name is None:
        raise RowError(names[0], "is not a list of responses")
    if not 2 <= len(row[name]) <= MAX_LISTED:
        raise RowError(name, f"must hold 2 to {MAX_LISTED} responses ({len(row[name])})")
    return name, row[name]


def gathered(row: Row) -> Row:
    """A row with three or more responses in columns of their own, with these as a list, and so their scores; others as is.

    Empty columns after the second are none. A label that names one ("response_c", "c") becomes the letter of its place.
    """
    every = columns_of_more(tuple(row))
    columns = [c for i, c in enumerate(every) if i < 2 or row[c[0]] not in (None, "")]
    if len(columns) < 3:
        return row
    names, ends = zip(*columns, strict=True)
    made = {k: v for k, v in row.items() if k not in names} | {"responses": [row[n] for n in names]}
    for kind, gap in product(("score", "rating", "reward"), ("_", "", " ", "-")):
        if any(f"{kind}{gap}{end}" in row for end in ends):
            made[f"{kind}s"] = [made.pop(f"{kind}{gap}{end}", None) for end in ends]
    words = {w.lower(): at for at, (n, e) in enumerate(columns) for w in (n, f"model_{e}", e) if not w.isdigit()}
    empty = {w.lower() for n, e in every if (n, e) not in columns for w in (n, f"model_{e}", e) if not w.isdigit()}
    for label in INDEX:
        if isinstance(value := row.get(label), str) and value.strip().lower() in words:
            made[label] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[words[value.strip().lower()]]
        elif isinstance(value, str) and value.strip().lower() in empty:
            made[label] = f"{value.strip()}, which is empty"  # no letter: that would be the next one's
        elif row.get(label) is not None and ends[0].isdigit() and columns != list(every[: len(columns)]):
            made[label] = f"{row[label]}, with an empty one before the last"  # numbers would be those of other columns
    return made


def said_in(item: object) -> object:
    """The response in an entry of a list: itself, or what its object says."""
    name = present(item, _TEXTS) if isinstance(item, Mapping) and "role" not in item else None
    return item[name] if isinstance(item, Mapping) and name else item


def scored(row: Row) -> bool:
    """Whether the row has a list of responses with scores beside or inside them."""
    found = listed(row)
    return found is not None and (
        any(isinstance(row.get(n), list) for n in SCORES if n != found[0])
        or any(isinstance(i, Mapping) and (present(i, SCORE) or _aspects(i)) for i in found[1])
    )


def scores_beside(row: Row) -> list[Any]:
    name = next((n for n in SCORES if isinstance(row.get(n), list)), None)
    return row[name] if name else []


def measures(row: Row) -> dict[str, list[float]]:
    """By name, the scores that all responses of a list have, beside it or inside; there may be several that differ."""
    found = listed(row)
    if found is None:
        return {}
    items = found[1]
    named = {n: row[n] for n in SCORES if n != found[0] and isinstance(row.get(n), list) and len(row[n]) == len(items)}
    if not named and all(isinstance(i, Mapping) for i in items):
        named = {n: [i[n] for i in items] for n in SCORE if all(i.get(n) is not None for i in items)}
    known = {n: [numeric(v) for v in values] for n, values in named.items()}
    return {n: [v for v in values if v is not None] for n, values in known.items() if None not in values}


def in_other_order(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two scores prefer different responses anywhere in a list."""
    return any((a - b) * (c - d) < 0 for (a, c), (b, d) in combinations(zip(one, other, strict=True), 2))


def scored_rivals(row: Row, low: bool = False, by: str = "") -> Rivals:
    """A list of responses with scores, beside them or inside them (UltraFeedback); every two make a pair.

    The higher score is better, or the lower one where `low`. True and false are 1 and 0. `by` names one of several scores.
    """
    name, items = _listed(row)
    beside = next((n for n in ([by] if by else SCORES) if isinstance(row.get(n), list) and n != name), None)
    if beside is not None and len(row[beside]) != len(items):
        raise RowError(beside, f"has another length than {name} ({len(row[beside])}, not {len(items)})")
    entries: list[Entry | RowError] = []
    for index, item in enumerate(items):
        field = f"{name}[{index}]"
        try:
            where, value = (f"{beside}[{index}]", row[beside][index]) if beside else _score_in(item, field, by)
            score = number(int(value) if isinstance(value, bool) else value, where)
            entries.append((field, said_in(item), -score if low else score))
        except RowError as error:
            entries.append(error)
    return row, compared(entries)


def scored_list(row: Row) -> list[Outcome]:
    return read_rivals(row, scored_rivals)


def _score_in(item: object, field: str, by: str) -> tuple[str, object]:
    if isinstance(item, Mapping) and (name := present(item, [by] if by else SCORE)) is not None:
        return f"{field}.{name}", item[name]
    if isinstance(item, Mapping) and not by and (aspects := _aspects(item)):
        return f"{field}.annotations", sum(aspects) / len(aspects)
    raise RowError(field, f"has no {by or 'score'}")


def _aspects(item: Mapping[str, Any]) -> list[float]:
    """UltraFeedback's ratings of a completion by aspect, where all of them are numbers."""
    aspects = item.get("annotations")
    if not isinstance(aspects, Mapping):
        return []
    given = [numeric(a.get("Rating")) if isinstance(a, Mapping) else None for a in aspects.values()]
    known = [g for g in given if g is not None]
    return known if len(known) == len(given) else []


def ranked(row: Row) -> bool:
    """Whether the row has a list of responses in an order, or with ranks."""
    if present(row, ORDERED):
        return True
    found = listed(row)
    if found is None:
        return False
    inside = any(isinstance(i, Mapping) and "rank" in i for i in found[1])
    return inside or found[0] == "output" or any(isinstance(row.get(n), list) for n in RANKS)


def rank_kind(row: Row) -> str | None:
    """How the row's ranks are meant where its fields say it: "first" (the list is best first) or "low" (Nectar)."""
    if present(row, ORDERED):
        return "first"
    name, items = listed(row) or ("", [])
    inside = any(isinstance(i, Mapping) and "rank" in i for i in items)
    if name == "answers" and inside and all(isinstance(i, Mapping) and "answer" in i for i in items):
        return "low"
    return "first" if name == "output" and not inside and not present(row, RANKS) else None


def ranked_rivals(row: Row, kind: str | None = None) -> Rivals:
    """A list of responses in order, or with ranks.

    `kind`: "first" (the list itself is best first), "low" (1 is the best rank), "high" (the highest number is), "order" (the
    ranks name the responses, best first, counted from their smallest number). None: what the fields say.
    """
    kind = kind or rank_kind(row)
    if kind == "first":
        name, items = _listed(row, [n for n in (*ORDERED, *LISTS) if isinstance(row.get(n), list)] or ORDERED)
        return row, compared([(f"{name}[{i}]", said_in(v), -float(i)) for i, v in enumerate(items)], told=False)
    name, items = _listed(row)
    beside = next((n for n in RANKS if isinstance(row.get(n), list)), None)
    if kind is None:
        raise RowError(
            beside or f"{name}[.].rank", "can be read in two ways: name the layout as ranked-list:low, :high or :order"
        )
    ranks: Sequence[Any] = (
        list(row[beside]) if beside else [i.get("rank") if isinstance(i, Mapping) else None for i in items]
    )
    if len(ranks) != len(items):
        raise RowError(beside or "ranks", f"have another length than {name} ({len(ranks)}, not {len(items)})")
    if kind == "order":
        ranks = _places(ranks, beside or "ranks")
    entries: list[Entry | RowError] = []
    for index, (item, rank) in enumerate(zip(items, ranks, strict=True)):
        try:
            value = number(rank, f"{name}[{index}].rank")
            entries.append((f"{name}[{index}]", said_in(item), value if kind == "high" else -value))
        except RowError as error:
            entries.append(error)
    return row, compared(entries, told=False)


def _places(order: Sequence[object], field: str) -> list[int]:
    """The place of each response from a list of their numbers, best first, counted from 0 or 1."""
    given = [int(number(v, field)) for v in order]
    start = min(given)
    if sorted(given) != list(range(start, start + len(given))) or start not in (0, 1):
        raise RowError(field, f"is not an order of all responses ({given})")
    return [given.index(i + start) for i in range(len(given))]


def index_of(row: Row) -> str | None:
    """The name of the field that says which of a list of responses is the best."""
    found = listed(row)
    if found is None or found[0] == "output":
        return None
    return next((n for n in INDEX if row.get(n) is not None and not isinstance(row[n], list | Mapping)), None)


def index_rivals(row: Row, base: int | None = None) -> Rivals:
    """A list of responses and the number (counted from `base`) or the text of the best; it is better than each other one."""
    name, items = _listed(row)
    field = index_of(row) or "chosen"
    value, said = row.get(field), [said_in(i) for i in items]
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z]", value) and value not in said:
        value, base = ord(value.upper()) - ord("A"), 0
    best = said.index(value) if isinstance(value, str) and said.count(value) == 1 else None
    if best is None:
        best = _number_of(value, field, base if base is not None else counted_from(row), len(items))
    others = [i for i in range(len(items)) if i != best]
    if field == "chosen" and isinstance(row.get("rejected"), int | float):
        others = [_number_of(row["rejected"], "rejected", base if base is not None else counted_from(row), len(items))]
    return row, [Rival(said[best], said[i], (f"{name}[{best}]", f"{name}[{i}]"), Word(0)) for i in others]


def counted_from(row: Row) -> int | None:
    """0 for the published comparisons of summaries (Stiennon et al.); else not known from a row alone."""
    return 0 if has(row, "summaries", "choice") else None


def _number_of(value: object, field: str, base: int | None, count: int) -> int:
    asked = None if isinstance(value, bool) else numeric(value)
    if asked is None:
        raise RowError(field, f"is neither the number nor the text of one response ({str(value)[:40]!r})")
    if base is None:
        raise RowError(
            field, "is a number that can be counted from 0 or from 1: name the layout as indexed:0 or indexed:1"
        )
    if not asked.is_integer() or not 0 <= asked - base < count:
        raise RowError(field, f"is the number of no response ({asked:g} of {count}, counted from {base})")
    return int(asked) - base


def compared(entries: Sequence[Entry | RowError], told: bool = True) -> list[Rival | RowError]:
    """Every two of (field, response, score) as rivals; what is wrong with one response does not harm the others.

    `told`: the difference of two scores says by how much one is better; of ranks it does not.
    """
    found: list[Rival | RowError] = [e for e in entries if isinstance(e, RowError)]
    good: list[Entry] = []
    for entry in entries:
        if isinstance(entry, tuple):
            try:
                if not isinstance(entry[1], list | Mapping):
                    text(entry[1], entry[0])
                good.append(entry)
            except RowError as error:
                found.append(error)
    for (field, one, high), (other_field, other, low) in combinations(good, 2):
        side = None if high == low else int(low > high)
        found.append(Rival(one, other, (field, other_field), Word(side, strength=abs(high - low) if told else 0.0)))
    return found


def steps(row: Row) -> bool:
    """Whether a scored list may be the steps of one solution rather than rival responses.

    True/false for each, marks of a step ("Step 2: ...", "2. ...") in their order, texts of which each goes on from the one
    before ("Then ...", or with all of it at the start), or nothing but -1, 0, 1 for three or more.
    """
    found = listed(row)
    if found is None:
        return False
    said = [said_in(i) for i in found[1]]
    if not all(isinstance(s, str) for s in said) or any("Assistant:" in str(s) for s in said):
        return False
    marks = [m[1] or m[2] if (m := _STEP.match(str(s))) else None for s in said]
    if len(marks) > 1 and marks == [str(i) for i in range(1, len(marks) + 1)]:
        return True
    texts = [str(s) for s in said]
    if len(texts) > 1 and (
        all(map(_GOES_ON.match, texts[1:])) or all(b.startswith(a) and a.strip() for a, b in pairwise(texts))
    ):
        return True
    given = scores_beside(row)
    return any(isinstance(g, bool) for g in given) or (len(given) > 2 and all(g in (-1, 0, 1) for g in given))
