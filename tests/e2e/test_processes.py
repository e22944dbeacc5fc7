"""The same training on one process or two, in one pass or many, in one go or killed and resumed elsewhere."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_once import train_once
from transformers import AutoModelForSequenceClassification, Qwen3Config, Qwen3ForSequenceClassification

from assay import models
from assay.records import Pair, Preference, Response, user
from assay.step import states
from assay.tables import Table
from descendants import kill_all
from ports import free_port

SCRIPT = Path(__file__).with_name("train_once.py")
STEPS = 6
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Qwen3 of two layers, 48 pairs of very different lengths, and gold pairs."""
    folder = tmp_path_factory.mktemp("processes")
    tokenizer = models.load_tokenizer("minilm")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen3ForSequenceClassification(config).save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    rng = random.Random(0)
    words = [
        "the",
        "a",
        "river",
        "stone",
        "green",
        "old",
        "house",
        "walks",
        "slowly",
        "into",
        "night",
        "with",
        "seven",
        "birds",
    ]

    def text(most: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(1, most)))

    rows = [[text(20), f"thanks {text(40)}", f"no {text(40)}"] for _ in range(48)]
    (folder / "pairs.json").write_text(json.dumps(rows))
    (folder / "gold.json").write_text(json.dumps([[text(9), f"thanks {text(9)}", f"no {text(9)}"] for _ in range(7)]))
    return folder


def config(place: Path, **fields: Any) -> dict[str, Any]:
    base = {"backbone": str(place / "backbone"), "batch_pairs": 8, "lr": 1e-3, "schedule": "constant", "warmup": 0.0,
            "max_tokens": 128, "checks": 3, "precision": "fp32"}  # fmt: skip
    return {**base, **fields}


def launch(place: Path, data: str = "pairs.json", **jobs: dict[str, Any]) -> list[str]:
    """What trains these (by name, each with what is its own of the config) on two processes, one after the other."""
    told = [(str(place / name), str(place / data), config(place, **fields)) for name, fields in jobs.items()]
    return [sys.executable, *torchrun(), str(SCRIPT), json.dumps(told)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def run(place: Path, name: str, data: str = "pairs.json", **fields: Any) -> Path:
    """A training in this process."""
    train_once(place / name, place / data, config(place, **fields), lambda line: None)
    return place / name


def on_two(place: Path, data: str = "pairs.json", **jobs: dict[str, Any]) -> str:
    """Trainings on two processes; what they said."""
    done = subprocess.run(
        launch(place, data, **jobs), env=environment(), capture_output=True, text=True, timeout=1_200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def torchrun() -> tuple[str, ...]:
    return "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(one: Path, other: Path) -> None:
    assert len(losses(one)) == STEPS
    assert losses(one) == pytest.approx(losses(other), abs=2e-5)
    a, b = (load_file(f / "model.safetensors") for f in (one, other))
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], atol=2e-4, rtol=0)
    scores = [json.loads((f / "training.json").read_text())["gold_accuracy"] for f in (one, other)]
    assert scores[0] == scores[1]


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    return run(place, "alone")


def test_one_pair_a_pass_equals_all_in_one(place: Path, alone: Path) -> None:
    assert_same(run(place, "single", engine={"tokens": 1}), alone)


def test_padding_equals_packing(place: Path, alone: Path) -> None:
    folder = run(place, "padded", engine={"packing": False, "tokens": 512})
    assert not json.loads((folder / "training.json").read_text())["packed"]
    assert_same(folder, alone)


def test_checkpointing_changes_nothing(place: Path, alone: Path) -> None:
    assert_same(run(place, "checkpointing", engine={"checkpointing": True}), alone)


def test_two_processes_equal_one_with_whole_weights_and_with_shards(place: Path, alone: Path) -> None:
    said = on_two(place, two={"engine": {"tokens": 150}}, sharded={"engine": {"tokens": 150, "shard": True}})
    for name, how in (("two", "DDP"), ("sharded", "FSDP2")):
        assert f"{name}: 2 processes on cpu ({how})" in said
        assert_same(place / name, alone)


def test_the_checkpoint_is_what_transformers_loads(place: Path, alone: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(alone)
    assert model.config.num_labels == 1
    assert (alone / "model.safetensors").exists()
    assert model.config.pad_token_id is not None


def test_killed_on_two_processes_and_resumed_on_one(place: Path, alone: Path) -> None:
    process = subprocess.Popen(
        [*launch(place, killed={"engine": {"tokens": 40}}), "stand still"], env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while not states(place / "killed.partial") and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.02)
    kill_all(process.pid)
    process.wait()
    assert not (place / "killed").exists(), "it finished before it could be killed"
    assert_same(run(place, "killed"), alone)


@pytest.mark.slow
def test_streamed_parquet_is_deterministic_and_reads_every_pair(place: Path) -> None:
    rows = json.loads((place / "pairs.json").read_text())
    table = Table(place / "shards", Preference)
    for at in range(0, len(rows), 16):
        part = []
        for prompt, chosen, rejected in rows[at : at + 16]:
            good = Response.of(chosen)
            part.append(Pair.of((user(prompt),), good, Response.of(rejected)).preferring(good.id))
        table.write(f"part-{at:03d}", part)
    window = {"window": 10}  # the 48 pairs do not fit: they come by parts of shards, at random
    on_two(place, "shards", streamed_two=window)
    assert_same(run(place, "streamed", "shards", **window), place / "streamed_two")
