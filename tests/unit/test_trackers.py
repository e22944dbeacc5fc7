"""Trackers: every step once, whatever is killed or fails between; settings and how it ended; runs apart and together."""

import json
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from assay import trackers
from assay.errors import AssayError, Paused, Stopped
from assay.journal import Journal, read
from assay.run import Run
from assay.telling import Telling
from assay.trackers import About, Trackers, check, how


class Server:
    """A tracker that keeps what it is given, and can be down."""

    holds_s = 0.0
    begun: ClassVar[list["Server"]]
    down = False

    def __init__(self, about: About) -> None:
        if self.down:
            raise ConnectionError("nobody answers\n  at port 1")
        self.about, self.id, self.ended = about, about.id or f"id-{len(self.begun)}", ""
        self.got = list[tuple[int, dict[str, float]]]()
        self.begun.append(self)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self.down:
            raise ConnectionError("nobody answers\n  at port 1")
        self.got.append((step, dict(values)))

    def finish(self, how: str) -> None:
        self.ended = how


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    """The tracker 'server'."""

    class Fresh(Server):
        begun: ClassVar = list[Server]()

    monkeypatch.setitem(trackers.OURS, "server", (Fresh, "start it"))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "server", ModuleType("server"))
    return Fresh


def scalars(folder: Path, tag: str = "loss") -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def settle(journal: Journal) -> None:
    """Wait until the threads of its trackers have nothing to do."""
    for tracker in journal.trackers.all:
        tracker.thread.submit(lambda: None).result()


def test_after_a_kill_each_step_is_given_once(tmp_path: Path) -> None:
    killed = Journal(tmp_path / "rm", ["tensorboard"], {"train": {"lr": 0.5, "layers": None}})
    for step in range(1, 6):
        killed.log(step, {"loss": step / 8, "note": "no number"})
    settle(killed)  # and never closed
    with Journal(tmp_path / "rm", ["tensorboard"], {"train": {"lr": 0.5, "layers": None}}) as again:
        assert again.resume(3) == 3
        for step in range(4, 8):
            again.log(step, {"loss": step / 8})
    assert scalars(tmp_path / "rm/trackers/rm") == [(n, n / 8) for n in range(1, 8)]
    found = EventAccumulator(str(tmp_path / "rm/trackers/rm")).Reload()
    told = found.Tensors("settings/text_summary")
    assert len(told) == 1
    assert "    train.lr: 0.5\n    train.layers: null" in told[0].tensor_proto.string_val[0].decode()
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["train.lr"].number_value == 0.5


def test_a_tracker_named_later_is_given_the_steps_before(tmp_path: Path, server: type[Server]) -> None:
    for names, steps in (((), (1, 2)), (("server",), (3,)), ((), (4,)), (("server",), (5,))):
        with Journal(tmp_path, names) as journal:
            journal.resume()
            for step in steps:
                journal.log(step, {"loss": float(step)})
    assert [[step for step, _ in run.got] for run in server.begun] == [[1, 2, 3], [4, 5]]
    assert [run.id for run in server.begun] == ["id-0", "id-0"]


def test_a_tracker_that_fails_is_told_of_once_and_has_all_in_the_end(tmp_path: Path, server: type[Server]) -> None:
    said = list[str]()
    with Journal(tmp_path, ["server"], say=said.append) as journal:
        for step in range(1, 8):
            server.down = 3 <= step < 6
            journal.log(step, {"loss": float(step)})
            settle(journal)
    assert [step for step, _ in server.begun[0].got] == list(range(1, 8))
    assert server.begun[0].ended == "finished"
    assert said == [
        "warning: the tracker 'server' does not take step 3 (nobody answers); the work goes on, metrics.jsonl has it, and "
        "the tracker is asked again every minute"
    ]
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == list(range(1, 8))


def test_what_a_tracker_lacks_is_said_and_given_at_the_next_resume(tmp_path: Path, server: type[Server]) -> None:
    said = list[str]()
    with Journal(tmp_path, ["server"], say=said.append) as journal:
        for step in range(1, 6):
            server.down = step > 2
            journal.log(step, {"loss": float(step)})
            settle(journal)
    assert said[1:] == ["warning: the tracker 'server' lacks 3 steps from 3 on; metrics.jsonl has them"]
    server.down = False
    with Journal(tmp_path, ["server"]) as journal:
        journal.resume()
    assert [step for step, _ in server.begun[1].got] == [3, 4, 5]


def test_what_a_tracker_may_still_hold_is_given_again(tmp_path: Path, server: type[Server]) -> None:
    server.holds_s = 60.0
    killed = Journal(tmp_path, ["server"])
    killed.log(1, {"loss": 1.0})
    settle(killed)
    with Journal(tmp_path, ["server"]) as journal:
        journal.resume()
        journal.log(2, {"loss": 2.0})
    assert [step for step, _ in server.begun[1].got] == [1, 2]
    assert json.loads((tmp_path / "trackers/server.json").read_text()) == {"id": "id-0", "step": 2}


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (None, "finished"),
        (ValueError(), "failed"),
        (AssayError("lower lr"), "failed"),
        (Paused("2 answers are missing"), "paused"),
        (Stopped("the budget is spent"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_trackers_are_told_how_it_ended(
    tmp_path: Path, server: type[Server], error: BaseException | None, ended: str
) -> None:
    def work() -> None:
        with Journal(tmp_path, ["server"]):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert server.begun[0].ended == how(error) == ended


def test_a_run_and_its_trainings_are_apart_and_belong_together(tmp_path: Path, server: type[Server]) -> None:
    run = tmp_path / "runs/tiny"
    run.mkdir(parents=True)
    (run / "environments.jsonl").touch()
    (run / "seed-0").mkdir()
    (run / "seed-0/environments.jsonl").touch()
    whole = Trackers(["server"], run, {}, print)
    with Journal(run / "seed-0/models/final.partial", ["server"]) as journal:
        journal.log(1, {"loss": 1.0})
    whole.finish("finished")
    alone = Trackers(["server"], tmp_path / "rm.partial", {}, print)
    alone.finish("finished")
    told: list[tuple[Any, ...]] = [(s.about.title, s.about.group, s.about.within) for s in server.begun]
    assert told == [("tiny", "tiny", ""), ("tiny/seed-0/final", "tiny", "id-0"), ("rm", "", "")]
    assert server.begun[0].got == []


def test_what_cannot_begin_is_refused_but_ends_no_run(tmp_path: Path, server: type[Server]) -> None:
    server.down = True
    with pytest.raises(AssayError, match="the tracker 'server' cannot begin: nobody answers; start it"):
        Journal(tmp_path / "rm", ["server"])
    (tmp_path / "environments.jsonl").touch()
    said = list[str]()
    with Journal(tmp_path / "models/rm", ["server"], say=said.append) as journal:
        journal.log(1, {"loss": 1.0})
    assert said == [
        "warning: the tracker 'server' cannot begin: nobody answers; start it; this training goes on without it"
    ]
    assert len(read(tmp_path / "models/rm/metrics.jsonl")) == 1


def test_nobody_is_asked(tmp_path: Path, server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "__init__", lambda self, about: input("your key: "))
    before = sys.stdin
    with pytest.raises(AssayError, match="the tracker 'server' cannot begin"):
        Journal(tmp_path, ["server"])
    assert sys.stdin is before


def test_names_count_once_and_are_known_before_any_work(tmp_path: Path, server: type[Server]) -> None:
    assert check(["server", "tensorboard", "server"]) == ["server", "tensorboard"]
    with pytest.raises(AssayError, match=r"unknown tracker 'tensorbored'; known: .*tensorboard.*wandb"):
        check(["server", "tensorbored"])
    assert not server.begun


def test_any_other_tracker_is_accelerates_and_hears_of_trainings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker

    PartialState(cpu=True)  # a training's engine has made it
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "other", TensorBoardTracker)
    monkeypatch.setitem(sys.modules, "other", ModuleType("other"))
    run = Run(tmp_path / "tiny", {"inputs": {}})
    with closing(run), Telling(run, ["other"]) as telling:
        run.once("labels", lambda: {"kept": 3})
        with Journal(tmp_path / "tiny/models/rm", telling.names, {"lr": 0.5, "layers": None}) as journal:
            journal.log(1, {"loss": 0.5})
    assert not (tmp_path / "tiny/trackers").exists()
    assert scalars(tmp_path / "tiny/models/rm/trackers/tiny-rm") == [(1, 0.5)]
