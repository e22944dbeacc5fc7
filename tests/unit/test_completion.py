"""What servers really send, read without a network: forms of content, streams, errors, usage."""

import json
from typing import Any

import pytest

from assay.llm.completion import Again, error_message, read_answer
from assay.llm.dialect import lesson, without
from assay.llm.replies import Reply


def sent(**message: Any) -> dict[str, Any]:
    reason = message.pop("finish_reason", "stop")
    usage = message.pop("usage", {"prompt_tokens": 7, "completion_tokens": 3})
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}],
        "usage": usage,
    }


def read(data: Any, status: int = 200) -> Reply | Again:
    return read_answer(status, data if isinstance(data, bytes) else json.dumps(data).encode())


TEXT, THOUGHT = {"type": "text", "text": "yes"}, {"type": "thinking", "thinking": [{"type": "text", "text": "no?"}]}


@pytest.mark.parametrize(
    ("data", "text", "problem"),
    [
        (sent(content="yes"), "yes", ""),
        (sent(content=[TEXT]), "yes", ""),
        (sent(content=[THOUGHT, TEXT]), "yes", ""),
        (sent(content=["y", {"type": "output_text", "text": "es"}]), "yes", ""),
        (sent(content={"type": "text", "text": "yes"}), "yes", ""),
        (sent(content={"verdict": "1"}), '{"verdict": "1"}', ""),
        (sent(content="yes", reasoning_content="no?", finish_reason=None), "yes", ""),
        (sent(content=[THOUGHT]), "", "only thoughts, no answer"),
        (sent(content="", reasoning="so yes"), "", "only thoughts, no answer"),
        (sent(content=None, reasoning_content="so yes"), "", "only thoughts, no answer"),
        (sent(content=None, reasoning_content="so y", finish_reason="length"), "", "cut off at max_tokens"),
        (sent(content="Verdict: 1", finish_reason="length"), "Verdict: 1", "cut off at max_tokens"),
        (sent(content="Verdict: 1", finish_reason="MAX_TOKENS"), "Verdict: 1", "cut off at max_tokens"),
        (sent(content=""), "", "empty"),
        (sent(content=None, tool_calls=[{}], finish_reason="tool_calls"), "", "empty"),
        (sent(content=None, refusal="No."), "", "refused"),
        (sent(content=[{"type": "refusal", "refusal": "No."}]), "", "refused"),
        (sent(content="Verdict: 1", finish_reason="content_filter"), "", "refused"),
    ],
)
def test_every_form_of_content(data: Any, text: str, problem: str) -> None:
    reply = read(data)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.problem, reply.tokens_in, reply.tokens_out) == (text, problem, 7, 3)
    assert reply.final == (problem != "cut off at max_tokens")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (0, 0)), ([], (0, 0)), ("many", (0, 0)), ({"prompt_tokens": None, "completion_tokens": "3"}, (0, 3)),
        ({"input_tokens": 7, "output_tokens": 2.0}, (7, 2)), ({"prompt_tokens": -1}, (0, 0)),
        ({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, (0, 0)),
    ],
)  # fmt: skip
def test_usage_of_any_form_loses_no_answer(usage: Any, tokens: tuple[int, int]) -> None:
    reply = read(sent(content="yes", usage=usage))
    assert isinstance(reply, Reply)
    assert (reply.text, (reply.tokens_in, reply.tokens_out)) == ("yes", tokens)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"error": {"message": "Too Many Requests", "code": 429}, "choices": None}, "http 429: Too Many Requests"),
        ({"error": {"message": "overloaded", "code": "502"}}, "http 502: overloaded"),
        ({"error": {"message": "busy", "type": "server_error", "code": "busy"}}, "http 200, but an error: busy"),
        ({"error": "busy"}, "http 200, but an error: busy"),
        ({"choices": [{"message": {"content": "hal"}, "finish_reason": "error"}]},
         "http 200, but an error: the model stopped with an error"),
        ({"choices": [{"error": {"message": "gone", "code": 503}}]}, "http 503: gone"),
        ({"choices": []}, "not a chat completion: it has no choices"),
        ({"choices": None}, "not a chat completion: it has no choices"),
        (b"<html>502</html>", "the server's answer is not JSON"),
        (b"", "the server's answer is not JSON"),
        (b"[" * 100_000, "the server's answer is not JSON"),
        (b'data: {"choices": [{"delta": {"content": "Verdict: 1"}}]}\n\n',
         "the server's answer is not JSON: its stream was cut off"),
        (b'data: {"error": {"message": "overloaded", "code": 503}}\n\n', "http 503: overloaded"),
    ],
)  # fmt: skip
def test_what_may_pass_is_asked_again(data: Any, problem: str) -> None:
    outcome = read(data)
    assert isinstance(outcome, Again)
    assert outcome.problem == problem


@pytest.mark.parametrize(
    ("status", "data", "problem", "final"),
    [
        (400, {"error": {"message": "This model's maximum context length is 9 tokens."}},
         "http 400: This model's maximum context length is 9 tokens.", False),
        (400, {"error": {"message": "Filtered by our content management policy."}}, "refused", True),
        (401, {"error": {"message": "Incorrect API key"}}, "http 401: Incorrect API key", False),
        (404, {"detail": "Not Found"}, "http 404: Not Found", False),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, "http 422: field required", False),
        (200, {"error": {"message": "No such model", "code": 404}}, "http 404: No such model", False),
        (200, [1], "not a chat completion: [1]", False),
        (200, {"choices": [{"text": "x"}]}, "not a chat completion: {'choices': [{'text': 'x'}]}", False),
    ],
)  # fmt: skip
def test_what_will_not_pass_is_told_in_the_servers_words(status: int, data: Any, problem: str, final: bool) -> None:
    outcome = read(data, status)
    assert isinstance(outcome, Reply)
    assert (outcome.problem, outcome.final) == (problem, final)


def test_a_stream_is_read_as_what_it_spells() -> None:
    events: list[Any] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "hm"}}]},
        {"choices": [{"index": 0, "delta": {"content": "y\u2028e"}}, {"index": 1, "delta": {"content": "no"}}]},
        {"choices": [{"index": 0, "delta": {"content": "s"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
    ]
    text = "".join(f"data: {json.dumps(e, ensure_ascii=False)}\r\n\r\n" for e in events)
    for stream in (f": hello\n\n{text}data: [DONE]\n\n", text):
        reply = read(stream.encode())
        assert isinstance(reply, Reply)
        assert (reply.text, reply.tokens_in, reply.tokens_out) == ("y\u2028es", 5, 2)
    cut = text.replace('"stop"', '"length"')
    told = read(cut.encode())
    assert isinstance(told, Reply)
    assert told.problem == "cut off at max_tokens"


def test_a_byte_order_mark_and_white_space_do_not_matter() -> None:
    for before in (b"\xef\xbb\xbf", b"\n\n  "):
        reply = read(before + json.dumps(sent(content="yes")).encode())
        assert isinstance(reply, Reply)
        assert reply.text == "yes"


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"error": {"message": "no", "type": "t", "param": null}}', "no"),
        (b'{"error": {"message": "Provider returned error", "metadata": {"raw": "no"}}}', "Provider returned error (no)"),
        (b'{"message": "no"}', "no"), (b'{"detail": {"msg": "no"}}', "no"), (b'{"errors": ["a", "b"]}', "a; b"),
        (b"plain words\n", "plain words"), (b"", ""), (b"\xff\xfe", "\ufffd\ufffd"),
        (b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head></html>", "a web page (502 Bad Gateway)"),
        (b'{"error": {"message": "' + b"word " * 100 + b'"}}', ("word " * 60).strip() + " ..."),
    ],
)  # fmt: skip
def test_the_message_of_an_error_is_told_not_its_json(payload: bytes, said: str) -> None:
    assert error_message(payload) == said


BODY = {
    "model": "m", "messages": [], "temperature": 0.0, "max_tokens": 9,
    "response_format": {"json_schema": {"schema": {"type": "array", "maxItems": 3, "items": {"maxLength": 5}}}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "lack"),
    [
        ("http 400: Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
         "max_tokens"),
        ("http 400: Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is "
         "supported.", "temperature"),
        ("http 400: Invalid schema for response_format: 'maxLength' is not permitted.", "bounds"),
        ("http 400: response_format is not supported", "schema"),
        ("http 400: unknown field", "schema"),
    ],
)  # fmt: skip
def test_what_a_refusal_teaches(said: str, lack: str) -> None:
    assert lesson(BODY, 400, said, True) == lack
    assert lesson(without(BODY, [lack]), 400, said, True) != lack  # type: ignore[list-item]
    assert lesson(BODY, 401, said, True) is None
    assert lesson(BODY, 400, said, False) == (lack if lack in ("max_tokens", "temperature") else None)


def test_a_request_in_the_servers_words() -> None:
    assert without(BODY, ["max_tokens"])["max_completion_tokens"] == 9
    assert "max_tokens" not in without(BODY, ["max_tokens"])
    assert "temperature" not in without(BODY, ["temperature"])
    schema = without(BODY, ["bounds"])["response_format"]["json_schema"]["schema"]
    assert schema == {"type": "array", "items": {}}
    assert "response_format" not in without(BODY, ["schema"])
    assert BODY["max_tokens"] == 9, "the request itself is left as it is"
