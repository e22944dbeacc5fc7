"""Mixed preference optimisation on fixed pairs (paper B, section 3.2); with other weights, SFT, DPO and adapter alignment.

    L = w_p DPO + w_q BCO + w_g NLL          weights 0.8, 0.2, 1.0 (MPO paper, app. 8.4); R1V2 does not give its own

The reference's log-probabilities are computed once, before the first step, and kept in the folder. A pair is one packed
group [prompt, chosen, rejected]: the prompt and its pictures are computed once.

    folder/               the policy as transformers saves it; folder/training.json: how it went, written last
    folder.partial/       an unfinished training: identity.json, the last two states, reference.npy, metrics.jsonl
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay import session, vision
from assay.errors import AssayError
from assay.journal import Journal
from assay.losses import Shift, bco, dpo, nll
from assay.order import Orders
from assay.pack import Group
from assay.policy.config import FitConfig
from assay.policy.folder import Folder
from assay.policy.model import Batch, Logprobs, Policy
from assay.policy.prompt_ids import Ids
from assay.step import Engine
from assay.trackers import check


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is learned from: token ids of a prompt, its pictures, the chosen answer, and a rejected one (MPO, DPO). Ids are
    tuples, or arrays of int32: of many examples these take a tenth of the memory, or none where they lie in a file."""

    prompt: tuple[int, ...] | Ids
    chosen: tuple[int, ...] | Ids
    rejected: tuple[int, ...] | Ids = ()
    images: tuple[str, ...] = ()

    def group(self) -> Group:
        answers = [a for a in (self.chosen, self.rejected) if len(a)]
        return Group(
            prefix=np.array(self.prompt, dtype=np.int32), images=self.images,
            answers=tuple(np.array(a, dtype=np.int32) for a in answers),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A finished training. `left_out`: examples that were not trained on, by reason."""

    folder: Path
    examples: int
    steps: int
    loss: float
    shift: float
    wall_s: float
    left_out: dict[str, int] = field(default_factory=dict)


def fit(
    folder: Path, config: FitConfig, policy: Policy, examples: Sequence[Comparison],
    say: Callable[[str], None] = lambda _: None, trackers: Sequence[str] = (),
    watch: Callable[[int, Policy], dict[str, float]] | None = None, watch_every: int = 0, engine: Engine | None = None,
) -> Fitted:  # fmt: skip
    """Train the policy in place on `examples` and save it to `folder`; the same call resumes, or returns when it is done.

    `watch` is called every `watch_every` steps and at the end; what it returns is logged (over-optimisation curves).
    `engine` is one of the policy's precision that was made before it, as it must be where there are several processes or
    devices. Examples that cannot be learned from are left out and counted (`usable`). Raises AssayError when there is
    nothing to train on, pairs are asked for and answers alone are given, or `folder` holds anything but this very training
    (`Folder`).
    """
    engine = engine or Engine(policy.config.precision, config.clip, policy.config.shard)
    place = Folder(folder, config, policy, examples)
    if (done := engine.lead_says(place.finished)) is not None:
        return Fitted(**done, folder=folder)
    engine.lead_says(lambda: check(trackers))
    paired = bool(config.weights[0] or config.weights[1])
    examples, left_out = usable([e if paired else _alone(e) for e in examples], policy)
    if not examples:
        reasons = "".join(f"; {n:,}: {reason}" for reason, n in left_out.items())
        raise AssayError(f"{folder}: no examples to train on{reasons}")
    if paired and not all(len(e.rejected) for e in examples):
        raise AssayError(f"{folder}: preference weights {config.weights} need a rejected answer in every example")
    say = say if engine.lead else lambda _: None
    for reason, n in left_out.items():
        say(f"{folder.name}: {n:,} examples left out: {reason}")
    engine.wait()
    if engine.lead:
        place.begin()
    engine.prepare(policy, config.lr, config.weight_decay)
    run = _Fit(place, config, policy, engine, examples, paired)
    run.left_out = left_out
    reads = config.epochs + paired / 3  # the reference's pass is a third of a training's
    policy.compile_when_worth(reads * sum(g.tokens for g in run.groups))
    run.watch, run.watch_every = watch, watch_every
    return run.loop(say, trackers)


def usable(examples: Sequence[Comparison], policy: Policy) -> tuple[list[Comparison], dict[str, int]]:
    """The examples that can be learned from, and how many cannot, by reason: nothing is said in the chosen answer, or the
    model has fewer positions than prompt and answer have tokens."""
    limit, ends = position_limit(policy), set(policy.end_ids)
    kept, counts = [], Counter[str]()
    for example in examples:
        if not policy.tokenizer.decode([t for t in example.chosen if t not in ends]).strip():
            counts["the chosen answer is empty"] += 1
        elif len(example.prompt) + max(len(example.chosen), len(example.rejected)) > limit:
            counts[f"longer than the model's {limit:,} positions"] += 1
        else:
            kept.append(example)
    return kept, dict(counts)


def position_limit(policy: Policy) -> int:
    """The most tokens, pictures' places included, that the language model has positions for."""
    return int(getattr(vision.language_model(policy.inner).config, "max_position_embeddings", None) or 1 << 30)


def _alone(example: Comparison) -> Comparison:
    return Comparison(prompt=example.prompt, chosen=example.chosen, images=example.images)


@dataclass(slots=True)
class _Micro:
    batch: Batch
    sizes_N: list[int]
    reference_N: Tensor
    weight: float


class _Fit:
    watch: Callable[[int, Policy], dict[str, float]] | None
    watch_every: int
    left_out: dict[str, int]

    def __init__(
        self,
        place: Folder,
        config: FitConfig,
        policy: Policy,
        engine: Engine,
        examples: Sequence[Comparison],
        paired: bool,
    ) -> None:
        self.place, self.config, self.policy, self.engine, self.paired = place, config, policy, engine, paired
        self.folder, self.partial = place.path, place.partial
        self.groups = [e.group() for e in examples]
        self.orders = Orders(len(examples))
        self.most = min(config.batch, len(examples))
        self.presented = max(1, round(config.epochs * len(examples)))
        self.steps = math.ceil(self.presented / self.most)
        self.size = self.most
        self.shift = Shift()
        self.terms = torch.zeros(0)

    def loop(self, say: Callable[[str], None], trackers: Sequence[str]) -> Fitted:
        config, engine = self.config, self.engine
        self.partial.mkdir(parents=True, exist_ok=True)
        reference = self.reference() if self.paired else np.zeros((len(self.groups), 2))
        first, wall_s = self.resume(say)
        with Journal(self.partial, trackers, self.place.settings, say, quiet=not engine.lead) as journal:
            journal.resume(first)
            said, loss = time.monotonic(), math.nan
            for step in range(first, self.steps):
                start = time.monotonic()
                metrics = self.step(step, reference)
                wall_s += time.monotonic() - start
                loss = metrics["loss"]
                due = self.watch_every and ((step + 1) % self.watch_every == 0 or step + 1 == self.steps)
                if self.watch is not None and due:
                    metrics |= self.look(step + 1)
                journal.log(step + 1, metrics)
                session.at(f"{self.folder.name}: steps", step + 1, self.steps)
                if time.monotonic() - said > 15 or step + 1 == self.steps:
                    said = time.monotonic()
                    left = (self.steps - step - 1) * wall_s / (step + 1)
                    say(f"{self.folder.name}: step {step + 1}/{self.steps}  {_line(metrics)}  left {left:.0f} s")
                if step + 1 < self.steps and ((step + 1) % config.save_every == 0 or engine.due(config.save_minutes)):
                    state = {"step": step + 1, "wall_s": wall_s, "shift": [self.shift.total, self.shift.count]}
                    engine.save(self.partial, step + 1, state)
        return self.finish(loss, wall_s)

    def look(self, step: int) -> dict[str, float]:
        """One reading, rank 0's."""
        watch = self.watch
        return {} if watch is None else self.engine.lead_says(lambda: watch(step, self.policy))

    def resume(self, say: Callable[[str], None]) -> tuple[int, float]:
        state = self.engine.load(self.partial, say)
        if state is None:
            return 0, 0.0
        self.shift.total, self.shift.count = state["shift"]
        return int(state["step"]), float(state["wall_s"])

    def finish(self, loss: float, wall_s: float) -> Fitted:
        weights = self.engine.weights(trained=not self.engine.sharded)  # the rest is here
        if self.engine.lead:
            self.place.save(lambda folder: self.policy.save(folder, weights), {
                "examples": len(self.groups), "steps": self.steps, "loss": loss, "shift": self.shift.value,
                "wall_s": round(wall_s, 2), "left_out": self.left_out,
            })  # fmt: skip
        self.engine.wait()
        return Fitted(**(self.place.finished() or {}), folder=self.folder)

    def reference(self) -> Any:
        """log pi_0 of whole answers, shape (examples, 2): computed before the first step, and kept."""
        path = self.partial / "reference.npy"
        if not self.engine.lead_says(path.exists):
            found = self.answers_logp()
            if self.engine.lead:
                with path.with_suffix(".tmp").open("wb") as file:
                    np.save(file, found)
                path.with_suffix(".tmp").replace(path)
            self.engine.wait()
        return np.load(path)

    @torch.no_grad()
    def answers_logp(self) -> Any:
        engine, found = self.engine, np.zeros((len(self.groups), 2))
        rank, world = engine.rank, engine.world
        own = list(range(len(self.groups)))[rank::world] or [0]
        self.policy.eval()
        parts = self.policy.bins([self.groups[i] for i in own])
        rows: list[tuple[int, list[float]]] = []
        for number in range(engine.most(len(parts))):
            part = [own[i] for i in parts[min(number, len(parts) - 1)]]
            groups = [self.groups[i] for i in part]
            sums = _sums(self.logprobs(self.policy.batch(groups)), _sizes(groups)).view(-1, 2)
            rows += zip(part, sums.tolist(), strict=True)
        for at, values in dict(engine.gather(rows)).items():
            found[at] = values
        return found

    def logprobs(self, batch: Batch) -> Logprobs:
        with self.engine.autocast():
            found: Logprobs = self.engine.module(batch.to(self.engine.device), entropy=False)
        return found

    def order(self, step: int) -> list[int]:
        """The examples of a step: whole epochs in random order, one after another; the last step has what is left."""
        n, places = len(self.groups), range(step * self.most, min((step + 1) * self.most, self.presented))
        return [int(self.orders.of(self.config.seed, p // n)[p % n]) for p in places]

    def micros(self, step: int, reference: Any) -> Iterator[_Micro]:
        chosen = self.order(step)
        own = chosen[self.engine.rank :: self.engine.world]
        idle = not own
        own = own or chosen[:1]
        for part in self.policy.bins([self.groups[i] for i in own]):
            at = [own[i] for i in part]
            groups = [self.groups[i] for i in at]
            yield _Micro(
                self.policy.batch(groups), _sizes(groups),
                torch.tensor(reference[at], dtype=torch.float32, device=self.engine.device), float(not idle),
            )  # fmt: skip

    def step(self, step: int, reference: Any) -> dict[str, float]:
        config, engine = self.config, self.engine
        self.size = len(self.order(step))
        micros = list(self.micros(step, reference))
        missing = engine.most(len(micros)) - len(micros)
        micros += [_Micro(m.batch, m.sizes_N, m.reference_N, 0.0) for m in micros[:1] * missing]
        self.terms = torch.zeros(8, device=engine.device)
        lr = config.lr * schedule(config.schedule, config.warmup, step, self.steps)
        norm = engine.step(micros, self.loss, lr)
        loss, prefer, quality, generate, right, margin, rewards, logp = engine.total(*self.terms.tolist())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise AssayError(f"{self.folder}: the loss is {loss} at step {step + 1}; lower lr (now {config.lr})")
        n = self.size
        metrics = {"loss": loss, "nll": generate / n, "grad_norm": norm, "lr": lr, "logp": logp / n}
        if self.paired:
            metrics |= {
                "dpo": prefer / n, "bco": quality / n, "accuracy": right / n, "margin": margin / n,
                "shift": self.shift.value, "pairs": n,
            }  # fmt: skip
            if config.shift:
                self.shift.add(rewards, 2 * n)
        return metrics

    def loss(self, micro: _Micro) -> Tensor:
        """This micro-batch's part of the mean loss over the global batch."""
        w_prefer, w_quality, w_generate = self.config.weights
        sums_N = _sums(self.logprobs(micro.batch), micro.sizes_N)
        tokens_N = sums_N.new_tensor(micro.sizes_N)
        zero = sums_N.new_zeros(())
        if self.paired:
            sums_B2, tokens_B = sums_N.view(-1, 2), tokens_N.view(-1, 2)[:, 0]
            chosen_B, rejected_B = (self.config.beta * (sums_B2 - micro.reference_N)).unbind(1)
            terms = [
                dpo(chosen_B, rejected_B),
                bco(chosen_B, rejected_B, self.shift.value),
                nll(sums_B2[:, 0], tokens_B),
            ]
            seen = [(chosen_B > rejected_B).sum(), (chosen_B - rejected_B).sum(), (chosen_B + rejected_B).sum()]
        else:
            terms, seen = [zero, zero, nll(sums_N, tokens_N)], [zero] * 3
        loss = w_prefer * terms[0] + w_quality * terms[1] + w_generate * terms[2]
        loss = loss * (micro.weight / self.size)
        with torch.no_grad():
            values = [*terms, *seen, sums_N.sum()]
            self.terms += torch.stack([loss.float(), *(v.float() * micro.weight for v in values)])
        return loss


def schedule(kind: str, warmup: float, step: int, steps: int) -> float:
    """The learning rate's factor at a step: a linear rise over the `warmup` share, then cosine, linear or constant."""
    warm = warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    if kind == "constant":
        return 1.0
    done = (step - warm) / max(1.0, steps - warm)
    return 0.5 * (1 + math.cos(math.pi * done)) if kind == "cosine" else 1 - done


def _sizes(groups: Sequence[Group]) -> list[int]:
    return [len(a) for g in groups for a in g.answers]


def _sums(logprobs: Logprobs, sizes_N: list[int]) -> Tensor:
    """Log-probabilities of whole answers, shape (N,)."""
    return torch.stack([part.sum() for part in torch.split(logprobs.logp_M, sizes_N)])


def _line(metrics: dict[str, float]) -> str:
    """Of the step's pairs, which it is trained on, it is told how many it fits, and no share."""
    told = [f"{n} {metrics[n]:.3g}" for n in ("loss", "margin", "nll", "grad_norm") if n in metrics]
    if "accuracy" in metrics:
        told.append(f"fits {round(metrics['accuracy'] * metrics['pairs']):,} of {metrics['pairs']:,.0f}")
    return "  ".join(told)
