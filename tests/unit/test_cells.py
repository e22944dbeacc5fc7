"""The approximate search: exact where it looks everywhere, told what it misses where it does not, and alike every time."""

import re
from pathlib import Path

import numpy as np
import polars as pl

from assay.curate.cells import Cells, recall
from assay.curate.retrieve import nearest
from assay.statistics import Estimate
from unit.test_material import material


def vectors(n: int, seed: int = 0) -> np.ndarray:
    """Unit vectors in clumps."""
    rng = np.random.default_rng(seed)
    clumps = rng.normal(size=(20, 16))
    x = clumps[rng.integers(0, 20, n)] + 0.5 * rng.normal(size=(n, 16))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def value(share: Estimate | None) -> float:
    assert share is not None
    return share.value


def test_looking_into_all_cells_is_exact() -> None:
    pool, queries = vectors(900), vectors(40, 1)
    exact = nearest(queries, pool, 8)
    found = Cells.of(pool).nearest(queries, pool, 8, 1.0)
    assert (found[1] == exact[1]).all()
    assert value(recall(found, exact)) == 1.0


def test_less_is_missed_the_more_cells_are_looked_into() -> None:
    pool, queries = vectors(3_000), vectors(100, 1)
    cells, exact = Cells.of(pool), nearest(queries, pool, 8)
    assert sorted(np.concatenate(cells.rows).tolist()) == list(range(3_000))
    shares = [value(recall(cells.nearest(queries, pool, 8, probe), exact)) for probe in (0.02, 0.1, 0.3)]
    assert 0.3 < shares[0] < shares[1] <= shares[2]
    assert shares[2] > 0.9
    again = Cells.of(pool).nearest(queries, pool, 8, 0.1)
    assert (again[0] == cells.nearest(queries, pool, 8, 0.1)[0]).all()


def test_recall_counts_what_was_found_of_what_there_is() -> None:
    rows = np.array([[0, 1, 2]])
    exact = rows, np.array([[0.9, 0.8, 0.7]])
    assert value(recall((rows, np.array([[0.9, 0.7, 0.6]])), exact)) == 2 / 3
    few = rows, np.array([[0.9, 0.8, -np.inf]])
    assert value(recall(few, few)) == 1.0
    assert value(recall((rows, np.array([[0.9, -np.inf, -np.inf]])), few)) == 0.5
    none = rows, np.full((1, 3), -np.inf)
    assert recall(none, none) is None


def test_a_run_is_told_what_was_missed(tmp_path: Path) -> None:
    pool, told = material(tmp_path, 2), list[str]()
    gold = pool.first(12, 3)
    p = dict.fromkeys(gold["pair_id"], 0.2)
    exact = pool.look_alikes(gold, p, gold, 4, 50)
    some = pool.look_alikes(gold, p, gold, 4, 50, 0.5, told.append)
    assert pool.look_alikes(gold, p, gold, 4, 50, 0.9999, told.append).sort("pair_id").equals(exact.sort("pair_id"))
    assert told[0].endswith("of the exact neighbours of 12 gold pairs were found")
    assert re.match(r"look-alikes: 100\.0 % \(\d+\.\d to 100\.0; n \d+ ", told[1])
    assert isinstance(some, pl.DataFrame)
