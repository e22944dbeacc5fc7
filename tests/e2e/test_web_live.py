"""The live page in a real Chromium: a training that goes on, servers that are killed, texts that nobody can trust."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from browser import Site, assert_accessible, follow, picture, plain_cases, site, start
from starlette.testclient import TestClient

from assay.examples import FATES
from assay.journal import Journal
from assay.policy.shown import FOLDER, ShownAnswer
from assay.records import Label
from assay.tables import Table, write_text
from assay.web.app import make_watch_app
from assay.web.live import PAGE
from ports import free_port

EVIL = "<img src=x onerror=\"window.ran='answer'\"><script>window.ran='script'</script>\u202e"


def grpo(step: int) -> dict[str, Any]:
    """A line as a training by GRPO writes them."""
    return {
        "loss": 1 / step, "rule": 0.5, "right": 0.5, "reward": 0.1 * step, "format": 1.0, "model": 0.2, "length": 20 + step,
        "entropy": 0.5, "effective_rule": 0.5, "effective_total": 0.75, "batch_effective": 1.0, "buffer_age": 1.5,
        "kl": 0.01, "watch_accuracy": 0.6, "watch_accuracy_se": 0.05, "watch_hallucination_rate": 0.4,
        "watch_hallucination_rate_se": 0.05, "problems": {EVIL: 1},
    }  # fmt: skip


def answer(text: str, total: float, **more: Any) -> ShownAnswer:
    fields: dict[str, Any] = {"ended": True, "rule": 1.0, "problem": "", **more}
    return ShownAnswer(
        step=3, prompt_id="p", question=f"What is 2 plus 2? {EVIL}", images=(), answer="4", text=text, tokens=9, format=1.0,
        claims=0.0, model=0.3, raw=0.3, total=total, **fields,
    )  # fmt: skip


def training(folder: Path, steps: int) -> Journal:
    """`folder`, a training by GRPO under way, as its files are."""
    partial = folder.with_name(f"{folder.name}.partial")
    journal = Journal(partial)
    write_text(partial / "identity.json", "{}")
    for step in range(1, steps + 1):
        journal.log(step, grpo(step))
    rows = [answer("4", 2.3), answer(EVIL, 0.1, rule=0.0), answer("5 and", 0.2, rule=0.0, ended=False)]
    Table(partial / FOLDER, ShownAnswer).write("00000003", rows)
    return journal


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@contextmanager
def watching(folder: Path, port: int) -> Iterator[Any]:
    process = start(folder, port, command=("watch", folder), log=folder.with_name(f"{folder.name}-log"))
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(300) in (0, -signal.SIGKILL), "an open page holds no server up"


def step_shown(page: Any, step: int) -> None:
    told = "told => document.querySelector('#board .part summary .dim')?.innerText.startsWith(told)"
    page.wait_for_function(told, arg=f"step {step}")


def test_a_training_is_seen_while_it_goes_and_after_either_side_died(page: Any, place: Path) -> None:
    folder = place / "all"
    journal = training(folder / f"tuned <b>{'x' * 60}", 3)
    before, port = files(folder), free_port()
    with watching(folder, port) as process:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("text=Live")
        assert_accessible(page)
        page.screenshot(path=picture("live-list"))
        page.locator("#runs a").click()
        step_shown(page, 3)
        titles = page.locator("figcaption").all_inner_texts()
        assert {
            "Loss",
            "Accuracy",
            "Reward",
            "Entropy, nats",
            "Hallucination",
            "With signal",
            "Age of the buffer, steps",
        } <= {*titles}
        assert page.locator(".sample").first.inner_text().startswith("Best of step 3: reward 2.3")
        assert page.evaluate("window.ran") is None
        assert page.locator(".sample img, .sample script, h2 b").count() == 0
        assert "⟦U+202E⟧" in page.content()
        assert_accessible(page)
        page.screenshot(path=picture("live-run"), full_page=True)
        assert files(folder) == before, "looking changes nothing"

        journal.log(4, grpo(4))  # the training goes on
        step_shown(page, 4)
        page.locator("#board summary").last.click()  # what a reader folds stays folded
        journal.log(5, grpo(5))
        step_shown(page, 5)
        assert not page.locator("#board details[id^=d-]").evaluate("d => d.open")

        process.send_signal(signal.SIGKILL)
        process.wait(300)
        page.wait_for_selector("text=Connection lost")
    journal.resume(4)  # and the training is killed meanwhile: it takes a step back
    with watching(folder, port):
        page.wait_for_selector("text=Live")
        step_shown(page, 4)
        page.locator("#theme").click()
        page.locator("#board summary").last.click()
        assert_accessible(page)
        page.screenshot(path=picture("live-dark"), full_page=True)
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.screenshot(path=picture("live-phone"), full_page=True)
        page.get_by_role("link", name="Sampled answers").click()
        page.get_by_label("Which").select_option("cut off")
        follow(page, page.get_by_role("button", name="Show"))
        assert [t.splitlines()[-1] for t in page.locator(".sample").all_inner_texts()] == ["5 and"]
        assert page.evaluate("window.ran") is None
        assert_accessible(page)
        for path in ("nope", "../../etc", "nope/events", "nope/pairs"):
            assert httpx.get(f"http://127.0.0.1:{port}/runs/{path}", timeout=300).status_code == 404
        assert (
            httpx.get(f"http://127.0.0.1:{port}/runs", headers={"host": "evil.example"}, timeout=300).status_code == 400
        )
    journal.close()


def test_changed_pairs_by_what_became_of_them_and_why(finished: Path) -> None:
    labels = {x.pair_id: x for x in Table(finished / "seed-0" / "tables" / "labels", Label).read() if x.fate in FATES}
    assert labels
    with TestClient(make_watch_app([finished]), base_url="http://127.0.0.1:8011") as client:
        run = client.get("/runs").url.path
        assert "finished" in client.get(run).text
        for fate in FATES:
            of_fate = [x for x in labels.values() if x.fate == fate]
            page = client.get(f"{run}/pairs", params={"fate": fate}).text
            assert f"<p>{len(of_fate)} pair" in page
            shown = re.findall(r'aria-labelledby="p-([0-9a-f]+)"', page)
            assert len(shown) == min(PAGE, len(of_fate))
            assert {*shown} <= {x.pair_id for x in of_fate}
        reason = next(iter(labels.values())).reason
        page = client.get(f"{run}/pairs", params={"words": reason.upper()}).text
        assert f"<p>{sum(reason in x.reason for x in labels.values())} pair" in page
        assert "<p>0 pairs</p>" in client.get(f"{run}/pairs", params={"words": "no such reason"}).text


def test_leads_alone_watch_the_run_of_the_page(page: Any, place: Path) -> None:
    with site(place, plain_cases(2)) as where:
        run: Site = where
        (run.run / "environments.jsonl").write_text('{"begun": "2026-01-01T00:00:00+00:00"}\n')
        (run.run / "config.json").write_text("{}")
        run.add("ann")
        with httpx.Client(base_url=run.url, follow_redirects=True, timeout=300) as client:
            for path in ("/runs", "/runs/events"):
                assert client.get(path).url.path == "/login"
            client.post("/login", data={"name": "ann", "secret": run.tokens["ann"]})
            for path in ("/runs", "/runs/events"):
                assert client.get(path).status_code == 403
        page.goto(f"{run.url}/login")
        page.get_by_label("Name").fill("admin")
        page.get_by_label("Password or token").fill(run.tokens["admin"])
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="Run", exact=True).click()
        page.wait_for_selector("text=Live")
        assert page.locator("h1").inner_text() == "run"
        assert_accessible(page)
