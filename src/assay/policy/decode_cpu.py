"""Decoding in fp32 on a CPU by a compiled step (decode_cpu.cpp), for models built like Llama: what laptops run.

A decoding step of a few rows is a walk through the weights with little to compute; by PyTorch's operators most of its time
is neither, but small operators and weights put in order again. Here all layers of a step are one call. Which models are
built that way is not told by their names: the step is compared with transformers' own layers before it is used.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assay import native, vision
from assay.attention import Prefilled
from assay.body_cpu import other
from assay.native import longs, pointer
from assay.pack import pack, share
from assay.policy.saving import merged


def library() -> Any:
    """The built step, or None where there is no compiler that can build it."""
    return native.library(Path(__file__).with_suffix(".cpp"))


_JOINED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""What is one product in the step."""
_NORMS = {"norm": "input_layernorm", "norm_mlp": "post_attention_layernorm"}
_NORMS |= {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
_KEYS = ("shared_k", "shared_v", "own_k", "own_v")


class _Layer(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in (*_NORMS, *_JOINED, *(f"{n}_bias" for n in _JOINED), *_KEYS)]


class _Sizes(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_long) for n in ("layers", "B", "G", "H", "K", "D", "width", "inner", "rotary")),
        *((n, ctypes.c_long) for n in ("P", "room", "T", "threads")),
        *((n, ctypes.c_float) for n in ("epsilon", "scale")),
    ]


class Panels:
    """A matrix (N, depth) in the order in which the step reads it: `panel` columns of its transpose side by side."""

    def __init__(self, weight_ND: Tensor) -> None:
        self.N, depth = weight_ND.shape
        self.x = torch.empty(-(-self.N // library().panel()), depth, library().panel())
        self.fill(weight_ND)

    def fill(self, weight_ND: Tensor) -> None:
        weight_ND = weight_ND.detach().contiguous()
        library().pack(pointer(weight_ND), *longs(*weight_ND.shape), pointer(self.x))

    def __call__(self, x_MD: Tensor, bias_N: Tensor | None = None) -> Tensor:
        """x W^T + b in fp32, shape (M, N)."""
        x_MD, out = x_MD.contiguous(), torch.empty(len(x_MD), self.N)
        sizes = longs(*x_MD.shape)
        library().apply(
            pointer(x_MD), *sizes, pointer(self.x), pointer(bias_N), *longs(self.N), pointer(out), *longs(threads())
        )
        return out


def threads() -> int:
    return torch.get_num_threads()


class Cache:
    """Keys and values of G prompts, each shared by its rows, and of the B rows' own tokens, for every layer, in panels.

    Shapes, for panels of W columns: keys (G or B, K, tokens / W, D, W), values (G or B, K, D / W rounded up, tokens, W).
    """

    dtype = torch.float32

    @staticmethod
    def panel() -> int:
        return int(library().panel())

    def __init__(self, prefilled: Prefilled, spans: Sequence[tuple[int, int]], rows: int) -> None:
        W = self.W = self.panel()
        K, D = prefilled[0][0].shape[1:]
        self.K, self.D, self.DW = K, D, -(-D // W)
        self.lengths_G = torch.tensor([end - start for start, end in spans])
        self.group_B = torch.arange(len(spans)).repeat_interleave(rows)
        self.P = -(-int(self.lengths_G.max()) // W) * W
        self.shared = [self._room(len(spans), self.P) for _ in prefilled]
        for (k, v), (whole_k, whole_v) in zip(self.shared, prefilled, strict=True):
            for g, (start, end) in enumerate(spans):
                n = end - start
                padded = torch.zeros(2, K, self.P, self.DW * W, dtype=self.dtype)
                padded[0, :, :n, :D], padded[1, :, :n, :D] = (x[start:end].transpose(0, 1) for x in (whole_k, whole_v))
                self._fill(k[g], v[g], padded[0, :, :, :D], padded[1])
        self.T, self.room = 0, 2 * W
        self.own = [self._room(len(self.group_B), self.room) for _ in prefilled]

    def _room(self, n: int, tokens: int) -> tuple[Tensor, Tensor]:
        W = self.W
        return torch.zeros(n, self.K, tokens // W, self.D, W), torch.zeros(n, self.K, self.DW, tokens, W)

    def _fill(self, k: Tensor, v: Tensor, keys_KPD: Tensor, values_KPD: Tensor) -> None:
        """Put the keys and values of one prompt, filled up to whole panels, in their order."""
        k.copy_(keys_KPD.unflatten(1, (-1, self.W)).transpose(2, 3))  # type: ignore[no-untyped-call]
        v.copy_(values_KPD.unflatten(2, (self.DW, -1)).transpose(1, 2))  # type: ignore[no-untyped-call]

    def _grown(self, k: Tensor, v: Tensor, more: int) -> tuple[Tensor, Tensor]:
        """With room for so many tokens more."""
        grow = torch.nn.functional.pad
        return grow(k, (0, 0, 0, 0, 0, more // self.W)), grow(v, (0, 0, 0, more))

    def keep(self, rows_B: Tensor) -> None:
        """Go on with these rows only (indices, ascending); prompts without rows go too."""
        alive, self.group_B = torch.unique_consecutive(self.group_B[rows_B], return_inverse=True)
        if len(alive) < len(self.lengths_G):
            self.shared = [(k[alive], v[alive]) for k, v in self.shared]
            self.lengths_G = self.lengths_G[alive]
        self.own = [(k[rows_B], v[rows_B]) for k, v in self.own]

    def advance(self) -> None:
        """Make room for one more token."""
        self.T += 1
        if self.room < self.T:
            self.own = [self._grown(k, v, self.room) for k, v in self.own]
            self.room *= 2

    @property
    def starts_G(self) -> Tensor:
        """Where each prompt's rows start, and their number at the end."""
        counts_G = torch.bincount(self.group_B, minlength=len(self.lengths_G))
        return torch.cat([counts_G.new_zeros(1), counts_G.cumsum(0)])


class CpuDecoder:
    """The step of one model, a Decoder (`decode.py`). Prompts are read by the model's own layers.

    Raises ValueError, with the reason, where a model is built in another way.
    """

    dtype = torch.float32

    def __init__(self, inner: Any) -> None:
        body, head = vision.language_model(inner), inner.get_output_embeddings()
        reason = other(body)
        if reason:
            raise ValueError(reason)
        self.body, self.source = body, head
        attention = body.layers[0].self_attn
        self.D = int(attention.head_dim)
        self.H, self.K = body.config.num_attention_heads, body.config.num_key_value_heads
        self.scale = float(attention.scaling)
        self.panels: dict[str, Panels] = {}
        self.load()
        self._compare()

    def load(self) -> None:
        weights = {n: x.detach().contiguous() for n, x in merged(self.body)}
        self.norm, self.head = weights["norm.weight"], self._panels("head", [self.source.weight])
        self.layers = [self._layer(f"layers.{n}", weights) for n in range(len(self.body.layers))]

    def _layer(self, layer: str, weights: dict[str, Tensor]) -> dict[str, Tensor | None]:
        found = {name: weights.get(f"{layer}.{x}.weight") for name, x in _NORMS.items()}
        for name, parts in _JOINED.items():
            found[name] = self._panels(f"{layer}.{name}", [weights[f"{layer}.{x}.weight"] for x in parts]).x
            biases = [weights[f"{layer}.{x}.bias"] for x in parts if f"{layer}.{x}.bias" in weights]
            found[f"{name}_bias"] = torch.cat(biases) if biases else None
        return found

    def _panels(self, name: str, parts: list[Tensor]) -> Panels:
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        if name in self.panels:
            self.panels[name].fill(whole)
        else:
            self.panels[name] = Panels(whole)
        return self.panels[name]

    def cache(self, prefilled: Prefilled, spans: Sequence[tuple[int, int]], rows: int) -> Cache:
        return Cache(prefilled, spans, rows)

    def step(self, cache: Cache, tokens_B: Tensor, places_B: Tensor) -> Tensor:
        cache.advance()
        embeds_BD: Tensor = self.body.get_input_embeddings()(tokens_B)
        cos, sin = (x[0].contiguous() for x in self.body.rotary_emb(embeds_BD, places_B[None]))
        x_BD, starts_G = embeds_BD.clone(memory_format=torch.contiguous_format), cache.starts_G
        layers = (_Layer * len(self.layers))()
        for at, (kept, shared, own) in enumerate(zip(self.layers, cache.shared, cache.own, strict=True)):
            whole = kept | dict(zip(_KEYS, (*shared, *own), strict=True))
            layers[at] = _Layer(**{name: pointer(x) for name, x in whole.items()})
        sizes = _Sizes(
            layers=len(layers), B=len(x_BD), G=len(cache.lengths_G), H=self.H, K=self.K, D=self.D, width=x_BD.shape[1],
            inner=self.panels["layers.0.down"].x.shape[1], rotary=cos.shape[-1], P=cache.P, room=cache.room, T=cache.T,
            threads=threads(), epsilon=self.body.config.rms_norm_eps, scale=self.scale,
        )  # fmt: skip
        library().step(
            layers, ctypes.byref(sizes), *(pointer(x) for x in (cos, sin, starts_G, cache.lengths_G, self.norm, x_BD))
        )
        return x_BD

    def logits(self, hidden_BD: Tensor) -> Tensor:
        return self.head(hidden_BD, getattr(self.source, "bias", None))

    @torch.inference_mode()
    def _compare(self) -> None:
        """Raise ValueError unless two rows of two prompts come out as from transformers' layers."""
        draw = torch.Generator().manual_seed(0)
        table = self.body.get_input_embeddings().weight
        tokens = torch.randint(len(table), (2, 11), generator=draw).tolist()
        prompts, answers = (tokens[0][:5], tokens[1][:3]), [(t[5:8], t[8:]) for t in tokens]

        def read(groups: list[Any]) -> tuple[Any, Tensor, Prefilled]:
            batch, prefilled = pack(groups), list[tuple[Tensor, Tensor]]()
            out = self.body(
                inputs_embeds=table[batch.ids_1T], position_ids=batch.positions_1T, layout=batch.layout,
                prefilled=prefilled, use_cache=False,
            )  # fmt: skip
            return batch, out.last_hidden_state[0], prefilled

        batch, states, _ = read([share([[*p, *a] for a in both]) for p, both in zip(prompts, answers, strict=True)])
        expected_BD = states[batch.last_N]
        cache = self.cache(read([share([p]) for p in prompts])[2], [(0, 5), (5, 8)], 2)
        rows = torch.tensor([a for both in answers for a in both])
        for at in range(3):
            found_BD = self.step(cache, rows[:, at], torch.tensor([5, 5, 3, 3]) + at)
        if not torch.allclose(found_BD, expected_BD, rtol=1e-3, atol=1e-3 * float(expected_BD.abs().max())):
            raise ValueError("the compiled step computes something else than its layers")
