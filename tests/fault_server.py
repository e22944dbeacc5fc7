"""An OpenAI-compatible server that fails on purpose, as a process of its own; what it does with a request is drawn.

Of all requests, a share `faults` each is answered by 429 with Retry-After, by 500, by nothing (a stall), by a reply that is
cut in the middle, and by malformed JSON. The rest gets a verdict for the candidate that says GOOD. GET /stats tells how
often each question was answered whole (`delivered`) and how often an answer was produced and billed (`generated`).

With --hold N, nothing more is answered when N questions were, until somebody posts to /release: who is killed then is killed
in the middle, however long that takes.

With --honour, answers are kept by Idempotency-Key: a question that comes again gets the answer that was produced before.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from aiohttp import web

ATTRIBUTES = json.dumps({
    "category": "Math", "objectivity": "objective", "controversiality": "low", "desired": ["is right"],
    "guideline": "Check.",
})  # fmt: skip
FAULTS = ("429", "500", "stall", "cut", "malformed")


class Faulty:
    def __init__(self, faults: float, kinds: Sequence[str], honour: bool, hold: int, seed: int) -> None:
        self.faults, self.kinds, self.honour, self.hold = faults, kinds, honour, hold
        self.random, self.released = random.Random(seed), asyncio.Event()
        self.kept: dict[str, str] = {}
        self.generated, self.delivered, self.outcomes = Counter[str](), Counter[str](), Counter[str]()
        self.open = self.most_open = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._answer(request)
        finally:
            self.open -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = request.headers.get("Idempotency-Key", "")
        draw = int(self.random.random() / self.faults) if self.faults else len(self.kinds)
        outcome = self.kinds[draw] if draw < len(self.kinds) else "whole"
        self.outcomes[outcome] += 1
        if outcome == "429":
            return web.Response(status=429, headers={"Retry-After": "0.01"})
        if outcome == "500":
            return web.Response(status=500, text="oops")
        if self.hold and len(self.delivered) >= self.hold:
            await self.released.wait()
        text = self._produce(key, body)
        if outcome == "stall":
            await asyncio.sleep(3600)
        if outcome == "malformed":
            return web.Response(text=text[:-20], content_type="application/json")
        if outcome == "cut":
            cut = web.StreamResponse(headers={"Content-Length": str(len(text)), "Content-Type": "application/json"})
            await cut.prepare(request)
            await cut.write(text[: len(text) // 2].encode())
            if request.transport is not None:
                request.transport.close()
            return cut
        self.delivered[_question(key)] += 1
        return web.Response(text=text, content_type="application/json")

    def _produce(self, key: str, body: dict[str, Any]) -> str:
        name = _question(key)
        if self.honour and name in self.kept:
            return self.kept[name]
        self.generated[name] += 1
        text = json.dumps({
            "choices": [{"message": {"role": "assistant", "content": verdict(body)}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        })  # fmt: skip
        self.kept[name] = text
        return text

    async def release(self, _: web.Request) -> web.StreamResponse:
        self.released.set()
        return web.json_response({})

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response({
            "generated": self.generated, "delivered": self.delivered, "outcomes": self.outcomes, "most_open": self.most_open,
        })  # fmt: skip


def _question(key: str) -> str:
    """The request behind an Idempotency-Key: the suffix counts failures that were told."""
    return key.split("-")[0]


def verdict(body: dict[str, Any]) -> str:
    """The candidate that says GOOD, as JSON where JSON is asked for; model "liar" says the other one. Who asks for
    attributes gets some; of model "vague", what is no JSON."""
    prompt = body["messages"][-1]["content"]
    if prompt.startswith("You describe a task"):
        return "Well, it depends." if body["model"] == "vague" else ATTRIBUTES
    first = prompt.split("# The conversation to decide")[1].split("<candidate_1>")[1].split("</candidate_1>")[0]
    right = ("GOOD" in first) == (body["model"] != "liar")
    said = "1" if right else "2"
    if "JSON object" in prompt:
        return json.dumps({"reason": f"draw {hashlib.md5(os.urandom(8)).hexdigest()}", "verdict": said})
    return f"Because.\nVerdict: {said}"


async def serve(arguments: argparse.Namespace) -> None:
    faulty = Faulty(arguments.faults, arguments.kinds.split(), arguments.honour, arguments.hold, arguments.seed)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", faulty.answer)
    app.router.add_get("/stats", faulty.stats)
    app.router.add_post("/release", faulty.release)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until whoever started it closes the pipe


class FaultServer(AbstractContextManager["FaultServer"]):
    """The server for the length of a `with`; `url` is what a client is given."""

    def __init__(
        self, faults: float = 0.1, kinds: Sequence[str] = FAULTS, honour: bool = False, hold: int = 0, seed: int = 0
    ) -> None:
        line = [sys.executable, __file__, "--faults", str(faults), "--kinds", " ".join(kinds), "--hold", str(hold),
                "--seed", str(seed)]  # fmt: skip
        self._process = subprocess.Popen(
            [*line, *(["--honour"] if honour else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._root = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.url = f"{self._root}/v1"

    def stats(self) -> dict[str, Any]:
        return self._told("/stats", None)

    def release(self) -> None:
        """What is held is answered, and all that comes."""
        self._told("/release", b"")

    def _told(self, path: str, body: bytes | None) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._root}{path}", body, timeout=300) as reply:
            return dict(json.load(reply))

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=float, default=0.1)
    parser.add_argument("--honour", action="store_true")
    parser.add_argument("--kinds", default=" ".join(FAULTS))
    parser.add_argument("--hold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
