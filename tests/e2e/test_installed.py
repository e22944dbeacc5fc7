"""The package from its files alone, in an environment of its own, outside the repository: the main job is run."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import assay
from built import ROOT, build

SMALL = """--stage1.iterations 1 --stage1.seed-gold 30 --stage1.seed-silver 60 --stage1.per-iteration 10 --train.epochs 1
--train.max-tokens 64 --presentations 64 --embedder hash"""
"""Settings with which `assay run tiny` ends soon."""


def test_a_wheel_of_the_sdist_is_that_of_the_tree(tmp_path: Path) -> None:
    packed = build(tmp_path, "sdist")
    with tarfile.open(packed) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = tmp_path / "again"
    again.mkdir()
    names = [zipfile.ZipFile(w).namelist() for w in (build(again, source=source), build(tmp_path))]
    assert sorted(names[0]) == sorted(names[1])


@pytest.mark.slow
def test_the_main_job_runs_from_the_wheel(tmp_path: Path) -> None:
    wheel = build(tmp_path / "built")
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}

    def run(*argv: str) -> str:
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1_800, check=False)
        assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    pip = (str(place / "bin" / "pip"), "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-compile", "-c", str(ROOT / "constraints.txt"), f"assay-rm[tiny] @ {wheel.as_uri()}")
    python, command = str(place / "bin" / "python"), str(place / "bin" / "assay")
    assert run(python, "-c", "import assay; print(assay.__file__)").startswith(str(place))
    assert run(command, "--version") == run(python, "-m", "assay", "--version") == f"assay {assay.__version__}\n"
    assert "report: " in run(command, "run", "tiny", "--out", "runs/tiny", *SMALL.split())
    assert (tmp_path / "runs" / "tiny" / "report.html").stat().st_size > 10_000
    said = subprocess.run(
        [command, "watch", "runs/tiny"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert "pip install 'assay-rm[web]'" in said.stderr, "an extra that is not there says how to install it"
