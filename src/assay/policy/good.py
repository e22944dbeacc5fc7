"""The best and the last good policy of a run that is watched: trained weights beside its states, in the run's folder.

A policy is good where a reading neither stopped the run nor found its reward hacked; the best has the highest accuracy on
the watched questions, or, where no answer is known, the lowest hallucination rate. Of equal ones the later is kept.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assay.step import Engine, writing
from assay.store import Place

LAST, BEST = "last-good", "best"


class Good:
    """The files good-last-good.pt and good-best.pt in the folder of an unfinished training. What they hold is what they say:
    a resumed run that takes other readings goes on from these."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self.engine = folder, engine

    def keep(self, step: int, seen: Mapping[str, Any]) -> None:
        """The policy of this step is good, by a reading that found nothing suspicious (`hacking`). Every process must call
        it."""
        if seen.get("hack_suspected") or not any(name.startswith("watch_") for name in seen):
            return
        weights = self.engine.weights(trained=True)
        if not self.engine.lead:
            return
        score, last = score_of(seen), self._file(LAST)
        with writing(last):
            Place.of(last).put(lambda path: torch.save({"step": step, "score": list(score), "weights": weights}, path))
            if score and list(score) >= self._about(BEST).get("score", []):
                Place.of(self._file(BEST)).put(lambda path: os.link(last, path))

    def others(self, steps: int, stopped: str) -> dict[str, int]:
        """The policies to save beside the last one of a run of so many steps, and the step of each."""
        found = {name: int(self._about(name).get("step", steps)) for name in (BEST, LAST)}
        if not stopped:  # the last policy is good, or nobody looked at it
            del found[LAST]
        return {name: step for name, step in found.items() if step < steps}

    def weights(self, name: str) -> dict[str, Tensor]:
        return dict(torch.load(self._file(name), weights_only=True)["weights"])

    def _file(self, name: str) -> Path:
        return self.folder / f"good-{name}.pt"

    def _about(self, name: str) -> dict[str, Any]:
        file = self._file(name)
        return dict(torch.load(file, weights_only=True, mmap=True)) if file.exists() else {}


def score_of(seen: Mapping[str, float]) -> tuple[float, ...]:
    """What a reading is ranked by; () where it has neither."""
    if (right := seen.get("watch_accuracy")) is not None:
        return (right,)
    return (-rate,) if (rate := seen.get("watch_hallucination_rate")) is not None else ()
