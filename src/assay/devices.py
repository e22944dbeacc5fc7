"""What this machine computes with: its accelerators (counted without claiming one), number formats and compiler."""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

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


def attention_for(max_tokens: int) -> str | None:
    """Eager attention for short inputs on a CPU, where the fused kernel's backward pass took half of a training step."""
    return "eager" if _kind() == "cpu" and max_tokens <= 1024 else None


def device() -> torch.device:
    """This process's accelerator by its number, else the CPU. Under torchrun that is the one which `step.Engine` took for
    this process, so the engine comes before any model; without one it is the first."""
    kind = _kind()
    return torch.device(kind) if kind == "cpu" else torch.device(kind, torch.accelerator.current_device_index())


def _kind() -> str:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def computes_in_half(precision: str) -> bool:
    """Whether to compute in bfloat16: as asked ("bf16", "fp32"), or for "auto" where this machine's device has instructions
    for it. Most CPUs without AVX512-BF16 or AMX emulate it, several times slower than fp32."""
    if precision != "auto":
        return precision == "bf16"
    where = _kind()
    if where == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return where != "cuda" or bool(torch.cuda.is_bf16_supported(including_emulation=False))


WORTH_COMPILING = 5e13
"""Floating-point operations of a run above which half a minute of compiling is repaid."""


def compile_layers(model: torch.nn.Module, layers: Sequence[str], wanted: str, tokens: float) -> bool:
    """Fuse the elementwise work of each layer (class names in `layers`) and norm; packed attention stays opaque in it.

    `wanted` is "on", "off", or "auto": where training on so many `tokens` repays it. Says whether it was done.
    """
    work = 6 * tokens * sum(p.numel() for n, p in model.named_parameters() if "embed" not in n)
    if not (wanted == "on" or (wanted == "auto" and work > WORTH_COMPILING)) or not can_compile():
        return False
    for name, module in model.named_modules():
        if type(module).__name__ in layers or name.endswith("norm"):
            module.compile(dynamic=True)
    return True


def can_compile() -> bool:
    """Inductor needs a C++ compiler and Python's headers on a CPU, Triton on a GPU."""
    if _kind() != "cpu":
        return importlib.util.find_spec("triton") is not None
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return bool(shutil.which("g++") or shutil.which("clang++")) and headers.exists()
