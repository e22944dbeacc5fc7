"""What a run is and where, read from its folder: live, killed, paused, finished, of an older version; nothing is written."""

import json
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from assay import session
from assay.curate.verify import add_judgements
from assay.curate.waiting import note_asked
from assay.errors import AssayError, Paused
from assay.identity import Training
from assay.llm.replies import Reply, open_replies
from assay.recipes import policies, presets
from assay.records import Judgement
from assay.run import Run, jsonable
from assay.session import called
from assay.stages import Stage, model_title, of_run, of_tuning, step_title
from assay.state import _eta, runs, state
from assay.tables import write_text


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies there, the lock left out, which goes with its process."""
    found = [p for p in sorted(folder.rglob("*")) if p.name != "lock"]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


def run_of(folder: Path, **steps: dict[str, object]) -> Path:
    config = {**jsonable(presets.pool()), "inputs": {}}
    with closing(Run(folder, config)):
        pass
    (folder / "environments.jsonl").write_text('{"session": 0, "begun": "2026-01-01T00:00:00+00:00"}\n')
    for name, row in steps.items():
        write_text(folder / f"{name.replace('__', '/')}.json", json.dumps(row))
    return folder


def test_a_run_of_an_older_version_is_told_by_what_it_left(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    before = files(tmp_path)
    now = state(run)
    assert (now.kind, now.state, now.stage, len(now.stages)) == ("run", "killed", 1, 7)
    assert now.started == 1767225600.0
    write_text(run / "seed-0/steps/final.json", "{}")
    assert (state(run).state, state(run).eta_s, state(run).stage) == ("finished", 0.0, 7)
    (run / "seed-0/steps/final.json").unlink()
    (run / "seed-0/steps").rmdir()
    (run / "seed-0").rmdir()
    assert {k: v for k, v in files(tmp_path).items() if k != str(run)} == {
        k: v for k, v in before.items() if k != str(run)
    }


def test_a_run_that_a_process_has_open_is_running(tmp_path: Path) -> None:
    config = {**jsonable(presets.pool()), "inputs": {}}
    with closing(Run(tmp_path / "run", config)):
        assert (state(tmp_path / "run").state, state(tmp_path / "run").live) == ("running", True)
    assert state(tmp_path / "run").live is False


def test_how_a_call_ended_is_told(tmp_path: Path) -> None:
    config, run = {**jsonable(presets.pool()), "inputs": {}}, tmp_path / "run"

    def work(error: BaseException | None) -> None:
        with called("run pool", run, "price = [1.0, 2.0]\n"), closing(Run(run, config)):
            session.at("making vectors", 5, 20)
            now = state(run)
            assert (now.state, now.kind, now.doing) == ("running", "run pool", "making vectors, 5 of 20")
            assert now.process is not None
            if error is not None:
                raise error

    for error, how in (
        (AssayError("no disk"), "failed"),
        (KeyboardInterrupt(), "stopped"),
        (Paused("2 of 3"), "paused"),
    ):
        with pytest.raises(type(error)):
            work(error)
        assert (state(run).state, state(run).live, state(run).doing) == (how, False, "")
    work(None)
    assert state(run).state == "finished"
    (run / session.SESSION).write_text(
        json.dumps({"command": "run pool", "process": "elsewhere 1 1", "begun": "2026-01-01"})
    )
    assert state(run).state == "killed"


def test_what_a_call_that_is_refused_leaves(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    before = files(run)
    with pytest.raises(AssayError, match="another config"), called("run pool", run, "x = 1\n"):
        Run(run, {"other": 1})
    assert files(run) == before


def test_what_a_run_waits_for_is_in_words(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    note_asked(run, 3, ["a", "b"], run / "judgements.jsonl")
    now = state(run)
    assert now.state == "paused"
    assert now.waits_for == f"2 of 3 answers missing; assay verify {run}, or assay web {run}"
    said = Judgement(pair_id="a", better=None, by="me", kind="human", problem="tie", seconds=40.0)
    add_judgements(run / "judgements.jsonl", [said, replace(said, pair_id="b")])
    now = state(run)
    assert now.waits_for == f"all 3 answers are there; assay resume {run}"
    assert (now.cost.answers, now.cost.people_s, str(now.cost)) == (2, 80.0, "2 answers (80 s)")
    (run / "judgements.jsonl").write_text("{}\n" + (run / "judgements.jsonl").read_text())
    assert "judgements.jsonl, line 1: not a judgement" in state(run).waits_for


def test_the_cost_of_servers_is_read_beside_who_writes_it(tmp_path: Path) -> None:
    run, url = run_of(tmp_path / "run"), "http://one/v1"
    (run / session.RUN_FILE).write_text("price = [2.0, 4.0]\n")
    with open_replies(run / "replies.sqlite", url, "m") as replies:
        replies.came("k", "{}", Reply(text="1", tokens_in=1_000_000, tokens_out=500_000))
        assert state(run).cost.dollars == 4.0
    before = files(run)
    assert str(state(run).cost) == "$4.00"
    assert files(run) == before


def test_the_time_left_is_that_of_the_work_left_at_the_speed_so_far() -> None:
    done = Stage(title="a", done=True, effort=100.0, seconds=50.0)
    half, free = (
        Stage(title="b", done=False, effort=60.0, left=30.0),
        Stage(title="c", done=True, effort=0.0, seconds=9.0),
    )
    assert _eta((done, free, half, Stage(title="d", done=False, effort=10.0, left=10.0)), {}) == 20.0
    progress = {"what": "x", "done": 30, "of": 90, "first": 10, "since": 100.0, "at": 110.0}
    assert _eta((done, half), progress) == 30.0, "what is done just now takes longer than that"
    assert _eta((half,), progress) == 30.0
    assert _eta((half, half), {}) is None, "nothing is done yet that tells a speed"


def test_a_training_is_told_before_and_after_it_is_done(tmp_path: Path) -> None:
    identity = {"config": {"epochs": 2.0, "batch_pairs": 4}, "backbone": "x", "pairs": {"n": 10}, "labels": {}}
    training = Training(tmp_path / "rm", identity, "reward model")
    with called("reward train", tmp_path / "rm", "epochs = 2.0\n"):
        training.begin()
        (tmp_path / "rm.partial" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3')
        now = state(tmp_path / "rm")
        assert (now.kind, now.state, now.name) == ("reward train", "running", "rm")
        assert [(s.effort, s.left) for s in now.stages] == [(5.0, 3.0)], "20 pairs, 4 a step, 2 of 5 steps done"
        assert [s.name for s in runs(tmp_path)] == ["rm"]
        (tmp_path / "rm.partial" / "best").mkdir()
        training.finish(tmp_path / "rm.partial" / "best", {"wall_s": 7.0})
    now = state(tmp_path / "rm")
    assert (now.state, now.cost.training_s) == ("finished", 7.0)
    assert (tmp_path / "rm" / session.RUN_FILE).read_text() == "epochs = 2.0\n"


def test_each_stage_of_a_policy_run_has_its_mark(tmp_path: Path) -> None:
    config = jsonable(policies.tiny_vlm())
    order = ["base", "align", "reward-model", "evaluate/aligned", "mpo-1", "evaluate/mpo-1", "grpo", "evaluate/grpo"]
    for n, step in enumerate(order):
        assert [s.done for s in of_tuning(tmp_path, config)] == [k < n for k in range(len(order))]
        write_text(tmp_path / "steps" / f"{step}.json", json.dumps({"wall_s": 2.0}))
    assert all(s.done for s in of_tuning(tmp_path, config))
    assert sum(s.left for s in of_tuning(tmp_path, config)) == 0.0


def test_the_stages_of_a_run_follow_its_files(tmp_path: Path) -> None:
    config = jsonable(presets.pool())
    part, marks = tmp_path / "seed-0", [
        tmp_path / "steps/prepare/split.json", tmp_path / "seed-0/tables/sets/stage1-it0.json",
        tmp_path / "seed-0/tables/sets/stage1-it1.json", tmp_path / "seed-0/tables/labels/stage1.parquet",
        tmp_path / "seed-0/steps/sets/stage1.json", tmp_path / "seed-0/steps/labels.json",
        tmp_path / "seed-0/steps/final.json",
    ]  # fmt: skip
    for n, mark in enumerate(marks):
        assert [s.done for s in of_run(tmp_path, config, {})] == [k < n for k in range(len(marks))]
        write_text(mark, '{"stage1": 100, "stage2": 50}')
    write_text(part / "models/best-rm/training.json", json.dumps({"wall_s": 30.0}))
    both = {**config, "benchmarks": "there"}
    found = {s.title: s for s in of_run(tmp_path, both, {"claims": True})}
    assert [s.title for s in of_run(tmp_path, both, {"claims": True})][-2:] == [
        "benchmarks",
        "the papers' comparison models",
    ]
    assert found["the papers' comparison models"].effort == 3.0 * 3 * (4 * 150 + 100), "three passes, three epochs"
    assert found["training on stage 1's pairs"].seconds == 30.0
    assert found["the papers' comparison models"].done is False


def test_names_are_words_for_people() -> None:
    assert model_title("stage1-it1") == "the model of round 2"
    assert model_title("nohuman-rm") == "comparison: labels without people"
    assert step_title("sets/raw-more") == "measuring the model on all raw labels"
    assert step_title("stage1/judges-it0") == "judges against people, round 1"
    assert step_title("stage1/it0") == "what the model of round 1 gets wrong, and what is asked next"
    assert step_title("evaluate/mpo-1") == "examining MPO, round 1"
    assert step_title("whatever") == "whatever"


def test_reading_is_cheap_and_a_run_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no run here"):
        state(tmp_path)
    assert runs(tmp_path) == []


def test_progress_is_said_when_it_was_silent_for_long() -> None:
    now, heard = [0.0], list[str]()
    progress = session.Progress(lambda: now[0])
    for done, at in ((0, 100.0), (10, 110.0), (20, 120.0), (30, 130.0), (40, 140.0)):
        now[0] = at
        progress.at("vectors", done, 100, heard.append)
    assert heard == ["vectors: 20 of 100, about 80 s left", "vectors: 40 of 100, about 60 s left"]
    assert [session.duration(s) for s in (40, 720, 11_100, 187_200)] == ["40 s", "12 min", "3 h 05 min", "2 days 4 h"]


def test_settings_that_are_not_known_do_not_break_it(tmp_path: Path) -> None:
    with closing(Run(tmp_path / "x", {"arm": "a"})):
        pass
    now = state(tmp_path / "x")
    assert (now.kind, now.stage, now.at) == ("run of parts", 0, "")
    assert now.changed <= time.time()
    assert asdict(now.cost)["answers"] == 0
