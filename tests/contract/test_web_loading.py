"""What is finished on the page gets into the run's judgements, and what is taken back is withdrawn there."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_web_store import ONE, TWO, answer, case, work

from assay.curate.rules import rule_attributes
from assay.curate.verify import add_judgements, read_judgements, withdraw_judgements
from assay.curate.waiting import Desk, holds, lacking
from assay.records import Case, Judgement, Pair, Response, user
from assay.tables import Table
from assay.web import sharing
from assay.web.loading import Syncing, load_run, sync
from assay.web.schema import Database
from assay.web.sharing import Sharing, held_by_others
from assay.web.store import Store


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    database = Database(database_url)
    yield Store(database)
    database.close()


def test_each_answer_is_written_once_and_a_pair_lacks_as_many_as_are_asked_for(store: Store, tmp_path: Path) -> None:
    store.load([case(0), case(1)])
    store.set({"overlap": "2"}, "admin")
    first = answer(store, "a", TWO)
    ids, out = [case(0).pair.id, case(1).pair.id], tmp_path / "judgements.jsonl"
    assert sync(store, tmp_path) == 1
    assert lacking(tmp_path, ids, read_judgements(out)) == ids
    assert answer(store, "b", TWO) == first
    second = answer(store, "b", TWO)
    assert second != first
    assert [sync(store, tmp_path) for _ in range(3)] == [2, 0, 0]
    assert lacking(tmp_path, ids, read_judgements(out)) == [second]
    assert {(j.pair_id, j.by) for j in read_judgements(out)} == {(first, "a"), (first, "b"), (second, "b")}


def test_what_a_terminal_says_is_on_the_page_be_it_open_or_closed(store: Store, tmp_path: Path) -> None:
    store.load([case(0), case(1)])
    out, pairs = tmp_path / "judgements.jsonl", [case(0).pair, case(1).pair]
    said = [Judgement(pair_id=p.id, better=p.responses[0].id, by="me", kind="human", seconds=3.0) for p in pairs]
    add_judgements(out, said[:1])
    shared = Sharing(store, tmp_path)
    assert shared.sync() == 0
    assert store.judgements() == said[:1]
    seat = store.take("ann", ONE)
    assert seat is not None
    assert seat.case.pair == pairs[1], "the other one was answered in the terminal"
    store.leave(seat.submission, "ann", "skip", "")
    add_judgements(out, said[1:])
    shared.sync()
    assert store.judgements() == said
    withdraw_judgements(out, said[:1])  # while it is closed
    corrected = replace(said[1], better=None, problem="tie")
    add_judgements(out, [corrected])
    assert Sharing(store, tmp_path).sync() == 0
    assert store.judgements() == [corrected]
    seat = store.take("ann", ONE)
    assert seat is not None
    assert seat.case.pair == pairs[0], "what was taken back is asked about again"


def test_what_an_oracle_said_stays_in_the_file(store: Store, tmp_path: Path) -> None:
    store.load([case(0)])
    pair, out = case(0).pair, tmp_path / "judgements.jsonl"
    said = [Judgement(pair_id=pair.id, better=pair.responses[0].id, by="oracle", kind="oracle")]
    add_judgements(out, said)
    for _ in range(3):
        Sharing(store, tmp_path).sync()
    assert read_judgements(out) == said
    assert store.judgements() == []


def test_nobody_sits_down_on_the_page_at_a_pair_that_a_terminal_has(store: Store, tmp_path: Path) -> None:
    store.load([case(0), case(1)])
    shared, first = Sharing(store, tmp_path), store.cases()[0].pair.id
    desk = Desk(tmp_path, "me", tmp_path / "judgements.jsonl", True)
    desk.hold(first)
    shared.sync()
    seat = store.take("ann", ONE)
    assert seat is not None
    assert seat.case.pair.id != first
    assert store.take("bo", ONE) is None
    shared.sync()
    assert {(h.pair_id, h.by, h.where) for h in holds(tmp_path)} == {
        (first, "me", "terminal"), (seat.case.pair.id, "ann", "page")
    }  # fmt: skip
    assert desk.elsewhere(seat.case.pair.id).startswith("ann holds it (page, for ")
    assert [(who, n) for who, n, _ in held_by_others(store, "bo")] == [("ann", 1), ("me", 1)]
    desk.hold("")
    shared.sync()
    other = store.take("bo", ONE)
    assert other is not None
    assert other.case.pair.id == first


def test_an_answer_that_comes_while_both_are_made_the_same_is_not_lost(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody answers on the page, and somebody in a terminal, right after what was there has been read."""
    store.load([case(0), case(1), case(2)])
    shared, write = Sharing(store, tmp_path), add_judgements
    answer(store, "a")
    late = Judgement(pair_id=store.cases()[2].pair.id, better=None, by="me", kind="human", problem="tie")

    def add(out: Path, rows: list[Judgement]) -> int:
        if not store.works("b"):
            answer(store, "b")
            write(out, [late])
        return write(out, rows)

    monkeypatch.setattr(sharing, "add_judgements", add)
    for _ in range(3):
        shared.sync()
    said = {(j.pair_id, j.by) for j in store.judgements()}
    assert len(said) == 3
    assert said == {(j.pair_id, j.by) for j in read_judgements(shared.out)}


def test_a_word_changed_on_both_sides_is_that_of_the_page(store: Store, tmp_path: Path) -> None:
    store.load([case(0)])
    answer(store, "a")
    shared = Sharing(store, tmp_path)
    shared.sync()
    (held,) = read_judgements(shared.out)
    assert store.undo("a", ONE)
    add_judgements(shared.out, [replace(held, better=None, problem="tie")])
    shared.sync()
    assert read_judgements(shared.out) == store.judgements() == []


def test_what_is_taken_back_is_withdrawn_from_the_run(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "judgements.jsonl"
    store.load([case(0), case(1), case(2)])
    first, second = answer(store, "a"), answer(store, "a")
    sync(store, tmp_path)
    assert {j.pair_id for j in read_judgements(out)} == {first, second}
    assert store.undo("a", ONE)
    sync(store, tmp_path)
    assert {j.pair_id for j in read_judgements(out)} == {first}
    again = store.take("a", ONE)
    assert again
    assert store.submit(again.submission, second or "", "a", work(again, 1), 2, ONE)
    sync(store, tmp_path)
    assert {(j.pair_id, j.better) for j in read_judgements(out) if j.pair_id == second} == {(second, again.shown[1])}
    lines = out.read_text()
    sync(store, tmp_path)
    assert out.read_text() == lines


def test_what_was_said_elsewhere_is_left_alone(store: Store, tmp_path: Path) -> None:
    """The person took it back on the page and then answered in the terminal."""
    out = tmp_path / "judgements.jsonl"
    store.load([case(0)])
    answer(store, "a")
    sync(store, tmp_path)
    (held,) = read_judgements(out)
    assert store.undo("a", ONE)
    sync(store, tmp_path)
    elsewhere = replace(held, better=None, problem="tie", seconds=99.0)
    add_judgements(out, [elsewhere])
    sync(store, tmp_path)
    assert read_judgements(out) == [elsewhere]


def test_a_failure_is_said_and_tried_again(store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store.load([case(0)])
    answer(store, "a")
    out = tmp_path / "judgements.jsonl"
    out.write_text("not a judgement\n")
    with Syncing(store, tmp_path, seconds=0.05):
        deadline, said = time.monotonic() + 300, ""
        while "not a judgement" not in said and time.monotonic() < deadline:
            time.sleep(0.02)
            said += capfd.readouterr().err
        assert "not a judgement" in said
        out.unlink()
        while not read_judgements(out) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(read_judgements(out)) == 1


def test_pairs_that_the_run_asks_about_later_come_by_themselves(store: Store, tmp_path: Path) -> None:
    pairs = [Pair.of((user(f"{n}?"),), Response.of("a"), Response.of("b")) for n in range(3)]
    asked = [Case(pair=p, attributes=rule_attributes(p)) for p in pairs]
    queue = Table(tmp_path / "queue", Case)
    queue.write("first", asked[:1])
    assert load_run(store, tmp_path) == 1
    with Syncing(store, tmp_path, seconds=0.05):
        queue.write("second", asked[1:])
        deadline = time.monotonic() + 300
        while store.size() < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert {c.pair.id for c in store.cases()} == {p.id for p in pairs}
