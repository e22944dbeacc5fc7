"""The package as it is built: a copy of what the tree has for it, and the wheel or sdist that setuptools makes of that."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "src")


def build(folder: Path, kind: str = "wheel", source: Path | None = None) -> Path:
    """The wheel or `sdist`, built in a process of its own, without a network, and without writing to the tree."""
    copy = folder / "tree"
    if source is None and not copy.exists():
        copy.mkdir(parents=True)
        for name in PARTS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy2(ROOT / name, copy / name)
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source or copy, capture_output=True, text=True, timeout=1_200, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]
