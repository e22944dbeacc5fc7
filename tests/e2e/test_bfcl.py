"""BFCL by its own package, for real, against a scripted server that knows the answers. Slow, and only where the environment
is: $ASSAY_ENVIRONMENTS/bfcl (default: the cache), made by `assay policy bench --install`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assay.bench.reasoning.bfcl import SIZES, driver, totals
from assay.bench.reasoning.rows import Answered, Job
from bfcl_server import Scripted, answers, right, scripted, wrong

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assay" / "environments"
PYTHON = Path(os.environ.get("ASSAY_ENVIRONMENTS") or CACHE) / "bfcl" / "bin" / "python"
CATEGORIES = ("simple_python", "multiple", "parallel", "irrelevance")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no environment of bfcl-eval at {PYTHON}: BFCL WAS NOT RUN"),
]


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return answers(PYTHON, CATEGORIES)


def asked(server: Scripted, work: Path, benchmark: str, limit: int = 12) -> list[Answered]:
    job = Job(
        benchmark=benchmark, model="any/name", url=server.url, data=work, work=work, limit=limit, at_once=2, key="k"
    )
    return list(driver(PYTHON, CATEGORIES)(job))


@pytest.mark.parametrize("benchmark", ["bfcl", "bfcl-fc"])
def test_all_right_all_wrong_and_half_finished(benchmark: str, known: dict[str, Any], tmp_path: Path) -> None:
    """One question of each category in turn. Every second answer of the last server is cut off: half the score, and told."""
    for how, score in ((right, 1.0), (wrong, 0.0)):

        def says(expected: Any, tools: bool, how: Callable[..., dict[str, Any]] = how) -> tuple[dict[str, Any], str]:
            return how(expected, tools), "stop"

        with scripted(Scripted(says, known)) as server:
            rows = asked(server, tmp_path / how.__name__, benchmark)
            assert [r.score for r in rows] == [score] * 12, [r for r in rows if r.score != score]
            assert all(r.finished and not r.fault for r in rows)
            assert [r.subset for r in rows] == [c for c in CATEGORIES for _ in range(3)]
            assert sum(server.asked.values()) == 12
            assert all(b["max_tokens"] == 4_096 and b["model"] == "any/name" for b in server.bodies)
            assert asked(server, tmp_path / how.__name__, benchmark) == rows
            assert sum(server.asked.values()) == 12
    cut = iter(range(100))
    half = Scripted(lambda e, tools: (right(e, tools), "length" if next(cut) % 2 else "stop"), known)
    with scripted(half) as server:
        rows = asked(server, tmp_path / "half", benchmark)
    assert sum(r.finished for r in rows) == 6
    assert all(r.score == float(r.finished) for r in rows)
    told = {t.name: t for t in totals(rows)}
    assert told["non-live"].value is None
    assert (told["non-live"].n, told["non-live"].of) == (9, 1_150)


def test_thoughts_are_no_answer(known: dict[str, Any], tmp_path: Path) -> None:
    """What is called within a thought does not count; one that does not end is no answer, though no call is right there."""

    def thinks(expected: Any, tools: bool) -> tuple[dict[str, Any], str]:
        said = right(expected, tools)["content"]
        if expected is None:
            return {"role": "assistant", "content": "<think>I must not"}, "length"
        return {"role": "assistant", "content": f"<think>[other(x=1)]</think>\n{said}"}, "stop"

    with scripted(Scripted(thinks, known)) as server:
        rows = asked(server, tmp_path, "bfcl", 4)
    assert [(r.subset, r.score) for r in rows] == [
        ("simple_python", 1.0), ("multiple", 1.0), ("parallel", 1.0), ("irrelevance", 0.0)
    ]  # fmt: skip
    assert [r.thoughts for r in rows] == ["[other(x=1)]"] * 3 + ["I must not"]


def test_a_server_that_fails_is_no_wrong_answer(known: dict[str, Any], tmp_path: Path) -> None:
    """Nobody answers: no score, and the fault; when somebody does, the same command asks."""
    job = Job(
        benchmark="bfcl", model="m", url="http://127.0.0.1:9/v1", data=tmp_path, work=tmp_path, limit=4, at_once=4
    )
    rows = list(driver(PYTHON, CATEGORIES)(job))
    assert [r.score for r in rows] == [None] * 4
    assert all("Error during inference" in r.fault for r in rows)
    with scripted(Scripted(lambda e, tools: (right(e, tools), "stop"), known)) as server:
        assert [r.score for r in asked(server, tmp_path, "bfcl", 4)] == [1.0] * 4


RUN = """
import sys
from pathlib import Path
from assay.bench.reasoning.bfcl import driver
from assay.bench.reasoning.rows import Job
python, url, work = sys.argv[1:]
job = Job(benchmark="bfcl", model="m", url=url, data=Path(work), work=Path(work), limit=24, at_once=2)
list(driver(Path(python), ("simple_python", "multiple", "parallel", "irrelevance"))(job))
"""


def test_killed_and_gone_on(known: dict[str, Any], tmp_path: Path) -> None:
    """Killed with all its processes while two requests are out: those two are asked again, nothing that was answered is.
    (With the recorder of `assay policy bench` between, not even these.)"""
    server = Scripted(lambda e, tools: (right(e, tools), "stop"), known, most=9)
    with scripted(server):
        command = [sys.executable, "-c", RUN, str(PYTHON), server.url, str(tmp_path)]
        process = subprocess.Popen(command, start_new_session=True)
        while server.asked.total() < 11 and process.poll() is None:  # two requests are out, and stay so
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        server.opened.set()
        rows = asked(server, tmp_path, "bfcl", 24)
    assert [r.score for r in rows] == [1.0] * 24
    assert 24 <= sum(server.asked.values()) <= 26
    assert max(server.asked.values()) <= 2


def test_repeats_are_answers_of_their_own(known: dict[str, Any], tmp_path: Path) -> None:
    """Each question as often as was said, in rows of its repeat; the second time they are begun anew."""
    with scripted(Scripted(lambda e, tools: (right(e, tools), "stop"), known)) as server:
        job = Job(benchmark="bfcl", model="m", url=server.url, data=tmp_path, work=tmp_path, limit=4, repeats=2)
        for times in (1, 2):
            rows = list(driver(PYTHON, CATEGORIES)(job))
            assert [r.repeat for r in rows] == [0] * 4 + [1] * 4
            assert set(server.asked.values()) == {2 * times}
    assert [b["seed"] for b in server.bodies] == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4


def test_the_counts_are_those_of_the_package(known: dict[str, Any]) -> None:
    data = next((PYTHON.parent.parent / "lib").glob("python*/site-packages/bfcl_eval/data"))
    for category, of in SIZES.items():
        lines = (data / f"BFCL_v4_{category}.json").read_text().splitlines()
        assert len([x for x in lines if x.strip()]) == of, category
