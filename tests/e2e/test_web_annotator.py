"""The annotator's flow in a real Chromium, by keyboard, with axe on every state of the page."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from browser import (
    ATTACK,
    FIBONACCI,
    assert_accessible,
    case,
    follow,
    log_in,
    picture,
    plain_cases,
    press,
    site,
    turned,
)
from PIL import Image

from assay.curate.verify import read_judgements
from assay.images import ImageStore
from assay.records import Case, Message, Pair
from assay.web.schema import Database
from assay.web.store import Store
from loopback import answering

CASES: list[Case] = [
    case(*FIBONACCI, objectivity="objective", controversiality="low", category="Coding & Debugging"),
    case(*ATTACK, objectivity="subjective", controversiality="high", category="Other"), *plain_cases(4),
]  # fmt: skip


def submission(page: Any) -> str:
    return str(page.locator("input[name=submission]").input_value())


def test_the_whole_flow_by_keyboard(page: Any, tmp_path: Path) -> None:
    ids = [r.id for r in CASES[0].pair.responses]
    about = {"pair_id": CASES[0].pair.id, "by": "llm:x"}
    verdicts = [{**about, "response_id": ids[0], "text": "The bound is **wrong**.", "right": False},
                {**about, "response_id": ids[1], "text": "Right.", "right": True}]  # fmt: skip
    (tmp_path / "verdicts").write_text("".join(json.dumps(v) + "\n" for v in verdicts))
    with site(tmp_path, CASES, "--verdicts", tmp_path / "verdicts") as where:
        where.add("ann")
        page.goto(f"{where.url}/login")
        assert_accessible(page)
        page.screenshot(path=picture("login"))
        log_in(page, where, "ann")
        assert "Fibonacci" in page.content()
        assert page.locator("math").count() > 0
        assert page.locator("pre.code .k").count() > 0
        assert_accessible(page)
        page.screenshot(path=picture("task"), full_page=True)

        assert not page.get_by_text("verdict on this response").is_visible()
        press(page, "v")
        assert page.get_by_text("verdict on this response").first.is_visible()
        press(page, "c")
        assert page.locator("del.changed").count() > 0
        assert page.locator("ins.changed").count() > 0
        page.keyboard.press("p")
        page.keyboard.type("print(6 * 7)")
        page.keyboard.press("Tab")
        press(page, "Enter")
        assert page.get_by_label("Output of program 1").inner_text() == "42\n"
        assert page.locator("#code").input_value() == "print(6 * 7)"
        assert_accessible(page)
        page.screenshot(path=picture("task-tools"), full_page=True)

        press(page, "2")  # refused: a machine was asked, and there is no reason yet
        assert "a machine was asked" in page.get_by_role("alert").inner_text()
        assert page.evaluate("document.activeElement.id") == "reason"
        page.keyboard.type("The second one is exponential.")
        page.keyboard.press("Escape")
        assert_accessible(page)
        first = submission(page)
        press(page, "2")
        assert submission(page) != first
        assert page.locator(".progress").inner_text().startswith("1 judged by you, 5 left")
        assert page.locator("#did").inner_text() == "Saved: response 1 is better."
        assert page.locator("#live").inner_text() == "Saved: response 1 is better.", "and it is said aloud"

        press(page, "u")  # undo brings the pair and the reason back
        assert page.locator("#did").inner_text() == "Taken back: here is the pair again."
        assert "Fibonacci" in page.content()
        assert page.locator("#reason").input_value() == "The second one is exponential."
        press(page, "6")
        skipped = page.locator("input[name=pair_id]").input_value()
        press(page, "s")
        assert page.locator("#did").inner_text().startswith("Skipped")
        press(page, "u")  # a skip is taken back as well
        assert page.locator("input[name=pair_id]").input_value() == skipped
        for key in ("t", "s", "3", "d"):
            before = submission(page)
            press(page, key)
            assert submission(page) != before
        assert "What is this?" in page.content()  # subjective and controversial: last
        assert page.evaluate("window.ran") is None
        assert "⟦U+202E⟧" in page.content()
        assert_accessible(page)
        page.screenshot(path=picture("task-attack"), full_page=True)
        page.keyboard.press("r")
        page.get_by_label("Why you skip or flag").fill("looks like an attack")
        page.keyboard.press("Escape")
        press(page, "f")
        assert page.locator("#did").inner_text().startswith("Flagged to the lead.")
        press(page, "f")
        assert page.locator("#did").inner_text() == "Taken back: your flag is gone."
        press(page, "f")
        press(page, "4")
        page.wait_for_selector("text=Nothing to do for now")
        assert_accessible(page)
        page.goto(f"{where.url}/me")
        assert_accessible(page)
        page.screenshot(path=picture("me"))
    found = read_judgements(where.run / "judgements.jsonl")
    assert len(found) == 5
    assert {j.by for j in found} == {"ann"}
    (coding,) = (j for j in found if j.pair_id == CASES[0].pair.id)
    assert (coding.better, coding.rationale) == (coding.shown[1], "The second one is exponential.")
    assert 0 < coding.seconds < 3_600
    assert sorted(j.problem for j in found) == ["", "", "", "cannot decide", "tie"]


@contextmanager
def assistant(heard: list[dict[str, Any]]) -> Iterator[str]:
    """An OpenAI-compatible server that answers with Markdown and keeps what it was asked."""

    def answer(_: str, body: dict[str, Any] | None) -> tuple[int, object]:
        assert body is not None
        heard.append(body)
        message = {"role": "assistant", "content": f"It is **red**, <b>{len(heard)}</b>."}
        return 200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {}}

    with answering(answer) as url:
        yield f"{url}/v1"


def test_a_picture_and_the_assistant(page: Any, tmp_path: Path) -> None:
    picture_id = ImageStore(tmp_path / "pictures").add(Image.new("RGB", (64, 48), "red"))
    plain = case("What colour is this?", "Red.", "Blue.")
    asked = (Message(role="user", content="What colour is this?", images=(picture_id,)),)
    pair = Pair.of(asked, *plain.pair.responses)
    shown = Case(pair=pair, attributes=replace(plain.attributes, pair_id=pair.id))
    heard: list[dict[str, Any]] = []
    with assistant(heard) as url, site(
        tmp_path, [shown], "--assistant", f"small@{url}", "--images", tmp_path / "pictures"
    ) as where:  # fmt: skip
        where.add("ann")
        log_in(page, where, "ann")
        assert page.locator("img").evaluate("i => [i.naturalWidth, i.naturalHeight, i.alt !== '']") == [64, 48, True]
        for question in ("Which one is right?", "Are you sure?"):
            if not page.locator("#question").is_visible():
                page.keyboard.press("a")
            page.locator("#question").fill(question)
            with turned(page):
                page.get_by_role("button", name="Ask", exact=True).click()
        assert page.locator(".exchange strong", has_text="red").count() == 2
        assert page.locator(".exchange b").count() == 0, "a reply is text, not HTML"
        assert_accessible(page)
        page.screenshot(path=picture("task-assistant"), full_page=True)
        page.keyboard.press("Escape")
        press(page, "1")
        assert "a machine was asked" in page.get_by_role("alert").inner_text()
        page.locator("#reason").fill("The picture is red all over.")
        page.keyboard.press("Escape")
        press(page, "1")
        said = Store(Database(where.database)).facts("use", target=pair.id)
    assert [m["content"] for m in heard[1]["messages"]][1:] == [
        "Which one is right?", "It is **red**, <b>1</b>.", "Are you sure?",
    ]  # fmt: skip
    assert "Blue." in heard[0]["messages"][0]["content"]
    assert [f.body["question"] for f in said if f.body["tool"] == "assistant"] == [
        "Are you sure?",
        "Which one is right?",
    ]
    (only,) = read_judgements(where.run / "judgements.jsonl")
    assert only.rationale == "The picture is red all over."


@contextmanager
def saved(page: Any, typed: str) -> Iterator[None]:
    """What is typed within is saved afterwards, all of it: who types slowly has a part of it saved before."""
    sent = urlencode({"reason": typed})
    with page.expect_response(lambda r: r.request.method == "POST" and sent in (r.request.post_data or "")):
        yield
    page.wait_for_selector("text=Saved.")


def test_what_is_typed_survives_a_reload_and_a_dead_server(page: Any, tmp_path: Path) -> None:
    with site(tmp_path, CASES) as where:
        where.add("ann")
        log_in(page, where, "ann")
        page.keyboard.press("r")
        with saved(page, "half a thought"):
            page.keyboard.type("half a thought")
        page.reload()
        assert page.locator("#reason").input_value() == "half a thought"
        where.process.terminate()
        where.process.wait(300)
        page.locator("#reason").fill("the server is gone")
        page.wait_for_selector("text=Not saved")
        assert page.locator("#reason").input_value() == "the server is gone"


def test_two_windows_of_one_person(page: Any, tmp_path: Path) -> None:
    """What one window typed and answered, the other neither loses nor overrules; a server that hangs is told."""
    with site(tmp_path, CASES) as where:
        where.add("ann")
        log_in(page, where, "ann")
        other = page.context.new_page()
        other.goto(f"{where.url}/task")
        page.keyboard.press("r")
        with saved(page, "a reason of this window"):
            page.keyboard.type("a reason of this window")
        page.keyboard.press("Escape")
        press(other, "c")  # its form has no reason in it
        assert other.locator("#reason").input_value() == "a reason of this window"
        other.goto(f"{where.url}/task")
        press(page, "2")
        press(other, "6")
        assert "before: response 1 is better. That answer stands." in other.get_by_role("alert").inner_text()
        assert other.locator("#did").inner_text() == "Choose below"
        where.process.send_signal(signal.SIGSTOP)
        try:
            with turned(other):
                other.keyboard.press("4")
                other.wait_for_selector("text=/Still s(ending|aving)/")
                where.process.send_signal(signal.SIGCONT)
        finally:
            where.process.send_signal(signal.SIGCONT)
        assert other.locator("#did").inner_text() == "Saved: response 2 is slightly better."
    found = read_judgements(where.run / "judgements.jsonl")
    assert [(j.better == j.shown[0], j.rationale) for j in found][:1] == [(True, "a reason of this window")]
    assert len(found) == 2


def test_the_pair_can_be_read_when_enlarged(browser: Any, tmp_path: Path) -> None:
    """At 200 % on a laptop the window is 720 by 450: the answers do not lie over the pair."""
    with site(tmp_path, CASES) as where:
        where.add("ann")
        for width, height in ((720, 450), (320, 256), (844, 390)):
            context = browser.new_context(viewport={"width": width, "height": height})
            page = context.new_page()
            log_in(page, where, "ann")
            assert page.evaluate("getComputedStyle(document.querySelector('.answer')).position") == "static"
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            context.close()


def test_help_theme_and_keys(page: Any, tmp_path: Path) -> None:
    with site(tmp_path, CASES) as where:
        where.add("ann")
        log_in(page, where, "ann")
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        keys = page.locator("#help-rows kbd").all_inner_texts()
        assert len(keys) == len(set(keys))
        assert {"1", "2", "3", "4", "5", "6", "t", "d", "s", "f", "r", "c", "p", "e", "w", "o", "?", "m"} <= set(keys)
        assert_accessible(page)
        page.screenshot(path=picture("help"))
        page.locator("#keys-on").uncheck()
        page.keyboard.press("Escape")
        before = submission(page)
        page.keyboard.press("2")
        page.wait_for_timeout(300)
        assert submission(page) == before
        page.locator("#theme").click()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert_accessible(page)
        page.screenshot(path=picture("task-dark"), full_page=True)
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_small_screens(browser: Any, tmp_path: Path) -> None:
    with site(tmp_path, CASES) as where:
        where.add("ann")
        context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
        page = context.new_page()
        log_in(page, where, "ann")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert_accessible(page)
        page.screenshot(path=picture("task-small"), full_page=True)
        bar, window = page.locator(".answer").bounding_box(), page.evaluate("window.innerHeight")
        assert bar["y"] + bar["height"] <= window, "the answers are at hand without scrolling"
        lefts = {b["x"] for b in (n.bounding_box() for n in page.locator(".six button").all())}
        assert len(lefts) == 1, "one column"
        assert page.evaluate("getComputedStyle(document.querySelector('.six button'), '::after').content") == "none"
        with turned(page):
            page.get_by_role("button", name="2 better", exact=True).tap()
        assert page.locator("#did").inner_text() == "Saved: response 2 is better."
        context.close()


def test_everything_works_without_scripts(browser: Any, tmp_path: Path) -> None:
    with site(tmp_path, CASES) as where:
        where.add("ann")
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        log_in(page, where, "ann")
        page.get_by_text("Say why (optional)").click()
        page.locator("#reason").fill("kept")
        follow(page, page.get_by_role("button", name="Compare word by word"))
        page.wait_for_selector("del.changed")
        assert page.locator("#reason").input_value() == "kept"
        first = submission(page)
        follow(page, page.get_by_role("button", name="1 better", exact=True))
        assert submission(page) != first
        context.close()
    (only,) = read_judgements(where.run / "judgements.jsonl")
    assert (only.better, only.rationale) == (only.shown[0], "kept")
