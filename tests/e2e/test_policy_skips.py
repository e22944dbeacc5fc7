"""A policy that is always right, or always wrong, leaves nothing to prefer: its run goes on, and says what was skipped."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tiny_models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.journal import read as metrics
from assay.policy.config import FitConfig, GrpoConfig, PairConfig, PolicyConfig, SamplerConfig
from assay.policy.monitor import MonitorConfig
from assay.records import user
from assay.rollouts import Prompt, Rollout
from assay.run import Run
from assay.tuning import outcome as tuned
from assay.tuning.config import Task, TuneConfig
from assay.tuning.exam import Exam
from assay.tuning.stages import Tuner, tune
from assay.workers import Beside
from in_process import assay_here

PROMPTS = tuple(Prompt(messages=(user(f"say {c}"),), answer="a word", kind="text") for c in "abcdefgh")


def base(folder: Path) -> str:
    tiny_models.save_language(folder)
    return "tiny"


def task(_: ImageStore) -> Task:
    exam = Exam(prompts=PROMPTS[:2])
    return Task(
        align=PROMPTS[:2], worked=("a", "b"), gold=PROMPTS[:4], pairs=PROMPTS[4:], tune=PROMPTS[:4], watched=exam,
        test=exam, base=base,
    )  # fmt: skip


CONFIG = TuneConfig(
    recipe="test", gold_prompts=4, rounds=2, sampler=SamplerConfig(max_tokens=4), align=FitConfig(batch=2),
    pairs=PairConfig(samples=2), grpo=GrpoConfig(steps=1, prompts=2, group=2), monitor=MonitorConfig(every=1, prompts=2),
    policy=PolicyConfig(train=("llm",)),
)  # fmt: skip


@pytest.mark.parametrize(("answer", "reason"), [("a word", "all right"), ("no word", "none right")])
def test_a_policy_without_any_pairs_does_not_end_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, reason: str
) -> None:
    def answers(_: Tuner, name: str, policy: Any, prompts: Sequence[Prompt], n: int) -> list[list[Rollout]]:
        text = f"<think>x</think><answer>{answer}</answer>"
        return [
            [Rollout(prompt_id=p.id, tokens=(7, 1), logprobs=(0.0, 0.0), text=text, ended=True, policy_step=0)] * n
            for p in prompts
        ]

    monkeypatch.setattr(Tuner, "answers", answers)
    monkeypatch.setattr("assay.tuning.stages.Beside", lambda threads: Beside(0))  # another process would ask the policy
    out = tune(tmp_path / "run", CONFIG, task)
    assert list(tuned.policies(out)) == ["aligned", "grpo"]
    assert tuned.skipped(out) == {
        "mpo-1": "no preference pairs among the answers of aligned",
        "mpo-2": "no preference pairs among the answers of aligned",
        "reward-model": "no gold question has both right and wrong answers",
    }
    console = Console(width=100, record=True)
    tuned.summary(out, console)
    assert "mpo-1: skipped: no preference pairs" in console.export_text()
    run = Run(out, CONFIG)
    try:
        assert run.result("mpo-1")["counts"] == {reason: 4, "pairs": 0}
        tuner = Tuner(run, CONFIG, replace(task(ImageStore(out / "images")), tune=()))
        assert tuner.margin(0.5) == 0.0
        assert tuner.load("mpo-2", CONFIG.policy).inner.config._name_or_path.endswith("aligned")
        assert tuner.grpo("grpo-filtered", "aligned") == "aligned", "no question is answered now right, now wrong"
    finally:
        run.close()


def test_a_recipe_that_a_benchmark_watches(tmp_path: Path) -> None:
    """Its questions are what is read while the policy is tuned; a name that is none leaves no run behind."""
    rows = [{"id": i, "problem": f"What is {i} + 40?", "answer": str(i + 40)} for i in range(4)]
    (tmp_path / "aime24.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = replace(CONFIG, gold_prompts=0, rounds=0, watch="aime24:3", watch_data=tmp_path)
    with pytest.raises(AssayError, match=r"aime24:9: .* has 4 questions"):
        tune(tmp_path / "run", replace(config, watch="aime24:9"), task)
    out = tune(tmp_path / "run", config, task)
    read = [m for m in metrics(out / "models" / "grpo" / "metrics.jsonl") if "watch_n" in m]
    assert [m["watch_n"] for m in read] == [3] * len(read)
    assert read


def test_a_threshold_needs_a_reward_model() -> None:
    with pytest.raises(AssayError, match=r"pairs.threshold .* gold_prompts 0"):
        TuneConfig(recipe="test", gold_prompts=0, pairs=PairConfig(threshold=5.0))
    TuneConfig(recipe="test", gold_prompts=0, pairs=PairConfig(threshold=0.0))


def test_a_user_s_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for given, said in ((("--out", "out", "--seed", "-1"), "grpo.seed"), (("--out", "."), ".: name a new folder")):
        done = assay_here("policy", "grpo", "lm", "q.jsonl", *given, cwd=tmp_path / "in")
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
