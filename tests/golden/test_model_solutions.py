"""Solutions that models and people wrote, marked right or wrong by others: the answer rules against every mark."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from assay.bench.policy.answers import correct, final_answer, same

DATA = Path(os.environ.get("ASSAY_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
FILE = DATA / "reasoning" / "gsm8k" / "example_model_solutions.jsonl"
QWEN = DATA / "benchmarks" / "qwen-math-bon" / "math_cot_100.jsonl"
JUDGED = DATA / "benchmarks" / "judgebench" / "gpt-4o-2024-05-13.jsonl"
MATH = DATA / "reasoning" / "math" / "math500_test.jsonl"


@pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not there (set ASSAY_SHARED_DATA to where the data is)")
def test_the_marks_of_gsm8k_solutions() -> None:
    agreed = Counter[tuple[bool, bool]]()
    for line in FILE.read_text().splitlines():
        row = json.loads(line)
        right = row["ground_truth"].split("A:")[-1].strip()
        for solution in (v for v in row.values() if isinstance(v, dict)):
            agreed[solution["is_correct"], correct(solution["solution"], right, "number")] += 1
    assert agreed == {(True, True): 2_001, (False, False): 3_275}


@pytest.mark.skipif(not QWEN.is_file(), reason=f"{QWEN} is not there (set ASSAY_SHARED_DATA to where the data is)")
def test_the_marks_of_qwens_answers_to_math() -> None:
    """800 answers: as marked, but for 9 that are right and were marked wrong for how they are written."""
    pytest.importorskip("math_verify")
    rows = [json.loads(line) for line in QWEN.read_text().splitlines()]
    told = [(r["answer"], said, mark, correct(said, r["answer"], "math")) for r in rows
            for said, mark in zip(r["response"], r["score"], strict=True)]  # fmt: skip
    differ = Counter(right for right, _, mark, ours in told if ours != mark)
    assert (len(told), differ) == (800, {r"\text{4:30 p.m.}": 8, "10{,}000": 1})
    assert all(ours for *_, mark, ours in told if ours != mark)


@pytest.mark.skipif(not MATH.is_file(), reason=f"{MATH} is not there (set ASSAY_SHARED_DATA to where the data is)")
def test_maths_own_solutions_equal_their_keys() -> None:
    """500 solutions that people wrote; refused are a bound ("at most 2") and the like."""
    pytest.importorskip("math_verify")
    rows = [json.loads(line) for line in MATH.read_text().splitlines()]
    refused = sum(not correct(r["solution"], r["answer"], "math") for r in rows)
    assert (len(rows), refused) == (500, 6)


@pytest.mark.skipif(not JUDGED.is_file(), reason=f"{JUDGED} is not there (set ASSAY_SHARED_DATA to where the data is)")
def test_no_wrong_row_of_yes_and_no_is_the_right_one() -> None:
    """GPT-4o's answers to LiveBench's puzzles, of which one is not right: 26 pairs were the same."""
    pytest.importorskip("math_verify")
    rows = [json.loads(line) for line in JUDGED.read_text().splitlines()]
    pairs = [
        tuple(final_answer(r[f"response_{x}"]) or "" for x in "AB")
        for r in rows
        if r["source"] == "livebench-reasoning"
    ]
    told = [p for p in pairs if all("," in x and {*x.replace(",", "").split()} <= {"yes", "no"} for x in p)]
    assert len(told) > 20
    assert [p for p in told for kind in ("text", "math") if same(p[0], p[1], kind)] == []
