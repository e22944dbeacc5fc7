"""`assay` and `python -m assay`: the command line, whose modules take a second to load."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Threads that wait for others sleep: beside other work, threads that spin made a run five times as long."""
AGAIN_S = 1.0
"""Within so many seconds a second Ctrl-C is the first one."""


class Interrupts:
    """Ctrl-C ends the command once: what comes within a second of it (pressed twice, or handed on by another program) is the
    same one, and one that Python would ignore, for it came while an object was deleted, comes again. Later ones end what
    the first one's clearing up waits for."""

    def __init__(self) -> None:
        self.last = -AGAIN_S

    def hear(self) -> None:
        """From now on; not where Ctrl-C is ignored (nohup)."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
            self.before, sys.unraisablehook = sys.unraisablehook, self._ignored

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self.last >= AGAIN_S:
            self.last = now
            raise KeyboardInterrupt

    def _ignored(self, what: "sys.UnraisableHookArgs") -> None:
        if what.exc_type is not KeyboardInterrupt:
            self.before(what)
            return
        self.last = -AGAIN_S
        with suppress(RuntimeError):  # no thread can be started: the interpreter ends anyhow
            threading.Timer(0.02, signal.raise_signal, (signal.SIGINT,)).start()


def main() -> None:
    """`assay.cli.main`; Ctrl-C while it is loaded is a line as well."""
    Interrupts().hear()
    try:
        from assay.cli import main as command
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
