"""Running vLLM servers whose weights follow a policy that trains: rank 0 hands them over, all processes wait for it.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --worker-extension-cls assay.policy.vllm_worker.Weights

or, for NCCL, with --weight-transfer-config '{"backend": "nccl"}'. Whoever reaches such a server can change what it serves:
keep its port within a network that you trust.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

from assay.errors import AssayError
from assay.policy import vllm_transfer, vllm_weights
from assay.policy.config import VllmConfig
from assay.policy.model import Policy

TIMEOUT_S = 1_800
CACHES = ("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache")
"""What was made by the weights before."""
LINE = "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --worker-extension-cls assay.policy.vllm_worker.Weights"


class Live:
    """Hands a policy's weights to servers. `load` must be called by all processes.

    Args:
        urls: Of the servers, without a path.
        headers: Of every request.
        within: A folder that servers on other machines see as well, for `vllm_weights` "memory".

    Raises AssayError where a server does not take weights, or does not see the files that they come in.
    """

    def __init__(
        self, policy: Policy, urls: Sequence[str], headers: Mapping[str, str], config: VllmConfig, within: Path
    ) -> None:
        self.policy, self.urls, self.headers, self.within = policy, urls, headers, within
        name = {"auto": "bfloat16" if policy.bf16 else "float32"}.get(config.vllm_dtype, config.vllm_dtype)
        self.dtype: torch.dtype = getattr(torch, name)
        self.step: int | None = None
        self.versions: list[str] = []
        """Of the weights that each server was seen to have after the last hand-over."""
        self.run = uuid4().hex[:12]
        self.lead = not dist.is_initialized() or dist.get_rank() == 0
        self.transfers: list[Any] = []
        self.memory = True
        if config.vllm_weights == "nccl":
            vllm_transfer.needs_gpu("nccl")
            self.transfers = [self._transfer(url) for url in urls]
        elif self.lead:
            self.memory = self._sees(vllm_weights.SHARED)
            if not self.memory and not self._sees(within):
                raise AssayError(
                    f"--vllm: a server sees neither {vllm_weights.SHARED} nor {within}, through which weights go over: put "
                    "--out on a folder that all machines see, or take --vllm-weights nccl"
                )

    def load(self, step: int) -> None:
        """The policy's weights of this step, once."""
        if self.step == step:
            return
        _wait()  # until nobody draws by the weights before
        if self.lead or self.policy.gathered is not None:
            self._take(f"assay-{self.run}-{step}")
        _wait()
        self.step, self.versions = step, self._versions()

    def check(self) -> None:
        """Raise AssayError where a server has other weights than it was given: it was started anew, or another trains it."""
        for url, given, now in zip(self.urls, self.versions, self._versions(), strict=True):
            if now != given:
                raise AssayError(
                    f"{url} answers by other weights ({now}) than it was given ({given}): was it started anew, or does "
                    "another command train by it? The same command goes on from the last checkpoint"
                )

    def _versions(self) -> list[str]:
        told = (json.loads(post(f"{url}/weight_info", None, self.headers, "GET")) for url in self.urls)
        return [str(t["weight_version"]) for t in told]

    def _take(self, version: str) -> None:
        inner = self.policy.inner
        names = vllm_weights.trained(inner)
        if self.transfers:
            for transfer in self.transfers:
                transfer.send_weights()
        elif not self.lead:  # of shards all processes gather
            for _ in vllm_weights.parts(inner, names, self.dtype):
                pass
        else:
            with vllm_weights.shared(inner, names, self.dtype, self.within, self.memory) as files:
                self._rpc("take_weights", json.dumps(files))
        if self.lead:
            for url in self.urls:
                for cache in CACHES:
                    post(f"{url}/{cache}", None, self.headers)
                post(f"{url}/update_weight_version", {"new_version": version}, self.headers)

    def _sees(self, folder: Path) -> bool:
        """Do all servers see the files of a folder here?"""
        if not folder.is_dir():
            return False
        with NamedTemporaryFile(prefix=vllm_weights.MARK, dir=folder) as file:
            return all(x in (True, "True") for x in self._rpc("sees", file.name))

    def _rpc(self, method: str, argument: str) -> list[Any]:
        found: list[Any] = []
        for url in self.urls:
            told = post(f"{url}/collective_rpc", {"method": method, "args": [argument]}, self.headers)
            found += json.loads(told or b"{}").get("results", [])
        return found

    def _transfer(self, url: str) -> Any:
        """All processes take part; rank 0 alone speaks to the server."""
        source = vllm_transfer.Source(self.policy.inner, self.dtype, self.policy.model.device)
        workers = json.loads(post(f"{url}/get_world_size", None, self.headers, "GET"))["world_size"]
        rank = dist.get_rank() if dist.is_initialized() else 0
        return vllm_transfer.nccl(source, Client(url, self.headers), workers, rank)


class Client:
    """A server, as vLLM's transfers speak to one."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url, self.headers = url, headers

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        post(f"{self.url}/init_weight_transfer_engine", {"init_info": init_info}, self.headers)

    def start_weight_update(self) -> None:
        post(f"{self.url}/start_weight_update", None, self.headers)

    def update_weights(self, update_info: Any) -> None:
        post(f"{self.url}/update_weights", {"update_info": update_info}, self.headers)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        post(f"{self.url}/finish_weight_update", None, self.headers)


def post(url: str, body: Any, headers: Mapping[str, str], method: str = "POST") -> bytes:
    """What a server answers. Raises AssayError where it does not, or refuses."""
    data = None if method == "GET" else b"" if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        told = " ".join(error.read().decode(errors="replace").split())[:300]
        raise AssayError(
            f"{url}: http {error.code}: {told}; a server takes weights if it was started by {LINE}"
        ) from error
    except OSError as error:
        raise AssayError(f"{url}: the server does not answer ({error})") from error


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()
