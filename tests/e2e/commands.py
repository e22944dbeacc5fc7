"""Programs as a user starts them, as processes of their own (`in_process`: in this one): the command line, the small job."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import assay

JOB = Path(__file__).with_name("small_job.py")
Done = subprocess.CompletedProcess[str]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which the same `assay` is found from any folder, on one thread, without a proxy."""
    path = os.pathsep.join([str(Path(assay.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", "COLUMNS": "200"}
    return {**os.environ, **fixed, **more}


def assay_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "assay", *map(str, arguments)]


def run_assay(
    *arguments: object,
    cwd: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    timeout: int = 1_200,
) -> Done:
    """`assay ARGUMENTS`, to its end."""
    return subprocess.run(
        assay_line(*arguments), cwd=cwd, input=stdin, env=dict(env or environment()), text=True, capture_output=True,
        timeout=timeout, check=False,
    )  # fmt: skip


def job_line(folder: Path, *arguments: object) -> list[str]:
    return [sys.executable, str(JOB), str(folder), *map(str, arguments)]


def run_small_job(folder: Path, *arguments: object, timeout: int = 1_200) -> Done:
    """The small job in a process of its own, to its end or its death."""
    return subprocess.run(
        job_line(folder, *arguments), env=environment(), text=True, capture_output=True, timeout=timeout, check=False
    )
