"""A gate that has opened while a policy trains is open after a kill -9: what the run began with says that it is closed."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assay_line
from real_vllm import ended, here

import tiny_models
from assay import models
from assay.journal import read
from assay.step import states

pytestmark = pytest.mark.slow
TIMES = ("sample_cpu_s", "update_cpu_s")


def coin(folder: Path) -> Path:
    """A small model that answers A or B, each as often."""
    model, tokenizer = models.load_generator(str(tiny_models.save_language(folder, "qwen3")))
    tokens = tokenizer("AB]", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):  # what is last read decides
                weight.zero_()
        rows = model.get_input_embeddings().weight
        rows[tokens] = 0.0
        rows[tokens, 0] = torch.tensor([1.5, 1.5, 0.1])  # "]" ends a prompt
    model.save_pretrained(folder)
    return folder


def training(home: Path, out: str) -> list[str]:
    return assay_line(
        "policy", "grpo", home / "coin", home / "asked.jsonl", "--out", home / out, "--steps", 5, "--prompts", 2, "--group",
        2, "--lr", 1e-4, "--save-every", 1, "--sampler.max-tokens", 1, "--reward-model", "policy_commands:first_is_a",
        "--gold", home / "gold.jsonl", "--gate-every", 2, "--gate-questions", 20, "--rewards.gate-precision", 0.86,
        "--rewards.form", "none", "--signal", "total", "--watch", home / "gold.jsonl", "--monitor.every", 2,
        "--policy.precision", "fp32",
    )  # fmt: skip


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read(folder / "metrics.jsonl")]


def test_a_gate_that_has_opened_is_open_after_a_kill(tmp_path: Path) -> None:
    coin(tmp_path / "coin")
    for name, told, first, n in (("asked", {}, 0, 10), ("gold", {"answer": "A"}, 10, 20)):
        rows = [{"question": f"A or B? {i}", **told} for i in range(first, first + n)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    said = ended(training(tmp_path, "once"))
    begun = json.loads((tmp_path / "once.calibration.json").read_text())["term"]
    assert begun["reason"], "40 gold answers are too few"
    assert "the gate is opened" in said
    made = metrics(tmp_path / "once")
    assert [r.get("gate_check_action") for r in made] == [None, "opened", None, "kept", None]
    assert sum(r["model"] for r in made[:2]) == 0
    assert sum(r["model"] for r in made[2:]) > 0
    partial = tmp_path / "again.partial"
    process = subprocess.Popen(training(tmp_path, "again"), env=here(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any(int(s.name.removeprefix("state-")) >= 3 for s in states(partial)) and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "again").exists()
    again = ended(training(tmp_path, "again"))
    assert "the gate is opened" not in again, "it was, before"
    assert metrics(tmp_path / "again") == made
