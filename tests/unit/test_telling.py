"""What a run says of itself: stages once each, remarks once for all models, numbers of steps to trackers."""

import json
from contextlib import closing
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from assay import telling
from assay.recipes import presets
from assay.run import Run, jsonable
from assay.telling import Telling


def run_of(folder: Path) -> tuple[Run, StringIO]:
    heard = StringIO()
    config = {**jsonable(presets.pool()), "inputs": {}}
    return Run(folder, config, Console(file=heard, width=200)), heard


def test_each_stage_is_said_once_and_no_remark_twice(tmp_path: Path) -> None:
    run, heard = run_of(tmp_path / "run")
    with closing(run), Telling(run) as told:
        run.once("prepare/pool", dict)
        run.once("prepare/split", lambda: {"stage1": 4, "stage2": 5})
        run.once("sets/raw-more", dict)
        for name in ("best-rm", "raw-more"):
            say = told.training(name)
            say(f"{name}: batches are padded by length, not packed")
            say(f"{name}: step 8/8  loss 0.5")
    text = heard.getvalue()
    assert text.count("stage 1 of 7: preparing the pool: who is held out, attributes, vectors") == 1
    assert text.count("stage 2 of 7: the first answers of people and judges") == 1
    assert text.count("batches are padded by length") == 1
    assert "the model on stage 1's pairs: batches are padded" in text
    assert "the model on all raw labels: step 8/8  loss 0.5" in text
    assert "measuring the model on all raw labels ..." in text
    assert "raw-more" not in text
    assert "best-rm" not in text


def test_a_seed_tells_the_time_of_its_run_and_each_remark_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("assay.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    run, heard = run_of(tmp_path / "run")
    now[0] = 100.0
    with closing(run), closing(run.part(tmp_path / "run" / "seed-0", {})) as seed:
        run.say("begun")
        seed.say("long " * 80)
    assert [line.split()[0] for line in heard.getvalue().splitlines()] == ["100", "100"]


def test_trackers_get_the_numbers_of_every_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = run_of(tmp_path / "run")
    estimate = {"value": 0.75, "se": 0.1, "n": 4, "clusters": 4.0}
    for _ in range(2):  # the second time nothing is done again
        with Telling(run, ["tensorboard"]):
            run.once("sets/stage1", lambda: {"pairs": 7, "accuracy": estimate, "on_held": True, "who": "x"})
    with Telling(run, ["tensorboard"]):
        run.once("labels", lambda: {"kept": 3})
    run.close()
    found = EventAccumulator(str(tmp_path / "run/trackers/run")).Reload()
    tags: dict[str, Any] = {t: [(e.step, e.value) for e in found.Scalars(t)] for t in found.Tags()["scalars"]}
    assert {t: v for t, v in tags.items() if "wall_s" not in t} == {
        "sets/stage1/pairs": [(1, 7.0)], "sets/stage1/accuracy": [(1, 0.75)], "labels/kept": [(2, 3.0)],
    }, "a resumed run goes on counting"  # fmt: skip
    assert json.loads((tmp_path / "run/steps/sets/stage1.json").read_text())["pairs"] == 7
    assert telling._numbers({"a": {"b": 1, "c": True}}, "") == [("a/b", 1.0)]
