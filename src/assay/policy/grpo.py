"""GRPO with the Selective Sample Buffer (paper B, section 3.3): the loop, and one step of it.

    prompts -> sampler -> groups -> reward -> advantages -> signal + buffer.draw -> clipped surrogate (eq. 8) -> policy

On policy the ratio is one, so no old log-probabilities are computed; the training pass records them, and they travel with
each sample into the buffer: a sample that comes back is compared with the policy that made it. So is one that was drawn
while the policy trained (`ahead`), by the log-probabilities that its sampler gave it. Groups without signal never
reach the model, and a batch without any is skipped, counted, and ends nothing.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from assay import session
from assay.errors import AssayError
from assay.journal import Journal
from assay.order import Orders
from assay.policy.advantage import TERMS, Graded, grade, is_finite, over_batch
from assay.policy.ahead import Ahead
from assay.policy.buffer import Buffer
from assay.policy.config import GrpoConfig
from assay.policy.folder import Folder
from assay.policy.good import Good
from assay.policy.model import Policy
from assay.policy.sampler import Sampler
from assay.policy.shown import Shown
from assay.policy.update import Update
from assay.rollouts import Prompt, Rollout, Score
from assay.step import Engine
from assay.tables import sibling
from assay.trackers import check


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


T = TypeVar("T")
EVERY_S = 15.0
"""A line of progress at most so often."""
Watch = Callable[[int, Policy], tuple[dict[str, Any], str]]
"""Called with the step and the policy: metrics to log, and the reason to stop ("": none). One with a method `begin` is given
the policy before the first step."""


def grpo(
    folder: Path, config: GrpoConfig, policy: Policy, prompts: Sequence[Prompt], sampler: Sampler, reward: Any,
    say: Callable[[str], None] = lambda _: None, trackers: Sequence[str] = (), watch: Watch | None = None,
    watch_every: int = 0, watch_state: Any = None, engine: Engine | None = None,
) -> Tuned:  # fmt: skip
    """Tune the policy in place and save it to `folder`; the same call resumes, and a finished one returns at once.

    Args:
        sampler: Draws the answers; see `assay.policy.sampler`. The temperature of its `config` is that of training's
            log-probabilities too.
        reward: (prompt, rollout) pairs -> scores; where it has `state()` and `load_state()`, these are saved with the run.
            An answer whose score is not a number is left out of its group, and counted.
        watch: Called every `watch_every` steps, on rank 0 alone; it may stop the run with a reason.
        watch_state: An object with `state()` and `load_state()` that is saved with the run as well.
        engine: One of the policy's precision that was made before it, as it must be where there are several processes or
            devices.

    The KL penalty (`config.kl`) holds on to the policy as it is given. No second model is loaded: low-rank adapters are
    switched off, and of whatever else trains a copy is kept.

    Weights are sharded (FSDP2) only where the sampler is `external`: one that decodes with weights of its own, which it
    takes over in `load` (every process must call that).

    Raises AssayError where there is nothing to train on, or `folder` holds anything but this very training (`Folder`).
    """
    engine = engine or Engine(policy.config.precision, config.clip, policy.config.shard)
    place = Folder(folder, config, policy, prompts, sampler=sampler, reward=reward, watch=watch_state)
    if (done := engine.lead_says(place.finished)) is not None:
        return Tuned(**done, folder=folder)
    engine.lead_says(lambda: check(trackers))
    if not prompts:
        raise AssayError(f"{folder}: no prompts to train on")
    if engine.sharded and not getattr(sampler, "external", False):
        raise AssayError(
            "policy.shard splits the weights that our sampler decodes with: leave it off for GRPO, or sample elsewhere "
            "(--backend vllm)"
        )
    run = Grpo(folder, config, policy, engine, prompts, sampler, reward)
    engine.wait()
    if engine.lead:
        place.begin()
    engine.prepare(policy, config.lr, config.weight_decay)
    policy.gathered = engine.weights if engine.sharded else None
    if config.kl:
        policy.keep_start()
    run.place, run.kept = place, {"reward": reward, "watch": watch_state}
    try:
        return run.loop(say if engine.lead else lambda _: None, trackers, watch, watch_every)
    finally:
        if run.ahead:
            run.ahead.close()


class Grpo:
    """What one call of `grpo` shares between its parts."""

    place: Folder
    kept: dict[str, Any]

    def __init__(
        self, folder: Path, config: GrpoConfig, policy: Policy, engine: Engine, prompts: Sequence[Prompt], sampler: Sampler,
        reward: Any,
    ) -> None:  # fmt: skip
        self.folder, self.config, self.policy, self.engine = folder, config, policy, engine
        self.sampler, self.reward, self.prompts = sampler, reward, list(prompts)
        self.update = Update(folder, config, policy, engine, prompts, sampler)
        self.orders = Orders(len(prompts))
        self.buffer = Buffer(config.buffer, config.seed * 1009 + engine.rank)
        self.partial = sibling(folder, ".partial")
        self.kept, self.samples, self.wall_s, self.taken, self.unruled = {}, 0, 0.0, 0, 0
        self.good = Good(self.partial, engine)
        self.shown = Shown(self.partial, config.steps)
        self.say: Callable[[str], None] = print
        self.said = 0.0
        self.ahead: Ahead | None = None
        if config.staleness:
            part = engine.rank, engine.world
            self.ahead = Ahead(sampler, config.staleness, config.group, config.steps, part)

    def loop(self, say: Callable[[str], None], trackers: Sequence[str], watch: Watch | None, watch_every: int) -> Tuned:
        first, stopped = self.resume(say), ""
        with Journal(self.partial, trackers, self.place.settings, say, quiet=not self.engine.lead) as journal:
            journal.resume(first)
            begin: Callable[[Policy], None] | None = getattr(watch, "begin", None)
            if begin is not None and first == 0 and watch_every:
                self.led(0, lambda: begin(self.policy))
            self.say, step = say, first
            if first < self.config.steps:
                self.tell(f"step {first + 1}/{self.config.steps}: answers are drawn", now=True)
            for step in range(first, self.config.steps):
                start = time.monotonic()
                metrics = self.step(step)
                self.wall_s += time.monotonic() - start
                if watch is not None and watch_every and (step + 1) % watch_every == 0:
                    seen, stopped = self.look(watch, step + 1)
                    metrics |= seen
                journal.log(step + 1, metrics)
                session.at(f"{self.folder.name}: steps", step + 1, self.config.steps)
                for remark in self.remarks(metrics):
                    say(f"{self.folder.name}: {remark}")
                last = step + 1 == self.config.steps or bool(stopped)
                self.tell(f"step {step + 1}/{self.config.steps}  {_line(metrics)}", last)
                if stopped:
                    say(f"{self.folder.name}: stopped: {stopped}")
                    break
                if step + 1 < self.config.steps and (
                    (step + 1) % self.config.save_every == 0 or self.engine.due(self.config.save_minutes)
                ):
                    self.save(step + 1)
        return self.finish(min(step + 1, self.config.steps), stopped)

    def tell(self, line: str, now: bool = False) -> None:
        """A line of progress, where the one before is some seconds old, or `now`."""
        if now or time.monotonic() - self.said > EVERY_S:
            self.said = time.monotonic()
            self.say(f"{self.folder.name}: {line}")

    def look(self, watch: Watch, step: int) -> tuple[dict[str, Any], str]:
        """One reading; of a policy that is good the weights are kept."""
        seen, stopped = self.led(step, lambda: watch(step, self.policy))
        if not stopped:
            self.good.keep(step, seen)
        return seen, stopped

    def led(self, step: int, work: Callable[[], T]) -> T:
        """What rank 0 finds of the policy of this step; what it decides and what it changes go to every process."""
        if self.ahead:
            self.ahead.settle()
        if self.engine.sharded or getattr(self.sampler, "collective", False):
            self.sampler.load(step)  # takes all processes; the reading's own load finds it done
        found, states = self.engine.lead_says(lambda: (work(), self.states()))
        for name, value in states.items() if not self.engine.lead else ():
            self.kept[name].load_state(value)
        return found

    def step(self, step: int) -> dict[str, Any]:
        """Sample, score, choose the batch, and take one optimiser step (or none, where there is no signal)."""
        clock = time.process_time()
        if not self.ahead:
            self.sampler.load(step)
        graded, scores, rollouts = self.collect(step)
        sampled_s = time.process_time() - clock
        self.tell(f"step {step + 1}/{self.config.steps}: answers are drawn and scored, the update follows")
        fresh = [s for g in graded for s in g.samples]
        lively = [g for g in graded if g.signal][: self.share]
        signal = [s for g in lively for s in g.samples if s.advantage != 0.0]
        keep = self.config.zero_groups == "keep"
        if self.config.combine == "gdpo":
            of = fresh if keep else signal
            sums = self.engine.total(sum(s.advantage**2 for s in of), len(of))
            fresh, signal = (over_batch(x, *sums) for x in (fresh, signal))
        drawn = self.buffer.draw(len(rollouts) - len(signal), step) if self.config.zero_groups == "buffer" else []
        batch = [*(fresh if keep else signal), *drawn]
        stale = any(r.policy_step != step for r in rollouts)
        trained = self.update.train(batch, 0 if stale else len(batch) - len(drawn), step)
        recorded = self.update.with_recorded(signal)
        if self.config.updates > 1:
            trained |= self.update.again(batch[: len(batch) - len(drawn)], drawn, step)
        if self.config.zero_groups == "buffer":
            self.buffer.add(recorded)
            trained |= self.update.replay(self.buffer, len(rollouts), step)
        counts = self.engine.total(
            len(fresh), len(signal), len(batch), len(drawn), sum(g.signal for g in graded),
            sum(g.rule_signal for g in graded), len(graded), sum(s.advantage != 0.0 for s in batch),
            sum(g.total_signal for g in graded), len(rollouts),
        )  # fmt: skip
        made, effective, batch_size, from_buffer, groups, rule_groups, all_groups, useful, total_groups, asked = counts
        self.samples += int(made)
        wanted = max(1.0, asked if self.config.zero_groups == "buffer" else batch_size)
        return {
            **_means(self.engine, scores, rollouts, self.update.by_id), **trained, **self.buffer.metrics(step),
            **(self.ahead.metrics(rollouts, step) if self.ahead else {}),
            "effective": groups / max(1, all_groups), "effective_rule": rule_groups / max(1, all_groups),
            "effective_total": total_groups / max(1, all_groups),
            "effective_samples": effective / max(1, made), "from_buffer": int(from_buffer), "batch": int(batch_size),
            "batch_effective": useful / wanted, "groups": int(all_groups), "wanted": int(wanted),
            "samples": self.samples, "sample_cpu_s": sampled_s, "update_cpu_s": time.process_time() - clock - sampled_s,
            **self.checks(),
        }  # fmt: skip

    def checks(self) -> dict[str, float]:
        """How a reward model did on this step's answers whose key is known, over all processes (`rewards.CHECKS`)."""
        mine: dict[str, float] = getattr(self.reward, "checks", dict)()
        return dict(zip(mine, self.engine.total(*mine.values()), strict=True)) if mine else {}

    def remarks(self, metrics: dict[str, Any]) -> list[str]:
        """What a user should know before the run goes on."""
        unruled = self.config.signal == "rule" and metrics["effective_total"] > metrics["effective"] == 0
        self.unruled = self.unruled + 1 if unruled else 0
        found: list[str] = getattr(self.reward, "remarks", list)()
        if self.unruled == 3:
            found.append(
                "rewards differ within groups, but not in their rules, and grpo.signal 'rule' learns nothing of that: "
                "set grpo.signal total to learn from the reward model alone"
            )
        return found

    def collect(self, step: int) -> tuple[list[Graded], list[Score], list[Rollout]]:
        """This process's groups of a step, graded; more of them where groups without signal are drawn again."""
        graded: list[Graded] = []
        scores: list[Score] = []
        rollouts: list[Rollout] = []
        weights: dict[str, float] = getattr(self.reward, "weights", dict)()
        rounds = self.config.resample_most if self.config.zero_groups == "resample" else 1
        for draw in range(rounds):
            chosen, groups = self.drawn(step, draw)
            if hasattr(self.reward, "ahead"):
                self.reward.ahead([(p, r) for p, group in zip(chosen, groups, strict=True) for r in group])
            for prompt, group in zip(chosen, groups, strict=True):
                scored = [_checked(s) for s in self.reward([(prompt, r) for r in group])]
                signal: Literal["rule", "total"] = self.config.signal if prompt.answer else "total"
                cut = not self.config.mask_cut
                made = grade(group, scored, self.config.scale, signal, weights, cut, self.config.combine)
                scores, rollouts = scores + scored, rollouts + group
                graded.append(made)
                if self.engine.lead:
                    self.shown.add(step, prompt, group, scored)
            full = sum(g.signal for g in graded) >= self.share
            if self.engine.total(float(full))[0] == self.engine.world:
                break
        self.shown.write(step)
        return graded, scores, rollouts

    def drawn(self, step: int, draw: int) -> tuple[list[Prompt], list[list[Rollout]]]:
        """This process's next prompts and their answers."""
        world, rank = self.engine.world, self.engine.rank
        if self.ahead:
            groups = self.ahead(step, lambda of: self.coming(of - step)[rank::world])
            return self.take()[rank::world], groups
        chosen = self.take()[rank::world]
        return chosen, self.sampler(chosen, self.config.group, draw * world + rank) if chosen else []

    @property
    def share(self) -> int:
        """This process's prompts of a step."""
        return len(range(self.engine.rank, self.config.prompts, self.engine.world))

    def take(self) -> list[Prompt]:
        """The next prompts of all processes."""
        found = self.coming(0)
        self.taken += self.config.prompts
        return found

    def coming(self, steps: int) -> list[Prompt]:
        """Those so many steps after the next: whole epochs in random order, one after another."""
        n, first = len(self.prompts), self.taken + steps * self.config.prompts
        places = range(first, first + self.config.prompts)
        return [self.prompts[int(self.orders.of(self.config.seed, p // n)[p % n])] for p in places]

    def states(self) -> dict[str, Any]:
        return {n: k.state() for n, k in self.kept.items() if hasattr(k, "state")}

    def save(self, step: int) -> None:
        kept = self.states()
        mine = {"buffer": self.buffer.state(), "ahead": self.ahead.state() if self.ahead else {}}
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
            if self.ahead:
                self.ahead.load_state(ranks[self.engine.rank].get("ahead", {}))
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
        weights = self.engine.weights(trained=not self.engine.sharded)  # the rest is here
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


def _means(
    engine: Engine, scores: Sequence[Score], rollouts: Sequence[Rollout], prompts: Mapping[str, Prompt]
) -> dict[str, Any]:
    """Means of the rewards' terms, where they are numbers, and of the answers, over all processes; problems by count.
    `right` is the share of right answers to questions whose answer is known, where there are such."""
    names = (*TERMS, "total")
    told = [s for s in scores if is_finite(s)]
    known = [s.rule > 0 for s, r in zip(scores, rollouts, strict=True) if prompts[r.prompt_id].answer]
    right, keyed = engine.total(sum(known), len(known))
    sums = engine.total(
        len(told), len(rollouts), *(math.fsum(getattr(s, n) for s in told) for n in names),
        sum(len(r.tokens) for r in rollouts), sum(r.ended for r in rollouts),
    )  # fmt: skip
    n, answers = max(1.0, sums[0]), max(1.0, sums[1])
    *terms, reward, length, ended = sums[2:]
    means = {**{name: x / n for name, x in zip(TERMS, terms, strict=True)}, "reward": reward / n}
    problems = Counter(p for p in engine.gather([s.problem for s in scores if s.problem]))
    means |= {"right": right / keyed, "keyed": int(keyed)} if keyed else {}
    return {**means, "length": length / answers, "ended": ended / answers, "problems": dict(problems)}


def _line(metrics: dict[str, Any]) -> str:
    """Of one step's few answers counts are told, and no shares."""
    right = f"  right {_of(metrics['right'], metrics['keyed'])}" if "right" in metrics else ""
    groups, batch = _of(metrics["effective"], metrics["groups"]), _of(metrics["batch_effective"], metrics["wanted"])
    return (
        f"reward {metrics['reward']:.3f}{right}  effective {groups} groups -> batch {batch}  "
        f"length {metrics['length']:.0f}  grad {metrics['grad_norm']:.2g}"
    )


def _of(share: float, n: float) -> str:
    return f"{round(share * n):,} of {int(n):,}"
