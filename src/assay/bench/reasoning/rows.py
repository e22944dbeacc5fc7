"""What is asked of a library that runs a benchmark, and what is read back from it, answer by answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assay.errors import AssayError


class Absent(AssayError):
    """What a benchmark needs is not on this machine (its library, its data, a sandbox): what to type is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One benchmark that a library is to ask of a model behind an OpenAI-compatible server.

    `data`: the folder with the benchmark's files. `work`: a folder of this job alone, where the library keeps what makes it
    resume. `limit`: ask the first so many questions, all with None. `repeats`: answers to each question. `key`: the server's
    key, never written to a file.
    """

    benchmark: str
    model: str
    url: str
    data: Path
    work: Path
    repeats: int = 1
    limit: int | None = None
    temperature: float = 0.0
    max_tokens: int = 4096
    seed: int = 0
    at_once: int = 8
    key: str = "-"
    window: str = ""
    """Of a benchmark of dated questions: FIRST:LAST, ISO dates or their beginnings, both included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer to one question. `score` in 0..1, None where none could be had: then `fault` says why, and it is counted.

    `finished`: the answer ended by itself. `extracted`: what was read as the answer, "" for none. `by`: the rule or judge
    that scored it.
    """

    benchmark: str
    question: str
    repeat: int
    answer: str
    score: float | None
    finished: bool = True
    thoughts: str = ""
    extracted: str = ""
    expected: str = ""
    subset: str = ""
    by: str = "rule"
    fault: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Other numbers of this answer in 0..1 by name (IFEval's four)."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of those that are means over more than one thing: how many (IFEval's instructions)."""
    reply: str = ""
    """The id of the completion that the library was given: what the recorder knows of it is joined by that."""
    all_thought: bool = False
    """It never came to the end of its thoughts: wrong, and counted."""
    text: str = ""
    """The question, for a judge and for people."""


Driver = Callable[[Job], Iterable[Answered]]
"""Asks what has no answer in `Job.work` yet and gives all of the job's rows; `AssayError` for what a user can mend."""
