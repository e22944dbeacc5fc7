"""What bench-scale compares is the same rule: labels over columns and in SQL, of one small pool, row by row."""

from pathlib import Path

import polars as pl
import pytest
import scale_stages
from scale_pool import make

from assay.curate.shards import create
from assay.formats.preferred import Preferred
from assay.formats.reading import decide, outcomes
from assay.formats.sources import find
from assay.records import Judgement, Pair

pytest.importorskip("duckdb", reason="the peer of the benchmark is not installed (pip install duckdb)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    make(folder / "files", 1500, mean_bytes=200, seed=5)
    pairs: dict[str, Pair] = {}
    votes: list[Judgement] = []
    for file in sorted((folder / "files").glob("part-*.jsonl")):
        part = find(str(file))[0]
        for read in outcomes(part.rows(), decide(part.rows, part.path)):
            for made in read.made:
                if isinstance(made, Preferred):
                    pairs[made.pair.id] = made.pair
                    votes.append(Judgement(
                        pair_id=made.pair.id, better=made.better, by=f"wild:{file.stem}", kind="wild",
                        problem="" if made.better else "tie", confidence=made.confidence, strength=made.strength,
                    ))  # fmt: skip
    create(str(folder / "pool"), pairs.values(), votes, parts=3)
    return folder


def test_sql_comes_to_the_same_labels(folder: Path) -> None:
    scale_stages.judge(folder)
    for stage in ("settle", "stage2", "duckdb-settle", "duckdb-stage2", "compare"):
        scale_stages.STAGES[stage](folder)
    settled = pl.read_parquet(folder / "settled" / "*.parquet")
    decided = pl.read_parquet(folder / "decided" / "*.parquet")
    assert len(settled) == len(decided) == 1500
    assert set(settled["tier"]) == {"gold", "silver", "wild"}
    assert set(settled["fate"]) == {"kept", "relabelled", "dropped"}
    assert set(decided["fate"]) == {"kept", "flipped", "dropped"}


def test_another_label_is_told(folder: Path) -> None:
    scale_stages.judge(folder)
    for stage in ("settle", "stage2", "duckdb-settle", "duckdb-stage2"):
        scale_stages.STAGES[stage](folder)
    file = next((folder / "decided").glob("*.parquet"))
    pl.read_parquet(file).with_columns(margin=pl.col("margin") + 1e-6).write_parquet(file)
    with pytest.raises(SystemExit, match="decided, margin: ours"):
        scale_stages.STAGES["compare"](folder)


def test_a_wrong_count_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="pairs: found 2, but the generator made 3"):
        scale_stages.agree("pairs", 2, 3)
