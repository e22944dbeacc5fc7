"""`assay policy pairs` and `assay policy filter` by two real vLLM servers: killed with -9 and resumed, on one process and on
two of torchrun. What a server has answered is asked for once.

Servers run in vLLM's environment (`make test-vllm`), the commands here.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import assay_line
from real_vllm import PYTHON, Door, ended, killed, serving, smollm2, smollm2_there, sums
from test_processes import torchrun

from assay.tables import Table
from assay.tuning import parted
from assay.tuning.own_pairs import SampledPreference

pytestmark = [pytest.mark.slow, smollm2_there]
if not PYTHON:
    pytest.skip("NOT TESTED: no vLLM here; run `make test-vllm`", allow_module_level=True)
QUESTIONS = 72
"""Three parts."""
TABLES = {"pairs": "pairs", "filter": "answers"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("questions")
    smollm2(home / "smol")
    sums(home / "sums.jsonl", QUESTIONS)
    return home


@pytest.fixture(scope="module")
def doors(home: Path) -> Iterator[list[Door]]:
    with serving(home / "smol", 2, "--max-model-len", "256") as doors:
        yield doors


def asking(home: Path, doors: Sequence[Door], what: str, out: str) -> list[str]:
    told = [
        "policy", what, home / "smol", home / "sums.jsonl", "--out", home / out, "--vllm", *(d.url for d in doors),
        "--samples", 4, "--sampler.max-tokens", 12, "--instruction", "Reply with the number only.",
        "--policy.precision", "fp32",
    ]  # fmt: skip
    return [*map(str, told), *(["--form", "none"] if what == "pairs" else [])]


def by(processes: int, arguments: Sequence[str]) -> list[str]:
    """As a user types it."""
    return assay_line(*arguments) if processes == 1 else [sys.executable, *torchrun(), "-m", "assay", *arguments]


def read(out: Path) -> list[Any]:
    if out.is_dir():
        return Table(out, SampledPreference).read()
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize(("what", "processes"), [("pairs", 1), ("filter", 2)])
def test_what_was_answered_before_a_kill_is_not_asked_again(
    home: Path, doors: list[Door], what: str, processes: int
) -> None:
    suffix, answered = "" if what == "pairs" else ".jsonl", doors[0].answered
    answered.clear()
    once, again = home / f"once-{what}{suffix}", home / f"again-{what}{suffix}"
    told = ended(by(3 - processes, asking(home, doors, what, once.name)))
    assert told.count("answers by ") == 1, "rank 0 alone speaks"
    assert list(answered.values()) == [1] * QUESTIONS
    answered.clear()
    line = by(processes, asking(home, doors, what, again.name))

    def kept() -> int:
        partial = home / f"{again.name}.partial"
        lines = [file.read_text().count("\n") for file in partial.glob("asked/*.jsonl")]
        whole = len(list(partial.glob(f"tables/{TABLES[what]}/*.parquet")))
        return sum(n for n in lines if n < parted.PART) + parted.PART * max(whole, lines.count(parted.PART))

    for answers in (20, 25):
        killed(line, doors[0], answers, kept)
        assert not again.exists()
        assert answered.total() == len(answered)
    ended(line)
    assert list(answered.values()) == [1] * QUESTIONS, "each question was answered once"
    assert read(again) == read(once)
    assert read(once)
    assert not list(home.glob("*.partial"))
