"""The chat client against a real server on loopback: exactly once, in order, and no failure raises."""

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from assay.errors import AssayError
from assay.images import ImageStore
from assay.llm import client
from assay.llm.budget import Budget, BudgetSpent
from assay.llm.chat import ChatConfig, Request, request_key
from assay.llm.client import Server
from assay.llm.completion import read_completion
from assay.llm.replies import ledger
from assay.records import Message, user
from loopback import Loopback

Handler = Callable[[int, dict[str, object]], web.Response]
NEVER = 3_600.0


class FakeServer(Loopback):
    """Answers `handler(number of this call, body)`, for the first `answers` calls; remembers every body and how many calls
    were open at once."""

    def __init__(self) -> None:
        self.handler: Handler = lambda n, body: completion(str(body["messages"][-1]["content"]).upper())  # type: ignore[index]
        self.bodies: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.delay_s, self.open, self.most_open, self.answers = 0.0, 0, 0, 1_000
        super().__init__()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        number = len(self.bodies)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(self.delay_s if number <= self.answers else NEVER)
        self.open -= 1
        return self.handler(number, body)


def completion(text: str | None, **choice: object) -> web.Response:
    choices = [{"message": {"role": "assistant", "content": text}, **choice}]
    return web.json_response({"choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeServer() as fake:
        yield fake


def chat(server: FakeServer, tmp_path: Path, **options: object) -> Server:
    settings = {"model": "m", "tries": 3, "backoff_s": 0.01, "max_wait_s": 0.3, **options}
    return Server(ChatConfig(url=server.url, **settings), tmp_path / "cache.sqlite")  # type: ignore[arg-type]


def ask(text: str, sample: int = 0) -> Request:
    return Request(messages=(user(text),), sample=sample)


def test_replies_come_in_order_with_tokens(server: FakeServer, tmp_path: Path) -> None:
    replies = chat(server, tmp_path).complete([ask(f"q{i}") for i in range(50)])
    assert [r.text for r in replies] == [f"Q{i}" for i in range(50)]
    assert {(r.tokens_in, r.tokens_out, r.tokens, r.cached) for r in replies} == {(7, 3, 10, False)}


def test_a_request_is_asked_once_and_a_sample_is_a_request(server: FakeServer, tmp_path: Path) -> None:
    requests = [ask("a"), ask("a"), ask("a", 1), ask("b")]
    first = chat(server, tmp_path).complete(requests)
    assert len(server.bodies) == 3
    again = chat(server, tmp_path).complete(requests)
    assert len(server.bodies) == 3
    assert all(r.cached for r in again)
    assert [(r.text, r.tokens) for r in again] == [(r.text, r.tokens) for r in first]


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.0}, {"max_tokens": 5}])
def test_the_key_holds_what_shapes_the_answer(server: FakeServer, tmp_path: Path, change: dict[str, object]) -> None:
    chat(server, tmp_path).complete([ask("a")])
    chat(server, tmp_path, **change).complete([ask("a")])
    chat(server, tmp_path, tries=9, concurrency=2).complete([ask("a")])
    assert len(server.bodies) == 2


def test_concurrency_is_bounded(server: FakeServer, tmp_path: Path) -> None:
    server.delay_s = 0.02
    chat(server, tmp_path, concurrency=4).complete([ask(str(i)) for i in range(30)])
    assert server.most_open == 4


def test_a_passing_failure_is_tried_again(server: FakeServer, tmp_path: Path) -> None:
    server.handler = lambda n, body: web.Response(status=503) if n < 3 else completion("ok")
    (reply,) = chat(server, tmp_path).complete([ask("a")])
    assert (reply.text, reply.problem, len(server.bodies)) == ("ok", "", 3)


def test_retry_after_holds_every_worker_back(server: FakeServer, tmp_path: Path) -> None:
    times: list[float] = []

    def handler(n: int, body: dict[str, object]) -> web.Response:
        times.append(time.monotonic())
        return web.Response(status=429, headers={"Retry-After": "0.25"}) if n == 1 else completion("ok")

    server.handler = handler
    replies = chat(server, tmp_path, concurrency=1).complete([ask("a"), ask("b")])
    assert [r.text for r in replies] == ["ok", "ok"]
    assert times[1] - times[0] >= 0.24


@pytest.mark.parametrize(
    ("handler", "problem", "calls"),
    [
        (lambda n, b: web.Response(status=500), "http 500", 3),
        (lambda n, b: web.Response(status=400, text="bad model"), "http 400: bad model", 1),
        (lambda n, b: web.Response(text="<html>"), "the server's answer is not JSON", 3),
        (lambda n, b: web.json_response({"error": "x"}), "http 200, but an error: x", 3),
        (lambda n, b: web.json_response([1]), "not a chat completion: [1]", 1),
    ],
)
def test_a_failure_is_a_reply_and_is_not_cached(
    server: FakeServer, tmp_path: Path, handler: Handler, problem: str, calls: int
) -> None:
    good = server.handler
    server.handler = lambda n, body: handler(n, body) if "bad" in json.dumps(body) else good(n, body)
    replies = chat(server, tmp_path).complete([ask("x"), ask("bad"), ask("y")])
    assert [r.text for r in replies] == ["X", "", "Y"]
    assert replies[1].problem == problem
    assert len(server.bodies) == 2 + calls
    server.handler = lambda n, body: completion("better now")
    assert chat(server, tmp_path).complete([ask("bad")])[0].text == "better now"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [(lambda: completion(""), "empty"), (lambda: completion("no", finish_reason="content_filter"), "refused")],
)
def test_what_the_model_said_is_kept_though_it_is_no_answer(
    server: FakeServer, tmp_path: Path, answer: Callable[[], web.Response], problem: str
) -> None:
    server.handler = lambda n, body: answer()
    (first,) = chat(server, tmp_path).complete([ask("x")])
    (again,) = chat(server, tmp_path).complete([ask("x")])
    assert (first.problem, again.problem, again.cached, len(server.bodies)) == (problem, problem, True, 1)


def test_timeouts_and_dead_servers_are_problems(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers, tried, post = 0, [], client._post

    def counted(
        *asked: Any,
    ) -> Any:  # a request that waits for a crowded machine is timed out before the server hears of it
        tried.append(asked)
        return post(*asked)

    monkeypatch.setattr(client, "_post", counted)
    (reply,) = chat(server, tmp_path, timeout_s=0.05, tries=2).complete([ask("a")])
    assert (reply.problem, len(tried)) == ("timeout", 2)
    dead = Server(ChatConfig(url="http://127.0.0.1:9/v1", model="m", tries=2, backoff_s=0.01), tmp_path / "c.sqlite")
    assert dead.complete([ask("a")])[0].problem.startswith("connection: ")


def test_a_lone_surrogate_is_replaced() -> None:
    reply = read_completion(json.loads('{"choices": [{"message": {"content": "a\\ud800"}}]}'))
    assert reply.text == "a?"


def test_images_are_a_problem_not_dropped(server: FakeServer, tmp_path: Path) -> None:
    request = Request(messages=(Message(role="user", content="what is this?", images=("abc",)),))
    assert (
        chat(server, tmp_path).complete([request])[0].problem
        == "images cannot be sent: the server's folder of images is not named"
    )
    assert not server.bodies


def test_the_api_key_comes_from_the_environment(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "s3cret")
    chat(server, tmp_path, api_key_env="SOME_KEY").complete([ask("a")])
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert b"s3cret" not in (tmp_path / "cache.sqlite").read_bytes()


@pytest.mark.parametrize("wrong", [{"url": "localhost:1"}, {"model": ""}, {"concurrency": 0}, {"tries": 0}])
def test_an_impossible_config_fails_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(AssayError, match="chat"):
        ChatConfig(**{"url": "http://x/v1", "model": "m", **wrong})  # type: ignore[arg-type]


def test_a_broken_cache_is_explained(tmp_path: Path) -> None:
    (tmp_path / "cache.sqlite").write_text("this is no database, but it is long enough to look at" * 99)
    with pytest.raises(AssayError, match="reply cache cannot be used"):
        Server(ChatConfig(url="http://x/v1", model="m"), tmp_path / "cache.sqlite")


def test_keys_are_stable() -> None:
    config = ChatConfig(url="http://x/v1/", model="m")
    assert request_key(config, ask("a")) == request_key(ChatConfig(url="http://x/v1", model="m"), ask("a"))
    assert request_key(config, ask("a")) == "01b73d0540da10e33a50510ac0c3b886"


_CLIENT = """
import sys
from pathlib import Path
from assay.llm.chat import ChatConfig, Request
from assay.llm.client import Server
from assay.records import user
chat = Server(ChatConfig(url=sys.argv[1], model="m", concurrency=4), Path(sys.argv[2]))
chat.complete([Request(messages=(user(str(i)),)) for i in range(120)])
"""


def test_a_killed_client_repeats_only_what_was_in_flight(server: FakeServer, tmp_path: Path) -> None:
    server.answers = 40  # it cannot end before it is killed
    command = [sys.executable, "-c", _CLIENT, server.url, str(tmp_path / "cache.sqlite")]
    victim = subprocess.Popen(command)
    while len(server.bodies) < 44:
        time.sleep(0.005)
    victim.kill()
    victim.wait()
    server.answers = 1_000
    subprocess.run(command, check=True, timeout=300)
    asked = Counter(json.dumps(b["messages"]) for b in server.bodies)
    assert len(asked) == 120
    assert len(server.bodies) <= 120 + 4


def test_a_budget_is_never_passed_and_a_larger_one_goes_on(server: FakeServer, tmp_path: Path) -> None:
    """A request costs 7 tokens in and 3 out, 0.017 at these prices; it may cost 0.342 (9 tokens of prompt, 100 of reply)."""
    prices = {"price_in": 1_000.0, "price_out": 20_000.0 / 6, "max_tokens": 100, "concurrency": 4}
    requests = [ask(f"{n:02}") for n in range(10)]
    most = 9 * 1e-3 + 100 / 300
    assert chat(server, tmp_path, **prices).estimate(requests).cost == pytest.approx(10 * most)
    config = chat(server, tmp_path, **prices).config
    with pytest.raises(BudgetSpent, match=r"m: the budget of 0.4 does not allow .* 6 of 10 requests are left"):
        Server(config, tmp_path / "cache.sqlite", Budget(0.4)).complete(requests)
    assert len(server.bodies) == 4, "3 x 0.017 + 0.342 is below 0.4, a fifth could pass it"
    again = Budget(0.4)
    with pytest.raises(BudgetSpent):
        Server(config, tmp_path / "cache.sqlite", again).complete(requests)
    assert (len(server.bodies), again.spent) == (4, pytest.approx(4 * 0.017)), "earlier spending counts"
    told = Server(config, tmp_path / "cache.sqlite", Budget(1.0)).complete(requests)
    assert [r.text for r in told] == [f"{n:02}" for n in range(10)]
    assert len(server.bodies) == 10, "nothing is asked twice"
    assert ledger(tmp_path / "cache.sqlite") == [
        {"model": "m", "url": server.url, "answers": 10, "failures": 0, "untold": 0, "tokens_in": 70, "tokens_out": 30}
    ]
    assert Server(config, tmp_path / "cache.sqlite").estimate(requests).requests == 0


def test_refused_answers_cost_too(server: FakeServer, tmp_path: Path) -> None:
    server.handler = lambda n, body: completion("no", finish_reason="content_filter")
    (reply,) = chat(server, tmp_path).complete([ask("x")])
    assert reply.problem == "refused"
    (row,) = ledger(tmp_path / "cache.sqlite")
    assert (row["answers"], row["failures"], row["tokens_in"]) == (1, 1, 7)


def test_pictures_go_inside_the_request(server: FakeServer, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image").new("RGB", (3, 2), "red")
    store = ImageStore(tmp_path / "images")
    message = Message(role="user", content="what is it?", images=(store.add(image),))
    chat(server, tmp_path, images=store.folder).complete([Request(messages=(message,))])
    (picture, text) = server.bodies[0]["messages"][0]["content"]  # type: ignore[index]
    assert text == {"type": "text", "text": "what is it?"}
    data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert data == (store.folder / f"{message.images[0]}.png").read_bytes()
    lost = Message(role="user", content="and this?", images=("0" * 32,))
    told = chat(server, tmp_path, images=store.folder).complete([Request(messages=(lost,)), ask("ok")])
    assert [r.problem for r in told] == [f"no image with the id {'0' * 32}", ""]


SCHEMA = '{"type": "object", "properties": {"verdict": {"enum": ["1", "2"]}}}'


def test_a_schema_goes_with_the_request_and_is_part_of_its_key(server: FakeServer, tmp_path: Path) -> None:
    plain, formed = ask("a"), Request(messages=(user("a"),), schema=SCHEMA)
    chat(server, tmp_path).complete([plain, formed])
    sent = [b["response_format"] for b in server.bodies if "response_format" in b]
    assert sent == [
        {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": json.loads(SCHEMA)}}
    ]
    assert len(server.bodies) == 2
    chat(server, tmp_path, schemas="never").complete([formed])
    assert len(server.bodies) == 2, "without its schema it is the plain request, which was answered"


def test_a_server_that_refuses_schemas_is_asked_without(server: FakeServer, tmp_path: Path) -> None:
    def handler(n: int, body: dict[str, object]) -> web.Response:
        return web.Response(status=400, text="unknown field") if "response_format" in body else completion("ok")

    server.handler = handler
    requests = [Request(messages=(user(str(n)),), schema=SCHEMA) for n in range(6)]
    replies = chat(server, tmp_path, concurrency=1).complete(requests)
    assert [r.text for r in replies] == ["ok"] * 6
    assert ["response_format" in b for b in server.bodies] == [True] + [False] * 6
    assert all(r.cached for r in chat(server, tmp_path).complete(requests))
    (refused,) = chat(server, tmp_path, schemas="always").complete([Request(messages=(user("new"),), schema=SCHEMA)])
    assert refused.problem == "http 400: unknown field"


def test_a_wrong_request_does_not_turn_schemas_off(server: FakeServer, tmp_path: Path) -> None:
    server.handler = lambda n, b: web.Response(status=400) if "bad" in json.dumps(b["messages"]) else completion("ok")
    requests = [Request(messages=(user(t),), schema=SCHEMA) for t in ("bad", "good")]
    replies = chat(server, tmp_path, concurrency=1).complete(requests)
    assert [r.problem for r in replies] == ["http 400: ", ""]
    assert "response_format" in server.bodies[-1]


def test_a_lost_answer_is_asked_for_under_its_own_name(server: FakeServer, tmp_path: Path) -> None:
    """A server that keeps answers by Idempotency-Key gives the lost one again; a failure that it told is not repeated."""

    def handler(n: int, body: dict[str, object]) -> web.Response:
        return web.Response(text="{cut") if n == 1 else web.Response(status=500) if n == 2 else completion("ok")

    server.handler = handler
    live = chat(server, tmp_path)
    assert live.complete([ask("a")])[0].text == "ok"
    key = request_key(live.config, ask("a"))
    assert [h["Idempotency-Key"] for h in server.headers] == [key, key, f"{key}-1"]


def test_a_timeout_may_have_cost_everything(server: FakeServer, tmp_path: Path) -> None:
    """9 tokens of prompt and 10 of reply at 1 each: 19 for each lost try; the third does not fit into 50."""
    prices = {"price_in": 1e6, "price_out": 1e6, "max_tokens": 10}
    server.answers = 0
    budget = Budget(50.0)
    lost = Server(chat(server, tmp_path, timeout_s=0.05, tries=5, **prices).config, tmp_path / "cache.sqlite", budget)
    with pytest.raises(BudgetSpent, match="1 of 1 requests are left"):
        lost.complete([ask("12")])
    assert budget.spent == pytest.approx(38)
    (row,) = ledger(tmp_path / "cache.sqlite")
    assert (row["untold"], row["tokens_in"], row["tokens_out"]) == (2, 18, 20)


def test_what_was_in_flight_at_a_kill_is_counted_as_spent(server: FakeServer, tmp_path: Path) -> None:
    server.answers = 0
    command = [sys.executable, "-c", _CLIENT, server.url, str(tmp_path / "cache.sqlite")]
    victim = subprocess.Popen(command)
    while len(server.bodies) < 4:
        time.sleep(0.005)
    victim.kill()
    victim.wait()
    chat(server, tmp_path)
    (row,) = ledger(tmp_path / "cache.sqlite")
    assert (row["answers"], row["untold"], row["tokens_out"]) == (4, 4, 4 * 1024)
    chat(server, tmp_path)
    assert ledger(tmp_path / "cache.sqlite") == [row], "once"


def test_every_fresh_reply_is_told(server: FakeServer, tmp_path: Path) -> None:
    heard: list[str] = []
    live = chat(server, tmp_path)
    live.told = lambda reply: heard.append(reply.text)
    live.complete([ask("a"), ask("b")])
    live.complete([ask("a"), ask("c")])
    assert sorted(heard) == ["A", "B", "C"]


def test_a_model_that_wants_other_parameters_is_asked_in_its_words(server: FakeServer, tmp_path: Path) -> None:
    """As OpenAI's reasoning models answer: one thing at a time; learnt once, told, and no part of a request's name."""

    def handler(n: int, body: dict[str, object]) -> web.Response:
        said = ""
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
        elif body.get("temperature", 1.0) != 1.0:
            said = "Unsupported value: 'temperature' does not support 0.5. Only the default (1) value is supported."
        elif "maxLength" in json.dumps(body.get("response_format")):
            said = "Invalid schema for response_format 'answer': 'maxLength' is not permitted."
        if said:
            return web.json_response({"error": {"message": said, "code": "unsupported_parameter"}}, status=400)
        return completion("ok")

    server.handler = handler
    schema = '{"type": "object", "properties": {"reason": {"type": "string", "maxLength": 9}}}'
    requests = [Request(messages=(user(str(n)),), schema=schema) for n in range(3)]
    live = chat(server, tmp_path, concurrency=1, temperature=0.5, max_tokens=77)
    assert [r.text for r in live.complete(requests)] == ["ok"] * 3
    assert len(server.bodies) == 3 + 3
    last = server.bodies[-1]
    assert (last["max_completion_tokens"], last["messages"]) == (77, [{"role": "user", "content": "2"}])
    assert not {"max_tokens", "temperature"} & last.keys()
    assert "response_format" in last
    assert live.notes == (
        "JSON schemas without lengths", "max_completion_tokens instead of max_tokens", "no temperature but the model's own",
    )  # fmt: skip
    assert all(r.cached for r in chat(server, tmp_path, temperature=0.5, max_tokens=77).complete(requests))


def test_a_prompt_that_is_too_long_is_told_and_teaches_nothing(server: FakeServer, tmp_path: Path) -> None:
    said = "This model's maximum context length is 2048 tokens. However, you requested 9000 tokens."
    server.handler = lambda n, body: web.json_response({"error": {"message": said}}, status=400)
    live = chat(server, tmp_path)
    (reply,) = live.complete([Request(messages=(user("a"),), schema=SCHEMA)])
    assert (reply.problem, reply.final, len(server.bodies), live.notes) == (f"http 400: {said}", False, 1, ())


def test_an_answer_whose_cost_no_server_told_costs_the_most(server: FakeServer, tmp_path: Path) -> None:
    """9 tokens of prompt and 10 of reply at 1 each."""
    answer = {"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}], "usage": None}
    server.handler = lambda n, body: web.json_response(answer)
    config = chat(server, tmp_path, price_in=1e6, price_out=1e6, max_tokens=10).config
    budget = Budget(100.0)
    (reply,) = Server(config, tmp_path / "cache.sqlite", budget).complete([ask("12")])
    assert (reply.text, reply.tokens, budget.spent) == ("ok", 0, pytest.approx(19))
    (row,) = ledger(tmp_path / "cache.sqlite")
    assert (row["answers"], row["untold"], row["failures"]) == (1, 1, 1)


def test_what_is_cut_off_is_asked_again_by_the_next_command(server: FakeServer, tmp_path: Path) -> None:
    server.handler = lambda n, body: completion("half an ans", finish_reason="length") if n < 3 else completion("whole")
    told = [chat(server, tmp_path).complete([ask("x")])[0] for _ in range(4)]
    assert [(r.problem, r.final, r.cached) for r in told] == [
        ("cut off at max_tokens", False, False), ("cut off at max_tokens", False, False), ("", True, False), ("", True, True)
    ]  # fmt: skip
    assert (len(server.bodies), told[-1].text) == (3, "whole")
    (row,) = ledger(tmp_path / "cache.sqlite")
    assert (row["answers"], row["failures"]) == (3, 2), "what was cut was paid"


def test_an_error_inside_a_200_is_asked_again(server: FakeServer, tmp_path: Path) -> None:
    server.handler = lambda n, body: (
        web.json_response({"error": {"message": "slow down", "code": 429}}, headers={"Retry-After": "0.01"})
        if n < 3
        else completion("ok")
    )
    assert chat(server, tmp_path).complete([ask("x")])[0].text == "ok"
    assert len(server.bodies) == 3


def test_compressed_chunked_and_streamed_answers_are_read(server: FakeServer, tmp_path: Path) -> None:
    def handler(n: int, body: dict[str, object]) -> web.Response:
        text = str(body["messages"][-1]["content"])  # type: ignore[index]
        response = completion(f"{text} " * 200)
        if text == "stream":
            events = [{"choices": [{"delta": {"content": c}}]} for c in ("o", "k")]
            lines = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
            response = web.Response(text=lines, content_type="text/event-stream")
        if text in ("gzip", "deflate"):
            response.enable_compression(web.ContentCoding(text))
        if text == "chunked":
            response.enable_chunked_encoding()
        return response

    server.handler = handler
    forms = ("gzip", "deflate", "chunked", "stream")
    replies = chat(server, tmp_path).complete([ask(f) for f in forms])
    assert [r.text.split(" ")[0] for r in replies] == ["gzip", "deflate", "chunked", "ok"]
