"""What a model's frozen first layers make of texts: computed once for each text, kept in memory, given to every pass.

A training that leaves the first layers as they are (`train.freeze_layers`) computes the same of a text in every epoch, and
all models of a run that share these layers compute the same again. The states are kept by content, for one set of frozen
weights at a time, as long as they fit.

What a text gets must not depend, in its last digits, on what else was missing then, or a resumed training would be another.
On a CPU it is tried whether rows of a product are the same whatever stands beside them; where they are not, each group of
sequences goes through these layers alone.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from assay import packing, shortcuts, vision
from assay.pack import Group, Pack, bins, pack

MOST = 1 << 30
"""Bytes of states that a process keeps."""
TOKENS = 4_096
"""Of one pass through the frozen layers."""


class States:
    """States of tokens after the frozen layers, by content: a prefix, or an answer after its prefix."""

    def __init__(self, weights: str) -> None:
        self.weights, self.held = weights, 0
        self.kept: dict[bytes, torch.Tensor] = {}
        self.steady: bool | None = None

    def keep(self, key: bytes, states_TD: torch.Tensor) -> None:
        if self.held + states_TD.nbytes <= MOST:
            self.kept[key] = states_TD
            self.held += states_TD.nbytes


_STATES = States("")


def states_of(weights: str) -> States:
    """What is known of these frozen weights; what was known of others is forgotten."""
    global _STATES
    if _STATES.weights != weights:
        _STATES = States(weights)
    return _STATES


def forget() -> None:
    """Free the memory that states take."""
    states_of("")


class Frozen:
    """The first `layers` layers of a model (`inner`, with turnouts in place), as passes need them."""

    def __init__(self, inner: Any, layers: int, backend: str, half: bool, causal: bool) -> None:
        self.inner, self.layers, self.backend, self.half, self.causal = inner, layers, backend, half, causal
        self.states = states_of(_identity(inner, layers, half))

    def given(self, groups: Sequence[Group], batch: Pack) -> torch.Tensor:
        """(1, T, D): the states of a pack of these groups after the frozen layers."""
        where, known = batch.ids_1T.device, dict[bytes, torch.Tensor]()
        wanted = [_keys(g if self.causal else g.unshared()) for g in groups]
        missing = [n for n, keys in enumerate(wanted) if any(k not in self.states.kept for k in keys)]
        for part in self._parts([groups[n] for n in missing], where):
            keys = [k for i in part for k in wanted[missing[i]]]
            for key, states_TD in zip(keys, self._made([groups[missing[i]] for i in part], where), strict=False):
                known[key] = states_TD
                if key not in self.states.kept:
                    self.states.keep(key, states_TD.cpu())
        pieces = [known[k] if k in known else self.states.kept[k].to(where) for keys in wanted for k in keys]
        rest = batch.tokens - sum(map(len, pieces))
        return torch.cat([*pieces, pieces[0].new_zeros(rest, pieces[0].shape[1])]).unsqueeze(0)

    def _parts(self, groups: Sequence[Group], where: torch.device) -> list[list[int]]:
        """The groups of each pass."""
        if where.type == "cpu" and groups and not self._steady(where):
            return [[n] for n in range(len(groups))]
        return bins([g.tokens if self.causal else g.whole for g in groups], TOKENS) if groups else []

    def _steady(self, where: torch.device) -> bool:
        """Are a text's states the same to the last bit, whatever it is packed with? Tried once for these weights."""
        if self.states.steady is None:
            random = np.random.default_rng(0)
            most = self.inner.get_input_embeddings().num_embeddings
            texts = [random.integers(most, size=n, dtype=np.int32) for n in (3, 17, 30, 41, 56, 64, 75, 90, 101)]
            groups = [Group(prefix=texts[0][:0], answers=(text,)) for text in texts]
            alone = [next(self._made([g], where)) for g in groups]
            halves = [x for part in (groups[:4], groups[4:]) for x in [*self._made(part, where)][: len(part)]]
            whole = [*self._made(groups, where)][: len(groups)]
            ways = zip(alone, halves, whole, strict=True)
            self.states.steady = all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in ways)
        return self.states.steady

    def _made(self, groups: Sequence[Group], where: torch.device) -> Iterator[torch.Tensor]:
        """The states of each segment of a pack of these groups, and of what fills it up."""
        route = shortcuts.Route(upto=self.layers)
        batch = pack(groups, self.backend, causal=self.causal).to(where).through(route)
        with torch.no_grad(), torch.autocast(where.type, torch.bfloat16, enabled=self.half):
            packing.hidden(self.inner, packing.packed_inputs(self.inner, batch))
        for states_TD in torch.split(route.taken[0][0], batch.layout.queries_S1.diff().tolist()):
            yield states_TD.clone()


def _keys(group: Group) -> list[bytes]:
    """A key for each segment of a group's pack, in order."""
    head = blake2b(np.int64(len(group.prefix)).tobytes() + group.prefix.tobytes(), digest_size=16)
    keys = [head.digest()] if len(group.prefix) else []
    for answer, first in zip(group.answers, group.types or [0] * len(group.answers), strict=True):
        own = head.copy()
        own.update(np.int64(first).tobytes() + answer.tobytes())
        keys.append(own.digest())
    return keys


def _identity(inner: Any, layers: int, half: bool) -> str:
    """A digest of the weights that stay as they are, and of how they are computed."""
    told = blake2b(f"{type(inner).__name__} {layers} {half}".encode(), digest_size=16)
    for part in parts(inner, layers):
        for name, value in sorted(part.state_dict().items()):
            told.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return told.hexdigest()


def parts(inner: Any, layers: int) -> list[Any]:
    """The modules before layer number `layers`: embeddings and layers."""
    body = vision.language_model(inner)
    embeddings = getattr(body, "embeddings", None) or inner.get_input_embeddings()
    return [embeddings, *shortcuts.layers_of(body)[:layers]]
