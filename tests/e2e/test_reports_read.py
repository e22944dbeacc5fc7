"""Pages that commands write, in a real Chromium: axe at a desk, on a phone and in the dark, no wider than the window.

The report of a run is looked at by `test_run_small.py`, which has one.
"""

from pathlib import Path
from typing import Any

import pytest
from browser import assert_readable, picture

from assay.bench import page as bench_page
from assay.bench.compare import Difference
from assay.curate import judge_page
from assay.journal import Journal
from assay.policy.shown import FOLDER, ShownAnswer
from assay.reward import serve_page
from assay.tables import Table, write_text
from assay.tuning import outcome

LONG = "a-name-of-a-model-" * 8


def compared(folder: Path) -> Path:
    found = [
        Difference(name=n, a=60.0, b=50.0, low=4.0, high=16.0, p=0.0004, shown_a="60.0 (50 to 70; n 100)",
                   shown_b="50.0 (40 to 60; n 100)", verdict="is better than B", notes=("a note",))
        for n in ("rmb", "rewardbench-2")
    ]  # fmt: skip
    return bench_page.write_compared(folder / "compared.html", LONG, "two", found)


def judged(folder: Path) -> Path:
    section = judge_page.Section(title="Judges", header=("judge", "pairs", "right, %"), rows=((LONG, "7", "85.7"),) * 3)
    write_text(folder / "judges.html", judge_page.page([section], "annotate", {"cores": 2}))
    return folder / "judges.html"


def served(folder: Path) -> Path:
    write_text(folder / "served.html", serve_page.page(LONG, keyed=True, address="http://127.0.0.1:8001"))
    return folder / "served.html"


def trained(folder: Path) -> Path:
    journal = Journal(folder / "tuned.partial")
    write_text(folder / "tuned.partial/identity.json", '{"identity": {"recipe": "grpo"}}')
    for step in range(1, 5):
        journal.log(step, {
            "loss": 1 / step, "rule": 0.5, "right": 0.5, "reward": 0.1 * step, "format": 1.0, "model": 0.2, "length": 20.0,
            "entropy": 0.5, "effective_rule": 0.5, "effective_total": 0.75, "batch_effective": 1.0, "buffer_age": 1.5,
            "kl": 0.01, "effective": 4,
        })  # fmt: skip
    row = ShownAnswer(step=3, prompt_id="p", question="What is 2 plus 2?", images=(), answer="4", text=LONG, tokens=9,
                      format=1.0, claims=0.0, model=0.3, raw=0.3, total=0.1, ended=True, rule=1.0, problem="")  # fmt: skip
    Table(folder / "tuned.partial" / FOLDER, ShownAnswer).write("00000003", [row])
    return outcome.write_training_report(folder / "tuned")


@pytest.mark.parametrize("made", [compared, judged, served, trained])
def test_a_page_that_a_command_writes_is_readable(browser: Any, tmp_path: Path, made: Any) -> None:
    assert_readable(browser, made(tmp_path), picture(f"written-{made.__name__}"))


def test_the_verdict_of_a_comparison_comes_first(tmp_path: Path) -> None:
    text = compared(tmp_path).read_text()
    assert text.index("rmb: A: is better than B") < text.index("<table>") < text.index("rmb: a note")
