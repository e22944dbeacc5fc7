"""Whatever the body is computed in, the reward head is fp32: answers are not equal by rounding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tiny_models
from assay import models
from assay.pack import share
from assay.records import assistant, user
from assay.reward.config import EngineConfig, TrainConfig
from assay.reward.model import RewardModel, for_training
from assay.reward.scorer import load_scorer

CHATS = [(user("say a number"), assistant(f"it is {i}, {'so ' * (i % 5)}there")) for i in range(60)]


def rounded(rewards: NDArray[np.float64]) -> float:
    """The share of rewards that bfloat16 could hold."""
    exact = torch.tensor(rewards)
    return float((exact.bfloat16().double() == exact).double().mean())


def rewards(model: Any, pad_id: int, groups: list[Any], packing: bool, precision: str) -> NDArray[np.float64]:
    made = RewardModel(model, pad_id, EngineConfig(packing=packing), precision).eval()
    assert made.packed == packing
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = made(made.batch(groups))
    assert found.dtype == torch.float32
    return np.asarray(found.double().numpy())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.reward(tmp_path_factory.mktemp("reward"))


def test_a_decoder_scores_finely_in_packs_and_on_rows_and_both_agree(folder: Path) -> None:
    tokenizer = models.load_tokenizer(str(folder))
    rendered = load_scorer(folder).render(CHATS)  # type: ignore[attr-defined]
    groups = [share([r.ids for r in rendered[at : at + 3]]) for at in range(0, 60, 3)]
    found: dict[tuple[bool, str], NDArray[np.float64]] = {}
    for packing in (True, False):
        for precision in ("fp32", "bf16"):
            model = models.load_reward_model(models.Backbone(name=str(folder)), tokenizer, trained=True)
            found[packing, precision] = rewards(model, 0, groups, packing, precision)
    np.testing.assert_allclose(found[True, "fp32"], found[False, "fp32"], atol=1e-5)
    for packing in (True, False):
        assert rounded(found[packing, "bf16"]) < 0.1, packing
        np.testing.assert_allclose(found[packing, "bf16"], found[packing, "fp32"], atol=0.2)


def test_an_encoder_scores_finely_and_as_transformers_does() -> None:
    tokenizer = models.load_tokenizer("minilm")
    torch.manual_seed(0)
    model = models.load_reward_model(models.Backbone(layers=2), tokenizer).eval()
    ids = [tokenizer(f"it is {i}")["input_ids"] for i in range(40)]
    groups = [share([i]) for i in ids]
    with torch.no_grad():
        expected = [model(input_ids=torch.tensor([i])).logits.item() for i in ids]
    for packing in (False, True):
        np.testing.assert_allclose(rewards(model, 0, groups, packing, "fp32"), expected, atol=1e-5)
        half = rewards(model, 0, groups, packing, "bf16")
        assert rounded(half) < 0.1
        np.testing.assert_allclose(half, expected, atol=0.05)


@pytest.mark.parametrize("pad_id", [-1, 0, 1])
def test_packs_and_rows_read_at_the_same_token(folder: Path, pad_id: int) -> None:
    """Token 0 is padding, 1 ends an answer; -1: no token is padding. One sequence is nothing but padding."""
    tokenizer = models.load_tokenizer(str(folder))
    groups = [share([[5, 6, 7, 1], [5, 6, 9, 1, 1]]), share([[8, 9, 0], [8, 0, 0, 0]]), share([[max(pad_id, 0)] * 3])]
    found = []
    for packing in (True, False):
        model = models.load_reward_model(models.Backbone(name=str(folder)), tokenizer, trained=True)
        found.append(rewards(model, pad_id, groups, packing, "fp32"))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_in_training_too_gradients_reach_head_and_body(folder: Path) -> None:
    config = TrainConfig(backbone=str(folder), precision="bf16")
    made = for_training(config, models.load_tokenizer(str(folder)))
    with torch.autocast("cpu", torch.bfloat16):
        made(made.batch([share([[5, 6, 7], [5, 6, 9]])])).sum().backward()
    for name, parameter in made.inner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.abs().sum() > 0, name
