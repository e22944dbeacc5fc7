"""An OpenAI-compatible chat server in a thread that can be made to fail and to come back at the same address.

It prefers the shorter candidate in any form that a judge's prompt asks for, describes tasks, and compares answers.
`answered` counts whole answers by question (the Idempotency-Key without its suffix), `refused` what it did not answer, by
how.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter

from aiohttp import web

from loopback import Loopback, completion
from ports import free_port

ATTRIBUTES = {
    "category": "Math", "objectivity": "objective", "controversiality": "low", "desired": ["is right"],
    "guideline": "Check.",
}  # fmt: skip
FAILURES: dict[str, tuple[int, str]] = {
    "503": (503, '{"error": {"message": "overloaded"}}'),
    "429": (429, '{"error": {"message": "rate limit"}}'),
    "401": (401, '{"error": {"message": "incorrect API key"}}'),
    "402": (402, '{"error": {"message": "insufficient credits"}}'),
    "404": (404, '{"error": {"message": "no such model"}}'),
    "400-key": (400, '{"error": {"message": "API key not valid. Please pass a valid API key."}}'),
    "html": (200, "<html>Bad gateway</html>"),
    "too-long": (400, '{"error": {"message": "This model\'s maximum context length is 2048 tokens."}}'),
    "filtered": (400, '{"error": {"message": "The response was filtered", "code": "content_filter"}}'),
}


class OutageServer(Loopback):
    """The server for the length of a `with`; `url` is what a client is given."""

    def __init__(self, port: int = 0) -> None:
        self.answered, self.refused = Counter[str](), Counter[str]()
        self.refuses: dict[str, str] = {}
        """What a request that holds a text gets instead of an answer, for good."""
        self._left, self._how = -1, ""
        super().__init__(port=port or free_port())  # nobody else gets it while nothing listens there

    def fail(self, how: str, after: int = 0) -> None:
        """From the answer after the next `after` ones on, every request fails: a key of FAILURES, "drop", or "hold": it is
        not answered until this server stops."""
        self._how, self._left = how, after

    def recover(self) -> None:
        self._how, self._left = "", -1

    def up(self) -> None:
        """At the same address again."""
        super().__init__(port=self.port)

    async def _answer(self, request: web.Request) -> web.Response:
        prompt = (await request.json())["messages"][-1]["content"]
        own = next((how for text, how in self.refuses.items() if text in prompt), "")
        how = own or (self._how if self._how and self._left <= 0 else "")
        if not how:
            self._left -= 1
            self.answered[request.headers.get("Idempotency-Key", "").split("-")[0]] += 1
            return web.json_response(completion(said(prompt)))
        self.refused[how] += 1
        if how == "hold":
            await asyncio.sleep(3600)
        if how not in FAILURES:
            assert request.transport is not None
            request.transport.close()
        status, text = FAILURES.get(how, (500, ""))
        return web.Response(status=status, text=text, content_type="application/json")


def said(prompt: str) -> str:
    """The answer of a model that likes what is short."""
    if prompt.startswith("You describe a task"):
        return json.dumps(ATTRIBUTES)
    if "<candidate_1>" not in prompt:
        return f"[[{'ABC'[int(hashlib.md5(prompt.encode()).hexdigest(), 16) % 3]}]]"
    first, second = (re.findall(rf"<candidate_{n}>\n(.*?)\n</candidate_{n}>", prompt, re.DOTALL)[-1] for n in (1, 2))
    verdict = "1" if (len(first), first) < (len(second), second) else "2"
    return json.dumps({"reason": "short", "verdict": verdict}) if "JSON object" in prompt else f"Verdict: {verdict}"
