"""The policy through a real vLLM: what it samples is the policy, before an update and after it, with pictures as well.

vLLM needs an environment of its own (its pins are not ours): `make test-vllm` makes it and runs this. Else
`ASSAY_VLLM_PYTHON` names a Python that has vLLM, in which this file is run again; without one the tests are skipped.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import tiny_models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.pack import Group
from assay.policy.assemble import assemble, save
from assay.policy.config import PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import make_sampler
from assay.records import Message, Prompt, user

pytestmark = pytest.mark.slow
HERE = importlib.util.find_spec("vllm") is not None
PYTHON = os.environ.get("ASSAY_VLLM_PYTHON", "")
if not HERE and not PYTHON:
    pytest.skip("NOT TESTED: no vLLM here; run `make test-vllm`", allow_module_level=True)

START = "<think>"
PROMPTS = [Prompt(messages=(user(f"say {c}"),), answer=c) for c in "abcd"]
CONFIG = SamplerConfig(max_tokens=6)
VLLM = VllmConfig(backend="vllm", vllm_eager=True, vllm_cache=1, vllm_length=256)
inside = pytest.mark.skipif(not HERE, reason="runs inside the environment of vLLM, by the test that starts it")


@pytest.mark.skipif(HERE, reason="vLLM is in this environment: its tests run by themselves")
def test_the_policy_in_the_environment_of_vllm() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HF_HUB_OFFLINE": "1"}
    roots = [p for p in sys.path if "site-packages" not in p and not p.endswith((".zip", "lib-dynload"))]
    environment["PYTHONPATH"] = os.pathsep.join(p for p in roots if p)
    line = [PYTHON, "-m", "pytest", __file__, "-q", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    print(done.stdout[-6000:], done.stderr[-2000:])
    assert done.returncode == 0
    assert " passed" in done.stdout


def logp_of(policy: Policy, sampler: Any, prompts: list[Prompt], groups: Any) -> torch.Tensor:
    """What a training pass over the same answers says."""
    made = [
        Group(
            prefix=np.array(sampler.prompt_ids(p), dtype=np.int32), images=p.images,
            answers=tuple(np.array(r.tokens, dtype=np.int32) for r in g),
        )
        for p, g in zip(prompts, groups, strict=True)
    ]  # fmt: skip
    with torch.no_grad():
        return policy(policy.batch(made), entropy=False, temperature=sampler.config.temperature or 1.0).logp_M


def said(groups: Any) -> torch.Tensor:
    return torch.tensor([x for g in groups for r in g for x in r.logprobs])


def tokens(groups: Any) -> list[list[tuple[int, ...]]]:
    return [[r.tokens for r in g] for g in groups]


def disturb(policy: Policy, size: float = 0.3) -> None:
    """A large update of all that trains."""
    with torch.no_grad():
        for p in policy.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())), alpha=size)


def engines() -> list[psutil.Process]:
    """The processes of engines. Python's own tracker of shared memory stays."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(p.cmdline())]


@pytest.fixture(params=["qwen3-lora", "llama"])
def text(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Policy, Any]]:
    """Tied heads, as small models have them; one with low-rank adapters."""
    kind, _, lora = request.param.partition("-")
    sizes = {"head": 32} if kind == "qwen3" else {"width": 128}
    folder = tiny_models.save_language(tmp_path / "lm", kind, **sizes)
    policy = load_policy(str(folder), PolicyConfig(lora_rank=4 if lora else 0))
    assert policy.inner.config.tie_word_embeddings
    sampler = make_sampler(VLLM, policy, CONFIG, answer_start=START, within=tmp_path / "w")
    yield policy, sampler
    sampler.close()


@inside
def test_text_is_the_policy_before_and_after_updates(text: tuple[Policy, Any], tmp_path: Path) -> None:
    policy, sampler = text
    sampler.load(1)
    first = sampler(PROMPTS, 3)
    assert [len(g) for g in first] == [3] * 4
    torch.testing.assert_close(said(first), logp_of(policy, sampler, PROMPTS, first), atol=1e-4, rtol=1e-4)
    assert tokens(sampler(PROMPTS, 3)) == tokens(first), "a resumed run draws the same"
    assert tokens(sampler(PROMPTS, 3, 1)) != tokens(first)
    for step in (2, 3):
        disturb(policy)
        stale = sampler(PROMPTS, 3)
        apart = (said(stale) - logp_of(policy, sampler, PROMPTS, stale)).abs().max()
        assert apart > 0.05, "the update would not be seen if the engine did not take it"
        sampler.load(step)
        groups = sampler(PROMPTS, 3)
        torch.testing.assert_close(said(groups), logp_of(policy, sampler, PROMPTS, groups), atol=1e-4, rtol=1e-4)
        assert all(r.policy_step == step for g in groups for r in g)
    greedy = sampler.greedy()
    [group] = greedy(PROMPTS[:1], 3)
    assert len({r.tokens for r in group}) == 1
    torch.testing.assert_close(said([group]), logp_of(policy, sampler, PROMPTS[:1], [group]), atol=1e-4, rtol=1e-4)
    greedy.close()
    assert sampler(PROMPTS[:1], 1, starts=[(5, 6)]), "the engine goes on: it is not the reader's to end"
    assert not list((tmp_path / "w").rglob("*.safetensors")), "weights do not lie on the disk"
    running = engines()
    assert running
    sampler.close()
    assert not psutil.wait_procs(running, 20)[1], "no process of the engine is left"
    assert not list((tmp_path / "w").iterdir())
    with pytest.raises(AssayError, match="was closed"):
        sampler(PROMPTS, 1)


def llava(folder: Path, tower: str) -> None:
    language = tiny_models.language("qwen3", head=32)
    save(*assemble(*tiny_models.encoder(tower, 32), language, tiny_models.tokenizer(), 32), folder)


def pictured(store: ImageStore) -> list[Prompt]:
    """One and two pictures, and none."""
    from PIL import Image

    random = np.random.default_rng(0)
    ids = [store.add(Image.fromarray(random.integers(0, 255, (40, 56, 3), dtype=np.uint8))) for _ in range(3)]
    return [
        Prompt(messages=(Message(role="user", content="what?", images=pictures),))
        for pictures in ((ids[0],), (ids[1], ids[2]), ())
    ]


@inside
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pictures_are_the_policy_over_two_epochs_with_an_update_between(kind: str, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "pictures")
    llava(tmp_path / "vlm", kind)
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=("adapter", "llm", "vision")), store)
    sampler = make_sampler(VLLM, policy, CONFIG, store, within=tmp_path / "w")
    asked = pictured(store)
    try:
        for epoch in (1, 2, 3):
            sampler.load(epoch)
            groups = sampler(asked, 4)
            assert all(policy.image_token not in r.tokens for g in groups for r in g)
            torch.testing.assert_close(said(groups), logp_of(policy, sampler, asked, groups), atol=2e-4, rtol=2e-4)
            disturb(policy, 0.2)
            apart = (said(groups) - logp_of(policy, sampler, asked, groups)).abs().max()
            assert apart > 0.05
    finally:
        sampler.close()
