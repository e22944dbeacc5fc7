"""What language model servers may cost: a limit that is not passed, and estimates before anything is asked."""

import asyncio
import threading
from dataclasses import dataclass

from assay.errors import AssayError, Stopped


class Budget:
    """What all chats of a run may cost together, what they did cost in earlier runs included. Safe to share between threads.

    A request reserves the most that it can cost before it is sent; what does not fit is not sent. So the limit is never
    passed by more than an estimate of prompts that is too low (`chat.most_tokens`).
    """

    def __init__(self, limit: float) -> None:
        if limit <= 0:
            raise AssayError(f"a budget must be above 0, got {limit}")
        self.limit, self.spent, self._lock = limit, 0.0, threading.Lock()
        self._reserved, self._open = 0.0, 0

    def take(self, most: float, *, whatever: bool = False) -> bool:
        """Reserve for one request that is about to be sent; `whatever`: it has been sent already."""
        with self._lock:
            if not whatever and self.spent + self._reserved + most > self.limit:
                return False
            self._reserved, self._open = self._reserved + most, self._open + 1
            return True

    async def enough(self, most: float) -> bool:
        """Reserve, if need be after others have come back and cost less than they could; False: never."""
        while not self.take(most):
            if not self._open:
                return False
            await asyncio.sleep(0.01)
        return True

    def settle(self, most: float, cost: float) -> None:
        """A request that had reserved `most` came to `cost`."""
        with self._lock:
            self._open -= 1
            self._reserved = self._reserved - most if self._open else 0.0  # sums of floats leave a rest
            self.spent += cost

    def spend(self, cost: float) -> None:
        """What was spent without a reservation: by earlier runs."""
        with self._lock:
            self.spent += cost


class BudgetSpent(Stopped):
    """The budget does not allow the next request. What was asked is kept; a larger budget goes on from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What requests will cost: those that are not in the cache, their tokens and price at most, and the prompt tokens
    that English text of this size usually has (four bytes a token)."""

    requests: int
    cached: int
    tokens_in: int
    tokens_out: int
    cost: float
    usual_in: int = 0
