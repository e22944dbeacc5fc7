"""Vision encoder + MLP adapter + language model -> a vision-language model of a class that transformers has (paper B, 3.1).

R1V2 plugs a frozen InternViT-6B, an MLP adapter and QwQ-32B together, without an SFT stage. Here any encoder and any causal
language model go together, in the class that fits, so that a saved model loads without any code of ours:

    unshuffle > 1                      InternVL with its own encoder, else Cohere2Vision (a gated MLP): patches of a
                                       square are joined before the MLP (pixel unshuffle)
    the encoder returns a feature map  FastVLM (EfficientNet and other convolutional encoders)
    else                               LLaVA

How R1V2's adapter is initialised is not said; R1V1 trains it with a substitute language model of the same width and moves it
(`transfer`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from assay import models, vision
from assay.errors import AssayError

IMAGE_TOKEN = "<image>"


def assemble(
    encoder: Any, image_processor: Any, language: Any, tokenizer: Any, size: int, unshuffle: int = 1, seed: int = 0
) -> tuple[Any, Any]:
    """A vision-language model with a new adapter, and its processor. Weights of encoder and language model are taken over.

    Args:
        encoder: Any vision model of transformers with `last_hidden_state`.
        image_processor: Its image processor.
        language: A causal language model; its tokenizer gets the picture token, if it lacks one.
        size: Pixels of a side of the square pictures.
        unshuffle: Patches of a side that are joined to one token (2: a quarter of the tokens).

    Raises AssayError when the parts do not fit.
    """
    tower = encoder.vision_model if hasattr(encoder, "vision_model") else encoder
    with torch.no_grad():
        seen = tower.eval()(torch.zeros(1, 3, size, size)).last_hidden_state
    is_map = seen.dim() == 4
    if is_map and unshuffle > 1:
        raise AssayError("pixel unshuffle joins patches of a transformer encoder; this one returns a feature map")
    image_id = _image_token(tokenizer, language)
    width = seen.shape[1] if is_map else seen.shape[-1]
    text, picture = language.config, tower.config
    picture.hidden_size = width
    torch.manual_seed(seed)
    if is_map:
        tokens, model = seen.shape[2] * seen.shape[3], _fast_vlm(text, picture, image_id)
    else:
        tokens, model = _of_patches(text, picture, image_id, seen.shape[1], unshuffle)
    vision.vision_tower(model).load_state_dict(tower.state_dict())
    vision.language_model(model).load_state_dict(language.model.state_dict())
    model.get_output_embeddings().load_state_dict(language.get_output_embeddings().state_dict())
    if text.tie_word_embeddings:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.generation_config = language.generation_config
    return models.without_dropout(model), _processor(image_processor, tokenizer, size, tokens)


def _image_token(tokenizer: Any, language: Any) -> int:
    """The id of the picture token. An unused row of the embeddings is taken, so that nothing need grow; else they grow."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    found = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    if found >= language.get_input_embeddings().num_embeddings:
        language.resize_token_embeddings(found + 1, mean_resizing=False)
    return found


def _fast_vlm(text: Any, picture: Any, image_id: int) -> Any:
    config = transformers.FastVlmConfig(
        text_config=text, vision_config=picture, image_token_id=image_id, vision_feature_layer=-1,
        vision_feature_select_strategy="full", tie_word_embeddings=bool(text.tie_word_embeddings),
    )  # fmt: skip
    return transformers.FastVlmForConditionalGeneration(config)


def _of_patches(text: Any, picture: Any, image_id: int, places: int, unshuffle: int) -> tuple[int, Any]:
    """LLaVA, or a class with pixel unshuffle. A class token (one place more than a square) is left out."""
    side = int(places**0.5)
    has_class = side * side != places
    if has_class and int((places - 1) ** 0.5) ** 2 != places - 1:
        raise AssayError(f"the encoder returns {places} places, which is no square, with or without a class token")
    side = int((places - 1) ** 0.5) if has_class else side
    if side % unshuffle:
        raise AssayError(
            f"{side} x {side} patches cannot be joined {unshuffle} by {unshuffle}; use another picture size"
        )
    common: dict[str, Any] = {
        "text_config": text, "vision_config": picture, "tie_word_embeddings": bool(text.tie_word_embeddings),
        "image_token_id": image_id,
    }  # fmt: skip
    read = {"vision_feature_layer": -1, "vision_feature_select_strategy": "default" if has_class else "full"}
    tokens = (side // unshuffle) ** 2
    if unshuffle == 1:
        config = transformers.LlavaConfig(**common, **read, image_seq_length=tokens)
        return tokens, transformers.LlavaForConditionalGeneration(config)
    if picture.model_type == "internvl_vision":
        config = transformers.InternVLConfig(**common, **read, image_seq_length=tokens, downsample_ratio=1 / unshuffle)
        return tokens, transformers.InternVLForConditionalGeneration(config)
    if has_class:
        raise AssayError("pixel unshuffle of an encoder with a class token is done for InternVL's own encoder only")
    config = transformers.Cohere2VisionConfig(
        **common, downsample_factor=unshuffle, alignment_intermediate_size=2 * text.hidden_size
    )
    return tokens, transformers.Cohere2VisionForConditionalGeneration(config)


def _processor(image_processor: Any, tokenizer: Any, size: int, tokens: int) -> Any:
    """LLaVA's processor: it counts picture tokens from the picture's size and a patch size, which is chosen to fit."""
    patch = int(size // round(tokens**0.5))
    extra = tokens - (size // patch) ** 2
    return transformers.LlavaProcessor(
        image_processor=image_processor, tokenizer=tokenizer, patch_size=patch, vision_feature_select_strategy="full",
        num_additional_image_tokens=extra, image_token=IMAGE_TOKEN,
    )  # fmt: skip


def transfer(source: Any, target: Any) -> None:
    """Move a trained adapter from one vision-language model into another (R1V1, section 2.1: from the substitute language
    model to the reasoning one). Raises AssayError when widths differ."""
    given, taken = vision.adapter(source).state_dict(), vision.adapter(target).state_dict()
    for name, value in taken.items():
        if name not in given or given[name].shape != value.shape:
            shape = tuple(given[name].shape) if name in given else "none"
            raise AssayError(
                f"the adapter's {name} is {shape} in the source and {tuple(value.shape)} in the target: "
                "both language models need the same width, both encoders the same features"
            )
    vision.adapter(target).load_state_dict(given)


def save(model: Any, processor: Any, folder: Path) -> None:
    """Write what `AutoModelForImageTextToText` and `AutoProcessor` load."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def describe(model: Any) -> str:
    """The parts and their sizes, in words."""

    def millions(parts: Sequence[Any]) -> float:
        return float(sum(p.numel() for m in parts for p in m.parameters())) / 1e6

    parts = [vision.vision_tower(model), vision.adapter(model), vision.language_model(model)]
    tower, middle, text = (millions([p]) for p in parts)
    return (
        f"{type(model).__name__}: {type(parts[0]).__name__} {tower:.1f} M + adapter {middle:.1f} M + "
        f"{type(parts[2]).__name__} {text:.1f} M weights"
    )


def assemble_from(encoder: str, language: str, out: Path, size: int, unshuffle: int = 1, adapter_of: str = "") -> str:
    """`assemble` from names, saved to `out`, with another model's adapter if one is named. Returns the parts in words."""
    tower = models.load_pretrained(transformers.AutoModel, encoder)
    image_processor = models.load_pretrained(transformers.AutoImageProcessor, encoder)
    text, tokenizer = models.load_generator(language)
    if vision.is_visual(text):
        raise AssayError(f"{language} is a vision-language model already; give a language model")
    model, processor = assemble(tower, image_processor, text, tokenizer, size, unshuffle)
    if adapter_of:
        transfer(models.load_generator(adapter_of)[0], model)
    save(model, processor, out)
    return describe(model)
