"""The model's server as it really is: it goes away and comes back, knows another key, other words, and limits of its own."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from answer_server import AnswerServer, post
from assay.bench.reasoning import upstream
from assay.bench.reasoning.recorder import Recorder
from assay.bench.reasoning.rows import Job
from ports import free_port


def ask(url: str, text: str = "what?", **more: Any) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 1.0, "max_tokens": 64, **more}
    status, told = post(f"{url}/chat/completions", body)
    assert status == 200
    return str(told["choices"][0]["message"]["content"])


@contextmanager
def before(url: str, folder: Path, **more: Any) -> Iterator[Recorder]:
    job = Job(benchmark="b", model="m", url=url, data=folder, work=folder, at_once=2, max_tokens=64)
    with Recorder(job, folder / "asked.sqlite", **more) as recorder:
        yield recorder


@pytest.mark.parametrize("waits", [True, False])
def test_one_that_goes_away_is_waited_for(waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answered before, so that it is begun anew; one that this command started does not come back."""
    monkeypatch.setattr(upstream, "TRIES", 2)  # a connection that was kept may be found closed
    monkeypatch.setattr(upstream, "BACKOFF_S", 0.001)
    said, later = list[str](), list[AnswerServer]()
    port = free_port()
    first = AnswerServer(lambda body: "here", port=port)
    with before(first.url, tmp_path, waits=waits, say=said.append) as recorder:
        assert ask(recorder.url) == "here"
        first.stop()

        def begun_anew() -> None:
            while not said:
                time.sleep(0.005)
            later.append(AnswerServer(lambda body: "here again", port=port))

        if waits:
            threading.Thread(target=begun_anew, daemon=True).start()
        assert ask(recorder.url, "and what?") == ("here again" if waits else "")
        assert len(recorder.lost) == int(not waits)
    for server in later:
        server.stop()
    assert [line.split(" (")[0] for line in said] == ["b: the server cannot be reached"] * waits


def test_one_that_does_not_come_back_is_not_waited_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "PATIENCE_S", 0.0)
    server = AnswerServer(lambda body: "here")
    with before(server.url, tmp_path) as recorder:
        assert ask(recorder.url) == "here"
        server.stop()
        assert [ask(recorder.url, text) for text in ("one", "two", "three")] == ["", "", ""]
        assert len(recorder.lost) == 3
        assert recorder.lost[0].startswith("connection: ")


def test_a_question_that_ends_the_server_is_not_asked_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "TRIES", 3)
    monkeypatch.setattr(upstream, "BACKOFF_S", 0.001)
    ended = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(await reader.read(10))
        writer.close()

    ready, port = threading.Event(), list[int]()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        ready.set()
        await asyncio.sleep(3_600)

    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    assert ready.wait(300)
    with before(f"http://127.0.0.1:{port[0]}/v1", tmp_path) as recorder:
        assert ask(recorder.url) == ""
        assert len(recorder.lost) == 1
    assert len(ended) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_takes_no_request_is_asked_once(status: int, tmp_path: Path) -> None:
    server = AnswerServer(lambda body: (status, "no such key"))
    try:
        with before(server.url, tmp_path) as recorder:
            assert [ask(recorder.url, text) for text in ("one", "two", "three")] == ["", "", ""]
            assert f"http {status}: no such key" in recorder.refused
        assert server.asked.total() == 1
    finally:
        server.stop()


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
    ],
)
def test_a_model_without_eyes_or_tools_is_there_for_words(more: dict[str, Any], tmp_path: Path) -> None:
    server = AnswerServer(lambda body: (404, "No endpoints found that support it") if {*more} <= {*body} else "here")
    try:
        with before(server.url, tmp_path) as recorder:
            asked = [ask(recorder.url, n=1, user=text, **more) for text in ("one", "two")]
            assert (asked, recorder.refused, recorder.lost) == (["", ""], "", [])
            assert len(recorder.faults) == 2
    finally:
        server.stop()


def test_one_refused_question_among_answers_is_its_own(tmp_path: Path) -> None:
    """A filter's 403 is of one question, where others are answered."""
    server = AnswerServer(lambda body: (403, "not this") if "bad" in str(body) else "here")
    try:
        with before(server.url, tmp_path) as recorder:
            assert [ask(recorder.url, text) for text in ("one", "bad", "three")] == ["here", "", "here"]
            assert (recorder.refused, recorder.lost) == ("", [])
    finally:
        server.stop()


def test_other_words_of_the_same_api(tmp_path: Path) -> None:
    """As newer models of OpenAI have it. That it draws at a temperature of its own is told, of journalled answers too."""

    def strict(body: dict[str, Any]) -> str | tuple[int, str]:
        if "max_tokens" in body:
            return (
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
            )
        if "temperature" in body:
            return (
                400,
                "Unsupported value: 'temperature' does not support 0.6; only the default (1) value is supported.",
            )
        return f"within {body['max_completion_tokens']}"

    server = AnswerServer(strict)
    try:
        for asked in (4, 4):
            with before(server.url, tmp_path) as recorder:
                assert [ask(recorder.url, text) for text in ("one", "two")] == ["within 64"] * 2
                assert recorder.manners == (
                    "the server takes max_completion_tokens instead of max_tokens",
                    "the server takes no temperature but the model's own",
                )
            assert server.asked.total() == asked
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("reason", "made", "own"),
    [("length", 5, True), ("model_context_window_exceeded", 5, True), ("length", 64, False), ("stop", 5, False)],
)
def test_a_limit_of_its_own_is_told(reason: str, made: int, own: bool, tmp_path: Path) -> None:
    server = AnswerServer(lambda body: "So \\boxed{", reason, usage={"prompt_tokens": 3, "completion_tokens": made})
    try:
        with before(server.url, tmp_path) as recorder:
            ask(recorder.url)
            told = "the server cuts before 64 tokens, by a limit of its own"
            assert recorder.manners == ((told,) if own else ())
            assert recorder.tally.cut == (reason != "stop")
    finally:
        server.stop()


def test_answers_that_a_parser_took_for_thoughts_are_told(tmp_path: Path) -> None:
    """vLLM's parsers give all of an answer without thoughts as one: 0 of a model that may be right."""
    server = AnswerServer(lambda body: {"content": None, "reasoning": "It is \\boxed{7}."})
    try:
        with before(server.url, tmp_path) as recorder:
            assert ask(recorder.url) == ""
            (told,) = recorder.manners
            assert told.startswith("answers that ended by themselves came whole in the field for thoughts")
    finally:
        server.stop()
