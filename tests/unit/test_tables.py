"""Tables: what goes in comes out, a shard is whole or absent, nothing is overwritten."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from assay import locks
from assay.errors import AssayError
from assay.records import Judgement, Label, Message, Pair, Response, user
from assay.run import Run
from assay.tables import Table


def test_nested_records_come_back_equal(tmp_path: Path) -> None:
    pair = Pair.of(
        (user("hi"), Message(role="assistant", content="ho"), Message(role="user", content="é\x00", images=("i1", "i2"))),
        Response.of("a"), Response.of("b"),
    )  # fmt: skip
    table = Table(tmp_path, Pair)
    table.write("one", [pair])
    assert table.read() == [pair]
    assert table.read()[0].id == pair.id


def test_shards_are_read_in_order_and_never_overwritten(tmp_path: Path) -> None:
    table = Table(tmp_path, Judgement)
    rows = [
        Judgement(pair_id=str(i), better=None, problem="tie", by="x", kind="llm", shown=("a", "b")) for i in range(3)
    ]
    table.write("b", rows[1:])
    table.write("a", rows[:1])
    assert table.read() == rows
    assert table.frame().height == 3
    with pytest.raises(AssayError, match="append-only"):
        table.write("a", rows)
    assert table.once("a", lambda: pytest.fail("done work is not repeated")) == rows[:1]


def test_an_unfinished_shard_is_not_a_shard(tmp_path: Path) -> None:
    table = Table(tmp_path, Label)

    def dies() -> list[Label]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table.once("a", dies)
    (tmp_path / "a.123.tmp").write_bytes(b"half")
    assert not table.done("a")
    assert table.read() == []


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(AssayError, match=r"a\.parquet"):
        Table(tmp_path, Label).read()


def test_a_run_folder_refuses_another_config_and_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "WAIT_S", 0.0)
    run = Run(tmp_path, {"lr": 1, "sizes": {"n": 2}})
    assert run.once("step", lambda: {"x": 1})["x"] == 1
    assert run.once("step", lambda: pytest.fail("done work is not repeated"))["x"] == 1
    with pytest.raises(AssayError, match="another process"):
        Run(tmp_path, {"lr": 1, "sizes": {"n": 2}})
    run.close()
    with pytest.raises(AssayError, match=r"sizes\.n: 2 -> 3"):
        Run(tmp_path, {"lr": 1, "sizes": {"n": 3}})
    Run(tmp_path, {"lr": 1, "sizes": {"n": 2}}).close()
    (tmp_path / "config.json").write_text('{"lr": 1')
    for _ in range(2):  # it does not stay locked
        with pytest.raises(AssayError, match=r"config.json: this file is damaged"):
            Run(tmp_path, {"lr": 1, "sizes": {"n": 2}})


def test_shards_older_than_a_column_are_read_with_its_empty_value(tmp_path: Path) -> None:
    table = Table(tmp_path, Judgement)
    new = Judgement(pair_id="p", better="r", by="x", kind="wild", strength=1.5)
    table.write("new", [new])
    old = pq.read_table(tmp_path / "new.parquet").drop_columns(["strength"])
    pq.write_table(old, tmp_path / "old.parquet")
    assert [j.strength for j in table.read("new", "old")] == [1.5, 0.0]
    assert table.frame().height == 2


def test_every_session_s_environment_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, cores in enumerate((2, 64)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        run = Run(tmp_path, {})
        run.once(f"step-{number}", lambda: {"x": 1})
        run.close()
    told = [json.loads(line) for line in (tmp_path / "environments.jsonl").read_text().splitlines()]
    assert [(t["session"], t["cores"]) for t in told] == [(0, 2), (1, 64)]
    made = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(m["step"], m["session"]) for m in made] == [("step-0", 0), ("step-1", 1)]


@pytest.mark.parametrize("left", ['{"step": "two/b", "session": 0, "x": 2}\n', '{"step": "two/b", "ses'])
def test_a_step_whose_line_a_kill_left_behind_is_in_the_metrics_once(left: str, tmp_path: Path) -> None:
    """The kill came between the line and the step's file, or within the line."""
    run = Run(tmp_path, {})
    run.once("one", lambda: {"x": 1})
    run.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(left)
    for _ in range(2):
        run = Run(tmp_path, {})
        run.once("two/b", lambda: {"x": 3})
        run.close()
        made = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [(m["step"], m["x"]) for m in made] == [("one", 1), ("two/b", 3)]


def test_the_metrics_of_a_step_that_was_made_anew_stay(tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    run.once("a/b", lambda: {"x": 1})
    run.close()
    (tmp_path / "superseded/0/steps").mkdir(parents=True)
    (tmp_path / "steps/a").rename(tmp_path / "superseded/0/steps/a")
    run = Run(tmp_path, {})
    run.once("a/b", lambda: {"x": 2})
    run.close()
    made = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(m["step"], m["x"]) for m in made] == [("a/b", 1), ("a/b", 2)]
