"""One command at a time at one output: who is told what, what a killed one leaves, what those that work for it hold."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assay import locks
from assay.errors import AssayError
from assay.locks import Lock, alone, together
from assay.run import Run

HOLD = """
import os, sys
from pathlib import Path
from assay.locks import Lock
lock = Lock(Path(sys.argv[1]), Path("out"))
if len(sys.argv) > 2 and not (child := os.fork()):  # one that works for it
    own = Lock.shared(Path(sys.argv[1]), Path("out"), lock.holder)
    print(os.getpid(), flush=True)
elif len(sys.argv) == 2:
    print(os.getpid(), flush=True)
sys.stdin.read()
lock.close()
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT_S", 0.2)


def holding(file: Path, *more: str) -> "tuple[subprocess.Popen[str], int]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file), *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_second_command_is_told_who_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "out.lock", tmp_path / "out"
    process, number = holding(file)
    host = os.uname().nodename
    with pytest.raises(
        AssayError, match=rf"out: another process is working in it: process {number} on {host}, since 20"
    ):
        Lock(file, out)
    assert f"process {number} on {host}" in capsys.readouterr().err
    process.communicate()
    assert not file.exists(), "what ends well leaves nothing"
    Lock(file, out).close()


def test_what_kill_9_leaves_stops_nobody(tmp_path: Path) -> None:
    process, _ = holding(tmp_path / "lock")
    process.kill()
    process.communicate()
    assert (tmp_path / "lock").exists()
    lock = Lock(tmp_path / "lock", tmp_path)
    assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
    lock.close()
    assert not (tmp_path / "lock").exists()


def test_a_worker_that_outlives_its_command_keeps_the_next_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, worker = holding(tmp_path / "lock", "and a worker")
    process.kill()
    process.wait()
    with pytest.raises(AssayError, match="another process is working in it"):
        Lock(tmp_path / "lock", tmp_path)
    monkeypatch.setattr(locks, "WAIT_S", 300.0)
    waiting = iter([lambda: os.kill(worker, signal.SIGKILL)])
    monkeypatch.setattr(locks.time, "sleep", lambda _: next(waiting, lambda: None)())
    Lock(tmp_path / "lock", tmp_path).close()


class Ranks:
    """An engine of two processes, of which this one is `rank`."""

    def __init__(self, rank: int, said: list[Any]) -> None:
        self.lead, self.said, self.waited = rank == 0, said, 0

    def lead_says(self, work: Callable[[], Any]) -> Any:
        if self.lead:
            self.said.append(work())
        return self.said[-1]

    def wait(self) -> None:
        self.waited += 1


def test_all_processes_of_a_command_hold_it(tmp_path: Path) -> None:
    said: list[Any] = []
    first, second = together(Ranks(0, said), tmp_path / "out"), together(Ranks(1, said), tmp_path / "out")
    first.__enter__()
    second.__enter__()
    with pytest.raises(AssayError, match="another process"), alone(tmp_path / "out"):
        pass
    first.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    with pytest.raises(AssayError, match="another process"), alone(tmp_path / "out"):
        pass
    second.__exit__(None, None, None)
    assert not (tmp_path / "out.lock").exists()
    with pytest.raises(AssayError, match="the process that this one works for is gone"), alone(tmp_path / "out"):
        together(Ranks(1, said), tmp_path / "out").__enter__()


def test_where_the_file_system_has_no_locks_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with alone(tmp_path / "out"):
        assert capsys.readouterr().err.count("no locks on this file system") == 1
    assert not (tmp_path / "out.lock").exists()


def test_who_works_for_a_run_keeps_its_folder(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {})
    other = Run.joined(*run.place)
    run.close()
    with pytest.raises(AssayError, match="run: another process is working in it"):
        Run(tmp_path / "run", {})
    other.close()
    Run(tmp_path / "run", {}).close()
    assert not (tmp_path / "run" / "lock").exists()
