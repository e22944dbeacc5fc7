"""Attention inside a pack: each answer sees its own prefix and itself, and nothing else. One layout, three back ends. In an
encoder's pack there are no prefixes, and each sequence sees all of itself.

    segments   a loop over the segments, any device, forward and backward: what a CPU runs, as compiled loops
    flex       FlexAttention with a block mask (an accelerator; on a CPU it has no backward pass)
    varlen     FlashAttention over unpadded sequences (CUDA, 16-bit), each with its prefix's keys gathered before its own

The papers do not say how they batch. Prefix sharing as such is known on GPUs (flash-preference, verl's prefix grouper);
here it is one layout for reward models, MPO and GRPO, and it trains on a CPU as well.

Axes: T packed tokens, U gathered key tokens, S segments, H query heads, K key heads, G = H / K, D head width.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assay import attention_cpu, attention_flex

NAME = "assay"
"""What transformers calls this attention (`attn_implementation`)."""
BLOCK = 256
"""Query rows at a time: bounds the memory of the score matrix, and skips most of what causality masks."""
TILE = 64
"""Products of the segments' back end come in multiples of this in both directions."""
NONE = slice(0, 0)


Prefilled = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each (T, K, D), that a pass leaves behind, for decoding or for later passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Who sees whom in a pack. A segment is a prefix or an answer; `keys` lists, segment after segment, the tokens that
    its last token sees in order: its prefix (if it has one), then itself. Where a pack goes on from an earlier pass, the
    keys of that pass lie behind the pack's own, and come first in every segment's list (forward only).

    Example: prefix of 2 tokens, answers of 1 and 2 tokens:
        queries_S1 = [0, 2, 3, 5], keys_U = [0, 1 | 0, 1, 2 | 0, 1, 3, 4], keys_S1 = [0, 2, 5, 9]
    """

    queries_S1: Tensor
    """Where each segment starts in the pack, and T at the end."""
    keys_U: Tensor
    keys_S1: Tensor
    """Where each segment's keys start in `keys_U`, and U at the end."""
    group_T: Tensor
    """The group (shared prefix and its answers) of each token."""
    segment_T: Tensor
    """The answer of each token, counted from 1 within the whole pack; 0 for prefixes."""
    backend: str = "segments"
    mask: Any = None
    """FlexAttention's block mask, when that back end runs."""
    longest: tuple[int, int] = (0, 0)
    """The longest segment and the longest list of keys, rounded up to a power of two: few sizes, few recompilations."""
    causal: bool = True
    """A token sees its segment up to itself, else all of it (encoders; there are no prefixes then)."""
    route: Any = None
    """What a pass may leave out of the layers (`shortcuts.Route`)."""


def attend(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, scale: float) -> Tensor:
    """Attention output, shape (T, H, D), by the layout's back end."""
    return _BACKENDS[layout.backend](q_THD, k_TKD, v_TKD, layout, scale)


def register() -> None:
    """Make this attention known to transformers as `NAME`: models take it by `set_attn_implementation`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def interface(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        scaling: float | None = None, layout: Layout | None = None, prefilled: Prefilled | None = None,
        decoding: Callable[..., Tensor] | None = None, before: Prefilled | None = None, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        dtype = value.dtype
        if decoding is not None:
            return decoding(module.layer_idx, query.to(dtype), key.to(dtype), value, scaling), None
        assert layout is not None, "this attention runs on packs only"
        q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
        if prefilled is not None:
            prefilled.append((k, v))
        if before:
            earlier_k, earlier_v = before[int(module.layer_idx)]  # type: ignore[arg-type]
            k, v = torch.cat([k, earlier_k.to(dtype)]), torch.cat([v, earlier_v.to(dtype)])
        return attend(q, k, v, layout, scaling or q.shape[-1] ** -0.5).unsqueeze(0), None

    AttentionInterface.register(NAME, interface)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)


def candidates(device: torch.device, half: bool) -> tuple[str, ...]:
    """The back ends to try there, the fastest first."""
    if device.type != "cuda":
        return ("segments",)
    return ("varlen", "flex", "segments") if half else ("flex", "segments")


def block_mask(layout: Layout) -> Any:
    """FlexAttention's mask of a layout: same group, not later (encoders: later too), and the same answer or a prefix."""
    return attention_flex.block_mask(layout, segments_S4(layout.queries_S1, layout.keys_U, layout.keys_S1))


def _flex(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, scale: float) -> Tensor:
    return attention_flex.attend(q_THD, k_TKD, v_TKD, layout.mask, scale)


def _varlen(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    out: Tensor = varlen_attn(  # type: ignore[assignment]
        q_THD, k_TKD[layout.keys_U], v_TKD[layout.keys_U], layout.queries_S1.int(), layout.keys_S1.int(),
        layout.longest[0], layout.longest[1], scale=scale, window_size=(-1, 0 if layout.causal else -1),
        enable_gqa=q_THD.shape[1] != k_TKD.shape[1],
    )  # fmt: skip
    return out


def _segments(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Layout, scale: float) -> Tensor:
    out: Tensor = _forward(q_THD, k_TKD, v_TKD, layout.queries_S1, layout.keys_U, layout.keys_S1, scale, layout.causal)[
        0
    ]
    return out


_BACKENDS = {"segments": _segments, "flex": _flex, "varlen": _varlen}


@dataclass(frozen=True, slots=True)
class _Block:
    """Up to `BLOCK` query rows of a segment, and the keys that its last row sees: an earlier pass's, its prefix, then its
    segment so far, or (not `causal`) all of it.

    `rows` and `columns` round their numbers up to whole tiles: kernels for matrix products are made per shape, and
    making one costs more than using it. What the rounding adds is zeros, or masked out.
    """

    queries: slice
    earlier: slice
    prefix: slice
    segment: slice
    causal: bool

    @property
    def n(self) -> int:
        return _size(self.queries)

    @property
    def m(self) -> int:
        return _size(self.earlier) + _size(self.prefix) + _size(self.segment)

    @property
    def rows(self) -> int:
        return -(-self.n // TILE) * TILE

    @property
    def columns(self) -> int:
        return -(-self.m // TILE) * TILE

    @property
    def before(self) -> int:
        """The keys that every row sees."""
        return self.m - self.n if self.causal else self.m

    def keys(self, x_TKD: Tensor) -> Tensor:
        """(K, columns, D): the block's keys, or values."""
        seen = tuple(x_TKD[part] for part in (self.earlier, self.prefix, self.segment))
        return _by_head(seen, x_TKD.shape[1], self.columns, x_TKD.dtype)

    def add_keys(self, sums_TKD: Tensor, part_KMD: Tensor) -> None:
        """Add what (K, columns, D) says of the block's keys to the sums over all blocks."""
        split = _size(self.prefix)
        sums_TKD[self.prefix] += part_KMD[:, :split].transpose(0, 1)
        sums_TKD[self.segment] += part_KMD[:, split : self.m].transpose(0, 1)


def _size(part: slice) -> int:
    return int(part.stop) - int(part.start)


def _blocks(segments_S4: Tensor, causal: bool, earlier: slice = NONE) -> Iterator[_Block]:
    for start, n, prefix, shared in segments_S4.tolist():
        for at in range(start, start + n, BLOCK):
            stop = min(at + BLOCK, start + n)
            own = slice(start, stop if causal else start + n)
            yield _Block(slice(at, stop), earlier, slice(prefix, prefix + shared), own, causal)


def segments_S4(queries_S1: Tensor, keys_U: Tensor, keys_S1: Tensor, before: int = 0) -> Tensor:
    """Of each segment the first token, the tokens, and the same of its prefix, which lies behind `before` keys of an earlier
    pass."""
    lengths = queries_S1.diff()
    return torch.stack([queries_S1[:-1], lengths, keys_U[keys_S1[:-1] + before], keys_S1.diff() - lengths - before], 1)


def _by_head(pieces: tuple[Tensor, ...], K: int, rows: int, dtype: torch.dtype) -> Tensor:
    """Pieces of (n, H, ...) -> (K, rows * H / K, D or 1), contiguous, with zeros after the pieces."""
    G, D = pieces[0].shape[1] // K, pieces[0].shape[2:].numel()
    wide = pieces[0].new_empty((K, rows, G, D), dtype=dtype)
    at = 0
    for piece in pieces:
        n = len(piece)
        wide[:, at : at + n].copy_(piece.view(n, K, G, D).transpose(0, 1))
        at += n
    wide[:, at:] = 0
    return wide.flatten(1, 2)


def _by_token(x: Tensor, n: int, like: Tensor) -> None:
    """The inverse of `_by_head`: write the first n rows of (K, rows * G, D) into `like`, (n, H, ...)."""
    K = len(x)
    G = like.shape[1] // K
    like.view(n, K, G, -1).copy_(x.view(K, -1, G, x.shape[-1])[:, :n].transpose(0, 1))


@functools.cache
def _future(device: torch.device, dtype: torch.dtype) -> Tensor:
    """-inf above the diagonal: what a row of a block must not see of the block's own keys, and of what follows."""
    return torch.full((BLOCK, BLOCK + TILE), -math.inf, device=device, dtype=dtype).triu_(1)


def _unseen(b: _Block, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(rows, columns - before): -inf where a row of a block must not see a key."""
    if b.causal:
        return _future(device, dtype)[: b.rows, : b.columns - b.before]
    return torch.full((b.rows, b.columns - b.before), -math.inf, device=device, dtype=dtype)


@functools.cache
def _past(device: torch.device) -> Tensor:
    """1 where a row of a block sees a key of the block, 0 where `_future` is -inf."""
    return torch.ones((BLOCK, BLOCK + TILE), device=device).tril_()


@torch.library.custom_op("assay::segments_attention", mutates_args=())
def _forward(
    q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, queries_S1: Tensor, keys_U: Tensor, keys_S1: Tensor, scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The output (T, H, D), and the log of each row's softmax denominator (T, H) in fp32."""
    T, H, _ = q_THD.shape
    segments = segments_S4(queries_S1, keys_U, keys_S1, len(k_TKD) - T)
    if attention_cpu.whole(q_THD, k_TKD, v_TKD):
        return attention_cpu.attend(q_THD, k_TKD, v_TKD, segments, scale, causal)
    K = k_TKD.shape[1]
    out_THD, norm_TH = q_THD.new_empty(q_THD.shape), q_THD.new_empty((T, H), dtype=torch.float32)
    for b in _blocks(segments, causal, slice(T, len(k_TKD))):
        bias = torch.nn.functional.pad(_unseen(b, q_THD.device, q_THD.dtype), (b.before, 0))
        bias = bias.repeat_interleave(H // K, 0)
        q = _by_head((q_THD[b.queries],), K, b.rows, q_THD.dtype)
        out, norm = _attend(q, b.keys(k_TKD), b.keys(v_TKD), bias, scale)
        _by_token(out, b.n, out_THD[b.queries])
        _by_token(norm.unsqueeze(-1), b.n, norm_TH[b.queries])
    return out_THD, norm_TH


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of (K, R, D) on (K, m, D) under an additive bias (R, m), and its log-denominators (K, R)."""
    if q.device.type == "cpu":
        out, norm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), 0.0, False, attn_mask=bias, scale=scale
        )
        return out[0].contiguous(), norm[0].contiguous()
    scores = torch.bmm(q, k.transpose(1, 2)).float() * scale + bias
    return torch.bmm(scores.softmax(-1).to(v.dtype), v), scores.logsumexp(-1)


@_forward.register_fake
def _(q_THD, k_TKD, v_TKD, queries_S1, keys_U, keys_S1, scale, causal):  # type: ignore[no-untyped-def]
    return q_THD.new_empty(q_THD.shape), q_THD.new_empty(q_THD.shape[:2], dtype=torch.float32)


@torch.library.custom_op("assay::segments_attention_backward", mutates_args=())
def _backward(
    grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, norm_TH: Tensor,
    queries_S1: Tensor, keys_U: Tensor, keys_S1: Tensor, scale: float, causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v. The weights are computed again, block by block (as in FlashAttention, algorithm 4).

    All products accumulate in fp32, as in fused kernels; 16-bit inputs let a CPU multiply in bfloat16, which loses
    nothing for what came as bfloat16. Rows are ordered (token, head of the group). Weights are masked after the
    exponential, which is slow on infinities; before it they are held to [-60, 0], where it is fast and what is lost is
    below 1e-26. Autocast, which would round the products themselves, is off, should a caller differentiate under it.
    """
    assert len(k_TKD) == len(q_THD), "no gradient goes back into an earlier pass"
    grad_THD = grad_THD.contiguous()
    drop_TH = (grad_THD.float() * out_THD).sum(-1)
    segments = segments_S4(queries_S1, keys_U, keys_S1)
    if attention_cpu.whole(q_THD, k_TKD, v_TKD, grad_THD):
        given = (grad_THD, q_THD, k_TKD, v_TKD, norm_TH, drop_TH, segments, scale, causal)
        return attention_cpu.attend_backward(*given)
    dq_THD = q_THD.new_empty(q_THD.shape)
    dk_TKD, dv_TKD = (x.new_zeros(x.shape, dtype=torch.float32) for x in (k_TKD, v_TKD))
    block = _compiled_block if attention_cpu.usable(q_THD) else _block
    with torch.autocast(q_THD.device.type, enabled=False), _half_products(q_THD):
        for b in _blocks(segments, causal):
            block(b, grad_THD, q_THD, k_TKD, v_TKD, norm_TH, drop_TH, scale, dq_THD, dk_TKD, dv_TKD)
    return dq_THD, dk_TKD.mul_(scale).to(k_TKD.dtype), dv_TKD.to(v_TKD.dtype)


def _block(
    b: _Block, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, norm_TH: Tensor, drop_TH: Tensor,
    scale: float, dq_THD: Tensor, dk_TKD: Tensor, dv_TKD: Tensor,
) -> None:  # fmt: skip
    """One block's part of the gradients: writes its rows of dq, adds to dk and dv (dk without `scale`)."""
    K = k_TKD.shape[1]
    rows = (x[b.queries] for x in (q_THD, grad_THD, norm_TH, drop_TH))
    q, grad, norm, drop = (_by_head((x,), K, b.rows, torch.float32) for x in rows)
    k, v = b.keys(k_TKD).float(), b.keys(v_TKD).float()
    weights = torch.bmm(q, k.transpose(1, 2)).mul_(scale).sub_(norm).clamp_(-60.0, 0.0).exp_()
    late = weights.view(K, b.rows, -1, b.columns)[..., b.before :]
    late *= _past(q_THD.device)[: b.rows, None, : b.columns - b.before] if b.causal else 0.0
    dscores = torch.bmm(grad, v.transpose(1, 2)).sub_(drop).mul_(weights)
    _by_token(torch.bmm(dscores, k).mul_(scale), b.n, dq_THD[b.queries])
    b.add_keys(dk_TKD, torch.bmm(dscores.transpose(1, 2), q))
    b.add_keys(dv_TKD, torch.bmm(weights.transpose(1, 2), grad))


def _compiled_block(
    b: _Block, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, norm_TH: Tensor, drop_TH: Tensor,
    scale: float, dq_THD: Tensor, dk_TKD: Tensor, dv_TKD: Tensor,
) -> None:  # fmt: skip
    """`_block`, with everything between its matrix products done by `attention_cpu`."""
    K = k_TKD.shape[1]
    own, none, shared, so_far = _place(b.queries), (0, 0), _place(b.prefix), _place(b.segment)
    q, grad = (attention_cpu.gather(x, K, own, none, b.rows) for x in (q_THD, grad_THD))
    k, v = (attention_cpu.gather(x, K, shared, so_far, b.columns) for x in (k_TKD, v_TKD))
    weights, dscores = torch.bmm(q, k.transpose(1, 2)), torch.bmm(grad, v.transpose(1, 2))
    attention_cpu.weigh(weights, dscores, norm_TH, drop_TH, own[0], q_THD.shape[1] // K, b.n, b.m, b.causal, scale)
    attention_cpu.scatter(torch.bmm(dscores, k), scale, own, dq_THD)
    attention_cpu.add(torch.bmm(dscores.transpose(1, 2), q), shared, so_far, dk_TKD)
    attention_cpu.add(torch.bmm(weights.transpose(1, 2), grad), shared, so_far, dv_TKD)


def _place(part: slice) -> tuple[int, int]:
    return int(part.start), _size(part)


@contextmanager
def _half_products(like: Tensor) -> Iterator[None]:
    """Let CPU products of fp32 tensors round their inputs to bfloat16 where the model computes in 16 bits anyway."""
    if like.device.type != "cpu" or like.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        yield
        return
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@_backward.register_fake
def _(grad_THD, q_THD, k_TKD, v_TKD, out_THD, norm_TH, queries_S1, keys_U, keys_S1, scale, causal):  # type: ignore[no-untyped-def]
    return q_THD.new_empty(q_THD.shape), k_TKD.new_empty(k_TKD.shape), v_TKD.new_empty(v_TKD.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.causal = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad_THD: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    q, k, v, queries, keys, starts, out, norm = ctx.saved_tensors
    grads = _backward(grad_THD, q, k, v, out, norm, queries, keys, starts, ctx.scale, ctx.causal)
    return (*grads, None, None, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_remember)
