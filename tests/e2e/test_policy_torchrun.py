"""The policy's commands under torchrun, on two processes: questions with pictures and without, an adapter and LoRA, FSDP2,
kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import environment
from safetensors.torch import load_file
from test_policy_own import assay, lines
from test_processes import torchrun

import tiny_models
from assay.images import ImageStore
from assay.policy import shown
from assay.policy.assemble import assemble, save
from assay.records import Message, Preference, Response
from assay.step import states
from assay.tables import Table
from assay.tuning import own_pairs, parted
from assay.tuning.own_pairs import SampledPreference
from descendants import below, gone

PIL = pytest.importorskip("PIL.Image")
HERE = Path(__file__).parent
LORA = ("--policy.train", "adapter", "llm", "--policy.lora-rank", 2)
BOTH = ("--policy.train", "adapter", "llm")
TIMES = ("sample_cpu_s", "update_cpu_s")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that sees, questions of which every other has a picture, and preferences likewise."""
    home = tmp_path_factory.mktemp("torchrun")
    seen, processor = tiny_models.encoder("siglip", 32)
    save(*assemble(seen, processor, tiny_models.language("qwen3"), tiny_models.tokenizer(), 32), home / "vlm")
    rows, watched, pairs, store = [], [], [], ImageStore(home / "pairs" / "images")
    for i in range(12):
        picture = PIL.fromarray(np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8))
        picture.save(home / f"{i}.png")
        seeing = {"image": f"{i}.png", "facts": ["red"], "absent": ["blue"]} if i % 2 else {}
        rows.append({"question": f"which is {i}?", **({"answer": "red"} if i % 4 < 2 else {}), **seeing})
        if i > 8:
            watched.append({"question": f"which is {i}?", "answer": "blue", **seeing})
        asked = Message(role="user", content=f"what is {i}?", images=(store.add(picture),) if i % 2 else ())
        pairs.append(Preference(
            pair_id=str(i), prompt=(asked,), chosen=Response.of(f"a red one {i}"), rejected=Response.of("no"), margin=1.0,
        ))  # fmt: skip
    lines(home / "questions.jsonl", rows)
    lines(home / "watched.jsonl", watched)
    Table(home / "pairs", Preference).write("pairs", pairs)
    return home


def grpo(home: Path, out: str, steps: int = 4) -> list[str]:
    told = ("policy", "grpo", home / "vlm", home / "questions.jsonl", "--out", home / out, "--steps", steps, "--prompts", 4,
            "--group", 4, "--lr", 1e-2, "--kl", 0.05, "--save-every", 1, "--sampler.max-tokens", 6, *LORA,
            "--policy.tokens", 64, "--reward-model", "policy_commands:length", "--rewards.combine", "sum", "--watch",
            home / "watched.jsonl", "--monitor.every", 2, "--monitor.prompts", 3, "--system", "be short",
            "--instruction", "say it.")  # fmt: skip
    return [str(x) for x in told]


def mpo(home: Path, out: str, *more: object) -> list[str]:
    told = ("policy", "mpo", home / "vlm", home / "pairs", "--out", home / out, "--batch", 4, "--lr", 1e-3,
            "--policy.tokens", 64, "--policy.precision", "fp32", *more)  # fmt: skip
    return [str(x) for x in told]


def asking(home: Path, name: str) -> list[list[str]]:
    """The commands that ask a policy and train nothing."""
    model, asked, drawn = str(home / "vlm"), str(home / "questions.jsonl"), ["--sampler.max-tokens", "6"]
    return [
        ["policy", "filter", model, asked, "--out", str(home / f"{name}.jsonl"), "--samples", "2", *drawn],
        ["policy", "evaluate", model, asked, "--out", str(home / f"{name}.json"), *drawn],
        ["policy", "pairs", model, asked, "--out", str(home / f"{name}-pairs"), "--samples", "4", *drawn,
         "--reward-model", "policy_commands:length"],
    ]  # fmt: skip


def here() -> dict[str, str]:
    env = environment(ACCELERATE_USE_CPU="true")
    return {**env, "PYTHONPATH": os.pathsep.join([env["PYTHONPATH"], str(HERE)])}


def both(home: Path, *commands: list[str]) -> str:
    """These commands on two processes that torchrun starts; what they said."""
    (home / "commands.json").write_text(json.dumps(commands))
    line = [sys.executable, *torchrun(), str(HERE / "policy_commands.py"), str(home / "commands.json")]
    done = subprocess.run(line, env=here(), capture_output=True, text=True, timeout=1_200)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def command(*arguments: str) -> list[str]:
    """As a user types it: torchrun --nproc-per-node 2 -m assay ..."""
    return [sys.executable, *torchrun(), "-m", "assay", *arguments]


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def done(home: Path) -> str:
    """Everything that two processes do undisturbed, in one launch."""
    return both(
        home, grpo(home, "grpo"), mpo(home, "mpo", *BOTH), mpo(home, "sharded", *BOTH, "--policy.shard"),
        mpo(home, "lora", *LORA, "--policy.shard"), *asking(home, "two"),
    )  # fmt: skip


def test_grpo_on_pictures_and_texts_by_two_processes(home: Path, done: str) -> None:
    rows = metrics(home / "grpo")
    assert [r["samples"] for r in rows] == [16, 32, 48, 64]
    assert any(r["grad_norm"] > 0 and not r["skipped"] for r in rows)
    assert [r["step"] for r in rows if "watch_n" in r] == [2, 4]
    assert done.count("3 questions that are watched, 3 are trained on as well; 3 have a text and 2 a picture") == 1
    assert done.count("watched every 2 steps: 3 questions") == 1, "rank 0 alone speaks"
    assert done.count("12 questions, 4 steps, 64 answers") == 1
    moved = {n for n, x in load_file(home / "vlm/model.safetensors").items()
             if not x.equal(load_file(home / "grpo/model.safetensors")[n].float())}  # fmt: skip
    assert any("multi_modal_projector" in n for n in moved)
    assert any("q_proj" in n for n in moved), "LoRA is merged"
    assert not any("lora" in n or "base_layer" in n for n in load_file(home / "grpo/model.safetensors"))
    answers = shown.read(home / "grpo")
    assert {a.step for a in answers} == {1, 2, 3, 4}
    assert len(answers) == 4 * 2 * 4
    assert all(a.question.endswith("\n\nsay it.") for a in answers)
    assert not (home / "grpo.questions").exists()
    assert not (home / "grpo.partial").exists()


def test_mpo_is_the_same_on_one_process_two_and_sharded(home: Path, done: str) -> None:
    assay(*mpo(home, "one", *BOTH))
    for name in ("mpo", "sharded"):
        assert [r["loss"] for r in metrics(home / name)] == pytest.approx(
            [r["loss"] for r in metrics(home / "one")], abs=2e-5
        )
        for key, value in load_file(home / "one/model.safetensors").items():
            torch.testing.assert_close(load_file(home / name / "model.safetensors")[key], value, atol=2e-4, rtol=0)
    before, after = (load_file(home / n / "model.safetensors") for n in ("vlm", "lora"))
    assert before.keys() == after.keys()
    assert any("q_proj" in n and not x.equal(after[n].float()) for n, x in before.items()), "merged from the shards"
    assert all(x.isfinite().all() for x in after.values())


def test_commands_that_ask_share_the_questions_and_answer_as_one(
    home: Path, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_pairs, "PART", 4)
    monkeypatch.setattr(parted, "PART", 4)
    for arguments in asking(home, "one-process"):
        assay(*arguments)
    assert (home / "two.jsonl").read_text() == (home / "one-process.jsonl").read_text().replace("one-process", "two")
    one, two = (json.loads((home / f"{n}.json").read_text()) for n in ("one-process", "two"))
    assert one == two
    assert two["n"] == 12
    rows = [Table(home / f"{n}-pairs", SampledPreference).read() for n in ("one-process", "two")]
    assert rows[0] == rows[1]
    assert {r.told_by for r in rows[1]} == {"model", "dropout"}
    for left in ("two.partial", "two-pairs.partial"):
        assert not (home / left).exists()


@pytest.mark.slow
def test_ctrl_c_ends_two_processes_with_one_line(home: Path) -> None:
    """torchrun adds a report of its own, and ends with 1."""
    process = subprocess.Popen(
        command(*grpo(home, "stopped", steps=1_000)), env=here(), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while not states(home / "stopped.partial") and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before its first state"
        time.sleep(0.01)
    workers = below(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=600)
    assert gone(workers, 300)
    assert process.returncode
    assert told.count("interrupted; run the same command again to resume") == 1
    assert states(home / "stopped.partial")
    assert not (home / "stopped.lock").exists()


@pytest.mark.slow
def test_grpo_killed_on_two_processes_ends_as_the_undisturbed_one(home: Path, done: str) -> None:
    """kill -9 of torchrun after the second state, and the same command at once: the killed one's processes are gone, or it
    waits for them. While it is at work no other is."""
    process = subprocess.Popen(
        command(*grpo(home, "killed")), env=here(), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while len(states(home / "killed.partial")) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before its second state"
        time.sleep(0.01)
    workers = below(process.pid)
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # so that it is not done meanwhile
    second = subprocess.run(command(*grpo(home, "killed")), env=here(), capture_output=True, text=True, timeout=1_200)
    assert second.returncode, "torchrun's own code for a process that ended with 2 is 1"
    assert second.stderr.count("killed: another process is working in it: process ") == 1
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(workers, 300)
    assert not (home / "killed").exists(), "it finished before it could be killed"
    again = subprocess.run(command(*grpo(home, "killed")), env=here(), capture_output=True, text=True, timeout=1_200)
    assert again.returncode == 0, again.stderr[-4000:]
    assert metrics(home / "killed") == metrics(home / "grpo")
    for name, value in load_file(home / "grpo/model.safetensors").items():
        torch.testing.assert_close(load_file(home / "killed/model.safetensors")[name], value, atol=0, rtol=0, msg=name)
    assert shown.read(home / "killed") == shown.read(home / "grpo")
