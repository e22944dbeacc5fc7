"""Groups of rollouts from vLLM beside this process, behind the same `Sampler`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay import sight, vision
from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.pack import Group
from assay.policy.config import SamplerConfig, VllmConfig
from assay.policy.model import Policy
from assay.policy.prompt_ids import PromptIds
from assay.policy.vllm_engine import Engine
from assay.records import Message
from assay.render import render_prompt, short_prompt
from assay.rollouts import Prompt, Rollout

TRIED = 8
"""Tokens of each answer by which an engine is compared with the policy."""


class VllmSampler:
    """Samples through `vllm.LLM`. `step`, `seed` and `draw` decide the seed of every prompt.

    Args:
        policy: What to sample from; `load` hands its current weights over.
        store: Where the pictures of prompts are.
        answer_start: Text that every answer is made to begin with, part of the prompt.
        within: Where vLLM reads the policy from while it starts.
        vllm: Memory, length, precision of the engine.
        engine: One that is already there, for another way of drawing from it.
        options: Of `vllm.LLM`, instead of ours.

    Log-probabilities are of softmax(logits / temperature) as training compares them: vLLM's raw ones at temperature 1 (of
    greedy answers too), its processed ones else; those leave out the picture token, which is never drawn, and what top_p
    leaves out. Raises AssayError where vLLM is not installed, cannot load the policy, sees a picture otherwise than it does,
    or reads another prompt than we train on.
    """

    external = True
    of = "vllm"
    """Who draws, for the record of a training."""
    exact = False
    """Another engine computes other log-probabilities than training does: they are corrected for (`CorrectionConfig`)."""

    def __init__(
        self, policy: Policy, config: SamplerConfig, store: ImageStore | None = None, seed: int = 0,
        answer_start: str = "", within: Path | None = None, vllm: VllmConfig | None = None, engine: Engine | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        self.policy, self.config, self.store, self.seed = policy, config, store, seed
        self.answer_start, self.step = answer_start, 0
        self.rendered = PromptIds(self._render)
        self.own = engine is None
        raw = config.temperature in (0, 1)
        mode = {"logprobs_mode": "raw_logprobs" if raw else "processed_logprobs"}
        self.engine = engine or Engine(policy, vllm or VllmConfig(), seed, within, **{**mode, **options})
        if self.own and policy.pictures is not None:
            try:
                tried(self)
            except BaseException:
                self.close()
                raise

    def load(self, step: int) -> None:
        """Hand over the policy's weights of this step."""
        self.step = step
        apart = self.policy.gathered is None and not self.collective
        if apart or self.engine.step != step:  # where it takes all processes they do it once
            self.engine.take()
        self.engine.step = step

    @property
    def collective(self) -> bool:
        """Must all processes call `load`, where weights are not in shards?"""
        return self.engine.collective

    def greedy(self) -> "VllmSampler":
        """The likeliest tokens, from the same engine."""
        config = replace(self.config, temperature=0.0)
        return VllmSampler(self.policy, config, self.store, self.seed, self.answer_start, engine=self.engine)

    def close(self) -> None:
        """End the engine and its processes, if this sampler has started it."""
        if self.own:
            self.engine.close()

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, pictures' places included. Raises CannotRead where the engine has no room for its answer:
        vLLM would cut the answer short and say nothing."""
        return self.rendered(prompt)

    def _render(self, prompt: Prompt) -> list[int]:
        ids = render_prompt(self.policy.processor, prompt.messages, self.store, self.answer_start)
        most = self.engine.room - self.config.max_tokens
        if len(ids) > most:
            raise CannotRead(f"longer than {most:,} tokens, which is vLLM's room before an answer (--vllm-length)")
        return ids

    def __call__(
        self, prompts: Sequence[Prompt], n: int, draw: int = 0, starts: Sequence[Sequence[int]] = ()
    ) -> list[list[Rollout]]:
        """n answers of each prompt. `draw` tells apart several calls at one step. With `starts`, one for each prompt, the
        answers go on from these tokens."""
        begun = starts or [()] * len(prompts)
        asked = [self._prompt(p, s) for p, s in zip(prompts, begun, strict=True)]
        settings = [self._settings(n, hash((self.seed, self.step, draw, i)) % (1 << 62)) for i in range(len(prompts))]
        answers = self.engine.generate(asked, settings)
        for prompt, start, answer in zip(prompts, begun, answers, strict=True):
            same_prompt(self.policy, prompt, [*self.prompt_ids(prompt), *start], answer.prompt_token_ids)
        groups = [[self._rollout(p, o) for o in a.outputs] for p, a in zip(prompts, answers, strict=True)]
        return [g * n for g in groups] if self.config.temperature == 0 else groups

    def _prompt(self, prompt: Prompt, start: Sequence[int]) -> dict[str, Any]:
        """As vLLM takes it: one picture token for each picture, which it lays out as the model's processor would."""
        if not prompt.images:
            return {"prompt_token_ids": [*self.prompt_ids(prompt), *start]}
        assert self.store is not None
        ids = [*short_prompt(self.policy.processor, prompt.messages, self.answer_start), *start]
        return {"prompt_token_ids": ids, "multi_modal_data": {"image": [self.store.open(i) for i in prompt.images]}}

    def _settings(self, n: int, seed: int) -> Any:
        """Greedy answers are all the same, and vLLM gives one only."""
        config, token = self.config, self.policy.image_token
        return self.engine.vllm.SamplingParams(
            n=1 if config.temperature == 0 else n, temperature=config.temperature, top_p=config.top_p, seed=seed,
            max_tokens=config.max_tokens, stop_token_ids=list(self.policy.end_ids), logprobs=0, detokenize=False,
            logit_bias=None if token is None else {token: -100.0},
        )  # fmt: skip

    def _rollout(self, prompt: Prompt, output: Any) -> Rollout:
        tokens = tuple(output.token_ids)
        logprobs = tuple(places[t].logprob for t, places in zip(tokens, output.logprobs, strict=True))
        text = self.policy.tokenizer.decode(tokens, skip_special_tokens=True)
        return Rollout(
            prompt_id=prompt.id, tokens=tokens, logprobs=logprobs, text=self.answer_start + text,
            ended=tokens[-1] in self.policy.end_ids, policy_step=self.step,
        )  # fmt: skip


def tried(sampler: VllmSampler) -> None:
    """Show the engine a picture once. Raises AssayError where its answers have other log-probabilities than the policy gives
    them: where nothing is trained, nothing else would tell."""
    policy, config = sampler.policy, replace(sampler.config, max_tokens=TRIED, top_p=1.0)
    shown: Any = sight.One()
    alike = VllmSampler(policy, config, shown, sampler.seed, sampler.answer_start, engine=sampler.engine)
    prompt = Prompt(messages=(Message(role="user", content=sight.ASKED, images=(sight.PICTURE,)),))
    try:
        ids = alike.prompt_ids(prompt)
    except CannotRead:  # a short engine's questions have no pictures of this size
        return
    [group] = alike([prompt], 2)
    answers = tuple(np.array(r.tokens, dtype=np.int32) for r in group)
    batch = policy.batch([Group(prefix=np.array(ids, dtype=np.int32), answers=answers, images=prompt.images)])
    own, where, was = policy.pictures, policy.model.device, policy.training
    policy.pictures = vision.Pictures(policy.processor, shown)
    policy.eval()
    try:
        with torch.no_grad(), torch.autocast(where.type, torch.bfloat16, enabled=policy.bf16):
            ours_M = policy(batch.to(where), entropy=False, temperature=config.temperature or 1.0).logp_M.cpu()
    finally:
        policy.pictures = own
        policy.train(was)
    theirs_M = torch.tensor([x for r in group for x in r.logprobs])
    gap = float((ours_M - theirs_M).abs().mean())
    exact = sampler.engine.dtype == torch.float32 and not policy.bf16 and config.temperature in (0, 1)
    if not gap <= (1e-3 if exact else 0.3):  # half precision rounds few tokens apart by 0.05
        raise AssayError(
            f"vLLM sees pictures otherwise than {type(policy.inner).__name__} does here: of an answer about one its "
            f"log-probabilities are {gap:.3f} nats a token from the policy's. It would sample from another policy: use "
            "--backend auto"
        )


def same_prompt(policy: Policy, prompt: Prompt, ours: Sequence[int], theirs: Sequence[int] | None) -> None:
    """Raise AssayError where vLLM read another prompt than the one that training puts before the answers."""
    if theirs is None or list(ours) == list(theirs):
        return
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    shown = [policy.tokenizer.decode(list(ids[max(0, at - 4) : at + 4])) for ids in (ours, theirs)]
    asked = " ".join(prompt.messages[-1].content.split())[:60]
    raise AssayError(
        f"vLLM reads another prompt than is trained on: {len(theirs):,} tokens for our {len(ours):,}, the first that "
        f"differs is number {at} ({shown[0]!r} here, {shown[1]!r} there), of the question {asked!r}. Its answers would be "
        "learned from the wrong prompt: use --backend auto, or a vLLM that lays pictures out as transformers does"
    )
