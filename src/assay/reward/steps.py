"""The computing of a reward training, apart from its files: micro-batches, the loss, the step, the margins on gold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from assay.errors import AssayError
from assay.losses import bradley_terry, centering
from assay.reward.config import TrainConfig
from assay.reward.model import Batch, RewardModel
from assay.reward.monitor import StepMetrics
from assay.reward.renderer import Rendered
from assay.step import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """One forward pass: its batch, its pairs, and the weight of their loss (0 for one that only keeps step)."""

    batch: Batch
    pairs: list[Rendered]
    weight: float = 1.0


class Steps:
    """Optimiser steps of a model over pairs: `micros` splits this process's pairs, `take` makes the step.

    Args:
        size: Pairs of one step over all processes; the last step has what is left.
        presented: Pairs of the whole training, repeats included.
    """

    def __init__(self, engine: Engine, model: RewardModel, config: TrainConfig, size: int, presented: int) -> None:
        self.engine, self.model, self.config, self.size, self.presented = engine, model, config, size, presented
        self.steps = math.ceil(presented / size)
        self.terms, self.now = torch.zeros(5), size

    def pairs_of(self, step: int) -> int:
        """Places of a step over all processes; of a stream, some may hold pairs that cannot be read, and are left out."""
        return min(self.size, self.presented - step * self.size)

    def micros(self, pairs: Sequence[Rendered], idle: bool = False) -> list[Micro]:
        """The forward passes of some pairs, within the budget of tokens; an idle process takes part without a say."""
        groups = [p.group for p in pairs]
        return [
            Micro(
                batch=self.model.batch([groups[i] for i in part]),
                pairs=[pairs[i] for i in part],
                weight=float(not idle),
            )
            for part in self.model.bins(groups)
        ]

    def take(self, micros: list[Micro], done: int) -> StepMetrics:
        """The optimiser step after `done` ones. Raises AssayError when the loss is no longer a number."""
        engine, config = self.engine, self.config
        micros = self.level(micros)
        self.now = max(1, int(self.engine.total(sum(len(m.pairs) for m in micros if m.weight))[0]))
        lr = config.lr * _schedule(config, done, self.steps)
        self.terms = torch.zeros(5, device=engine.device)
        norm = engine.step(micros, self.loss, lr)
        counted = [m for m in micros if m.weight]
        counts = (
            sum(len(m.pairs) for m in counted), sum(p.group.tokens for m in counted for p in m.pairs),
            sum(p.cut for m in counted for p in m.pairs), sum(m.batch.tokens for m in micros),
        )  # fmt: skip
        loss, right, margin, chosen, rejected, *sums = engine.total(*self.terms.tolist(), *counts)
        pairs, tokens, cut, spent = (int(s) for s in sums)
        seen = max(1, pairs)  # none, where all of a step's pairs were left out
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise AssayError(f"the loss is {loss}; lower train.lr (now {config.lr}) or train in fp32")
        return StepMetrics(
            step=done + 1, loss=loss, accuracy=right / seen, margin=margin / seen, chosen=chosen / seen,
            rejected=rejected / seen, grad_norm=norm, lr=lr, pairs=pairs, tokens=tokens, padded=spent, cut=cut,
        )  # fmt: skip

    def level(self, micros: list[Micro]) -> list[Micro]:
        """As many micro-batches as the process that has most: the missing ones repeat the smallest, with weight 0."""
        missing = self.engine.most(len(micros)) - len(micros)
        smallest = min(micros, key=lambda m: m.batch.tokens)
        return [*[replace(smallest, weight=0.0)] * missing, *micros]

    def loss(self, micro: Micro) -> torch.Tensor:
        """This micro-batch's part of the mean loss over the global batch; what it came to is added to `terms`."""
        settings = self.config.loss
        chosen_B, rejected_B = self.rewards(micro.batch).view(-1, 2).unbind(1)
        margin_B = chosen_B - rejected_B
        offset_B = margin_B.new_tensor([p.margin for p in micro.pairs]) if settings.margin else None
        certainty_B = margin_B.new_tensor([p.certainty for p in micro.pairs]) if settings.soft_labels else None
        loss = bradley_terry(margin_B, offset_B, certainty_B)
        if settings.center:
            loss = loss + settings.center * centering(chosen_B, rejected_B)
        loss = loss * (micro.weight / self.now)
        if micro.weight:
            with torch.no_grad():
                sums = [loss, (margin_B > 0).sum(), margin_B.sum(), chosen_B.sum(), rejected_B.sum()]
                self.terms += torch.stack([s.float() for s in sums])
        return loss

    def rewards(self, batch: Batch) -> torch.Tensor:
        with self.engine.autocast():
            rewards: torch.Tensor = self.engine.module(batch.to(self.engine.device))
        return rewards

    def margins(self, gold: list[Rendered]) -> list[float]:
        """r_chosen - r_rejected of the gold pairs, by all processes together, in the order of `gold`."""
        if not gold:
            return []
        rank, world = self.engine.rank, self.engine.world
        own = list(range(len(gold)))[rank::world] or [0]
        self.engine.module.eval()
        parts = self.model.bins([gold[i].group for i in own])
        found: list[tuple[int, float]] = []
        for number in range(self.engine.most(len(parts))):
            part = [own[i] for i in parts[min(number, len(parts) - 1)]]
            with torch.no_grad():
                rewards = self.rewards(self.model.batch([gold[i].group for i in part])).view(-1, 2)
            found += zip(part, (rewards[:, 0] - rewards[:, 1]).tolist(), strict=True)
        return [margin for _, margin in sorted(dict(self.engine.gather(found)).items())]


def _schedule(config: TrainConfig, step: int, steps: int) -> float:
    warm = config.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    return 1.0 if config.schedule == "constant" else (steps - step) / max(1.0, steps - warm)
