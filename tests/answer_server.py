"""An OpenAI-compatible chat server whose answers are a function of the question: what benchmarks with known answers ask.

`asked` counts each request as a benchmark sees it (its words and pictures and the seed), so that asking twice shows.
"""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from loopback import Loopback


def words(body: dict[str, Any]) -> str:
    """The text of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)


USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


Told = str | dict[str, Any] | int | tuple[int, str]
"""A message, its words alone, an HTTP status, or one and what it says."""


class AnswerServer(Loopback):
    """`answer`: of a request's body what it is told. `reason`: its finish_reason; `usage`: what it tells of its tokens."""

    def __init__(
        self, answer: Callable[[dict[str, Any]], Told], reason: str = "stop", wait_s: float = 0.0,
        usage: dict[str, int] | None = USAGE, port: int = 0,
    ) -> None:  # fmt: skip
        self.answer, self.reason, self.wait_s, self.usage = answer, reason, wait_s, usage
        self.asked, self.answered, self.bodies = Counter[str](), Counter[str](), list[dict[str, Any]]()
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/stats", self._stats)
        super().__init__(app, port)

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = request.headers.get("Idempotency-Key") or json.dumps(body, sort_keys=True)
        self.asked[name] += 1
        self.bodies.append(body)
        await asyncio.sleep(self.wait_s)
        told = self.answer(body)
        if isinstance(told, int | tuple):
            status, why = told if isinstance(told, tuple) else (told, "told so")
            return web.json_response({"error": {"message": why}}, status=status)
        self.answered[name] += 1
        message = {"role": "assistant", **({"content": told} if isinstance(told, str) else told)}
        return web.json_response({
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": self.reason}],
            "usage": self.usage,
        })  # fmt: skip

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response({"asked": self.asked, "answered": self.answered})


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What a client does: the status and the body of the answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


if __name__ == "__main__":
    server = AnswerServer(lambda body: "I think \\boxed{7}.", wait_s=float(sys.argv[1]))
    print(server.url, flush=True)
    sys.stdin.read()
