"""Two responses and what their source says about them: chosen and rejected, a label, votes, a score each.

One small pure function per layout finds in a row which responses are `Rival`s and what is said of them; `read_rivals` makes
`Preferred` of that, with a `RowError` in the place of each pair that could not be made.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from assay.formats.dialogues import pair_of
from assay.formats.labels import LabelCode, graded, number, numeric, verdict
from assay.formats.rival_fields import (
    CHOSEN,
    ONE_HOT,
    TELLING,
    TWO,
    TWO_SCORES,
    both,
    chosen_fields,
    label_of,
    one_hot,
    pair_fields,
    published_code,
    scores_told,
    votes_of,
)  # fmt: skip
from assay.formats.rows import Row, RowError, has
from assay.formats.turns import ROLES
from assay.records import Pair

MAX_LISTED = 64
"""Responses in one list: it becomes n (n - 1) / 2 pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferred:
    """A pair with what its source says about it: `better` is a response id, or None for a tie.

    `votes` counts all opinions; `confidence` is the share of those naming a side that named `better` (1.0 for one).
    `strength` is by how much it is better in the source's own units (a difference of scores, a grade); 0.0: not told.

    Example: Preferred(pair=pair, better=pair.responses[0].id, votes=3, confidence=2 / 3)
    """

    pair: Pair
    better: str | None
    votes: int = 1
    confidence: float = 1.0
    strength: float = 0.0


Outcome = Preferred | RowError


class Word(NamedTuple):
    """What a source says of two responses: `side` is the better one (0 or 1, None for a tie), the rest as in `Preferred`."""

    side: int | None
    votes: int = 1
    confidence: float = 1.0
    strength: float = 0.0


class Rival(NamedTuple):
    """Two responses of a row as they stand in it, the fields that hold them, and what is said of them."""

    one: object
    other: object
    fields: tuple[str, str]
    word: Word


Rivals = tuple[Row, list[Rival | RowError]]
"""The row in which the responses are to be read (most often the row itself), and its rivals, or why two are none."""


def read_rivals(row: Row, rivals: Callable[[Row], Rivals]) -> list[Outcome]:
    """A pair of each two rivals. Raises RowError where a row holds but one pair, and that cannot be made."""
    seen, found = rivals(row)
    outcomes: list[Outcome] = []
    alone = sum(isinstance(r, Rival) for r in found) == 1 and isinstance(found[0], Rival)
    for rival in found:
        if isinstance(rival, RowError):
            outcomes.append(rival)
            continue
        try:
            pair, ids = pair_of(seen, rival.one, rival.other, rival.fields)
            outcomes.append(preferring(pair, ids, rival.word))
        except RowError as error:
            if alone:
                raise _advised(error, rival) from error
            outcomes.append(error)
    return outcomes


def preferring(pair: Pair, ids: tuple[str, str], word: Word) -> Preferred:
    """What is said of the two responses with these ids, as what is said of their pair."""
    side, votes, confidence, strength = word
    better = None if side is None else ids[side]
    return Preferred(pair=pair, better=better, votes=votes, confidence=confidence, strength=strength)


def chosen_rivals(row: Row, shared_start: bool = False) -> Rivals:
    """chosen and rejected: texts after a prompt, HH dialogues, or message lists with or without the prompt.

    A list of texts on either side is several responses, each chosen one better than each rejected one (reward-bench 2).
    `shared_start`: two texts without a prompt, of which what they have in common at the start is the prompt (TRL).
    """
    fields = chosen_fields(row) or both(row, CHOSEN) or CHOSEN[0]
    one, other = row.get(fields[0]), row.get(fields[1])
    if fields[0] == "messages" and one is not None and other is not None:
        one, other = one, _rejected_messages(one, other, fields)
    if shared_start:
        row, one, other = _split(row, one, other, fields)
    word = Word(0, 1, 1.0, told_strength(row))
    if not (isinstance(one, list) and _texts(one)) and not (isinstance(other, list) and _texts(other)):
        return row, [Rival(one, other, fields, word)]
    rivals: list[Rival | RowError] = [
        Rival(a, b, (f, g), word) for a, f in _each(one, fields[0]) for b, g in _each(other, fields[1])
    ]
    if len(rivals) > MAX_LISTED**2:
        raise RowError("/".join(fields), f"hold more than {MAX_LISTED} responses")
    return row, rivals


def _advised(error: RowError, rival: Rival) -> RowError:
    if (
        error.field != "prompt"
        or not error.reason.startswith("is missing")
        or rival.fields not in CHOSEN
        or not (isinstance(rival.one, str) and isinstance(rival.other, str))
    ):
        return error
    more = "; if what they share at the start is the prompt, give --layout chosen-rejected:shared-start"
    return RowError(error.field, error.reason + more)


def _each(value: object, field: str) -> list[tuple[object, str]]:
    if isinstance(value, list) and _texts(value):
        return [(v, f"{field}[{i}]") for i, v in enumerate(value)]
    return [(value, field)]


def _texts(values: list[Any]) -> bool:
    return bool(values) and isinstance(values[0], str) and all(isinstance(v, str) for v in values)


def _rejected_messages(one: object, other: object, fields: tuple[str, str]) -> object:
    """ms-swift: the whole conversation with the chosen answer in `messages`; the rejected one alone, or whole as well."""
    listed = other if isinstance(other, list) else [{"role": "assistant", "content": other}]
    if not isinstance(one, list) or fields[1] == "rejected_messages":
        return other
    roles = [ROLES.get(str(m.get("role", m.get("from"))).lower()) if isinstance(m, Mapping) else None for m in one]
    end = next((i + 1 for i in reversed(range(len(roles))) if roles[i] != "assistant"), 0)
    if end == len(one):
        raise RowError(fields[0], f'ends with the role "{roles[-1] if roles else None}", not with the chosen response')
    if listed and all(isinstance(m, str) for m in listed):
        raise RowError(fields[1], "is a list of texts: give one text, or messages")
    return [*one[:end], *listed]


def _split(row: Row, one: object, other: object, fields: tuple[str, str]) -> tuple[Row, object, object]:
    """TRL's `extract_prompt`: the common start of both texts, up to its last space."""
    if not isinstance(one, str) or not isinstance(other, str):
        raise RowError("/".join(fields), "are not both texts")
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    at = max((i + 1 for i, c in enumerate(one[:at]) if c.isspace()), default=0)
    if not one[:at].strip():
        raise RowError("/".join(fields), "share no start that could be the prompt")
    return {**row, "prompt": one[:at].rstrip()}, one[at:], other[at:]


def told_strength(row: Row) -> float:
    """By how much the chosen response is better, from scores beside the two or a margin (TRL); 0.0 where none is told."""
    if TELLING.isdisjoint(row):
        return 0.0
    scores = next((two for two in scores_told(tuple(row)) if has(row, *two)), None)
    if scores and not isinstance(row[scores[0]], list | Mapping) and not isinstance(row[scores[1]], list | Mapping):
        high, low = number(row[scores[0]], scores[0]), number(row[scores[1]], scores[1])
        if high < low:
            raise RowError(
                "/".join(scores),
                f"say that the rejected response is better: leave them out with --ignore ({high:g}, {low:g})",
            )
        return high - low
    margin = row.get("margin")
    if margin is None or isinstance(margin, list):
        return 0.0
    told = number(margin, "margin")
    if told < 0:
        raise RowError(
            "margin", f"says that the rejected response is better: leave it out with --ignore margin ({told:g})"
        )
    return told


def _two(row: Row) -> tuple[Row, object, object, tuple[str, str]]:
    """The two responses of a row, the row in which they are to be read, and their fields."""
    fields = pair_fields(row) or both(row, TWO) or ("response_a", "response_b")
    if (dialogues := _parallel(row, fields)) is not None:
        return {k: v for k, v in row.items() if k != "prompt"}, *dialogues, fields
    return row, _judged(row, row.get(fields[0])), _judged(row, row.get(fields[1])), fields


def _judged(row: Row, dialogue: object) -> object:
    """MT-bench's votes are on a turn of the dialogue, `turn`: what comes after it was not seen."""
    turn = row.get("turn")
    if isinstance(dialogue, list) and isinstance(turn, int) and 0 < 2 * turn < len(dialogue):
        return dialogue[: 2 * turn]
    return dialogue


def _parallel(row: Row, fields: tuple[str, str]) -> tuple[object, object] | None:
    """Two dialogues from prompts and responses that are lists with an entry for each turn (the Arena's CSV), or None."""
    prompts = _turn_list(row.get("prompt"))
    if prompts is None or (one := _turn_list(row.get(fields[0]))) is None:
        return None
    if (other := _turn_list(row.get(fields[1]))) is None:
        return None
    if not len(prompts) == len(one) == len(other):
        raise RowError(
            "/".join(("prompt", *fields)), f"have different numbers of turns ({len(prompts)}, {len(one)}, {len(other)})"
        )

    def dialogue(answers: list[Any], field: str) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        for index, (asked, answer) in enumerate(zip(prompts, answers, strict=True)):
            for name, value, role in (("prompt", asked, "user"), (field, answer, "assistant")):
                if not isinstance(value, str) or not value.strip():
                    raise RowError(f"{name}[{index}]", "is missing or empty")
                said.append({"role": role, "content": value})
        return said

    return dialogue(one, fields[0]), dialogue(other, fields[1])


def _turn_list(value: object) -> list[Any] | None:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    good = isinstance(value, list) and value and all(v is None or isinstance(v, str) for v in value)
    return list(value) if isinstance(value, list) and good else None


def scored_rivals(row: Row, low: bool = False) -> Rivals:
    """Two responses with a score each (WebGPT comparisons, SHP); the higher is better, or the lower where `low`."""
    fields = both(row, TWO_SCORES) or TWO_SCORES[0]
    one, other = (number(row.get(name), name) * (-1 if low else 1) for name in fields)
    seen, a, b, names = _two(row)
    better = None if one == other else int(other > one)
    label = label_of(row)
    if label is not None and (numeric(row[label]) is None or published_code(row) is not None):
        side = verdict(row[label], label, row, names, published_code(row))
        if side != better and "/".join(fields):
            raise RowError(f"{label}/{'/'.join(fields)}", "say different things: leave one out with --ignore")
    return seen, [Rival(a, b, names, Word(better, strength=abs(one - other)))]


def label_rivals(row: Row, code: LabelCode | None = None) -> Rivals:
    """A prompt, two responses and a label that names one of them or a tie."""
    seen, one, other, fields = _two(row)
    if one_hot(row):
        word = Word(_hot(row))
    else:
        name = label_of(row) or "label"
        code = code or published_code(row)
        side = verdict(row.get(name), name, row, fields, code)
        confidence, strength = (1.0, 0.0) if side is None or code is None else graded(row.get(name), code)
        word = Word(side, 1, confidence, strength)
    return seen, [Rival(one, other, fields, word)]


def labelled(row: Row, code: LabelCode | None = None) -> list[Outcome]:
    return read_rivals(row, partial(label_rivals, code=code))


def _hot(row: Row) -> int | None:
    """The Arena's three columns, of which one is 1."""
    given = [numeric(row.get(n)) or 0.0 for n in ONE_HOT]
    if sorted(given) != [0, 0, 1]:
        raise RowError("/".join(ONE_HOT), f"are not one 1 among zeros ({', '.join(f'{g:g}' for g in given)})")
    return (0, 1, None)[given.index(1)]


def vote_rivals(row: Row, code: LabelCode | None = None) -> Rivals:
    """Two responses and several people's labels: a list, numbered annotator fields, or two counts."""
    seen, one, other, fields = _two(row)
    if has(row, "votes_a", "votes_b"):
        counts = [number(row[n], n) for n in ("votes_a", "votes_b")] + [number(row.get("votes_tie") or 0, "votes_tie")]
        if any(c < 0 or c != int(c) for c in counts) or not sum(counts):
            raise RowError("votes_a/votes_b", "are not counts of votes")
        word = _counted([0] * int(counts[0]) + [1] * int(counts[1]) + [None] * int(counts[2]))
        return seen, [Rival(one, other, fields, word)]
    good: list[int | None] = []
    bad: list[Rival | RowError] = []
    for name, value in votes_of(row):
        try:
            good.append(verdict(value, name, row, fields, code))
        except RowError as error:
            bad.append(error)
    if not good:
        raise bad[0] if bad and isinstance(bad[0], RowError) else RowError("votes", "hold no vote")
    word = _counted(good)
    label = label_of(row)
    if label is not None and numeric(row[label]) is None and verdict(row[label], label, row, fields, code) != word.side:
        raise RowError(f"{label}/votes", "say different things: leave one out with --ignore")
    return seen, [Rival(one, other, fields, word), *bad]


def voted(row: Row, code: LabelCode | None = None) -> list[Outcome]:
    return read_rivals(row, partial(vote_rivals, code=code))


def tally(pair: Pair, ids: tuple[str, str], sides: Sequence[int | None]) -> Preferred:
    """What several votes (0, 1, or None for a tie) come to: more votes win; equally many are a tie.

    `confidence` is the winner's share of all votes that name a side, so it is above 0.5.
    """
    return preferring(pair, ids, _counted(sides))


def _counted(sides: Sequence[int | None]) -> Word:
    ones, twos = sides.count(0), sides.count(1)
    if ones == twos:
        return Word(None, len(sides))
    return Word(int(twos > ones), len(sides), max(ones, twos) / (ones + twos))
