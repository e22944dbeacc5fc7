"""The real libraries of `assay policy bench`, in environments of their own, and a real model behind a real server.

Where the environment is not here, these say so and are skipped: `assay policy bench ... --install` makes it.
"""

import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import assay_line, environment

import reasoning_sets
import vlm_models
from answer_server import AnswerServer, words
from assay.bench.reasoning import evalscope
from assay.bench.reasoning.environments import default_folder
from assay.bench.reasoning.measure import Settings, measure
from assay.bench.reasoning.recorder import Recorder
from assay.bench.reasoning.rows import Answered, Job
from assay.bench.reasoning.serving import Endpoint
from assay.bench.reasoning.tasks import TASKS
from assay.bench.results import BenchmarkResult
from assay.errors import AssayError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return evalscope.python_of(default_folder(), False)
    except AssayError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reasoning_sets.write(tmp_path_factory.mktemp("sets"))


def asked(
    name: str, server: AnswerServer, data: Path, folder: Path, python: Path, repeats: int = 1, score: Any = None
) -> list[Answered]:
    job = Job(
        benchmark=name, model="m", url=server.url, data=data, work=folder / name, repeats=repeats, max_tokens=256,
        temperature=0.0 if repeats == 1 else 0.7,
    )  # fmt: skip
    with Recorder(job, folder / "asked.sqlite") as recorder:
        return list(evalscope.driver(python, score)(replace(job, url=recorder.url)))


@pytest.mark.parametrize("name", TASKS)
def test_known_answers(name: str, data: Path, tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All right is 100, all wrong 0, and what a server refuses is coverage, in no number. Asked once for each question and
    repeat, and not again from the journal."""
    monkeypatch.chdir(tmp_path)  # OUT is told as users do, in the folder where they are
    count = reasoning_sets.COUNTS[name]
    for answer, score in ((reasoning_sets.reply, 100.0), (lambda _: reasoning_sets.WRONG, 0.0)):
        with AnswerServer(lambda body, answer=answer: answer(words(body))) as server:
            found = measured(name, server, data, Path(str(score)), repeats=2)
            assert (found.headline and found.headline.value, found.n, found.failed) == (score, count, 0), found.notes
            assert f"coverage 100.0%: {2 * count:,} of {2 * count:,} answers have a score" in found.notes
            rows = kept(Path(str(score)), name)
            assert [r["repeat"] for r in rows] == [0, 1] * count
            assert len({(r["subset"], r["question"]) for r in rows}) == count
            assert all(r["reply"].startswith("assay-") for r in rows)
            assert server.asked.total() == 2 * count
            assert [shown(body) for body in server.bodies] == [
                2 if "taller bar" in words(body) else int(TASKS[name].pictures) for body in server.bodies
            ], "each question with all its pictures"
            if score:
                assert measured(name, server, data, Path(str(score)), repeats=2) == found
                assert server.asked.total() == 2 * count
    refused: dict[str, bool] = {}

    def half(body: dict[str, Any]) -> str | int:
        no = refused.setdefault(json.dumps(body["messages"]), len(refused) % 2 == 1)
        return 400 if no else reasoning_sets.reply(words(body))

    with AnswerServer(half) as server:
        found = measured(name, server, data, Path("half"), at_once=1)
    lost = sum(refused.values())
    assert 0 < lost < count == len(refused)
    assert (found.headline and found.headline.value, found.n, found.failed) == (100.0, count - lost, lost), found.notes
    assert f"without a score, {lost:,} times: http 400: told so" in found.notes
    assert found.diagnostics[0].name == "missing as wrong"
    assert found.diagnostics[0].value == pytest.approx(100 * (count - lost) / count)


def shown(body: dict[str, Any]) -> int:
    """How many pictures the last message shows."""
    content = body["messages"][-1]["content"]
    return 0 if isinstance(content, str) else sum(part["type"] == "image_url" for part in content)


def measured(name: str, server: AnswerServer, data: Path, out: Path, **more: Any) -> BenchmarkResult:
    end = Endpoint(url=server.url, model="m", identity="m", by="a test")
    settings = Settings(only=(name,), max_tokens=256, **more)
    (found,) = measure(end, data, out, settings, default_folder(), say=lambda _: None).results
    assert isinstance(found, BenchmarkResult), found
    return found


def kept(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "answers" / f"{name}.jsonl").read_text().splitlines()]


def test_programs_are_never_run_by_the_library(data: Path, tmp_path: Path, python: Path) -> None:
    """A program that would leave a file behind leaves none, and comes back as text for the sandbox."""
    mark = tmp_path / "escaped"
    with AnswerServer(lambda body: f"```python\nopen({str(mark)!r}, 'w').write('x')\n```") as server:
        seen: list[str] = []

        def sandbox(rows: Any, folder: Path) -> Any:
            seen.extend(r.extracted for r in rows)
            return [replace(r, score=1.0, by="a sandbox") for r in rows]

        rows = asked("livecodebench", server, data, tmp_path, python, score=sandbox)
        assert [r.score for r in rows] == [1.0, 1.0]
        assert all(str(mark) in code for code in seen)
        assert not mark.exists()
        with pytest.raises(AssayError, match="no sandbox here to judge them in"):
            asked("livecodebench", server, data, tmp_path, python)


@pytest.fixture
def answers() -> Iterator[str]:
    """A server in a process of its own, for the killed runs."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).parent.parent / "answer_server.py", "0.15"], env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("")


def stats(url: str) -> dict[str, dict[str, int]]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url.removesuffix("/v1") + "/stats", timeout=300) as response:
        told: dict[str, dict[str, int]] = json.loads(response.read())
    return told


def test_a_run_killed_at_ten_points_asks_nothing_twice(answers: str, tmp_path: Path, python: Path) -> None:
    """Each kill comes later. What was under way at a kill may be asked again, under the same Idempotency-Key; what was
    answered is not, and at the end every question has its five answers."""
    lines = [{"id": i, "problem": f"Number {i}: how many?", "answer": "7" if i % 2 else "8"} for i in range(24)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "aime24.jsonl").write_text("\n".join(map(json.dumps, lines)))
    line = assay_line(
        "policy", "bench", f"m@{answers}", "--data", tmp_path / "data", "--out", tmp_path / "out", "--only", "aime24",
        "--repeats", 5, "--at-once", 4, "--environments", default_folder(),
    )  # fmt: skip
    draws, kills, under_way = random.Random(0), 0, 0
    while kills < 10:
        process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = sum(stats(answers)["answered"].values()) + draws.randint(2, 9)
        while sum(stats(answers)["answered"].values()) < goal and process.poll() is None:
            time.sleep(0.05)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
        time.sleep(0.5)
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = stats(answers)
    assert kills == 10
    assert len(told["answered"]) == 24 * 5
    under_way = sum(n - 1 for n in told["asked"].values())
    assert under_way <= 4 * kills, "only what was under way at a kill"
    assert max(told["asked"].values()) <= 3
    found = json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]
    assert found["headline"]["value"] == 50.0
    asked_before = sum(told["asked"].values())
    assert subprocess.run(line, env=environment(), capture_output=True, check=False).returncode == 0
    assert sum(stats(answers)["asked"].values()) == asked_before


def test_our_decoder_behind_the_chat_api(data: Path, tmp_path: Path, python: Path) -> None:
    """A small model with eyes and random weights answers questions with pictures, from its folder to results."""
    vlm_models.make("qwen2.5-vl", tmp_path / "vlm")
    line = assay_line(
        "policy", "bench", tmp_path / "vlm", "--data", data, "--out", tmp_path / "out", "--only", "mathvision", "aime24",
        "--max-tokens", 8, "--environments", default_folder(), "--served-by", "decoder",
    )  # fmt: skip
    done = subprocess.run(
        line, env={**environment(), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + (tmp_path / "out" / "server.log").read_text()[-2000:]
    told = {r["name"]: r for r in json.loads((tmp_path / "out" / "results.json").read_text())["results"]}
    assert told["mathvision"]["n"] == 2
    assert told["mathvision"]["failed"] == 0
    assert any("cut at 8 tokens" in note for note in told["aime24"]["notes"])
    assert (tmp_path / "out" / "results.html").stat().st_size > 5_000
