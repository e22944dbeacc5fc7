"""Requests of many clients into batches by tokens: the heart of the reward server, without HTTP.

A request waits until the batch is full or `wait_ms` have passed, never longer than the batch before it takes. Batches run
one at a time in a thread; what does not fit in the queue is refused at once, and nothing that was taken is ever lost.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.records import Conversation
from assay.render import Rendered

Score = Callable[[Sequence[Conversation], Sequence[Rendered]], NDArray[np.float64]]


class Full(Exception):
    """The queue has no room: come back in `after_s` seconds."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"the queue is full; come back in {after_s:.0f} s")
        self.after_s = after_s


@dataclass(slots=True)
class _Job:
    conversations: Sequence[Conversation]
    rendered: Sequence[Rendered]
    tokens: int
    done: asyncio.Future[list[float]]


@dataclass(slots=True)
class Batcher:
    """Collects jobs and scores them. `start` and `close` in the event loop that calls `score`.

    Args:
        run: Rewards of rendered conversations; called in one thread, one batch at a time.
        batch_tokens: A batch takes jobs until it has so many tokens (one job may have more).
        queue_tokens: Jobs beyond so many waiting tokens are refused.
        wait_ms: How long the first job of a batch waits for company while nothing runs.
    """

    run: Score
    batch_tokens: int = 32_768
    queue_tokens: int = 1_000_000
    wait_ms: float = 2.0
    waiting: deque[_Job] = field(default_factory=deque)
    queued: int = 0
    batches: int = 0
    scored_tokens: int = 0
    busy_s: float = 0.0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "scoring"))
    _task: asyncio.Task[None] | None = None
    _closing: bool = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._loop())

    async def close(self) -> None:
        """Score what waits, then end."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def score(self, conversations: Sequence[Conversation], rendered: Sequence[Rendered]) -> list[float]:
        """The rewards, when their batch has run. Raises Full, or what the model raised."""
        tokens = sum(len(r.ids) for r in rendered)
        if self._closing or (self.waiting and self.queued + tokens > self.queue_tokens):
            rate = self.scored_tokens / self.busy_s if self.busy_s else self.queue_tokens
            raise Full(min(60.0, max(1.0, self.queued / rate)))
        job = _Job(conversations, rendered, tokens, asyncio.get_running_loop().create_future())
        self.waiting.append(job)
        self.queued += tokens
        self._arrived.set()
        return await job.done

    def _take(self) -> list[_Job]:
        """The next jobs in order of arrival, without those whose client has gone."""
        taken: list[_Job] = []
        size = 0
        while self.waiting and (not taken or size + self.waiting[0].tokens <= self.batch_tokens):
            job = self.waiting.popleft()
            self.queued -= job.tokens
            if not job.done.done():
                taken.append(job)
                size += job.tokens
        return taken

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self.waiting:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(self.wait_ms / 1000)
            jobs = self._take()
            if jobs:
                start = time.monotonic()
                await self._score(loop, jobs)
                self.batches += 1
                self.scored_tokens += sum(j.tokens for j in jobs)
                self.busy_s += time.monotonic() - start

    async def _score(self, loop: Any, jobs: list[_Job]) -> None:
        """One batch; where it fails, each job alone, so that one bad request cannot fail its neighbours."""
        try:
            rewards = await loop.run_in_executor(self._thread, self._rewards, jobs)
        except Exception as error:  # noqa: BLE001 whatever the model raised belongs to the request that caused it
            if len(jobs) > 1:
                for job in jobs:
                    await self._score(loop, [job])
            elif not jobs[0].done.done():
                jobs[0].done.set_exception(error)
            return
        at = 0
        for job in jobs:
            own = rewards[at : at + len(job.rendered)]
            at += len(own)
            if not job.done.done():
                job.done.set_result(own)

    def _rewards(self, jobs: list[_Job]) -> list[float]:
        conversations = [c for j in jobs for c in j.conversations]
        found: list[float] = self.run(conversations, [r for j in jobs for r in j.rendered]).tolist()
        return found
