"""Real W&B (offline), MLflow (a file) and trackio (its database): a run and its training, killed and resumed, read back by
each one's own reader. `make test-trackers` makes an environment that has them."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import environment, run_assay

from assay.records import Pair, Preference, Response, user
from assay.tables import Table

pytestmark = pytest.mark.slow
ONCE = Path(__file__).with_name("tracked_once.py")
LOCAL = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}

Runs = dict[str, dict[str, Any]]
"""By title: "group", "settings", "steps" [(step, {name: value})], "ended"."""


def once(place: Path, *arguments: object) -> int:
    env = environment(**LOCAL, TRACKIO_DIR=str(place / "trackio"))
    line = [sys.executable, str(ONCE), *map(str, arguments)]
    done = subprocess.run(line, cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, -9), done.stderr
    assert done.stdout == "", "what a tracker says of itself is no result"
    return done.returncode


def killed_and_resumed(place: Path, name: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not here: `make test-trackers` has it")
    assert once(place, "runs", 0, 12, name) == -9
    assert once(place, "runs", 10, 20, name) == 0


def records(path: Path) -> Iterator[bytes]:
    """Of W&B's offline file, a log as LevelDB has them: blocks of 32 KiB with parts of (crc, size, kind)."""
    data, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (room := 32_768 - at % 32_768) < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        body = data[at + 7 : at + 7 + size]
        if not kind or len(body) < size:
            return
        held, at = body if kind in (1, 2) else held + body, at + 7 + size
        if kind in (1, 4):
            yield held


def wandb_runs(place: Path) -> Runs:
    from wandb.proto import wandb_internal_pb2 as proto

    found: Runs = {}
    for path in sorted(place.glob("wandb/offline-run-*/*.wandb")):
        run: dict[str, Any] = {"settings": {}, "steps": [], "ended": None, "id": ""}
        for data in records(path):
            record = proto.Record.FromString(data)
            if record.HasField("run"):
                run |= {"group": record.run.run_group, "title": record.run.display_name, "id": record.run.run_id}
                run["settings"] |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
                assert record.run.project == "assay"
            elif record.HasField("history"):
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                values = {k: v for k, v in items.items() if not k.startswith("_")}
                run["steps"].append((int(items["_step"]), values))
            elif record.HasField("exit"):
                run["ended"] = record.exit.exit_code
        if not run["id"]:  # killed before anything was written
            continue
        before = found.setdefault(run["title"], run)
        assert before["id"] == run["id"], "the resumed one is the same run"
        if before is not run:  # offline each session is a file; the last seconds before a kill may be in both
            old = {step for step, _ in before["steps"]}
            before["steps"] += [row for row in run["steps"] if row[0] not in old]
            before["ended"] = run["ended"]
    return found


def mlflow_runs(place: Path) -> Runs:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("assay")
    found, ids = {}, {}
    for run in client.search_runs([experiment.experiment_id]):
        steps: dict[int, dict[str, float]] = {}
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                assert name not in steps.setdefault(metric.step, {}), "no step twice"
                steps[metric.step][name] = metric.value
        ids[run.info.run_id] = run.info.run_name
        found[run.info.run_name] = {
            "group": run.data.tags.get("mlflow.parentRunId"), "settings": run.data.params,
            "steps": sorted(steps.items()), "ended": run.info.status,
        }  # fmt: skip
    return {title: {**run, "group": ids.get(run["group"], title)} for title, run in found.items()}


def trackio_runs(place: Path) -> Runs:
    code = """if True:
        import json, trackio
        from trackio.sqlite_storage import SQLiteStorage
        print(json.dumps([[r.name, r.config, SQLiteStorage.get_logs("assay", r.name, run_id=r.id)]
                          for r in trackio.Api().runs("assay")]))"""
    env = {**os.environ, "TRACKIO_DIR": str(place / "trackio")}
    told = json.loads(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout)
    found: Runs = {}
    for name, config, logs in told:
        title, steps = name[:-7], dict[int, Any]()
        for row in logs:
            assert row["step"] not in steps, "no step twice"
            steps[row["step"]] = {k: v for k, v in row.items() if k not in ("step", "timestamp", "log_id")}
        assert title not in found, "the resumed one is the same run"
        found[title] = {"group": config["_Group"], "settings": config, "steps": sorted(steps.items()), "ended": None}
    return found


@pytest.mark.parametrize(
    ("name", "runs", "ended"),
    [("wandb", wandb_runs, 0), ("mlflow", mlflow_runs, "FINISHED"), ("trackio", trackio_runs, None)],
)
def test_a_killed_run_goes_on_in_the_same_one_with_each_step_once(
    place: Path, name: str, runs: Any, ended: object
) -> None:
    killed_and_resumed(place, name)
    found = runs(place)
    assert sorted(found) == ["runs", "runs/final"]
    training, whole = found["runs/final"], found["runs"]
    assert training["steps"] == [(n, {"loss": 1 / n, "watch/right": n / 20}) for n in range(1, 21)]
    kept = [{k: v for k, v in values.items() if "wall_s" not in k} for _, values in whole["steps"]]
    assert kept == [{f"stage{n}/pairs": float(n), f"stage{n}/on_held": 0.75} for n in (0, 10)]
    assert [step for step, _ in whole["steps"]] == [1, 2]
    assert {training["group"], whole["group"]} == {"runs"}
    assert str(training["settings"]["lr"]) == str(whole["settings"]["train.lr"]) == "0.5"
    assert training["settings"]["labels.digest"] == "abc"
    assert training["ended"] == whole["ended"] == ended


def test_wandb_without_a_login_is_refused_in_a_line_and_asks_nobody(place: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not here: `make test-trackers` has it")
    good, bad = Response.of("blue"), Response.of("red")
    pairs = [Pair.of((user(f"sky {n}?"),), good, bad).preferring(good.id) for n in range(8)]
    Table(place / "prefs", Preference).write("part-0", pairs)
    env = environment(HOME=str(place), WANDB_API_KEY="")
    command = ("reward", "train", "prefs", "--out", "rm", "--layers", "1", "--max-tokens", "64", "--trackers", "wandb")
    done = run_assay(*command, cwd=place, env=env)
    assert done.returncode == 2, done.stderr
    assert "error: the tracker 'wandb' cannot begin: No API key configured" in done.stderr
    assert "WANDB_MODE=offline keeps it here" in done.stderr
    assert "Traceback" not in done.stderr
