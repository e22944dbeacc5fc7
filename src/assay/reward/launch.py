"""Training on a view: in this process, or on several (`--processes N`), one for each device.

    train_view --+-- one process: the trainer itself
                 +-- Spawned a job file --> python -m assay.reward.worker JOB (torchrun) --> N processes of this machine
                 +-- OnRay   N actors of a Ray cluster (`ray_gang`)                          of the same trainer

A view is a folder of Parquet preferences. The processes end with this one, however it ends; what they had saved is resumed
by the same call, on any number of processes. Their progress is told here, and what was wrong is raised here.

A process that was itself started by `torchrun` or `accelerate launch` (WORLD_SIZE is set) starts no others: it trains
together with its siblings, all of which must make the same call, or wait for it (`assay.reward.crew`).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import IO, Any

from assay import devices, ray_gang
from assay.engine import Engine
from assay.errors import AssayError
from assay.identity import Training
from assay.locks import alone
from assay.ray_engine import Cluster, Lost
from assay.records import Preference
from assay.reward import crew
from assay.reward.config import TrainConfig
from assay.reward.data import ParquetPairs
from assay.reward.scorer import forget
from assay.reward.train import HOLDS, Trained, identity_of, train
from assay.reward.worker import on_ray
from assay.run import jsonable
from assay.step import states
from assay.store import Place
from assay.tables import Table, sibling, write_text
from assay.turns import TRIES

SHARD = 16_384
"""Pairs in a shard of a view that is written here."""
ROOM_S = 120.0
"""So long a training waits for a Ray cluster to replace a node that it lost."""


def train_view(
    folder: Path, config: TrainConfig, view: Path | Place | Sequence[Preference], gold: Path | Sequence[Preference], *,
    processes: int = 1, say: Callable[[str], None] = lambda _: None, trackers: Sequence[str] = (),
    identity: dict[str, Any] | None = None, cluster: Cluster | None = None,
) -> Trained:  # fmt: skip
    """Train on the pairs of a folder of Parquet preferences; returns at once when `folder` holds that training.

    Args:
        folder: Of the model; see `assay.reward.train` for what else is there, and for what is refused.
        config: The settings; those of `engine` hold on several processes too (`engine.shard`: FSDP2).
        view: The pairs; given as records, they are written as a view first, so that the model is the same either way.
        gold: Pairs that choose the checkpoint, or a folder of them.
        processes: On how many processes; it changes rounding only, and may change when a training goes on.
        say: Takes a line of progress.
        trackers: Names ("tensorboard", "wandb", ...: `assay.trackers`).
        identity: What the training is (`identity_of`), where the caller has it already.
        cluster: Where the processes run; None: on this machine. All nodes must see `folder` and the view.

    Raises AssayError for what `train` refuses, for more processes than devices, and where a process dies (on Ray: where
    that happens again and again).
    """
    world = check_processes(processes, cluster)
    if world > 1:
        same = {"folder": folder, "config": config, "view": view, "gold": gold, "trackers": tuple(trackers)}
        crew.call({**same, "identity": identity})
    here = world > 1 or (processes == 1 and cluster is None)
    start: Spawned | OnRay = Spawned() if here or cluster is None else OnRay(cluster)
    with start.place(folder) as place:
        if isinstance(view, Sequence):
            if not view:
                raise AssayError(f"{folder}: no pairs to train on; see the labels' reasons for why all were dropped")
            view = write_view(place / "view", view)
        chosen = Table(gold, Preference).read() if isinstance(gold, Path) else gold
        if isinstance(gold, Path) and not chosen:
            raise AssayError(f"{gold}: no Parquet preferences here to choose the checkpoint by")
        forget()  # scorers hold memory of the device
        pairs = ParquetPairs(view)
        if here:
            return train(folder, config, pairs, chosen, say, trackers, identity)
        identity = identity or identity_of(config, pairs, chosen)
        done = Training(folder, identity, HOLDS)
        if done.finished() is None:
            if chosen:
                Table(place / "gold", Preference).write("gold", chosen)
            start({
                "folder": str(folder.absolute()), "config": jsonable(config), "view": str(Place.of(view)),
                "trackers": list(trackers), "gold": len(chosen), "identity": identity, "parent": os.getpid(),
                "processes": processes, "place": str(place),
            }, say)  # fmt: skip
        found = done.finished()
        assert found is not None, "the processes ended well, and left no model"
        return Trained(**found, folder=folder)


def check_processes(processes: int, cluster: Cluster | None = None) -> int:
    """Raise AssayError where a training cannot have so many processes: of this machine, or of a Ray cluster, whose devices
    may come and go. Returns how many this process is one of already."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if processes < 1:
        raise AssayError(f"--processes {processes}: give 1 or more")
    if world > 1 and processes not in (1, world):
        raise AssayError(
            f"--processes {processes}, but torchrun (or accelerate launch) has started {world} processes already, which "
            f"train together: leave --processes out, or start one process without it"
        )
    if world == 1 and cluster is None and processes > (found := devices.count() or processes):
        raise AssayError(f"--processes {processes}: this machine has {found} devices, and a process needs its own")
    return world


def how_many(processes: int, engine: Engine | None = None) -> int:
    """The processes of a run's trainings: as many as are asked for; 0 stands for one for each accelerator there is, of the
    engine's cluster or of this machine, or one without any. Raises as `check_processes` does, and for more than a cluster
    has devices now: later they may come and go."""
    cluster, world = engine if isinstance(engine, Cluster) else None, int(os.environ.get("WORLD_SIZE", "1"))
    if not processes:
        processes = max(1, world if world > 1 else devices.count() if cluster is None else cluster.gpus)
    if check_processes(processes, cluster) == 1 and cluster is not None and not cluster.share(processes):
        has = f"{cluster.gpus} GPUs" if cluster.gpus else f"{cluster.cores} CPUs"
        raise AssayError(f"--processes {processes}: this Ray cluster has {has}, and a process needs its own")
    return processes


def cluster_of(engine: Engine, processes: int) -> Cluster | None:
    """The Ray cluster on which so many processes train; None: this machine. A single one is an actor only for a GPU."""
    return engine if isinstance(engine, Cluster) and (processes > 1 or engine.gpus) else None


def write_view(folder: Path, pairs: Iterable[Preference]) -> Path:
    """Write pairs as a folder of Parquet preferences."""
    table, rest = Table(folder, Preference), iter(pairs)
    for number in count():
        part = list(islice(rest, SHARD))
        if not part:
            break
        table.write(f"part-{number:05d}", part)
    return folder


class Spawned:
    """Starts the processes of a training on this machine."""

    @contextmanager
    def place(self, folder: Path) -> Iterator[Path]:
        """A folder for what the processes are told, for as long as they work."""
        with tempfile.TemporaryDirectory(prefix="assay-") as place:
            yield Path(place)

    def __call__(self, told: dict[str, Any], say: Callable[[str], None]) -> None:
        """Do the training. Raises AssayError where it fails."""
        place = Path(told["place"])
        write_text(place / "job.json", json.dumps(told))
        threads = max(1, (os.cpu_count() or 1) // told["processes"])
        with (place / "log").open("w+b") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "assay.reward.worker", str(place / "job.json")], stdout=subprocess.PIPE, stderr=log,
                env={"OMP_NUM_THREADS": str(threads), **os.environ}, start_new_session=True,
            )  # fmt: skip
            with _ended(process):
                assert process.stdout is not None
                _tell(process.stdout, say)
                process.wait()
        if process.returncode:
            problems = sorted(place.glob("problem-*"))
            if problems:
                raise AssayError(problems[0].read_text())
            raise _died(told, (place / "log").read_text(errors="replace"))


class OnRay:
    """Starts the processes of a training as actors of a Ray cluster. Where one is lost, all are begun again, from what was
    saved: up to TRIES times in which nothing was."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    @contextmanager
    def place(self, folder: Path) -> Iterator[Path]:
        """As of `Spawned`; the nodes see it, for it lies beside the model."""
        place = sibling(folder.absolute(), ".job")
        with alone(place):
            shutil.rmtree(place, ignore_errors=True)  # of a driver that was killed
            place.mkdir(parents=True)
            try:
                yield place
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def __call__(self, told: dict[str, Any], say: Callable[[str], None]) -> None:
        """Do the training. Raises AssayError where it fails."""
        folder, tries = Path(told["folder"]), 0
        partial = Training(folder, told["identity"], HOLDS).partial
        while True:
            before = states(partial)[-1:]
            try:
                return ray_gang.together(self.cluster, on_ray, told, self.room(told["processes"], say), say)
            except Lost as loss:
                tries = 1 if states(partial)[-1:] != before else tries + 1
                if tries == TRIES:
                    raise AssayError(
                        f"{folder}: a training process was lost {TRIES} times, and nothing was saved in between ({loss}): "
                        "is there enough memory? The same command goes on from what was saved"
                    ) from None
                say(f"{folder.name}: a process was lost ({loss}); all begin again from what was saved")
            except Exception as error:
                if isinstance(error, AssayError):
                    raise
                told_of = [*getattr(error, "__notes__", []), f"{type(error).__name__}: {error}"]
                raise _died(told, "".join(told_of)) from None

    def room(self, processes: int, say: Callable[[str], None]) -> int:
        """As many of the processes as the cluster has devices for, after it had time to replace what it lost."""
        end = time.monotonic() + ROOM_S
        while not self.cluster.share(processes) and time.monotonic() < end:
            time.sleep(1)
        most = next((n for n in range(processes, 0, -1) if self.cluster.share(n)), 1)
        if most < processes:
            say(f"the cluster has devices for {most} of {processes} processes: training on {most}")
        return most


def _died(told: dict[str, Any], log: str) -> AssayError:
    """Of a training whose processes wrote this; it is kept."""
    kept = sibling(Path(told["folder"]), ".log")
    write_text(kept, log)
    return AssayError(
        f"{told['folder']}: one of {told['processes']} training processes died: {_why(log)}; all that they wrote is in "
        f"{kept}; the same command goes on from what was saved"
    )


def _tell(lines: IO[bytes], say: Callable[[str], None]) -> None:
    """Pass the lines of progress on, and print whatever else the processes printed."""
    for line in lines:
        try:
            say(json.loads(line)["say"])
        except (ValueError, TypeError, KeyError):
            print(line.decode(errors="replace"), end="", file=sys.stderr, flush=True)


def _why(log: str) -> str:
    lines = log.splitlines()
    if any("Signal 9 (SIGKILL)" in line for line in lines):
        return "it was killed (is there enough memory?)"
    errors = (line.strip() for line in lines if re.match(r"(\[rank\d+\]: )?[\w.]+(Error|Exception)\b", line))
    return next(errors, lines[-1].strip() if lines else "it said nothing")


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """While a process works, SIGINT and SIGTERM end it first, and then take their effect here."""
    got: list[int] = []

    def end(number: int, frame: object) -> None:
        got.append(number)
        process.terminate()

    caught = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, end) for number in caught}
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if got:
        signal.raise_signal(got[0])
