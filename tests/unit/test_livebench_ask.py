"""LiveBench's questions asked here: known answers, what waits for its judge, and what is judged in our sandbox. The
questions are ours, in its form; so is what stands for its judge, which is not on a package index."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from answer_server import AnswerServer, words
from assay.bench.reasoning import code
from assay.bench.reasoning.livebench_ask import ask, questions
from assay.bench.reasoning.measure import Measured, Settings, measure
from assay.bench.reasoning.rows import Job
from assay.bench.reasoning.serving import Endpoint
from assay.bench.results import BenchmarkResult
from assay.errors import AssayError
from assay.sandbox import isolation

walled = pytest.mark.skipif(
    not set(code.WALLS) <= set(isolation()), reason="this machine has no whole sandbox: programs of answers are not run"
)
TESTS = json.dumps([{"input": "4\n", "output": "8\n", "testtype": "stdin"}])
RIGHT = {
    "one and one": "<think>3?</think>It is 2.", "two and two": "It is 4.", "three and three": "It is 6.",
    "the double": "```python\nprint(2 * int(input()))\n```", "begun": "```python\nprint(2 * n)\n```",
}  # fmt: skip


def question(category: str, task: str, n: int, text: str, **more: Any) -> dict[str, Any]:
    return {
        "question_id": f"{task}-{n}", "category": category, "task": task, "turns": [f"What is {text}?"],
        "livebench_release_date": "2024-11-25", "livebench_removal_date": "", **more,
    }  # fmt: skip


def write(root: Path) -> Path:
    """A clone with its questions: 3 for its judge, 2 programs (tests beside the questions, or in a file of their own), one
    that is out of date and one for an agent."""
    own = {"original_json": {"metadata": "{}"}, "question_title": "t"}
    begun = question("coding", "coding_completion", 1, "begun", partial_solution="n = int(input())", **own)
    files = {
        "math/sums/question.jsonl": [
            question("math", "sums", 1, "one and one", ground_truth="2", system_prompt="Be brief."),
            question("math", "sums", 2, "two and two", ground_truth="4"),
            {**question("math", "sums", 9, "old", ground_truth="0"), "livebench_removal_date": "2024-11-25"},
        ],
        "reasoning/more/question.jsonl": [question("reasoning", "more", 1, "three and three", ground_truth="6")],
        "coding/LCB_generation/question.jsonl": [
            question(
                "coding", "LCB_generation", 1, "the double", public_test_cases=TESTS, private_test_cases="[]", **own
            )
        ],
        "coding/coding_completion/question.jsonl": [begun],
        "coding/coding_completion/test_cases_0.jsonl": [
            {"question_id": begun["question_id"], "public_test_cases": TESTS, "private_test_cases": TESTS}
        ],
        "agentic_coding/python/question.jsonl": [question("agentic_coding", "python", 1, "an agent")],
    }
    for name, rows in files.items():
        file = root / "livebench" / "livebench" / "data" / "live_bench" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (root / "livebench" / "livebench" / "gen_ground_truth_judgment.py").write_text("")
    return root


def judge(out: Path) -> None:
    """What LiveBench's judge does, in its form: a score for each answer of each model, the last word against the truth."""
    for folder in (out / "livebench" / "data" / "live_bench").glob("*/*"):
        asked = {r["question_id"]: r for r in map(json.loads, (folder / "question.jsonl").read_text().splitlines())}
        for file in (folder / "model_answer").glob("*.jsonl"):
            (folder / "model_judgment").mkdir(exist_ok=True)
            with (folder / "model_judgment" / "ground_truth_judgment.jsonl").open("a") as told:
                for row in map(json.loads, file.read_text().splitlines()):
                    right = row["choices"][0]["turns"][-1].endswith(f" {asked[row['question_id']]['ground_truth']}.")
                    one = {"question_id": row["question_id"], "model": file.stem, "score": int(right), "turn": 1}
                    told.write(json.dumps({**one, "task": folder.name, "category": folder.parent.name}) + "\n")


def right(text: str) -> str:
    return next((answer for part, answer in RIGHT.items() if part in text), "?")


def measured(server: AnswerServer, data: Path, out: Path, **more: Any) -> Measured:
    end = Endpoint(url=server.url, model="m", identity="m", by="a test")
    return measure(end, data, out, Settings(only=("livebench",), **more), out, say=lambda _: None)


@walled
@pytest.mark.parametrize(
    ("answer", "score", "n"),
    [
        (lambda text: right(text), 100.0, 5),
        (lambda text: "It is wrong.", 0.0, 5),
        (lambda text: right(text) if "one and one" in text or "the double" in text else 400, 100.0, 2),
    ],
)
def test_known_answers(answer: Callable[[str], str | int], score: float, n: int, tmp_path: Path) -> None:
    """It asks once, waits for its judge, and then has its number without asking again."""
    data, out = write(tmp_path / "data"), tmp_path / "out"
    server = AnswerServer(lambda body: answer(words(body)))
    try:
        with pytest.raises(
            AssayError, match=r"livebench: 6 answers wait for LiveBench's own judge: sh .*judge\.sh \(needs pip"
        ):
            measured(server, data, out, repeats=2)
        count = server.asked.total()
        judge(out)
        (found,) = measured(server, data, out, repeats=2).results
        assert isinstance(found, BenchmarkResult)
        assert server.asked.total() - count == 2 * (5 - n), "what was refused is asked again, and nothing else"
    finally:
        server.stop()
    assert found.headline
    assert (found.headline.value, found.n) == (score, n), found.notes
    lost = 2 * (6 - n)
    assert f"coverage {(12 - lost) / 12:.1%}: {12 - lost} of 12 answers have a score" in found.notes
    assert "without a score, 2 times: not asked: it needs LiveBench's own agent, and Docker" in found.notes
    assert found.headline.name == f"mean of {3 if n == 5 else 2} categories"
    assert "questions to 2024-11-25" in found.protocol
    assert "temperature 0.6, at most 4,096 tokens, 2 answers a question" in found.protocol
    script = (out / "livebench" / "judge.sh").read_text()
    assert "--bench-name live_bench/math/sums live_bench/reasoning/more" in script
    assert "coding" not in script, "no program of a model for it to run"


@walled
def test_other_answers_are_judged_anew(tmp_path: Path) -> None:
    """A judgement is of the answers beside it: those of another seed wait for theirs."""
    data, out = write(tmp_path / "data"), tmp_path / "out"
    server = AnswerServer(lambda body: f"{right(words(body))} {body.get('seed')}")
    try:
        for seed in (0, 1):
            with pytest.raises(AssayError, match="3 answers wait for LiveBench's own judge"):
                measured(server, data, out, seed=seed, temperature=1.0)
            judge(out)
            assert isinstance(measured(server, data, out, seed=seed, temperature=1.0).results[0], BenchmarkResult)
    finally:
        server.stop()


def test_a_dead_server_waits_for_no_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.bench.reasoning.upstream.TRIES", 1)
    server = AnswerServer(lambda body: 503)
    try:
        with pytest.raises(AssayError, match=r"livebench: none of 5 answers has a score \(http 503: told so\)"):
            measured(server, write(tmp_path / "data"), tmp_path / "out")
    finally:
        server.stop()


@walled
def test_a_limit_takes_of_each_task_in_turn(tmp_path: Path) -> None:
    data, server = write(tmp_path), AnswerServer(lambda body: right(words(body)))
    work = tmp_path / "out" / "work" / "livebench"
    job = Job(benchmark="livebench", model="m", url=server.url, data=data, work=work, limit=5, at_once=1)
    try:
        with pytest.raises(AssayError, match="2 answers wait"):
            list(ask(job))
        asked = [words(body).removeprefix("What is ") for body in server.bodies]
        assert asked == ["the double?", "begun?", "one and one?", "three and three?"], "the fifth is the agent's"
        assert server.bodies[2]["messages"][0] == {"role": "system", "content": "Be brief."}
    finally:
        server.stop()


def test_a_question_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    file = next(write(tmp_path).rglob("sums/question.jsonl"))
    file.write_text(file.read_text() + file.read_text().splitlines()[0])
    with pytest.raises(AssayError, match=r"question sums-1 occurs twice, in .*question\.jsonl"):
        questions(tmp_path)
