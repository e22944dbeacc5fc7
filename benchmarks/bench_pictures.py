"""The part of `bench_policy.py` with pictures: a GRPO step of a small Qwen2.5-VL against TRL's GRPOTrainer.

A question is one picture and 64 tokens of text. The language model and Qwen's merger have the size of tiny8k and random
weights; the vision tower is frozen on both sides. Every answer has 64 tokens exactly.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SIDES = (224, 448)
"""Of a square picture, in pixels: 64 and 256 tokens."""
TEXT = 64
PATCH, MERGE = 14, 2
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}PICTURE{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endif %} {% endfor %}"
).replace("PICTURE", f" {PICTURE} ")


def picture_tokens(side: int) -> int:
    return (side // PATCH // MERGE) ** 2


def make_model(folder: Path) -> None:
    """Qwen2.5-VL's own classes, small: a language model like tiny8k and a tower of four layers; a word for every id."""
    import torch
    from bench_policy import VOCABULARY, words
    from bench_reward import word
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
    )

    torch.manual_seed(0)
    start, end, image, video = range(VOCABULARY, VOCABULARY + 4)
    config = Qwen2_5_VLConfig(
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
        tie_word_embeddings=True,
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "pad_token_id": 0,
            "eos_token_id": 2, "bos_token_id": None, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 10_000.0},
        },
        vision_config={
            "depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "out_hidden_size": 256,
            "patch_size": PATCH, "spatial_merge_size": MERGE, "fullatt_block_indexes": [3], "window_size": 112,
        },
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words(model.model.language_model).backend_tokenizer, pad_token=word(0), eos_token=word(2),
        unk_token=word(1), extra_special_tokens={
            "vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>",
            "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
        },
    )  # fmt: skip
    made = [tokenizer.convert_tokens_to_ids(t) for t in tokenizer.all_special_tokens[3:]]
    assert made == [start, end, image, video], made
    model.resize_token_embeddings(VOCABULARY + 16)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, size={"shortest_edge": 56 * 56, "longest_edge": max(SIDES) ** 2}
    ).save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def picture(side: int, at: int) -> Any:
    from PIL import Image

    return Image.fromarray(np.random.default_rng([side, at]).integers(0, 255, (side, side, 3), dtype=np.uint8))


def ours(folder: Path, side: int, steps: int, warm: int) -> dict[str, Any]:
    from bench_policy import NEW, precision, prompt_ids, text, timed_steps

    from assay.images import ImageStore
    from assay.policy.config import PolicyConfig, SamplerConfig
    from assay.policy.model import load_policy
    from assay.policy.sampler import LocalSampler
    from assay.records import Message
    from assay.rollouts import Prompt

    with tempfile.TemporaryDirectory() as scratch:
        store = ImageStore(Path(scratch) / "pictures")
        policy = load_policy(str(folder), PolicyConfig(precision=precision(), train=("llm", "adapter")), store)
        assert policy.packed, policy.reason
        prompts = [
            Prompt(messages=(Message(role="user", content=text(ids), images=(store.add(picture(side, at)),)),))
            for at, ids in enumerate(prompt_ids(TEXT, steps + warm))
        ]
        sampler = LocalSampler(policy, SamplerConfig(max_tokens=NEW), store, half=policy.bf16)
        sampler.forbidden += policy.end_ids
        places = [sampler.prompt_ids(p) for p in prompts]
        assert {len(p) for p in places} == {TEXT + 2 + picture_tokens(side)}, {len(p) for p in places}
        return timed_steps(policy, prompts, sampler, steps, warm)


def trl(folder: Path, side: int, steps: int, warm: int, checkpointing: bool) -> dict[str, Any]:
    from bench_policy import grpo_trainer, prompt_ids, text
    from datasets import Dataset
    from transformers import Qwen2_5_VLForConditionalGeneration

    from assay.models import load_processor  # AutoProcessor wants torchvision, for videos

    data = Dataset.from_dict({
        "prompt": [[{"role": "user", "content": text(ids)}] for ids in prompt_ids(TEXT, steps + warm)],
        "image": [picture(side, at) for at in range(steps + warm)],
    })  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="float32")
    model.model.visual.requires_grad_(False)
    model.model.visual.merger.requires_grad_(True)
    return grpo_trainer(model, load_processor(str(folder)), data, steps, warm, checkpointing)
