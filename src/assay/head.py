"""Log-probabilities of chosen tokens straight from hidden states: the logits of all positions are never in memory at once.

Only positions that predict a token of an answer reach the language-model head, in chunks. Where the probabilities of a
whole pass fit `KEEP` bytes they are kept for the backward pass, else they are computed again; both give the same gradient.
TRL does this with a fused kernel on a GPU and, without one, sends every position through the head (`shared/peers.md`).
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from assay import native
from assay.native import longs, pointer

CHUNK, CHUNK_CPU, ROWS = 1 << 25, 1 << 21, 512
"""Logits of one chunk, in elements: on a CPU few enough to stay in its cache between two operations; but never fewer rows
than pay for reading the head's weights again."""
KEEP = 1 << 29
"""Probabilities that may wait for the backward pass, in bytes."""


def chosen_logprobs(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float = 1.0, bias_V: Tensor | None = None,
    entropy: bool | Literal["gradient"] = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """log p(target) under softmax(hidden W^T / temperature), and the entropy of that distribution: zero where it is not
    asked for, with a gradient for "gradient" (as a bonus in a loss).

    Returns two fp32 tensors of shape (M,), in nats. Computes in bfloat16 where autocast does.
    """
    device = hidden_MD.device.type
    half = torch.is_autocast_enabled(device) or hidden_MD.dtype == torch.bfloat16
    dtype = torch.bfloat16 if half else hidden_MD.dtype
    with torch.autocast(device, enabled=False):
        logp_M, entropy_M = _Chosen.apply(  # type: ignore[no-untyped-call]
            hidden_MD.to(dtype), weight_VD.to(dtype), targets_M, temperature,
            None if bias_V is None else bias_V.float(), entropy,
        )  # fmt: skip
    return logp_M, entropy_M


class _Chosen(torch.autograd.Function):
    """With e = exp(logits) up to a factor for each row, which `total_M` makes good: p = e / total. In fp32 the gradient
    scale (1[target] - p) W is taken apart, so that e is read as it is; in bfloat16 that would round p W against W."""

    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float, bias_V: Tensor | None,
        entropy: bool | str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        M, V = len(hidden_MD), len(weight_VD)
        logp_M, entropy_M, total_M = (hidden_MD.new_zeros(M, dtype=torch.float32) for _ in range(3))
        keep = any(ctx.needs_input_grad[:2]) and M * V * hidden_MD.element_size() <= KEEP
        kept = hidden_MD.new_empty(M, V) if keep else None
        for part in _chunks(hidden_MD, V):
            place = kept[part] if kept is not None and kept.dtype == torch.float32 else None
            logits = _logits(hidden_MD[part], weight_VD, temperature, bias_V, place)
            logp_M[part], total_M[part] = _exponentials(logits, targets_M[part], entropy_M[part] if entropy else None)
            if kept is not None and place is None:
                kept[part] = logits
        ctx.temperature, ctx.kept, ctx.total_M, ctx.sloped = temperature, kept, total_M, entropy == "gradient"
        ctx.save_for_backward(hidden_MD, weight_VD, targets_M, bias_V, entropy_M if ctx.sloped else None)
        if not ctx.sloped:
            ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor, slope_M: Tensor) -> tuple[Tensor | None, ...]:
        """By the logits z (over the temperature): dlogp = 1[target] - p, dH = -p (log p + H)."""
        hidden_MD, weight_VD, targets_M, bias_V, entropy_M = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        dhidden = torch.empty_like(hidden_MD) if wants_hidden else None
        dweight = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        for part in _chunks(hidden_MD, len(weight_VD)):
            hidden, targets = hidden_MD[part], targets_M[part]
            if ctx.kept is not None:
                e = ctx.kept[part]
            else:
                e = _logits(hidden, weight_VD, ctx.temperature, bias_V)
                _exponentials(e, targets)
            scale = grad_M[part, None].float() / ctx.temperature
            share = scale / ctx.total_M[part, None]
            if hidden.dtype == torch.float32 and not ctx.sloped:
                if dhidden is not None:
                    dhidden[part] = (e @ weight_VD).mul_(-share).addcmul_(weight_VD[targets], scale)
                if dweight is not None:
                    dweight.addmm_(e.t(), hidden * share, alpha=-1).index_add_(0, targets, hidden * scale)
                continue
            slope = (e.float() * -share).scatter_add_(1, targets[:, None], scale)
            if ctx.sloped:
                p = e.float() / ctx.total_M[part, None]
                by = slope_M[part, None].float() / ctx.temperature
                slope -= by * p * (p.clamp(min=1e-30).log() + entropy_M[part, None])
            slope = slope.to(hidden.dtype)
            if dhidden is not None:
                dhidden[part] = slope @ weight_VD
            if dweight is not None:
                dweight += (slope.t() @ hidden).float()
        return dhidden, None if dweight is None else dweight.to(weight_VD.dtype), None, None, None, None


def library() -> Any:
    """The built softmax, or None where there is no compiler that can build it."""
    return native.library(Path(__file__).with_name("head_cpu.cpp"))


def chosen_tokens(
    logits_BV: Tensor, temperature: float, points_B: Tensor | None, banned: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor] | None:
    """A token of each row of fp32 logits, its log-probability under softmax(logits / temperature), and the entropy of that,
    each (B,): drawn by points in [0, 1), or without any the likeliest (at temperature 1). What is banned is not taken.

    None where nothing compiled is at hand for it.
    """
    if logits_BV.device.type != "cpu" or library() is None:
        return None
    logits_BV, B = logits_BV.contiguous(), len(logits_BV)
    tokens_B, (logp_B, entropy_B) = torch.empty(B, dtype=torch.long), torch.empty(2, B)
    closed = torch.tensor(sorted(set(banned)), dtype=torch.long)
    points_B = None if points_B is None else points_B.float().contiguous()
    library().choose(
        pointer(logits_BV), *longs(*logits_BV.shape), ctypes.c_float(1 / temperature), pointer(points_B), pointer(closed),
        *longs(len(closed)), pointer(tokens_B), pointer(logp_B), pointer(entropy_B), *longs(torch.get_num_threads()),
    )  # fmt: skip
    return tokens_B, logp_B, entropy_B


def _exponentials(logits: Tensor, targets: Tensor, entropy: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """In place, logits (M, V) -> e with p = e / total; returns log p(target) and the total, both (M,), fills `entropy`."""
    if logits.device.type == "cpu" and library() is not None:
        logp, total = logits.new_empty(len(logits)), logits.new_empty(len(logits))
        assert logits.dtype == torch.float32
        library().exponentials(
            pointer(logits), *longs(*logits.shape), pointer(targets), pointer(total), pointer(logp), pointer(entropy),
            *longs(torch.get_num_threads()),
        )  # fmt: skip
        return logp, total
    whole = torch.log_softmax(logits, -1)
    torch.exp(whole, out=logits)
    if entropy is not None:
        entropy.copy_(torch.linalg.vecdot(logits, whole)).neg_()
    return whole.gather(1, targets[:, None]).squeeze(1), torch.ones_like(whole[:, 0])


def _chunks(hidden_MD: Tensor, vocabulary: int) -> list[slice]:
    rows = len(hidden_MD)
    size = max(ROWS, (CHUNK_CPU if hidden_MD.device.type == "cpu" else CHUNK) // vocabulary)
    return [slice(at, min(at + size, rows)) for at in range(0, rows, size)]


def _logits(
    hidden: Tensor, weight_VD: Tensor, temperature: float, bias_V: Tensor | None, out: Tensor | None = None
) -> Tensor:
    logits = torch.mm(hidden, weight_VD.t(), out=out).float()
    if bias_V is not None:
        logits += bias_V
    return logits if temperature == 1.0 else logits.div_(temperature)
