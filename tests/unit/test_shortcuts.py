"""Encoders in packs, the last layer where the head reads, frozen layers computed once: always what the plain model gives."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

from assay import attention_cpu, encoders, frozen, models, packing, shortcuts, vision
from assay.errors import AssayError
from assay.pack import Group, share
from assay.records import Preference, Response, user
from assay.reward.config import EngineConfig, TrainConfig
from assay.reward.model import RewardModel, for_training
from assay.reward.scorer import Model
from assay.reward.train import train

SMALL = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_labels": 1, "pad_token_id": 0,
}  # fmt: skip
DISTIL = {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4, "num_labels": 1}
ENCODERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**SMALL)),
    "roberta": lambda: t.RobertaForSequenceClassification(
        t.RobertaConfig(**SMALL | {"pad_token_id": 1}, type_vocab_size=1)
    ),
    "electra": lambda: t.ElectraForSequenceClassification(t.ElectraConfig(**SMALL, embedding_size=32)),
    "distilbert": lambda: t.DistilBertForSequenceClassification(t.DistilBertConfig(**DISTIL)),
    "albert": lambda: t.AlbertForSequenceClassification(t.AlbertConfig(**SMALL, embedding_size=16)),
}
DECODERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: t.LlamaForSequenceClassification(t.LlamaConfig(**SMALL, num_key_value_heads=2)),
    "qwen3": lambda: t.Qwen3ForSequenceClassification(t.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16)),
    "gpt2": lambda: t.GPT2ForSequenceClassification(
        t.GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=4, num_labels=1, pad_token_id=0)
    ),
}
READ = {"bert", "roberta", "electra", "llama", "qwen3"}
"""Whose last layer is computed where the head reads."""


def made(family: str) -> Any:
    torch.manual_seed(0)
    return (ENCODERS | DECODERS)[family]().eval()


def texts(n: int = 8, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(3, 99, random.integers(4, 70)).tolist() for _ in range(n)]


def groups_of(family: str, seed: int = 0) -> list[Group]:
    """Pairs that begin alike; the second text of the typed ones begins at different places."""
    rows = texts(seed=seed)
    types = [3, 2] if family in ("bert", "electra", "albert") else []
    return [share([a, a[:4] + b], types) for a, b in zip(rows[::2], rows[1::2], strict=True)]


def plain(model: Any, groups: list[Group]) -> torch.Tensor:
    """What transformers computes of each sequence alone."""
    found = []
    for group in (g.unshared() for g in groups):
        for answer, first in zip(group.answers, group.types or [0] * len(group.answers), strict=True):
            given = {"input_ids": torch.from_numpy(answer.astype(np.int64))[None]}
            if first:
                given["token_type_ids"] = (torch.arange(len(answer)) >= first).long()[None]
            found.append(model(**given).logits[0, 0])
    return torch.stack(found)


def gradients(model: Any, rewards: torch.Tensor) -> dict[str, torch.Tensor]:
    told = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(rewards.square().sum(), [p for _, p in told], allow_unused=True)
    return {n: g for (n, _), g in zip(told, found, strict=True) if g is not None}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_packs_compute_what_transformers_does(family: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(attention_cpu, "usable", lambda _: False)
    model, groups = made(family), groups_of(family)
    expected = plain(model, groups)
    wanted = gradients(model, expected)
    packed = RewardModel(model, 0, EngineConfig())
    assert packed.packed
    assert packed.shares == (family in DECODERS)
    rewards = packed(packed.batch(groups))
    torch.testing.assert_close(rewards, expected, atol=1e-6, rtol=1e-4)
    found = gradients(model, rewards)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-3, msg=name)
    turnouts = shortcuts.installed(vision.language_model(model))
    assert (turnouts is not None and turnouts.reader is not None) == (family in READ)


def test_an_albert_gets_one_reward_a_row_when_padded_too() -> None:
    """Its pooler is a bare linear layer, which was given all tokens."""
    model, groups = made("albert"), groups_of("albert")
    padded = RewardModel(model, 0, EngineConfig(packing=False))
    torch.testing.assert_close(padded(padded.batch(groups)), plain(model, groups), atol=1e-6, rtol=1e-4)


def test_a_last_layer_that_only_looks_like_one_of_ours_runs_as_a_whole() -> None:
    model = made("llama")
    last = model.model.layers[-1]
    plain_forward = last.forward
    last.forward = lambda hidden, *args, **given: plain_forward(hidden, *args, **given) - hidden
    groups = groups_of("llama")
    expected = plain(model, groups)
    assert packing.use_packing(model) == ""
    turnouts = shortcuts.installed(model.model)
    assert turnouts is not None
    assert turnouts.reader is None
    packed = RewardModel(model, 0, EngineConfig())
    torch.testing.assert_close(packed(packed.batch(groups)), expected, atol=1e-6, rtol=1e-4)


class Mean(torch.nn.Module):
    """A head on the mean of all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(32, 1)

    def forward(self, states_BTD: torch.Tensor) -> torch.Tensor:
        return self.dense(states_BTD.mean(1))  # type: ignore[no-any-return]


def test_a_head_that_reads_more_than_the_first_token_is_found_out() -> None:
    model = made("roberta")
    model.classifier = Mean()
    assert "different results" in packing.use_packing(model)


def test_a_pack_of_too_many_scores_takes_the_whole_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = groups_of("llama")
    packed = RewardModel(made("llama"), 0, EngineConfig())
    read = packed.batch(groups)
    monkeypatch.setattr("assay.reward.model.MOST_SCORES", 10)
    whole = packed.batch(groups)
    assert (read.layout.route is None, whole.layout.route is None) == (False, True)  # type: ignore[union-attr]
    torch.testing.assert_close(packed(read), packed(whole), atol=1e-6, rtol=1e-5)


def test_padding_behind_an_answer_is_not_seen_from_where_it_is_read() -> None:
    model = made("llama")
    groups = [share([[5, 6, 7, 8, 0, 0], [5, 6, 9, 0, 0, 0]])]
    expected = plain(model, groups)
    packed = RewardModel(model, 0, EngineConfig())
    torch.testing.assert_close(packed(packed.batch(groups)), expected, atol=1e-6, rtol=1e-5)


# frozen layers


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "llama", "qwen3"])
def test_frozen_layers_are_computed_once_and_change_nothing(family: str) -> None:
    frozen.forget()
    model, groups = made(family), groups_of(family)
    expected = plain(model, groups)
    wanted = gradients(model, expected)
    packed = RewardModel(model, 0, EngineConfig(), frozen=2)
    calls = []
    body = vision.language_model(model)
    shortcuts.layers_of(body)[0].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        rewards = packed(packed.batch(groups))
        torch.testing.assert_close(rewards, expected, atol=1e-6, rtol=1e-4)
    spent, upper = len(calls), gradients(model, rewards)
    assert all(n in upper for n in wanted if "score" in n or "classifier" in n)
    for name, gradient in upper.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-3, msg=name)
    kept = set(frozen._STATES.kept)
    packed(packed.batch(groups_of(family)))
    assert set(frozen._STATES.kept) == kept, "the same texts are known"
    packed(packed.batch(groups_of(family, seed=1)))
    assert len(frozen._STATES.kept) > len(kept)
    assert len(calls) >= spent


def test_what_does_not_fit_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen.forget()
    monkeypatch.setattr(frozen, "MOST", 3_000)
    model, groups = made("bert"), groups_of("bert")
    expected = plain(model, groups)
    packed = RewardModel(model, 0, EngineConfig(), frozen=2)
    for _ in range(2):
        torch.testing.assert_close(packed(packed.batch(groups)), expected, atol=1e-6, rtol=1e-4)
    assert 0 < frozen._STATES.held <= 3_000


def test_states_of_other_weights_are_not_taken() -> None:
    frozen.forget()
    groups = groups_of("llama")
    one, other = made("llama"), made("llama")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(2)
    for model in (one, other, one):
        packed = RewardModel(deepcopy(model), 0, EngineConfig(), frozen=1)
        torch.testing.assert_close(packed(packed.batch(groups)), plain(model, groups), atol=1e-6, rtol=1e-4)


def test_texts_one_by_one_where_their_digits_hang_on_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen.forget()
    packed, groups = RewardModel(made("bert"), 0, EngineConfig(), frozen=2), groups_of("bert")
    assert packed.frozen is not None
    packed.frozen.states.steady = False
    sizes = []
    whole = packed.frozen._made
    monkeypatch.setattr(packed.frozen, "_made", lambda some, where: (sizes.append(len(some)), whole(some, where))[1])
    packed(packed.batch(groups))
    assert sizes == [1] * len(groups)


PAIRS = [
    Preference(
        pair_id=f"{n:032x}", prompt=(user(f"Say the number {n}."),),
        chosen=Response.of(f"It is {n}, as you said."), rejected=Response.of("No."),
    )
    for n in range(24)
]  # fmt: skip
TINY = TrainConfig(
    backbone="minilm", layers=2, freeze_layers=1, max_tokens=64, batch_pairs=4, epochs=2, lr=1e-3, checks=2
)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_training_with_frozen_layers_leaves_them_as_they_were_and_scores(tmp_path: Path) -> None:
    frozen.forget()
    train(tmp_path / "one", TINY, PAIRS[:16], PAIRS[16:])
    before = for_training(TINY, models.load_tokenizer("minilm")).inner.state_dict()
    after = models.load_reward_model(
        models.Backbone(name=str(tmp_path / "one")), models.load_tokenizer(str(tmp_path / "one")), trained=True
    ).state_dict()
    same = {n for n, x in after.items() if torch.equal(x, before[n])}
    assert {n for n in after if "embeddings" in n or "layer.0." in n} <= same
    assert not {n for n in after if "layer.1.attention.self.query.weight" in n or "classifier.weight" in n} & same
    chats = [p.prompt + r.messages for p in PAIRS for r in (p.chosen, p.rejected)]
    plain_scores, kept = Model(str(tmp_path / "one"), 64)(chats), Model(str(tmp_path / "one"), 64, frozen=1)(chats)
    np.testing.assert_allclose(kept, plain_scores, atol=1e-5)


def test_what_is_known_already_changes_no_digit_of_a_training(tmp_path: Path) -> None:
    """As after a kill: the states are gone, and come back in other company."""
    frozen.forget()
    train(tmp_path / "cold", TINY, PAIRS[:16], PAIRS[16:])
    train(tmp_path / "warm", TINY, PAIRS[:16], PAIRS[16:])
    frozen.forget()
    Model(str(tmp_path / "cold"), 64, frozen=1)([p.prompt + p.chosen.messages for p in PAIRS[3:9]])
    train(tmp_path / "mixed", TINY, PAIRS[:16], PAIRS[16:])
    assert weights(tmp_path / "cold") == weights(tmp_path / "warm") == weights(tmp_path / "mixed")


def test_freezing_is_refused_where_it_cannot_be() -> None:
    for wrong in ({"layers": 2, "freeze_layers": 2}, {"freeze_layers": -1}):
        with pytest.raises(AssayError, match="leave a layer to train"):
            TrainConfig(**wrong)
    with pytest.raises(AssayError, match="freeze_layers"):
        TrainConfig(freeze_layers=1, engine=EngineConfig(lora_rank=4))
    assert encoders.is_encoder(made("bert"))
    assert not encoders.is_encoder(made("llama"))
