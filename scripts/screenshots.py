"""Pictures for the README and the docs, taken of the real pages with Chromium: sign-in, task, the lead's overview, a report,
the live page.

    PYTHONPATH=tests:tests/e2e python scripts/screenshots.py --run runs/tiny --watch runs/tiny-vlm   # docs/images/*.png

Pairs are of the embedded pool, and two people are made who judge some of them, by the same form as anybody. Each is taken
light and dark, and of a phone; pictures are written only when all were taken.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from browser import CHROMIUM, FIBONACCI, Site, case, free_port, log_in, press, site, start
from PIL import Image
from playwright.sync_api import sync_playwright

from assay.curate.rules import rule_attributes
from assay.pipeline.pools import constraint_pool
from assay.records import Case

ROOT = Path(__file__).parents[1]
SIZES = {"": (1280, 800), "-phone": (390, 844)}
JUDGED = 6


def cases(many: int = 40) -> list[Case]:
    """A pair with code and mathematics, and pairs of the embedded pool."""
    pairs = list(constraint_pool().pairs.values())[:: 3_000 // many][:many]
    first = case(*FIBONACCI, objectivity="objective", controversiality="low", category="Coding & Debugging")
    return [first, *(Case(pair=p, attributes=rule_attributes(p)) for p in pairs)]


def of_the_page(browser: Any, where: Site, out: Path) -> None:
    """The task as the first who comes sees it, then, when others have judged, the lead's overview."""
    for name, role in (("cas", "annotator"), ("ann", "annotator"), ("bea", "annotator"), ("lea", "lead")):
        where.add(name, role)
    for page, suffix in contexts(browser):
        page.goto(f"{where.url}/login")
        page.screenshot(path=out / f"sign-in{suffix}.png")
        log_in(page, where, "cas")
        page.screenshot(path=out / f"task{suffix}.png")
    for name in ("ann", "bea"):
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        log_in(page, where, name)
        for number in range(JUDGED):
            press(page, "2" if (number + len(name)) % 3 else "5")
        page.context.close()
    for page, suffix in contexts(browser):
        log_in(page, where, "lea")
        page.goto(f"{where.url}/lead")
        page.screenshot(path=out / f"lead{suffix}.png")


def contexts(browser: Any) -> Iterator[tuple[Any, str]]:
    """A new browser's page of each size, light and dark, and what its pictures' names end with."""
    for suffix, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            how = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "device_scale_factor": 1.5}
            how |= {"has_touch": True, "is_mobile": True} if suffix else {}
            page = browser.new_context(**how).new_page()
            yield page, f"{suffix}-{scheme}"
            page.context.close()


def of_the_report(browser: Any, run: Path, out: Path) -> None:
    for page, suffix in contexts(browser):
        page.goto((run / "report.html").resolve().as_uri())
        page.screenshot(path=out / f"report{suffix}.png")


def of_the_live_page(browser: Any, run: Path, out: Path) -> None:
    """A run with its trainings as `assay watch` shows it."""
    port = free_port()
    process = start(run, port, command=("watch", run), log=out / "watch.log")
    try:
        for page, suffix in contexts(browser):
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("text=Live")
            page.screenshot(path=out / f"watch{suffix}.png")
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=ROOT / "runs" / "tiny", help="a finished run, whose report is shown"
    )
    parser.add_argument(
        "--watch", type=Path, default=ROOT / "runs" / "tiny-vlm", help="a run, under way or not, which is watched"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args()
    if not (given.run / "report.html").exists():
        raise SystemExit(f"{given.run}: no report.html here; make one with: assay run tiny --out {given.run}")
    if CHROMIUM is None:
        raise SystemExit("no Chromium on the path; install one (Debian: apt-get install chromium)")
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        taken = Path(folder) / "taken"
        taken.mkdir()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with site(Path(folder), cases()) as where:
            of_the_page(browser, where, taken)
        of_the_report(browser, given.run, taken)
        of_the_live_page(browser, given.watch, taken)
        browser.close()
        given.out.mkdir(parents=True, exist_ok=True)
        for picture in sorted(taken.glob("*.png")):
            few = Image.open(picture).convert("RGB").quantize(128, dither=Image.Dither.NONE)  # a third of the bytes
            few.save(given.out / picture.name, optimize=True)
            print(given.out / picture.name)


if __name__ == "__main__":
    main()
