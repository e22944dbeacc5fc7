"""Token ids of prompts: rendered once, kept as int32, in files that all processes map where there are many."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.rollouts import Prompt

Ids = NDArray[np.int32]
KEPT = 64 << 20
"""Bytes of ids that a process remembers beside those in files: 11,000 prompts of 1,500 tokens."""


class PromptIds:
    """The ids of prompts. What is not in a file is rendered, and remembered until `most` bytes are. Threads may share one.

    Args:
        render: Makes the ids of a prompt.
    """

    def __init__(self, render: Callable[[Prompt], Sequence[int]], most: int = KEPT) -> None:
        self.render, self.most, self.bytes = render, most, 0
        self.filed: Mapping[str, Ids] = {}
        self.made: OrderedDict[str, Ids] = OrderedDict()
        self.lock = threading.Lock()

    def __call__(self, prompt: Prompt) -> list[int]:
        ids = self.filed.get(prompt.id)
        if ids is None:
            with self.lock:
                ids = self._made(prompt)
        return ids.tolist()  # type: ignore[no-any-return]

    def _made(self, prompt: Prompt) -> Ids:
        if prompt.id not in self.made:
            found = np.asarray(self.render(prompt), dtype=np.int32)
            self.made[prompt.id] = found
            self.bytes += found.nbytes
            while self.bytes > self.most and len(self.made) > 1:
                self.bytes -= self.made.popitem(last=False)[1].nbytes
        self.made.move_to_end(prompt.id)
        return self.made[prompt.id]


class IdFile:
    """A file of ids, one row after another: `add` tells where a row lies."""

    def __init__(self, path: Path) -> None:
        self.file, self.at = path.open("wb"), 0

    def add(self, ids: Sequence[int] | Ids) -> tuple[int, int]:
        row = np.asarray(ids, dtype=np.int32)
        self.file.write(row.tobytes())
        self.at += len(row)
        return self.at - len(row), self.at

    def close(self) -> None:
        self.file.close()


def mapped(path: Path) -> Ids:
    """All ids of such a file; the system reads what is looked at, and holds it once for all processes."""
    if not path.stat().st_size:
        return np.zeros(0, dtype=np.int32)
    return np.asarray(np.memmap(path, dtype=np.int32, mode="r"))
