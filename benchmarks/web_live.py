"""From a `kill -9` of either side to the live page that shows the truth again, in a real Chromium over loopback.

    python benchmarks/web_live.py --times 10

A training by GRPO as its files are, `assay watch` as a process, a page. Each time: a line is logged (written to shown); the
server is killed (to the page that says so), started again (from its first answer to the step that was logged meanwhile); the
training takes a step back, as one does that was killed and resumed (written to shown). The last line of stdout is JSON.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from web_load import free_port

from assay.journal import Journal
from assay.tables import write_text

_SHOWN = "told => document.querySelector('#board .part summary .dim')?.innerText.startsWith(told)"


def started(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """`assay watch`, which has answered."""
    line = [sys.executable, "-m", "assay", "watch", str(folder), "--port", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
            return process
        except httpx.TransportError:
            time.sleep(0.01)
    raise SystemExit(f"{' '.join(line)}: exit code {process.returncode}")


def measure(times: int) -> dict[str, list[float]]:
    """Seconds of each event, `times` times."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    found = defaultdict[str, list[float]](list)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        folder, port, step = Path(name) / "tuned.partial", free_port(), 1
        journal = Journal(folder)
        write_text(folder / "identity.json", "{}")

        def log(at: int) -> None:
            journal.log(at, {"loss": 1 / at, "reward": 0.1 * at, "rule": 0.5})

        log(step)
        server = started(Path(name), port)
        page: Any = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#runs a").click()

        def shown(what: str, begun: float) -> None:
            page.wait_for_function(_SHOWN, arg=f"step {step}", timeout=120_000)
            found[what].append(time.monotonic() - begun)

        shown("opened", time.monotonic())
        for _ in range(times):
            step += 1
            begun = time.monotonic()
            log(step)
            shown("logged", begun)
            begun = time.monotonic()
            server.send_signal(signal.SIGKILL)
            server.wait(60)
            page.wait_for_selector("text=Connection lost")
            found["server killed, told"].append(time.monotonic() - begun)
            step += 1
            log(step)
            server = started(Path(name), port)
            shown("server answers, truth shown", time.monotonic())
            step -= 1
            begun = time.monotonic()
            journal.resume(step)
            shown("training resumed a step back", begun)
        server.terminate()
    del found["opened"]
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    for what, seconds in (found := measure(parser.parse_args().times)).items():
        low, middle, high = (f"{q:.2f}" for q in np.quantile(seconds, (0, 0.5, 1)))
        print(f"{what}: {middle} s ({low} to {high}; n {len(seconds)})")
    print(json.dumps({what: [round(s, 3) for s in seconds] for what, seconds in found.items()}))


if __name__ == "__main__":
    main()
