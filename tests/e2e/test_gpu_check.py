"""The check for accelerators runs here in its small form: what it computes is right, and a part that fails is told."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assay import attention

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


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_check")


def test_a_back_end_that_does_not_run_is_told_beside_those_that_do(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashAttention has no kernel for CPUs."""
    monkeypatch.setattr(attention, "candidates", lambda *_: ("varlen", "segments"))
    told = check.PARTS["attention"](check.SMALL)
    assert told["varlen"]["problem"]
    assert told["segments"]["right"]
    assert told["right"] is False


def test_what_a_part_had_found_before_it_failed_is_kept(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("part", 75, b'a warning\n\n{"pairs_per_s": 9.5}\n{"pairs_per')

    monkeypatch.setattr(check.torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(subprocess, "run", stopped)
    assert check.alone("grpo", small=True) == {"pairs_per_s": 9.5, "problem": "not done after 75 s"}
    failed = subprocess.CompletedProcess("part", 1, '\n{"a": 1}\n', "Traceback\nValueError: no")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert check.alone("grpo", small=True) == {"a": 1, "problem": "ValueError: no"}


def test_what_an_environment_lacks_is_named_at_once(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    env = {**os.environ, "PYTHON": str(bare), "PYTHONPATH": ""}
    done = subprocess.run([str(ROOT / "scripts" / "gpu_check.sh")], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "lacks torch, transformers, " in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_accelerator_the_whole_check_says_so() -> None:
    found = subprocess.run([sys.executable, "-c", "import torch; print(torch.accelerator.is_available())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    if found.stdout.strip() == "True":
        pytest.skip("there is an accelerator")
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "gpu_check.py")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "no accelerator here" in done.stderr
