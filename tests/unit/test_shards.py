"""The pool on disk: shards that appear whole, a manifest that commits, damage that is told."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from assay.curate.shards import Indexed, Pool, create, part_of
from assay.engine import Cores, Here, make
from assay.errors import AssayError
from assay.order import draws
from assay.records import Judgement, Pair, Response, digest, user
from assay.store import Place
from assay.tables import Table, read_shard, stream_shard, to_arrow, write_shard

PAIRS = [Pair.of((user(f"Question {n // 3}?"),), Response.of(f"yes {n}"), Response.of(f"no {n}")) for n in range(60)]
VOTES = [Judgement(pair_id=p.id, better=p.responses[0].id, by="wild:a", kind="wild") for p in PAIRS]


def test_a_pool_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    made = create(tmp_path / "pool", PAIRS, VOTES, {PAIRS[0].id: PAIRS[0].responses[1].id}, parts=4)
    pool = Pool.open(tmp_path / "pool")
    assert pool == made
    assert pool.pairs == 60
    found = {}
    for shard in pool.shards:
        rows = pool.table("pairs").read(shard.name)
        index = pool.table("index").read(shard.name)
        assert [Indexed.of(p) for p in rows] == index, "the index is aligned with the text"
        assert {part_of(p.question_id, 4) for p in rows} == {shard.part}
        assert set(pool.votes(shard.part)["pair_id"]) == {p.id for p in rows}
        found |= {p.id: p for p in rows}
    assert found == {p.id: p for p in PAIRS}


def test_the_order_of_pairs_and_votes_changes_nothing(tmp_path: Path) -> None:
    one = create(tmp_path / "one", PAIRS, VOTES, parts=2)
    two = create(tmp_path / "two", PAIRS[::-1], VOTES[::-1], parts=2)
    assert one.shards == two.shards
    for file in sorted((tmp_path / "one").rglob("*.parquet")):
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()


def test_another_pool_is_not_written_over(tmp_path: Path) -> None:
    create(tmp_path / "pool", PAIRS, VOTES)
    assert create(tmp_path / "pool", PAIRS, VOTES).pairs == 60
    with pytest.raises(AssayError, match=r"60 pairs then, 59 now"):
        create(tmp_path / "pool", PAIRS[1:], VOTES)


def test_an_import_that_was_cut_off_and_an_old_pool_are_told(tmp_path: Path) -> None:
    create(tmp_path / "pool", PAIRS, VOTES)
    (tmp_path / "pool/importing").mkdir()
    Pool.open(tmp_path / "pool")
    (tmp_path / "pool/importing/plan.json").write_text("{}")
    with pytest.raises(AssayError, match="cut off"):
        Pool.open(tmp_path / "pool")
    Table(tmp_path / "old/tables/pairs", Pair).write("x-000000000000-00000", PAIRS[:1])
    with pytest.raises(AssayError, match="earlier version"):
        Pool.open(tmp_path / "old")
    with pytest.raises(AssayError, match="no pairs here"):
        Pool.open(tmp_path / "nothing")


def test_a_damaged_manifest_is_told(tmp_path: Path) -> None:
    create(tmp_path / "pool", PAIRS, VOTES)
    manifest = tmp_path / "pool/pool.json"
    whole = manifest.read_text()
    for damaged, told in {
        whole[:40]: "pool.json: this file is damaged", "[]": "pool.json: this file is damaged", "{}": "not a pool of layout",
        whole.replace('"said"', '"told"'): "pool.json: not as this version of Assay writes it",
    }.items():  # fmt: skip
        manifest.write_text(damaged)
        with pytest.raises(AssayError, match=told):
            Pool.open(tmp_path / "pool")


def test_a_damaged_page_is_an_error(tmp_path: Path) -> None:
    pool = create(tmp_path / "pool", PAIRS, VOTES)
    file = tmp_path / "pool/pairs" / f"{pool.shards[0].name}.parquet"
    raw = bytearray(file.read_bytes())
    column = pq.ParquetFile(file).metadata.row_group(0).column(1)
    raw[column.data_page_offset + column.total_compressed_size - 4] ^= 1  # in the values, behind the page's header
    file.write_bytes(raw)
    with pytest.raises(AssayError, match="damaged"):
        pool.table("pairs").read(pool.shards[0].name)


def test_row_groups_are_bounded_by_bytes(tmp_path: Path) -> None:
    rows = [Pair.of((user("x" * 300_000 + str(n)),), Response.of("a"), Response.of("b")) for n in range(120)]
    file = Place.of(tmp_path / "big.parquet")
    write_shard(file, to_arrow(Pair, rows))
    parts = list(stream_shard(file, ["prompt"], np.array([0, 3, 119])))
    assert [len(p) for p in parts] == [2, 1], "the row groups between are not read"
    assert read_shard(file, rows=np.array([119]))["prompt"][0].as_py()[0]["content"].endswith("119")


def test_stages_are_made_once_and_alike_on_every_engine(tmp_path: Path) -> None:
    items = {f"s{n}": list(range(n, n + 5)) for n in range(6)}
    cores = Cores(2)
    for name, engine in (("here", Here()), ("cores", cores)):
        make(engine, Place.of(tmp_path / name), squares, items)
    cores.close()
    for n in items:
        assert (tmp_path / f"here/{n}.parquet").read_bytes() == (tmp_path / f"cores/{n}.parquet").read_bytes()
    (tmp_path / "here/s3.parquet").unlink()
    told: list[tuple[int, int]] = []
    make(Here(), Place.of(tmp_path / "here"), squares, items, told=lambda *n: told.append(n))
    assert told == [(1, 1)]


def squares(numbers: list[int]):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    return pa.table({"square": [n * n for n in numbers]})


def test_a_store_elsewhere_is_the_same(tmp_path: Path) -> None:
    pool = create(Place.of("memory://bucket/pool"), PAIRS, VOTES, parts=2)
    here = create(tmp_path / "pool", PAIRS, VOTES, parts=2)
    assert Pool.open("memory://bucket/pool").shards == here.shards == pool.shards
    assert pool.table("pairs").read() == here.table("pairs").read()
    pool.place.remove()
    assert not pool.place.exists()


def test_draws_are_uniform_stable_and_apart() -> None:
    ids = [digest([n]) for n in range(20_000)]
    one, other = draws(ids, "held"), draws(ids, "split")
    assert abs(one.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert (one == draws(ids[:100], "held").tolist() + draws(ids[100:], "held").tolist()).all()
    assert [round(x, 6) for x in draws(ids[:2], "held")] == STABLE


STABLE = [0.620237, 0.969762]
