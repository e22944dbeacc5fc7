"""The processes of an allocation (`torchrun`, `accelerate launch`) in a job that only sometimes trains.

All of them run the same command. The first does the job; the others wait, and train along whenever the first trains:

    if not attend():       # in the others: until the first is done
        return
    ...                    # in the first: the job, with calls of `train_view`
    dismiss()

Alone, `attend` says True and all of it does nothing. A job may take days between two trainings, so the waiting has no limit;
where the first process dies, its launcher ends the others.
"""

import sys
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState

from assay.errors import AssayError

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
            train_view(**told)
        except AssayError as error:
            time.sleep(30)  # as a rule the first process has met the same, says so and ends all; else this one does
            print(f"error: process {state.process_index}: {error}", file=sys.stderr)
            sys.exit(2)
    return False


def call(told: dict[str, Any]) -> None:
    """In the first process of an allocation that attends: have the others call `train_view` with these arguments."""
    if _GROUPS and dist.get_rank() == 0:
        _next(told)


def dismiss() -> None:
    """In the first process: let the others go."""
    if _GROUPS:
        _next(None)
        _GROUPS.clear()


def _next(told: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the first process says next, in each of them."""
    said = [told]
    dist.broadcast_object_list(said, src=0, group=_GROUPS[0], device=torch.device("cpu"))
    return said[0]
