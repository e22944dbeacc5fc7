"""Engines of one policy on one machine, one beside each process that torchrun started: one process writes the policy's
weights, and all engines of the machine read them. Eight copies of a large model would not fit into its shared memory.

Without several processes each function is about the one there is.
"""

import os
import socket
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def many() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def writes() -> bool:
    """Is this the process that writes for those of its machine?"""
    return not many() or os.environ.get("LOCAL_RANK", "0") == "0"


def from_writer(found: T | None) -> T:
    """What the writer of this machine has `found`. Every process of every machine must call it; it brings None where it
    does not write."""
    if not many():
        assert found is not None
        return found
    here = socket.gethostname(), os.environ.get("GROUP_RANK", "")
    told: list[tuple[tuple[str, str], T | None]] = [(here, None)] * dist.get_world_size()
    dist.all_gather_object(told, (here, found))
    return next(x for where, x in told if where == here and x is not None)


def wait() -> None:
    """Until all have come so far."""
    if many():
        dist.barrier()
