"""Decoding many answers of many prompts at once: every prompt is read once, and its keys are shared by all its answers.

One compiled step does it (decode_cpu.py), or transformers' own layers with only attention ours. There an answer's query
looks at two lists of keys, its prompt's (one for the whole group) and its own; the two results are joined by their
log-sum-exps, which is exact.
"""

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from assay import vision
from assay.attention import Prefilled
from assay.policy.model import Policy
from assay.policy.saving import merged
from assay.weights import in_fp32

STEP = 16
"""Room for keys grows by this many tokens: kernels are made per shape, and a few shapes are made soon."""
ROWS = 16
"""Rows of a product for which reordered weights are laid out; any number may come."""


class Decoder(Protocol):
    """The forward pass of sampling: `body` reads prompts (`dtype`), then `step` after `step` every row gets a token."""

    body: Any
    dtype: torch.dtype

    def load(self) -> None:
        """Take over the policy's weights as they are now."""

    def cache(self, prefilled: Prefilled, spans: Sequence[tuple[int, int]], rows: int) -> Any:
        """Room for `rows` answers to each of the prompts, which lie in `prefilled` at `spans`. `keep(rows_B)` goes on with
        these rows alone."""

    def step(self, cache: Any, tokens_B: Tensor, places_B: Tensor) -> Tensor:
        """Put each row's new token at its place; returns the hidden states (B, D) there."""

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """What the language-model head makes of hidden states."""


def decoder(policy: Policy, half: bool) -> Decoder:
    """Compiled loops where the policy decodes on a CPU and is built for them (in bfloat16 the processor must be, too), else
    transformers' layers."""
    from assay.policy import decode_cpu, decode_half

    inner = policy.inner
    half = half or any(p.dtype == torch.bfloat16 for p in vision.language_model(inner).parameters())
    where = inner.get_output_embeddings().weight
    if where.device.type == "cpu":
        with suppress(ValueError):
            if half:
                return decode_half.HalfDecoder(inner)
            if where.dtype == torch.float32 and decode_cpu.library() is not None:
                return decode_cpu.CpuDecoder(inner)
    return LayerDecoder(inner, half, adapters=bool(policy.config.lora_rank))


class LayerDecoder:
    """transformers' own layers, with their attention replaced; on a CPU their weights are kept as its kernels read them.

    Args:
        inner: A model with a language-model head.
        half: Decode on weights in bfloat16, which need half the memory traffic: a copy, but for what rests there in it.
        adapters: It has low-rank adapters. A copy has them added in; else its layers are left as they are.
    """

    def __init__(self, inner: Any, half: bool, adapters: bool = False) -> None:
        self.body, self.head = vision.language_model(inner), inner.get_output_embeddings()
        where = self.head.weight.device
        on_cpu = where.type == "cpu" and can_reorder(torch.bfloat16 if half else torch.float32)
        self.room: list[tuple[Any, dict[str, Tensor]]] = []
        if half:
            sources = self.body, self.head
            (self.body, *room), (self.head, *more) = map(_halved, sources)
            self.room = list(zip(sources, room + more, strict=True))
        elif on_cpu and not adapters:
            self.body, self.head = _shadow(self.body), _shadow(self.head)
        if on_cpu and (half or not adapters):
            for name, module in list(self.body.named_modules()):
                if type(module) is torch.nn.Linear:
                    self.body.set_submodule(name, Reordered(module))
            self.head = Reordered(self.head)
        self.dtype = self.head.weight.dtype

    def load(self) -> None:
        changed = {id(x) for _, room in self.room for x in room.values()}
        resting = {id(p) for m in (self.body, self.head) for p in m.parameters() if not p.requires_grad} - changed
        with torch.no_grad():
            for source, room in self.room:
                for name, value in merged(source):
                    if name in room:
                        room[name].copy_(value)
        for module in (*self.body.modules(), self.head):
            if isinstance(module, Reordered) and not (module.kept is not None and id(module.weight) in resting):
                module.reorder()

    def cache(self, prefilled: Prefilled, spans: Sequence[tuple[int, int]], rows: int) -> "Cache":
        return Cache(prefilled, spans, rows)

    def step(self, cache: "Cache", tokens_B: Tensor, places_B: Tensor) -> Tensor:
        cache.advance()
        out = self.body(
            inputs_embeds=self.body.get_input_embeddings()(tokens_B[:, None]), position_ids=places_B[:, None],
            decoding=cache.attend, use_cache=False,
        )  # fmt: skip
        hidden_BD: Tensor = out.last_hidden_state[:, 0]
        return hidden_BD

    def logits(self, hidden_BD: Tensor) -> Tensor:
        found: Tensor = self.head(hidden_BD)
        return found


class Cache:
    """Keys and values of G prompts, each shared by its rows, and of the rows' own tokens, for every layer.

    Axes: G prompts, R rows of one prompt at most, B rows of all, K key heads, Q = H / K queries per key head, P prompt
    tokens (padded), T own tokens, D head width.
    """

    def __init__(self, prefilled: Prefilled, spans: Sequence[tuple[int, int]], rows: int) -> None:
        lengths = [end - start for start, end in spans]
        P = -(-max(lengths) // STEP) * STEP
        K, D = prefilled[0][0].shape[1:]
        like = prefilled[0][0]
        self.shared: list[tuple[Tensor, Tensor]] = []
        for layer in prefilled:
            pair = [like.new_zeros(len(spans), K, P, D) for _ in range(2)]
            for whole_TKD, padded_GKPD in zip(layer, pair, strict=True):
                for g, (start, end) in enumerate(spans):
                    padded_GKPD[g, :, : end - start] = whole_TKD[start:end].transpose(0, 1)
            self.shared.append((pair[0], pair[1]))
        seen_GP = torch.arange(P, device=like.device) < torch.tensor(lengths, device=like.device)[:, None]
        self.mask_GP = torch.zeros(seen_GP.shape, dtype=like.dtype, device=like.device).masked_fill_(
            ~seen_GP, -math.inf
        )
        self.group_B = torch.arange(len(spans), device=like.device).repeat_interleave(rows)
        self.own = [tuple(like.new_zeros(len(self.group_B), K, STEP, D) for _ in range(2)) for _ in prefilled]
        self.T = 0
        self._place()

    def _place(self) -> None:
        """Where each row sits in the (G, R) grid of prompts and their rows."""
        counts_G = torch.bincount(self.group_B, minlength=len(self.mask_GP))
        self.R = int(counts_G.max())
        starts_G = counts_G.cumsum(0) - counts_G
        rank_B = torch.arange(len(self.group_B), device=self.group_B.device) - starts_G[self.group_B]
        self.cell_B = self.group_B * self.R + rank_B
        self.full = bool((counts_G == self.R).all())

    def keep(self, rows_B: Tensor) -> None:
        """Go on with these rows only (indices, ascending); prompts without rows go too."""
        groups = self.group_B[rows_B]
        alive, self.group_B = torch.unique_consecutive(groups, return_inverse=True)
        if len(alive) < len(self.mask_GP):
            self.shared = [(k[alive], v[alive]) for k, v in self.shared]
            self.mask_GP = self.mask_GP[alive]
        self.own = [(k[rows_B], v[rows_B]) for k, v in self.own]
        self._place()

    def advance(self) -> None:
        """Make room for one more token."""
        self.T += 1
        if self.own[0][0].shape[2] < self.T:
            grow = (0, 0, 0, STEP)
            self.own = [tuple(torch.nn.functional.pad(x, grow) for x in pair) for pair in self.own]
        width = self.own[0][0].shape[2]
        dtype, device = self.own[0][0].dtype, self.group_B.device
        hidden = torch.arange(width, device=device) >= self.T
        self.future_T = torch.zeros(width, dtype=dtype, device=device).masked_fill_(hidden, -math.inf)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Attention of one new token a row: q (B, H, 1, D), k and v (B, K, 1, D) -> (B, 1, H, D)."""
        B, H, _, D = q.shape
        shared_k, shared_v = self.shared[layer]
        own_k, own_v = self.own[layer]
        own_k[:, :, self.T - 1], own_v[:, :, self.T - 1] = k[:, :, 0], v[:, :, 0]
        G, K, P, _ = shared_k.shape
        Q = H // K
        scale = scale or D**-0.5
        q_BKQD = q.view(B, K, Q, D)
        mine, norm = _attend(q_BKQD, own_k, own_v, self.future_T.expand(B, 1, 1, -1), scale)
        if self.full:
            grid = q_BKQD.view(G, self.R, K, Q, D)
        else:
            grid = q.new_zeros(G * self.R, K, Q, D).index_copy_(0, self.cell_B, q_BKQD).view(G, self.R, K, Q, D)
        grid = grid.transpose(1, 2).reshape(G, K, self.R * Q, D)
        theirs, level = _attend(grid, shared_k, shared_v, self.mask_GP.view(G, 1, 1, P), scale)
        theirs = theirs.view(G, K, self.R, Q, D).transpose(1, 2).reshape(G * self.R, K, Q, D)
        level = level.view(G, K, self.R, Q).transpose(1, 2).reshape(G * self.R, K, Q)
        if not self.full:
            theirs, level = theirs[self.cell_B], level[self.cell_B]
        share = torch.sigmoid(level - norm).unsqueeze(-1)
        return torch.lerp(mine.float(), theirs.float(), share).to(q.dtype).view(B, 1, H, D)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention output and the log-sum-exp of its scores (fp32), over (B, heads, queries, D)."""
    if q.device.type == "cpu":
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, norm = kernel(q, k, v, 0.0, False, attn_mask=mask.expand(-1, -1, q.shape[2], -1), scale=scale)
        return out, norm
    scores = (q.float() @ k.float().transpose(-1, -2)).mul_(scale).add_(mask.float())
    norm = scores.logsumexp(-1)
    return (scores.sub_(norm.unsqueeze(-1)).exp_() @ v.float()).to(q.dtype), norm


def _halved(source: Any) -> tuple[Any, dict[str, Tensor]]:
    """A module as `source` is without low-rank adapters, its parameters in bfloat16: those that rest there in it are the
    same, and for the others there is room, which is returned by name."""
    made, room = _shadow(source), dict[str, Tensor]()
    for name, module in list(made.named_modules()):
        for key in [k for k, hook in module._forward_hooks.items() if hook is in_fp32]:
            del module._forward_hooks[key]
        if base := getattr(module, "base_layer", None):
            shape = base.in_features, base.out_features, base.bias is not None
            made.set_submodule(name, torch.nn.Linear(*shape, device="meta"))
    where = source.get_input_embeddings().weight.device if hasattr(source, "config") else source.weight.device
    for name, parameter in list(made.named_parameters()):
        if parameter.is_meta or parameter.dtype != torch.bfloat16 or parameter.requires_grad:
            owner, _, leaf = name.rpartition(".")
            empty = torch.empty(parameter.shape, dtype=torch.bfloat16, device=where)
            room[name] = torch.nn.Parameter(empty, requires_grad=False)
            setattr(made.get_submodule(owner), leaf, room[name])
    return made, room


def _shadow(module: Any) -> Any:
    """The same module once more, over the same parameters: its layers can be exchanged without a trace in the first."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters()}).eval()


def can_reorder(dtype: torch.dtype) -> bool:
    """Whether this CPU and this build of PyTorch have kernels for reordered weights."""
    kernels, needed = torch.ops.mkldnn, ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(kernels, n) for n in needed):  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(kernels._is_mkldnn_bf16_supported())


class Reordered(torch.nn.Module):
    """A linear layer on a CPU whose weights wait in the order in which its kernel reads them.

    Else the kernel puts them in that order in every call, which for the few rows of a decoding step takes longer than the
    product. Call `reorder` whenever the weights have changed.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.kept: Tensor | None = None

    def reorder(self) -> None:
        self.kept = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), ROWS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.kept, self.bias, "none", [], "")
        return out
