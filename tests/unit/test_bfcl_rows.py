"""What is read of BFCL's package: rows in its format, and its totals. Running it is tests/e2e/test_bfcl.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from assay.bench.reasoning import bfcl
from assay.bench.reasoning.rows import Answered, Job
from assay.errors import AssayError

CALL = [{"calculate_triangle_area": '{"base": 10, "height": 5}'}]
KNOWN = [{"calculate_triangle_area": {"base": [10], "height": [5], "unit": ["units", ""]}}]


def left(work: Path, results: dict[str, list[dict[str, Any]]], wrong: dict[str, list[dict[str, Any]]]) -> Path:
    """A folder as `bfcl_run.py` and the package leave it (the form is that of an own run)."""
    asked = {c: {"of": 400, "asked": {r["id"]: KNOWN for r in rows} | {f"{c}_9": KNOWN}} for c, rows in results.items()}
    (work / "asked.json").write_text(json.dumps(asked))
    for category, rows in results.items():
        folder = work / "result" / "bfcl-fc" / "non_live"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"BFCL_v4_{category}_result.json").write_text("".join(json.dumps(r) + "\n" for r in rows))
        folder = work / "score" / "bfcl-fc" / "non_live"
        folder.mkdir(parents=True, exist_ok=True)
        head = {"accuracy": 0.5, "correct_count": 1, "total_count": 2}
        lines = [head, *wrong.get(category, [])]
        (folder / f"BFCL_v4_{category}_score.json").write_text("".join(json.dumps(r) + "\n" for r in lines))
    return work


def test_rows_of_what_the_package_left(tmp_path: Path) -> None:
    """Right, wrong, cut off and empty though the package counts them right, failed, and never asked."""
    results: dict[str, list[dict[str, Any]]] = {
        "simple_python": [
            {"id": "simple_python_0", "result": CALL, "finish": ["tool_calls"], "thoughts": ["hm"]},
            {"id": "simple_python_1", "result": "five", "finish": ["stop"], "thoughts": [""]},
            {"id": "simple_python_2", "result": CALL, "finish": ["length"], "thoughts": [""]},
            {"id": "simple_python_4", "result": "", "finish": ["stop"], "thoughts": [""]},
            {"id": "simple_python_3", "result": "Error during inference: Connection error.", "traceback": "..."},
        ]
    }
    wrong = {"simple_python": [{"id": "simple_python_1", "valid": False, "error": ["x"],
                                "error_type": "ast_decoder:decoder_failed"}]}  # fmt: skip
    rows = list(bfcl.rows("bfcl-fc", left(tmp_path, results, wrong), 2))
    assert [r.score for r in rows] == [1.0, 0.0, 0.0, 0.0, None, None]
    assert [r.finished for r in rows] == [True, True, False, False, False, False]
    assert [r.fault for r in rows] == ["", "", "", "", "Error during inference: Connection error.", "not asked"]
    assert rows[0].thoughts == "hm"
    assert json.loads(rows[0].answer) == CALL
    assert json.loads(rows[0].expected) == KNOWN
    assert (rows[1].answer, rows[1].extracted) == ("five", "")
    assert rows[1].by.endswith("fc: ast_decoder:decoder_failed")
    assert {(r.subset, r.repeat, r.benchmark) for r in rows} == {("simple_python", 2, "bfcl-fc")}


def test_a_line_that_was_cut_and_what_failed_are_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "x_result.json"
    good = (
        json.dumps({"id": "a", "result": "Error during inference: is what the model said", "finish": ["stop"]}) + "\n"
    )
    failed = json.dumps({"id": "b", "result": "Error during inference: timeout", "traceback": "t"}) + "\n"
    file.write_text(good + failed + '{"id": "c", "resu')
    bfcl.tidy(file)
    assert file.read_text() == good
    bfcl.tidy(file)
    assert file.read_text() == good


def test_a_folder_without_a_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="left no list"):
        list(bfcl.rows("bfcl", tmp_path, 0))


def scored(category: str, *scores: float | None) -> list[Answered]:
    return [
        Answered(benchmark="bfcl", question=f"{category}_{n}", repeat=0, answer="", score=s, subset=category)
        for n, s in enumerate(scores)
    ]


def test_totals_by_hand() -> None:
    """Simple is (100 + 50 + 0) / 3 = 50; non-live (50 + 100 + 0 + 50) / 4 = 50. Live is not told: one category is absent."""
    rows = [
        *scored("simple_python", 1, 1), *scored("simple_java", 1, 0), *scored("simple_javascript", 0),
        *scored("multiple", 1), *scored("parallel", 0, None), *scored("parallel_multiple", 1, 0),
        *scored("live_simple", 1), *scored("irrelevance", 1), *scored("live_irrelevance", 0),
    ]  # fmt: skip
    told = {t.name: t for t in bfcl.totals(rows)}
    assert told["non-live"].value == pytest.approx(50.0)
    assert (told["non-live"].n, told["non-live"].of) == (9, 1_150)
    assert (told["live"].value, told["live"].n, told["live"].of) == (None, 1, 1_351)
    assert told["multi-turn"].value is None
    assert told["irrelevance"].value == pytest.approx(50.0)
    live = [*scored("live_simple", 1, 1, 1), *(x for c in bfcl.GROUPS["live"][1:4] for x in scored(c, 0))]
    assert next(t for t in bfcl.totals(live) if t.name == "live").value == pytest.approx(50.0)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="unknown category 'simple'"):
        bfcl.driver(Path("python"), ("simple",))
    job = Job(benchmark="aime24", model="m", url="http://x", data=tmp_path, work=tmp_path)
    with pytest.raises(AssayError, match="not asked by bfcl-eval"):
        list(bfcl.driver(Path("python"))(job))


def test_the_package_that_fails_says_where_its_work_is(tmp_path: Path) -> None:
    job = Job(benchmark="bfcl", model="m", url="http://x", data=tmp_path, work=tmp_path / "w")
    with pytest.raises(AssayError, match=r"bfcl-eval ended with 1 .*the same command goes on"):
        list(bfcl.driver(Path("/bin/false"))(job))


def test_a_line_separator_within_an_answer_ends_no_row(tmp_path: Path) -> None:
    """JSON may hold U+2028 as it is, which Python takes for the end of a line."""
    rows = [{"id": f"simple_python_{n}", "result": "a\u2028b", "finish": ["stop"]} for n in range(2)]
    left(tmp_path, {"simple_python": rows}, {})
    (file,) = tmp_path.rglob("*_result.json")
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    assert [r.answer for r in bfcl.rows("bfcl", tmp_path, 0)][:2] == ["a\u2028b"] * 2
    before = file.read_text()
    bfcl.tidy(file)
    assert file.read_text() == before
