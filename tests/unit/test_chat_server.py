"""Our decoder behind the chat API: it says what the sampler says, with pictures, and refuses what it cannot do."""

import asyncio
import base64
import http.client
import io
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import tiny_models
from answer_server import post
from assay.images import ImageStore
from assay.policy.assemble import assemble, save
from assay.policy.chat_server import ChatServer, Refused, messages
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import LocalSampler
from assay.records import Message, user
from assay.rollouts import Prompt
from loopback import Loopback

PIL = pytest.importorskip("PIL.Image")


def picture(colour: str) -> bytes:
    held = io.BytesIO()
    PIL.new("RGB", (32, 32), colour).save(held, "PNG")
    return held.getvalue()


def shown(colour: str) -> dict[str, Any]:
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(picture(colour)).decode()}"},
    }


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, store: ImageStore) -> Policy:
    folder = tmp_path_factory.mktemp("vlm")
    save(
        *assemble(*tiny_models.encoder("clip", 32), tiny_models.language("qwen3"), tiny_models.tokenizer(), 32), folder
    )
    return load_policy(str(folder), PolicyConfig(), store)


@pytest.fixture(scope="module")
def server(policy: Policy, store: ImageStore) -> Iterator[tuple[str, ChatServer]]:
    made: list[ChatServer] = []

    async def app() -> Any:
        made.append(ChatServer(policy, LocalSampler(policy, SamplerConfig(), store), store, "tiny", room=256, rows=8))
        return made[0].app()

    loop = Loopback(asyncio.run(app()))
    yield loop.url, made[0]
    loop.stop()


def ask(url: str, **body: Any) -> tuple[int, dict[str, Any]]:
    return post(f"{url}/chat/completions", {"model": "tiny", "max_tokens": 6, "temperature": 0, **body})


@contextmanager
def held(made: ChatServer) -> Iterator[Callable[[], int]]:
    """A server whose decoder is at something else, until the end of this; gives how many questions it has by then."""
    busy, free, taken, take = threading.Event(), threading.Event(), list[Any](), made._take

    def counted() -> Any:
        taken.extend(found := take())
        return found

    made._thread.submit(lambda: (busy.set(), free.wait()))
    busy.wait()
    made._take = counted  # type: ignore[method-assign]
    try:
        yield lambda: len(taken) + len(made._waiting)
    finally:
        made._take = take  # type: ignore[method-assign]
        free.set()


def test_it_says_what_the_sampler_says(server: tuple[str, ChatServer], policy: Policy, store: ImageStore) -> None:
    """Several at once, one with a picture; each answer is its own question's."""
    url, made = server
    greedy = LocalSampler(policy, SamplerConfig(max_tokens=6, temperature=0.0), store)
    red = Message(role="user", content="say a", images=(store.add(picture("red")),))
    blue = Message(role="user", content="say a", images=(store.add(picture("blue")),))
    wanted = [greedy([Prompt(messages=(m,))], 1)[0][0] for m in (user("say a"), user("say bcd"), red, blue)]
    said: list[Any] = ["say a", "say bcd", *([{"type": "text", "text": "say a"}, shown(c)] for c in ("red", "blue"))]
    before = made.batches
    with ThreadPoolExecutor(4) as pool:
        with held(made) as came:  # whose seed is whose does not part them
            asked = [
                pool.submit(ask, url, messages=[{"role": "user", "content": x}], seed=n) for n, x in enumerate(said)
            ]
            while came() < 4:
                time.sleep(0.01)
        told = [one.result() for one in asked]
    assert made.batches - before <= 2, "decoded together, but for those that came first"
    ask(url, messages=[{"role": "user", "content": "say a"}])
    assert len(made.sampler.entropies) == 1, "nothing of earlier answers piles up"
    for (status, answer), rollout in zip(told, wanted, strict=True):
        assert status == 200
        choice = answer["choices"][0]
        assert choice["message"]["content"] == rollout.text
        assert choice["finish_reason"] == ("stop" if rollout.ended else "length")
        assert answer["usage"]["completion_tokens"] == len(rollout.tokens)
    assert len({a["usage"]["prompt_tokens"] for _, a in told}) == 3, "a picture takes places"


def test_n_answers_and_the_models_name(server: tuple[str, ChatServer]) -> None:
    status, told = ask(server[0], messages=[{"role": "user", "content": "say a"}], n=3, temperature=1.0, seed=5)
    assert status == 200
    assert [c["index"] for c in told["choices"]] == [0, 1, 2]
    assert told["model"] == "tiny"


def test_a_seed_repeats_an_answer_and_none_draws_anew(server: tuple[str, ChatServer]) -> None:
    """Requests one after another, as a client asks for several samples: the same answer each time would be one sample."""

    def said(**more: Any) -> str:
        _, told = ask(server[0], messages=[{"role": "user", "content": "say a"}], temperature=1.0, **more)
        return str(told["choices"][0]["message"]["content"])

    assert len({said() for _ in range(4)}) > 1
    assert len({said(seed=5) for _ in range(3)}) == 1
    nothing: dict[str, Any] = {"top_k": -1, "repetition_penalty": 1.0, "presence_penalty": 0, "min_p": 0.0}
    assert said(**nothing, chat_template_kwargs={}, seed=5) == said(seed=5), "values that change nothing"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"top_k": 20}, "top_k is not known"), ({"repetition_penalty": 1.1}, "repetition_penalty is not known"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs is not known"),
        ({"max_tokens": "many"}, "max_tokens must be a number"), ({"max_tokens": 0}, "max_tokens must be a finite number"),
        ({"stream": True}, "stream is not known"), ({"tools": [{}]}, "tools is not known"),
        ({"max_tokens": 300}, "maximum context length is 256 tokens"), ({"n": 0}, "n must be at least 1"),
        ({"temperature": "warm"}, "temperature must be a number"), ({"messages": []}, "messages must be a list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "the role 'tool'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last message must be the user's"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
         "must be a data URL"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "type 'input_audio'"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(server: tuple[str, ChatServer], body: dict[str, Any], message: str) -> None:
    status, told = ask(server[0], **{"messages": [{"role": "user", "content": "say a"}], **body})
    assert status == 400
    assert message in told["error"]["message"]


def test_a_broken_picture_is_refused(tmp_path: Path) -> None:
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}]
    with pytest.raises(Refused, match="is not base64"):
        messages([{"role": "user", "content": content}], ImageStore(tmp_path))


def test_what_nobody_waits_for_is_not_decoded(server: tuple[str, ChatServer]) -> None:
    """A client that is killed, or gives up and asks again, leaves its question in the queue."""
    url, made = server
    host, before = urlsplit(url), made.batches

    def waiting() -> int:
        with urllib.request.urlopen(f"http://{host.netloc}/health") as reply:
            return int(json.load(reply)["waiting"])

    with ThreadPoolExecutor(1) as pool, held(made) as came:
        first = pool.submit(ask, url, messages=[{"role": "user", "content": "say a"}])
        while came() - waiting() != 1:  # it is taken
            time.sleep(0.01)
        gone = http.client.HTTPConnection(host.netloc)
        body = {"model": "tiny", "max_tokens": 7, "messages": [{"role": "user", "content": "say b"}]}
        gone.request("POST", f"{host.path}/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        while waiting() != 1:
            time.sleep(0.01)
        gone.close()
        while waiting():  # the server's loop has to hear of it before the first is done
            time.sleep(0.01)
    assert first.result()[0] == 200
    assert ask(url, messages=[{"role": "user", "content": "say c"}])[0] == 200
    assert (made.batches, waiting()) == (before + 2, 0)
