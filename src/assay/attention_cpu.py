"""The compiled helper of packed attention on a CPU: both passes whole, in fp32. Where a processor has tiles for bfloat16
(AMX), which multiply an order of magnitude faster, only what lies between the products of the backward pass, which PyTorch
would do in thirty small steps a block.

Without a C++ compiler, attention.py does the same in PyTorch; tests compare the two.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assay import native
from assay.native import longs, pointer

MOST_THREADS = 4
"""The helper works on one thread: with more cores than this, PyTorch's many small parallel steps are faster."""
Place = tuple[int, int]
"""(first token, tokens)"""


def library() -> Any:
    """The built helper, or None where there is no compiler that can build it."""
    return native.library(Path(__file__).with_suffix(".cpp"))


def usable(x: Tensor) -> bool:
    """Can the helper take this tensor's work?"""
    fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return fits and torch.get_num_threads() <= MOST_THREADS and library() is not None


def whole(*inputs: Tensor) -> bool:
    """Should the helper do all of it? In bfloat16 too, unless there is AMX: its loops multiply nothing that is masked."""
    tiles = any(x.dtype != torch.float32 for x in inputs) and torch.cpu._is_amx_tile_supported()
    return not tiles and all(x.stride(2) == 1 for x in inputs) and usable(inputs[0])


def attend(
    q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, segments_S4: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """The output (T, H, D), and the log of each row's softmax denominator (T, H). A segment is its first token, its tokens
    (their number), and the same of its prefix; a token sees its segment up to itself, or (not `causal`) all of it, and what
    `k_TKD` and `v_TKD` have behind the pack's own tokens."""
    dtype, (q, k, v) = q_THD.dtype, (x.float() for x in (q_THD, k_TKD, v_TKD))
    out, norm = q.new_empty(q.shape), q.new_empty(q.shape[:2])
    library().attend(_pack(q, k, v, segments_S4, scale, causal), pointer(out), pointer(norm))
    return out.to(dtype), norm


def attend_backward(
    grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, norm_TH: Tensor, drop_TH: Tensor, segments_S4: Tensor,
    scale: float, causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v. `grad_THD`, `norm_TH` and `drop_TH` are contiguous."""
    dtype, (grad, q, k, v) = q_THD.dtype, (x.float() for x in (grad_THD, q_THD, k_TKD, v_TKD))
    assert all(x.is_contiguous() for x in (grad, norm_TH, drop_TH))
    dq, dk, dv = q.new_empty(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)
    given = (grad, norm_TH, drop_TH, dq, dk, dv)
    library().attend_backward(_pack(q, k, v, segments_S4, scale, causal), *map(pointer, given))
    return dq.to(dtype), dk.to(dtype), dv.to(dtype)


class _Rows(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("row", ctypes.c_long), ("head", ctypes.c_long)]


class _Pack(ctypes.Structure):
    _fields_ = [
        *((n, _Rows) for n in "qkv"), ("segments", ctypes.c_void_p), *((n, ctypes.c_long) for n in "SHKDT"),
        ("before", ctypes.c_long), ("causal", ctypes.c_long), ("scale", ctypes.c_float), ("threads", ctypes.c_long),
    ]  # fmt: skip


def _pack(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, segments_S4: Tensor, scale: float, causal: bool) -> Any:
    assert segments_S4.dtype == torch.int64
    rows = {n: _Rows(pointer(x), *x.stride()[:2]) for n, x in zip("qkv", (q_THD, k_TKD, v_TKD), strict=True)}
    return ctypes.byref(_Pack(
        **rows, segments=pointer(segments_S4), S=len(segments_S4), H=q_THD.shape[1], K=k_TKD.shape[1], D=q_THD.shape[2],
        T=len(q_THD), before=len(k_TKD) - len(q_THD), causal=causal, scale=scale, threads=torch.get_num_threads(),
    ))  # fmt: skip


def gather(x_THD: Tensor, K: int, first: Place, second: Place, rows: int) -> Tensor:
    """Two stretches of (T, H, D) -> (K, rows * H / K, D) in fp32, zeros after them."""
    H, D = x_THD.shape[1:]
    out = torch.empty((K, rows * (H // K), D))
    assert x_THD.stride(2) == 1
    library().gather(
        pointer(x_THD),
        _half(x_THD),
        *longs(x_THD.stride(0), x_THD.stride(1), K, H // K, D, *first, *second, rows),
        pointer(out),
    )
    return out


def weigh(
    scores: Tensor,
    products: Tensor,
    norm_TH: Tensor,
    drop_TH: Tensor,
    at: int,
    G: int,
    n: int,
    m: int,
    causal: bool,
    scale: float,
) -> None:
    """In place: scores (K, rows * G, columns) -> softmax weights, products (same) -> gradients of the scores."""
    assert scores.dtype == products.dtype == norm_TH.dtype == drop_TH.dtype == torch.float32
    K, R, columns = scores.shape
    sizes = longs(at, K, G, R // G, columns, n, m, causal)
    library().weigh(
        pointer(scores), pointer(products), pointer(norm_TH), pointer(drop_TH), *sizes, ctypes.c_float(scale)
    )


def scatter(x_KRD: Tensor, scale: float, place: Place, out_THD: Tensor) -> None:
    """The inverse of `gather` for one stretch, times `scale`, rounded to `out_THD`'s type."""
    assert x_KRD.dtype == torch.float32
    K, R, D = x_KRD.shape
    G = out_THD.shape[1] // K
    library().scatter(
        pointer(x_KRD), ctypes.c_float(scale), *longs(K, G, D, *place, R // G), pointer(out_THD), _half(out_THD)
    )


def add(x_KMD: Tensor, first: Place, second: Place, sums_TKD: Tensor) -> None:
    """Add (K, columns, D) to two stretches of (T, K, D)."""
    assert x_KMD.dtype == sums_TKD.dtype == torch.float32
    K, columns, D = x_KMD.shape
    library().add(pointer(x_KMD), *longs(K, D, *first, *second, columns), pointer(sums_TKD))


def _half(x: Tensor) -> ctypes.c_int:
    return ctypes.c_int(x.dtype == torch.bfloat16)
