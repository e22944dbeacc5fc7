"""math-verify in a process of its own: an answer may be written so that working it out takes for ever, or all memory.

math-verify's own time limits are Python signal handlers, which only a main thread may set, and which a single long
operation (9^9^9 as an integer) never lets through. Here the kernel ends the process at an alarm that nothing handles; the
next question starts another.
"""

import atexit
import functools
import json
import subprocess
import sys
import threading

from assay.bench.policy.intervals import differently_named, real_set
from assay.errors import AssayError, missing_extra

SECONDS = 3.0
"""The most of a processor's time that one comparison may take: on a busy machine it is not shorter."""
MEMORY = 4 << 30
"""Bytes of address space of the process."""


class Judge:
    """One process, started at the first question and again after each that ended it. Safe between threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, given: str, right: str) -> bool:
        """Are these two the same in mathematics? What can't be read, or takes too long, is not.

        Raises AssayError where math-verify is not installed or does not start.
        """
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.start()
            try:
                reply = self.ask(json.dumps([given, right]))
            except BaseException:  # Ctrl-C: the reply would be read as the answer to the next question
                self.stop()
                raise
            if not reply:
                self.stop()
            return reply == "true"

    def ask(self, line: str) -> str:
        """The reply to a line; "" from a process that has ended."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(line, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return ""
        return self.process.stdout.readline().strip()

    def start(self) -> None:
        """Start the process, and wait until it has imported what it needs."""
        self.stop()
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        said = self.ask("")
        if said != "ready":
            self.stop()
            if said == "missing":
                raise missing_extra("math-verify", "policy")
            raise AssayError("math-verify does not start: `python -c 'import math_verify'` says why")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


_judge = Judge()
equivalent = functools.lru_cache(100_000)(_judge)
atexit.register(_judge.stop)


def _serve() -> None:
    """Answer the questions on standard input, a line each; the first, empty one when everything is imported."""
    import logging
    import resource
    import signal

    try:
        import math_verify
    except ModuleNotFoundError:
        print("missing", flush=True)
        return
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.stdin.readline()
    print("ready", flush=True)
    for line in sys.stdin:
        given, right = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            if differently_named(given, right):
                one, other = real_set(given), real_set(right)
                same = one is not None and other is not None and one.symmetric_difference(other).is_empty is True
            else:
                sides = [math_verify.parse(f"${s}$", parsing_timeout=None) for s in (right, given)]
                same = bool(sides[0] and sides[1] and math_verify.verify(*sides, timeout_seconds=None))
        except Exception:  # noqa: BLE001 - a parser of anybody's text: what it cannot read is not the answer
            same = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(same), flush=True)


if __name__ == "__main__":
    _serve()
