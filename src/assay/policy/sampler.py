"""Prompts -> groups of rollouts: our decoder on a copy of the policy in 16 bits, transformers' generate, or vLLM.

The paper does not say how it samples (R1V3: verl, that is vLLM). Sampled token ids are kept; nothing is tokenised again.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from assay import packing
from assay.attention import Prefilled
from assay.head import chosen_tokens
from assay.images import ImageStore
from assay.pack import Group, Pack, pack, share
from assay.policy.config import SamplerConfig, VllmConfig
from assay.policy.decode import decoder
from assay.policy.generate import GenerateSampler
from assay.policy.model import Policy
from assay.policy.prompt_ids import PromptIds
from assay.render import render_prompt
from assay.rollouts import Prompt, Rollout

GOING = 0.75
"""Rows that are done are dropped once no more than this share goes on (every eight tokens, any that are done): that copies
the keys of the others, which costs less than a step of a quarter of the rows."""


class Sampler(Protocol):
    """What GRPO needs of a sampler; `tests/contract/test_samplers.py` holds every one of ours to it."""

    config: SamplerConfig

    def load(self, step: int) -> None:
        """Take over the policy's weights of this step; rollouts carry it as their `policy_step`."""

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, pictures' places and the begun answer included: what training puts before an answer."""

    def __call__(self, prompts: Sequence[Prompt], n: int, draw: int = 0) -> list[list[Rollout]]:
        """n answers of each prompt, in order. The seed, the step and `draw` alone decide them: a resumed run draws the same,
        and two calls at one step with other `draw` do not."""

    def greedy(self) -> "Sampler":
        """What takes the likeliest token of the same policy, for readings."""

    def close(self) -> None:
        """End what it runs elsewhere, such as an engine's processes; again is harmless."""


class LocalSampler:
    """Samples from a policy of this process. `step` and `seed` alone decide what is drawn, so a resumed run draws the same.

    Args:
        policy: What to sample from; `load` takes its current weights over.
        config: Lengths and temperature.
        store: Where the pictures of prompts are.
        half: Decode on weights in bfloat16, which need half the memory traffic: the policy's own where they rest in it, else
            a copy. False decodes with the policy's own weights, where none of the language model's rest in bfloat16.
        answer_start: Text that every answer is made to begin with ("<think>"), part of the prompt.

    Of greedy answers `entropies` keeps, by prompt id and since the last `load`, the entropy in nats of the distribution that
    each token was taken from.
    """

    def __init__(
        self, policy: Policy, config: SamplerConfig, store: ImageStore | None = None, seed: int = 0, half: bool = True,
        answer_start: str = "",
    ) -> None:  # fmt: skip
        self.policy, self.config, self.store, self.seed = policy, config, store, seed
        self.answer_start, self.step, self.half = answer_start, 0, half
        self.entropies: dict[str, tuple[float, ...]] = {}
        self.decoder = decoder(policy, half)
        self.load(0)
        self.forbidden = [policy.image_token] if policy.image_token is not None else []
        self.rendered = PromptIds(lambda prompt: render_prompt(policy.processor, prompt.messages, store, answer_start))

    def load(self, step: int) -> None:
        """Take over the policy's weights of this step."""
        self.step, self.entropies = step, {}
        self.decoder.load()

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, pictures' places included."""
        return self.rendered(prompt)

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[Prompt], n: int, draw: int = 0, starts: Sequence[Sequence[int]] = ()
    ) -> list[list[Rollout]]:
        """n answers of each prompt. `draw` tells apart several calls at one step. With `starts`, one for each prompt, the
        answers go on from these tokens, which are part of the prompt then."""
        generator = torch.Generator().manual_seed(hash((self.seed, self.step, draw)) % (1 << 62))
        found: list[list[Rollout]] = []
        per_call = max(1, self.config.rows // n)
        self.policy.eval()
        for at in range(0, len(prompts), per_call):
            found += self._decode(prompts[at : at + per_call], n, generator, starts[at : at + per_call])
        return found

    def greedy(self) -> "LocalSampler":
        """A decoder of its own, for what it keeps of its answers' entropies."""
        config = replace(self.config, temperature=0.0)
        return LocalSampler(self.policy, config, self.store, self.seed, self.policy.bf16, self.answer_start)

    def close(self) -> None:
        """Nothing runs elsewhere."""

    def _decode(
        self, prompts: Sequence[Prompt], n: int, generator: torch.Generator, starts: Sequence[Sequence[int]]
    ) -> list[list[Rollout]]:
        begun = starts or [()] * len(prompts)
        groups = [share([[*self.prompt_ids(p), *s]], images=p.images) for p, s in zip(prompts, begun, strict=True)]
        cache, hidden_GD, places_G = self._prefill(groups, n)
        drawn = _Drawn(len(prompts) * n, self.config.max_tokens, self.policy.end_ids)
        hidden_BD, places_B = hidden_GD.repeat_interleave(n, 0), places_G.repeat_interleave(n)
        while True:
            tokens_B, logp_B, entropy_B = self._draw(hidden_BD, generator)
            going = drawn.add(tokens_B, logp_B, entropy_B)
            if not len(going):
                break
            if len(going) <= GOING * len(tokens_B) or (drawn.length % 8 == 0 and len(going) < len(tokens_B)):
                cache.keep(going)
                drawn.keep(going)
                tokens_B, places_B = tokens_B[going], places_B[going]
            hidden_BD, places_B = self.decoder.step(cache, tokens_B, places_B), places_B + 1
        return self._rollouts(prompts, n, drawn)

    def _prefill(self, groups: Sequence[Group], n: int) -> tuple[Any, Tensor, Tensor]:
        """Read every prompt once. Returns the cache for n rows each, the hidden state at each prompt's end (G, D), and the
        place of what follows there (G,)."""
        layers: list[Prefilled] = []
        hidden, spans, places, at = [], [], [], 0
        before = self._shared(groups)
        first = len(before[0][0]) if before else 0
        groups = [g.after(first) for g in groups]
        parts = self.policy.bins(groups)
        order = [i for part in parts for i in part]
        for part in parts:
            reads = getattr(self.decoder, "reads", False)
            batch = pack([groups[i] for i in part], self.policy.backend, before=first, read=reads)
            states_ND, places_T, prefilled = self._read(batch, before)
            hidden.append(states_ND)
            own = 0
            for i in part:
                end = own + groups[i].tokens
                spans.append((at, at + first + end - own))
                places.append(places_T[own:end].max() + 1)
                layers += [before] if before else []
                layers.append([(k[own:end], v[own:end]) for k, v in prefilled])
                at, own = spans[-1][1], end
        joined = [
            (torch.cat([part[n][0] for part in layers]), torch.cat([part[n][1] for part in layers]))
            for n in range(len(layers[0]))
        ]
        back = sorted(range(len(order)), key=lambda i: order[i])
        return (
            self.decoder.cache(joined, [spans[i] for i in back], n),
            torch.cat(hidden)[back],
            torch.stack(places)[back],
        )

    def _shared(self, groups: Sequence[Group]) -> Prefilled:
        """The keys and values of what all prompts begin with, where reading that once pays; else none."""
        ids = packing.beginning(self.policy.inner, groups, self.policy.backend)
        if not len(ids) or not all(g.begins(ids) for g in groups):
            return []
        prefilled = self._read(pack([Group(prefix=ids[:0], answers=(ids,))], self.policy.backend), [])[2]
        return [(k[: len(ids)], v[: len(ids)]) for k, v in prefilled]

    def _read(self, batch: Pack, before: Prefilled) -> tuple[Tensor, Tensor, Prefilled]:
        """A pass over a pack, which goes on from the keys `before`: the states where answers are read (N, D), the farthest
        place of each token (T,), its keys and values."""
        batch, prefilled = batch.to(self.policy.model.device), list[tuple[Tensor, Tensor]]()
        with torch.autocast(batch.ids_1T.device.type, torch.bfloat16, enabled=self.policy.bf16):  # as in training
            inputs = packing.packed_inputs(self.policy.inner, batch, self.policy.pictures)
        inputs["inputs_embeds"] = inputs["inputs_embeds"].to(self.decoder.dtype)
        out = self.decoder.body(**inputs, prefilled=prefilled, before=before, use_cache=False)
        farthest_T = inputs["position_ids"].view(-1, batch.tokens).amax(0)
        return packing.read(out.last_hidden_state[0], batch), farthest_T, prefilled

    def _draw(self, hidden_BD: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """One token for each row, and its log-probability under softmax(logits / temperature), which is what training
        compares; the picture token and what top_p leaves out are not drawn. Of greedy ones also the entropy."""
        logits, greedy = self.decoder.logits(hidden_BD).float(), self.config.temperature == 0
        if greedy or self.config.top_p == 1.0:
            points_B = None if greedy else torch.rand(len(logits), generator=generator)
            found = chosen_tokens(logits, self.config.temperature or 1.0, points_B, self.forbidden)
            if found is not None:
                return found if greedy else (*found[:2], None)
        if self.config.temperature not in (0, 1.0):
            logits /= self.config.temperature
        most_B1 = logits.amax(-1, keepdim=True)
        weights = (logits - most_B1).exp_()
        norm_B1 = most_B1 + weights.sum(-1, keepdim=True).log_()
        if self.config.temperature == 0:
            norm_B = norm_B1.squeeze(1)
            entropy_B = norm_B - torch.linalg.vecdot(weights, logits) * (most_B1.squeeze(1) - norm_B).exp()
            logits[:, self.forbidden] = -torch.inf
            best, tokens_B = logits.max(-1)
            return tokens_B, best - norm_B, entropy_B
        weights[:, self.forbidden] = 0.0
        if self.config.top_p < 1.0:
            weights = _nucleus(weights, self.config.top_p)
        sums = weights.cumsum(-1)
        points = torch.rand(len(sums), 1, generator=generator).to(sums) * sums[:, -1:]
        tokens = torch.searchsorted(sums, points, right=True).clamp_(max=sums.shape[-1] - 1)
        return tokens.squeeze(1), (logits.gather(1, tokens) - norm_B1).squeeze(1), None

    def _rollouts(self, prompts: Sequence[Prompt], n: int, drawn: "_Drawn") -> list[list[Rollout]]:
        tokenizer = self.policy.tokenizer
        if self.config.temperature == 0:
            self.entropies |= {p.id: tuple(drawn.entropies[at * n]) for at, p in enumerate(prompts)}
        texts = tokenizer.batch_decode(drawn.tokens, skip_special_tokens=True)
        made = [
            Rollout(
                prompt_id=prompts[row // n].id, tokens=tuple(drawn.tokens[row]), logprobs=tuple(drawn.logprobs[row]),
                text=self.answer_start + texts[row], ended=drawn.ended[row], policy_step=self.step,
            )
            for row in range(len(texts))
        ]  # fmt: skip
        return [made[at : at + n] for at in range(0, len(made), n)]


class _Drawn:
    """What was drawn so far, row by row; `rows` are those still in the cache."""

    def __init__(self, rows: int, most: int, ends: Sequence[int]) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.logprobs: list[list[float]] = [[] for _ in range(rows)]
        self.entropies: list[list[float]] = [[] for _ in range(rows)]
        self.ended = [False] * rows
        self.rows, self.most, self.ends, self.length = list(range(rows)), most, set(ends), 0

    def add(self, tokens_B: Tensor, logp_B: Tensor, entropy_B: Tensor | None = None) -> Tensor:
        """Take in a token for each row; returns the indices of the rows that go on."""
        self.length += 1
        entropies = [0.0] * len(tokens_B) if entropy_B is None else entropy_B.tolist()
        for row, token, logp, entropy in zip(self.rows, tokens_B.tolist(), logp_B.tolist(), entropies, strict=True):
            if not self.ended[row]:
                self.tokens[row].append(token)
                self.logprobs[row].append(logp)
                self.entropies[row].append(entropy)
                self.ended[row] = token in self.ends
        if self.length >= self.most:
            return torch.empty(0, dtype=torch.long)
        going = [at for at, row in enumerate(self.rows) if not self.ended[row]]
        return torch.tensor(going, dtype=torch.long, device=tokens_B.device)

    def keep(self, going: Tensor) -> None:
        self.rows = [self.rows[at] for at in going.tolist()]


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Only the likeliest tokens whose probabilities reach top_p together; the others' weights are zero."""
    ordered, order = weights.sort(-1, descending=True)
    shares = ordered / ordered.sum(-1, keepdim=True)
    before = shares.cumsum(-1) - shares
    return torch.zeros_like(weights).scatter(1, order, ordered.masked_fill(before >= top_p, 0.0))


def local_sampler(
    policy: Policy, config: SamplerConfig, store: ImageStore | None = None, seed: int = 0, answer_start: str = ""
) -> LocalSampler | GenerateSampler:
    """Our decoder where the policy can be packed, else transformers' generate."""
    if policy.packed:
        return LocalSampler(policy, config, store, seed, half=policy.bf16, answer_start=answer_start)
    return GenerateSampler(policy, config, store, seed, answer_start)


def make_sampler(
    vllm: VllmConfig, policy: Policy, config: SamplerConfig,
    store: ImageStore | None = None, seed: int = 0, answer_start: str = "", within: Path | None = None,
) -> Sampler:  # fmt: skip
    """What draws a policy's answers: what `local_sampler` chooses, an engine of vLLM (which reads the policy from a folder
    in `within` while it starts), or servers by URL (which take its weights over where `within` is named).

    Raises AssayError where vLLM is asked for and not installed, or a server cannot be reached or serves another model.
    """
    if vllm.backend == "vllm":
        from assay.policy.vllm_sampler import VllmSampler

        return VllmSampler(policy, config, store, seed, answer_start, within, vllm)
    if vllm.vllm:
        from assay.policy.vllm_servers import ServerSampler

        return ServerSampler(policy, config, store, seed, answer_start, vllm, within)
    return local_sampler(policy, config, store, seed, answer_start)
