"""Importing: what lands in the tables, adding twice, resuming after a kill, folders, reports."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pools
from assay.curate import pool
from assay.errors import AssayError
from assay.formats import reading
from assay.records import Judgement, Origin, Pair, Rejection, Response
from assay.tables import Table
from assay.tuning import questions

RECORDS = {"pairs": Pair, "origins": Origin, "votes": Judgement, "rejections": Rejection}


def rows(n: int, start: int = 0) -> list[dict[str, str]]:
    return [{"prompt": f"p{i}", "chosen": f"yes{i}", "rejected": f"no{i}"} for i in range(start, start + n)]


def write(path: Path, table: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in table))
    return path


def tables(out: Path) -> dict[str, list[object]]:
    return {name: Table(out / name, record).read() for name, record in RECORDS.items()}


def quiet(_: str) -> None:
    return None


def test_a_pair_its_origin_and_the_sources_judgement(tmp_path: Path) -> None:
    source = write(tmp_path / "set.jsonl", [*rows(1), {"prompt": "p", "chosen": "x"}])
    said: list[str] = []
    report = pool.add([str(source)], tmp_path / "pool", say=said.append)
    found = tables(tmp_path / "pool")
    (pair,), (origin,), (wild,), (rejection,) = found.values()
    assert isinstance(pair, Pair)
    assert isinstance(wild, Judgement)
    assert origin == Origin(pair_id=pair.id, source="set", file="set.jsonl", row=1, layout="chosen-rejected")
    assert (wild.pair_id, wild.better, wild.by, wild.kind) == (pair.id, Response.of("yes0").id, "wild:set", "wild")
    assert isinstance(rejection, Rejection)
    assert (rejection.row, rejection.field, rejection.reason) == (2, "rejected", "is missing")
    assert "layout chosen-rejected, detected" in said[0]
    assert "2 rows -> 1 pairs (0 ties), 1 rejected" in str(report)
    assert report.files[0].rejected == {"rejected is missing": 1}


def test_ties_and_votes_are_told_as_they_are(tmp_path: Path) -> None:
    two = {"prompt": "p", "response_a": "a", "response_b": "b"}
    source = write(tmp_path / "v.jsonl", [two | {"votes": ["a", "a", "b"]}, two | {"votes": ["a", "b"]}])  # type: ignore[dict-item]
    report = pool.add([str(source)], tmp_path / "pool", name="crowd", say=quiet)
    first, second = sorted(Table(tmp_path / "pool/votes", Judgement).read(), key=lambda j: -j.votes)
    assert (first.by, first.votes, round(first.confidence, 3)) == ("wild:crowd", 3, 0.667)
    assert (second.better, second.problem, second.votes) == (None, "tie", 2)
    assert (report.files[0].pairs, report.files[0].ties) == (2, 1)


def test_adding_the_same_content_again_is_said_and_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "pool"
    first = write(tmp_path / "a.jsonl", rows(3))
    pool.add([str(first)], out, say=quiet)
    before = tables(out)
    copy = write(tmp_path / "b.jsonl", rows(3))
    report = pool.add([str(first), str(copy)], out, say=quiet)
    assert [f.already for f in report.files] == [True, True]
    assert "already in the pool (3 pairs); nothing done" in str(report)
    assert tables(out) == before
    pool.add([str(write(tmp_path / "c.jsonl", rows(2, start=3)))], out, say=quiet)
    assert len(tables(out)["pairs"]) == 5


def test_number_labels_are_read_over_the_whole_file(tmp_path: Path) -> None:
    two = {"prompt": "p", "response1": "a", "response2": "b"}
    early = [two | {"prompt": f"p{i}", "label": 1} for i in range(reading.SAMPLE + 1)]
    told = write(tmp_path / "told.jsonl", [*early, two | {"label": 2}])  # type: ignore[arg-type]
    read = pool.add([str(told)], tmp_path / "told", say=quiet)
    assert (read.pairs, read.files[0].layout) == (reading.SAMPLE + 2, "labelled:1/2")
    late = write(tmp_path / "late.jsonl", [*early, two | {"label": 0}])  # type: ignore[arg-type]
    with pytest.raises(AssayError, match=r"labelled:0/1 .*labelled:1/0 .*labelled:1/2 "):
        pool.add([str(late)], tmp_path / "late", say=quiet)


def test_a_question_is_asked_before_anything_is_written_and_shows_a_row_read_each_way(tmp_path: Path) -> None:
    two = {"prompt": "p", "response_a": "yes", "response_b": "no", "label": 1}
    good, asked = write(tmp_path / "good.jsonl", rows(2)), write(tmp_path / "asked.jsonl", [two])  # type: ignore[list-item]
    with pytest.raises(AssayError) as error:
        pool.add([str(good), str(asked)], tmp_path / "pool", say=quiet)
    assert not (tmp_path / "pool").exists()
    said = str(error.value)
    assert "asked.jsonl" in said
    assert "--layout labelled:0/1 (0 is for 'response_a', 1 for 'response_b'; row 1 then prefers 'no' to 'yes')" in said
    assert "--layout labelled:1/0 (1 is for 'response_a', 0 for 'response_b'; row 1 then prefers 'yes' to 'no')" in said
    assert pool.add([str(asked)], tmp_path / "pool", layout="labelled:1/2", say=quiet).pairs == 1


def test_rated_rows_of_a_prompt_are_paired_and_lone_ones_counted(tmp_path: Path) -> None:
    rated = [("p", "a", 3), ("p", "b", 1), ("q", "c", 2), ("r", "d", "high"), ("s", "e", 1), ("s", "f", 1)]
    source = write(tmp_path / "h.jsonl", [{"prompt": p, "response": r, "helpfulness": h} for p, r, h in rated])  # type: ignore[misc]
    report = pool.add([str(source)], tmp_path / "pool", say=quiet)
    (file,) = report.files
    assert (file.layout, file.rows, file.pairs, file.ties, report.rejected) == ("rated", 6, 2, 1, 2)


def test_folders_of_many_kinds(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    write(folder / "one.jsonl", rows(2))
    pq.write_table(pa.Table.from_pylist(rows(3, start=2)), folder / "two.parquet")
    write(folder / "deep" / "three.jsonl", rows(1, start=5))
    write(folder / ".hidden" / "four.jsonl", rows(1, start=6))
    (folder / "readme.md").write_text("x")
    report = pool.add([str(folder)], tmp_path / "pool", say=quiet)
    assert [f.file for f in report.files] == ["deep/three.jsonl", "one.jsonl", "two.parquet"]
    assert report.pairs == 6
    assert {f.source for f in report.files} == {"sets"}


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    for name, table in (("data-00000-of-00001.arrow", rows(4)), ("cache-1.arrow", rows(9, start=50))):
        made = pa.Table.from_pylist(table)
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, made.schema) as writer:
            writer.write_table(made)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    assert pool.add([str(folder)], tmp_path / "pool", say=quiet).pairs == 4
    (folder / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(AssayError, match="which is not there"):
        pool.add([str(folder)], tmp_path / "pool", say=quiet)


def test_a_hub_id_without_the_extra_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(AssayError, match=r"pip install 'assay-rm\[hub\]'"):
        pool.add(["owner/name"], tmp_path / "pool", say=quiet)


def test_the_splits_of_a_hub_id_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config: str | None, streaming: bool) -> dict[str, list[dict[str, str]]]:
        if name != "owner/name":
            raise FileNotFoundError(f"{name} does not exist")
        assert streaming
        return {"train": rows(2), "test": rows(1, start=2)}

    fake = ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    report = pool.add(["owner/name"], tmp_path / "pool", say=quiet)
    assert [(f.source, f.file, f.pairs) for f in report.files] == [
        ("owner/name", "train", 2),
        ("owner/name", "test", 1),
    ]
    alone = pool.add(["owner/name@test"], tmp_path / "one", say=quiet)
    assert [(f.file, f.pairs) for f in alone.files] == [("test", 1)]
    with pytest.raises(AssayError, match="owner/name: has no split 'dev', but train, test"):
        pool.add(["owner/name:main@dev"], tmp_path / "one", say=quiet)
    with pytest.raises(AssayError, match="has the splits test, train; which is meant\\? Name one: owner/name@train"):
        questions.read(Path("owner/name"))
    with pytest.raises(AssayError, match="cannot be opened on the Hugging Face hub"):
        pool.add(["owner/other"], tmp_path / "pool", say=quiet)


def test_the_field_of_a_bad_text_is_named(tmp_path: Path) -> None:
    chosen = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x\0"}]
    source = write(
        tmp_path / "a.jsonl", [{"chosen": chosen, "rejected": [chosen[0], {"role": "assistant", "content": "y"}]}]
    )  # type: ignore[dict-item]
    pool.add([str(source)], tmp_path / "pool", say=quiet)
    (rejection,) = pools.rejections(tmp_path / "pool")
    assert (rejection.field, rejection.reason) == ("chosen[1].content", "contains a null byte")
