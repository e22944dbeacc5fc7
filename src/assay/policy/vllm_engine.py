"""vLLM in processes of its own beside this one: started, given weights, asked, ended."""

import os
import re
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from assay.errors import AssayError, missing_extra
from assay.policy import vllm_lora, vllm_node, vllm_transfer, vllm_weights
from assay.policy.config import VllmConfig
from assay.policy.model import Policy
from assay.processes import this_process

LAUNCHED = re.compile(r"(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_\w+|ROLE_\w+|MASTER_\w+|TORCHELASTIC_\w+)")
"""What torchrun tells its processes: a vLLM that reads it takes itself for one of them."""
GRACE_S = 30.0
"""For an engine to end by itself; then it is killed."""
FIRST_PORT, PORTS = 29_700, 100
"""Engines of one machine look for their ports from here, each in a range of its own."""


class Engine:
    """A vLLM that serves the policy's weights, in its own processes and on this process's device.

    Args:
        policy: Whose weights are served: those of now, then those of the last `take`.
        config: vLLM's options.
        within: Where a folder is made for as long as the engine starts, as large as the model; under torchrun one on each
            machine, which all its processes see.
        options: Of `vllm.LLM`, instead of ours.

    Under torchrun every process makes one, at the same time. `collective`: they must `take` weights together, too.

    Raises AssayError where vLLM is not installed, or cannot load the policy.
    """

    def __init__(
        self, policy: Policy, config: VllmConfig, seed: int = 0, within: Path | None = None, **options: Any
    ) -> None:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            import vllm
        except ImportError as error:
            raise missing_extra("vllm", "vllm") from error
        self.policy, self.vllm = policy, vllm
        self.step: int | None = None
        """Of the policy that was last taken over, where its sampler said so."""
        name = {"auto": "bfloat16" if policy.bf16 else "float32"}.get(config.vllm_dtype, config.vllm_dtype)
        self.dtype: torch.dtype = getattr(torch, name)
        if within is not None:
            within.mkdir(parents=True, exist_ok=True)
        over = config.vllm_weights
        more = vllm_lora.options(policy) if over == "lora" else {}
        if over == "ipc":
            vllm_transfer.needs_gpu(over)
            os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # handles of device memory, to our own child
            more = {"weight_transfer_config": {"backend": "ipc"}}
        self.folder = Path(mkdtemp(prefix="vllm-", dir=within))
        ours: dict[str, Any] = {
            "dtype": name, "seed": seed, "gpu_memory_utilization": config.vllm_memory, "generation_config": "vllm",
            "tensor_parallel_size": config.vllm_parallel, "max_model_len": config.vllm_length or -1,
            "enforce_eager": config.vllm_eager, "worker_extension_cls": "assay.policy.vllm_worker.Weights", **more,
        }  # fmt: skip
        if policy.model.device.type == "cpu":  # there vLLM 0.32 dies of a seed whose prompt is read in two steps
            ours["enable_chunked_prefill"] = False
        try:
            if vllm_node.writes():
                vllm_weights.write_checkpoint(policy, self.folder, self.dtype, adapters=over != "lora")
            checkpoint = vllm_node.from_writer(str(self.folder) if vllm_node.writes() else None)
            with _own_place(config):
                _able(type(policy.inner).__name__, policy.model.device.type, checkpoint, {**ours, **options})
                self.llm: Any = _started(checkpoint, {**ours, **options})
        except AssayError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        except Exception as error:  # whatever a class of vLLM's meets there
            shutil.rmtree(self.folder, ignore_errors=True)
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise AssayError(
                f"vLLM cannot serve {type(policy.inner).__name__} here: {said} - what its engine says above has the "
                "reason; --backend auto samples without vLLM"
            ) from error
        vllm_node.wait()
        for file in self.folder.glob("*.safetensors"):  # from here on weights come through memory
            file.unlink()
        self.end = weakref.finalize(self, _end, self.llm, self.folder)
        self.room: int = self.llm.llm_engine.model_config.max_model_len
        self._do(lambda: self.llm.collective_rpc("end_with", args=(this_process(), os.getpid())))
        self.collective = over in ("ipc", "memory") and vllm_node.many()
        self.adapter = vllm_lora.Adapter(policy, self.llm, self.dtype, self.folder) if over == "lora" else None
        if self.adapter is not None:
            self._do(self.adapter.take)
        self.transfer: Any = None
        if over == "ipc":
            source = vllm_transfer.Source(policy.inner, self.dtype, policy.model.device)
            self.transfer = self._do(lambda: vllm_transfer.ipc(source, self.llm))

    def take(self) -> None:
        """Hand over what training can have changed, and forget what was made with the weights before: keys of prompts, and
        features of pictures (which the scheduler would still believe to be there)."""
        inner = self.policy.inner
        names = vllm_weights.trained(inner)
        if not names:
            return
        if self.adapter is not None:
            self._do(self.adapter.take)
        elif self.transfer is not None:
            self._do(self._send)
        else:
            self._by_memory(names)
        core = self.llm.llm_engine
        self._do(lambda: (core.reset_prefix_cache(), core.reset_mm_cache(), core.reset_encoder_cache()))

    def _by_memory(self, names: list[str]) -> None:
        """One process of a machine writes the weights for all its engines."""
        inner, writes = self.policy.inner, vllm_node.writes()
        if not writes and self.policy.gathered is not None:  # of shards all processes gather
            for _ in vllm_weights.parts(inner, names, self.dtype, self.policy.model.device):
                pass
        with vllm_weights.shared(inner, names, self.dtype, self.folder) if writes else nullcontext() as own:
            files = vllm_node.from_writer(own)
            self._do(lambda: self.llm.collective_rpc("take_weights", args=(files,)))
            vllm_node.wait()  # until all have read them

    def _send(self) -> None:
        self.llm.collective_rpc("before_weights")
        self.transfer.send_weights()
        self.llm.collective_rpc("after_weights")

    def generate(self, prompts: list[dict[str, Any]], settings: list[Any]) -> list[Any]:
        """vLLM's outputs, in order."""
        by = self.adapter.request if self.adapter is not None else None
        return list(self._do(lambda: self.llm.generate(prompts, settings, use_tqdm=False, lora_request=by)))

    def _do(self, work: Any) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        if self.llm is None:
            raise AssayError("this engine of vLLM was closed")
        try:
            return work()
        except EngineDeadError as error:
            raise AssayError(
                "vLLM's engine has died; what it says above has the reason (often memory: lower --vllm-memory, "
                "--vllm-cache or --vllm-length). The same command goes on from the last checkpoint"
            ) from error

    def close(self) -> None:
        """End the engine's processes and remove its folder, which otherwise comes when nothing holds it any more; again is
        harmless."""
        self.llm = self.adapter = self.transfer = None
        self.end()


def _started(folder: str, options: dict[str, Any]) -> Any:
    """In a frame of its own, without the `Engine`: vLLM keeps the one that made it alive."""
    from vllm import LLM

    return LLM(model=folder, **options)


def _able(name: str, device: str, folder: str, options: dict[str, Any]) -> None:
    """Raise AssayError where vLLM 0.32 cannot serve a class so. Its attention on CPUs lets each of a picture's tokens see
    those before it alone, also where they see each other both ways (Gemma 3), and does not say so."""
    from vllm import EngineArgs
    from vllm.model_executor.model_loader.utils import get_model_architecture
    from vllm.model_executor.models import supports_lora

    model = EngineArgs(model=folder, **options).create_model_config()
    if device == "cpu" and model.is_mm_prefix_lm:
        raise AssayError(
            f"vLLM does not compute {name} rightly on a CPU: a picture's tokens see each other both ways, and its attention "
            "there lets each see those before it alone. Use --backend auto, or a GPU"
        )
    if options.get("enable_lora") and not supports_lora(get_model_architecture(model)[0]):
        raise AssayError(
            f"vLLM serves {name} without adapters: leave --vllm-weights at memory, which adds them in before they go over"
        )


def _end(llm: Any, folder: Path) -> None:
    llm.llm_engine.engine_core.shutdown(timeout=GRACE_S)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _own_place(config: VllmConfig) -> Iterator[None]:
    """The environment that a starting engine reads: this process's device alone, ports of its own, no torchrun."""
    rank, world = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    wanted: dict[str, str | None] = {
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", str(config.vllm_cache))
    }
    if world > 1:
        if config.vllm_parallel > 1:
            raise AssayError("under torchrun every process has an engine on its own GPU: leave --vllm-parallel at 1")
        wanted |= {n: None for n in os.environ if LAUNCHED.fullmatch(n)}
        wanted["VLLM_PORT"] = os.environ.get("VLLM_PORT", str(FIRST_PORT + rank * PORTS))
        if torch.cuda.is_available():
            seen = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
            wanted["CUDA_VISIBLE_DEVICES"] = seen[rank] if seen else str(rank)
    before = {n: os.environ.get(n) for n in wanted}
    try:
        _set(wanted)
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
