"""What the compiled helpers need of the process that they run in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, torch
from assay.memory import keep_freed_memory
if {kept}:
    keep_freed_memory()
for _ in range(10):
    torch.ones(1 << 24).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator only")
def test_freed_memory_is_kept_for_the_next_tensor() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS.format(kept=kept)], capture_output=True, check=True).stdout)
        for kept in (False, True)
    ]
    # 64 MB ten times are 160,000 pages of 4 KB. Where the heap happens to lie, it may have to grow once or twice more.
    assert faults[1] < faults[0] / 3


BUILD = """
import sys
from pathlib import Path
from pathlib import Path
from assay import native
source = Path(sys.argv[1])
was = native.built(source)
print(was, native.library(source).seven())
"""


def test_a_build_is_kept_for_other_processes_and_made_again_for_another_source(tmp_path: Path) -> None:
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no compiler")
    source, cache = tmp_path / "seven.cpp", tmp_path / "cache"

    def said() -> str:
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        made = subprocess.run(
            [sys.executable, "-c", BUILD, source], capture_output=True, check=True, env=environment, text=True
        )
        return made.stdout.strip()

    source.write_text('extern "C" int seven() { return 7; }')
    assert [said(), said()] == ["False 7", "True 7"]
    source.write_text('extern "C" int seven() { return 8; }')
    assert said() == "False 8"
    for kept in (cache / "assay").iterdir():
        kept.write_bytes(kept.read_bytes()[:100])
    assert said() == "True 8", "half a file is built again"
    shutil.rmtree(cache)
    cache.write_text("a file where the cache would be")
    assert said() == "False 8"
