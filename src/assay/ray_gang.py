"""Work that several processes of a Ray cluster do together: actors that are joined as one torch process group.

Each has a GPU, or its share of the cores; the first one's node is where they meet. They find one another as the processes of
`torchrun` do, by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. All of them end when one is lost, and with their driver.
"""

import os
import pickle
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from assay.errors import AssayError
from assay.ray_engine import LOOK_S, Cluster, Lost, edition, perform, pickled
from assay.turns import Failure

T = TypeVar("T")
PLACED_S = 600
"""So long a group waits for devices that others have in use."""
HEARD_S = 0.5
"""How often the driver asks what was said."""
SETTLED_S = 60.0
"""After an error in one process: so long until the cause is known, which may be that another one is lost."""
_SAID: deque[str] = deque()


def tell(line: str) -> None:
    """In a process of a group: say a line of progress. The driver hears the first process."""
    _SAID.append(line)


class Rank:
    """An actor: one process of a group."""

    def meet(self) -> bytes:
        """This node's address, and a port that is free there, pickled."""
        import ray

        address = str(ray.util.get_node_ip_address())
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
            return pickle.dumps((address, int(probe.getsockname()[1])))

    def said(self) -> list[str]:
        return [_SAID.popleft() for _ in range(len(_SAID))]

    def perform(self, of: str, where: str, call: bytes, environment: dict[str, str]) -> bytes:
        os.environ.update(environment)
        return perform(of, where, call)


def together(
    cluster: Cluster, work: Callable[[T], None], item: T, processes: int, say: Callable[[str], None] = lambda _: None
) -> None:
    """Do `work(item)` in so many processes at once. Both must be picklable; `say` hears what the first process `tell`s.

    Raises what `work` raises, Lost where a process or its node is lost, and AssayError where there are no devices.
    """
    actors, running = list[Any](), dict[Any, int]()
    with _devices(cluster, processes) as (group, each):
        try:
            actors += _started(cluster, group, each, processes)
            address, port = _met(cluster, [actor.meet.remote() for actor in actors])
            call = pickled(work, item)
            for rank, actor in enumerate(actors):
                # each sees one device, which is its first; torch takes the rest from the rank
                joined = {
                    "RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": address,
                    "MASTER_PORT": port,
                }  # fmt: skip
                environment = {name: str(value) for name, value in joined.items()}
                running[actor.perform.remote(edition(), str(Path.cwd()), call, environment)] = rank
            _watched(cluster, actors[0], dict(running), say)
        finally:
            with suppress(Exception):  # the cluster may be gone
                for actor in actors:
                    cluster.ray.kill(actor)
                if running:
                    cluster.ray.wait(list(running), num_returns=len(running), timeout=30)  # nobody writes any more


@contextmanager
def _devices(cluster: Cluster, processes: int) -> Iterator[tuple[Any, dict[str, float]]]:
    """A placement group, and what each process has of it: a GPU, or its cores."""
    each = cluster.share(processes)
    if not each:
        raise Lost(f"the cluster has no {processes} devices any more", node=True)
    group = cluster.ray.util.placement_group([each] * processes, strategy="PACK")
    try:
        _wait(cluster, processes, lambda: bool(group.wait(LOOK_S)))
        yield group, each
    finally:
        with suppress(Exception):
            cluster.ray.util.remove_placement_group(group)


def _started(cluster: Cluster, group: Any, each: dict[str, float], processes: int) -> list[Any]:
    options = cluster.options(num_cpus=each["CPU"], num_gpus=each.get("GPU", 0))
    kind = cluster.ray.remote(**options, max_restarts=0, max_task_retries=0, max_concurrency=2)(Rank)
    placed = cluster.ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
    places = [placed(group, placement_group_bundle_index=rank) for rank in range(processes)]
    return [kind.options(scheduling_strategy=place).remote() for place in places]


def _met(cluster: Cluster, coming: list[Any]) -> tuple[str, int]:
    """Where the processes meet, when all of them are there."""
    waiting = set(coming)

    def there() -> bool:
        waiting.difference_update(cluster.ended(list(waiting)))
        return not waiting

    _wait(cluster, len(coming), there)
    places = [cluster.result(ref) for ref in coming]
    address, port = places[0]
    return str(address), int(port)


def _wait(cluster: Cluster, processes: int, true: Callable[[], bool]) -> None:
    """Until something is so, which needs so many devices. Raises Lost where the cluster has them no more."""
    end = time.monotonic() + PLACED_S
    while not true():
        if not cluster.share(processes):
            raise Lost(f"the cluster has no {processes} devices any more", node=True)
        if time.monotonic() > end:
            raise AssayError(
                f"for {PLACED_S} s nobody let go of {processes} devices of this Ray cluster; try again later"
            )


def _watched(cluster: Cluster, first: Any, running: dict[Any, int], say: Callable[[str], None]) -> None:
    """See all processes to their end, and pass on what the first one says."""
    failed: list[Exception] = []
    until, heard = float("inf"), first.said.remote()
    while running and time.monotonic() < until:
        for ref in cluster.ended(list(running), HEARD_S):
            del running[ref]
            result = cluster.result(ref)
            if isinstance(result, Failure):
                if isinstance(result.error, AssayError):
                    _hear(cluster, heard, say)
                    raise result.error
                failed.append(result.error)
                until = min(until, time.monotonic() + SETTLED_S)
        if cluster.ended([heard], 0):
            _hear(cluster, heard, say)
            heard = first.said.remote()
    if failed:
        raise failed[0]
    _hear(cluster, heard, say)
    _hear(cluster, first.said.remote(), say)


def _hear(cluster: Cluster, heard: Any, say: Callable[[str], None]) -> None:
    with suppress(cluster.ray.exceptions.RayError):  # it is lost, which its work tells
        for line in cluster.ray.get(heard, timeout=HEARD_S * 20):
            say(line)
