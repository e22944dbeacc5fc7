"""A policy's weights as transformers keeps them: low-rank adapters are added in one tensor at a time.

No copy of the model is made, and none on its device: under FSDP2 a sharded model cannot be copied, and elsewhere a second
one may not fit beside the first.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from assay import vision

BEFORE = "base_model.model."
"""What peft puts before the names of the model's own weights."""


def plain_weights(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `model` (peft's, or of transformers) by the names that they have without adapters, on the CPU where
    something is added to them.

    Args:
        state: All of them by the model's own names, whole: not parts of a sharded one.
    """
    if not hasattr(model, "peft_config"):
        return dict(state)
    adapted = {n: m for n, m in model.named_modules() if hasattr(m, "base_layer") and hasattr(m, "lora_A")}
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        layer, inside, rest = name.partition(".base_layer.")
        plain = (f"{layer}.{rest}" if inside else name).removeprefix(BEFORE)
        if inside and rest.startswith("weight."):  # how 4 bits are read
            continue
        if inside and rest == "weight":
            base = adapted[layer].base_layer
            value = _added(
                value if value.is_floating_point() else base_weight(base), state, layer, adapted[layer].scaling
            )
        found[plain] = value
    return found


@contextmanager
def as_it_came(inner: Any) -> Iterator[None]:
    """Inside, a model's config says nothing of our attention, nor that it is in 4 bits: what is written is not."""
    config, body = inner.config, vision.language_model(inner).config
    before, body._attn_implementation = body._attn_implementation, "sdpa"
    four = ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit"), ("quantization_config",)
    taken = [
        (x, n, vars(x).pop(n)) for x, names in zip((inner, config), four, strict=True) for n in names if n in vars(x)
    ]
    try:
        yield
    finally:
        body._attn_implementation = before
        for owner, name, value in taken:
            setattr(owner, name, value)


def base_weight(layer: Any) -> Tensor:
    """The weight of a linear layer as it is multiplied by: one in 4 bits is read out, in fp32."""
    weight: Tensor = layer.weight
    if weight.is_floating_point():
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state).float()  # type: ignore[attr-defined]


@torch.no_grad()
def _added(weight: Tensor, state: Mapping[str, Tensor], layer: str, scales: Mapping[str, float]) -> Tensor:
    """W + scale B A in fp32, computed on the CPU."""
    made = weight.detach().to("cpu", torch.float32, copy=True)
    for adapter, scale in scales.items():
        down, up = (
            state[f"{layer}.{n}.{adapter}.weight"].detach().to("cpu", torch.float32) for n in ("lora_A", "lora_B")
        )
        made.addmm_(up, down, alpha=scale)
    return made


def merged(module: Any) -> Iterator[tuple[str, Tensor]]:
    """A module's weights with low-rank adapters added in, one by one, under the names they have without adapters."""
    for name, child in module.named_modules():
        if hasattr(child, "base_layer") and hasattr(child, "get_delta_weight"):
            delta = sum(child.get_delta_weight(a) for a in child.active_adapters)
            yield f"{name}.weight", base_weight(child.base_layer) + delta
            if child.base_layer.bias is not None:
                yield f"{name}.bias", child.base_layer.bias
    for name, value in module.state_dict().items():
        if ".lora_" not in name and ".base_layer." not in name:
            yield name, value
