"""The random order of epochs: a pure function of the seed and the epoch, so that a place in it is all the state there is."""

import numpy as np
from numpy.typing import NDArray


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
