"""A language model as the reward, to the end of `assay policy grpo`: SmolLM2 behind a real vLLM judges SmolLM2's sums. A
budget that is spent, a kill -9, and the same command again: every answer is judged once.

The server runs in vLLM's environment (`make test-vllm`), the commands here.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import assay_line
from real_vllm import PYTHON, Door, ended, killed, serving, smollm2, smollm2_there, sums

from assay.journal import read
from assay.policy import shown

pytestmark = [pytest.mark.slow, smollm2_there]
if not PYTHON:
    pytest.skip("NOT TESTED: no vLLM here; run `make test-vllm`", allow_module_level=True)
STEPS = 3
TIMES = ("sample_cpu_s", "update_cpu_s")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("judged")
    smollm2(home / "smol")
    sums(home / "sums.jsonl", 12)
    (home / "prices.toml").write_text('["judge"]\nin = 1000\nout = 1000\n')
    return home


@pytest.fixture(scope="module")
def judge(home: Path) -> Iterator[Door]:
    with serving(home / "smol", 1, "--max-model-len", "1024", "--served-model-name", "judge") as (door,):
        yield door


def training(home: Path, judge: Door, out: str, *more: object) -> list[str]:
    return assay_line(
        "policy", "grpo", home / "smol", home / "sums.jsonl", "--out", home / out, "--steps", STEPS, "--prompts", 2,
        "--group", 4, "--lr", 1e-5, "--save-every", 1, "--sampler.max-tokens", 12, "--policy.last-layers", 1,
        "--reward-model", f"judge:judge@{judge.url}/v1", "--judge-tokens", 48, "--rewards.combine", "sum",
        "--rewards.form", "none", "--signal", "total", "--ask.prices", home / "prices.toml", *more,
    )  # fmt: skip


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read(folder / "metrics.jsonl")]


@pytest.mark.parametrize("how", ["points", "group"])
def test_a_judge_is_the_reward_to_the_end_of_a_training(home: Path, judge: Door, how: str) -> None:
    once, again, by = home / f"once-{how}", home / f"again-{how}", ("--judge-by", how)
    judge.answered.clear()
    told = ended(training(home, judge, once.name, *by))
    asked = judge.answered.copy()
    assert set(asked.values()) == {1}, "nothing is asked twice"
    judge.answered.clear()
    said = ended(training(home, judge, again.name, *by, "--ask.budget", 2), code=3)
    assert "budget" in said
    assert 0 < len(judge.answered) < len(asked)

    def kept() -> int:
        with closing(sqlite3.connect(home / f"{again.name}.images.judge.sqlite")) as file:
            return int(file.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    killed(training(home, judge, again.name, *by, "--ask.budget", 1_000), judge, 3, kept)
    assert not again.exists()
    ended(training(home, judge, again.name, *by, "--ask.budget", 1_000))
    assert judge.answered == asked, "each of the same requests was answered once"
    rows = metrics(again)
    assert rows == metrics(once)
    assert len(rows) == STEPS
    # under a schema SmolLM2 copies the score of the prompt's example, or finds both alike: no signal, and no failure
    assert {row["model"] for row in rows} == {0.7 if how == "points" else 0.5}
    assert "the judge failed on" not in told
    answers = shown.read(again)
    assert {a.step for a in answers} == set(range(1, STEPS + 1))
    assert len(answers) == 8 * STEPS
    assert {a.raw for a in answers} == {0.7 if how == "points" else 0.5}
    ended(assay_line("policy", "report", again))
    assert "model" in (again / "report.html").read_text()
    assert json.loads((again / "training.json").read_text())["steps"] == STEPS
