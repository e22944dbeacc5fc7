"""vLLM's own weight transfer, from GPU to GPU: CUDA IPC to an engine on the same device, NCCL to servers on others.

Never run: it needs GPUs on both sides. What goes over is tested (names, order, shapes, values: what shared memory carries);
the calls are those of vLLM 0.32's own examples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assay.errors import AssayError
from assay.policy import vllm_weights


@dataclass(frozen=True, slots=True)
class Outline:
    """A weight as it will come: vLLM's ParamMeta."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Source:
    """What training can have changed, as vLLM's transfers read it (its WeightSource): twice in the same order, once without
    the values. Of weights in shards every process must iterate."""

    def __init__(self, inner: Any, dtype: torch.dtype, device: torch.device | str) -> None:
        self.inner, self.dtype, self.device = inner, dtype, device
        self.names = vllm_weights.trained(inner)

    def metadata(self) -> list[Outline]:
        return [Outline(n, x.dtype, tuple(x.shape)) for n, x in self._on("meta")]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._on(self.device)

    def _on(self, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
        for part in vllm_weights.parts(self.inner, self.names, self.dtype, device):
            yield from part.items()


class Beside:
    """An engine in this process, as vLLM's transfers speak to one."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        self.llm.start_weight_update()

    def update_weights(self, update_info: Any) -> None:
        self.llm.update_weights({"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.llm.finish_weight_update()


def needs_gpu(kind: str) -> None:
    if not torch.cuda.is_available():
        raise AssayError(f"--vllm-weights {kind} goes from GPU to GPU, and there is none here: leave it at memory")


def ipc(source: Source, llm: Any) -> Any:
    """A transfer to an engine on this process's own GPU; `send_weights` is a collective operation of all processes."""
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCTrainerWeightTransferEngine

    return IPCTrainerWeightTransferEngine.trainer_init(
        IPCTrainerInitInfo(rank=0, packed=True), client=Beside(llm), source=source
    )


def nccl(source: Source, client: Any, workers: int, rank: int) -> Any:
    """A transfer to a server with so many workers, by rank 0; of shards all processes must call `send_weights`."""
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine
    from vllm.utils.network_utils import get_ip, get_open_port

    info = NCCLTrainerInitInfo(
        master_address=get_ip(), master_port=get_open_port(), world_size=workers + 1, rank=rank, packed=True
    )
    return NCCLTrainerWeightTransferEngine.trainer_init(info, client=client, source=source)
