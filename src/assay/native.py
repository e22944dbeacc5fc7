"""Small compiled helpers for CPUs: built by the machine's own C++ compiler at their first use, with the instructions it has.

Every one of them is an `extern "C"` library of one source file (a second or less, in a temporary folder) and has a slower
equal in PyTorch or Python, which runs where there is no compiler; tests compare the two.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
"""Not -ffast-math: a library linked with it turns off subnormal numbers for the whole process."""


@functools.cache
def library(source: Path) -> Any:
    """The built library, or None where there is no compiler that can build it. OpenMP is used where the compiler has it."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="assay-") as folder:
        target = Path(folder) / f"{source.stem}.so"
        for more in (("-fopenmp",), ()):
            command = [compiler, *FLAGS, *more, "-I", Path(__file__).parent, "-o", target, source]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return ctypes.CDLL(str(target))
    return None


class Tensor(Protocol):
    """PyTorch's, which the core does not load."""

    def data_ptr(self) -> int: ...


def pointer(x: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers are; null for none."""
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def places(*of: NDArray[Any] | int) -> list[ctypes.c_void_p]:
    """Where arrays' numbers are; what is a place already stays."""
    return [ctypes.c_void_p(x if isinstance(x, int) else x.ctypes.data) for x in of]


def longs(*values: int) -> list[ctypes.c_long]:
    return [ctypes.c_long(v) for v in values]
