"""The compiled helper of packed attention's backward pass on a CPU: what PyTorch would do in thirty small steps a block.

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
    scores: Tensor, products: Tensor, norm_TH: Tensor, drop_TH: Tensor, at: int, G: int, n: int, m: int, scale: float
) -> None:
    """In place: scores (K, rows * G, columns) -> softmax weights, products (same) -> gradients of the scores."""
    assert scores.dtype == products.dtype == norm_TH.dtype == drop_TH.dtype == torch.float32
    K, R, columns = scores.shape
    sizes = longs(at, K, G, R // G, columns, n, m)
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
