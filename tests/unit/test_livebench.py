"""LiveBench as its own package leaves it: rows, total, and what has no judgement. The files are ours, in its form."""

import json
from pathlib import Path
from typing import Any

import pytest

from assay.bench.reasoning.livebench import livebench
from assay.bench.reasoning.measure import Measured, Settings, measure
from assay.bench.reasoning.rows import Absent, Job
from assay.bench.reasoning.serving import Endpoint
from assay.bench.results import BenchmarkResult, Skipped
from assay.errors import AssayError

QUESTIONS = {
    ("math", "olympiad"): 3,
    ("math", "AMPS_Hard"): 2,
    ("reasoning", "spatial"): 4,
    ("coding", "coding_completion"): 1,
}
"""Of each category and task how many."""


def write(root: Path, scores: dict[str, float], model: str = "m", judged_as: str = "m", questions: bool = True) -> Path:
    """A clone after its package ran: `scores` by question (math-olympiad-0), -1 where it could not judge."""
    for (category, task), n in QUESTIONS.items():
        folder = root / "livebench" / "livebench" / "data" / "live_bench" / category / task
        names = [f"{category}-{task}-{i}" for i in range(n)]
        asked = [
            {"question_id": q, "category": category, "ground_truth": "3", "turns": ["How many?"], "task": task,
             "livebench_release_date": "2024-07-26", "livebench_removal_date": ""}
            for q in names
        ]  # fmt: skip
        asked.append({**asked[0], "question_id": f"{category}-{task}-old", "livebench_removal_date": "2024-11-25"})
        answers = [{"question_id": q, "answer_id": "a", "model_id": model, "choices": [{"index": 0, "turns": ["it is 3"]}]}
                   for q in names]  # fmt: skip
        judged = [
            {"question_id": q, "task": task, "model": who, "score": scores[q], "tstamp": 1.5, "category": category}
            for q in names if q in scores for who in (judged_as, "other")
        ]  # fmt: skip
        files = {f"model_answer/{model}.jsonl": answers, "model_judgment/ground_truth_judgment.jsonl": judged}
        for name, rows in {**files, **({"question.jsonl": asked} if questions else {})}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return root


def every(score: float) -> dict[str, float]:
    return {f"{c}-{t}-{i}": score for (c, t), n in QUESTIONS.items() for i in range(n)}


def measured(data: Path, out: Path, only: tuple[str, ...] = ("livebench",)) -> Measured:
    end = Endpoint(url="http://127.0.0.1:9/v1", model="m", identity="m", by="a test")
    return measure(end, data, out, Settings(only=only, repeats=5), out, say=lambda _: None)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_all_right_and_all_wrong(score: float, tmp_path: Path) -> None:
    (found,) = measured(write(tmp_path / "data", every(score)), tmp_path / "out").results
    assert isinstance(found, BenchmarkResult)
    assert found.headline
    assert (found.headline.name, found.headline.value, found.n, found.failed) == (
        f"mean of {len({c for c, _ in QUESTIONS})} categories",
        100 * score,
        10,
        0,
    )
    assert "asked elsewhere" in found.protocol
    assert any("not the paper's protocol (asked elsewhere" in note for note in found.notes)
    assert not any("64K" in note or "tokens" in note for note in found.notes)


def test_half_finished_is_coverage(tmp_path: Path) -> None:
    """Five of ten judged: the number is theirs, and the rest is told, by what is lacking."""
    scores = {k: 1.0 for i, k in enumerate(every(1.0)) if i % 2 == 0}
    scores["math-olympiad-1"] = -1
    (found,) = measured(write(tmp_path / "data", scores), tmp_path / "out").results
    assert isinstance(found, BenchmarkResult)
    assert found.headline
    assert (found.headline.value, found.n, found.failed) == (100.0, 5, 5)
    assert "coverage 50.0%: 5 of 10 answers have a score" in found.notes
    assert "without a score, 4 times: no judgement of it" in found.notes
    assert "without a score, 1 times: its package could not judge it" in found.notes


def test_the_total_is_the_packages(tmp_path: Path) -> None:
    """Tasks weigh alike within a category, categories alike in the total, whatever their numbers of questions."""
    scores = {k: float("olympiad" in k or "spatial-0" in k) for k in every(0.0)}
    (found,) = measured(write(tmp_path / "data", scores), tmp_path / "out").results
    assert isinstance(found, BenchmarkResult)
    assert found.headline
    assert found.headline.value == pytest.approx(100 * ((1 + 0) / 2 + 0.25 + 0) / 3)


def test_names_in_small_letters_and_judgements_twice(tmp_path: Path) -> None:
    """The package writes models in small letters, and the last judgement counts."""
    data = write(tmp_path, every(0.0), model="M", judged_as="m", questions=False)
    file = next(data.rglob("spatial/model_judgment/*.jsonl"))
    again = json.loads(file.read_text().splitlines()[0]) | {"score": 0.5}
    file.write_text(file.read_text() + json.dumps(again) + "\n")
    rows = list(livebench(Job(benchmark="livebench", model="M", url="u", data=data / "livebench", work=tmp_path)))
    assert len(rows) == 10
    assert sorted({r.score for r in rows}) == [0.0, 0.5]
    assert {r.answer for r in rows} == {"it is 3"}


@pytest.mark.parametrize("score", [2, "right", None])
def test_a_score_that_is_none_is_refused(score: Any, tmp_path: Path) -> None:
    data = write(tmp_path, {**every(1.0), "math-olympiad-0": score})
    with pytest.raises(AssayError, match=r"the score of question math-olympiad-0 is .*not from 0 to 1"):
        list(livebench(Job(benchmark="livebench", model="m", url="u", data=data, work=tmp_path)))


def test_what_is_not_there_is_a_line(tmp_path: Path) -> None:
    """With what to type; where it is not named it is skipped, and the others go on."""
    job = Job(benchmark="livebench", model="m", url="http://x/v1", data=tmp_path, work=tmp_path)
    with pytest.raises(Absent, match=r"python download_questions\.py; then the same command again asks them"):
        list(livebench(job))
    (tmp_path / "data").mkdir()
    found = measured(tmp_path / "data", tmp_path / "out", ())
    assert [type(r) for r in found.results] == [Skipped] * 10
    assert "git clone" in str(found.results[2])
