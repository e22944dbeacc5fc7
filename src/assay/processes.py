"""Which process wrote something, so that a later one can tell whether it still lives: a number alone comes back.

A process is named by the boot of its machine and its namespace of process numbers, its number, and when it started. One of
another boot, machine or container cannot be seen from here, and is taken for gone.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from functools import cache
from pathlib import Path

from assay.errors import AssayError


@cache
def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def this_process() -> str:
    return f"{_place()} {os.getpid()} {_started(os.getpid()) or ''}"


def alive(process: object) -> bool:
    """Whether the process with this name still runs. Earlier versions wrote its number alone."""
    if isinstance(process, int) or str(process).isdigit():
        return int(str(process)) != os.getpid() and _exists(int(str(process)))
    place, number, started = str(process).rsplit(" ", 2)
    if place != _place():
        return False
    now = _started(int(number))
    return _exists(int(number)) if now is None else now == started


def _started(number: int) -> str | None:
    """When a process started, in ticks since the boot; "" where there is none, None where the system does not tell."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "" if Path("/proc/self/stat").exists() else None
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _exists(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def end_with(parent: int) -> None:
    """End this process as soon as `parent`, its parent, ends in whatever way, and at once where that has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def take_port(host: str, port: int) -> socket.socket:
    """A socket that is bound there, before anything is said about it. Raises AssayError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        taken.close()
        why = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise AssayError(f"{host}:{port}: {why}; give another with --port") from error
    return taken
