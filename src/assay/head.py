"""Log-probabilities of chosen tokens straight from hidden states: the logits of all positions are never in memory at once.

Only positions that predict a token of an answer reach the language-model head, in chunks. Where the probabilities of a
whole pass fit `KEEP` bytes they are kept for the backward pass, else they are computed again; both give the same gradient.
TRL does this with a fused kernel on a GPU and, without one, sends every position through the head (`shared/peers.md`).
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 25
"""Logits of one chunk, in elements."""
KEEP = 1 << 29
"""Probabilities that may wait for the backward pass, in bytes."""


def chosen_logprobs(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float = 1.0, bias_V: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """log p(target) under softmax(hidden W^T / temperature), and the entropy of that distribution (without gradient).

    Returns two fp32 tensors of shape (M,), in nats. Computes in bfloat16 where autocast does.
    """
    device = hidden_MD.device.type
    half = torch.is_autocast_enabled(device) or hidden_MD.dtype == torch.bfloat16
    dtype = torch.bfloat16 if half else hidden_MD.dtype
    with torch.autocast(device, enabled=False):
        logp_M, entropy_M = _Chosen.apply(  # type: ignore[no-untyped-call]
            hidden_MD.to(dtype), weight_VD.to(dtype), targets_M, temperature,
            None if bias_V is None else bias_V.float(),
        )  # fmt: skip
    return logp_M, entropy_M


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float, bias_V: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        M, V = len(hidden_MD), len(weight_VD)
        logp_M, entropy_M = hidden_MD.new_empty(M, dtype=torch.float32), hidden_MD.new_empty(M, dtype=torch.float32)
        needed = any(ctx.needs_input_grad[:2])
        keep = needed and M * V * hidden_MD.element_size() <= KEEP
        kept = []
        for part in _chunks(M, V):
            logits = _logits(hidden_MD[part], weight_VD, temperature, bias_V)
            norm = logits.logsumexp(-1, keepdim=True)
            logp_M[part] = (logits.gather(1, targets_M[part, None]) - norm).squeeze(1)
            probabilities = logits.sub(norm).exp_()
            entropy_M[part] = norm.squeeze(1) - torch.linalg.vecdot(probabilities, logits)
            if keep:
                kept.append(probabilities.to(hidden_MD.dtype))
        ctx.temperature, ctx.kept = temperature, kept
        ctx.save_for_backward(hidden_MD, weight_VD, targets_M, bias_V)
        ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, targets_M, bias_V = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        dhidden = torch.empty_like(hidden_MD) if wants_hidden else None
        dweight = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        for at, part in enumerate(_chunks(len(hidden_MD), len(weight_VD))):
            if ctx.kept:
                slope = ctx.kept[at].float()
            else:
                slope = torch.softmax(_logits(hidden_MD[part], weight_VD, ctx.temperature, bias_V), -1)
            scale = grad_M[part, None].float() / ctx.temperature
            slope.mul_(-scale).scatter_add_(1, targets_M[part, None], scale)
            slope = slope.to(hidden_MD.dtype)
            if dhidden is not None:
                dhidden[part] = slope @ weight_VD
            if dweight is not None:
                dweight += (slope.t() @ hidden_MD[part]).float()
        return dhidden, None if dweight is None else dweight.to(weight_VD.dtype), None, None, None


def _chunks(rows: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK // vocabulary)
    return [slice(at, min(at + size, rows)) for at in range(0, rows, size)]


def _logits(hidden: Tensor, weight_VD: Tensor, temperature: float, bias_V: Tensor | None) -> Tensor:
    logits = (hidden @ weight_VD.t()).float()
    if bias_V is not None:
        logits += bias_V
    return logits if temperature == 1.0 else logits.div_(temperature)
