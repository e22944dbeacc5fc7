"""Log-probabilities of chosen tokens straight from hidden states: the logits of all positions are never in memory at once.

Only positions that predict a token of an answer reach the language-model head, in chunks. Where the probabilities of a
whole pass fit `KEEP` bytes they are kept for the backward pass, else they are computed again; both give the same gradient.
TRL does this with a fused kernel on a GPU and, without one, sends every position through the head (`shared/peers.md`).
"""

from typing import Any

import torch
from torch import Tensor

CHUNK, CHUNK_CPU, ROWS = 1 << 25, 1 << 21, 512
"""Logits of one chunk, in elements: on a CPU few enough to stay in its cache between two operations; but never fewer rows
than pay for reading the head's weights again."""
KEEP = 1 << 29
"""Probabilities that may wait for the backward pass, in bytes."""


def chosen_logprobs(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float = 1.0, bias_V: Tensor | None = None,
    entropy: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """log p(target) under softmax(hidden W^T / temperature), and the entropy of that distribution (without gradient; zero
    where it is not asked for).

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
    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, temperature: float, bias_V: Tensor | None,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        M, V = len(hidden_MD), len(weight_VD)
        logp_M, entropy_M = hidden_MD.new_empty(M, dtype=torch.float32), hidden_MD.new_zeros(M, dtype=torch.float32)
        keep = any(ctx.needs_input_grad[:2]) and M * V * hidden_MD.element_size() <= KEEP
        kept = hidden_MD.new_empty(M, V) if keep else None
        for part in _chunks(hidden_MD, V):
            place = kept[part] if kept is not None and kept.dtype == torch.float32 else None
            logp = torch.log_softmax(
                _logits(hidden_MD[part], weight_VD, temperature, bias_V), -1, out=None if entropy else place
            )
            logp_M[part] = logp.gather(1, targets_M[part, None]).squeeze(1)
            if not entropy and kept is None:
                continue
            probabilities = torch.exp(logp, out=place if entropy else logp)
            if entropy:
                entropy_M[part] = -torch.linalg.vecdot(probabilities, logp)
            if kept is not None and place is None:
                kept[part] = probabilities
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
        for part in _chunks(hidden_MD, len(weight_VD)):
            if ctx.kept is not None:
                slope = ctx.kept[part].float()
            else:
                slope = torch.softmax(_logits(hidden_MD[part], weight_VD, ctx.temperature, bias_V), -1)
            scale = grad_M[part, None].float() / ctx.temperature
            slope.mul_(-scale).scatter_add_(1, targets_M[part, None], scale)
            slope = slope.to(hidden_MD.dtype)
            if dhidden is not None:
                dhidden[part] = slope @ weight_VD
            if dweight is not None:
                dweight += (slope.t() @ hidden_MD[part]).float()
        return dhidden, None if dweight is None else dweight.to(weight_VD.dtype), None, None, None, None


def _chunks(hidden_MD: Tensor, vocabulary: int) -> list[slice]:
    rows = len(hidden_MD)
    size = max(ROWS, (CHUNK_CPU if hidden_MD.device.type == "cpu" else CHUNK) // vocabulary)
    return [slice(at, min(at + size, rows)) for at in range(0, rows, size)]


def _logits(hidden: Tensor, weight_VD: Tensor, temperature: float, bias_V: Tensor | None) -> Tensor:
    logits = (hidden @ weight_VD.t()).float()
    if bias_V is not None:
        logits += bias_V
    return logits if temperature == 1.0 else logits.div_(temperature)
