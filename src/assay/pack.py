"""Sequences that share a prefix -> one batch without padding; or, for backbones that cannot, a padded batch.

    groups (a prefix and its answers) --bins--> groups of one forward pass --pack--> one row of tokens
    [prompt 1 | chosen 1 | rejected 1 | prompt 2 | ...], positions going on from the prompt in every answer

The same form serves a pair, the N candidates of a prompt, and GRPO's group. Causal attention makes it exact: what a
prefix computes does not depend on what follows. So a pack may also go on from the keys of an earlier pass, where no gradient
is wanted: of a prompt with too many answers for one pass, of what many prompts begin with (`common`). An encoder's pack has
whole sequences, and shares nothing. The papers pad, or do not say (paper A, A.8).
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay import attention_flex
from assay.attention import Layout, block_mask
from assay.shortcuts import Route

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Token ids that share a prefix: `prefix` (may be empty), then each of `answers` (at least one token each).

    Example: share([[1, 2, 3, 4], [1, 2, 5]]) has prefix [1, 2] and answers [3, 4] and [5].
    """

    prefix: Ids
    answers: tuple[Ids, ...]
    types: tuple[int, ...] = ()
    """Encoders only: where the second token type begins in each whole sequence."""
    images: tuple[str, ...] = ()
    """The pictures of the prefix (of a single answer, where nothing is shared), in the order of their tokens."""

    @property
    def tokens(self) -> int:
        """What the group costs in a pack."""
        return len(self.prefix) + sum(len(a) for a in self.answers)

    @property
    def whole(self) -> int:
        """The tokens of all its sequences, each with its prefix."""
        return len(self.prefix) * len(self.answers) + sum(len(a) for a in self.answers)

    def longest(self) -> int:
        """The tokens of its longest whole sequence."""
        return len(self.prefix) + max(len(a) for a in self.answers)

    def begins(self, ids: Ids) -> bool:
        """Do all its sequences begin with these tokens, and each has some of its own?"""
        return _alike(_begin(self), ids) == len(ids)

    def after(self, n: int) -> "Group":
        """The same sequences without their first n tokens, which an earlier pass has read (see `begins`)."""
        if len(self.prefix) or not n:
            return replace(self, prefix=self.prefix[n:])
        return replace(self, answers=(self.answers[0][n:],))

    def unshared(self) -> "Group":
        """The same sequences, each whole."""
        if not len(self.prefix):
            return self
        return replace(
            self, prefix=self.prefix[:0], answers=tuple(np.concatenate([self.prefix, a]) for a in self.answers)
        )


def share(sequences: Sequence[Sequence[int] | Ids], types: Sequence[int] = (), images: Sequence[str] = ()) -> Group:
    """The group of whole token sequences: their longest common prefix, which leaves every answer a token of its own.

    Prefixes are compared as tokens, after rendering, so nothing is ever tokenised in pieces. One sequence alone has an
    empty prefix. With `types` (encoders, whose attention is not causal) nothing is shared.
    """
    rows = [np.asarray(s, dtype=np.int32) for s in sequences]
    shared = 0 if types or len(rows) == 1 else min(len(r) for r in rows) - 1
    shared = min([shared, *(_alike(rows[0], row) for row in rows[1:])])
    return Group(
        prefix=rows[0][:shared], answers=tuple(r[shared:] for r in rows), types=tuple(types), images=tuple(images)
    )


def _alike(one: Ids, other: Ids) -> int:
    """How many tokens both begin with."""
    most = min(len(one), len(other))
    apart = np.flatnonzero(one[:most] != other[:most])
    return int(apart[0]) if len(apart) else most


def common(groups: Sequence[Group], ends: Sequence[int] = ()) -> tuple[Ids, int]:
    """The tokens with which many groups begin that save most when they are computed once, and how many are saved: their
    number times the groups that begin so, but for one. A few groups that begin otherwise spoil nothing.

    It leaves each answer a token of its own, and has none of the tokens `ends` (what stands for pictures).

    Example: of prompts [7, 8, 9, 1], [7, 8, 9, 2], [7, 5] and [6] it is [7, 8, 9], which saves 3.
    """
    begins = sorted((_begin(g, ends) for g in groups), key=lambda ids: ids.astype(">i4").tobytes())
    shared = [_alike(a, b) for a, b in pairwise(begins)]
    saved = length = at = 0
    above: list[tuple[int, int]] = []  # neighbours since the first number share so many tokens
    for end, height in enumerate([*shared, 0]):
        start = end
        while above and above[-1][1] > height:
            start, most = above.pop()
            if most * (end - start) > saved:
                saved, length, at = most * (end - start), most, start
        above.append((start, height))
    return begins[at][:length], saved


def _begin(group: Group, ends: Sequence[int] = ()) -> Ids:
    """What a group may share with others."""
    alone = not len(group.prefix) and len(group.answers) == 1
    ids = group.answers[0][:-1] if alone else group.prefix
    found = np.flatnonzero(np.isin(ids, ends))
    return ids[: found[0]] if len(found) else ids


def bins(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Indices split into bins of at most `budget` in total, nearly as few as can be; an oversized item goes alone.

    Best-fit decreasing, O(n log n). The look-ahead is what it is given: the share of one optimiser step.
    """
    filled: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        at = bisect_left(room, (sizes[index], -1))
        if at < len(room):
            left, into = room.pop(at)
            filled[into].append(index)
        else:
            left, into = max(budget, sizes[index]), len(filled)
            filled.append([index])
        insort(room, (left - sizes[index], into))
    return [sorted(f) for f in filled]


def split(group: Group, budget: int, packed: bool = True) -> list[list[int]]:
    """The answers of a group in parts of at most `budget` tokens, each part with the prefix anew (or padded rows); an answer
    goes alone where it has to."""
    if packed:
        return bins([len(a) for a in group.answers], max(1, budget - len(group.prefix)))
    rows, n = max(1, budget // group.longest()), len(group.answers)
    return [list(range(at, min(at + rows, n))) for at in range(0, n, rows)]


def continued(group: Group, pad_id: int) -> tuple[Ids, list[Ids]]:
    """A group for several passes: what is read once, and what each answer puts after it.

    The token at which an all-padding answer is read stays with the answers: its state is needed in their pass.
    """
    seen = np.flatnonzero(group.prefix != pad_id)
    at = int(seen[-1]) if len(seen) else 0
    return group.prefix[:at], [np.concatenate([group.prefix[at:], a]) for a in group.answers]


def padded_bins(groups: Sequence[Group], budget: int) -> list[list[int]]:
    """Like `bins` for padded batches: neighbours in length, so that rows times longest stays within `budget`."""
    filled: list[list[int]] = []
    rows = longest = 0
    for index in sorted(range(len(groups)), key=lambda i: (groups[i].longest(), i)):
        longest = max(longest, groups[index].longest())
        if filled and longest * (rows + len(groups[index].answers)) <= budget:
            filled[-1].append(index)
        else:
            filled.append([index])
            rows, longest = 0, groups[index].longest()
        rows += len(groups[index].answers)
    return filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Groups in one row. `last_N` is where each answer's reward is read (in an encoder: its first token), in the order of
    groups and answers; `from_M` are the places that predict the answers' tokens `targets_M`, one for each that has a token
    before it. `types_1T` are an encoder's token types."""

    ids_1T: torch.Tensor
    positions_1T: torch.Tensor
    last_N: torch.Tensor
    from_M: torch.Tensor
    targets_M: torch.Tensor
    layout: Layout
    images: tuple[str, ...] = ()
    shown: tuple[tuple[int, int, int, tuple[str, ...]], ...] = ()
    """Of each group with pictures: where it starts, where what shows them ends (its prefix, or its only answer), where it
    ends, and the pictures."""
    types_1T: torch.Tensor | None = None
    groups: tuple[Group, ...] = ()
    """What it was made of, where the first layers of a model are frozen (`assay.frozen`)."""

    @property
    def tokens(self) -> int:
        """Tokens that the forward pass works on."""
        return self.ids_1T.numel()

    def through(self, route: Route | None) -> "Pack":
        """The same pack on another route through the layers."""
        return replace(self, layout=replace(self.layout, route=route))

    def to(self, device: torch.device) -> "Pack":
        """The same pack on a device; the segments' boundaries stay on the CPU as well as there."""
        if device.type == "cpu":
            return self
        names = ("ids_1T", "positions_1T", "last_N", "from_M", "targets_M")
        moved: dict[str, Any] = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        types_1T = None if self.types_1T is None else self.types_1T.to(device, non_blocking=True)
        return replace(self, **moved, layout=_moved(self.layout, device), types_1T=types_1T)


def pack(
    groups: Sequence[Group], backend: str = "segments", multiple: int = 64, pad_id: int = -1, before: int = 0, *,
    causal: bool = True, read: bool = False,
) -> Pack:  # fmt: skip
    """One row of all groups: each token once, a prefix before its answers. `backend` is as in `assay.attention`.

    Not `causal`: the groups are an encoder's, and their sequences go in whole. `read`: the last layer may compute only what
    a head reads (`assay.shortcuts`).

    With `before`, all groups follow that many tokens of an earlier pass, whose keys lie behind this pack's (back ends that
    list their keys: segments, varlen).

    The row's end is filled up to a `multiple` of tokens, by a segment that nobody reads: kernels are made per shape,
    and a few shapes are made soon. A reward is read where transformers reads it: at the last token that is not `pad_id`
    (a tokenizer whose padding is its end-of-text would otherwise be trained at one token and served at another).
    """
    assert groups
    groups = groups if causal else [g.unshared() for g in groups]
    row = _Segments()
    last: list[int] = []
    sources: list[NDArray[np.int64]] = []
    targets: list[Ids] = []
    shown: list[tuple[int, int, int, tuple[str, ...]]] = []
    whole = -(-sum(g.tokens for g in groups) // multiple) * multiple
    earlier = np.arange(whole, whole + before)
    assert not before or (backend != "flex" and causal)
    for number, group in enumerate(groups):
        start, split = row.tokens, len(group.prefix)
        own = np.arange(start, start + split)
        if split:
            row.add(group.prefix, (number, 0), np.concatenate([earlier, own]), before)
        for answer in group.answers:
            assert len(answer), "an answer needs at least one token"
            its = np.arange(row.tokens, row.tokens + len(answer))
            row.add(answer, (number, len(last) + 1), np.concatenate([earlier, own, its]), before + split)
            sources.append(np.concatenate([own[-1:], its[:-1]]))
            targets.append(answer if split else answer[1:])
            last.append(_last(answer, row.tokens, own, group.prefix, pad_id) if causal else int(its[0]))
        if group.images:
            assert split or len(group.answers) == 1, "pictures that several answers show, each in its own place"
            shown.append((start, start + split if split else row.tokens, row.tokens, group.images))
    if rest := whole - row.tokens:
        unread = np.arange(row.tokens, whole)
        row.add(np.zeros(rest, dtype=np.int32), (len(groups), 0), np.concatenate([earlier, unread]))
    layout = row.layout(backend, causal)
    if read:
        layout = replace(layout, route=_route(last, row, whole + before, causal))
    return Pack(
        ids_1T=_row(row.pieces), positions_1T=_row(row.positions), last_N=torch.tensor(last),
        from_M=torch.from_numpy(np.concatenate(sources)), targets_M=torch.from_numpy(np.concatenate(targets)).long(),
        images=tuple(i for g in groups for i in g.images), shown=tuple(shown),
        layout=replace(layout, mask=block_mask(layout)) if backend == "flex" else layout,
        types_1T=_types(groups, whole) if any(g.types for g in groups) else None,
    )  # fmt: skip


class _Segments:
    """The segments of a pack, one after the other; `tokens` are there so far."""

    def __init__(self) -> None:
        self.tokens = 0
        self.pieces: list[Ids] = []
        self.positions: list[Ids] = []
        self.keys: list[NDArray[np.int64]] = []
        self.of: list[tuple[int, int]] = []

    def add(self, ids: Ids, of: tuple[int, int], keys: NDArray[np.int64], first: int = 0) -> None:
        """One segment, whose tokens see `keys` and have positions from `first` on; `of` is its (group, segment)."""
        self.pieces.append(ids)
        self.positions.append(np.arange(first, first + len(ids), dtype=np.int32))
        self.keys.append(keys)
        self.of.append(of)
        self.tokens += len(ids)

    def layout(self, backend: str, causal: bool) -> Layout:
        lengths, seen = np.array([len(p) for p in self.pieces]), np.array([len(k) for k in self.keys])
        group_T, segment_T = (np.repeat(np.array([of[i] for of in self.of]), lengths) for i in (0, 1))
        return Layout(
            queries_S1=_starts(lengths), keys_U=torch.from_numpy(np.concatenate(self.keys)), keys_S1=_starts(seen),
            group_T=torch.from_numpy(group_T), segment_T=torch.from_numpy(segment_T),
            longest=(_power(int(lengths.max())), _power(int(seen.max()))), backend=backend, causal=causal,
        )  # fmt: skip


def _route(last: list[int], row: _Segments, tokens: int, causal: bool) -> Route:
    """Where the head reads, and what is seen from there."""
    ends = np.cumsum([len(p) for p in row.pieces])
    seen_NT = np.zeros((len(last), tokens), bool)
    for row_T, place in zip(seen_NT, last, strict=True):
        segment = int(np.searchsorted(ends, place, side="right"))
        row_T[row.keys[segment]] = True
        if causal:
            row_T[place + 1 : int(ends[segment])] = False
    return Route(read_N=torch.tensor(last), seen_NT=torch.from_numpy(seen_NT))


def _types(groups: Sequence[Group], tokens: int) -> torch.Tensor:
    """(1, T) token types of whole sequences: 1 from where the second text begins."""
    types_T, at = np.zeros(tokens, np.int64), 0
    for group in groups:
        for answer, first in zip(group.answers, group.types or [0] * len(group.answers), strict=True):
            types_T[at + first : at + len(answer)] = bool(first)
            at += len(answer)
    return torch.from_numpy(types_T).unsqueeze(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """Whole sequences, one a row, padded on the right. `types_BT` are an encoder's token types; `from_M` are places in the
    flattened rows, as in a `Pack`."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    types_BT: torch.Tensor | None
    from_M: torch.Tensor
    targets_M: torch.Tensor
    images: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens that the forward pass works on, padding included."""
        return self.ids_BT.numel()

    def to(self, device: torch.device) -> "Padded":
        names = ("ids_BT", "mask_BT", "from_M", "targets_M")
        moved = {name: getattr(self, name).to(device) for name in names}
        types = None if self.types_BT is None else self.types_BT.to(device)
        return Padded(**moved, types_BT=types, images=self.images)


def pad(groups: Sequence[Group], pad_id: int) -> Padded:
    """One padded row for each answer of each group, in order (`pad_id` -1: with token 0, which nobody reads)."""
    rows = [np.concatenate([g.prefix, a]) for g in groups for a in g.answers]
    width = max(len(r) for r in rows)
    firsts = (
        [t or width for g in groups for t in g.types or [0] * len(g.answers)] if any(g.types for g in groups) else []
    )
    ids_BT = np.full((len(rows), width), max(pad_id, 0), dtype=np.int64)
    lengths_B = np.array([len(r) for r in rows])
    for ids_T, row in zip(ids_BT, rows, strict=True):
        ids_T[: len(row)] = row
    columns_T = np.arange(width)
    mask_BT = columns_T < lengths_B[:, None]
    types_BT = None
    if firsts:
        types_BT = torch.from_numpy((mask_BT & (columns_T >= np.array(firsts)[:, None])).astype(np.int64))
    firsts_B = [max(1, len(g.prefix)) for g in groups for _ in g.answers]
    places = [b * width + np.arange(f - 1, n - 1) for b, (f, n) in enumerate(zip(firsts_B, lengths_B, strict=True))]
    targets = [row[f:] for row, f in zip(rows, firsts_B, strict=True)]
    return Padded(
        ids_BT=torch.from_numpy(ids_BT), mask_BT=torch.from_numpy(mask_BT.astype(np.int64)), types_BT=types_BT,
        from_M=torch.from_numpy(np.concatenate(places)), targets_M=torch.from_numpy(np.concatenate(targets)).long(),
        images=tuple(i for g in groups for _ in g.answers for i in g.images),
    )  # fmt: skip


def _last(answer: Ids, end: int, own: NDArray[np.int64], prefix: Ids, pad_id: int) -> int:
    """The place in the pack of a sequence's last token that is not padding, or of its last token if all are."""
    seen = np.flatnonzero(answer != pad_id)
    if len(seen):
        return end - len(answer) + int(seen[-1])
    before = np.flatnonzero(prefix != pad_id)
    return int(own[before[-1]]) if len(before) else end - 1


def _starts(lengths: NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))


def _row(pieces: list[Ids]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64)).unsqueeze(0)


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _moved(layout: Layout, device: torch.device) -> Layout:
    names = ("queries_S1", "keys_U", "keys_S1", "group_T", "segment_T")
    moved: dict[str, Any] = {name: getattr(layout, name).to(device, non_blocking=True) for name in names}
    there = replace(layout, **moved, route=None if layout.route is None else layout.route.to(device))
    return there if layout.mask is None else replace(there, mask=attention_flex.moved(there, device))
