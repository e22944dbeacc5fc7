"""The commands of docs/scale.md for a node of 8 GPUs are ones that can be typed: each is parsed, and nothing is run."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from assay.__main__ import main
from assay.tuning import own_evaluate, own_filter, own_grpo, own_pairs

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
STAGES = {
    "evaluate": (own_evaluate, "run_evaluate"), "pairs": (own_pairs, "run_pairs"), "mpo": (own_pairs, "run_mpo"),
    "filter": (own_filter, "run_filter"), "grpo": (own_grpo, "run_grpo"),
}  # fmt: skip


def lines() -> list[str]:
    section = PAGE.split("## One node of 8 GPUs")[1].split("\n## ")[0]
    [block] = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return [line for line in block.splitlines() if " assay " in f" {line}" and "policy" in line and line[0] != "#"]


@pytest.mark.parametrize("line", lines(), ids=lambda line: re.search(r"policy (\w+)", line)[1])
def test_a_line_of_the_page_is_parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Any, ...]] = []
    for module, name in STAGES.values():
        monkeypatch.setattr(module, name, lambda *given: called.append(given) or "")
    words = shlex.split(line)
    rest = words[words.index("assay") + 1 :]
    monkeypatch.setattr(sys, "argv", ["assay", *rest])
    main()
    [given] = called
    assert rest[0] == "policy"
    assert rest[2] == given[0], "the model"
    assert str(given[1]) == rest[3]


def test_the_page_has_every_stage_in_order() -> None:
    names = [re.search(r"policy (\w+)", line)[1] for line in lines()]  # type: ignore[index]
    assert list(dict.fromkeys(names)) == ["evaluate", "pairs", "mpo", "filter", "grpo"]
    assert names[-1] == "evaluate"
    assert all("--out" in line for line in lines())


def test_trackers_that_the_lines_name_are_installed_by_the_first() -> None:
    [install] = re.findall(r"^pip install .*vllm.*$", PAGE, re.MULTILINE)
    named = {word for line in lines() for word in re.findall(r"--trackers (\w+)", line)}
    assert named
    assert all(word in install.split() for word in named)
