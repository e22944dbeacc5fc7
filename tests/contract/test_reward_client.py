"""The client of reward servers gives raw rewards, as offline scoring does, or a reason; vLLM's own server: test_vllm.py."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_models
from assay import models
from assay.errors import AssayError
from assay.records import Conversation, Message, assistant, user
from assay.reward.config import TrainConfig
from assay.reward.model import for_training
from assay.reward.remote import RemoteConfig, RemoteScorer
from assay.reward.scorer import LocalScorer, load_scorer
from fake_rewards import Fake, paths, serving

CHATS: list[Conversation] = [
    *((user("what is 2+3?"), assistant(a)) for a in ("5", "five", "a fish")),
    (user("hi"), assistant("ho"), user("and?"), assistant("ho ho")),
]
LONG: Conversation = (user("word " * 70 + "at the end?"), assistant("yes"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.reward(tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def offline(folder: Path) -> LocalScorer:
    made = load_scorer(folder, 64)
    assert isinstance(made, LocalScorer)
    return made


@pytest.fixture(scope="module")
def encoder() -> LocalScorer:
    tokenizer = models.load_tokenizer("minilm")
    return LocalScorer(for_training(TrainConfig(layers=1), tokenizer).inner.eval(), tokenizer, 64)


def client(fake: Fake, **more: Any) -> RemoteScorer:
    return RemoteScorer(RemoteConfig(url=fake.url, layout="vllm", tries=1, **more))


@pytest.mark.parametrize("named", [False, True])
def test_vllm_gives_the_raw_rewards_of_offline_scoring_or_none(offline: LocalScorer, folder: Path, named: bool) -> None:
    expected = offline([*CHATS, LONG])
    assert (expected < 0).any() or (expected > 1).any(), "else a sigmoid could not be told from it"
    with serving(Fake(offline)) as fake:
        theirs = client(fake, tokenizer=str(folder) if named else "")
        told = theirs([*CHATS, LONG])
        np.testing.assert_allclose(told[:4], expected[:4], atol=1e-5)
        assert len(fake.asked) == (1 if named else 5), "token ids go many in a request, messages one by one"
        if not named:
            assert np.isnan(told[4]), "cut elsewhere than offline it would be another reward"
            (reason,) = theirs.problems
            assert "name the model's tokenizer" in reason
            return
        np.testing.assert_allclose(told[4], expected[4], atol=1e-5)
        assert not theirs.problems
        shorter = client(fake, tokenizer=str(folder), max_tokens=32)
        again = LocalScorer(offline.model.model, offline.tokenizer, 32)
        np.testing.assert_allclose(shorter([LONG]), again([LONG]), atol=1e-5)


@pytest.mark.parametrize("named", [False, True])
def test_a_model_without_a_chat_template_is_asked_for_pairs_of_texts(encoder: LocalScorer, named: bool) -> None:
    with serving(Fake(encoder)) as fake:
        theirs = client(fake, tokenizer="minilm" if named else "")
        np.testing.assert_allclose(theirs(CHATS), encoder(CHATS), atol=1e-5)
        assert paths(fake.asked) == ["/pooling"] * (2 - named) + ["/score"] * 2, "probes, then one request a prompt"
        assert np.isnan(theirs([*CHATS, LONG])).tolist() == [False] * 4 + [True], "cut anywhere else it would be wrong"
        assert list(theirs.problems) == ["http 400: This model's maximum context length is 64 tokens."]


def test_an_encoder_may_be_asked_from_several_threads(encoder: LocalScorer) -> None:
    """Its body's forward is replaced while its head runs: another thread's states would be another answer's reward."""
    expected = encoder(CHATS)
    asked = [CHATS[i % 4 : i % 4 + 1 + i % 2] for i in range(120)]
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(encoder, asked))
    for i, rewards in enumerate(told):
        np.testing.assert_allclose(rewards, expected[i % 4 : i % 4 + 1 + i % 2], atol=1e-5)


def test_tools_reach_the_template(folder: Path, tmp_path: Path, offline: LocalScorer) -> None:
    from assay.records import Message

    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = "{% if tools %}T{{ tools | tojson }}{% endif %}" + tokenizer.chat_template
    knowing = LocalScorer(offline.model.model, tokenizer, 64)
    tools = '[{"type": "function", "function": {"name": "f", "parameters": {}}}]'
    with_tools = (Message(role="user", content="add", tools=tools), assistant("5"))
    assert knowing([with_tools])[0] != pytest.approx(offline([with_tools])[0], abs=1e-4)
    with serving(Fake(knowing)) as fake:
        np.testing.assert_allclose(client(fake)([with_tools]), knowing([with_tools]), atol=1e-5)


def test_a_vector_is_no_reward(offline: LocalScorer, folder: Path) -> None:
    with serving(Fake(offline, width=2048)) as fake:
        theirs = client(fake)
        assert np.isnan(theirs(CHATS)).all()
        (reason,) = theirs.problems
        assert "a vector of 2,048 numbers is no reward" in reason
        assert set(theirs.refused.values()) == {reason}
        with pytest.raises(AssayError, match="a vector of 2,048 numbers"):
            client(fake, strict=True)(CHATS)


def test_the_cosine_of_an_encoder_that_embeds_is_no_reward(encoder: LocalScorer) -> None:
    with serving(Fake(encoder, width=384)) as fake:
        theirs = client(fake)
        assert np.isnan(theirs(CHATS)).all()
        assert np.isnan(theirs(CHATS)).all()
        assert "/score" not in paths(fake.asked)
        assert set(theirs.refused) == set(CHATS)
        assert "a vector of 384 numbers is no reward" in "".join(theirs.problems)


@pytest.mark.parametrize("layout", ["assay", "vllm", "sglang", "openrlhf"])
@pytest.mark.parametrize("told", [[0.5, 0.5], [], None, "0.5", True, float("nan"), {"x": 1.0}, [[0.1], [0.2]]])
def test_what_is_not_one_number_is_no_reward_in_any_layout(layout: Any, told: Any) -> None:
    theirs = RemoteScorer(RemoteConfig(url="http://x", layout=layout, tokenizer="minilm"))
    good, bad = (
        {"vllm": {"data": [{"index": 0, "data": x}]}, "sglang": [{"embedding": x}]}.get(layout, {"rewards": [x]})
        for x in ([0.5], told)
    )
    assert theirs.read(good, 1) == [0.5]
    with pytest.raises((ValueError, TypeError)):
        theirs.read(bad, 1)


def test_one_conversation_that_is_refused_does_not_take_its_request_with_it(offline: LocalScorer, folder: Path) -> None:
    class Picky(Fake):
        def reward(self, body: dict[str, Any], ids: list[int], second: int = 0) -> list[float]:
            from fake_rewards import Refused

            if ids == offline.render(CHATS[2:3])[0].ids:
                raise Refused("no fish")
            return super().reward(body, ids, second)

    with serving(Picky(offline)) as fake:
        theirs = client(fake, tokenizer=str(folder))
        assert np.isnan(theirs(CHATS)).tolist() == [False, False, True, False]
        assert dict(theirs.problems) == {"http 400: no fish": 1}
        assert theirs.refused == {CHATS[2]: "http 400: no fish"}


def test_tools_go_with_the_conversations_that_may_call_them() -> None:
    tools = '[{"type": "function", "function": {"name": "weather"}}]'
    calling: Conversation = (Message(role="user", content="rain?", tools=tools), assistant("let me see"))
    asked = RemoteScorer(RemoteConfig(url="http://localhost:1")).requests([CHATS[0], calling, CHATS[1]], [0, 1, 2], {})
    assert [(a.rows, a.body.get("tools")) for a in asked] == [([0, 2], None), ([1], json.loads(tools))]
