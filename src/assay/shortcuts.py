"""What a pass through a model need not compute, though the result is the same.

- The last layer: a head reads a few tokens (the last of each answer, an encoder's first). Only keys and values are needed of
  all others; query, attention, output projection and feed-forward network are computed where the head reads. Of a model of
  28 layers that saves 3 %, of a small one a fourth and more.
- Frozen first layers: what they make of a text is always the same, so a pass takes it as given (`assay.frozen`).

The layers stay those of transformers; `install` puts a turnout before each, and a pass without a `Route` runs them as they
are. Whether a model's last layer is one of the two kinds known here is tried, not believed: `packing.use_packing` compares.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

MOST_SCORES = 1 << 26
"""Attention scores (heads, tokens read, tokens) of the last layer, at most: above it, the whole layer takes less memory."""
_DECODER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_DECODER_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


@dataclass(slots=True, kw_only=True)
class Route:
    """How a pass goes through the layers: what the head reads, what is given of the first layers, or where it ends."""

    read_N: Tensor | None = None
    """The tokens that the head reads: the last layer gives the states of these alone, (1, N, D)."""
    seen_NT: Tensor | None = None
    """Which tokens each of them sees."""
    given_1TD: Tensor | None = None
    """The states after the first `frozen` layers, which are passed over."""
    frozen: int = 0
    upto: int = 0
    """Only the first so many layers run (0: all); what they give is put in `taken`."""
    taken: list[Tensor] = field(default_factory=list)

    def to(self, device: torch.device) -> "Route":
        moved = {n: None if (x := getattr(self, n)) is None else x.to(device) for n in ("read_N", "seen_NT")}
        return Route(**moved, given_1TD=self.given_1TD, frozen=self.frozen, upto=self.upto, taken=self.taken)


Reader = Callable[..., Tensor]


@dataclass(slots=True)
class Shortcuts:
    """The turnouts of a model's layers. `reader`: how its last layer is computed where the head reads (None: as a whole)."""

    layers: list[Any]
    reader: Reader | None


def install(body: Any) -> Shortcuts | None:
    """Put turnouts before the layers of a model without its head, once; None where its layers are not found."""
    if (found := installed(body)) is not None:
        return found
    layers = layers_of(body)
    if not layers:
        return None
    made = Shortcuts(layers, _reader(layers[-1]))
    for place, layer in enumerate(layers):
        layer.forward = partial(_turnout, made, place, layer.forward)
    body.assay_shortcuts = made
    return made


def installed(body: Any) -> Shortcuts | None:
    return getattr(body, "assay_shortcuts", None)


def layers_of(body: Any) -> list[Any]:
    """The layers of a decoder or an encoder of transformers, in order."""
    for path in ("layers", "encoder.layer", "transformer.layer"):
        at = body
        for name in path.split("."):
            at = getattr(at, name, None)
        if isinstance(at, torch.nn.ModuleList):
            return list(at)
    return []


def _turnout(made: Shortcuts, place: int, run: Callable[..., Any], hidden_1TD: Tensor, *args: Any, **given: Any) -> Any:
    route = getattr(given.get("layout"), "route", None)
    if route is None:
        return run(hidden_1TD, *args, **given)
    if route.upto:
        if place >= route.upto:
            return hidden_1TD
        made_1TD = run(hidden_1TD, *args, **given)
        if place == route.upto - 1:
            route.taken.append(made_1TD)
        return made_1TD
    if place < route.frozen:
        return route.given_1TD
    if place == len(made.layers) - 1 and route.read_N is not None and made.reader is not None:
        return made.reader(made.layers[place], hidden_1TD, route, **given)
    return run(hidden_1TD, *args, **given)


def _reader(layer: Any) -> Reader | None:
    """How a layer of a kind that is known here is computed where the head reads."""
    names = {n for n, _ in layer.named_children()}
    if names == _DECODER and {n for n, _ in layer.self_attn.named_children()} >= _DECODER_ATTENTION:
        return _decoder
    if names >= {"attention", "intermediate", "output"} and hasattr(layer, "feed_forward_chunk"):
        return _encoder
    return None


def _decoder(
    layer: Any, hidden_1TD: Tensor, route: Route, *, position_embeddings: tuple[Tensor, Tensor], before: Any = None, **_: Any
) -> Tensor:  # fmt: skip
    """Llama's layer and those built like it (Qwen2, Qwen3, Mistral, ...); `before` are the keys and values of an earlier
    pass, layer by layer, which lie behind the pack's own."""
    attention, read_N = layer.self_attn, route.read_N
    assert read_N is not None
    normed_1TD = layer.input_layernorm(hidden_1TD)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb

    def heads(name: str, x_1TD: Tensor) -> Tensor:
        x: Tensor = getattr(attention, f"{name}_proj")(x_1TD)
        x = x.view(*x.shape[:-1], -1, attention.head_dim)
        norm = getattr(attention, f"{name}_norm", None)
        return (x if norm is None else norm(x)).transpose(1, 2)

    q, k, v = heads("q", normed_1TD.index_select(1, read_N)), heads("k", normed_1TD), heads("v", normed_1TD)
    cos, sin = position_embeddings
    q = rotate(q, q, cos[:, read_N], sin[:, read_N])[0]
    k = rotate(k, k, cos, sin)[1]
    if before:
        earlier = (x.transpose(0, 1).unsqueeze(0) for x in before[attention.layer_idx])
        k, v = (torch.cat([own, x.to(own.dtype)], 2) for own, x in zip((k, v), earlier, strict=True))
    states_1ND = hidden_1TD.index_select(1, read_N) + attention.o_proj(_attend(q, k, v, route, attention.scaling))
    return states_1ND + layer.mlp(layer.post_attention_layernorm(states_1ND))  # type: ignore[no-any-return]


def _encoder(layer: Any, hidden_1TD: Tensor, route: Route, **_: Any) -> Tensor:
    """BERT's layer and those built like it (RoBERTa, XLM-RoBERTa, ELECTRA)."""
    assert route.read_N is not None
    attention, read_1ND = layer.attention.self, hidden_1TD.index_select(1, route.read_N)

    def heads(x_1TD: Tensor) -> Tensor:
        return x_1TD.view(*x_1TD.shape[:-1], -1, attention.attention_head_size).transpose(1, 2)

    q, k, v = heads(attention.query(read_1ND)), heads(attention.key(hidden_1TD)), heads(attention.value(hidden_1TD))
    out_1ND = _attend(q, k, v, route, attention.attention_head_size**-0.5)
    return layer.feed_forward_chunk(layer.attention.output(out_1ND, read_1ND))  # type: ignore[no-any-return]


def _attend(q_1HND: Tensor, k_1KTD: Tensor, v_1KTD: Tensor, route: Route, scale: float) -> Tensor:
    """(1, N, H * D): each token that is read attends to those that it sees; weights in fp32, as the other back ends have."""
    assert route.seen_NT is not None
    k, v = k_1KTD[0].to(v_1KTD.dtype), v_1KTD[0]
    K, (H, N, D) = len(k), q_1HND.shape[1:]
    q = q_1HND[0].to(v.dtype).reshape(K, H // K * N, D)
    scores = (torch.bmm(q, k.transpose(1, 2)).float() * scale).view(K, H // K, N, -1)
    weights = scores.masked_fill(~route.seen_NT, -torch.inf).softmax(-1)
    out = torch.bmm(weights.view(K, H // K * N, -1).to(v.dtype), v)
    return out.view(H, N, D).transpose(0, 1).reshape(1, N, H * D)
