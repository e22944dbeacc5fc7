"""Decoding in bfloat16 on a CPU by compiled loops (body_cpu.cpp), for models built like Llama: prompts and steps alike.

As `decode_cpu` does in fp32: all layers of a step are one call, every weight is read once for all rows, and the keys of a
prompt once for all its answers.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from assay import vision
from assay.attention import Prefilled
from assay.body_cpu import Body, Panels, library
from assay.native import pointer
from assay.policy import decode_cpu
from assay.policy.saving import merged


class _Answers(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_long) for n in ("B", "G", "P", "room", "T")),
        *((n, ctypes.c_void_p) for n in ("starts", "lengths")),
    ]


class Cache(decode_cpu.Cache):
    """The same in bfloat16, two numbers of a product's depth side by side: keys (G or B, K, tokens / W, D / 2, W, 2), values
    (G or B, K, D / W rounded up, tokens / 2, W, 2)."""

    dtype = torch.bfloat16

    @staticmethod
    def panel() -> int:
        return int(library().panel())

    def _room(self, n: int, tokens: int) -> tuple[Tensor, Tensor]:
        W = self.W
        keys = torch.zeros(n, self.K, tokens // W, self.D // 2, W, 2, dtype=self.dtype)
        return keys, torch.zeros(n, self.K, self.DW, tokens // 2, W, 2, dtype=self.dtype)

    def _fill(self, k: Tensor, v: Tensor, keys_KPD: Tensor, values_KPD: Tensor) -> None:
        W = self.W
        k.copy_(keys_KPD.unflatten(2, (-1, 2)).unflatten(1, (-1, W)).transpose(2, 3))  # type: ignore[no-untyped-call]
        v.copy_(values_KPD.view(self.K, -1, 2, self.DW, W).permute(0, 3, 1, 4, 2))

    def _grown(self, k: Tensor, v: Tensor, more: int) -> tuple[Tensor, Tensor]:
        grow = torch.nn.functional.pad
        return grow(k, (0, 0, 0, 0, 0, 0, 0, more // self.W)), grow(v, (0, 0, 0, 0, 0, more // 2))


class HalfDecoder:
    """A Decoder (`decode.py`). Raises ValueError, with the reason, where a model is built in another way."""

    dtype = torch.float32
    """Of what it is given; prompts and steps are computed in bfloat16."""
    reads = True
    """Its body needs no route to give every layer's keys."""

    def __init__(self, inner: Any) -> None:
        self.source, self.output = vision.language_model(inner), inner.get_output_embeddings()
        self.body = Body(self.source, dict(merged(self.source)))
        self.head = Panels(*self._head())

    def load(self) -> None:
        self.body.load(dict(merged(self.source)))
        self.head.fill(*self._head())

    def _head(self) -> tuple[list[Tensor], list[Tensor]]:
        bias = getattr(self.output, "bias", None)
        return [self.output.weight], [] if bias is None else [bias]

    def cache(self, prefilled: Prefilled, spans: Sequence[tuple[int, int]], rows: int) -> Cache:
        return Cache(prefilled, spans, rows)

    def step(self, cache: Cache, tokens_B: Tensor, places_B: Tensor) -> Tensor:
        cache.advance()
        embeds_BD: Tensor = self.source.get_input_embeddings()(tokens_B).float()
        cos, sin = self.body.places(embeds_BD, places_B[None])
        x_BD, starts_G = embeds_BD.clone(memory_format=torch.contiguous_format), cache.starts_G
        answers = _Answers(
            B=len(x_BD), G=len(cache.lengths_G), P=cache.P, room=cache.room, T=cache.T, starts=pointer(starts_G),
            lengths=pointer(cache.lengths_G),
        )  # fmt: skip
        library().step(
            self.body.with_keys(cache.own, cache.shared), self.body.sizes(cos), ctypes.byref(answers),
            *map(pointer, (cos, sin, x_BD, self.body.norm)),
        )  # fmt: skip
        return x_BD

    def logits(self, hidden_BD: Tensor) -> Tensor:
        return self.head(hidden_BD)
