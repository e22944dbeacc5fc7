"""The Selective Sample Buffer (paper B, section 3.3.2): samples with a signal are kept, and fill batches that lack some.

What the paper leaves open follows SSR of VL-Rethinker: P(j) = |A_j|^alpha / sum |A_k|^alpha, and as many are drawn as the
batch lacks effective samples. Ours beside it: a capacity, an age limit (an old sample's ratio says little), the
log-probabilities of the policy that sampled travel with each sample, what is drawn is never drawn twice for a batch, the
priority's bias is taken out (`BufferConfig.beta`), and batches of the buffer's alone follow (`BufferConfig.replays`), which
is what saves samples (docs/log.md, sections 27 and 29). TRL had such a buffer until 1.13; it kept only one group's
samples and was not in the checkpoint.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from assay.policy.config import BufferConfig
from assay.rollouts import Sample


class Buffer:
    """Samples of past steps, weighted by |advantage|. Draw first, then add: then no sample is in a batch twice."""

    def __init__(self, config: BufferConfig, seed: int = 0) -> None:
        self.config, self.samples = config, list[Sample]()
        self.random = np.random.default_rng(seed)
        self.drawn = self.aged = self.evicted = 0
        self.net = 0.0

    def __len__(self) -> int:
        return len(self.samples)

    def draw(self, n: int, step: int) -> list[Sample]:
        """At most n samples, not older than the limit, without replacement; whole groups, where the unit is the group.

        Groups are drawn by the sum of their priorities until n is reached; one that no longer fits is left out. Advantages
        are corrected for the priorities; in the buffer they stay as they were.
        """
        fresh = [s for s in self.samples if step - s.policy_step <= self.config.max_age]
        self.aged += len(self.samples) - len(fresh)
        self.samples = fresh
        if n <= 0 or not fresh:
            return []
        found = self._groups(n) if self.config.unit == "group" else self._single(n)
        self.drawn += len(found)
        size = sum(abs(s.advantage) for s in found)
        self.net = sum(s.advantage for s in found) / size if size else 0.0
        return found

    def _single(self, n: int) -> list[Sample]:
        priorities = np.array([abs(s.advantage) for s in self.samples]) ** self.config.alpha
        times, order = self._times(priorities)
        left = times[order[n:]].min(initial=np.inf)
        places = np.sort(order[:n])
        return self._corrected([self.samples[i] for i in places], priorities[places], left)

    def _groups(self, n: int) -> list[Sample]:
        members: dict[str, list[Sample]] = {}
        for sample in self.samples:
            members.setdefault(sample.group, []).append(sample)
        groups = list(members.values())
        priorities = np.array([sum(abs(s.advantage) ** self.config.alpha for s in g) for g in groups])
        times, order = self._times(priorities)
        found, of, left = list[Sample](), list[float](), np.inf
        for at in order:
            if len(found) + len(groups[at]) <= n:
                found += groups[at]
                of += [priorities[at]] * len(groups[at])
            else:
                left = min(left, times[at])
        return self._corrected(found, np.array(of), left)

    def _times(self, priorities: Any) -> tuple[Any, Any]:
        """When each is drawn, and their order: a weighted draw without replacement (Efraimidis and Spirakis 2006) by clocks
        that run as fast as the priorities; ties are fair."""
        times = -np.log(self.random.random(len(priorities))) / np.maximum(priorities, 1e-12)
        return times, np.argsort(times, kind="stable")

    def _corrected(self, samples: Sequence[Sample], priorities: Any, left: float) -> list[Sample]:
        """The samples with advantages by (share of the buffer that is drawn / the chance to be among it) ^ beta: 1 is on
        average what an even draw gives, with less noise. `left`: when the first was drawn that is not among them (inf: all
        are, and nothing is corrected)."""
        chances = np.maximum(-np.expm1(-priorities * left), 1e-12)
        weights = (len(samples) / len(self.samples) / chances) ** self.config.beta
        return [replace(s, advantage=s.advantage * float(w)) for s, w in zip(samples, weights, strict=True)]

    def add(self, samples: Sequence[Sample]) -> None:
        """Keep samples with a signal; beyond the capacity the oldest leave, and with them, where the unit is the group, the
        rest of their groups."""
        self.samples += [s for s in samples if s.advantage != 0.0]
        over = max(0, len(self.samples) - self.config.capacity)
        broken = {s.group for s in self.samples[:over]} if self.config.unit == "group" else set[str]()
        kept = [s for s in self.samples[over:] if s.group not in broken]
        self.evicted += len(self.samples) - len(kept)
        self.samples = kept

    def metrics(self, step: int) -> dict[str, float]:
        """Its size, the mean age of what is in it, what left it so far, and the sum of the advantages last drawn, by that of
        their sizes: 0 for whole groups; at -0.5 answers are pushed down three times as hard as up."""
        ages = [step - s.policy_step for s in self.samples]
        return {
            "buffer_size": len(self.samples), "buffer_age": float(np.mean(ages)) if ages else 0.0,
            "buffer_drawn": self.drawn, "buffer_aged": self.aged, "buffer_evicted": self.evicted,
            "buffer_net": self.net,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Everything that decides later draws, as plain values."""
        rows = [{n: list(x) if isinstance(x, tuple) else x for n, x in asdict(s).items()} for s in self.samples]
        counts = {"drawn": self.drawn, "aged": self.aged, "evicted": self.evicted, "net": self.net}
        return {"samples": rows, "random": self.random.bit_generator.state, "counts": counts}

    def load_state(self, state: dict[str, Any]) -> None:
        rows = state["samples"]
        lists = ("tokens", "logprobs", "sampled")
        self.samples = [Sample(**{**r, **{n: tuple(r.get(n, ())) for n in lists}}) for r in rows]
        self.random.bit_generator.state = state["random"]
        self.drawn, self.aged, self.evicted, self.net = (
            state["counts"][n] for n in ("drawn", "aged", "evicted", "net")
        )
