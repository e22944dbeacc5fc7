"""The policy through a real vLLM: what it samples is the policy, before an update and after it, with pictures as well.

vLLM needs an environment of its own (its pins are not ours): `make test-vllm` makes it and runs this. Else
`ASSAY_VLLM_PYTHON` names a Python that has vLLM, in which this file is run again; without one the tests are skipped.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from commands import environment, run_assay
from real_vllm import serving

import tiny_models
from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.journal import read
from assay.policy import vllm_engine
from assay.policy.assemble import assemble, save
from assay.policy.config import GrpoConfig, PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.grpo import grpo
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import make_sampler
from assay.policy.vllm_servers import outline
from assay.records import Message, user
from assay.rollouts import Prompt, Score
from logprobs import said, tokens, trained, whole

pytestmark = pytest.mark.slow
HERE = importlib.util.find_spec("vllm") is not None
PYTHON = os.environ.get("ASSAY_VLLM_PYTHON", "")
if not HERE and not PYTHON:
    pytest.skip("NOT TESTED: no vLLM here; run `make test-vllm`", allow_module_level=True)

HUB = (
    "llava", "qwen2.5-vl", "internvl", "qwen2-vl-tied", "qwen3-vl-tied", "llava-next", "llava-onevision-tied", "smolvlm",
    "idefics3",
)  # fmt: skip
"""Classes as the hub has them; heads are tied where small models of theirs have them so."""
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
    sampler = make_sampler(replace(VLLM, vllm_length=0), policy, CONFIG, answer_start=START, within=tmp_path / "w")
    assert sampler.engine.room == 512, "all that the model knows"
    with pytest.raises(CannotRead, match="longer than 506 tokens"):
        sampler.prompt_ids(Prompt(messages=(user("long " * 120),)))
    yield policy, sampler
    sampler.close()


@inside
def test_text_is_the_policy_before_and_after_updates(text: tuple[Policy, Any], tmp_path: Path) -> None:
    policy, sampler = text
    sampler.load(1)
    first = sampler(PROMPTS, 3)
    assert [len(g) for g in first] == [3] * 4
    torch.testing.assert_close(said(first), trained(policy, sampler, PROMPTS, first), atol=1e-4, rtol=1e-4)
    assert tokens(sampler(PROMPTS, 3)) == tokens(first), "a resumed run draws the same"
    assert tokens(sampler(PROMPTS, 3, 1)) != tokens(first)
    for step in (2, 3):
        disturb(policy)
        stale = sampler(PROMPTS, 3)
        apart = (said(stale) - trained(policy, sampler, PROMPTS, stale)).abs().max()
        assert apart > 0.05, "the update would not be seen if the engine did not take it"
        sampler.load(step)
        groups = sampler(PROMPTS, 3)
        torch.testing.assert_close(said(groups), trained(policy, sampler, PROMPTS, groups), atol=1e-4, rtol=1e-4)
        assert all(r.policy_step == step for g in groups for r in g)
    greedy = sampler.greedy()
    [group] = greedy(PROMPTS[:1], 3)
    assert len({r.tokens for r in group}) == 1
    torch.testing.assert_close(said([group]), trained(policy, sampler, PROMPTS[:1], [group]), atol=1e-4, rtol=1e-4)
    greedy.close()
    assert sampler(PROMPTS[:1], 1, starts=[(5, 6)]), "the engine goes on: it is not the reader's to end"
    long = [Prompt(messages=(user(f"{i} " + "x" * 420),)) for i in range(12)]
    assert [len(g) for g in sampler(long, 2)] == [2] * 12, "more tokens than it reads at once"
    assert not list((tmp_path / "w").rglob("*.safetensors")), "weights do not lie on the disk"
    running = engines()
    assert running
    sampler.close()
    assert not psutil.wait_procs(running, 20)[1], "no process of the engine is left"
    assert not list((tmp_path / "w").iterdir())
    with pytest.raises(AssayError, match="was closed"):
        sampler(PROMPTS, 1)


@inside
def test_grpo_draws_by_an_earlier_policy_while_it_trains(tmp_path: Path) -> None:
    """Whose log-probabilities they are: those of the weights of the step that each answer names."""
    folder = tiny_models.save_language(tmp_path / "lm", "qwen3", head=32)
    policy = load_policy(str(folder), PolicyConfig(precision="fp32"))
    sampler = make_sampler(VLLM, policy, CONFIG, within=tmp_path / "w")
    seen: list[tuple[Any, Any]] = []

    class Reward:
        def ahead(self, pairs: Any) -> None:
            seen.append((list(pairs), {n: x.detach().clone() for n, x in policy.inner.state_dict().items()}))

        def __call__(self, pairs: Any) -> list[Score]:
            return [
                Score(rule=float(r.tokens[0] % 3 == 0), format=0.0, total=float(r.tokens[0] % 3 == 0)) for _, r in pairs
            ]

    config = GrpoConfig(steps=5, prompts=4, group=4, lr=1e-2, staleness=1, clip=1e9)
    try:
        grpo(tmp_path / "run", config, policy, PROMPTS, sampler, Reward())
    finally:
        sampler.close()
    metrics = read(tmp_path / "run" / "metrics.jsonl")
    assert [m["staleness_most"] for m in metrics] == [0, 0, 1, 1, 1]
    assert max(m["sampler_gap"] for m in metrics[:2]) < 1e-3
    for step, (pairs, _) in enumerate(seen):
        at = {r.policy_step for _, r in pairs}
        assert at == {step if step < 2 else step - 1}
        prompts = list({p.id: p for p, _ in pairs}.values())
        groups = [[r for q, r in pairs if q.id == p.id] for p in prompts]
        apart = []
        for weights in (seen[at.pop()][1], seen[step][1]):
            policy.inner.load_state_dict(weights)
            apart.append(float((said(groups) - trained(policy, sampler, prompts, groups)).abs().max()))
        assert apart[0] < 1e-3
        assert step < 2 or apart[1] > 1e-2, "the policy has moved since"


def llava(folder: Path, tower: str) -> None:
    language = tiny_models.language("qwen3", head=32)
    save(*assemble(*tiny_models.encoder(tower, 32), language, tiny_models.tokenizer(), 32), folder)


def pictured(store: ImageStore) -> list[Prompt]:
    """One and two pictures of several shapes, and none."""
    from PIL import Image

    random = np.random.default_rng(0)
    shapes = ((40, 56), (90, 34), (30, 120), (64, 64))
    ids = [store.add(Image.fromarray(random.integers(0, 255, (*s, 3), dtype=np.uint8))) for s in shapes]
    return [
        Prompt(messages=(Message(role="user", content="what?", images=pictures),))
        for pictures in ((ids[0],), (ids[1], ids[2]), (), (ids[3],))
    ]


def hub(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class as the hub has it, with one head of 32, for vLLM's attention on CPUs takes no narrower one."""
    vlm_models = pytest.importorskip("vlm_models")
    for name in ("num_attention_heads", "num_key_value_heads"):
        monkeypatch.setitem(vlm_models.TEXT, name, 1)
    monkeypatch.setitem(vlm_models.MROPE, "mrope_section", [6, 5, 5])
    vlm_models.make(kind.removesuffix("-tied"), folder, tied=kind.endswith("-tied"))
    if kind == "smolvlm":  # vLLM reads its pictures by its own processor, which has one for videos
        pytest.importorskip("num2words")
        from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

        SmolVLMVideoProcessor().save_pretrained(folder)
        file = folder / "processor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"processor_class": "SmolVLMProcessor"}))


@inside
@pytest.mark.parametrize("kind", ["qwen3", "qwen2.5-vl", "qwen2-vl-tied", "qwen3-vl-tied", "llava-next", "smolvlm"])
def test_an_adapter_alone_is_the_policy_before_and_after_updates(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM adds it in itself; in fp32 both are the policy."""
    store = ImageStore(tmp_path / "pictures")
    if kind == "qwen3":
        tiny_models.save_language(tmp_path / "lm", "qwen3", head=32)
    else:
        hub(tmp_path / "lm", kind, monkeypatch)
    policy = load_policy(str(tmp_path / "lm"), PolicyConfig(lora_rank=4, precision="fp32"), store)
    asked = PROMPTS if kind == "qwen3" else pictured(store)
    sampler = make_sampler(replace(VLLM, vllm_weights="lora"), policy, CONFIG, store, within=tmp_path / "w")
    try:
        for step in (1, 2, 3):
            sampler.load(step)
            groups = sampler(asked, 3)
            torch.testing.assert_close(said(groups), trained(policy, sampler, asked, groups), atol=2e-4, rtol=2e-4)
            disturb(policy)
            assert (said(groups) - trained(policy, sampler, asked, groups)).abs().max() > 0.05
        assert list(sampler.engine.llm.llm_engine.list_loras()) == [4], "the ones before are gone"
    finally:
        sampler.close()


@inside
@pytest.mark.parametrize("kind", ["clip", "siglip", "conv", *HUB])
def test_pictures_are_the_policy_over_epochs_with_updates_between(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore(tmp_path / "pictures")
    if kind in ("clip", "siglip", "conv"):
        llava(tmp_path / "vlm", kind)
    else:
        hub(tmp_path / "vlm", kind, monkeypatch)
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=("adapter", "llm", "vision")), store)
    sampler = make_sampler(VLLM, policy, CONFIG, store, within=tmp_path / "w")
    asked = pictured(store)
    try:
        for epoch in (1, 2, 3):
            sampler.load(epoch)
            groups = sampler(asked, 4)
            assert all(policy.image_token not in r.tokens for g in groups for r in g)
            torch.testing.assert_close(said(groups), trained(policy, sampler, asked, groups), atol=2e-4, rtol=2e-4)
            for prompt, (answer, *_) in zip(asked, groups, strict=True) if kind in HUB else ():
                of_all_TV = whole(policy, prompt, answer.tokens, store)
                theirs = of_all_TV.gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
                torch.testing.assert_close(torch.tensor(answer.logprobs), theirs, atol=2e-4, rtol=2e-4)
            disturb(policy, 0.2)
            apart = (said(groups) - trained(policy, sampler, asked, groups)).abs().max()
            assert apart > 0.05
    finally:
        sampler.close()


@inside
def test_what_vllm_does_not_compute_rightly_here_is_refused_before_its_engine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture's tokens see each other both ways in Gemma 3: on a CPU vLLM does not do that, and says nothing. Shown a
    picture it would be found out, too."""
    store = ImageStore(tmp_path / "pictures")
    hub(tmp_path / "vlm", "gemma3", monkeypatch)
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(), store)
    with pytest.raises(AssayError, match="does not compute Gemma3ForConditionalGeneration rightly on a CPU"):
        make_sampler(VLLM, policy, CONFIG, store, within=tmp_path / "w")
    hub(tmp_path / "other", "llava-onevision-tied", monkeypatch)
    adapted = load_policy(str(tmp_path / "other"), PolicyConfig(lora_rank=4), store)
    with pytest.raises(AssayError, match="vLLM serves LlavaOnevisionForConditionalGeneration without adapters"):
        make_sampler(replace(VLLM, vllm_weights="lora"), adapted, CONFIG, store, within=tmp_path / "w")
    assert not engines()
    monkeypatch.setattr(vllm_engine, "_able", lambda *_: None)
    with pytest.raises(AssayError, match="vLLM sees pictures otherwise than Gemma3ForConditionalGeneration"):
        make_sampler(VLLM, policy, CONFIG, store, within=tmp_path / "w")
    assert not psutil.wait_procs(engines(), 20)[1]
    assert not list((tmp_path / "w").iterdir())


def questions(folder: Path) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps({"question": f"say {c}", "answer": c}) + "\n" for c in "abcdefgh"))
    return path


def even(conversations: Any) -> np.ndarray:
    """A reward that tells nearly all answers apart."""
    return np.array([sum(map(ord, c[-1].content)) % 97 / 97 for c in conversations])


@inside
@pytest.mark.parametrize("how", [("--staleness", "1"), ("--policy.shard",)], ids=["ahead", "sharded"])
def test_grpo_under_torchrun_has_an_engine_for_each_process_and_samples_the_policy_itself(
    tmp_path: Path, how: tuple[str, ...]
) -> None:
    model = tiny_models.save_language(tmp_path / "lm", "qwen3", head=32)
    asked = [
        "policy", "grpo", model, questions(tmp_path), "--out", tmp_path / "tuned", "--backend", "vllm", "--vllm-eager",
        "--vllm-cache", 1, "--vllm-length", 256, "--steps", 3, "--prompts", 4, "--group", 4, "--lr", "1e-3",
        "--signal", "total", "--sampler.max-tokens", 6, "--reward-model", f"{Path(__file__).stem}:even",
        "--rewards.combine", "sum", "--watch", questions(tmp_path), "--monitor.every", 2, "--policy.precision", "fp32",
        *how,
    ]  # fmt: skip
    script = tmp_path / "run.py"  # torchrun takes --signal for one of its own
    script.write_text(
        "import sys\nfrom assay.__main__ import main\n\nif __name__ == '__main__':  # engines are spawned\n"
        f"    sys.argv[1:] = {[*map(str, asked)]!r}\n    main()\n"
    )
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, script]
    here = {**environment(), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    here["PYTHONPATH"] = os.pathsep.join([here["PYTHONPATH"], str(Path(__file__).parent)])
    done = subprocess.run([*map(str, line)], env=here, capture_output=True, text=True, timeout=1_200)
    print(done.stdout[-3000:], done.stderr[-6000:])
    assert done.returncode == 0
    metrics = read(tmp_path / "tuned" / "metrics.jsonl")
    gaps = [m["sampler_gap"] for m in metrics if "sampler_gap" in m]
    assert len(gaps) == (3 if "--policy.shard" in how else 2), "an earlier policy's answers are compared with nothing"
    assert 0 < min(gaps) <= max(gaps) < 1e-3, "after updates too"
    assert [m.get("staleness_most", 0) for m in metrics] == ([0] * 3 if "--policy.shard" in how else [0, 0, 1])
    assert any("watch_accuracy" in m for m in metrics), "the reading has come from the same engine"
    assert not list(tmp_path.glob("vllm-*")), "the engines' folders are gone"


@inside
def test_servers_by_url_are_one_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture's question goes over as messages, one without a picture as token ids."""
    store = ImageStore(tmp_path / "pictures")
    hub(tmp_path / "vlm", "qwen2.5-vl", monkeypatch)
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(), store)
    asked = pictured(store)
    how = ("--max-model-len", "256", "--worker-extension-cls", "assay.policy.vllm_worker.Weights")
    with serving(
        tmp_path / "vlm", 1, *how, VLLM_SERVER_DEV_MODE="1", PYTHONPATH=os.environ["PYTHONPATH"]
    ) as (door,):  # fmt: skip
        urls = (door.url, f"http://localhost:{door.server.port}/v1/")
        servers = VllmConfig(vllm=urls)
        empty = outline(str(tmp_path / "vlm"), PolicyConfig(), store)
        assert all(p.is_meta for p in empty.parameters()), "no weight is read here"
        for start in ("", START):
            sampler = make_sampler(servers, empty, CONFIG, store, answer_start=start)
            groups = sampler(asked, 3)
            assert tokens(sampler(asked, 3)) == tokens(groups)
            assert tokens(sampler(asked, 3, 1)) != tokens(groups)
            torch.testing.assert_close(said(groups), trained(policy, sampler, asked, groups), atol=2e-4, rtol=2e-4)
            assert all(r.text.startswith(start) and policy.image_token not in r.tokens for g in groups for r in g)
        [[greedy]] = sampler.greedy()(asked[2:3], 1)
        assert sampler(asked[2:3], 1, starts=[greedy.tokens[:2]])
        other = load_policy(str(tiny_models.save_language(tmp_path / "other")), PolicyConfig())
        with pytest.raises(AssayError, match=r"reads another prompt|http 4|has pictures"):
            make_sampler(servers, other, CONFIG, store)(asked[:1], 1)
        done = run_assay(
            "policy", "evaluate", tmp_path / "vlm", questions(tmp_path), "--vllm", *urls, "--sampler.max-tokens", 4
        )
        assert done.returncode == 0, done.stderr
        assert "8 questions" in done.stdout
        live = make_sampler(VllmConfig(vllm=urls), policy, CONFIG, store, within=tmp_path)
        for step in (1, 2):
            disturb(policy, 0.2)
            live.load(step)
            groups = live(asked, 3)
            torch.testing.assert_close(said(groups), trained(policy, live, asked, groups), atol=2e-4, rtol=2e-4)
        done = run_assay(
            "policy", "grpo", tmp_path / "vlm", questions(tmp_path), "--out", tmp_path / "t", "--vllm", urls[0],
            "--steps", 4, "--prompts", 4, "--group", 4, "--lr", "1e-3", "--sampler.max-tokens", 6, "--staleness", 1,
            "--policy.precision", "fp32", "--reward-model", f"{Path(__file__).stem}:even", "--rewards.combine", "sum",
            "--signal", "total",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        metrics = read(tmp_path / "t" / "metrics.jsonl")
        assert [m["staleness_most"] for m in metrics] == [0, 0, 1, 1]
        assert [m["sampler_gap"] < 1e-3 for m in metrics[:2]] == [True] * 2, (
            "the servers have forgotten what they were taught"
        )
        assert not any("sampler_gap" in m for m in metrics[2:]), "an earlier policy's answers are compared with nothing"


@inside
def test_this_environment_is_the_one_that_is_pinned_and_vllm_s_own_ranges_hold_it() -> None:
    from packaging.requirements import Requirement

    lines = (Path(__file__).parents[2] / "constraints-vllm.txt").read_text().splitlines()
    pinned = {n.lower().replace("_", "-"): v for n, v in (x.split("==") for x in lines if "==" in x)}
    have = {n: metadata.version(n).split("+")[0] for n in pinned if _there(n)}
    assert have == {n: pinned[n] for n in have}
    assert {"vllm-cpu", "transformers", "torch", "numpy", "fastapi"} <= have.keys()
    for one in map(Requirement, metadata.requires("vllm-cpu") or ()):
        name = one.name.lower().replace("_", "-")
        if name in pinned and (one.marker is None or one.marker.evaluate({"extra": ""})):
            local = metadata.version(name) if name in have else pinned[name]
            assert one.specifier.contains(local), f"vLLM wants {one}"


def _there(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
