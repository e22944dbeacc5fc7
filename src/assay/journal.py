"""`metrics.jsonl` of a training, and any tracker that a user has: one line per step, and none twice after a resume."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.tables import write_text


class Journal:
    """The metrics of one training.

    Args:
        folder: Where `metrics.jsonl` goes.
        trackers: Names that Accelerate knows: tensorboard, wandb, mlflow, trackio, ... Their files go to folder/trackers.
        name: What the training is called there.
        quiet: Write nothing (every process but the first).
    """

    def __init__(self, folder: Path, trackers: Sequence[str] = (), name: str = "train", quiet: bool = False) -> None:
        self.path, self.quiet, self.open = folder / "metrics.jsonl", quiet, not quiet
        self.trackers = [] if quiet else trackers_of(trackers, name, folder / "trackers")
        if not quiet:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file and the trackers; a second time does nothing."""
        if not self.open:
            return
        self.open = False
        self.file.close()
        for tracker in self.trackers:
            tracker.finish()

    def resume(self, step: int) -> None:
        """Forget the lines of later steps, and a last one that a kill cut short: they will be written again."""
        if self.quiet:
            return
        self.file.close()
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(self.path, "".join(line for line in lines if _step_of(line) <= step))
        self.file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Record what one step came to."""
        if self.quiet:
            return
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        numbers = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        for tracker in self.trackers:
            tracker.log(numbers, step=step)


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


def trackers_of(names: Sequence[str], run: str, folder: Path) -> list[Any]:
    """Trackers that Accelerate knows, started for a run. Raises AssayError for one that it does not, or that lacks."""
    return [_tracker(name, run, folder) for name in names]


def _tracker(name: str, run: str, folder: Path) -> Any:
    """One of Accelerate's trackers, started. Raises AssayError for an unknown name or a missing package."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kinds = {str(getattr(k, "value", k)): v for k, v in LOGGER_TYPE_TO_CLASS.items()}
    if name not in kinds:
        raise AssayError(f"unknown tracker '{name}'; known: {', '.join(sorted(kinds))}")
    kind = kinds[name]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        made = kind(run, folder) if kind.requires_logging_directory else kind(run)
        made.start()
    except ImportError as error:
        raise AssayError(f"the tracker '{name}' is not installed; run: pip install {name}") from error
    return made
