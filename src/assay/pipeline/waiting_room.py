"""How a run waits for people instead of stopping: in its own process, and with the page served beside it."""

import atexit
import os
import socket
import subprocess
import sys
import time
import webbrowser
from pathlib import Path

from assay.curate.waiting import waits
from assay.errors import AssayError
from assay.pipeline.people_on_file import Waiting

PORT = 8010
_BESIDE = "from assay.processes import end_with; end_with({}); from assay.__main__ import main; main()"
"""`assay`, as a process that ends with this one, also where that is killed."""


def waiter(*, web: bool) -> Waiting:
    """Waits until people have answered, and says what is missing whenever that changes. `web`: serves the page meanwhile,
    and as long as this process lives."""
    page = Page() if web else None

    def wait(run: Path) -> None:
        said = ""
        while (now := waits(run)) is not None and now.missing:
            if page is not None:
                page.serve(run)
            told = str(now)
            if told.partition(";")[0] != said:
                said = told.partition(";")[0]
                print(f"waiting for people: {told}", file=sys.stderr)
            time.sleep(1)
        print("all answers are there: the run goes on", file=sys.stderr)

    return wait


class Page:
    """`assay web RUN` in a process of its own, on the usual port or any that is free. It ends with this process."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.port, self.opened = 0, not sys.stdout.isatty()

    def serve(self, run: Path) -> None:
        """Begin it, once, and open it in a browser as soon as it answers. Raises AssayError where it has ended,
        with what it says on its own lines."""
        if self.process is None:
            self.port = free_port(PORT)
            line = [sys.executable, "-c", _BESIDE.format(os.getpid()), "web", str(run), "--port", str(self.port)]
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL)
            atexit.register(self.close)
        elif self.process.poll() is not None:
            raise AssayError(f"the page of {run} has ended (see above); `assay verify {run}` and --wait need none")
        if not self.opened and self._answers():
            self.opened = webbrowser.open(f"http://127.0.0.1:{self.port}") or True

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it, and give it time to write what was answered last."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


def free_port(wanted: int) -> int:
    """`wanted`, or another one where that is taken."""
    for port in (wanted, 0):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(one.getsockname()[1])
    raise AssayError("no port of this machine is free for the page")
