"""Questions with a known answer: made by reasoning-gym, or read from a user's own files.

What is read is the question and nothing else; `asked_so` adds how to answer, where a command says it.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from assay.errors import AssayError
from assay.formats.sources import Part, find, splits
from assay.formats.texts import Cell
from assay.images import ImageStore, file_of
from assay.policy.config import AskConfig
from assay.records import Message, Rejection, tools_of, user
from assay.rollouts import AnswerKind, Prompt
from assay.tuning.known_answers import RowFault, Unclear, first_option
from assay.tuning.question_rows import Reader

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


def read(path: Path, store: ImageStore | None = None, answer_field: str = "") -> tuple[list[Prompt], list[Rejection]]:
    """A user's own questions, and the rows that were left out, each with its field and reason.

    JSON lines, JSON, CSV, Parquet or Arrow, packed or not, or a folder of these. Rows are read as people keep them (GSM8K,
    MATH and AIME, verl, TRL, OpenRLHF, Alpaca; `question_rows` has the fields). Our own, all but the first optional:

        question, prompt   the question; or `messages`, a conversation of {role, content, images} that ends with the user
        answer             text or number (absent: not known); of a whole solution what follows its last ####, what its
                           last \\boxed{} holds, or what "the answer is"
        kind               math, number, choice or text (absent: by what the answer looks like)
        options            of a choice, added to the question where its text has them not
        image, images      paths seen from the file's folder, or pictures themselves
        facts, absent      words for what is in the picture, and for what is not: claims are checked against them

    `answer_field` names the field of the answer. An answer that no answer could equal ("none" as a number), a question that
    is null and a picture that cannot be read reject their row. Raises AssayError for a file that cannot be read, for fields
    that could both be the answer, for a folder with several splits, such as train and test, and when no row is left.

    Example: {"question": "What color is it?", "answer": "red", "image": "1.png", "facts": ["red"], "absent": ["blue"]}
    """
    prompts, rejected = list[Prompt](), list[Rejection]()
    for part, file, rows in _files(path, rejected):
        reader = Reader(
            folder=file.parent, store=store, answer_field=answer_field, first_option=first_option([r for _, r in rows])
        )
        for number, row in rows:
            try:
                prompts.append(reader.prompt(row))
            except RowFault as fault:
                rejected.append(_rejection(part, file, number, row, fault))
            except Unclear as fault:
                raise AssayError(f"{file}, row {number}: {fault}") from fault
    if answer_field and prompts and not any(p.answer for p in prompts):
        raise AssayError(f"{path}: no row has the answer field '{answer_field}'")
    return _some(prompts, rejected, path), rejected


def as_row(prompt: Prompt, folder: Path) -> dict[str, object]:
    """What `read` reads this prompt from, from a file beside `folder`, its pictures' store."""

    def named(message: Message) -> dict[str, object]:
        files = [(file_of(folder, i) or folder / i).name for i in message.images]
        return {"images": [f"{folder.name}/{name}" for name in files]} if files else {}

    *before, last = prompt.messages
    asked: dict[str, object] = (
        {"messages": [{**m.chat(), **named(m)} for m in prompt.messages]}
        if before else {"question": last.content, **named(last)}
    )  # fmt: skip
    if tools := tools_of(prompt.messages):
        asked["tools"] = tools
    known = {"facts": list(prompt.facts), "absent": list(prompt.absent), "rubric": list(prompt.rubric)}
    answer = {"answer": prompt.answer} if prompt.answer else {}
    return {**asked, **answer, "kind": prompt.kind, **{k: v for k, v in known.items() if v}}


def asked_so(prompts: Sequence[Prompt], ask: AskConfig) -> list[Prompt]:
    """The same questions with the instruction after each, and the system prompt before those that have none."""
    return [_asked_so(p, ask) for p in prompts]


def _asked_so(prompt: Prompt, ask: AskConfig) -> Prompt:
    first, last, messages = prompt.messages[0], prompt.messages[-1], prompt.messages
    if ask.instruction:
        messages = (*messages[:-1], replace(last, content=f"{last.content}\n\n{ask.instruction}"))
    if ask.system and first.role != "system":
        told = Message(role="system", content=ask.system, tools=first.tools)
        messages = (told, replace(messages[0], tools=""), *messages[1:])
    return prompt if messages is prompt.messages else replace(prompt, messages=messages)


def captions(path: Path, store: ImageStore, request: str) -> tuple[list[tuple[Prompt, str]], list[Rejection]]:
    """Pictures and what is to be said of them: `image` or `images`, `caption`, and `question`, which asks for it (absent:
    `request`). Files and refusals as those of `read`.

    Example: {"image": "1.png", "caption": "a red circle"}
    """
    found, rejected = list[tuple[Prompt, str]](), list[Rejection]()
    for part, file, rows in _files(path, rejected):
        reader = Reader(folder=file.parent, store=store)
        for number, row in rows:
            try:
                found.append(_captioned(reader, row, request))
            except RowFault as fault:
                rejected.append(_rejection(part, file, number, row, fault))
            except Unclear as fault:
                raise AssayError(f"{file}, row {number}: {fault}") from fault
    return _some(found, rejected, path), rejected


def _captioned(reader: Reader, row: Mapping[str, Any], request: str) -> tuple[Prompt, str]:
    caption = row.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise RowFault("caption", "is missing" if caption is None else "is not a text, or empty")
    asked = {k: v for k, v in row.items() if k != "caption"} | {"question": row.get("question", request)}
    messages = reader.messages(asked)
    if not any(m.images for m in messages):
        raise RowFault("image", "is missing")
    return Prompt(messages=messages, answer=caption), caption


Rows = list[tuple[int, Mapping[str, Any]]]


def _files(path: Path, rejected: list[Rejection]) -> list[tuple[Part, Path, Rows]]:
    """The files of a path with their rows and row numbers; what is no row goes to `rejected`."""
    try:
        parts = find(str(path))
    except AssayError as error:
        raise AssayError(f"{path}: cannot be read ({error})") from error
    if len(several := splits(parts)) > 1:
        first = next(part.file for part in parts if splits([part]))
        one = f"{path}@{Path(first).name}"
        if path.is_dir():
            one = f"its folder or file ({path / first}), or a folder with its files alone"
        raise AssayError(f"{path}: has the splits {', '.join(several)}; which is meant? Name one: {one}")
    found = []
    for part in parts:
        file = path / part.file if path.is_dir() else path
        rows: Rows = []
        for item in part.rows():
            if isinstance(item, Cell):
                rows.append((item.row, item.value))
            else:
                rejected.append(_rejection(part, file, item.row, {}, RowFault("", item.reason)))
        found.append((part, file, rows))
    return found


def _rejection(part: Part, file: Path, number: int, row: Mapping[str, Any], fault: RowFault) -> Rejection:
    asked = next((row[f] for f in ("question", "prompt", "problem") if isinstance(row.get(f), str)), "")
    return Rejection(
        source=part.source, file=str(file), row=number, field=fault.field, reason=fault.reason, excerpt=asked[:200]
    )


def reason_of(rejection: Rejection) -> str:
    """Why a row was left out, with its field."""
    return f"field '{rejection.field}': {rejection.reason}" if rejection.field else rejection.reason


def _some(found: list[T], rejected: Sequence[Rejection], path: Path) -> list[T]:
    if not found:
        first = "".join(f"row {r.row}, {reason_of(r)}" if r.row else reason_of(r) for r in rejected[:1])
        every = f"all {len(rejected)} rows were rejected; " if rejected and rejected[0].row else ""
        raise AssayError(f"{path}: no questions ({every}{first})")
    return found
