"""How a run trains its reward models: each on the view of a set of labels, in this process or on several devices."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.curate.stage1 import Train
from assay.curate.views import LabelSet
from assay.recipes.flow import FlowConfig
from assay.records import Conversation, Preference, Scorer
from assay.reward.config import TrainConfig
from assay.reward.data import Pairs, ParquetPairs
from assay.run import Run


class Streamed:
    """A set of labels as a training reads it: who it is is known without its texts; these are joined when they are asked
    for, so that a training that is finished reads none."""

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
        self._pairs: ParquetPairs | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        if self._pairs is None:
            self._pairs = ParquetPairs(self.labels.folder())
        return self._pairs.take(seed, epoch, positions)

    def identity(self) -> dict[str, Any]:
        return self.labels.identity()

    def graded(self) -> tuple[bool, bool]:
        return self.labels.graded()


class Model:
    """A trained model as a scorer, loaded in each process that first asks it: what workers are given. Conversations that it
    cannot read have no reward (NaN)."""

    may_fail = True

    def __init__(self, *loaded_by: Any) -> None:
        self._loaded_by = loaded_by

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        return _loaded(*self._loaded_by)(conversations)


@lru_cache(maxsize=2)
def _loaded(*how: Any) -> Scorer:
    from assay.reward.scorer import load_scorer

    return load_scorer(*how)


def trainer(run: Run, config: FlowConfig, seed: int, processes: int = 1) -> Train:
    """The `Train` function of a seed's run: trains (or resumes, or finds) `models/NAME`, which is loaded when it is first
    asked for a reward."""
    from assay.reward.train import train

    def fit(name: str, labels: LabelSet, gold: Sequence[Preference]) -> Scorer:
        epochs = config.train.epochs
        if config.presentations:
            epochs = min(epochs, config.presentations / max(1, len(labels)))
        source = Streamed(labels)
        settings = fed(replace(config.train, seed=config.train.seed + seed, epochs=epochs), source, name, run.say)
        trained = train(run.folder / "models" / name, settings, source, gold, run.say)
        labels.tidy()
        return Model(
            str(trained.folder), settings.max_tokens, settings.engine.tokens, settings.precision, settings.images
        )

    return fit


def fed(settings: TrainConfig, pairs: Pairs, name: str, say: Callable[[str], None]) -> TrainConfig:
    """The settings for one of a run's models: a part of the loss that its labels cannot feed is left out, and told."""
    from assay.reward.train import idle

    found = idle(settings.loss, pairs) if settings.loss.margin or settings.loss.soft_labels else {}
    for why in found.values():
        say(f"{name}: {why}; trained without")
    return replace(settings, loss=replace(settings.loss, **dict.fromkeys(found, False))) if found else settings
