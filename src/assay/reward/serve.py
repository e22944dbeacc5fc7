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
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import prometheus_client as prometheus
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field

from assay.errors import AssayError
from assay.records import Conversation, Message, Role, assistant, user
from assay.render import Rendered
from assay.reward.batching import Batcher, Full
from assay.reward.scorer import LocalScorer

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


class Refused(Exception):
    """A request that is answered with a status and a reason."""

    def __init__(self, status: int, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.after_s = status, reason, after_s


class Turn(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: Role
    content: str


Chat = list[Turn]


class ScoreRequest(BaseModel):
    """Whole conversations, or one prompt (text or turns) with its responses."""

    model_config = ConfigDict(extra="forbid")
    model: str = ""
    conversations: list[Chat] | None = None
    prompt: str | Chat | None = None
    responses: list[str] | None = None


class RankRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str = ""
    prompt: str | Chat
    responses: list[str] = Field(min_length=1)


class OpenRlhfRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")
    query: list[str]
    prompts: list[str] | None = None


class PoolRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")
    model: str = ""
    input: str | list[str] | None = None
    text: str | list[str] | None = None
    messages: Chat | None = None


class PairRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")
    model: str = ""
    text_1: str
    text_2: str | list[str]


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

    async def score(self, conversations: list[Conversation], rendered: list[Rendered] | None = None) -> list[float]:
        """Rewards, or a refusal that says which conversation is at fault."""
        limit = self.config.max_conversations
        if not conversations or len(conversations) > limit:
            raise Refused(422, f"a request scores 1 to {limit:,} conversations, this one has {len(conversations):,}")
        if rendered is None:
            rendered = await self.render(conversations)
        long = next((i for i, r in enumerate(rendered) if r.cut), None)
        if long is not None and self.config.over_long == "refuse":
            tokens = len(rendered[long].ids) + rendered[long].cut
            raise Refused(422, f"conversation {long} has {tokens:,} tokens, more than {self.scorer.max_tokens:,}")
        try:
            rewards = await self.batcher.score(conversations, rendered)
        except Full as full:
            raise Refused(503, str(full), full.after_s) from full
        bad = next((i for i, x in enumerate(rewards) if not np.isfinite(x)), None)
        if bad is not None:
            raise Refused(
                500, f"the reward of conversation {bad} is {rewards[bad]}: the model's weights or precision fail"
            )
        return rewards

    async def render(self, conversations: list[Conversation]) -> list[Rendered]:
        """Token ids, made beside the event loop."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.rendering, self.scorer.render, conversations)
        except TemplateError as error:
            raise Refused(422, f"the model's chat template refuses these messages: {error}") from error

    def texts(self, texts: list[str], prompts: list[str] | None = None) -> tuple[list[Conversation], list[Rendered]]:
        """Already rendered texts as they are: no template is applied, no special token added but what the text holds."""
        tokenizer, most = self.scorer.tokenizer, self.scorer.max_tokens
        keys = prompts if prompts is not None and len(prompts) == len(texts) else texts
        rendered = []
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []:
            cut = max(0, len(ids) - most)
            rendered.append(Rendered(ids=ids[cut:], cut=cut))
        return [(user(key), assistant(text)) for key, text in zip(keys, texts, strict=True)], rendered


def conversation(chat: Chat, where: str) -> Conversation:
    if not chat or chat[-1].role != "assistant":
        raise Refused(422, f"{where}: must end with the assistant's turn")
    return tuple(Message(role=t.role, content=t.content) for t in chat)


def answered(prompt: str | Chat, responses: list[str]) -> list[Conversation]:
    """One prompt with each of its responses."""
    turns = [Turn(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    if not turns or turns[-1].role != "user":
        raise Refused(422, "prompt: must end with the user's turn")
    history = tuple(Message(role=t.role, content=t.content) for t in turns)
    return [(*history, assistant(text)) for text in responses]


def make_app(scorer: LocalScorer, name: str, config: ServeConfig) -> FastAPI:
    """The application; its batcher starts and ends with it."""
    server = Server(scorer, name, config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server.batcher.start()
        yield
        await server.batcher.close()
        server.rendering.shutdown()

    app = FastAPI(title="assay serve", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    app.middleware("http")(_outer(server))
    for kind, handler in ((Refused, _refused), (RequestValidationError, _invalid), (AssayError, _unfit)):
        app.add_exception_handler(kind, handler)
    _own(app, server)
    _foreign(app, server)
    return app


def _own(app: FastAPI, server: Server) -> None:
    guarded = [Depends(_key(server.config.api_key))]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ready", "model": server.name, "queued_tokens": server.batcher.queued}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(prometheus.generate_latest(server.registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.post("/v1/score", dependencies=guarded)
    async def score(request: ScoreRequest) -> dict[str, Any]:
        told = (request.conversations is not None, request.prompt is not None and request.responses is not None)
        if sum(told) != 1:
            raise Refused(422, "give either conversations, or prompt and responses")
        if request.conversations is not None:
            chats = [conversation(c, f"conversations[{i}]") for i, c in enumerate(request.conversations)]
        else:
            assert request.prompt is not None
            assert request.responses is not None
            chats = answered(request.prompt, request.responses)
        return {"model": server.name, "rewards": await server.score(chats)}

    @app.post("/v1/rank", dependencies=guarded)
    async def rank(request: RankRequest) -> dict[str, Any]:
        rewards = await server.score(answered(request.prompt, request.responses))
        order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
        return {"model": server.name, "best": order[0], "order": order, "rewards": rewards}


def _foreign(app: FastAPI, server: Server) -> None:
    guarded = [Depends(_key(server.config.api_key))]

    async def pooled(request: PoolRequest) -> list[float]:
        if request.messages is not None:
            return await server.score([conversation(request.messages, "messages")])
        given = request.input if request.input is not None else request.text
        if given is None:
            raise Refused(422, "give input, text or messages")
        return await server.score(*server.texts([given] if isinstance(given, str) else given))

    def told(rows: list[dict[str, Any]]) -> dict[str, Any]:
        numbered = [{"index": i, **row} for i, row in enumerate(rows)]
        return {"id": f"pool-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": server.name,
                "data": numbered}  # fmt: skip

    @app.post("/get_reward", dependencies=guarded)
    async def get_reward(request: OpenRlhfRequest) -> dict[str, Any]:
        rewards = await server.score(*server.texts(request.query, request.prompts))
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    @app.post("/pooling", dependencies=guarded)
    async def pooling(request: PoolRequest) -> dict[str, Any]:
        return told([{"object": "pooling", "data": [x]} for x in await pooled(request)])

    @app.post("/classify", dependencies=guarded, response_model=None)
    async def classify(request: PoolRequest) -> Any:
        rewards = await pooled(request)
        if request.text is not None:
            rows = [{"embedding": [x], "meta_info": {}} for x in rewards]
            return rows[0] if isinstance(request.text, str) else rows
        return told([{"label": "LABEL_0", "probs": [x], "num_classes": 1} for x in rewards])

    @app.post("/score", dependencies=guarded)
    async def score(request: PairRequest) -> dict[str, Any]:
        second = [request.text_2] if isinstance(request.text_2, str) else request.text_2
        rewards = await server.score(answered(request.text_1, second))
        return told([{"object": "score", "score": x} for x in rewards])


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
        if request.method == "POST" and not length.isdigit():
            answer: Response = _answer(411, "a request needs a Content-Length")
        elif request.method == "POST" and int(length) > most:
            answer = _answer(413, f"the body has {int(length):,} bytes, more than {most:,}")
        else:
            answer = await call_next(request)
        number = request.headers.get("x-request-id", uuid.uuid4().hex)[:64]
        answer.headers["x-request-id"] = number
        known = path if answer.status_code != 404 else "unknown"
        server.requests.labels(known, answer.status_code).inc()
        server.latency.labels(known).observe(time.monotonic() - start)
        log.info("%s %s %s %.0f ms", number, known, answer.status_code, 1000 * (time.monotonic() - start))
        return answer

    return around


def _answer(status: int, reason: str, after_s: float | None = None) -> JSONResponse:
    headers = {"Retry-After": str(round(after_s))} if after_s is not None else None
    return JSONResponse({"error": reason}, status_code=status, headers=headers)


async def _refused(_: Request, error: Any) -> JSONResponse:
    return _answer(error.status, error.reason, error.after_s)


async def _unfit(_: Request, error: Any) -> JSONResponse:
    return _answer(422, str(error))


async def _invalid(_: Request, error: Any) -> JSONResponse:
    told = [f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors()[:5]]
    return _answer(422, "; ".join(told))


def serve(app: FastAPI, host: str, port: int) -> None:
    """Run until SIGTERM or Ctrl-C; what was taken by then is answered."""
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=60, access_log=False)


def ready_line(name: str, host: str, port: int) -> str:
    return json.dumps({"serving": name, "url": f"http://{host}:{port}"})
