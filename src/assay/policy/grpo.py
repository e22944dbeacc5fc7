"""GRPO with the Selective Sample Buffer (paper B, section 3.3): the loop, and one step of it.

    prompts -> sampler -> groups -> reward -> advantages -> signal + buffer.draw -> clipped surrogate (eq. 8) -> policy

On policy the ratio is one, so no old log-probabilities are computed; the training pass records them, and they travel with
each sample into the buffer: a sample that comes back is compared with the policy that made it. Groups without signal never
reach the model, and a batch without any is skipped, counted, and ends nothing.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.errors import AssayError
from assay.journal import Journal
from assay.losses import grpo as surrogate
from assay.losses import kl_to
from assay.order import Orders
from assay.pack import Group
from assay.policy.advantage import Graded, grade, is_finite
from assay.policy.buffer import Buffer
from assay.policy.config import GrpoConfig
from assay.policy.folder import Folder
from assay.policy.good import Good
from assay.policy.model import Batch, Logprobs, Policy
from assay.policy.mpo import schedule
from assay.policy.sampler import Sampler
from assay.policy.shown import Shown
from assay.records import Prompt, Rollout, Sample, Score
from assay.step import Engine
from assay.tables import sibling


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A finished GRPO run."""

    folder: Path
    steps: int
    samples: int
    stopped: str
    wall_s: float
    kept: dict[str, int] = field(default_factory=dict)
    """Other policies of the run, by the name of their folder within this one, and the step of each (`policy.good`)."""


Watch = Callable[[int, Policy], tuple[dict[str, float], str]]
"""Called with the step and the policy: metrics to log, and the reason to stop ("": none)."""


def grpo(
    folder: Path, config: GrpoConfig, policy: Policy, prompts: Sequence[Prompt], sampler: Sampler, reward: Any,
    say: Callable[[str], None] = lambda _: None, trackers: Sequence[str] = (), watch: Watch | None = None,
    watch_every: int = 0, reference: Policy | None = None, watch_state: Any = None, engine: Engine | None = None,
) -> Tuned:  # fmt: skip
    """Tune the policy in place and save it to `folder`; the same call resumes, and a finished one returns at once.

    Args:
        sampler: Draws the answers; see `assay.policy.sampler`. The temperature of its `config` is that of training's
            log-probabilities too.
        reward: (prompt, rollout) pairs -> scores; where it has `state()` and `load_state()`, these are saved with the run.
            An answer whose score is not a number is left out of its group, and counted.
        watch: Called every `watch_every` steps, on rank 0 alone; it may stop the run with a reason.
        reference: The policy that the KL penalty holds on to; needed where `config.kl` is above 0.
        watch_state: An object with `state()` and `load_state()` that is saved with the run as well.
        engine: One of the policy's precision that was made before it, as it must be where there are several processes or
            devices.

    Weights are sharded (FSDP2) only where the sampler is `external`: one that decodes with weights of its own, which it is
    handed by `policy.weights()` (every process must call that).

    Raises AssayError where there is nothing to train on, or `folder` holds anything but this very training (`Folder`).
    """
    engine = engine or Engine(policy.config.precision, config.clip, policy.config.shard)
    place = Folder(folder, config, policy, prompts, sampler=sampler, reward=reward, watch=watch_state)
    if (done := engine.lead_says(place.finished)) is not None:
        return Tuned(**done, folder=folder)
    if not prompts:
        raise AssayError(f"{folder}: no prompts to train on")
    if config.kl and reference is None:
        raise AssayError("grpo.kl holds the policy to a reference: give one")
    if engine.sharded and not getattr(sampler, "external", False):
        raise AssayError(
            "policy.shard splits the weights that our sampler decodes with: leave it off for GRPO, or sample elsewhere "
            "(--backend vllm)"
        )
    run = Grpo(folder, config, policy, engine, prompts, sampler, reward, reference)
    engine.wait()
    if engine.lead:
        place.begin()
    engine.prepare(policy, config.lr, config.weight_decay)
    policy.gathered = engine.weights if engine.sharded else None
    run.place, run.kept = place, {"reward": reward, "watch": watch_state}
    return run.loop(say if engine.lead else lambda _: None, trackers, watch, watch_every)


@dataclass(slots=True)
class _Micro:
    """Samples that share prompts, in one pass. `old` is None for a sample of this step's policy."""

    batch: Batch
    samples: list[Sample]
    old: list[tuple[float, ...] | None]
    reference_M: Tensor | None
    weight: float


class Grpo:
    """What one call of `grpo` shares between its parts."""

    place: Folder
    kept: dict[str, Any]

    def __init__(
        self, folder: Path, config: GrpoConfig, policy: Policy, engine: Engine, prompts: Sequence[Prompt], sampler: Sampler,
        reward: Any, reference: Policy | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.config, self.policy, self.engine = folder, config, policy, engine
        self.sampler, self.reward, self.reference = sampler, reward, reference
        self.temperature = sampler.config.training_temperature()
        self.prompts = list(prompts)
        self.by_id = {p.id: p for p in prompts}
        self.orders = Orders(len(prompts))
        self.buffer = Buffer(config.buffer, config.seed * 1009 + engine.rank)
        self.partial = sibling(folder, ".partial")
        self.kept, self.samples, self.wall_s, self.taken = {}, 0, 0.0, 0
        self.good = Good(self.partial, engine)
        self.shown = Shown(self.partial, config.steps)
        self.recorded: dict[int, list[float]] = {}
        self.terms = torch.zeros(0)
        self.size = self.tokens = 1.0

    def loop(self, say: Callable[[str], None], trackers: Sequence[str], watch: Watch | None, watch_every: int) -> Tuned:
        first, stopped = self.resume(say), ""
        journal = Journal(self.partial, trackers, self.folder.name, quiet=not self.engine.lead)
        journal.resume(first)
        said, step = time.monotonic(), first
        for step in range(first, self.config.steps):
            start = time.monotonic()
            metrics = self.step(step)
            self.wall_s += time.monotonic() - start
            if watch is not None and watch_every and (step + 1) % watch_every == 0:
                seen, stopped = self.look(watch, step + 1)
                metrics |= seen
            journal.log(step + 1, metrics)
            if time.monotonic() - said > 15 or step + 1 == self.config.steps or stopped:
                said = time.monotonic()
                say(f"{self.folder.name}: step {step + 1}/{self.config.steps}  {_line(metrics)}")
            if stopped:
                say(f"{self.folder.name}: stopped: {stopped}")
                break
            if step + 1 < self.config.steps and (
                (step + 1) % self.config.save_every == 0 or self.engine.due(self.config.save_minutes)
            ):
                self.save(step + 1)
        journal.close()
        return self.finish(min(step + 1, self.config.steps), stopped)

    def look(self, watch: Watch, step: int) -> tuple[dict[str, float], str]:
        """One reading, rank 0's; what it decides and what it changes go to every process."""
        if self.engine.sharded:
            self.sampler.load(step)  # takes all processes; the reading's own load finds it done

        def work() -> tuple[dict[str, float], str, dict[str, Any]]:
            return *watch(step, self.policy), self.states()

        seen, stopped, states = self.engine.lead_says(work)
        for name, value in states.items() if not self.engine.lead else ():
            self.kept[name].load_state(value)
        if not stopped:
            self.good.keep(step, seen)
        return seen, stopped

    def step(self, step: int) -> dict[str, Any]:
        """Sample, score, choose the batch, and take one optimiser step (or none, where there is no signal)."""
        clock = time.process_time()
        self.sampler.load(step)
        graded, scores, rollouts = self.collect(step)
        sampled_s = time.process_time() - clock
        fresh = [s for g in graded for s in g.samples]
        lively = [g for g in graded if g.signal][: self.share]
        signal = [s for g in lively for s in g.samples if s.advantage != 0.0]
        keep = self.config.zero_groups == "keep"
        drawn = self.buffer.draw(len(rollouts) - len(signal), step) if self.config.zero_groups == "buffer" else []
        batch = [*(fresh if keep else signal), *drawn]
        trained = self.train(batch, len(batch) - len(drawn), step)
        if self.config.zero_groups == "buffer":
            self.buffer.add(self.with_recorded(signal))
            trained |= self.replay(len(rollouts), step)
        counts = self.engine.total(
            len(fresh), len(signal), len(batch), len(drawn), sum(g.signal for g in graded),
            sum(g.rule_signal for g in graded), len(graded), sum(s.advantage != 0.0 for s in batch),
            sum(g.total_signal for g in graded), len(rollouts),
        )  # fmt: skip
        made, effective, batch_size, from_buffer, groups, rule_groups, all_groups, useful, total_groups, asked = counts
        self.samples += int(made)
        return {
            **_means(self.engine, scores, rollouts), **trained, **self.buffer.metrics(step),
            "effective": groups / max(1, all_groups), "effective_rule": rule_groups / max(1, all_groups),
            "effective_total": total_groups / max(1, all_groups),
            "effective_samples": effective / max(1, made), "from_buffer": int(from_buffer), "batch": int(batch_size),
            "batch_effective": useful / max(1.0, asked if self.config.zero_groups == "buffer" else batch_size),
            "samples": self.samples, "sample_cpu_s": sampled_s, "update_cpu_s": time.process_time() - clock - sampled_s,
        }  # fmt: skip

    def collect(self, step: int) -> tuple[list[Graded], list[Score], list[Rollout]]:
        """This process's groups of a step, graded; more of them where groups without signal are drawn again."""
        world, rank = self.engine.world, self.engine.rank
        graded: list[Graded] = []
        scores: list[Score] = []
        rollouts: list[Rollout] = []
        rounds = self.config.resample_most if self.config.zero_groups == "resample" else 1
        for draw in range(rounds):
            chosen = self.take()[rank::world]
            groups = self.sampler(chosen, self.config.group, draw * world + rank) if chosen else []
            for prompt, group in zip(chosen, groups, strict=True):
                scored = [_checked(s) for s in self.reward([(prompt, r) for r in group])]
                made = grade(group, scored, self.config.scale, self.config.signal if prompt.answer else "total")
                scores, rollouts = scores + scored, rollouts + group
                graded.append(made)
                if self.engine.lead:
                    self.shown.add(step, prompt, group, scored)
            full = sum(g.signal for g in graded) >= self.share
            if self.engine.total(float(full))[0] == world:
                break
        self.shown.write(step)
        return graded, scores, rollouts

    @property
    def share(self) -> int:
        """This process's prompts of a step."""
        return len(range(self.engine.rank, self.config.prompts, self.engine.world))

    def take(self) -> list[Prompt]:
        """The next prompts of all processes: whole epochs in random order, one after another."""
        n = len(self.prompts)
        places = range(self.taken, self.taken + self.config.prompts)
        self.taken += self.config.prompts
        return [self.prompts[int(self.orders.of(self.config.seed, p // n)[p % n])] for p in places]

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
        self.terms = torch.zeros(8, device=engine.device)
        lr = config.lr * schedule(config.schedule, config.warmup, step, config.steps)
        norm = engine.step(micros, self.loss, lr)
        loss, entropy, clipped, ratio, kl, off, gap, on = engine.total(*self.terms.tolist())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise AssayError(f"{self.folder}: the loss is {loss} at step {step + 1}; lower grpo.lr (now {config.lr})")
        return {
            "loss": loss, "grad_norm": norm, "lr": lr, "entropy": entropy / tokens, "clipped": clipped / max(1.0, off),
            "ratio": ratio / off if off else 1.0, "kl": kl / tokens, "skipped": 0.0, "sampler_gap": gap / max(1.0, on),
        }  # fmt: skip

    def replay(self, size: int, step: int) -> dict[str, float]:
        """Further optimiser steps, each on at most `size` samples of this process from the buffer."""
        found = [self.train(self.buffer.draw(size, step), 0, step) for _ in range(self.config.buffer.replays)]
        told = ("loss", "grad_norm", "clipped", "ratio")
        return {
            f"replay_{name}": float(np.mean([f[name] for f in found if name in f] or [0.0])) for name in told if found
        }

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
            made.append(_Micro(pass_, [batch[i] for i in places], old, self.held(pass_), 1.0))
        return made

    def group(self, prompt: Prompt, samples: Sequence[Sample]) -> Group:
        ids = np.array(self.sampler.prompt_ids(prompt), dtype=np.int32)
        answers = tuple(np.array(s.tokens, dtype=np.int32) for s in samples)
        return Group(prefix=ids, answers=answers, images=prompt.images)

    def idle(self) -> _Micro:
        """A pass for a process that has nothing to learn from, while others have."""
        prompt = self.prompts[0]
        sample = Sample(prompt_id=prompt.id, group="", tokens=(0,), logprobs=(0.0,), advantage=0.0, policy_step=0)
        batch = self.policy.batch([self.group(prompt, [sample])])
        return _Micro(batch, [sample], [None], self.held(batch), 0.0)

    @torch.no_grad()
    def held(self, batch: Batch) -> Tensor | None:
        if not self.config.kl or self.reference is None:
            return None
        with self.engine.autocast():
            found: Logprobs = self.reference(batch.to(self.engine.device), temperature=self.temperature)
        return found.logp_M

    def loss(self, micro: _Micro) -> Tensor:
        """This micro-batch's part of eq. 8 over the global batch, negated."""
        with self.engine.autocast():
            found: Logprobs = self.engine.module(micro.batch.to(self.engine.device), temperature=self.temperature)
        logp_M = found.logp_M
        parts = torch.split(logp_M.detach(), [len(s.tokens) for s in micro.samples])
        if micro.weight:
            for sample, part in zip(micro.samples, parts, strict=True):
                self.recorded[id(sample)] = part.tolist()
        old_M = torch.cat([
            part if old is None else part.new_tensor(old) for part, old in zip(parts, micro.old, strict=True)
        ])  # fmt: skip
        lengths_N = torch.tensor([len(s.tokens) for s in micro.samples], device=logp_M.device)
        advantage_M = logp_M.new_tensor([s.advantage for s in micro.samples]).repeat_interleave(lengths_N)
        bounds = self.config.epsilon, self.config.epsilon_high, self.config.most_ratio
        terms_M = surrogate(logp_M, old_M, advantage_M, *bounds)
        kl_M = kl_to(logp_M, micro.reference_M) if micro.reference_M is not None else torch.zeros_like(logp_M)
        terms_M = terms_M + self.config.kl * kl_M
        if self.config.mean == "token":
            loss = terms_M.sum() / self.tokens
        else:
            loss = (terms_M / lengths_N.repeat_interleave(lengths_N)).sum() / self.size
        loss = loss * micro.weight
        self._note(micro, loss, found, old_M, kl_M, lengths_N)
        return loss

    @torch.no_grad()
    def _note(
        self, micro: _Micro, loss: Tensor, found: Logprobs, old_M: Tensor, kl_M: Tensor, lengths_N: Tensor
    ) -> None:
        ratio_M = (found.logp_M - old_M).exp()
        replayed_M = torch.tensor([o is not None for o in micro.old], device=ratio_M.device).repeat_interleave(
            lengths_N
        )
        outside_M = ((ratio_M - 1).abs() > self.config.epsilon) & replayed_M
        sampled_M = ratio_M.new_tensor([x for s in micro.samples for x in s.logprobs])
        gap_M = (found.logp_M - sampled_M).abs() * ~replayed_M
        sums = [found.entropy_M.sum(), outside_M.sum(), (ratio_M * replayed_M).sum(), kl_M.sum(), replayed_M.sum(),
                gap_M.sum(), (~replayed_M).sum()]  # fmt: skip
        self.terms += torch.stack([loss.float(), *(s.float() * micro.weight for s in sums)])

    def with_recorded(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with the log-probabilities that the training pass gave them, before the step."""
        return [replace(s, logprobs=tuple(self.recorded[id(s)])) for s in samples if id(s) in self.recorded]

    def states(self) -> dict[str, Any]:
        return {n: k.state() for n, k in self.kept.items() if hasattr(k, "state")}

    def save(self, step: int) -> None:
        kept = self.states()
        mine = {"buffer": self.buffer.state()}
        states = self.engine.gather([mine])
        self.engine.save(self.partial, step, {
            "step": step, "taken": self.taken, "samples": self.samples, "wall_s": self.wall_s, "kept": kept,
            "ranks": states,
        })  # fmt: skip

    def resume(self, say: Callable[[str], None]) -> int:
        state = self.engine.load(self.partial, say)
        if state is None:
            return 0
        self.taken, self.samples, self.wall_s = state["taken"], state["samples"], state["wall_s"]
        ranks = state["ranks"]
        if len(ranks) == self.engine.world:
            self.buffer.load_state(ranks[self.engine.rank]["buffer"])
        elif lost := sum(len(r["buffer"]["samples"]) for r in ranks):
            say(
                f"{self.folder.name}: resumed by {self.engine.world} processes, not {len(ranks)}: "
                f"the buffer begins empty, {lost:,} samples are dropped"
            )
        for name, value in state["kept"].items():
            self.kept[name].load_state(value)
        return int(state["step"])

    def finish(self, steps: int, stopped: str) -> Tuned:
        """Save the last policy, and beside it the best one and the last good one, where these are others."""
        weights = self.engine.weights()
        if self.engine.lead:
            others = self.good.others(steps, stopped)

            def write(folder: Path) -> None:
                self.policy.save(folder, weights)
                for name in others:
                    self.policy.save(folder / name, {**weights, **self.good.weights(name)})
                self.shown.copy(folder)

            self.place.save(write, {
                "steps": steps, "samples": self.samples, "stopped": stopped, "wall_s": round(self.wall_s, 2),
                "kept": others,
            })  # fmt: skip
        self.engine.wait()
        return Tuned(**(self.engine.lead_says(self.place.finished) or {}), folder=self.folder)


def _checked(score: Score) -> Score:
    return score if is_finite(score) else replace(score, problem=score.problem or "the reward is not a number")


def _means(engine: Engine, scores: Sequence[Score], rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Means of the rewards' terms, where they are numbers, and of the answers, over all processes; problems by count."""
    names = ("rule", "format", "claims", "model", "total")
    told = [s for s in scores if is_finite(s)]
    sums = engine.total(
        len(told), len(rollouts), *(math.fsum(getattr(s, n) for s in told) for n in names),
        sum(len(r.tokens) for r in rollouts), sum(r.ended for r in rollouts),
    )  # fmt: skip
    n, answers = max(1.0, sums[0]), max(1.0, sums[1])
    rule, form, claims, model, reward, length, ended = sums[2:]
    means = {"rule": rule / n, "format": form / n, "claims": claims / n, "model": model / n, "reward": reward / n}
    problems = Counter(p for p in engine.gather([s.problem for s in scores if s.problem]))
    return {**means, "length": length / answers, "ended": ended / answers, "problems": dict(problems)}


def _line(metrics: dict[str, Any]) -> str:
    return (
        f"reward {metrics['reward']:.3f}  right {metrics['rule']:.1%}  effective {metrics['effective']:.0%}"
        f" -> batch {metrics['batch_effective']:.0%}  length {metrics['length']:.0f}  grad {metrics['grad_norm']:.2g}"
    )
