"""In which precision weights are kept, how often, and the policy as it was at the start without a second model."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import transformers
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import tiny_models
import vlm_models
from assay import body_cpu, models, vision, weights
from assay.errors import AssayError
from assay.images import ImageStore
from assay.journal import read
from assay.pack import Group
from assay.policy.config import FitConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.generate import GenerateSampler
from assay.policy.grpo import grpo
from assay.policy.model import Policy, load_policy
from assay.policy.monitor import MonitorConfig
from assay.policy.mpo import Comparison, fit
from assay.policy.rewards import RewardConfig
from assay.policy.sampler import LocalSampler, local_sampler
from assay.policy.saving import base_weight
from assay.policy.vllm_weights import sources
from assay.records import Message, user
from assay.render import render_prompt
from assay.reward.config import EngineConfig
from assay.reward.model import RewardModel
from assay.reward.visual import load_visual
from assay.rollouts import Prompt, Score
from assay.step import Engine
from assay.tuning.own_grpo import run_grpo
from assay.tuning.reward_model import GoldConfig
from logprobs import said, tokens, trained, whole

pytest.importorskip("PIL.Image")
PROMPTS = [Prompt(messages=(user(f"say {c * n}"),), answer=c) for n, c in enumerate("abcd", 1)]
ANSWERS = (np.array([40, 41, 42], dtype=np.int32), np.array([43, 44], dtype=np.int32))
BF16, FP32 = torch.bfloat16, torch.float32


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of weights that are the same in bfloat16."""
    folder = tmp_path_factory.mktemp("lm")
    tiny_models.language("qwen3", width=64, head=16).bfloat16().float().save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def asked(*images: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content="what is it?", images=images),))


def disturb(policy: Policy, size: float = 0.1) -> None:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.parameters():
            if p.requires_grad:
                here = p.to_local() if isinstance(p, DTensor) else p
                here.add_(torch.randn(p.shape, generator=draw), alpha=size)


def held(*modules: Any) -> int:
    """The bytes of all their parameters, each memory once."""
    return sum({p.data_ptr(): p.nbytes for m in modules for p in m.parameters()}.values())


def logp(policy: Policy, *groups: Group) -> torch.Tensor:
    with torch.autocast("cpu", BF16, enabled=policy.bf16):
        return policy(policy.batch(groups)).logp_M  # type: ignore[no-any-return]


TEXT = Group(prefix=np.arange(6, 20, dtype=np.int32), answers=ANSWERS)


def test_frozen_weights_rest_in_bfloat16_and_change_no_number(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    config = PolicyConfig(lora_rank=4, precision="bf16")
    policy = load_policy(str(text), config)
    frozen = {n: p for n, p in policy.named_parameters() if not p.requires_grad}
    assert all(p.dtype == FP32 for p in policy.parameters() if p.requires_grad), "masters"
    assert {p.dtype for p in frozen.values() if p.dim() > 1} == {BF16}
    assert {p.dtype for p in frozen.values() if p.dim() == 1} == {FP32}, "norms are no products"
    monkeypatch.setattr(weights, "narrow", lambda _: None)
    cast_anew = load_policy(str(text), config)
    assert {p.dtype for p in cast_anew.parameters()} == {FP32}
    for one in (policy, cast_anew):
        disturb(one)
    found, expected = logp(policy, TEXT), logp(cast_anew, TEXT)
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    grads = [{n: p.grad for n, p in one.named_parameters() if p.requires_grad} for one in (policy, cast_anew)]
    assert all(torch.equal(g, grads[1][n]) and g.any() for n, g in grads[0].items())  # type: ignore[arg-type, union-attr]
    assert held(policy) < 0.6 * held(cast_anew)


@pytest.fixture
def layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding by the model's own layers: compiled loops (AVX512-BF16) keep a copy of the weights in their order."""
    monkeypatch.setattr(body_cpu, "library", lambda: None)


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "qwen3-vl", "internvl", "gemma3"])
def test_with_pictures_in_bfloat16_the_sampler_is_the_trainer(
    kind: str, made: Callable[[str], Path], store: ImageStore, pictures: list[str], layers_alone: None
) -> None:
    policy = load_policy(str(made(kind)), PolicyConfig(train=("adapter",), precision="bf16"), store)
    own = {id(p) for p in vision.adapter(policy.inner).parameters()}
    assert {p.dtype for p in policy.parameters() if id(p) in own} == {FP32}
    assert {p.dtype for p in vision.tower_weights(policy.inner) if p.dim() == 2} >= {BF16}
    assert {
        m.weight.dtype for m in vision.language_model(policy.inner).modules() if isinstance(m, torch.nn.Linear)
    } == {BF16}
    sampler = local_sampler(policy, SamplerConfig(max_tokens=5), store)
    prompts = [asked(pictures[0]), asked(pictures[1], pictures[0]), asked()]
    for step in range(2):
        sampler.load(step)
        groups = sampler(prompts, 3)
        apart = (said(groups) - trained(policy, sampler, prompts, groups)).abs()
        assert apart.mean() < 0.03
        disturb(policy, 0.3)
    stale = (said(groups) - trained(policy, sampler, prompts, groups)).abs()
    assert stale.mean() > 3 * apart.mean(), "an adapter's update would be seen"
    if isinstance(sampler, LocalSampler):
        assert held(policy, sampler.decoder.body, sampler.decoder.head) < 1.1 * held(policy), "no second language model"


def test_a_policy_that_only_answers_is_held_once_in_bfloat16(text: Path, layers_alone: None) -> None:
    policy = load_policy(str(text), PolicyConfig(precision="bf16"), trains=False)
    sampler = local_sampler(policy, SamplerConfig(max_tokens=5))
    body = sampler.decoder.body  # type: ignore[union-attr]
    fp32 = held(load_policy(str(text), PolicyConfig(precision="fp32")))
    assert held(policy, body) < 0.55 * fp32
    groups = sampler(PROMPTS, 2)
    assert (said(groups) - trained(policy, sampler, PROMPTS, groups)).abs().mean() < 0.02
    learns = load_policy(str(text), PolicyConfig(precision="bf16"))
    assert tokens(local_sampler(learns, SamplerConfig(max_tokens=5))(PROMPTS, 2)) == tokens(groups)


def test_merged_adapters_keep_the_digits_that_bfloat16_has_not(text: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy = load_policy(str(text), PolicyConfig(lora_rank=4, precision="bf16"))
    disturb(policy, 0.01)
    policy.save(tmp_path / "saved")
    again = load_policy(str(tmp_path / "saved"), PolicyConfig(precision="fp32"))
    layer = policy.model.base_model.model.model.layers[0].mlp.up_proj
    exact = layer.base_layer.weight.float() + layer.get_delta_weight("default")
    found = again.inner.model.layers[0].mlp.up_proj.weight
    torch.testing.assert_close(found, exact)
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("parts", "rank"), [(("llm",), 4), (("adapter",), 0), (("adapter", "llm"), 4), (("llm", "vision"), 0)]
)
def test_the_policy_at_its_start_is_a_frozen_copy_without_a_second_model(
    made: Callable[[str], Path], store: ImageStore, pictures: list[str], parts: Any, rank: int, precision: Any
) -> None:
    if rank:
        pytest.importorskip("peft")
    config = PolicyConfig(train=parts, lora_rank=rank, precision=precision)
    policy, copy = (load_policy(str(made("qwen2.5-vl")), config, store) for _ in range(2))
    copy.requires_grad_(False)
    ids = np.array(local_sampler(policy, SamplerConfig(), store).prompt_ids(asked(*pictures)), dtype=np.int32)
    group = Group(prefix=ids, answers=ANSWERS, images=tuple(pictures))
    before = held(policy)
    policy.keep_start()
    whole_parts = [p for n, p in policy.named_parameters() if p.requires_grad and ".lora_" not in n]
    assert sum(kept.nbytes for _, kept in policy.start) == sum(p.nbytes for p in whole_parts)
    assert held(policy) == before
    disturb(policy)
    moved, trains = logp(policy, group), {n for n, p in policy.named_parameters() if p.requires_grad}
    moved.sum().backward()
    grads = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    with torch.no_grad():
        expected = logp(copy, group)
        for _ in range(2):
            with policy.at_start():
                assert torch.equal(logp(policy, group), expected)
    assert (moved - expected).abs().max() > 0.01
    assert torch.equal(logp(policy, group), moved), "and it is where it was"
    assert {n for n, p in policy.named_parameters() if p.requires_grad} == trains
    policy.zero_grad()
    logp(policy, group).sum().backward()
    assert all(torch.equal(p.grad, grads[n]) for n, p in policy.named_parameters() if p.requires_grad)  # type: ignore[arg-type]


def in_half(folder: Path, out: Path, *wide: str) -> str:
    """The same checkpoint in bfloat16, and its config says so; weights of the names `wide` are not."""
    shutil.copytree(folder, out)
    held = load_file(out / "model.safetensors")
    save_file(
        {n: x if n in wide else x.bfloat16() for n, x in held.items()}, out / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return str(out)


@pytest.mark.parametrize(("kind", "half"), [("qwen2.5-vl", True), ("gemma3", False), ("text", True), ("wide", False)])
def test_what_rests_in_bfloat16_is_read_in_it_and_nothing_else_is_lost(
    kind: str, half: bool, made: Callable[[str], Path], text: Path, store: ImageStore, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """gemma3 has a number of its own, which would be rounded; `wide` a norm that is in fp32 whatever its config says."""
    norm = "model.norm.weight"
    folder = in_half(text if kind in ("text", "wide") else made(kind), tmp_path / "half", *[norm] * (kind == "wide"))
    if kind == "wide":
        held = load_file(Path(folder) / "model.safetensors")
        save_file({**held, norm: held[norm] + 1e-3}, Path(folder) / "model.safetensors", {"format": "pt"})
    config, read = PolicyConfig(train=("llm",), precision="bf16"), list[set[torch.dtype]]()
    narrow = weights.narrow

    def narrowed(model: Any) -> None:
        read.append({p.dtype for p in model.parameters()})
        narrow(model)

    monkeypatch.setattr(weights, "narrow", narrowed)
    found = load_policy(folder, config, store)
    assert read == [{BF16} if half else {FP32}]
    monkeypatch.setattr(weights, "in_bfloat16", lambda _: False)
    before = load_policy(folder, config, store)
    assert {n: (x.dtype, x.requires_grad) for n, x in before.named_parameters()} == {
        n: (x.dtype, x.requires_grad) for n, x in found.named_parameters()
    }
    for (name, one), (_, other) in zip(
        [*before.named_parameters(), *before.named_buffers()], [*found.named_parameters(), *found.named_buffers()],
        strict=True,
    ):  # fmt: skip
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "internvl"])
def test_a_reward_model_that_scores_keeps_its_tower_in_bfloat16_and_gives_the_same_rewards(
    kind: str, made: Callable[[str], Path], store: ImageStore, pictures: list[str], layers_alone: None
) -> None:
    torch.manual_seed(0)
    model, processor = load_visual(str(made(kind)))
    seeing = vision.Pictures(processor, store)
    reward = RewardModel(model, processor.tokenizer.pad_token_id, EngineConfig(), "bf16", seeing)
    ids = render_prompt(processor, asked(pictures[0]).messages, store)
    batch = reward.batch([Group(prefix=np.array(ids, dtype=np.int32), answers=ANSWERS, images=(pictures[0],))])

    def rewards() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return reward(batch).clone()

    before = rewards()
    assert {p.dtype for p in vision.tower_weights(reward.inner)} == {FP32}
    reward.score_only()
    assert {p.dtype for p in vision.tower_weights(reward.inner) if p.dim() == 2} >= {BF16}
    assert FP32 not in {
        m.weight.dtype for m in vision.vision_tower(reward.inner).modules() if type(m) is torch.nn.Linear
    }
    torch.testing.assert_close(rewards(), before, atol=2e-3, rtol=2e-2)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("rank", [0, 4])
def test_a_sharded_policy_at_its_start_reads_no_weights_gathered_before(
    made: Callable[[str], Path], store: ImageStore, pictures: list[str], mesh: Any, rank: int
) -> None:
    """FSDP2 leaves what a pass has gathered for the whole module gathered; on one process, sharded as `Engine` does it."""
    if rank:
        pytest.importorskip("peft")
    config = PolicyConfig(train=("adapter", "llm"), lora_rank=rank, precision="bf16")
    policy, copy = (load_policy(str(made("qwen2.5-vl")), config, store) for _ in range(2))
    ids = np.array(local_sampler(policy, SamplerConfig(), store).prompt_ids(asked(pictures[0])), dtype=np.int32)
    group = Group(prefix=ids, answers=ANSWERS, images=(pictures[0],))
    engine = Engine("bf16", 1.0)
    engine.state = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)  # type: ignore[assignment]
    for one in (policy, copy):
        engine._shard(one)
    policy.keep_start()
    before, wanted = logp(policy, group), logp(copy, group)
    assert torch.equal(before, wanted)
    (before + wanted).sum().backward()  # after which nothing is gathered
    disturb(policy)
    disturb(copy)
    with torch.no_grad():
        for _ in range(2):
            with policy.at_start():
                assert torch.equal(logp(policy, group), before)
            assert torch.equal(logp(policy, group), logp(copy, group))
    assert (logp(policy, group) - before).abs().max() > 0.01


def first_tokens(pairs: Any) -> list[Score]:
    found = [float(r.tokens[0] % 2 == 0) for _, r in pairs]
    return [Score(rule=f, format=0.0, total=f) for f in found]


def vowels(conversations: Any) -> list[float]:
    return [float(sum(c[-1].content.count(v) for v in "aeiou")) for c in conversations]


def test_grpo_with_kl_and_mpo_load_one_model(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    loaded: list[str] = []
    load = models.load_generator
    monkeypatch.setattr(models, "load_generator", lambda name, *more: loaded.append(name) or load(name, *more))
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"say {c}", "answer": c}) + "\n" for c in "abcd"))
    run_grpo(
        str(text), questions, tmp_path / "grpo", GrpoConfig(steps=3, prompts=4, group=4, lr=1e-2, kl=0.1, signal="total"),
        PolicyConfig(lora_rank=4), SamplerConfig(max_tokens=6), RewardConfig(combine="sum"),
        GoldConfig(reward_model="test_weights_kept:vowels"), MonitorConfig(), None, "", (),
    )  # fmt: skip
    found = [m["kl"] for m in read(tmp_path / "grpo" / "metrics.jsonl") if not m["skipped"]]
    assert found[0] == pytest.approx(0.0, abs=1e-6)
    assert found[-1] > 0
    examples = [Comparison(prompt=(5, 6, 7, 8 + i), chosen=(10 + i, 11, 1), rejected=(12, 13 + i, 1)) for i in range(4)]
    policy = load_policy(str(text), PolicyConfig(lora_rank=4))
    fit(tmp_path / "mpo", FitConfig(batch=4, epochs=2, lr=1e-2), policy, examples)
    assert len(loaded) == 2, "one for each training"


@pytest.mark.parametrize("kind", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
def test_qwen_s_tower_sees_a_picture_once_and_its_mergers_learn(
    kind: str, made: Callable[[str], Path], store: ImageStore, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision, "_SEEN", {})
    policy = load_policy(str(made(kind)), PolicyConfig(train=("adapter",), precision="fp32"), store)
    inner = policy.inner
    for n, p in enumerate(vision.adapter(inner).parameters()):
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(n))
    ran, processed = [], []
    vision.vision_tower(inner).blocks[0].attn.register_forward_hook(lambda *_: ran.append(1))
    inputs = vision.Pictures.inputs
    monkeypatch.setattr(vision.Pictures, "inputs", lambda self, ids: processed.extend(ids) or inputs(self, ids))
    assert policy.pictures is not None
    given = [pictures[1], pictures[0], pictures[1]]
    for _ in range(3):
        features, deeper = policy.pictures.features(inner, given)
    assert (len(ran), sorted(processed)) == (2, sorted(pictures)), "each once, however often it is shown"
    together = torch.cat([features, *deeper], 0)
    together.square().sum().backward()
    kept = {n: p.grad.clone() for n, p in inner.named_parameters() if p.grad is not None}
    assert set(kept) == {n for n, p in inner.named_parameters() if p.requires_grad}
    monkeypatch.setattr(vision, "_frozen", lambda _: False)
    policy.zero_grad()
    anew, layers = policy.pictures.features(inner, given)
    assert len(ran) == 3
    anew = torch.cat([anew, *layers], 0)
    torch.testing.assert_close(together, anew)
    anew.square().sum().backward()
    for name, p in inner.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(kept[name], p.grad, msg=name)


def test_generate_draws_several_prompts_in_one_padded_batch(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(str(text), PolicyConfig(packing=False, precision="fp32"))
    calls: list[int] = []
    generate = type(policy.inner).generate
    monkeypatch.setattr(
        type(policy.inner),
        "generate",
        lambda self, **given: calls.append(len(given["input_ids"])) or generate(self, **given),
    )
    for temperature in (0.0, 1.0):
        sampler = GenerateSampler(policy, SamplerConfig(max_tokens=7, temperature=temperature))
        groups = sampler(PROMPTS, 3)
        assert calls == [1, 2, 4 if not temperature else 12], (
            "tried with the shortest and the longest, then all at once"
        )
        calls.clear()
        torch.testing.assert_close(said(groups), trained(policy, sampler, PROMPTS, groups), atol=1e-5, rtol=1e-5)
        rows = [(p, r) for p, g in zip(PROMPTS, groups, strict=True) for r in g]
        true = [whole(policy, p, r.tokens)[range(len(r.tokens)), r.tokens] for p, r in rows]
        torch.testing.assert_close(said(groups), torch.cat(true), atol=1e-4, rtol=1e-4)
    small = GenerateSampler(policy, SamplerConfig(max_tokens=7, temperature=0.0, rows=2))
    assert tokens(small(PROMPTS, 3)) == tokens(sampler.greedy()(PROMPTS, 3))
    assert calls == [1, 2, 2, 2, 4], "rows bounds them; a greedy reader knows what was tried"


def test_prompts_go_one_by_one_where_a_model_sees_padding(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(str(text), PolicyConfig(packing=False, precision="fp32"))
    forward = policy.inner.forward

    def blind(*args: Any, attention_mask: Any = None, **given: Any) -> Any:
        return forward(*args, **given)

    monkeypatch.setattr(policy.inner, "forward", blind)
    sampler = GenerateSampler(policy, SamplerConfig(max_tokens=5, temperature=0.0))
    groups = sampler(PROMPTS, 1)
    assert sampler.together is False
    monkeypatch.undo()
    torch.testing.assert_close(said(groups), trained(policy, sampler, PROMPTS, groups), atol=1e-5, rtol=1e-5)


@pytest.fixture
def four_bits(tmp_path: Path) -> Path:
    pytest.importorskip("bitsandbytes", reason="QLoRA is not tested: bitsandbytes is not installed")
    pytest.importorskip("peft")
    return tiny_models.save_language(tmp_path / "lm", "qwen3", width=64, head=32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_policy_on_four_bits_learns_is_sampled_and_saved_as_it_is(
    four_bits: Path, tmp_path: Path, precision: Any
) -> None:
    config = PolicyConfig(lora_rank=4, quantize=True, precision=precision)
    policy = load_policy(str(four_bits), config)
    linear = [m for m in vision.language_model(policy.inner).modules() if hasattr(m, "base_layer")]
    assert len(linear) == 14
    assert all(m.base_layer.weight.dtype == torch.uint8 for m in linear)
    assert policy.inner.get_output_embeddings().weight.is_floating_point()
    atol = 1e-5 if precision == "fp32" else 0.03
    sampler = local_sampler(policy, SamplerConfig(max_tokens=6))
    done = grpo(
        tmp_path / "tuned",
        GrpoConfig(steps=3, prompts=4, group=4, lr=1e-2, kl=0.1),
        policy,
        PROMPTS,
        sampler,
        first_tokens,
    )
    metrics = read(tmp_path / "tuned" / "metrics.jsonl")
    assert all(m["sampler_gap"] < atol for m in metrics)
    assert metrics[-1]["kl"] > 0
    assert all(p.abs().sum() > 0 for n, p in policy.named_parameters() if "lora_B" in n), (
        "after readings gradients still flow"
    )
    sampler.load(9)
    groups = sampler(PROMPTS, 2)
    handed_over = {n: source() for n, source in sources(policy.inner).items()}
    merged = {n: x for n, x in policy.weights().items() if n in handed_over}
    assert handed_over.keys() == merged.keys()
    assert handed_over.keys() == dict(tiny_models.language("qwen3").named_parameters()).keys()
    assert all(torch.allclose(x.float(), merged[n].float(), atol=1e-3) for n, x in handed_over.items()), "to vLLM"
    saved = load_policy(str(done.folder), PolicyConfig(precision=precision))
    assert not any("quant" in n for n in saved.inner.config.to_dict())
    torch.testing.assert_close(trained(saved, sampler, PROMPTS, groups), said(groups), atol=atol, rtol=0)
    apart = trained(load_policy(str(four_bits), PolicyConfig(precision=precision)), sampler, PROMPTS, groups) - said(
        groups
    )
    assert apart.abs().max() > 0.1, "what is saved has learned, and has the rounding of 4 bits"


@pytest.mark.parametrize("kind", ["llava", "internvl", "smolvlm", "qwen2.5-vl"])
def test_four_bits_are_the_language_model_s_alone(kind: str, tmp_path: Path) -> None:
    """Not its tower's, nor its adapter's, whatever the class calls them."""
    pytest.importorskip("bitsandbytes", reason="QLoRA is not tested: bitsandbytes is not installed")
    model, _ = models.load_generator(str(vlm_models.make(kind, tmp_path / kind)), torch.float32)
    body = vision.language_model(model)
    inside = {id(p) for p in body.parameters()}
    assert all(p.is_floating_point() for p in model.parameters() if id(p) not in inside)
    linear = [m for m in body.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 3 * 7
    assert all(m.weight.dtype == torch.uint8 for m in linear)


def test_a_reading_leaves_four_bits_as_they_are(tmp_path: Path) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes packs layers at a pass without a gradient; after it none goes back through."""
    pytest.importorskip("bitsandbytes", reason="QLoRA is not tested: bitsandbytes is not installed")
    folder = tiny_models.reward(tmp_path / "reward")
    config = models.load_config(str(folder))
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 32
    torch.manual_seed(0)
    transformers.Qwen3ForSequenceClassification(config).save_pretrained(folder)
    backbone = models.Backbone(name=str(folder), quantize=True)
    model = models.load_reward_model(backbone, models.load_tokenizer(str(folder)), trained=True).eval()
    layer = model.model.layers[0].mlp.up_proj
    before, ids = base_weight(layer), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        model(input_ids=ids)
    assert torch.equal(base_weight(layer), before)
    states = torch.randn(1, 3, 64, requires_grad=True)
    layer(states).sum().backward()
    assert states.grad is not None
    torch.testing.assert_close(states.grad[0, 0], before.sum(0), atol=0.02, rtol=0.02)


def test_four_bits_are_refused_where_they_cannot_be(four_bits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssayError, match=r"set policy\.lora_rank"):
        PolicyConfig(quantize=True)
    with pytest.raises(AssayError, match="cannot be sharded"):
        PolicyConfig(quantize=True, lora_rank=4, shard=True)
    with pytest.raises(AssayError, match="nothing is trained here"):
        load_policy(str(four_bits), PolicyConfig(quantize=True, lora_rank=4), trains=False)
    packed, tokenizer = models.load_generator(str(four_bits), torch.float32)
    packed.save_pretrained(four_bits / "packed")
    tokenizer.save_pretrained(four_bits / "packed")
    load_policy(str(four_bits / "packed"), PolicyConfig(), trains=False)
    for config in (PolicyConfig(), PolicyConfig(lora_rank=4)):
        with pytest.raises(AssayError, match="are quantised, and cannot be trained"):
            load_policy(str(four_bits / "packed"), config)
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(AssayError, match=r"pip install .*lora"):
        load_policy(str(four_bits), PolicyConfig(quantize=True, lora_rank=4))
