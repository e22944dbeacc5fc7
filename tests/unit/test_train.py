"""Reward training: it learns, it is what other tools load, and an interruption changes nothing."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from assay import models
from assay.errors import AssayError
from assay.losses import bradley_terry
from assay.records import Pair, Preference, Response, user
from assay.render import render
from assay.reward.config import EngineConfig, TrainConfig
from assay.reward.monitor import StepMetrics
from assay.reward.scorer import load_scorer
from assay.reward.steps import Micro, Steps
from assay.reward.train import train

CONFIG = TrainConfig(
    layers=1, batch_pairs=8, epochs=2, lr=3e-4, checks=4, max_tokens=64, engine=EngineConfig(tokens=256)
)


def politeness(n: int, start: int = 0) -> list[Preference]:
    """Pairs in which the answer with thanks in it is better: easy to learn."""
    pairs = []
    for i in range(start, start + n):
        good, bad = Response.of(f"thank you for item {i}"), Response.of(f"go away with item {i}")
        pairs.append(Pair.of((user(f"Sell me item {i}"),), good, bad).preferring(good.id))
    return pairs


def test_bradley_terry_by_hand() -> None:
    margins = torch.tensor([0.0, 2.0, -1.0])
    expected = np.log(2) + np.log1p(np.exp(-2)) + np.log1p(np.exp(1))
    assert bradley_terry(margins).item() == pytest.approx(expected, rel=1e-6)


def test_training_learns_and_saves_what_transformers_loads(tmp_path: Path) -> None:
    trained = train(tmp_path / "rm", CONFIG, politeness(48), politeness(16, start=100))
    assert trained.gold_accuracy == 1.0
    assert trained.steps == 12
    score = load_scorer(trained.folder)
    good, bad = politeness(1, start=500)[0].chosen, politeness(1, start=500)[0].rejected
    prompt = (user("Sell me item 500"),)
    rewards = score([prompt + good.messages, prompt + bad.messages])
    assert rewards[0] > rewards[1]
    plain = AutoModelForSequenceClassification.from_pretrained(trained.folder).eval()
    assert plain.config.num_labels == 1
    tokenizer = models.load_tokenizer(str(trained.folder))
    with torch.no_grad():
        again = plain(**tokenizer("Sell me item 500", "thank you for item 500", return_tensors="pt")).logits.item()
    assert again == pytest.approx(rewards[0], abs=1e-4)


class Killed(Exception):
    """Stands in for SIGKILL: nothing in the code under test catches it."""


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, gold = politeness(48), politeness(16, start=100)
    whole = train(tmp_path / "whole", CONFIG, pairs, gold)
    take, calls = Steps.take, iter(range(1000))

    def dies(self: Steps, micros: list[Micro], done: int) -> StepMetrics:
        if next(calls) == 7:
            raise Killed
        return take(self, micros, done)

    monkeypatch.setattr(Steps, "take", dies)
    with pytest.raises(Killed):
        train(tmp_path / "broken", CONFIG, pairs, gold)
    said: list[str] = []
    again = train(tmp_path / "broken", CONFIG, pairs, gold, said.append)
    assert "broken: resumed at step 6/12" in said
    assert (again.gold_accuracy, again.best_step) == (whole.gold_accuracy, whole.best_step)
    a, b = (load_file(t.folder / "model.safetensors") for t in (whole, again))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not (tmp_path / "broken.partial").exists()


def test_the_result_depends_on_neither_order_nor_accumulation(tmp_path: Path) -> None:
    pairs, gold = politeness(24), politeness(8, start=100)
    one = train(tmp_path / "a", CONFIG, pairs, gold)
    other = train(tmp_path / "b", replace(CONFIG, engine=EngineConfig(tokens=2048)), pairs[::-1], gold)
    conversations = [p.prompt + p.chosen.messages for p in gold]
    np.testing.assert_allclose(
        load_scorer(one.folder)(conversations), load_scorer(other.folder)(conversations), atol=2e-4
    )


def test_a_decoder_with_a_chat_template_scores_at_its_last_token(tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer("minilm")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    score = load_scorer(tmp_path)
    short, long = (
        (user("hi"), *Response.of("yes").messages),
        (user("hi"), *Response.of("a much longer answer here").messages),
    )
    together, apart = score([short, long]), [score([c])[0] for c in (short, long)]
    np.testing.assert_allclose(together, apart, atol=1e-5)
    with torch.no_grad():
        ids = torch.tensor([render(tokenizer, [long], 64)[0].ids])
        reference = LlamaForSequenceClassification.from_pretrained(tmp_path).eval()(input_ids=ids).logits.item()
    assert together[1] == pytest.approx(reference, abs=1e-5)


def test_over_long_conversations_lose_the_front_of_the_history_and_say_so() -> None:
    tokenizer = models.load_tokenizer("minilm")
    conversation = (user("word " * 50 + "last"), *Response.of("the answer").messages)
    row = render(tokenizer, [conversation], 16)[0]
    text = tokenizer.decode(row.ids)
    assert len(row.ids) == 16
    assert "last" in text
    assert text.endswith("the answer [SEP]")
    assert row.cut == 51 + 2 + 3 - 16


def test_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no pairs to train on"):
        train(tmp_path / "x", CONFIG, [], [])
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(AssayError, match=r"train\.lr"):
            TrainConfig(lr=value)
    (tmp_path / "final").mkdir()
    with pytest.raises(
        AssayError, match=r"cannot load the model '.*/nothing': there is no such folder; beside it: final"
    ):
        models.load_reward_model(models.Backbone(name=str(tmp_path / "nothing")), None)
    with pytest.raises(AssayError, match="the loss is"):
        train(tmp_path / "y", replace(CONFIG, lr=1e30), politeness(16), [])
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("out", ["foreign", ".", ".."])
def test_nothing_that_is_there_is_replaced(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "foreign"
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(place)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: pytest.fail("something was removed"))
    folder = place if out == "foreign" else Path(out)
    with pytest.raises(AssayError, match=r"choose another folder|name a new folder"):
        train(folder, CONFIG, politeness(4), [])
    assert (place / "thesis.txt").read_text() == "years of work"
