"""How a run trains its reward models, each on the view of a set of labels, and how it scores with them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.curate.stage1 import Train
from assay.curate.views import LabelSet
from assay.identity import Training
from assay.recipes.flow import FlowConfig
from assay.records import Preference, Scorer
from assay.reward.config import TrainConfig
from assay.reward.data import Pairs, ParquetPairs
from assay.run import Run
from assay.store import Place

if TYPE_CHECKING:
    from assay.reward.train import Trained


class Streamed:
    """A set of labels as a training reads it: who it is is known without its texts; these are joined when they are asked
    for, so that a training that is finished reads none."""

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels

    @property
    def folder(self) -> Place:
        """Of the view, made where it is not there."""
        return Place.of(self.labels.folder())

    @cached_property
    def view(self) -> ParquetPairs:
        return ParquetPairs(self.folder)

    @property
    def whole(self) -> bool:
        return self.view.whole

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, seed: int, epoch: int, positions: Sequence[int]) -> list[tuple[int, Preference]]:
        return self.view.take(seed, epoch, positions)

    def at(self, numbers: Sequence[int]) -> list[Preference]:
        return self.view.at(numbers)

    def without(self, numbers: Collection[int]) -> Pairs:
        return self.view.without(numbers)

    def identity(self) -> dict[str, Any]:
        return self.labels.identity()

    def graded(self) -> tuple[bool, bool]:
        return self.labels.graded()


def trainer(run: Run, config: FlowConfig, seed: int, processes: int = 1) -> Train:
    """The `Train` function of a seed's run: trains (or resumes, or finds) `models/NAME` on so many processes; the model is
    loaded where and when it is first asked for a reward."""
    from assay.reward.scorer import Model

    def trained(name: str, labels: LabelSet, gold: Sequence[Preference]) -> Scorer:
        epochs = config.train.epochs
        if config.presentations:
            epochs = min(epochs, config.presentations / max(1, len(labels)))
        source, folder = Streamed(labels), run.folder / "models" / name
        settings = fed(replace(config.train, seed=config.train.seed + seed, epochs=epochs), source, name, run.say)
        fit(folder, settings, source, gold, processes, run.say)
        labels.tidy()
        images = "" if settings.images is None else str(settings.images)
        return Model(str(folder), settings.max_tokens, settings.engine.tokens, settings.precision, images)

    return trained


def fit(
    folder: Path, settings: TrainConfig, source: Streamed | ParquetPairs, gold: Sequence[Preference], processes: int = 1,
    say: Callable[[str], None] = lambda _: None, trackers: Sequence[str] = (),
) -> "Trained":  # fmt: skip
    """Train on so many processes of this machine (or on those of an allocation), or find in `folder` what was trained: that
    reads no text."""
    from assay.reward.launch import check_processes, train_view
    from assay.reward.train import HOLDS, Trained, identity_of, train

    alone = check_processes(processes) == 1
    if alone and processes == 1:
        return train(folder, settings, source, gold, say, trackers)
    known = identity_of(settings, source, gold)
    if (done := Training(folder, known, HOLDS).finished()) is not None:
        return Trained(**done, folder=folder)
    return train_view(
        folder, settings, source.folder, gold, processes=processes, say=say, trackers=trackers, identity=known
    )


def score_together(scorers: Sequence[Scorer], pairs: pa.Table) -> list[NDArray[np.float32]]:
    """The rewards (n, 2) of each scorer: the text is made tokens once for all that read alike."""
    from assay.reward.scoring import score_pairs

    return [found.rewards for found in score_pairs(scorers, pairs)]


def fed(settings: TrainConfig, pairs: Pairs, name: str, say: Callable[[str], None]) -> TrainConfig:
    """The settings for one of a run's models: a part of the loss that its labels cannot feed is left out, and told."""
    from assay.reward.train import idle

    found = idle(settings.loss, pairs) if settings.loss.margin or settings.loss.soft_labels else {}
    for why in found.values():
        say(f"{name}: {why}; trained without")
    return replace(settings, loss=replace(settings.loss, **dict.fromkeys(found, False))) if found else settings
