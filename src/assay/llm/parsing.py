"""What a model's reply says: its answer without its thoughts, and the JSON objects in it.

Nothing here guesses. A thought that does not end has no answer after it; text that could be a quotation is for the caller to
weigh, who knows what was asked.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_NAMES = r"think|thinking|thought|thoughts|reasoning|seed:think"
_OPEN = re.compile(rf"^\s*(?:<({_NAMES})>|\[THINK\]|<\|begin_of_thought\|>|◁think▷)", re.IGNORECASE | re.MULTILINE)
_CLOSE = re.compile(rf"</(?:{_NAMES})>|\[/THINK\]|<\|end_of_thought\|>|◁/think▷", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>(\w+)[^<]*<\|message\|>")
_ENDS = re.compile(r"<\|(?:end|return|im_end|eot_id|endoftext|end_of_text)\|>|</s>")
_FENCE = re.compile(r"\A\s*```[\w+-]*[ \t]*\n?(.*?)\n?\s*```\s*\Z", re.DOTALL)
_MOST_STARTS = 20
"""Braces that do not close which are looked at before a text is given up."""


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON object in a text; `whole`: the text is that object, bare or in a code fence; `source`: as it stands there."""

    data: dict[str, Any]
    whole: bool
    source: str


def after_thoughts(text: str) -> str | None:
    """What a reply says after its thoughts; all of it where it has none, None where a thought does not end.

    Thoughts stand at the beginning of a line, and end at the last closing tag; servers that put the opening tag into the
    prompt give the closing one alone. gpt-oss's channels are read as well.
    """
    channels = list(_CHANNEL.finditer(text))
    if channels:
        last = channels[-1]
        return _ENDS.split(text[last.end() :])[0] if last[1] == "final" else None
    closing = [m.end() for m in _CLOSE.finditer(text)]
    rest = text[closing[-1] :] if closing else text
    if closing:
        whole = next((text[at:] for at in closing if _only_object(text[at:]) is not None), None)
        rest = rest if whole is None else whole
    return None if _OPEN.search(rest) else rest


def objects(text: str) -> list[Found] | None:
    """The JSON objects that a reply says, in order, none inside another; None where its thought does not end.

    A trailing comma, a raw line break in a text, and Python's spelling are read; a list of one object is that object.
    """
    text = text.removeprefix("\ufeff")
    whole = _only_object(text)
    if whole is not None:
        return [Found(whole, True, text)]
    rest = after_thoughts(text)
    if rest is None:
        return None
    whole = _only_object(rest)
    if whole is not None:
        return [Found(whole, True, rest)]
    return [Found(data, False, source) for source in _braces(rest) if (data := _object(source)) is not None]


def _only_object(text: str) -> dict[str, Any] | None:
    fence = _FENCE.match(text)
    inner = (fence[1] if fence else text).strip()
    if inner[:1] == "[" and inner[-1:] == "]":
        inner = inner[1:-1].strip()
    return _object(inner) if inner[:1] == "{" and inner[-1:] == "}" else None


def _object(source: str) -> dict[str, Any] | None:
    """One object, its keys in small letters. Raises nothing: None where it is not one, or says a thing twice."""
    for read in (_json, _json_without_commas, ast.literal_eval):
        try:
            data = read(source)
            return _folded(data) if isinstance(data, dict) else None
        except _Twice:
            return None
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


class _Twice(Exception):
    """An object says two different things under one key."""


def _json(source: str) -> Any:
    return json.loads(source, strict=False, object_pairs_hook=_once)


def _json_without_commas(source: str) -> Any:
    return _json(re.sub(r'("(?:[^"\\]|\\.)*")|,(\s*[}\]])', lambda m: m[1] or m[2], source, flags=re.DOTALL))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise _Twice
    return found


def _folded(data: dict[Any, Any]) -> dict[str, Any]:
    return _once([(str(k).strip().lower(), v) for k, v in data.items()])


def _braces(text: str) -> Iterator[str]:
    """Every stretch from an opening brace to the one that closes it, the outermost ones; texts in quotes are skipped."""
    at = failed = 0
    while failed < _MOST_STARTS and (start := text.find("{", at)) >= 0:
        end = _closing(text, start)
        if end is None:
            failed, at = failed + 1, start + 1
        else:
            yield text[start:end]
            at = end


def _closing(text: str, start: int) -> int | None:
    depth, quote, at = 0, "", start
    while at < len(text):
        c = text[at]
        if quote:
            if c == "\\":
                at += 1
            elif c == quote:
                quote = ""
        elif c == '"' or (c == "'" and text[at - 1] in "{[:, \n"):
            quote = c
        elif c in "{}":
            depth += 1 if c == "{" else -1
            if not depth:
                return at + 1
        at += 1
    return None
