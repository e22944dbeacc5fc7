"""The shapes in which people keep preferences: which fields each needs, and which of them a row has. See docs/layouts.md.

`detect` looks at the first rows; a layout can also be named, with what its fields leave open ("labelled:0/1"). What numbers
and ranks mean is asked about in `formats.ambiguous`, never guessed.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from assay.errors import AssayError
from assay.formats import lists, preferred, rated, rival_fields
from assay.formats.dialogues import PROMPTS
from assay.formats.labels import LabelCode, verdict
from assay.formats.preferred import Outcome, Rivals, read_rivals
from assay.formats.rated import Rated
from assay.formats.rival_fields import pair_fields, present
from assay.formats.rows import Row, RowError, has
from assay.formats.spelling import in_known_names

scored_list = lists.scored_list


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that a layout needs of a row, in words, and whether a row has it."""

    what: str
    met: Callable[[Row], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A named shape: what it needs of a row, and how to read one: `rivals` finds the responses that are compared in it, or
    `one` the only one of a row of those that are read in groups.

    `base` is the name without what was said of its numbers ("labelled" of "labelled:0/1"), which `said` tells.
    """

    name: str
    base: str
    needs: tuple[Need, ...]
    rivals: Callable[[Row], Rivals]
    one: Callable[[Row], Rated] | None = None
    said: bool = False

    def read(self, row: Row) -> list[Outcome]:
        return read_rivals(row, self.rivals)

    def fits(self, row: Row) -> bool:
        return all(need.met(row) for need in self.needs)

    def lacks(self, row: Row) -> list[str]:
        return [need.what for need in self.needs if not need.met(row)]


def _needs(*needs: tuple[str, Callable[[Row], bool]]) -> tuple[Need, ...]:
    return tuple(Need(what=what, met=met) for what, met in needs)


def _some(*names: str) -> Callable[[Row], bool]:
    return lambda row: present(row, names) is not None


def _in_groups(row: Row) -> Rivals:
    raise AssertionError("rows of this layout are read in groups")


def _layout(
    name: str, rivals: Callable[[Row], Rivals], needs: tuple[Need, ...], one: Callable[[Row], Rated] | None = None
) -> Layout:
    return Layout(name=name, base=name, needs=needs, rivals=rivals, one=one)


def _chosen(side: int) -> Callable[[Row], bool]:
    """Whether a row has a chosen (0) or rejected (1) response; one alone counts where the row is of no other kind."""

    def met(row: Row) -> bool:
        if rival_fields.chosen_fields(row) is not None:
            return True
        names = {two[side] for two in rival_fields.CHOSEN} - {"messages", "response", "completion"}
        return present(row, names) is not None and pair_fields(row) is None and lists.listed(row) is None

    return met


def _answered(row: Row) -> bool:
    name = present(row, rated.ONE)
    return name is not None and not isinstance(row[name], int | float)


_RIVALS = (
    "two responses (response_a and response_b, answer_0 and answer_1, conversation_a and conversation_b, ...)",
    lambda row: pair_fields(row) is not None,
)
_LISTED = (
    "a list of responses (responses, completions, answers, generations, ...)",
    lambda row: lists.listed(row) is not None,
)
_PROMPTED = ("a prompt (prompt, instruction, question, messages, ...)", _some(*PROMPTS))
LAYOUTS = (
    _layout("chosen-rejected", preferred.chosen_rivals, _needs(
        ("a chosen response (chosen, preferred, messages with rejected_response, ...)", _chosen(0)),
        ("a rejected response (rejected, rejected_response, dispreferred, ...)", _chosen(1)),
    )),
    _layout("voted", preferred.vote_rivals, _needs(_RIVALS, (
        "votes (a list votes, labels, ...; annotator1, annotator2, ...; or votes_a and votes_b)",
        lambda row: bool(rival_fields.votes_of(row)) or has(row, "votes_a", "votes_b"),
    ))),
    _layout("scored-pair", preferred.scored_rivals, _needs(_RIVALS, (
        "a score for each (score_a and score_b, rating_1 and rating_2, ...)",
        lambda row: any(has(row, *two) for two in rival_fields.TWO_SCORES),
    ))),
    _layout("labelled", preferred.label_rivals, _needs(_RIVALS, (
        "a label (label, winner, preference, overall_preference, ...)",
        lambda row: rival_fields.label_of(row) is not None or rival_fields.one_hot(row),
    ))),
    _layout("indexed", lists.index_rivals, _needs(_LISTED, (
        "the number or text of the best (chosen, choice, best, label, ...)", lambda row: lists.index_of(row) is not None,
    ))),
    _layout("ranked-list", lists.ranked_rivals, _needs(
        ("a list of responses (responses, completions, answers, output, ranked_responses, ...)",
         lambda row: lists.listed(row) is not None or lists.ranked(row)),
        ("an order or ranks (ranks, rank in each, or a list that is named best first)", lists.ranked),
    )),
    _layout("scored-list", lists.scored_rivals, _needs(_LISTED, (
        "scores (scores, ratings, rewards beside the list, or score, rating, overall_score in each)", lists.scored,
    ))),
    _layout("rated", _in_groups, _needs(
        _PROMPTED, ("a response (response, completion, answer, output)", _answered),
        ("a score (score, rating, reward, helpfulness, ...)", _some(*lists.SCORE)),
    ), rated.rated_row),
    _layout("unpaired", _in_groups, _needs(_PROMPTED, (
        "a response that is wanted or not (response, completion, messages with label or kto_tag)", rated.unpaired,
    )), rated.unpaired_row),
)  # fmt: skip
"""In the order in which a row is tried."""


def named(name: str) -> Layout:
    """The layout of that name, with what follows it about its numbers ("labelled:1/2"). Raises AssayError when unknown."""
    stem, colon, said = name.partition(":")
    layout = next((x for x in LAYOUTS if x.name == stem), None)
    made = _said(layout, said) if layout is not None and colon else layout
    if made is None:
        known = ", ".join(x.name for x in LAYOUTS)
        raise AssayError(
            f"'{name}' is not a layout; use one of {known}; some can say what their numbers mean: labelled:0/1 (0 for the "
            "first response, 1 for the second), labelled:1/2/0 (0 for a tie), scored-list:low, ranked-list:high, "
            "indexed:0, unpaired:1/0 (docs/layouts.md)"
        )
    return made


def _said(layout: Layout, said: str) -> Layout | None:
    number = r"-?\d+(?:\.\d+)?"
    code = tuple(map(float, said.split("/"))) if re.fullmatch(rf"{number}(/{number}){{1,2}}", said) else ()
    if code and len(set(code)) == len(code):
        return (
            coded(layout, code)
            if layout.name in ("labelled", "voted") or (layout.name == "unpaired" and len(code) == 2)
            else None
        )
    rivals: Callable[[Row], Rivals] | None = None
    one = layout.one
    if layout.name == "chosen-rejected" and said == "shared-start":
        rivals = partial(preferred.chosen_rivals, shared_start=True)
    elif layout.name == "scored-pair" and said == "low":
        rivals = partial(preferred.scored_rivals, low=True)
    elif layout.name == "scored-list" and said == "low":
        rivals = partial(lists.scored_rivals, low=True)
    elif layout.name == "ranked-list" and said in ("first", "low", "high", "order"):
        rivals = partial(lists.ranked_rivals, kind=said)
    elif layout.name == "indexed" and said in ("0", "1"):
        rivals = partial(lists.index_rivals, base=int(said))
    elif layout.name == "scored-list" and re.fullmatch(r"[a-z][\w-]*", said):
        rivals = partial(lists.scored_rivals, by=said)
    elif layout.name == "rated" and re.fullmatch(r"[a-z][\w-]*", said):
        how = {"low": True} if said == "low" else {"by": said}
        rivals, one = _in_groups, partial(rated.rated_row, **how)
    return (
        None
        if rivals is None
        else dataclasses.replace(layout, name=f"{layout.name}:{said}", rivals=rivals, one=one, said=True)
    )


def coded(layout: Layout, code: LabelCode) -> Layout:
    """`layout` with its number labels read by `code`, which its name then tells (labelled:0/1)."""
    name = f"{layout.base}:{'/'.join(f'{c:g}' for c in code)}"
    if layout.base == "unpaired":
        return dataclasses.replace(layout, name=name, one=partial(rated.unpaired_row, code=code), said=True)
    rivals = {"labelled": preferred.label_rivals, "voted": preferred.vote_rivals}[layout.base]
    return dataclasses.replace(layout, name=name, rivals=partial(rivals, code=code), said=True)


def fitting(row: Row) -> Layout | None:
    """The first layout whose fields the row has."""
    return next((x for x in LAYOUTS if x.fits(row)), None)


def detect(rows: Iterable[Row]) -> Layout | None:
    """The layout of most rows, or None when no row has the fields of any."""
    counts = Counter(layout.name for row in rows if (layout := _fitting_as_is(row)) is not None)
    return named(counts.most_common(1)[0][0]) if counts else None


def _fitting_as_is(row: Row) -> Layout | None:
    try:
        return fitting(flattened(row))
    except RowError:
        return None


def flattened(row: Row) -> Row:
    """Rows whose fields lie one level down, with them at the top: Argilla's records, the Arena's `full_conversation`;
    columns as spreadsheets head them, by their known names; three or more responses in columns of their own, as a list."""
    if isinstance(row.get("fields"), Mapping) and isinstance(row.get("responses"), Mapping):
        return _argilla(row)
    if isinstance(row.get("full_conversation"), list) and row.get("conversation_a") is None:
        return _both_sides(row, row["full_conversation"])
    return lists.gathered(in_known_names(row))


def _argilla(row: Row) -> Row:
    """The fields of a record, and as votes the submitted answers to the question that asks which response is better."""
    fields: dict[str, Any] = {**row["fields"], **{k: row[k] for k in ("votes",) if k in row}}
    two = pair_fields(fields)
    if two is None:
        return {**row, **fields}
    if isinstance(fields.get("votes"), list):
        return {**fields, "votes": _submitted(fields["votes"])}
    answers = {name: _submitted(given) for name, given in row["responses"].items() if isinstance(given, list)}
    asked = [name for name, given in answers.items() if given and all(_names_one(v, fields, two) for v in given)]
    if len(asked) > 1:
        which = ", ".join(asked)
        raise RowError(
            "responses",
            f"hold several questions that name a response: map one, as in --map votes=responses.{asked[0]} ({which})",
        )
    return {**fields, "votes": answers[asked[0]]} if asked else fields


def _submitted(given: list[Any]) -> list[Any]:
    """The values of the answers that count; a ranking stands for its best."""
    values = [g.get("value") for g in given if isinstance(g, Mapping) and g.get("status") not in ("draft", "discarded")]
    return [_best(v) for v in values if v is not None]


def _best(value: object) -> object:
    if not isinstance(value, list) or not value:
        return value
    if all(isinstance(v, str) for v in value):
        return value[0]
    ranks = [(v.get("rank"), v.get("value")) for v in value if isinstance(v, Mapping)]
    best = [name for rank, name in ranks if rank == min((r for r, _ in ranks if isinstance(r, int)), default=None)]
    return best[0] if len(best) == 1 else "tie" if best else value


def _names_one(value: object, fields: Row, two: tuple[str, str]) -> bool:
    try:
        verdict(value, "", fields, two, (1, 2))
    except RowError:
        return False
    return not isinstance(value, bool)


def _both_sides(row: Row, turns: list[Any]) -> Row:
    """The two dialogues of an Arena battle whose turns hold the user's words and both models' answers."""
    sides: dict[str, list[Any]] = {"a": [], "b": []}
    for turn in turns:
        for side, said in sides.items():
            if not isinstance(turn, Mapping) or turn.get("user") is None or turn.get(f"model_side_{side}") is None:
                raise RowError("full_conversation", f"has a turn without user or model_side_{side}")
            said += [turn["user"], turn[f"model_side_{side}"]]
    return {**row, "conversation_a": sides["a"], "conversation_b": sides["b"]}


def unread(row: Row) -> str:
    """Why no layout reads a row: what it is, where that is known, else its fields and what the nearest layouts lack."""
    fields = _fields(row)
    known = next((what for what, is_one in _UNREAD if is_one(row)), None)
    if known is not None:
        return f"{known} ({fields})"
    near = sorted(LAYOUTS, key=lambda x: (len(x.lacks(row)) - len(x.needs), len(x.lacks(row))))[:2]
    named = [lacking(x, row) for x in dict.fromkeys((LAYOUTS[0], *near))]
    return f"has the fields of no known layout (has {fields}; {'; '.join(named)})"


def lacking(layout: Layout, row: Row) -> str:
    return f"{layout.name} lacks {' and '.join(layout.lacks(row))}"


def _fields(row: Row) -> str:
    return ", ".join(sorted(str(k) for k, v in row.items() if v is not None))[:200] or "nothing"


def explained(row: Row) -> list[str]:
    """For a file whose rows fit no layout: the fields of a row, and what each layout lacks in it."""
    known = next((what for what, is_one in _UNREAD if is_one(row)), None)
    if known is not None:
        return [f"fields {_fields(row)}: {known}"]
    return [
        f"fields {_fields(row)} fit no layout (docs/layouts.md); --map FIELD=COLUMN, as in --map chosen=win, renames one:",
        *(f"    {lacking(x, row)}" for x in LAYOUTS),
    ]


def _steps(row: Row) -> bool:
    found = lists.listed(row)
    marked = any(
        re.search(r"step|process|prm", str(k), re.IGNORECASE) for k, v in row.items() if isinstance(v, list | Mapping)
    )
    return isinstance(row.get("steps"), list) or (found is not None and (isinstance(row.get("labels"), list) or marked))


def _measures(row: Row) -> bool:
    items = (lists.listed(row) or ("", []))[1]
    return any(isinstance(i, Mapping) and isinstance(i.get("scores"), Mapping) for i in items)


def _tree(row: Row) -> bool:
    return bool({"message_tree_id", "parent_id", "replies"} & row.keys())


def _bare_list(row: Row) -> bool:
    return lists.listed(row) is not None and not isinstance(row.get("fields"), Mapping)


_UNREAD: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    (
        "is an export of Label Studio: export it as JSON-MIN or CSV, and name the column that says which is better, as in "
        "--map label=comparison",
        lambda row: isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), list),
    ),
    ("is one solution with a label for each step, and no rival responses", _steps),
    ("is a tree of replies, or a message of one: make a row of each two rival replies first", _tree),
    ("has several scores for each response: keep one of them as its score", _measures),
    (
        "is a list of responses without scores, ranks or the best one's number: if it is best first, "
        "give --layout ranked-list:first",
        _bare_list,
    ),
)
