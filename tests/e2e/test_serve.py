"""`assay serve` as a process: its client, many clients with good and bad requests, SIGTERM, and servers that fail."""

import asyncio
import json
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import numpy as np
import pytest
from commands import assay_line, environment

import tiny_models
from assay.errors import AssayError
from assay.records import Conversation, assistant, user
from assay.reward.remote import RemoteConfig, RemoteScorer, wait_until_ready
from assay.reward.scorer import load_scorer
from in_process import assay_here
from ports import free_port

pytest.importorskip("fastapi")
CHATS: list[Conversation] = [(user(f"question {i % 7}"), assistant(f"answer {'x' * (i % 11)} {i}")) for i in range(60)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.reward(tmp_path_factory.mktemp("reward"))


@contextmanager
def serving(model: Path, *more: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    port = free_port()
    process = subprocess.Popen(
        assay_line("serve", model, "--port", port, *more), env=environment(), text=True, stdout=subprocess.DEVNULL
    )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", 300)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[str]:
    with serving(model) as (url, _):
        yield url


def test_the_client_gets_what_offline_scoring_gives(model: Path, server: str) -> None:
    remote = load_scorer(server)
    np.testing.assert_allclose(remote(CHATS), load_scorer(model)(CHATS), atol=1e-4)
    assert np.isnan(remote([(user("no answer"),)])).all()
    assert isinstance(remote, RemoteScorer)
    (problem,) = remote.problems
    assert problem.startswith("http 422: ")
    assert "must end with the assistant's turn" in problem
    theirs = RemoteScorer(RemoteConfig(url=server, layout="vllm"))
    np.testing.assert_allclose(theirs(CHATS[:5]), load_scorer(model)(CHATS[:5]), atol=1e-4)
    texts = RemoteScorer(RemoteConfig(url=f"{server}/get_reward", layout="openrlhf", tokenizer=str(model)))
    np.testing.assert_allclose(texts(CHATS[:5]), load_scorer(model)(CHATS[:5]), atol=1e-4)
    sglang = RemoteScorer(RemoteConfig(url=server, layout="sglang", tokenizer=str(model)))
    np.testing.assert_allclose(sglang(CHATS[:5]), load_scorer(model)(CHATS[:5]), atol=1e-4)


def test_many_clients_with_good_and_bad_requests_lose_nothing(model: Path, server: str) -> None:
    offline = load_scorer(model)(CHATS)

    async def client(session: aiohttp.ClientSession, url: str, number: int) -> list[str]:
        wrong = []
        for k in range(12):
            at = (number * 5 + k) % len(CHATS)
            turns = [{"role": m.role, "content": m.content} for m in CHATS[at]]
            bad = (number + k) % 4 == 0
            body = {"conversations": [turns[:1]]} if bad else {"conversations": [turns]}
            async with session.post(f"{url}/v1/score", json=body) as answer:
                told = await answer.json()
                good = answer.status == 422 if bad else abs(told["rewards"][0] - offline[at]) < 1e-4
                if not good:
                    wrong.append(f"{answer.status} {told}")
        return wrong

    async def all_clients(url: str) -> list[list[str]]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(client(session, url, n) for n in range(32)))

    assert not [told for wrong in asyncio.run(all_clients(server)) for told in wrong]


def test_sigterm_answers_what_was_taken(model: Path) -> None:
    """Requests in flight when the signal comes are answered; the process then ends with success."""
    long = [
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "word " * 60 + str(i)}] for i in range(400)
    ]

    async def work(url: str, process: subprocess.Popen[str]) -> list[int]:
        async with aiohttp.ClientSession() as session:
            sent, begun = json.dumps({"conversations": long}).encode(), 0

            async def body() -> AsyncIterator[bytes]:  # what the server asks for once it has taken the request
                nonlocal begun
                begun += 1
                yield sent

            async def ask() -> int:
                kind = {"Content-Type": "application/json", "Content-Length": str(len(sent))}
                async with session.post(f"{url}/v1/score", data=body(), expect100=True, headers=kind) as answer:
                    told = await answer.json()
                    return len(told["rewards"])

            asked = [asyncio.create_task(ask()) for _ in range(4)]
            while begun < len(asked):
                assert not any(task.done() for task in asked)
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*asked)

    with serving(model) as (url, process):
        assert asyncio.run(work(url, process)) == [400] * 4
        assert process.wait(300) in (0, -signal.SIGTERM)


class Flaky(BaseHTTPRequestHandler):
    """In vLLM's layout: the first answer is a 503, then a cut one, then right ones; /broken never answers well."""

    def do_GET(self) -> None:
        self.send_error(404)

    seen: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, body, self.headers.get("Authorization")))
        status, payload = 200, json.dumps({"data": [{"data": [float(len(body["messages"]))]}]}).encode()
        if self.path.startswith("/broken"):
            payload = b'{"data": []}'
        elif len(self.seen) == 1:
            status, payload = 503, b"busy"
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(payload) + 5 * (len(self.seen) == 2)))
        self.end_headers()
        self.wfile.write(payload)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[str]:
    Flaky.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_fails_is_asked_again_and_then_counted(flaky: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_API_KEY", "k")
    config = RemoteConfig(url=flaky, layout="vllm", concurrency=1, backoff_s=0.01, model="m")
    assert RemoteScorer(config)(CHATS[:2]).tolist() == [2.0, 2.0]
    assert len(Flaky.seen) == 4, "one 503, one cut answer, two good ones"
    path, body, key = Flaky.seen[0]
    assert (path, body["model"], key) == ("/pooling", "m", "Bearer k")
    broken = RemoteScorer(RemoteConfig(url=f"{flaky}/broken", layout="vllm", tries=1))
    assert np.isnan(broken(CHATS[:3])).all()
    assert list(broken.problems.values()) == [3]
    strict = RemoteScorer(RemoteConfig(url=f"{flaky}/broken", layout="vllm", tries=1, strict=True))
    with pytest.raises(AssayError, match="not an answer in layout vllm"):
        strict(CHATS[:3])


def test_mistakes_are_one_line(model: Path, tmp_path: Path) -> None:
    refused = assay_here("serve", model, "--max-conversations", 0)
    assert refused.returncode == 2
    assert "must be above 0" in refused.stderr
    missing = assay_here("serve", tmp_path / "nothing")
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr
    with pytest.raises(AssayError, match="layout sglang takes texts"):
        RemoteConfig(url="http://x", layout="sglang")
    with pytest.raises(AssayError, match="must be importable"):
        load_scorer("no_such_module:reward")
    assert load_scorer("statistics:fmean")([1.0, 2.0]) == 1.5  # type: ignore[list-item]
