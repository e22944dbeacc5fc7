"""Labels written for other tools and read again: the same pairs, the same choice, and why."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.curate import pool
from assay.curate.shards import Pool
from assay.errors import AssayError
from assay.pipeline.exchange import FORMS, exported
from assay.pipeline.finished import labels_of
from assay.store import Place
from in_process import assay_here

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
         {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Name a fruit."}]  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {"prompt": "Name a fruit.", "chosen": "An apple.", "rejected": "A chair."},
    {"prompt": TURNS, "chosen": [{"role": "assistant", "content": "A pear."}],
     "rejected": [{"role": "assistant", "content": "A table."}]},
    {"prompt": "Name a tool.", "chosen": "A saw, *sharp*.", "rejected": "<image> é\n"},
]  # fmt: skip


def quiet(_: str) -> None:
    """Say nothing."""


def imported(source: Path, out: Path) -> Pool:
    report = pool.add([str(source)], out, say=quiet)
    assert report.rejected == 0, str(report)
    return Pool.open(Place.of(out))


def choices(folder: Path, beside: Path) -> dict[str, tuple[str, str]]:
    found = labels_of(folder, "raw", Place.of(beside)).preferences()
    return {p.pair_id: (p.chosen.id, p.rejected.id) for p in found}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (folder / "prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    imported(folder / "prefs.jsonl", folder / "pool")
    return folder / "pool"


@pytest.mark.parametrize("tool", ["parquet", *FORMS])
def test_what_is_exported_is_imported_again(source: Path, tmp_path: Path, tool: Any) -> None:
    told = list[str]()
    count = exported(source, tmp_path / "out", "raw", tool, say=told.append)
    before = choices(source, tmp_path / "before")
    fewer = tool == "jsonl"  # its rows have no room for a conversation
    assert count == (2 if fewer else 3) == len(before) - fewer
    assert told == (
        ["1 pairs left out: it is not one question and one answer; --to trl has whole conversations"] * fewer
    )
    files = {"llamafactory": tmp_path / "out" / "pairs.jsonl"}
    imported(files.get(tool, tmp_path / "out"), tmp_path / "again")
    after = choices(tmp_path / "again", tmp_path / "after")
    assert after.items() <= before.items()
    assert len(after) == count
    assert {p.name for p in tmp_path.iterdir()} == {"out", "again", "before", "after"}, "nothing half-made is left"


def test_a_label_says_where_it_is_from(source: Path, tmp_path: Path) -> None:
    assert assay_here("reward", "export", source, "--to", "trl", "--out", tmp_path / "out").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert {r["tier"] for r in rows} == {"wild"}
    assert all(r["votes"] == {"wild": [1.0, 0.0]} and r["fate"] == "kept" and r["reason"] for r in rows)
    assert "margin" not in rows[0], "TRL and OpenRLHF would subtract it in the loss"
    (talk,) = (r for r in rows if len(r["prompt"]) == 4)
    assert talk["prompt"] == TURNS


def test_a_tool_is_told_the_columns(source: Path, tmp_path: Path) -> None:
    exported(source, tmp_path / "out", "raw", "llamafactory")
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["assay"]
    rows = [json.loads(line) for line in (tmp_path / "out" / info["file_name"]).read_text().splitlines()]
    assert info["ranking"]
    assert all({info["columns"][c] for c in ("messages", "chosen", "rejected")} <= r.keys() for r in rows)
    assert [r["system"] for r in rows if "system" in r] == ["Be brief."]


def test_votes_are_counted_for_both(tmp_path: Path) -> None:
    votes = [{**ROWS[0], "id": i} for i in range(2)] + [{**ROWS[0], "chosen": "A chair.", "rejected": "An apple."}]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in votes))
    imported(tmp_path / "votes.jsonl", tmp_path / "pool")
    exported(tmp_path / "pool", tmp_path / "out", "raw", "jsonl")
    (row,) = (json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines())
    assert row["votes"] == {"wild": [2.0, 1.0]}
    assert row["certainty"] == pytest.approx(2 / 3)


def test_what_is_there_is_not_written_over(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(AssayError, match="not empty"):
        exported(source, tmp_path / "out", "raw", "trl")
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "mine.txt").write_text("mine")
    with pytest.raises(AssayError, match="no unfinished export"):
        exported(source, tmp_path / "new", "raw", "trl")


def test_trl_and_datasets_read_it(source: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="not installed: pip install 'assay-rm[hub]'")
    exported(source, tmp_path / "out", "raw", "trl")
    read = datasets.load_dataset(
        "json", data_files=str(tmp_path / "out" / "pairs.jsonl"), cache_dir=str(tmp_path / "c")
    )
    assert {"prompt", "chosen", "rejected"} <= set(read["train"].column_names)
    assert pl.DataFrame(read["train"].to_list()).height == 3
