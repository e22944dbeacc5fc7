"""One training on the two nodes of a real Ray cluster: the model of one process, also where an actor or a node is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_launch import assert_same, preferences

import tiny_models
from assay.errors import AssayError
from assay.reward import launch
from assay.reward.config import EngineConfig, TrainConfig
from assay.reward.launch import cluster_of, how_many, train_view, write_view
from assay.reward.train import Trained
from assay.run import jsonable
from assay.step import states
from descendants import below, gone
from ray_nodes import Nodes

pytest.importorskip("ray", reason="Ray is not installed: pip install 'assay-rm[ray]'")
from assay.ray_engine import Cluster


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray-training")
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


def fit(place: Path, name: str, config: TrainConfig, said: list[str], cluster: Cluster | None = None) -> Trained:
    return train_view(
        place / name, config, place / "view", place / "gold", processes=1 if cluster is None else 2, say=said.append,
        cluster=cluster,
    )  # fmt: skip


def test_two_nodes_give_the_model_of_one_process(cluster: Cluster, place: Path, config: TrainConfig) -> None:
    said: list[str] = []
    two = fit(place, "two", config, said, cluster)
    assert_same(two, fit(place, "one", config, []))
    assert "two: 2 processes on cpu (DDP)" in said
    assert any(line.startswith("two: step 6/6  right on gold: ") for line in said), "their progress is told here"
    assert not (place / "two.job").exists()
    said.clear()
    assert fit(place, "two", config, said, cluster) == two
    assert not said, "what is finished starts nothing"


def test_what_is_wrong_in_an_actor_is_raised_here(cluster: Cluster, place: Path, config: TrainConfig) -> None:
    with pytest.raises(AssayError, match="unknown tracker 'nonsense'"):
        train_view(place / "wrong", config, preferences(8), [], processes=2, trackers=["nonsense"], cluster=cluster)
    assert how_many(2, cluster) == 2
    assert cluster_of(cluster, 2) is cluster
    assert how_many(0, cluster) == 1
    assert cluster_of(cluster, 1) is None, "without GPUs a single process is this one"
    with pytest.raises(AssayError, match="--processes 3: this Ray cluster has 2 CPUs, and a process needs its own"):
        how_many(3, cluster)


def actors(nodes: Nodes, ip: str) -> set[int]:
    """The training processes of a node."""
    found = set()
    for pid in below(nodes.running[ip].pid):
        try:
            if b"ray::Rank" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
        except OSError:
            continue
    return found


class Cut:
    """Hears of a training, and does something when it has been told of so many checks."""

    def __init__(self, checks: int, act: object) -> None:
        self.said, self.left, self.act = list[str](), checks, act

    def __call__(self, line: str) -> None:
        self.said.append(line)
        if "right on gold: " in line:
            self.left -= 1
            if self.left == 0:
                self.act()  # type: ignore[operator]


@pytest.mark.slow
def test_what_is_lost_goes_on_from_what_was_saved(
    cluster: Cluster, nodes: Nodes, place: Path, config: TrainConfig
) -> None:
    """First an actor is killed, then a node in whose place another one comes."""
    often = replace(config, epochs=20, checks=60, save_minutes=0)
    whole = fit(place, "whole", often, [])

    def kill_actor() -> None:
        (pid,) = actors(nodes, nodes.head)
        os.kill(pid, signal.SIGKILL)

    def kill_node() -> None:
        (other,) = [ip for ip in nodes.running if ip != nodes.head]
        nodes.kill(other)
        nodes.add()

    for name, act in {"actor": kill_actor, "node": kill_node}.items():
        heard = Cut(20, act)
        again = train_view(place / name, often, place / "view", place / "gold", processes=2, say=heard, cluster=cluster)
        assert heard.left <= 0, "nothing was killed"
        assert_same(again, whole, steps=103)
        assert any("a process was lost" in line for line in heard.said)
        resumed = [line for line in heard.said if line.startswith(f"{name}: resumed at step")]
        assert len(resumed) == 1, "it was begun again once, and not from the start"
        assert heard.said.count(f"{name}: 2 processes on cpu (DDP)") == 2


@pytest.mark.slow
def test_fewer_devices_train_on(
    cluster: Cluster, nodes: Nodes, place: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "ROOM_S", 5.0)
    often = replace(config, epochs=20, checks=60, save_minutes=0)
    (other,) = [ip for ip in nodes.running if ip != nodes.head]
    heard = Cut(20, lambda: nodes.kill(other))
    fewer = train_view(place / "fewer", often, place / "view", place / "gold", processes=2, say=heard, cluster=cluster)
    assert heard.left <= 0, "nothing was killed"
    assert "the cluster has devices for 1 of 2 processes: training on 1" in heard.said
    assert any(line.startswith("fewer: resumed at step") for line in heard.said)
    assert_same(fewer, fit(place, "whole", often, []), steps=103)


DRIVER = """
import json, sys
from pathlib import Path
from assay.engine import engine_of
from assay.reward.config import TrainConfig
from assay.reward.launch import train_view
from assay.tables import build
folder, config, view, engine = sys.argv[1:]
config = build(TrainConfig, json.loads(config))
try:
    train_view(Path(folder), config, Path(view), [], processes=2, say=print, cluster=engine_of(engine))
except KeyboardInterrupt:
    sys.exit(130)
"""


def driver(place: Path, name: str, config: TrainConfig, engine: str, address: str) -> "subprocess.Popen[str]":
    told = [str(place / name), json.dumps(jsonable(config)), str(place / "view"), engine]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "RAY_ADDRESS": address}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *told], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_actors_end_with_their_driver(
    cluster: Cluster, nodes: Nodes, place: Path, config: TrainConfig, how: signal.Signals
) -> None:
    with driver(place, how.name, replace(config, epochs=400, save_minutes=0), "ray", nodes.address) as process:
        end = time.monotonic() + 120
        while not states(place / f"{how.name}.partial"):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        pids = set().union(*(actors(nodes, ip) for ip in nodes.running))
        assert len(pids) == 2
        os.killpg(process.pid, how)
        assert process.wait(300) == (130 if how is signal.SIGINT else -how)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert gone(pids, 300)


@pytest.mark.slow
def test_from_a_client_far_from_the_cluster(cluster: Cluster, nodes: Nodes, place: Path, config: TrainConfig) -> None:
    with driver(place, "far", config, f"ray://{nodes.head}:{nodes.client}", nodes.address) as process:
        out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "far: 2 processes on cpu (DDP)" in out
    assert (place / "far" / "training.json").exists()
