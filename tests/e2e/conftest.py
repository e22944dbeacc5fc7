"""What the tests of this folder share: one unbroken run, folders that are gone after their test, and a browser."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM
from commands import run_small_job


@pytest.fixture(scope="session")
def finished() -> Iterator[Path]:
    """The folder of the small job, run once and never interrupted. Tests may read it and resume it."""
    with tempfile.TemporaryDirectory(prefix="assay-e2e-") as name:
        folder = Path(name) / "run"
        done = run_small_job(folder)
        assert done.returncode == 0, done.stderr
        (folder.parent / "progress.txt").write_text(done.stderr)
        yield folder


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder for one test."""
    with tempfile.TemporaryDirectory(prefix="assay-e2e-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine."""
    from ray_nodes import Nodes

    started = Nodes()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def ours(nodes: Any) -> Iterator[Any]:
    from ray_nodes import joined

    with joined(nodes) as engine:
        yield engine


@pytest.fixture
def cluster(ours: Any, nodes: Any) -> Any:
    """This process as a client of the cluster, whose nodes are both there."""
    from ray_nodes import with_both

    return with_both(ours, nodes)


PATIENCE_MS = 180_000
"""A limit ends a hang, and nothing else: where other tests have the processors, Chromium may stand still for long."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, whose pages are waited for; skips, saying why, where it or playwright is missing."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here (apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("axe_playwright_python.sync_playwright")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS)
        fresh = chromium.new_context

        def patient(**about: Any) -> Any:
            context = fresh(**about)
            context.set_default_timeout(PATIENCE_MS)
            return context

        chromium.new_context = patient
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh browser's page. Afterwards: nothing was asked of another server, and no script failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    outside: list[str] = []
    errors: list[str] = []
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith("http://127.0.0.1:") else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on(
        "console",
        lambda m: errors.append(m.text) if m.type == "error" and "Failed to load resource" not in m.text else None,
    )
    yield page
    context.close()
    assert outside == [], "the page asked another server for something"
    assert errors == []
