"""One command at a time at one output: a lock of the system, which goes with its processes in whatever way they end.

All processes of a command hold it (`flock`): the first takes it alone, says in the file who it is, and then shares it with
those that work for it. A second command gets it when the last of them is gone, be they ever so orphaned. `kill -9` leaves a
file, and no lock. Shared file systems lock for all their machines (NFS since Linux 2.6.12, Lustre with `-o flock`); where a
file system has no locks, that is told and nothing is guarded.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from assay.errors import AssayError
from assay.tables import sibling

T = TypeVar("T")
WAIT_S = 10.0
"""So long a second command waits for the first, which may be dying: processes of a killed one live on for seconds."""
_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_NONE_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Group(Protocol):
    """The processes of a command, as `assay.step.Engine` knows them."""

    @property
    def lead(self) -> bool: ...
    def lead_says(self, work: Callable[[], T]) -> T: ...
    def wait(self) -> None: ...


class Lock:
    """Held from here on, until `close` or the end of this process and of all that it forks.

    Args:
        file: Of the lock. Its folder is made; the file goes when nobody needs it any more.
        what: What it guards, for messages.

    Raises AssayError, saying who holds it, where another command does for longer than WAIT_S.

    Example:
        with closing(Lock(sibling(out, ".lock"), out)):
            ...
    """

    def __init__(self, file: Path, what: Path) -> None:
        self.file, self.holder, told = file, _myself(), False
        self._open: IO[str] | None = None
        end = time.monotonic() + WAIT_S
        while self._open is None:
            self._open = self._taken(what)
            if self._open is None and time.monotonic() > end:
                raise AssayError(
                    f"{what}: another process is working in it: {_holder(file)}; wait for its end, or end it, or "
                    "choose another --out"
                )
            if self._open is None:
                if not told:
                    print(f"{what}: {_holder(file)} is at work in it; waiting up to {WAIT_S:.0f} s", file=sys.stderr)
                told = True
                time.sleep(0.1)

    def _taken(self, what: Path) -> IO[str] | None:
        """The open file, locked; None where others have it."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            opened = self.file.open("a+")
        except OSError as error:
            raise AssayError(f"{what}: nothing can be written here ({error.strerror}: {error.filename})") from error
        with suppress(FileNotFoundError):
            if _locked(opened, fcntl.LOCK_EX, tell=True) and os.path.samestat(
                os.fstat(opened.fileno()), self.file.stat()
            ):
                opened.truncate(0)
                opened.write(json.dumps(self.holder))
                opened.flush()
                if _locked(opened, fcntl.LOCK_SH):  # the change is not made in one step: another may come between
                    return opened
        opened.close()
        return None

    @classmethod
    def shared(cls, file: Path, what: Path, holder: dict[str, Any]) -> "Lock":
        """The lock that another process of this command holds (its `holder`), held here too. On a machine that does not see
        the file there is nothing to hold. Raises AssayError where that process has it no more."""
        lock = cls.__new__(cls)
        lock.file, lock.holder, lock._open = file, holder, None
        with suppress(FileNotFoundError):
            lock._open = file.open("r+")
            if not _locked(lock._open, fcntl.LOCK_SH) or _read(file) != holder:
                raise AssayError(
                    f"{what}: the process that this one works for is gone; {_holder(file)} is at work in it"
                )
        return lock

    def close(self) -> None:
        """Let it go; the last who does removes the file. A second time does nothing."""
        if self._open is not None and not self._open.closed:
            if _locked(self._open, fcntl.LOCK_EX):
                with suppress(OSError):
                    if os.path.samestat(os.fstat(self._open.fileno()), self.file.stat()):
                        self.file.unlink()
            self._open.close()


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """`out` is this command's, of one process."""
    lock = Lock(sibling(out, ".lock"), out)
    try:
        yield
    finally:
        lock.close()


@contextmanager
def together(engine: Group, out: Path) -> Iterator[None]:
    """`out` is this command's, of all its processes."""
    file, here = sibling(out, ".lock"), list[Lock]()

    def take() -> dict[str, Any]:
        here.append(Lock(file, out))
        return here[0].holder

    holder = engine.lead_says(take)
    lock = here[0] if engine.lead else Lock.shared(file, out, holder)
    try:
        yield
        if not engine.lead:
            lock.close()
        engine.wait()
    finally:
        lock.close()


def _locked(opened: IO[str], how: int, tell: bool = False) -> bool:
    """Whether the file is locked so, without waiting. It counts as locked where there are no locks, which is told."""
    try:
        fcntl.flock(opened, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno not in _NONE_HERE:
            raise
        if tell:
            print(f"{opened.name}: no locks on this file system: run one command at a time here", file=sys.stderr)
    return True


def _myself() -> dict[str, Any]:
    since = datetime.now().astimezone().isoformat(" ", "microseconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _holder(file: Path) -> str:
    told = _read(file)
    if not told:
        return "a process that does not say who it is"
    return f"process {told.get('process')} on {told.get('host')}, since {str(told.get('since'))[:19]}"
