"""From a pool to a policy in one run: `--tune` on a finished run, killed and gone on with, and what its report says."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import run_assay
from small_job import small_config, small_pool
from test_pool_recipe import SMALL, import_pool
from test_run_state import answer, begun, killed, lacks, until

import tiny_models
from assay.curate.verify import oracle
from assay.errors import AssayError
from assay.pipeline.job import run_job
from assay.pipeline.policy_config import EMBEDDED, TuningConfig
from assay.policy.config import GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.rewards import RewardConfig
from assay.report.page import write_report
from assay.state import state
from assay.web.watched import Watched
from in_process import assay_here
from shares import naked


def mentions(conversations: list[Any]) -> list[float]:
    """Of an answer, whether it has the letter e."""
    return [float("e" in c[-1].content) for c in conversations]


def tuning(place: Path, **more: Any) -> TuningConfig:
    """A random policy of characters; any answer may be good."""
    model = place / "language"
    if not model.exists():
        tiny_models.save_language(model, layers=2)
    return TuningConfig(
        model=str(model), seeds=1, test_prompts=40, candidates=4, samples=2, judge=f"{__name__}:mentions",
        sampler=SamplerConfig(max_tokens=8), policy=PolicyConfig(last_layers=1, precision="fp32"),
        rewards=RewardConfig(rule=0.0, format=0.0, form="none", combine="sum"),
        grpo=GrpoConfig(steps=2, prompts=2, group=3, lr=1e-3, signal="total"), **more,
    )  # fmt: skip


def tune(folder: Path, settings: TuningConfig) -> None:
    pool = small_pool()
    run_job(folder, replace(small_config(), tune=EMBEDDED, tuning=settings), pool, people=oracle(pool.truth))


def steps(folder: Path) -> dict[str, Any]:
    root = folder / "policies" / "steps"
    told = {str(p.relative_to(root).with_suffix("")): json.loads(p.read_text()) for p in sorted(root.rglob("*.json"))}
    return {name: {k: v for k, v in step.items() if k != "wall_s"} for name, step in told.items()}


@pytest.fixture
def run(finished: Path, place: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(finished, place / "run")
    return place / "run"


def test_a_finished_run_is_given_policies_and_later_more_of_them(run: Path, place: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.glob("seed-0/models/*/training.json")}
    tune(run, tuning(place))
    assert {p: p.stat().st_mtime_ns for p in before} == before, "nothing of the run is made anew"
    found = steps(run)
    assert sorted(found) == [
        "best-of-n/curated-0", "best-of-n/raw-0", "compared-1", "gate/curated-0", "gate/raw-0", "grpo/curated-0",
        "grpo/raw-0", "policy/curated-0", "policy/raw-0", "start",
    ]  # fmt: skip
    models = run / "policies" / "models"
    assert (models / "grpo-curated-0" / "model.safetensors").exists(), "the tuned policy"
    assert not list((models / "grpo-raw-0").glob("*.safetensors")), "it only compared"
    assert_picks_are_recounted(run, found)
    assert_report(run)

    again = {p: p.stat().st_mtime_ns for p in (run / "policies").rglob("*.json")}
    tune(run, tuning(place))
    tune(run, replace(tuning(place), seeds=2))
    more = steps(run)
    assert {n: s for n, s in more.items() if n in found} == found
    assert {"compared-2", "grpo/raw-1", "policy/curated-1"} <= more.keys()
    assert all(p.stat().st_mtime_ns == t for p, t in again.items() if p.exists() and "steps" in p.parts)
    assert more["policy/curated-1"] != more["policy/curated-0"], "another seed"
    with pytest.raises(AssayError, match=r"another config \(tuning\.candidates: 4 -> 5\)"):
        tune(run, replace(tuning(place), candidates=5))


def assert_picks_are_recounted(run: Path, found: dict[str, Any]) -> None:
    """The best of all four is the answer with the highest reward of either model."""
    tables = run / "policies" / "tables"
    values = pl.read_parquet(tables / "values" / "start.parquet")
    assert len(values) == found["start"]["answers"] == 160
    assert found["start"]["value"]["value"] == pytest.approx(values["value"].mean())
    for arm in ("raw", "curated"):
        scored = pl.read_parquet(tables / "rewards" / f"{arm}-0-of-start.parquet")
        both = values.with_columns(reward=scored["reward"])
        best = both.group_by("question").agg(pl.col("value").sort_by("reward", nulls_last=False).last())
        assert found[f"best-of-n/{arm}-0"]["4"]["value"] == pytest.approx(best["value"].mean())
    apart = found["best-of-n/curated-0"]["4"]["value"] - found["best-of-n/raw-0"]["4"]["value"]
    assert found["compared-1"]["best_of_n"]["difference"]["value"] == pytest.approx(apart)


def assert_report(run: Path) -> None:
    page = write_report(run).read_text()
    assert 'id="policies"' in page
    assert "Best of 4, picked by the reward model of curated labels:" in page
    assert "GRPO (1 training each), rewarded by" in page
    section = page[page.index('id="policies"') : page.index('id="bench"')]
    assert naked(section)[0] == []
    assert (
        'id="policies"' not in write_report(run.parent / "plain").read_text()
        if (run.parent / "plain").exists()
        else True
    )


def test_a_closed_gate_leaves_the_policy_as_it_is(run: Path, place: Path) -> None:
    shut = RewardConfig(rule=0.0, format=0.0, form="none", gate_precision=0.99)
    tune(run, replace(tuning(place), rewards=shut))
    found = steps(run)
    for arm in ("raw", "curated"):
        assert (
            "no threshold" in found[f"grpo/{arm}-0"]["skipped"] or "do not score" in found[f"grpo/{arm}-0"]["skipped"]
        )
        assert found[f"policy/{arm}-0"]["answers"] == 80, "the untuned policy's own, two to a question"
    assert found["compared-1"]["grpo"]["difference"]["value"] == 0.0
    assert "its gate is closed" in write_report(run).read_text()


def test_the_live_page_and_the_list_of_runs_know_the_policies(run: Path, place: Path) -> None:
    tune(run, tuning(place))
    (run / "run.toml").write_text(
        'command = "run tiny"\ntune = "embedded"\n[tuning]\nseeds = 1\ntest_prompts = 40\ncandidates = 4\nsamples = 2\n'
        "[tuning.grpo]\nsteps = 2\nprompts = 2\ngroup = 3\n"
    )
    now = state(run)
    assert now.state == "finished"
    assert now.stages[-1].title == "GRPO with either reward model, 1 trainings each"
    shown = {t.name for t in Watched(run).trainings()}
    assert {"policies/models/grpo-raw-0", "policies/models/grpo-curated-0"} <= shown


FAST = (
    "--tune", "embedded", "--tuning.seeds", "1", "--tuning.test-prompts", "40", "--tuning.candidates", "4",
    "--tuning.samples", "1", "--tuning.sampler.max-tokens", "24", "--tuning.grpo.steps", "3", "--tuning.grpo.prompts", "2",
    "--tuning.grpo.group", "3", "--tuning.grpo.save-every", "1", "--tuning.rewards.combine", "sum",
)  # fmt: skip


@pytest.mark.slow
def test_from_a_pool_to_a_policy_killed_three_times(place: Path) -> None:
    """`assay run pool --tune` with the real SmolLM2, killed in sampling, in GRPO and in measuring; `assay resume` each time.
    The result is that of a run that nobody killed, and its numbers are where they must be."""
    import_pool(place)
    run, truth = place / "runs" / "mine", small_pool(prompts=60, per_prompt=1).truth
    line = ("run", "pool", "pool", "--out", "runs/mine", "--wait", "--offline-judge", "--at-chance", *SMALL, *FAST)
    first = begun(place, *line)
    while not (run / "policies" / "config.json").exists():
        until(first, lambda: lacks(run) or (run / "policies" / "config.json").exists())
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
    found = steps(run)

    shutil.rmtree(run / "policies")
    whole = run_assay("resume", "runs/mine", cwd=place, timeout=600)
    assert whole.returncode == 0, whole.stderr
    assert steps(run) == found, "kills change nothing"
    start, compared = found["start"], found["compared-1"]
    assert 0.1 < start["value"]["value"] < 0.7, "SmolLM2 obeys about every third of these demands"
    for arm in ("raw", "curated"):
        picked = [found[f"best-of-n/{arm}-0"][n]["value"] for n in ("2", "4")]
        assert all(abs(p - start["value"]["value"]) < 0.3 for p in picked)
        assert 0 < found[f"policy/{arm}-0"]["tokens"] <= 24
    low, high = (compared["grpo"]["difference"][k] for k in ("low", "high"))
    assert low < 0 < high, "three steps on six answers each show nothing, and the interval says so"


def kill_when(process: Any, holds: Callable[[], bool]) -> None:
    until(process, holds, 600)
    killed(process)


def test_a_user_is_told_what_is_missing_before_anything_begins(place: Path) -> None:
    refused = assay_here("run", "tiny", "--out", "run", "--tune", "no-such.jsonl", cwd=place)
    assert refused.returncode == 2
    assert "no such file or folder of questions" in refused.stderr
    assert not (place / "run" / "config.json").exists()
