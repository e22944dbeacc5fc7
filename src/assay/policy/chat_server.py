"""`assay policy serve`: a policy behind an OpenAI-compatible chat server, by our decoder, for benchmarks and trials.

    POST /v1/chat/completions   messages (text, pictures as data URLs), max_tokens, temperature, top_p, n, seed
    GET  /v1/models  /health

What waits is decoded together, as far as it is drawn alike (temperature, top_p, limit), one batch at a time. What the chat
template begins an answer with (an opened thought) is part of the answer. The seeds of a batch decide its draws: who else is
in it changes them; a request without a seed is drawn anew. No streams, tools, log-probabilities, penalties: a request for
them is refused. For traffic use vLLM.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import secrets
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.policy.config import SamplerConfig
from assay.records import Message
from assay.render import begun
from assay.rollouts import Prompt, Rollout

MOST_BODY = 64 * 2**20
REFUSED = (
    "stream", "tools", "functions", "response_format", "logprobs", "stop", "logit_bias", "top_k", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "chat_template_kwargs",
)  # fmt: skip
"""Fields that change what an answer is, and are not known here."""
NEUTRAL = {"top_k": -1, "repetition_penalty": 1}
"""Values of these that change nothing, beside 0 and what is empty."""


class Refused(Exception):
    """A request that cannot be answered, with its reason: a 400."""


@dataclass(frozen=True, slots=True)
class _Asked:
    prompt: Prompt
    n: int
    drawn: SamplerConfig
    seed: int | None
    tokens: int
    done: asyncio.Future[list[Rollout]]
    client: asyncio.BaseTransport | None = None

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more: the client was killed, or has given up and asks again."""
        return self.client is not None and self.client.is_closing()


class ChatServer:
    """The server of one policy.

    Args:
        policy: What answers.
        sampler: What draws its answers (`policy.sampler`).
        store: Where pictures of requests are kept.
        room: Places of the model for a prompt and its answer.
        rows: Answers that are decoded together.
        limit: Tokens of an answer where a request does not say.
    """

    def __init__(
        self, policy: Any, sampler: Any, store: ImageStore, name: str, room: int, rows: int = 32, limit: int = 1024
    ) -> None:  # fmt: skip
        self.policy, self.sampler, self.store, self.name, self.room = policy, sampler, store, name, room
        self.rows, self.limit, self.batches = rows, limit, 0
        self._waiting: deque[_Asked] = deque()
        self._thread = ThreadPoolExecutor(1, "decoding")
        self._rendering = ThreadPoolExecutor(1, "rendering")
        self._arrived = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MOST_BODY)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.cleanup_ctx.append(self._life)
        return app

    async def _life(self, _: web.Application) -> Any:
        task = asyncio.get_running_loop().create_task(self._work())
        yield
        task.cancel()
        self._thread.shutdown()

    async def _health(self, _: web.Request) -> web.Response:
        waiting = sum(not one.gone for one in self._waiting)
        return web.json_response({"status": "ready", "model": self.name, "waiting": waiting})

    async def _models(self, _: web.Request) -> web.Response:
        one = {"id": self.name, "object": "model", "owned_by": "assay", "max_model_len": self.room}
        return web.json_response({"object": "list", "data": [one]})

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            asked = replace(await self._read(await request.read()), client=request.transport)
        except (Refused, CannotRead, AssayError) as error:
            told = {"message": str(error), "type": "BadRequestError", "code": 400}
            return web.json_response({"error": told}, status=400)
        self._waiting.append(asked)
        self._arrived.set()
        return web.json_response(self._told(asked, await asked.done))

    async def _read(self, payload: bytes) -> _Asked:
        """Raises Refused, or what rendering raises, for what cannot be answered."""
        try:
            body = json.loads(payload)
        except ValueError as error:
            raise Refused(f"the body is not JSON ({error})") from error
        if not isinstance(body, dict):
            raise Refused("the body must be a JSON object")
        if wrong := [k for k in REFUSED if body.get(k) and body[k] != NEUTRAL.get(k)]:
            raise Refused(f"{wrong[0]} is not known to this server")
        most = _number(body, "max_completion_tokens", _number(body, "max_tokens", self.limit))
        drawn = SamplerConfig(
            temperature=_number(body, "temperature", 1.0), top_p=_number(body, "top_p", 1.0), rows=self.rows,
            max_tokens=int(most),
        )  # fmt: skip
        prompt = Prompt(messages=messages(body.get("messages"), self.store))
        loop = asyncio.get_running_loop()
        tokens = len(await loop.run_in_executor(self._rendering, self.sampler.prompt_ids, prompt))
        if tokens + drawn.max_tokens > self.room:
            raise Refused(
                f"this model's maximum context length is {self.room:,} tokens; the prompt has {tokens:,} and the answer may "
                f"have {drawn.max_tokens:,}"
            )
        n, seed = int(_number(body, "n", 1)), None if body.get("seed") is None else int(_number(body, "seed", 0))
        if n < 1:
            raise Refused("n must be at least 1")
        return _Asked(prompt, n, drawn, seed, tokens, loop.create_future())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(0.01)  # those that came together are decoded together
            if not (taken := self._take()):
                continue
            try:
                groups = await loop.run_in_executor(self._thread, self._decode, taken)
            except Exception as error:  # noqa: BLE001 whatever the model raised belongs to these requests
                for one in taken:
                    if not one.done.done():
                        one.done.set_exception(error)
                continue
            for one, group in zip(taken, groups, strict=True):
                if not one.done.done():
                    one.done.set_result(group)

    def _take(self) -> list[_Asked]:
        """The first that waits, and those that are drawn as it is; none where nobody waits any more."""
        self._waiting = deque(one for one in self._waiting if not one.gone)
        if not self._waiting:
            return []
        first = self._waiting.popleft()
        taken, rest, rows = [first], deque[_Asked](), first.n
        while self._waiting:
            one = self._waiting.popleft()
            if (one.drawn, one.n) == (first.drawn, first.n) and rows + one.n <= self.rows:
                taken.append(one)
                rows += one.n
            else:
                rest.append(one)
        self._waiting = rest
        return taken

    def _decode(self, taken: Sequence[_Asked]) -> list[list[Rollout]]:
        first, self.batches = taken[0], self.batches + 1
        self.sampler.config = first.drawn
        self.sampler.entropies.clear()  # of greedy answers, which would pile up
        seeds = [secrets.randbits(60) if one.seed is None else one.seed for one in taken]
        found: list[list[Rollout]] = self.sampler([one.prompt for one in taken], first.n, draw=hash(tuple(seeds)))
        return found

    def _told(self, asked: _Asked, group: Sequence[Rollout]) -> dict[str, Any]:
        start = begun(self.policy.processor, asked.prompt.messages)
        choices = [
            {"index": i, "message": {"role": "assistant", "content": start + r.text}, "logprobs": None,
             "finish_reason": "stop" if r.ended else "length"}
            for i, r in enumerate(group)
        ]  # fmt: skip
        made = sum(len(r.tokens) for r in group)
        usage = {"prompt_tokens": asked.tokens, "completion_tokens": made, "total_tokens": asked.tokens + made}
        return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time()),
                "model": self.name, "choices": choices, "usage": usage}  # fmt: skip


def messages(said: object, store: ImageStore) -> tuple[Message, ...]:
    """A request's messages, pictures in the store. A message's pictures are shown before its words, in their order, which is
    how a policy's questions are laid out here. Raises Refused."""
    if not isinstance(said, list) or not said or not all(isinstance(m, Mapping) for m in said):
        raise Refused("messages must be a list of messages")
    found = []
    for message in said:
        if message.get("role") not in ("system", "user", "assistant"):
            raise Refused(f"a message of the role {message.get('role')!r} is not known to this server")
        content, texts, images = message.get("content"), list[str](), list[str]()
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "text":
                texts.append(str(part.get("text") or ""))
            elif kind == "image_url":
                images.append(store.add(_bytes(part.get("image_url"))))
            else:
                raise Refused(f"a part of the type {kind!r} is not known to this server")
        found.append(Message(role=message["role"], content="".join(texts), images=tuple(images)))
    if found[-1].role != "user":
        raise Refused("the last message must be the user's")
    return tuple(found)


def _bytes(told: object) -> bytes:
    url = told.get("url") if isinstance(told, Mapping) else told
    head, comma, data = str(url).partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise Refused("a picture must be a data URL (data:image/png;base64,...): this server fetches nothing")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise Refused(f"a picture's data URL is not base64 ({error})") from error


def _number(body: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = body.get(name)
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"{name} must be a number")
    return float(value)
