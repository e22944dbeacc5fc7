"""Answers of coming steps, drawn in a thread of their own while the policy trains (grpo.staleness).

    step      1         2         3         4         ...       staleness 1
    trains    on 1      on 2      on 3      on 4
    draws     1, then 2 . . 3     . . 4     . . 5

The policy is handed over when nothing waits to be drawn, never in the middle of an answer; then the answers of the next
`staleness` steps are drawn by it. So those of a step are by the policy of 1 to `staleness` steps before, and which one is
decided by the step's number alone: a run does not depend on how fast its processes are. The first two steps are drawn by
the policy that trains on them, so that `Update.check` compares both before an update and after one.
"""

import copy
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch

from assay.errors import AssayError
from assay.policy.sampler import LocalSampler
from assay.rollouts import Prompt, Rollout

Groups = list[list[Rollout]]


class Ahead:
    """What waits for a training: groups of its next steps, and one thread that draws them.

    Args:
        sampler: Of the policy that trains. Another engine draws by itself, our decoder from a copy of the policy.
        staleness: Steps at most between the policy that draws and the one that trains.
        group: Answers of a prompt.
        last: The number of steps of the run.
        part: This process's rank, and the number of processes.

    Raises AssayError for transformers' generate, whose draws would mix with all else that this process draws.
    """

    def __init__(self, sampler: Any, staleness: int, group: int, last: int, part: tuple[int, int] = (0, 1)) -> None:
        self.staleness, self.group, self.last, self.part = staleness, group, last, part
        self.sampler = _apart(sampler)
        self.waiting: dict[int, Future[Groups]] = {}
        self.waited_s = 0.0
        self.worker = ThreadPoolExecutor(1, "assay: draws answers")

    def __call__(self, step: int, prompts: Callable[[int], Sequence[Prompt]]) -> Groups:
        """The groups of a step, by `prompts` of it; those of further steps are begun. The policy must be at this step."""
        start, ready = time.monotonic(), self.waiting.pop(step, None)
        groups = ready.result() if ready is not None else None
        self.waited_s = time.monotonic() - start
        if self.waiting:
            assert groups is not None
            return groups
        if groups is None or step + 1 < self.last:
            self.sampler.load(step)
        if groups is None:  # the first two; or what waited was lost, as on another number of processes
            groups = self._draw(prompts(step), 0)
        for coming in range(step + 1, min(step + 1 + self.staleness, self.last)) if step else ():
            self.waiting[coming] = self.worker.submit(self._draw, prompts(coming), coming - step)
        return groups

    def _draw(self, prompts: Sequence[Prompt], after: int) -> Groups:
        rank, world = self.part
        return self.sampler(prompts, self.group, after * world + rank) if prompts else []

    def metrics(self, rollouts: Sequence[Rollout], step: int) -> dict[str, float]:
        """Steps since these answers were drawn, on average and at most, and how long the training waited for them."""
        ages = [step - r.policy_step for r in rollouts] or [0]
        return {"staleness": sum(ages) / len(ages), "staleness_most": max(ages), "waited_s": self.waited_s}

    def settle(self) -> None:
        """Wait until nothing is being drawn: the sampler is free for a reading."""
        for future in self.waiting.values():
            future.result()

    def close(self) -> None:
        """Draw no more."""
        self.worker.shutdown(wait=False, cancel_futures=True)

    def state(self) -> dict[int, list[list[dict[str, Any]]]]:
        """What waits, by step, as plain values: the policy that drew it will be gone."""
        self.settle()
        return {
            step: [[_plain(r) for r in group] for group in future.result()] for step, future in self.waiting.items()
        }

    def load_state(self, state: dict[int, list[list[dict[str, Any]]]]) -> None:
        for step, groups in state.items():
            self.waiting[step] = Future()
            self.waiting[step].set_result([[_rollout(r) for r in group] for group in groups])


def _plain(rollout: Rollout) -> dict[str, Any]:
    return {n: list(x) if isinstance(x, tuple) else x for n, x in asdict(rollout).items()}


def _rollout(row: dict[str, Any]) -> Rollout:
    values: dict[str, Any] = {n: tuple(x) if isinstance(x, list) else x for n, x in row.items()}
    return Rollout(**values)


def _apart(sampler: Any) -> Any:
    if getattr(sampler, "external", False):
        return sampler
    if isinstance(sampler, LocalSampler):
        return _Snapshot(sampler)
    raise AssayError(
        f"grpo.staleness draws while the policy trains, which {type(sampler).__name__} cannot (transformers' generate draws "
        "by the process's one source of chance): leave it at 0, or sample by --backend vllm"
    )


class _Snapshot:
    """Our decoder over a copy of the policy, of which only what trains takes memory."""

    def __init__(self, sampler: LocalSampler) -> None:
        self.policy = sampler.policy
        kept = [x for x in self.policy.parameters() if not x.requires_grad]
        whole = [self.policy.processor, self.policy.tokenizer, self.policy.pictures, self.policy.config]
        self.copy = copy.deepcopy(self.policy, {id(x): x for x in (*kept, *whole)})
        self.sampler = LocalSampler(
            self.copy, sampler.config, sampler.store, sampler.seed, sampler.half, sampler.answer_start
        )
        self.sampler.rendered = sampler.rendered

    @torch.no_grad()
    def load(self, step: int) -> None:
        for ours, theirs in zip(self.copy.parameters(), self.policy.parameters(), strict=True):
            if theirs.requires_grad:
                ours.copy_(theirs)
        self.sampler.load(step)

    def __call__(self, prompts: Sequence[Prompt], n: int, draw: int) -> Groups:
        return self.sampler(prompts, n, draw)
