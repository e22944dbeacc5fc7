"""A picture tried at loading; and batches with and without pictures, and parts, of transformers' own classes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from assay import packing, sight, vision
from assay.errors import AssayError
from assay.images import ImageStore
from assay.pack import Group
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import local_sampler
from assay.records import Message, assistant
from assay.render import render_prompt
from assay.reward.config import EngineConfig
from assay.reward.model import RewardModel
from assay.reward.scorer import LocalScorer
from assay.reward.visual import load_visual
from assay.rollouts import Prompt

pytest.importorskip("PIL.Image")
ANSWERS = (np.array([40, 41, 42], dtype=np.int32), np.array([43, 44], dtype=np.int32))


@pytest.fixture
def picture(pictures: list[str]) -> str:
    return pictures[0]


def group(policy: Policy, store: ImageStore, *images: str) -> Group:
    ids = render_prompt(policy.processor, (Message(role="user", content="what?", images=images),), store)
    return Group(prefix=np.array(ids, dtype=np.int32), answers=ANSWERS, images=images)


def test_pictures_whose_tokens_see_each_other_are_found_and_padded_rows_take_over(
    made: Callable[[str], Path], store: ImageStore, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma 3 without sliding windows is packed exactly on text: only a picture tells, whatever the config says."""
    monkeypatch.setattr(packing, "_unpackable", lambda _: "")
    folder = str(made("gemma3-full"))
    blind = load_policy(folder, PolicyConfig())
    assert blind.packed
    policy = load_policy(folder, PolicyConfig(), store)
    assert "with a picture, packs differ from the whole model by" in policy.reason
    assert vision.language_model(policy.inner).config._attn_implementation == "sdpa"
    sampler = local_sampler(policy, SamplerConfig(max_tokens=4), store)
    asked = Prompt(messages=(Message(role="user", content="what?", images=(picture,)),))
    [answers] = sampler([asked], 2)
    tokens = tuple(np.array(r.tokens, dtype=np.int32) for r in answers)
    with torch.no_grad():
        found = policy(policy.batch([replace(group(policy, store, picture), answers=tokens)])).logp_M
    said = torch.tensor([x for r in answers for x in r.logprobs])
    torch.testing.assert_close(found, said, atol=1e-4, rtol=1e-4)


def test_a_model_whose_prompt_sees_its_answer_is_refused_with_the_reason(
    made: Callable[[str], Path], store: ImageStore
) -> None:
    with pytest.raises(AssayError, match=r"PaliGemma.*depend on the answer that follows"):
        load_policy(str(made("paligemma")), PolicyConfig(), store)


def test_tiles_that_the_text_counts_and_the_tower_does_not_see_are_refused(
    made: Callable[[str], Path], store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers before 5.20 made of InternVL here: its processor's own settings for pictures were not read."""
    before = vision.Pictures.__init__

    def without_options(self: vision.Pictures, *given: object) -> None:
        before(self, *given)  # type: ignore[arg-type]
        self.options = {}

    monkeypatch.setattr(vision, "_SEEN", {})  # what is seen without tiles here is not what others are to find
    monkeypatch.setattr(vision.Pictures, "__init__", without_options)
    with pytest.raises(AssayError, match="cannot be used with pictures here"):
        load_policy(str(made("internvl")), PolicyConfig(), store)


def test_the_settings_for_pictures_are_found_as_older_versions_of_transformers_keep_them(store: ImageStore) -> None:
    settings = SimpleNamespace(_defaults={"images_kwargs": {"crop_to_patches": True, "return_tensors": "np"}})
    images = transformers.GotOcr2ImageProcessorPil()
    processor = SimpleNamespace(image_processor=images, valid_processor_kwargs=settings)
    assert vision.Pictures(processor, store).options == {"crop_to_patches": True}


def test_a_tower_with_a_place_of_its_own_keeps_its_attention(made: Callable[[str], Path], store: ImageStore) -> None:
    policy = load_policy(str(made("smolvlm")), PolicyConfig(train=("adapter",)), store)
    assert policy.packed, policy.reason
    tower = vision.vision_tower(policy.inner)
    assert tower.config._attn_implementation != "assay"
    assert vision.language_model(policy.inner).config._attn_implementation == "assay"


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "qwen3-vl", "llava"])
@pytest.mark.parametrize("packing", [True, False])
def test_a_batch_without_pictures_gives_what_trains_a_gradient_of_zero(
    kind: str, packing: bool, made: Callable[[str], Path], store: ImageStore, picture: str
) -> None:
    """Else DDP waits for ever, and a run that trains the adapter alone ends: there is no backward pass."""
    policy = load_policy(str(made(kind)), PolicyConfig(train=("adapter", "vision"), packing=packing), store)
    trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    seen = policy(policy.batch([group(policy, store, picture)])).logp_M
    seen.sum().backward()
    assert all(p.grad is not None for p in trained.values())
    before = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
    assert sum(bool(g.any()) for g in before.values()) > len(before) / 2
    blind = policy(policy.batch([group(policy, store)])).logp_M
    blind.sum().backward()
    for name, p in trained.items():
        assert p.grad is not None
        assert torch.equal(p.grad, before[name]), "zero is added"
    policy.zero_grad()
    with torch.no_grad():
        plain = policy(policy.batch([group(policy, store)])).logp_M
    torch.testing.assert_close(blind.detach(), plain)


def test_qwen_s_mergers_are_the_adapter_and_the_tower_is_the_rest(
    made: Callable[[str], Path], store: ImageStore
) -> None:
    def trained(kind: str, *parts: str) -> set[str]:
        policy = load_policy(str(made(kind)), PolicyConfig(train=parts), store)  # type: ignore[arg-type]
        return {n.removeprefix("model.model.") for n, p in policy.named_parameters() if p.requires_grad}

    assert {n.split(".")[1] for n in trained("qwen2.5-vl", "adapter")} == {"merger"}
    adapter, tower = trained("qwen3-vl", "adapter"), trained("qwen3-vl", "vision")
    assert {n.split(".")[1] for n in adapter} == {"merger", "deepstack_merger_list"}
    assert {n.split(".")[1] for n in tower} == {"patch_embed", "pos_embed", "blocks"}
    assert trained("qwen3-vl", "adapter", "vision") == adapter | tower
    tower = trained("llava", "vision")
    assert tower
    assert not any("projector" in n for n in tower)


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "qwen3-vl", "gemma3"])
def test_a_reward_model_sees_in_packs_in_rows_and_in_passes(
    kind: str, made: Callable[[str], Path], store: ImageStore, picture: str
) -> None:
    torch.manual_seed(0)
    model, processor = load_visual(str(made(kind)))
    pad_id = processor.tokenizer.pad_token_id
    pictures = vision.Pictures(processor, store)
    rows = RewardModel(model, pad_id, EngineConfig(packing=False), pictures=pictures)
    ids = render_prompt(processor, (Message(role="user", content="what?", images=(picture,)),), store)
    asked = Group(prefix=np.array(ids, dtype=np.int32), answers=ANSWERS, images=(picture,))
    with torch.no_grad():
        base = model.model
        for answer, found in zip(ANSWERS, rows(rows.batch([asked])), strict=True):
            whole = torch.tensor([[*ids, *answer.tolist()]])
            with vision.given(model, whole, (picture,), pictures) as given:
                state_D = base(**given).last_hidden_state[0, -1]
            torch.testing.assert_close(found, model.score(state_D)[0], atol=1e-4, rtol=1e-4)
        told = rows(rows.batch([asked]))
        packs = RewardModel(model, pad_id, EngineConfig(tokens=len(ids) + 2), pictures=pictures)
        assert packs.packed == (kind != "gemma3")
        torch.testing.assert_close(packs(packs.batch([asked])), told, atol=1e-4, rtol=1e-4)
        if packs.packed:
            parts = {i: float(x) for part, xs in packs.passes(asked) for i, x in zip(part, xs, strict=True)}
            torch.testing.assert_close(torch.tensor([parts[0], parts[1]]), told, atol=1e-4, rtol=1e-4)
            alone = Group(
                prefix=asked.prefix[:0], answers=(np.concatenate([asked.prefix, ANSWERS[0]]),), images=(picture,)
            )
            [(_, once)] = packs.passes(alone)
            torch.testing.assert_close(once, told[:1], atol=1e-4, rtol=1e-4)
    conversation = (Message(role="user", content="what?", images=(picture,)), assistant("a blue one"))
    scored = LocalScorer(model, processor, 512, store=store)
    [one] = scored([conversation])
    vision.language_model(model).set_attn_implementation("sdpa")
    with torch.no_grad():
        rendered = np.array(scored.render([conversation])[0].ids)  # type: ignore[attr-defined]
        with vision.given(model, torch.tensor(rendered)[None], (picture,), pictures) as whole:
            assert one == pytest.approx(float(model.score(model.model(**whole).last_hidden_state[0, -1])), abs=1e-4)
    packs = RewardModel(model, pad_id, EngineConfig(), pictures=pictures)
    blind = Group(prefix=np.array([40, 41], dtype=np.int32), answers=ANSWERS)
    packs(packs.batch([blind])).sum().backward()
    assert all(p.grad is not None for p in vision.adapter(model).parameters())


def test_a_value_head_of_trl_s_is_read_by_its_name_and_saved_as_ours(
    made: Callable[[str], Path], tmp_path: Path, store: ImageStore, picture: str
) -> None:
    """The layout of Skywork-VL Reward: the whole model, and value_head.safetensors with a bias."""
    folder = tmp_path / "reward"
    shutil.copytree(made("qwen2.5-vl"), folder)
    with pytest.raises(AssayError, match="no reward head"):
        load_visual(str(folder), trained=True)
    head = torch.nn.Linear(32, 1)
    save_file(
        {f"v_head.summary.{n}": x.bfloat16() for n, x in head.state_dict().items()}, folder / "value_head.safetensors"
    )
    model, processor = load_visual(str(folder), trained=True)
    conversation = (Message(role="user", content="what?", images=(picture,)), assistant("a blue one"))
    said = LocalScorer(model, processor, 512, store=store)
    [found] = said([conversation])
    whole = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    ids = torch.tensor([said.render([conversation])[0].ids])  # type: ignore[attr-defined]
    with torch.no_grad():
        with vision.given(whole, ids, (picture,), vision.Pictures(processor, store)) as given:
            state_D = whole(**given, output_hidden_states=True).hidden_states[-1][0, -1]
        theirs = float(state_D @ head.weight[0].bfloat16().float() + head.bias.bfloat16().float())
    assert found == pytest.approx(theirs, abs=1e-4)
    model.save_pretrained(tmp_path / "ours", model.state_dict())
    processor.save_pretrained(tmp_path / "ours")
    again = LocalScorer(*load_visual(str(tmp_path / "ours"), trained=True), 512, store=store)
    assert again([conversation])[0] == pytest.approx(found, abs=1e-5)
    save_file({"v_head.summary.weight": torch.ones(2, 32)}, folder / "value_head.safetensors")
    with pytest.raises(AssayError, match="no head of one output"):
        load_visual(str(folder), trained=True)


def test_the_trial_s_picture_is_one_that_is_cut_into_tiles() -> None:
    assert sight.One().open("").size == (128, 64)
