"""The body of a language model (all but its head) in bfloat16 on a CPU, as compiled loops, for models built like Llama.

By PyTorch's operators half of such a pass is none of its products: weights are rounded and put in order anew, states go
through memory between a dozen small operators a layer, and attention in packs is many small calls. Here weights wait in the
order in which their product reads them, and a pass is one call (body_cpu.cpp). Products round as autocast's do; sums, norms
and the residual stream are fp32. Which models are built that way is not told by their names: a pass is compared with
transformers' own layers before it is used.
"""

import ctypes
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from assay import native
from assay.attention import NAME, Layout, Prefilled, segments_S4
from assay.native import longs, pointer
from assay.pack import pack, share

APART = 0.03
"""The mean difference of our states from those of the model's own layers in bfloat16, as a share of the states' mean size,
above which the model is taken to be built otherwise. Rounding at other places gives about 0.01."""


@functools.cache
def library() -> Any:
    """The built loops, or None: no AVX512-BF16, or AMX, whose products PyTorch has, or no compiler."""
    has = native.processor().split()
    if "avx512_bf16" not in has or "amx_tile" in has:
        return None
    return native.library(Path(__file__).with_suffix(".cpp"))


_NORMS = {"norm": "input_layernorm", "norm_mlp": "post_attention_layernorm"}
_NORMS |= {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
_JOINED = {
    "q": ("self_attn.q_proj",), "kv": ("self_attn.k_proj", "self_attn.v_proj"), "out": ("self_attn.o_proj",),
    "up": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",),
}  # fmt: skip
"""What is one product."""


class Layer(ctypes.Structure):
    """A layer as the loops read it: weights, and where its keys and values are."""

    _fields_ = [
        (n, ctypes.c_void_p)
        for n in (*_NORMS, *_JOINED, *(f"{n}_bias" for n in _JOINED), "keys", "values", "shared_keys", "shared_values")
    ]


class _Sizes(ctypes.Structure):
    _fields_ = [
        *(
            (n, ctypes.c_long)
            for n in ("layers", "H", "K", "D", "width", "inner", "rotary", "row", "threads", "before")
        ),
        *((n, ctypes.c_float) for n in ("epsilon", "scale")),
    ]


class Panels:
    """Matrices of one depth, side by side (N rows in all), in the order in which the loops read them, in bfloat16; and their
    biases. `beside` two matrices go by turns, 16 rows of each."""

    def __init__(self, parts_ND: Sequence[Tensor], biases_N: Sequence[Tensor] = (), beside: bool = False) -> None:
        self.beside, self.W = beside, int(library().panel())
        self.N = sum(len(x) for x in parts_ND)
        rows, depth = self._rows(parts_ND).shape
        self.x = torch.empty(rows // self.W, depth // 2, self.W, dtype=torch.int32)
        self.bias: Tensor | None = None
        self.fill(parts_ND, biases_N)

    def fill(self, parts_ND: Sequence[Tensor], biases_N: Sequence[Tensor] = ()) -> None:
        """Take these numbers, of the same shapes."""
        pairs = self._rows(parts_ND).view(torch.int32)
        self.x.copy_(pairs.view(len(self.x), self.W, -1).transpose(1, 2))
        if biases_N:
            self.bias = self._rows([b[:, None].float() for b in biases_N], torch.float32)[:, 0].contiguous()

    def _rows(self, parts: Sequence[Tensor], dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """All rows in their order, filled up with zeros to whole panels, and to an even depth."""
        pad = torch.nn.functional.pad
        parts = [x.detach().to(dtype) for x in parts]
        if self.beside:
            each = [pad(x, (0, 0, 0, -len(x) % 16)).unflatten(0, (-1, 16)) for x in parts]  # type: ignore[no-untyped-call]
            return self._even(torch.cat(each, 1).flatten(0, 1))
        whole = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
        return self._even(pad(whole, (0, 0, 0, -len(whole) % self.W)))

    @staticmethod
    def _even(x_ND: Tensor) -> Tensor:
        return torch.nn.functional.pad(x_ND, (0, x_ND.shape[1] % 2)).contiguous()

    def __call__(self, x_MD: Tensor) -> Tensor:
        """x W^T + b, shape (M, N), in fp32; x is rounded to bfloat16."""
        x_MD, out = x_MD.float().contiguous(), torch.empty(len(x_MD), self.N)
        library().apply(
            pointer(x_MD), *longs(*x_MD.shape), pointer(self.x), pointer(self.bias), *longs(self.N), pointer(out),
            *longs(threads()),
        )  # fmt: skip
        return out


def threads() -> int:
    return torch.get_num_threads()


class Body:
    """A language model's body, called as transformers' own with a pack. What it cannot take (pictures' places in several
    dimensions, frozen layers, a gradient) goes through the model's own layers, in autocast.

    Raises ValueError, with the reason, where a model is built in another way.
    """

    def __init__(self, source: Any, weights: Mapping[str, Tensor] | None = None) -> None:
        if library() is None:
            raise ValueError("this processor has no AVX512-BF16 (or has AMX), or there is no C++ compiler")
        if source.config._attn_implementation != NAME:
            raise ValueError("it is not packed")
        if reason := other(source) or (
            "its heads have an odd width" if source.layers[0].self_attn.head_dim % 2 else ""
        ):
            raise ValueError(reason)
        self.source, attention = source, source.layers[0].self_attn
        self.D = int(attention.head_dim)
        self.H, self.K = source.config.num_attention_heads, source.config.num_key_value_heads
        self.width, self.inner = source.config.hidden_size, source.config.intermediate_size
        self.scale, self.row = float(attention.scaling), int(library().apart_of(self.H * self.D))
        self.panels: dict[str, Panels] = {}
        self.load(weights)
        self._compare()

    def load(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Take weights over, by their names; without any, the model's own."""
        given = self.source.state_dict() if weights is None else weights
        self.norm = given["norm.weight"].detach().float().contiguous()
        self.norms, self.layers = list[Tensor](), list[Layer]()
        for n in range(len(self.source.layers)):
            found: dict[str, Tensor | None] = {}
            for name, x in _NORMS.items():
                whole = given.get(f"layers.{n}.{x}.weight")
                found[name] = None if whole is None else whole.detach().float().contiguous()
            for name, parts in _JOINED.items():
                biases = [given[f"layers.{n}.{x}.bias"] for x in parts if f"layers.{n}.{x}.bias" in given]
                made = self._panels(
                    f"{n}.{name}", [given[f"layers.{n}.{x}.weight"] for x in parts], biases, name == "up"
                )
                found |= {name: made.x, f"{name}_bias": made.bias}
            self.norms += [x for name, x in found.items() if name in _NORMS and x is not None]
            self.layers.append(Layer(**{name: pointer(x) for name, x in found.items()}))

    def _panels(self, name: str, parts: list[Tensor], biases: list[Tensor], beside: bool) -> Panels:
        if name in self.panels:
            self.panels[name].fill(parts, biases)
        else:
            self.panels[name] = Panels(parts, biases, beside)
        return self.panels[name]

    def __call__(
        self, *, inputs_embeds: Tensor, position_ids: Tensor, layout: Layout, prefilled: Prefilled | None = None,
        before: Prefilled | None = None, use_cache: bool = False, **more: Any,
    ) -> Any:  # fmt: skip
        """`last_hidden_state` (1, T, width) in fp32, or (1, N, width) of what the route reads; fills `prefilled`, or goes on
        from the keys and values of an earlier pass (`before`)."""
        route = layout.route
        passes_layers = route is not None and (route.given_1TD is not None or route.upto or route.frozen)
        plain = position_ids.dim() == 2 and len(position_ids) == 1 and layout.causal and layout.backend == "segments"
        if more or passes_layers or not plain or torch.is_grad_enabled():
            if prefilled is not None or before is not None:  # every layer's keys are asked for
                layout = replace(layout, route=None)
            with torch.autocast("cpu", torch.bfloat16):
                return self.source(
                    inputs_embeds=inputs_embeds, position_ids=position_ids, layout=layout, prefilled=prefilled,
                    before=before, use_cache=use_cache, **more,
                )  # fmt: skip
        x_TD, (cos, sin) = inputs_embeds[0].detach().float().clone(), self.places(inputs_embeds, position_ids)
        read_N = None if route is None else route.read_N
        earlier = [(k.bfloat16().contiguous(), v.bfloat16().contiguous()) for k, v in before or ()]
        P = len(earlier[0][0]) if earlier else 0
        segments = segments_S4(layout.queries_S1, layout.keys_U, layout.keys_S1, P)
        states = self._pass(x_TD, cos, sin, segments, read_N, prefilled, earlier, P)
        return SimpleNamespace(last_hidden_state=states.unsqueeze(0))

    def places(self, embeds: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """What rotates the heads at these places, cosines and sines, (T, rotary)."""
        cos, sin = (
            x[0].float().reshape(-1, x.shape[-1]).contiguous() for x in self.source.rotary_emb(embeds, position_ids)
        )
        return cos, sin

    def _pass(
        self,
        x_TD: Tensor,
        cos: Tensor,
        sin: Tensor,
        segments_S4: Tensor,
        read_N: Tensor | None,
        prefilled: Prefilled | None,
        earlier: Prefilled,
        P: int,
    ) -> Tensor:
        T = len(x_TD)
        kept = self._room(T, len(self.layers) if prefilled is not None else 1)
        layers = self.with_keys([kept[n % len(kept)] for n in range(len(self.layers))], earlier)
        jobs_SJ = torch.stack([*_of(segments_S4, 0, segments_S4[:, 1]), segments_S4[:, 0]], 1).contiguous()
        reads_NJ, out, read_cos, read_sin = jobs_SJ[:0], x_TD, cos, sin
        if read_N is not None:
            own = segments_S4[torch.searchsorted(segments_S4[:, 0].contiguous(), read_N, right=True) - 1]
            reads_NJ = torch.stack(
                [*_of(own, read_N - own[:, 0], torch.ones_like(read_N)), torch.arange(len(read_N))], 1
            ).contiguous()
            out, read_cos, read_sin = x_TD.new_empty(len(read_N), self.width), cos[read_N], sin[read_N]
        heads = torch.empty(max(T, len(reads_NJ)), self.row, dtype=torch.bfloat16)
        library().pass_(
            layers, self.sizes(cos, P), *longs(T), *map(pointer, (cos, sin, x_TD, heads, jobs_SJ)), *longs(len(jobs_SJ)),
            pointer(reads_NJ), *longs(len(reads_NJ)), *map(pointer, (read_cos, read_sin, out, self.norm)),
        )  # fmt: skip
        if prefilled is not None:
            prefilled += kept
        return out

    def _room(self, T: int, layers: int) -> Prefilled:
        return [
            (torch.empty(T, self.K, self.D, dtype=torch.bfloat16), torch.empty(T, self.K, self.D, dtype=torch.bfloat16))
            for _ in range(layers)
        ]

    def with_keys(self, own: Sequence[tuple[Tensor, Tensor]], shared: Sequence[tuple[Tensor, Tensor]] = ()) -> Any:
        """The layers with their keys and values; the caller holds these as long as the layers are used."""
        layers = (Layer * len(self.layers))(*self.layers)
        for layer, (keys, values) in zip(layers, own, strict=True):
            layer.keys, layer.values = pointer(keys), pointer(values)
        for layer, (keys, values) in zip(layers, shared, strict=False):
            layer.shared_keys, layer.shared_values = pointer(keys), pointer(values)
        return layers

    def sizes(self, cos: Tensor, before: int = 0) -> Any:
        return ctypes.byref(_Sizes(
            layers=len(self.layers), H=self.H, K=self.K, D=self.D, width=self.width, inner=self.inner, row=self.row,
            rotary=cos.shape[-1], threads=threads(), before=before,
            epsilon=self.source.config.rms_norm_eps, scale=self.scale,
        ))  # fmt: skip

    @torch.inference_mode()
    def _compare(self) -> None:
        """Raise ValueError unless a small pack comes out as from the model's own layers in bfloat16."""
        table = self.source.get_input_embeddings().weight
        tokens = torch.randint(len(table), (64,), generator=torch.Generator().manual_seed(0)).tolist()
        batch = pack([share([tokens[:20], tokens[:9] + tokens[20:32]]), share([tokens[32:]])])
        given = {
            "inputs_embeds": table[batch.ids_1T].float(),
            "position_ids": batch.positions_1T,
            "layout": batch.layout,
        }
        try:
            with torch.autocast("cpu", torch.bfloat16):
                expected = self.source(**given, use_cache=False).last_hidden_state.float()
            found = self(**given).last_hidden_state
        except (TypeError, IndexError, RuntimeError) as error:
            raise ValueError(f"a pack fails on it: {error}") from error
        used = batch.last_N.max() + 1
        apart = ((found - expected)[0, :used].abs().mean() / expected[0, :used].abs().mean()).item()
        if not apart < APART:
            raise ValueError(f"the compiled layers compute something else than its own ({apart:.1%} apart)")


def _of(segments_S4: Tensor, first: Tensor | int, rows: Tensor) -> tuple[Tensor, ...]:
    """The columns of a job (body_cpu.cpp), but for its place: so many queries of each segment, from its `first` on."""
    begins, _, prefix, shared = segments_S4.unbind(1)
    return begins, torch.zeros_like(begins) + first, rows, prefix, shared


_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def other(body: Any) -> str:
    """Why a language model is not built like Llama; "" where it may be."""
    config = body.config
    for layer in getattr(body, "layers", None) or [body]:
        if {n for n, _ in layer.named_children()} != _PARTS:
            return "its layers have other parts"
        shapes = {
            n.removesuffix(".weight"): tuple(x.shape) for n, x in layer.named_parameters() if n.endswith(".weight")
        }
        shapes = {n.replace(".base_layer", ""): shape for n, shape in shapes.items() if ".lora_" not in n}
        attention = layer.self_attn
        width, inner, D = config.hidden_size, getattr(config, "intermediate_size", 0), getattr(attention, "head_dim", 0)
        H, K = config.num_attention_heads, getattr(config, "num_key_value_heads", 0)
        needed = {
            "self_attn.q_proj": (H * D, width), "self_attn.k_proj": (K * D, width), "self_attn.v_proj": (K * D, width),
            "self_attn.o_proj": (width, H * D), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner), "input_layernorm": (width,), "post_attention_layernorm": (width,),
        }  # fmt: skip
        both = {"self_attn.q_norm": (D,), "self_attn.k_norm": (D,)}
        if shapes not in (needed, needed | both) or not hasattr(attention, "scaling"):
            return "its attention or its MLP has other parts"
        linear = [m for n, m in layer.named_modules() if n.endswith("_proj")]
        if len({getattr(m, "bias", None) is None for m in linear[:3]}) > 1:
            return "some of its queries, keys and values have a bias, and others none"
    if getattr(config, "hidden_act", "") not in ("silu", "swish") or not hasattr(config, "rms_norm_eps"):
        return "it has another activation or norm"
    if not hasattr(body, "rotary_emb") or not hasattr(getattr(body, "norm", None), "weight"):
        return "it has other places, or another last norm"
    return ""
