"""The sampler is the policy, on transformers' own vision-language classes: sampler, trainer and transformers' whole model,
given what the class's own processor makes, say the same of every token; for prompts with one picture, two and none at once.
"""

from pathlib import Path

import pytest
import torch

import vlm_models
from assay.images import ImageStore
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.generate import GenerateSampler
from assay.policy.model import load_policy
from assay.policy.sampler import LocalSampler, local_sampler
from assay.records import Message
from assay.rollouts import Prompt
from logprobs import said, trained, whole

pytest.importorskip("PIL.Image")
FAST = {"qwen2.5-vl", "internvl", "gemma3"}
PADDED = {"gemma3"}
KINDS = [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in vlm_models.KINDS]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_models.make(kind, tmp_path_factory.mktemp("vlm"))


def asked(images: tuple[str, ...]) -> Prompt:
    return Prompt(messages=(Message(role="user", content="what is it?", images=images),))


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("packing", [True, False])
def test_sampler_trainer_and_the_whole_model_of_transformers_say_the_same(
    kind: str, folder: Path, store: ImageStore, pictures: list[str], packing: bool, temperature: float
) -> None:
    policy = load_policy(str(folder), PolicyConfig(packing=packing), store)
    assert policy.packed == (packing and kind not in PADDED), policy.reason
    sampler = local_sampler(policy, SamplerConfig(max_tokens=5, temperature=temperature), store)
    assert isinstance(sampler, LocalSampler if policy.packed else GenerateSampler)
    prompts = [asked((pictures[0],)), asked((pictures[1], pictures[0])), asked(())]
    groups = sampler(prompts, 2)
    rows = [(p, r) for p, g in zip(prompts, groups, strict=True) for r in g]
    told = [whole(policy, p, r.tokens, store) for p, r in rows]
    true = torch.cat([t.gather(1, torch.tensor(r.tokens)[:, None])[:, 0] for t, (_, r) in zip(told, rows, strict=True)])
    torch.testing.assert_close(said(groups), true, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(trained(policy, sampler, prompts, groups), true, atol=1e-4, rtol=1e-4)
    if not temperature:
        for (p, _), logp_TV in zip(rows, told, strict=True):
            unsure_T = torch.special.entr(logp_TV.exp()).sum(-1)
            torch.testing.assert_close(torch.tensor(sampler.entropies[p.id]), unsure_T, atol=1e-3, rtol=1e-3)
        for (_, r), logp_TV in zip(rows, told, strict=True):
            logp_TV[:, policy.image_token] = -torch.inf
            assert r.tokens == tuple(logp_TV.argmax(-1).tolist())
    shown, other = asked((pictures[0],)), asked((pictures[1],))
    answer = groups[0][0].tokens
    apart = whole(policy, shown, answer, store) - whole(policy, other, answer, store)
    assert apart.abs().max() > 0.1, "the picture is seen at all"
