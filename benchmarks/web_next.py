"""From the key of an answer to the next pair on the screen, in a real Chromium over loopback.

    python benchmarks/web_next.py --answers 100

One annotator, pairs as long as chat answers are (half of them with code, tables and formulas), `assay web` as a process with
SQLite. Times are taken in the browser: from the keydown to the second frame after the next page stood in the document, when
it is painted; and to when the page says that the answer is saved. The annotator reads half a second. In turns of ten answers
the next pair is held ahead, as the page does it, and comes with the answer, as where nothing could be held; the first of
each turn is left out, for it is of the other way. The last line of stdout is JSON.
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

TURN = 10
_TIMED = """
(() => {
  let pressed = 0;
  const fetched = window.fetch, html = document.documentElement;
  window.plain = false;
  window.times = [];
  window.saved = [];
  window.fetch = (to, ...more) => {
    return plain && String(to).startsWith("/task/ahead") ? Promise.reject(Error("not held")) : fetched(to, ...more);
  };
  addEventListener("keydown", () => { pressed = performance.now(); }, true);
  new MutationObserver((changes) => {
    const begun = pressed, turned = changes.some((c) => c.attributeName === "data-turn"), saves = "saving" in html.dataset;
    requestAnimationFrame(() => requestAnimationFrame(() => {
      if (begun && turned) window.times.push(performance.now() - begun);
      if (begun && !saves) window.saved.push(performance.now() - begun);
    }));
  }).observe(html, { attributeFilter: ["data-turn", "data-saving"] });
})()
"""
AHEAD, WITH = "held ahead", "with the answer"


def measure(answers: int, seed: int) -> dict[str, list[tuple[float, float]]]:
    """Of each way the milliseconds of its answers: until the next pair is seen, and until the answer is saved."""
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
            found: dict[str, list[tuple[float, float]]] = {AHEAD: [], WITH: []}
            for n in range(answers):
                way = (AHEAD, WITH)[n // TURN % 2]
                page.evaluate("plain => { window.plain = plain; }", way == WITH)
                page.wait_for_timeout(500)
                page.keyboard.press(str(n % 6 + 1))
                page.wait_for_function("n => window.times.length > n && window.saved.length > n", arg=n)
                if n % TURN:
                    found[way].append((page.evaluate("window.times.at(-1)"), page.evaluate("window.saved.at(-1)")))
            browser.close()
            return found
        finally:
            server.end(signal.SIGTERM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    told: dict[str, dict[str, float]] = {}
    for way, times in measure(given.answers, given.seed).items():
        seen = [t for t, _ in times]
        low, middle, high = (round(float(q), 1) for q in np.quantile(seen, (0.1, 0.5, 0.9)))
        told[way] = {"n": len(seen), "median_ms": middle, "p10_ms": low, "p90_ms": high, "max_ms": round(max(seen), 1),
                     "saved_median_ms": round(float(np.median([t for _, t in times])), 1)}  # fmt: skip
    print(json.dumps({**told, "seed": given.seed}))


if __name__ == "__main__":
    main()
