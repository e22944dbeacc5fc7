"""math-verify in a process of its own: an answer may be written so that working it out takes for ever, or all memory.

math-verify's own time limits use signals, which only a main thread may set, and which a single long operation (9^9^9 as an
integer) never lets through. A process can be killed.
"""

import atexit
import functools
import importlib.util
import json
import select
import subprocess
import sys
import threading

from assay.errors import missing_extra

SECONDS, STARTING = 3.0, 60.0
"""The most that one comparison may take, and the import of sympy before the first."""
MEMORY = 4 << 30
"""Bytes of address space of the process."""


class Judge:
    """One process, started at the first question, and again after it had to be killed. Safe between threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, given: str, right: str) -> bool:
        """Are these two the same in mathematics? What can't be read, or takes too long, is not."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.start()
            assert self.process is not None
            pipes = self.process.stdin, self.process.stdout
            assert pipes[0] is not None
            assert pipes[1] is not None
            try:
                print(json.dumps([given, right]), file=pipes[0], flush=True)
                if select.select([pipes[1]], [], [], SECONDS)[0]:
                    return pipes[1].readline() == "true\n"
            except BrokenPipeError:
                pass
            self.stop()
            return False

    def start(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise missing_extra("math-verify", "policy")
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        self.warm()

    def warm(self) -> None:
        """Wait until sympy is there, or the first real question would have to be given the time for it."""
        assert self.process is not None
        assert self.process.stdout is not None
        if select.select([self.process.stdout], [], [], STARTING)[0]:
            self.process.stdout.readline()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


_judge = Judge()
equivalent = functools.lru_cache(100_000)(_judge)
atexit.register(_judge.stop)


def _serve() -> None:
    """Answer the questions on standard input, a line each."""
    import logging
    import resource

    import math_verify

    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print("ready", flush=True)
    for line in sys.stdin:
        given, right = json.loads(line)
        try:
            sides = [math_verify.parse(f"${s}$", parsing_timeout=None) for s in (right, given)]
            same = bool(sides[0] and sides[1] and math_verify.verify(*sides, timeout_seconds=None))
        except Exception:  # noqa: BLE001 - a parser of anybody's text: what it cannot read is not the answer
            same = False
        print(json.dumps(same), flush=True)


if __name__ == "__main__":
    _serve()
