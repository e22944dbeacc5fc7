"""One training on a view, in this process or on two that it starts: the same model; their errors are ours, and they end with
this process, however it ends."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny_models
from assay.errors import AssayError
from assay.records import Pair, Preference, Response, user
from assay.reward.config import EngineConfig, TrainConfig
from assay.reward.launch import check_processes, how_many, train_view, write_view
from assay.reward.train import Trained
from assay.run import jsonable
from assay.step import states
from descendants import below, gone

CODE = """
import json, sys
from pathlib import Path
from assay.reward.config import TrainConfig
from assay.reward.launch import train_view
from assay.tables import build
folder, config, view, gold, processes = sys.argv[1:]
config = build(TrainConfig, json.loads(config))
train_view(Path(folder), config, Path(view), Path(gold), processes=int(processes), say=print)
"""


CREW = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
import torch.distributed as dist
from assay.reward.config import TrainConfig
from assay.engine import Here
from assay.pipeline.training import OnDevices
from assay.reward.crew import attend, dismiss
from assay.reward.launch import train_view
from assay.tables import build
from test_launch import process, wrong
folder, config, view, gold = sys.argv[1:5]
if not attend():
    sys.exit(print("rank", os.environ["RANK"], "trained along; in a group:", dist.is_initialized()))
config = build(TrainConfig, json.loads(config))
for name in ("first", "second"):
    train_view(Path(folder) / name, config, Path(view), Path(gold), say=print)
    print(name, list(OnDevices(Here(), 1).map(process, range(-1, -20, -1), model=True)))
try:
    list(OnDevices(Here(), 1).map(wrong, [4, "five", 6], model=True))
except TypeError as error:
    print("its error is ours:", error)
dismiss()
print("the job is done; in a group:", dist.is_initialized())
"""


def process(n: int) -> tuple[int, int]:
    return abs(n), int(os.environ["RANK"])


def wrong(n: int) -> int:
    return abs(n)


def preferences(n: int, start: int = 0) -> list[Preference]:
    made = []
    for i in range(start, start + n):
        good = Response.of(f"thanks {i} " * (1 + i % 5))
        made.append(Pair.of((user(f"item {i}"),), good, Response.of(f"go away {i}")).preferring(good.id))
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A view of 41 pairs (five steps of eight and one of one pair, fewer than processes), and one of gold."""
    folder = tmp_path_factory.mktemp("launch")
    tiny_models.reward(folder / "backbone")
    write_view(folder / "view", preferences(41))
    write_view(folder / "gold", preferences(7, start=100))
    return folder


@pytest.fixture(scope="module")
def config(place: Path) -> TrainConfig:
    return TrainConfig(
        backbone=str(place / "backbone"), batch_pairs=8, lr=1e-3, checks=3, max_tokens=64,
        engine=EngineConfig(tokens=200),
    )  # fmt: skip


def fit(place: Path, name: str, config: TrainConfig, processes: int, say: Callable[[str], None] = print) -> Trained:
    return train_view(place / name, config, place / "view", place / "gold", processes=processes, say=say)


@pytest.fixture(scope="module")
def alone(place: Path, config: TrainConfig) -> Trained:
    return fit(place, "alone", config, 1)


def assert_same(one: Trained, other: Trained, steps: int = 6) -> None:
    losses = [[json.loads(x)["loss"] for x in (t.folder / "metrics.jsonl").open()] for t in (one, other)]
    assert len(losses[0]) == steps
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    a, b = (load_file(t.folder / "model.safetensors") for t in (one, other))
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], atol=2e-4, rtol=0)
    assert (one.pairs, one.steps, one.presented, one.gold_accuracy, one.tokens) == (
        other.pairs, other.steps, other.presented, other.gold_accuracy, other.tokens,
    )  # fmt: skip


def test_two_processes_give_the_model_of_one(place: Path, config: TrainConfig, alone: Trained) -> None:
    said: list[str] = []
    two = fit(place, "two", config, 2, said.append)
    assert_same(two, alone)
    assert "two: 2 processes on cpu (DDP)" in said
    assert any(line.startswith("two: step 6/6  loss") for line in said), "their progress is told here"
    said.clear()
    assert fit(place, "two", config, 2, said.append) == two
    assert fit(place, "two", config, 1, said.append) == two
    assert not said, "what is finished starts no process"
    with pytest.raises(AssayError, match=r"two holds a training with other inputs \(config.lr: 0.001 -> 9\)"):
        fit(place, "two", replace(config, lr=9), 2)


@pytest.mark.slow
def test_two_sharded_processes_give_the_model_of_one(place: Path, config: TrainConfig, alone: Trained) -> None:
    said: list[str] = []
    assert_same(fit(place, "sharded", replace(config, engine=EngineConfig(shard=True)), 2, said.append), alone)
    assert "sharded: 2 processes on cpu (FSDP2)" in said


@pytest.mark.slow
def test_an_allocation_trains_together_whenever_its_first_process_trains(
    place: Path, config: TrainConfig, alone: Trained
) -> None:
    """Two processes of torchrun in a job that trains twice and has a stage after each: the second one waits, trains along,
    and does its share of the stage."""
    (place / "crew.py").write_text(CREW)
    told = [str(place / "crew"), json.dumps(jsonable(config)), str(place / "view"), str(place / "gold")]
    many = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    command = [sys.executable, *many, str(place / "crew.py"), *told]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_200, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rank 1 trained along; in a group: False" in done.stdout
    assert "the job is done; in a group: False" in done.stdout
    assert "its error is ours: bad operand type for abs(): 'str'" in done.stdout
    for name in ("first", "second"):
        assert f"{name}: 2 processes on cpu (DDP)" in done.stdout
        assert f"{name} {[(n, 1 - n % 2) for n in range(1, 20)]}" in done.stdout, "in order, by both in turn"
        told_of = json.loads((place / "crew" / name / "training.json").read_text())
        del told_of["identity"], told_of["machines"]
        assert_same(Trained(**told_of, folder=place / "crew" / name), alone)


def test_what_is_wrong_in_a_process_is_raised_here(place: Path, config: TrainConfig) -> None:
    with pytest.raises(AssayError, match="unknown tracker 'nonsense'"):  # the first process alone meets it
        train_view(place / "wrong", config, place / "view", [], processes=2, trackers=["nonsense"])


def test_pairs_in_memory_are_trained_on_as_a_view_of_them(place: Path, config: TrainConfig, alone: Trained) -> None:
    again = train_view(alone.folder, config, preferences(41)[::-1], preferences(7, start=100), processes=2)
    assert again == alone, "the same training: nothing is trained anew"
    with pytest.raises(AssayError, match="no pairs to train on"):
        train_view(place / "none", config, [], [])
    with pytest.raises(AssayError, match="no Parquet preferences here to choose the checkpoint by"):
        train_view(place / "none", config, place / "view", place / "backbone")


def started(place: Path, name: str, config: TrainConfig, processes: int = 2) -> "subprocess.Popen[bytes]":
    """A process that trains (on two others, as a rule), when a new state has been saved."""
    arguments = [
        str(place / name),
        json.dumps(jsonable(config)),
        str(place / "view"),
        str(place / "gold"),
        str(processes),
    ]
    before = states(place / f"{name}.partial")[-1:]
    process = subprocess.Popen([sys.executable, "-c", CODE, *arguments], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while states(place / f"{name}.partial")[-1:] in ([], before):
        assert process.poll() is None, "it ended before its first state"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [
    signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, marks=pytest.mark.slow),
])  # fmt: skip
def test_the_processes_end_with_the_one_that_started_them(
    place: Path, config: TrainConfig, number: signal.Signals
) -> None:
    process = started(place, number.name, replace(config, save_minutes=0, epochs=10_000))
    children = below(process.pid)
    assert len(children) >= 3, "torchrun and two processes"
    os.kill(process.pid, number)
    process.wait(300)
    assert gone(children, 300), "none goes on writing into the folder"
    assert process.returncode in (-number, 1), "a KeyboardInterrupt is 1 where nobody catches it"
    (state,) = states(place / f"{number.name}.partial")[-1:]
    assert int(state.name.rpartition("-")[2]) >= 1


@pytest.mark.slow
def test_killed_again_and_again_on_one_and_two_processes_it_ends_the_same(place: Path, config: TrainConfig) -> None:
    """Kill -9 at random instants; a state at each of many checks."""
    often = replace(config, epochs=20, checks=60, save_minutes=0)
    whole = fit(place, "whole", often, 1)
    rng, processes = random.Random(0), 2
    for _ in range(6):
        process = started(place, "often", often, processes)
        time.sleep(rng.random())
        process.kill()
        process.wait()
        assert not (place / "often").exists(), "it finished before it could be killed"
        processes = 3 - processes
    said: list[str] = []
    again = fit(place, "often", often, 2, said.append)
    assert any("resumed at step" in line for line in said)
    assert_same(again, whole, steps=103)


def test_processes_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_processes(3) == how_many(0) == 1
    with pytest.raises(AssayError, match="give 1 or more"):
        check_processes(0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert check_processes(2) == 1
    assert how_many(0) == 2, "one for each device"
    with pytest.raises(AssayError, match="this machine has 2 devices, and a process needs its own"):
        check_processes(3)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert check_processes(1) == check_processes(4) == how_many(0) == 4, "it trains with the processes that are there"
    with pytest.raises(AssayError, match=r"torchrun .* has started 4 processes already"):
        check_processes(2)
