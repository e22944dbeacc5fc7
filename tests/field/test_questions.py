"""Policy questions and benchmarks of one's own, as people keep them: what is read, what is asked about, what is refused."""

import base64
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest

from assay.bench.policy.answers import correct, same
from assay.cli import main
from assay.curate.pool import add
from assay.errors import AssayError
from assay.images import ImageStore
from assay.store import Place
from assay.tuning.questions import as_row, read, reason_of

SHARED = Path(os.environ.get("ASSAY_SHARED_FIELD", Path(__file__).resolve().parents[3] / "shared/field"))


def lines(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return path


def png(colour: str = "red") -> bytes:
    image = pytest.importorskip("PIL.Image").new("RGB", (8, 8), colour)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


READ: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "gsm8k": ({"question": "Two and three?", "answer": "2+3=<<2+3=5>>5\n#### 5"}, "Two and three?", "5", "number"),
    "gsm8k, the last mark": ({"question": "q", "answer": "#### 4\nno\n#### 1,200"}, "q", "1,200", "number"),
    "math": ({"problem": "Half?", "solution": "So it is $\\boxed{\\frac12}$."}, "Half?", "\\frac12", "math"),
    "math with both": ({"problem": "q", "solution": "so $\\boxed{3}$, as we see", "answer": "3"}, "q", "3", "math"),
    "aime": ({"id": 60, "problem": "q", "question": "q", "answer": "025", "url": "u"}, "q", "025", "math"),
    "amc": ({"problem": "q", "answer": 27.0}, "q", "27", "number"),
    "olympiad": ({"question": "q", "solution": ["long", "other"], "final_answer": ["$2^{9}$"]}, "q", "$2^{9}$", "math"),
    "verl": (
        {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": "q"}], "ability": "math",
         "reward_model": {"style": "rule", "ground_truth": "8"}, "extra_info": {"answer": "4+4=8\n#### 8", "index": 1}},
        "q", "8", "math",
    ),
    "trl": ({"prompt": [{"role": "user", "content": "q"}], "solution": "$5$"}, "q", "$5$", "number"),
    "trl, boxed": ({"prompt": "q", "solution": "thus $\\boxed{7}$"}, "q", "7", "math"),
    "openrlhf": ({"input": "q", "label": "12"}, "q", "12", "number"),
    "openrlhf, messages": (
        {"context_messages": [{"role": "user", "content": "q"}], "answer": "A word"}, "q", "A word", "text",
    ),
    "alpaca": ({"instruction": "Add.", "input": "2 and 2", "output": "4"}, "Add.\n\n2 and 2", "4", "number"),
    "sharegpt": ({"conversations": [{"from": "human", "value": "q"}], "answer": "5"}, "q", "5", "number"),
    "options": (
        {"question": "Which?", "options": ["red", "blue"], "answer": "B"}, "Which?\n(A) red\n(B) blue", "B", "choice",
    ),
    "options as letters": ({"question": "Which?", "options": ["A", "B"], "answer": "B"}, "Which?", "B", "choice"),
    "arc": (
        {"question": "Which?", "choices": {"text": ["x1", "y2"], "label": ["A", "B"]}, "answerKey": "A"},
        "Which?\n(A) x1\n(B) y2", "A", "choice",
    ),
    "options named": ({"question": "Which?", "choices": ["yes", "no"], "answer": "no"}, "Which?\n- yes\n- no", "no", "text"),
    "a table": ({"question": "How many?", "table": "a | 3", "answer": "3"}, "a | 3\n\nHow many?", "3", "number"),
    "several values": ({"question": "q", "answer": "1, 2"}, "q", "1, 2", "math"),
    "tuples": ({"question": "q", "answer": "(1,7,103), (3, 5, 101)"}, "q", "(1,7,103), (3, 5, 101)", "math"),
    "thousands": ({"question": "q", "answer": "1,234"}, "q", "1,234", "number"),
    "a time": ({"question": "q", "answer": "12:30"}, "q", "12:30", "text"),
    "no answer": ({"question": "q"}, "q", "", "text"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_questions_are_read_as_people_keep_them(tmp_path: Path, name: str, kind: str) -> None:
    row, question, answer, how = READ[name]
    if kind == "parquet":
        path = tmp_path / "rows.parquet"
        pl.DataFrame([row, row]).write_parquet(path)
    else:
        path = tmp_path / f"rows.{kind}"
        path.write_text(json.dumps([row, row]) if kind == "json" else f"{json.dumps(row)}\n{json.dumps(row)}\n")
    prompts, left = read(path)
    assert not left
    assert [(p.messages[-1].content, p.answer, p.kind) for p in prompts] == [(question, answer, how)] * 2
    assert not answer or same(answer, answer, prompts[0].kind)


def test_questions_of_a_table_and_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text('question,answer\n"2, 3?",5\n')
    lines(tmp_path / "in", [{"question": "b", "answer": "x"}], "b.jsonl")
    prompts, _ = read(tmp_path / "in")
    assert [(p.messages[0].content, p.answer, p.kind) for p in prompts] == [
        ("2, 3?", "5", "number"),
        ("b", "x", "text"),
    ]


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "null prompt": ({"prompt": None, "answer": "x"}, "prompt", "is missing (null)"),
    "empty prompt": ({"prompt": [], "answer": "x"}, "prompt", "ends with the user"),
    "ends with the assistant": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        "messages", "ends with the user",
    ),
    "a gold that is no number": ({"question": "q", "answer": "many", "kind": "number"}, "answer", "nothing could be right"),
    "two numbers": ({"question": "q", "answer": "3 or 5", "kind": "number"}, "answer", "nothing could be right"),
    "two letters": ({"question": "q", "answer": "A or C", "kind": "choice"}, "answer", "nothing could be right"),
    "a solution that marks no answer": (
        {"question": "q", "kind": "math",
         "answer": "First we add two and three. Then we add four and get nine and that is all there is to say."},
        "answer", "write the answer alone, or after ####",
    ),
    "lines without a final answer": ({"question": "q", "answer": "we add\nand are done"}, "answer", "marks no final answer"),
    "a decimal comma or two": ({"question": "q", "answer": "1,5"}, "answer", "say kind number or math"),
    "several answers": ({"question": "q", "answer": ["5", "6"]}, "answer", "a list of several answers"),
    "tests as an answer": (
        {"prompt": "q", "reward_model": {"ground_truth": {"in": "1"}}}, "reward_model.ground_truth", "neither a text",
    ),
    "a number that may be an option": (
        {"question": "q", "options": ["1", "2", "3"], "answer": 2}, "answer", "write the letter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("names", [
    ("train.jsonl", "test.jsonl"), ("train/data-00000-of-00001.jsonl", "test/data-00000-of-00001.jsonl"),
    ("data/test-00000-of-00001.jsonl", "data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"),
])  # fmt: skip
def test_train_and_test_are_not_one_set_of_questions(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Of a folder as data sets are saved or downloaded, both would be trained on; a pool says that it has both."""
    for n, name in enumerate(names):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) + "\n")
    with pytest.raises(AssayError, match=r"set: has the splits test, train; which is meant\? Name one: .*set/.*t"):
        read(tmp_path / "set")
    assert len(read(tmp_path / "set" / names[0])[0]) == 1
    (tmp_path / "set" / names[0]).unlink()
    assert len(read(tmp_path / "set")[0]) == len(names) - 1
    pairs, said = tmp_path / "pairs", list[str]()
    for n, split in enumerate(("train", "test")):
        (pairs / split).mkdir(parents=True)
        row = {"prompt": f"say {n}", "chosen": f"{n}", "rejected": "no"}
        (pairs / split / "rows.jsonl").write_text(json.dumps(row) + "\n")
    add([str(pairs)], tmp_path / "pool", say=said.append)
    assert "splits test, train are all read, as one pool; to read one, name its files, or owner/name@SPLIT" in said


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_could_never_be_right_is_left_out_with_what_to_do(tmp_path: Path, name: str) -> None:
    row, field, said = REFUSED[name]
    prompts, left = read(lines(tmp_path, [{"question": "fine", "answer": "1"}, row]))
    assert [p.messages[0].content for p in prompts] == ["fine"]
    assert [(r.row, r.field) for r in left] == [(2, field)]
    assert said in left[0].reason


def test_two_fields_that_could_both_be_the_answer_are_asked_about(tmp_path: Path) -> None:
    path = lines(tmp_path, [{"question": "q", "answer": "5", "solution": "6"}])
    with pytest.raises(
        AssayError, match=r"row 1: fields 'answer' \('5'\) and 'solution' \('6'\) could both be the answer"
    ):
        read(path)
    assert read(path, answer_field="solution")[0][0].answer == "6"
    assert read(lines(tmp_path, [{"question": "q", "answer": "0.5", "solution": "1/2"}]))[0][0].answer == "0.5"
    with pytest.raises(AssayError, match="no row has the answer field 'gold'"):
        read(path, answer_field="gold")
    with pytest.raises(AssayError, match="'question' and 'prompt' could both be the question"):
        read(lines(tmp_path, [{"question": "q", "prompt": "p", "answer": "5"}]))


def test_a_question_with_several_right_options(tmp_path: Path) -> None:
    rows = [{"question": "q", "choices": ["w", "x", "y"], "answer": told} for told in ("AC", "A, C", "C and A")]
    prompts, left = read(lines(tmp_path, rows))
    assert [(p.kind, correct("So the correct options are A and C.", p.answer, p.kind)) for p in prompts] == [
        ("choice", True)
    ] * 3
    assert not any(correct(x, p.answer, p.kind) for p in prompts for x in ("A", "A, B, C", "A or C"))
    assert not left


def test_answers_that_number_the_options(tmp_path: Path) -> None:
    """From 0 where 0 is among them, from 1 where the last is, and asked about where neither tells."""
    rows = [{"question": f"q{a}", "choices": ["w", "x", "y", "z"], "answer": a} for a in (0, 1, 3)]
    assert [p.answer for p in read(lines(tmp_path, rows))[0]] == ["A", "B", "D"]
    rows = [{"question": f"q{a}", "choices": ["w", "x", "y", "z"], "answer": a} for a in (1, 4)]
    assert [p.answer for p in read(lines(tmp_path, rows))[0]] == ["A", "D"]
    with pytest.raises(AssayError, match="numbers the options, from 0 or from 1"):
        read(lines(tmp_path, rows[:1]))


def test_pictures_of_a_column_go_to_the_store(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "store")
    red, blue = png(), png("blue")
    talk = [{"role": "user", "content": "<image>Which is bigger, this or <image>?"}]
    pl.DataFrame([
        {"prompt": talk, "images": [{"bytes": red, "path": None}, {"bytes": blue, "path": None}], "answer": "the first"}
    ]).write_parquet(tmp_path / "geo.parquet")  # fmt: skip
    prompts, left = read(tmp_path / "geo.parquet", store)
    assert not left
    assert prompts[0].messages[0].content == "Which is bigger, this or image 1?"
    assert len(prompts[0].images) == 2
    encoded = "data:image/png;base64," + base64.b64encode(red).decode()
    rows = [
        {"question": "How many?\n<image1>", "image": encoded, "answer": "1"},
        {"question": "q", "image": "https://host/x.png"}, {"question": "see <image> and <image>", "image": encoded},
        {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": encoded}}, {"type": "text", "text": "q"},
        ]}]},
        {"question": "Is <image1> like <image2>?\n<image3>", "image": encoded, "answer": "2"},  # MathVision: all in one
    ]  # fmt: skip
    prompts, left = read(lines(tmp_path, rows), store)
    assert [(p.messages[0].content, len(p.images)) for p in prompts] == [
        ("How many?", 1), ("q", 1), ("Is image 1 like image 2?", 1),
    ]  # fmt: skip
    assert ["is an address" in left[0].reason, "does not fit the marks" in left[1].reason] == [True, True]


def test_pictures_in_columns_of_their_own(tmp_path: Path) -> None:
    """MMMU's: one picture a column, options as Python writes a list, marks that name a picture by its number."""
    store = ImageStore(tmp_path / "store")
    red, blue = ({"bytes": png(c), "path": None} for c in ("red", "blue"))
    pl.DataFrame({
        "question": ["<image 1> Which?", "Compare <image 2> with <image 1>", "Is <image 2> red?", "No picture?"],
        "options": ["['cat', 'it\\'s <image 1>']", "['left', 'right']", "[]", "[]"], "answer": ["B", "A", "yes", "no"],
        "image_1": [red, blue, red, None], "image_2": [None, red, None, None], "image_3": [None] * 4,
    }).write_parquet(tmp_path / "mmmu.parquet")  # fmt: skip
    prompts, left = read(tmp_path / "mmmu.parquet", store)
    assert [(p.messages[0].content, len(p.images), p.kind) for p in prompts] == [
        ("Which?\n(A) cat\n(B) it's image 1", 1, "choice"),
        ("Compare image 2 with image 1\n(A) left\n(B) right", 2, "choice"),
        ("No picture?", 0, "text"),
    ]
    assert [r.reason for r in left] == ["is missing: the text has the mark <image 2>, and the row 1 pictures"]


@pytest.mark.parametrize("name", ["photo", "img", "image_path", "thumbnail", "mask"])
def test_no_picture_is_dropped_in_silence(name: str, tmp_path: Path) -> None:
    store, held = ImageStore(tmp_path / "store"), {"bytes": png(), "path": None}
    value: object = f"{name}.png" if name.endswith("path") else held
    pl.DataFrame({"question": ["Which?"], "answer": ["a"], name: [value]}).write_parquet(tmp_path / "one.parquet")
    with pytest.raises(AssayError, match=f"field '{name}': holds a picture and is no field that is read"):
        read(tmp_path / "one.parquet", store)
    both = {"question": ["Which?"], "answer": ["a"], "image": [held], "image2": [{"bytes": png("blue"), "path": None}]}
    pl.DataFrame(both).write_parquet(tmp_path / "two.parquet")
    assert [len(p.images) for p in read(tmp_path / "two.parquet", store)[0]] == [2]


@pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the field's files are absent ({SHARED}); ASSAY_SHARED_FIELD names their folder"
)
def test_the_fields_own_files() -> None:
    found = {}
    for path in sorted((SHARED / "22-grpo-data").iterdir()):
        try:
            prompts, left = read(path)
            found[path.name] = [p.answer for p in prompts], [reason_of(r) for r in left]
        except AssayError as error:
            found[path.name] = [], [str(error).partition("; ")[2]]
    assert found == {
        "alpaca.jsonl": (["2", "5"], []), "gsm8k-raw.jsonl": (["1,200", "5"], []),
        "null-prompt.jsonl": ([], ["row 1, field 'prompt': is missing (null))"]),
        "own.jsonl": (["5", "1,200", "\\frac{1}{2}", "B"], []), "system.jsonl": (["", ""], []),
        "trl-solution.jsonl": (["$5$"], []), "verl.jsonl": (["5", "8"], []), "verl.parquet": (["5", "8"], []),
    }  # fmt: skip


def assay(*arguments: object, code: int = 0) -> str:
    """What a command prints, in this process; it must end with this code. A traceback of a user's is raised here."""
    said, ended = io.StringIO(), 0
    with patch.object(sys, "argv", ["assay", *map(str, arguments)]), redirect_stdout(said), redirect_stderr(said):
        try:
            main()
        except SystemExit as stop:
            ended = int(stop.code or 0)
    assert ended == code, said.getvalue()
    return said.getvalue()


def longer(conversations: Sequence[Any]) -> list[float]:
    """A reward model that likes length."""
    return [float(len(c[-1].content)) for c in conversations]


def shorter(conversations: Sequence[Any]) -> list[float]:
    return [-x for x in longer(conversations)]


ROWS = [
    {"prompt": "a", "chosen": "long one", "rejected": "no"}, {"prompt": "b", "chosen": "ok", "rejected": "longer"},
    {"prompt": "c", "chosen": "four", "rejected": "five"}, {"prompt": "d", "chosen": "much longer", "rejected": "x"},
    {"prompt": "a", "chosen": "long two", "rejected": "no"},
]  # fmt: skip
LONGER, SHORTER = (f"{__name__}:{name}" for name in ("longer", "shorter"))


def measured(*arguments: object, out: Path) -> dict[str, dict[str, Any]]:
    assay("bench", *arguments, "--out", out)
    return {r["name"]: r for r in json.loads(out.read_text())["results"]}


def test_ones_own_pairs_are_measured_under_their_name_and_compared(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "e", "chosen": "same", "rejected": "same"}]
    path, out = lines(tmp_path, rows, "mine.jsonl"), tmp_path / "a.json"
    found = measured(LONGER, "--data", path, "--html", tmp_path / "a.html", "--markdown", tmp_path / "a.md", out=out)
    result = found["mine"]
    assert list(found) == ["mine"]
    assert (result["n"], result["headline"]["value"]) == (5, 60.0)
    told = " ".join(result["notes"])
    assert "5 pairs over 4 questions" in told
    assert "1 of 5 comparisons are exact ties" in told
    assert "left out: 1 rows: chosen/rejected hold the same response twice" in told
    assert "mine" in (tmp_path / "a.md").read_text()
    measured(SHORTER, "--data", path, out=tmp_path / "b.json")
    assert "+40.00" in assay("bench", "compare", out, tmp_path / "b.json")
    measured(SHORTER, "--data", lines(tmp_path, ROWS, "other.jsonl"), out=tmp_path / "c.json")
    assert "no benchmark with a total in common" in assay("bench", "compare", out, tmp_path / "c.json", code=2)


def test_a_pool_its_export_and_the_file_measure_the_same(tmp_path: Path) -> None:
    file = lines(tmp_path, ROWS, "mine.jsonl")
    assay("pool", "add", file, "--out", tmp_path / "pool")
    assay("reward", "export", tmp_path / "pool", "--out", tmp_path / "preferences")
    found = measured(LONGER, "--data", file, tmp_path / "pool", tmp_path / "preferences", out=tmp_path / "a.json")
    assert {n: r["headline"]["value"] for n, r in found.items()} == {"mine": 60.0, "pool": 60.0, "preferences": 60.0}
    far = f"memory://bench/{tmp_path.name}/far"
    add([str(file)], Place.of(far), say=lambda _: None)
    assert measured(LONGER, "--data", far, out=tmp_path / "far.json")["far"]["headline"]["value"] == 60.0
    only = measured(LONGER, "--data", file, tmp_path / "pool", "--only", "pool", out=tmp_path / "b.json")
    assert list(only) == ["pool"]


def test_votes_ties_and_contradictions_of_ones_own_pairs(tmp_path: Path) -> None:
    """Two votes for the long answer and one row for the short one: the majority. A tie, one vote each: left out."""
    rows = [
        {"prompt": "a", "response_a": "longer", "response_b": "no", "votes_a": 3, "votes_b": 1},
        {"prompt": "a", "response_a": "longer", "response_b": "no", "votes_a": 0, "votes_b": 1},
        {"prompt": "b", "response_a": "longer", "response_b": "no", "votes_a": 1, "votes_b": 1},
        {"prompt": "c", "response_a": "longer", "response_b": "no", "votes_a": 1, "votes_b": 0},
        {"prompt": "c", "response_a": "longer", "response_b": "no", "votes_a": 0, "votes_b": 1},
    ]  # fmt: skip
    result = measured(LONGER, "--data", lines(tmp_path, rows), out=tmp_path / "a.json")["rows"]
    assert (result["n"], result["headline"]["value"]) == (1, 100.0)
    assert "1 pairs whose labels contradict each other" in " ".join(result["notes"])
    assert "1 pairs that are ties" in " ".join(result["notes"])


def test_nothing_measured_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/notes.txt").write_text("hello")
    (tmp_path / "rmb/rmb").mkdir(parents=True)
    for folder, found in (("empty", "the folder is empty"), ("odd", "found notes.txt")):
        said = assay("bench", LONGER, "--data", tmp_path / folder, code=2)
        assert "looked for" in said
        assert "rewardbench" in said
        assert found in said
    assert "no folder" in assay("bench", LONGER, "--data", tmp_path / "rmb", "--only", "rm-bench", code=2)
    assert "unknown benchmark 'mine'" in assay("bench", LONGER, "--data", tmp_path / "rmb", "--only", "mine", code=2)
    ties = lines(tmp_path, [{"prompt": "a", "response_a": "x", "response_b": "y", "winner": "tie"}], "ties.jsonl")
    assert "no labelled pairs to measure on (1 pairs that are ties" in assay("bench", LONGER, "--data", ties, code=2)
    lines_ = lines(tmp_path, [{"text": "x"}], "none.jsonl")
    assert "no labelled pairs to measure on (1 rows: " in assay("bench", LONGER, "--data", lines_, code=2)
    assert "no such file" in assay("bench", LONGER, "--data", tmp_path / "gone.jsonl", code=2)


def test_questions_that_are_not_there_are_told_before_a_model_is_looked_for(tmp_path: Path) -> None:
    line = ("--policy", "org/none", "--reward", "org/none", "--out", tmp_path / "out.jsonl")
    assert "gone.jsonl: there is no such file" in assay("best-of-n", tmp_path / "gone.jsonl", *line, code=2)
    asked = lines(tmp_path, [{"prompt": None}], "q.jsonl")
    assert "no questions" in assay(
        "best-of-n", asked, "--policy", "m@http://127.0.0.1:9/v1", "--reward", LONGER, "--out", tmp_path / "n.jsonl",
        "--replies", tmp_path / "r.sqlite", code=2,
    )  # fmt: skip
    assert "no questions" in assay("policy", "evaluate", "minilm", asked, code=2)


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"messages": [{"role": "user", "content": "2+3?"}], "system": "Use Roman numerals."}, ["system", "user"]),
        (
            {"conversations": [{"from": "human", "value": "2+3?"}], "history": [["1+1?", "2"]]},
            ["user", "assistant", "user"],
        ),
        ({"messages": [{"role": "user", "content": "2+3?"}], "tools": [{"name": "add"}]}, ["user"]),
    ],
)
def test_what_stands_beside_a_conversation_is_kept(tmp_path: Path, row: dict[str, object], turns: list[str]) -> None:
    prompts, rejected = read(lines(tmp_path, [{**row, "answer": "5"}], "q.jsonl"))
    assert not rejected
    assert [m.role for m in prompts[0].messages] == turns
    assert bool(prompts[0].messages[0].tools) == ("tools" in row)
    again = lines(tmp_path, [as_row(prompts[0], Path("pictures"))], "again.jsonl")
    assert read(again)[0] == prompts


def test_a_context_beside_a_conversation_is_refused(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "2+3?"}], "context": "Count in threes.", "answer": "5"}
    with pytest.raises(AssayError, match="context"):
        read(lines(tmp_path, [row], "q.jsonl"))
