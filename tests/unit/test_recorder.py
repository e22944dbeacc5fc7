"""The loopback server between a library and the model: asked once, thoughts apart, failures never an answer."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from answer_server import AnswerServer, post
from assay.bench.reasoning import upstream as module
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
def between(
    server: AnswerServer, folder: Path, identity: str = "", budget: Budget | None = None, seed: int = 100
) -> Iterator[Recorder]:
    job = Job(benchmark="b", model="m", url=server.url, data=folder, work=folder, seed=seed)
    with Recorder(job, folder / "asked.sqlite", identity, budget) as recorder:
        yield recorder


def test_repeats_are_answers_of_their_own_and_none_is_asked_again(tmp_path: Path) -> None:
    with AnswerServer(lambda body: f"drawn with {body.get('seed')}") as server:
        with between(server, tmp_path) as recorder:
            first = [content(ask(recorder.url, "what?")) for _ in range(3)]
            assert len({*first, content(ask(recorder.url, "and what?"))}) == 4, "a seed for each question and repeat"
            assert recorder.tally.cached == 0
        with between(server, tmp_path) as again:
            answers = [
                content(ask(again.url, text, seed=9)) for text in ("what?", "what?", "what?", "and what?", "what?")
            ]
            assert answers[:3] == first
            assert (again.tally.cached, again.tally.answered) == (4, 5)
        with between(server, tmp_path, identity="other weights") as other:
            ask(other.url, "what?")
        assert server.asked.total() == 6
        assert spent(tmp_path / "asked.sqlite") == 6 * 15


def test_other_seeds_are_other_draws(tmp_path: Path) -> None:
    """A journal of seed 0 has no answers of seed 1, and none of their repeats share a draw."""
    with AnswerServer(lambda body: f"drawn with {body.get('seed')}") as server:
        drawn = set[str]()
        for seed in (0, 1):
            with between(server, tmp_path, seed=seed) as recorder:
                drawn |= {content(ask(recorder.url, "what?")) for _ in range(3)}
                ask(recorder.url, "what?", temperature=0.0)
        assert len(drawn) == 6
        assert server.asked.total() == 7, "without draws the seed decides nothing: asked once"


@pytest.mark.parametrize(
    ("reason", "message", "fault"),
    [
        ("content_filter", {"content": None}, "the server's filter let no answer through"),
        ("abort", {"content": "So \\boxed{"}, "http 200, but an error: the model stopped with an error"),
        ("error", {"content": ""}, "http 200, but an error: the model stopped with an error"),
    ],
)
def test_a_server_that_gave_up_gave_no_answer(
    reason: str, message: dict[str, Any], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 200 and a reason to end that is no end: no wrong answer of the model, and not kept."""
    monkeypatch.setattr(module, "TRIES", 1)
    with AnswerServer(lambda body: message, reason) as server:
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "what?")
            assert recorder.faults == {told["id"]: fault}
        assert spent(tmp_path / "asked.sqlite") == 0


@pytest.mark.parametrize(
    ("usage", "whole"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 7}, (9, 7, 16)), ({"prompt_tokens": 9}, (9, 0, 9)), (None, (0, 0, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": None, "prompt_tokens_details": 3}, (9, 7, 16)),
    ],
)  # fmt: skip
def test_a_library_is_told_what_it_knows_to_read(
    usage: dict[str, int] | None, whole: tuple[int, ...], tmp_path: Path
) -> None:
    """evalscope drops an answer whose usage lacks a total; servers have more reasons to end than OpenAI."""
    server = AnswerServer(lambda body: "here", "eos", usage=usage)
    try:
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "what?")
    finally:
        server.stop()
    assert tuple(told["usage"][f"{k}_tokens"] for k in ("prompt", "completion", "total")) == whole
    assert set(told["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert told["choices"][0]["finish_reason"] == "stop"


def test_a_call_without_words_is_an_answer(tmp_path: Path) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = {"content": None, "tool_calls": calls}
    with AnswerServer(lambda body: message, "tool_calls") as server, between(server, tmp_path) as recorder:
        assert ask(recorder.url, "what?")["choices"][0]["message"]["tool_calls"] == calls
        assert recorder.faults == {}


def test_a_server_that_is_too_busy_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 is no failure, however often; but not for ever."""
    monkeypatch.setattr(module, "TRIES", 1)
    monkeypatch.setattr(module, "BACKOFF_S", 0.001)
    left = [9]

    def busy(body: dict[str, Any]) -> str | int:
        left[0] -= 1
        return 429 if left[0] >= 0 else "here"

    with AnswerServer(busy) as server:
        with between(server, tmp_path) as recorder:
            assert content(ask(recorder.url, "what?")) == "here"
        left[0] = 99
        monkeypatch.setattr(module, "PATIENCE_S", 0.0)
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "and what?")
            assert recorder.faults == {told["id"]: "http 429: told so"}


def test_what_cannot_be_kept_ends_the_asking(tmp_path: Path) -> None:
    """Of a full disk one answer is lost, not all that come after it."""
    with AnswerServer(lambda body: "here") as server, between(server, tmp_path) as recorder:
        recorder._database.execute("PRAGMA query_only = ON")
        told = [ask(recorder.url, text) for text in ("one", "two", "three")]
        assert server.asked.total() == 1
        assert "an answer could not be kept (attempt to write a readonly database)" in recorder.broken
        assert recorder.faults == dict.fromkeys((t["id"] for t in told), recorder.broken)


def test_at_temperature_0_no_seed_is_sent(tmp_path: Path) -> None:
    with AnswerServer(lambda body: "x") as server:
        with between(server, tmp_path) as recorder:
            ask(recorder.url, "what?", temperature=0.0)
        assert server.bodies[0].get("seed") == 7, "as the library asked"


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
    with AnswerServer(lambda body: message) as server:
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "what?")
            assert content(told) == shown
            assert "1" not in json.dumps(told["choices"]), "no thought beside it either"
            heard = recorder.said(told["id"])
            assert heard is not None
            assert heard.open is open_
            assert "\\boxed{1}" in heard.thoughts
            assert recorder.heard[told["id"]].said == heard.bare, "in memory without its texts"
        kept = sqlite3.connect(tmp_path / "asked.sqlite").execute("SELECT answer FROM answers").fetchone()[0]
        assert json.loads(kept)["choices"][0]["message"]["content"] == message["content"], "the journal has all of it"


def test_a_failure_is_told_apart_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIES", 2)
    up = [False]
    with AnswerServer(lambda body: "here" if up[0] else 500) as server:
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "what?")
            assert content(told) == "", "no error for a library to drop"
            assert recorder.faults == {told["id"]: "http 500: told so"}
        assert server.asked.total() == 2
        up[0] = True
        with between(server, tmp_path) as again:
            assert content(ask(again.url, "what?")) == "here"
            assert again.faults == {}


def test_a_library_without_ids_is_told_of_failures_as_errors(tmp_path: Path) -> None:
    with AnswerServer(lambda body: 400) as server:
        job = Job(benchmark="b", model="m", url=server.url, data=tmp_path, work=tmp_path)
        with Recorder(job, tmp_path / "asked.sqlite", errors=True) as recorder:
            status, told = post(f"{recorder.url}/chat/completions", {"messages": [{"role": "user", "content": "x"}]})
            assert (status, told["error"]["message"]) == (400, "http 400: told so")


def test_a_refused_question_is_its_own_fault(tmp_path: Path) -> None:
    with AnswerServer(lambda body: 400) as server:
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "too long")
            assert recorder.faults[told["id"]] == "http 400: told so"
        assert server.asked.total() == 1, "asked once: it will not pass"


def test_the_budget_holds_over_runs(tmp_path: Path) -> None:
    with AnswerServer(lambda body: "x") as server:
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


def test_the_budget_holds_where_a_server_tells_no_usage(tmp_path: Path) -> None:
    with AnswerServer(lambda body: "x" * 400, usage=None) as server:
        budget = Budget(600.0)
        with between(server, tmp_path, budget=budget) as recorder:
            for n in range(5):
                ask(recorder.url, f"question {n}", max_tokens=200)
            assert 1 <= server.asked.total() <= 2
            assert 200 <= recorder.tally.tokens_out == spent(tmp_path / "asked.sqlite") - recorder.tally.tokens_in


def test_pictures_stay_out_of_the_journal(tmp_path: Path) -> None:
    with AnswerServer(lambda body: "x") as server:
        shown = [
            {"type": "text", "text": "see"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 5000}"}},
        ]
        with between(server, tmp_path) as recorder:
            ask(recorder.url, "", messages=[{"role": "user", "content": shown}])
            assert recorder.prompt == "see\n\n(picture)"
        assert server.bodies[0]["messages"][0]["content"] == shown, "the model is shown it"
        asked = sqlite3.connect(tmp_path / "asked.sqlite").execute("SELECT request FROM answers").fetchone()[0]
        assert len(asked) < 400
        assert '"picture ' in asked


@pytest.mark.parametrize(
    ("message", "answer", "thoughts"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", ""),
        ({"content": {"type": "text", "text": "ab"}}, "ab", ""),
        (
            {"content": [{"type": "reasoning", "text": "\\boxed{1}"}, {"type": "text", "text": "ab"}]},
            "ab",
            "\\boxed{1}",
        ),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "so"}]}]}, "", "so"),
        ({"content": "ab", "reasoning_content": [{"type": "text", "text": "so"}]}, "ab", "so"),
        ({"content": "a\ud800b"}, "a?b", ""),
    ],
)
def test_a_message_in_parts(message: dict[str, Any], answer: str, thoughts: str, tmp_path: Path) -> None:
    """What is no part of text is a thought, and no library sees it; one with nothing else is no end of thinking."""
    with AnswerServer(lambda body: message) as server, between(server, tmp_path) as recorder:
        told = ask(recorder.url, "what?")
        heard = recorder.said(told["id"])
    assert content(told) == answer
    assert heard is not None
    assert (heard.thoughts, heard.thinks, heard.open) == (thoughts, bool(thoughts), not answer)


@pytest.mark.parametrize(
    "body",
    [b'{"choices": [{"message": null}]}', b'{"choices": [null]}', b'{"choices": [{"message": {"content": 42}}]}'],
)
def test_what_is_no_message_is_no_answer(body: bytes) -> None:
    """Else it would be an empty answer, wrong at a coverage of 100 %."""
    answer, problem, _ = module._read(200, body)
    assert answer == {}
    assert problem.startswith("not a chat completion: ")


@pytest.mark.parametrize("usage", [{"prompt_tokens": "n/a", "completion_tokens": []}, "none", {"prompt_tokens": 1e400}])
def test_usage_that_is_no_number_loses_no_answer(usage: Any, tmp_path: Path) -> None:
    server = AnswerServer(lambda body: "here", usage=usage)
    try:
        with between(server, tmp_path) as recorder:
            told = ask(recorder.url, "what?")
    finally:
        server.stop()
    assert content(told) == "here"
    assert told["usage"]["total_tokens"] == 0
    assert spent(tmp_path / "asked.sqlite") > 0, "estimated, for a budget"
