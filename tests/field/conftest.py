"""What the field cases share: the command line as people start it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import assay


@pytest.fixture
def run() -> Callable[..., tuple[int, str, str]]:
    """`assay ARGUMENTS`: exit code, stdout, stderr."""

    def start(*arguments: object, cwd: Path | None = None, stdin: str = "") -> tuple[int, str, str]:
        found = str(Path(assay.__file__).parents[1])
        environment = {
            **os.environ,
            "PYTHONPATH": found,
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "COLUMNS": "200",
        }
        line = [sys.executable, "-m", "assay.cli", *map(str, arguments)]
        done = subprocess.run(
            line, cwd=cwd, input=stdin, env=environment, text=True, capture_output=True, timeout=300, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return start
