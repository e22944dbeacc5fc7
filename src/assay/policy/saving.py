"""A policy's weights as transformers keeps them: low-rank adapters are added in one tensor at a time.

No copy of the model is made, and none on its device: under FSDP2 a sharded model cannot be copied, and elsewhere a second
one may not fit beside the first.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

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
    scales = {n: m.scaling for n, m in model.named_modules() if hasattr(m, "base_layer") and hasattr(m, "lora_A")}
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        layer, inside, rest = name.partition(".base_layer.")
        plain = (f"{layer}.{rest}" if inside else name).removeprefix(BEFORE)
        found[plain] = _added(value, state, layer, scales[layer]) if inside and rest == "weight" else value
    return found


@torch.no_grad()
def _added(weight: Tensor, state: Mapping[str, Tensor], layer: str, scales: Mapping[str, float]) -> Tensor:
    """W + scale B A, computed in fp32 on the CPU."""
    made = weight.detach().to("cpu", torch.float32, copy=True)
    for adapter, scale in scales.items():
        down, up = (
            state[f"{layer}.{n}.{adapter}.weight"].detach().to("cpu", torch.float32) for n in ("lora_A", "lora_B")
        )
        made.addmm_(up, down, alpha=scale)
    return made.to(weight.dtype)
