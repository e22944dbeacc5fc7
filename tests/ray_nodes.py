"""A Ray cluster of several nodes on this machine, on loopback addresses of its own, and stages that tell who ran them."""

import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from assay.curate.rules import rule_attributes
from assay.curate.shards import Pool
from assay.engine import engine_of
from assay.ray_engine import Cluster
from assay.records import Attributes
from assay.store import Place
from assay.tables import to_arrow
from ports import free_port

WATCHED = """
"$@" &
while kill -0 $! 2>/dev/null && kill -0 {pid} 2>/dev/null; do sleep 1; done
kill -9 -- -$$
"""
"""A shell that ends a node with the process that started it, however that ended."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_memory_monitor_refresh_ms": "0"}
"""No node kills its workers because something else on this machine needs memory."""
KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
"""Credentials are the nodes' own."""


class Nodes:
    """`ray start` for each node, in a process group of its own: a node is killed as a whole, and ours alone are stopped."""

    def __init__(self, cpus: int = 1) -> None:
        self.cpus, self.folder = cpus, Path(tempfile.mkdtemp(prefix="ray"))  # short: Unix sockets lie in it
        self.net = f"127.{random.randrange(1, 250)}.{random.randrange(1, 250)}"
        self.head, self.port, self.client = f"{self.net}.2", free_port(), free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._next = 3
        self._start(
            self.head, "--head", f"--port={self.port}", f"--ray-client-server-port={self.client}",
            "--include-dashboard=false", f"--temp-dir={self.folder}",
        )  # fmt: skip
        self._wait_for_head()
        self.add()

    @property
    def address(self) -> str:
        return f"{self.head}:{self.port}"

    def add(self) -> str:
        ip, self._next = f"{self.net}.{self._next}", self._next + 1
        self._start(ip, f"--address={self.address}")
        return ip

    def kill(self, ip: str) -> None:
        process = self.running.pop(ip)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for ip in list(self.running):
            self.kill(ip)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, ip: str, *more: str) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        line = [
            "/bin/sh", "-c", WATCHED.format(pid=os.getpid()), "sh", ray, "start", "--block", f"--node-ip-address={ip}",
            f"--num-cpus={self.cpus}", "--object-store-memory=150000000", "--min-worker-port=0", "--max-worker-port=0",
            "--include-log-monitor=false", "--disable-usage-stats", *more,
        ]  # fmt: skip
        with (self.folder / f"{ip}.log").open("w") as log:
            self.running[ip] = subprocess.Popen(
                line, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **QUIET, **KEYS, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )  # fmt: skip

    def _wait_for_head(self) -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            assert self.running[self.head].poll() is None, (self.folder / f"{self.head}.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex((self.head, self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError(f"no head node at {self.address}")


@contextmanager
def joined(nodes: Nodes) -> Iterator[Cluster]:
    """The cluster, with this process as its driver."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "RAY_ADDRESS": nodes.address}.items():
            patch.setenv(name, value)
        engine = engine_of("ray")
        assert isinstance(engine, Cluster)
        yield engine
        engine.close()


def with_both(engine: Cluster, nodes: Nodes) -> Cluster:
    """The cluster when two nodes are there."""
    if len(nodes.running) < 2:
        nodes.add()
    end = time.monotonic() + 300
    while engine.workers != 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    return engine


def attempt(folder: str, shard: str) -> None:
    """Note down that this process begins a shard."""
    with (Path(folder) / shard).open("a") as file:
        file.write(f"{os.getpid()} {node()}\n")


def held(notes: str) -> Path:
    """A file that, as long as it is there, lets no more than the first ten that began go on: who is killed then is killed in
    the middle of the work, however late."""
    return Path(notes).with_name("held")


def go_on(notes: str) -> None:
    while held(notes).exists() and len(list(Path(notes).iterdir())) > 10:
        time.sleep(0.05)


def node() -> str:
    import ray

    return str(ray.util.get_node_ip_address()) if ray.is_initialized() else "here"


def described(item: tuple[Place, str, str, float]) -> pa.Table:
    """A real stage over one shard: the attributes of its pairs, by rules. It takes some time."""
    pool, shard, notes, seconds = item
    attempt(notes, shard)
    time.sleep(seconds)
    go_on(notes)
    return to_arrow(Attributes, map(rule_attributes, Pool.open(pool).table("pairs").read(shard)))  # type: ignore[arg-type]


@functools.cache
def model(notes: str) -> dict[str, float]:
    """What a process loads once."""
    attempt(notes, f"model-{os.getpid()}")
    return {"a": 1.0, "e": 0.5, "?": -2.0}


def scored(item: tuple[Place, str, str, float]) -> pa.Table:
    """A stage that holds a model: a score for each pair of a shard."""
    pool, shard, notes, seconds = item
    weights = model(notes)
    attempt(notes, shard)
    time.sleep(seconds)
    go_on(notes)
    rows = Pool.open(pool).table("pairs").read(shard)
    texts = [p.prompt[-1].content + p.responses[0].messages[-1].content for p in rows]  # type: ignore[attr-defined]
    return pa.table({
        "pair_id": [p.id for p in rows],  # type: ignore[attr-defined]
        "score": [sum(weights.get(c, 0.0) for c in text) for text in texts],
    })  # fmt: skip


def lingers(item: tuple[Place, str, str, float]) -> pa.Table:
    attempt(item[2], item[1])
    time.sleep(3_600)
    return pa.table({"never": [1]})


def fails(item: tuple[Place, str, str, float]) -> pa.Table:
    from assay.llm.outage import Loss, Unreached

    raise Unreached([Loss(model="judge", asked=3, problems=("http 503: busy",) * 3, silent=True)])
