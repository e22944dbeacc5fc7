"""Any OpenAI-compatible chat server: bounded concurrency, retries, and a cache that asks each question exactly once.

A request is named by the hash of everything that shapes its answer: endpoint, model, parameters, messages and sample
index (without the index, the k samples of self-consistency would collapse into one). A reply is on disk before the next
request starts, so a killed run repeats at most the requests that were in flight. Failures come back as replies with a
`problem`, are never cached, and never raise: one bad answer cannot lose a thousand good ones.
"""

import asyncio
import email.utils
import json
import os
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from assay.errors import AssayError
from assay.records import Conversation, digest

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that may go away by themselves; any other failure is final at once."""
_SCHEMA = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, url TEXT, model TEXT, request TEXT, text TEXT,
    tokens_in INTEGER, tokens_out INTEGER, seconds REAL, at REAL) WITHOUT ROWID"""


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

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A text, or a `problem` that says why there is none. Tokens are the server's own count; `cached`: not asked now."""

    text: str = ""
    problem: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cached: bool = False

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


class Chat(Protocol):
    """A chat model: one reply per request, in order. `name` is what judgements call it."""

    @property
    def name(self) -> str: ...
    def complete(self, requests: Sequence[Request]) -> list[Reply]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Again:
    """A failure that may pass; `after_s` is the server's Retry-After, if it gave one."""

    problem: str
    after_s: float | None = None


def request_body(config: ChatConfig, request: Request) -> dict[str, Any]:
    """The JSON that is posted to the server."""
    messages = [{"role": m.role, "content": m.content} for m in request.messages]
    return {
        "model": config.model, "messages": messages, "temperature": config.temperature, "max_tokens": config.max_tokens,
    }  # fmt: skip


def request_key(config: ChatConfig, request: Request) -> str:
    """The content id of a request: endpoint, model, parameters, messages, sample index."""
    return digest([config.endpoint, request_body(config, request), request.sample])


class Server:
    """A `Chat` over HTTP. Each distinct request is asked once per `cache` file, however often it is made.

    `complete` blocks and runs its own event loop, so it cannot be called from inside one.
    """

    def __init__(self, config: ChatConfig, cache: Path) -> None:
        self.config, self.cache = config, cache
        cache.parent.mkdir(parents=True, exist_ok=True)
        with _open(cache) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(_SCHEMA)

    @property
    def name(self) -> str:
        return self.config.name or self.config.model

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order; a failed request is a reply with a problem."""
        keys = [request_key(self.config, r) for r in requests]
        wanted = dict(zip(keys, requests, strict=True))
        with _open(self.cache) as database:
            replies = {key: reply for key in wanted if (reply := _cached(database, key))}
            missing = {key: request for key, request in wanted.items() if key not in replies}
            if missing:
                replies |= asyncio.run(self._ask_all(missing, database))
        return [replies[key] for key in keys]

    async def _ask_all(self, missing: dict[str, Request], database: sqlite3.Connection) -> dict[str, Reply]:
        """A bounded crew of workers over one shared iterator: never one task per request."""
        todo, replies = iter(missing.items()), dict[str, Reply]()
        key = os.environ.get(self.config.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
        connector = aiohttp.TCPConnector(limit=self.config.concurrency)
        gate = _Gate()
        async with aiohttp.ClientSession(
            headers=headers, timeout=timeout, connector=connector, trust_env=True
        ) as session:

            async def work() -> None:
                for key, request in todo:
                    reply = await self._ask(session, gate, request)
                    if not reply.problem:
                        _store(database, self.config, key, request, reply)
                    replies[key] = reply

            await asyncio.gather(*(work() for _ in range(min(self.config.concurrency, len(missing)))))
        return replies

    async def _ask(self, session: aiohttp.ClientSession, gate: "_Gate", request: Request) -> Reply:
        """One request with its retries."""
        if any(m.images for m in request.messages):
            return Reply(problem="images cannot be sent yet")
        config, start, body = self.config, time.monotonic(), request_body(self.config, request)
        problem = ""
        for attempt in range(config.tries):
            await gate.passable()
            outcome = await _post(session, config.endpoint, body)
            if isinstance(outcome, Reply):
                return replace(outcome, seconds=round(time.monotonic() - start, 3))
            problem = outcome.problem
            if attempt + 1 == config.tries:
                break
            if outcome.after_s is not None:
                gate.close_for(min(outcome.after_s, config.max_wait_s))
            else:
                await asyncio.sleep(min(config.backoff_s * 2**attempt * random.uniform(0.5, 1.0), config.max_wait_s))
        return Reply(problem=problem, seconds=round(time.monotonic() - start, 3))


class _Gate:
    """What a server's Retry-After closes for all workers, not only for the one that was told."""

    def __init__(self) -> None:
        self._opens_at = 0.0

    def close_for(self, seconds: float) -> None:
        self._opens_at = max(self._opens_at, time.monotonic() + seconds)

    async def passable(self) -> None:
        while (wait := self._opens_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)


async def _post(session: aiohttp.ClientSession, endpoint: str, body: dict[str, Any]) -> Reply | _Again:
    try:
        async with session.post(endpoint, json=body) as response:
            payload = await response.read()
            if response.status in _PASSING:
                return _Again(
                    problem=f"http {response.status}", after_s=_retry_after(response.headers.get("Retry-After"))
                )
            if response.status != 200:
                return Reply(problem=f"http {response.status}: {payload[:200].decode('utf-8', 'replace')}")
            return read_completion(json.loads(payload))
    except TimeoutError:
        return _Again(problem="timeout")
    except aiohttp.ClientError as error:
        return _Again(problem=f"connection: {error}")
    except ValueError:
        return _Again(problem="the server's answer is not JSON")


def read_completion(data: Any) -> Reply:
    """The reply in a chat completion object; refusals and empty answers are problems."""
    try:
        choice = data["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text, usage = message.get("content"), data.get("usage") or {}
        tokens_in, tokens_out = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        refused = bool(message.get("refusal")) or reason == "content_filter"
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        return Reply(problem=f"not a chat completion: {str(data)[:200]}")
    if refused or not isinstance(text, str) or not text.strip():
        problem = "refused" if refused else "cut off at max_tokens" if reason == "length" else "empty"
        return Reply(problem=problem, tokens_in=tokens_in, tokens_out=tokens_out)
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate is valid JSON, but no text to store
    return Reply(text=text, tokens_in=tokens_in, tokens_out=tokens_out)


def _retry_after(value: str | None) -> float | None:
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


@contextmanager
def _open(cache: Path) -> Iterator[sqlite3.Connection]:
    """The cache, each statement committed by itself (in WAL mode: safe against a kill, 14,000 rows a second)."""
    try:
        database = sqlite3.connect(cache, timeout=30.0, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous=NORMAL")
            yield database
        finally:
            database.close()
    except sqlite3.Error as error:
        raise AssayError(
            f"{cache}: the reply cache cannot be used ({error}); move it away to start a new one"
        ) from error


def _cached(database: sqlite3.Connection, key: str) -> Reply | None:
    row = database.execute("SELECT text, tokens_in, tokens_out, seconds FROM replies WHERE key = ?", (key,)).fetchone()
    return Reply(text=row[0], tokens_in=row[1], tokens_out=row[2], seconds=row[3], cached=True) if row else None


def _store(database: sqlite3.Connection, config: ChatConfig, key: str, request: Request, reply: Reply) -> None:
    asked = json.dumps({**request_body(config, request), "sample": request.sample})
    database.execute(
        "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key,
            config.url,
            config.model,
            asked,
            reply.text,
            reply.tokens_in,
            reply.tokens_out,
            reply.seconds,
            time.time(),
        ),
    )


def export_replies(cache: Path, out: Path) -> int:
    """Write every cached reply to the JSON lines that `Replay` reads, ordered by key; returns how many."""
    if not cache.exists():
        raise AssayError(f"{cache}: there is no reply cache here")
    query = "SELECT key, text, tokens_in, tokens_out, request FROM replies ORDER BY key"
    count = 0
    with _open(cache) as database, out.open("w", encoding="utf-8") as file:
        for key, text, tokens_in, tokens_out, request in database.execute(query):
            row = {"key": key, "text": text, "tokens_in": tokens_in, "tokens_out": tokens_out}
            file.write(json.dumps({**row, "request": json.loads(request)}) + "\n")
            count += 1
    return count


class Replay:
    """A `Chat` of recorded replies: a JSONL file or a folder of them, one reply per line, found by `request_key`.

    A line needs `key` and either `text` or `problem`. `config` is that of the server that was recorded.
    Raises AssayError when a file cannot be read, and when a request has no recorded reply.
    """

    def __init__(self, path: Path, config: ChatConfig) -> None:
        self.path, self.config = path, config
        self._replies = dict(_recorded(path))

    @property
    def name(self) -> str:
        return self.config.name or self.config.model

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._find(r) for r in requests]

    def _find(self, request: Request) -> Reply:
        key = request_key(self.config, request)
        if key not in self._replies:
            ends = request.messages[-1].content[-80:] if request.messages else ""
            raise AssayError(
                f"{self.path}: no recorded reply of {self.name} for request {key} (sample {request.sample}, ending "
                f"{ends!r}); the prompt or the parameters changed since it was recorded: ask a server once and export again"
            )
        return self._replies[key]


def _recorded(path: Path) -> Iterator[tuple[str, Reply]]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(f.is_file() for f in files):
        raise AssayError(f"{path}: no recorded replies here (a JSONL file or a folder of them)")
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                reply = Reply(
                    text=row.get("text", ""), problem=row.get("problem", ""),
                    tokens_in=int(row.get("tokens_in", 0)), tokens_out=int(row.get("tokens_out", 0)), cached=True,
                )  # fmt: skip
                yield str(row["key"]), reply
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise AssayError(f"{file}, line {number}: not a recorded reply ({error!r})") from error
