"""A benchmark that is watched while a policy trains: which questions, how they are put, what overlaps."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from assay.bench.policy.answers import correct
from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy.monitor import MonitorConfig
from assay.records import Message, user
from assay.rollouts import Prompt
from assay.tuning.benchmark_questions import BOXED, asking, benchmark_of, questions_of, watching
from assay.tuning.config import Task, TuneConfig
from assay.tuning.exam import Exam, overlap

SHARED = Path(os.environ.get("ASSAY_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data") / "reasoning"


def data(root: Path, n: int = 5) -> Path:
    rows = [{"id": i, "problem": f"What is {i} + 40?", "question": f"What is {i} + 40?", "answer": f"{i + 40:03d}",
             "solution": "long"} for i in range(n)]  # fmt: skip
    (root / "math").mkdir(parents=True)
    (root / "math" / "aime24_test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return root


def test_names() -> None:
    assert benchmark_of("aime24:30") == ("aime24", 30)
    assert benchmark_of("aime24") == ("aime24", 0)
    assert benchmark_of("questions.jsonl") is None
    assert benchmark_of("aime99:3") is None
    with pytest.raises(AssayError, match="what can be watched: aime24"):
        benchmark_of("ifeval:20")
    with pytest.raises(AssayError, match="no question would be watched"):
        benchmark_of("aime24:0")


def test_a_file_of_the_same_name_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aime24").mkdir()
    with pytest.raises(AssayError, match="is a benchmark and a file"):
        benchmark_of("aime24")
    assert benchmark_of("./aime24") is None


def test_a_sample_with_its_rule(tmp_path: Path) -> None:
    """Integers are compared as such: "042" is 42; the sample is the same for the same seed."""
    store = ImageStore(tmp_path / "images")
    prompts, told = questions_of("aime24", 3, 1, data(tmp_path), store)
    assert len(prompts) == 3
    assert told.startswith("aime24: 3 of 5 questions of ")
    assert questions_of("aime24", 3, 1, tmp_path, store)[0] == prompts
    assert len(questions_of("aime24", 0, 1, tmp_path, store)[0]) == 5
    for prompt in asking(prompts):
        assert prompt.messages[-1].content.endswith(BOXED)
        number = int(prompt.answer)
        assert correct(f"So it is \\boxed{{{number}}}.", prompt.answer, prompt.kind)
        assert correct(f"So it is \\boxed{{{number:03d}}}.", prompt.answer, prompt.kind)
        assert not correct(f"So it is \\boxed{{{number + 1}}}.", prompt.answer, prompt.kind)


def test_snapshots_of_the_hub_are_watched_as_they_are(tmp_path: Path) -> None:
    """AIME24 with its answers in boxes, OlympiadBench of which one of 18 subsets is meant; what has no answer is told."""
    store = ImageStore(tmp_path / "images")
    boxed = [
        {"id": i, "problem": f"What is {i} + 40?", "solution": f"\\boxed{{{i + 40:03d}}}", "url": ""} for i in range(5)
    ]
    open_ = [{"id": i, "question": f"And {i}?", "final_answer": [f"{i}"] if i else None} for i in range(3)]
    for name, rows in (
        ("aime24/test", boxed),
        ("ob/OE_TO_maths_en_COMP/a", open_),
        ("ob/TP_TO_maths_en_COMP/b", open_),
    ):
        file = tmp_path / name.replace("ob/", "olympiadbench/")
        file.parent.mkdir(parents=True)
        file.with_suffix(".jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    prompts, told = questions_of("aime24", 0, 0, tmp_path, store)
    assert [int(p.answer) for p in prompts] == [40, 41, 42, 43, 44]
    prompts, told = questions_of("olympiadbench", 0, 0, tmp_path, store)
    assert [p.answer for p in prompts] == ["1", "2"]
    assert told.endswith("OE_TO_maths_en_COMP/a.jsonl (1 more have no answer)")


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_BENCH_DATA", raising=False)
    store = ImageStore(tmp_path / "images")
    with pytest.raises(AssayError, match="give --watch-data DIR"):
        questions_of("aime24", 3, 0, None, store)
    data(tmp_path)
    monkeypatch.setenv("ASSAY_BENCH_DATA", str(tmp_path))
    assert len(questions_of("aime24", 2, 0, None, store)[0]) == 2
    with pytest.raises(AssayError, match="has 5 questions with an answer"):
        questions_of("aime24", 6, 0, None, store)
    with pytest.raises(AssayError, match=r"expected one file mathvision/\*\.jsonl"):
        questions_of("mathvision", 6, 0, tmp_path, store)
    (tmp_path / "aime24.json").write_text("[]")
    with pytest.raises(AssayError, match=r"found aime24\.json, math/aime24_test\.jsonl"):
        questions_of("aime24", 2, 0, tmp_path, store)


def test_overlap_is_of_questions_not_of_how_they_are_put() -> None:
    """A system prompt, case and white space do not hide a question that is trained on."""
    watched = [
        Prompt(messages=(user("What is  2 + 40?"),), answer="42"),
        Prompt(messages=(user("And 3?"),), answer="3"),
    ]
    trained = [Prompt(messages=(Message(role="system", content="Think."), user("what is 2 + 40?")), answer="42")]
    told = overlap({"trained on": trained, "watched": watched})
    assert told[0].startswith(
        "of 2 questions that are watched, 1 are trained on as well; 1 have a text and 0 a picture"
    )


def recipe(*trained: Prompt) -> Task:
    own = (Prompt(messages=(user("say a"),), answer="a"),)
    exam = Exam(prompts=own)
    return Task(align=own, worked=("a",), gold=(), pairs=own, tune=trained, watched=exam, test=exam, base=str)


def test_a_recipe_is_watched_by_a_benchmark(tmp_path: Path) -> None:
    """In place of its own questions, and what is trained on as well is told."""
    store, said = ImageStore(tmp_path / "images"), list[str]()
    config = TuneConfig(recipe="test", watch="aime24:3", watch_data=data(tmp_path))
    drawn, _ = questions_of("aime24", 3, config.seed, tmp_path, store)
    task = recipe(Prompt(messages=(user(drawn[1].messages[0].content.upper()),), answer="41"))
    found = watching(task, config, store, said.append)
    assert [p.messages for p in found.watched.prompts] == [p.messages for p in drawn]
    assert said[0].startswith("watches aime24: 3 of 5 questions of ")
    assert "of 3 questions that are watched, 1 are trained on as well; 1 have a text and 0 a picture of these" in said
    assert replace(found, watched=task.watched) == task, "nothing else is another"
    few = replace(config, watch="aime24", monitor=MonitorConfig(prompts=2))
    assert len(watching(task, few, store, said.append).watched.prompts) == 2
    assert watching(task, replace(config, watch=""), store, said.append) is task


def test_what_a_recipe_cannot_watch(tmp_path: Path) -> None:
    store, task = ImageStore(tmp_path / "images"), recipe()
    config = TuneConfig(recipe="test", watch_data=data(tmp_path))
    with pytest.raises(AssayError, match=r"--watch my\.jsonl: a recipe watches NAME or NAME:N, NAME one of aime24"):
        watching(task, replace(config, watch="my.jsonl"), store, print)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    row = {"id": "1", "question": "Which?\n<image1>", "options": [], "answer": "3", "image": "1.png"}
    (tmp_path / "mathvision-testmini.jsonl").write_text(json.dumps(row))
    with pytest.raises(AssayError, match="show pictures, and the policy of test sees none"):
        watching(task, replace(config, watch="mathvision:1"), store, print)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no reasoning data at {SHARED}")
@pytest.mark.parametrize(("name", "of"), [("aime24", 30), ("aime25", 30), ("amc23", 40), ("mathvision", 304)])
def test_the_released_files(name: str, of: int, tmp_path: Path) -> None:
    prompts, told = questions_of(name, 4, 0, SHARED, ImageStore(tmp_path))
    assert f"4 of {of} questions" in told
    assert all(p.answer for p in prompts)
    assert all(bool(p.images) == (name == "mathvision") for p in prompts)
