"""Prompts -> groups of rollouts by transformers' own `generate`: for models whose attention cannot be packed."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from assay import vision
from assay.images import ImageStore
from assay.policy.config import SamplerConfig
from assay.policy.model import Policy
from assay.policy.prompt_ids import PromptIds
from assay.render import render_prompt
from assay.rollouts import Prompt, Rollout
from assay.weights import Widened

_Asked = tuple[Prompt, list[int]]
"""A prompt and its tokens."""


class GenerateSampler:
    """A sampler (see `assay.policy.sampler`) through `generate`. Prompts are padded on the left to one batch where that was
    tried and changes nothing; else they go one by one.

    What the model's own generation_config asks for besides (penalties, top_k, forced tokens) is left out: training compares
    with the plain softmax. It computes as training does (products in bfloat16 where the policy's are).
    """

    def __init__(
        self,
        policy: Policy,
        config: SamplerConfig,
        store: ImageStore | None = None,
        seed: int = 0,
        answer_start: str = "",
    ) -> None:
        self.policy, self.config, self.store, self.seed = policy, config, store, seed
        self.answer_start, self.step = answer_start, 0
        self.rendered = PromptIds(lambda prompt: render_prompt(policy.processor, prompt.messages, store, answer_start))
        self.entropies: dict[str, tuple[float, ...]] = {}
        self.together: bool | None = None
        """Whether prompts may be padded to one batch; None until it was tried."""

    def load(self, step: int) -> None:
        self.step, self.entropies = step, {}

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        return self.rendered(prompt)

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[Prompt], n: int, draw: int = 0, starts: Sequence[Sequence[int]] = ()
    ) -> list[list[Rollout]]:
        """n answers of each prompt; `starts` as for `LocalSampler`."""
        self.policy.eval()
        asked = [(p, [*self.prompt_ids(p), *s]) for p, s in zip(prompts, starts or [()] * len(prompts), strict=True)]
        if self.together is None and len({len(ids) for _, ids in asked}) > 1:
            self.together = self._tried(asked)
        torch.manual_seed(hash((self.seed, self.step, draw)) % (1 << 62))
        rows = 1 if self.config.temperature == 0 else n
        per_call = 1 if self.together is False else max(1, self.config.rows // rows)
        found: list[list[Rollout]] = []
        with torch.autocast(self.policy.model.device.type, torch.bfloat16, enabled=self.policy.bf16):
            for at in range(0, len(asked), per_call):
                found += self._answers(asked[at : at + per_call], n)
        return found

    def greedy(self) -> "GenerateSampler":
        config = replace(self.config, temperature=0.0)
        made = GenerateSampler(self.policy, config, self.store, self.seed, self.answer_start)
        made.together = self.together
        return made

    def close(self) -> None:
        """Nothing runs elsewhere."""

    def _tried(self, asked: Sequence[_Asked]) -> bool:
        """Does the shortest prompt go on beside the longest, for two tokens, as it does alone? Recurrent states, and some
        ways of counting places, see padding."""
        order = sorted(asked, key=lambda a: len(a[1]))
        settings, heard = self._settings(0.0, 2), [_Heard(1.0, self.policy.image_token) for _ in range(2)]
        with Widened():
            for which, some in zip(heard, (order[:1], [order[0], order[-1]]), strict=True):
                which.kept = []
                self._generate(some, which, settings)
        kept = zip(*(h.kept or [] for h in heard), strict=False)  # the first token may end the one that is alone
        return all((a - b)[a > -14].abs().max() < 1e-3 for a, b in kept)  # of tokens that are ever drawn

    def _generate(self, asked: Sequence[_Asked], heard: "_Heard", settings: GenerationConfig) -> Tensor:
        """The tokens after each prompt, (rows, T); `heard` is told of them. Several answers are as many rows: how generate
        itself repeats the pictures of several prompts depends on the class, and is not always right."""
        policy, inner, where = self.policy, self.policy.inner, self.policy.model.device
        width = max(len(ids) for _, ids in asked)
        ids_BP = torch.full((len(asked), width), settings.pad_token_id, device=where)
        mask_BP = torch.zeros_like(ids_BP)
        for row, (_, ids) in enumerate(asked):
            ids_BP[row, width - len(ids) :], mask_BP[row, width - len(ids) :] = torch.tensor(ids, device=where), 1
        images, before = [i for prompt, _ in asked for i in prompt.images], inner.generation_config
        text = nullcontext({"input_ids": ids_BP})
        shown = vision.given(inner, ids_BP, images, policy.pictures) if policy.visual else text
        inner.generation_config = settings
        try:
            with shown as inputs:
                told = {"attention_mask": mask_BP, "logits_processor": LogitsProcessorList([heard])}
                made: Tensor = inner.generate(**inputs, **told)
        finally:
            inner.generation_config = before
        return made[:, width:]

    def _answers(self, asked: Sequence[_Asked], n: int) -> list[list[Rollout]]:
        policy, greedy = self.policy, self.config.temperature == 0
        rows, heard = 1 if greedy else n, _Heard(self.config.temperature or 1.0, policy.image_token)
        repeated = [a for a in asked for _ in range(rows)]
        tokens_BT = self._generate(repeated, heard, self._settings(self.config.temperature, self.config.max_tokens))
        logp_BT = heard.of(tokens_BT)
        found: list[list[Rollout]] = []
        for at, (tokens, logprobs) in enumerate(zip(tokens_BT.tolist(), logp_BT.tolist(), strict=True)):
            if at % rows == 0:
                found.append([])
            end = next((i + 1 for i, t in enumerate(tokens) if t in policy.end_ids), None)
            own, prompt = tokens[:end], asked[at // rows][0]
            text = policy.tokenizer.decode(own, skip_special_tokens=True)
            found[-1].append(Rollout(
                prompt_id=prompt.id, tokens=tuple(own), logprobs=tuple(logprobs[: len(own)]),
                text=self.answer_start + text, ended=end is not None, policy_step=self.step,
            ))  # fmt: skip
            if greedy:
                self.entropies[prompt.id] = tuple(float(x[at]) for x in heard.entropies[: len(own)])
        return [group * n for group in found] if greedy else found

    def _settings(self, temperature: float, most: int) -> GenerationConfig:
        """Nothing but how we draw: generate() fills what is not said here from the model's own, so this takes its place."""
        policy = self.policy
        drawn = {"temperature": temperature, "top_p": self.config.top_p, "top_k": 0} if temperature else {}
        return GenerationConfig(
            do_sample=bool(drawn), max_new_tokens=most, **drawn,
            eos_token_id=list(policy.end_ids), pad_token_id=policy.tokenizer.pad_token_id or 0,
        )  # fmt: skip


class _Heard(LogitsProcessor):  # type: ignore[misc]
    """Keeps what each drawn token's log-probability was under softmax(logits / temperature), the picture token's share
    included, and forbids that token; and each step's entropies (B,). It holds one step's logits: those of all steps would be
    3 x n x T x V x 4 bytes. Of the first row `kept` has them all, where it is a list.
    """

    def __init__(self, temperature: float, forbidden: int | None) -> None:
        self.temperature, self.forbidden = temperature, forbidden
        self.last_BV: Tensor | None = None
        self.logps: list[Tensor] = []
        self.entropies: list[Tensor] = []
        self.kept: list[Tensor] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._take(input_ids[:, -1])
        self.last_BV = (scores.float() / self.temperature).log_softmax(-1)
        self.entropies.append(torch.special.entr(self.last_BV.exp()).sum(-1))
        if self.kept is not None:
            self.kept.append(self.last_BV[0])
        return (
            scores
            if self.forbidden is None
            else scores.index_fill(1, scores.new_tensor([self.forbidden]).long(), -torch.inf)
        )

    def _take(self, tokens_B: Tensor) -> None:
        if self.last_BV is not None:
            self.logps.append(self.last_BV.gather(1, tokens_B[:, None]).squeeze(1))

    def of(self, tokens_BT: Tensor) -> Tensor:
        """(B, tokens) when all is drawn."""
        self._take(tokens_BT[:, -1])
        self.last_BV = None
        return torch.stack(self.logps, 1)
