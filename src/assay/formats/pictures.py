"""Pictures beside and inside the rows of a data set: kept in an image store, and matched by number to the <image> marks.

Before a row is read, `resolved` puts each picture that it refers to (a file, bytes, a data: address, base64) into the store
and a `Picture` in its place. A picture that cannot be had is the row's error, with its reason.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay.errors import AssayError, missing_extra
from assay.formats.rows import Row, RowError
from assay.images import ImageStore
from assay.records import Conversation

LITERAL = "<image>"
"""Where a picture of the row's column stands in a text (LLaVA, LLaMA-Factory, ms-swift)."""
MARK = "\0image\0"
"""Where a picture stands that is one of the message's own parts; no text that is kept has a null byte."""
_HELD = ("images", "image", "pictures", "picture", "img")
COLUMNS = (*_HELD, "image_paths", "image_path", "img_path", "image_urls", "image_url")
"""The names of the columns of pictures. Paths and addresses beside the pictures themselves are where those came from."""
_COLUMNS = frozenset(COLUMNS)
_IMAGE_PARTS = {"image", "image_url", "input_image"}
_NOT_DATA = {"type", "text", "index", "detail", "picture"}
_ALONE = re.compile(rf"(?:\A|\n)\s*{LITERAL}|{LITERAL}\s*(?:\Z|\n)")

Keep = Callable[[object], str]
"""Puts one referred-to picture into a store and returns its id. Raises RowError."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is in the store."""

    id: str


def keeper(store: ImageStore, folder: Path | None) -> Keep:
    """Pictures into `store`; names of files are looked for from `folder`, which is that of the file with the rows."""
    seen: dict[str, str] = {}

    def keep(value: object) -> str:
        data = _data(_reference(value), folder)
        key = str(data) if isinstance(data, Path) else ""
        if key in seen:
            return seen[key]
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise missing_extra("pillow", "vision") from error
        try:
            name = store.add(data)
        except AssayError as error:
            raise RowError("", f"cannot be decoded as a picture ({str(error)[:120]})") from error
        if key:
            seen[key] = name
        return name

    return keep


def _reference(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    inside = ("bytes", "base64", "data", "url", "image_url", "path", "image", "source", "file_name", "filename")
    found = next((value[k] for k in inside if value.get(k) is not None), None)
    if found is None:
        raise RowError("", f"is not a picture (an object with {', '.join(map(str, value))[:60] or 'nothing'})")
    return _reference(found)


def _data(value: object, folder: Path | None) -> Any:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str):
        if hasattr(value, "convert"):  # a picture that `datasets` has decoded
            return value
        raise RowError("", f"is not a picture ({type(value).__name__})")
    if value.startswith("data:"):
        return _decoded(value.partition(",")[2], value)
    if re.match(r"(?!file:)[a-z][a-z0-9+.-]+://", value, re.IGNORECASE):
        raise RowError("", f"is a remote address: download the picture and name its file ({value[:80]})")
    path = Path(value.removeprefix("file://")).expanduser()
    if len(value) < 1_000 and ((folder or Path()) / path).is_file():
        return (folder or Path()) / path
    if len(value) > 80 and not len(value) % 4 and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", value):
        return _decoded(value, value)
    raise RowError(
        "", f"is not there: pictures are looked for from the folder of the file that names them ({value[:80]})"
    )


def _decoded(value: str, whole: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError("", f"is not valid base64 ({whole[:40]!r})") from error


def resolved(row: Row, keep: Keep) -> Row:
    """`row` with a `Picture` in the place of every picture in its columns, its messages and their parts."""
    if _COLUMNS.isdisjoint(row) and not any(isinstance(v, list | Mapping) for v in row.values()):
        return row
    named = [n for n in COLUMNS if row.get(n)]
    if len([n for n in named if n in _HELD]) > 1:
        raise RowError("/".join(named), "are two columns of pictures: which one the texts mean cannot be told")
    made = {
        k: _kept_all(v, keep, k) if k in named[:1] else _walk(v, keep, k)
        for k, v in row.items() if k not in named[1:]
    }  # fmt: skip
    return _indexed(made) if named else made


def without_pictures(value: Any) -> bool:
    """Whether `resolved` leaves a value as it is, of a field that is no column of pictures."""
    if isinstance(value, list):
        return all(map(without_pictures, value))
    if not isinstance(value, Mapping):
        return True
    if _is_image(value) or (("role" in value or "from" in value) and (value.get("images") or value.get("image"))):
        return False
    return all(map(without_pictures, value.values()))


def _kept_all(value: Any, keep: Keep, field: str) -> Any:
    items = value if isinstance(value, list) else [value]
    return [_kept(v, keep, f"{field}[{i}]" if isinstance(value, list) else field) for i, v in enumerate(items) if v]


def _kept(value: object, keep: Keep, field: str) -> Picture:
    try:
        return Picture(keep(value))
    except RowError as error:
        raise RowError(field, error.reason) from error


def _is_image(part: Mapping[str, Any]) -> bool:
    return isinstance(part.get("type"), str) and part["type"] in _IMAGE_PARTS


def _walk(value: Any, keep: Keep, field: str) -> Any:
    if isinstance(value, list):
        return [_walk(v, keep, f"{field}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if _is_image(value):
        data = {k: v for k, v in value.items() if k not in _NOT_DATA and v is not None}
        return {**value, "picture": _kept(data, keep, field)} if data else value
    turn = "role" in value or "from" in value
    return {
        k: _kept_all(v, keep, f"{field}.{k}")
        if turn and k in ("images", "image") and v
        else _walk(v, keep, f"{field}.{k}")
        for k, v in value.items()
    }


def _indexed(row: dict[str, Any]) -> Row:
    """Parts that name their picture by its number in the column get that picture; the column is then used up."""
    name, pictures = column(row)
    used = False

    def walk(value: Any, field: str) -> Any:
        nonlocal used
        if isinstance(value, list):
            return [walk(v, f"{field}[{i}]") for i, v in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        if _is_image(value) and isinstance(value.get("index"), int) and "picture" not in value:
            if not 0 <= value["index"] < len(pictures):
                raise RowError(f"{field}.index", f"names a picture that {name} does not hold ({value['index']})")
            used = True
            return {**value, "picture": pictures[value["index"]]}
        return {k: walk(v, f"{field}.{k}") for k, v in value.items()}

    made = {k: v if k == name else walk(v, k) for k, v in row.items()}
    return {k: v for k, v in made.items() if k not in COLUMNS} if used else made


def column(row: Row) -> tuple[str, list[Picture]]:
    """The row's column of pictures and what is in it; ("", []) where it has none."""
    named = [] if _COLUMNS.isdisjoint(row) else [(n, row[n]) for n in COLUMNS if row.get(n)]
    if not named:
        return "", []
    name, value = named[0]
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(p, Picture) for p in items):
        raise RowError(
            name, "holds pictures, and here is no folder to keep them in: take them into a pool with assay pool add"
        )
    return name, items


def counted(pictures: int, marks: int) -> str:
    return f"hold another number of pictures than the texts have <image> marks ({pictures}, not {marks})"


def placed(said: str, mark: str) -> str:
    """A text whose pictures go before it: marks at its start (or all at its end) fall away, one inside becomes [image N]."""
    pieces = said.split(mark)
    if len(pieces) == 1:
        return said
    first = next((i for i, p in enumerate(pieces) if p.strip()), len(pieces) - 1)
    last = next((i for i in reversed(range(len(pieces))) if pieces[i].strip()), first)
    if first == 0 and last == 0:  # all at the end
        return pieces[0].rstrip()
    inside = [f"[image {n}]{piece}" for n, piece in enumerate(pieces[first + 1 :], first + 1)]
    whole = pieces[first].lstrip() if first else pieces[0]
    return whole + "".join(inside)


def shown(conversation: Conversation, row: Row) -> Conversation:
    """The conversation with the row's column of pictures given to the turns whose marks they stand for.

    Without marks they go to the only user turn. Raises RowError where the numbers differ.
    """
    name, pictures = column(row)
    marks = [m.content.count(LITERAL) if m.role != "assistant" and not m.images else 0 for m in conversation]
    if not pictures:
        if any(n and _ALONE.search(m.content) for n, m in zip(marks, conversation, strict=True)):
            raise RowError("prompt", "has an <image> mark, and the row no picture for it")
        return conversation
    ids = tuple(p.id for p in pictures)
    own = tuple(i for m in conversation for i in m.images)
    if not sum(marks) and own:
        if own == ids:
            return conversation
        raise RowError(name, "holds other pictures than the messages")
    if not sum(marks):
        return _to_the_only_user(conversation, ids, name)
    if sum(marks) != len(ids):
        raise RowError(name, counted(len(ids), sum(marks)))
    made, at = [], 0
    for turn, count in zip(conversation, marks, strict=True):
        made.append(
            replace(turn, content=placed(turn.content, LITERAL), images=ids[at : at + count]) if count else turn
        )
        at += count
    return tuple(made)


def _to_the_only_user(conversation: Conversation, ids: Sequence[str], name: str) -> Conversation:
    users = [i for i, m in enumerate(conversation) if m.role == "user"]
    if len(users) != 1:
        raise RowError(
            name, f"holds pictures, and no <image> mark says which of the user's turns shows them ({len(users)} turns)"
        )
    at = users[0]
    return (*conversation[:at], replace(conversation[at], images=tuple(ids)), *conversation[at + 1 :])
