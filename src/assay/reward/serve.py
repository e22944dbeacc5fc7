"""`assay serve`: a reward model over HTTP, for benchmarks, best-of-N and RL trainers.

    /v1/score     conversations, or one prompt with responses -> rewards        /health    ready or not
    /v1/rank      one prompt with responses -> their order, best first          /metrics   Prometheus
    /get_reward   OpenRLHF's remote reward model   /pooling /classify /score   vLLM's   (/classify with `text`: SGLang's)

Requests of all clients are packed together by tokens (`reward/batching.py`); the rewards are those of offline scoring. What
is wrong with a request is a 4xx that names the field; a full queue is a 503 with Retry-After. SIGTERM: what was taken is
answered, what comes later is refused. Foreign layouts follow those projects' sources and were not tried with them.
"""

import asyncio
import hmac
import json
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import prometheus_client as prometheus
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from assay.errors import AssayError, CannotRead
from assay.render import Rendered
from assay.reward.batching import Batcher, Full
from assay.reward.requests import (
    Body,
    Given,
    Refused,
    activated,
    answered,
    check_lengths,
    conversations,
    paired,
    parsed,
    pooled,
    printable,
    queries,
)
from assay.reward.scorer import LocalScorer
from assay.reward.serve_page import page

log = logging.getLogger("assay.serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Limits of a reward server. `over_long`: what becomes of a conversation beyond the model's length; "truncate" is what
    offline scoring does (the front of the history goes)."""

    batch_tokens: int = 32_768
    queue_tokens: int = 1_000_000
    wait_ms: float = 2.0
    max_conversations: int = 1_024
    """In one request."""
    max_body_mb: float = 32.0
    over_long: str = "truncate"
    api_key: str = ""
    """"": no key is asked for."""

    def __post_init__(self) -> None:
        if self.over_long not in ("truncate", "refuse"):
            raise AssayError(f"serve.over_long is truncate or refuse, got {self.over_long!r}")
        if min(self.batch_tokens, self.queue_tokens, self.max_conversations) < 1 or self.max_body_mb <= 0:
            raise AssayError("serve: batch_tokens, queue_tokens, max_conversations and max_body_mb must be above 0")


class Server:
    """What the endpoints share: the model, the batcher, the counters."""

    def __init__(self, scorer: LocalScorer, name: str, config: ServeConfig) -> None:
        self.scorer, self.name, self.config = scorer, name, config
        self.batcher = Batcher(
            run=scorer.rewards,
            batch_tokens=config.batch_tokens,
            queue_tokens=config.queue_tokens,
            wait_ms=config.wait_ms,
        )
        self.rendering = ThreadPoolExecutor(1, "rendering")
        self.registry = prometheus.CollectorRegistry()
        new: dict[str, Any] = {"registry": self.registry}
        self.requests = prometheus.Counter("assay_requests", "Requests by path and status", ["path", "status"], **new)
        self.latency = prometheus.Histogram("assay_request_seconds", "Time to answer", ["path"], **new)
        for told, what, read in (
            ("assay_queue_tokens", "Tokens that wait", lambda: self.batcher.queued),
            ("assay_scored_tokens", "Tokens scored since the start", lambda: self.batcher.scored_tokens),
            ("assay_batches", "Batches scored since the start", lambda: self.batcher.batches),
        ):
            prometheus.Gauge(told, what, **new).set_function(read)

    async def score(self, read: Callable[..., Given], *body: Any) -> tuple[list[float], int]:
        """Rewards of what `read` finds in a body, and the tokens that were read; or a refusal that names the place."""
        given = await asyncio.to_thread(read, *body)
        limit, places = self.config.max_conversations, given.places
        if len(places) > limit:
            raise Refused(422, f"a request scores 1 to {limit:,} conversations, this one has {len(places):,}")
        loop = asyncio.get_running_loop()
        rendered = await loop.run_in_executor(self.rendering, self.render, given)
        for where, one in zip(places, rendered, strict=True):
            tokens = len(one.ids) + one.cut
            if self.config.over_long == "refuse" and tokens > self.scorer.max_tokens:
                raise Refused(422, f"{where}: has {tokens:,} tokens, more than {self.scorer.max_tokens:,}")
        try:
            rewards = await self.batcher.score(given.conversations, rendered)
        except Full as full:
            raise Refused(503, str(full), full.after_s) from full
        bad = next((i for i, x in enumerate(rewards) if not np.isfinite(x)), None)
        if bad is not None:
            reason = f"the reward of {places[bad]} is {rewards[bad]}: the model's weights or precision fail"
            raise Refused(500, reason)
        return rewards, sum(len(r.ids) for r in rendered)

    def render(self, given: Given) -> list[Rendered]:
        """Token ids, beside the event loop. Rendered texts are taken as they are: no template is applied, no special token
        added but what the text holds."""
        ids, most = given.ids, min(given.room or self.scorer.max_tokens, self.scorer.max_tokens)
        if given.texts is not None:
            ids = list(self.scorer.tokenizer(given.texts, add_special_tokens=False)["input_ids"])
        if ids is not None:
            check_lengths(given, ids)
            return [Rendered(ids=list(row[-most:]), cut=max(0, len(row) - most)) for row in ids]
        found = self.scorer.attempts(given.conversations, most)
        for where, one in zip(given.places, found, strict=True):
            if isinstance(one, CannotRead):
                raise Refused(422, f"{where}: {one}")
        made = [one for one in found if isinstance(one, Rendered)]
        check_lengths(given, [one.ids for one in made])
        return made


def make_app(scorer: LocalScorer, name: str, config: ServeConfig) -> FastAPI:
    """The application; its batcher starts and ends with it."""
    server = Server(scorer, name, config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server.batcher.start()
        yield
        await server.batcher.close()
        server.rendering.shutdown()

    app = FastAPI(title="assay serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.server = server
    app.middleware("http")(_outer(server))
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(AssayError, _unfit)
    _own(app, server)
    _foreign(app, server)
    return app


async def _body(request: Request) -> Body:
    return await asyncio.to_thread(parsed, await request.body())


def _own(app: FastAPI, server: Server) -> None:
    guarded = [Depends(_key(server.config.api_key))]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ready", "model": server.name, "queued_tokens": server.batcher.queued}

    @app.get("/")
    @app.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page(server.name, bool(server.config.api_key), str(request.base_url).rstrip("/")))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(prometheus.generate_latest(server.registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.post("/v1/score", dependencies=guarded)
    async def score(request: Request) -> dict[str, Any]:
        body = await _body(request)
        if {"text_1", "text_2", "queries", "documents"} & body.keys():
            request.state.as_vllm = True
            return await scored_pairs(server, body)
        rewards, _ = await server.score(conversations, body)
        return {"model": server.name, "rewards": rewards}

    @app.post("/v1/rank", dependencies=guarded)
    async def rank(request: Request) -> dict[str, Any]:
        rewards, _ = await server.score(answered, await _body(request))
        order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
        return {"model": server.name, "best": order[0], "order": order, "rewards": rewards}


VLLM = ("/pooling", "/classify", "/score", "/v1/models")
"""Paths that are vLLM's: errors have its form there, and its status for a bad request."""


async def scored_pairs(server: Server, body: Body) -> dict[str, Any]:
    """vLLM's score endpoint."""
    sigmoid = activated(body)
    rewards, tokens = await server.score(paired, body)
    return told(server, [{"object": "score", "score": x} for x in _activated(rewards, sigmoid)], tokens)


def told(server: Server, rows: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """vLLM's list of results."""
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    return {"id": f"pool-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": server.name,
            "data": [{"index": i, **row} for i, row in enumerate(rows)], "usage": usage}  # fmt: skip


def _activated(rewards: list[float], sigmoid: bool) -> list[float]:
    return [float(np.exp(-np.logaddexp(0, -x))) for x in rewards] if sigmoid else rewards


def _foreign(app: FastAPI, server: Server) -> None:
    guarded = [Depends(_key(server.config.api_key))]
    vocabulary = int(server.scorer.model.model.get_input_embeddings().num_embeddings)
    started = int(time.time())

    async def pooled_rewards(body: Body) -> tuple[list[float], int]:
        sigmoid = activated(body)
        rewards, tokens = await server.score(pooled, body, vocabulary)
        return _activated(rewards, sigmoid), tokens

    @app.get("/v1/models", dependencies=guarded)
    async def known_models() -> dict[str, Any]:
        one = {"id": server.name, "object": "model", "created": started, "owned_by": "assay", "root": server.name,
               "parent": None, "max_model_len": server.scorer.max_tokens, "permission": []}  # fmt: skip
        return {"object": "list", "data": [one]}

    @app.post("/get_reward", dependencies=guarded)
    async def get_reward(request: Request) -> dict[str, Any]:
        rewards, _ = await server.score(queries, await _body(request))
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    @app.post("/pooling", dependencies=guarded)
    async def pooling(request: Request) -> dict[str, Any]:
        rewards, tokens = await pooled_rewards(await _body(request))
        return told(server, [{"object": "pooling", "data": [x]} for x in rewards], tokens)

    @app.post("/classify", dependencies=guarded, response_model=None)
    async def classify(request: Request) -> Any:
        body = await _body(request)
        rewards, tokens = await pooled_rewards(body)
        if body.get("text") is not None:
            rows = [{"embedding": [x], "meta_info": {}} for x in rewards]
            return rows[0] if isinstance(body["text"], str) else rows
        return told(server, [{"label": "LABEL_0", "probs": [x], "num_classes": 1} for x in rewards], tokens)

    @app.post("/score", dependencies=guarded)
    async def score(request: Request) -> dict[str, Any]:
        return await scored_pairs(server, await _body(request))


def _key(wanted: str) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if wanted and not hmac.compare_digest(given.encode(), wanted.encode()):
            raise Refused(401, "this server asks for a key: send it as Authorization: Bearer KEY")

    return check


def _outer(server: Server) -> Any:
    """Around every request: its size, its number, its time."""
    most = int(server.config.max_body_mb * 2**20)

    async def around(request: Request, call_next: Any) -> Response:
        start, path = time.monotonic(), request.url.path
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not (length.isascii() and length.isdecimal() and len(length) < 20):
            answer: Response = _answer(request, 411, "a request needs a Content-Length")
        elif request.method == "POST" and int(length) > most:
            answer = _answer(request, 413, f"the body has {int(length):,} bytes, more than {most:,}")
        else:
            answer = await call_next(request)
        number = request.headers.get("x-request-id", uuid.uuid4().hex)[:64]
        answer.headers["x-request-id"] = number
        known = path if any(path == getattr(route, "path", "") for route in request.app.routes) else "unknown"
        server.requests.labels(known, answer.status_code).inc()
        server.latency.labels(known).observe(time.monotonic() - start)
        log.info("%s %s %s %.0f ms", number, known, answer.status_code, 1000 * (time.monotonic() - start))
        return answer

    return around


def _answer(request: Request, status: int, reason: str, after_s: float | None = None) -> JSONResponse:
    """What went wrong, in the form of the project whose endpoint it is."""
    headers = {"Retry-After": str(round(after_s))} if after_s is not None else None
    reason = printable(reason)
    if request.url.path in VLLM or getattr(request.state, "as_vllm", False):
        status = 400 if status == 422 else status
        kinds = {401: "AuthenticationError", 500: "InternalServerError", 503: "ServiceUnavailableError"}
        error = {"message": reason, "type": kinds.get(status, "BadRequestError"), "param": None, "code": status}
        return JSONResponse({"error": error}, status_code=status, headers=headers)
    return JSONResponse({"error": reason}, status_code=status, headers=headers)


async def _refused(request: Request, error: Any) -> JSONResponse:
    return _answer(request, error.status, error.reason, error.after_s)


async def _unfit(request: Request, error: Any) -> JSONResponse:
    return _answer(request, 422, str(error))


def serve(app: FastAPI, at: socket.socket) -> None:
    """Run until SIGTERM or Ctrl-C; what was taken by then is answered."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=60, access_log=False)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[at])


def ready_line(name: str, host: str, port: int) -> str:
    return json.dumps({"serving": name, "url": f"http://{host}:{port}"})
