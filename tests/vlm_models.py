"""Tiny random models of transformers' own vision-language classes, in the files that their checkpoints have: the class's
processor, its image processor and its kind of tokenizer (bytes, no merges), so that nothing of ours is in the way.

`make(kind, folder)` writes one, `KINDS` names them. Pictures come as a few dozen tokens.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}PICTURE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = ["<|im_start|>", "<|im_end|>"]
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 4_096, "bos_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}


def make(kind: str, folder: Path, seed: int = 0, tied: bool = False) -> Path:
    """Write a model of this kind with its processor, its head that of its embedding where `tied`; returns the folder."""
    torch.manual_seed(seed)
    model, processor, settings, images, tokenizer, picture = _MADE[kind]()
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    torch.manual_seed(seed)
    for parameter in model.parameters():  # transformers' own starts are nearly silent: a wrong picture must show
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.6 / parameter.shape[-1] ** 0.5)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.3)
    if tied:
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
        model.tie_weights()
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor, **settings}))
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("PICTURE", picture))
    return folder


Made = tuple[Any, str, dict[str, Any], Any, Any, str]
"""A model, the class of its processor and its settings, its image processor, its tokenizer, a picture in its template."""


def _bytes(tokens: list[str], **named: str) -> Any:
    """Qwen's tokenizer over bytes: `tokens` are special ones, `named` those that the processor asks for by name."""
    vocabulary = {c: i for i, c in enumerate(bytes_to_unicode().values())}
    special = [*TURNS, *tokens, *named.values()]
    made = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=[], eos_token="<|im_end|>", pad_token="<|pad|>", extra_special_tokens=named or None
    )
    made.add_tokens([transformers.AddedToken(t, special=True, normalized=False) for t in special])
    return made


def _pieces(kind: Any, first: list[str], tokens: list[str], **named: str) -> Any:
    """LLaMA's and Gemma's tokenizers: characters, and bytes where there is none."""
    letters = ["▁", *map(chr, range(33, 127)), "\n", *(f"<0x{i:02X}>" for i in range(256))]
    made = kind(
        vocab={t: i for i, t in enumerate([*first, *letters])}, merges=[], eos_token="<|im_end|>", pad_token="<pad>",
        **({"extra_special_tokens": named} if named else {}),
    )  # fmt: skip
    special = [*TURNS, *tokens, *named.values()]
    made.add_tokens([transformers.AddedToken(t, special=True, normalized=False) for t in special])
    return made


def _head() -> int:
    return int(TEXT["hidden_size"] // TEXT["num_attention_heads"])


def _ids(tokenizer: Any) -> dict[str, Any]:
    size = -(-len(tokenizer) // 16) * 16
    return {"vocab_size": size, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}


def _qwen(kind: str) -> Made:
    tokenizer = _bytes(["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"])
    ids = tokenizer.convert_tokens_to_ids
    places = {
        "image_token_id": ids("<|image_pad|>"), "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"), "vision_end_token_id": ids("<|vision_end|>"),
    }  # fmt: skip
    text = {**TEXT, **_ids(tokenizer), "rope_parameters": dict(MROPE)}
    patch = 14
    if kind == "qwen2-vl":
        vision = {
            "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": patch
        }  # fmt: skip
        config = transformers.Qwen2VLConfig(tie_word_embeddings=False, text_config=text, vision_config=vision, **places)
        model, name = transformers.Qwen2VLForConditionalGeneration(config), "Qwen2VLProcessor"
    elif kind == "qwen2.5-vl":
        vision = {
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": patch, "fullatt_block_indexes": [1], "window_size": 56,
        }  # fmt: skip
        config = transformers.Qwen2_5_VLConfig(
            tie_word_embeddings=False, text_config=text, vision_config=vision, **places
        )
        model, name = transformers.Qwen2_5_VLForConditionalGeneration(config), "Qwen2_5_VLProcessor"
    else:
        patch = 16
        vision = {
            "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": patch, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
        }  # fmt: skip
        text |= {"head_dim": _head(), "rope_parameters": {**MROPE, "mrope_interleaved": True}}
        config = transformers.Qwen3VLConfig(tie_word_embeddings=False, text_config=text, vision_config=vision, **places)
        model, name = transformers.Qwen3VLForConditionalGeneration(config), "Qwen3VLProcessor"
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=patch, size={"shortest_edge": (2 * patch) ** 2 * 2, "longest_edge": (2 * patch) ** 2 * 20}
    )
    return model, name, {}, images, tokenizer, "<|vision_start|><|image_pad|><|vision_end|>"


def _internvl() -> Made:
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = _bytes([], **named)
    vision = {
        "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": [32, 32], "patch_size": [8, 8],
    }  # fmt: skip
    config = transformers.InternVLConfig(
        tie_word_embeddings=False,
        vision_config=vision, text_config={**TEXT, **_ids(tokenizer), "model_type": "qwen2"}, image_seq_length=4,
        downsample_ratio=0.5, image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )  # fmt: skip
    images = transformers.GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=4)
    model = transformers.InternVLForConditionalGeneration(config)
    return model, "InternVLProcessor", {"image_seq_length": 4}, images, tokenizer, "<IMG_CONTEXT>\n"


CLIP = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def _llava(kind: str) -> Made:
    tokenizer = _pieces(transformers.LlamaTokenizer, ["<unk>", "<s>", "</s>", "<pad>"], ["<image>"])
    common = {
        "vision_config": {**CLIP, "model_type": "clip_vision_model"},
        "text_config": {**TEXT, **_ids(tokenizer), "model_type": "llama"},
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"), "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }  # fmt: skip
    settings = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    side = {"height": 32, "width": 32}
    if kind == "llava":
        model: Any = transformers.LlavaForConditionalGeneration(
            transformers.LlavaConfig(tie_word_embeddings=False, **common)
        )
        images: Any = transformers.CLIPImageProcessorPil(size=side, crop_size=side)
        return model, "LlavaProcessor", settings, images, tokenizer, "<image>\n"
    grids = [[32, 64], [64, 32], [64, 64]]
    config = transformers.LlavaNextConfig(tie_word_embeddings=False, **common, image_grid_pinpoints=grids)
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size=side, image_grid_pinpoints=grids
    )
    return (
        transformers.LlavaNextForConditionalGeneration(config), "LlavaNextProcessor", settings, images, tokenizer,
        "<image>\n",
    )  # fmt: skip


def _onevision() -> Made:
    tokenizer = _bytes(["<image>", "<video>"])
    grids = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = transformers.LlavaOnevisionConfig(
        tie_word_embeddings=False,
        vision_config={**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config={**TEXT, **_ids(tokenizer), "model_type": "qwen2"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"), image_grid_pinpoints=grids,
    )  # fmt: skip
    images = transformers.LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=grids)
    settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"}
    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    return model, "LlavaOnevisionProcessor", settings, images, tokenizer, "<image>\n"


def _smol(kind: str) -> Made:
    rows = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    tokenizer = _bytes(["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows])
    vision = {**CLIP, "model_type": "idefics3_vision" if kind == "idefics3" else "smolvlm_vision"}
    common = {
        "vision_config": vision, "text_config": {**TEXT, **_ids(tokenizer), "model_type": "llama"}, "scale_factor": 2,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"), "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    if kind == "idefics3":
        model: Any = transformers.Idefics3ForConditionalGeneration(
            transformers.Idefics3Config(tie_word_embeddings=False, **common)
        )
    else:
        model = transformers.SmolVLMForConditionalGeneration(
            transformers.SmolVLMConfig(tie_word_embeddings=False, **common)
        )
    images = transformers.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    # SmolVLM's own processor needs num2words, for videos; what it does with pictures is Idefics 3's
    return model, "Idefics3Processor", {"image_seq_len": 4}, images, tokenizer, "<image>"


def _gemma3(layers: tuple[str, ...] = ("sliding_attention", "full_attention", "sliding_attention")) -> Made:
    tokenizer = _pieces(
        transformers.GemmaTokenizer, ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], [],
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    tokenizer.add_tokens(
        [transformers.AddedToken("\n" * n, normalized=False) for n in (2, 3, 4)]
    )  # as Gemma's has them
    text = {
        **TEXT,
        **_ids(tokenizer),
        "head_dim": _head(),
        "sliding_window": 16 if "sliding_attention" in layers else 4_096,
        "query_pre_attn_scalar": _head(),
    }
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Gemma3Config(
        tie_word_embeddings=False,
        text_config={**text, "layer_types": list(layers)},
        vision_config={**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}, mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"), eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"), eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    images = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32}, image_seq_length=4)
    model = transformers.Gemma3ForConditionalGeneration(config)
    return model, "Gemma3Processor", {"image_seq_length": 4}, images, tokenizer, "<start_of_image>"


def _paligemma() -> Made:
    tokenizer = _pieces(transformers.GemmaTokenizer, ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], ["<image>"])
    config = transformers.PaliGemmaConfig(
        tie_word_embeddings=False, text_config={**TEXT, **_ids(tokenizer), "head_dim": 8, "model_type": "gemma"},
        vision_config={**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False, "projection_dim": 32},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), projection_dim=32,
    )  # fmt: skip
    images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    model = transformers.PaliGemmaForConditionalGeneration(config)
    return model, "PaliGemmaProcessor", {}, images, tokenizer, "<image>"


_MADE: dict[str, Callable[[], Made]] = {
    "qwen2-vl": lambda: _qwen("qwen2-vl"), "qwen2.5-vl": lambda: _qwen("qwen2.5-vl"), "qwen3-vl": lambda: _qwen("qwen3-vl"),
    "internvl": _internvl, "llava": lambda: _llava("llava"), "llava-next": lambda: _llava("llava-next"),
    "llava-onevision": _onevision, "smolvlm": lambda: _smol("smolvlm"), "idefics3": lambda: _smol("idefics3"),
    "gemma3": _gemma3, "gemma3-full": lambda: _gemma3(("full_attention",) * 3), "paligemma": _paligemma,
}  # fmt: skip
KINDS = tuple(_MADE)[:-2]
"""Those whose pictures are read rightly as they come; Gemma 3 without sliding windows and PaliGemma are for the check at
loading, which must find their attention both ways."""
