"""Providers' batch APIs as a way to ask: a file of requests goes up, a day later (or sooner) a file of answers comes down,
for half of the price. OpenAI's form: /files, /batches with input_file_id, output_file_id and error_file_id.

A batch is journaled before each step, in the file that holds the replies: claimed, uploaded, creating, open. A killed
process resumes the same batch. Between "creating" and "open" the provider may have made a batch whose id nobody here knows:
it is found again in the provider's list by the token in its metadata, and only when it is not there is the call made again,
under the same Idempotency-Key. So no request is submitted twice. Answers are committed together with the end of their batch.

What a line of a batch says is read as a live answer is (`completion`); what may pass, and what an expired batch left undone,
goes into the next batch.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import aiohttp

from assay.errors import AssayError
from assay.llm.batch_client import LINE_URL, Batch, BatchClient, BatchFailed, BatchJournal
from assay.llm.budget import Budget
from assay.llm.chat import ChatConfig, Request, most_tokens, request_text
from assay.llm.client import Server
from assay.llm.completion import PASSING, Again, error_message, read_answer, read_completion
from assay.llm.dialect import Lack, without
from assay.llm.replies import CUT, Replies, Reply

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
FORGOTTEN_S = 40 * 86_400.0
"""A batch that the provider does not know, and that is older, is given up: its answers are deleted after 30 days."""


MOST_SILENT = 20
"""Polls in a row that may fail: an outage of minutes does not end a wait of hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How a provider's batches are used. The defaults are OpenAI's limits and price."""

    price: float = 0.5
    """The part of the usual price that an answer costs."""
    poll_s: float = 30.0
    most_requests: int = 50_000
    most_bytes: int = 200_000_000
    window: str = "24h"

    def __post_init__(self) -> None:
        if not 0 <= self.price <= 1 or self.poll_s <= 0 or self.most_requests < 1 or self.most_bytes < 1:
            raise AssayError("batches: the price is a share in [0, 1]; seconds, requests and bytes must be above 0")


class BatchServer(Server):
    """A `Chat` that asks through the provider's batches. `complete` returns when its batches have ended, hours later; killed
    and called again it resumes them. `say` hears how far they are.
    """

    def __init__(
        self, config: ChatConfig, cache: Path, budget: Budget | None = None,
        told: Callable[[Reply], None] | None = None, batch: BatchConfig = BatchConfig(),
    ) -> None:  # fmt: skip
        self.share, self.batch = batch.price, batch
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
        self._asked_in_vain: dict[str, Reply] = {}
        self._needs: dict[str, frozenset[Lack]] = {}
        super().__init__(config, cache, budget, told)

    def _waiting(self, replies: Replies, keys: Collection[str]) -> dict[str, Reply]:
        """What failed before in this process is not put into another batch: a day is too long for a try."""
        return {k: self._asked_in_vain[k] for k in keys if k in self._asked_in_vain}

    async def _ask_all(self, missing: dict[str, Request], replies: Replies) -> dict[str, Reply]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=60.0, sock_read=self.config.timeout_s)
        found: dict[str, Reply] = {}
        tries = Counter[str]()
        async with aiohttp.ClientSession(headers=self._headers(), timeout=timeout, trust_env=True) as session:
            journal = BatchJournal(replies)
            batches, foreign = journal.resumed(missing)
            found |= foreign
            for batch in batches:
                self._move_to_reserved(batch)
            while True:
                claimed = {k for b in batches for k in b.asked}
                todo = {k: r for k, r in missing.items() if k not in found and k not in claimed}
                batches += await self._claimed(journal, todo, found)
                if not batches:
                    break
                for outcomes in await asyncio.gather(*(self._batch(session, journal, b) for b in batches)):
                    for key, outcome in outcomes.items():
                        tries[key] += 1
                        if isinstance(outcome, Reply):
                            found[key] = outcome
                        elif tries[key] >= self.config.tries:
                            found[key] = Reply(problem=outcome.problem, final=False)
                            if self.told is not None:
                                self.told(found[key])
                batches = []
        self._asked_in_vain |= {k: r for k, r in found.items() if not r.final}
        self._check_all(len(missing.keys() - found.keys()), len(missing))
        return found

    def _move_to_reserved(self, batch: Batch) -> None:
        """What an earlier process had put into a batch counts as spent until its answers are read."""
        if self.budget is not None:
            for most in batch.most.values():
                self.budget.spend(-self._cost(most))
                self.budget.take(self._cost(most), whatever=True)

    async def _claimed(
        self, journal: BatchJournal, todo: Mapping[str, Request], found: dict[str, Reply]
    ) -> list[Batch]:
        """New batches of what the budget allows, within the provider's limits; each is journaled. What can go into none
        gets its reply in `found`."""
        batches, size = list[Batch](), 0
        for n, (key, request) in enumerate(todo.items()):
            most, asked = most_tokens(self.config, request), request_text(self.config, request)
            length = len(self._line(key, asked)) + 1
            if length > self.batch.most_bytes:
                found[key] = Reply(problem=f"http 413: {length:,} bytes do not fit into a batch", final=False)
                continue
            if self.budget is not None:
                price = self._cost(most)
                if not (await self.budget.enough(price) if n == 0 else self.budget.take(price)):
                    break
            if (
                not batches
                or len(batches[-1].asked) == self.batch.most_requests
                or size + length > self.batch.most_bytes
            ):
                batches.append(Batch(token=token_hex(16)))
                size = 0
            batches[-1].asked[key], batches[-1].most[key] = asked, most
            size += length
        for batch in batches:
            for key in journal.claim(batch):
                found[key] = Reply(problem="another process waits for it in a batch", final=False)
                self._settle(batch.most.pop(key), (0, 0))
                del batch.asked[key]
        return [b for b in batches if b.asked]

    def _line(self, key: str, asked: str) -> bytes:
        body = without(self._body(asked), self.lacks | self._needs.get(key, frozenset()))
        return json.dumps({"custom_id": key, "method": "POST", "url": LINE_URL, "body": body}).encode()

    @staticmethod
    def _body(asked: str) -> dict[str, Any]:
        return {k: v for k, v in json.loads(asked).items() if k != "sample"}

    async def _batch(
        self, session: aiohttp.ClientSession, journal: BatchJournal, batch: Batch
    ) -> dict[str, Reply | Again]:
        """One batch from wherever it stands to its end. A step that fails leaves it in the journal, if it can have cost."""
        client = BatchClient(session, self.config)
        try:
            if batch.state == "claimed":
                lines = (self._line(key, asked) for key, asked in batch.asked.items())
                batch.file = await client.upload(f"assay-{batch.token}.jsonl", lines)
                journal.step(batch, "uploaded")
            if batch.state in ("uploaded", "creating"):
                again = batch.state == "creating"
                journal.step(batch, "creating")
                batch.id = await client.create(batch, self.batch.window, again)
                journal.step(batch, "open")
                self.say(f"{self.name}: batch {batch.id} of {len(batch.asked):,} requests is made")
            ended = await self._ended(client, batch)
            answers = await self._answers(client, batch, ended)
        except BatchFailed as failed:
            return self._stopped(journal, batch, failed)
        return self._kept(journal, batch, answers)

    def _stopped(self, journal: BatchJournal, batch: Batch, failed: BatchFailed) -> dict[str, Reply | Again]:
        old = batch.state == "open" and failed.status == 404 and time.time() - batch.at > FORGOTTEN_S
        # A 4xx is told before anything is made; what may have been made stays in the journal.
        refused = 400 <= failed.status < 500 and failed.status not in (408, 409)
        unmade = batch.state in ("claimed", "uploaded") or (batch.state == "creating" and refused)
        if unmade or old:
            for most in batch.most.values():
                self._settle(most, most if old else (0, 0))
            lost = batch.most.items() if old else ()
            journal.end(batch, [partial(journal.replies.failed, k, "lost with its batch", m) for k, m in lost])
        if unmade and failed.status in (404, 405, 501):
            raise AssayError(
                f"{self.config.url} has no batches for chat completions ({failed.problem}); leave out --batch to ask live"
            )
        where = f"batch {batch.id}: " if batch.id else ""
        reply = Reply(problem=failed.problem if not where else f"connection: {where}{failed.problem}", final=False)
        return {key: Again(problem="lost with its batch") if old else reply for key in batch.asked}

    async def _ended(self, client: BatchClient, batch: Batch) -> dict[str, Any]:
        """The batch object, when it has ended."""
        said, said_at, wait, silent = "", 0.0, min(1.0, self.batch.poll_s), 0
        while True:
            try:
                told = await client.get_json(f"batches/{batch.id}")
            except BatchFailed as failed:
                silent += 1
                if silent == MOST_SILENT or (failed.status and failed.status not in PASSING):
                    raise
                await asyncio.sleep(wait)
                continue
            silent = 0
            status, counts = str(told.get("status")), told.get("request_counts") or {}
            if status != said or time.monotonic() - said_at > 600:
                done = f"{counts.get('completed', 0):,} of {counts.get('total') or len(batch.asked):,} answered"
                self.say(f"{self.name}: batch {batch.id} is {status}, {done}")
                said, said_at = status, time.monotonic()
            if status in ENDED:
                return told
            await asyncio.sleep(wait)
            wait = min(self.batch.poll_s, wait * 1.5)

    async def _answers(
        self, client: BatchClient, batch: Batch, ended: dict[str, Any]
    ) -> dict[str, tuple[Reply | Again, int]]:
        """What came of each request, with the HTTP status of its line; what no file names is unfinished."""
        status, found = ended["status"], dict[str, tuple[Reply | Again, int]]()
        broken = 0
        for name in ("output_file_id", "error_file_id"):
            if ended.get(name):
                rows, unread = await client.lines(f"files/{ended[name]}/content")
                broken += unread
                for row in rows:
                    key = str(row.get("custom_id"))
                    if key in batch.asked:
                        found.setdefault(key, _outcome(row))
        left: Reply | Again = Again(problem=f"the batch is {status} without an answer", worked=broken > 0)
        if status == "failed":
            left = Reply(problem=f"the batch failed: {_why(ended)}", final=False)
        elif status == "cancelled":
            left = Reply(problem="the batch was cancelled", final=False)
        return {key: found.get(key, (left, 0)) for key in batch.asked}

    def _kept(
        self, journal: BatchJournal, batch: Batch, answers: Mapping[str, tuple[Reply | Again, int]]
    ) -> dict[str, Reply | Again]:
        """Replies, their cost and the end of the batch, in one commit."""
        replies, writes = journal.replies, list[Callable[[], object]]()
        outcomes: dict[str, Reply | Again] = {}
        for key, (outcome, status) in answers.items():
            most, spent = batch.most[key], (0, 0)
            if isinstance(outcome, Reply):
                needs = self._needs.get(key, frozenset())
                lack = self._lesson(without(self._body(batch.asked[key]), self.lacks | needs), status, outcome)
                untold = most if not outcome.tokens and (outcome.final or outcome.problem == CUT) else None
                spent = untold or (outcome.tokens_in, outcome.tokens_out)
                writes.append(partial(replies.came, key, batch.asked[key], outcome, untold))
                if status == 200:
                    self.lacks |= needs
                elif lack is not None and lack not in needs:
                    self._needs[key] = needs | {lack}
                    outcome = Again(problem=outcome.problem)
            else:
                spent = most if outcome.worked else (0, 0)
                writes.append(partial(replies.failed, key, outcome.problem, spent))
            outcomes[key] = outcome
            self._settle(most, spent)
        journal.end(batch, writes)
        for key, outcome in outcomes.items():
            if isinstance(outcome, Reply):
                if outcome.problem == CUT:
                    outcomes[key] = outcome = replace(replies.find(key) or outcome, cached=False)
                if self.told is not None:
                    self.told(outcome)
        return outcomes


def _outcome(row: Mapping[str, Any]) -> tuple[Reply | Again, int]:
    """What a line of an output or error file came to."""
    response = row.get("response")
    if not isinstance(response, dict) or not response.get("status_code"):
        said = error_message(json.dumps(row.get("error")).encode()) or "no response"
        return Again(problem=f"batch: {said}"), 0
    body, status = response.get("body"), int(response["status_code"])
    if status != 200:
        return read_answer(status, (body if isinstance(body, str) else json.dumps(body)).encode()), status
    if isinstance(body, str):
        return read_answer(status, body.encode()), status
    return read_completion(body), status


def _why(ended: Mapping[str, Any]) -> str:
    """Why a batch failed, from its `errors`."""
    errors = ended.get("errors")
    rows = errors.get("data") if isinstance(errors, dict) else errors
    return error_message(json.dumps(rows[:3] if isinstance(rows, list) else rows).encode()) or "no reason given"
