"""An OpenAI-compatible chat server on loopback whose replies a test decides; it keeps what it was asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from plain_server import answering


@dataclass
class Judged:
    """`answer` turns a request's last message into a reply's text; a status of 400 and more where it raises ValueError."""

    answer: Callable[[str], str]
    url: str = ""
    asked: list[Any] = field(default_factory=list)

    def text(self, body: dict[str, Any]) -> str:
        content = body["messages"][-1]["content"]
        return content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text")


@contextmanager
def judging(answer: Callable[[str], str]) -> Iterator[Judged]:
    judged = Judged(answer)

    def reply(_: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        assert body is not None
        judged.asked.append(body)
        try:
            message = {"role": "assistant", "content": judged.answer(judged.text(body))}
        except ValueError as error:
            return 400, {"error": {"message": str(error)}}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}

    with answering(reply) as url:
        judged.url = f"{url}/v1"
        yield judged
