"""What a sampler says of its answers' tokens, and what training, and transformers' whole model, say of the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from assay import vision
from assay.images import ImageStore
from assay.pack import Group
from assay.policy.model import Policy
from assay.policy.sampler import Sampler
from assay.rollouts import Prompt, Rollout
from assay.templates import chat_text

Groups = Sequence[Sequence[Rollout]]


def said(groups: Groups) -> torch.Tensor:
    """The log-probabilities of all answers' tokens, in order, (M,)."""
    return torch.tensor([x for g in groups for r in g for x in r.logprobs])


def tokens(groups: Groups) -> list[list[tuple[int, ...]]]:
    return [[r.tokens for r in g] for g in groups]


def trained(policy: Policy, sampler: Sampler, prompts: Sequence[Prompt], groups: Groups) -> torch.Tensor:
    """The same by a training pass, at the sampler's temperature."""
    made = [
        Group(
            prefix=np.array(sampler.prompt_ids(p), dtype=np.int32), images=p.images,
            answers=tuple(np.array(r.tokens, dtype=np.int32) for r in g),
        )
        for p, g in zip(prompts, groups, strict=True)
    ]  # fmt: skip
    batch = policy.batch(made).to(policy.model.device)
    with torch.no_grad(), torch.autocast(policy.model.device.type, torch.bfloat16, enabled=policy.bf16):
        return policy(batch, entropy=False, temperature=sampler.config.temperature or 1.0).logp_M


def whole(policy: Policy, prompt: Prompt, answer: Sequence[int], store: ImageStore | None = None) -> torch.Tensor:
    """(tokens, V): what transformers' model, given what its own processor makes of a question of one turn, predicts before
    each token of an answer. Its attention is transformers' own, not ours."""
    text = prompt.messages[0].content
    parts = [[{"type": "image"}] * len(prompt.images) + [{"type": "text", "text": text}]] if policy.visual else None
    pictures = {"images": [store.open(i) for i in prompt.images] if store is not None and prompt.images else None}
    made = policy.processor(
        text=[chat_text(policy.processor, prompt.messages, True, contents=parts)], return_tensors="pt",
        add_special_tokens=False, **(pictures if policy.visual else {}),
    )  # fmt: skip
    inputs: dict[str, Any] = {n: torch.as_tensor(x) for n, x in made.items() if n not in ("rows", "cols")}
    first = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name in {"mm_token_type_ids", "token_type_ids"} & set(inputs):
        inputs[name] = torch.nn.functional.pad(inputs[name], (0, len(answer)))
    body = vision.language_model(policy.inner)
    before = body.config._attn_implementation
    body.set_attn_implementation("sdpa")
    try:
        with torch.no_grad():
            logits_TV = policy.inner(**vision.taken(policy.inner.forward, inputs)).logits[0]
    finally:
        body.set_attn_implementation(before)
    return logits_TV[first - 1 : -1].float().log_softmax(-1)
