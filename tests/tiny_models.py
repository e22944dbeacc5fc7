"""Small random models and a tokenizer of characters, made without any download: what the policy's tests run on."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from assay.rollouts import Score

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,?!:<>/=+-*()'\n"
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'][0] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)


def tokenizer() -> Any:
    """One token a character, and <pad>, <end>, <unk>, <image>; with a chat template."""
    vocabulary = {t: i for i, t in enumerate(["<pad>", "<end>", "<unk>", "<image>", "[", "]", *LETTERS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


SHAPE: dict[str, Any] = {
    "vocab_size": len(tokenizer()), "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": 1, "pad_token_id": 0,
    "bos_token_id": None,
}  # fmt: skip
"""Of a small language model, for whoever builds one from a class."""


def language(kind: str = "llama", seed: int = 0, layers: int = 2, width: int = 32, head: int = 8) -> Any:
    """A causal language model of random weights: llama, or qwen3 (QK-norm, grouped queries; heads are `head` wide)."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": len(tokenizer()), "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
        "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None,
    }  # fmt: skip
    if kind == "qwen3":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape, head_dim=head)).eval()
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).eval()


def encoder(kind: str = "clip", size: int = 32, seed: int = 0, patch: int = 8) -> tuple[Any, Any]:
    """A vision encoder of random weights and its image processor: clip and internvl (class token),
    siglip (none), conv (a map)."""
    torch.manual_seed(seed)
    if kind == "conv":
        config = transformers.EfficientNetConfig(
            image_size=size, width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320, dropout_rate=0.0
        )
        return transformers.EfficientNetModel(config).eval(), processor(size)
    shape = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": patch,
    }
    if kind == "internvl":
        config = transformers.InternVLVisionConfig(
            **{**shape, "image_size": (size, size), "patch_size": (patch, patch)}
        )
        return transformers.InternVLVisionModel(config).eval(), processor(size)
    if kind == "siglip":
        return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**shape)).eval(), processor(size)
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**shape)).eval(), processor(size)


def processor(size: int) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = {"height": size, "width": size}
    return CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)


def save_language(folder: Path, kind: str = "llama", **options: Any) -> Path:
    model = language(kind, **options)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def reward(folder: Path, seed: int = 0) -> Path:
    """A sequence classifier with one output, random weights, saved with its tokenizer."""
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer()), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512, eos_token_id=1, pad_token_id=0, num_labels=1,
        bos_token_id=None,
    )  # fmt: skip
    model = transformers.Qwen3ForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def first_tokens(pairs: Any) -> list[Score]:
    """A reward that some groups miss altogether: does the answer begin with one of a few tokens?"""
    found = [float(r.tokens[0] % 5 == 0) for _, r in pairs]
    return [Score(rule=f, format=0.0, total=f) for f in found]
