"""What the compiled helpers need of the process that they run in."""

import subprocess
import sys

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
