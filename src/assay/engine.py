"""Map a stage over shards: in this process, on all cores of this machine, or on Ray.

A stage is one function over one shard. Its result is a file that appears whole, under a name that is a function of what it
was made from (`make`): that it is there says that it is done. So a lost worker, a lost node and a kill are one case: what
was in hand is made again, and the bytes are the same on every engine (where a stage holds a model: but for last digits).
"""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection as pipes
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa

from assay.errors import AssayError
from assay.store import Place
from assay.tables import write_shard

T = TypeVar("T")
R = TypeVar("R")
TRIES = 4
"""How often a shard is begun when its worker is lost, before the run stops."""
AHEAD = 1000
"""At most this many results wait for one that comes before them."""
FEWER = "fewer workers need less (--engine cores:N, or --engine local)"
THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What tells numerical libraries how many threads they may have."""
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
        self._free: list[_Worker] = []

    def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = False) -> Iterator[R]:
        if model:  # a model uses all cores by itself: one replica, in this process
            return map(work, items)
        return self._map(work, items)

    def _map(self, work: Callable[[T], R], items: Iterable[T], hint: str = FEWER) -> Iterator[R]:
        turns = Turns[T, R](items, hint)
        crew: list[_Worker] = []
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

    def _begin(self, crew: "list[_Worker]", turns: "Turns[T, R]", work: Callable[[T], R]) -> None:
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

    def _worker(self, crew: "list[_Worker]") -> "_Worker":
        """One more, beside those of a crew."""
        return _Worker(self.workers)

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

    def _worker(self, crew: "list[_Worker]") -> "_Worker":
        number = min(set(range(self.workers)) - {w.number for w in crew})
        return _Worker(self.workers, number, self.environments[number])


class Beside:
    """One more process of this machine, which does one thing at a time while this one does another.

    Args:
        threads: How many it may have; 0: there is no other process, and what is begun is done here at once.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._worker: _Worker | None = None
        self._again: Callable[[], object] | None = None

    def begin(self, work: Callable[[T], object], item: T) -> None:
        """Start `work`, which like the item must be picklable. What was begun before must have been waited for."""
        if self._again is not None:
            raise RuntimeError("the other process is at work: wait for it")
        if not self.threads:
            work(item)
            return
        if self._worker is None:
            self._worker = _Worker(1, environment=dict.fromkeys(THREADS, str(self.threads)))
        self._again = partial(work, item)
        with suppress(OSError):  # it died while it had nothing to do: `wait` finds out
            self._worker.begin(work, Task(0, item))

    def wait(self) -> None:
        """Until what was begun is done. Raises what `work` raised. Where the process was lost, it is done here."""
        again, self._again = self._again, None
        if again is None or self._worker is None:
            return
        try:
            result = self._worker.answer()
        except (EOFError, OSError):
            self.close()
            again()
            return
        if isinstance(result, Failure):
            raise result.error

    def close(self) -> None:
        """End it, whatever it is at."""
        if self._worker is not None:
            self._worker.end()
        self._worker = self._again = None


class _Worker:
    """A process that does one task at a time; `task` is the one in hand, `number` that of its device."""

    def __init__(self, of: int, number: int = 0, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        context: SpawnContext = multiprocessing.get_context("spawn")
        self.number = number
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _surrounded(max(1, (os.cpu_count() or 1) // of), environment):
            self.process.start()
        theirs.close()
        self.task: Any = None

    def begin(self, work: Callable[[Any], object], task: "Task[Any]") -> None:
        self.pipe.send_bytes(pickle.dumps((work, task.item)))
        self.task = task

    def answer(self) -> Any:
        return pickle.loads(self.pipe.recv_bytes())

    def end(self) -> int | None:
        """Its exit code, after it was killed where it still ran."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        return self.process.exitcode


def _serve(pipe: Any) -> None:
    """A worker's life."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(answer(pipe.recv_bytes()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    pipes.wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _surrounded(threads: int, environment: Mapping[str, str]) -> Iterator[None]:
    """What is started within has so many threads, where the user has not said how many (numerical libraries read that when
    they are loaded), and this environment; it leaves Ctrl-C to the process that started it."""
    given = {**{n: str(threads) for n in THREADS if n not in os.environ}, **environment}
    was = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    resource_tracker.ensure_running()  # started by the first worker it would let Ctrl-C through to that one
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for name, value in was.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(slots=True)
class Task(Generic[T]):
    """One item, its number, how often its worker was lost, and how much of its tries that has used up."""

    number: int
    item: T
    losses: int = 0
    spent: float = 0.0


class Turns(Generic[T, R]):
    """What is to do and what is done of one map: items are read as workers ask, results come out in the items' order."""

    def __init__(self, items: Iterable[T], hint: str) -> None:
        self.again: deque[Task[T]] = deque()
        self._rest, self._hint = iter(items), hint
        self._read = self._told = 0
        self._waiting: dict[int, R] = {}

    def take(self) -> Task[T] | None:
        """The next to be begun; None where there is none, or too many results wait for an earlier one."""
        if self.again:
            return self.again.popleft()
        if len(self._waiting) >= AHEAD:
            return None
        for item in self._rest:
            self._read += 1
            return Task(self._read - 1, item)
        return None

    def done(self, task: Task[T], result: "R | Failure") -> None:
        """Keep a result until its turn. Raises what `work` raised."""
        if isinstance(result, Failure):
            raise result.error
        self._waiting[task.number] = result

    def lost(self, task: Task[T], why: str, share: float = 1.0) -> None:
        """Let it be begun again. Raises AssayError where that was done TRIES times; `share` is less than 1 where the loss is
        hardly the item's doing."""
        task.losses += 1
        task.spent += share
        if task.spent >= TRIES:
            raise AssayError(
                f"{str(task.item)[:200]}: its worker was lost {task.losses} times ({why}): is there enough memory? "
                f"{self._hint}. What is done is kept, and the same command goes on"
            )
        self.again.append(task)

    def ready(self) -> Iterator[R]:
        """The results whose turn it is."""
        while self._told in self._waiting:
            self._told += 1
            yield self._waiting.pop(self._told - 1)


@dataclass(frozen=True, slots=True)
class Failure:
    """What `work` raised in another process."""

    error: Exception


def answer(call: bytes) -> bytes:
    """In a worker: the result of a pickled (work, item), or the Failure, pickled."""
    try:
        work, item = pickle.loads(call)
        return pickle.dumps(work(item))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the work was asked for
        return pickle.dumps(Failure(_carried(error)))


def _carried(error: Exception) -> Exception:
    """The error as one that can be pickled. One that is not meant for users brings the worker's traceback as a note."""
    if not isinstance(error, AssayError):
        error.add_note("In a worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - any failure means that it cannot be
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.__notes__ = getattr(error, "__notes__", [])
        return plain
    return error


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
