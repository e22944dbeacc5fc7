"""Every endpoint of the reward server gives the rewards of offline scoring, and says what is wrong with a bad request."""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from assay.records import Conversation, Message, assistant, user
from assay.reward.scorer import LocalScorer

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from assay.reward.serve import ServeConfig, make_app
from assay.reward.serve_page import ENDPOINTS

PROMPT: Conversation = (Message(role="system", content="be kind"), user("what is 2+3?"))
ANSWERS = ("5", "five, I think", "a fish", "It is 5." * 9)
CHATS: list[Conversation] = [(*PROMPT, assistant(a)) for a in ANSWERS] + [(user("hi"), assistant("ho"))]


@pytest.fixture(scope="module")
def client(scorer: LocalScorer) -> Iterator[TestClient]:
    with TestClient(make_app(scorer, "tiny", ServeConfig(max_conversations=8, max_body_mb=0.1))) as made:
        yield made


def turns(chat: Conversation) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in chat]


def texts(scorer: LocalScorer, chats: list[Conversation]) -> list[str]:
    return [scorer.tokenizer.apply_chat_template(turns(c), tokenize=False) for c in chats]


def post(client: TestClient, path: str, body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_own_endpoints_agree_with_offline_scoring(client: TestClient, scorer: LocalScorer) -> None:
    offline = scorer(CHATS)
    assert len(set(offline.round(4))) == len(CHATS), "a model that tells nothing apart would prove nothing"
    whole = post(client, "/v1/score", {"conversations": [turns(c) for c in CHATS]})
    np.testing.assert_allclose(whole["rewards"], offline, atol=1e-4)
    assert whole["model"] == "tiny"
    asked = {"prompt": turns(PROMPT), "responses": list(ANSWERS)}
    np.testing.assert_allclose(post(client, "/v1/score", asked)["rewards"], offline[:4], atol=1e-4)
    ranked = post(client, "/v1/rank", asked)
    assert ranked["order"] == list(np.argsort(-offline[:4]))
    assert ranked["best"] == int(np.argmax(offline[:4]))
    plain = post(client, "/v1/score", {"prompt": "hi", "responses": ["ho"]})
    np.testing.assert_allclose(plain["rewards"], offline[4:], atol=1e-4)


def test_foreign_layouts_agree_with_offline_scoring(client: TestClient, scorer: LocalScorer) -> None:
    offline, rendered = scorer(CHATS), texts(scorer, CHATS)
    queries = {"query": rendered, "prompts": texts(scorer, [c[:-1] for c in CHATS])}
    np.testing.assert_allclose(post(client, "/get_reward", queries)["rewards"], offline, atol=1e-4)
    np.testing.assert_allclose(post(client, "/get_reward", {"query": rendered})["rewards"], offline, atol=1e-4)
    pooled = post(client, "/pooling", {"model": "m", "input": rendered})["data"]
    assert [row["index"] for row in pooled] == list(range(len(CHATS)))
    np.testing.assert_allclose([row["data"][0] for row in pooled], offline, atol=1e-4)
    one = post(client, "/pooling", {"messages": turns(CHATS[1])})["data"]
    np.testing.assert_allclose(one[0]["data"], offline[1:2], atol=1e-4)
    classified = post(client, "/classify", {"input": rendered})["data"]
    np.testing.assert_allclose([row["probs"][0] for row in classified], offline, atol=1e-4)
    theirs = post(client, "/classify", {"text": rendered})
    np.testing.assert_allclose([row["embedding"][-1] for row in theirs], offline, atol=1e-4)
    assert post(client, "/classify", {"text": rendered[0]})["embedding"][0] == pytest.approx(offline[0], abs=1e-4)
    pairs = post(client, "/score", {"text_1": "hi", "text_2": ["ho", "hey"]})["data"]
    np.testing.assert_allclose(pairs[0]["score"], offline[4], atol=1e-4)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/score", {}, 422, "give either conversations, or prompt and responses"),
        ("/v1/score", {"conversations": []}, 422, "conversations: is an empty list"),
        ("/v1/score", {"prompt": "q", "responses": ["a"] * 9}, 422, "this one has 9"),
        ("/v1/score", {"conversations": [[{"role": "user", "content": "q"}]]}, 422, "conversations[0]: must end with"),
        (
            "/v1/score",
            {"conversations": [[{"role": "king", "content": "q"}]]},
            422,
            "conversations[0][0].role: must be one of",
        ),
        (
            "/v1/score",
            {"conversations": [[{"role": "user", "content": 7}]]},
            422,
            "conversations[0][0].content: must be a text, not a number",
        ),
        ("/v1/score", {"conversation": []}, 422, "conversation: is not known here"),
        ("/v1/rank", {"prompt": "q", "responses": []}, 422, "responses"),
        ("/v1/rank", {"prompt": [{"role": "assistant", "content": "a"}], "responses": ["b"]}, 422, "user's turn"),
        ("/pooling", {"model": "m"}, 400, "give input, text or messages"),
        ("/get_reward", {"query": "text"}, 422, "query"),
        ("/v1/score", {"prompt": "q", "responses": ["a" * 200_000]}, 413, "bytes, more than"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    client: TestClient, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert says in (error["message"] if path == "/pooling" else error)
    assert answer.headers["x-request-id"]


def test_what_is_no_json_or_has_no_length_is_refused(client: TestClient) -> None:
    assert client.post("/v1/score", content=b"{", headers={"content-type": "application/json"}).status_code == 422
    assert client.post("/v1/score", content=iter([b"{}"])).status_code == 411
    assert client.get("/v1/score").status_code == 405
    assert client.get("/nothing").status_code == 404


def test_over_long_conversations_are_cut_as_offline_or_refused(client: TestClient, scorer: LocalScorer) -> None:
    long = [(user("word " * 100), assistant("yes"))]
    assert scorer.render(long)[0].cut > 0
    told = post(client, "/v1/score", {"conversations": [turns(long[0])]})["rewards"]
    np.testing.assert_allclose(told, scorer(long), atol=1e-4)
    with TestClient(make_app(scorer, "tiny", ServeConfig(over_long="refuse"))) as strict:
        answer = strict.post("/v1/score", json={"conversations": [turns(CHATS[0]), turns(long[0])]})
    assert answer.status_code == 422
    assert "conversations[1]: has" in answer.json()["error"]


def test_a_key_is_asked_for_but_health_is_open(scorer: LocalScorer) -> None:
    body = {"prompt": "q", "responses": ["a"]}
    with TestClient(make_app(scorer, "tiny", ServeConfig(api_key="secret"))) as guarded:
        assert guarded.get("/health").json()["status"] == "ready"
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer "}):
            for path in ("/v1/score", "/v1/rank", "/get_reward", "/pooling", "/classify", "/score"):
                assert guarded.post(path, json=body, headers=headers).status_code == 401, path
        assert guarded.post("/v1/score", json=body, headers={"authorization": "Bearer secret"}).status_code == 200


def test_metrics_count_requests_by_status(client: TestClient) -> None:
    def value(told: str, name: str) -> float:
        return sum(float(line.rsplit(" ", 1)[1]) for line in told.splitlines() if line.startswith(name))

    good = 'assay_requests_total{path="/v1/score",status="200"}'
    before = client.get("/metrics").text
    post(client, "/v1/score", {"prompt": "q", "responses": ["a"]})
    client.post("/v1/score", json={})
    after = client.get("/metrics").text
    assert value(after, good) == value(before, good) + 1
    assert value(after, "assay_scored_tokens") > value(before, "assay_scored_tokens")
    assert 'status="422"' in after


def test_a_reward_that_is_no_number_is_the_servers_fault_and_says_so(scorer: LocalScorer) -> None:
    class Broken(LocalScorer):
        def rewards(self, conversations: Any, rendered: Any) -> Any:
            return np.full(len(rendered), np.nan)

    broken = object.__new__(Broken)
    broken.__dict__ |= scorer.__dict__
    with TestClient(make_app(broken, "tiny", ServeConfig())) as made:
        answer = made.post("/v1/score", json={"prompt": "q", "responses": ["a"]})
    assert answer.status_code == 500
    assert "the reward of responses[0] is nan" in answer.json()["error"]


def test_the_page_of_a_server_shows_bodies_that_it_takes(client: TestClient) -> None:
    for path in ("/", "/docs"):
        shown = client.get(path)
        assert shown.status_code == 200
        assert shown.headers["content-type"].startswith("text/html")
        assert "<script" not in shown.text
        assert "http://testserver/v1/rank" in shown.text
        assert not re.search(r"https?://(?!testserver)", shown.text), "nothing from elsewhere"
    for one in ENDPOINTS:
        answer = client.get(one.path) if one.body is None else client.post(one.path, content=json.dumps(one.body))
        assert answer.status_code == 200, f"{one.path}: {answer.text}"
    served = {r.path for r in client.app.routes}  # type: ignore[attr-defined]
    assert {e.path for e in ENDPOINTS} == served - {"/", "/docs"}
