"""What is kept is in memory of its own, and no more of it than was asked for."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from assay.judges import embedders
from assay.memory import compact


def test_a_few_rows_let_go_of_all_that_was_read() -> None:
    read = pa.table({"id": [f"{n:032x}" for n in range(20_000)], "of": [[f"{n} says so"] for n in range(20_000)]})
    size, before = read.nbytes, pa.total_allocated_bytes()
    frame = pl.DataFrame(pl.from_arrow(read))
    few = frame.filter(pl.col("id").str.ends_with("ff"))
    own = compact(few)
    assert own.equals(few)
    assert own.schema == few.schema
    del read, frame
    assert pa.total_allocated_bytes() > before - size / 2, "what Polars filtered holds what was read"
    del few
    assert pa.total_allocated_bytes() < before - size / 2
    assert len(own) == 78


@pytest.mark.parametrize("rows", [0, 3])
def test_a_compact_frame_has_the_same_columns(rows: int) -> None:
    frame = pl.DataFrame(
        {"a": ["x", None, "long enough to be in a buffer"], "b": [[1], [], None], "c": [True, None, False]}
    )
    assert compact(frame.head(rows)).equals(frame.head(rows))
    assert compact(frame.head(rows)).schema == frame.schema


def test_remembered_vectors_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[len(t), ord(t[0])] for t in texts], np.float32)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return vectors(texts)

    monkeypatch.setattr(embedders, "REMEMBERED", 10 * 500)
    embedder = embedders.remember(embed)
    texts = [c * n for n in (1, 2, 3) for c in "abc"]
    for _ in range(3):
        assert (embedder(texts) == vectors(texts)).all()
    assert sorted(asked) == sorted(texts), "nine texts fit, and are embedded once"
    embedder([f"{n}" for n in range(10, 30)])
    asked.clear()
    embedder(texts[:2])
    assert asked == sorted(texts[:2]), "all that was there made room"
