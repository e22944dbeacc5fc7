"""What trainings read: any order, any number of processes, memory or Parquet, the same pairs; and the losses by hand."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import AssayError
from assay.losses import bradley_terry, centering
from assay.records import Pair, Preference, Response, user
from assay.reward.data import MemoryPairs, ParquetPairs, positions
from assay.tables import Table


def preference(n: int, **fields: float) -> Preference:
    good = Response.of(f"good {n}")
    made = Pair.of((user(f"question {n}"),), good, Response.of(f"bad {n}")).preferring(good.id)
    return Preference(pair_id=made.pair_id, prompt=made.prompt, chosen=made.chosen, rejected=made.rejected, **fields)


@given(n=st.integers(1, 40), size=st.integers(1, 20), steps=st.integers(1, 12))
def test_steps_read_the_epochs_one_after_the_other(n: int, size: int, steps: int) -> None:
    read = [(e, p) for step in range(steps) for e, places in positions(n, step * size, size) for p in places]
    assert read == [divmod(i, n) for i in range(steps * size)]


def test_memory_order_depends_on_seed_and_epoch_only() -> None:
    rows = [preference(n) for n in range(20)]
    one, other = MemoryPairs(rows), MemoryPairs(rows[::-1])
    everything = range(20)
    assert one.take(0, 0, everything) == other.take(0, 0, everything)
    assert one.take(0, 1, everything) != one.take(0, 0, everything) != one.take(1, 0, everything)
    assert sorted(n for n, _ in one.take(0, 3, everything)) == list(everything)
    assert one.take(0, 0, [3, 7]) == [one.take(0, 0, everything)[i] for i in (3, 7)]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    table = Table(tmp_path / "shards", Preference)
    for part in range(5):
        table.write(f"part-{part}", [preference(10 * part + n, certainty=0.75, margin=0.5) for n in range(10)])
    return tmp_path / "shards"


@pytest.mark.parametrize("window", [1, 15, 1000])
def test_parquet_is_read_whole_once_an_epoch_from_any_place(shards: Path, window: int) -> None:
    pairs = ParquetPairs(shards, window)
    assert len(pairs) == 50
    order = pairs.take(7, 0, range(50))
    assert sorted(n for n, _ in order) == list(range(50))
    assert len({p.pair_id for _, p in order}) == 50
    assert pairs.take(7, 1, range(50)) != order
    again = ParquetPairs(shards, window)
    assert again.take(7, 0, [40, 41, 49]) == [order[i] for i in (40, 41, 49)]
    number, first = order[0]
    assert dict(pairs.take(7, 1, range(50)))[number] == first
    assert (first.certainty, first.margin) == (0.75, 0.5)


def test_parquet_holds_one_window_in_memory(shards: Path) -> None:
    pairs = ParquetPairs(shards, window=10)
    pairs.take(0, 0, range(50))
    assert pairs._held is not None
    assert len(pairs._held[1]) == 10


def test_parquet_without_certainty_and_margin_reads_defaults(shards: Path, tmp_path: Path) -> None:
    plain = pq.read_table(shards / "part-0.parquet").drop_columns(["certainty", "margin"])
    (tmp_path / "old").mkdir()
    pq.write_table(plain, tmp_path / "old" / "a.parquet")
    assert {(p.certainty, p.margin) for _, p in ParquetPairs(tmp_path / "old").take(0, 0, range(10))} == {(1.0, 0.0)}


def test_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no Parquet shards"):
        ParquetPairs(tmp_path)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(AssayError, match="columns chosen, pair_id, prompt, rejected are missing"):
        ParquetPairs(tmp_path)
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(AssayError, match="not a readable Parquet shard"):
        ParquetPairs(tmp_path)


def test_margins_and_soft_labels_by_hand() -> None:
    margin = torch.tensor([2.0, -1.0])

    def nll(x: float) -> float:
        return math.log1p(math.exp(-x))

    assert bradley_terry(margin, torch.tensor([0.5, 1.0])).item() == pytest.approx(nll(1.5) + nll(-2.0), rel=1e-6)
    soft = bradley_terry(margin, certainty_B=torch.tensor([0.75, 1.0])).item()
    assert soft == pytest.approx(0.75 * nll(2) + 0.25 * nll(-2) + nll(-1), rel=1e-6)
    unsure = torch.zeros(1, requires_grad=True)
    bradley_terry(unsure + 3.0, certainty_B=torch.tensor([1 / (1 + math.exp(-3.0))])).backward()
    assert unsure.grad is not None
    assert unsure.grad.item() == pytest.approx(0.0, abs=1e-6)  # the soft label's own margin is its optimum
    assert centering(torch.tensor([1.0, 2.0]), torch.tensor([1.0, -2.0])).item() == pytest.approx(4.0)
