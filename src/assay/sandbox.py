"""A Python program of an annotator or of a policy, run apart: to check a sum, to try the code of an answer.

What holds the program, and where:

- everywhere: a process of its own with an empty environment, in a temporary folder that is removed afterwards, with limits
  on CPU time, address space, file sizes, open files and processes, ended with its whole process group at the deadline; its
  output is cut; only the standard library (`-I -S`).
- Linux with `unshare` and user namespaces: its own network, process and mount namespaces: no network but a dead loopback, no
  sight of other processes, and all its processes end with it; its folder lies in memory and holds 64 MiB and 4,096 files.
- Linux 5.13 and later (Landlock): it reads Python's own files and its folder, and writes its folder only.
- Linux on x86_64 and aarch64 (seccomp): no new processes or programs, no sockets, no tracing, no signals to others.

What it does not do: it is no virtual machine. A hole in the Linux kernel is a way out, as from any container; without
namespaces many files of a program can fill the disk while it runs; programs share the processors with the server. On other
systems, and where `isolation()` lacks a word, a program can reach the network and the server user's files: leave the tool
off in the project's settings unless everyone who can log in may run code as that user.
"""

import functools
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from assay.errors import AssayError

MAX_CODE_BYTES = 65_536
FILE_BYTES = 8 << 20
FOLDER_BYTES = 64 << 20
GRACE_S = 0.5
"""So long the end of a program that has closed its outputs is waited for, though its time is over."""
_AT_ONCE = threading.BoundedSemaphore(max(2, os.cpu_count() or 2))
_JAIL = Path(__file__).with_name("jail.py")
_APART = ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
UNSHARE_KILLED = "unshare: sigprocmask unblock failed: Invalid argument\n"
"""What unshare says, beside exit code 1, where the program that it started was killed with SIGKILL."""
_PROBE = "import jail; print(*jail.confine())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What became of a program. `exit_code` is negative for a signal, None where it was ended from outside or never began.

    `problem` is empty for a program that ended by itself, even with a traceback; else "timed out", "too much output", "out
    of memory", "killed by signal N", "busy" (too many programs at once), "the program is too long", or "not begun: " and why
    (the sandbox failed, and says nothing of the program). `seconds`: wall time.
    """

    stdout: str
    stderr: str
    exit_code: int | None
    problem: str
    seconds: float


def run_python(
    code: str, *, given: str = "", seconds: float = 5, cpu: int | None = None, memory_mb: int = 256,
    output_bytes: int = 65_536,
) -> Ran:  # fmt: skip
    """Run `code` within limits (see the module's text for what holds it) and return what it printed. `given` is what it
    reads from its input.

    Blocks for at most about `seconds` (and as long again while others run: then the problem is "busy"), so call it in a
    thread. `cpu` bounds its processor seconds, which do not run while others have the processor (None: as `seconds`).
    `output_bytes` bounds stdout and stderr each. Never raises for anything the program does.
    """
    source = code.encode("utf-8", "replace")
    if len(source) > MAX_CODE_BYTES or b"\0" in source:
        return Ran(stdout="", stderr="", exit_code=None, problem="the program is too long", seconds=0.0)
    if not _AT_ONCE.acquire(timeout=seconds):
        return Ran(stdout="", stderr="", exit_code=None, problem="busy", seconds=seconds)
    try:
        with tempfile.TemporaryDirectory(prefix="assay-python-", ignore_cleanup_errors=True) as folder:
            limits = (int(seconds) + 1 if cpu is None else cpu, memory_mb << 20, FILE_BYTES)
            return _run(source.decode(), given, Path(folder), seconds, limits, output_bytes)
    finally:
        _AT_ONCE.release()


@functools.cache
def isolation() -> tuple[str, ...]:
    """What holds a program on this machine beyond limits: of "namespaces", "files" (Landlock) and "calls" (seccomp)."""
    probe = f"import sys; sys.path.insert(0, {str(_JAIL.parent)!r}); {_PROBE}"
    done = subprocess.run([_python(), "-I", "-S", "-c", probe], capture_output=True, text=True, check=False, env={})
    files, calls = [*done.stdout.split(), "False", "False"][:2]
    held = {"namespaces": bool(_namespaces()), "files": files == "True", "calls": calls == "True"}
    return tuple(name for name, holds in held.items() if holds)


@functools.cache
def _namespaces() -> tuple[str, ...]:
    """The command that gives a program namespaces of its own, and so a folder of its own; empty where the machine does not
    allow it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    probe = f"import sys; sys.path.insert(0, {str(_JAIL.parent)!r}); import jail; jail.folder(1 << 20)"
    try:
        with tempfile.TemporaryDirectory(prefix="assay-python-") as place:
            done = subprocess.run(
                [unshare, *_APART, _python(), "-I", "-S", "-B", "-c", probe], capture_output=True, check=False, timeout=60,
                cwd=place, env={},
            )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return (unshare, *_APART) if done.returncode == 0 else ()


def _python() -> str:
    """The interpreter itself, not a virtual environment's link to it: the environment's packages are not for programs."""
    return str(getattr(sys, "_base_executable", "") or sys.executable)


def _run(
    code: str, given: str, folder: Path, seconds: float, limits: tuple[int, int, int], output_bytes: int
) -> Ran:  # fmt: skip
    apart = _namespaces()
    hears, begun = os.pipe()
    told = (*map(str, limits), str(FOLDER_BYTES if apart else 0), ",".join(isolation()), str(begun))
    command = [*apart, _python(), "-I", "-S", "-B", "-X", "utf8", str(_JAIL), *told, code]
    start = time.monotonic()
    with tempfile.TemporaryFile() as file:  # it has no name: nobody else finds it, and it never waits to be read
        file.write(given.encode("utf-8", "replace"))
        file.seek(0)
        try:
            process = subprocess.Popen(
                command, cwd=folder, env={}, stdin=file,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, pass_fds=(begun,),
            )  # fmt: skip
        except OSError as error:
            os.close(hears)
            raise AssayError(f"Python programs cannot be run on this machine: {error}") from error
        finally:
            os.close(begun)
    try:
        out, err, problem = _read(process, start + seconds, output_bytes)
    finally:
        _end(process)
        ran = _heard(hears)
    if not ran:
        why = problem or (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return Ran(stdout="", stderr=err, exit_code=None, problem=f"not begun: {why}", seconds=time.monotonic() - start)
    exit_code, took = None if problem else process.returncode, time.monotonic() - start
    if not problem and "MemoryError" in err.rsplit("\n", 2)[-2:][0]:
        problem = "out of memory"
    killed = exit_code == -signal.SIGKILL or (exit_code == 1 and err.endswith(UNSHARE_KILLED))
    if not problem and took >= limits[0] and (killed or exit_code == -signal.SIGXCPU):
        problem = "timed out"
    elif not problem and (killed or (exit_code is not None and exit_code < 0)):
        problem = f"killed by signal {signal.SIGKILL if killed else -(exit_code or 0):d}"
    return Ran(stdout=out, stderr=err, exit_code=exit_code, problem=problem, seconds=took)


def _heard(pipe: int) -> bool:
    """Whether a pipe holds a byte; it is closed."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, 1) == b"1"
    except BlockingIOError:
        return False
    finally:
        os.close(pipe)


def _read(process: subprocess.Popen[bytes], deadline: float, output_bytes: int) -> tuple[str, str, str]:
    """Both outputs, cut, and what ended the reading ("" where the program closed them itself)."""
    assert process.stdout is not None
    assert process.stderr is not None
    read: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    problem = ""
    with selectors.DefaultSelector() as selector:
        for handle in read:
            selector.register(handle, selectors.EVENT_READ)
        while selector.get_map() and not problem:
            left = deadline - time.monotonic()
            ready = selector.select(max(0.0, left))
            if left <= 0 and not ready:  # what it said in time counts, though this process was held up
                problem = "timed out"
            for key, _ in ready:
                piece = os.read(key.fd, 65_536)
                read[key.fd] += piece
                if not piece:
                    selector.unregister(key.fd)
                if len(read[key.fd]) > output_bytes:
                    problem = "too much output"
    if not problem:
        try:
            process.wait(max(GRACE_S, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            problem = "timed out"
    out, err = (bytes(b[:output_bytes]).decode("utf-8", "replace") for b in read.values())
    return out, err, problem


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group, also where the first process has left already, and close the pipes."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
