"""Rows of text and messages of text alone, straight to columns: the usual shapes of every layout that compares responses.

Which responses of a row are compared, and what is said of them, is the layout's to say (`Layout.rivals`). What is made of
them here is exactly what `reading.readings` makes of them, at a tenth of the cost (a property test compares the two). A row
with anything in it that needs a second look (pictures, tools, earlier turns in a column of their own, JSON text) is left to
that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from assay.formats.columns import Columns, Turns
from assay.formats.dialogues import MEANING, PROMPTS, SYSTEM, WRAPPED, empty, spoken
from assay.formats.layouts import Layout
from assay.formats.pictures import COLUMNS, LITERAL, without_pictures
from assay.formats.preferred import Rival, Word
from assay.formats.rival_fields import TWO_NAMES, columns_of_more
from assay.formats.rows import Row, RowError, encodes
from assay.formats.spelling import respelled
from assay.formats.turns import FIELDS, SAYS
from assay.records import Role

_SECOND_LOOK = MEANING.difference(PROMPTS, SYSTEM) | {*COLUMNS, "history"}
"""Fields that must be empty here: what they hold changes what a row means."""
_SHAPES = frozenset({"fields", "full_conversation"})
"""Fields of rows that are flattened first."""
MEANT = MEANING | {*COLUMNS} | _SHAPES
"""Fields beside responses and what is said of them that are looked at."""
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_SIMPLE = frozenset({str, int, float, bool, type(None)})
SAME = "hold the same response twice"

Two = tuple[Turns, Turns, Turns]
"""The turns that two dialogues share at their start, and what follows in each."""


class _Plan(NamedTuple):
    """What is looked at in rows with the same fields: those for a prompt and for a system text, and those that must be empty
    or not there; `fits`: whether the layout has to be asked if a row is its own."""

    prompts: tuple[str, ...]
    systems: tuple[str, ...]
    empty: tuple[str, ...]
    shaped: bool
    ask: bool


class PlainRows:
    """Reads rows of a layout into `columns`; `refuse` takes the number, the row and the error of one whose two responses are
    the same."""

    def __init__(
        self, columns: Columns, layout: Layout, max_field_chars: int, refuse: Callable[[int, Row, RowError], None]
    ) -> None:
        self._columns, self._layout, self._longest, self._refuse = columns, layout, max_field_chars, refuse
        self._plans: dict[tuple[str, ...], _Plan] = {}

    @staticmethod
    def reads(layout: Layout | None) -> bool:
        return layout is not None and layout.one is None

    def taken(self, row: dict[str, Any], number: int) -> bool:
        """Take in a row as it stands in the file, if it is plain; False where it is left to the general way."""
        names = tuple(row)
        plan = self._plans.get(names) or self._planned(names)
        if plan.shaped or (plan.empty and any(row[n] not in _NOTHING for n in plan.empty)):
            return False
        try:
            seen, rivals = self._layout.rivals(row)
        except RowError:
            return False
        if seen is not row or (plan.ask and not self._layout.fits(row)):
            return False
        made: list[tuple[Two, Word]] = []
        before: Turns | None = None
        fields = ("", "")
        for rival in rivals:
            if isinstance(rival, RowError) or (two := self._dialogues(rival)) is None:
                return False
            shared, one, other = two
            fields = rival.fields
            if (shared or one)[0][0] == "assistant":
                before = before or self._before(row, plan, fields)
                if before is None or not (shared or other[0][0] == "assistant"):
                    return False
                shared = before + shared
            elif not shared or not self._repeated(row, plan, fields, shared):
                return False
            prompt = self._with_system(row, plan, shared) if plan.systems else shared
            if prompt is None:
                return False
            if not one and not other and len(rivals) == 1:
                break
            if not one or not other or (prompt[0][0] != "user" and all(role != "user" for role, _ in prompt)):
                return False
            made.append(((prompt, one, other), rival.word))
        seen_whole = fields if before is None else (*fields, *plan.prompts)
        for name in names:
            if type(row[name]) not in _SIMPLE and name not in seen_whole and not without_pictures(row[name]):
                return False
        if not made and rivals:
            self._refuse(number, row, RowError("/".join(fields), SAME))
        for two, word in made:
            self._columns.add_turns(*two, word, number, self._layout.name)
        return bool(rivals)

    def _planned(self, names: tuple[str, ...]) -> _Plan:
        base = self._layout.base
        plan = _Plan(
            prompts=tuple(n for n in PROMPTS if n in names and n != "history"),
            systems=tuple(n for n in SYSTEM if n in names),
            empty=tuple(n for n in names if n in _SECOND_LOOK),
            shaped=not _SHAPES.isdisjoint(names) or bool(columns_of_more(names) or respelled(names)),
            ask=base not in ("chosen-rejected", "labelled", "voted", "scored-pair")
            or (base == "chosen-rejected" and not TWO_NAMES.isdisjoint(names)),
        )
        if len(self._plans) < 10_000:
            self._plans[names] = plan
        return plan

    def _dialogues(self, rival: Rival) -> Two | None:
        """What both responses begin with, and what follows in each."""
        one, other = rival.one, rival.other
        shared: Turns | None = []
        if type(one) is list and type(other) is list:
            same = _shared(one, other)
            shared, one, other = self._messages(one[:same]), one[same:], other[same:]
        first = self._turns(one, "assistant")
        second = self._turns(other, "assistant")
        if shared is None or first is None or second is None or not (shared or (first and second)):
            return None
        if (first or shared)[-1][0] != "assistant" or (second or shared)[-1][0] != "assistant":
            return None
        if same := _shared(first, second):
            shared, first, second = shared + first[:same], first[same:], second[same:]
        return shared, first, second

    def _before(self, row: Row, plan: _Plan, fields: tuple[str, str]) -> Turns | None:
        """The conversation so far, where nothing else in the row says more."""
        names = [n for n in plan.prompts if n not in fields and not empty(row[n])]
        if not names:
            return None
        name, value = names[0], row[names[0]]
        if name == "instruction" and type(value) is str and names[1:2]:
            more = row.get("input")
            if type(more) is str and more.strip():
                value = f"{value}\n\n{more}"
                names.remove("input")
        said = self._turns(value, "user") if name != "info" or type(value) is str else None
        if not said or said[-1][0] == "assistant" or not self._say_no_more(row, names[1:], said):
            return None
        return said

    def _repeated(self, row: Row, plan: _Plan, fields: tuple[str, str], shared: Turns) -> bool:
        """Whether all that a row says beside two whole dialogues stands in what they share."""
        names = [n for n in plan.prompts if n not in fields and n not in WRAPPED and not empty(row[n])]
        return self._say_no_more(row, names, shared)

    def _say_no_more(self, row: Row, names: list[str], said: Turns) -> bool:
        if not names:
            return True
        known = {content for _, content in said}
        return all(
            (turns := self._turns(row[n], "user")) is not None and all(content in known for _, content in turns)
            for n in names
        )

    def _with_system(self, row: Row, plan: _Plan, said: Turns) -> Turns | None:
        names = [n for n in plan.systems if not empty(row[n])]
        if not names:
            return said
        text = row[names[0]]
        if len(names) > 1 or type(text) is not str or not self._sound(text, "system") or said[0][0] == "system":
            return None
        return [("system", text), *said]

    def _turns(self, value: object, role: Role) -> Turns | None:
        """The turns of a text, a message or a list of messages."""
        if type(value) is not str:
            if type(value) is dict:
                return self._messages([value]) if len(value) == 2 else None
            return self._messages(value) if type(value) is list else None
        if not self._sound(value, role) or value.lstrip()[0] in "[{<":
            return None
        if "Assistant:" in value or "<extra_id_1>" in value:
            try:
                turns = spoken(value)
            except RowError:
                return None
            if turns is not None:
                return turns if LITERAL not in value else None
        return [(role, value)]

    def _messages(self, items: list[Any]) -> Turns | None:
        """The (role, text) of messages that hold nothing else that matters."""
        turns: Turns = []
        for item in items:
            if type(item) is not dict:
                return None
            name, content = item.get("role"), item.get("content")
            if name is None and content is None:
                name, content = item.get("from"), item.get("value")
            if type(name) is not str or type(content) is not str:
                return None
            role = SAYS.get(name) or SAYS.get(name.lower())
            if role is None or not self._sound(content, role) or (len(item) > 2 and not _bare(item)):
                return None
            turns.append((role, content))
        return turns

    def _sound(self, text: str, role: Role) -> bool:
        """Whether a text can be kept as it is, and shows no picture."""
        if not text or text.isspace() or len(text) > self._longest or "\0" in text:
            return False
        return (role == "assistant" or LITERAL not in text) and (text.isascii() or encodes(text))


def _bare(item: dict[str, Any]) -> bool:
    """Whether a message's fields beside its role and text are none that are looked at."""
    said = ("role", "content") if item.get("role") is not None else ("from", "value")
    return all(
        name in said or value is None or (name not in FIELDS and type(value) in _SIMPLE) for name, value in item.items()
    )


def _shared(one: list[Any], other: list[Any]) -> int:
    """How many items two lists have in common from the start."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
