"""What trainings read: any order, any number of processes, memory or Parquet, the same pairs; and the losses by hand."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from assay.errors import AssayError
from assay.losses import bradley_terry, centering
from assay.records import Pair, Preference, Response, user
from assay.reward.data import MemoryPairs, ParquetPairs, positions
from assay.reward.renderer import Renderer
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
    assert sum(map(len, pairs._held[1].parts)) == 10


def test_a_folder_within_the_window_is_shuffled_whole_however_it_is_split(tmp_path: Path) -> None:
    """The same pairs in the same order, with the same identity, as in memory."""
    rows = [preference(n, certainty=0.5 + n / 100, margin=float(n)) for n in range(40)]
    both = rows[3]
    rows.append(Preference(pair_id=both.pair_id, prompt=both.prompt, chosen=both.rejected, rejected=both.chosen))
    memory = MemoryPairs(rows)
    for parts in (1, 4):
        table = Table(tmp_path / str(parts), Preference)
        for part in range(parts):
            table.write(f"part-{part}", rows[part::parts])
    for split in (ParquetPairs(tmp_path / "1"), ParquetPairs(tmp_path / "4")):
        assert split.whole
        assert split.identity() == memory.identity()
        for epoch in (0, 1):
            assert split.take(7, epoch, range(41)) == memory.take(7, epoch, range(41))
        assert split.at([5, 2]) == memory.at([5, 2])
        less, other = split.without({0, 40, 7}), memory.without({0, 40, 7})
        assert less.take(7, 0, range(38)) == other.take(7, 0, range(38))
        assert less.identity() == other.identity() != memory.identity()
        assert split.take(7, 0, range(41)) == memory.take(7, 0, range(41)), "what it was made of stays as it was"


def test_large_row_groups_are_read_in_parts(tmp_path: Path) -> None:
    rows = [preference(n) for n in range(100)]
    Table(tmp_path / "one", Preference).write("a", rows)
    assert pq.ParquetFile(tmp_path / "one" / "a.parquet").num_row_groups == 1
    size = pq.ParquetFile(tmp_path / "one" / "a.parquet").metadata.row_group(0).total_byte_size
    for pairs in (
        ParquetPairs(tmp_path / "one", window=30),
        ParquetPairs(tmp_path / "one", window_bytes=size // 4 + 1),
    ):
        assert [p.rows for p in pairs.pieces] == [25] * 4
        order = pairs.take(3, 0, range(100))
        assert pairs._held is not None
        assert sum(map(len, pairs._held[1].parts)) < 100
        assert sorted(p.pair_id for _, p in order) == sorted(p.pair_id for p in rows)
        assert sorted(n for n, _ in order) == list(range(100))
        assert dict(pairs.take(3, 1, range(100))) == dict(order)
        assert pairs.take(3, 0, [99, 0][::-1]) == [order[0], order[99]]


@pytest.mark.parametrize("window", [10, 1000])
def test_it_is_told_apart_whether_labels_changed_or_pairs(shards: Path, tmp_path: Path, window: int) -> None:
    before = ParquetPairs(shards, window).identity()
    table = pq.read_table(shards / "part-1.parquet")
    sure = pa.array([0.5, *table["certainty"].to_pylist()[1:]])
    swapped = [{"chosen": "rejected", "rejected": "chosen"}.get(c, c) for c in table.column_names]
    for kind, changed in (
        ("labels", table.set_column(table.column_names.index("certainty"), "certainty", sure)),
        ("labels", table.rename_columns(swapped).select(table.column_names)),
        ("pairs", table.set_column(0, "pair_id", pa.array([f"{i}" for i in range(10)]))),
        ("pairs", table.set_column(1, "prompt", table["prompt"].take(pa.array([1, *range(1, 10)])))),
    ):
        pq.write_table(changed, shards / "part-1.parquet")
        now = ParquetPairs(shards, window).identity()
        different = {name for name in now if now[name] != before[name]} - {"shards"}
        assert different == {"labels"} if kind == "labels" else "pairs" in different
    pq.write_table(table, shards / "part-1.parquet", row_group_size=3, compression="gzip")
    if window == 1000:
        assert ParquetPairs(shards, window).identity() == before, "neither compression nor row groups are its content"


def columns_of(path: Path) -> list[Any]:
    group = pq.ParquetFile(path).metadata.row_group(0)
    return [group.column(n) for n in range(group.num_columns)]


def test_a_damaged_shard_is_an_error_and_no_other_pair(shards: Path) -> None:
    path = shards / "part-3.parquet"
    text = next(c for c in columns_of(path) if c.path_in_schema == "chosen.messages.list.element.content")
    data = bytearray(path.read_bytes())
    data[text.data_page_offset + text.total_compressed_size - 9] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(AssayError, match=r"part-3.parquet: damaged: row group 0 cannot be read"):
        ParquetPairs(shards).take(0, 0, range(50))


def test_shards_of_other_types_are_refused(shards: Path) -> None:
    table = pq.read_table(shards / "part-0.parquet")
    pq.write_table(table.set_column(0, "pair_id", table["pair_id"].cast(pa.large_string())), shards / "x.parquet")
    with pytest.raises(AssayError, match=r"x.parquet: its columns are of other types than those of .*part-0.parquet"):
        ParquetPairs(shards)


def test_what_is_remembered_is_bounded_by_bytes(tmp_path: Path) -> None:
    made, rows = tiny_models.tokenizer(), list(enumerate(preference(n) for n in range(20)))
    rendered = Renderer(made, 100)(rows)
    room = sum(one.bytes for one in rendered[:5])
    assert 4 * len(rendered[0].group.prefix) < rendered[0].bytes < 10_000
    for space, kept in ((room, 5), (0, 0), (1 << 20, 20)):
        render = Renderer(made, 100, room=space)
        again = [render(rows) for _ in range(2)]
        assert [[one.group.answers[1].tolist() for one in some] for some in again] == 2 * [
            [one.group.answers[1].tolist() for one in rendered]
        ]
        assert sum(a is b for a, b in zip(*again, strict=True)) == kept


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
