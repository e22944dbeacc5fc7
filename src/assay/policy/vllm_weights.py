"""A policy's weights as vLLM's checkpoint names them, and those that training can have changed, in shared memory.

vLLM's own transfer engines (`vllm_transfer`) need GPUs on both sides. Shared memory works on GPUs and CPUs alike: one copy
to the host and one from it, of what trains only, in the precision of the engine; nothing touches a disk.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from assay import vision
from assay.policy.saving import as_it_came, base_weight

SHARED = Path("/dev/shm")
MARK = "assay-vllm-"
PART = 1 << 30
"""Bytes of weights that are gathered before they are written: what a transfer takes of memory besides its files."""
Source = partial[Tensor]


def sources(inner: Any, adapters: bool = True) -> dict[str, Source]:
    """What gives each weight and statistic of a model, low-rank adapters added in (or not), under the names that it has
    without adapters; a tied head is left out. Nothing is computed or gathered before it is asked for."""
    found: dict[str, Source] = {}
    seen: set[int] = set()
    for name, value in inner.state_dict(keep_vars=True).items():
        if ".lora_" in name or id(value) in seen:
            continue
        seen.add(id(value))
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner and leaf.startswith("weight."):  # how 4 bits are read
            continue
        if owner and leaf == "weight":
            found[f"{owner}.{leaf}"] = partial(_merged, inner.get_submodule(owner), adapters)
        else:
            found[f"{owner}.{leaf}" if owner else name] = partial(_full, value)
    return found


def _merged(module: Any, adapters: bool) -> Tensor:
    weight = _full(base_weight(module.base_layer)).float()
    for adapter in module.active_adapters if adapters else ():
        weight = weight + _full(module.get_delta_weight(adapter)).to(weight)
    return weight


def _full(value: Tensor) -> Tensor:
    """The whole of a weight that lies in shards on several processes: all of them must ask, in the same order."""
    gather = getattr(value, "full_tensor", None)
    return (gather() if gather else value).detach()


def trained(inner: Any) -> list[str]:
    """The names of `sources` that training can change, and their neighbours in the same block of the model: vLLM joins some
    of them (queries, keys and values), and loads such a layer whole or not at all."""
    names = [n for n, p in inner.named_parameters() if p.requires_grad]
    changed = {_block(re.sub(r"\.lora_.*", ".weight", n).replace(".base_layer.", ".")) for n in names}
    return [n for n in sources(inner) if _block(n) in changed]


def _block(name: str) -> str:
    """model.layers.0.self_attn of model.layers.0.self_attn.q_proj.weight"""
    return ".".join(name.split(".")[:-2])


def named(inner: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as a checkpoint of the model's class holds them, which is what vLLM reads.

    transformers 5 has taken a level out of CLIP's and SigLIP's names; vLLM's LLaVA still has it.
    """
    from transformers.core_model_loading import revert_weight_conversion

    made: dict[str, Tensor] = revert_weight_conversion(inner, weights)
    if not _flat_tower(inner):
        return made
    return {re.sub(r"\b(vision_tower\.)(?!vision_model\.)", r"\1vision_model.", n, count=1): x for n, x in made.items()}


def _flat_tower(inner: Any) -> bool:
    tower = vision.vision_tower(inner) if vision.is_visual(inner) else None
    kind = getattr(getattr(tower, "config", None), "model_type", "")
    return kind in ("clip_vision_model", "siglip_vision_model") and not hasattr(tower, "vision_model")


@torch.no_grad()
def parts(
    inner: Any, names: Sequence[str], dtype: torch.dtype, device: torch.device | str = "cpu", adapters: bool = True
) -> Iterator[dict[str, Tensor]]:
    """The named weights on the host or on a device, in this precision, a gigabyte or one block of the model at a time. On
    the device "meta" nothing is computed or gathered: what the others will be like."""
    known, held, size = sources(inner, adapters), dict[str, Tensor](), 0
    for _, block in groupby(names, _block):
        for name in block:
            value = _outline(known[name]) if device == "meta" else known[name]()
            held[name] = value.to(device, dtype if value.is_floating_point() else value.dtype).contiguous()
            size += held[name].nbytes
        if size >= PART:
            yield named(inner, held)
            held, size = {}, 0
    if held:
        yield named(inner, held)


def _outline(source: Source) -> Tensor:
    of = source.args[0]
    if base := getattr(of, "base_layer", None):
        return torch.empty(base.out_features, base.in_features, device="meta")
    return torch.empty(of.shape, dtype=of.dtype, device="meta")


@contextmanager
def shared(
    inner: Any, names: Sequence[str], dtype: torch.dtype, within: Path, memory: bool = True
) -> Iterator[list[str]]:
    """Files of these weights in shared memory, or in `within` where that has no room (containers often give it 64 MB), or
    `memory` is False."""
    from safetensors.torch import save_file

    known = sources(inner)
    with place(sum(_outline(known[n]).numel() for n in names) * dtype.itemsize, within, memory) as folder:
        files = []
        for number, part in enumerate(parts(inner, names, dtype)):
            files.append(str(folder / f"{number:05d}.safetensors"))
            save_file(part, files[-1])
        yield files


@contextmanager
def place(need: int, within: Path, memory: bool = True) -> Iterator[Path]:
    """A folder with room for so many bytes of weights, for as long as they go over."""
    for old in SHARED.glob(f"{MARK}*"):  # of a process that was killed in the middle
        if time.time() - old.stat().st_mtime > 3_600:
            shutil.rmtree(old, ignore_errors=True)
    roomy = memory and SHARED.is_dir() and shutil.disk_usage(SHARED).free > 1.1 * need
    with TemporaryDirectory(prefix=MARK, dir=SHARED if roomy else within) as folder:
        yield Path(folder)


def write_checkpoint(policy: Any, folder: Path, dtype: torch.dtype, adapters: bool = True) -> None:
    """A folder that vLLM loads: config, processor, and all weights in its precision, low-rank adapters added in or left
    out."""
    from safetensors.torch import save_file

    inner = policy.inner
    with as_it_came(inner):
        inner.config.architectures = [type(inner).__name__]
        inner.config.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    places: dict[str, str] = {}
    for number, part in enumerate(parts(inner, list(sources(inner)), dtype, adapters=adapters)):
        name = f"model-{number:05d}.safetensors"
        save_file(part, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
