"""Answers of one prompt that are too many for one pass: several passes within the budget, the same rewards and updates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_models
from assay.pack import Group, Pack, continued, share, split
from assay.policy.advantage import grade
from assay.policy.config import CorrectionConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.model import load_policy
from assay.policy.sampler import LocalSampler
from assay.policy.update import Update
from assay.records import assistant, user
from assay.render import Rendered
from assay.reward.config import TrainConfig
from assay.reward.model import for_training
from assay.reward.scorer import LocalScorer, load_scorer
from assay.rollouts import Prompt, Score
from assay.step import Engine

BUDGET = 64
MADE_UP = GrpoConfig(correction=CorrectionConfig(most_gap=0.0))  # log-probabilities that no sampler gave
tokens = st.integers(0, 60)  # 0 is the padding, which a reward is never read at
prompts = st.lists(tokens, max_size=90)
answers = st.lists(st.lists(tokens, min_size=1, max_size=30), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalScorer, LocalScorer]:
    folder = tiny_models.reward(tmp_path_factory.mktemp("reward"))
    whole, parted = (load_scorer(folder, 512, tokens_per_batch=n) for n in (1 << 20, BUDGET))
    assert isinstance(whole, LocalScorer)
    assert isinstance(parted, LocalScorer)
    return whole, parted


@given(asked=st.lists(st.tuples(prompts, answers), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rewards_of_parted_groups_are_those_of_whole_ones(
    scorers: tuple[LocalScorer, LocalScorer], asked: list[tuple[list[int], list[list[int]]]]
) -> None:
    chats = [(user(str(n)), assistant(str(k))) for n, (_, told) in enumerate(asked) for k in range(len(told))]
    rendered = [Rendered(ids=[*prompt, *answer]) for prompt, told in asked for answer in told]
    whole, parted = scorers
    np.testing.assert_allclose(parted.rewards(chats, rendered), whole.rewards(chats, rendered), atol=1e-5)


def test_no_pass_is_above_the_budget_and_a_prompt_is_read_once(
    scorers: tuple[LocalScorer, LocalScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    model = scorers[1].model
    forward = model.forward

    def spied(batch: Pack, **kept: Any) -> Any:
        passes.append(batch.tokens)
        return forward(batch, **kept)

    monkeypatch.setattr(model, "forward", spied)
    conversations = [(user("why? " * 6), assistant(f"because of {n}")) for n in range(256)]
    scorers[1](conversations)
    assert max(passes) <= BUDGET
    read = [len(r.ids) for r in scorers[1].render(conversations)]
    assert sum(passes) < sum(read) / 2, "the prompt must not be read again with every pass"
    passes.clear()
    scorers[1]([(user("a"), assistant("long " * 40)), *conversations[:20]])
    assert sorted(passes)[-2] <= BUDGET < max(passes), "one conversation longer than the budget goes alone"


def test_an_answer_of_padding_alone_is_read_in_its_prompt() -> None:
    prefix, rest = continued(share([[5, 6, 0, 0], [5, 6, 0, 7]]), pad_id=0)
    assert prefix.tolist() == [5]
    assert [r.tolist() for r in rest] == [[6, 0, 0], [6, 0, 7]]


def test_split_by_hand() -> None:
    prefix, answers = np.array([1, 2, 3], dtype=np.int32), [np.arange(n, dtype=np.int32) for n in (1, 2, 3, 4)]
    group = Group(prefix=prefix, answers=tuple(answers))
    parts = split(group, 9)
    assert sorted(i for part in parts for i in part) == [0, 1, 2, 3]
    for part in parts:
        assert len(group.prefix) + sum(len(group.answers[i]) for i in part) <= 9
    assert [len(p) for p in split(group, 1)] == [1, 1, 1, 1]
    rows = split(group, 2 * group.longest(), packed=False)
    assert rows == [[0, 1], [2, 3]]


@pytest.mark.parametrize("packing", [True, False])
def test_an_update_in_parts_is_the_update_in_one(tmp_path: Path, packing: bool) -> None:
    """GRPO's group above the budget: more passes, none above it, the same loss."""
    folder, prompt = tiny_models.save_language(tmp_path / "m"), Prompt(messages=(user("2+2?"),), answer="4")
    losses: list[float] = []
    for budget in (4096, 24):
        policy = load_policy(str(folder), PolicyConfig(train=("llm",), tokens=budget, packing=packing))
        sampler = LocalSampler(policy, SamplerConfig(max_tokens=6), half=False) if packing else _Ids()
        engine = Engine("fp32", 1.0, False)
        run = Update(tmp_path / "out", MADE_UP, policy, engine, [prompt], sampler)
        engine.prepare(policy, 1e-3, 0.0)
        rollouts = [_rollout(prompt, [7 + n, 8, 9 + n, 1]) for n in range(8)]
        scores = [Score(rule=float(n % 2), format=0.0, total=float(n % 2)) for n in range(8)]
        batch = list(grade(rollouts, scores, "std", "total").samples)
        micros = run.micros(batch, len(batch))
        if budget < 100:
            assert len(micros) > 1
            assert all(len(m.batch.targets_M) < 24 for m in micros)
        losses.append(run.train(batch, len(batch), 1)["grad_norm"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] > 0


def _rollout(prompt: Prompt, ids: list[int]) -> Any:
    from assay.rollouts import Rollout

    return Rollout(
        prompt_id=prompt.id, tokens=tuple(ids), logprobs=(-1.0,) * len(ids), text="", ended=True, policy_step=0
    )


class _Ids:
    """As much of a sampler as an update needs."""

    config = SamplerConfig()

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        return [4, 20, 5, 9, 10, 11]


def test_a_long_text_does_not_turn_its_neighbours(tmp_path: Path) -> None:
    """longrope: a pass with a text beyond the original length rotates all of its texts as long ones."""
    torch.manual_seed(0)
    longrope = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 96,
        "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0],
    }  # fmt: skip
    config = transformers.LlamaConfig(
        vocab_size=len(tiny_models.tokenizer()), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, eos_token_id=1, pad_token_id=0,
        num_labels=1, rope_parameters=longrope,
    )  # fmt: skip
    model = transformers.LlamaForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    texts = [(user("Why?"), assistant("because " * n)) for n in (2, 5, 20)]
    for most, whole in ((256, 3), (90, 2)):
        score = load_scorer(tmp_path, most)
        assert score.model.packed == (most == 90)
        together = score(texts[:whole])
        alone = [float(score([one])[0]) for one in texts[:whole]]
        ids = [torch.tensor([r.ids]) for r in score.render(texts[:whole])]
        with torch.inference_mode():
            own = [model(input_ids=i, attention_mask=torch.ones_like(i)).logits.item() for i in ids]
        assert together == pytest.approx(own, abs=1e-5)
        assert alone == pytest.approx(own, abs=1e-5)
    said: list[str] = []
    wanted = TrainConfig(backbone=str(tmp_path), max_tokens=128, precision="fp32")
    assert not for_training(wanted, tiny_models.tokenizer(), said.append).packed
    assert "not packed: a text above 96 tokens" in said[0]
