"""Hybrid rewards by hand, the calibrated term, and preference pairs of scored answers."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from assay.errors import AssayError
from assay.policy.advantage import grade
from assay.policy.config import PairConfig
from assay.policy.gate import ModelTerm, fit_model_term
from assay.policy.pairs import make_pairs
from assay.policy.rewards import HybridReward, RewardConfig, claims_reward, format_reward, overlong
from assay.records import user
from assay.rollouts import Prompt, Rollout, Score

ASKED = Prompt(messages=(user("2 + 3?"),), answer="5", kind="number")
OPEN = Prompt(messages=(user("say something"),))


def rollout(text: str, ended: bool = True, tokens: tuple[int, ...] = (1, 2)) -> Rollout:
    return Rollout(
        prompt_id=ASKED.id, tokens=tokens, logprobs=(0.0,) * len(tokens), text=text, ended=ended, policy_step=0
    )


GOOD = rollout("<think>sum</think><answer>5</answer>")
WRONG = rollout("<think>sum</think><answer>6</answer>")
BARE = rollout("The answer is 5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        (" <think>a\n</think>\n<answer> b </answer>\n", 1.0),
        ("<think>a</think><answer> </answer>", 0.0),
        ("<think>a</think><answer>b</answer> and more", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a<think>b</think><answer>c</answer>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("b", 0.0),
    ],
)
def test_the_format_is_exact(text: str, expected: float) -> None:
    assert format_reward(text) == expected


def test_rule_and_format_by_hand() -> None:
    scores = HybridReward(RewardConfig(rule=2.0, format=0.5))([(ASKED, r) for r in (GOOD, WRONG, BARE)])
    assert [(s.rule, s.format, s.total) for s in scores] == [(1, 1, 2.5), (0, 1, 0.5), (1, 0, 2.0)]


def test_claims_are_paid_for_and_false_ones_cost_what_the_config_says() -> None:
    seen = Prompt(messages=(user("is it red?"),), answer="no", kind="text", facts=("blue",), absent=("red",))
    texts = [f"<think>{t}</think><answer>no</answer>" for t in ("it is blue", "it is red", "it is not red", "hm")]
    given = [(seen, rollout(t)) for t in texts]
    asked = HybridReward(RewardConfig(claims=0.5))(given)
    assert [(s.claims, s.total) for s in asked] == [(1, 2.5), (-1, 1.5), (0, 2), (0, 2)]
    assert [s.total for s in HybridReward(RewardConfig())(given)] == [2] * 4, "off unless asked for"
    both = replace(seen, facts=("blue", "circle"), absent=("red", "square"))
    said = ("a blue circle", "blue", "a blue square", "a red square", "")
    assert [claims_reward(both, f"<think>{t}</think><answer>no</answer>") for t in said] == [1, 0.5, -0.5, -1, 0]
    unknown = HybridReward(RewardConfig(claims=0.5))([(ASKED, GOOD)])
    assert unknown[0].claims == 0, "nothing is known of a picture that is not there"


def test_empty_cut_off_and_unclear_answers_have_their_reasons() -> None:
    odd = [rollout("<think>"), rollout("<think>and so", ended=False), rollout("no idea")]
    scores = HybridReward(RewardConfig(), prefilled="<think>")([(ASKED, r) for r in odd])
    assert [s.problem for s in scores] == ["empty answer", "cut off", "no clear final answer"]
    assert [s.total for s in scores] == [0.0, 0.0, 0.0]


def term(threshold: float = 0.6) -> ModelTerm:
    return ModelTerm(
        temperature=2.0,
        center=1.0,
        threshold=threshold,
        precision=0.9,
        precision_low=0.8,
        kept=0.5,
        n_gold=50,
        bound=0.5,
    )


def test_half_a_number_is_no_answer() -> None:
    """What the limit of tokens cut may go on: a right answer must not be paid for the beginning of a wrong one."""
    reward, asked = HybridReward(RewardConfig(form="none")), replace(ASKED, answer="12", kind="number")
    cut = {"the answer is 12": 0.0, "the answer is 12.": 0.0, "the answer is 12. So": 1.0, "\\boxed{12}": 1.0,
           "<answer>12</answer> 1": 1.0, "the answer is -12": 0.0}  # fmt: skip
    scores = reward([(asked, replace(rollout(text), ended=False)) for text in cut])
    assert dict(zip(cut, (s.rule for s in scores), strict=True)) == cut
    assert scores[0].problem == "cut off"
    assert reward([(asked, rollout("the answer is 12"))])[0].rule == 1.0, "it ended"


def test_the_calibrated_term_is_gated_and_bounded_and_the_plain_sum_is_not() -> None:
    def scorer(pairs: Any) -> Any:
        return np.array([15.0, -15.0])

    calibrated = HybridReward(RewardConfig(), scorer, term())([(ASKED, GOOD), (ASKED, WRONG)])
    assert calibrated[0].total == pytest.approx(2.0 + 0.5 / (1 + math.exp(-7)))
    assert calibrated[1].total == 1.0
    plain = HybridReward(RewardConfig(combine="sum"), scorer)([(ASKED, GOOD), (ASKED, WRONG)])
    assert [s.total for s in plain] == [17.0, -14.0]
    with pytest.raises(AssayError, match="fit it on gold"):
        HybridReward(RewardConfig(), scorer)


def test_a_score_that_is_no_number_never_reaches_the_total() -> None:
    """Nor does a 0 in its place, where the gate gives something to others: the answer is left out of its group."""
    known = [(ASKED, GOOD), (ASKED, WRONG), (ASKED, BARE)]
    scores = HybridReward(RewardConfig(), lambda p: np.array([math.nan, 9.0, math.inf]), term())(known)
    assert [math.isfinite(s.total) for s in scores] == [False, True, False]
    assert {s.problem for s in scores if s.raw is None} == {"the reward model's score is not a number"}
    assert [s.tokens for s in grade([r for _, r in known], scores).samples] == [WRONG.tokens]
    closed = HybridReward(RewardConfig(), lambda p: np.array([math.nan]), term(math.inf))([(ASKED, GOOD)])
    assert closed[0].total == 2.0, "a closed gate gives nothing to any"
    with pytest.raises(AssayError, match="scores for 2 answers"):
        HybridReward(RewardConfig(), lambda p: np.zeros(3), term())([(ASKED, GOOD)] * 2)


def test_in_the_plain_sum_neither_silence_nor_a_broken_score_is_worth_more_than_a_bad_answer() -> None:
    """Raw scores are mostly negative: a 0 in their place was the best of a group."""
    raw = {GOOD.text: -6.0, WRONG.text: -7.0, BARE.text: math.nan}
    reward = HybridReward(
        RewardConfig(combine="sum"), lambda ps: np.array([raw[t] for _, t in ps]), prefilled="<think>"
    )
    mute = rollout("<think>", tokens=(2,))
    scores = reward([(ASKED, r) for r in (GOOD, WRONG, BARE, mute)])
    assert [s.total for s in scores[:2]] == [-4.0, -6.0]
    assert scores[3].total == -7.0, "silence counts as the worst answer of the prompt, without its format"
    assert scores[3].raw is None
    graded = grade([GOOD, WRONG, BARE, mute], scores)
    assert len(graded.samples) == 3, "the broken score's answer is left out, silence is not"
    assert max(graded.samples, key=lambda s: s.advantage).tokens == GOOD.tokens
    assert not math.isfinite(reward([(ASKED, mute)])[0].total), "nothing tells what silence is worth"
    known = HybridReward(RewardConfig(combine="sum", model_on="unanswered"), lambda ps: np.full(len(ps), math.nan))
    assert known([(ASKED, GOOD)])[0].total == 2.0


@pytest.mark.parametrize("values", [2, 3, 5])
def test_the_gate_is_open_for_the_score_at_which_it_was_set(values: int) -> None:
    for seed in range(40):
        random = np.random.default_rng(seed)
        raw = random.integers(0, values, 200) * random.uniform(0.1, 3) - random.uniform(0, 9)
        right = random.random(200) < (raw - raw.min()) / np.ptp(raw) * 0.96 + 0.02
        found = fit_model_term(raw, right, RewardConfig(gate_precision=0.8))
        if not found.reason:
            assert np.mean([found(x) > 0 for x in raw]) == pytest.approx(found.kept)


def test_the_model_can_speak_only_where_no_answer_is_known() -> None:
    reward = HybridReward(RewardConfig(model_on="unanswered"), lambda p: np.full(len(p), 9.0), term())
    known, unknown = reward([(ASKED, GOOD), (OPEN, GOOD)])
    assert (known.model, unknown.rule) == (0.0, 0.0)
    assert unknown.model > 0.4


def test_the_weight_can_be_lowered_and_is_state() -> None:
    reward = HybridReward(RewardConfig(), lambda p: np.full(len(p), 9.0), term())
    whole = reward([(ASKED, GOOD)])[0].total
    reward.model_weight = 0.0
    assert reward([(ASKED, GOOD)])[0].total == 2.0
    other = HybridReward(RewardConfig(), lambda p: np.full(len(p), 9.0), term())
    other.load_state(reward.state())
    assert other.model_weight == 0.0
    assert whole > 2.0


def test_the_fit_recovers_a_known_logistic() -> None:
    random = np.random.default_rng(0)
    raw = random.normal(0, 6, 4000)
    right = random.random(4000) < 1 / (1 + np.exp(-(raw - 1) / 2))
    fitted = fit_model_term(raw, right, RewardConfig(gate_precision=0.9))
    assert fitted.temperature == pytest.approx(2.0, rel=0.1)
    assert fitted.center == pytest.approx(1.0, abs=0.2)
    kept = np.array([fitted(x) > 0 for x in raw])
    assert right[kept].mean() == pytest.approx(fitted.precision)
    assert fitted.precision >= 0.9 > right.mean()
    assert kept.mean() == pytest.approx(fitted.kept)
    assert max(fitted(x) for x in raw) <= 0.5


@pytest.mark.parametrize(
    ("raw", "right", "reason"),
    [
        (np.arange(20.0), np.arange(20) < 10, "do not score higher"),
        (np.arange(20.0), np.ones(20, bool), "right and wrong"),
        (np.zeros(20), np.arange(20) < 10, "different scores"),
        (np.tile([0.0, 1.0], 20), np.tile([False, True, True, False, False, True, True, True], 5), "no threshold"),
        (np.arange(40.0), np.arange(40) > 19, "no threshold"),
        (np.arange(40.0), np.isin(np.arange(40), (0, 2)), "do not score higher"),
    ],
)
def test_a_reward_model_that_gold_does_not_bear_out_is_switched_off(raw: Any, right: Any, reason: str) -> None:
    fitted = fit_model_term(raw, right, RewardConfig(gate_precision=0.99))
    assert reason in fitted.reason
    assert fitted(100.0) == 0.0


def test_separable_gold_never_makes_certainty() -> None:
    fitted = fit_model_term(np.arange(80.0), np.arange(80) >= 40, RewardConfig())
    assert fitted.precision_low >= 0.9
    assert 0.5 < fitted.probability(79.0) < 0.9999
    few = fit_model_term(np.arange(20.0), np.arange(20) >= 10, RewardConfig())
    assert "no threshold reaches" in few.reason, "ten right answers may be luck"


@pytest.mark.parametrize("share", [0.5, 0.95, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.3, 0.8))])
@pytest.mark.parametrize("alike", [False, True])
def test_noise_does_not_open_the_gate_where_a_good_score_does(share: float, alike: bool) -> None:
    """60 questions with 8 answers, some easy, some hard; a noise reward model rates answers, or whole questions."""
    random = np.random.default_rng(0)
    questions = [str(n) for n in range(60) for _ in range(8)]
    opened = [0, 0]
    for _ in range(100):
        chance = random.beta(share, 1 - share, 60).repeat(8)
        right = random.random(480) < chance
        noise = random.normal(size=60).repeat(8) + 0.1 * random.normal(size=480) if alike else random.normal(size=480)
        for at, scores in enumerate((noise, noise + 6 * right)):
            opened[at] += math.isfinite(fit_model_term(scores, right, RewardConfig(), questions).threshold)
    assert opened[0] <= 1
    assert opened[1] >= 80


def test_answers_to_one_question_are_not_independent_gold() -> None:
    right = np.arange(80) >= 40
    alone = fit_model_term(np.arange(80.0), right, RewardConfig())
    assert math.isfinite(alone.threshold)
    eight_each = fit_model_term(np.arange(80.0), right, RewardConfig(), [str(n // 8) for n in range(80)])
    assert "no threshold reaches" in eight_each.reason, "five questions may be luck"


def test_gold_without_a_finite_score_is_left_out_and_counted() -> None:
    raw, right = np.arange(80.0), np.arange(80) >= 40
    spoiled = np.append(raw, [math.nan, math.inf, -math.inf])
    fitted = fit_model_term(spoiled, np.append(right, [True] * 3), RewardConfig())
    assert replace(fitted, dropped=0) == fit_model_term(raw, right, RewardConfig())
    assert (fitted.n_gold, fitted.dropped) == (80, 3)
    assert "open" in str(fitted)
    assert "80 gold answers, 3 more without a finite score" in str(fitted)
    none = fit_model_term(np.full(30, math.nan), np.arange(30) > 9, RewardConfig())
    assert (none.n_gold, none.dropped, none(1.0)) == (0, 30, 0.0)
    assert "closed: gold needs ten answers" in str(none)
    with pytest.raises(ValueError, match="one score, one label and one question"):
        fit_model_term(raw, right, RewardConfig(), ["q"])


def test_answers_to_a_question_without_a_known_answer_are_counted() -> None:
    cut = rollout("<think>and so", ended=False)
    scores = HybridReward(RewardConfig())([(OPEN, GOOD), (OPEN, rollout("hm")), (OPEN, cut), (ASKED, GOOD)])
    assert [s.problem for s in scores] == ["no known answer", "no known answer", "cut off", ""]


def scored(*rows: tuple[float, float, float | None]) -> list[Score]:
    return [Score(rule=r, format=f, raw=x) for r, f, x in rows]


def answers(*names: str) -> list[Rollout]:
    return [rollout(n, tokens=(ord(n[0]),)) for n in names]


def test_pairs_with_a_known_answer_are_well_formed_right_against_wrong() -> None:
    scores = scored((1, 1, 3.0), (1, 1, 5.0), (0, 1, 4.0), (0, 0, -2.0), (1, 0, 9.0))
    found = make_pairs([ASKED], [answers("a", "b", "c", "d", "e")], [scores], PairConfig(per_prompt=9))
    told = {(p.chosen_text, p.rejected_text, p.margin) for p in found.pairs}
    assert told == {("b", "d", 7.0), ("a", "d", 5.0), ("b", "c", 1.0), ("a", "c", -1.0)}
    few = make_pairs([ASKED], [answers("a", "b", "c", "d", "e")], [scores], PairConfig(per_prompt=2))
    assert len(few.pairs) == 2
    assert few == make_pairs([ASKED], [answers("a", "b", "c", "d", "e")], [scores], PairConfig(per_prompt=2))
    high = make_pairs([ASKED], [answers("a", "b", "c", "d", "e")], [scores], PairConfig(threshold=6.0))
    assert [p.margin for p in high.pairs] == [7.0]
    none = make_pairs([ASKED], [answers("a", "b", "c", "d", "e")], [scores], PairConfig(threshold=60.0))
    assert none.counts == {"margin below the threshold": 1, "pairs": 0}


def test_questions_without_pairs_are_counted_by_reason() -> None:
    groups = [answers("a", "b")] * 3
    scores = [
        scored((1, 1, None), (1, 1, None)),
        scored((0, 1, None), (0, 1, None)),
        scored((1, 1, None), (0, 1, None)),
    ]
    found = make_pairs([ASKED, ASKED, OPEN], groups, scores, PairConfig())
    assert found.counts == {"all right": 1, "none right": 1, "no reward model": 1, "pairs": 0}
    rest = [scored((1, 0, None), (0, 1, None)), scored((0, 0, 1.0), (0, 0, None))]
    assert make_pairs([ASKED, OPEN], groups[:2], rest, PairConfig()).counts == {
        "right answers do not have the form 'think-answer' (pairs.form)": 1,
        "fewer than two scores of the reward model": 1, "pairs": 0,
    }  # fmt: skip
    twice = make_pairs([OPEN], [answers("a", "a")], [scored((0, 0, 1.0), (0, 0, 2.0))], PairConfig())
    assert twice.counts == {"the same or empty answers": 1, "pairs": 0}


def test_without_a_known_answer_the_reward_model_decides_by_margin() -> None:
    scores = scored((0, 1, 1.0), (0, 1, 4.0), (0, 1, 2.0))
    found = make_pairs([OPEN], [answers("a", "b", "c")], [scores], PairConfig(per_prompt=9, threshold=2.5))
    assert [(p.chosen_text, p.rejected_text, p.source) for p in found.pairs] == [("b", "a", "model")]


@pytest.mark.parametrize(
    ("text", "boxed", "think_boxed"),
    [
        (r"so it is \boxed{5}.", 1, 0),
        (r"<think>sum</think> It is \boxed{\frac{1}{2}}", 1, 1),
        (r"<think>first \boxed{4}, no</think> \boxed{5}", 1, 1),
        (r"first \boxed{4}, no</think> \boxed{5}", 1, 0),
        (r"\boxed{4} or \boxed{5}", 0, 0),
        (r"<think>a</think> \boxed{4}, \boxed{5}", 0, 0),
        (r"<think>a</think> \boxed{ }", 0, 0),
        (r"<think>a</think> \boxed{5", 0, 0),
        (r"<think>\boxed{5}", 0, 0),
        (r"<think>\boxed{5}</think>", 0, 0),
        (r"<think>a</think><think>b</think> \boxed{5}", 0, 0),
        ("<think>sum</think><answer>5</answer>", 0, 0),
    ],
)
def test_a_box_is_a_form(text: str, boxed: float, think_boxed: float) -> None:
    assert (format_reward(text, "boxed"), format_reward(text, "think-boxed")) == (boxed, think_boxed)
    assert format_reward(text, "none") == 1.0


def test_what_the_template_begins_is_part_of_what_the_rules_read() -> None:
    """The sampler's text of a model whose template opens the thought lacks its mark."""
    bare = rollout("sum</think><answer>5</answer>")
    assert HybridReward(RewardConfig())([(ASKED, bare)])[0].format == 0.0
    score = HybridReward(RewardConfig(), begun="<think>\n")([(ASKED, bare)])[0]
    assert (score.rule, score.format) == (1.0, 1.0)
    thought = rollout("the answer is 5, or is it")
    assert HybridReward(RewardConfig())([(ASKED, thought)])[0].rule == 0.0
    ended = rollout("the answer is 5")
    assert HybridReward(RewardConfig())([(ASKED, ended)])[0].rule == 1.0
    assert HybridReward(RewardConfig(), begun="<think>")([(ASKED, ended)])[0].rule == 0.0, "a thought is no answer"


def test_only_what_ended_is_chosen() -> None:
    cut, whole, wrong = rollout("a", False, (1,)), rollout("b", True, (2,)), rollout("c", False, (3,))
    made = make_pairs([ASKED], [[cut, whole, wrong]], [scored((1, 1, None), (1, 1, None), (0, 0, None))], PairConfig())
    assert [(p.chosen_text, p.rejected_text) for p in made.pairs] == [("b", "c")]
    none = make_pairs([ASKED], [[cut, wrong]], [scored((1, 1, None), (0, 0, None))], PairConfig())
    assert none.counts == {"right answers are cut off": 1, "pairs": 0}
    told = make_pairs([OPEN], [[cut, whole, wrong]], [scored((0, 0, 9.0), (0, 0, 5.0), (0, 0, 1.0))], PairConfig())
    assert [(p.chosen_text, p.rejected_text) for p in told.pairs] == [("b", "c")]
    assert make_pairs([OPEN], [[cut, wrong]], [scored((0, 0, 9.0), (0, 0, 1.0))], PairConfig()).counts == {
        "all answers are cut off": 1, "pairs": 0,
    }  # fmt: skip


def test_boxed_answers_make_pairs_where_the_form_is_a_box() -> None:
    right, wrong = rollout(r"it is \boxed{5}", tokens=(1,)), rollout(r"it is \boxed{6}", tokens=(2,))
    for form, n in (("boxed", 1), ("none", 1), ("think-answer", 0)):
        config = PairConfig(form=form)  # type: ignore[arg-type]
        scores = HybridReward(RewardConfig(form=config.form))([(ASKED, right), (ASKED, wrong)])
        assert len(make_pairs([ASKED], [[right, wrong]], [scores], config).pairs) == n


def test_a_reward_model_that_gives_all_answers_one_score_is_told_once() -> None:
    """A small language model as judge gives back the score of the prompt's example."""
    scores = iter([0.7] * 63 + [0.7] + [0.7] * 2 + [0.7] * 64 + [0.2])
    alike = HybridReward(RewardConfig(combine="sum", rule=0, format=0), lambda pairs: [next(scores) for _ in pairs])
    alike([(ASKED, GOOD)] * 63)
    assert alike.remarks() == []
    alike([(ASKED, GOOD)])
    (told,) = alike.remarks()
    assert "gave all of the first 64 answers the same score (0.7)" in told
    alike([(ASKED, GOOD)] * 2)
    assert alike.remarks() == []
    apart = HybridReward(RewardConfig(combine="sum", rule=0, format=0), lambda pairs: [next(scores) for _ in pairs])
    apart([(ASKED, GOOD)] * 65)
    assert apart.remarks() == []


def test_a_reward_that_nobody_has_earned_is_told_once() -> None:
    reward = HybridReward(RewardConfig())
    reward([(ASKED, rollout("who knows"))] * 63)
    assert reward.remarks() == []
    reward([(OPEN, rollout("who knows"))])
    (told,) = reward.remarks()
    assert "none of the first 64 answers has the form 'think-answer'" in told
    reward([(ASKED, WRONG)])
    (told,) = reward.remarks()
    assert "none of the first 64 answers to questions with a known answer is right" in told
    reward([(ASKED, WRONG)])
    assert reward.remarks() == []
    good = HybridReward(RewardConfig())
    good([(ASKED, GOOD)] * 70)
    assert good.remarks() == []


def test_the_overlong_punishment_is_dapo_s() -> None:
    """Eq. 13 with a limit of 20 and a band of 5."""
    assert [overlong(n, 20, 5) for n in (1, 15, 16, 18, 20, 21)] == pytest.approx([0, 0, -0.2, -0.6, -1, -1])
    long, short = rollout(GOOD.text, tokens=(1,) * 18), rollout(GOOD.text, tokens=(1,) * 4)
    reward = HybridReward(RewardConfig(overlong=0.5, overlong_band=5), max_tokens=20)
    scores = reward([(ASKED, long), (ASKED, short)])
    assert [(s.overlong, s.total) for s in scores] == [(pytest.approx(-0.6), pytest.approx(1.7)), (0.0, 2.0)]
    assert not grade([long, short], scores, signal="rule").signal, "length alone is no signal in the rules"
    assert grade([long, short], scores, signal="total").signal
    with pytest.raises(AssayError, match="overlong_band"):
        HybridReward(RewardConfig(overlong=1.0, overlong_band=32), max_tokens=32)
    with pytest.raises(AssayError, match="give max_tokens"):
        HybridReward(RewardConfig(overlong=1.0))
