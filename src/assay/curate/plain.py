"""Rows of the two most frequent shapes, straight to columns: a chosen and a rejected text after a prompt, and two dialogues.

What is made of a row here is exactly what `reading.readings` makes of it, at a fifth of the cost (a property test
compares the two). A row with anything in it that needs a second look (marks, pictures, transcripts, other fields, tools)
is left to that.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

from assay.curate.columns import Columns
from assay.curate.dialogues import MEANING, PROMPTS
from assay.curate.layouts import Layout
from assay.curate.pictures import COLUMNS, LITERAL
from assay.curate.preferred import CHOSEN, TELLING, TWO_NAMES, told_strength
from assay.curate.rows import RowError
from assay.curate.turns import ROLES

_CHOSEN = frozenset(name for two in CHOSEN for name in two)
_READ = MEANING | TELLING | TWO_NAMES | _CHOSEN | frozenset(COLUMNS) | {"fields", "responses", "full_conversation"}
"""Every field that is looked at when a row of the layout chosen-rejected is read."""
_TWICE = ("", "[", "{", "<")
"""How a text begins that may be blank, JSON, or in a chat template's marks."""
_SAYS: dict[str, str] = {w: r for w, r in ROLES.items() if r in ("user", "assistant") and "call" not in w} | {
    "system": "system"
}

Turns = list[tuple[str, str]]
Plan = tuple[str, str, str, bool, tuple[str, ...]]
"""The names of prompt ("": none), chosen and rejected, whether fields tell a strength, and the other fields."""


class PlainRows:
    """Reads rows of the layout chosen-rejected into `columns`; `taken` is False for a row that is left to the general
    way."""

    def __init__(self, columns: Columns, max_field_chars: int) -> None:
        self._columns, self._longest = columns, max_field_chars
        self._plans: dict[tuple[str, ...], Plan | None] = {}

    @staticmethod
    def reads(layout: Layout | None) -> bool:
        return layout is not None and layout.name == "chosen-rejected"

    def taken(self, row: dict[str, Any], number: int) -> bool:
        """Take in a row as it stands in the file, if it is plain."""
        names = tuple(row)
        plan = self._plans[names] if names in self._plans else self._planned(names)
        if plan is None:
            return False
        prompt_name, chosen, rejected, told, free = plan
        for name in free:
            if isinstance(row[name], list | Mapping):
                return False
        said, one, other = row[prompt_name] if prompt_name else "", row[chosen], row[rejected]
        strength = 0.0
        if told:
            try:
                strength = told_strength(row)
            except RowError:
                return False
        if type(one) is str and type(other) is str:
            if one == other or not (self._plain(said) and self._plain(one) and self._plain(other)) or LITERAL in said:
                return False
            return self._add_texts(said, one, other, number, strength)
        dialogues = self._dialogues(said, bool(prompt_name), one, other)
        return dialogues is not None and self._add(*dialogues, number, strength)

    def _planned(self, names: tuple[str, ...]) -> Plan | None:
        """How rows with these fields are read; None where not here."""
        known, plan = _READ.intersection(names), None
        two = next((t for t in CHOSEN if t[0] in known and t[1] in known), None)
        prompts = [n for n in PROMPTS if n in known and n not in _CHOSEN]
        if two is not None and two[0] != "messages" and len(prompts) < 2 and prompts not in (["history"], ["info"]):
            beside = known - {*two, *prompts}
            if beside <= TELLING and len(_CHOSEN & known) == 2:
                free = tuple(n for n in names if n not in (*two, *prompts))
                plan = (prompts[0] if prompts else "", *two, bool(beside), free)
        if len(self._plans) < 10_000:
            self._plans[names] = plan
        return plan

    def _plain(self, value: object) -> bool:
        """Whether a text is one turn as it is."""
        return (
            type(value) is str and value.lstrip()[:1] not in _TWICE and "Assistant:" not in value
            and "\0" not in value and "<extra_id_1>" not in value and len(value) <= self._longest
        )  # fmt: skip

    def _dialogues(self, said: object, prompted: bool, one: object, other: object) -> tuple[Turns, Turns, Turns] | None:
        """The shared turns and both tails of two whole dialogues, beside a prompt that repeats one of the shared turns."""
        first, second = self._turns(one), self._turns(other)
        if first is None or second is None or "assistant" in (first[0][0], second[0][0]):
            return None
        shared = 0
        for a, b in zip(first, second, strict=False):
            if a != b:
                break
            shared += 1
        prompt = first[:shared]
        if not any(role == "user" for role, _ in prompt) or shared in (len(first), len(second)):
            return None
        if prompted and not (self._plain(said) and any(said == content for _, content in prompt)):
            return None
        return prompt, first[shared:], second[shared:]

    def _turns(self, value: object) -> Turns | None:
        """The (role, text) of a list of messages that end with the assistant's and hold nothing else."""
        if type(value) is not list or not value:
            return None
        turns = []
        for item in value:
            if type(item) is not dict or len(item) != 2 or "role" not in item or "content" not in item:
                return None
            role, content = item["role"], item["content"]
            role = _SAYS.get(role.lower()) if type(role) is str else None
            if role is None or type(content) is not str or "\0" in content or len(content) > self._longest:
                return None
            if not content.strip() or (role != "assistant" and LITERAL in content):
                return None
            turns.append((role, content))
        return turns if turns[-1][0] == "assistant" else None

    def _add_texts(self, said: str, chosen: str, rejected: str, number: int, strength: float) -> bool:
        """`_add` of one turn each, which most rows are."""
        try:
            prompt_id = blake2b(orjson.dumps((("user", said),)), digest_size=16).hexdigest()
            one = blake2b(orjson.dumps((("assistant", chosen),)), digest_size=16).hexdigest()
            other = blake2b(orjson.dumps((("assistant", rejected),)), digest_size=16).hexdigest()
            words = " ".join(said.split())
            question_id = prompt_id if words == said else _id([("user", words)])
        except (TypeError, ValueError):  # half of a surrogate pair
            return False
        first, second, a, b = (one, other, chosen, rejected) if one < other else (other, one, rejected, chosen)
        pair_id = blake2b(f'["{prompt_id}","{first}","{second}"]'.encode(), digest_size=16).hexdigest()
        self._columns.add_texts(
            (pair_id, prompt_id, question_id, first, second, one, len(said) + len(a) + len(b), 0, number,
             "chosen-rejected", 1, 1.0, strength), said, a, b,
        )  # fmt: skip
        return True

    def _add(self, prompt: Turns, chosen: Turns, rejected: Turns, number: int, strength: float) -> bool:
        try:
            prompt_id, one, other = _id(prompt), _id(chosen), _id(rejected)
            asked = next(content for role, content in prompt if role == "user")
            words = " ".join(asked.split())
            alone = len(prompt) == 1 and words == asked
            question_id = prompt_id if alone else _id([("user", words)])
        except (TypeError, ValueError):  # half of a surrogate pair
            return False
        first, second, a, b = (one, other, chosen, rejected) if one < other else (other, one, rejected, chosen)
        pair_id = blake2b(f'["{prompt_id}","{first}","{second}"]'.encode(), digest_size=16).hexdigest()
        chars = 0
        for turns in (prompt, chosen, rejected):
            for _, content in turns:
                chars += len(content)
        narrow = (
            pair_id, prompt_id, question_id, first, second, one, chars, 0, number, "chosen-rejected", 1, 1.0, strength,
        )  # fmt: skip
        self._columns.add_plain(narrow, prompt, a, b)
        return True


def _id(turns: Turns) -> str:
    """`records.messages_id` of messages of text alone."""
    return blake2b(orjson.dumps(turns), digest_size=16).hexdigest()
