"""How a run trains its reward models, each on the view of a set of labels, and how it scores with them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assay.curate.stage1 import Train
from assay.curate.views import LabelSet
from assay.engine import Engine, Replicas
from assay.identity import Training
from assay.pipeline.flow import FlowConfig
from assay.ray_engine import Cluster
from assay.records import Preference, Scorer
from assay.reward.config import TrainConfig
from assay.reward.data import Pairs, ParquetPairs
from assay.run import Run
from assay.store import Place
from assay.telling import Telling

if TYPE_CHECKING:
    from assay.reward.train import Trained

T = TypeVar("T")
R = TypeVar("R")


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


class OnDevices:
    """An engine whose stages that hold a model have a copy on each device: in so many processes of this machine (one: this
    process), in those of an allocation, or on Ray in its pool of actors. All other stages are the engine's own."""

    def __init__(self, engine: Engine, processes: int) -> None:
        self.engine, self.processes = engine, processes

    @property
    def workers(self) -> int:
        return self.engine.workers

    def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = False) -> Iterator[R]:
        if not model:
            return self.engine.map(work, items)
        from assay.reward import crew

        if isinstance(self.engine, Cluster):
            let_go()  # Ray may give this process's device to an actor
            return self.engine.map(work, items, model=True)
        if crew.shares():
            return crew.share(work, items)
        return self._replicas(work, items)

    def _replicas(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        from assay.devices import replicas

        found = replicas(self.processes)
        first = list(islice(rest := iter(items), 1))  # where there is nothing to do, no process is started
        if first and len(found) > 1:
            let_go()  # the first device is also this process's
            yield from Replicas(found).map(work, chain(first, rest))
        else:
            yield from self.engine.map(work, chain(first, rest), model=True)

    def close(self) -> None:
        self.engine.close()


def trainer(
    run: Run, config: FlowConfig, seed: int, processes: int = 1, cluster: Cluster | None = None,
    telling: Telling | None = None,
) -> Train:  # fmt: skip
    """The `Train` function of a seed's run: trains (or resumes, or finds) `models/NAME` on so many processes, of a Ray
    cluster or of this machine; the model is loaded where and when it is first asked for a reward. `telling` says how it
    goes, and which trackers hear it."""
    from assay.reward.scorer import Model

    def trained(name: str, labels: LabelSet, gold: Sequence[Preference]) -> Scorer:
        epochs = config.train.epochs
        if config.presentations:
            epochs = min(epochs, config.presentations / max(1, len(labels)))
        source, folder = Streamed(labels), run.folder / "models" / name
        say = telling.training(name) if telling else run.say
        settings = fed(replace(config.train, seed=config.train.seed + seed, epochs=epochs), source, name, say)
        fit(folder, settings, source, gold, processes, say, telling.names if telling else (), cluster=cluster)
        labels.tidy()
        images = "" if settings.images is None else str(settings.images)
        return Model(str(folder), settings.max_tokens, settings.engine.tokens, settings.precision, images,
                     settings.freeze_layers)  # fmt: skip

    return trained


def fit(
    folder: Path, settings: TrainConfig, source: Streamed | ParquetPairs, gold: Sequence[Preference], processes: int = 1,
    say: Callable[[str], None] = lambda _: None, trackers: Sequence[str] = (), cluster: Cluster | None = None,
) -> "Trained":  # fmt: skip
    """Train on so many processes of this machine or of a Ray cluster (or on those of an allocation), or find in `folder`
    what was trained: that reads no text."""
    from assay.reward.launch import check_processes, train_view
    from assay.reward.train import HOLDS, Trained, identity_of, train

    let_go()
    if check_processes(processes, cluster) == processes == 1 and cluster is None:
        return train(folder, settings, source, gold, say, trackers)
    known = identity_of(settings, source, gold)
    place = Training(folder, known, HOLDS)
    if (done := place.finished()) is not None:
        return Trained(**done, folder=folder)
    place.begin()  # the processes that train are not those of the command, which leaves its run file
    return train_view(
        folder, settings, source.folder, gold, processes=processes, say=say, trackers=trackers, identity=known,
        cluster=cluster,
    )  # fmt: skip


def let_go() -> None:
    """Free what models hold of this process's accelerator, for those that need it next."""
    from assay import devices
    from assay.judges import embedders
    from assay.reward import scorer

    if devices.count():
        embedders.forget()
        scorer.forget()


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
