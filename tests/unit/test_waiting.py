"""The one notion of what is left: which pairs lack an answer, and who has them before them."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from assay.curate.rules import rule_attributes
from assay.curate.stage1 import Stage1Config
from assay.curate.verify import add_judgements
from assay.curate.waiting import (
    Desk,
    Hold,
    hold,
    holds,
    lacking,
    note_answered,
    note_asked,
    queued,
    seconds_a_pair,
    set_people_a_pair,
    told,
    waits,
)
from assay.errors import AssayError, Paused
from assay.pipeline.flow import FlowConfig
from assay.pipeline.people_on_file import PeopleOnFile, left
from assay.pipeline.planning import people_forecast
from assay.pipeline.waiting_room import free_port
from assay.processes import this_process
from assay.records import Case, Judgement
from assay.tables import write_text
from pools import pair, small_pool


def said(pair_id: str, by: str = "ann", kind: str = "human", seconds: float = 0.0) -> Judgement:
    return Judgement(pair_id=pair_id, better=None, by=by, kind=kind, problem="tie", seconds=seconds)  # type: ignore[arg-type]


def test_a_pair_is_answered_by_as_many_people_as_are_asked_for_or_by_a_lead(tmp_path: Path) -> None:
    assert lacking(tmp_path, ["a", "b"], [said("a")]) == ["b"]
    set_people_a_pair(tmp_path, 2)
    assert lacking(tmp_path, ["a", "b", "c"], [said("a"), said("a", "bo"), said("b"), said("c", "eve", "lead")]) == [
        "b"
    ]


def test_people_on_file_pause_until_all_is_answered_and_say_who_has_what(tmp_path: Path) -> None:
    cases = [Case(pair=pair(n), attributes=rule_attributes(pair(n))) for n in range(3)]
    people = PeopleOnFile(tmp_path / "judgements.jsonl", tmp_path / "queue")
    with pytest.raises(Paused, match=r"^3 of 3 answers missing; assay verify .*, or assay web .*; then assay resume "):
        people(cases)
    assert queued(tmp_path) == [c.pair.id for c in cases]
    add_judgements(people.judgements, [said(c.pair.id) for c in cases[:2]])
    assert [c.pair.id for c in left(tmp_path)] == [cases[2].pair.id]
    hold(tmp_path, "page", [Hold(pair_id=cases[2].pair.id, by="bea", until=4e9, where="page")])
    with pytest.raises(Paused, match=r"1 of 3 answers missing; .*; bea holds 1 of them \(page, for \d+ min yet\)"):
        people(cases)
    add_judgements(people.judgements, [said(cases[2].pair.id)])
    assert str(waits(tmp_path)) == f"all 1 answers are there; assay resume {tmp_path}".replace("all 1", "all 3")
    write_text(tmp_path / "session.json", json.dumps({"process": this_process()}))
    assert str(waits(tmp_path)) == "all 3 answers are there; the run goes on by itself"
    write_text(tmp_path / "session.json", json.dumps({"process": this_process(), "ended": 1.0}))
    assert str(waits(tmp_path)).endswith(f"assay resume {tmp_path}")
    assert len(people(cases)) == 3
    assert waits(tmp_path) is None
    assert left(tmp_path) == []


def test_a_run_that_waits_goes_on_by_itself(tmp_path: Path) -> None:
    cases = [Case(pair=pair(n), attributes=rule_attributes(pair(n))) for n in range(2)]

    def answer(run: Path) -> None:
        add_judgements(run / "judgements.jsonl", [said(c.pair.id) for c in left(run)[:1]])  # one at a time

    assert len(PeopleOnFile(tmp_path / "judgements.jsonl", tmp_path / "queue", answer)(cases)) == 2


def test_a_run_of_an_older_version_waits_for_its_whole_queue(tmp_path: Path) -> None:
    cases = [Case(pair=pair(n), attributes=rule_attributes(pair(n))) for n in range(3)]
    with pytest.raises(Paused):
        PeopleOnFile(tmp_path / "judgements.jsonl", tmp_path / "queue")(cases)
    (tmp_path / "asked.json").unlink()
    add_judgements(tmp_path / "judgements.jsonl", [said(cases[0].pair.id)])
    now = waits(tmp_path)
    assert now is not None
    assert (now.asked, len(now.missing)) == (3, 2)


def test_seats_end_and_are_told(tmp_path: Path) -> None:
    seat = Hold(pair_id="a", by="ann", until=1_000.0, where="page")
    hold(tmp_path, "page", [seat, replace(seat, pair_id="b", until=1_300.0)])  # they are over by today's clock
    assert holds(tmp_path, clock=lambda: 999.0)[0] == seat
    assert [h.pair_id for h in holds(tmp_path, clock=lambda: 1_000.0)] == ["b"]
    assert holds(tmp_path) == ()
    assert told((seat,), lambda: 400.0) == "; ann holds 1 of them (page, for 10 min yet)"


def test_a_terminal_leaves_to_others_what_they_have(tmp_path: Path) -> None:
    note_asked(tmp_path, 2, ["a", "b"], tmp_path / "judgements.jsonl")
    now = time.time()
    ann, bo = (Desk(tmp_path, who, tmp_path / "judgements.jsonl", False, lambda: now) for who in ("ann", "bo"))
    ann.hold("a")
    assert ann.elsewhere("a") == bo.elsewhere("b") == ""
    assert bo.elsewhere("a") == "ann holds it (terminal, for 10 min yet)"
    bo.hold("b")
    ann.hold("")
    assert [h.by for h in holds(tmp_path)] == ["bo"]
    add_judgements(tmp_path / "judgements.jsonl", [said("a", "ann")])
    assert bo.elsewhere("a") == "it was answered meanwhile"


def test_a_damaged_note_says_which_file(tmp_path: Path) -> None:
    (tmp_path / "asked.json").write_text("{")
    with pytest.raises(AssayError, match=r"asked.json: cannot be read .*take it away"):
        waits(tmp_path)
    note_answered(tmp_path)
    assert waits(tmp_path) is None


def test_the_forecast_is_of_the_settings_and_of_the_seconds_so_far(tmp_path: Path) -> None:
    pool, pairs = small_pool(tmp_path / "pool", n=100)
    first = Stage1Config(iterations=2, seed_gold=10, per_iteration=20, gold_share=0.25)
    config, file = FlowConfig(recipe="pool", stage1=first, evaluation_gold=30), tmp_path / "run" / "judgements.jsonl"
    (line,) = people_forecast(pool, config, tmp_path / "run", file)
    assert line == (
        "people: at most 40 answers in 3 rounds (30 first, then at most 5 each), about 40 min of people's time at 60 s a "
        "pair (assumed, for no answer was timed yet)"
    )  # fmt: skip
    add_judgements(file, [said(p.id, seconds=s) for p, s in zip(pairs, (10.0, 30.0, 90.0), strict=False)])
    (line,) = people_forecast(pool, config, tmp_path / "run", file)
    assert "at most 37 more answers" in line
    assert "about 18 min of people's time at 30 s a pair (the median so far)" in line
    assert seconds_a_pair([]) is None
    done = tmp_path / "run/seed-0/steps/final.json"
    done.parent.mkdir(parents=True)
    done.write_text(json.dumps({}))
    assert people_forecast(pool, config, tmp_path / "run", file) == []


def test_a_port_that_is_taken_is_another_one() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert free_port(taken.getsockname()[1]) != taken.getsockname()[1]
