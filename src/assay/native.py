"""Small compiled helpers for CPUs: built by the machine's own C++ compiler at their first use, with the instructions it has.

Every one of them is an `extern "C"` library of one source file, and has a slower equal in PyTorch or Python, which runs
where there is no compiler; tests compare the two. A build takes a second or less, and is kept in the user's cache folder
(`$XDG_CACHE_HOME/assay` or `~/.cache/assay`) for the processes to come, under a name made of all that it depends on.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
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
    compiler = _compiler()
    if compiler is None:
        return None
    kept = _kept(source, compiler)
    try:
        return ctypes.CDLL(str(kept))
    except OSError:  # not there, or half of it, or of another machine
        pass
    with tempfile.TemporaryDirectory(prefix="assay-") as folder:
        target = Path(folder) / f"{source.stem}.so"
        for more in (("-fopenmp",), ()):
            command = [compiler, *FLAGS, *more, "-I", Path(__file__).parent, "-o", target, source]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                _keep(target, kept)
                return ctypes.CDLL(str(target))
    return None


def built(source: Path) -> bool:
    """Whether the library is there already, so that `library` takes no time."""
    compiler = _compiler()
    return compiler is not None and _kept(source, compiler).exists()


@functools.cache
def _compiler() -> str | None:
    return shutil.which("g++") or shutil.which("clang++")


@functools.cache
def _kept(source: Path, compiler: str) -> Path:
    """Where the build of a source is kept: by it and its headers, the compiler, its flags, and this processor."""
    texts = [
        f.read_bytes() for f in (source, *sorted({*Path(__file__).parent.glob("*.h"), *source.parent.glob("*.h")}))
    ]
    path = Path(compiler).resolve()
    told = [FLAGS, str(path), path.stat().st_mtime_ns, platform.machine(), platform.libc_ver(), processor()]
    name = hashlib.blake2b(b"\0".join([*texts, repr(told).encode()]), digest_size=12).hexdigest()
    return _cache() / "assay" / f"{source.stem}-{name}.so"


def _cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given) if given else Path.home() / ".cache"
    except RuntimeError:
        return Path(os.devnull)  # a user without a home, for whom nothing is kept


def processor() -> str:
    """What the processor can do, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "") + platform.processor()


def _keep(target: Path, kept: Path) -> None:
    """Copy a build to where the next process finds it; a cache that cannot be written is none."""
    half = kept.with_suffix(f".{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(target.read_bytes())
        half.replace(kept)
    except OSError:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)


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
