"""The call of a command that works in a folder: what it was told, which process it is, how far it is, and how it ended.

    FOLDER/run.toml         the command with all its settings, as `--config` and `assay resume` read it
    FOLDER/session.json     the last call: its process, when it began, and when and how it ended (a kill leaves that out)
    FOLDER/progress.json    how far the work is that it does just now

The command line opens one (`called`); the folder takes it when it has accepted the settings (`begun`), so a call that is
refused leaves nothing. Without a command line there is none: nothing is written. A finished training moves its folder; the
files go along.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assay.errors import AssayError, Paused, Stopped
from assay.processes import this_process
from assay.tables import write_text

RUN_FILE, SESSION, PROGRESS = "run.toml", "session.json", "progress.json"
FILES = (RUN_FILE, SESSION, PROGRESS)
EVERY_S = 1.0
"""Seconds between two writes of progress."""


class Session:
    """One call of `command` that works in `out`; `text` is its run file."""

    def __init__(self, command: str, out: Path, text: str) -> None:
        self.command, self.out, self.text, self.process = command, out, text, os.getpid()
        self.folder: Path | None = None
        self.begun = datetime.now(UTC).isoformat(timespec="seconds")

    def begin(self, folder: Path) -> None:
        """Leave the files in a folder that is this call's; other folders and other processes are none of its business."""
        own = folder.absolute() in (self.out.absolute(), _partial(self.out).absolute())
        if self.folder is not None or not own or os.getpid() != self.process:
            return
        self.folder = folder
        write_text(folder / RUN_FILE, self.text)
        _progress.what = ""  # what another call did is over
        (folder / PROGRESS).unlink(missing_ok=True)
        self._write()

    def end(self, how: str, why: str = "") -> None:
        """Note how it ended. Where a training has moved its folder, it is noted there."""
        if self.folder is None:
            return
        if not self.folder.is_dir():
            self.folder = self.out
        if self.folder.is_dir():
            (self.folder / PROGRESS).unlink(missing_ok=True)
            self._write(ended=datetime.now(UTC).isoformat(timespec="seconds"), how=how, why=why)

    def _write(self, **ended: str) -> None:
        assert self.folder is not None, "a call that has no folder leaves nothing"
        about = {"command": self.command, "process": this_process(), "number": self.process, "begun": self.begun}
        write_text(self.folder / SESSION, json.dumps({**about, **ended}, indent=2))


_now: Session | None = None


@contextmanager
def called(command: str, out: Path, text: str) -> Iterator[Session]:
    """While a command works. How it ends is noted: finished, paused (for people), stopped (Ctrl-C, a spent budget) or
    failed."""
    global _now
    _now = session = Session(command, out, text)
    try:
        yield session
    except Paused as pause:
        session.end("paused", str(pause))
        raise
    except (KeyboardInterrupt, Stopped) as stop:
        session.end("stopped", str(stop) or "interrupted")
        raise
    except AssayError as error:
        session.end("failed", str(error))
        raise
    except Exception as error:
        session.end("failed", f"{type(error).__name__}: {error}")
        raise
    else:
        session.end("finished")
    finally:
        _now = None


def begun(folder: Path) -> None:
    """The folder has accepted what it is asked for."""
    if _now is not None:
        _now.begin(folder)


def carried(folder: Path, to: Path) -> None:
    """Copy the files of a training's call to the folder that will take its place."""
    for name in FILES[:2]:
        if (folder / name).exists():
            write_text(to / name, (folder / name).read_text(encoding="utf-8"))


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


# -- progress -------------------------------------------------------------------------------------------------------


class Progress:
    """How far a piece of work is: written for others to see, and said where it has been silent for long."""

    SILENCE_S = 15.0

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock, self.what, self.since, self.first = clock, "", 0.0, 0
        self.wrote = self.said = 0.0

    def at(self, what: str, done: int, of: int, say: Callable[[str], None] | None = None) -> None:
        """`done` of `of` pieces of `what` are done. `say`: hears it, at most every `SILENCE_S` seconds."""
        now = self.clock()
        if what != self.what or done < self.first:
            self.what, self.since, self.first, self.said, self.wrote = what, now, done, now, 0.0
        if say is not None and now - self.said >= self.SILENCE_S and done < of:
            self.said = now
            left = (of - done) * (now - self.since) / max(1, done - self.first)
            say(f"{what}: {done:,} of {of:,}, about {duration(left)} left")
        if now - self.wrote >= EVERY_S:
            self.wrote = now
            self._write({"what": what, "done": done, "of": of, "first": self.first, "since": self.since, "at": now})

    def _write(self, row: dict[str, Any]) -> None:
        if _now is not None and _now.folder is not None and _now.process == os.getpid():
            try:
                write_text(_now.folder / PROGRESS, json.dumps(row))
            except OSError as error:  # nothing is lost by that but a look at it
                print(f"{_now.folder / PROGRESS}: {error.strerror}", file=sys.stderr)


_progress = Progress()
_around: tuple[int, int, str] | None = None


@contextmanager
def inside(done: int, of: int, what: str) -> Iterator[None]:
    """What is told inside (`part`) is a part of this: `done` of `of` pieces were done before it."""
    global _around
    _around = done, of, what
    try:
        yield
    finally:
        _around = None


def part(done: int) -> None:
    """`done` more pieces of the work around this are done; nothing is told where there is none. It is said on stderr where
    it takes long."""
    if _around is not None:
        before, of, what = _around
        at(what, min(of, before + done), of, _aloud)


def _aloud(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def at(what: str, done: int, of: int, say: Callable[[str], None] | None = None) -> None:
    """Tell how far the work of this process is."""
    _progress.at(what, done, of, say)


def duration(seconds: float) -> str:
    """In words: 40 s, 12 min, 3 h 05 min, 2 days 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
