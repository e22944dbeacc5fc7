"""Map a stage over shards: in this process, on all cores of this machine, or on Ray.

A stage is one function over one shard. Its result is a file that appears whole, under a name that is a function of what it
was made from (`make`): that it is there says that it is done. So a lost worker, a lost node and a kill are one case: what
was in hand is made again, and the bytes are the same on every engine (where a stage holds a model: but for last digits).
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection as pipes
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from assay.errors import AssayError
from assay.store import Place
from assay.tables import write_shard
from assay.turns import Turns
from assay.workers import Worker

T = TypeVar("T")
R = TypeVar("R")
FEWER = "fewer workers need less (--engine cores:N, or --engine local)"
SEEN_S = 90.0
"""For so long a file that another machine wrote may be missing here: shared file systems keep what they know of a folder."""


class Engine(Protocol):
    """Where stages run. `workers`: how many shards are in hand at a time."""

    @property
    def workers(self) -> int: ...

    def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = False) -> Iterator[R]:
        """The results of `work`, in the order of the items, which are read as workers come free.

        `work`, items and results must be picklable on all engines but `Here`. `model`: `work` holds a model, so a fixed
        number of workers make all calls, and each loads it once: on one machine this process (`Replicas` has one for each
        device), on Ray one for each GPU. What `work` raises is raised here.
        """
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


class Here:
    """This process, one shard at a time."""

    workers = 1

    def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = False) -> Iterator[R]:
        return map(work, items)

    def close(self) -> None:
        pass


class Cores:
    """Processes of this machine, each with its share of the threads. A worker that dies is replaced, and its shard is begun
    again. `KeyboardInterrupt`, an error in one shard, and the death of this process end them all."""

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers or os.cpu_count() or 1
        self._free: list[Worker] = []

    def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = False) -> Iterator[R]:
        if model:  # a model uses all cores by itself: one replica, in this process
            return map(work, items)
        return self._map(work, items)

    def _map(self, work: Callable[[T], R], items: Iterable[T], hint: str = FEWER) -> Iterator[R]:
        turns = Turns[T, R](items, hint)
        crew: list[Worker] = []
        try:
            while True:
                self._begin(crew, turns, work)
                busy = {w.pipe: w for w in crew if w.task is not None}
                if not busy:
                    return
                for pipe in pipes.wait(list(busy)):
                    worker = busy[pipe]  # type: ignore[index]
                    task, worker.task = worker.task, None
                    try:
                        result = worker.answer()
                    except (EOFError, OSError):
                        crew.remove(worker)
                        worker.process.join(1)  # it tells how it ended
                        turns.lost(task, f"exit code {worker.end()}")
                    else:
                        turns.done(task, result)
                yield from turns.ready()
        finally:
            for worker in crew:
                if worker.task is None:
                    self._free.append(worker)
                else:
                    worker.end()

    def _begin(self, crew: list[Worker], turns: Turns[T, R], work: Callable[[T], R]) -> None:
        """Give work to all that have none."""
        idle = [w for w in crew if w.task is None]
        while (idle or len(crew) < self.workers) and (task := turns.take()) is not None:
            if not idle:
                crew.append(self._free.pop() if self._free else self._worker(crew))
                idle.append(crew[-1])
            try:
                idle[-1].begin(work, task)
            except OSError:  # it died while it had nothing to do
                crew.remove(idle[-1])
                turns.again.append(task)
            idle.pop()

    def _worker(self, crew: list[Worker]) -> Worker:
        """One more, beside those of a crew."""
        return Worker(self.workers)

    def close(self) -> None:
        while self._free:
            self._free.pop().end()


class Replicas(Cores):
    """Processes of this machine that hold a model: one for each of `environments`, the variables that say which device is
    its own (`devices.replicas`), set before it loads anything. They live for one map: a training has their memory."""

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        super().__init__(len(environments))
        self.environments = environments

    def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = True) -> Iterator[R]:
        hint = "fewer models at a time need less (--processes)"
        try:
            yield from self._map(work, items, hint)
        finally:
            self.close()

    def _worker(self, crew: list[Worker]) -> Worker:
        number = min(set(range(self.workers)) - {w.number for w in crew})
        return Worker(self.workers, number, self.environments[number])


def engine_of(text: str, models: int = 0) -> Engine:
    """The engine that `--engine` names: "local", "cores", "cores:8", "ray" (a cluster that is running, or else one on this
    machine), "ray://HOST:PORT"; on Ray so many workers hold a model. Raises AssayError for any other text."""
    kind, _, number = text.partition(":")
    if text == "local":
        return Here()
    if kind == "cores" and (not number or number.isdecimal()):
        return Cores(int(number or 0))
    if kind == "ray" and (not number or number.startswith("//")):
        from assay.ray_engine import Cluster

        return Cluster(f"ray:{number}" if number else "", models=models)
    raise AssayError(f"--engine {text}: give local, cores, cores:N, ray or ray://HOST:PORT")


def make(
    engine: Engine, folder: Place, work: Callable[[T], pa.Table], items: Mapping[str, T], *, model: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> dict[str, Place]:  # fmt: skip
    """The shard of `folder` for every name: made by `work` of its item and written where it was made, unless it is there.

    The name must be a function of all that the rows depend on. `told` hears (shards done, shards to do) after each. Several
    drivers may make the same folder at a time: what one has made, the others leave, and equal names have equal bytes.
    """
    files = {name: folder / f"{name}.parquet" for name in items}
    there = {n.removesuffix(".parquet") for n in folder.names(".parquet")}
    folder.sweep()
    todo = [_Job(files[name], item) for name, item in items.items() if name not in there]
    for done, _ in enumerate(engine.map(partial(_made, work), todo, model=model), 1):
        _see(todo[done - 1].file)
        if told is not None:
            told(done, len(todo))
    return files


@dataclass(frozen=True, slots=True)
class _Job:
    """A shard to be made, and of what."""

    file: Place
    item: Any

    def __str__(self) -> str:
        return str(self.file)


def _made(work: Callable[[Any], pa.Table], job: _Job) -> None:
    if not job.file.exists():
        write_shard(job.file, work(job.item))


def _see(file: Place) -> None:
    """Wait until a file that a worker wrote is seen here. Raises AssayError where it is not."""
    end = time.monotonic() + SEEN_S
    while not file.exists():
        if time.monotonic() > end:
            raise AssayError(
                f"{file}: a worker wrote this, and it is not here: machines that share a run need a folder that all of them "
                "see under the same path, or an object store"
            )
        time.sleep(0.5)
