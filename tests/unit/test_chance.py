"""What random rewards get by a benchmark's own rule, and what a result says against that."""

import numpy as np
import pytest

from assay.bench.benchmark import Choice, chance, evaluate
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
    assert "is better than chance, 2" in right.verdict
    wrong = evaluate(items(100, 3), report("s"), lambda cs: np.array([1.0 * (c[-1].content != "answer 0") for c in cs]))
    assert "is worse than chance, 2" in wrong.verdict
    guess = np.random.default_rng(1)
    unsure = evaluate(items(100, 3), report("s"), lambda cs: guess.random(len(cs)))
    assert "is not shown to differ from chance" in unsure.verdict
