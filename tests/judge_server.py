"""An OpenAI-compatible chat server on loopback whose replies a test decides; it keeps what it was asked."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from loopback import Loopback, completion


class Judged(Loopback):
    """`answer` turns a request's last message into a reply's text; a status of 400 where it raises ValueError."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer, self.asked = answer, list[Any]()
        super().__init__()

    def text(self, body: dict[str, Any]) -> str:
        content = body["messages"][-1]["content"]
        return content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text")

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(body := await request.json())
        try:
            return web.json_response(completion(self.answer(self.text(body)), tokens=(1000, 100)))
        except ValueError as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
