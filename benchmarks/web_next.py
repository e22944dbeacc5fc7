"""From the key of an answer to the next pair on the screen, in a real Chromium over loopback.

    python benchmarks/web_next.py --answers 100

One annotator, pairs as long as chat answers are (half of them with code, tables and formulas), `assay web` as a process with
SQLite. Times are taken in the browser: from the keydown to the second frame after the next page stood in the document, when
it is painted. The annotator reads half a second.
The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
from web_load import Server, cases, free_port

from assay.records import Case
from assay.tables import Table
from assay.web.accounts import Accounts
from assay.web.schema import Database

_TIMED = """
(() => {
  let pressed = 0;
  window.times = [];
  addEventListener("keydown", () => { pressed = performance.now(); }, true);
  new MutationObserver(() => {
    const begun = pressed;
    requestAnimationFrame(() => requestAnimationFrame(() => { if (begun) window.times.push(performance.now() - begun); }));
  }).observe(document.documentElement, { attributeFilter: ["data-turn"] });
})()
"""


def measure(answers: int, seed: int) -> list[float]:
    """Milliseconds of each answer."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        run = Path(name) / "run"
        Table(run / "queue", Case).write("waiting", cases(answers + 5, seed))
        url = f"sqlite:///{run / 'web.sqlite'}"
        base = Database(url)
        token = Accounts(base).invite("ann", "annotator", "bench")
        base.close()
        server = Server(run, url, free_port())
        server.start()
        try:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"{server.url}/login")
            page.fill("#name", "ann")
            page.fill("#secret", token)
            page.keyboard.press("Enter")
            page.wait_for_selector("#task")
            page.evaluate(_TIMED)
            for n in range(answers):
                page.wait_for_timeout(500)
                page.keyboard.press(str(n % 6 + 1))
                page.wait_for_function("n => window.times.length > n", arg=n)
            times: list[float] = page.evaluate("window.times")
            browser.close()
            return times
        finally:
            server.end(signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    times = measure(given.answers, given.seed)
    low, middle, high = (round(float(q), 1) for q in np.quantile(times, (0.1, 0.5, 0.9)))
    told = {"n": len(times), "median_ms": middle, "p10_ms": low, "p90_ms": high, "max_ms": round(max(times), 1)}
    print(json.dumps({**told, "seed": given.seed}))


if __name__ == "__main__":
    main()
