"""A real Ray cluster of two nodes: workers and a node are killed while it works, and nothing but time is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from assay import store
from assay.curate.shards import Pool, create
from assay.engine import Here, engine_of, make
from assay.errors import AssayError
from assay.llm.outage import Unreached
from assay.records import Pair, Response, user
from assay.store import Place
from assay.turns import TRIES
from descendants import runs
from ports import free_port
from ray_nodes import KEYS, Nodes, described, fails, held, scored

pytest.importorskip("ray", reason="Ray is not installed: pip install 'assay-rm[ray]'")
from assay import ray_engine
from assay.ray_engine import Cluster

PARTS = 24


@pytest.mark.slow
def test_a_ray_of_its_own_writes_no_token_and_prints_nothing(pool: Pool, tmp_path: Path) -> None:
    """Where none runs, one is started on this machine. (The first test here: later ones start a cluster.)"""
    if ray_engine._current(pytest.importorskip("ray")):
        pytest.skip("a Ray cluster runs on this machine")
    make(Here(), Place.of(tmp_path / "alone"), described, items(pool, tmp_path / "n0", 0))
    (tmp_path / "home").mkdir()
    line = [sys.executable, "-c", CLIENT, "ray", str(tmp_path), str(pool.place)]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=180,
        env={**kept, "PYTHONPATH": path, "HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{os.cpu_count()}\n"
    assert done.stderr == ""
    assert not list((tmp_path / "home").rglob("*token*"))
    assert files(tmp_path / "out") == files(tmp_path / "alone")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return create(tmp_path_factory.mktemp("ray") / "pool", pairs(240), [], parts=PARTS)


def pairs(many: int) -> list[Pair]:
    asked = (f"Write {n % 7} short sentences about the number {n}, in lower case?" for n in range(many))
    return [Pair.of((user(q),), Response.of(f"yes {n}"), Response.of(f"no {n}")) for n, q in enumerate(asked)]


def wait_for(true: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def items(pool: Pool, notes: Path, seconds: float) -> dict[str, tuple[Place, str, str, float]]:
    notes.mkdir(parents=True, exist_ok=True)
    return {s.name: (pool.place, s.name, str(notes), seconds) for s in pool.shards}


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def attempts(notes: Path) -> dict[str, list[tuple[int, str]]]:
    """Who began each shard: (process, node)."""
    told = {f.name: [line.split() for line in f.read_text().splitlines()] for f in sorted(notes.iterdir())}
    return {name: [(int(pid), ip) for pid, ip in rows] for name, rows in told.items()}


class Killer:
    """Kills workers that have a shard in hand, and nodes; notes whom."""

    def __init__(self, nodes: Nodes, notes: Path, out: Path, seed: int) -> None:
        self.nodes, self.notes, self.out, self.chance = nodes, notes, out, random.Random(seed)
        self.pids: set[int] = set()
        self.ips: set[str] = set()

    def done(self) -> int:
        return len(list(self.out.glob("*.parquet"))) if self.out.exists() else 0

    def in_hand(self) -> list[tuple[int, str]]:
        began = attempts(self.notes)
        shards = {name: rows for name, rows in began.items() if rows and not name.startswith("model")}
        last = [(name, rows[-1]) for name, rows in shards.items() if len(rows) < TRIES - 1]  # the last try is let be
        return [
            who for name, who in last
            if not (self.out / f"{name}.parquet").exists() and who[0] not in self.pids and who[1] not in self.ips
        ]  # fmt: skip

    def worker(self) -> None:
        wait_for(self.in_hand)
        pid = self.chance.choice(self.in_hand())[0]
        self.pids.add(pid)
        os.kill(pid, signal.SIGKILL)

    def node(self) -> None:
        """Not the head: a cluster ends with it."""
        ip = self.chance.choice([ip for ip in self.nodes.running if ip != self.nodes.head])
        self.ips.add(ip)
        self.nodes.kill(ip)

    def assert_only_the_lost_were_repeated(self, pool: Pool) -> None:
        began = attempts(self.notes)
        assert {n for n in began if not n.startswith("model")} == {s.name for s in pool.shards}
        for name, rows in began.items():
            for pid, ip in rows[:-1]:
                assert pid in self.pids or ip in self.ips, f"{name} was begun again though its worker lived"


def test_a_worker_and_a_node_are_killed_and_nothing_else_is_repeated(
    cluster: Cluster, nodes: Nodes, pool: Pool, tmp_path: Path
) -> None:
    alone = make(Here(), Place.of(tmp_path / "alone"), described, items(pool, tmp_path / "n0", 0))
    killer = Killer(nodes, tmp_path / "notes", tmp_path / "out", 1)
    told: list[tuple[int, int]] = []
    work = items(pool, tmp_path / "notes", 0.4)

    held(str(tmp_path / "notes")).touch()

    def kill() -> None:
        try:
            wait_for(lambda: killer.done() >= 3)
            killer.worker()
            wait_for(lambda: any(ip != nodes.head for _, ip in killer.in_hand()))
            killer.node()
            nodes.add()
        finally:
            held(str(tmp_path / "notes")).unlink()

    thread = threading.Thread(target=kill)
    thread.start()
    made = make(cluster, Place.of(tmp_path / "out"), described, work, told=lambda *n: told.append(n))
    thread.join()
    assert made.keys() == alone.keys()
    assert files(tmp_path / "out") == files(tmp_path / "alone"), "byte for byte"
    assert told == [(n, PARTS) for n in range(1, PARTS + 1)]
    killer.assert_only_the_lost_were_repeated(pool)
    rows = attempts(tmp_path / "notes").values()
    assert sum(len(r) - 1 for r in rows) >= 1
    assert {ip for r in rows for _, ip in r} >= {nodes.head, *killer.ips}, "both nodes worked"


def test_each_actor_loads_the_model_once(cluster: Cluster, nodes: Nodes, pool: Pool, tmp_path: Path) -> None:
    make(Here(), Place.of(tmp_path / "alone"), scored, items(pool, tmp_path / "n0", 0))
    killer = Killer(nodes, tmp_path / "notes", tmp_path / "out", 2)
    work = items(pool, tmp_path / "notes", 0.1)

    held(str(tmp_path / "notes")).touch()

    def kill() -> None:
        try:
            wait_for(lambda: killer.done() >= 5)
            killer.worker()
        finally:
            held(str(tmp_path / "notes")).unlink()

    thread = threading.Thread(target=kill)
    thread.start()
    make(cluster, Place.of(tmp_path / "out"), scored, work, model=True)
    thread.join()
    assert files(tmp_path / "out") == files(tmp_path / "alone")
    killer.assert_only_the_lost_were_repeated(pool)
    began = attempts(tmp_path / "notes")
    loads = [rows for name, rows in began.items() if name.startswith("model")]
    assert [len(rows) for rows in loads] == [1] * len(loads)
    assert 2 <= len(loads) <= 3, "one for each node, and one in the place of the killed"
    scorers = {rows[-1][0] for name, rows in began.items() if not name.startswith("model")}
    assert scorers <= {rows[0][0] for rows in loads}


def test_errors_come_home_as_themselves(cluster: Cluster, pool: Pool, tmp_path: Path, capfd: Any) -> None:
    work = items(pool, tmp_path / "notes", 0)
    with pytest.raises(Unreached) as caught:
        make(cluster, Place.of(tmp_path / "out"), fails, work)
    assert caught.value.silent
    assert "Traceback" not in "".join(capfd.readouterr())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_engine, "edition", lambda: "other")
        with pytest.raises(AssayError, match="another edition of Assay"):
            list(cluster.map(abs, [1]))


def test_a_cluster_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once; Ray itself would try for minutes."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    for how in ("ray", f"ray://127.0.0.1:{free_port()}"):
        with pytest.raises(AssayError, match=r"no Ray cluster can be reached there \(ConnectionRefusedError"):
            engine_of(how)


def doomed(_: Any) -> Any:
    os._exit(7)


@pytest.mark.slow
def test_a_shard_that_kills_its_workers_is_named(cluster: Cluster, pool: Pool, tmp_path: Path) -> None:
    name, item = next(iter(items(pool, tmp_path / "notes", 0).items()))
    for model in (False, True):
        with pytest.raises(AssayError, match=rf"{name}\.parquet: its worker was lost 4 times"):
            make(cluster, Place.of(tmp_path / "out"), doomed, {name: item}, model=model)
        with pytest.raises(Unreached):
            make(cluster, Place.of(tmp_path / "out"), fails, {name: item}, model=model)


class Heard(Exception):
    """What a test raises to end a wait that would have no end."""


@pytest.mark.slow
@pytest.mark.parametrize("model", [False, True])
def test_work_that_no_node_can_do_is_said(
    cluster: Cluster, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: bool
) -> None:
    """It is waited for, as an autoscaler may bring a node; but not in silence."""

    def say(line: str) -> None:
        raise Heard(line)

    monkeypatch.setattr(ray_engine, "LOOK_S", 0.5)
    monkeypatch.setattr(cluster, "say", say)
    monkeypatch.setattr(cluster, "cpus", 64)
    monkeypatch.setattr(cluster, "_replica", lambda: {"GPU": 1, "CPU": 64})
    asked = "1 GPU and 64 CPUs" if model else "64 CPUs"
    has = "2 nodes, with at most 0 GPUs, 1 CPUs" if model else "2 nodes, with at most 1 CPUs"
    with pytest.raises(
        Heard, match=f"a shard takes {asked}, and this Ray cluster has {has}; it goes on when one joins"
    ):
        make(cluster, Place.of(tmp_path / "out"), described, items(pool, tmp_path / "notes", 0), model=model)


def test_a_wait_is_said_once_and_at_long_intervals(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(ray_engine, "LOOK_S", 0.2)
    monkeypatch.setattr(cluster, "say", told.append)
    pending = cluster.ray.remote(num_cpus=64)(free_port).remote()
    for _ in range(3):
        assert cluster._awaited([pending], {"CPU": 64}) == []
    assert len(told) == 1
    cluster._awaited([pending], {"CPU": 1})  # a node can do this, so it is only busy
    assert len(told) == 1
    cluster._awaited([pending], {"CPU": 64})
    assert len(told) == 2
    cluster._due -= ray_engine.AGAIN_S
    cluster._awaited([pending], {"CPU": 64})
    assert len(told) == 3


@pytest.mark.slow
@pytest.mark.parametrize("model", [False, True])
def test_ten_kills_at_random_moments_change_nothing(
    cluster: Cluster, nodes: Nodes, tmp_path: Path, model: bool
) -> None:
    """Seven workers and three nodes; a new node comes for each."""
    seed = 30 + model
    print(f"seed {seed}")
    many = create(tmp_path / "pool", pairs(1200), [], parts=120)
    stage = scored if model else described
    make(Here(), Place.of(tmp_path / "alone"), stage, items(many, tmp_path / "n0", 0))
    killer = Killer(nodes, tmp_path / "notes", tmp_path / "out", seed)
    victims = killer.chance.sample(["worker"] * 7 + ["node"] * 3, 10)

    def kill() -> None:
        for victim in victims:
            time.sleep(killer.chance.uniform(0, 5))
            if victim == "worker":
                killer.worker()
            else:
                wait_for(lambda: cluster.workers == 2)
                killer.node()
                nodes.add()

    thread = threading.Thread(target=kill)
    thread.start()
    make(cluster, Place.of(tmp_path / "out"), stage, items(many, tmp_path / "notes", 1.0), model=model)
    over = thread.is_alive()
    thread.join()
    assert not over, "the work ended before the last kill"
    assert files(tmp_path / "out") == files(tmp_path / "alone"), "byte for byte"
    killer.assert_only_the_lost_were_repeated(many)
    repeated = sum(len(r) - 1 for n, r in attempts(tmp_path / "notes").items() if not n.startswith("model"))
    print(f"{repeated} of {len(many.shards)} shards were begun again")
    assert 5 <= repeated <= 10


CLIENT = """
import sys
from pathlib import Path
from assay.curate.shards import Pool
from assay.engine import engine_of, make
from assay.store import Place
from test_ray import described, items
here = Path(sys.argv[2])
engine = engine_of(sys.argv[1])
make(engine, Place.of(here / "out"), described, items(Pool.open(sys.argv[3]), here / "notes", 0))
print(engine.workers)
engine.close()
"""


@pytest.mark.slow
def test_a_client_far_from_the_cluster(cluster: Cluster, nodes: Nodes, pool: Pool, tmp_path: Path) -> None:
    """`ray://`: the driver's side of Ray runs on the head."""
    make(Here(), Place.of(tmp_path / "alone"), described, items(pool, tmp_path / "n0", 0))
    line = [sys.executable, "-c", CLIENT, f"ray://{nodes.head}:{nodes.client}", str(tmp_path), str(pool.place)]
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n", "Ray prints nothing of its own"
    assert files(tmp_path / "out") == files(tmp_path / "alone")


@pytest.mark.slow
def test_a_pool_in_a_bucket(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are told the driver's endpoint; keys they have of their own."""
    pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
    from s3_server import S3

    server = S3("bucket")
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    store._remote.cache_clear()
    far = create("s3://bucket/pool", pairs(60), [], parts=4)
    engine = Cluster()
    notes = tmp_path / "notes"
    notes.mkdir()
    for name, stage in (("described", described), ("scored", scored)):
        out = Place.of("s3://bucket") / name
        work = {s.name: (far.place, s.name, str(notes), 0.0) for s in far.shards}
        made = make(engine, out, stage, work, model=stage is scored)
        make(Here(), Place.of(tmp_path / name), stage, work)
        for shard, file in made.items():
            with file.open() as held:
                assert bytes(held.read()) == (tmp_path / name / f"{shard}.parquet").read_bytes()
    store._remote.cache_clear()
    server.close()


LINGER = """
import sys
from assay.curate.shards import Pool
from assay.engine import engine_of, make
from assay.store import Place
from pathlib import Path
from ray_nodes import lingers
from test_ray import items
here = Path(sys.argv[1])
work = items(Pool.open(sys.argv[2]), here / "notes", 0)
try:
    make(engine_of("ray"), Place.of(here / "out"), lingers, work, model=sys.argv[3] == "True")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", [False, True])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_driver(
    cluster: Cluster, nodes: Nodes, pool: Pool, tmp_path: Path, how: signal.Signals, model: bool
) -> None:
    path = os.pathsep.join(p for p in sys.path if p)
    line = [sys.executable, "-c", LINGER, str(tmp_path), str(pool.place), str(model)]
    environment = {**os.environ, "PYTHONPATH": path, "RAY_ADDRESS": nodes.address}
    with subprocess.Popen(line, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True) as driver:
        notes = tmp_path / "notes"
        wait_for(lambda: notes.exists() and len(attempts(notes)) == 2)
        os.killpg(driver.pid, how)
        assert driver.wait(300) == (130 if how is signal.SIGINT else -how)
        assert driver.stderr is not None
        assert "Traceback" not in driver.stderr.read()
    pids = [rows[0][0] for rows in attempts(notes).values()]
    wait_for(lambda: not any(runs(pid) for pid in pids))
