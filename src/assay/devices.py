"""The accelerators of this machine, and which of them a process sees. They are counted without claiming one."""

import os

import torch

VISIBLE = {
    "cuda": ("CUDA_VISIBLE_DEVICES",), "hip": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    "xpu": ("ZE_AFFINITY_MASK",), "npu": ("ASCEND_RT_VISIBLE_DEVICES",),
}  # fmt: skip
"""By kind of accelerator: the variables that say which ones a process sees, read when its libraries are loaded."""


def count() -> int:
    """How many accelerators this process sees; 0 where it computes on the CPU."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def replicas(processes: int) -> list[dict[str, str]]:
    """The environment of each of so many processes of this machine that hold a model.

    Each sees one of the accelerators that this process sees, in their order; on a CPU they share the cores, and nothing is
    set. Of a kind that we cannot part, one process has all.
    """
    if not count():
        return [{} for _ in range(processes)]
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    names = VISIBLE.get("hip" if torch.version.hip else accelerator.type, ())
    said = next((os.environ[n] for n in names if os.environ.get(n)), "")
    seen = [one.strip() for one in said.split(",")] if said else [str(n) for n in range(count())]
    return [dict.fromkeys(names, one) for one in seen[: min(processes, count())]] if names else [{}]
