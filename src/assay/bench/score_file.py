"""Rewards on disk: JSON lines of {"conversation": ID, "reward": NUMBER}; ID is `conversation_id` of a whole conversation.

A recorder appends what a scorer says, part by part, so that a killed benchmark run asks for nothing twice; a file of scores,
from wherever they come, is a judge like any other. What is not in it, or null, is a failure and lowers coverage.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import AssayError
from assay.identity import check_output
from assay.records import Conversation, Scorer, digest

PART = 512
"""Conversations between two writes."""


def conversation_id(conversation: Conversation) -> str:
    """The content id of a whole conversation, prompt and response."""
    return digest([m.canonical() for m in conversation])


def read(path: Path) -> dict[str, float]:
    """The rewards of a file by conversation. Raises AssayError for a line of another form."""
    found = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AssayError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            found[str(row["conversation"])] = float("nan") if row["reward"] is None else float(row["reward"])
        except (ValueError, KeyError, TypeError) as error:
            raise AssayError(
                f'{path}, line {number}: expected {{"conversation": ID, "reward": NUMBER}} ({error!r})'
            ) from error
    return found


class ScoreFile:
    """The `Scorer` of a file of scores."""

    may_fail = True

    def __init__(self, path: Path) -> None:
        self.rewards = read(path)

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        return np.array([self.rewards.get(conversation_id(c), np.nan) for c in conversations], dtype=np.float64)


class Recorder:
    """A scorer whose rewards are kept in a file; what is there already is not asked again. A reward that is not finite is
    not kept, so that the next run asks for it.

    Args:
        of: Who the scorer is, and how it reads: kept beside the file. Raises AssayError for a file of another scorer.
    """

    def __init__(self, scorer: Scorer, path: Path, of: Mapping[str, Any]) -> None:
        check_output(path, of, "scores")
        self.scorer, self.path = scorer, path
        self.may_fail = bool(getattr(scorer, "may_fail", False))
        if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
        self.rewards = read(path) if path.exists() else {}

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        ids = [conversation_id(c) for c in conversations]
        todo = {i: c for i, c in zip(ids, conversations, strict=True) if i not in self.rewards}
        fresh: dict[str, float] = {}
        for at in range(0, len(todo), PART):
            part = list(todo.items())[at : at + PART]
            fresh |= self._ask(part)
        return np.array([self.rewards.get(i, fresh.get(i, np.nan)) for i in ids], dtype=np.float64)

    def _ask(self, part: list[tuple[str, Conversation]]) -> dict[str, float]:
        rewards = np.asarray(self.scorer([c for _, c in part]), dtype=np.float64)
        if rewards.shape != (len(part),):
            raise AssayError(
                f"the scorer returned shape {rewards.shape} for {len(part)} conversations; it must be one each"
            )
        told = {name: float(x) for (name, _), x in zip(part, rewards, strict=True)}
        kept = {name: x for name, x in told.items() if np.isfinite(x)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps({"conversation": n, "reward": x}) + "\n" for n, x in kept.items()))
        self.rewards |= kept
        return told
