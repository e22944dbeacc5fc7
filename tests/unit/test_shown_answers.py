"""Sampled answers that a training keeps: all that was paid for stands beside the reward."""

from pathlib import Path

from assay.policy import shown
from assay.policy.rewards import HybridReward, RewardConfig
from assay.records import user
from assay.rollouts import Prompt, Rollout
from assay.tuning.outcome import _answers


def test_the_terms_that_are_kept_come_to_the_reward(tmp_path: Path) -> None:
    """By hand: 16 of at most 20 tokens are 4 into the last 8, half of -1; a format weight of 2, an overlong weight of 3."""
    config = RewardConfig(form="boxed", format=2.0, overlong=3.0, overlong_band=8)
    reward = HybridReward(config, None, None, max_tokens=20)
    prompt = Prompt(messages=(user("What is 3 + 4?"),), answer="7", kind="number")
    group = [
        Rollout(
            prompt_id=prompt.id, text=text, tokens=tuple(range(n)), logprobs=(0.0,) * n, ended=n < 20, policy_step=0
        )
        for text, n in ((r"\boxed{7}", 16), ("8", 5), ("it is eight", 20))
    ]
    kept = shown.Shown(tmp_path, 1)
    kept.add(0, prompt, group, reward([(prompt, r) for r in group]))
    kept.write(0)
    found = shown.read(tmp_path)
    assert [(a.rule, a.format, a.overlong, a.total) for a in found] == [
        (1.0, 1.0, -0.5, 1.5), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, -1.0, -3.0),
    ]  # fmt: skip
    rows = [(which, reward, terms) for _, which, _, _, _, reward, terms, _ in _answers(tmp_path)]
    assert rows == [("best", "1.500", "right 1, form 1, too long -0.5"), ("worst", "-3.000", "too long -1")]
