"""Reproducible chance: the random order of epochs, and draws that belong to a thing by its id.

An epoch's order is a pure function of the seed and the epoch, so that a place in it is all the state there is. A draw is a
pure function of an id, so that it is the same wherever and among whatever others the thing is met.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from assay.records import digest


class Orders:
    """Permutations of n things, by seed and epoch. Each is drawn once and kept as long as steps read from it."""

    KEPT = 2
    """The step at an epoch's end reads from the next one, too."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._drawn: dict[tuple[int, ...], NDArray[np.int64]] = {}

    def of(self, *key: int) -> NDArray[np.int64]:
        """The order of (seed, epoch)."""
        if key not in self._drawn:
            while len(self._drawn) >= self.KEPT:
                del self._drawn[next(iter(self._drawn))]
            self._drawn[key] = np.random.default_rng(key).permutation(self.n)
        return self._drawn[key]


def draws(ids: Sequence[str], *salt: object) -> NDArray[np.float64]:
    """(n,) numbers in [0, 1), one for each content id (32 hex digits; any other text is made one of): uniform, and
    independent for every `salt`."""
    hexes = [i if len(i) == 32 else digest([i]) for i in ids]
    start = np.frombuffer(bytes.fromhex("".join(hexes)), ">u8").reshape(-1, 2)[:, 0].astype(np.uint64)
    x = start ^ np.uint64(int(digest(["draw", *salt])[:16], 16))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the finaliser of SplitMix64
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def in_order(ids: Sequence[str], *salt: object) -> list[str]:
    """Ids in an order of their draws: random, and the same wherever they are met."""
    return [ids[n] for n in np.argsort(draws(ids, *salt), kind="stable")] if len(ids) else []
