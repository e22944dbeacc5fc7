"""The client of vLLM's servers where they misbehave: what a real one does is in tests/e2e/test_vllm_policy.py."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from assay.errors import AssayError, CannotRead
from assay.policy import vllm_servers
from assay.policy.config import PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.model import Policy
from assay.policy.sampler import make_sampler
from assay.policy.vllm_servers import outline
from assay.records import user
from assay.rollouts import Prompt

PROMPTS = [Prompt(messages=(user(f"say {c}"),)) for c in "abcdef"]
CONFIG = SamplerConfig(max_tokens=3)
Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


class Server:
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self, answer: Answer, root: str = "/models/tiny", room: int = 256) -> None:
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def say(self, status: int, told: dict[str, Any]) -> None:
                body = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.say(200, {"data": [{"id": "served", "root": root, "max_model_len": room}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                self.say(*answer(body))

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"


def good(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    choice = {
        "token_ids": [7, 8, 1],
        "logprobs": {"token_logprobs": [-0.1, -0.2, -0.3]},
        "prompt_token_ids": body["prompt"],
    }
    return 200, {"choices": [choice] * body["n"]}


def bad(_: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return 503, {}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tiny_models.save_language(tmp_path_factory.mktemp("lm"), "qwen3")
    made = outline(str(folder), PolicyConfig(), None)
    assert all(p.is_meta for p in made.parameters())
    return made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setattr(vllm_servers, "PAUSE_S", 0.01)
    made: list[Server] = []

    def make(*given: Any, **more: Any) -> Server:
        made.append(Server(*given, **more))
        return made[-1]

    yield make
    for one in made:
        one.http.shutdown()


def sampler(policy: Policy, *servers: Server) -> Any:
    return make_sampler(VllmConfig(vllm=tuple(s.url for s in servers)), policy, CONFIG)


def test_nothing_of_the_model_s_own_generation_config_shapes_answers(
    policy: Policy, server: Callable[..., Server]
) -> None:
    one = server(good)
    asker = sampler(policy, one)
    groups = asker(PROMPTS[:1], 2)
    assert [r.tokens for r in groups[0]] == [(7, 8, 1)] * 2
    assert groups[0][0].ended
    assert groups[0][0].logprobs == (-0.1, -0.2, -0.3)
    [body] = one.asked
    assert body["prompt"] == asker.prompt_ids(PROMPTS[0])
    assert (body["top_k"], body["repetition_penalty"], body["min_p"]) == (-1, 1.0, 0.0)
    assert len(asker.greedy()(PROMPTS[:1], 3)[0]) == 3
    assert (one.asked[-1]["n"], one.asked[-1]["temperature"]) == (1, 0.0)


def test_a_server_that_fails_is_left_out_and_its_questions_go_to_the_others(
    policy: Policy, server: Callable[..., Server]
) -> None:
    broken, one = server(bad), server(good)
    groups = sampler(policy, broken, one)(PROMPTS, 2)
    assert [g[0].prompt_id for g in groups] == [p.id for p in PROMPTS]
    assert broken.asked
    with pytest.raises(AssayError, match=r"6 of 6 questions were not answered .*: http 503"):
        sampler(policy, broken)(PROMPTS, 2)


def test_another_prompt_and_a_refusal_are_told(policy: Policy, server: Callable[..., Server]) -> None:
    def longer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return good({**body, "prompt": [5, *body["prompt"]]})

    with pytest.raises(AssayError, match="reads another prompt than is trained on"):
        sampler(policy, server(longer))(PROMPTS[:1], 1)
    refusing = server(lambda _: (400, {"error": {"message": "the maximum context\nlength is 5"}}))
    with pytest.raises(AssayError, match="http 400: the maximum context length is 5"):
        sampler(policy, refusing)(PROMPTS[:1], 1)
    silent = server(lambda body: (200, {"choices": [{**good(body)[1]["choices"][0], "prompt_token_ids": None}]}))
    with pytest.raises(AssayError, match="does not say which tokens it read"):
        sampler(policy, silent)(PROMPTS[:1], 1)


def test_servers_are_met_before_anything_is_asked(
    policy: Policy, server: Callable[..., Server], tmp_path: Path
) -> None:
    one, other = server(good), server(good, root="/models/another")
    with pytest.raises(AssayError, match=r"several models \(another, tiny\)"):
        sampler(policy, one, other)
    with pytest.raises(AssayError, match="no vLLM server answers there"):
        make_sampler(VllmConfig(vllm=("http://127.0.0.1:9",)), policy, CONFIG)
    small = sampler(policy, server(good, room=8))
    with pytest.raises(CannotRead, match="longer than 5 tokens"):
        small.prompt_ids(PROMPTS[0])
