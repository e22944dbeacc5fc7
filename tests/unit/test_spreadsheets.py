"""Files as spreadsheets and annotation tools write them: headings, Excel's CSV, three answers a row; none is misread."""

import json
from pathlib import Path

import pytest

import pools
from assay.curate import pool
from assay.curate.pool import PoolReport
from assay.formats.lists import gathered
from assay.formats.reading import Fields


def added(
    tmp_path: Path, name: str, text: str | bytes, mapped: tuple[str, ...] = (), ignored: tuple[str, ...] = ()
) -> tuple[PoolReport, set[tuple[str, str]]]:
    """What became of a file, and (better, other) of every pair that it told; ("", "") for a tie."""
    tmp_path.mkdir(exist_ok=True)
    source = tmp_path / name
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    report = pool.add([str(source)], tmp_path / "pool", say=lambda _: None, fields=Fields.of(mapped, ignored))
    told = set()
    for pair, judgement, _ in pools.occurrences(tmp_path / "pool"):
        better = judgement.better
        told.add(("", "") if better is None else (pair.response(better).text, pair.response(pair.other(better)).text))
    return report, told


@pytest.mark.parametrize(
    "head",
    [
        "Prompt,Chosen,Rejected",
        "PROMPT,Chosen Response,Rejected response",
        "Question, chosen ,REJECTED",
        "prompt,Preferred,rejected",
    ],
)
def test_headings_in_capitals_or_with_spaces_are_read(tmp_path: Path, head: str) -> None:
    _, told = added(tmp_path, "a.csv", f"{head}\n" + "Name a fruit.,An apple.,A chair.\n")
    assert told == {("An apple.", "A chair.")}


def test_a_label_under_a_heading_in_capitals_counts_as_any(tmp_path: Path) -> None:
    rows = "Prompt;Response A;Response B;Winner\np;yes;no;A\nq;no;yes;B\nr;so;so so;Tie\n"
    _, told = added(tmp_path, "a.csv", rows)
    assert told == {("yes", "no"), ("", "")}


@pytest.mark.parametrize("key", ["Margin", "margin"])
def test_what_denies_the_label_is_heard_under_any_heading(tmp_path: Path, key: str) -> None:
    row = json.dumps({"Prompt": "p", "chosen": "yes", "rejected": "no", key: -1})
    report, told = added(tmp_path, "a.jsonl", row)
    assert (report.pairs, report.rejected, told) == (0, 1, set())
    _, told = added(tmp_path / "again", "a.jsonl", row, ignored=("margin",))
    assert told == {("yes", "no")}


def test_a_heading_that_another_column_has_is_left_alone(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "yes", "rejected": "no", "Chosen": "not this", "Rejected": "nor this"}
    _, told = added(tmp_path, "a.jsonl", json.dumps(row))
    assert told == {("yes", "no")}


@pytest.mark.parametrize("told", ["sep=;", '"sep=;"'])
def test_excel_says_what_parts_its_cells(tmp_path: Path, told: str) -> None:
    text = f"\ufeff{told}\r\nprompt;chosen;rejected\r\np, or so;yes, it is;no, it is not\r\n"
    report, told = added(tmp_path, "a.csv", text)
    assert told == {("yes, it is", "no, it is not")}
    assert report.rejected == 0


def test_excels_other_csv_is_refused_with_what_to_do(tmp_path: Path) -> None:
    report, told = added(tmp_path, "a.csv", "prompt;chosen;rejected\r\np;für;no\r\n".encode("cp1252"))
    assert not told
    assert any("save the file as UTF-8, in Excel as CSV UTF-8" in line for line in report.lines())


THREE = {"prompt": "p", "response_a": "yes", "response_b": "no", "response_c": "never"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"winner": "a"}, {("yes", "no"), ("yes", "never")}),
        ({"winner": "c"}, {("never", "yes"), ("never", "no")}),  # it was a tie of the first two
        ({"winner": "model_c"}, {("never", "yes"), ("never", "no")}),
        ({"best": "response_b"}, {("no", "yes"), ("no", "never")}),
        ({"rating_a": 5, "rating_b": 2, "rating_c": 3}, {("yes", "no"), ("yes", "never"), ("never", "no")}),
    ],
)
@pytest.mark.parametrize("spelled", [str, lambda n: n.replace("_", " ").title()], ids=["plain", "headed"])
def test_a_third_answer_is_neither_dropped_nor_a_tie(tmp_path: Path, more: dict, told: set, spelled) -> None:  # type: ignore[no-untyped-def,type-arg]
    row = {spelled(k): v for k, v in {**THREE, **more}.items()}
    report, found = added(tmp_path, "a.jsonl", json.dumps(row))
    assert (found, report.rejected) == (told, 0)


@pytest.mark.parametrize("start", [0, 1])
def test_three_numbered_answers_are_compared_by_their_ratings(tmp_path: Path, start: int) -> None:
    row: dict[str, object] = {"prompt": "p"}
    for i, (text, rating) in enumerate([("low", 1), ("high", 5), ("mid", 3)], start):
        row |= {f"answer_{i}": text, f"rating_{i}": rating}
    _, told = added(tmp_path, "a.jsonl", json.dumps(row))
    assert told == {("high", "low"), ("high", "mid"), ("mid", "low")}


def test_an_empty_third_answer_is_none(tmp_path: Path) -> None:
    text = "prompt,response_a,response_b,response_c,winner\np,yes,no,,A\nq,yes,no,never,C\n"
    _, told = added(tmp_path, "a.csv", text)
    assert told == {("yes", "no"), ("never", "yes"), ("never", "no")}


def test_a_label_that_names_an_empty_answer_is_not_that_of_the_next(tmp_path: Path) -> None:
    row = {**THREE, "response_c": "", "response_d": "late", "winner": "c"}
    report, told = added(tmp_path, "a.jsonl", json.dumps(row))
    assert (told, report.rejected) == (set(), 1)
    numbered = {"prompt": "p", "answer_1": "yes", "answer_2": "no", "answer_3": None, "answer_4": "late", "best": 3}
    assert gathered(numbered)["best"] == "3, with an empty one before the last"
    assert gathered({**numbered, "answer_3": "here"})["best"] == 3


def test_label_studios_export_is_told_how_to_be_read(tmp_path: Path) -> None:
    row = {"id": 1, "data": {"prompt": "p", "answer1": "yes", "answer2": "no"}, "annotations": [{"result": []}]}
    report, told = added(tmp_path, "a.json", json.dumps([row]))
    assert not told
    assert any("export it as JSON-MIN or CSV" in line for line in report.lines())
    row = {"prompt": "p", "answer1": "yes", "answer2": "no", "comparison": "right"}
    _, told = added(tmp_path / "again", "b.json", json.dumps([row]), mapped=("label=comparison",))
    assert told == {("no", "yes")}


def test_a_flag_that_names_no_column_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "p", "chosen": "yes", "rejected": "no", "Extra": 1}))
    told: list[str] = []
    fields = Fields.of(("prompt=qestion",), ("extra", "margin", "Extra"))
    pool.add([str(tmp_path / "a.jsonl")], tmp_path / "pool", say=told.append, fields=fields)
    said = [line for line in told if "none of the first rows" in line]
    assert said == [
        "--map prompt=qestion: none of the first rows has a column qestion",
        "--ignore extra: none of the first rows has a column extra",
        "--ignore margin: none of the first rows has a column margin",
    ]
