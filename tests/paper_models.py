"""Random language models of the shapes of paper A's backbones, in small, where no hub is reachable."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from assay.recipes.suite import Architecture, paper_model


def scaled(architecture: Architecture) -> Architecture:
    """The same shape in small: two layers, two key-value heads of 16, 512 tokens, and all widths divided alike.

    Exact for the paper's backbones: the ratios of queries to keys, of attention and MLP to the hidden size (32 to 128),
    the QK norm and the tying are those of the original.
    """
    by = architecture.kv_heads // 2 * architecture.head_dim // 16
    return replace(
        architecture, layers=2, hidden=architecture.hidden // by, intermediate=architecture.intermediate // by,
        heads=architecture.heads * 2 // architecture.kv_heads, kv_heads=2, head_dim=16, vocabulary=512,
    )  # fmt: skip


_SPECIAL = {
    "llama": (
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
    ),
    "qwen3": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
}
_TEMPLATES = {
    "llama": "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] + '<|eot_id|>' }}{% endfor %}",
    "qwen3": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}",
}


def tiny_backbone(name: str, folder: Path, seed: int = 0) -> Path:
    """Save a random language model of a paper model's `scaled` shape to `folder`, with a tokenizer; returns `folder`.

    It stands for the backbone where no hub is reachable: like there, a reward model's head is drawn when it is loaded.
    The tokenizer is of bytes, with the family's special tokens and the frame of its chat template. Needs torch.
    """
    import torch
    import transformers

    architecture = scaled(paper_model(name).architecture)
    tokenizer = _byte_tokenizer(architecture.family)
    config = transformers.AutoConfig.for_model(
        architecture.family, **architecture.config(), pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _byte_tokenizer(family: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL[family]])
    llama = family == "llama"
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, chat_template=_TEMPLATES[family],
        bos_token="<|begin_of_text|>" if llama else None, eos_token="<|eot_id|>" if llama else "<|im_end|>",
        pad_token="<|finetune_right_pad_id|>" if llama else "<|endoftext|>",
    )  # fmt: skip
