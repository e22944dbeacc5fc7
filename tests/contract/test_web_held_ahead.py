"""The pair that is held while its holder reads the one before it: whose it is, in which order, and when it goes."""

from dataclasses import replace
from random import Random

import pytest
import sqlalchemy as sa
from test_web_store import ONE, TWO, Clock, case, clock, store, work

from assay.web import schema
from assay.web.schema import Database
from assay.web.seats import Refused, Seat
from assay.web.settings import Settings
from assay.web.sharing import held_by_others
from assay.web.store import Store

__all__ = ["clock", "store"]  # fixtures
TRAPS = replace(ONE, trap_every=3)


def read(store: Store, name: str, settings: Settings = ONE, shown: str = "") -> tuple[Seat, Seat | None]:
    """The pair that is before somebody, and the one that their page holds behind it."""
    seat = store.take(name, settings, shown)
    assert seat is not None
    return seat, store.take_ahead(name, settings, seat.submission)


def submit(store: Store, seat: Seat, settings: Settings = ONE) -> None:
    store.submit(seat.submission, seat.case.pair.id, seat.name, work(seat), 2, settings)


def test_the_pair_that_is_held_comes_next_and_is_nobody_elses(store: Store) -> None:
    store.load([case(n) for n in range(4)])
    first, ahead = read(store, "ann")
    assert ahead is not None
    assert ahead.case.pair.id == case(1).pair.id
    assert read(store, "ann") == (first, ahead), "a reload holds no further one"
    bob, behind = read(store, "bob")
    assert [s.case.pair.id for s in (bob, behind) if s] == [case(2).pair.id, case(3).pair.id]
    assert held_by_others(store, "cleo") == [("ann", 1, first.expires), ("bob", 1, bob.expires)], "one each is open"
    submit(store, first)
    assert store.take("ann", ONE, ahead.submission) == replace(ahead, expires=ahead.expires)
    assert store.take_ahead("ann", ONE, first.submission) is None, "for a page that is left nothing is held"


def test_what_is_held_is_given_to_whom_has_nothing_else(store: Store) -> None:
    """And its holder is told, may not answer it, and has the queue's word for it."""
    store.load([case(0), case(1)])
    first, ahead = read(store, "ann")
    assert ahead is not None
    bob, behind = read(store, "bob")
    assert (bob.case, behind) == (ahead.case, None)
    submit(store, first)
    assert store.take("ann", ONE, ahead.submission) is None
    assert store.why_gone("ann", ahead.submission) == "somebody else has it by now"
    with pytest.raises(Refused):
        submit(store, ahead)
    submit(store, bob)
    assert [(j.by, j.pair_id) for j in store.judgements()] == [("ann", case(0).pair.id), ("bob", case(1).pair.id)]


def test_what_is_held_is_given_back_when_its_page_goes_or_its_time_ends(store: Store, clock: Clock) -> None:
    store.load([case(n) for n in range(3)])
    first, ahead = read(store, "ann")
    assert ahead is not None
    store.release("ann", first.submission)
    store.release("bob", ahead.submission)
    assert store.take_ahead("ann", ONE, first.submission) == ahead, "only what is held ahead, by who holds it"
    store.release("ann", ahead.submission)
    bob = store.take("bob", ONE)
    assert bob is not None
    assert bob.case == ahead.case
    store.leave(bob.submission, "bob", "skip", "")
    submit(store, first)
    shown = store.take("ann", ONE, ahead.submission)
    assert shown is not None
    assert shown.submission == ahead.submission, "it stood on the screen already, and nobody has it"
    held = store.take_ahead("ann", ONE, shown.submission)
    assert held is not None
    clock.now += ONE.lease_s + 1
    cleo = store.take("cleo", ONE)
    assert cleo is not None
    assert cleo.case == ahead.case, "ann's time for both has run out"


def test_a_trap_comes_where_it_would_without_holding(store: Store) -> None:
    """Answers, skips and what is taken back, in any order: the pairs are those of a page that holds nothing."""
    rng = Random(0)
    cases = [case(n) for n in range(30)]
    known = [case(n) for n in (90, 91, 92, 93)]
    store.load(known, truths={c.pair.id: c.pair.responses[0].id for c in known})
    store.load(cases)
    wide = replace(TRAPS, overlap=2)
    done: dict[str, list[tuple[str, str]]] = {"plain": [], "ahead": []}
    acts = [rng.choice(["answer", "answer", "answer", "skip", "undo"]) for _ in range(40)]
    for name, told in done.items():
        shown = ""
        for act in acts:
            seat = store.take(name, wide, shown)
            shown = ""
            assert seat is not None
            told.append((act, seat.case.pair.id))
            ahead = store.take_ahead(name, wide, seat.submission) if name == "ahead" else None
            if act == "answer":
                submit(store, seat, wide)
                shown = ahead.submission if ahead else ""
            elif act == "skip":
                store.leave(seat.submission, name, "skip", "")
            else:
                store.undo(name, wide, seat.submission)
    assert done["ahead"] == done["plain"]
    assert len({i for _, i in done["plain"]} & {c.pair.id for c in known}) == 4, "the test has met them"


def test_what_needs_no_more_answers_is_not_shown(store: Store) -> None:
    store.load([case(n) for n in range(3)])
    first, ahead = read(store, "ann")
    assert ahead is not None
    store.adjudicate(replace(work(ahead).judgement, by="lea", kind="lead"))
    submit(store, first)
    after = store.take("ann", ONE, ahead.submission)
    assert after is not None
    assert after.case == case(2)
    assert store.why_gone("ann", ahead.submission) == "it needs no more answers"
    held = store.take_ahead("ann", ONE, after.submission)
    assert held is None, "nothing is left"


def test_what_was_typed_in_a_pair_waits_behind_the_one_that_was_taken_back(store: Store) -> None:
    store.load([case(n) for n in range(4)])
    first, second = read(store, "ann")
    assert second is not None
    submit(store, first)
    assert read(store, "ann", shown=second.submission)[1] is not None
    store.draft(second.submission, "ann", {"reason": "half a thought"})
    assert store.undo("ann", ONE, second.submission)
    again, held = read(store, "ann")
    assert again.case == first.case
    assert held is not None
    assert (held.submission, held.draft) == (second.submission, {"reason": "half a thought"})
    bob = store.take("bob", ONE)
    assert bob is not None
    assert bob.case == case(2), "what was held behind it is free"


def test_time_runs_from_when_a_pair_can_be_seen(store: Store, clock: Clock) -> None:
    """Where nobody saw it while it was held, from when it is given; what stood on the screen is not cut by a slow save."""
    store.load([case(n) for n in range(3)])
    first, ahead = read(store, "ann")
    assert ahead is not None
    clock.now += 100
    submit(store, first)
    after = store.take("ann", ONE)
    assert after is not None
    assert (after.submission, after.opened) == (ahead.submission, clock.now)
    held = store.take_ahead("ann", ONE, after.submission)
    assert held is not None
    clock.now += 10
    submit(store, after)
    last = store.take("ann", ONE, held.submission)
    assert last is not None
    assert last.opened == clock.now - 10


def test_many_people_who_hold_pairs_ahead(store: Store) -> None:
    """In any order of looks and answers, each pair ends with exactly two people, and nobody waits while any is left."""
    rng = Random(1)
    store.load([case(n) for n in range(25)])
    at: dict[str, tuple[Seat, Seat | None] | None] = {}
    names = [f"p{n}" for n in range(4)]
    for _ in range(400):
        name = rng.choice(names)
        if name in at and (now := at[name]) is not None and rng.random() < 0.7:
            submit(store, now[0], TWO)
            shown = now[1].submission if now[1] else ""
        else:
            shown = ""
        seat = store.take(name, TWO, shown)
        at[name] = (seat, store.take_ahead(name, TWO, seat.submission)) if seat else None
    found = store.judgements()
    assert len({(j.pair_id, j.by) for j in found}) == len(found) == 50


def test_a_database_without_held_pairs_is_brought_up_to_date(database_url: str) -> None:
    database = Database(database_url)
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE seats DROP COLUMN ahead"))
        connection.execute(sa.text("DELETE FROM migrations WHERE number > 3"))
    database.close()
    database = Database(database_url)
    assert "ahead" in {c["name"] for c in sa.inspect(database.engine).get_columns(schema.seats.name)}
    store = Store(database, Clock())
    store.load([case(0), case(1)])
    assert read(store, "ann")[1] is not None
    database.close()
