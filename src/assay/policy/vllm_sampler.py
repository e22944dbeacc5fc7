"""Groups of rollouts from vLLM, in this process, behind the same `Sampler`.

Tested against a fake that answers in vLLM's schema, never against vLLM itself: there was no GPU where this was written.
Weights go through a folder: the policy is saved there, and vLLM's workers read it again. Its cache of prefixes is emptied
then, for it holds keys of the weights before.
"""

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy.config import SamplerConfig
from assay.policy.model import Policy
from assay.records import Prompt, Rollout
from assay.render import render_prompt

MEMORY = 0.3
"""The share of the GPU's memory that vLLM may take beside the policy that is trained."""


class VllmSampler:
    """Samples through `vllm.LLM`. `step`, `seed` and `draw` decide the seed of every prompt.

    Args:
        policy: What to sample from; `load` hands its current weights over.
        store: Where the pictures of prompts are.
        answer_start: Text that every answer is made to begin with, part of the prompt.
        within: Where the folder is made that vLLM reads the policy from, as large as the model; it goes with the sampler.
        options: Of `vllm.LLM`, instead of ours.

    Log-probabilities are vLLM's processed ones, of softmax(logits / temperature) as training compares them; with top_p
    below 1 they are of what top_p leaves. Raises AssayError when vLLM is not installed, or there are several processes.
    """

    exact = False
    """Another engine computes other log-probabilities than training does: they are corrected for (`CorrectionConfig`)."""

    def __init__(
        self, policy: Policy, config: SamplerConfig, store: ImageStore | None = None, seed: int = 0,
        answer_start: str = "", within: Path | None = None, **options: Any,
    ) -> None:  # fmt: skip
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise AssayError("this sampler needs vllm, which is not installed; run: pip install vllm") from error
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise AssayError("the vLLM sampler works in one process: start the command without torchrun or accelerate")
        self.policy, self.config, self.store, self.seed = policy, config, store, seed
        self.answer_start, self.step, self.params = answer_start, 0, SamplingParams
        self.rendered: dict[str, list[int]] = {}
        if within is not None:
            within.mkdir(parents=True, exist_ok=True)
        self.folder = TemporaryDirectory(prefix="vllm-", dir=within)
        policy.save(Path(self.folder.name))
        ours = {
            "dtype": "bfloat16" if policy.bf16 else "float32", "seed": seed, "gpu_memory_utilization": MEMORY,
            "logprobs_mode": "processed_logprobs", "generation_config": "vllm",
        }  # fmt: skip
        self.llm = LLM(model=self.folder.name, **{**ours, **options})

    def load(self, step: int) -> None:
        """Hand over the policy's weights of this step."""
        self.step = step
        self.policy.save(Path(self.folder.name))
        self.llm.collective_rpc("reload_weights")
        self.llm.reset_prefix_cache()

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, pictures' places included."""
        if prompt.id not in self.rendered:
            self.rendered[prompt.id] = render_prompt(
                self.policy.processor, prompt.messages, self.store, self.answer_start
            )
        return self.rendered[prompt.id]

    def __call__(
        self, prompts: Sequence[Prompt], n: int, draw: int = 0, starts: Sequence[Sequence[int]] = ()
    ) -> list[list[Rollout]]:
        """n answers of each prompt. `draw` tells apart several calls at one step. With `starts`, one for each prompt, the
        answers go on from these tokens."""
        begun = starts or [()] * len(prompts)
        asked = [self._prompt(p, s) for p, s in zip(prompts, begun, strict=True)]
        settings = [self._settings(n, hash((self.seed, self.step, draw, i)) % (1 << 62)) for i in range(len(prompts))]
        answers = self.llm.generate(asked, settings, use_tqdm=False)
        groups = [[self._rollout(p, o) for o in a.outputs] for p, a in zip(prompts, answers, strict=True)]
        return [g * n for g in groups] if self.config.temperature == 0 else groups

    def _prompt(self, prompt: Prompt, start: Sequence[int]) -> dict[str, Any]:
        """As vLLM takes it: one picture token for each picture, which it makes a run of itself."""
        ids = [*self.prompt_ids(prompt), *start]
        if not prompt.images:
            return {"prompt_token_ids": ids}
        assert self.store is not None
        token = self.policy.image_token
        once = [t for value, run in groupby(ids) for t in ([value] if value == token else run)]
        return {"prompt_token_ids": once, "multi_modal_data": {"image": [self.store.open(i) for i in prompt.images]}}

    def _settings(self, n: int, seed: int) -> Any:
        """Greedy answers are all the same, and vLLM gives one only."""
        config, token = self.config, self.policy.image_token
        return self.params(
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
