"""Low-rank adapters as vLLM serves them beside the model that they adapt: an update is the adapter's weights alone."""

import json
from pathlib import Path
from typing import Any

import torch

from assay.errors import AssayError
from assay.policy import vllm_weights
from assay.policy.model import Policy

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 makes room for."""


def options(policy: Policy) -> dict[str, Any]:
    """Of `vllm.LLM`. Raises AssayError where other weights train than adapters of the language model."""
    rank, parts = policy.config.lora_rank, policy.config.train
    if not rank or parts != ("llm",):
        raise AssayError(
            "--vllm-weights lora sends adapters of the language model and nothing else: it needs --policy.lora-rank and "
            "--policy.train llm"
        )
    if rank > RANKS[-1]:
        raise AssayError(f"--vllm-weights lora: vLLM has adapters up to rank {RANKS[-1]}, not {rank}")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in RANKS if r >= rank)}


@torch.no_grad()
def write(policy: Policy, folder: Path, dtype: torch.dtype) -> None:
    """The adapter as peft saves it. Of shards every process must call this."""
    from safetensors.torch import save_file

    mark = ".default."
    weights = {
        n.replace(mark, "."): vllm_weights._full(x).to("cpu", dtype).contiguous()
        for n, x in policy.model.state_dict().items() if ".lora_" in n and mark in n
    }  # fmt: skip
    save_file(weights, folder / "adapter_model.safetensors")
    config = policy.model.peft_config["default"].to_dict()
    told = {n: sorted(x) if isinstance(x, set) else x for n, x in config.items()}
    (folder / "adapter_config.json").write_text(json.dumps(told, default=str))


class Adapter:
    """The adapter that an engine of vLLM answers by: a new number for every update, and the one before it is dropped."""

    def __init__(self, policy: Policy, llm: Any, dtype: torch.dtype, within: Path) -> None:
        self.policy, self.llm, self.dtype, self.within = policy, llm, dtype, within
        self.request: Any = None

    def take(self) -> None:
        from vllm.lora.request import LoRARequest

        number = self.request.lora_int_id + 1 if self.request else 1
        adapters = sum(p.numel() for n, p in self.policy.named_parameters() if ".lora_" in n)
        with vllm_weights.place(adapters * self.dtype.itemsize, self.within) as folder:
            write(self.policy, folder, self.dtype)
            request = LoRARequest(f"step-{number}", number, str(folder))
            if self.request is not None:
                self.llm.llm_engine.remove_lora(self.request.lora_int_id)
            if not self.llm.llm_engine.add_lora(request):
                raise AssayError("vLLM did not take the adapter: what its engine says above has the reason")
        self.request = request
