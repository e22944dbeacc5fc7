"""Vision encoder + MLP adapter + language model -> a vision-language model of a class that transformers has (paper B, 3.1).

R1V2 plugs a frozen InternViT-6B, an MLP adapter and QwQ-32B together, without an SFT stage. Here any encoder and any causal
language model go together, in the class that fits, so that a saved model loads without any code of ours:

    unshuffle > 1                      InternVL with its own encoder, else Cohere2Vision (a gated MLP): patches of a
                                       square are joined before the MLP (pixel unshuffle)
    the encoder returns a feature map  FastVLM (EfficientNet and other convolutional encoders)
    else                               LLaVA

Every causal language model will do whose head is a plain linear layer over its last hidden state. Whether it is, is tried:
the assembled model must give the logits that the language model gave. Tied embeddings stay tied where these classes know
them (`embed_tokens`, as in Llama and Qwen); GPT-2's head becomes a copy.

How R1V2's adapter is initialised is not said; R1V1 trains it with a substitute language model of the same width and moves it
(`transfer`).
"""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from assay import models, vision, weights
from assay.errors import AssayError, first_line
from assay.images import blank
from assay.locks import alone
from assay.tables import check_vacant, sibling

IMAGE_TOKEN = "<image>"


def assemble(
    encoder: Any, image_processor: Any, language: Any, tokenizer: Any, size: int, unshuffle: int = 1, seed: int = 0
) -> tuple[Any, Any]:
    """A vision-language model with a new adapter, and its processor. Weights of encoder and language model are taken over.

    Args:
        encoder: Any vision model of transformers with `last_hidden_state`.
        image_processor: Its image processor, which is set to `size` where it makes others.
        language: A causal language model, in eval mode; its tokenizer gets the picture token, if it lacks one.
        size: Pixels of a side of the square pictures.
        unshuffle: Patches of a side that are joined to one token (2: a quarter of the tokens).

    Raises AssayError, which names the architecture, when a part is of another kind or the parts do not fit.
    """
    tower = encoder.vision_model if hasattr(encoder, "vision_model") else encoder
    seen = _look(tower, size)
    is_map = seen.dim() == 4
    if is_map and unshuffle > 1:
        raise AssayError("pixel unshuffle joins patches of a transformer encoder; this one returns a feature map")
    body, head = _language_parts(language)
    torch.manual_seed(seed)  # the picture token's row may be a new one
    image_id = _image_token(tokenizer, language)
    width = seen.shape[1] if is_map else seen.shape[-1]
    text, picture = copy.deepcopy(language.config), tower.config
    text.tie_word_embeddings = tied = bool(text.tie_word_embeddings) and hasattr(body, "embed_tokens")
    picture.hidden_size = width
    common = {
        "text_config": text, "vision_config": picture, "image_token_id": image_id, "tie_word_embeddings": tied,
    }  # fmt: skip
    torch.manual_seed(seed)  # the adapter, the same whether a row was drawn or not
    if is_map:
        tokens, model = seen.shape[2] * seen.shape[3], _fast_vlm(common)
    else:
        tokens, model = _of_patches(common, seen.shape[1], unshuffle)
    _take_over(vision.vision_tower(model), tower)
    _take_over(vision.language_model(model), body)
    _take_over(model.get_output_embeddings(), head)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.generation_config = language.generation_config
    models.without_dropout(model).eval()
    _compare(model, language)
    return model, _processor(_at(image_processor, size), tokenizer, size, tokens)


def _look(tower: Any, size: int) -> torch.Tensor:
    """What the encoder makes of a black picture. Raises AssayError where it is no encoder of pictures of this size."""
    try:
        with torch.no_grad():
            seen: torch.Tensor = tower.eval()(torch.zeros(1, 3, size, size)).last_hidden_state
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise AssayError(
            f"{type(tower).__name__} does not read pictures of {size} x {size} pixels ({first_line(error)}); give a vision "
            "encoder (CLIP, SigLIP, InternViT, EfficientNet, ...), not a language or vision-language model, and its size"
        ) from error
    return seen


def _language_parts(language: Any) -> tuple[Any, Any]:
    """The body of a causal language model, and its head."""
    name, head = type(language).__name__, language.get_output_embeddings()
    if vision.is_visual(language):
        raise AssayError(f"{name} is a vision-language model already; give a language model")
    if head is None:
        raise AssayError(f"{name} has no head that predicts tokens; give a causal language model")
    if getattr(head, "bias", None) is not None:
        raise AssayError(f"{name}: its head has a bias, which transformers' vision-language classes do not have")
    return vision.language_model(language), head


def _take_over(part: Any, source: Any) -> None:
    try:
        part.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise AssayError(
            f"the weights of {type(source).__name__} do not fit {type(part).__name__}, which is what transformers would load"
        ) from error


def _compare(model: Any, language: Any) -> None:
    """Raise AssayError where the assembled model says something else of a text than its language model does."""
    name = type(language).__name__
    ids_1T = torch.arange(4)[None] % language.get_input_embeddings().num_embeddings
    try:
        with torch.no_grad():
            ours, theirs = model(input_ids=ids_1T).logits, language(input_ids=ids_1T).logits
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise AssayError(
            f"{name} cannot be the language model of {type(model).__name__}: {first_line(error)}"
        ) from error
    apart = (ours - theirs).abs().max().item() / theirs.abs().max().item()
    if not apart <= 1e-3:
        raise AssayError(
            f"{name} computes its logits in another way than {type(model).__name__} (they differ by {apart:.1%}): "
            "such a language model cannot be assembled"
        )


def _image_token(tokenizer: Any, language: Any) -> int:
    """The id of the picture token. An unused row of the embeddings is taken, so that nothing need grow; else they grow."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    found = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    if found >= language.get_input_embeddings().num_embeddings:
        language.resize_token_embeddings(found + 1, mean_resizing=False)
    return found


def _fast_vlm(common: dict[str, Any]) -> Any:
    config = transformers.FastVlmConfig(**common, vision_feature_layer=-1, vision_feature_select_strategy="full")
    return transformers.FastVlmForConditionalGeneration(config)


def _of_patches(common: dict[str, Any], places: int, unshuffle: int) -> tuple[int, Any]:
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
    read = {"vision_feature_layer": -1, "vision_feature_select_strategy": "default" if has_class else "full"}
    tokens = (side // unshuffle) ** 2
    if unshuffle == 1:
        config = transformers.LlavaConfig(**common, **read, image_seq_length=tokens)
        return tokens, transformers.LlavaForConditionalGeneration(config)
    if common["vision_config"].model_type == "internvl_vision":
        config = transformers.InternVLConfig(**common, **read, image_seq_length=tokens, downsample_ratio=1 / unshuffle)
        return tokens, transformers.InternVLForConditionalGeneration(config)
    if has_class:
        raise AssayError("pixel unshuffle of an encoder with a class token is done for InternVL's own encoder only")
    config = transformers.Cohere2VisionConfig(
        **common, downsample_factor=unshuffle, alignment_intermediate_size=2 * common["text_config"].hidden_size
    )
    return tokens, transformers.Cohere2VisionForConditionalGeneration(config)


def _at(image_processor: Any, size: int) -> Any:
    """The image processor, or one like it that makes pictures of `size`. Raises AssayError where none can be made."""
    side = {"height": size, "width": size}
    for made in (image_processor, copy.deepcopy(image_processor)):
        if made is not image_processor:
            made.size = type(made.size)(**side) if made.size else side
            made.crop_size = side if getattr(made, "crop_size", None) else None
        pixels = made(images=[blank(2 * size, size)], return_tensors="pt")["pixel_values"]
        if tuple(pixels.shape[-2:]) == (size, size):
            return made
    made_of = " x ".join(map(str, pixels.shape[-2:]))
    raise AssayError(f"{type(image_processor).__name__} makes pictures of {made_of} pixels; give --size for these")


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
    weights.readable(folder)


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
    with alone(out):
        return _assembled(encoder, language, out, size, unshuffle, adapter_of)


def _assembled(encoder: str, language: str, out: Path, size: int, unshuffle: int, adapter_of: str) -> str:
    check_vacant(out, "model that may be written over")
    tower = models.load_model(transformers.AutoModel, encoder, "body")
    image_processor = models.load_pretrained(transformers.AutoImageProcessor, encoder)
    text, tokenizer = models.load_generator(language)
    model, processor = assemble(tower, image_processor, text, tokenizer, size, unshuffle)
    if adapter_of:
        transfer(models.load_generator(adapter_of)[0], model)
    beside = sibling(out, ".saving")
    shutil.rmtree(beside, ignore_errors=True)
    save(model, processor, beside)
    beside.rename(out)
    return describe(model)
