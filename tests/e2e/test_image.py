"""The image of the Dockerfile, where something builds it: scripts/image_check.sh."""

import os
import subprocess
from pathlib import Path

import pytest

from built import ROOT

SCRIPT = str(ROOT / "scripts" / "image_check.sh")


def test_without_an_engine_nothing_is_called_checked(tmp_path: Path) -> None:
    for name in ("docker", "podman"):  # a client without its engine, as `docker` is on many machines
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run([SCRIPT], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr == "NOT CHECKED: neither docker nor podman runs here\n"


@pytest.mark.slow
def test_the_image_does_the_main_job_as_its_user() -> None:
    done = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=5_400, check=False)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
    assert "ok: the main job" in done.stdout
