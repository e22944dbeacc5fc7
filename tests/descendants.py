"""Processes as Linux tells them: which descend from one, and which still run."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def below(parent: int) -> set[int]:
    """The processes that descend from one."""
    of: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            of[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = set[int](), {parent}
    while new := {child for child, its in of.items() if its in new} - found:
        found |= new
    return found


def runs(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(numbers: set[int], seconds: float) -> bool:
    """Whether none of them runs before so much time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(runs(n) for n in numbers):
            return True
        time.sleep(0.05)
    return False


def kill_all(parent: int) -> None:
    """`kill -9` of a process and all below it: torchrun's workers have sessions of their own, and outlive it for a while."""
    everyone = {parent, *below(parent)}
    for number in everyone:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    assert gone(everyone, 300)
