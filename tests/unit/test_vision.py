"""Vision-language models: assembled, saved, packed, sampled, rewarded; and pictures that are broken."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tiny_models
from assay import models, vision
from assay.errors import AssayError
from assay.images import ImageStore, blank
from assay.pack import Group, pad
from assay.policy.assemble import assemble, save, transfer
from assay.policy.config import PairConfig, PolicyConfig, SamplerConfig
from assay.policy.generate import GenerateSampler
from assay.policy.model import Policy, load_policy
from assay.policy.pairs import comparisons, dropout_pairs
from assay.policy.sampler import LocalSampler
from assay.records import Message, Preference, Response, assistant, user
from assay.reward.config import TrainConfig
from assay.reward.scorer import load_scorer
from assay.reward.train import train
from assay.rollouts import Prompt, Rollout
from assay.tuning.own import fitting

PIL = pytest.importorskip("PIL.Image")
KINDS = {
    "llava-clip": ("clip", 1), "llava-siglip": ("siglip", 1), "unshuffle": ("siglip", 2), "internvl": ("internvl", 2),
    "fastvlm": ("conv", 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(store: ImageStore) -> list[str]:
    random = np.random.default_rng(0)
    return [store.add(PIL.fromarray(random.integers(0, 255, (40, 50, 3), dtype=np.uint8))) for _ in range(4)]


def made(kind: str, text: str = "qwen3", seed: int = 0) -> tuple[Any, Any]:
    encoder, unshuffle = KINDS[kind]
    size = 64 if encoder == "conv" else 32
    seen, processor = tiny_models.encoder(encoder, size)
    language = tiny_models.language(text, seed=seed)
    return assemble(seen, processor, language, tiny_models.tokenizer(), size, unshuffle, seed=seed)


def prompts(pictures: list[str]) -> list[Prompt]:
    return [
        Prompt(messages=(Message(role="user", content=f"what is it{'?' * n}", images=(p,)),))
        for n, p in enumerate(pictures, 1)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_assembled_models_load_in_transformers_and_pack_exactly(
    kind: str, tmp_path: Path, store: ImageStore, pictures: list[str]
) -> None:
    model, processor = made(kind)
    save(model, processor, tmp_path / "vlm")
    again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm")
    assert {n: tuple(p.shape) for n, p in again.named_parameters()} == {
        n: tuple(p.shape) for n, p in model.named_parameters()
    }
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=("adapter", "llm")), store)
    assert policy.packed, policy.reason
    asked = prompts(pictures)
    ours = LocalSampler(policy, SamplerConfig(max_tokens=8, temperature=0), store, half=False)
    answers = ours(asked, 2)
    groups = [
        Group(
            prefix=np.array(ours.prompt_ids(p), dtype=np.int32), images=p.images,
            answers=tuple(np.array(r.tokens, dtype=np.int32) for r in rs),
        )
        for p, rs in zip(asked, answers, strict=True)
    ]  # fmt: skip
    found = policy(policy.batch(groups))
    found.logp_M.sum().backward()
    grads = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    said = torch.tensor([x for rs in answers for r in rs for x in r.logprobs])
    torch.testing.assert_close(found.logp_M, said, atol=1e-5, rtol=1e-5)
    unsure = torch.tensor([x for p, rs in zip(asked, answers, strict=True) for _ in rs for x in ours.entropies[p.id]])
    torch.testing.assert_close(found.entropy_M, unsure, atol=1e-4, rtol=1e-4)
    vision.language_model(policy.inner).set_attn_implementation("sdpa")
    policy.zero_grad()
    padded = policy(pad(groups, 0))
    padded.logp_M.sum().backward()
    torch.testing.assert_close(found.logp_M, padded.logp_M, atol=1e-5, rtol=1e-5)
    for name, parameter in policy.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(grads[name], parameter.grad, atol=1e-4, rtol=1e-4)
    theirs = GenerateSampler(policy, SamplerConfig(max_tokens=8, temperature=0), store)(asked, 2)
    assert [[r.tokens for r in g] for g in answers] == [[r.tokens for r in g] for g in theirs]


def test_the_whole_model_of_transformers_agrees_with_our_features(store: ImageStore, pictures: list[str]) -> None:
    model, processor = made("fastvlm")
    policy = Policy(model, processor, PolicyConfig(train=("adapter",)), store)
    prompt = prompts(pictures)[0]
    ids = torch.tensor([LocalSampler(policy, SamplerConfig(), store, half=False).prompt_ids(prompt)])
    assert policy.pictures is not None
    pixels = policy.pictures.inputs(prompt.images)["pixel_values"]
    vision.language_model(model).set_attn_implementation("sdpa")
    with torch.no_grad():
        whole = model(input_ids=ids, pixel_values=pixels).logits
        embeds = vision.embedded(model, ids, prompt.images, policy.pictures)["inputs_embeds"]
        ours = model(inputs_embeds=embeds).logits
        again = vision.embedded(model, ids, prompt.images, policy.pictures)["inputs_embeds"]
    torch.testing.assert_close(whole, ours, atol=1e-5, rtol=1e-5)
    assert torch.equal(embeds, again)


def test_what_a_frozen_tower_saw_is_kept_for_the_next_model_with_the_same_tower_alone(
    tmp_path: Path, store: ImageStore, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision, "_SEEN", {})
    looks: list[str] = []
    inputs = vision.Pictures.inputs
    monkeypatch.setattr(
        vision.Pictures, "inputs", lambda self, ids: looks.extend({*ids} & {*pictures}) or inputs(self, ids)
    )
    save(*made("fastvlm"), tmp_path / "vlm")
    save(*made("fastvlm", seed=1), tmp_path / "other adapter")
    seen, processor = tiny_models.encoder("conv", 64)
    with torch.no_grad():
        next(p for p in seen.parameters() if p.dim() == 1).add_(0.5)
    language = tiny_models.language("llama")
    save(*assemble(seen, processor, language, tiny_models.tokenizer(), 64), tmp_path / "other tower")

    def features(name: str, *train: Any) -> torch.Tensor:
        policy = load_policy(str(tmp_path / name), PolicyConfig(train=train or ("llm",)), store)
        assert policy.pictures is not None
        return policy.pictures.features(policy.inner, pictures)[0].detach()

    first = features("vlm")
    assert sorted(looks) == sorted(pictures)
    assert torch.equal(features("vlm"), first)
    features("other adapter")
    assert len(looks) == len(pictures), "nobody looks twice"
    features("other tower")
    assert len(looks) == 2 * len(pictures)
    features("vlm", "vision")
    assert len(looks) == 3 * len(pictures), "a tower that learns looks each time"
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        torch.testing.assert_close(features("vlm"), first)
    finally:
        torch.set_num_threads(before)
    assert len(looks) == 4 * len(pictures), "other threads round otherwise"
    monkeypatch.setattr(vision, "KEPT", 1)
    features("vlm")
    assert not vision._SEEN


def test_a_picture_does_not_depend_on_its_company(store: ImageStore, pictures: list[str]) -> None:
    """Kernels round as the batch has it (seen with EfficientNet: 32 pictures and 8 differ), so each must be seen alone."""
    model, processor = made("fastvlm")
    policy = Policy(model, processor, PolicyConfig(train=("adapter",)), store)
    assert policy.pictures is not None
    sizes: list[int] = []
    tower = vision.vision_tower(model).requires_grad_(False)
    first = next(m for m in tower.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    with torch.no_grad():
        together, _ = policy.pictures.features(model, pictures)
        again, _ = policy.pictures.features(model, [*pictures[2:], pictures[0]])
    assert sizes == [1] * len(pictures), "each once, alone"
    each = together.chunk(len(pictures))
    torch.testing.assert_close(again, torch.cat([*each[2:], each[0]]))


@pytest.mark.parametrize(
    ("parts", "trained"),
    [
        (("adapter",), {"adapter"}),
        (("adapter", "vision"), {"adapter", "vision"}),
        (("llm", "adapter"), {"adapter", "llm"}),
    ],
)
def test_one_setting_says_which_parts_train(
    parts: Any, trained: set[str], tmp_path: Path, store: ImageStore, pictures: list[str]
) -> None:
    save(*made("llava-siglip"), tmp_path / "vlm")
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=parts), store)
    group = Group(
        prefix=np.array(
            LocalSampler(policy, SamplerConfig(), store, half=False).prompt_ids(prompts(pictures)[0]), dtype=np.int32
        ),
        answers=(np.array([7, 8], dtype=np.int32),), images=pictures[:1],
    )  # fmt: skip
    policy(policy.batch([group])).logp_M.sum().backward()
    places = {
        "adapter": vision.adapter(policy.inner), "llm": vision.language_model(policy.inner),
        "vision": vision.vision_tower(policy.inner),
    }  # fmt: skip
    seen = {n for n, m in places.items() if any(p.grad is not None and p.grad.abs().sum() > 0 for p in m.parameters())}
    assert seen == trained


def test_lora_trains_few_weights_is_sampled_merged_and_saved_plain(
    tmp_path: Path, store: ImageStore, pictures: list[str]
) -> None:
    pytest.importorskip("peft")
    save(*made("fastvlm"), tmp_path / "vlm")
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=("llm", "adapter"), lora_rank=2), store)
    assert policy.packed, policy.reason
    trained = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert all(".lora_" in n or "multi_modal_projector" in n for n in trained)
    assert any(".lora_" in n for n in trained)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    asked = prompts(pictures)
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=6, temperature=0), store, half=True)
    sampler.load(1)
    plain = LocalSampler(policy, SamplerConfig(max_tokens=6, temperature=0), store, half=False)(asked, 1)
    merged = [r[0].logprobs[0] for r in sampler(asked, 1)]
    assert merged == pytest.approx([r[0].logprobs[0] for r in plain], abs=0.05)
    policy.save(tmp_path / "out")
    again = load_policy(str(tmp_path / "out"), PolicyConfig(train=("llm",)), store)
    theirs = copy.deepcopy(policy.model).merge_and_unload().state_dict()
    assert theirs.keys() == policy.weights().keys()
    for name, value in again.model.state_dict().items():
        torch.testing.assert_close(value, theirs[name], msg=name)
    other = LocalSampler(again, SamplerConfig(max_tokens=6, temperature=0), store, half=False)(asked, 1)
    assert [r[0].tokens for r in other] == [r[0].tokens for r in plain]


def test_a_pass_without_pictures_gives_what_lies_before_the_text_zeros(
    tmp_path: Path, store: ImageStore, pictures: list[str]
) -> None:
    """Else DDP waits for it for ever, and a pass of the adapter alone has no gradient at all."""
    save(*made("fastvlm"), tmp_path / "vlm")
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=("adapter",)), store)
    text = Group(prefix=np.arange(6, 12, dtype=np.int32), answers=(np.arange(12, 15, dtype=np.int32),))
    policy(policy.batch([text])).logp_M.sum().backward()
    trained = [p for p in policy.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and not p.grad.any() for p in trained)


def test_lora_leaves_an_untied_head_alone(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    seen, processor = tiny_models.encoder("siglip", 32)
    config = tiny_models.language("qwen3").config
    config.tie_word_embeddings = False
    language = transformers.Qwen3ForCausalLM(config)
    save(*assemble(seen, processor, language, tiny_models.tokenizer(), 32), tmp_path / "vlm")
    language.save_pretrained(tmp_path / "lm")
    tiny_models.tokenizer().save_pretrained(tmp_path / "lm")
    for name, parts in (("vlm", ("llm",)), ("vlm", ("adapter", "llm")), ("lm", ("llm",))):
        policy = load_policy(str(tmp_path / name), PolicyConfig(train=parts, lora_rank=2))
        head = policy.inner.get_output_embeddings().weight
        assert head is not policy.inner.get_input_embeddings().weight
        assert not head.requires_grad
        whole = {n for n, p in policy.named_parameters() if p.requires_grad and ".lora_" not in n}
        assert all("multi_modal_projector" in n for n in whole)
        assert bool(whole) == ("adapter" in parts)


def test_an_adapter_moves_to_another_language_model_of_the_same_width() -> None:
    source, _ = made("fastvlm", "llama")
    target, _ = made("fastvlm", "qwen3", seed=1)
    before = vision.language_model(target).state_dict()["norm.weight"].clone()
    assert not torch.equal(vision.adapter(source).linear_1.weight, vision.adapter(target).linear_1.weight)
    transfer(source, target)
    assert torch.equal(vision.adapter(source).linear_1.weight, vision.adapter(target).linear_1.weight)
    assert torch.equal(vision.language_model(target).state_dict()["norm.weight"], before)
    seen, processor = tiny_models.encoder("conv", 64)
    wide, _ = assemble(seen, processor, tiny_models.language(width=64), tiny_models.tokenizer(), 64)
    with pytest.raises(AssayError, match="same width"):
        transfer(source, wide)


def test_a_reward_model_with_pictures_learns_what_only_pictures_tell(tmp_path: Path, store: ImageStore) -> None:
    save(*made("llava-siglip"), tmp_path / "vlm")
    bright = [store.add(PIL.new("RGB", (32, 32), (255 - i, 250, 255))) for i in range(16)]
    dark = [store.add(PIL.new("RGB", (32, 32), (i, 5, 0))) for i in range(16)]
    pairs = []
    for n, (name, right, wrong) in enumerate(
        [(b, "bright", "dark") for b in bright] + [(d, "dark", "bright") for d in dark]
    ):
        prompt = (Message(role="user", content="how?", images=(name,)),)
        pairs.append(Preference(
            pair_id=str(n), prompt=prompt, chosen=Response.of(right), rejected=Response.of(wrong)
        ))  # fmt: skip
    config = TrainConfig(
        backbone=str(tmp_path / "vlm"), images=store.folder, batch_pairs=8, epochs=25, lr=5e-3, checks=2, max_tokens=128
    )
    trained = train(tmp_path / "rm", config, pairs[::2], pairs[1::2])
    assert trained.packed
    assert trained.gold_accuracy >= 0.9
    transformers.AutoModel.from_pretrained(tmp_path / "rm")
    score = load_scorer(tmp_path / "rm", images=store.folder)
    odd = [(*pairs[0].prompt, assistant(t)) for t in ("bright", "x" * 200, "an <image> more")]
    assert np.isfinite(load_scorer(tmp_path / "rm", 128, images=store.folder)(odd)).tolist() == [True, False, False]
    sides = [score([(*p.prompt, assistant(t)) for p in pairs[1::2]]) for t in ("bright", "dark")]
    right = (sides[0] > sides[1]) == np.array([p.chosen.text == "bright" for p in pairs[1::2]])
    assert right.mean() == trained.gold_accuracy


def test_broken_and_missing_pictures_are_refused_with_a_reason(tmp_path: Path, store: ImageStore) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    with pytest.raises(AssayError, match=r"broken\.png: cannot be decoded"):
        store.add(tmp_path / "broken.png")
    with pytest.raises(AssayError, match="no picture with the id"):
        store.open("0" * 32)
    good = store.add(blank(9, 9))
    assert store.add(blank(9, 9)) == good
    (store.folder / f"{good}.png").write_bytes(b"damaged")
    with pytest.raises(AssayError, match="cannot be decoded"):
        store.open(good)
    (store.folder / f"{good}.png").unlink()


def test_pictures_for_a_model_without_eyes_are_refused(tmp_path: Path, store: ImageStore, pictures: list[str]) -> None:
    policy = load_policy(str(tiny_models.save_language(tmp_path / "lm")), PolicyConfig())
    with pytest.raises(AssayError, match="vision-language model"):
        LocalSampler(policy, SamplerConfig(), store, half=False)(prompts(pictures), 1)
    with pytest.raises(AssayError, match="does not have"):
        load_policy(str(tmp_path / "lm"), PolicyConfig(train=("adapter",)))
    assert models.load_generator(str(tmp_path / "lm"))[0] is not None


def test_generate_obeys_the_sampler_s_settings_and_not_the_model_s_own(tmp_path: Path) -> None:
    policy = load_policy(str(tiny_models.save_language(tmp_path / "lm")), PolicyConfig())
    asked = [Prompt(messages=(user("say a"),), answer="a")]
    plain = LocalSampler(policy, SamplerConfig(max_tokens=12, temperature=0), half=False)(asked, 1)[0][0]
    assert len(set(plain.tokens)) < len(plain.tokens), "it repeats itself"
    own = policy.inner.generation_config
    own.repetition_penalty, own.top_k, own.suppress_tokens = 5.0, 1, [plain.tokens[0]]
    padded = load_policy(str(tmp_path / "lm"), PolicyConfig(packing=False))
    padded.inner.generation_config = own
    assert GenerateSampler(padded, SamplerConfig(max_tokens=12, temperature=0))(asked, 1)[0][0].tokens == plain.tokens
    drawn = GenerateSampler(padded, SamplerConfig(max_tokens=12))(asked, 8)[0]
    assert len({r.tokens for r in drawn}) > 1, "top_k 1 would leave one"
    assert padded.inner.generation_config is own


def test_generate_never_draws_the_picture_s_token(tmp_path: Path, store: ImageStore, pictures: list[str]) -> None:
    save(*made("llava-siglip"), tmp_path / "vlm")
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=("llm",), packing=False), store)
    sampler, asked = GenerateSampler(policy, SamplerConfig(max_tokens=30), store), prompts(pictures)[1]
    assert asked.images
    drawn = sampler([asked], 32)[0]
    assert sum(len(r.tokens) for r in drawn) > 300
    assert not any(policy.image_token in r.tokens for r in drawn)
    answers = tuple(np.array(r.tokens, dtype=np.int32) for r in drawn[:4])
    group = Group(prefix=np.array(sampler.prompt_ids(asked), dtype=np.int32), answers=answers, images=asked.images)
    found = policy(policy.batch([group])).logp_M.tolist()
    assert found == pytest.approx([x for r in drawn[:4] for x in r.logprobs], abs=1e-4)


def test_dropout_pairs_continue_half_an_answer_without_the_picture(
    tmp_path: Path, store: ImageStore, pictures: list[str]
) -> None:
    save(*made("llava-siglip"), tmp_path / "vlm")
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=("llm",)), store)
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=8), store, half=False)
    asked = prompts(pictures)
    whole = [
        [Rollout(prompt_id=p.id, tokens=(9, 10, 11, 12, 1), logprobs=(0.0,) * 5, text="", ended=n > 0, policy_step=0)]
        for n, p in enumerate(asked)
    ]
    found = dropout_pairs(asked, whole, sampler, PairConfig(dropout_cut=0.5))
    assert found.counts["without a picture, unfinished or too short"] == 1
    assert found.counts["pairs"] + found.counts.get("the same without the picture", 0) == 3
    for pair in found.pairs:
        assert pair.chosen == (9, 10, 11, 12, 1)
        assert pair.rejected[:2] == (9, 10)
        assert 2 < len(pair.rejected) <= 10
        assert pair.source == "dropout"
    same_prompt = comparisons(found.pairs, asked, sampler)[0]
    assert same_prompt.images == asked[1].images, "both are trained with the picture"


def test_a_prompt_too_long_with_its_picture_or_with_the_picture_s_mark_is_left_out_and_counted(
    tmp_path: Path, store: ImageStore, pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    save(*made("llava-siglip"), tmp_path / "vlm")
    policy = load_policy(str(tmp_path / "vlm"), PolicyConfig(train=("llm",)), store)
    sampler = LocalSampler(policy, SamplerConfig(), store, half=False)
    long = Prompt(messages=(Message(role="user", content="x" * 600, images=(pictures[0],)),))
    mark = policy.tokenizer.convert_ids_to_tokens(policy.image_token)
    marked = Prompt(messages=(Message(role="user", content=f"what is {mark}?", images=(pictures[0],)),))
    left = Counter[str]()
    assert fitting([*prompts(pictures), long, marked], policy, sampler, 64, left) == prompts(pictures)
    told = capsys.readouterr().out
    assert "1 questions left out: longer than 448 tokens with their pictures" in told
    assert f"1 questions left out: the text contains {mark}" in told
    assert sum(left.values()) == 2
    with pytest.raises(AssayError, match="no question is left"):
        fitting([long], policy, sampler, 64)
