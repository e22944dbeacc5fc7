"""A pool and its stages in an object store (a local S3 server): the same bytes as in a folder, whole objects or none."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assay import store
from assay.curate.rules import rule_attributes
from assay.curate.shards import Pool, create
from assay.engine import Cores, Engine, Here, make
from assay.errors import AssayError
from assay.images import ImageStore
from assay.records import Attributes, Judgement, Pair, Response, user
from assay.store import Place
from assay.tables import opened, read_shard, to_arrow, write_shard

pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
from s3_server import S3

PAIRS = [Pair.of((user(f"Question {n // 3}?"),), Response.of(f"yes {n}"), Response.of(f"no {n}")) for n in range(60)]
VOTES = [Judgement(pair_id=p.id, better=p.responses[0].id, by="wild:a", kind="wild") for p in PAIRS]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    server = S3("bucket")
    for name, value in {
        "AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    store._remote.cache_clear()
    yield server
    store._remote.cache_clear()
    server.close()


def described(item: tuple[Place, str]) -> Any:
    pool, shard = item
    return to_arrow(Attributes, map(rule_attributes, Pool.open(pool).table("pairs").read(shard)))  # type: ignore[arg-type]


def test_a_pool_and_its_stages_are_the_same_as_in_a_folder(s3: S3, tmp_path: Path) -> None:
    far = create(Place.of("s3://bucket/some/pool"), PAIRS, VOTES, parts=4)
    near = create(tmp_path / "pool", PAIRS, VOTES, parts=4)
    assert Pool.open("s3://bucket/some/pool").shards == near.shards == far.shards
    assert far.table("pairs").read() == near.table("pairs").read()
    assert far.votes(0).equals(near.votes(0))
    make(Here(), Place.of(tmp_path / "run"), described, {s.name: (near.place, s.name) for s in near.shards})
    engines: dict[str, Engine] = {"here": Here(), "cores": Cores(2)}
    for name, engine in engines.items():
        out = Place.of(f"s3://bucket/{name}")
        files = make(engine, out, described, {s.name: (far.place, s.name) for s in far.shards})
        engine.close()
        assert out.names(".parquet") == [f"{s.name}.parquet" for s in far.shards]
        for shard, file in files.items():
            with file.open() as held:
                assert bytes(held.read()) == (tmp_path / "run" / f"{shard}.parquet").read_bytes()
        before = len(s3.requests)
        make(Here(), out, described, {s.name: (far.place, s.name) for s in far.shards})
        assert len(s3.requests) == before + 1, "what is there is seen by one listing"
    with pytest.raises(AssayError, match="60 pairs then, 59 now"):
        create(far.place, PAIRS[1:], VOTES, parts=4)
    far.place.remove()
    assert not far.place.exists()
    assert far.place.names() == Place.of("s3://bucket/some").names() == []
    with pytest.raises(AssayError, match="no pairs here"):
        Pool.open("s3://bucket/some/pool")


def test_a_damaged_page_is_an_error_here_too(s3: S3) -> None:
    pool = create("s3://bucket/pool", PAIRS, VOTES)
    file = pool.place / "pairs" / f"{pool.shards[0].name}.parquet"
    with opened(file) as held:
        column = held.metadata.row_group(0).column(1)
    with file.open() as held:
        raw = bytearray(held.read())
    raw[column.data_page_offset + column.total_compressed_size - 4] ^= 1  # in the values, behind the page's header
    file.put(lambda path: path.write_bytes(raw))
    with pytest.raises(AssayError, match=r"s3://bucket/pool/pairs/.*damaged"):
        pool.table("pairs").read(pool.shards[0].name)
    file.put(lambda path: path.write_bytes(raw[:100]))
    with pytest.raises(AssayError, match="not a readable Parquet shard"):
        pool.table("pairs").read(pool.shards[0].name)


def test_a_small_file_is_one_request(s3: S3) -> None:
    file = Place.of("s3://bucket/a") / "b" / "c.txt"
    before = len(s3.requests)
    file.write_text("text")
    assert s3.requests[before:] == [("PUT", "/bucket/a/b/c.txt", "x-id=PutObject")] or [
        r[:2] for r in s3.requests[before:]
    ] == [("PUT", "/bucket/a/b/c.txt")]
    assert file.read_text() == "text"
    file.write_text("other")
    assert file.read_text() == "other"


PUT = """
import sys
from pathlib import Path
from assay.store import Place
Place.of(sys.argv[1]).put(lambda path: path.write_bytes(b"x" * (35 << 20)))
"""


def test_a_put_that_is_cut_off_leaves_nothing(s3: S3) -> None:
    """Of a file in several parts: the writer is killed, or a part is refused."""
    file = Place.of("s3://bucket/big")
    s3.hold = lambda method, path, query: "partNumber=3" in query
    with subprocess.Popen([sys.executable, "-c", PUT, str(file)], env=environment()) as writer:
        s3.wait_for(s3.hold)
        s3.wait_for(lambda method, path, query: "partNumber=1" in query)
        writer.kill()
    assert not file.exists()
    assert Place.of("s3://bucket").names() == []
    s3.hold, s3.refuse = s3.refuse, s3.hold
    with pytest.raises(AssayError, match=r"s3://bucket/big: cannot be written \(.*refused by the test"):
        file.put(lambda path: path.write_bytes(b"x" * (35 << 20)))
    assert not file.exists()
    s3.refuse = s3.hold
    file.put(lambda path: path.write_bytes(b"x" * (35 << 20)))
    with file.open() as held:
        assert held.size() == 35 << 20


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_a_stage_that_fails_in_the_store_goes_on(s3: S3) -> None:
    pool = create("s3://bucket/pool", PAIRS, VOTES, parts=4)
    names = [s.name for s in pool.shards]
    s3.refuse = lambda method, path, query: method in ("PUT", "POST") and names[2] in path
    out = Place.of("s3://bucket/run")
    with pytest.raises(AssayError, match="cannot be written"):
        make(Here(), out, described, {n: (pool.place, n) for n in names})
    assert out.names() == [f"{n}.parquet" for n in names[:2]]
    s3.refuse = lambda *_: False
    told: list[tuple[int, int]] = []
    make(Here(), out, described, {n: (pool.place, n) for n in names}, told=lambda *n: told.append(n))
    assert told[-1] == (len(names) - 2, len(names) - 2)


def test_more_names_than_a_page_of_a_listing_holds(s3: S3) -> None:
    for n in range(2500):
        s3.backend.put_object("bucket", f"many/{n:04d}.parquet", b"x")
    s3.backend.put_object("bucket", "many/deeper/x.parquet", b"x")
    many = Place.of("s3://bucket/many")
    assert many.names(".parquet") == [f"{n:04d}.parquet" for n in range(2500)]
    many.remove()
    assert many.names() == []


def test_what_cannot_be_reached_is_told_in_one_line(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssayError, match=r"s3://nobody: there is no such bucket at http://127\.0\.0\.1"):
        Place.of("s3://nobody/pool")
    from moto import settings

    with monkeypatch.context() as patch:
        patch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
        store._remote.cache_clear()
        with pytest.raises(AssayError, match=r"s3://bucket: cannot be reached \(.*ACCESS_DENIED") as caught:
            Place.of("s3://bucket/pool")
        assert "\n" not in str(caught.value)
    store._remote.cache_clear()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
        with pytest.raises(AssayError, match=r"s3://bucket: cannot be reached \(.*NETWORK_CONNECTION"):
            Place.of("s3://bucket/pool")
    with pytest.raises(AssayError, match=r"nothing installed opens such a URL"):
        Place.of("nonsense://bucket/pool")


def test_a_server_that_fails_in_the_middle_is_no_empty_folder(s3: S3) -> None:
    pool = create("s3://bucket/pool", PAIRS, VOTES)
    s3.refuse = lambda *_: True
    with pytest.raises(AssayError, match="cannot be listed"):
        pool.table("pairs").shards()
    with pytest.raises(AssayError, match="cannot be looked up"):
        pool.table("pairs").done("x")
    with pytest.raises(AssayError, match="cannot be read"):
        (pool.place / "pool.json").read_text()
    with pytest.raises(AssayError, match="cannot be looked up"):
        pool.place.remove()


def test_pictures_lie_there_too(s3: S3, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    near, far = ImageStore(tmp_path), ImageStore(Place.of("s3://bucket/images"))
    for color in ((1, 2, 3), (200, 0, 0)):
        picture = image.new("RGB", (7, 5), color)
        name = far.add(picture)
        assert name == near.add(picture) == far.add(picture)
        assert far.open(name).tobytes() == near.open(name).tobytes() == picture.tobytes()
    with pytest.raises(AssayError, match="no picture with the id"):
        far.open("0" * 32)
    (far.place / f"{name}.png").write_text("damaged")
    with pytest.raises(AssayError, match=rf"s3://bucket/images/{name}\.png: cannot be decoded"):
        far.open(name)
    with pytest.raises(AssayError, match="needs a folder of a file system"):
        _ = far.folder


def test_urls_are_taken_apart_as_they_are_meant(s3: S3) -> None:
    assert Place.of(Path("s3://bucket/pool/")).url == "s3://bucket/pool", "also after a Path shortened it"
    google = Place.of("gs://bucket/pool") / "pool.json"
    assert (google.path, google.name, str(google)) == (None, "pool.json", "gs://bucket/pool/pool.json")
    assert google._opened()[1] == "bucket/pool/pool.json"


def test_row_groups_are_read_by_range(s3: S3) -> None:
    """A few rows of a large shard: its other row groups stay where they are."""
    rows = [Pair.of((user(os.urandom(200_000).hex()),), Response.of("a"), Response.of("b")) for _ in range(120)]
    file = Place.of("s3://bucket/big.parquet")
    write_shard(file, to_arrow(Pair, rows))
    size = len(s3.backend.get_object("bucket", "big.parquet").value)
    sent = []
    app = s3._app

    def counted(environ: dict[str, Any], start: Any) -> Any:
        body = b"".join(app(environ, start))
        sent.append(len(body))
        return [body]

    s3._app = counted
    assert read_shard(file, rows=[3]).num_rows == 1
    assert sum(sent) < 0.6 * size
