"""A run as a user has it over days: begun, looked at, killed, gone on with, compared, deleted; by its folder alone."""

import json
import re
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from commands import assay_line, environment
from small_job import small_pool
from test_pool_recipe import SMALL, import_pool

from assay.curate.verify import add_judgements, oracle
from assay.curate.waiting import waits
from assay.errors import AssayError
from assay.pipeline.people_on_file import left
from assay.state import RunState, runs, state
from in_process import assay_here


def begun(place: Path, *arguments: object) -> subprocess.Popen[str]:
    """`assay ARGUMENTS`, at work."""
    told = (place / "told.txt").open("a")
    return subprocess.Popen(assay_line(*arguments), cwd=place, env=environment(), text=True, stdout=told, stderr=told)


def until(process: subprocess.Popen[str], holds: Callable[[], bool], seconds: float = 600.0) -> None:
    """Wait until something holds, as long as the process lives."""
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < end
        time.sleep(0.05)


def lacks(run: Path) -> bool:
    now = waits(run) if run.is_dir() else None
    return now is not None and bool(now.missing)


def answer(run: Path, truth: dict[str, str]) -> int:
    cases = left(run)
    add_judgements(run / "judgements.jsonl", oracle(truth)(cases))
    return len(cases)


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait(300) == -signal.SIGKILL


def gone(page: str) -> bool:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            httpx.get(f"{page}/health", timeout=300)
        except httpx.TransportError:
            return True
        time.sleep(0.1)
    return False


def test_a_run_waits_is_killed_twice_and_goes_on_by_its_folder(place: Path) -> None:
    import_pool(place)
    run, truth = place / "runs" / "mine", small_pool(prompts=60, per_prompt=1).truth
    first = begun(place, "run", "pool", "pool", "--out", "runs/mine", "--wait", *SMALL)
    until(first, lambda: lacks(run))
    waiting = state(run)
    assert (waiting.state, waiting.live, waiting.process, waiting.kind) == ("paused", True, first.pid, "run pool")
    assert waiting.at == "stage 2 of 6: the first answers of people and judges"
    assert waiting.waits_for == f"22 of 22 answers missing; assay verify {run}, or assay web {run}"
    told = (place / "told.txt").read_text()
    assert (
        "people: at most 26 answers in 2 rounds (22 first, then at most 4 each), about 26 min of people's time" in told
    )
    assert "60 s a pair (assumed, for no answer was timed yet)" in told
    refused = assay_here("delete", "runs/mine", "--yes", cwd=place)
    assert (refused.returncode, "a process" in refused.stderr) == (2, True)
    killed(first)

    assert (state(run).state, state(run).live) == ("paused", False)
    assert answer(run, truth) == 22
    second = begun(place, "resume", "runs/mine", "--web")
    until(second, lambda: lacks(run) and "page: http" in (place / "told.txt").read_text())
    page = re.findall(r"page: (http://\S+)", (place / "told.txt").read_text())[-1]
    assert httpx.get(f"{page}/login", timeout=300).status_code == 200
    more = answer(run, truth)
    assert 0 < more <= 4
    until(second, lambda: state(run).stage >= 4)
    assert state(run).live
    assert httpx.get(f"{page}/health", timeout=300).status_code == 200, "served as long as the run works"
    killed(second)
    assert gone(page), "it ends with the run, however that ends"
    dead = state(run)
    assert (dead.state, dead.live, dead.cost.answers) == ("killed", False, 22 + more)
    assert "killed" in assay_here("runs", cwd=place).stdout

    done = assay_here("resume", run, cwd=place.parent)  # from another folder
    assert done.returncode == 0, done.stderr
    ended = state(run)
    assert (ended.state, ended.stage, ended.waits_for, ended.eta_s) == ("finished", 6, "", 0.0)
    whole = (place / "told.txt").read_text() + done.stderr
    assert "stage 4 of 6: training on stage 1's pairs" in whole
    assert "batches are padded" not in done.stderr.replace("batches are padded", "", 1), "said once"
    (listed,) = json.loads(assay_here("runs", "--json", cwd=place).stdout)
    assert (listed["state"], listed["at"]) == ("finished", ended.at)
    assert_compared_and_deleted(place, run)


def assert_compared_and_deleted(place: Path, run: Path) -> None:
    file = run / "run.toml"
    told = file.read_text()
    assert 'command = "run pool"' in told
    assert not {"wait", "web", "dry_run"} & tomllib.loads(told).keys(), "of one call alone"
    other = assay_here("run", "pool", "--config", file, "--out", "runs/other", "--stage1.seed-gold", "15", cwd=place)
    assert other.returncode == 4
    assert "run.toml says stage1.seed_gold: 16 -> 15 (the command line)" in other.stderr
    assert {s.name for s in runs(place / "runs")} == {"mine", "other"}
    same = assay_here("compare", run, run, cwd=place)
    assert same.returncode == 0, same.stdout
    differ = assay_here("compare", "runs/mine", "runs/other", cwd=place)
    assert differ.returncode == 1
    assert "stage1.seed_gold: 16 -> 15" in differ.stdout
    asked = assay_here("delete", "runs/other", cwd=place)
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    deleted = assay_here("delete", "runs/other", "--yes", cwd=place)
    assert deleted.returncode == 0, deleted.stderr
    assert not (place / "runs" / "other").exists()


def test_a_training_is_killed_and_resumed_by_its_folder(place: Path) -> None:
    import_pool(place)
    out = place / "models" / "rm"
    line = ("reward", "train", "pool", "--out", "models/rm", "--layers=1", "--max-tokens=48", "--batch-pairs=2",
            "--epochs=40", "--save-minutes=0.01", "--checks=1")  # fmt: skip
    process = begun(place, *line)

    def goes() -> bool:
        try:
            now: RunState = state(out)
        except AssayError:
            return False
        saved = [p for p in out.with_name("rm.partial").glob("state-*") if p.suffix == ""]
        return now.live and bool(now.doing) and bool(saved) and now.eta_s is not None  # two steps tell a speed

    until(process, goes)
    now = state(out)
    assert (now.kind, now.state, now.at) == ("reward train", "running", "stage 1 of 1: training")
    assert now.eta_s is not None
    assert now.eta_s > 0
    killed(process)
    assert state(out).state == "killed"
    settings = (out.parent / "rm.partial" / "run.toml").read_text()
    assert "epochs = 40" in settings
    (out.parent / "rm.partial" / "run.toml").write_text(settings.replace("epochs = 40.0", "epochs = 4.0"))
    refused = assay_here("resume", "models/rm", cwd=place)
    assert (refused.returncode, "config.epochs: 40.0 -> 4.0" in refused.stderr) == (2, True)
    done = assay_here("resume", "models/rm", "--epochs", "40", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "run.toml says epochs: 4.0 -> 40.0 (the command line)" in done.stderr
    assert "resumed at step" in done.stdout
    assert state(out).state == "finished"
    assert (out / "run.toml").exists()


@pytest.mark.parametrize("how", ["no", "old"])
def test_what_cannot_be_resumed_says_why(tmp_path: Path, how: str) -> None:
    if how == "old":
        (tmp_path / "x").mkdir()
    done = assay_here("resume", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert ("an earlier version" if how == "old" else "no such folder") in done.stderr
    assert not (tmp_path / "x" / "lock").exists()
    assert [p.name for p in tmp_path.iterdir()] == (["x"] if how == "old" else [])
