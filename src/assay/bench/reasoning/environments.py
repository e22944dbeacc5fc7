"""An environment of a library's own: its pins fight with ours, so it is a program that we run, never one that we import."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from assay.bench.reasoning.rows import Absent
from assay.errors import AssayError
from assay.tables import write_text

MARK = "assay-environment.json"
"""Written last: a folder without it is half made, and is made again."""


def default_folder() -> Path:
    """Where environments are kept: $ASSAY_ENVIRONMENTS, else assay/environments in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ASSAY_ENVIRONMENTS") or cache / "assay" / "environments")


def environment(
    name: str,
    pins: Sequence[str],
    folder: Path,
    install: bool,
    *,
    size: str = "",
    alone: Sequence[str] = (),
    constraints: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """The python of the environment `folder`/`name` that holds `pins` (such as "evalscope==1.14.1").

    With `install`, one that is missing, half made or of other pins is made (again): venv and pip, with `constraints` (a file
    of versions of all else) and `alone` (packages without what they need: for the data in them),
    after `say` told its `size`. Two commands at once: the second waits for the first.

    Raises Absent, one line with what to type, where it is missing and not to be made, and AssayError where pip fails.
    """
    place, wanted = folder.absolute() / name, _identity(pins, alone, constraints)
    if (python := _ready(place, wanted)) is not None:
        return python
    if not install:
        raise Absent(f"{name}: {_lacking(place)}; give --install to make it ({size or 'size unknown'})")
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f".{name}.lock"):
        if (python := _ready(place, wanted)) is not None:
            return python
        say(f"{name}: makes an environment of its own in {place} ({size or 'size unknown'}): {' '.join(pins)}")
        _make(place, pins, alone, constraints)
        write_text(place / MARK, json.dumps(wanted))
    made = _ready(place, wanted)
    assert made is not None
    say(f"{name}: ready in {place}")
    return made


def _ready(place: Path, wanted: dict[str, object]) -> Path | None:
    """Its python, where the environment is whole and as wanted."""
    python = place / "bin" / "python"
    try:
        told = json.loads((place / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return python if told == wanted and python.exists() else None


def _lacking(place: Path) -> str:
    if not place.exists():
        return f"there is no environment of it in {place.parent} (--environments names another folder)"
    return f"{place} is " + ("of other versions" if (place / MARK).exists() else "half made")


def _identity(pins: Sequence[str], alone: Sequence[str], constraints: Path | None) -> dict[str, object]:
    text = constraints.read_text(encoding="utf-8").split() if constraints else []
    return {
        "pins": list(pins),
        "alone": list(alone),
        "constraints": text,
        "python": ".".join(map(str, sys.version_info[:2])),
    }


def _make(place: Path, pins: Sequence[str], alone: Sequence[str], constraints: Path | None) -> None:
    """Raises AssayError with pip's last line; what was half made is then removed."""
    shutil.rmtree(place, ignore_errors=True)
    limits = ["-c", str(constraints)] if constraints else []
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q"]
    pip.append("--no-compile")  # minutes of two cores, for files most of which are never imported
    steps = [[sys.executable, "-m", "venv", str(place)], [*pip, *limits, *pins], [*pip, "--no-deps", *alone]]
    for command in steps if alone else steps[:2]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(place, ignore_errors=True)
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            raise AssayError(
                f"{place.name}: {' '.join(command)} failed: {said[-1][:300] if said else 'it said nothing'}"
            )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; a killed one lets go."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
