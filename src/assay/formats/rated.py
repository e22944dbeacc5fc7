"""One response a row, with a score or with a word whether it is wanted: rows of the same prompt make pairs (`group`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from assay.formats.dialogues import PROMPTS, prompt_of, turns
from assay.formats.labels import LabelCode, number, numeric
from assay.formats.lists import SCORE, compared
from assay.formats.preferred import MAX_LISTED, Outcome, Preferred, read_rivals
from assay.formats.rival_fields import present
from assay.formats.rows import Row, RowError
from assay.formats.turns import ROLES

ONE = ("response", "completion", "answer", "output")
"""Names of the only response of a row."""
DESIRED = ("kto_tag", "label", "desirable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """One response to a prompt with a score: rows with the same `prompt_key` make pairs."""

    prompt_key: str
    row: Row
    response: object
    score: float


def rated_row(row: Row, low: bool = False, by: str = "") -> Rated:
    """A row of the layout "rated": one response a row with its rating (HelpSteer); `by` names one of several."""
    name = by or present(row, SCORE) or "score"
    score, field = number(row.get(name), name), present(row, ONE) or "response"
    return Rated(
        prompt_key=_key(row), row=_without(row, field), response=_turned(row, field), score=-score if low else score
    )


def _without(row: Row, *names: str) -> Row:
    return {k: v for k, v in row.items() if k not in names}


def _turned(row: Row, field: str) -> object:
    turns(row.get(field), field)
    return row[field]


def _key(row: Row) -> str:
    """What rows of one prompt have in common: the conversation and all that is said beside it."""
    if prompt_of(row) is None:
        raise RowError("prompt", "is missing or empty")
    beside = ("system", "system_prompt", "system_message", "tools", "functions", "images", "image")
    return repr((prompt_of(row), [row.get(n) for n in beside]))


def unpaired_row(row: Row, code: LabelCode | None = None) -> Rated:
    """A row of the layout "unpaired": one response that is wanted or not (TRL's and LLaMA-Factory's KTO, ms-swift)."""
    name = present(row, DESIRED) or "label"
    score = _wanted(row.get(name), name, code)
    field = present(row, ONE)
    if field is not None:
        return Rated(prompt_key=_key(row), row=_without(row, field, name), response=_turned(row, field), score=score)
    field = present(row, ("messages", "conversations")) or "messages"
    said = row.get(field)
    if not isinstance(said, list) or len(said) < 2 or not _assistant(said[-1]):
        raise RowError(field, "does not end with an assistant's turn")
    begun = {**_without(row, name), field: said[:-1]}
    return Rated(prompt_key=_key(begun), row=begun, response=said[-1:], score=score)


def _assistant(turn: object) -> bool:
    return isinstance(turn, Mapping) and ROLES.get(str(turn.get("role", turn.get("from"))).lower()) == "assistant"


def _wanted(value: object, field: str, code: LabelCode | None) -> float:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        value = value.strip().lower() == "true"
    if isinstance(value, bool):
        return float(value)
    asked = numeric(value)
    if asked is None:
        raise RowError(field, f"is neither true nor false ({str(value)[:40]!r})")
    if code is None:
        raise RowError(
            field,
            "is a number that can be read in two ways: name the layout as unpaired:1/0 (1 is wanted) or unpaired:0/1",
        )
    if asked not in code[:2]:
        raise RowError(field, f"is neither {code[0]:g} nor {code[1]:g} ({asked:g})")
    return float(asked == code[0])


def unpaired(row: Row) -> bool:
    """Whether a row is one response with a label that says whether it is wanted."""
    name = present(row, DESIRED)
    if name is None or isinstance(row[name], list | Mapping):
        return False
    whole = row.get(present(row, ("messages", "conversations")) or "")
    ends = isinstance(whole, list) and len(whole) > 1 and _assistant(whole[-1])
    return ends or (bool(present(row, ONE)) and bool(present(row, PROMPTS)))


def crowded() -> RowError:
    """Why the rows of a prompt with more than MAX_LISTED of them make no pairs."""
    return RowError("prompt", f"has more than {MAX_LISTED} responses")


def group(rows: Sequence[Rated], wanted: bool) -> list[Outcome]:
    """The pairs of all rows of one prompt; with `wanted` only those of a wanted and an unwanted response."""
    if len(rows) > MAX_LISTED:
        raise crowded()
    if len(rows) < 2:
        raise RowError("response", "is the only one to its prompt: nothing to compare it with")
    if wanted and len({r.score for r in rows}) < 2:
        what = "wanted" if rows[0].score else "unwanted"
        raise RowError(
            "label", f"says the same of all responses to this prompt: nothing to compare them with (all {what})"
        )
    outcomes: list[Outcome] = []
    for (i, one), (j, other) in combinations(enumerate(rows, 1), 2):
        if wanted and one.score == other.score:
            continue
        two = [(f"response {i}", one.response, one.score), (f"response {j}", other.response, other.score)]
        try:
            outcomes += read_rivals(one.row, lambda row, two=two: (row, compared(two)))  # type: ignore[misc]
        except RowError as error:
            outcomes.append(error)
    return [replace(o, strength=0.0) if wanted and isinstance(o, Preferred) else o for o in outcomes]
