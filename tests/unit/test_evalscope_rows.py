"""evalscope's own rows, recorded on our own questions (1.14.1; two answers each, every third wrong), read back."""

import json
import shutil
from pathlib import Path

import pytest

import reasoning_sets
from assay.bench.reasoning.evalscope import read_back
from assay.bench.reasoning.rows import Answered
from assay.bench.reasoning.tasks import TASKS, Question
from assay.errors import AssayError

ROWS = Path(__file__).parent / "evalscope_rows"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reasoning_sets.write(tmp_path_factory.mktemp("sets"))


def parts(name: str, data: Path) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in TASKS[name].questions(data):
        found.setdefault(question.part, []).append(question)
    return found


def read(name: str, data: Path, folder: Path) -> list[Answered]:
    return [
        row for part, asked in parts(name, data).items()
        for row in read_back(TASKS[name], asked, folder / (part or "all").replace(" ", "-"), 2)
    ]  # fmt: skip


@pytest.mark.parametrize("name", [p.name for p in sorted(ROWS.iterdir())])
def test_every_row_comes_to_its_question(name: str, data: Path) -> None:
    """What was answered tells what was right: the right answer of another question would be wrong here."""
    rows = read(name, data, ROWS / name)
    assert len(rows) == 2 * reasoning_sets.COUNTS[name]
    assert [r.score for r in rows] == [0.0 if r.answer == reasoning_sets.WRONG else 1.0 for r in rows]
    assert {r.score for r in rows} == {0.0, 1.0}
    assert all(r.reply.startswith("assay-") and r.finished and not r.fault for r in rows)
    for row in rows:
        if row.text and row.score == 1.0 and row.subset != "vision":  # there the question is in the picture
            assert row.answer == reasoning_sets.reply(row.text)
        assert (row.extracted == row.expected) == (row.score == 1.0) or name in ("ifeval", "olympiadbench")


def test_ifevals_four_rates_and_their_weights(data: Path) -> None:
    rows = read("ifeval", data, ROWS / "ifeval")
    assert all(len(r.parts) == 4 and r.parts["prompt_level_strict"] == r.score for r in rows)
    assert {r.question: r.weights["inst_level_strict"] for r in rows} == {"1": 1, "2": 1, "3": 1, "4": 2}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROWS / "aime24", tmp_path / "aime24")
    return tmp_path / "aime24"


def change(file: Path, **into: object) -> None:
    """Change the first row of a file: a field by its dotted name; without any the row goes."""
    lines = file.read_text().splitlines()
    row = json.loads(lines[0])
    for name, value in into.items():
        place = row
        *way, last = name.split("__")
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        place[last] = value
    file.write_text("\n".join([*([json.dumps(row)] if into else []), *lines[1:]]))


@pytest.mark.parametrize(
    ("kind", "into", "fault"),
    [
        ("predictions", {}, "evalscope has no prediction of it"),
        ("reviews", {}, "evalscope has no review of it"),
        ("reviews", {"sample_score__score__status": "excluded", "sample_score__score__value": {},
                     "sample_score__score__metadata": {"acc": "error: Invalid mathematical reference"}},
         "evalscope excludes it: error: Invalid mathematical reference"),
        ("predictions", {"model_output__error": "400: too long"}, "evalscope could not ask: 400: too long"),
    ],
)  # fmt: skip
def test_what_evalscope_drops_comes_back_with_a_fault(
    kind: str, into: dict[str, object], fault: str, data: Path, copy: Path
) -> None:
    (file,) = (copy / "all" / "out" / kind).rglob("*.jsonl")
    change(file, **into)
    rows = read("aime24", data, copy)
    assert len(rows) == 6, "a row for each answer that was asked for"
    assert [r.fault for r in rows if r.score is None] == [fault]


def test_a_cut_answer_is_told(data: Path, copy: Path) -> None:
    (file,) = (copy / "all" / "out" / "predictions").rglob("*.jsonl")
    change(file, model_output__choices__0__stop_reason="max_tokens")
    assert sum(not r.finished for r in read("aime24", data, copy)) == 1


def test_another_form_of_rows_is_an_error(data: Path, copy: Path) -> None:
    (file,) = (copy / "all" / "out" / "reviews").rglob("*.jsonl")
    file.write_text('{"number": 1}\n')
    with pytest.raises(AssayError, match=r"aime24_default.jsonl, line 1: not a row of evalscope 1.14.1"):
        read("aime24", data, copy)


def test_a_line_separator_within_an_answer_ends_no_row(data: Path, copy: Path) -> None:
    """JSON may hold U+2028 and U+0085 as they are, which Python takes for ends of lines."""
    (file,) = (copy / "all" / "out" / "predictions").rglob("*.jsonl")
    change(file, model_output__choices__0__message__content="one\u2028two\x85three")
    file.write_text(
        "\n".join(json.dumps(json.loads(line), ensure_ascii=False) for line in file.read_text().splitlines())
    )
    assert "one\u2028two\x85three" in [r.answer for r in read("aime24", data, copy)]
