"""The next pair stands on the screen at the key, while the answer is being saved; and what is said when it was not.

A server that is stopped (SIGSTOP) answers nobody, so what is on the screen meanwhile was there before.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from browser import Site, assert_accessible, log_in, picture, plain_cases, press, site, start, turned
from test_web_annotator import submission

from assay.curate.waiting import holds
from assay.records import Judgement
from assay.web.accounts import Accounts
from assay.web.schema import Database
from assay.web.store import Store


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One page for all: each test has a person of its own."""
    with site(tmp_path_factory.mktemp("ahead"), plain_cases(60)) as there:
        yield there


def add(where: Site, name: str) -> None:
    database = Database(where.database)
    where.tokens[name] = Accounts(database).invite(name, "annotator", "test")
    database.close()


def enter(page: Any, where: Site, name: str) -> None:
    add(where, name)
    with held(page):
        log_in(page, where, name)


@contextmanager
def held(page: Any) -> Iterator[None]:
    """What is done within ends with the next pair held."""
    with page.expect_response(lambda r: "/task/ahead" in r.url) as told:
        yield
    told.value.finished()


@contextmanager
def stopped(where: Site) -> Iterator[None]:
    where.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        where.process.send_signal(signal.SIGCONT)


def saved(page: Any) -> str:
    page.wait_for_function("() => !('saving' in document.documentElement.dataset)")
    return str(page.locator("#did").inner_text())


def given(where: Site, name: str) -> list[str]:
    """What stands of a person, oldest first: the side that is better, and the reason."""
    database = Database(where.database)
    found = [w.judgement for w in Store(database).works(name)]
    database.close()
    return [f"{j.shown.index(j.better) + 1 if j.better else j.problem} {j.rationale}".strip() for j in found]


def test_the_next_pair_is_there_while_the_server_is_not(page: Any, where: Site) -> None:
    """Then what was pressed and typed meanwhile follows, in order, once."""
    enter(page, where, "ann")
    first = submission(page)
    with held(page), stopped(where):
        page.keyboard.press("2")
        page.wait_for_function("first => document.querySelector('[name=submission]').value !== first", arg=first)
        assert page.locator("#did").inner_text() == "Saving: 1 better…"
        assert page.locator(".progress").inner_text().startswith("0 judged by you"), "what is counted is saved"
        second = submission(page)
        page.keyboard.press("r")
        page.keyboard.type("of the second")
        page.wait_for_selector("text=Still saving")
        assert_accessible(page)
    assert saved(page) == "Saved: response 1 is better."
    assert page.locator("#reason").input_value() == "of the second"
    assert submission(page) == second
    assert page.locator(".progress").inner_text().startswith("1 judged by you, ")
    page.keyboard.press("Escape")
    with stopped(where):
        page.keyboard.press("6")
        page.keyboard.press("t")  # waits for the answer before it
    page.wait_for_function("() => document.querySelector('.progress strong').textContent === '3'")
    press(page, "u")
    assert page.locator("#did").inner_text() == "Taken back: here is the pair again."
    press(page, "u")
    assert submission(page) != second, "it comes back anew"
    assert page.locator("#reason").input_value() == "of the second"
    press(page, "1")
    assert given(where, "ann") == ["1", "1 of the second"], "each once, and what was taken back is gone"


def test_an_answer_that_was_not_saved_brings_its_pair_back(page: Any, where: Site) -> None:
    """With what was typed, there and in the pair after it; a server that was killed loses nothing."""
    enter(page, where, "bea")
    first = submission(page)
    page.keyboard.press("r")
    page.keyboard.type("typed before")
    page.wait_for_selector("text=Saved.")
    page.keyboard.press("Escape")
    with page.expect_request(lambda r: r.method == "POST"):
        where.process.send_signal(signal.SIGSTOP)
        page.keyboard.press("3")
    second = submission(page)
    assert second != first
    page.keyboard.press("r")
    page.keyboard.type("typed after")
    page.keyboard.press("Escape")
    page.keyboard.press("5")
    with turned(page):
        where.process.kill()
    where.process.wait(300)
    told = page.locator("#did").inner_text()
    assert told.startswith("Not saved: is the server there?")
    assert told.endswith("What you pressed since was not sent.")
    assert submission(page) == first
    assert page.locator("#reason").input_value() == "typed before"
    assert_accessible(page)
    page.screenshot(path=picture("task-not-saved"))
    port = int(where.url.rsplit(":", 1)[1])
    where.process = start(where.run, port, "--database", where.database)
    press(page, "2")
    assert page.locator("#did").inner_text() == "Saved: response 1 is better."
    assert (submission(page), page.locator("#reason").input_value()) == (second, "typed after")
    press(page, "5")
    assert given(where, "bea") == ["1 typed before", "2 typed after"]


def test_what_was_typed_ahead_is_there_after_a_skip(page: Any, where: Site) -> None:
    """The answer did not get through, so its pair is skipped: the one after it is as it was left."""
    enter(page, where, "ivy")
    asked: list[Any] = []
    page.route("**/task", lambda route: asked.append(route))
    page.keyboard.press("2")
    page.keyboard.press("r")
    page.keyboard.insert_text("typed after")
    page.keyboard.press("Escape")
    second = submission(page)
    with turned(page):
        asked[0].abort()
    page.unroute("**/task")
    assert submission(page) != second
    press(page, "s")
    assert (submission(page), page.locator("#reason").input_value()) == (second, "typed after")
    assert page.locator("#did").inner_text().startswith("Skipped")
    press(page, "2")
    assert given(where, "ivy") == ["1 typed after"]


def test_a_pair_that_went_elsewhere_is_taken_from_the_screen_and_said(page: Any, where: Site) -> None:
    """Answered in another window, given to somebody else, and the answer before it refused."""
    enter(page, where, "cai")
    other = page.context.new_page()
    with held(other):
        other.goto(f"{where.url}/task")
    press(page, "2")
    press(page, "2")
    third = submission(page)
    press(other, "2")  # the same answer as in the first window, and then the pair that was answered there as well
    told = other.get_by_role("alert").inner_text()
    assert told == "The pair that stood here is gone: you answered it in another window."
    assert other.locator("#did").inner_text() == "Saved: response 1 is better."
    assert submission(other) == third
    page.reload()
    with held(other):
        other.reload()
    press(page, "1")
    press(other, "6")
    assert "before: response 1 is much better. That answer stands." in other.get_by_role("alert").inner_text()
    assert submission(other) == submission(page)
    assert other.locator("#did").inner_text() == "Choose below"


def test_a_log_in_in_another_tab_lets_the_answer_through(page: Any, where: Site) -> None:
    enter(page, where, "dan")
    first = submission(page)
    other = page.context.new_page()
    other.goto(f"{where.url}/me")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url("**/login")
    page.locator(".why summary").click()
    page.locator("#reason").fill("typed without a session")
    page.keyboard.press("Escape")
    with turned(page), turned(page):
        page.keyboard.press("2")
    assert page.locator("#did").inner_text().startswith("Not saved: you are logged out.")
    assert (submission(page), page.locator("#reason").input_value()) == (first, "typed without a session")
    log_in(other, where, "dan")
    press(page, "2")
    assert page.locator("#did").inner_text() == "Saved: response 1 is better."
    assert given(where, "dan") == ["1 typed without a session"]


def test_a_page_that_goes_gives_back_what_it_held(page: Any, where: Site) -> None:
    def mine() -> int:
        return len([h for h in holds(where.run) if h.by == "eva"])

    def until(count: int) -> None:
        for _ in range(100):
            if mine() == count:
                return
            page.wait_for_timeout(100)
        assert mine() == count

    enter(page, where, "eva")
    until(2)
    page.goto(f"{where.url}/me")
    until(1)


def test_seconds_are_those_in_which_a_pair_was_seen(page: Any, where: Site) -> None:
    page.clock.install(time=0)
    enter(page, where, "fay")
    page.clock.pause_at(1_000_000)
    before = float(page.locator("[name=seconds]").input_value())
    page.clock.run_for(20_000)
    assert float(page.locator("[name=seconds]").input_value()) == before + 20
    press(page, "2")
    page.clock.run_for(7_000)
    assert page.locator("[name=seconds]").input_value() == "7.0"


def test_the_end_of_the_queue_and_who_waits_for_what_is_held(page: Any, browser: Any, where: Site) -> None:
    database = Database(where.database)
    store = Store(database)
    for one in store.cases()[:-3]:  # a lead decides all but three
        store.adjudicate(Judgement(pair_id=one.pair.id, better=one.pair.responses[0].id, by="lea", kind="lead"))
    database.close()
    add(where, "hal")
    enter(page, where, "gus")
    context = browser.new_context()
    hal = context.new_page()
    log_in(hal, where, "hal")
    press(hal, "2")  # the third; what gus holds ahead is left
    assert hal.locator("#task").count() == 1
    press(page, "2")
    assert page.locator("h1").inner_text() == "Nothing to do for now"
    assert "The pair that stood here is gone: somebody else has it by now." in page.content()
    assert "hal has 1" in page.locator("#held").inner_text()
    press(hal, "2")
    assert hal.locator("h1").inner_text() == "Nothing to do for now"
    context.close()
    assert [len(given(where, name)) for name in ("gus", "hal")] == [1, 2]
