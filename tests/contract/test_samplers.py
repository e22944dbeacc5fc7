"""What every sampler in this process keeps: our decoder and transformers' generate. vLLM: tests/e2e/test_vllm_policy.py."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from assay.images import ImageStore
from assay.journal import read
from assay.pack import Group
from assay.policy.assemble import assemble, save
from assay.policy.config import GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.generate import GenerateSampler
from assay.policy.grpo import grpo
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import LocalSampler, Sampler
from assay.records import Message, user
from assay.rollouts import Prompt, Score
from logprobs import said, tokens, trained

PIL = pytest.importorskip("PIL.Image")
START = "<think>"
PROMPTS = [Prompt(messages=(user(f"say {c}"),), answer=c) for c in "abcd"]
CONFIG = SamplerConfig(max_tokens=6)
NAMES = ("local", "generate")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_language(tmp_path_factory.mktemp("lm"), "qwen3")


@pytest.fixture(scope="module")
def visual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    save(
        *assemble(*tiny_models.encoder("clip", 32), tiny_models.language("qwen3"), tiny_models.tokenizer(), 32), folder
    )
    return folder


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load(name: str) -> Callable[..., Policy]:
    """A policy; not packed for `generate`, which is there for models that cannot be."""

    def loaded(folder: Path, store: ImageStore | None = None, **options: Any) -> Policy:
        return load_policy(str(folder), PolicyConfig(packing=name != "generate", **options), store)

    return loaded


@pytest.fixture
def make(name: str) -> Callable[..., Any]:
    """A sampler of a policy; fp32 all through, so that numbers can be compared."""

    def made(policy: Policy, config: SamplerConfig = CONFIG, store: ImageStore | None = None, seed: int = 0) -> Sampler:
        if name == "local":
            return LocalSampler(policy, config, store, seed, half=False, answer_start=START)
        return GenerateSampler(policy, config, store, seed, START)

    return made


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rollouts_are_whole_and_their_log_probabilities_are_the_policy_s(
    load: Callable[..., Policy], make: Callable[..., Any], text: Path, temperature: float
) -> None:
    policy = load(text)
    sampler = make(policy, replace(CONFIG, temperature=temperature))
    sampler.load(7)
    groups = sampler(PROMPTS, 3)
    assert [len(g) for g in groups] == [3] * 4
    ends = set(policy.end_ids)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        assert policy.tokenizer.decode(sampler.prompt_ids(prompt)).endswith(START)
        for r in group:
            assert (r.prompt_id, r.policy_step) == (prompt.id, 7)
            assert 1 <= len(r.tokens) == len(r.logprobs) <= 6
            assert r.ended == (r.tokens[-1] in ends)
            assert r.ended or len(r.tokens) == 6
            assert not ends & set(r.tokens[:-1])
            assert r.text == START + policy.tokenizer.decode(r.tokens, skip_special_tokens=True)
    torch.testing.assert_close(said(groups), trained(policy, sampler, PROMPTS, groups), atol=1e-4, rtol=1e-4)
    assert any(r.ended for g in sampler(PROMPTS * 8, 4) for r in g), "the end token can come"


def test_seed_step_and_draw_alone_decide_what_is_drawn(
    load: Callable[..., Policy], make: Callable[..., Any], text: Path
) -> None:
    policy = load(text)
    sampler = make(policy)
    sampler.load(1)
    first = tokens(sampler(PROMPTS, 2))
    assert tokens(sampler(PROMPTS, 2)) == first, "a resumed run draws the same"
    again = make(policy)
    again.load(1)
    assert tokens(again(PROMPTS, 2)) == first
    assert tokens(sampler(PROMPTS, 2, 1)) != first
    twice = tokens(sampler([PROMPTS[0]] * 2, 2))
    assert twice[0] != twice[1]
    sampler.load(2)
    assert tokens(sampler(PROMPTS, 2)) != first
    other = make(policy, seed=1)
    other.load(1)
    assert tokens(other(PROMPTS, 2)) != first


def test_greedy_answers_are_the_likeliest_tokens_and_all_alike(
    load: Callable[..., Policy], make: Callable[..., Any], text: Path
) -> None:
    policy = load(text)
    sampler = make(policy, replace(CONFIG, temperature=0.0))
    [group] = sampler(PROMPTS[:1], 3)
    assert tokens(make(policy).greedy()(PROMPTS[:1], 3)) == tokens([group])
    sampler.close()
    assert len(group) == 3
    assert len({r.tokens for r in group}) == 1
    ids = sampler.prompt_ids(PROMPTS[0])
    for token in group[0].tokens:
        asked = [Group(prefix=np.array(ids, dtype=np.int32), answers=(np.array([1], dtype=np.int32),))]
        with torch.no_grad():
            hidden = policy.hidden(policy.batch(asked))
        assert token == policy.inner.get_output_embeddings()(hidden[len(ids) - 1]).argmax().item()
        ids = [*ids, token]


def test_load_takes_new_weights_over(load: Callable[..., Policy], make: Callable[..., Any], text: Path) -> None:
    policy = load(text)
    sampler = make(policy)
    before = tokens(sampler(PROMPTS, 2))
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())), alpha=0.3)
    sampler.load(0)
    groups = sampler(PROMPTS, 2)
    assert tokens(groups) != before
    torch.testing.assert_close(said(groups), trained(policy, sampler, PROMPTS, groups), atol=1e-4, rtol=1e-4)


def test_pictures_are_read_and_their_token_is_never_drawn(
    load: Callable[..., Policy], make: Callable[..., Any], visual: Path, tmp_path: Path
) -> None:
    store = ImageStore(tmp_path / "pictures")
    random = np.random.default_rng(0)
    ids = [store.add(PIL.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8))) for _ in range(3)]
    asked = [
        Prompt(messages=(Message(role="user", content="what?", images=pictures),))
        for pictures in ((ids[0],), (ids[1], ids[2]))
    ]
    policy = load(visual, store, train=("adapter", "llm"))
    sampler = make(policy, SamplerConfig(max_tokens=12), store)
    sampler.load(0)
    groups = sampler(asked, 16)
    assert all(policy.image_token not in r.tokens for g in groups for r in g)
    apart = (said(groups) - trained(policy, sampler, asked, groups)).abs()
    assert apart.max() < 0.05, "up to the share of the token that is not drawn"


def odd_tokens(pairs: Any) -> list[Score]:
    found = [float(r.tokens[0] % 2) for _, r in pairs]
    return [Score(rule=f, format=0.0, total=f) for f in found]


def test_a_real_grpo_step_moves_the_policy(
    load: Callable[..., Policy], make: Callable[..., Any], text: Path, tmp_path: Path
) -> None:
    policy = load(text)
    before = policy.inner.get_output_embeddings().weight.detach().clone()
    config = GrpoConfig(steps=2, prompts=3, group=4, lr=1e-3)
    done = grpo(tmp_path / "tuned", config, policy, PROMPTS, make(policy), odd_tokens)
    metrics = read(tmp_path / "tuned" / "metrics.jsonl")
    assert (done.steps, done.samples) == (2, 24)
    assert metrics[0]["effective"] > 0
    assert all(m["sampler_gap"] < 1e-4 for m in metrics), "sampler and training pass agree, after an update too"
    assert not torch.equal(before, policy.inner.get_output_embeddings().weight)
