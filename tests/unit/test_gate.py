"""A gate that is measured again while the policy moves: kept, moved, closed, opened, told, and resumed."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from assay.policy.gate import ModelTerm, fit_model_term, ordered, remeasure
from assay.policy.rewards import CHECKS, HybridReward, RewardConfig
from assay.records import user
from assay.rollouts import Prompt, Rollout
from assay.tuning import watched_page
from assay.tuning.reward_model import GateCheck

CONFIG = RewardConfig(gate_precision=0.8)
ASKED = [f"q{n}" for n in range(100)]


def answers(wrong_above: int, n: int = 100) -> tuple[Any, Any]:
    """Scores 0 to n-1, of which the upper half is right but for so many."""
    right = np.arange(n) >= n // 2
    right[n - wrong_above :] = False
    return np.arange(float(n)), right


FIRST = fit_model_term(*answers(0), CONFIG)


def test_what_is_decided_is_kept_until_fresh_answers_contradict_it() -> None:
    assert math.isfinite(FIRST.threshold)
    for wrong in (0, 5, 10):
        found, term = remeasure(FIRST, *answers(wrong), CONFIG, ASKED)
        assert found is not None
        assert (found.action, term) == ("kept", FIRST)
    found, term = remeasure(FIRST, *answers(30), CONFIG, ASKED)
    assert found is not None
    assert found.action == "closed"
    assert found.precision is not None
    assert found.precision.value < 0.5
    assert math.isinf(term.threshold)
    assert "of these are right, of all 20.0 % (" in str(found)


def test_it_moves_where_a_stricter_one_holds() -> None:
    raw = np.concatenate([np.arange(100.0), np.full(100, 60.5)])
    right = np.concatenate([np.arange(100) >= 50, np.zeros(100, bool)])
    found, term = remeasure(FIRST, raw, right, RewardConfig(gate_precision=0.7), [str(n) for n in range(200)])
    assert found is not None
    assert found.action == "moved"
    assert math.isfinite(term.threshold)
    assert term(60.5) == 0.0 < term(99.0)
    assert FIRST(60.5) > 0


def test_a_closed_gate_is_tried_again() -> None:
    closed = fit_model_term(*answers(30), CONFIG)
    found, term = remeasure(closed, *answers(30), CONFIG, ASKED)
    assert found is not None
    assert (found.action, term, found.precision) == ("kept", closed, None)
    assert "lets none of 100 fresh answers through" in str(found)
    found, term = remeasure(closed, *answers(0), CONFIG, ASKED)
    assert found is not None
    assert (found.action, term) == ("opened", FIRST)


def test_answers_of_few_questions_do_not_contradict_it() -> None:
    raw, right = answers(25)
    assert remeasure(FIRST, raw, right, CONFIG, ASKED)[1] != FIRST
    assert remeasure(FIRST, raw, right, CONFIG, [str(n // 50) for n in range(100)])[1] == FIRST


def test_scores_that_are_no_numbers_are_left_out() -> None:
    raw, right = answers(0)
    found, term = remeasure(FIRST, np.append(raw, math.nan), np.append(right, False), CONFIG, [*ASKED, "x"])
    assert found is not None
    assert (found.dropped, found.right.n, term) == (1, 100, FIRST)
    assert remeasure(FIRST, np.full(3, math.nan), np.ones(3, bool), CONFIG, ["a"] * 3) == (None, FIRST)


def test_pairs_in_order_by_hand() -> None:
    assert ordered([3, 1, 2, 2, math.nan], [True, False, True, False, True]) == (3.5, 4)
    assert ordered([1, 2], [True, True]) == (0, 0)


KNOWN = Prompt(messages=(user("2 + 3?"),), answer="5", kind="number")
OPEN = Prompt(messages=(user("say it"),))


def rollout(text: str) -> Rollout:
    return Rollout(prompt_id="p", tokens=(1,), logprobs=(0.0,), text=text, ended=True, policy_step=0)


def test_a_step_s_checks_by_hand() -> None:
    score = {"<answer>5</answer>": 70.0, "<answer>05</answer>": 10.0, "<answer>6</answer>": 90.0, "no": 20.0}
    reward = HybridReward(CONFIG, lambda ps: np.array([score[t] for _, t in ps]), FIRST)
    reward([(KNOWN, rollout(t)) for t in score])
    reward([(OPEN, rollout(t)) for t in score])
    checks = reward.checks()
    assert tuple(checks) == CHECKS
    assert list(checks.values()) == [4, 2, 2, 1, 4, 1, 4], "the rule decides the reward's order, not the model's 0.5"
    assert set(reward.checks().values()) == {0.0}, "counted anew"
    assert HybridReward(RewardConfig()).checks() == {}
    plain = HybridReward(RewardConfig(combine="sum"), lambda ps: np.array([score[t] for _, t in ps]))
    plain([(KNOWN, rollout(t)) for t in score])
    assert plain.checks() == {"order_pairs": 4, "order_model": 1, "order_reward": 1}


def test_a_moved_gate_is_state() -> None:
    one, two = (HybridReward(CONFIG, lambda ps: np.zeros(len(ps)), FIRST) for _ in range(2))
    one.term = replace(FIRST, threshold=math.inf, reason="closed")
    two.load_state(one.state())
    assert two.term == one.term
    assert two.of == one.of, "who the training is stays what it began with"
    rules = HybridReward(CONFIG)
    rules.load_state(HybridReward(CONFIG).state())
    assert rules.term is None


class Sampler:
    answer_start = ""

    def __init__(self) -> None:
        self.asked: list[tuple[int, tuple[str, ...], int]] = []
        self.step = -1
        self.policy = type("Policy", (), {"processor": None})

    def load(self, step: int) -> None:
        self.step = step

    def __call__(self, prompts: Any, n: int, draw: int = 0) -> list[list[Rollout]]:
        self.asked.append((self.step, tuple(p.id for p in prompts), draw))
        return [[rollout(f"<answer>{5 if i else 6}</answer>") for i in range(n)] for _ in prompts]


def test_the_check_asks_random_gold_questions_of_the_policy_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay import render

    monkeypatch.setattr(render, "begun", lambda *_: "")
    gold = [replace(KNOWN, messages=(user(f"{n}: 2 + 3?"),)) for n in range(40)]
    reward = HybridReward(CONFIG, lambda ps: np.array([90.0 if "6" in t else 80.0 for _, t in ps]), FIRST)
    sampler = Sampler()
    check = GateCheck(reward, gold, sampler, 10, 30, 0)
    one, two = check(10), check(20)
    assert one is not None
    assert two is not None
    (step, first, draw), (_, second, _) = sampler.asked
    assert (step, len(first)) == (10, 30)
    assert draw > 1 << 16, "no draw of the training's"
    assert first != second
    assert (one.right.value, one.open.value, one.action) == (0.75, 1.0, "kept")
    assert one.as_metrics()["gate_check_precision"] == 0.75
    reward.term = replace(FIRST, threshold=math.inf, reason="closed")
    assert check(30) is not None
    assert isinstance(reward.term, ModelTerm)


def test_the_page_shows_the_gate_over_time() -> None:
    known = {"gate_known": 8.0, "gate_known_right": 4.0, "order_pairs": 16.0, "order_model": 12.0, "order_reward": 16.0}
    steps: list[dict[str, Any]] = [
        {"step": s, **known, "gate_open": 4.0, "gate_open_right": 4.0 - (s > 20)} for s in range(1, 41)
    ]
    found, _ = remeasure(FIRST, *answers(30), CONFIG, ASKED)
    assert found is not None
    steps[19] |= found.as_metrics()
    section = watched_page.gate(steps)
    assert section is not None
    assert section.rows[0][0] == "20"
    assert section.rows[0][-1] == "closed"
    assert section.rows[0][1].startswith("20.0 (")
    windows = watched_page._windows(steps, "precision", "gate_open_right", "gate_open", "")
    assert windows is not None
    assert windows.values[0][0] == pytest.approx(100.0)
    assert windows.values[-1][0] == pytest.approx(75.0)
    assert windows.values[0][1] < 100, "never without doubt"
    assert watched_page.gate([{"step": 1}]) is None
