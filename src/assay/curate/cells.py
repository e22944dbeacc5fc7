"""An approximate search for look-alikes: vectors are dealt into cells, and a query looks into the cells nearest to it.

An inverted file as in faiss (IVF), without its dependency: spherical k-means on a sample, one pass to deal the rows. What is
found in a cell is compared exactly (`retrieve`), so only a pair in a cell that was not looked into can be missed; `recall`
measures how often that is. It pays where there are many more queries than cells: at 100,000 gold pairs, not at 1,000.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.curate.retrieve import Near, merged, nearest
from assay.statistics import Estimate, of_clusters

ROUNDS, PER_CELL = 5, 64
"""Rounds of k-means, and rows of the sample for each cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Centres (c, d) of the cells, and the rows of each."""

    centres: NDArray[np.float32]
    rows: tuple[NDArray[np.int64], ...]

    @staticmethod
    def of(vectors: NDArray[np.floating]) -> "Cells":
        """Deal unit vectors (n, d) into about sqrt(n) cells; the same vectors always give the same cells."""
        count = max(1, round(len(vectors) ** 0.5))
        rng = np.random.default_rng(0)
        some = vectors[np.sort(rng.permutation(len(vectors))[: count * PER_CELL])].astype(np.float32)
        centres = some[:count]
        for _ in range(ROUNDS):
            of = _nearest_centre(some, centres)
            sums = np.zeros_like(centres)
            np.add.at(sums, of, some)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres).astype(np.float32)
        of = _nearest_centre(vectors, centres)
        order = np.argsort(of, kind="stable")
        ends = np.searchsorted(of[order], np.arange(len(centres) + 1))
        return Cells(centres=centres, rows=tuple(order[a:b] for a, b in itertools.pairwise(ends)))

    def nearest(self, queries: NDArray[np.floating], vectors: NDArray[np.floating], k: int, probe: float) -> Near:
        """The k nearest rows of `vectors` in the share `probe` of cells that are nearest to each query; -inf where these
        have fewer."""
        looked = max(1, round(probe * len(self.centres)))
        near = np.argpartition(-(queries.astype(np.float32) @ self.centres.T), looked - 1, axis=1)[:, :looked]
        rows, scores = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), -np.inf)
        asking = np.zeros((len(queries), len(self.centres)), bool)
        np.put_along_axis(asking, near, True, axis=1)
        for cell, members in enumerate(self.rows):
            who = np.flatnonzero(asking[:, cell])
            if len(who) and len(members):
                found, cosines = nearest(queries[who], vectors[members], k)
                rows[who], scores[who] = merged((rows[who], scores[who]), (members[found], cosines), k)
        return rows, scores


def _nearest_centre(vectors: NDArray[np.floating], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    parts = [
        np.argmax(vectors[at : at + 16_384].astype(np.float32) @ centres.T, axis=1)
        for at in range(0, len(vectors), 16_384)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def recall(found: Near, exact: Near) -> Estimate | None:
    """The share of the exact neighbours that were found, with its error by query; of equally near ones any counts. None
    where there are no neighbours."""
    wanted = (exact[1] > -np.inf).sum(1)
    right = ((found[1] >= exact[1][:, -1:]) & (found[1] > -np.inf)).sum(1)
    some = wanted > 0
    return of_clusters(right[some].astype(np.float64), wanted[some].astype(np.float64)) if some.any() else None
