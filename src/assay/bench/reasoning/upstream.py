"""The model's server, behind a recorder: asked until it answers or will not, in the words of the API that it knows.

What may pass is tried again. A server that says it is too busy, or that answered before and cannot be reached now (it is
begun anew), is waited for. One that takes no request at all, for a wrong key or an unknown model, is asked nothing more.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from assay.bench.reasoning.rows import Job
from assay.llm.client import Gate, retry_after
from assay.llm.completion import PASSING, Again, error_message, read_completion
from assay.llm.dialect import WORDS, Lack, lesson, without
from assay.llm.replies import CUT

TRIES = 6
BACKOFF_S = 0.25
PATIENCE_S = 600.0
"""A server that is too busy (429, Retry-After), or that is gone, is asked again until so long after its last answer."""
TELL_S = 60.0
KEPT = "assay_lacks"
"""Where an answer in the journal says what of its request the server did not take."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer. `passing`: the same request may get one at another time."""

    why: str
    passing: bool = False


class _Told(NamedTuple):
    """What one request came to: an answer, or a problem. `again`: another try may end otherwise; `busy`: the server asks for
    patience; `away`: nothing listens there; `status`: 0 without an answer of HTTP."""

    answer: dict[str, Any]
    problem: str = ""
    again: bool = False
    busy: bool = False
    away: bool = False
    status: int = 0
    after: float | None = None


class Upstream:
    """The server of a job. `waits`: one that answered is waited for where it goes away (not one that this command started,
    which does not come back). `say` hears what is waited for.

    `lacks`: what of the API the server turned out not to know. `refused`: why it takes no request at all: nothing more is
    asked then.
    """

    def __init__(self, job: Job, timeout_s: float, waits: bool = True, say: Callable[[str], None] = print) -> None:
        self.job, self.timeout_s, self.waits, self.say = job, timeout_s, waits, say
        self.lacks, self.refused = set[Lack](), ""
        self._gate, self._silent = Gate(), 0
        self._room = asyncio.Semaphore(job.at_once)
        self._answered, self._answered_at, self._said = False, time.monotonic(), -TELL_S

    def session(self) -> aiohttp.ClientSession:
        """The connections; use it as a context around all that is asked."""
        headers = {"Authorization": f"Bearer {self.job.key}"} if self.job.key not in ("", "-") else {}
        near = urlsplit(self.job.url).hostname in ("127.0.0.1", "localhost", "::1")  # no proxy leads to this machine
        self._session = aiohttp.ClientSession(
            headers=headers, timeout=aiohttp.ClientTimeout(total=self.timeout_s), trust_env=not near
        )
        return self._session

    async def ask(self, path: str, body: dict[str, Any], name: str) -> tuple[dict[str, Any], Failure | None]:
        """The answer, or why there is none. `name`: of the request, its idempotency key and the source of its seed."""
        body = {k: v for k, v in body.items() if v is not None}
        if body.get("temperature", 1.0):
            body["seed"] = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) >> 1
        async with self._room:
            return await self._asked(path, body, name)

    async def _asked(self, path: str, body: dict[str, Any], name: str) -> tuple[dict[str, Any], Failure | None]:
        failed = waited = 0
        tries = 1 if self._silent >= self.job.at_once else TRIES  # one that is gone is not waited for again and again
        while not self.refused:
            await self._gate.passable()
            sent = without(body, self.lacks)
            told = await self._once(path, sent, name)
            if not told.problem:
                self._silent, self._answered, self._answered_at = 0, True, time.monotonic()
                return ({**told.answer, KEPT: sorted(self.lacks)} if self.lacks else told.answer), None
            if lack := lesson(sent, told.status, told.problem, schemas=False):
                self.lacks.add(lack)
                continue
            if not self._answered and (told.status == 401 or (told.status in (403, 404) and _plain(body))):
                self.refused = told.problem
            waits = told.busy or (told.away and self.waits and self._answered)
            self._silent = 0 if not told.again or waits else self._silent
            failed, waited = failed + (not waits), waited + 1
            late = time.monotonic() > self._answered_at + PATIENCE_S
            if not told.again or failed == tries or (waits and late):
                self._silent += told.again and not told.busy
                return {}, Failure(told.problem, told.again)
            await self._wait(told, waited, waits)
        return {}, Failure(self.refused)

    async def _once(self, path: str, body: dict[str, Any], name: str) -> _Told:
        url = f"{self.job.url.rstrip('/')}/{path}"
        try:
            async with self._session.post(url, json=body, headers={"Idempotency-Key": name}) as response:
                answer, problem, again = _read(response.status, await response.read())
                after = retry_after(response.headers.get("Retry-After"))
                busy = again and (response.status == 429 or after is not None)
                return _Told(answer, problem, again, busy, status=response.status, after=after)
        except TimeoutError:  # as long again would be paid for again
            return _Told({}, f"no answer within {self.timeout_s:,.0f} s")
        except (aiohttp.ClientError, OSError) as error:
            away = isinstance(error, aiohttp.ClientConnectorError)
            return _Told({}, f"connection: {error or type(error).__name__}", again=True, away=away)

    async def _wait(self, told: _Told, waited: int, patient: bool) -> None:
        if patient and time.monotonic() > self._said + TELL_S:
            self._said, what = time.monotonic(), "is too busy" if told.busy else "cannot be reached"
            left = max(0.0, self._answered_at + PATIENCE_S - time.monotonic())
            self.say(
                f"{self.job.benchmark}: the server {what} ({told.problem[:160]}); it is waited for, {left:.0f} s at most"
            )
        if told.after is not None:
            self._gate.close_for(min(max(told.after, 0.1), 60.0))
        else:
            await asyncio.sleep(min(BACKOFF_S * 2 ** min(waited, 7), 30.0))


def _plain(body: dict[str, Any]) -> bool:
    """Whether a request has words alone: pictures and tools may be what a model is not there for (OpenRouter says 404)."""
    content = [message.get("content") for message in body.get("messages") or () if isinstance(message, dict)]
    parts = [part for one in content if isinstance(one, list) for part in one]
    return "tools" not in body and all(part.get("type") == "text" for part in parts if isinstance(part, dict))


def lacking(answer: dict[str, Any]) -> list[str]:
    """What of its request the server did not take, in words; of an answer in the journal too."""
    return [WORDS[lack] for lack in answer.get(KEPT, ())]


def _read(status: int, payload: bytes) -> tuple[dict[str, Any], str, bool]:
    """(answer, problem, whether to try again) of what a server sent."""
    if status != 200:
        hint = " (is the URL's path right, often /v1, and the model's name?)" if status == 404 else ""
        hint = " (is $OPENAI_API_KEY the key of this server?)" if status == 401 else hint
        return {}, f"http {status}: {error_message(payload)}{hint}", status in PASSING
    try:
        answer = json.loads(payload)
    except ValueError:
        return {}, "the server's answer is not JSON", True
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list) or not answer["choices"]:
        return {}, f"not a completion: {error_message(payload)}", False
    if isinstance(answer["choices"][0], dict) and "text" in answer["choices"][0]:
        return answer, "", False
    told = read_completion(answer)
    if isinstance(told, Again):
        return {}, told.problem, True
    if told.problem == "refused":
        return {}, "the server's filter let no answer through", False
    if not told.final and told.problem != CUT:
        return {}, told.problem, False
    if not isinstance(content := answer["choices"][0]["message"].get("content"), str | list | dict | None):
        return {}, f"not a chat completion: its content is {content!r}", False
    return answer, "", False
