"""What scores, generates or embeds is what its checkpoint says; nothing in it is random by chance."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny_models
from assay import models, weights
from assay.errors import AssayError
from assay.records import Conversation, assistant, user
from assay.reward.config import TrainConfig
from assay.reward.model import for_training
from assay.reward.scorer import load_scorer
from assay.reward.visual import load_visual

Weights = dict[str, torch.Tensor]
CHATS: list[Conversation] = [(user("what is 2+3?"), assistant(a)) for a in ("5", "five, I think", "a fish")]


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.reward(tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_language(tmp_path_factory.mktemp("language"), "qwen3")


def edited(folder: Path, out: Path, change: Callable[[Weights], None]) -> Path:
    """A copy of a model with other weights on disk."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    kept = load_file(out / "model.safetensors")
    change(kept)
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    return out


def renamed(to: str) -> Callable[[Weights], None]:
    def change(kept: Weights) -> None:
        kept[to] = kept.pop("score.weight")

    return change


HOLE = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "head", ["v_head.summary.weight", "rm_head.weight", "reward_head.weight", "regression_head.0.weight"]
)
def test_a_head_of_another_name_is_named_and_never_scored_with(reward: Path, tmp_path: Path, head: str) -> None:
    with pytest.raises(AssayError, match=r"lacks score\.weight .*MODULE:FUNCTION") as told:
        load_scorer(edited(reward, tmp_path / "rm", renamed(head)))
    assert head in str(told.value)


def test_a_language_model_is_no_reward_model(language: Path) -> None:
    with pytest.raises(
        AssayError, match=r"lacks score\.weight.*train one on it with `assay reward train`.*MODULE:FUNCTION"
    ):
        load_scorer(language)


def test_an_encoder_without_its_head_is_no_reward_model() -> None:
    with pytest.raises(AssayError, match=r"lacks classifier\.bias, classifier\.weight"):
        load_scorer("minilm")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop(HOLE), f"lacks {HOLE}"),
        (lambda w: w.update({HOLE: w[HOLE][:4].clone()}), f"{HOLE} of shape \\[4, 32\\], not \\[32, 32\\]"),
        (lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}), r"q_proj\.bias, which .* does not"),
        (lambda w: w.update({"gating.0.weight": torch.ones(4, 32)}), r"gating\.0\.weight, which .*MODULE:FUNCTION"),
        (lambda w: w.update({"v_head.summary.weight": torch.ones(1, 32)}), r"v_head\.summary\.weight, which"),
        (lambda w: w.update({"score.weight": torch.ones(2, 32)}), r"has 2 outputs .*a reward model has one"),
        (lambda w: w.update({"score.bias": torch.ones(1)}), r"score\.bias, which"),
    ],
)  # fmt: skip
def test_scoring_refuses_weights_that_do_not_fit(
    reward: Path, tmp_path: Path, change: Callable[[Weights], None], says: str
) -> None:
    with pytest.raises(AssayError, match=says):
        load_scorer(edited(reward, tmp_path / "rm", change))


def test_what_is_beside_a_reward_head_and_not_read_does_no_harm(reward: Path, tmp_path: Path) -> None:
    def change(kept: Weights) -> None:
        kept["lm_head.weight"] = torch.ones_like(kept["model.embed_tokens.weight"])

    both = load_scorer(edited(reward, tmp_path / "rm", change))
    np.testing.assert_array_equal(both(CHATS), load_scorer(reward)(CHATS))


def test_training_draws_a_head_by_its_seed_and_nothing_else(language: Path, reward: Path, tmp_path: Path) -> None:
    def made(folder: Path, said: list[str], **options: Any) -> Any:
        config = TrainConfig(backbone=str(folder), **options)
        return for_training(config, models.load_tokenizer(str(folder)), said.append).inner

    said: list[str] = []
    one, again, other = (made(language, said, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.score.weight, again.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    assert not said, "a language model has no reward head: that is no news"
    assert torch.equal(made(reward, said).score.weight, load_file(reward / "model.safetensors")["score.weight"])
    made(edited(reward, tmp_path / "v", renamed("v_head.summary.weight")), said)
    assert "its reward head is drawn anew: the checkpoint has v_head.summary.weight" in said[0]
    two = edited(reward, tmp_path / "two", lambda w: w.update({"score.weight": torch.ones(2, 32)}))
    made(two, said)
    assert "drawn anew: the checkpoint has score.weight of shape [2, 32], not [1, 32]" in said[1]
    with pytest.raises(AssayError, match=f"lacks {HOLE}"):
        made(edited(language, tmp_path / "hole", lambda w: w.pop(HOLE)), said)
    assert len(made(language, said, layers=1).model.layers) == 1
    with pytest.raises(AssayError, match=r"cannot keep the first 9 layers of .*: it has 2"):
        made(language, said, layers=9)
    assert len(said) == 2


def test_a_body_without_its_pooler_can_be_trained_on_but_not_scored_with(tmp_path: Path) -> None:
    place = Path(models.locate("minilm")[0])
    body = edited(place, tmp_path / "mlm", lambda w: [w.pop(n) for n in list(w) if "pooler" in n])
    for_training(TrainConfig(backbone=str(body)), models.load_tokenizer(str(body)))
    with pytest.raises(AssayError, match=r"lacks .*bert\.pooler\.dense"):
        load_scorer(body)


def test_what_generates_lacks_nothing(reward: Path, language: Path, tmp_path: Path) -> None:
    assert models.load_generator(str(language))
    with pytest.raises(AssayError, match=r"no model that generates: it lacks lm_head\.weight.*score\.weight"):
        models.load_generator(str(reward))
    with pytest.raises(AssayError, match=f"lacks {HOLE}"):
        models.load_generator(str(edited(language, tmp_path / "hole", lambda w: w.pop(HOLE))))

    def tied(kept: Weights) -> None:
        kept["score.weight"] = torch.ones(1, 32)

    with pytest.raises(AssayError, match=r"is a classifier or reward model \(score\.weight\)"):
        models.load_generator(str(edited(language, tmp_path / "tied", tied)))


def test_a_visual_reward_model_needs_its_head_to_score(tmp_path: Path) -> None:
    from assay.policy.assemble import assemble, save

    encoder, image_processor = tiny_models.encoder("clip")
    model, processor = assemble(encoder, image_processor, tiny_models.language("llama"), tiny_models.tokenizer(), 32)
    save(model, processor, tmp_path / "vlm")
    assert load_visual(str(tmp_path / "vlm"))
    with pytest.raises(AssayError, match=r"has no reward head \(score\.safetensors or value_head"):
        load_scorer(tmp_path / "vlm", images=tmp_path)
    save_file({"weight": torch.ones(2, 32)}, tmp_path / "vlm" / "score.safetensors")
    with pytest.raises(AssayError, match="no head of one output"):
        load_scorer(tmp_path / "vlm", images=tmp_path)
    tower = "encoder.layers.0.mlp.fc1.weight"
    with pytest.raises(AssayError, match=r"vision_tower.*mlp\.fc1\.weight"):
        load_visual(str(edited(tmp_path / "vlm", tmp_path / "hole", lambda w: w.pop(next(n for n in w if tower in n)))))


def adapter(base: Path, out: Path, task: str | None, head: bool) -> Any:
    """A saved adapter on a sequence classifier; returns the model with it."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = peft.LoraConfig(
        task_type=task, r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["score"] * head or None
    )
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(out)
    return adapted.eval()


def test_an_adapter_is_scored_with_its_own_head_or_refused(language: Path, tmp_path: Path) -> None:
    adapted = adapter(language, tmp_path / "whole", "SEQ_CLS", head=True)
    score = load_scorer(tmp_path / "whole")  # its tokenizer is its model's
    rendered = score.render(CHATS)  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = [adapted(input_ids=torch.tensor([r.ids])).logits.item() for r in rendered]
    np.testing.assert_allclose(score(CHATS), expected, atol=1e-5)
    adapter(language, tmp_path / "headless", None, head=False)
    with pytest.raises(AssayError, match=r"lacks score\.weight"):
        load_scorer(tmp_path / "headless")
    kept = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    lost = next(n for n in kept if "lora_B" in n)
    del kept[lost]
    save_file(kept, tmp_path / "whole" / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssayError, match=r"the adapter .* lacks base_model"):
        load_scorer(tmp_path / "whole")


# ---- padding, and what other tools make of a checkpoint


@pytest.mark.parametrize(("specials", "chosen"), [
    ({"eos_token": "<end>"}, "<pad>"),
    ({"eos_token": "<end>", "pad_token": "<end>"}, "<pad>"),
    ({"eos_token": "<end>", "pad_token": "[a]"}, "<pad>"),
    ({"eos_token": "<pad>", "pad_token": "<pad>", "unk_token": "<unk>"}, "<|pad|>"),
])  # fmt: skip
def test_padding_is_no_token_that_a_conversation_ends_with(specials: dict[str, str], chosen: str) -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.pad_token = None
    tokenizer.add_tokens(["[a]"])
    for name, token in specials.items():
        setattr(tokenizer, name, token)
    model = tiny_models.language()
    rows = model.get_input_embeddings().num_embeddings
    weights.own_pad(tokenizer, model)
    assert tokenizer.pad_token == chosen
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert model.config.pad_token_id == tokenizer.pad_token_id < model.get_input_embeddings().num_embeddings
    assert (model.get_input_embeddings().num_embeddings > rows) == (chosen == "<|pad|>")


def test_a_proper_padding_token_stays(reward: Path) -> None:
    tokenizer = models.load_tokenizer(str(reward))
    weights.own_pad(tokenizer, tiny_models.language())
    assert tokenizer.pad_token == "<pad>"


@pytest.mark.parametrize("own", [None, 0, 1])
def test_a_reward_is_read_where_the_config_says(reward: Path, tmp_path: Path, own: int | None) -> None:
    """Padding None: the last token; <pad>: the same; <end>, which ends every answer: the token before it."""
    folder = Path(shutil.copytree(reward, tmp_path / "rm"))
    config = transformers.AutoConfig.from_pretrained(folder)
    config.pad_token_id = own
    config.save_pretrained(folder)
    tokenizer = tiny_models.tokenizer()
    tokenizer.pad_token = None if own == 1 else "<end>"
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    score = load_scorer(folder)
    with torch.no_grad():
        ids = [torch.tensor([r.ids]) for r in score.render(CHATS)]  # type: ignore[attr-defined]
        expected = [model(input_ids=i).logits.item() for i in ids]
        ends = [model(input_ids=i[:, :-1]).logits.item() for i in ids]
    np.testing.assert_allclose(score(CHATS), expected, atol=1e-5)
    assert (np.abs(np.array(expected) - ends) < 1e-5).all() == (own == 1)


def test_files_of_a_model_can_be_read_by_whom_new_files_can(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch(mode=0o600)
    before = os.umask(0o022)
    try:
        weights.readable(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
