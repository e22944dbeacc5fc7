"""Killed at any moment, the same command again: the run ends as if nothing had happened."""

import json
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from commands import run_small_job
from safetensors import safe_open

from assay.run import Run

KILLED = -signal.SIGKILL


def assert_killed_after(folder: Path, lines: int, seconds: float) -> None:
    """Start (or resume) the job, which is killed `seconds` after its `lines`-th progress line."""
    killed = run_small_job(folder, lines, seconds)
    assert killed.returncode == -signal.SIGALRM, killed.stderr


def test_one_kill_in_the_middle_changes_nothing(finished: Path, place: Path) -> None:
    """One kill at a random moment, and one before a random change to a file."""
    chance, folder = random.Random(20), place / "run"
    lines = progress(finished)
    assert_killed_after(folder, chance.randrange(lines // 3, 2 * lines // 3), chance.uniform(0, 0.5))
    assert_whole(folder)
    died = run_small_job(folder, chance.randrange(10, 40))
    assert died.returncode == KILLED, died.stderr
    assert_whole(folder)
    resume_to_the_end(folder)
    assert_same(folder, finished)


@pytest.mark.slow
def test_twelve_kills_at_random_moments_change_nothing(finished: Path, place: Path) -> None:
    """The moments are spread over the whole run: each attempt gets a random share of the progress lines further."""
    chance, folder = random.Random(21), place / "run"
    points = sorted(chance.sample(range(1, progress(finished) - 5), 12))
    for before, point in zip([0, *points], points, strict=False):
        first = 0 if not folder.exists() else 1  # the line "seed 0", which comes again
        assert_killed_after(folder, first + point - before, chance.uniform(0, 0.8))
        assert_whole(folder)
    resume_to_the_end(folder)
    assert_same(folder, finished)


@pytest.mark.slow
def test_dying_right_before_file_changes_changes_nothing(finished: Path, place: Path) -> None:
    """The program dies with a file written but not in place, or opened but not written, until it gets through."""
    chance, folder = random.Random(22), place / "run"
    deaths = 0
    while (died := run_small_job(folder, chance.randrange(1, 45))).returncode == KILLED:
        deaths += 1
        assert_whole(folder)
        assert deaths < 200
    assert died.returncode == 0, died.stderr
    assert deaths >= 10
    assert_same(folder, finished)


def test_a_run_folder_has_one_worker_at_a_time(finished: Path) -> None:
    """The lock refuses a second process; that no killed one keeps it is seen in the other tests."""
    first = Run(finished, json.loads((finished / "config.json").read_text()))
    try:
        second = run_small_job(finished)
    finally:
        first.close()
    assert second.returncode == 1
    assert "another process is working in it: process" in second.stderr


def resume_to_the_end(folder: Path) -> None:
    done = run_small_job(folder)
    assert done.returncode == 0, done.stderr


def progress(folder: Path) -> int:
    """How many progress lines the unbroken run printed."""
    return len((folder.parent / "progress.txt").read_text().splitlines())


def assert_whole(folder: Path) -> None:
    """Whatever carries a final name can be read to its end, and what is marked as trained has its weights."""
    for path in folder.rglob("*.parquet"):
        pq.ParquetFile(path).read()
    for path in folder.rglob("*.json"):
        if "final" not in path.parts and not any(part.endswith(".saving") for part in path.parts):
            json.loads(path.read_text())
    for path in folder.glob("seed-*/models/*/training.json"):
        if path.parent.name != "final" and not path.parent.name.endswith(".saving"):
            weights(path.parent)


def assert_same(folder: Path, unbroken: Path) -> None:
    """The same tables, step results, models and weights; only times and what killed writers left beside may differ."""
    assert tables(folder) == tables(unbroken)
    for name in tables(unbroken):
        ours, theirs = (pl.read_parquet(f / name) for f in (folder, unbroken))
        assert ours.equals(theirs), name
    assert steps(folder) == steps(unbroken)
    models = {p.name for p in (unbroken / "seed-0/models").iterdir()}
    assert {p.name for p in (folder / "seed-0/models").iterdir()} == models
    for name in models:
        assert weights(folder / "seed-0/models" / name) == weights(unbroken / "seed-0/models" / name), name
        assert trained(folder / "seed-0/models" / name) == trained(unbroken / "seed-0/models" / name), name
    written = Counter(json.loads(x)["step"] for x in (folder / "seed-0/metrics.jsonl").read_text().splitlines())
    assert set(written) == {n.removeprefix("seed-0/") for n in steps(unbroken) if n.startswith("seed-0/")}


def tables(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("tables/**/*.parquet"))


def steps(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.rglob("steps/**/*.json")):
        result = json.loads(path.read_text())
        name = path.relative_to(folder).with_suffix("").as_posix().replace("steps/", "")
        found[name] = {k: v for k, v in result.items() if k not in ("wall_s", "seconds", "cpu_s")}
    return found


def trained(folder: Path) -> dict[str, Any]:
    return {k: v for k, v in json.loads((folder / "training.json").read_text()).items() if k != "wall_s"}


def weights(folder: Path) -> bytes:
    """The bytes of the weights, once they have been read as tensors to the last one."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            file.get_tensor(name)
    return path.read_bytes()
