"""MPO and GRPO on one process or two."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_once import train_once
from safetensors.torch import load_file
from test_processes import environment, losses, torchrun

import tiny_models

SCRIPT = Path(__file__).with_name("policy_once.py")


def run(place: Path, name: str, launcher: tuple[str, ...] = (), steps: int = 4) -> Path:
    """On the processes that a launcher starts, or in this one."""
    if not launcher:
        train_once(place / name, str(place / "lm"), steps)
        return place / name
    command = [sys.executable, *launcher, str(SCRIPT), str(place / name), str(place / "lm"), str(steps)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1_200)
    assert done.returncode == 0, done.stderr[-3000:]
    return place / name


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """MPO to rounding. GRPO, whose processes draw their own answers, runs: all samples are made and counted. Its weights are
    sharded where the sampler has its own."""
    tiny_models.save_language(tmp_path / "lm", "llama")
    one, two = run(tmp_path, "one"), run(tmp_path, "two", torchrun())
    assert losses(one / "mpo") == pytest.approx(losses(two / "mpo"), abs=2e-5)
    a, b = (load_file(f / "mpo" / "model.safetensors") for f in (one, two))
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], atol=2e-4, rtol=0)
    rows = rows_of(two / "grpo")
    assert [r["samples"] for r in rows] == [12, 24, 36, 48], "3 prompts x 4 answers a step over both processes"
    assert any(r["skipped"] == 0 and r["grad_norm"] > 0 for r in rows)
    assert not (two / "grpo.partial").exists()
    whole, sharded = (load_file(two / n / "model.safetensors") for n in ("whole", "sharded"))
    assert losses(two / "whole") == pytest.approx(losses(two / "sharded"), abs=2e-4)
    kls = [[r["kl"] for r in rows_of(two / n) if not r["skipped"]] for n in ("whole", "sharded")]
    assert kls[0] == pytest.approx(kls[1], rel=0.05, abs=1e-6), (
        "the reference, and the policy after it, from the shards"
    )
    assert max(kls[0]) > 1e-4
    start = load_file(tmp_path / "lm" / "model.safetensors")
    assert any(not start[name].equal(value) for name, value in whole.items())
    for name, value in whole.items():
        torch.testing.assert_close(value, sharded[name], atol=2e-3, rtol=0, msg=name)
