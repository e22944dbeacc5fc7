"""Train a Bradley-Terry reward model on preferences, keep the checkpoint that is best on gold, resume after a kill.

Paper A: pointwise Bradley-Terry loss only, scalar head, one epoch; the checkpoint is chosen by accuracy on human-verified
pairs (A.6 step 1). It keeps one folder per model:

    folder/                    the model as transformers saves it, loadable by AutoModelForSequenceClassification
    folder/training.json       what it was trained on and how it went; its presence means that training finished
    folder/calibration.json    the temperature that makes sigmoid(margin / T) a probability, fitted on the gold pairs
    folder/metrics.jsonl       one line per optimiser step
    folder.partial/            an unfinished training: state/ of the last check, best/ so far

Under `torchrun` or `accelerate launch` the same call trains on all processes: each takes every world-th pair of a step.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay import models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.records import Preference
from assay.reward import calibration
from assay.reward.config import TrainConfig
from assay.reward.data import MemoryPairs, Pairs, Rendered, Renderer, positions
from assay.reward.model import compile_when_worth, for_training, save
from assay.reward.monitor import Monitor
from assay.reward.scorer import position_limit
from assay.reward.steps import Micro, Steps
from assay.run import jsonable
from assay.step import Engine
from assay.tables import check_vacant, sibling, write_text


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


@dataclass(slots=True)
class _State:
    """What changes while training, besides weights and optimiser; saved with them at every check."""

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
    say: Callable[[str], None] = lambda _: None, trackers: Sequence[str] = (),
) -> Trained:  # fmt: skip
    """Train on `pairs`, choose the checkpoint on `gold`, save to `folder`. Returns at once when that is already done.

    A tie in gold accuracy goes to the later checkpoint; without gold the last one is taken. The result depends on the
    pairs, not on their order, nor on the number of interruptions or (beyond rounding) of processes. `trackers` are
    names that Accelerate knows ("tensorboard", "wandb", ...). Raises AssayError when there is nothing to train on.
    """
    if (folder / "training.json").exists():
        return _finished(folder)
    check_vacant(folder, "reward model of this project")
    source = pairs if not isinstance(pairs, Sequence) else MemoryPairs(pairs)
    if not len(source):
        raise AssayError(f"{folder}: no pairs to train on; see the labels' reasons for why all were dropped")
    engine = Engine(config.precision, config.clip, config.engine.shard)
    say = say if engine.lead else lambda _: None
    if engine.world > 1:
        say(f"{folder.name}: {engine}")
    store = ImageStore(config.images) if config.images is not None else None
    load = models.load_processor if store is not None else models.load_tokenizer
    tokenizer = load(config.backbone)
    model = for_training(config, tokenizer)
    if not model.packed:
        say(f"{folder.name}: batches are padded by length, not packed: {model.reason}")
    elif engine.device.type != "cpu":
        say(f"{folder.name}: packed, attention by {model.backend}")
    render = Renderer(tokenizer, min(config.max_tokens, position_limit(model.model)), store)
    sample = render(source.take(config.seed, 0, range(min(64, len(source)))))
    steps = max(1, round(config.epochs * len(source) / config.batch_pairs))
    presented = steps * min(config.batch_pairs, len(source))
    if compile_when_worth(model, presented * float(np.mean([s.group.tokens for s in sample]))):
        say(f"{folder.name}: compiling the layers, about half a minute at the first step")
    engine.prepare(model, config.lr, config.weight_decay)
    compute = Steps(engine, model, config, min(config.batch_pairs, len(source)), steps)
    run = _Training(folder, config, compute, source, render, say)
    state = run.loop(render.render(gold), tokenizer, trackers)
    if engine.lead:
        run.finish(state)
    engine.wait()
    return _finished(folder)


class _Training:
    """One call of `train`: what its parts share."""

    def __init__(
        self, folder: Path, config: TrainConfig, compute: Steps, source: Pairs, render: Renderer,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.folder, self.config, self.compute, self.engine = folder, config, compute, compute.engine
        self.source, self.render, self.steps, self.say = source, render, compute.steps, say
        self.partial, self.questions = sibling(folder, ".partial"), list[str]()

    def loop(self, gold: list[Rendered], tokenizer: Any, trackers: Sequence[str]) -> _State:
        config, engine, self.questions = self.config, self.engine, [g.question for g in gold]
        state = self.resume()
        checks = {math.ceil(self.steps * (i + 1) / config.checks) for i in range(config.checks)}
        with Monitor(self.partial, self.steps, self.say, trackers, self.folder.name, quiet=not engine.lead) as monitor:
            monitor.resume(state.step)
            for micros in self.batches(state.step):
                start = time.monotonic()
                metrics = self.compute.take(micros, state.step)
                state.wall_s += time.monotonic() - start
                state.step, state.cut = metrics.step, state.cut + metrics.cut
                state.tokens, state.presented = state.tokens + metrics.tokens, state.presented + metrics.pairs
                monitor.log(metrics)
                if state.step in checks:
                    self.check(state, gold, tokenizer)
                    if config.patience and state.stale >= config.patience:
                        self.say(
                            f"{self.folder.name}: stopped at step {state.step}, {state.stale} checks without a better one"
                        )
                        break
                    if state.step < self.steps:
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
        spans = positions(len(self.source), self.compute.size, step)
        numbered = [(epoch, p) for epoch, places in spans for p in places]
        own = numbered[rank::world] or numbered[:1]
        rows = []
        for epoch in dict.fromkeys(e for e, _ in own):
            rows += self.source.take(self.config.seed, epoch, [p for e, p in own if e == epoch])
        return self.compute.micros(self.render(rows), idle=rank >= len(numbered))

    def check(self, state: _State, gold: list[Rendered], tokenizer: Any) -> None:
        """Measure on gold; save the model when it is the best so far."""
        margins = self.compute.margins(gold)
        accuracy = float(np.mean(np.array(margins) > 0)) if margins else 0.0
        state.stale = 0 if not margins or accuracy > state.best_accuracy else state.stale + 1
        if accuracy >= state.best_accuracy:
            state.best_step, state.best_accuracy, state.best_margins = state.step, accuracy, margins
            weights = self.engine.weights(trained=self.config.engine.lora_rank > 0)
            if self.engine.lead:
                best, beside = self.partial / "best", self.partial / "best.saving"
                shutil.rmtree(beside, ignore_errors=True)
                save(self.compute.model, weights, beside, tokenizer)
                shutil.rmtree(best, ignore_errors=True)
                beside.rename(best)
            self.engine.wait()
        seen = f"gold {accuracy:.1%} of {len(margins):,}" if margins else "no gold pairs to check on"
        self.say(f"{self.folder.name}: step {state.step}/{self.steps}  {seen}")

    def keep(self, state: _State) -> None:
        extra = {"state": asdict(state), "config": self.identity()}
        self.engine.save(self.partial / "state", extra)

    def resume(self) -> _State:
        folder = self.partial / "state"
        if not folder.exists():
            return _State()
        extra = self.engine.load(folder)
        if extra["config"] != self.identity():
            raise AssayError(
                f"{self.partial} holds an unfinished training with other settings or pairs; "
                "use the same ones to resume it, or remove that folder"
            )
        state = _State(**extra["state"])
        self.say(f"{self.folder.name}: resumed at step {state.step}/{self.steps}")
        return state

    def identity(self) -> str:
        """What must not change when a training resumes: all settings but those of the engine that only cost memory."""
        settings = jsonable(
            replace(self.config, engine=type(self.config.engine)(lora_rank=self.config.engine.lora_rank))
        )
        return json.dumps([settings, len(self.source), self.steps], sort_keys=True)

    def finish(self, state: _State) -> None:
        """Turn best/ into the finished folder, in one move."""
        best = self.partial / "best"
        fitted = calibration.fit(np.array(state.best_margins), self.questions) if state.best_margins else None
        if fitted:
            calibration.save(fitted, best / "calibration.json")
        if (self.partial / "metrics.jsonl").exists():
            shutil.copy(self.partial / "metrics.jsonl", best / "metrics.jsonl")
        if (self.partial / "trackers").exists():
            shutil.copytree(self.partial / "trackers", best / "trackers", dirs_exist_ok=True)
        result = {
            "pairs": len(self.source), "steps": self.steps, "gold_accuracy": max(state.best_accuracy, 0.0),
            "best_step": state.best_step, "cut_tokens": state.cut, "tokens": state.tokens,
            "presented": state.presented, "wall_s": round(state.wall_s, 2), "packed": self.compute.model.packed,
            "temperature": fitted.temperature if fitted else None,
        }  # fmt: skip
        write_text(best / "training.json", json.dumps(result, indent=2))
        shutil.rmtree(self.folder, ignore_errors=True)
        best.rename(self.folder)
        shutil.rmtree(self.partial)


def _finished(folder: Path) -> Trained:
    return Trained(folder=folder, **json.loads((folder / "training.json").read_text()))
