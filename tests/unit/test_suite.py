"""The paper's recipes, sizes and costs, against published totals and numbers worked out by hand; the eight in small."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from assay.errors import AssayError
from assay.models import Backbone, load_reward_model, load_tokenizer
from assay.packing import use_packing
from assay.recipes.suite import MODELS, Architecture, Traffic, cost, describe, recipe
from assay.records import Message
from assay.render import render
from assay.reward.config import EngineConfig, LossConfig, TrainConfig
from paper_models import scaled, tiny_backbone

TOY = Architecture(
    family="llama", layers=2, hidden=8, intermediate=16, heads=4, kv_heads=2, head_dim=2, vocabulary=10, tied=True
)
SHORT = Traffic(prompt=3, response=2, source="test")
# of the language models, with their head where it is not tied (the hub counts them so); weights of matrix products
PUBLISHED = {
    "Llama-3.1-8B": (8_030_261_248, 6.98e9),
    "Llama-3.1-8B-40M": (8_030_261_248, 6.98e9),
    "Llama-3.2-3B": (3_212_749_824, 2.82e9),
    "Llama-3.2-1B": (1_235_814_400, 0.973e9),
    "Qwen3-0.6B": (596_049_920, 0.44e9),
    "Qwen3-1.7B": (1_720_574_976, 1.41e9),
    "Qwen3-4B": (4_022_468_096, 3.63e9),
    "Qwen3-8B": (8_190_735_360, 6.95e9),
}


def toy_config(pairs: int = 5, **engine: object) -> TrainConfig:
    return TrainConfig(batch_pairs=pairs, engine=EngineConfig(**engine))  # type: ignore[arg-type]


def test_the_module_and_a_dry_run_need_no_torch() -> None:
    code = (
        "import sys, json; from assay.recipes import suite; json.dumps(suite.describe('Qwen3-8B'));"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'tokenizers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_suite_is_the_papers_eight() -> None:
    assert set(MODELS) == set(PUBLISHED)
    backbones = {n: m.backbone for n, m in MODELS.items()}
    assert backbones["Llama-3.1-8B"] == backbones["Llama-3.1-8B-40M"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert backbones["Qwen3-1.7B"] == "Qwen/Qwen3-1.7B"
    assert {n for n, m in MODELS.items() if m.pairs_in("final") != 26_000_000} == {"Llama-3.1-8B-40M"}
    assert MODELS["Llama-3.1-8B-40M"].pairs_in("final") == 40_000_000
    assert {m.pairs_in("development") for m in MODELS.values()} == {16_000_000}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_of_both_stages(name: str) -> None:
    development, final = recipe(name, "development"), recipe(name, "final")
    assert development.lr == (1e-6 if "8B" in name else 4e-6)
    assert (development.batch_pairs, development.schedule) == (256, "linear")
    assert development.warmup > 0
    assert (final.lr, final.batch_pairs, final.schedule, final.warmup) == (3e-6, 10_240, "constant", 0.0)
    for config in (development, final):
        assert (config.max_tokens, config.epochs, config.precision) == (16_384, 1.0, "bf16")
        assert config.loss == LossConfig()
        assert config.engine.checkpointing == name.endswith(("3B", "4B", "8B", "40M"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones_and_those_of_transformers(name: str) -> None:
    sizes = MODELS[name].architecture
    total, active = PUBLISHED[name]
    head = 0 if sizes.tied else sizes.vocabulary * sizes.hidden
    assert sizes.parameters() - sizes.hidden + head == total
    assert sizes.active() == pytest.approx(active, rel=0.005)
    config = transformers.AutoConfig.for_model(sizes.family, **sizes.config(), num_labels=1)
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == sizes.parameters()


def test_sizes_by_hand() -> None:
    # a layer: queries and output 8x8, keys and values 8x4, MLP 3x8x16; embeddings 80, norms 2x16 + 8, score 8
    assert TOY.active() == 2 * (64 + 64 + 32 + 32 + 384) == 1152
    assert TOY.parameters() == 1152 + 80 + 40 + 8 == 1280
    assert replace(TOY, family="qwen3").parameters() == 1288


def test_flops_by_hand() -> None:
    # packed: 7 tokens, which meet 1+2+3 keys in the prompt and 4+5 in each response; padded: twice 1+2+3+4+5
    found = cost(TOY, toy_config(), 10, SHORT, utilisation=0.5, device="A100", gpus=2)
    assert (found.steps, found.presented) == (2, 10)
    assert (found.packed.tokens_per_pair, found.padded.tokens_per_pair) == (7, 10)
    assert (found.packed.tokens, found.padded.tokens) == (70, 100)
    assert found.packed.flops == 10 * (6 * 1152 * 7 + 12 * 2 * 8 * 24) == 529_920
    assert found.padded.flops == 10 * (6 * 1152 * 10 + 12 * 2 * 8 * 30) == 748_800
    assert found.packed.gpu_hours == pytest.approx(529_920 / 156e12 / 3600)
    assert found.packed.wall_hours == pytest.approx(found.packed.gpu_hours / 2)


def test_recomputed_activations_cost_a_forward_pass_more() -> None:
    found = cost(TOY, toy_config(checkpointing=True), 10, SHORT)
    assert found.packed.flops == 10 * (8 * 1152 * 7 + 16 * 2 * 8 * 24) == 706_560


def test_padding_lengthens_every_sequence() -> None:
    found = cost(TOY, toy_config(), 5, replace(SHORT, padding=2.0))
    assert found.padded.tokens_per_pair == 20
    assert found.padded.flops == 5 * (6 * 1152 * 20 + 12 * 2 * 8 * 2 * 55)
    assert found.packed.tokens_per_pair == 7


def test_only_the_layers_that_are_kept_are_paid_for() -> None:
    found = cost(TOY, replace(toy_config(), layers=1), 5, SHORT)
    assert found.packed.flops == 5 * (6 * 576 * 7 + 12 * 8 * 24)
    assert found.memory.copied == 16 * (1280 - 576 - 16)


def test_steps_are_those_of_the_trainer() -> None:
    model = MODELS["Llama-3.1-8B"].architecture
    assert cost(model, recipe("Llama-3.1-8B", "development"), 16_000_000).steps == 62_500  # A.8: about 60K
    assert cost(model, recipe("Llama-3.1-8B"), 26_000_000).steps == 2_540  # 26e6 / 10,240 = 2,539.06
    assert cost(model, recipe("Llama-3.1-8B-40M"), 40_000_000).steps == 3_907  # 3,906.25
    few = cost(TOY, toy_config(256), 10, SHORT)
    assert (few.steps, few.presented) == (1, 10)


def test_memory_by_hand() -> None:
    # 1,280 weights on 8 GPUs: 2 pairs of 7 tokens each
    once = cost(TOY, toy_config(16, tokens=14), 16, SHORT, gpus=8)
    assert once.micro_batches == 1
    assert (once.memory.copied, once.memory.sharded) == (16 * 1280, 2 * 1280)
    assert once.memory.zero1 == 4 * 1280 + 12 * 1280 / 8 == 7040
    twice = cost(TOY, toy_config(16, tokens=13), 16, SHORT, gpus=8)
    assert twice.micro_batches == 2
    assert twice.memory.sharded == once.memory.sharded


def test_a_final_recipe_by_hand() -> None:
    # Qwen3-0.6B: 1,050 tokens a pair, 2 S(600) - S(150) = 349,275 meetings, 26 million pairs once
    found = describe("Qwen3-0.6B", "final")
    per_pair = 6 * 440_401_920 * 1_050 + 12 * 28 * 2_048 * 349_275
    packed = found["cost"]["packed"]
    assert packed["flops"] == pytest.approx(per_pair * 26_000_000)
    assert packed["gpu_hours"] == pytest.approx(55.04, abs=0.01)  # 7.8387e19 / (989e12 x 0.4) = 198,145 s
    assert packed["wall_hours"] == pytest.approx(0.86, abs=0.005)
    assert found["cost"]["padded"]["tokens_per_pair"] == 1_200
    assert found["train"]["backbone"] == "Qwen/Qwen3-0.6B"
    assert json.loads(json.dumps(found)) == found


def test_the_default_lengths_are_the_bytes_of_the_seed_set() -> None:
    traffic = Traffic()
    assert 2 * (traffic.prompt + traffic.response) * 4.5 == pytest.approx(415_622_390 / 77_016, rel=0.001)
    assert "assumed" in traffic.source


def test_mistakes_name_what_there_is() -> None:
    with pytest.raises(AssayError, match=r"'Qwen3-9B'.*Llama-3\.1-8B-40M.*Qwen3-8B"):
        recipe("Qwen3-9B")
    for call in (recipe, describe):
        with pytest.raises(AssayError, match=r"'last'.*development and final"):
            call("Qwen3-8B", "last")
    with pytest.raises(AssayError, match="'Qwen3-9B'"):
        tiny_backbone("Qwen3-9B", Path("nowhere"))
    with pytest.raises(AssayError, match=r"'TPU'.*H800"):
        describe("Qwen3-8B", device="TPU")
    for wrong in ({"utilisation": 0.0}, {"utilisation": 1.5}, {"gpus": 0}):
        with pytest.raises(AssayError, match="utilisation"):
            describe("Qwen3-8B", **wrong)  # type: ignore[arg-type]
    with pytest.raises(AssayError, match="max_tokens"):
        describe("Qwen3-8B", traffic=Traffic(prompt=16_000, response=400))
    with pytest.raises(AssayError, match="lora_rank"):
        cost(TOY, toy_config(lora_rank=8), 10, SHORT)
    with pytest.raises(AssayError, match="padding"):
        Traffic(padding=0.5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_small_shape_keeps_the_ratios(name: str) -> None:
    whole, small = MODELS[name].architecture, scaled(MODELS[name].architecture)
    for numerator, denominator in (("heads", "kv_heads"), ("intermediate", "hidden")):
        assert getattr(whole, numerator) * getattr(small, denominator) == getattr(small, numerator) * getattr(
            whole, denominator
        )
    assert whole.heads * whole.head_dim * small.hidden == small.heads * small.head_dim * whole.hidden
    assert (small.family, small.tied) == (whole.family, whole.tied)
    assert small.parameters() < 600_000


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_model_in_small_loads_scores_and_packs(name: str, tmp_path: Path) -> None:
    folder = str(tiny_backbone(name, tmp_path / name))
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(0)
    model = load_reward_model(Backbone(name=folder), tokenizer)
    assert sum(p.numel() for p in model.parameters()) == scaled(MODELS[name].architecture).parameters()
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert len(tokenizer) <= 512
    chats = [
        (Message(role="user", content="Grüße?"), Message(role="assistant", content=a)) for a in ("Yes: 你好", "no")
    ]
    rendered = render(tokenizer, chats, 512)
    assert "Grüße?" in tokenizer.decode(rendered[0].ids)
    assert "Yes: 你好" in tokenizer.decode(rendered[0].ids)
    if tokenizer.bos_token_id is not None:
        assert rendered[0].ids.count(tokenizer.bos_token_id) == 1
    with torch.inference_mode():
        scores = [model(input_ids=torch.tensor([r.ids])).logits for r in rendered]
    assert [s.shape for s in scores] == [(1, 1), (1, 1)]
    assert all(torch.isfinite(s).all() for s in scores)
    assert scores[0] != scores[1]
    assert use_packing(model) == ""


def test_the_same_seed_makes_the_same_backbone_and_leaves_torchs_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    weights = [
        (tiny_backbone("Qwen3-0.6B", tmp_path / str(i), seed=seed) / "model.safetensors").read_bytes()
        for i, seed in enumerate((0, 0, 1))
    ]
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(before, torch.random.get_rng_state())
