"""Attention inside a pack by FlexAttention: its kernel, and its mask of blocks, made from the segments' boundaries.

PyTorch's `create_block_mask` compares all tokens of a pack with each other, in time and memory by the square of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 128
"""Tokens of a side of FlexAttention's blocks."""


def block_mask(layout: Any, segments_S4: Tensor) -> Any:
    """The mask of a layout (`attention.Layout`); of each segment its first token, its tokens, and the same of its prefix."""
    from torch.nn.attention.flex_attention import BlockMask

    n = len(layout.group_T)
    across = -(-n // BLOCK)
    seen, whole = np.zeros((2, across, across), bool)  # blocks of which something, or everything, is seen
    for start, size, prefix, before in segments_S4.tolist():
        for row in range(start // BLOCK, -(-(start + size) // BLOCK)):
            first, end = max(start, row * BLOCK), min(start + size, (row + 1) * BLOCK)
            most, by_all = (end, first + 1) if layout.causal else (start + size, start + size)
            for low, high, full in ((prefix, prefix + before, prefix + before), (start, most, by_all)):
                if low < high:
                    seen[row, low // BLOCK : -(-high // BLOCK)] = True
                if end - first == BLOCK:
                    whole[row, -(-low // BLOCK) : full // BLOCK] = True
    options: dict[str, Any] = {"BLOCK_SIZE": BLOCK, "mask_mod": visible(layout), "seq_lengths": (n, n)}
    return BlockMask.from_kv_blocks(*_listed(seen & ~whole), *_listed(whole), **options)


def _listed(blocks: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """How many blocks of each row are there (1, 1, rows), and which (1, 1, rows, rows), the others after them."""
    order = np.argsort(~blocks, -1, kind="stable")
    counts, which = (torch.from_numpy(x.astype(np.int32))[None, None] for x in (blocks.sum(-1), order))
    return counts, which


def moved(layout: Any, device: torch.device) -> Any:
    """The mask of a layout whose tensors lie on a device already, on that device, with what it reads of them."""
    mask = layout.mask.to(device)
    mask.mask_mod = visible(layout)
    return mask


def visible(layout: Any) -> Callable[..., Tensor]:
    """Whether a token sees another: same group, not later (encoders: later too), and the same answer or a prefix."""
    group, segment, causal = layout.group_T, layout.segment_T, layout.causal

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        same: Tensor = (group[q] == group[k]) & ((segment[k] == 0) | (segment[k] == segment[q]))
        return same & (k <= q) if causal else same

    return sees


def attend(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, mask: Any, scale: float) -> Tensor:
    """Attention output, shape (T, H, D)."""
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q_THD, k_TKD, v_TKD))
    run = _kernel(compiled=q.device.type == "cuda" and not torch.compiler.is_compiling())
    out: Tensor = run(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out[0].transpose(0, 1)


@functools.cache
def _kernel(compiled: bool) -> Callable[..., Any]:
    """FlexAttention is fused by torch.compile only; without it, it is a slow reference."""
    from torch.nn.attention.flex_attention import flex_attention

    plain: Callable[..., Any] = flex_attention
    return torch.compile(plain, dynamic=True) if compiled else plain
