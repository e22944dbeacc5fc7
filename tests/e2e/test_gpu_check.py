"""The check for accelerators runs here in its small form: what it computes is right, and a part that fails is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_gpu_check_runs_small_on_a_cpu() -> None:
    command = [str(ROOT / "scripts" / "gpu_check.sh"), "--small", "--only", "attention", "fsdp2", "decode"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["attention"]["right"]
    assert told["fsdp2"]["right"]
    assert told["decode"]["tokens_per_s"] > 0


def test_without_an_accelerator_the_whole_check_says_so() -> None:
    found = subprocess.run([sys.executable, "-c", "import torch; print(torch.accelerator.is_available())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    if found.stdout.strip() == "True":
        pytest.skip("there is an accelerator")
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "gpu_check.py")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "no accelerator here" in done.stderr
