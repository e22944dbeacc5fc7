"""What runs inside vLLM's workers: weights from shared memory into the model that is being served.

vLLM makes its worker a child of `Weights` (`worker_extension_cls`), so `collective_rpc` reaches it by name, also from a
server that was started with `--worker-extension-cls assay.policy.vllm_worker.Weights` (`vllm_live`). Written against vLLM
0.32.
"""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assay.processes import alive

logging.getLogger("vllm.model_executor.model_loader.reload").setLevel(logging.ERROR)
"""It warns at every update of each layer that did not come over, which are all that do not train."""


class Weights:
    """Methods of a vLLM worker."""

    def end_with(self, process: str, number: int) -> None:
        """End as soon as this process (`processes.this_process`, and its number) has gone, with the engine between, if there
        is one: vLLM's own engine outlives a parent that is killed, and keeps its memory."""
        engine = os.getppid()

        def wait() -> None:
            while alive(process):
                time.sleep(1.0)
            if engine != number:
                with suppress(ProcessLookupError):
                    os.kill(engine, signal.SIGKILL)
            os._exit(1)

        threading.Thread(target=wait, daemon=True, name="assay: ends with the trainer").start()

    def sees(self, path: str) -> bool:
        """Is this file there, for this worker too?"""
        return Path(path).exists()

    def take_weights(self, files: Sequence[str] | str) -> None:
        """Load named weights, in the format of a checkpoint, from these safetensors files (or a JSON list of them, for a
        server is told strings only); the others stay.

        `reload_weights` alone leaves two things wrong. Running statistics (batch norm) of a layer that it loads are not
        restored. And on a CPU a head that is tied to the embedding keeps a packed copy of the old weights.
        """
        worker: Any = self
        self.before_weights()
        worker.reload_weights(weights_iterator=_read(json.loads(files) if isinstance(files, str) else files))
        self.after_weights()

    def before_weights(self) -> None:
        """Keep what taking weights over would lose."""
        worker: Any = self
        self.kept = {
            name: x.clone() for name, x in worker.model_runner.get_model().named_buffers()
            if name.rsplit(".", 1)[-1] in ("running_mean", "running_var", "num_batches_tracked")
        }  # fmt: skip

    def after_weights(self) -> None:
        """Put it back, and put a tied head right."""
        worker: Any = self
        model = worker.model_runner.get_model()
        with torch.no_grad():
            for name, x in model.named_buffers():
                if name in self.kept:
                    x.copy_(self.kept[name])
        if next(model.parameters()).device.type == "cpu":
            from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

            for module in model.modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)


def _read(files: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for path in files:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
