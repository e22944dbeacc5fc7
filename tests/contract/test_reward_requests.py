"""What people send to a reward server: the right reward, or a 4xx that names the place; never a 500, nor harm to others."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_models
from assay.records import Conversation, Message, assistant, user
from assay.render import Rendered
from assay.reward.scorer import LocalScorer

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from assay.reward.serve import ServeConfig, make_app

ASKED, SAID = {"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}
CHAT: Conversation = (user("2+3?"), assistant("5"))
HALF = '"\\ud83d"'
STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
    "[{{ m['role'][0] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}<end>{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def client(scorer: LocalScorer) -> Iterator[TestClient]:
    with TestClient(make_app(scorer, "tiny", ServeConfig()), raise_server_exceptions=False) as made:
        yield made


def sent(client: TestClient, path: str, body: Any) -> tuple[int, Any]:
    raw = body if isinstance(body, str) else json.dumps(body)
    answer = client.post(path, content=raw.encode(), headers={"content-type": "application/json"})
    return answer.status_code, answer.json()


def reward(told: Any) -> list[float]:
    """The rewards of an answer in any layout."""
    if "rewards" in told:
        return list(told["rewards"])
    return [row.get("score", (row.get("data") or row.get("probs") or [None])[0]) for row in told["data"]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", {"conversations": [[{"role": "user", "content": [{"type": "text", "text": "2+3?"}]}, SAID]]}),
        ("/v1/score", {"prompt": [ASKED], "responses": ["5"], "conversations": None, "model": None}),
        ("/v1/score", {"prompt": "2+3?", "responses": [SAID]}),
        ("/v1/score", {"prompt": "2+3?", "responses": [{**SAID, "refusal": None, "audio": None, "tool_calls": []}]}),
        ("/v1/score", {"text_1": "2+3?", "text_2": "5"}),
        ("/v1/score", {"queries": ["2+3?"], "documents": ["5"], "model": "tiny"}),
        ("/score", {"queries": "2+3?", "documents": ["5"], "use_activation": False}),
        ("/score", {"text_1": ["2+3?"], "text_2": ["5"], "truncate_prompt_tokens": -1, "truncation_side": "left"}),
        ("/pooling", {"messages": [ASKED, SAID], "encoding_format": "float", "user": "x"}),
        ("/classify", {"input": "[u]2+3?[a]5<end>", "use_activation": False, "activation": False}),
    ],
)
def test_every_spelling_of_a_request_gets_the_offline_reward(
    client: TestClient, scorer: LocalScorer, path: str, body: Any
) -> None:
    status, told = sent(client, path, body)
    assert status == 200, told
    np.testing.assert_allclose(reward(told), scorer([CHAT]), atol=1e-5)


def test_lists_of_texts_are_scored_one_by_one_or_one_with_all(client: TestClient, scorer: LocalScorer) -> None:
    chats = [(user(q), assistant(a)) for q, a in (("2+3?", "5"), ("1+1?", "2"))]
    pairs = {"text_1": ["2+3?", "1+1?"], "text_2": ["5", "2"]}
    np.testing.assert_allclose(reward(sent(client, "/score", pairs)[1]), scorer(chats), atol=1e-5)
    one = [(user("2+3?"), assistant(a)) for a in ("5", "2")]
    status, told = sent(client, "/v1/score", {"queries": "2+3?", "documents": ["5", "2"]})
    np.testing.assert_allclose(reward(told), scorer(one), atol=1e-5)
    assert told["usage"]["prompt_tokens"] == sum(len(r.ids) for r in scorer.render(one))
    status, told = sent(client, "/score", {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]})
    assert (status, told["error"]["message"][:7]) == (400, "text_1:")


def test_token_ids_are_scored_as_they_are(client: TestClient, scorer: LocalScorer) -> None:
    chats = [CHAT, (user("hi"), assistant("a longer answer"))]
    ids = [r.ids for r in scorer.render(chats)]
    np.testing.assert_allclose(reward(sent(client, "/pooling", {"input": ids})[1]), scorer(chats), atol=1e-5)
    np.testing.assert_allclose(reward(sent(client, "/classify", {"input": ids[0]})[1]), scorer(chats[:1]), atol=1e-5)
    for bad, where in (
        ([], "input"), ([[]], "input[0]"), ([1, -1], "input[1]"), ([[1, 10**30]], "input[0][1]"), (["a", 1], "input[1]"),
        ([[1, True]], "input[0][1]"), ([1.5], "input[0]"), ([1, "a"], "input[1]"),
    ):  # fmt: skip
        status, told = sent(client, "/pooling", {"input": bad})
        assert (status, told["error"]["message"].split(":")[0]) == (400, where), bad


def test_a_shorter_cut_is_made_as_offline(client: TestClient, scorer: LocalScorer) -> None:
    chat = (user("word " * 20), assistant("yes"))
    (whole,), (short,) = scorer.render([chat]), scorer.attempts([chat], 40)
    assert isinstance(short, Rendered)
    cut = {"truncate_prompt_tokens": 40, "truncation_side": "left"}
    said = [{"role": m.role, "content": m.content} for m in chat]
    told = reward(sent(client, "/pooling", {"messages": said, **cut})[1])
    np.testing.assert_allclose(told, scorer.rewards([chat], [short]), atol=1e-5)
    told = reward(sent(client, "/pooling", {"input": whole.ids, **cut})[1])
    np.testing.assert_allclose(told, scorer.rewards([chat], [Rendered(ids=whole.ids[-40:])]), atol=1e-5)


def test_an_activation_is_the_sigmoid_where_it_is_asked_for(client: TestClient, scorer: LocalScorer) -> None:
    expected = 1 / (1 + np.exp(-scorer([CHAT])))
    for path, body in (
        ("/score", {"text_1": "2+3?", "text_2": "5", "use_activation": True}),
        ("/v1/score", {"queries": "2+3?", "documents": "5", "activation": True}),
        ("/pooling", {"messages": [ASKED, SAID], "use_activation": True}),
        ("/classify", {"input": "[u]2+3?[a]5<end>", "softmax": True}),
    ):
        np.testing.assert_allclose(reward(sent(client, path, body)[1]), expected, atol=1e-5)
    assert sent(client, "/score", {"text_1": "q", "text_2": "a", "use_activation": "yes"})[0] == 400
    assert sent(client, "/score", {"text_1": "q", "text_2": "a", "use_activation": True, "activation": False})[0] == 400


def test_tool_calls_and_reasoning_reach_the_template(client: TestClient, scorer: LocalScorer) -> None:
    """A template that would leave calls out refuses them; thoughts are put before the answer where it does not know them."""
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    status, told = sent(
        client, "/v1/score", {"conversations": [[ASKED, {**SAID, "content": None, "tool_calls": [call]}]]}
    )
    assert (status, "leaves out the tool call" in told["error"]) == (422, True)
    thinking = {"prompt": "2+3?", "responses": [{**SAID, "reasoning_content": "two and three"}]}
    thought = [(user("2+3?"), Message(role="assistant", content="5", reasoning="two and three"))]
    np.testing.assert_allclose(reward(sent(client, "/v1/score", thinking)[1]), scorer(thought), atol=1e-5)
    assert abs(scorer(thought) - scorer([CHAT]))[0] > 1e-4


def test_the_models_are_listed_as_openai_clients_want_them(client: TestClient) -> None:
    told = client.get("/v1/models").json()
    assert (told["object"], told["data"][0]["id"], told["data"][0]["max_model_len"]) == ("list", "tiny", 256)


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/v1/score", f'{{"prompt": "q", "responses": ["a", {HALF}]}}', "responses[1]: character 1 is half"),
        ("/v1/score", f'{{"prompt": {HALF}, "responses": ["a"]}}', "prompt: character 1 is half"),
        ("/pooling", f'{{"messages": [{json.dumps(ASKED)}, {{"role": "assistant", "content": {HALF}}}]}}',
         "messages[1].content"),
        ("/get_reward", f'{{"query": ["a", {HALF}]}}', "query[1]: character 1"),
        ("/v1/score", f'{{"prompt": "q", "responses": ["a"], {HALF}: 1}}', "is not known here"),
        ("/v1/score", f'{{"conversations": [[{{"role": {HALF}, "content": "q"}}]]}}', "conversations[0][0].role"),
        ("/pooling", {"input": ""}, "input: has no token"),
        ("/pooling", {"input": ["a", ""]}, "input[1]: has no token"),
        ("/get_reward", {"query": [""]}, "query[0]: has no token"),
        ("/get_reward", {"query": ["a"], "prompts": []}, "prompts"),
        ("/get_reward", {"query": []}, "query: is an empty list"),
        ("/pooling", {"messages": [{"role": "king", "content": "q"}]}, "messages[0].role"),
        ("/pooling", {"messages": [ASKED, {"role": "assistant"}]}, "messages[1].content"),
        ("/pooling", {"messages": [ASKED, {"role": "assistant", "content": None}]}, "messages[1].content"),
        ("/pooling", {"messages": [ASKED]}, "messages: must end with"),
        ("/pooling", {"messages": [ASKED, 5]}, "messages[1]: must be a turn"),
        ("/pooling", {"messages": [], "input": None}, "messages: is an empty list"),
        ("/pooling", {"messages": [ASKED, SAID], "input": "x"}, "give input, text or messages"),
        ("/pooling", {"messages": [{**ASKED, "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, SAID]},
         "messages[0].content[0]: is of type image_url"),
        ("/pooling", {"messages": [{**ASKED, "content": [{"type": "text", "text": 5}]}, SAID]},
         "messages[0].content[0].text"),
        ("/pooling", {"messages": [ASKED, {**SAID, "function_call": {"name": "f"}}]}, "messages[1].function_call"),
        ("/pooling", {"messages": [{**ASKED, "tool_calls": [{"function": {"name": "f"}}]}, SAID]},
         "messages[0].tool_calls"),
        ("/pooling", {"messages": [ASKED, SAID], "chat_template": "{{ x }}"}, "chat_template: is not supported"),
        ("/pooling", {"input": "x", "encoding_format": "base64"}, "encoding_format"),
        ("/pooling", {"input": "x", "truncate_prompt_tokens": 5}, "truncation_side: must be left"),
        ("/pooling", {"input": "x", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens: must be a number above 0"),
        ("/pooling", {"input": "x", "truncation_side": "right"}, "truncation_side: must be left"),
        ("/pooling", {"messages": [ASKED, SAID], "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
        ("/score", {"text_1": "a", "text_2": "b", "queries": "c"}, "give text_1 and text_2, or"),
        ("/score", {"text_1": "a"}, "text_2: must be a text"),
        ("/v1/score", {"prompt": "q", "responses": [None]}, "responses[0]: must be a text, not null"),
        ("/v1/score", {"prompt": "q", "responses": "a"}, "responses: must be a list"),
        ("/v1/score", {"prompt": "q", "responses": [10**200]}, "responses[0]: must be a text, not a number"),
        ("/v1/score", {"prompt": "q", "responses": [{"role": "user", "content": "a"}]}, "responses[0].role"),
        ("/v1/score", '{"prompt": "q", "responses": [NaN]}', "body: NaN is no JSON"),
        ("/v1/score", '{"prompt": "q", "responses": [' + "9" * 5000 + "]}", "body: is not JSON"),
        ("/v1/score", '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}", "body: is nested"),
        ("/v1/score", '{"prompt": "q", "responses": ' + "[" * 90 + "]" * 90 + "}", "body: is nested more than 64"),
        ("/v1/score", "[]", "body: must be a JSON object, not a list"),
        ("/v1/score", "", "body: is not JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(client: TestClient, path: str, body: Any, place: str) -> None:
    status, told = sent(client, path, body)
    theirs = path in ("/pooling", "/score")
    assert status == (400 if theirs else 422), told
    assert place in (told["error"]["message"] if theirs else told["error"])


def test_a_body_is_read_whatever_its_content_type_says(client: TestClient, scorer: LocalScorer) -> None:
    raw = json.dumps({"prompt": "2+3?", "responses": ["5"]}).encode()
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/json; charset=utf-8"}):
        answer = client.post("/v1/score", content=raw, headers=headers)
        np.testing.assert_allclose(answer.json()["rewards"], scorer([CHAT]), atol=1e-5)
    assert client.post("/v1/score", content=b'{"prompt": "\xff"}').status_code == 422
    odd = client.post("/v1/score", content=raw, headers=[(b"content-length", b"\xb2")])
    assert odd.status_code == 411


def test_refused_conversations_are_named_and_metrics_stay_small(scorer: LocalScorer) -> None:
    strict = object.__new__(LocalScorer)
    strict.__dict__ |= scorer.__dict__
    strict.tokenizer = tiny_models.tokenizer()
    strict.tokenizer.chat_template = STRICT
    with TestClient(make_app(strict, "tiny", ServeConfig()), raise_server_exceptions=False) as client:
        system = {"role": "system", "content": "be kind"}
        status, told = sent(client, "/v1/score", {"conversations": [[ASKED, SAID], [system, ASKED, SAID]]})
        assert (status, told["error"]) == (
            422, "conversations[1]: the chat template refuses it: no system turn here",
        )  # fmt: skip
        for n in range(20):
            client.post(f"/nothing/{n}", content=iter([b"{}"]))
        assert "/nothing" not in client.get("/metrics").text


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
words = st.sampled_from(["user", "assistant", "system", "tool", "text", "\ud800"])
names = st.sampled_from(
    ["role", "content", "type", "text", "tool_calls", "function", "name", "arguments", "reasoning", "x"]
)
json_values = st.recursive(
    plain | words, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
turn = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": json_values})
fields = st.sampled_from(
    ["conversations", "prompt", "responses", "messages", "input", "text", "text_1", "text_2", "queries", "documents",
     "query", "prompts", "model", "tools", "use_activation", "encoding_format", "truncate_prompt_tokens"]
)  # fmt: skip
bodies = st.dictionaries(
    fields, json_values | st.lists(turn, max_size=3) | st.lists(st.lists(turn, max_size=3), max_size=2)
)


@given(path=st.sampled_from(["/v1/score", "/v1/rank", "/pooling", "/classify", "/score", "/get_reward"]), body=bodies)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_no_body_is_the_servers_fault(client: TestClient, path: str, body: Any) -> None:
    status, told = sent(client, path, body)
    assert status < 500, (status, told)
    if status == 200:
        assert all(np.isfinite(x) for x in reward(told)) if isinstance(told, dict) and "embedding" not in told else True
    else:
        assert told["error"]


def test_bad_requests_do_not_harm_those_beside_them(scorer: LocalScorer) -> None:
    """All at once, so that they are scored in one batch: good ones get their rewards, bad ones their 4xx."""
    app = make_app(scorer, "tiny", ServeConfig(wait_ms=50))
    bad: list[tuple[str, Any]] = [
        ("/pooling", {"input": ""}), ("/pooling", {"input": [[10**9]]}), ("/v1/score", {"prompt": "q", "responses": [7]}),
        ("/pooling", {"messages": [ASKED, {"role": "assistant", "content": "\ud800"}]}), ("/score", {"text_1": "a"}),
    ]  # fmt: skip
    good = [("/v1/score", {"prompt": f"{n}+3?", "responses": [str(n + 3), "no"]}) for n in range(12)]

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://t") as http,
        ):
            work = [
                http.post(path, content=json.dumps(body).encode())
                for pair in zip(good, bad * 3, strict=False) for path, body in pair
            ]  # fmt: skip
            return await asyncio.gather(*work)

    answers = asyncio.run(ask())
    for n, answer in enumerate(answers[::2]):
        expected = scorer([(user(f"{n}+3?"), assistant(a)) for a in (str(n + 3), "no")])
        np.testing.assert_allclose(answer.json()["rewards"], expected, atol=1e-5)
    assert {a.status_code for a in answers[1::2]} <= {400, 422}
