"""A real Chromium for browser tests, and the page to test: a server process over a run with known pairs."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from commands import assay_line, environment, run_assay

from assay.curate.rules import rule_attributes
from assay.records import Attributes, Case, Pair, Response, user
from assay.tables import Table
from ports import free_port

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FIBONACCI = (
    "Write a Python function that returns the n-th Fibonacci number, and say what its running time is.",
    "Here is one:\n\n```python\ndef fib(n: int) -> int:\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n"
    "    return a\n```\n\nIt runs in $O(n)$ time. The closed form\n\n\\[\n"
    "F_n = \\frac{\\varphi^n - \\psi^n}{\\sqrt{5}}\n\\]\n\nneeds floating point.",
    "```python\ndef fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n```\n\n"
    "| n | calls |\n|--:|--:|\n| 10 | 177 |\n| 20 | 21891 |\n\nIt runs in **linear** time.",
)
ATTACK = (
    "What is this? <script>window.ran = 'prompt'</script>",
    "<img src=x onerror=\"window.ran = 'image'\"> [link](javascript:window.ran='link') <svg onload=\"window.ran='svg'\">\n\n"
    "![p](http://127.0.0.1:9/pixel.png) $\\text{<img src=x onerror=window.ran=1>}$\n\n"
    "```html\n<script>window.ran = 'code'</script>\n```",
    "</textarea></pre><script>window.ran = 'escape'</script>\u202e reversed \x00 plain",
)


def case(prompt: str, one: str, other: str, **attributes: str) -> Case:
    pair = Pair.of((user(prompt),), Response.of(one), Response.of(other))
    given = rule_attributes(pair)
    names = ("category", "objectivity", "controversiality", "guideline")
    fields = {name: attributes.get(name, getattr(given, name)) for name in names}
    return Case(pair=pair, attributes=Attributes(pair_id=pair.id, desired=given.desired, by="test", **fields))


def plain_cases(count: int) -> list[Case]:
    return [case(f"What is {n} plus {n}?", f"It is {2 * n}.", f"It is {2 * n + 1}.") for n in range(count)]


@dataclass
class Site:
    """A running `assay web`: its address, its run folder, and the tokens of its accounts."""

    url: str
    run: Path
    database: str
    process: "subprocess.Popen[str]"
    tokens: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, role: str = "annotator") -> str:
        done = run_assay("web-user", self.run, name, "--role", role, "--database", self.database)
        assert done.returncode == 0, done.stderr
        self.tokens[name] = done.stdout.split()[-1]
        return self.tokens[name]


def start(
    run: Path, port: int, *options: object, command: Sequence[object] = (), log: Path | None = None
) -> "subprocess.Popen[str]":
    """`assay web` over `run` (or another `command`), once it answers. What it prints goes to RUN/web.log, or `log`."""
    told = log or run / "web.log"
    out = told.open("a")
    process = subprocess.Popen(
        assay_line(*(command or ("web", run)), "--port", port, *options),
        env=environment(PYTHONUNBUFFERED="1"),
        text=True,
        stdout=out,
        stderr=out,
    )
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(told.read_text())
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return process
        except httpx.TransportError:
            time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"the page did not come up in 300 seconds: {told.read_text()}")


@contextmanager
def site(folder: Path, cases: Sequence[Case], *options: object, database: str = "") -> Iterator[Site]:
    """A page over a fresh run with `cases` waiting, stopped afterwards."""
    run = folder / "run"
    Table(run / "queue", Case).write("waiting", cases)
    port = free_port()
    base = database or f"sqlite:///{run / 'web.sqlite'}"
    process = start(run, port, "--database", base, *options)
    token = re.search(r"token (\S+)", (run / "web.log").read_text())
    assert token
    where = Site(url=f"http://127.0.0.1:{port}", run=run, database=base, process=process, tokens={"admin": token[1]})
    try:
        yield where
    finally:  # also of one that a test killed and began again
        where.process.terminate()
        where.process.wait(300)


def picture(name: str) -> str:
    """Where a screenshot goes: a folder of its own, or nowhere one looks (`ASSAY_SCREENSHOTS`)."""
    folder = Path(os.environ.get("ASSAY_SCREENSHOTS", "/tmp/assay-screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"{name}.png")


def log_in(page: Any, where: Site, name: str) -> None:
    """By keyboard, as the page is meant to be used: the first field has the focus."""
    page.goto(f"{where.url}/login")
    page.wait_for_function("document.activeElement.name === 'name'")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(where.tokens[name])
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/(task|lead)$"))


def follow(page: Any, where: Any) -> None:
    """Click on what leads to another page; afterwards that one is there as a whole."""
    with page.expect_navigation():
        where.click()


@contextmanager
def turned(page: Any) -> Iterator[None]:
    """What is done within leads to the next page, which the script puts in place of this one; an answer is saved then."""
    before = page.evaluate("document.documentElement.dataset.turn")
    yield
    there = (
        "before => { const now = document.documentElement.dataset; return now.turn !== before && !('saving' in now); }"
    )
    page.wait_for_function(there, arg=before)


def press(page: Any, key: str) -> None:
    """Press a key that leads to the next page."""
    with turned(page):
        page.keyboard.press(key)


def assert_accessible(page: Any) -> None:
    """What axe can check of WCAG 2.2 AA, and its best practices."""
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_load_state()
    levels = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(page, options={"runOnly": levels})
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found.response["violations"]] == []


def assert_readable(browser: Any, page: Path, shot: str) -> None:
    """A page in a file: axe at a desk, in the dark and on a phone, and no wider than the window."""
    for name, about in (("desk", {}), ("dark", {"color_scheme": "dark"}), ("phone", PHONE)):
        context = browser.new_context(**about)
        shown = context.new_page()
        shown.goto(page.absolute().as_uri())
        assert_accessible(shown)
        assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        shown.screenshot(path=shot.replace(".png", f"-{name}.png"), full_page=True)
        context.close()
