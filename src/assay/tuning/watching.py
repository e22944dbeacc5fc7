"""What watches a training of a policy: readings of its answers, its rewards against the key, its reward model's gate.

Rank 0 alone looks; what it finds and orders goes to every process (`Grpo.look`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from assay.policy.hacking import Hacking, Marked, marked
from assay.policy.judge_claims import ClaimsJudge
from assay.policy.judge_pairs import PairJudge
from assay.policy.monitor import MonitorConfig, Watch
from assay.policy.reading import Reading
from assay.policy.rewards import HybridReward
from assay.records import digest
from assay.rollouts import Prompt, Rollout
from assay.tuning.reward_model import GateCheck

Answers = Sequence[tuple[Prompt, Rollout]]


class Reads(Protocol):
    """A reading of the policy at a step; `heard` is told the answers."""

    def __call__(self, step: int, policy: Any, heard: Callable[[Answers], None] | None, /) -> Reading: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is watched: questions (none: nothing) and how they are read, what answers them greedily, a judge who reads what
    answers say of their pictures, and the gate, where there is one."""

    prompts: tuple[Prompt, ...]
    read: Reads
    greedy: Callable[[Any], Any]
    judge: ClaimsJudge | None = None
    gate: GateCheck | None = None


class Looks:
    """What `grpo` calls as its watch, and saves as its `watch_state`: `every` so many steps it takes the readings that are
    due, lets the reward model's weight and gate follow them, and says why the run should stop, if so.

    Args:
        name: The training's, for what is said.
        what: What is looked at.
    """

    def __init__(
        self, name: str, what: Watched, monitor: MonitorConfig, reward: HybridReward, say: Callable[[str], None]
    ) -> None:
        self.name, self.what, self.config, self.reward, self.say = name, what, monitor, reward, say
        self.of = digest([p.id for p in what.prompts]) if what.prompts else ""
        self.watch, gate = Watch(monitor, self.of), what.gate
        known = [p.images or (p.id,) for p in what.prompts if p.answer]
        self.hacking = Hacking(monitor.hack, known) if monitor.hack.do != "off" and known else None
        self.gate_every = gate.every if gate is not None else 0
        self.every = math.gcd(monitor.every if what.prompts else 0, self.gate_every)

    def begin(self, policy: Any) -> None:
        """Answers of the policy before its first step, with which later ones are compared."""
        hacking, say = self.hacking, self.say
        if hacking is None:
            return
        if not hacking.enough:
            n = len(set(hacking.clusters))
            say(f"{self.name}: {n:,} watched questions with an answer are too few to tell whether the reward is hacked")
        elif not hacking.sees_standing:
            say(
                f"{self.name}: {len(hacking.clusters):,} watched questions with an answer are too few to tell an accuracy "
                f"that stands from one that gains {hacking.config.margin:g}: a hacked reward is only seen where accuracy "
                "falls; give more of them, or a larger --monitor.hack.margin"
            )
        if isinstance(self.reward.scorer, PairJudge) and self.reward.scorer.against == "group":
            say(
                f"{self.name}: a judge within groups says nothing of single answers: the hacking watch goes without him"
            )
        known, sampler = [p for p in self.what.prompts if p.answer], self.what.greedy(policy)
        sampler.load(0)
        hacking.begin(self._marked([(p, group[0]) for p, group in zip(known, sampler(known, 1), strict=True)], 0))

    def _marked(self, answers: Answers, step: int) -> Marked:
        return marked(self.reward, [(p, r) for p, r in answers if p.answer], step)

    def __call__(self, step: int, policy: Any) -> tuple[dict[str, Any], str]:
        metrics = dict[str, Any]()
        if self.what.gate is not None and step % self.gate_every == 0:
            metrics |= self._gate(step)
        if not self.what.prompts or step % self.config.every:
            return metrics, ""
        more, stop = self._read(step, policy)
        return metrics | more, stop

    def _read(self, step: int, policy: Any) -> tuple[dict[str, Any], str]:
        heard = list[tuple[Prompt, Rollout]]()
        seen = self.what.read(step, policy, heard.extend)
        action, judge = self.watch.observe(seen), self.what.judge
        self.reward.model_weight = self.reward.config.model * action.weight
        if judge is not None and seen.judge_failed and judge.problems:
            why, n = judge.problems.most_common(1)[0]
            self.say(f"{self.name}: the monitor's judge failed on {seen.judge_failed:,} answers; {n:,} so far: {why}")
        if action.reason and (self.reward.scorer is not None or action.kind == "stop"):
            self.say(f"{self.name}: {action.reason}")
        stop, metrics = action.reason if action.kind == "stop" else "", seen.as_metrics()
        if self.hacking is not None:
            found = self.hacking.observe(self._marked(heard, step))
            metrics |= found.metrics
            if found.said and not found.stop:
                self.say(f"{self.name}: {found.said}")
            stop = stop or found.stop
        return {**metrics, "model_weight": self.reward.model_weight}, stop

    def _gate(self, step: int) -> dict[str, Any]:
        assert self.what.gate is not None
        found = self.what.gate(step)
        if found is None:
            self.say(f"{self.name}: step {step}: the reward model's gate was not measured: no fresh answer has a score")
            return {}
        if found.action != "kept":
            self.say(f"{self.name}: step {step}: {found}; the gate is {found.action}: {self.reward.term}")
            if self.hacking is not None:
                self.hacking.renew()
        return found.as_metrics()

    def state(self) -> dict[str, Any]:
        """Everything that decides later looks, as plain values."""
        return {"watch": self.watch.state(), "hacking": None if self.hacking is None else self.hacking.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.watch.load_state(state["watch"])
        if self.hacking is not None:
            self.hacking.load_state(state["hacking"])
