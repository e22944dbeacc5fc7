"""The loopback server between a library and the model: asked once, thoughts apart, failures never an answer."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from answer_server import AnswerServer, post
from assay.bench.reasoning import recorder as module
from assay.bench.reasoning.recorder import Recorder, spent
from assay.bench.reasoning.rows import Job
from assay.llm.budget import Budget


def ask(url: str, text: str, **more: Any) -> dict[str, Any]:
    """What a library does."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 1.0, "seed": 7, **more}
    status, told = post(f"{url}/chat/completions", body)
    assert status == 200
    return told


def content(told: dict[str, Any]) -> str:
    return str(told["choices"][0]["message"]["content"])


@contextmanager
def between(server: AnswerServer, folder: Path, identity: str = "", budget: Budget | None = None) -> Iterator[Recorder]:
    job = Job(benchmark="b", model="m", url=server.url, data=folder, work=folder, seed=100)
    with Recorder(job, folder / "asked.sqlite", identity, budget) as recorder:
        yield recorder


def test_repeats_are_answers_of_their_own_and_none_is_asked_again(tmp_path: Path) -> None:
    server = AnswerServer(lambda body: f"drawn with {body.get('seed')}")
    try:
        with between(server, tmp_path) as recorder:
            first = [content(ask(recorder.url, "what?")) for _ in range(3)]
            assert first == ["drawn with 100", "drawn with 101", "drawn with 102"], "a seed for each repeat"
            assert recorder.tally.cached == 0
        with between(server, tmp_path) as again:
            assert [content(ask(again.url, "what?", seed=9)) for _ in range(4)] == [*first, "drawn with 103"]
            assert (again.tally.cached, again.tally.answered) == (3, 4)
        with between(server, tmp_path, identity="other weights") as other:
            ask(other.url, "what?")
        assert server.asked.total() == 5
        assert spent(tmp_path / "asked.sqlite") == 5 * 15
    finally:
        server.stop()


def test_at_temperature_0_no_seed_is_sent(tmp_path: Path) -> None:
    server = AnswerServer(lambda body: "x")
    try:
        with between(server, tmp_path) as recorder:
            ask(recorder.url, "what?", temperature=0.0)
        assert server.bodies[0].get("seed") == 7, "as the library asked"
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("message", "shown", "open_"),
    [
        ({"content": "<think>\\boxed{1}</think>So \\boxed{2}."}, "So \\boxed{2}.", False),
        ({"content": "\\boxed{1} is it</think>\\boxed{2}"}, "\\boxed{2}", False),
        ({"content": "\\boxed{2}", "reasoning_content": "\\boxed{1}"}, "\\boxed{2}", False),
        ({"content": "<think>\\boxed{1} and on"}, "", True),
        ({"content": None, "reasoning_content": "\\boxed{1}"}, "", True),
    ],
)
def test_a_library_sees_no_thought(message: dict[str, Any], shown: str, open_: bool, tmp_path: Path) -> None:
    server = AnswerServer(lambda body: message)
    try:
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "what?")
            assert content(told) == shown
            assert "1" not in json.dumps(told["choices"]), "no thought beside it either"
            heard = recorder.heard[told["id"]]
            assert heard.said.open is open_
            assert "\\boxed{1}" in heard.said.thoughts
        kept = sqlite3.connect(tmp_path / "asked.sqlite").execute("SELECT answer FROM answers").fetchone()[0]
        assert json.loads(kept)["choices"][0]["message"]["content"] == message["content"], "the journal has all of it"
    finally:
        server.stop()


def test_a_failure_is_told_apart_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIES", 2)
    up = [False]
    server = AnswerServer(lambda body: "here" if up[0] else 500)
    try:
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "what?")
            assert content(told) == "", "no error for a library to drop"
            assert recorder.faults == {told["id"]: "http 500: told so"}
        assert server.asked.total() == 2
        up[0] = True
        with between(server, tmp_path) as again:
            assert content(ask(again.url, "what?")) == "here"
            assert again.faults == {}
    finally:
        server.stop()


def test_a_library_without_ids_is_told_of_failures_as_errors(tmp_path: Path) -> None:
    server = AnswerServer(lambda body: 400)
    job = Job(benchmark="b", model="m", url=server.url, data=tmp_path, work=tmp_path)
    try:
        with Recorder(job, tmp_path / "asked.sqlite", errors=True) as recorder:
            status, told = post(f"{recorder.url}/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
            assert (status, told["error"]["message"]) == (400, "http 400: told so")
    finally:
        server.stop()


def test_a_refused_question_is_its_own_fault(tmp_path: Path) -> None:
    server = AnswerServer(lambda body: 400)
    try:
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "too long")
            assert recorder.faults[told["id"]] == "http 400: told so"
        assert server.asked.total() == 1, "asked once: it will not pass"
    finally:
        server.stop()


def test_the_budget_holds_over_runs(tmp_path: Path) -> None:
    server = AnswerServer(lambda body: "x")
    try:
        for limit, faults in ((165.0, 1), (10_000.0, 0)):
            budget = Budget(limit)
            budget.spend(spent(tmp_path / "asked.sqlite"))
            with between(server, tmp_path, budget=budget) as recorder:
                for text in ("one", "two"):
                    ask(recorder.url, text, max_tokens=100)
                assert [f for f in recorder.faults.values() if "budget" in f] == [
                    "not asked: the budget of tokens is spent"
                ] * faults
        assert server.asked.total() == 2
    finally:
        server.stop()


def test_pictures_stay_out_of_the_journal(tmp_path: Path) -> None:
    server = AnswerServer(lambda body: "x")
    shown = [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 5000}"}},
    ]
    try:
        with between(server, tmp_path) as recorder:
            ask(recorder.url, "", messages=[{"role": "user", "content": shown}])
            assert recorder.prompt == "see\n\n(picture)"
        assert server.bodies[0]["messages"][0]["content"] == shown, "the model is shown it"
        asked = sqlite3.connect(tmp_path / "asked.sqlite").execute("SELECT request FROM answers").fetchone()[0]
        assert len(asked) < 400
        assert '"picture ' in asked
    finally:
        server.stop()
