"""Map a stage over shards: in this process, on all cores of this machine, or on Ray.

A stage is one function over one shard. Its result is a file that appears whole, under a name that is a function of what it
was made from (`make`): that it is there says that it is done. So a lost worker, a lost node and a kill are one case: what
was in hand is made again, and the bytes are the same on every engine.
"""

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from assay.errors import AssayError, missing_extra
from assay.store import Place
from assay.tables import write_shard

T = TypeVar("T")
R = TypeVar("R")
TRIES = 4
"""How often a shard is begun when its worker is lost, before the run stops."""


class Engine(Protocol):
    """Where stages run. `workers`: how many shards are in hand at a time."""

    workers: int

    def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = False) -> Iterator[R]:
        """The results of `work`, in the order of the items, which are read as workers come free.

        `work`, items and results must be picklable on all engines but `Here`. `model`: `work` holds a model, so a fixed
        number of workers, one for each device, make all calls, and each loads it once. What `work` raises is raised here.
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
    again."""

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None

    def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = False) -> Iterator[R]:
        if model:  # a model uses all cores by itself: one replica, in this process
            return map(work, items)
        return self._map(work, items)

    def _map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        waiting, rest = deque[tuple[T, Future[R], int]](), iter(items)
        while True:
            for item in itertools.islice(rest, max(0, 2 * self.workers - len(waiting))):
                waiting.append((item, self._submit(work, item), 1))
            if not waiting:
                return
            item, future, tries = waiting[0]
            try:
                result = future.result()
            except BrokenProcessPool:
                if tries >= TRIES:
                    raise AssayError(
                        f"a worker process died {TRIES} times over the same shard: is there enough memory? "
                        "The same command goes on, with fewer workers (--engine cores:N) or in one process (--engine local)"
                    ) from None
                self.close()
                again = [(i, self._submit(work, i), n + 1) for i, _, n in waiting]
                waiting = deque(again)
                continue
            waiting.popleft()
            yield result

    def _submit(self, work: Callable[[T], R], item: T) -> "Future[R]":
        if self._pool is None:
            threads = max(1, (os.cpu_count() or 1) // self.workers)
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), initializer=_few_threads, initargs=(threads,)
            )
        try:
            return self._pool.submit(work, item)
        except BrokenProcessPool:
            self.close()
            return self._submit(work, item)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _few_threads(threads: int) -> None:
    """In a worker, before any library is loaded: the cores are shared by the workers."""
    for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


def engine_of(text: str) -> Engine:
    """The engine that `--engine` names: "local", "cores", "cores:8", "ray" (a cluster that is running, or else one on this
    machine), "ray://HOST:PORT". Raises AssayError for any other text."""
    kind, _, number = text.partition(":")
    if text == "local":
        return Here()
    if kind == "cores" and (not number or number.isdecimal()):
        return Cores(int(number or 0))
    if kind == "ray" and (not number or number.startswith("//")):
        raise missing_extra("ray", "ray")
    raise AssayError(f"--engine {text}: give local, cores, cores:N, ray or ray://HOST:PORT")


def make(
    engine: Engine, folder: Place, work: Callable[[T], pa.Table], items: Mapping[str, T], *, model: bool = False,
    told: Callable[[int, int], None] | None = None,
) -> dict[str, Place]:  # fmt: skip
    """The shard of `folder` for every name: made by `work` of its item and written where it was made, unless it is there.

    The name must be a function of all that the rows depend on. `told` hears (shards done, shards to do) after each.
    """
    files = {name: folder / f"{name}.parquet" for name in items}
    there = {n.removesuffix(".parquet") for n in folder.names(".parquet")}
    todo = [(files[name], item) for name, item in items.items() if name not in there]
    for done, _ in enumerate(engine.map(partial(_made, work), todo, model=model), 1):
        if told is not None:
            told(done, len(todo))
    return files


def _made(work: Callable[[Any], pa.Table], item: tuple[Place, Any]) -> int:
    table = work(item[1])
    write_shard(item[0], table)
    return int(table.num_rows)
