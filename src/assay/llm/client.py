"""Any OpenAI-compatible chat server: bounded concurrency, retries, and a cache that asks each question exactly once.

A request is named by the hash of everything that is sent: endpoint, model, parameters, messages, schema and sample index
(without the index, the k samples of self-consistency would collapse into one); a kept reply also answers the same question
in other words (`replies`). A reply is on disk before the next request starts, so a killed run repeats at most the requests
that were in flight, and none where the server honours the `Idempotency-Key` that goes with each. Failures come back as
replies with a `problem` and never raise: one bad answer cannot lose a thousand good ones. What a model said is kept,
refusals too; failures of the transport, and what the length limit cut, are asked again next time.
"""

import asyncio
import email.utils
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from assay.llm.budget import Budget, BudgetSpent, Estimate
from assay.llm.chat import ChatConfig, Request, cost, most_tokens, request_body, request_key, request_text, unsendable
from assay.llm.completion import Again, about_content, read_answer
from assay.llm.dialect import WORDS, Lack, lesson, without
from assay.llm.replies import CUT, Replies, Reply, open_replies, question_of

_UNREADABLE = re.compile("the server's answer is not JSON|not a chat completion: it has no choices")
"""Never an error that a server tells, in whatever form: it may be the quota, and pass."""


class Server:
    """A `Chat` over HTTP. Each distinct request is asked once per `cache` file, however often it is made.

    `complete` blocks and runs its own event loop, so it cannot be called from inside one. `told` hears of every reply that
    arrives (not of cached ones), in the thread that called `complete`. `lacks`: what of the API the server turned out not
    to know.
    """

    share = 1.0
    """The part of the usual price that an answer costs."""

    def __init__(
        self, config: ChatConfig, cache: Path, budget: Budget | None = None, told: Callable[[Reply], None] | None = None
    ) -> None:
        self.config, self.cache, self.budget, self.told = config, cache, budget, told
        self.lacks: set[Lack] = {"schema"} if config.schemas == "never" else set()
        with self._open() as replies:
            replies.clear_killed()
            if budget is not None:
                waiting = (cost(config, *most) for _, most in replies.in_batches().values())
                budget.spend(cost(config, *replies.spent()) + self.share * sum(waiting))

    @property
    def name(self) -> str:
        return self.config.name or self.config.model

    @property
    def notes(self) -> tuple[str, ...]:
        """What the server turned out to lack, in words."""
        return tuple(WORDS[x] for x in sorted(self.lacks) if self.config.schemas != "never" or x != "schema")

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What `complete` would ask, and what that costs at most. Nothing is sent."""
        wanted = {request_key(self.config, r): r for r in requests if not unsendable(self.config, r)}
        with self._open() as replies:
            todo = [r for key, r in wanted.items() if self._find(replies, key, r) is None]
        sizes = [most_tokens(self.config, r) for r in todo]
        tokens_in, tokens_out = sum(a for a, _ in sizes), sum(b for _, b in sizes)
        usual = sum(len(m.content.encode("utf-8", "replace")) // 4 + 8 for r in todo for m in r.messages)
        return Estimate(
            requests=len(todo), cached=len(wanted) - len(todo), tokens_in=tokens_in, tokens_out=tokens_out,
            cost=self._cost((tokens_in, tokens_out)), usual_in=usual,
        )  # fmt: skip

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order; a failed request is a reply with a problem. Raises BudgetSpent when the budget
        ends before the requests do; requests in flight are waited for, and their replies kept."""
        keys = [unsendable(self.config, r) or request_key(self.config, r) for r in requests]
        refused = {
            k: Reply(problem=k, final=self.config.images is not None)
            for k, r in zip(keys, requests, strict=True) if unsendable(self.config, r)
        }  # fmt: skip
        wanted = {k: r for k, r in zip(keys, requests, strict=True) if k not in refused}
        with self._open() as replies:
            found = {key: reply for key, r in wanted.items() if (reply := self._find(replies, key, r))}
            found |= self._waiting(replies, wanted.keys() - found.keys())
            found |= self._otherwise(replies, {k: r for k, r in wanted.items() if k not in found})
            missing = {key: request for key, request in wanted.items() if key not in found}
            if missing:
                new = asyncio.run(self._ask_all(missing, replies))
                found |= new | self._odd(missing, new, replies)
        found |= refused
        return [found[key] for key in keys]

    def _find(self, replies: Replies, key: str, request: Request) -> Reply | None:
        found = replies.find(key)
        if found is None or not found.final:
            found = replies.find(key, request_text(self.config, request))
        return found if found is not None and found.final else None

    def _otherwise(self, replies: Replies, asked: Mapping[str, Request]) -> dict[str, Reply]:
        """What an open batch asks with another limit of tokens: to ask it now would be paid twice."""
        there = replies.questions_in_batches()
        said = "waits in the provider's batch with another max_tokens: give that again until the batch has ended"
        questions = (
            {k: question_of(self.config.home, request_text(self.config, r)) for k, r in asked.items()} if there else {}
        )
        return {k: Reply(problem=said, final=False) for k, q in questions.items() if there.get(q, k) != k}

    def _odd(self, asked: Mapping[str, Request], new: Mapping[str, Reply], replies: Replies) -> dict[str, Reply]:
        """Requests that the server, while it works, answers with what is no answer: after some commands their own problem,
        so that one of them cannot hold up all others for ever. Returns those that are it now."""
        odd = [key for key, reply in new.items() if not reply.final and _UNREADABLE.match(reply.problem)]
        if not odd or not (any(r.final or r.problem == CUT for r in new.values()) or self._works()):
            return {}
        replies.together(partial(replies.odd, key, request_text(self.config, asked[key])) for key in odd)
        told = {key: replies.find(key) for key in odd}
        return {key: replace(reply, cached=False) for key, reply in told.items() if reply and reply.final}

    def _works(self) -> bool:
        """Whether the server tells its models: a gateway's page for an outage does not."""

        async def look() -> bool:
            timeout = aiohttp.ClientTimeout(total=min(10.0, self.config.timeout_s))
            try:
                async with (
                    aiohttp.ClientSession(headers=self._headers(), timeout=timeout, trust_env=True) as session,
                    session.get(f"{self.config.url.rstrip('/')}/models") as response,
                ):
                    return response.status == 200 and isinstance(await response.json(content_type=None), dict)
            except (aiohttp.ClientError, TimeoutError, ValueError):
                return False

        return asyncio.run(look())

    def _waiting(self, replies: Replies, keys: Collection[str]) -> dict[str, Reply]:
        """What must not be asked now: the provider has it in a batch, and would be paid twice."""
        said = "waits in the provider's batch {}: read it with --batch, or cancel it there and give --batch once"
        there = replies.in_batches()
        return {k: Reply(problem=said.format(there[k][0] or "?"), final=False) for k in keys if k in there}

    def _open(self) -> AbstractContextManager[Replies]:
        return open_replies(self.cache, self.config.home, self.config.model, self.share)

    def _cost(self, tokens: tuple[int, int]) -> float:
        return self.share * cost(self.config, *tokens)

    def _headers(self) -> dict[str, str]:
        secret = os.environ.get(self.config.api_key_env, "").strip()
        return {"Authorization": f"Bearer {secret}"} if secret else {}

    async def _ask_all(self, missing: dict[str, Request], replies: Replies) -> dict[str, Reply]:
        """A bounded crew of workers over one shared iterator: never one task per request."""
        todo, found = iter(missing.items()), dict[str, Reply]()
        timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
        connector = aiohttp.TCPConnector(limit=self.config.concurrency)
        gate, commits = Gate(), _Commits(replies)
        async with aiohttp.ClientSession(
            headers=self._headers(), timeout=timeout, connector=connector, trust_env=True
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
        self._check_all(len(missing) - len(found), len(missing))
        return found

    def _check_all(self, left: int, of: int) -> None:
        if self.budget is not None and left:
            raise BudgetSpent(
                f"{self.name}: the budget of {self.budget.limit:g} does not allow the next request: {self.budget.spent:.4g} "
                f"are spent, {left:,} of {of:,} requests are left; give a larger budget to go on"
            )

    async def _ask(
        self, session: aiohttp.ClientSession, gate: "Gate", commits: "_Commits", key: str, request: Request
    ) -> Reply | None:
        """One request with its retries; None: the budget does not allow (another try of) it."""
        config, start, body = self.config, time.monotonic(), request_body(self.config, request)
        most, refusals, problem = most_tokens(config, request), 0, ""
        for attempt in range(config.tries):
            await gate.passable()
            if self.budget is not None and not await self.budget.enough(self._cost(most)):
                return None
            await commits.add(partial(commits.replies.sending, key, most))
            # A server that keeps answers by this key must not repeat a failure that it told, only an answer that was lost.
            outcome = await self._post(session, body, f"{key}-{refusals}" if refusals else key)
            if isinstance(outcome, Reply):
                reply = replace(outcome, seconds=round(time.monotonic() - start, 3))
                untold = most if not reply.tokens and (reply.final or reply.problem == CUT) else None
                self._settle(most, untold or (reply.tokens_in, reply.tokens_out))
                await commits.add(partial(commits.replies.came, key, request_text(config, request), reply, untold))
                if reply.problem == CUT:
                    reply = replace(commits.replies.find(key) or reply, cached=False)
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
            self.budget.settle(self._cost(most), self._cost(spent))

    def _lesson(self, body: dict[str, Any], status: int, outcome: Reply | Again) -> Lack | None:
        """What to leave out of a request that was refused for its form; None: it was not."""
        return None if about_content(outcome) else lesson(body, status, outcome.problem, self.config.schemas == "auto")

    async def _post(self, session: aiohttp.ClientSession, body: dict[str, Any], name: str) -> Reply | Again:
        """One attempt; what the server turns out not to know is left out, from then on."""
        lacks = set(self.lacks)
        while True:
            told = without(body, lacks)
            outcome, status = await _post(session, self.config.endpoint, told, "-".join((name, *sorted(lacks))))
            if status == 200:
                self.lacks |= lacks
            missing = self._lesson(told, status, outcome)
            if missing is None or missing in lacks:
                return outcome
            lacks.add(missing)


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
) -> tuple[Reply | Again, int]:
    """What came of one POST, and its HTTP status (0: none came)."""
    status = 0
    try:
        async with session.post(endpoint, json=body, headers={"Idempotency-Key": name}) as response:
            status = response.status
            payload = await response.read()
        outcome = read_answer(status, payload)
        if isinstance(outcome, Again):
            outcome = replace(outcome, after_s=retry_after(response.headers.get("Retry-After")))
        return outcome, status
    except TimeoutError:
        return Again(problem="timeout", worked=True), status
    except aiohttp.ClientConnectorError as error:
        return Again(problem=f"connection: {error}"), status
    except (aiohttp.ClientError, OSError) as error:
        return Again(problem=f"connection: {error or type(error).__name__}", worked=True), status


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
