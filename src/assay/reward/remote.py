"""Rewards from a server: ours (`assay serve`), or one with vLLM's, SGLang's or OpenRLHF's endpoints.

    layout     endpoint          what is sent                                  where the reward is
    assay      /v1/score         conversations, many in a request              rewards[i]
    vllm       /pooling          the messages of one conversation              data[0].data, its last number
    sglang     /classify         texts, rendered by the model's chat template  [i].embedding, its last number
    openrlhf   as in the url     the same, as `query`                          rewards[i]

The schemas are read from those projects' sources; a fake server in each layout tests them, no real one has.
A request that fails after all tries gives NaN for its conversations, and `problems` counts the reasons: a benchmark reports
them as coverage, a trainer raises.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import numpy as np
from numpy.typing import NDArray

from assay.chat import PASSING, Gate, retry_after
from assay.errors import AssayError
from assay.records import Conversation, tools_of

Layout = Literal["assay", "vllm", "sglang", "openrlhf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteConfig:
    """One reward server. `tokenizer` (a folder or a hub id) renders texts for the layouts that need them; `per_request`
    conversations go in one request, `concurrency` requests at a time; the key is in the variable `api_key_env`."""

    url: str
    layout: Layout = "assay"
    model: str = ""
    tokenizer: str = ""
    api_key_env: str = "ASSAY_API_KEY"
    per_request: int = 32
    concurrency: int = 8
    tries: int = 5
    timeout_s: float = 300.0
    backoff_s: float = 0.5
    strict: bool = False
    """Raise at the first conversation without a reward, instead of giving NaN."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise AssayError(f"reward server {self.url!r}: must start with http:// or https://")
        if min(self.per_request, self.concurrency, self.tries) < 1:
            raise AssayError(f"reward server {self.url}: per_request, concurrency and tries must be at least 1")
        if self.layout in ("sglang", "openrlhf") and not self.tokenizer:
            raise AssayError(f"reward server {self.url}: layout {self.layout} takes texts; name the model's tokenizer")

    @property
    def endpoint(self) -> str:
        paths = {"assay": "/v1/score", "vllm": "/pooling", "sglang": "/classify", "openrlhf": ""}
        return self.url.rstrip("/") + paths[self.layout]


@dataclass(slots=True)
class RemoteScorer:
    """A `Scorer` over HTTP. It blocks and runs its own event loop, so it cannot be called from inside one."""

    config: RemoteConfig
    problems: Counter[str] = field(default_factory=Counter)
    may_fail: bool = True
    _text: Callable[[Conversation], str] | None = None

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        """(n,) rewards; NaN where the server gave none. Raises AssayError there if `strict`."""
        size = 1 if self.config.layout == "vllm" else self.config.per_request
        ordered = sorted(range(len(conversations)), key=lambda i: hash(conversations[i][:-1]))
        parts = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        rewards = np.full(len(conversations), np.nan)
        for part, found in zip(parts, asyncio.run(self._all(conversations, parts)), strict=True):
            if isinstance(found, str):
                self.problems[found] += len(part)
                if self.config.strict:
                    raise AssayError(
                        f"{self.config.endpoint}: {found}; is the server up, and does it serve this layout?"
                    )
            else:
                rewards[part] = found
        return rewards

    async def _all(self, conversations: Sequence[Conversation], parts: list[list[int]]) -> list[list[float] | str]:
        key = os.environ.get(self.config.api_key_env, "")
        found: list[list[float] | str] = [""] * len(parts)
        todo, gate = iter(enumerate(parts)), Gate()
        timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
        async with aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=timeout, trust_env=True
        ) as session:

            async def work() -> None:
                for number, part in todo:
                    body = self.body([conversations[i] for i in part])
                    found[number] = await self._ask(session, gate, body, len(part))

            await asyncio.gather(*(work() for _ in range(min(self.config.concurrency, len(parts)))))
        return found

    async def _ask(
        self, session: aiohttp.ClientSession, gate: Gate, body: dict[str, Any], count: int
    ) -> list[float] | str:
        """The rewards of one request, or why there are none."""
        problem = ""
        for attempt in range(self.config.tries):
            await gate.passable()
            after: float | None = None
            try:
                async with session.post(self.config.endpoint, json=body) as response:
                    payload = await response.read()
                if response.status == 200:
                    return self.read(json.loads(payload), count)
                problem = f"http {response.status}: {payload[:200].decode('utf-8', 'replace')}"
                if response.status not in PASSING:
                    return problem
                after = retry_after(response.headers.get("Retry-After"))
            except TimeoutError:
                problem = "timeout"
            except aiohttp.ClientError as error:
                problem = f"connection: {error}"
            except (ValueError, KeyError, IndexError, TypeError) as error:
                return f"not an answer in layout {self.config.layout}: {error!r}"
            if attempt + 1 < self.config.tries:
                gate.close_for(after) if after is not None else await asyncio.sleep(self.config.backoff_s * 2**attempt)
        return problem

    def body(self, conversations: Sequence[Conversation]) -> dict[str, Any]:
        """The JSON of a request."""
        named = {"model": self.config.model} if self.config.model else {}
        chats = [[m.chat() for m in c] for c in conversations]
        match self.config.layout:
            case "assay":
                return named | {"conversations": chats}
            case "vllm":
                return named | {"messages": chats[0]}
            case "sglang":
                return named | {"text": [self.text(c) for c in conversations]}
        prompts = [self.text(c[:-1]) for c in conversations]
        return {"query": [self.text(c) for c in conversations], "prompts": prompts}

    def text(self, conversation: Conversation) -> str:
        if self._text is None:
            from assay.models import load_tokenizer

            tokenizer = load_tokenizer(self.config.tokenizer)
            self._text = lambda c: str(
                tokenizer.apply_chat_template([m.chat() for m in c], tools=tools_of(c), tokenize=False)
            )
        return self._text(conversation)

    def read(self, answer: Any, count: int) -> list[float]:
        """The rewards in an answer. Raises ValueError, KeyError, IndexError or TypeError where it is not as it should be."""
        match self.config.layout:
            case "vllm":
                found = [np.ravel(answer["data"][0]["data"])[-1]]
            case "sglang":
                found = [np.ravel(row["embedding"])[-1] for row in answer]
            case _:
                found = [np.ravel(x)[-1] for x in answer["rewards"]]
        if len(found) != count:
            raise ValueError(f"{len(found)} rewards for {count} conversations")
        return [float(x) for x in found]


def wait_until_ready(url: str, seconds: float = 60.0) -> None:
    """Return when the server's /health says 200. Raises AssayError when it does not in that time."""
    import urllib.error
    import urllib.request

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssayError(f"{url}: no reward server answered within {seconds:g} s")
