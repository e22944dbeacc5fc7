"""Any OpenAI-compatible chat server: bounded concurrency, retries, and a cache that asks each question exactly once.

A request is named by the hash of everything that shapes its answer: endpoint, model, parameters, messages, schema and sample
index (without the index, the k samples of self-consistency would collapse into one). A reply is on disk before the next
request starts, so a killed run repeats at most the requests that were in flight, and none where the server honours the
`Idempotency-Key` that goes with each. Failures come back as replies with a `problem` and never raise: one bad answer cannot
lose a thousand good ones. What a model said is kept, refusals too; failures of the transport are asked again next time.
"""

import asyncio
import base64
import email.utils
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import aiohttp

from assay.budget import Budget as Budget
from assay.budget import BudgetSpent as BudgetSpent
from assay.budget import Estimate as Estimate
from assay.errors import AssayError
from assay.records import Conversation, Message, digest
from assay.replies import Replies, open_replies
from assay.replies import Reply as Reply

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that may go away by themselves; any other failure is final at once."""
_WRONG_REQUEST = frozenset({400, 404, 415, 422, 501})
"""How servers that know no JSON schema refuse a request that has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """One model behind one server. The API key stays in the environment variable named by `api_key_env`.

    `name` is what judgements call the model (default: `model`). `tries` counts all attempts at a request; the wait after
    a failure doubles from `backoff_s`, unless the server says Retry-After, and never exceeds `max_wait_s`.

    Example: ChatConfig(url="http://localhost:8000/v1", model="Qwen/Qwen3-32B")
    """

    url: str
    model: str
    name: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float = 1.0
    max_tokens: int = 1024
    concurrency: int = 32
    tries: int = 5
    timeout_s: float = 180.0
    backoff_s: float = 1.0
    max_wait_s: float = 60.0
    price_in: float = 0.0
    """Of a million prompt tokens, in the currency of the budget; 0: free."""
    price_out: float = 0.0
    """Of a million tokens of replies."""
    images: Path | None = None
    """The folder of pictures that messages name, sent inside the request as PNG."""
    schemas: Literal["auto", "always", "never"] = "auto"
    """Whether a request's JSON schema goes to the server as `response_format`. "auto": until the server refuses one; the
    request is then asked without, and so are all later ones."""

    def __post_init__(self) -> None:
        if min(self.price_in, self.price_out) < 0:
            raise AssayError(f"chat server {self.url}: prices must not be negative")
        if not self.url.startswith(("http://", "https://")):
            raise AssayError(
                f"chat url {self.url!r}: must start with http:// or https://, like http://localhost:8000/v1"
            )
        if not self.model or self.concurrency < 1 or self.tries < 1:
            raise AssayError(f"chat server {self.url}: needs a model name, concurrency >= 1 and tries >= 1")

    @property
    def endpoint(self) -> str:
        return f"{self.url.rstrip('/')}/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a chat model. Requests that differ only in `sample` are independent draws of the same question."""

    messages: Conversation
    sample: int = 0
    schema: str = ""
    """The JSON schema (as JSON text) that the reply must follow. Not every server enforces it: parse strictly."""


class Chat(Protocol):
    """A chat model: one reply per request, in order. `name` is what judgements call it."""

    @property
    def name(self) -> str: ...
    def complete(self, requests: Sequence[Request]) -> list[Reply]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again:
    """A failure that may pass; `after_s` is the server's Retry-After, if it gave one. `worked`: the server may have produced
    (and will bill) an answer that did not arrive."""

    problem: str
    after_s: float | None = None
    worked: bool = False


class Priced(Protocol):
    """What has prices of a million tokens in and out."""

    @property
    def price_in(self) -> float: ...
    @property
    def price_out(self) -> float: ...


def cost(config: Priced, tokens_in: int, tokens_out: int) -> float:
    return (tokens_in * config.price_in + tokens_out * config.price_out) / 1e6


def most_tokens(config: ChatConfig, request: Request) -> tuple[int, int]:
    """An upper estimate of a request's prompt tokens (a token of at least two bytes, on average, and eight for each
    message's frame; pictures 1,500) and the most tokens of its reply."""
    size = sum(len(m.content.encode("utf-8", "replace")) // 2 + 8 + 1_500 * len(m.images) for m in request.messages)
    return size, config.max_tokens


def request_body(config: ChatConfig, request: Request) -> dict[str, Any]:
    """The JSON that is posted to the server."""
    messages = [m.chat(_content(config, m)) for m in request.messages]
    body = {
        "model": config.model, "messages": messages, "temperature": config.temperature, "max_tokens": config.max_tokens,
    }  # fmt: skip
    if request.schema and config.schemas != "never":
        schema = {"name": "answer", "strict": True, "schema": json.loads(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _unsendable(config: ChatConfig, request: Request) -> str:
    """Why a request cannot be sent ("": it can)."""
    names = [i for m in request.messages for i in m.images]
    if names and config.images is None:
        return "images cannot be sent: the server's folder of images is not named"
    missing = next((n for n in names if config.images and not (config.images / f"{n}.png").exists()), "")
    return f"no image with the id {missing}" if missing else ""


def _content(config: ChatConfig, message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    assert config.images is not None
    parts: list[dict[str, Any]] = []
    for name in message.images:
        data = base64.b64encode((config.images / f"{name}.png").read_bytes()).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    return [*parts, {"type": "text", "text": message.content}]


def request_key(config: ChatConfig, request: Request) -> str:
    """The content id of a request: endpoint, model, parameters, messages, schema, sample index."""
    return digest([config.endpoint, request_body(config, request), request.sample])


class Server:
    """A `Chat` over HTTP. Each distinct request is asked once per `cache` file, however often it is made.

    `complete` blocks and runs its own event loop, so it cannot be called from inside one. `told` hears of every reply that
    arrives (not of cached ones), in the thread that called `complete`.
    """

    def __init__(
        self, config: ChatConfig, cache: Path, budget: Budget | None = None, told: Callable[[Reply], None] | None = None
    ) -> None:
        self.config, self.cache, self.budget, self.told = config, cache, budget, told
        self._schemas = config.schemas != "never"
        with self._open() as replies:
            replies.clear_killed()
            if budget is not None:
                budget.settle(0.0, cost(config, *replies.spent()))

    @property
    def name(self) -> str:
        return self.config.name or self.config.model

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What `complete` would ask, and what that costs at most. Nothing is sent."""
        wanted = {request_key(self.config, r): r for r in requests if not _unsendable(self.config, r)}
        with self._open() as replies:
            todo = [r for key, r in wanted.items() if replies.find(key) is None]
        sizes = [most_tokens(self.config, r) for r in todo]
        tokens_in, tokens_out = sum(a for a, _ in sizes), sum(b for _, b in sizes)
        usual = sum(len(m.content.encode("utf-8", "replace")) // 4 + 8 for r in todo for m in r.messages)
        return Estimate(
            requests=len(todo), cached=len(wanted) - len(todo), tokens_in=tokens_in, tokens_out=tokens_out,
            cost=cost(self.config, tokens_in, tokens_out), usual_in=usual,
        )  # fmt: skip

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order; a failed request is a reply with a problem. Raises BudgetSpent when the budget
        ends before the requests do; requests in flight are waited for, and their replies kept."""
        keys = [_unsendable(self.config, r) or request_key(self.config, r) for r in requests]
        unsendable = {k: Reply(problem=k) for k, r in zip(keys, requests, strict=True) if _unsendable(self.config, r)}
        wanted = {k: r for k, r in zip(keys, requests, strict=True) if k not in unsendable}
        with self._open() as replies:
            found = {key: reply for key in wanted if (reply := replies.find(key))}
            missing = {key: request for key, request in wanted.items() if key not in found}
            if missing:
                found |= asyncio.run(self._ask_all(missing, replies))
        found |= unsendable
        return [found[key] for key in keys]

    def _open(self) -> AbstractContextManager[Replies]:
        return open_replies(self.cache, self.config.url, self.config.model)

    async def _ask_all(self, missing: dict[str, Request], replies: Replies) -> dict[str, Reply]:
        """A bounded crew of workers over one shared iterator: never one task per request."""
        todo, found = iter(missing.items()), dict[str, Reply]()
        secret = os.environ.get(self.config.api_key_env, "")
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
        connector = aiohttp.TCPConnector(limit=self.config.concurrency)
        gate, commits = Gate(), _Commits(replies)
        async with aiohttp.ClientSession(
            headers=headers, timeout=timeout, connector=connector, trust_env=True
        ) as session:

            async def work() -> None:
                for key, request in todo:
                    reply = await self._ask(session, gate, commits, key, request)
                    if reply is None:
                        return
                    found[key] = reply
                    if self.told is not None:
                        self.told(reply)

            await asyncio.gather(*(work() for _ in range(min(self.config.concurrency, len(missing)))))
        if self.budget is not None and len(found) < len(missing):
            left = f"{len(missing) - len(found):,} of {len(missing):,} requests are left"
            raise BudgetSpent(
                f"{self.name}: the budget of {self.budget.limit:g} does not allow the next request: {self.budget.spent:.4g} "
                f"are spent, {left}; give a larger budget to go on"
            )
        return found

    async def _ask(
        self, session: aiohttp.ClientSession, gate: "Gate", commits: "_Commits", key: str, request: Request
    ) -> Reply | None:
        """One request with its retries; None: the budget does not allow (another try of) it."""
        config, start, body = self.config, time.monotonic(), request_body(self.config, request)
        most, refusals, problem = most_tokens(config, request), 0, ""
        for attempt in range(config.tries):
            await gate.passable()
            if self.budget is not None and not await self.budget.enough(cost(config, *most)):
                return None
            await commits.add(partial(commits.replies.sending, key, most))
            # A server that keeps answers by this key must not repeat a failure that it told, only an answer that was lost.
            outcome = await self._post(session, body, f"{key}-{refusals}" if refusals else key)
            if isinstance(outcome, Reply):
                reply = replace(outcome, seconds=round(time.monotonic() - start, 3))
                self._settle(most, (reply.tokens_in, reply.tokens_out))
                asked = json.dumps({**body, "sample": request.sample}) if reply.final else ""
                await commits.add(partial(commits.replies.came, key, asked, reply))
                return reply
            lost = most if outcome.worked else (0, 0)
            refusals += not outcome.worked
            self._settle(most, lost)
            await commits.add(partial(commits.replies.failed, key, outcome.problem, lost))
            problem = outcome.problem
            if attempt + 1 == config.tries:
                break
            if outcome.after_s is not None:
                gate.close_for(min(outcome.after_s, config.max_wait_s))
            else:
                await asyncio.sleep(min(config.backoff_s * 2**attempt * random.uniform(0.5, 1.0), config.max_wait_s))
        return Reply(problem=problem, seconds=round(time.monotonic() - start, 3), final=False)

    def _settle(self, most: tuple[int, int], spent: tuple[int, int]) -> None:
        if self.budget is not None:
            self.budget.settle(cost(self.config, *most), cost(self.config, *spent))

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any], name: str) -> Reply | _Again:
        """One attempt; a schema that the server refuses is left out from then on."""
        if "response_format" in body and not self._schemas:
            body = {k: v for k, v in body.items() if k != "response_format"}
        outcome, status = await _post(session, self.config.endpoint, body, name)
        if status in _WRONG_REQUEST and "response_format" in body and self.config.schemas == "auto":
            plain = {k: v for k, v in body.items() if k != "response_format"}
            outcome, status = await _post(session, self.config.endpoint, plain, f"{name}-plain")
            self._schemas = self._schemas and status in _WRONG_REQUEST
        return outcome


class _Commits:
    """Group commit: what all workers write in one turn of the event loop goes to disk at once, and each waits for it."""

    def __init__(self, replies: Replies) -> None:
        self.replies = replies
        self._writes: list[Callable[[], None]] = []
        self._done: asyncio.Future[None] | None = None

    async def add(self, write: Callable[[], None]) -> None:
        """Returns when the write is committed."""
        self._writes.append(write)
        if self._done is None:
            loop = asyncio.get_running_loop()
            self._done = loop.create_future()
            loop.call_soon(self._commit)
        await self._done

    def _commit(self) -> None:
        writes, done = self._writes, self._done
        self._writes, self._done = [], None
        assert done is not None
        try:
            self.replies.together(writes)
        except sqlite3.Error as error:
            if not done.done():
                done.set_exception(error)
        if not done.done():
            done.set_result(None)


class Gate:
    """What a server's Retry-After closes for all workers, not only for the one that was told."""

    def __init__(self) -> None:
        self._opens_at = 0.0

    def close_for(self, seconds: float) -> None:
        self._opens_at = max(self._opens_at, time.monotonic() + seconds)

    async def passable(self) -> None:
        while (wait := self._opens_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)


async def _post(
    session: aiohttp.ClientSession, endpoint: str, body: dict[str, Any], name: str
) -> tuple[Reply | _Again, int]:
    """What came of one POST, and its HTTP status (0: none came)."""
    status = 0
    try:
        async with session.post(endpoint, json=body, headers={"Idempotency-Key": name}) as response:
            status = response.status
            payload = await response.read()
        if status in PASSING:
            after_s = retry_after(response.headers.get("Retry-After"))
            return _Again(problem=f"http {status}", after_s=after_s), status
        if status != 200:
            said = payload[:200].decode("utf-8", "replace")
            return Reply(problem=f"http {status}: {said}", final=False), status
        return read_completion(json.loads(payload)), status
    except TimeoutError:
        return _Again(problem="timeout", worked=True), status
    except aiohttp.ClientConnectorError as error:
        return _Again(problem=f"connection: {error}"), status
    except aiohttp.ClientError as error:
        return _Again(problem=f"connection: {error}", worked=True), status
    except ValueError:
        return _Again(problem="the server's answer is not JSON", worked=True), status


def read_completion(data: Any) -> Reply:
    """The reply in a chat completion object; refusals and empty answers are problems."""
    try:
        choice = data["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text, usage = message.get("content"), data.get("usage") or {}
        tokens_in, tokens_out = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        refused = bool(message.get("refusal")) or reason == "content_filter"
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return Reply(problem=f"not a chat completion: {str(data)[:200]}", final=False)
    if refused or not isinstance(text, str) or not text.strip():
        problem = "refused" if refused else "cut off at max_tokens" if reason == "length" else "empty"
        return Reply(problem=problem, tokens_in=tokens_in, tokens_out=tokens_out)
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is valid JSON, but no text to store
    return Reply(text=text, tokens_in=tokens_in, tokens_out=tokens_out)


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a Retry-After header: a number or an HTTP date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
