"""Which parts go together: language models of other layouts than Llama's, and what is refused with its name."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny_models
from assay.errors import AssayError
from assay.images import ImageStore, blank
from assay.policy.assemble import assemble, assemble_from, save
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.model import load_policy
from assay.policy.sampler import local_sampler
from assay.records import Message
from assay.rollouts import Prompt

pytest.importorskip("PIL.Image")
IDS = {"vocab_size": len(tiny_models.tokenizer()), "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
SHAPE = {**IDS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def language(kind: str) -> Any:
    """A causal language model of random weights."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(**IDS, n_embd=32, n_layer=2, n_head=4, n_positions=256)
        return transformers.GPT2LMHeadModel(config).eval()
    if kind == "gpt-neox":
        return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SHAPE)).eval()
    if kind == "head with a bias":
        return transformers.PhiForCausalLM(transformers.PhiConfig(**SHAPE)).eval()
    if kind == "scaled logits":
        return transformers.GraniteForCausalLM(transformers.GraniteConfig(**SHAPE, logits_scaling=4.0)).eval()
    if kind == "no attention":
        return transformers.MambaForCausalLM(
            transformers.MambaConfig(**IDS, hidden_size=32, num_hidden_layers=2)
        ).eval()
    return transformers.BertModel(transformers.BertConfig(**{**SHAPE, "bos_token_id": 0})).eval()


@pytest.mark.parametrize("encoder", ["clip", "conv"])
@pytest.mark.parametrize("kind", ["gpt2", "gpt-neox"])
def test_a_language_model_of_another_layout_is_assembled_saved_and_sampled(
    kind: str, encoder: str, tmp_path: Path
) -> None:
    size = 64 if encoder == "conv" else 32
    text = language(kind)
    model, processor = assemble(*tiny_models.encoder(encoder, size), text, tiny_models.tokenizer(), size)
    ids_BT = torch.randint(4, IDS["vocab_size"], (2, 10))
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids_BT).logits, text(input_ids=ids_BT).logits)
    save(model, processor, tmp_path / "vlm")
    store = ImageStore(tmp_path / "pictures")
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=("adapter", "llm")), store)
    picture = store.add(blank(40, 50))
    prompt = Prompt(messages=(Message(role="user", content="what?", images=(picture,)),))
    sampler = local_sampler(policy, SamplerConfig(max_tokens=6), store)
    [answers] = sampler([prompt], 3)
    tokens = [torch.tensor(r.tokens) for r in answers]
    ids_P = torch.tensor(sampler.prompt_ids(prompt))
    said = torch.tensor([x for r in answers for x in r.logprobs])
    assert policy.pictures is not None
    pixels = policy.pictures.inputs([picture])["pixel_values"]
    whole = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm").eval()
    with torch.no_grad():
        rows = [whole(input_ids=torch.cat([ids_P, t])[None], pixel_values=pixels).logits[0] for t in tokens]
    again = [
        row.log_softmax(-1)[len(ids_P) - 1 : -1].gather(1, t[:, None])[:, 0]
        for row, t in zip(rows, tokens, strict=True)
    ]
    torch.testing.assert_close(said, torch.cat(again), atol=1e-5, rtol=1e-5)


def test_what_is_assembled_hangs_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture token's row of the embeddings, a new one here, was drawn from whatever state the process was in."""
    monkeypatch.setattr("assay.policy.assemble.IMAGE_TOKEN", "<picture>")

    def weights(state: int, seed: int) -> dict[str, torch.Tensor]:
        parts = (*tiny_models.encoder("clip", 32), language("gpt2"), tiny_models.tokenizer())
        torch.manual_seed(state)
        return dict(assemble(*parts, 32, seed=seed)[0].state_dict())

    first, again, other = weights(1, 7), weights(2, 7), weights(1, 8)
    assert [n for n in first if not torch.equal(first[n], again[n])] == []
    [table] = [n for n in first if n.endswith("wte.weight")]
    assert len(first[table]) == IDS["vocab_size"] + 1
    assert not torch.equal(first[table][-1], other[table][-1])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("head with a bias", "PhiForCausalLM: its head has a bias"),
        ("scaled logits", "GraniteForCausalLM computes its logits in another way than LlavaForConditionalGeneration"),
        ("no attention", "MambaForCausalLM cannot be the language model of LlavaForConditionalGeneration"),
        ("no head", "BertModel has no head that predicts tokens"),
    ],
)
def test_a_language_model_that_does_not_fit_is_refused_by_name(kind: str, reason: str) -> None:
    with pytest.raises(AssayError, match=reason):
        assemble(*tiny_models.encoder("clip", 32), language(kind), tiny_models.tokenizer(), 32)


def test_what_is_no_vision_encoder_is_refused_by_name(tmp_path: Path) -> None:
    model, processor = assemble(*tiny_models.encoder("siglip", 32), tiny_models.language(), tiny_models.tokenizer(), 32)
    save(model, processor, tmp_path / "vlm")
    text = tiny_models.save_language(tmp_path / "lm")
    with pytest.raises(
        AssayError, match=r"LlavaModel does not read pictures .* not a language or vision-language model"
    ):
        assemble_from(str(tmp_path / "vlm"), str(text), tmp_path / "out", 32)
    with pytest.raises(AssayError, match="LlavaForConditionalGeneration is a vision-language model already"):
        assemble_from(str(save_encoder(tmp_path / "encoder")), str(tmp_path / "vlm"), tmp_path / "out", 32)
    with pytest.raises(AssayError, match="CLIPVisionModel does not read pictures of 48 x 48 pixels"):
        assemble(*tiny_models.encoder("clip", 32), tiny_models.language(), tiny_models.tokenizer(), 48)
    assert not (tmp_path / "out").exists()


def test_pictures_are_made_as_large_as_they_are_said_to_be(tmp_path: Path) -> None:
    """DINOv2 reads any size; its image processor made the size of the encoder's name, whatever was asked for."""
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 8}
    encoder = transformers.Dinov2Model(transformers.Dinov2Config(**shape, image_size=32)).eval()
    made = tiny_models.processor(32)
    model, processor = assemble(encoder, made, tiny_models.language(), tiny_models.tokenizer(), 48)
    pictures = processor(text=["<image>"], images=[blank(70, 40)], return_tensors="pt")
    assert pictures["pixel_values"].shape[-2:] == (48, 48)
    assert int((pictures["input_ids"] == model.config.image_token_id).sum()) == 6 * 6
    assert made(images=[blank(70, 40)], return_tensors="pt")["pixel_values"].shape[-2:] == (32, 32), "left as it was"


def save_encoder(folder: Path) -> Path:
    for part in tiny_models.encoder("siglip", 32):
        part.save_pretrained(folder)
    return folder
