"""Text questions with a known answer: made by reasoning-gym, GSM8K's file, or a user's own.

A question's text is the question and nothing else: how to answer (the template) is added where prompts are rendered.
"""

import dataclasses
import importlib
import json
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from assay.bench.policy.answers import same
from assay.errors import AssayError
from assay.images import ImageStore
from assay.records import AnswerKind, Conversation, Message, Prompt, Rejection, Role, user

KINDS: tuple[str, ...] = typing.get_args(AnswerKind)
_APART = 1_000_000
T = TypeVar("T")


def arithmetic(n: int, seed: int, terms: int = 2, digits: int = 1) -> list[Prompt]:
    """n sums and differences of `terms` numbers of `digits` digits (reasoning-gym's chain_sum).

    Small settings repeat: two terms of one digit make 200 different questions. Raises AssayError as `gym` does.
    """
    size = {"min_terms": terms, "max_terms": terms, "min_digits": digits, "max_digits": digits}
    return gym("chain_sum", n, seed, kind="number", **size)


def gym(task: str, n: int, seed: int, kind: AnswerKind = "text", **config: object) -> list[Prompt]:
    """n questions of one of reasoning-gym's tasks, whose own settings are `config`.

    reasoning-gym draws question i from seed + i, so neighbouring seeds share nearly all of them; ours are a million apart.
    Raises AssayError when the package is not installed, or does not know the task or a setting.
    """
    try:
        package = importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise AssayError(
            f"reasoning-gym cannot be imported ({error}); run: pip install reasoning-gym==0.1.25"
        ) from error
    if n <= 0:
        return []
    try:
        rows = package.create_dataset(task, size=n, seed=seed * _APART, **config)
    except (ValueError, TypeError, AssertionError) as error:
        raise AssayError(f"reasoning-gym refuses the task '{task}' with {config}: {error}") from error
    return [Prompt(messages=(user(r["question"]),), answer=str(r["answer"]), kind=kind) for r in rows]


def gsm8k(path: Path, n: int, seed: int) -> list[Prompt]:
    """n random questions of GSM8K's own JSON lines: `question`, and an `answer` whose last line is "#### NUMBER".

    Raises AssayError (file, row, field) for a row of another form, or fewer than n rows.
    """
    prompts = []
    for number, row in _rows(path):
        found = re.search(r"####\s*(\S+)\s*$", _text(row, "answer", path, number))
        if found is None:
            raise AssayError(f"{path}, row {number}, field 'answer': has no last line '#### NUMBER'")
        answer = found[1].replace(",", "")
        if reason := _fault(answer, "number"):
            raise AssayError(f"{path}, row {number}, field 'answer': {reason}")
        messages = (user(_text(row, "question", path, number)),)
        prompts.append(Prompt(messages=messages, answer=answer, kind="number"))
    if n > len(prompts):
        raise AssayError(f"{path} has {len(prompts):,} questions; {n:,} were asked for")
    return [prompts[i] for i in np.random.default_rng(seed).permutation(len(prompts))[:n]]


def jsonl(path: Path, store: ImageStore | None = None) -> tuple[list[Prompt], list[Rejection]]:
    """A user's own questions, one JSON object a line, and the rows that were rejected for their answer or their picture.

    Fields, all but the first optional; others are ignored:

        question, prompt   the question; or `messages`, a conversation of {role, content, images} that ends with the user
        answer             text or number (absent: not known)
        kind               math, number, choice or text (absent: number for a number, else text)
        image, images      paths seen from the file's folder
        facts, absent      words for what is in the picture, and for what is not: claims are checked against them

    An answer that no answer could equal ("none" as a number) and a picture that cannot be read reject their row with the
    reason. Raises AssayError (file, row, field) for anything else that is wrong, and when no row is left.

    Example: {"question": "What color is it?", "answer": "red", "image": "1.png", "facts": ["red"], "absent": ["blue"]}
    """
    prompts, rejected = [], []
    for number, row in _rows(path):
        answer, kind = _answer(row, path, number)
        facts, absent = (_words(row, field, path, number) for field in ("facts", "absent"))
        if both := set(facts) & set(absent):
            raise AssayError(f"{path}, row {number}, field 'absent': {min(both)!r} is among the facts too")
        try:
            messages = _messages(row, path, number, store)
        except _Unreadable as error:
            rejected.append(_rejection(row, path, number, "image", str(error)))
            continue
        if reason := _fault(answer, kind):
            rejected.append(_rejection(row, path, number, "answer", reason))
            continue
        prompts.append(Prompt(messages=messages, answer=answer, kind=kind, facts=facts, absent=absent))
    return _some(prompts, rejected, path), rejected


def as_row(prompt: Prompt, folder: str) -> dict[str, object]:
    """What `jsonl` reads this prompt from; `folder` is that of its pictures, seen from the file's folder."""

    def named(message: Message) -> dict[str, object]:
        return {"images": [f"{folder}/{i}.png" for i in message.images]} if message.images else {}

    *before, last = prompt.messages
    asked: dict[str, object] = (
        {"messages": [{"role": m.role, "content": m.content, **named(m)} for m in prompt.messages]}
        if before else {"question": last.content, **named(last)}
    )  # fmt: skip
    known = {"facts": list(prompt.facts), "absent": list(prompt.absent)}
    answer = {"answer": prompt.answer} if prompt.answer else {}
    return {**asked, **answer, "kind": prompt.kind, **{k: v for k, v in known.items() if v}}


def captions(path: Path, store: ImageStore, request: str) -> tuple[list[tuple[Prompt, str]], list[Rejection]]:
    """Pictures and what is to be said of them, one JSON object a line: `image` or `images`, `caption`, and `question`, which
    asks for it (absent: `request`). Refusals as those of `jsonl`.

    Example: {"image": "1.png", "caption": "a red circle"}
    """
    found, rejected = [], []
    for number, row in _rows(path):
        caption = _text(row, "caption", path, number)
        asked = {**row, "question": row.get("question", request)}
        if not _images(row, path, number):
            raise AssayError(f"{path}, row {number}, field 'image': is missing")
        try:
            found.append((Prompt(messages=_messages(asked, path, number, store), answer=caption), caption))
        except _Unreadable as error:
            rejected.append(_rejection(asked, path, number, "image", str(error)))
    return _some(found, rejected, path), rejected


class _Unreadable(Exception):
    """A picture that cannot be read: its row is rejected, with the reason."""


def _rejection(row: dict[str, Any], path: Path, number: int, field: str, reason: str) -> Rejection:
    asked = row.get("question", row.get("prompt", ""))
    excerpt = asked if isinstance(asked, str) else ""
    return Rejection(source=path.stem, file=str(path), row=number, field=field, reason=reason, excerpt=excerpt[:200])


def _some(found: list[T], rejected: Sequence[Rejection], path: Path) -> list[T]:
    if not found:
        first = "".join(f", row {r.row} because {r.reason}" for r in rejected[:1])
        why = f"all {len(rejected)} rows were rejected{first}" if rejected else "empty"
        raise AssayError(f"{path}: no questions ({why})")
    return found


def _messages(row: dict[str, Any], path: Path, number: int, store: ImageStore | None) -> Conversation:
    """The conversation of a row, its pictures in the store; those of the row itself belong to the last message."""
    if "messages" not in row:
        text = _text(row, "question" if "question" in row else "prompt", path, number)
        return (Message(role="user", content=text, images=_kept(row, path, number, store)),)
    turns, known = row["messages"], typing.get_args(Role)
    fine = isinstance(turns, list) and all(isinstance(t, dict) and t.get("role") in known for t in turns)
    if not fine or not turns or turns[-1]["role"] != "user":
        raise AssayError(
            f"{path}, row {number}, field 'messages': is not a list of {{role, content}} that ends with the user"
        )
    found = [
        Message(role=t["role"], content=_text(t, "content", path, number), images=_kept(t, path, number, store))
        for t in turns
    ]
    found[-1] = dataclasses.replace(found[-1], images=(*_kept(row, path, number, store), *found[-1].images))
    return tuple(found)


def _kept(row: dict[str, Any], path: Path, number: int, store: ImageStore | None) -> tuple[str, ...]:
    named = _images(row, path, number)
    if named and store is None:
        raise AssayError(f"{path}, row {number}, field 'image': pictures need an image store; none was given")
    try:
        return tuple(store.add(path.parent / name) for name in named) if store is not None else ()
    except AssayError as error:
        raise _Unreadable(str(error)) from error


def _words(row: dict[str, Any], field: str, path: Path, number: int) -> tuple[str, ...]:
    words = row.get(field) or []
    if not isinstance(words, list) or not all(isinstance(w, str) and w.strip() for w in words):
        raise AssayError(f"{path}, row {number}, field '{field}': is not a list of words")
    return tuple(dict.fromkeys(words))


def _fault(answer: str, kind: AnswerKind) -> str:
    """Why no answer could ever be right, "" where one could: a known answer must at least equal itself."""
    return f"the answer is no {kind}: nothing could be right" if answer and not same(answer, answer, kind) else ""


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON lines file with their row numbers, from 1; empty lines are skipped."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AssayError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise AssayError(f"{path}, row {number}: is not JSON ({error.msg}, column {error.colno})") from error
        if not isinstance(row, dict):
            raise AssayError(f"{path}, row {number}: is not an object with fields")
        yield number, row


def _text(row: dict[str, Any], field: str, path: Path, number: int) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        fault = "is missing" if value is None else "is not a text, or empty"
        raise AssayError(f"{path}, row {number}, field '{field}': {fault}")
    return value


def _answer(row: dict[str, Any], path: Path, number: int) -> tuple[str, AnswerKind]:
    answer = "" if row.get("answer") is None else row["answer"]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise AssayError(f"{path}, row {number}, field 'answer': is neither a text nor a number")
    kind = row.get("kind", "text" if isinstance(answer, str) else "number")
    if kind not in KINDS:
        raise AssayError(f"{path}, row {number}, field 'kind': is {kind!r}; use one of {', '.join(KINDS)}")
    return str(answer).strip(), kind


def _images(row: dict[str, Any], path: Path, number: int) -> list[str]:
    field = "images" if "images" in row else "image"
    value = row.get(field)
    names = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise AssayError(f"{path}, row {number}, field '{field}': is not a path, or a list of paths")
    return names
