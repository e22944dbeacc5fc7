"""Training on a view: in this process, or on several processes of this machine (`--processes N`), one for each device.

    train_view --+-- processes = 1: the trainer itself
                 +-- else: a job file --> python -m assay.reward.worker JOB (torchrun) --> N processes of the same trainer

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import IO, Any

import torch

from assay.errors import AssayError
from assay.identity import Training
from assay.records import Preference
from assay.reward import crew
from assay.reward.config import TrainConfig
from assay.reward.data import ParquetPairs
from assay.reward.scorer import forget
from assay.reward.train import HOLDS, Trained, identity_of, train
from assay.run import jsonable
from assay.store import Place
from assay.tables import Table, sibling, write_text

SHARD = 16_384
"""Pairs in a shard of a view that is written here."""


def train_view(
    folder: Path, config: TrainConfig, view: Path | Place | Sequence[Preference], gold: Path | Sequence[Preference], *,
    processes: int = 1, say: Callable[[str], None] = lambda _: None, trackers: Sequence[str] = (),
    identity: dict[str, Any] | None = None,
) -> Trained:  # fmt: skip
    """Train on the pairs of a folder of Parquet preferences; returns at once when `folder` holds that training.

    Args:
        folder: Of the model; see `assay.reward.train` for what else is there, and for what is refused.
        config: The settings; those of `engine` hold on several processes too (`engine.shard`: FSDP2).
        view: The pairs; given as records, they are written as a view first, so that the model is the same either way.
        gold: Pairs that choose the checkpoint, or a folder of them.
        processes: On how many processes of this machine; it changes rounding only, and may change when a training goes on.
        say: Takes a line of progress.
        trackers: Names that Accelerate knows ("tensorboard", "wandb", ...).
        identity: What the training is (`identity_of`), where the caller has it already.

    Raises AssayError for what `train` refuses, for more processes than devices, and where a process dies.
    """
    world = check_processes(processes)
    if world > 1:
        same = {"folder": folder, "config": config, "view": view, "gold": gold, "trackers": tuple(trackers)}
        crew.call({**same, "identity": identity})
    with tempfile.TemporaryDirectory(prefix="assay-") as place:
        if isinstance(view, Sequence):
            if not view:
                raise AssayError(f"{folder}: no pairs to train on; see the labels' reasons for why all were dropped")
            view = write_view(Path(place) / "view", view)
        chosen = Table(gold, Preference).read() if isinstance(gold, Path) else gold
        if isinstance(gold, Path) and not chosen:
            raise AssayError(f"{gold}: no Parquet preferences here to choose the checkpoint by")
        forget()  # scorers hold memory of the device
        pairs = ParquetPairs(view)
        if processes == 1 or world > 1:
            return train(folder, config, pairs, chosen, say, trackers, identity)
        identity = identity or identity_of(config, pairs, chosen)
        done = Training(folder, identity, HOLDS)
        if done.finished() is None:
            told = {
                "folder": str(folder), "config": jsonable(config), "view": str(view), "trackers": list(trackers),
                "gold": len(chosen), "identity": identity, "parent": os.getpid(), "processes": processes,
            }  # fmt: skip
            _launch(Path(place), told, chosen, say)
        found = done.finished()
        assert found is not None, "the processes ended well, and left no model"
        return Trained(**found, folder=folder)


def check_processes(processes: int) -> int:
    """Raise AssayError where a training cannot have so many processes. Returns how many this process is one of already."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if processes < 1:
        raise AssayError(f"--processes {processes}: give 1 or more")
    if world > 1 and processes not in (1, world):
        raise AssayError(
            f"--processes {processes}, but torchrun (or accelerate launch) has started {world} processes already, which "
            f"train together: leave --processes out, or start one process without it"
        )
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else processes
    if world == 1 and processes > devices:
        raise AssayError(f"--processes {processes}: this machine has {devices} devices, and a process needs its own")
    return world


def write_view(folder: Path, pairs: Iterable[Preference]) -> Path:
    """Write pairs as a folder of Parquet preferences."""
    table, rest = Table(folder, Preference), iter(pairs)
    for number in count():
        part = list(islice(rest, SHARD))
        if not part:
            break
        table.write(f"part-{number:05d}", part)
    return folder


def _launch(place: Path, told: dict[str, Any], gold: Sequence[Preference], say: Callable[[str], None]) -> None:
    """Run the job of `told` on its processes. Raises AssayError where it fails."""
    if gold:
        Table(place / "gold", Preference).write("gold", gold)
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
        kept = sibling(Path(told["folder"]), ".log")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place / "log", kept)
        raise AssayError(
            f"{told['folder']}: one of {told['processes']} training processes died: {_why(kept)}; all that they wrote is in "
            f"{kept}; the same command goes on from what was saved"
        )


def _tell(lines: IO[bytes], say: Callable[[str], None]) -> None:
    """Pass the lines of progress on, and print whatever else the processes printed."""
    for line in lines:
        try:
            say(json.loads(line)["say"])
        except (ValueError, TypeError, KeyError):
            print(line.decode(errors="replace"), end="", file=sys.stderr, flush=True)


def _why(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
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
