"""What language model servers may cost: a limit that is not passed, and estimates before anything is asked."""

import asyncio
import threading
from dataclasses import dataclass

from assay.errors import AssayError


class Budget:
    """What all chats of a run may cost together, what they did cost in earlier runs included. Safe to share between threads.

    A request reserves the most that it can cost before it is sent; what does not fit is not sent. So the limit is never
    passed by more than an estimate of prompts that is too low (`chat.most_tokens`).
    """

    def __init__(self, limit: float) -> None:
        if limit <= 0:
            raise AssayError(f"a budget must be above 0, got {limit}")
        self.limit, self.spent, self._reserved, self._lock = limit, 0.0, 0.0, threading.Lock()

    def take(self, most: float) -> bool:
        with self._lock:
            if self.spent + self._reserved + most > self.limit:
                return False
            self._reserved += most
            return True

    async def enough(self, most: float) -> bool:
        """Reserve, if need be after others have come back and cost less than they could; False: never."""
        while not self.take(most):
            if self._reserved < 1e-12:
                return False
            await asyncio.sleep(0.01)
        return True

    def settle(self, most: float, cost: float) -> None:
        with self._lock:
            self._reserved, self.spent = self._reserved - most, self.spent + cost


class BudgetSpent(AssayError):
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
