"""Where a run's numbers go besides its own files: TensorBoard, W&B, MLflow, trackio; any other that Accelerate knows.

    FOLDER/trackers/NAME.json    which run it is there, and the last step that it surely has: a resumed one goes on in it
    FOLDER/trackers/TITLE/       TensorBoard's files; the others keep their own, where they always do

Each training, and each `assay run` or `policy run` as a whole, is a run of its own there. All are in one project: what
the tracker's own variable says, or "assay"; those of one run folder are a group, or nested in the run.

These four are spoken to directly, for Accelerate's classes fit one run in a process: its W&B and MLflow take the second for
the first, none can end as failed, and none goes on where a kill left it.
"""

import io
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, Protocol

from assay import __version__
from assay.errors import AssayError, Paused, Refused, Stopped
from assay.tables import read_json, write_text

How = Literal["finished", "paused", "stopped", "failed"]
PROJECT = "assay"
AGAIN_S = 60.0
"""So long a tracker that failed is left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a tracker is told of a run: what it is called, the run folder that it is a part of ("": of none), where files may
    go, its settings by dotted names, and which run it is there already ("": a new one); `within`: that of the run folder."""

    title: str
    group: str
    folder: Path
    settings: Mapping[str, str | int | float | bool]
    id: str = ""
    within: str = ""


class Backend(Protocol):
    """One run in a tracker. `id` finds it again. `holds_s`: so long it may hold what it was given, which a kill loses."""

    id: str
    holds_s: float

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def finish(self, how: How) -> None: ...


class TensorBoard:
    """Event files under `About.folder`. The settings are a text, and hyperparameters of the same run."""

    holds_s = 0.0

    def __init__(self, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.id = about.title
        self.writer = SummaryWriter(str(about.folder / Path(about.title).name))
        assert self.writer.file_writer is not None, "it was made with the writer"
        if not about.id and about.settings:
            for summary in hparams(dict(about.settings), {}):
                self.writer.file_writer.add_summary(summary)
            lines = "".join(f"    {name}: {value}\n" for name, value in about.settings.items())
            self.writer.add_text("settings", lines)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self, how: How) -> None:
        self.writer.close()


class Wandb:
    """A run of W&B. What it has already it ignores; offline each session has a file of its own, of the same run."""

    holds_s = 30.0  # it writes every 15 s
    EXIT: Mapping[How, int] = {"finished": 0, "paused": 0, "stopped": 130, "failed": 1}

    def __init__(self, about: About) -> None:
        import wandb

        self.id = about.id or os.urandom(4).hex()
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), group=about.group or None, name=about.title, id=self.id,
            resume="allow" if about.id else None, reinit="create_new", config=dict(about.settings),
            settings=wandb.Settings(max_end_of_run_history_metrics=0, max_end_of_run_summary_metrics=0),
        )  # fmt: skip

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def finish(self, how: How) -> None:
        self.run.finish(exit_code=self.EXIT[how])


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI. A server that does not answer is given up after seconds, not its four minutes
    for each call: it is asked again later."""

    holds_s = 0.0
    STATUS: Mapping[How, str] = {"finished": "FINISHED", "paused": "SCHEDULED", "stopped": "KILLED", "failed": "FAILED"}

    def __init__(self, about: About) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient()
        if about.id:
            self.id = about.id
            self.client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        tags = {"mlflow.parentRunId": about.within} if about.within else {}
        self.id = self.client.create_run(experiment, run_name=about.title, tags=tags).info.run_id
        settings = [Param(name, str(value)) for name, value in about.settings.items()]
        for at in range(0, len(settings), 100):  # more are refused
            self.client.log_batch(self.id, params=settings[at : at + 100])

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(re.sub(r"[^\w\-. :/]", "_", name), value, now, step) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def finish(self, how: How) -> None:
        self.client.set_terminated(self.id, self.STATUS[how])


class Trackio:
    """A run of trackio, in its local database or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says. A run is found again by
    its name, which must be its own; it knows no failed ones."""

    holds_s = 5.0  # it writes every half second, and knows itself what it has

    def __init__(self, about: About) -> None:
        import trackio

        self.id = about.id or f"{about.title}-{os.urandom(3).hex()}"
        begin = partial(
            trackio.init, os.environ.get("TRACKIO_PROJECT", PROJECT), name=self.id, group=about.group or None,
            config=dict(about.settings), resume="allow" if about.id else "never",
        )  # fmt: skip
        with redirect_stdout(io.StringIO() if about.within else sys.stderr):  # the run has said where it is
            self.run = copy_context().run(
                begin
            )  # it is nobody's current run, which trackio would end once more at exit
        self.has = int(getattr(self.run, "_next_step", 0)) - 1

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def finish(self, how: How) -> None:
        with redirect_stdout(sys.stderr):
            self.run.finish()


class Accelerates:
    """Any other tracker, as Accelerate has it: each session is a run of its own there."""

    holds_s = 0.0

    def __init__(self, name: str, about: About) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind, self.id = LOGGER_TYPE_TO_CLASS[name], about.title
        title = re.sub(r"[^\w.-]", "-", about.title)
        self.tracker = kind(title, about.folder) if kind.requires_logging_directory else kind(title)
        self.tracker.start()
        self.tracker.store_init_configuration(dict(about.settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.tracker.log(dict(values), step=step)

    def finish(self, how: How) -> None:
        self.tracker.finish()


OURS: Mapping[str, tuple[Callable[[About], Backend], str]] = {
    "tensorboard": (TensorBoard, ""),
    "wandb": (Wandb, "WANDB_MODE=offline keeps it here, and `wandb sync` sends it later"),
    "mlflow": (MLflow, "MLFLOW_TRACKING_URI says where it is; without, it is a file in this folder"),
    "trackio": (Trackio, "without TRACKIO_SPACE_ID and TRACKIO_SERVER_URL it is a database of this machine"),
}
"""How each begins, and what to do where it cannot."""


class Tracker:
    """One tracker of one run: no step twice, and none lost while it does not answer. It works in a thread of its own: a slow
    one holds nothing up, and Ctrl-C comes between two of its calls (within one, it can leave MLflow's file locked)."""

    def __init__(self, name: str, about: About, say: Callable[[str], None]) -> None:
        self.name, self.say, self.file = name, say, about.folder / f"{name}.json"
        kept = read_json(self.file)["step"] if self.file.exists() else 0
        self.waiting, self.given = deque[tuple[int, dict[str, float]]](), deque[tuple[float, int]]()
        self.again, self.failed = 0.0, False
        self.backend = _begun(name, about)
        self.has = max(kept, getattr(self.backend, "has", 0))
        self._note()
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"tracker-{name}")

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Give it the numbers of a step, where it has not had them."""
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, int | float)}
        if step > self.has and numbers:
            self.waiting.append((step, numbers))
            self.thread.submit(self._give)

    def finish(self, how: How) -> None:
        """Wait until it has everything, and tell it how the run ended."""
        self.again = 0.0
        self.thread.submit(self._give).result()
        self.thread.shutdown()
        try:
            self.backend.finish(how)
        except Exception as error:  # noqa: BLE001
            self.say(f"warning: the tracker '{self.name}' was not told how it ended ({_first(error)})")
        else:
            self._note()
        if self.waiting:
            self.say(
                f"warning: the tracker '{self.name}' lacks {len(self.waiting):,} steps from {self.waiting[0][0]:,} on; "
                "metrics.jsonl has them"
            )

    def _give(self) -> None:
        if time.monotonic() < self.again:
            return
        step = 0
        try:
            while self.waiting:
                step, numbers = self.waiting[0]
                self.backend.log(numbers, step)
                self.waiting.popleft()
                self.given.append((time.monotonic(), step))
                self._note(self.backend.holds_s)
        except Exception as error:  # noqa: BLE001  (whatever a tracker meets, it is no reason to end a training)
            self.again = time.monotonic() + AGAIN_S
            if not self.failed:
                self.failed = True
                self.say(
                    f"warning: the tracker '{self.name}' does not take step {step:,} ({_first(error)}); the work "
                    "goes on, metrics.jsonl has it, and the tracker is asked again every minute"
                )

    def _note(self, holds_s: float = 0.0) -> None:
        """Keep which run it is, and the last step that it has for certain."""
        sure = self.has
        while self.given and self.given[0][0] <= time.monotonic() - holds_s:
            sure = self.given.popleft()[1]
        if sure != self.has or not self.file.exists():
            self.has = sure
            write_text(self.file, json.dumps({"id": self.backend.id, "step": sure}))


class Trackers:
    """The trackers of a training, or of a run as a whole, in `folder`. `names`: tensorboard, wandb, mlflow, trackio, or any
    that Accelerate knows; `settings`: what shapes the result, to any depth.

    Raises Refused for an unknown name, a missing package, and a tracker that cannot begin; a training within a run,
    which has begun well, does without that one, and it is told.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, settings: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self.all = list[Tracker]()
        title, run = _called(folder.absolute())
        inside = run is not None and run != folder.absolute()
        for name in check(names):
            about = About(
                title=title, group=run.name if run else "", folder=folder / "trackers",
                settings=dict(_flat({"assay": __version__, **settings}, "")),
                id=_id(folder / "trackers" / f"{name}.json"),
                within=_id(run / "trackers" / f"{name}.json") if run and inside else "",
            )  # fmt: skip
            try:
                self.all.append(Tracker(name, about, say))
            except AssayError as error:
                if not inside:
                    self.finish("failed")
                    raise
                say(f"warning: {error}; this training goes on without it")

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        for tracker in self.all:
            tracker.log(step, values)

    def finish(self, how: How) -> None:
        for tracker in self.all:
            tracker.finish(how)
        self.all = []


def how(error: BaseException | None) -> How:
    """How a piece of work ended that `error` ended."""
    if error is None:
        return "finished"
    if isinstance(error, Paused):
        return "paused"
    return "failed" if isinstance(error, Exception) and not isinstance(error, Stopped) else "stopped"


def check(names: Sequence[str]) -> list[str]:
    """The names, each once. Raises Refused for one that is unknown, or whose package is not installed."""
    for name in names:
        try:
            if name not in OURS:
                from accelerate.tracking import LOGGER_TYPE_TO_CLASS

                known = sorted({*OURS, *(str(getattr(k, "value", k)) for k in LOGGER_TYPE_TO_CLASS)})
                if name not in known:
                    raise Refused(f"unknown tracker '{name}'; known: {', '.join(known)}")
            import_module(name)
        except ImportError as error:
            raise Refused(f"the tracker '{name}' is not installed ({error}); run: pip install {name}") from error
    return list(dict.fromkeys(names))


def _begun(name: str, about: About) -> Backend:
    begin, hint = OURS.get(name, (partial(Accelerates, name), ""))
    try:
        with _asking_nobody():
            made: Backend = begin(about)
            return made
    except ImportError as error:
        raise Refused(f"the tracker '{name}' is not installed ({error}); run: pip install {name}") from error
    except Exception as error:
        raise Refused(f"the tracker '{name}' cannot begin: {_first(error)}{hint and f'; {hint}'}") from error


@contextmanager
def _asking_nobody() -> Iterator[None]:
    """A tracker that lacks a login asks for it where there is a terminal, and nobody may sit there."""
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = stdin


def _called(folder: Path) -> tuple[str, Path | None]:
    """What a training or a run is called, and the run folder that it is, or lies in: "tiny/seed-0/final" of runs/tiny."""
    place = folder.with_name(folder.name.removesuffix(".partial"))
    runs = [p for p in (folder, *folder.parents) if (p / "environments.jsonl").exists()]
    if not runs:
        return place.name, None
    parts = place.relative_to(runs[-1].parent).parts
    return "/".join(p for p in parts if p != "models"), runs[-1]


def _id(file: Path) -> str:
    """Which run it is there; "" before it has begun."""
    return str(read_json(file)["id"]) if file.exists() else ""


def _flat(value: Any, at: str) -> Iterator[tuple[str, str | int | float | bool]]:
    """Settings by dotted names, as trackers take them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{at}.{key}" if at else str(key))
    else:
        yield at, value if isinstance(value, str | int | float | bool) else json.dumps(value)


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return shorten(lines[0].rstrip("."), 200, placeholder=" ...") if lines else type(error).__name__
