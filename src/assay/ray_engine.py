"""Stages on a Ray cluster: Ray Core's tasks, and a fixed pool of actors where a stage holds a model.

Ray places work and finds out what was lost; the rest is as on one machine (`engine`). Tasks and results are names and paths:
no text goes through Ray's object store. Retries are ours, so that a shard that kills its workers is named and ends the run.
"""

import functools
import logging
import os
import pickle
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from assay.errors import AssayError, missing_extra
from assay.turns import Failure, Turns, answer

T = TypeVar("T")
R = TypeVar("R")
HELD = 2
"""So many tasks wait on the cluster for each that can run, so that no worker waits for the driver."""
LOOK_S = 5.0
"""How often the cluster is asked how large it is now."""
AGAIN_S = 600.0
"""How often it is said that no node can work: an autoscaler may be on its way to one, so that is no error."""
NODE_LOSS = 0.25
"""What a lost node takes from a shard's tries: it is seldom the shard's doing."""
PASSED_ON = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Environment variables that workers have from the driver. No secrets: Ray shows what it passes on."""
OBJECTS = 200_000_000
"""Bytes of the object store of a Ray that is started here: it holds names and paths."""


class Cluster:
    """A Ray cluster: the one at `address` ("ray://HOST:PORT"), or RAY_ADDRESS's, or the one that runs on this machine; else
    one is started on this machine for as long as this process lives.

    Args:
        address: Empty, or a Ray client's address.
        cpus: What one shard takes; 0: ASSAY_RAY_CPUS, or else 1.
        models: How many workers hold a model, where ASSAY_RAY_MODELS does not say; 0: one for each GPU, or without any for
            each node.

    The nodes must see the folders of the run under the same paths and have the same Assay (and pyarrow, polars, numpy)
    installed, with credentials of their own for object stores and judges. Raises AssayError where it cannot be reached.
    """

    def __init__(self, address: str = "", cpus: float = 0, models: int = 0) -> None:
        self.cpus, self.models = cpus or _number("ASSAY_RAY_CPUS", 1.0), int(_number("ASSAY_RAY_MODELS", models))
        self.ray, self._ours, self._passed = *_connected(address), {}
        if self._ours != "started":
            self._passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self.say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
        self._looked = self._due = 0.0
        self._nodes: list[dict[str, float]] = []
        if not self._fits():
            raise AssayError(
                f"no node of this Ray cluster has the {self.cpus:g} CPUs that a shard takes (ASSAY_RAY_CPUS)"
            )

    @property
    def workers(self) -> int:
        """How many shards the cluster, as it is now, can have in hand."""
        return max(1, self._fits())

    def _fits(self) -> int:
        return sum(int(n.get("CPU", 0) // self.cpus) for n in self._alive())

    def _alive(self) -> list[dict[str, float]]:
        """What each node has, at most LOOK_S ago."""
        if not self._nodes or time.monotonic() - self._looked > LOOK_S:
            self._nodes = [n["Resources"] for n in self.ray.nodes() if n["Alive"]]
            self._looked = time.monotonic()
        return self._nodes

    def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = False) -> Iterator[R]:
        hint = "Let each shard have more of a node (ASSAY_RAY_CPUS)"
        return (self._actors if model else self._tasks)(work, Turns[T, R](items, hint))

    @property
    def gpus(self) -> int:
        """Those that have a core beside them."""
        return sum(int(min(n.get("GPU", 0), n.get("CPU", 0))) for n in self._alive())

    @property
    def cores(self) -> int:
        return sum(int(n.get("CPU", 0)) for n in self._alive())

    def share(self, processes: int) -> dict[str, float]:
        """What each of so many processes takes that work together: a GPU, or as many cores as let all of them fit. {} where
        they do not."""
        if self.gpus:
            return {"GPU": 1, "CPU": 1} if processes <= self.gpus else {}
        cores = [int(n.get("CPU", 0)) for n in self._alive()]
        most = next((c for c in range(max([*cores, 1]), 0, -1) if sum(n // c for n in cores) >= processes), 0)
        return {"CPU": most} if most else {}

    def options(self, **resources: float) -> dict[str, Any]:
        """Of a task or an actor."""
        environment = {"runtime_env": {"env_vars": self._passed}} if self._passed else {}
        return {**resources, **environment}

    def _tasks(self, work: Callable[[T], R], turns: Turns[T, R]) -> Iterator[R]:
        """What is in hand when this ends early goes on until the driver lets go of the cluster: in Ray 2.60 a task that ends
        while it is cancelled aborts the driver ("Tried to complete task that was not pending")."""
        run = self.ray.remote(**self.options(num_cpus=self.cpus), max_retries=0)(perform)
        running: dict[Any, Any] = {}
        while True:
            while len(running) < HELD * self.workers and (task := turns.take()) is not None:
                running[run.remote(edition(), str(Path.cwd()), pickled(work, task.item))] = task
            if not running:
                return
            for ref in self._awaited(list(running), {"CPU": self.cpus}):
                self._collect(ref, running.pop(ref), turns)
            yield from turns.ready()

    def _actors(self, work: Callable[[T], R], turns: Turns[T, R]) -> Iterator[R]:
        each = self._replica()
        holder = self.ray.remote(
            **self.options(num_cpus=each["CPU"], num_gpus=each.get("GPU", 0)), max_restarts=0, max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(Holder)  # fmt: skip
        crew: list[Any] = []
        idle: list[Any] = []
        running: dict[Any, tuple[Any, Any]] = {}  # (actor, its task; None while it starts)
        failed = 0
        try:
            while True:
                while idle and (task := turns.take()) is not None:
                    actor = idle.pop()
                    running[actor.perform.remote(edition(), str(Path.cwd()), pickled(work, task.item))] = (actor, task)
                if not any(task is not None for _, task in running.values()):
                    if (task := turns.take()) is None:
                        return
                    turns.again.appendleft(task)
                while len(crew) < self._replicas(each):
                    crew.append(holder.remote())
                    running[crew[-1].ready.remote()] = (crew[-1], None)
                for ref in self._awaited(list(running), each):
                    actor, task = running.pop(ref)
                    lives = self._started(ref, failed) if task is None else self._collect(ref, task, turns)
                    if lives:
                        idle.append(actor)
                    else:
                        crew.remove(actor)
                        self.ray.kill(actor)
                    failed = 0 if lives else failed + (task is None)
                yield from turns.ready()
        finally:
            for actor in crew:
                self.ray.kill(actor)

    def _replica(self) -> dict[str, float]:
        """What a worker that holds a model takes: a GPU, or a node's cores."""
        cores = [int(n["CPU"]) for n in self._alive() if n.get("CPU", 0) >= 1] or [1]
        if any(n.get("GPU", 0) for n in self._alive()):
            return {"GPU": 1, "CPU": 1}
        return {"CPU": max(1, min([*cores, sum(cores) // self.models])) if self.models else min(cores)}

    def _replicas(self, each: dict[str, float]) -> int:
        """How many such workers there are to be, as the cluster is now."""
        fit = sum(int(min(n.get(name, 0) // much for name, much in each.items())) for n in self._alive())
        return max(1, min(fit, self.models or fit))

    def _awaited(self, refs: list[Any], each: Mapping[str, float]) -> list[Any]:
        """`ended`; where nothing is and no node has what `each` of them takes, that is said, once and at long intervals."""
        ended = self.ended(refs)
        what = "" if ended else lacking(each, self._alive())
        if not what:
            self._due = 0.0
        elif time.monotonic() >= self._due:
            self.say(what)
            self._due = time.monotonic() + AGAIN_S
        return ended

    def ended(self, refs: list[Any], seconds: float | None = None) -> list[Any]:
        """Those that are over, after so long at most (default: LOOK_S)."""
        try:
            ended, rest = self.ray.wait(refs, num_returns=1, timeout=LOOK_S if seconds is None else seconds)
            if ended and rest:
                ended = [*ended, *self.ray.wait(rest, num_returns=len(rest), timeout=0)[0]]
            return list(ended)
        except (ConnectionError, self.ray.exceptions.RayError) as error:
            raise _gone(error) from None

    def _collect(self, ref: Any, task: Any, turns: Turns[Any, Any]) -> bool:
        """Take a result. False where the worker was lost."""
        try:
            result = self.result(ref)
        except Lost as loss:
            turns.lost(task, str(loss), NODE_LOSS if loss.node else 1.0)
            return False
        turns.done(task, result)
        return True

    def result(self, ref: Any) -> Any:
        """What a call of `perform` gave, or the Failure. Raises Lost where its worker was lost, AssayError where its node
        cannot work."""
        error = self.ray.exceptions
        try:
            return pickle.loads(self.ray.get(ref))
        except error.RayTaskError as failure:  # what `work` raises is a result: this is what comes before it
            raise AssayError(
                "a node of this Ray cluster cannot run Assay: install it there, the same version with the same libraries "
                f"({_line(failure.cause if hasattr(failure, 'cause') else failure)})"
            ) from None
        except (error.LocalRayletDiedError, ConnectionError) as failure:
            raise _gone(failure) from None
        except error.RuntimeEnvSetupError as failure:
            raise AssayError(f"a node of this Ray cluster cannot set up its environment ({_line(failure)})") from None
        except error.RayError as loss:
            node = isinstance(loss, error.NodeDiedError) or "its node has died" in str(loss)
            actor = isinstance(loss, error.RayActorError)
            raise Lost(str(loss).strip().splitlines()[-1][:200] if actor else _line(loss), node) from None

    def _started(self, ref: Any, failed: int) -> bool:
        """Whether a worker that is to hold a model lives. Raises AssayError where one after another does not."""
        try:
            self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            if failed >= 2 * len(self._alive()) + 2:
                raise AssayError(f"no worker can be started on this Ray cluster ({_line(error)})") from None
            return False
        return True

    def close(self) -> None:
        if self._ours:
            self.ray.shutdown()
            self._ours = ""


def lacking(each: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    """What to say of work that takes `each` of its resources of one node, where none of the nodes has so much; "" where one
    has, even if others use it now."""
    if any(all(n.get(name, 0) >= much for name, much in each.items()) for n in nodes):
        return ""
    asked = " and ".join(f"{much:g} {name}{'s' * (much != 1)}" for name, much in each.items())
    has = ", ".join(f"{max(n.get(name, 0) for n in nodes):g} {name}s" for name in each) if nodes else ""
    there = f"has {len(nodes)} node{'s' * (len(nodes) != 1)}, with at most {has}" if nodes else "has no node"
    return (
        f"waiting for a node that can work: a shard takes {asked}, and this Ray cluster {there}; it goes on when one "
        "joins, and Ctrl-C loses nothing that is done"
    )


class Lost(Exception):
    """A worker is gone, and with it what it had in hand; `node`: its whole node is."""

    def __init__(self, why: str, node: bool = False) -> None:
        super().__init__(why)
        self.node = node


class Holder:
    """An actor: a process that keeps what `work` loaded."""

    def ready(self) -> None:
        return

    def perform(self, of: str, where: str, call: bytes) -> bytes:
        return perform(of, where, call)


def perform(of: str, where: str, call: bytes) -> bytes:
    """On a node: the pickled result of a pickled call, in the driver's folder where the node has it. `of` is the driver's
    edition."""
    if of != edition():
        return pickle.dumps(Failure(AssayError(
            f"{os.uname().nodename}: this node has another edition of Assay or its libraries, so its results could differ: "
            f"{Path(__file__).parent}, {edition().partition(' ')[2]}; install the same on all nodes"
        )))  # fmt: skip
    if Path(where).is_dir():
        os.chdir(where)
    return answer(call)


@functools.cache
def edition() -> str:
    """A digest of this Assay's code and of the libraries that write its files."""
    told = blake2b(digest_size=16)
    for file in sorted(Path(__file__).parent.rglob("*")):
        if file.suffix in {".py", ".cpp", ".h", ".md"}:
            told.update(f"{file.relative_to(Path(__file__).parent)}\n".encode() + file.read_bytes())
    return f"{told.hexdigest()} " + " ".join(f"{n} {version(n)}" for n in ("pyarrow", "polars", "numpy"))


def pickled(work: Callable[[T], R], item: T) -> bytes:
    """A call for `answer`: by plain pickle, so that `work` is a function that nodes can import."""
    return pickle.dumps((work, item))


def _connected(address: str) -> tuple[Any, str]:
    """Ray, and "" (it was connected before), "joined" or "started"."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray") from error
    if ray.is_initialized():
        return ray, ""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    asked = address or os.environ.get("RAY_ADDRESS", "")
    found = asked if asked not in ("", "auto", "local") else "" if asked == "local" else _current(ray)
    _quiet_stdout(ray)
    try:
        if found:
            _knock(found)
            ray.init(address=found, **quiet)
            return ray, "joined"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one into the home folder
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECTS, **quiet)
        return ray, "started"
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = f"{found}: no Ray cluster can be reached there" if found else "Ray cannot be started on this machine"
        raise AssayError(f"{what} ({_line(error)})") from None


def _current(ray: Any) -> str:
    """The address of the cluster that runs on this machine; empty where none does. Raises AssayError where several do."""
    services = ray._private.services
    last = services.find_bootstrap_address(None)  # of the last `ray start`, which may be long gone
    if last:
        with suppress(OSError):
            _knock(last)
            return str(last)
    running = sorted(services.find_gcs_addresses())
    if len(running) > 1:
        raise AssayError(f"several Ray clusters run on this machine: name one (RAY_ADDRESS={' or '.join(running)})")
    return running[0] if running else ""


def _knock(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _quiet_stdout(ray: Any) -> None:
    """Ray prints what nodes report on this process's stdout, where a command's result goes."""
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def _gone(error: Exception) -> AssayError:
    return AssayError(
        f"the Ray cluster is gone ({_line(error)}); what is done is kept: the same command goes on with another"
    )


def _line(error: object) -> str:
    """The first line that says something of a long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        value = -1.0
    if value < 0 or (text and value == 0):
        raise AssayError(f"{name}={text}: give a number above 0")
    return value
