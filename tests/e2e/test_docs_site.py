"""The site of docs/ builds, strictly and without a network; the notebook runs; the how-tos' commands are commands."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from assay.cli import _command, guide

ROOT = Path(__file__).parents[2]
SITE = (ROOT / "mkdocs.yml").read_text()
NEEDED = "the site's parts are not installed: make docs, or pip install -c constraints.txt -e '.[docs]'"


def test_every_page_has_its_place_in_the_site() -> None:
    def pages(nav: object) -> set[str]:
        if isinstance(nav, str):
            return {nav}
        return {p for one in (nav.values() if isinstance(nav, dict) else nav) for p in pages(one)}  # type: ignore[attr-defined]

    placed = pages(yaml.safe_load(SITE)["nav"])
    docs = ROOT / "docs"
    written = {str(p.relative_to(docs)) for p in docs.rglob("*.md") if p.parent.name != "decisions"}
    assert placed == written


def test_the_commands_of_the_how_tos_are_commands() -> None:
    """Each command's flags are flags of that command."""
    known: dict[str, set[str]] = {}
    seen = 0
    for page in [*(ROOT / "docs" / "howto").glob("*.md"), ROOT / "docs" / "index.md"]:
        text = page.read_text()
        for line in re.findall(r"^(?:torchrun .* -m )?(assay .*)$|`(assay [^`]*)`", text, re.MULTILINE):
            words = shlex.split("".join(line).partition("#")[0].replace("...", ""))[1:]
            flags = {w.removeprefix("--") for w in words if w.startswith("--")}
            name = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in guide.EXAMPLES), "")
            name = name or f"{words[0]} run"
            if not flags or words[0].startswith("--"):
                continue
            if name not in known:
                shown = guide.helped([*name.split(), "--help-all"], _command)
                assert shown, f"{page.name}: {words} is no command"
                known[name] = set(re.findall(r"--([\w.-]+)", shown))
            assert flags <= known[name], f"{page.name}: assay {name} has no {flags - known[name]}"
            seen += 1
    assert seen > 15


def test_the_extras_that_the_site_lists_are_all() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    text = (ROOT / "pyproject.toml").read_text()
    extras = set(
        re.findall(r"^(\w+) = \[", text.partition("[project.optional-dependencies]")[2].partition("\n[")[0], re.M)
    )
    assert extras - listed == {"dev", "bench", "docs"}, "what only developers need"
    assert listed <= extras


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("mkdocs") and find_spec("material") and find_spec("mkdocstrings")), reason=NEEDED)
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")], cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "python.html").read_text()
    assert "RewardModel" in page
    assert "Import files, folders or hub ids into a pool" in page, "the docstrings are in it"
    used = {
        host for file in (tmp_path / "site").rglob("*.html")
        for host in re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?://[^/\" >]+)", file.read_text())
    }  # fmt: skip
    assert used <= {"https://squidfunk.github.io"}, "no page asks another host for anything"
    assert "iframe-worker.js" in page
    assert (tmp_path / "site" / "search" / "search_index.js").read_text().startswith("var __index")


def test_the_search_works_where_the_site_is_opened_as_files(browser: Any, tmp_path: Path) -> None:
    """Browsers start no worker there; what stands in for one runs the script, loads what it asks for, answers in order."""
    parts = {
        "more.js": "function plus(n) { return n + 1; }",
        "worker.js": "addEventListener('message', async (event) => {"
                     "await importScripts('more.js'); postMessage(plus(event.data)); });",
        "page.js": "var said = [], w = new Worker('worker.js'); w.addEventListener('message', (e) => said.push(e.data));"
                   "w.postMessage(1); w.postMessage(2);",
        "page.html": "<!doctype html><body><script src=iframe-worker.js></script><script src=page.js></script>",
        "iframe-worker.js": (ROOT / "docs" / "iframe-worker.js").read_text(),
    }  # fmt: skip
    for name, text in parts.items():
        (tmp_path / name).write_text(text)
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("said.length === 2")
    assert page.evaluate("said") == [2, 3]
    page.close()


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("nbclient") and find_spec("ipykernel")), reason=NEEDED)
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "work" / "run" / "report.html").exists()


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads((ROOT / "docs" / "tour.ipynb").read_text())["cells"]
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in cells)
