"""What random rewards get by a benchmark's own rule, and what a result says against that."""

from pathlib import Path

import numpy as np
import pytest

from assay.bench import page
from assay.bench.benchmark import Choice, chance, evaluate
from assay.bench.compare import Difference, compared
from assay.bench.reward.pairs import report
from assay.records import Conversation, assistant, user


def items(many: int, rivals: int) -> list[Choice]:
    found = []
    for n in range(many):
        prompt: Conversation = (user(f"question {n}"),)
        answers = [(*prompt, assistant(f"answer {k}")) for k in range(rivals + 1)]
        found.append(
            Choice(id=str(n), source="s", stratum="s", prompt=prompt, best=answers[0], losers=tuple(answers[1:]))
        )
    return found


@pytest.mark.parametrize(("rivals", "expected"), [(1, 50.0), (3, 25.0)])
def test_chance_depends_on_how_many_rivals_an_answer_has(rivals: int, expected: float) -> None:
    found = chance(items(500, rivals), report("s"), 0)
    assert found == pytest.approx(expected, abs=1.5)
    assert found == chance(items(500, rivals), report("s"), 0), "the same each time"


def test_a_result_is_told_against_chance() -> None:
    right = evaluate(items(100, 3), report("s"), lambda cs: np.array([1.0 * (c[-1].content == "answer 0") for c in cs]))
    assert "100.0 % (" in right.verdict
    assert "is better than chance (2" in right.verdict
    wrong = evaluate(items(100, 3), report("s"), lambda cs: np.array([1.0 * (c[-1].content != "answer 0") for c in cs]))
    assert "is worse than chance (2" in wrong.verdict
    guess = np.random.default_rng(1)
    unsure = evaluate(items(100, 3), report("s"), lambda cs: guess.random(len(cs)))
    assert "is not shown to differ from chance" in unsure.verdict


def test_a_page_of_a_comparison_says_what_is_shown(tmp_path: Path) -> None:
    found = Difference(
        name="rmb", a=60.0, b=50.0, low=4.0, high=16.0, p=0.0004, shown_a="60", shown_b="50", verdict="better"
    )
    text = page.write_compared(tmp_path / "page.html", "<one>", "two", [found]).read_text()
    assert "rmb: A: better" in text
    assert "&lt;one&gt;" in text
    assert "+4.00 to +16.00" in text
    assert '<svg class="plot"' in text
    assert compared([found])[0][-1] == "< 0.001"
