"""The processes of an allocation (`torchrun`, `accelerate launch`) in a job that only sometimes needs all of them.

All of them run the same command. The first does the job; the others wait, train along whenever the first trains, and take
their share of what a model does to many shards:

    if not attend():       # in the others: until the first is done
        return
    ...                    # in the first: the job, with calls of `train_view` and `share`
    dismiss()

Alone, `attend` says True and all of it does nothing. A job may take days between two trainings, so the waiting has no limit;
where the first process dies, its launcher ends the others.
"""

import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from assay.errors import AssayError
from assay.turns import Failure, answer

T = TypeVar("T")
R = TypeVar("R")
ROUND = 4
"""Shards that each process does between two times that all of them meet."""
_GROUPS: list[Any] = []
"""The process group by which the first calls the others, while there is one."""


def attend() -> bool:
    """True in the first process, at once. In the others, False when the first has dismissed them, their part being done."""
    state = PartialState(cpu=not torch.accelerator.is_available())
    if state.num_processes == 1:
        return True
    _GROUPS[:] = [dist.new_group(backend="gloo", timeout=timedelta(days=365))]
    if state.process_index == 0:
        return True
    from assay.reward.launch import train_view

    while (told := _next(None)) is not None:
        try:
            if "calls" in told:
                _shared(told["calls"])
            else:
                train_view(**told)
        except AssayError as error:
            time.sleep(30)  # as a rule the first process has met the same, says so and ends all; else this one does
            print(f"error: process {state.process_index}: {error}", file=sys.stderr)
            sys.exit(2)
    _leave()
    return False


def call(told: dict[str, Any]) -> None:
    """In the first process of an allocation that attends: have the others call `train_view` with these arguments."""
    if shares():
        _next(told)


def share(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """In the first process of an allocation that attends: the results of `work`, in order. Each process does its share, on
    its own device; all must see the same folders. Raises what `work` raises."""
    rest = iter(items)
    while some := list(islice(rest, ROUND * dist.get_world_size())):
        calls = [pickle.dumps((work, item)) for item in some]
        _next({"calls": calls})
        yield from _shared(calls)


def shares() -> bool:
    """Whether this is the first process of an allocation that attends."""
    return bool(_GROUPS) and dist.get_rank() == 0


def _shared(calls: Sequence[bytes]) -> Iterator[Any]:
    """The results of all calls, in the first process."""
    rank, world = dist.get_rank(), dist.get_world_size()
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, [answer(call) for call in calls[rank::world]], group=_GROUPS[0])
    return (_result(parts[n % world][n // world]) for n in range(len(calls)))


def _result(told: bytes) -> Any:
    result = pickle.loads(told)
    if isinstance(result, Failure):
        raise result.error
    return result


def dismiss() -> None:
    """In the first process: let the others go."""
    if _GROUPS:
        _next(None)
        _leave()


def _leave() -> None:
    """End the groups: a thread of theirs that still holds tensors when Python ends aborts the process."""
    _GROUPS.clear()
    dist.destroy_process_group()


def _next(told: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the first process says next, in each of them."""
    said = [told]
    dist.broadcast_object_list(said, src=0, group=_GROUPS[0], device=torch.device("cpu"))
    return said[0]
