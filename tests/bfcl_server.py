"""A scripted OpenAI-compatible server that knows the answers of BFCL's questions, in both ways of asking; it counts what it
is asked. The questions and answers are read from an installed `bfcl-eval`."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopback import answering


def answers(python: Path, categories: tuple[str, ...]) -> dict[str, list[dict[str, Any]] | None]:
    """Of each question's words what is expected; None: no call."""
    data = next((python.parent.parent / "lib").glob("python*/site-packages/bfcl_eval/data"))
    found: dict[str, list[dict[str, Any]] | None] = {}
    for category in categories:
        lines = (data / f"BFCL_v4_{category}.json").read_text().splitlines()
        file = data / "possible_answer" / f"BFCL_v4_{category}.json"
        expected = [json.loads(x)["ground_truth"] for x in file.read_text().splitlines()] if file.exists() else []
        for n, line in enumerate(lines):
            found[json.loads(line)["question"][0][-1]["content"]] = expected[n] if expected else None
    return found


def value(option: Any) -> Any:
    """One value that an expected one allows."""
    if isinstance(option, dict):
        return {k: value(v[0]) for k, v in option.items() if v and v[0] != ""}
    return [value(v) for v in option] if isinstance(option, list) else option


def calls(expected: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, {k: value(options[0]) for k, options in named.items() if options and options[0] != ""})
        for call in expected for name, named in call.items()
    ]  # fmt: skip


def right(expected: list[dict[str, Any]] | None, tools: bool) -> dict[str, Any]:
    """The message that answers rightly."""
    if expected is None:
        return {"role": "assistant", "content": "None of these functions can do that."}
    told = calls(expected)
    if tools:
        made = [
            {"id": f"c{n}", "type": "function",
             "function": {"name": name.replace(".", "_"), "arguments": json.dumps(named)}}
            for n, (name, named) in enumerate(told)
        ]  # fmt: skip
        return {"role": "assistant", "content": None, "tool_calls": made}
    text = ", ".join(f"{name}({', '.join(f'{k}={v!r}' for k, v in named.items())})" for name, named in told)
    return {"role": "assistant", "content": f"[{text}]"}


def wrong(expected: list[dict[str, Any]] | None, tools: bool) -> dict[str, Any]:
    """One that answers wrongly: calls where none is due, and says something where one is."""
    return right([{"nothing": {"x": [1]}}] if expected is None else None, tools)


@dataclass
class Scripted:
    """`answer` makes a message of what is expected and whether tools were given, and its finish reason."""

    answer: Callable[[list[dict[str, Any]] | None, bool], tuple[dict[str, Any], str]]
    known: dict[str, list[dict[str, Any]] | None]
    most: int = 10_000
    """So many requests are answered; the others wait until `opened`."""
    opened: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def scripted(server: Scripted) -> Iterator[Scripted]:
    def reply(_: str, body: dict[str, Any] | None) -> tuple[int, object]:
        assert body is not None
        words = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
        server.asked[words] += 1
        server.bodies.append(body)
        if server.asked.total() > server.most:
            server.opened.wait()
        message, finish = server.answer(server.known.get(words), "tools" in body)
        return 200, {
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": finish, "message": message}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
        }  # fmt: skip

    with answering(reply) as url:
        server.url = f"{url}/v1"
        yield server
