"""The run folder: resolved config, environments, metrics, tables, models; and resume by doing nothing twice.

`run.once(name, work)` is the whole resume mechanism above tables: the first time it does the work and stores its
result (a JSON-like dict) under `steps/`; ever after it returns the stored result. The same command in the same folder
therefore continues where it was killed, and a finished run repeats nothing.

config.json holds all that shapes a result, what it is made of included: another call is refused. environments.jsonl has a
line for each session (a process that opened the folder), and each line of metrics.jsonl names the session that made it.
"""

import dataclasses
import fcntl
import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console

from assay import __version__
from assay.errors import AssayError, Refused
from assay.locks import Lock
from assay.session import begun
from assay.tables import Table, plain, read_json, remove, write_text

T = TypeVar("T")


class Telling(Protocol):
    """What makes of a run's steps words for people (`telling`)."""

    def begins(self, step: str) -> str:
        """A step begins; returns what it is called."""
        ...

    def came_to(self, folder: Path, step: str, result: Mapping[str, Any]) -> None:
        """A step has ended."""
        ...


_LIBRARIES = ("numpy", "polars", "pyarrow", "torch", "transformers")


class Run:
    """An open run folder. Raises AssayError if another process has it open or if it holds a different config.

    `accepted` is called when the folder is known to be of this config, before a new one says so.
    """

    telling: Telling | None = None
    """Who tells people of the steps; None: they have the names that they are kept by."""

    def __init__(
        self, folder: Path, config: object, console: Console | None = None, accepted: Callable[[], None] = lambda: None
    ) -> None:
        if re.match(r"[a-z0-9]+:/", str(folder)):
            raise AssayError(
                f"{folder}: a run needs a folder of a file system, not of an object store (its pool may lie in one)"
            )
        self.folder, self.console = folder, console or Console(stderr=True, highlight=False)
        self._lock = Lock(folder / "lock", folder)
        self._started = time.monotonic()
        try:
            self._keep_config(json.loads(json.dumps(jsonable(config))), accepted)
        except AssayError:
            self.close()
            raise
        self._session = self._begin()

    def part(self, folder: Path, config: object) -> "Run":
        """A run inside this one, which tells the time since this one was opened."""
        made = Run(folder, config, self.console)
        made._started = self._started
        return made

    @classmethod
    def joined(cls, folder: Path, session: int, started: float, holder: dict[str, Any]) -> "Run":
        """The run that another process has open (its `place`), for one that works for it, and ends when it does."""
        run = cls.__new__(cls)
        run.folder, run.console = folder, Console(stderr=True, highlight=False)
        run._lock = Lock.shared(folder / "lock", folder, holder)
        run._started, run._session = started, session
        return run

    @property
    def place(self) -> tuple[Path, int, float, dict[str, Any]]:
        """What `joined` needs."""
        return self.folder, self._session, self._started, self._lock.holder

    def _begin(self) -> int:
        """Note what this session runs on; returns its number."""
        path = self.folder / "environments.jsonl"
        before = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        before = [line for line in before if line.endswith("\n")]
        about = {"session": len(before), "begun": datetime.now(UTC).isoformat(timespec="seconds"), **environment()}
        write_text(path, "".join([*before, json.dumps(about) + "\n"]))
        self._forget()
        begun(self.folder)
        return len(before)

    def _forget(self) -> None:
        """Drop the last lines of metrics.jsonl (one for each process that was at work) where a kill cut one short, or came
        before its step: it is written anew."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        whole = lines if not lines or lines[-1].endswith("\n") else lines[:-1]
        whole = [*whole[:-2], *(line for line in whole[-2:] if self._made(line))]
        if len(whole) < len(lines):
            write_text(path, "".join(whole))

    def _made(self, line: str) -> bool:
        try:
            step = f"steps/{json.loads(line)['step']}.json"
        except (ValueError, KeyError, TypeError):
            return False
        return (self.folder / step).exists() or any(self.folder.glob(f"superseded/*/{step}"))

    def _keep_config(self, config: Any, accepted: Callable[[], None]) -> None:
        path = self.folder / "config.json"
        if not path.exists():
            accepted()
            write_text(path, json.dumps(config, indent=2))
            return
        before = read_json(path)
        if before != config:
            changed = ", ".join(changes(before, config))
            raise AssayError(
                f"{self.folder}: this folder holds a run with another config ({changed}); "
                "use another --out, or the same options and data to resume"
            )
        accepted()

    def close(self) -> None:
        """Let another process open the folder."""
        self._lock.close()

    def table(self, name: str, record: type[T]) -> Table[T]:
        return Table(self.folder / "tables" / name, record)

    def once(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stored result of step `name`, doing `work` only if it has not finished before.

        The result gets a `wall_s` field and is appended to metrics.jsonl the first time, with this process's peak memory.
        """
        path = self.folder / "steps" / f"{name}.json"
        if self.has(name):
            return read_json(path)
        start = time.monotonic()
        self.say(f"[bold]{self.telling.begins(name) if self.telling else name}[/bold] ...")
        result = {**work(), "wall_s": round(time.monotonic() - start, 2)}
        with (self.folder / "metrics.jsonl").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            about = {"step": name, "session": self._session, "peak_mb": peak_mb()}
            file.write(json.dumps({**about, **jsonable(result)}) + "\n")
        write_text(path, json.dumps(jsonable(result), indent=2))
        if self.telling:
            self.telling.came_to(self.folder, name, result)
        return read_json(path)

    def has(self, name: str) -> bool:
        """Is this step finished?"""
        return (self.folder / "steps" / f"{name}.json").exists()

    def result(self, name: str) -> dict[str, Any]:
        """The stored result of a finished step. Raises AssayError when there is none."""
        path = self.folder / "steps" / f"{name}.json"
        if not path.exists():
            raise AssayError(f"{self.folder}: the step '{name}' has not finished; run the same command again to resume")
        return read_json(path)

    def results(self) -> dict[str, dict[str, Any]]:
        paths = sorted((self.folder / "steps").rglob("*.json"))
        return {str(p.relative_to(self.folder / "steps").with_suffix("")): read_json(p) for p in paths}

    def say(self, text: str) -> None:
        """One progress line with the time since this process opened the run; a log has it as one line."""
        self.console.print(f"[dim]{time.monotonic() - self._started:6.0f} s[/dim]  {text}", soft_wrap=True)


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """A run that is `Refused` inside leaves the folder as it was: what this call put there goes. A run that had begun
    before keeps everything, and so does one in which anybody has judged."""
    before = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    there = folder.is_dir()
    try:
        yield
    except Refused:
        judged = any(folder.glob("seed-*/tables/judgements")) or (
            (folder / "judgements.jsonl").exists() and "judgements.jsonl" not in before
        )
        if folder.is_dir() and "config.json" not in before and not judged:
            for path in [p for p in folder.iterdir() if p.name not in before]:
                remove(path) if path.is_dir() else path.unlink()
            if not there:
                folder.rmdir()
        raise


def peak_mb() -> int:
    """The most memory that this process has held, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 1_000_000


def environments(folder: Path) -> list[dict[str, Any]]:
    """What each session of a run folder ran on (`environment`)."""
    file = folder / "environments.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def machines(sessions: Iterable[Mapping[str, Any]]) -> str:
    """The machines of sessions, each once. What a report is of may have been made elsewhere than the report."""
    told = (f"{s.get('processor')}, {s.get('cores')} cores, Python {s.get('python')}" for s in sessions)
    return "; ".join(dict.fromkeys(told)) or "machine not known"


def environment() -> dict[str, Any]:
    """What a number was produced on: versions, machine, cores, threads."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "assay": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "processor": _processor(), "cores": os.cpu_count(), "libraries": versions,
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def jsonable(value: Any) -> Any:
    """A config or a result as what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(plain(value))
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def changes(before: Any, after: Any, at: str = "") -> list[str]:
    """How two JSON-like values differ, a line for each field: "grpo.lr: 1e-06 -> 1e-05"."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [c for k in keys for c in changes(before.get(k), after.get(k), f"{at}.{k}" if at else k)]
    return [] if before == after else [f"{at}: {before!r} -> {after!r}"]
