"""A whole run on two nodes of a Ray cluster while workers and nodes are killed: the run of one process, byte for byte."""

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from small_job import small_config
from test_run_engines import pool_of

from assay.curate.verify import oracle
from assay.engine import engine_of
from assay.pipeline.job import run_job
from assay.turns import TRIES
from ray_nodes import QUIET, Nodes

pytest.importorskip("ray", reason="Ray is not installed: pip install 'assay-rm[ray]'")
from assay.ray_engine import Cluster

SEED = 40


def busy(nodes: Nodes) -> list[int]:
    """Processes that have a shard in hand: Ray names a worker by what it does, and the parent of each is of its node."""
    groups, found = {p.pid for p in nodes.running.values()}, []
    for at in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            pid, said = int(at.name), (at / "cmdline").read_bytes()
            parent = int((at / "stat").read_text().rpartition(")")[2].split()[1])
            if re.match(rb"ray::\S*perform", said) and os.getpgid(parent) in groups:
                found.append(pid)
    return sorted(found)


def tables(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


@pytest.mark.slow
def test_ten_kills_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven workers and three nodes, at random moments; a new node comes for each."""
    print(f"seed {SEED}")
    pool, truth = pool_of(tmp_path / "pool")
    run_job(tmp_path / "alone", small_config(), pool, people=oracle(truth))
    nodes, chance = Nodes(), random.Random(SEED)
    killed: list[str] = []
    over = threading.Event()
    for name, value in {**QUIET, "RAY_ADDRESS": nodes.address}.items():
        monkeypatch.setenv(name, value)
    engine = engine_of("ray")
    assert isinstance(engine, Cluster)

    def until(true: Callable[[], object]) -> bool:
        while not over.is_set():
            if true():
                return True
            time.sleep(0.02)
        return False

    hit = Counter[tuple[str, ...]]()

    def stage() -> tuple[str, ...]:
        """The tables that there are by now: a shard may be lost only so often, so no stage is hit more often than that."""
        run = tmp_path / "killed"  # not all below it: the states of trainings come and go
        return tuple(sorted(p.name for where in ("tables/*", "seed-0/tables/*") for p in run.glob(where)))

    def kill() -> None:
        for victim in chance.sample(["worker"] * 7 + ["node"] * 3, 10):
            over.wait(chance.uniform(1, 12))
            if victim == "worker" and until(lambda: hit[stage()] < TRIES - 1 and busy(nodes)):
                with suppress(ProcessLookupError, IndexError):
                    os.kill(chance.choice(busy(nodes)), signal.SIGKILL)
                    killed.append(victim)
                    hit[stage()] += 1
            elif victim == "node" and until(lambda: engine.workers == 2):
                nodes.kill(next(ip for ip in nodes.running if ip != nodes.head))
                nodes.add()
                killed.append(victim)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        run_job(tmp_path / "killed", small_config(), pool, people=oracle(truth), engine=engine)
    finally:
        over.set()
        thread.join()
        engine.close()
        nodes.stop()
    print(f"{len(killed)} kills: {', '.join(killed)}")
    assert killed.count("worker") >= 5
    assert killed.count("node") == 3
    alone, found = tables(tmp_path / "alone"), tables(tmp_path / "killed")
    assert found.keys() == alone.keys()
    assert [name for name, raw in found.items() if raw != alone[name]] == []
