"""`metrics.jsonl` of a training, and any tracker that a user has: one line per step, and none twice after a resume."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from assay.tables import write_text
from assay.trackers import How, Trackers, how


class Journal:
    """The metrics of one training. As a context manager it tells the trackers how that ended.

    Args:
        folder: Where `metrics.jsonl` goes.
        trackers: Names: tensorboard, wandb, mlflow, trackio, or any that Accelerate knows (`assay.trackers`).
        settings: What shapes the result, for the trackers.
        say: Hears of a tracker that fails.
        quiet: Write nothing (every process but the first).
        file: Where the lines go in `folder`.
    """

    def __init__(
        self, folder: Path, trackers: Sequence[str] = (), settings: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = lambda _: None, quiet: bool = False, file: str = "metrics.jsonl",
    ) -> None:  # fmt: skip
        self.path, self.quiet, self.open = folder / file, quiet, not quiet
        if not quiet:
            self.trackers = Trackers(trackers, folder, settings or {}, say)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(how(error))

    def close(self, ended: How = "finished") -> None:
        """Close the file and the trackers; a second time does nothing."""
        if not self.open:
            return
        self.open = False
        self.file.close()
        self.trackers.finish(ended)

    def resume(self, step: int = sys.maxsize) -> int:
        """Forget the lines of later steps, and a last one that a kill cut short: they will be written again. Of the others,
        trackers get what they lack. Returns the last step that is left."""
        if self.quiet:
            return step
        self.file.close()
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(self.path, "".join(line for line in lines if _step_of(line) <= step))
        self.file, last = self.path.open("a", encoding="utf-8"), 0
        for row in read(self.path):
            self.trackers.log(last := int(row.pop("step")), row)
        return last

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Record what one step came to."""
        if self.quiet:
            return
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        self.trackers.log(step, values)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, those cut short by a kill left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
