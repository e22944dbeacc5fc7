"""The numbers of a `metrics.jsonl` that grows: each look reads what was added since the last one, from where that ended."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

CHUNK = 1 << 20
MOST = 20_000
"""Points kept of one number; of a longer training every other one goes, again and again."""


class Tail:
    """Series of numbers by name, (step, value) in rising steps, and the last whole line.

    A line that is torn or no JSON object is left out: a training may be writing it, or was killed in it. A file that was
    replaced or cut (a resumed training takes later steps back) is read anew.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.path, self.names = path, frozenset(names)
        self._reset(0)

    def _reset(self, inode: int) -> None:
        self.inode, self.offset = inode, 0
        self.series: dict[str, list[tuple[float, float]]] = {}
        self.last: dict[str, Any] = {}

    def read(self) -> bool:
        """Take up what is new; whether anything was."""
        try:
            with self.path.open("rb") as file:
                about = self.path.stat()
                if about.st_ino != self.inode or about.st_size < self.offset:
                    self._reset(about.st_ino)
                begun = self.offset
                file.seek(self.offset)
                rest = b""
                while chunk := file.read(CHUNK):
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        self.offset += len(line) + 1
                        self._take(line)
        except FileNotFoundError:
            gone = bool(self.offset)
            self._reset(0)
            return gone
        return self.offset != begun

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            return
        step = row.get("step") if isinstance(row, dict) else None
        if not _is_number(step):
            return
        self.last = row
        for name in self.names & row.keys():
            value, kept = row[name], self.series.setdefault(name, [])
            if not _is_number(value) or not math.isfinite(value) or (kept and kept[-1][0] >= step):
                continue
            kept.append((float(step), float(value)))
            if len(kept) > MOST:
                del kept[1:-1:2]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
