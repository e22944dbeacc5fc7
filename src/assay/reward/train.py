"""Train a Bradley-Terry reward model on preferences, keep the checkpoint that is best on gold, resume after a kill.

Paper A: pointwise Bradley-Terry loss only, scalar head, one epoch; the checkpoint is chosen by accuracy on human-verified
pairs (A.6 step 1). It keeps one folder per model:

    folder/                    the model as transformers saves it, loadable by AutoModelForSequenceClassification
    folder/training.json       how it went, and its identity: what it was trained on and how (`assay.identity`); written last
    folder/calibration.json    the temperature that makes sigmoid(margin / T) a probability, fitted on the gold pairs
    folder/metrics.jsonl       one line per optimiser step
    folder/left_out.jsonl      the pairs that this model could not read, and why, if there were any
    folder.partial/            an unfinished training: identity.json, the last two states and the best models of their times

Under `torchrun` or `accelerate launch` the same call trains on all processes: each takes every world-th pair of a step.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from assay import models
from assay.errors import AssayError
from assay.figures import told
from assay.identity import Training, settings
from assay.images import ImageStore
from assay.locks import together
from assay.records import Preference
from assay.reward import calibration, card
from assay.reward.config import LossConfig, TrainConfig
from assay.reward.data import MemoryPairs, Pairs, positions
from assay.reward.model import compile_when_worth, for_training, save
from assay.reward.monitor import Monitor
from assay.reward.renderer import Rendered, Renderer
from assay.reward.scorer import position_limit
from assay.reward.steps import Micro, Steps
from assay.run import jsonable
from assay.statistics import mean
from assay.step import Engine, writing
from assay.tables import remove
from assay.trackers import check

FREE = ("save_minutes", "packing", "tokens", "compile", "checkpointing", "shard", "attention")
"""Settings that cost memory or time and change rounding at most: they may differ when a training goes on."""
FEW = 10
"""Optimiser steps below which a training is said to teach little."""
HOLDS = "reward model"
"""What a finished folder holds, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training: where the model is, and what `training.json` says."""

    folder: Path
    pairs: int
    steps: int
    gold_accuracy: float
    best_step: int
    cut_tokens: int
    tokens: int
    presented: int
    wall_s: float
    packed: bool
    temperature: float | None = None
    gold_pairs: int = 0
    gold: dict[str, Any] | None = None
    """The share of gold pairs that it ranks rightly, as a `statistics.Estimate`; None without gold."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Pairs that the model cannot read, or that are the same tokens to it, by reason; left_out.jsonl names them."""


@dataclass(slots=True)
class _State:
    """What changes while training, besides weights and optimiser; saved with them."""

    step: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    best_margins: list[float] = field(default_factory=list)
    stale: int = 0
    cut: int = 0
    tokens: int = 0
    presented: int = 0
    wall_s: float = 0.0


def train(
    folder: Path, config: TrainConfig, pairs: Sequence[Preference] | Pairs, gold: Sequence[Preference],
    say: Callable[[str], None] = lambda _: None, trackers: Sequence[str] = (), identity: dict[str, Any] | None = None,
) -> Trained:  # fmt: skip
    """Train on `pairs`, choose the checkpoint on `gold`, save to `folder`. Returns at once when that is already done.

    A tie in gold accuracy goes to the later checkpoint; without gold the last one is taken. The result depends on the
    pairs, not on their order, nor on the number of interruptions or (beyond rounding) of processes. `trackers` are
    names ("tensorboard", "wandb", ...: `assay.trackers`); `identity` is `identity_of` these arguments, where the caller
    has it already. Raises AssayError when there is nothing to train on, when a
    loss is asked for that these labels cannot tell from the plain one, and where `folder` holds anything but this training.
    """
    source = pairs if not isinstance(pairs, Sequence) else MemoryPairs(pairs)
    if not len(source):
        raise AssayError(f"{folder}: no pairs to train on; see the labels' reasons for why all were dropped")
    engine = Engine(config.precision, config.clip, config.engine.shard)
    with together(engine, folder):
        return _train(engine, folder, config, source, gold, say, trackers, identity)


def _train(
    engine: Engine, folder: Path, config: TrainConfig, source: Pairs, gold: Sequence[Preference], say: Callable[[str], None],
    trackers: Sequence[str], identity: dict[str, Any] | None,
) -> Trained:  # fmt: skip
    gold = MemoryPairs(gold).pairs
    known = identity or engine.lead_says(lambda: identity_of(config, source, gold))
    place = Training(folder, known, HOLDS)
    if (done := engine.lead_says(place.finished)) is not None:
        return Trained(**done, folder=folder)
    engine.lead_says(lambda: check_loss(config.loss, source))
    engine.lead_says(lambda: check(trackers))
    say = say if engine.lead else lambda _: None
    if engine.world > 1:
        say(f"{folder.name}: {engine}")
    store = ImageStore(config.images) if config.images is not None else None
    load = models.load_processor if store is not None else models.load_tokenizer
    tokenizer = load(config.backbone)
    model = for_training(config, tokenizer, say)
    if not model.packed:
        say(f"{folder.name}: batches are padded by length, not packed: {model.reason}")
    elif engine.device.type != "cpu":
        say(f"{folder.name}: packed, attention by {model.backend}")
    once = not source.whole and config.epochs <= 1
    limit = min(config.max_tokens, position_limit(model.model))
    render = Renderer(tokenizer, limit, store, room=0 if once else None)
    source = render.readable(source, engine.gather, engine.rank, engine.world)
    held = render.render(gold, "gold pairs")
    render.left.tell(say, folder.name)
    sample = render(source.take(config.seed, 0, range(min(64, len(source))))) or render.spare
    presented = config.presented(len(source))
    if compile_when_worth(model, presented * float(np.mean([s.group.tokens for s in sample]))):
        say(f"{folder.name}: compiling the layers, about half a minute at the first step")
    engine.prepare(model, config.lr, config.weight_decay)
    if engine.sharded:
        model.frozen = None  # a pass more on some processes, and all would wait for one another
    compute = Steps(engine, model, config, min(config.batch_pairs, len(source)), presented)
    run = _Training(place, config, compute, source, render, say)
    if compute.steps < FEW:
        say(
            f"warning: {folder.name}: {len(source):,} pairs, presented {presented:,} times in all, are {compute.steps} "
            f"optimiser steps of {compute.size:,}, which teach little: lower train.batch_pairs, or raise train.epochs"
        )
    if not held:
        say(f"{folder.name}: no gold pairs to check on: the last checkpoint is taken")
    engine.lead_says(place.begin)
    state = run.loop(held, tokenizer, trackers)
    run.gather_left_out()
    engine.lead_says(lambda: run.finish(state))
    return Trained(**(place.finished() or {}), folder=folder)


def identity_of(config: TrainConfig, source: Pairs, gold: Sequence[Preference]) -> dict[str, Any]:
    """What a training's result depends on: settings, the backbone's content, pairs and labels, gold.

    Where the pictures lie is left out, for pairs name them by their content.
    """
    engine = settings(config.engine, FREE)
    kept = settings(config, (*FREE, "backbone", "images", "engine")) | {"engine": engine}
    told = MemoryPairs(gold).identity()
    return {
        "config": kept, "backbone": models.whose(config.backbone), "pictures": config.images is not None,
        **source.identity(), "gold": {n: d["digest"] for n, d in told.items()} | {"n": len(gold)},
    }  # fmt: skip


IDLE = {
    "margin": "no pair has a strength: loss.margin would do nothing",
    "soft_labels": "every label is certain (no vote was against one): loss.soft-labels would do nothing",
}


def idle(loss: LossConfig, source: Pairs) -> dict[str, str]:
    """The parts of a loss, by name, that these labels cannot feed, and why."""
    uncertain, graded = source.graded() if loss.soft_labels or loss.margin else (True, True)
    fed = {"margin": graded, "soft_labels": uncertain}
    return {name: why for name, why in IDLE.items() if getattr(loss, name) and not fed[name]}


def check_loss(loss: LossConfig, source: Pairs) -> None:
    """Raise AssayError for a loss that these labels cannot tell from the plain one."""
    for why in idle(loss, source).values():
        raise AssayError(f"{why}; leave it out, or give labels that tell it")


class _Training:
    """One call of `train`: what its parts share."""

    def __init__(
        self, place: Training, config: TrainConfig, compute: Steps, source: Pairs, render: Renderer,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.place, self.config, self.compute, self.engine = place, config, compute, compute.engine
        self.source, self.render, self.steps, self.say = source, render, compute.steps, say
        self.name, self.partial = place.path.name, place.partial
        self.bests: list[int] = []
        self.questions: list[str] = []

    def loop(self, gold: list[Rendered], tokenizer: Any, trackers: Sequence[str]) -> _State:
        config, engine, self.questions = self.config, self.engine, [g.question for g in gold]
        state = self.resume()
        checks = {math.ceil(self.steps * (i + 1) / config.checks) for i in range(config.checks)}
        settings = {**self.place.identity, "config": jsonable(config)}
        quiet = not engine.lead
        with Monitor(self.partial, self.steps, self.say, trackers, settings, self.name, quiet) as monitor:
            monitor.resume(state.step)
            for micros in self.batches(state.step):
                start = time.monotonic()
                metrics = self.compute.take(micros, state.step)
                state.wall_s += time.monotonic() - start
                state.step, state.cut = metrics.step, state.cut + metrics.cut
                state.tokens, state.presented = state.tokens + metrics.tokens, state.presented + metrics.pairs
                if state.step not in checks:
                    monitor.log(metrics)
                else:
                    monitor.log(metrics, self.check(state, gold, tokenizer))
                    if config.patience and state.stale >= config.patience:
                        self.say(
                            f"{self.name}: stopped at step {state.step}, {state.stale} checks without a better one"
                        )
                        break
                if state.step < self.steps and (state.step in checks or engine.due(config.save_minutes)):
                    self.keep(state)
        return state

    def batches(self, first: int) -> Iterator[list[Micro]]:
        """The micro-batches of each step from `first` on; the next step's are made while one computes."""
        with ThreadPoolExecutor(max_workers=1) as ahead:
            coming = ahead.submit(self.micros, first)
            for step in range(first, self.steps):
                micros = coming.result()
                if step + 1 < self.steps:
                    coming = ahead.submit(self.micros, step + 1)
                yield micros

    def micros(self, step: int) -> list[Micro]:
        """This process's forward passes of a step: every world-th pair of the global batch, binned by tokens."""
        rank, world = self.engine.rank, self.engine.world
        spans = positions(len(self.source), step * self.compute.size, self.compute.pairs_of(step))
        numbered = [(epoch, p) for epoch, places in spans for p in places]
        own = numbered[rank::world] or numbered[:1]
        rows = []
        for epoch in dict.fromkeys(e for e, _ in own):
            rows += self.source.take(self.config.seed, epoch, [p for e, p in own if e == epoch])
        rendered = self.render(rows)
        return self.compute.micros(rendered or self.render.spare, idle=rank >= len(numbered) or not rendered)

    def check(self, state: _State, gold: list[Rendered], tokenizer: Any) -> dict[str, float]:
        """Measure on gold; save the model when it is the best so far. Returns the share that is right, with its error."""
        margins = self.compute.margins(gold)
        accuracy = float(np.mean(np.array(margins) > 0)) if margins else 0.0
        state.stale = 0 if not margins or accuracy > state.best_accuracy else state.stale + 1
        if accuracy >= state.best_accuracy:
            state.best_step, state.best_accuracy, state.best_margins = state.step, accuracy, margins
            weights = self.engine.weights(trained=self.config.engine.lora_rank > 0)
            if self.engine.lead:
                best = self.best(state.step)
                beside = best.with_name(best.name + ".saving")
                shutil.rmtree(beside, ignore_errors=True)
                with writing(beside):
                    save(self.compute.model, weights, beside, tokenizer)
                remove(best)  # of an attempt that was killed before its state was saved
                beside.rename(best)
            self.engine.wait()
        found = mean([float(m > 0) for m in margins], self.questions) if margins else None
        if not found:
            return {}
        self.say(f"{self.name}: step {state.step}/{self.steps}  right on gold: {told(found)}")
        return {"gold_accuracy": found.value, "gold_accuracy_se": found.se}

    def best(self, step: int) -> Path:
        """Where the model of a step is kept that was the best so far."""
        return self.partial / f"best-{step:08}"

    def gather_left_out(self) -> None:
        """What any process left out, known to all of them, told and kept."""
        self.render.left.share(self.engine.gather(self.render.left.news()))
        self.render.left.tell(self.say, self.name)
        if self.engine.lead:
            self.render.left.save(self.partial / "left_out.jsonl")

    def keep(self, state: _State) -> None:
        """Save the state; of the best models, those that the two kept states know are left."""
        self.gather_left_out()
        self.engine.save(self.partial, state.step, asdict(state))
        self.bests = [*self.bests, state.best_step][-2:]
        if self.engine.lead:
            known = {self.best(step) for step in self.bests}
            for folder in set(self.partial.glob("best-*")) - known:
                shutil.rmtree(folder)

    def resume(self) -> _State:
        kept = self.engine.load(self.partial, self.say)
        if kept is None:
            return _State()
        self.render.left.load(self.partial / "left_out.jsonl")
        state = _State(**kept)
        self.bests = [state.best_step]
        self.say(f"{self.name}: resumed at step {state.step}/{self.steps}")
        return state

    def finish(self, state: _State) -> None:
        """Turn the best model into the finished folder, in one move."""
        best = self.best(state.best_step)
        fitted = calibration.fit(np.array(state.best_margins), self.questions) if state.best_margins else None
        if fitted:
            calibration.save(fitted, best / "calibration.json")
        self.render.left.save(best / "left_out.jsonl")
        right = [float(m > 0) for m in state.best_margins]
        result = {
            "pairs": len(self.source), "steps": self.steps, "gold_accuracy": max(state.best_accuracy, 0.0),
            "best_step": state.best_step, "cut_tokens": state.cut, "tokens": state.tokens,
            "presented": state.presented, "wall_s": round(state.wall_s, 2), "packed": self.compute.model.packed,
            "temperature": fitted.temperature if fitted else None, "gold_pairs": len(right),
            "gold": asdict(mean(right, self.questions)) if right else None,
            "left_out": self.render.left.counts(),
        }  # fmt: skip
        card.write(best, self.name, self.config, result, fitted)
        self.place.finish(best, result)
