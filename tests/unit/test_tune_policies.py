"""`assay run --tune` on reward models and a policy of random weights: its steps, their files, and what the report says."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

import tiny_models
from assay.errors import AssayError
from assay.pipeline import policies
from assay.pipeline.flow import FlowConfig
from assay.pipeline.policies import tune_policies
from assay.pipeline.policy_config import EMBEDDED, TuningConfig
from assay.policy.config import GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.rewards import RewardConfig
from assay.recipes import presets
from assay.records import Preference, Response, user
from assay.report.policies import PoliciesTold, policies_told
from assay.report.run import html_of
from assay.run import Run
from assay.state import state
from assay.telling import Telling
from assay.web.watched import Watched
from pools import policy_steps
from shares import naked


def mentions(conversations: list[Any]) -> list[float]:
    """Of an answer, whether it has the letter e."""
    return [float("e" in c[-1].content) for c in conversations]


def tuning(run: Path, **more: Any) -> TuningConfig:
    """A policy of random weights that writes characters; any answer may be good."""
    return TuningConfig(
        model=str(run.parent / "language"), seeds=1, test_prompts=40, candidates=4, samples=2, judge=f"{__name__}:mentions",
        sampler=SamplerConfig(max_tokens=8), policy=PolicyConfig(last_layers=1, precision="fp32"),
        rewards=RewardConfig(rule=0.0, format=0.0, form="none", combine="sum"),
        grpo=GrpoConfig(steps=2, prompts=2, group=3, lr=1e-3, signal="total"), **more,
    )  # fmt: skip


def gold(n: int = 30) -> list[Preference]:
    return [
        Preference(pair_id=str(i), prompt=(user(f"what is {i}"),), chosen=Response.of(f"It is {i}."),
                   rejected=Response.of(f"no {i}"))
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder as `--tune` reads it: a seed with two reward models and held gold."""
    for seed, name in enumerate(("raw-more", "final")):
        tiny_models.reward(tmp_path / "run" / "seed-0" / "models" / name, seed)
    tiny_models.save_language(tmp_path / "language", layers=2)
    (tmp_path / "run" / "seed-0" / "steps").mkdir()
    (tmp_path / "run" / "seed-0" / "steps" / "final.json").write_text("{}")
    held = SimpleNamespace(preferences=gold)
    monkeypatch.setattr(policies, "read_set", lambda material, tables, name: held if name == "held" else None)
    return tmp_path / "run"


def configured(settings: TuningConfig, questions: str) -> FlowConfig:
    plain = presets.tiny()
    return replace(plain, tune=questions, tuning=settings, train=replace(plain.train, max_tokens=256, precision="fp32"))


def tune(folder: Path, settings: TuningConfig, questions: str = EMBEDDED) -> None:
    asked = pl.DataFrame({"question_id": ["q"]})
    pool: Any = SimpleNamespace(frames=lambda columns: [(None, asked)])
    config = configured(settings, questions)
    kept = {"recipe": "tiny", "seeds": 1, "stage1": {"iterations": 0, "seed_gold": 1, "seed_silver": 1, "per_iteration": 1},
            "train": {"epochs": 1}}  # fmt: skip
    with closing(Run(folder, kept)) as open_run, Telling(open_run) as telling:
        tune_policies(open_run, config, pool, telling)


def told_of(folder: Path) -> PoliciesTold:
    found = policies_told(folder)
    assert found is not None
    return found


def test_a_finished_run_is_given_policies_and_later_more_of_them(run: Path) -> None:
    assert policies_told(run) is None
    tune(run, tuning(run))
    found = policy_steps(run)
    assert sorted(found) == [
        "best-of-n/curated-0", "best-of-n/raw-0", "compared-1", "gate/curated-0", "gate/raw-0", "grpo/curated-0",
        "grpo/raw-0", "policy/curated-0", "policy/raw-0", "start",
    ]  # fmt: skip
    models = run / "policies" / "models"
    assert (models / "grpo-curated-0" / "model.safetensors").exists(), "the tuned policy"
    assert not list((models / "grpo-raw-0").glob("*.safetensors")), "it only compared"
    assert_picks_are_recounted(run, found)
    assert_told(run)

    again = {p: p.stat().st_mtime_ns for p in (run / "policies").rglob("*.json")}
    tune(run, tuning(run))
    tune(run, replace(tuning(run), seeds=2))
    more = policy_steps(run)
    assert {n: s for n, s in more.items() if n in found} == found
    assert {"compared-2", "grpo/raw-1", "policy/curated-1"} <= more.keys()
    assert all(p.stat().st_mtime_ns == t for p, t in again.items() if p.exists() and "steps" in p.parts)
    assert more["policy/curated-1"] != more["policy/curated-0"], "another seed"
    with pytest.raises(AssayError, match=r"another config \(tuning\.candidates: 4 -> 5\)"):
        tune(run, replace(tuning(run), candidates=5))


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


def assert_told(run: Path) -> None:
    found = told_of(run)
    assert found.verdicts[0].startswith("Best of 4, picked by the reward model of curated labels: ")
    assert found.verdicts[1].startswith("GRPO (1 training each), rewarded by the reward model of curated labels: ")
    assert [r[0] for r in found.table.rows] == ["the untuned policy", "best of 2", "best of 4", "after GRPO"]
    page = "".join(map(html_of, (found.table, found.gates, found.policies)))
    words = "".join(f"<p>{line}</p>" for line in (*found.verdicts, found.about, found.cost))
    assert naked(page + words)[0] == []
    assert found.plot.startswith("<svg")


def test_a_closed_gate_leaves_the_policy_as_it_is(run: Path) -> None:
    shut = RewardConfig(rule=0.0, format=0.0, form="none", gate_precision=0.99)
    tune(run, replace(tuning(run), rewards=shut))
    found = policy_steps(run)
    for arm in ("raw", "curated"):
        assert (
            "no threshold" in found[f"grpo/{arm}-0"]["skipped"] or "do not score" in found[f"grpo/{arm}-0"]["skipped"]
        )
        assert found[f"policy/{arm}-0"]["answers"] == 80, "the untuned policy's own, two to a question"
    assert found["compared-1"]["grpo"]["difference"]["value"] == 0.0
    assert "its gate is closed" in told_of(run).verdicts[-1]
    assert told_of(run).gates.rows[0][1].startswith("closed: ")


def test_a_users_questions_are_measured_by_their_answers(run: Path) -> None:
    file = run.parent / "sums.jsonl"
    file.write_text(
        "".join(json.dumps({"question": f"What is {i} + {i}?", "answer": str(2 * i)}) + "\n" for i in range(12))
    )
    tune(run, replace(tuning(run), judge=""), str(file))
    found = policy_steps(run)
    assert (found["start"]["train"], found["start"]["answers"]) == (6, 24), "half of them measure"
    assert found["start"]["value"]["value"] == 0.0, "random characters are no answer"
    assert found["compared-1"]["measured_by"] == "the questions' right answers"
    assert found["compared-1"]["grpo"]["verdict"].startswith("too few to say")


def test_the_live_page_and_the_list_of_runs_know_the_policies(run: Path) -> None:
    tune(run, tuning(run))
    (run / "run.toml").write_text(
        'command = "run tiny"\ntune = "embedded"\n[tuning]\nseeds = 1\ntest_prompts = 40\ncandidates = 4\nsamples = 2\n'
        "[tuning.grpo]\nsteps = 2\nprompts = 2\ngroup = 3\n"
    )
    now = state(run)
    assert now.state == "finished"
    assert now.stages[-1].title == "GRPO with either reward model, 1 training each"
    shown = {t.name for t in Watched(run).trainings()}
    assert {"policies/models/grpo-raw-0", "policies/models/grpo-curated-0"} <= shown
