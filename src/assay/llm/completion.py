"""What a chat server sent, whatever its form: a reply of the model, a failure that may pass, or a failure that will not.

OpenAI's form is read as servers really give it: content as parts, thoughts beside it, an error inside a 200, a stream though
none was asked for, usage that is null. A text that the length limit cut is kept for people to read, but it comes with a
problem: nobody may take it for an answer. Sources: OpenAI's API reference, and what vLLM, SGLang, llama.cpp, LiteLLM,
OpenRouter, Azure, Mistral and DeepSeek send.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from assay.llm.replies import CUT, Reply

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""HTTP statuses that may go away by themselves; any other failure is final at once."""
_LONG = re.compile(
    r"context.{0,9}(?:length|window|size)|maximum.{0,30}tokens|max_model_len|too many tokens|prompt is too long|"
    r"too long for|longer than the (?:model|maximum)|exceeds? (?:the )?(?:model|max|available)",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content.?filter|content management policy|content.?policy|responsible.?ai|safety", re.IGNORECASE
)
CUT_REASONS = frozenset({"length", "max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded"})
_REFUSED_REASONS = frozenset({"content_filter", "refusal", "safety", "prohibited_content", "blocklist", "recitation"})
TEXT_PARTS = frozenset({"text", "output_text", ""})
_MOST_SAID = 300
"""Characters of a server's message that a problem keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A failure that may pass; `after_s` is the server's Retry-After, if it gave one. `worked`: the server may have produced
    (and will bill) an answer that did not arrive."""

    problem: str
    after_s: float | None = None
    worked: bool = False


def read_answer(status: int, payload: bytes) -> Reply | Again:
    """What the body of an HTTP answer came to."""
    if status in PASSING:
        said = error_message(payload)
        return Again(problem=f"http {status}: {said}" if said else f"http {status}")
    if status != 200:
        return refused_request(status, error_message(payload))
    text = payload.lstrip(b"\xef\xbb\xbf \t\r\n")
    try:
        data = _joined(text) if text.startswith((b"data:", b"event:", b"id:", b":")) else json.loads(text)
    except (ValueError, RecursionError):
        return Again(problem="the server's answer is not JSON", worked=not text.startswith(b"<"))  # a gateway's page
    if data is None:
        return Again(problem="the server's answer is not JSON: its stream was cut off", worked=True)
    return read_completion(data)


def refused_request(status: int, said: str) -> Reply:
    """The reply to a request that the server does not take, with its reason."""
    if status in (400, 403, 422) and _FILTERED.search(said):
        return Reply(problem="refused")
    return Reply(problem=f"http {status}: {said}", final=False)


def about_content(outcome: Reply | Again) -> bool:
    """Whether a refusal is about what a request says or how long it is, and not about its form."""
    return outcome.problem == "refused" or bool(_LONG.search(outcome.problem))


def read_completion(data: Any) -> Reply | Again:
    """The reply in a chat completion object; refusals, empty and cut answers are problems."""
    if not isinstance(data, dict):
        return Reply(problem=f"not a chat completion: {_short(str(data))}", final=False)
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = data.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
    if error:
        return _error_inside(error)
    if not choice:
        if "choices" not in data:
            return Reply(problem=f"not a chat completion: {_short(str(data))}", final=False)
        return Again(problem="not a chat completion: it has no choices", worked=True)
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return Reply(problem=f"not a chat completion: {_short(str(data))}", final=False)
    tokens_in, tokens_out = _usage(data.get("usage"))
    reason = str(choice.get("finish_reason") or "").lower()
    if reason in ("error", "abort"):  # abort: SGLang's, vLLM's
        return Again(problem="http 200, but an error: the model stopped with an error", worked=True)
    text, thoughts, refusal = _content(message)
    if refusal or reason in _REFUSED_REASONS:
        return Reply(problem="refused", tokens_in=tokens_in, tokens_out=tokens_out)
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is valid JSON, but no text to store
    if reason in CUT_REASONS:
        return Reply(text=text, problem=CUT, tokens_in=tokens_in, tokens_out=tokens_out, final=False)
    problem = "" if text.strip() else "only thoughts, no answer" if thoughts else "empty"
    return Reply(text="" if problem else text, problem=problem, tokens_in=tokens_in, tokens_out=tokens_out)


def error_message(payload: bytes) -> str:
    """What a server says in the body of a failure: its own words, without the JSON or HTML around them."""
    text = payload.decode("utf-8-sig", "replace").strip()
    try:
        return _short(_message_in(json.loads(text)))
    except (ValueError, RecursionError):
        pass
    if re.match(r"\s*<(?:!doctype|html)", text, re.IGNORECASE):
        title = re.search(r"<(title|h1)[^>]*>(.*?)</\1>", text, re.IGNORECASE | re.DOTALL)
        return _short(f"a web page ({title[2].strip()})" if title else "a web page")
    return _short(text)


def _message_in(data: Any) -> str:
    """The message of an error object: OpenAI's `error.message`, FastAPI's `detail`, or what else stands for it."""
    if isinstance(data, str):
        return data
    if isinstance(data, list):
        return "; ".join(filter(None, map(_message_in, data)))
    if not isinstance(data, dict):
        return str(data) if data is not None else ""
    raw = data["metadata"].get("raw") if isinstance(data.get("metadata"), dict) else None
    for name in ("error", "message", "msg", "detail", "details", "errors", "title", "code"):
        if data.get(name):
            said = _message_in(data[name])
            return f"{said} ({raw})" if raw and isinstance(raw, str) and name == "message" else said
    return json.dumps(data, ensure_ascii=False) if data else ""


def _error_inside(error: Any) -> Reply | Again:
    """An error object in a 200: it passes unless its code says that it will not."""
    said = _short(_message_in(error))
    code = error.get("code") if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdigit()) else 0
    if status in range(400, 500) and status not in PASSING:
        return refused_request(status, said)
    return Again(problem=f"http {status}: {said}" if status else f"http 200, but an error: {said}")


def _usage(usage: Any) -> tuple[int, int]:
    """Tokens in and out; 0 where the server does not tell."""
    told = usage if isinstance(usage, dict) else {}

    def count(*names: str) -> int:
        for name in names:
            try:
                return max(0, int(told[name]))
            except (KeyError, TypeError, ValueError, OverflowError):
                continue
        return 0

    return count("prompt_tokens", "input_tokens"), count("completion_tokens", "output_tokens")


def _content(message: dict[str, Any]) -> tuple[str, str, str]:
    """(text, thoughts, refusal) of a message."""
    refusal = message.get("refusal")
    thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
    content = message.get("content")
    if isinstance(content, dict):
        content = [content] if "type" in content or "text" in content else json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        texts = []
        for part in content:
            kind = str(part.get("type", "")) if isinstance(part, dict) else ""
            said = part.get("text") if isinstance(part, dict) else part
            if kind == "refusal":
                refusal = refusal or part.get("refusal") or "refused"
            elif kind in TEXT_PARTS and isinstance(said, str):
                texts.append(said)
            elif kind:
                thoughts = thoughts or kind
        content = "".join(texts)
    text = content if isinstance(content, str) else ""
    return text, str(thoughts or ""), str(refusal or "")


def _joined(payload: bytes) -> dict[str, Any] | None:
    """A stream of server-sent events as the one completion that it spells; None where it ended early."""
    text, thoughts, refusal = [], [], []
    reason, usage, done = None, None, False
    for event in _events(payload):
        if event == "[DONE]":
            done = True
            break
        data = json.loads(event)
        if not isinstance(data, dict):
            raise ValueError("an event that is no object")
        if data.get("error"):
            return {"error": data["error"]}
        usage = data.get("usage") or usage
        for choice in data.get("choices") or []:
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                continue
            said = choice.get("delta") or choice.get("message") or {}
            one, thought, no = _content(said) if isinstance(said, dict) else ("", "", "")
            text.append(one)
            thoughts.append(thought)
            refusal.append(no)
            reason = choice.get("finish_reason") or reason
    if not done and reason is None:
        return None
    message = {"content": "".join(text), "reasoning_content": "".join(thoughts), "refusal": "".join(refusal)}
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}


def _events(payload: bytes) -> Iterator[str]:
    """The data of each event of a stream."""
    lines: list[str] = []
    for line in (*re.split(r"\r\n|\n|\r", payload.decode("utf-8", "replace")), ""):
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif not line.strip() and lines:
            yield "\n".join(lines)
            lines = []


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID].rsplit(' ', 1)[0]} ..."
