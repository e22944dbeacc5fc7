"""The reward server's batcher without HTTP: order, limits, refusals, bad neighbours, clients that leave, an orderly end."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.records import Conversation, assistant, user
from assay.render import Rendered
from assay.reward.batching import Batcher, Full

Job = tuple[list[Conversation], list[Rendered]]


def job(*values: int, tokens: int = 4) -> Job:
    return [(user("q"), assistant(str(v))) for v in values], [Rendered(ids=[v] * tokens) for v in values]


class Model:
    """The reward is the first token; 13 makes it fail. `hold` keeps the first batch until it is set."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, _: Sequence[Conversation], rendered: Sequence[Rendered]) -> NDArray[np.float64]:
        self.batches.append([r.ids[0] for r in rendered])
        assert self.hold.wait(300)
        if any(r.ids[0] == 13 for r in rendered):
            raise RuntimeError("unlucky")
        return np.array([float(r.ids[0]) for r in rendered])


async def queued(batcher: Batcher, count: int) -> None:
    while len(batcher.waiting) < count:
        await asyncio.sleep(0.001)


def scored(model: Model, *jobs: Any, wait_ms: int = 20, **settings: int) -> list[Any]:
    """What each of the jobs comes to that are given at once."""

    async def work() -> list[Any]:
        batcher = Batcher(run=model, wait_ms=wait_ms, **settings)
        batcher.start()
        found = await asyncio.gather(*(batcher.score(*j) for j in jobs), return_exceptions=True)
        await batcher.close()
        return found

    return asyncio.run(work())


def test_everyone_gets_their_own_rewards_in_batches_by_tokens() -> None:
    model = Model()
    assert scored(model, *(job(i, i + 100) for i in range(5)), batch_tokens=12) == [[i, i + 100] for i in range(5)]
    assert model.batches == [[0, 100], [1, 101], [2, 102], [3, 103], [4, 104]], "two jobs of 8 tokens are more than 12"


def test_small_jobs_share_a_batch_and_a_large_one_goes_alone() -> None:
    model = Model()
    assert scored(model, job(1), job(2), job(3, tokens=50), job(4), batch_tokens=12) == [[1], [2], [3], [4]]
    assert model.batches == [[1, 2], [3], [4]]


def test_a_bad_request_fails_alone() -> None:
    first, failed, last = scored(Model(), job(1), job(13), job(2))
    assert (first, last) == ([1], [2])
    assert isinstance(failed, RuntimeError)


def test_a_full_queue_refuses_and_loses_nothing() -> None:
    model = Model()
    model.hold.clear()

    async def work() -> tuple[list[float], list[object]]:
        batcher = Batcher(run=model, batch_tokens=4, queue_tokens=8, wait_ms=0)
        batcher.start()
        first = asyncio.create_task(batcher.score(*job(1)))
        while not model.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.score(*job(v))) for v in (2, 3, 4)]
        await queued(batcher, 2)
        model.hold.set()
        found = await asyncio.gather(*others, return_exceptions=True)
        await batcher.close()
        return await first, list(found)

    first, others = asyncio.run(work())
    assert first == [1]
    assert others[:2] == [[2], [3]]
    assert isinstance(others[2], Full)
    assert 1 <= others[2].after_s <= 60


def test_a_job_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    assert scored(Model(), job(5), queue_tokens=2, wait_ms=0) == [[5]]


def test_a_client_that_left_is_not_scored_and_the_end_waits_for_the_rest() -> None:
    model = Model()
    model.hold.clear()

    async def work() -> list[float]:
        batcher = Batcher(run=model, batch_tokens=4, wait_ms=0)
        batcher.start()
        first = asyncio.create_task(batcher.score(*job(1)))
        while not model.batches:
            await asyncio.sleep(0.001)
        gone, stays = (asyncio.create_task(batcher.score(*job(v))) for v in (2, 3))
        await queued(batcher, 2)
        gone.cancel()
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await batcher.score(*job(4))
        model.hold.set()
        await closing
        return [*(await first), *(await stays)]

    assert asyncio.run(work()) == [1, 3]
    assert model.batches == [[1], [3]]
