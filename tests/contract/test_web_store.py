"""The store on SQLite and on PostgreSQL: who gets which pair, that answers are stored once, and what stands."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from assay.errors import AssayError
from assay.records import Attributes, Case, Judgement, Pair, Response, user
from assay.web import schema
from assay.web.accounts import Accounts
from assay.web.quality import Work
from assay.web.queue import places
from assay.web.schema import MIGRATIONS, Database
from assay.web.seats import Answered, Refused, Seat
from assay.web.settings import Settings
from assay.web.store import Store
from assay.web.store_desk import StoreDesk


def case(n: int, category: str = "Math", objectivity: str = "objective", controversiality: str = "low") -> Case:
    pair = Pair.of((user(f"Question {n}? \x00 \ud800"),), Response.of(f"a{n}"), Response.of(f"b{n}"))
    about = Attributes(pair_id=pair.id, category=category, objectivity=objectivity, controversiality=controversiality,
                       desired=("right",), guideline="g", by="rules")  # fmt: skip
    return Case(pair=pair, attributes=about)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


ONE = Settings(trap_every=0)
TWO = replace(ONE, overlap=2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Store]:
    database = Database(database_url)
    yield Store(database, clock)
    database.close()


def work(seat: Seat, side: int = 0, **more: object) -> Work:
    judgement = Judgement(pair_id=seat.case.pair.id, better=seat.shown[side], by=seat.name, kind="human", shown=seat.shown,
                          seconds=30.0)  # fmt: skip
    return Work(judgement=judgement, words=seat.words, **more)  # type: ignore[arg-type]


def answer(store: Store, name: str, settings: Settings = ONE, side: int = 0) -> str | None:
    """Take the next pair and answer it; its id, or None where there is none."""
    seat = store.take(name, settings)
    if seat is None:
        return None
    assert store.submit(seat.submission, seat.case.pair.id, name, work(seat, side), 2, settings)
    return seat.case.pair.id


def test_pairs_are_loaded_once_and_come_back_whole(store: Store) -> None:
    cases = [case(n) for n in range(5)]
    assert store.load(cases) == 5
    assert store.load([*cases, case(9)]) == 1
    assert store.cases() == [*cases, case(9)]
    assert store.size() == 6
    assert store.case(cases[0].pair.id) == cases[0]
    assert store.case("nothing") is None


def test_the_order_of_the_queue() -> None:
    cases = [case(0, "Math", "subjective", "low"), case(1, "Math", "objective", "high"), case(2, "Math"), case(3, "Math"),
             case(4, "Coding"), case(5, "Math")]  # fmt: skip
    order = sorted(places(cases, {cases[5].pair.id: 0.1, cases[3].pair.id: -0.4}).items(), key=lambda p: p[1])
    assert [next(n for n, c in enumerate(cases) if c.pair.id == i) for i, _ in order] == [4, 3, 5, 2, 1, 0]


def test_no_pair_is_shown_to_two_people(store: Store) -> None:
    store.load([case(n) for n in range(4)])
    first = [store.take(name, ONE) for name in "abcde"]
    assert first[4] is None
    assert len({s.case.pair.id for s in first if s}) == 4
    assert store.take("a", ONE) == first[0]


def test_overlap_shows_each_pair_to_so_many_people(store: Store) -> None:
    store.load([case(0)])
    seats = [store.take(name, TWO) for name in "abc"]
    assert [s is not None for s in seats] == [True, True, False]
    assert answer(store, "a", TWO) == answer(store, "b", TWO)
    assert store.take("c", TWO) is None


def test_a_seat_that_ran_out_goes_to_another_person(store: Store, clock: Clock) -> None:
    store.load([case(0)])
    mine = store.take("a", ONE)
    assert mine
    assert store.take("b", ONE) is None
    clock.now += ONE.lease_s + 1
    assert store.take("b", ONE) is not None
    with pytest.raises(Refused, match="ran out"):
        store.submit(mine.submission, mine.case.pair.id, "a", work(mine), 1, ONE)
    assert answer(store, "b") == mine.case.pair.id
    assert [j.by for j in store.judgements()] == ["b"]


def test_a_late_answer_counts_while_nobody_took_the_seat(store: Store, clock: Clock) -> None:
    store.load([case(0)])
    mine = store.take("a", ONE)
    assert mine
    clock.now += 10 * ONE.lease_s
    assert store.submit(mine.submission, mine.case.pair.id, "a", work(mine), 1, ONE)
    mine = store.take("a", ONE)
    assert mine is None


def test_a_form_sent_twice_is_stored_once(store: Store) -> None:
    store.load([case(0), case(1)])
    seat = store.take("a", ONE)
    assert seat
    sent = [store.submit(seat.submission, seat.case.pair.id, "a", work(seat), 1, ONE) for _ in range(3)]
    assert sent == [True, False, False]
    assert len(store.judgements()) == 1


def test_another_answer_from_a_second_window_is_told_and_not_stored(store: Store) -> None:
    store.load([case(0), case(1)])
    seat = store.take("a", ONE)
    assert seat
    assert store.submit(seat.submission, seat.case.pair.id, "a", work(seat, 0), 1, ONE)
    with pytest.raises(Answered) as told:
        store.submit(seat.submission, seat.case.pair.id, "a", work(seat, 1), 1, ONE)
    assert told.value.judgement.better == seat.shown[0]
    assert [j.better for j in store.judgements()] == [seat.shown[0]]


def test_an_answer_from_a_page_that_was_left_behind_is_refused(store: Store) -> None:
    """The pair was answered and taken back, or skipped and taken back, in another window: this form is an old one."""
    store.load([case(0)])
    first = store.take("a", ONE)
    assert first
    assert store.submit(first.submission, first.case.pair.id, "a", work(first), 1, ONE)
    assert store.undo("a", ONE)
    second = store.take("a", ONE)
    assert second
    store.leave(second.submission, "a", "skip", "")
    store.unleave(second.case.pair.id, "a", "skip", ONE)
    for old in (first, second):
        with pytest.raises(Refused, match="left behind"):
            store.submit(old.submission, old.case.pair.id, "a", work(old), 1, ONE)
        with pytest.raises(Refused, match="left behind"):
            store.leave(old.submission, "a", "skip", "")
    assert store.judgements() == []


def test_what_one_window_typed_stays_when_another_sends_less(store: Store) -> None:
    store.load([case(0)])
    seat = store.take("a", ONE)
    assert seat
    store.draft(seat.submission, "a", {"reason": "a long one", "seconds": "12"})
    assert store.draft(seat.submission, "a", {"code": "1"}) == {"reason": "a long one", "seconds": "12", "code": "1"}
    again = store.take("a", ONE)
    assert again
    assert again.draft == {"reason": "a long one", "seconds": "12", "code": "1"}


def test_nobody_can_answer_for_another_person(store: Store) -> None:
    store.load([case(0), case(1)])
    seat = store.take("a", ONE)
    assert seat
    for pair_id in (seat.case.pair.id, case(1).pair.id):
        with pytest.raises(Refused):
            store.submit(seat.submission, pair_id, "b", work(seat), 1, ONE)
    with pytest.raises(Refused):
        store.submit("0" * 32, "no such pair", "b", work(seat), 1, ONE)
    assert store.judgements() == []


def test_undo_gives_the_pair_back_and_withdraws_the_answer(store: Store) -> None:
    store.load([case(0), case(1)])
    first = answer(store, "a")
    assert store.take("a", ONE)
    assert store.undo("a", ONE)
    assert store.judgements() == []
    again = store.take("a", ONE)
    assert again is not None
    assert again.case.pair.id == first
    assert store.submit(again.submission, first or "", "a", work(again, 1), 1, ONE)
    (standing,) = store.judgements()
    assert standing.better == again.shown[1]
    assert [f.target for f in store.facts("withdrawal")] == [first]
    assert not store.undo("b", ONE)


def test_undo_and_flag_sent_twice_do_it_once(store: Store) -> None:
    """As when the server dies after it did what was asked and before it said so."""
    store.load([case(n) for n in range(3)])
    answer(store, "a")
    second = answer(store, "a")
    at = store.take("a", ONE)
    assert at
    assert store.undo("a", ONE, at.submission)
    for left in (at.submission, "", "0" * 32):
        with pytest.raises(Refused, match="left behind"):
            store.undo("a", ONE, left)
    assert [f.target for f in store.facts("withdrawal")] == [second]
    assert len(store.judgements()) == 1
    back = store.take("a", ONE)
    assert back
    for text in ("odd", "odd", "odder"):
        store.leave(back.submission, "a", "flag", text)
    assert [f.body["text"] for f in store.facts("flag")] == ["odder", "odd"]
    assert store.submit(back.submission, second or "", "a", work(back), 1, ONE)
    assert answer(store, "a")
    assert store.undo("a", ONE, "")  # from the page that says that there is nothing to do


def test_skipping_frees_the_pair_for_others_only(store: Store) -> None:
    store.load([case(0)])
    seat = store.take("a", ONE)
    assert seat
    store.leave(seat.submission, "a", "flag", "odd")
    store.leave(seat.submission, "a", "skip", "too hard")
    assert store.take("a", ONE) is None
    assert store.take("b", ONE) is not None
    assert [(f.kind, f.body["text"]) for f in store.facts("skip", "flag")] == [("skip", "too hard"), ("flag", "odd")]
    with pytest.raises(Refused):
        store.leave(seat.submission, "a", "skip", "again")


def desk(store: Store) -> StoreDesk:
    return StoreDesk(store, Accounts(store.database))


def test_a_skip_is_taken_back_while_nobody_took_the_pair(store: Store) -> None:
    store.load([case(0), case(1), case(2)])
    first = store.take("ann", ONE)
    assert first is not None
    store.leave(first.submission, "ann", "skip", "not now")
    second = store.take("ann", ONE)
    assert second is not None
    assert second.case.pair.id != first.case.pair.id
    store.unleave(first.case.pair.id, "ann", "skip", ONE)
    again = store.take("ann", ONE)
    assert again is not None
    assert again.case.pair.id == first.case.pair.id
    assert desk(store).remarks() == []
    others = [store.take(name, ONE) for name in ("bob", "cleo")]
    left = [case(2).pair.id, second.case.pair.id]
    assert [s.case.pair.id for s in others if s] == left, "the pair that was left for it is held ahead: given away last"
    with pytest.raises(Refused, match="no skip of yours"):
        store.unleave(first.case.pair.id, "ann", "skip", ONE)

    store.leave(again.submission, "ann", "skip", "after all")
    taken = store.take("cai", ONE)
    assert taken is not None
    assert taken.case.pair.id == first.case.pair.id
    with pytest.raises(Refused, match="Somebody else has that pair"):
        store.unleave(first.case.pair.id, "ann", "skip", ONE)
    assert [(r.kind, r.by, r.text) for r in desk(store).remarks()] == [("skip", "ann", "after all")]


def test_a_flag_is_taken_back_and_set_again(store: Store) -> None:
    store.load([case(0)])
    seat = store.take("ann", ONE)
    assert seat is not None
    pair_id = seat.case.pair.id
    for expected in (True, False, True):
        if expected:
            store.leave(seat.submission, "ann", "flag", "odd")
        else:
            store.unleave(pair_id, "ann", "flag", ONE)
        assert store.flagged(pair_id, "ann") is expected
        assert len(desk(store).remarks()) == expected
    assert not store.flagged(pair_id, "bob")
    with pytest.raises(Refused, match="no flag of yours"):
        store.unleave(pair_id, "bob", "flag", ONE)


def test_what_is_left_falls_by_one_with_each_answer(store: Store) -> None:
    settings = replace(ONE, trap_every=3)
    store.load([case(n) for n in range(4)])
    store.load([case(9)], truths={case(9).pair.id: case(9).pair.responses[0].id})
    seen = []
    seat = store.take("ann", settings)
    while seat is not None:
        assert store.pace("ann", settings).left == 5 - len(seen), "known answers count like all others"
        store.submit(seat.submission, seat.case.pair.id, "ann", work(seat), 2, settings)
        seen.append(seat.case.pair.id)
        seat = store.take("ann", settings)
    assert len(seen) == 5
    assert seen[2] == case(9).pair.id
    found = store.pace("ann", settings)
    assert (found.judged, found.left, found.seconds) == (5, 0, 30.0)
    assert len(desk(store).times()) == 4


def test_a_draft_survives(store: Store) -> None:
    store.load([case(0)])
    seat = store.take("a", ONE)
    assert seat
    store.draft(seat.submission, "a", {"reason": "half a \x00 thought \ud800"})
    store.draft(seat.submission, "b", {"reason": "not mine"})
    again = store.take("a", ONE)
    assert again
    assert again.draft == {"reason": "half a \x00 thought \ud800"}


def test_traps_come_regularly_to_everyone_and_are_no_judgements(store: Store) -> None:
    settings = replace(ONE, trap_every=3)
    traps = [case(n) for n in range(100, 102)]
    store.load([case(n) for n in range(20)])
    store.load(traps, truths={c.pair.id: c.pair.responses[0].id for c in traps})
    for name in "ab":
        seen = [answer(store, name, settings) in {c.pair.id for c in traps} for _ in range(9)]
        assert seen == [False, False, True, False, False, True, False, False, False]
    assert len(store.judgements()) == 14
    assert len(store.cases()) == 20
    assert sum(w.right is not None for w in store.works()) == 4


def test_a_lead_closes_a_pair(store: Store) -> None:
    store.load([case(0)])
    seat = store.take("a", TWO)
    assert seat
    store.adjudicate(Judgement(pair_id=seat.case.pair.id, better=seat.shown[0], by="lead", kind="lead"))
    assert store.take("b", TWO) is None
    assert store.submit(seat.submission, seat.case.pair.id, "a", work(seat), 1, TWO)
    assert store.take("b", TWO) is None
    store.adjudicate(Judgement(pair_id=seat.case.pair.id, better=seat.shown[1], by="lead", kind="lead"))
    assert [(j.kind, j.better) for j in store.judgements()] == [("human", seat.shown[0]), ("lead", seat.shown[1])]


def test_judgements_from_elsewhere(store: Store) -> None:
    store.load([case(0), case(1)])
    ids = [r.id for r in case(0).pair.responses]
    rows = [Judgement(pair_id=case(0).pair.id, better=ids[0], by="x", kind="human"),
            Judgement(pair_id=case(0).pair.id, better=ids[1], by="llm:m", kind="llm"),
            Judgement(pair_id="unknown", better=ids[1], by="x", kind="human")]  # fmt: skip
    assert store.add(rows, ONE) == 2
    assert store.add(rows, ONE) == 0
    assert answer(store, "a") == case(1).pair.id
    assert store.add([replace(rows[0], better=ids[1])], ONE) == 1
    assert {(j.by, j.better) for j in store.judgements() if j.pair_id == case(0).pair.id} == {
        ("x", ids[1]),
        ("llm:m", ids[1]),
    }


def test_settings_are_checked_and_kept(store: Store) -> None:
    assert store.settings() == Settings()
    store.set({"overlap": "3", "verdicts": "always"}, "ann")
    store.set({"overlap": "2", "unknown": "x"}, "bob")
    assert store.settings() == Settings(overlap=2, verdicts="always")
    for wrong in ({"overlap": "0"}, {"overlap": "x"}, {"overlap": "-1"}, {"verdicts": "maybe"}, {"overlap": "9" * 50}):
        with pytest.raises(ValueError, match=r".+: (a whole number|choose)"):
            store.set(wrong, "ann")
    assert [f.by for f in store.facts("setting")] == ["bob", "ann", "ann"]


def test_more_overlap_opens_pairs_again(store: Store) -> None:
    store.load([case(0)])
    answer(store, "a")
    assert store.take("b", store.settings()) is None
    store.set({"overlap": "2"}, "admin")
    assert store.take("b", store.settings()) is not None


def test_many_people_at_once(store: Store) -> None:
    """Eight threads race for forty pairs at overlap two, sending each form twice: every pair ends with exactly two
    people."""
    store.load([case(n) for n in range(40)])
    errors: list[BaseException] = []

    def person(name: str) -> None:
        try:
            while (seat := store.take(name, TWO)) is not None:
                both = [threading.Thread(target=store.submit, args=(seat.submission, seat.case.pair.id, name,
                work(seat), 1, TWO))
                        for _ in range(2)]  # fmt: skip
                for thread in both:
                    thread.start()
                for thread in both:
                    thread.join()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    people = [threading.Thread(target=person, args=(f"p{n}",)) for n in range(8)]
    for thread in people:
        thread.start()
    for thread in people:
        thread.join()
    assert errors == []
    found = store.judgements()
    assert set(Counter(j.pair_id for j in found).values()) == {2}
    assert len({(j.pair_id, j.by) for j in found}) == len(found) == 80


def test_an_older_database_is_brought_up_to_date(database_url: str) -> None:
    database = Database(database_url)
    with database.write() as connection:
        connection.execute(sa.text("DROP INDEX sessions_name"))
        connection.execute(sa.text("DROP INDEX sessions_expires"))
        connection.execute(sa.text("DELETE FROM migrations WHERE number > 1"))
    Store(database).load([case(0)])
    database.close()
    database = Database(database_url)
    assert {i["name"] for i in sa.inspect(database.engine).get_indexes("sessions")} == {
        "sessions_name",
        "sessions_expires",
    }
    assert Store(database).cases() == [case(0)]
    with database.write() as connection:
        connection.execute(sa.text(f"INSERT INTO migrations VALUES ({len(MIGRATIONS) + 1})"))
    with pytest.raises(AssayError, match="update assay"):
        Database(database_url)
    database.close()


@pytest.mark.parametrize("url", ["mysql://x", "nonsense", "sqlite:////proc/none/x.db", "postgresql://a@127.0.0.1:1/x"])
def test_a_database_that_cannot_be_used_is_one_line(url: str) -> None:
    with pytest.raises(AssayError) as error:
        Database(url)
    assert "\n" not in str(error.value)


def test_the_tables_are_described() -> None:
    assert set(schema.METADATA.tables) == {"pairs", "seats", "judgements", "facts", "accounts", "sessions"}
