"""The one unbroken run that the tests of this folder share, and folders that are gone after their test (models are big)."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run_small_job


@pytest.fixture(scope="session")
def finished() -> Iterator[Path]:
    """The folder of the small job, run once and never interrupted. Tests may read it and resume it."""
    with tempfile.TemporaryDirectory(prefix="assay-e2e-") as name:
        folder = Path(name) / "run"
        done = run_small_job(folder)
        assert done.returncode == 0, done.stderr
        (folder.parent / "progress.txt").write_text(done.stderr)
        yield folder


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder for one test."""
    with tempfile.TemporaryDirectory(prefix="assay-e2e-") as name:
        yield Path(name)
