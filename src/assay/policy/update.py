"""One update of a policy: samples with advantages, in passes within the memory, by eq. 8 (paper B) over the global batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from assay.errors import AssayError
from assay.losses import grpo as surrogate
from assay.losses import importance, kl_to
from assay.pack import Group
from assay.policy.buffer import Buffer
from assay.policy.config import GrpoConfig
from assay.policy.model import Batch, Logprobs, Policy
from assay.policy.mpo import schedule
from assay.policy.sampler import Sampler
from assay.rollouts import Prompt, Sample
from assay.step import Engine


@dataclass(slots=True)
class _Micro:
    """Samples that share prompts, in one pass. `old` is None for a sample that this step's policy drew."""

    batch: Batch
    samples: list[Sample]
    old: list[tuple[float, ...] | None]
    weight: float


_TERMS = ("loss", "entropy", "outside", "ratio", "kl", "off", "gap", "on", "weight", "cut")
"""Sums over a batch that passes add up: the loss; of tokens, entropy and so on; of an earlier policy's (`off`) those outside
the clipping range and their ratio; of this one's (`on`) the sampler's gap."""


class Update:
    """What makes an optimiser step of samples. `recorded` has the log-probabilities that the last one's pass gave them, by
    `id` of the sample, where it drew them.

    Args:
        folder: The run's, for messages.
        policy: Where there is a KL penalty, it has kept its start (`Policy.keep_start`), which the penalty holds on to.
        sampler: Says what stands before an answer, and at which temperature it is drawn.
    """

    def __init__(
        self, folder: Path, config: GrpoConfig, policy: Policy, engine: Engine, prompts: Sequence[Prompt], sampler: Sampler
    ) -> None:  # fmt: skip
        self.folder, self.config, self.policy, self.engine, self.sampler = folder, config, policy, engine, sampler
        self.temperature = sampler.config.training_temperature()
        self.by_id = {p.id: p for p in prompts}
        asked, exact = config.correction.per, getattr(sampler, "exact", True)
        self.per: Literal["off", "token", "sequence"] = asked if asked != "auto" else "off" if exact else "token"
        self.recorded: dict[int, list[float]] = {}
        self.compared = 0
        self.terms = torch.zeros(0)
        self.size = self.tokens = 1.0

    def train(self, batch: list[Sample], fresh: int, step: int) -> dict[str, float]:
        """One optimiser step on this process's samples, of which the first `fresh` are of this step's policy."""
        config, engine = self.config, self.engine
        size, tokens = engine.total(len(batch), sum(len(s.tokens) for s in batch))
        self.recorded = {}
        if not size:
            return {"loss": 0.0, "grad_norm": 0.0, "skipped": 1.0}
        self.size, self.tokens = size, tokens
        micros = list(self.micros(batch, fresh))
        missing = engine.most(len(micros)) - len(micros)
        if missing:
            spare = micros[0] if micros else self.idle()
            micros += [replace(spare, weight=0.0)] * missing
        self.terms = torch.zeros(len(_TERMS), device=engine.device)
        lr = config.lr * schedule(config.schedule, config.warmup, step, config.steps)
        norm = engine.step(micros, self.loss, lr)
        sums = dict(zip(_TERMS, engine.total(*self.terms.tolist()), strict=True))
        loss, off, on = sums["loss"], sums["off"], sums["on"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise AssayError(f"{self.folder}: the loss is {loss} at step {step + 1}; lower grpo.lr (now {config.lr})")
        if on:
            self.check(sums["gap"] / on, step)
        weighed = {"weight": sums["weight"] / tokens, "weight_cut": sums["cut"] / tokens} if self.per != "off" else {}
        return {
            "loss": loss, "grad_norm": norm, "lr": lr, "entropy": sums["entropy"] / tokens,
            "clipped": sums["outside"] / max(1.0, off), "ratio": sums["ratio"] / off if off else 1.0,
            "kl": sums["kl"] / tokens, "skipped": 0.0, **({"sampler_gap": sums["gap"] / on} if on else {}), **weighed,
        }  # fmt: skip

    def check(self, gap: float, step: int) -> None:
        """Raise AssayError where the sampler is another policy than what trains, in the first two steps that tell: the
        second sees whether the sampler took over what the first has learned."""
        self.compared += 1
        most = self.config.correction.most_gap
        if most and self.compared <= 2 and gap > most:
            name = type(self.sampler).__name__
            raise AssayError(
                f"{self.folder}: step {step + 1}: the log-probabilities that {name} and training give the sampled tokens "
                f"are {gap:.3f} nats apart on average (at most {most:g}: grpo.correction.most_gap). It samples from another "
                "policy than is trained: look for other weights, prompts, pictures, temperature or precision there; sample "
                "by our own decoder (--backend auto); or set a higher limit if you know why"
            )

    def again(self, fresh: Sequence[Sample], drawn: Sequence[Sample], step: int) -> dict[str, float]:
        """Further optimiser steps on the batch of the last one (`config.updates`), by ratios to the policy before it."""
        batch = [*self.with_recorded(fresh), *drawn]
        found = [self.train(batch, 0, step) for _ in range(self.config.updates - 1)]
        return _means("update", found)

    def replay(self, buffer: Buffer, size: int, step: int) -> dict[str, float]:
        """Further optimiser steps, each on at most `size` samples of this process from the buffer."""
        found = [self.train(buffer.draw(size, step), 0, step) for _ in range(self.config.buffer.replays)]
        return _means("replay", found)

    def micros(self, batch: list[Sample], fresh: int) -> list[_Micro]:
        """Samples of one prompt share it: a group for each prompt (several where they are above the budget of tokens), and
        groups in passes within that budget."""
        by_prompt: dict[str, list[int]] = {}
        for at, sample in enumerate(batch):
            by_prompt.setdefault(sample.prompt_id, []).append(at)

        def group(places: list[int]) -> Group:
            return self.group(self.by_id[batch[places[0]].prompt_id], [batch[i] for i in places])

        members = [[m[i] for i in part] for m in by_prompt.values() for part in self.policy.parts(group(m))]
        groups = [group(m) for m in members]
        made = []
        for part in self.policy.bins(groups) if groups else []:
            places = [i for p in part for i in members[p]]
            old = [None if i < fresh else batch[i].logprobs for i in places]
            pass_ = self.policy.batch([groups[p] for p in part])
            made.append(_Micro(pass_, [batch[i] for i in places], old, 1.0))
        return made

    def group(self, prompt: Prompt, samples: Sequence[Sample]) -> Group:
        ids = np.array(self.sampler.prompt_ids(prompt), dtype=np.int32)
        answers = tuple(np.array(s.tokens, dtype=np.int32) for s in samples)
        return Group(prefix=ids, answers=answers, images=prompt.images)

    def idle(self) -> _Micro:
        """A pass for a process that has nothing to learn from, while others have."""
        prompt = next(iter(self.by_id.values()))
        sample = Sample(prompt_id=prompt.id, group="", tokens=(0,), logprobs=(0.0,), advantage=0.0, policy_step=0)
        batch = self.policy.batch([self.group(prompt, [sample])])
        return _Micro(batch, [sample], [None], 0.0)

    @torch.no_grad()
    def reference(self, batch: Batch) -> Tensor:
        """What the policy as it started says of the same tokens, shape (M,)."""
        with self.policy.at_start(), self.engine.autocast():
            found: Logprobs = self.policy(batch, entropy=False, temperature=self.temperature)
        return found.logp_M

    def loss(self, micro: _Micro) -> Tensor:
        """This micro-batch's part of eq. 8 over the global batch, negated."""
        batch = micro.batch.to(self.engine.device)
        reference_M = self.reference(batch) if self.config.kl else None
        with self.engine.autocast():
            found: Logprobs = self.engine.module(
                batch, entropy="gradient" if self.config.entropy else True, temperature=self.temperature
            )
        logp_M = found.logp_M
        parts = torch.split(logp_M.detach(), [len(s.tokens) for s in micro.samples])
        if micro.weight:
            for sample, part, old in zip(micro.samples, parts, micro.old, strict=True):
                if old is None:
                    self.recorded[id(sample)] = part.tolist()
        old_M = torch.cat([
            part if old is None else part.new_tensor(old) for part, old in zip(parts, micro.old, strict=True)
        ])  # fmt: skip
        lengths_N = torch.tensor([len(s.tokens) for s in micro.samples], device=logp_M.device)
        advantage_M = logp_M.new_tensor([s.advantage for s in micro.samples]).repeat_interleave(lengths_N)
        bounds = self.config.epsilon, self.config.epsilon_high, self.config.most_ratio
        terms_M = surrogate(logp_M, old_M, advantage_M, *bounds)
        weight_M = self.weights(micro.samples, old_M, lengths_N)
        terms_M = terms_M if weight_M is None else weight_M * terms_M
        kl_M = torch.zeros_like(logp_M) if reference_M is None else kl_to(logp_M, reference_M)
        terms_M = terms_M + self.config.kl * kl_M
        if self.config.entropy:
            terms_M = terms_M - self.config.entropy * found.entropy_M
        if self.config.mean == "token":
            loss = terms_M.sum() / self.tokens
        else:
            loss = (terms_M / lengths_N.repeat_interleave(lengths_N)).sum() / self.size
        loss = loss * micro.weight
        self._note(micro, loss, found, old_M, kl_M, lengths_N, weight_M)
        return loss

    def weights(self, samples: Sequence[Sample], old_M: Tensor, lengths_N: Tensor) -> Tensor | None:
        """What each token counts for, by what the trainer and what the sampler gave it when it was drawn; None: all alike.
        Of a sample without the sampler's word (from the buffer of a run without correction) every token counts whole."""
        if self.per == "off":
            return None
        rule = self.config.correction
        sampled_M = torch.cat([
            old_M.new_tensor(s.sampled or s.logprobs) for s in samples
        ])  # fmt: skip
        return importance(old_M - sampled_M, lengths_N, self.per, rule.beyond, rule.most, rule.least)

    @torch.no_grad()
    def _note(
        self, micro: _Micro, loss: Tensor, found: Logprobs, old_M: Tensor, kl_M: Tensor, lengths_N: Tensor,
        weight_M: Tensor | None,
    ) -> None:  # fmt: skip
        ratio_M = (found.logp_M - old_M).exp()
        replayed_M = torch.tensor([o is not None for o in micro.old], device=ratio_M.device).repeat_interleave(
            lengths_N
        )
        low, high = self.config.epsilon, self.config.epsilon_high
        outside_M = ((ratio_M < 1 - low) | (ratio_M > 1 + (low if high is None else high))) & replayed_M
        sampled_M = ratio_M.new_tensor([x for s in micro.samples for x in s.logprobs])
        gap_M = (found.logp_M - sampled_M).abs() * ~replayed_M
        weight_M = torch.ones_like(ratio_M) if weight_M is None else weight_M
        rule = self.config.correction
        cut_M = (weight_M >= rule.most) | (weight_M <= rule.least)
        sums = [found.entropy_M.sum(), outside_M.sum(), (ratio_M * replayed_M).sum(), kl_M.sum(), replayed_M.sum(),
                gap_M.sum(), (~replayed_M).sum(), weight_M.sum(), cut_M.sum()]  # fmt: skip
        self.terms += torch.stack([loss.float(), *(s.float() * micro.weight for s in sums)])

    def with_recorded(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with the log-probabilities that the training pass gave them, before the step; the sampler's go to
        `sampled`, where they are corrected for. Those of an earlier policy stay as they are: it is their sampler's word that
        they are compared with."""
        return [
            replace(s, logprobs=tuple(self.recorded[id(s)]), sampled=s.logprobs if self.per != "off" else ())
            if id(s) in self.recorded else s
            for s in samples
        ]  # fmt: skip


def _means(name: str, found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means of several steps' metrics, under a name of their own."""
    told = ("loss", "grad_norm", "clipped", "ratio")
    return {f"{name}_{key}": float(np.mean([f[key] for f in found if key in f] or [0.0])) for key in told if found}
