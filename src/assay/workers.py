"""Other processes of this machine that do one task at a time, and end with this one."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import connection as pipes
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext
from types import MappingProxyType
from typing import Any, TypeVar

from assay.turns import Failure, Task, answer

T = TypeVar("T")
THREADS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What tells numerical libraries how many threads they may have."""


class Worker:
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

    def begin(self, work: Callable[[Any], object], task: Task[Any]) -> None:
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


class Beside:
    """One more process of this machine, which does one thing at a time while this one does another.

    Args:
        threads: How many it may have; 0: there is no other process, and what is begun is done here at once.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._worker: Worker | None = None
        self._again: Callable[[], object] | None = None

    def begin(self, work: Callable[[T], object], item: T) -> None:
        """Start `work`, which like the item must be picklable. What was begun before must have been waited for."""
        if self._again is not None:
            raise RuntimeError("the other process is at work: wait for it")
        if not self.threads:
            work(item)
            return
        if self._worker is None:
            self._worker = Worker(1, environment=dict.fromkeys(THREADS, str(self.threads)))
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
