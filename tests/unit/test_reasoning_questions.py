"""The questions of the reasoning benchmarks, from files as they are published."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

import reasoning_sets
from assay.bench.reasoning import evalscope
from assay.bench.reasoning.tasks import TASKS
from assay.errors import AssayError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reasoning_sets.write(tmp_path_factory.mktemp("sets"))


@pytest.mark.parametrize("name", TASKS)
def test_questions_are_read_in_the_published_schemas(name: str, data: Path) -> None:
    found = TASKS[name].questions(data)
    assert len(found) == reasoning_sets.COUNTS[name]
    assert len({(q.part, q.id) for q in found}) == len(found)
    assert all(q.expected or TASKS[name].programs for q in found)


def known(value: Any) -> Any:
    """Without the fields that Parquet makes empty, for other rows have them."""
    if isinstance(value, list):
        return [known(v) for v in value]
    return {k: known(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", TASKS)
def test_the_library_is_given_whole_questions(name: str, data: Path, tmp_path: Path) -> None:
    """With all pictures of each, where the first question of a file has fewer than others; in the order in which they are
    asked. A list of questions holds none of them."""
    task = TASKS[name]
    found = task.questions(data)
    for part in dict.fromkeys(q.part for q in found):
        asked = [q for q in found if q.part == part]
        evalscope.write(task, asked, data, tmp_path / "test.parquet")
        whole = {q.id: q.record for _, q in task.each(data) if q.part == part}
        given = parquet.read_table(tmp_path / "test.parquet").to_pylist()
        assert [known(row) for row in given] == [known(whole[q.id]) for q in asked]
        shown = [v["bytes"] for row in given for v in row.values() if isinstance(v, dict) and "bytes" in v]
        assert len(shown) >= len(asked) * task.pictures
        assert all(picture.startswith(b"\x89PNG") for picture in shown)
    assert not any(isinstance(v, dict) and v.get("bytes") for q in found for v in q.record.values())
    if name == "mmmu":
        assert sum(v is not None for k, v in given[1].items() if k.startswith("image_")) == 2


def test_forms_of_the_same_answer_are_one(data: Path) -> None:
    assert [q.expected for q in TASKS["aime24"].questions(data)] == ["42", "2", "100"], "042 is 42"


def test_the_form_with_four_options_is_no_part_of_mmmu_pro(data: Path) -> None:
    found = TASKS["mmmu-pro"].questions(data)
    assert {q.part for q in found} == {"standard (10 options)", "vision"}
    assert not any("mmmu-pro" in str(f) for f in TASKS["mmmu"].paths(data))


def test_a_window_chooses_by_date(data: Path) -> None:
    task = TASKS["livecodebench"]
    assert [q.id for q in task.questions(data, "2025-02:")] == ["p2"]
    assert [q.id for q in task.questions(data, ":2025-01")] == ["p1"]
    assert [q.id for q in task.questions(data, "2025-01-04:2025-03")] == ["p1", "p2"]
    with pytest.raises(AssayError, match="no question within 2026"):
        task.questions(data, "2026:")


def test_programs_tests_stay_out_of_the_librarys_hands(data: Path) -> None:
    for question in TASKS["livecodebench"].questions(data):
        assert question.record["public_test_cases"] == question.record["private_test_cases"] == "[]"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": 1, "problem": "x", "answer": "4.5"}, r"row 1, field 'answer': expected a whole number, found '4.5'"),
        ({"id": 1, "answer": "4"}, r"row 1, field 'question': it is missing"),
    ],
)
def test_a_broken_row_is_named(line: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "aime24.jsonl").write_text(json.dumps(line))
    with pytest.raises(AssayError, match=message):
        TASKS["aime24"].questions(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        {"id": 60, "problem": "x", "solution": "$\\boxed{042}$", "url": ""},  # math-ai/aime24
        {"id": 60, "problem": "x", "solution": "$\\boxed{ 42 }$", "url": ""},
        {"ID": "2024-I-1", "Problem": "x", "Solution": "so 41 + 1", "Answer": 42},  # Maxwell-Jia/AIME_2024
        {"problem_idx": 1, "problem": "x", "answer": 42},  # MathArena/aime_2024_I
        {
            "id": 60,
            "problem": "x",
            "solution": "so \\boxed{41}",
            "answer": "042",
            "year": "2024",
        },  # HuggingFaceH4/aime_2024
    ],
)
def test_aime24_is_read_as_its_copies_on_the_hub_have_it(line: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "aime_2024_problems.jsonl").write_text(json.dumps(line))
    assert [(q.text, q.expected) for q in TASKS["aime24"].questions(tmp_path)] == [("x", "42")]


def test_snapshots_of_the_hub_are_read_as_they_are(data: Path, tmp_path: Path) -> None:
    """MathVista's holds its annotations once more, in another form; OlympiadBench's 18 subsets, one of which is meant.
    Folders may be links, also to where they lie."""
    (tmp_path / "sets").mkdir()
    for name in ("mathvista", "olympiadbench"):
        (tmp_path / "real" / name).mkdir(parents=True)
    shutil.copytree(data / "mathvista", tmp_path / "real" / "mathvista", dirs_exist_ok=True)
    (tmp_path / "real" / "mathvista" / "annot_testmini.json").write_text('{\n"1": {"pid": "1"}\n}')
    lines = (data / "olympiadbench" / "OE_TO_maths_en_COMP.jsonl").read_text()
    for subset in ("OE_TO_maths_en_COMP", "OE_TO_maths_zh_COMP", "OE_MM_physics_en_COMP", "TP_TO_maths_en_COMP"):
        (tmp_path / "real" / "olympiadbench" / subset).mkdir()
        (tmp_path / "real" / "olympiadbench" / subset / f"{subset}.jsonl").write_text(lines)
    (tmp_path / "sets" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "sets")
    for name in ("mathvista", "olympiadbench"):
        assert len(TASKS[name].questions(tmp_path / "sets")) == reasoning_sets.COUNTS[name]


def test_a_judge_sees_what_a_letter_stands_for(data: Path) -> None:
    for name, option in (
        ("mathvision", "B) B"),
        ("mmmu", "A) blue"),
        ("mmmu-pro", "J) way 9"),
        ("mathvista", "B) square"),
    ):
        assert any(option in q.text for q in TASKS[name].questions(data)), name


def test_a_missing_picture_and_two_copies_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mathvision").mkdir()
    lines = (data / "mathvision" / "testmini.jsonl").read_text()
    (tmp_path / "mathvision" / "testmini.jsonl").write_text(lines)
    with pytest.raises(AssayError, match=r"field 'image': no picture .*images/1.png"):
        TASKS["mathvision"].questions(tmp_path)
    for copy in ("a", "b"):
        (tmp_path / f"aime24-{copy}.jsonl").write_text('{"id": 1, "problem": "x", "answer": "4"}')
    with pytest.raises(AssayError, match=r"question 1 occurs twice, in .*aime24-a.jsonl and .*aime24-b.jsonl"):
        TASKS["aime24"].questions(tmp_path)


def test_the_copy_of_aime24_with_wrong_answers_is_told(tmp_path: Path) -> None:
    from assay.bench.reasoning.tasks import AIME24_KEY

    for off, told in ((0, []), (1, ["this copy has answers that are not the published ones: 24"])):
        answers = [AIME24_KEY[0] + off, *AIME24_KEY[1:]]
        lines = [json.dumps({"id": i, "problem": str(i), "answer": a}) for i, a in enumerate(answers)]
        (tmp_path / "aime24.jsonl").write_text("\n".join(lines))
        assert TASKS["aime24"].flaws(TASKS["aime24"].questions(tmp_path)) == told


@pytest.mark.parametrize("form", ["zst", "disk", "noise"])
def test_files_as_people_have_them(form: str, tmp_path: Path) -> None:
    """zstd, what `datasets` saves to disk, and what lies beside data and is none; whole numbers that pandas made floats."""
    rows = [{"id": n, "problem": f"What is {n}?", "answer": float(n)} for n in range(3)]
    lines = "\r\n".join(map(json.dumps, rows)).encode()
    place = tmp_path / "Dä ta" / "aime24"
    place.mkdir(parents=True)
    if form == "zst":
        with pa.CompressedOutputStream(str(place / "test.jsonl.zst"), "zstd") as out:
            out.write(lines)
    elif form == "disk":
        table = pa.Table.from_pylist(rows)
        with (
            pa.OSFile(str(place / "data-00000-of-00001.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(table)
        (place / "state.json").write_text('{\n "_data_files": []\n}')
    else:
        (place / ".ipynb_checkpoints").mkdir()
        for name in ("Test.JSONL", "._Test.JSONL", ".ipynb_checkpoints/Test.jsonl"):
            (place / name).write_bytes(lines if name[0] != "." else b"\0")
        (place / "dataset_infos.json").write_text("{\n}")
    assert [q.expected for q in TASKS["aime24"].questions(tmp_path / "Dä ta")] == ["0", "1", "2"]


def test_two_copies_under_other_names_are_told(tmp_path: Path) -> None:
    """One copy of the hub names its problems, another does not: together they would be 60 questions, each asked twice."""
    (tmp_path / "aime24").mkdir()
    (tmp_path / "aime24" / "a.jsonl").write_text('{"id": 1, "problem": "What is 1?", "answer": "1"}')
    (tmp_path / "aime24" / "b.jsonl").write_text('{"problem": "What is  1?", "answer": "1"}')
    with pytest.raises(AssayError, match=r"b\.jsonl stands in .*a\.jsonl too"):
        TASKS["aime24"].questions(tmp_path)


def test_a_kind_of_file_that_is_not_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "aime24.csv").write_text("problem,answer\n")
    with pytest.raises(AssayError, match=r"aime24\.csv is of a kind that is not read \(\.json, "):
        TASKS["aime24"].questions(tmp_path)
