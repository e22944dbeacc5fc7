"""`assay reward`: export, streamed training, the sweep and the paper's plans, as a user runs them."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from commands import environment, run_assay

from assay.pipeline.finished import read_run
from assay.records import Preference, question_id
from assay.tables import Table
from in_process import assay_here

SMALL = ("--layers", "1", "--max-tokens", "64", "--batch-pairs", "8", "--lr", "4e-4", "--checks", "2")


def test_the_sets_of_a_run_hold_neither_gold_nor_what_is_measured_on(finished: Path) -> None:
    run = read_run(finished)
    assert len(run.sets["stage1"]) < len(run.sets["filtered"]) <= len(run.sets["flipped"])
    apart = {question_id(p.prompt) for p in (*run.held, *run.evaluation)}
    assert run.held
    assert run.evaluation
    for labels in run.sets.values():
        pairs = labels.preferences()
        assert not apart & {question_id(p.prompt) for p in pairs}
        assert len({p.pair_id for p in pairs}) == len(pairs)
    steps = finished / "seed-0/steps/sets"
    sizes = {n: json.loads((steps / f"{n}.json").read_text())["pairs"] for n in ("stage1", "filtered", "flipped")}
    assert sizes == {n: len(run.sets[n]) for n in sizes}


@pytest.mark.slow
def test_export_then_streamed_training(finished: Path, place: Path) -> None:
    done = assay_here("reward", "export", finished, "--out", "prefs", "--labels", "filtered", cwd=place)
    assert done.returncode == 0, done.stderr
    rows = pl.read_parquet(place / "prefs/*.parquet")
    assert f"{len(rows)} preferences" in done.stdout
    assert {"pair_id", "prompt", "chosen", "rejected", "certainty", "margin"} == set(rows.columns)
    held = read_run(finished).held
    Table(place / "gold", Preference).write("part-0", held)
    command = ("reward", "train", "prefs", "--out", "rm", "--gold", "gold", *SMALL)
    trained = assay_here(*command, "--trackers", "tensorboard", cwd=place)
    assert trained.returncode == 0, trained.stderr
    assert re.search(rf"n {len(held)}\b.*\) of the gold pairs that chose it -> rm", trained.stdout), trained.stdout
    assert "batches are padded" not in trained.stdout, "encoders are packed too"
    result = json.loads((place / "rm/training.json").read_text())
    assert result["presented"] == len(rows), "one epoch leaves nothing out"
    again = assay_here(*command, cwd=place)
    assert again.returncode == 0
    taught = assay_here("reward", "train", "prefs", "--out", "other", "--gold", "prefs", *SMALL, cwd=place)
    assert taught.returncode == 2, "gold that is trained on chooses nothing"
    assert f"{len(rows)} of {len(rows)} pairs ask a question of prefs" in taught.stderr.replace("\n", " ").replace(
        ",", ""
    )
    full = assay_here("reward", "export", finished, "--out", "prefs", cwd=place)
    assert full.returncode == 2
    assert "not empty" in full.stderr


@pytest.mark.slow
def test_a_sweep_has_a_curve_for_each_set_and_resumes(finished: Path, place: Path) -> None:
    command = (
        "reward",
        "sweep",
        finished,
        "--out",
        "sweep",
        "--sets",
        "raw",
        "flipped",
        "--fractions",
        "0.5",
        "1",
        "--seeds",
        "2",
    )
    done = assay_here(*command, cwd=place)
    assert done.returncode == 0, done.stderr
    rows = json.loads((place / "sweep/sweep.json").read_text())
    assert [(r["set"], r["fraction"]) for r in rows] == [("raw", 0.5), ("raw", 1.0), ("flipped", 0.5), ("flipped", 1.0)]
    assert all(0 <= r["low"] <= r["accuracy"] <= r["high"] <= 1 and len(r["by_seed"]) == 2 for r in rows)
    assert all(r["low"] < r["high"] for r in rows)
    assert rows[0]["pairs"] == round(rows[1]["pairs"] / 2)
    assert (place / "sweep/sweep.png").stat().st_size > 10_000
    before = (place / "sweep/metrics.jsonl").read_text()
    assert assay_here(*command, cwd=place).returncode == 0
    assert (place / "sweep/metrics.jsonl").read_text() == before


def test_the_papers_plans_need_no_torch(tmp_path: Path) -> None:
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')\n")
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    plan = run_assay("reward", "paper", "Llama-3.1-8B", "--dry-run", env=env)
    assert plan.returncode == 0, plan.stderr
    shown = json.loads(plan.stdout)
    train = shown["train"]
    assert (train["lr"], train["batch_pairs"], train["schedule"], train["max_tokens"]) == (
        3e-6,
        10_240,
        "constant",
        16_384,
    )
    assert shown["cost"]["packed"]["flops"] == pytest.approx(1.54e21, rel=0.01)
    table = run_assay("reward", "paper", "--stage", "development", env=env)
    assert table.stdout.count("62,500") == 8


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("reward train . --out rm", "no Parquet shards of preferences"),
        ("reward train . --out rm --labels best", "unknown labels 'best'"),
        ("reward export nowhere --out prefs", "neither a run folder"),
        ("reward sweep nowhere --out sweep", "not a run folder"),
        ("reward sweep nowhere --out sweep --fractions 2", "fractions lie in"),
        ("reward paper GPT-5", "no recipe for a model 'GPT-5'"),
        ("reward paper Qwen3-8B", "needs --data"),
        ("reward paper Qwen3-8B --dry-run --stage last", "no training stage 'last'"),
    ],
)
def test_mistakes_are_one_line(command: str, message: str, tmp_path: Path) -> None:
    done = assay_here(*command.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
