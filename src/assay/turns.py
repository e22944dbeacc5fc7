"""Items that are worked on elsewhere: results in the items' order, what was lost is begun again, errors are brought home."""

import pickle
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from assay.errors import AssayError

T = TypeVar("T")
R = TypeVar("R")
TRIES = 4
"""How often a shard is begun when its worker is lost, before the run stops."""
AHEAD = 1000
"""At most this many results wait for one that comes before them."""


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
