"""Progress: rates by hand, lines that survive a kill, and a real tracker."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from assay.errors import AssayError
from assay.reward.monitor import Monitor, StepMetrics


def metrics(step: int, loss: float = 0.5) -> StepMetrics:
    return StepMetrics(
        step=step, loss=loss, accuracy=0.75, margin=1.5, chosen=1.0, rejected=-0.5, grad_norm=2.0, lr=1e-4, pairs=8,
        tokens=900, padded=1000, cut=0,
    )  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rates_and_lines_by_hand(tmp_path: Path) -> None:
    clock, said = Clock(), list[str]()
    with Monitor(tmp_path, 10, said.append, name="rm", every_s=5.0, clock=clock) as monitor:
        for step in range(1, 11):
            clock.now += 2.0
            monitor.log(metrics(step))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 11))
    fourth = lines[3]
    assert (fourth["pairs_per_s"], fourth["tokens_per_s"], fourth["eta_s"]) == (4.0, 450.0, 12.0)
    assert fourth["padding"] == pytest.approx(0.1)
    assert len(said) == 4  # at 6, 12, 18 seconds, and at the end
    assert said[0].startswith("rm: step 3/10  loss 0.500  fits 18 of 24  margin +1.50  grad 2  lr 0.0001  4.0 pairs/s")
    assert said[-1].endswith("padding 10.0%  left 0 s")


def test_resume_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    with Monitor(tmp_path, 10, lambda _: None) as monitor:
        for step in (1, 2, 3):
            monitor.log(metrics(step))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with Monitor(tmp_path, 10, lambda _: None) as monitor:
        monitor.resume(2)
        monitor.log(metrics(3, loss=0.25))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_a_quiet_monitor_writes_nothing(tmp_path: Path) -> None:
    with Monitor(tmp_path / "none", 10, lambda _: pytest.fail("it spoke"), quiet=True) as monitor:
        monitor.resume(0)
        monitor.log(metrics(10))
    assert not (tmp_path / "none").exists()


def test_tensorboard_gets_every_step(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, lambda _: None, trackers=("tensorboard",), name="rm") as monitor:
        monitor.log(metrics(1))
        monitor.log(metrics(2, loss=0.125))
    events = EventAccumulator(str(next(tmp_path.rglob("events.out*")).parent))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.125)]


def test_a_terminal_has_one_live_line_and_the_last_is_said(tmp_path: Path) -> None:
    clock, said, shown = Clock(), list[str](), list[str]()
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with Monitor(tmp_path, 100, said.append, name="[rm]", clock=clock, console=console) as monitor:
        assert monitor.status is not None
        monitor.status.update = shown.append  # type: ignore[method-assign, assignment]
        for step in range(1, 101):
            clock.now += 0.1
            monitor.log(metrics(step))
    assert len(said) == 1
    assert said[0].startswith("[rm]: step 100/100")
    assert len(shown) == 33  # every third step: a quarter of a second has passed
    assert shown[0].startswith(r"\[rm]: step 3/100")


def test_no_terminal_no_live_line(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, lambda _: None, console=Console(file=io.StringIO())) as monitor:
        assert monitor.status is None


def test_a_missing_tracker_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AssayError, match=r"'wandb' is not installed \(.*\); run: pip install wandb"):
        Monitor(tmp_path, 1, lambda _: None, trackers=("wandb",))


def test_unknown_trackers_are_named(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"unknown tracker 'tensorbored'; known: .*tensorboard"):
        Monitor(tmp_path, 1, lambda _: None, trackers=("tensorbored",))
