"""One row of a file of questions, in the forms in which people keep them, as a prompt with its right answer.

Own rows, GSM8K, MATH and the AIME sets, verl, TRL, OpenRLHF, Alpaca, sets with options or pictures: a row is read by the
fields that it has. What it says in two ways that differ is asked about; what cannot be read is a `RowFault` with its field.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.formats.dialogues import with_tools
from assay.formats.rows import RowError
from assay.formats.turns import messages, row_tools
from assay.images import ImageStore
from assay.records import Conversation, Message, user
from assay.rollouts import AnswerKind, Prompt
from assay.tuning.known_answers import RowFault, Unclear, answer_of, options_of

TALKS = ("messages", "context_messages", "conversations", "conversation")
"""Fields that hold a conversation which ends with the user."""
ASKED = ("question", "prompt", "problem", "query", "instruction", "message", "input")
"""Fields that hold a question: a text, or a conversation."""
BESIDE = ("context", "passage", "table_title", "table")
"""Texts that a question is about, put before it."""
PICTURES = ("decoded_image", "images", "image")
_WHOLE = ("decoded_image", "image")
"""Fields of one picture."""
_NUMBERED = re.compile(r"(?:image|img|picture)s?_?(\d+)")
"""Columns of one picture each, as MMMU has them: image_1, image_2."""
_OTHER = re.compile(r"(?:img|image|pic(?:ture)?|photo)s?(?:_?(?:path|file|name|filename|url|bytes|data))?", re.I)
"""What else a picture's column may be called: told, for nothing says that it is one."""
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")
_MARK = re.compile(r"<image\s*(\d*)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What rows are read with: the folder that picture paths are seen from, where pictures go, which field holds the answer
    ("": found out), and of a set whose answers are numbers of options, the number of the first (None: not known)."""

    folder: Path
    store: ImageStore | None = None
    answer_field: str = ""
    first_option: int | None = None

    def prompt(self, row: Mapping[str, Any]) -> Prompt:
        """Raises RowFault for a row that cannot be read, Unclear for one that can be read in two ways."""
        facts, absent = (_words(row, field) for field in ("facts", "absent"))
        if both := set(facts) & set(absent):
            raise RowFault("absent", f"{min(both)!r} is among the facts too")
        options = options_of(row)
        messages = self.messages(row)
        answer, kind = answer_of(row, self.answer_field, options, self.first_option)
        if options and not _listed(messages[-1].content, options):
            messages = (
                *messages[:-1],
                replace(messages[-1], content=_with_options(messages[-1].content, options, kind)),
            )
        return Prompt(
            messages=messages, answer=answer, kind=kind, facts=facts, absent=absent, rubric=_words(row, "rubric")
        )

    def messages(self, row: Mapping[str, Any]) -> Conversation:
        """The conversation of a row, its pictures in the store."""
        pictures = [(field, p) for field in _picture_fields(row) for p in _listing(row[field])]
        talk = next((f for f in (*TALKS, *ASKED) if isinstance(_parsed(row.get(f)), list)), None)
        if talk is not None:
            turns = _after(_earlier(row), self.conversation(_listing(_parsed(row[talk])), talk), talk)
            if beside := next((f for f in BESIDE if isinstance(row.get(f), str) and row[f].strip()), None):
                raise RowFault(beside, f"stands beside {talk}: put it into the turn that it belongs to")
        else:
            turns = (*_earlier(row), user(_text_asked(row)))
        try:
            turns = with_tools(turns, row_tools(row))
        except RowError as error:
            raise RowFault(error.field, error.reason) from error
        if turns[-1].role != "user":
            raise RowFault(talk or "history", "is not a list of {role, content} that ends with the user")
        whole = [field for field, _ in pictures if field in _WHOLE and not any(map(_NUMBERED.fullmatch, row))]
        return self.shown(turns, pictures, whole=len(whole) == len(pictures) == 1)

    def conversation(self, value: list[Any], field: str) -> Conversation:
        """A list of turns; parts that are pictures go to the store."""
        found = list[Message]()
        for index, turn in enumerate(value):
            where = f"{field}[{index}]"
            if not isinstance(turn, Mapping):
                raise RowFault(field, "is not a list of {role, content} that ends with the user")
            content, own = turn.get("content", turn.get("value")), list[str]()
            if isinstance(content, list):
                parts = list[str]()
                for part in content:
                    if isinstance(part, Mapping) and str(part.get("type", "")).startswith(("image", "input_image")):
                        shown = part.get("image", part.get("image_url", part.get("url")))
                        shown = shown.get("url") if isinstance(shown, Mapping) and "url" in shown else shown
                        if shown is None:
                            parts.append("<image>")
                        else:
                            own.append(self.kept(shown, f"{where}.content"))
                    else:
                        said = part.get("text") if isinstance(part, Mapping) else part
                        if not isinstance(said, str):
                            raise RowFault(f"{where}.content", "has a part that is neither a text nor a picture")
                        parts.append(said)
                content = "\n".join(parts)
            own += [self.kept(p, f"{where}.images") for p in _listing(turn.get("images"))]
            if isinstance(content, str) and not content.strip() and own:
                raise RowFault(f"{where}.content", "is a picture without a question")
            if isinstance(content, str) and not content.strip() and turn.get("role", turn.get("from")) == "system":
                continue
            try:
                plain = {k: v for k, v in turn.items() if k not in ("content", "value", "images")}
                found += messages([{**plain, "content": content}], where)
            except RowError as error:
                field_ = error.field.removeprefix(f"{where}[0]").removeprefix(".")
                raise RowFault(f"{where}.{field_}" if field_ else where, error.reason) from error
            found[-1] = replace(found[-1], images=(*own, *found[-1].images))
        if not found:
            raise RowFault(field, "is not a list of {role, content} that ends with the user")
        return tuple(found)

    def shown(self, turns: Conversation, pictures: list[tuple[str, Any]], whole: bool) -> Conversation:
        """The turns with the row's pictures: where "<image>" stands, or all in the last turn, where it stands nowhere.
        `whole`: one picture may have all that numbered marks speak of (MathVision)."""
        marks = [sum(not m[1] for m in _MARK.finditer(t.content)) for t in turns]
        held = len(pictures) + sum(len(t.images) for t in turns)
        missing = [m for t in turns for m in _MARK.finditer(t.content) if m[1] and not 0 < int(m[1]) <= held]
        if missing and not whole:
            raise RowFault("image", f"is missing: the text has the mark {missing[0][0]}, and the row {held} pictures")
        if not pictures:
            if sum(marks) and not any(t.images for t in turns):
                raise RowFault("image", "is missing: the text has the mark <image>")
            return turns
        if sum(marks) not in (0, len(pictures)):
            raise RowFault(
                "images", f"does not fit the marks <image> in the text ({len(pictures)} pictures, {sum(marks)} marks)"
            )
        kept = [self.kept(value, field) for field, value in pictures]
        if not sum(marks):
            marks[-1] = len(kept)
        found, at = list[Message](), 0
        for turn, count in zip(turns, marks, strict=True):
            text = _unmarked(turn.content, len(kept))
            if not text.strip():
                raise RowFault("images", "come without a question")
            found.append(replace(turn, content=text, images=(*kept[at : at + count], *turn.images)))
            at += count
        return tuple(found)

    def kept(self, value: object, field: str) -> str:
        """The id of a picture that a row holds, or names."""
        if self.store is None:
            raise RowFault(field, "pictures need an image store; none was given")
        try:
            return self.store.add(_picture(value, self.folder, field))
        except AssayError as error:
            raise RowFault(field, str(error)) from error


def _picture_fields(row: Mapping[str, Any]) -> list[str]:
    present = [f for f in PICTURES if row.get(f) not in (None, "", [])]
    if "decoded_image" in present:  # the same picture as `image`, which is then its path in another place
        return ["decoded_image"]
    if len(present) > 1:
        raise RowFault("image", "and 'images' both hold pictures: keep one of them")
    numbered = sorted((int(m[1]), f) for f in row if (m := _NUMBERED.fullmatch(f)) and row[f] not in (None, "", []))
    if numbered and present == ["images"]:
        raise RowFault("images", f"and '{numbered[0][1]}' both hold pictures: keep one of them")
    fields = [*present, *(f for _, f in numbered)]
    for field, value in row.items():
        named = not fields and isinstance(value, str) and value and _OTHER.fullmatch(field)
        if field not in fields and (named or _is_picture(value)):
            raise RowFault(
                field, "holds a picture and is no field that is read: call it image, images, or image_1, image_2"
            )
    return fields


def _is_picture(value: object) -> bool:
    """Whether a cell holds a picture, or a list of them: its bytes, or what Hugging Face keeps of one."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_picture, value))
    held = value.get("bytes") if isinstance(value, Mapping) else value
    return isinstance(held, bytes) and held.startswith(_MAGIC)


def _listing(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _picture(value: object, folder: Path, field: str) -> Path | bytes:
    if isinstance(value, Mapping):
        held = value.get("bytes")
        value = held if held is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise RowFault(field, "is not a path, or a list of paths, nor a picture")
    if re.match(r"https?://", value):
        raise RowFault(field, "is an address: bring the picture, and write its path")
    data = re.sub(r"^data:image/[\w.+-]+;base64,", "", value)
    if data != value or len(value) > 1000:
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RowFault(field, "is not a picture in base64") from error
    return folder / value.removeprefix("file://")


def _unmarked(text: str, pictures: int) -> str:
    """A text without the marks of its pictures, which are shown before it; in a sentence a mark is called by its name."""
    mark = r"<image\s*\d*>" if pictures == 1 else r"<image\s*>"
    text = re.sub(rf"^(?:\s*{mark})+\s*|(?:\s*{mark})+\s*$", "", text)
    number = 0

    def name(match: re.Match[str]) -> str:
        nonlocal number
        number += 1
        return f"image {match[1]}" if match[1] else "the image" if pictures == 1 else f"image {number}"

    return _MARK.sub(name, text)


def _parsed(value: object) -> object:
    """A list of turns that a cell holds as JSON text is that list; all else is itself."""
    if isinstance(value, str) and re.match(r"\s*\[\s*\{", value):
        try:
            found = json.loads(value)
        except ValueError:
            return value
        if isinstance(found, list) and all(isinstance(t, dict) and {"content", "value"} & t.keys() for t in found):
            return found
    return value


def _text_asked(row: Mapping[str, Any]) -> str:
    """The question of a row as one text, with what it is about before it."""
    names = [f for f in ASKED if f in row]
    given = [f for f in names if row[f] is not None]
    if not given:
        if names:
            raise RowFault(names[0], "is missing (null)")
        raise RowFault(
            "prompt", f"is missing (looked for {', '.join((*TALKS, *ASKED))}; found {', '.join(map(str, row))[:100]})"
        )
    if "instruction" in given and "input" in given:
        given = [f for f in given if f != "input"]
    text = _text(row[given[0]], given[0])
    for other in given[1:]:
        if isinstance(row[other], str) and row[other].strip() and row[other].strip() != text.strip():
            raise Unclear(f"fields '{given[0]}' and '{other}' could both be the question: keep one of them")
    if given[0] == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():
        text = f"{text}\n\n{row['input']}"
    beside = [row[f].strip() for f in BESIDE if isinstance(row.get(f), str) and row[f].strip()]
    return "\n\n".join([*(b for b in beside if b not in text), text])


def _earlier(row: Mapping[str, Any]) -> Conversation:
    """The system turn and the turns before the question, as Alpaca and ms-swift keep them."""
    given = row.get("system", row.get("system_prompt"))
    system = (Message(role="system", content=given),) if isinstance(given, str) and given.strip() else ()
    turns = list[Message]()
    for turn in _listing(row.get("history")):
        if not (
            isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(x, str) and x.strip() for x in turn)
        ):
            raise RowFault("history", "is not a list of [question, answer]")
        turns += [user(turn[0]), Message(role="assistant", content=turn[1])]
    return (*system, *turns)


def _after(earlier: Conversation, turns: Conversation, talk: str) -> Conversation:
    """The turns of a list behind what the row names beside it: a system turn, a history."""
    if earlier and turns[0].role == "system":
        if earlier != (turns[0],):
            raise RowFault(talk, "begins with a system turn, and the row has another, or a history, beside it")
        return turns
    return (*earlier, *turns)


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RowFault(field, "is missing" if value is None else "is not a text, or empty")
    return value


def _words(row: Mapping[str, Any], field: str) -> tuple[str, ...]:
    words = row.get(field) or []
    if not isinstance(words, list) or not all(isinstance(w, str) and w.strip() for w in words):
        raise RowFault(field, f"is not a list of {'texts' if field == 'rubric' else 'words'}")
    return tuple(dict.fromkeys(words))


def _listed(text: str, options: list[str]) -> bool:
    """Whether a question names its options already, or they are nothing but letters."""
    return all(re.fullmatch(r"\W*[A-Za-z]\W*", o) for o in options) or all(o in text for o in options)


def _with_options(text: str, options: list[str], kind: AnswerKind) -> str:
    marks = (
        [f"({chr(65 + i)}) " for i in range(len(options))]
        if kind == "choice" and len(options) <= 26
        else ["- "] * len(options)
    )
    own = all(re.match(rf"\(?{chr(65 + i)}[).:]", o) for i, o in enumerate(options[:26]))
    options = [_MARK.sub(lambda m: f"image {m[1]}" if m[1] else m[0], o) for o in options]
    return "\n".join([text, *(o if own else m + o for m, o in zip(marks, options, strict=True))])
