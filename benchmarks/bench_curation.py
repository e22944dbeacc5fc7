"""Speed of curation steps against what a careful user would otherwise call, both in one run on the same work.

    make bench

- exact top-8 retrieval against scikit-learn's brute-force NearestNeighbors (cosine), same vectors and queries;
- the keep rule of stage 2 over narrow columns against the same rule in a Python loop.

Ratios are of CPU seconds, medians over repetitions; the last line is JSON.
"""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import polars as pl
from sklearn.neighbors import NearestNeighbors

from assay.curate.keep_rule import decided
from assay.curate.retrieve import nearest

REPEATS = 5


def cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float, float]:
    """(CPU seconds of ours, of theirs, theirs / ours), medians of interleaved repetitions."""
    times = [(cpu_s(ours), cpu_s(theirs)) for _ in range(REPEATS)]
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    return a, b, statistics.median(t / o for o, t in times)


def retrieval(n: int = 100_000, queries: int = 500, d: int = 384) -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    peer = NearestNeighbors(n_neighbors=8, algorithm="brute", metric="cosine").fit(vectors)
    rows, _ = nearest(vectors[:50], vectors, 8)
    assert (rows == peer.kneighbors(vectors[:50], return_distance=False)).mean() > 0.999
    return ratio(lambda: nearest(vectors[:queries], vectors, 8), lambda: peer.kneighbors(vectors[:queries]))


def keep_rule(n: int = 500_000) -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({
        "pair_id": [str(i) for i in range(n)], "original": ["a"] * n, "p_best": rng.random(n), "p_gold": rng.random(n),
        "judge": rng.choice(["a", "b"], n), "other": ["b"] * n, "problem": [""] * n, "certainty": np.ones(n),
        "strength": np.zeros(n),
    })  # fmt: skip

    def loop() -> list[str]:
        fates = []
        for row in frame.iter_rows(named=True):
            agrees = row["judge"] == row["original"]
            if row["p_gold"] > 0.5 and (row["p_best"] > 0.6 or agrees):
                fates.append("kept")
            elif row["p_gold"] < 0.5 and row["p_best"] < 0.5 and not agrees:
                fates.append("flipped")
            else:
                fates.append("dropped")
        return fates

    assert decided(frame, 0.1)["fate"].to_list() == loop()
    return ratio(lambda: decided(frame, 0.1), loop)


def main() -> None:
    found = {"retrieval_vs_sklearn_brute": retrieval(), "keep_rule_vs_python_loop": keep_rule()}
    for name, (ours, theirs, times) in found.items():
        print(f"{name:28s} ours {ours:.3f} s  theirs {theirs:.3f} s  ratio {times:.2f}")
    print(json.dumps({"bench": "curation", **{name: round(times, 2) for name, (_, _, times) in found.items()}}))


if __name__ == "__main__":
    main()
