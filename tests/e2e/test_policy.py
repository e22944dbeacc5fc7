"""Part B end to end on models of a few thousand weights: the whole path in process, and the commands as a user runs them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

import tiny_models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.journal import read
from assay.policy.assemble import assemble, save
from assay.policy.config import FitConfig, GrpoConfig, PairConfig, PolicyConfig, SamplerConfig
from assay.policy.monitor import MonitorConfig
from assay.recipes import ablations, policies
from assay.records import Message
from assay.reward.config import TrainConfig
from assay.rollouts import Prompt
from assay.tuning import outcome as tuned
from assay.tuning.config import Task, TuneConfig
from assay.tuning.exam import Exam
from assay.tuning.stages import tune
from in_process import assay_here

PIL = pytest.importorskip("PIL.Image")
COLOURS = {"red": (250, 20, 20), "blue": (20, 20, 250)}


def prompts(store: ImageStore, n: int, start: int = 0) -> tuple[Prompt, ...]:
    made = []
    for i in range(start, start + n):
        name = ("red", "blue")[i % 2]
        picture = store.add(PIL.fromarray(np.full((32, 32 + i, 3), COLOURS[name], dtype=np.uint8)))
        message = Message(role="user", content="which?", images=(picture,))
        other = tuple(c for c in COLOURS if c != name)
        made.append(Prompt(messages=(message,), answer=name, facts=(name,), absent=other))
    return tuple(made)


def base(folder: Path) -> str:
    encoder, processor = tiny_models.encoder("siglip", 32)
    language = tiny_models.language("qwen3", width=64)
    save(*assemble(encoder, processor, language, tiny_models.tokenizer(), 32), folder)
    return "tiny"


def task(store: ImageStore) -> Task:
    align, gold, pairs, learn, test = (
        prompts(store, n, s) for n, s in ((16, 0), (12, 16), (12, 28), (12, 40), (10, 52))
    )
    exam = Exam(prompts=test, swapped=tuple(test[(i + 1) % 10].images[0] for i in range(10)))
    return Task(
        align=align, worked=tuple(f"a {p.answer} one</think><answer>{p.answer}</answer>" for p in align), gold=gold,
        pairs=pairs, tune=learn, watched=exam, test=exam, base=base,
    )  # fmt: skip


def config(seed: int = 0) -> TuneConfig:
    whole = PolicyConfig(train=("adapter", "llm"))
    return TuneConfig(
        recipe="test", seed=seed, sampler=SamplerConfig(max_tokens=48), align_policy=whole, policy=whole,
        align=FitConfig(batch=8, epochs=80, lr=5e-3, schedule="constant", weight_decay=0.0), gold_prompts=12,
        reward_model=TrainConfig(batch_pairs=8, lr=1e-3, max_tokens=256, checks=1), pairs=PairConfig(samples=6),
        mpo=FitConfig(batch=4, lr=1e-4), grpo=GrpoConfig(steps=4, prompts=4, group=4, lr=1e-4, save_every=2),
        monitor=MonitorConfig(every=2, prompts=6),
    )  # fmt: skip


def test_the_whole_path_runs_resumes_and_reports(tmp_path: Path) -> None:
    out = tune(tmp_path / "run", config(), task)
    readings = tuned.policies(out)
    assert list(readings) == ["aligned", "mpo-1", "grpo"]
    aligned = readings["aligned"]
    assert aligned.accuracy is not None
    assert aligned.accuracy.value >= 0.9, "red and blue can be told apart"
    assert aligned.hallucination_rate is not None
    assert aligned.hallucination_rate.value <= 0.1
    assert aligned.swap_agreement is not None
    assert aligned.swap_agreement.value <= 0.2, "the other colour gets the other answer"
    assert aligned.onset_entropy is not None
    metrics = [json.loads(line) for line in (out / "models/grpo/metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    assert "watch_hallucination_rate" in metrics[1]
    assert {"effective", "effective_rule", "batch_effective", "rule", "format", "model"} <= metrics[0].keys()
    before = {p: p.stat().st_mtime_ns for p in (out / "models").rglob("*.safetensors")}
    tune(out, config(), task)
    assert {p: p.stat().st_mtime_ns for p in (out / "models").rglob("*.safetensors")} == before
    page = tuned.write_report(out).read_text()
    assert page.count('<svg class="plot"') >= 2
    for name in readings:
        assert f"<td>{name}</td>" in page
    tuned.summary(out, Console(width=200))
    with pytest.raises(AssayError, match="another config"):
        tune(out, config(seed=1), task)


def test_with_two_threads_stages_run_side_by_side_and_are_found_by_a_run_with_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settled, before = config(), torch.get_num_threads()
    settled = replace(settled, align=replace(settled.align, epochs=24))
    torch.set_num_threads(2)
    try:
        out = tune(tmp_path / "run", settled, task)
        steps = {str(p.relative_to(out / "steps")): p.read_bytes() for p in (out / "steps").rglob("*.json")}
        assert {"reward-model.json", "evaluate/aligned.json", "evaluate/grpo.json"} <= steps.keys()
        assert "of sampled answers to gold questions are right" in capfd.readouterr().err, "told by the other process"
        done = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert sorted(f"{d['step']}.json" for d in done) == sorted(steps)
        assert {d["session"] for d in done} == {0}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    (out / "steps/evaluate/aligned.json").unlink()
    tune(out, settled, task)
    again = json.loads((out / "steps/evaluate/aligned.json").read_text())
    assert again["reading"] == json.loads(steps["evaluate/aligned.json"])["reading"], "in this process"


@pytest.mark.slow
def test_an_ablation_has_a_row_and_a_curve_for_every_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "tiny_vlm", config)
    monkeypatch.setattr(policies, "visual_task", lambda _: task)
    plot = ablations.ablate("buffer", tmp_path / "ablations", (0, 1), Console(width=200))
    assert plot.stat().st_size > 5_000
    text = (tmp_path / "ablations/buffer.md").read_text()
    readings, batches = (
        [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in part.splitlines()
            if not line.startswith("| ---")
        ]
        for part in text.split("\n\n")
    )
    for rows in (readings, batches):
        assert [r[0] for r in rows[1:]] == ablations.variants("buffer")
    assert all(r[-1] == "2" for r in readings[1:])
    assert all(0 <= int(r[batches[0].index("of the batch, %")]) <= 100 for r in batches[1:])
    curves = {v: [read(tmp_path / "ablations/seed-0/models/grpo-buffer/metrics.jsonl")] for v in ("a", "b")}
    figure = ablations.figure("buffer", curves)
    assert [a.get_xlabel().split()[0] for a in figure.axes] == ["answers", "CPU", "step", "step"]
    assert [len(a.lines) for a in figure.axes] == [2, 2, 2, 2]
    seconds = figure.axes[1].lines[0].get_xdata()
    assert seconds[0] > 0
    assert all(np.diff(seconds) > 0)
    with pytest.raises(AssayError, match="unknown ablation"):
        ablations.variants("nothing")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_language(tmp_path_factory.mktemp("lm"), "llama")


def test_grpo_and_the_filter_on_a_users_own_questions(model: Path, tmp_path: Path) -> None:
    rows = [{"question": f"say {c}", "answer": c, "kind": "text"} for c in "abcdef"] + [{"question": "no answer"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    short = ("--sampler.max-tokens", "8")
    command = ("policy", "grpo", model, tmp_path / "q.jsonl", "--out", tmp_path / "tuned", "--steps", "3",
               "--prompts", "2", "--group", "3", *short)  # fmt: skip
    done = assay_here(*command)
    assert done.returncode == 0, done.stderr
    assert "1 questions without an answer are left out" in done.stdout
    assert "6 questions, 3 steps, 18 answers" in done.stdout
    assert (tmp_path / "tuned/model.safetensors").exists()
    filtered = assay_here(
        "policy", "filter", model, tmp_path / "q.jsonl", "--out", tmp_path / "kept.jsonl", "--samples", "2", *short
    )
    assert filtered.returncode == 0, filtered.stderr
    assert "of 6 questions kept" in filtered.stdout
    (tmp_path / "bad.jsonl").write_text('{"question": 3}\n')
    bad = assay_here("policy", "grpo", model, tmp_path / "bad.jsonl", "--out", tmp_path / "x")
    assert bad.returncode == 2
    assert "bad.jsonl" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_mpo_on_parquet_preferences(model: Path, tmp_path: Path) -> None:
    def said(role: str, text: str) -> dict[str, object]:
        return {"role": role, "content": text, "images": []}

    rows = [
        {
            "pair_id": str(i), "prompt": [said("user", "say a")],
            "chosen": {"messages": [said("assistant", "a" * (i + 1))]},
            "rejected": {"messages": [said("assistant", "b" * (i + 1))]},
        }
        for i in range(8)
    ]  # fmt: skip
    (tmp_path / "prefs").mkdir()
    pl.DataFrame(rows).write_parquet(tmp_path / "prefs/part.parquet")
    done = assay_here(
        "policy", "mpo", model, tmp_path / "prefs", "--out", tmp_path / "tuned", "--batch", "4", "--epochs", "2"
    )
    assert done.returncode == 0, done.stderr
    assert "8 pairs, 4 steps" in done.stdout


def test_the_embedded_recipes_resolve_without_running(tmp_path: Path) -> None:
    for name in policies.RECIPES:
        done = assay_here("policy", "run", name, "--dry-run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["recipe"] == name
    wrong = assay_here("policy", "run", "tiny-vlm", "--grpo.group", "1", "--dry-run", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "grpo.group must be at least 2" in wrong.stderr
