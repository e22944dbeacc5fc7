"""A scorer that says how far it is: long lists go through it in parts."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from assay.records import Conversation, Scorer

PART, EVERY_S = 512, 15.0


class Parts:
    """The same rewards as `scorer`, asked for in parts; `say` hears about it every quarter of a minute."""

    def __init__(self, scorer: Scorer, say: Callable[[str], None]) -> None:
        self.scorer, self.say = scorer, say
        self.may_fail = bool(getattr(scorer, "may_fail", False))

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        start = said = time.monotonic()
        found = []
        for at in range(0, len(conversations), PART):
            found.append(np.asarray(self.scorer(conversations[at : at + PART]), dtype=np.float64))
            done, now = min(at + PART, len(conversations)), time.monotonic()
            if now - said > EVERY_S and done < len(conversations):
                said = now
                left = (len(conversations) - done) * (now - start) / done
                self.say(f"{done:,} of {len(conversations):,} conversations, left {left:.0f} s")
        return np.concatenate(found) if found else np.zeros(0)
