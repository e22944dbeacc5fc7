"""Programs that try to break out of the sandbox, or to break the machine. What needs Linux' own walls says so."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest

from assay import sandbox
from assay.sandbox import isolation

run_python = partial(sandbox.run_python, seconds=120)
"""On a crowded machine a program may take long to begin: where no test is about time, there is enough of it."""

needs = {
    wall: pytest.mark.skipif(wall not in isolation(), reason=f"this machine has no {wall} wall")
    for wall in ("namespaces", "files", "calls")
}


def test_what_a_program_prints() -> None:
    ran = run_python("import math, json\nprint(math.comb(10, 3), 'é')")
    assert (ran.stdout, ran.stderr, ran.exit_code, ran.problem) == ("120 é\n", "", 0, "")


def test_a_traceback_is_no_problem_of_the_sandbox() -> None:
    ran = run_python("x = 1\nx / 0")
    assert (ran.exit_code, ran.problem) == (1, "")
    assert 'program.py", line 2' in ran.stderr
    assert ran.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert run_python("def").stderr.endswith("SyntaxError: invalid syntax\n")
    assert run_python("import sys; sys.exit(7)").exit_code == 7


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(60)", "input(); import time; time.sleep(60)"]
)
def test_a_program_without_end_is_ended(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is over when it has begun, be that early or late."""
    clock = chain([0.0, 0.0], repeat(121.0))  # at the start, until it has said something, and from then on
    monkeypatch.setattr(sandbox, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    ran = run_python(f"print('begun', flush=True)\n{code.replace('input(); ', '')}")
    assert (ran.stdout, ran.problem, ran.exit_code) == ("begun\n", "timed out", None)


def test_nothing_can_be_typed() -> None:
    assert "EOFError" in run_python("input()").stderr


def test_closing_the_output_does_not_outlive_the_deadline() -> None:
    ran = run_python("import os, time; os.close(1); os.close(2); time.sleep(60)", seconds=1)
    assert ran.problem.endswith("timed out"), "it may not have begun"


def test_what_ended_in_time_has_ended_though_nobody_looked() -> None:
    """Where the one who waits is held up beyond the deadline."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", "print('x')"], **pipes) as process:  # type: ignore[call-overload]
        process.wait()
        assert sandbox._read(process, time.monotonic() - 1, 100) == ("x\n", "", "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_cut(stream: str) -> None:
    ran = run_python(f"import sys\nwhile True: sys.{stream}.write('x' * 10_000)", output_bytes=5_000)
    assert ran.problem == "too much output"
    assert len(getattr(ran, stream)) == 5_000


def test_memory_is_bounded() -> None:
    ran = run_python("x = bytearray(1 << 30)")
    assert (ran.problem, ran.exit_code) == ("out of memory", 1)
    assert run_python("x = bytearray(100 << 20); print(len(x))").stdout == "104857600\n"


def test_files_are_bounded_and_gone_afterwards() -> None:
    ran = run_python(
        "import os\nprint(os.getcwd())\nopen('a', 'w').write('kept while it runs')\nprint(open('a').read())"
    )
    folder, text = ran.stdout.splitlines()
    assert text == "kept while it runs"
    assert not Path(folder).exists()
    assert "File too large" in run_python("open('a', 'wb').write(bytes(64 << 20))").stderr
    assert "Too many open files" in run_python("x = [open('a', 'w') for _ in range(100)]").stderr


@needs["namespaces"]
def test_many_files_fill_no_disk() -> None:
    """A file is bounded, and so are all files together, in bytes and in number: they lie in memory, apart."""
    code = (
        "n = 0\ntry:\n    while n < 200:\n        open(f'f{n}', 'wb').write(bytes(4 << 20))\n        n += 1\n"
        "except OSError as error:\n    print(n, error.strerror)"
    )
    assert run_python(code).stdout == "16 No space left on device\n"
    code = code.replace("bytes(4 << 20)", "b''").replace("200", "9999")
    assert run_python(code).stdout == "4095 No space left on device\n"
    assert " - tmpfs assay " not in Path("/proc/self/mountinfo").read_text(), "nothing is left of it here"


@needs["namespaces"]
def test_a_sandbox_that_fails_is_no_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and the program has not run."""
    monkeypatch.setattr(sandbox, "FOLDER_BYTES", "much")
    ran = run_python("print('ran')")
    assert (ran.stdout, ran.exit_code) == ("", None)
    assert ran.problem.startswith("not begun: ValueError")


@needs["calls"]
def test_a_wall_that_falls_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (Path(sandbox.__file__).with_name("jail.py")).read_text().replace("libc.prctl(22, 2,", "libc.prctl(22, 9,")
    (tmp_path / "jail.py").write_text(broken)
    isolation()
    monkeypatch.setattr(sandbox, "_JAIL", tmp_path / "jail.py")
    assert run_python("print('ran')").problem == "not begun: the sandbox's walls do not stand: calls"


def test_limits_cannot_be_raised() -> None:
    code = "import resource as r\nr.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40))\nprint('raised')"
    assert "raised" not in run_python(code).stdout


def test_the_servers_secrets_are_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_SECRET", "hunter2")
    ran = run_python("import os; print(sorted(os.environ))")
    assert ran.stdout in ("[]\n", "['LC_CTYPE']\n")  # Python sets the second itself


@needs["files"]
@pytest.mark.parametrize("path", ["/proc/{tests}/environ", "/proc/1/environ", "/proc/self/environ", "/etc/passwd",
                                  __file__, "/proc/self/root/etc/passwd"])  # fmt: skip
def test_no_file_of_the_machine_can_be_read(path: str) -> None:
    path = path.replace("{tests}", str(os.getpid()))
    ran = run_python(f"print(open({path!r}, 'rb').read()[:50])")
    assert ran.stdout == ""
    assert "PermissionError" in ran.stderr or "FileNotFoundError" in ran.stderr


@needs["files"]
def test_nothing_outside_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    for code in (
        f"open({str(target)!r}, 'w').write('after')",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"import os; os.remove({str(target)!r})",
        f"import os; os.truncate({str(target)!r}, 0)",
        f"import os; os.symlink({str(target)!r}, 'link'); open('link', 'w').write('after')",
        f"import os; os.link({str(target)!r}, 'link'); open('link', 'w').write('after')",
        f"import os; os.rename({str(target)!r}, 'mine')",
        "open('/tmp/assay-escaped', 'w')",
        "import os, sys; open(os.path.join(sys.prefix, 'assay-escaped'), 'w')",
    ):
        assert run_python(code).exit_code == 1, code
    assert target.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """A port of this machine, and who called."""
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    calls.append(server.accept()[1])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], calls
        finally:
            done.set()
            thread.join()


@pytest.mark.skipif(
    not set(isolation()) & {"namespaces", "calls"}, reason="nothing keeps programs off the network here"
)
def test_no_network(listener: tuple[int, list[object]]) -> None:
    port, calls = listener
    for code in (
        f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
        f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}', timeout=2)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))",
        "import socket; socket.getaddrinfo('example.com', 80)",
    ):
        assert run_python(code).exit_code == 1, code
    socket.create_connection(("127.0.0.1", port)).close()
    while not calls:
        time.sleep(0.01)
    assert len(calls) == 1, "ours; whoever called before it would stand before it"


@needs["calls"]
@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os, sys; sys.exit(os.system('touch escaped') != 0)",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(1, 9)",
        "import os; os.setsid()",
        "import ctypes, os, sys; l = ctypes.CDLL(None, use_errno=True); sys.exit(l.ptrace(16, os.getppid(), 0, 0) != 0)",
        "import ctypes, sys; l = ctypes.CDLL(None); sys.exit(l.syscall(425, 1, 0) != 0)",
        "import ctypes, sys; l = ctypes.CDLL(None); sys.exit(l.syscall(430, b'tmpfs', 0) < 0)",
        "import ctypes, sys; l = ctypes.CDLL(None); sys.exit(l.mount(b'a', b'.', b'tmpfs', 0, b'') != 0)",
        "import ctypes, sys; l = ctypes.CDLL(None); sys.exit(l.syscall(0x40000000 + 41, 2, 1, 0) != 0)",
        "import multiprocessing as m; p = m.Process(target=print); p.start()",
    ],
)
def test_no_process_no_program_no_signal(code: str) -> None:
    ran = run_python(code)
    assert ran.exit_code == 1, ran


@needs["calls"]
def test_threads_work_and_are_bounded() -> None:
    assert (
        run_python("import threading as t\nx = t.Thread(target=print, args=('hi',)); x.start(); x.join()").stdout
        == "hi\n"
    )
    ran = run_python(
        "import threading as t, time\nfor _ in range(10_000): t.Thread(target=time.sleep, args=(9,)).start()", seconds=3
    )
    assert ran.exit_code != 0


def test_a_dead_program_says_how_it_died() -> None:
    ran = run_python("import ctypes; ctypes.string_at(0)")
    assert ran.problem == "killed by signal 11"


def test_a_program_can_be_too_long() -> None:
    assert run_python("#" * 70_000).problem == "the program is too long"
    assert run_python("print('\\ud800')").exit_code == 1
    assert run_python("print(1)\0").problem


def test_many_programs_at_once_wait_for_each_other() -> None:
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(run_python("print(1)").stdout)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["1\n"] * 12
