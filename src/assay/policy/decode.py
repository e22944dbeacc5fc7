"""Decoding many answers of many prompts at once: every prompt is read once, and its keys are shared by all its answers.

transformers' own layers run; only attention is ours. An answer's query looks at two lists of keys, its prompt's (one for the
whole group) and its own; the two results are joined by their log-sum-exps, which is exact.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from assay.attention import Prefilled

STEP = 16
"""Room for keys grows by this many tokens: kernels are made per shape, and a few shapes are made soon."""


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
