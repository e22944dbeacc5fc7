"""One optimiser step and its checkpoint, on one process or many: the trainer code that is shared (Accelerate lives here).

The same command runs alone, under `torchrun` or `accelerate launch` (DDP), and with weights, gradients and optimiser
sharded by FSDP2 (`--engine.shard`, or `accelerate launch --use_fsdp`). Accelerate finds the processes and their devices.
Losses are sums divided by the size of the *global* batch, so accumulation and data parallelism change rounding only.
"""

import os
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from assay.devices import computes_in_half
from assay.errors import AssayError, Elsewhere, first_line, missing_extra
from assay.memory import keep_freed_memory
from assay.tables import remove

try:
    from accelerate import PartialState
except ImportError as error:
    raise missing_extra("accelerate", "train") from error

T = TypeVar("T")
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
_UNREADABLE = (
    CheckpointException, OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError,
)  # fmt: skip
PATIENCE = timedelta(hours=12)
"""For so long processes wait for one another: rank 0 reads a hundred thousand pictures, or a monitor's answers, alone. One
that dies is seen by whoever started it (torchrun), at once."""
SPARE = 20
"""Saving takes at most one part in so many of the time, however often it is asked for."""


class Engine:
    """A module with its optimiser, on this process's device, wrapped for data parallelism where there is any.

    Make it before any model, for it claims the device; then `prepare`.

    Args:
        precision: "bf16" (or "auto" where the device is fast at it) computes in bfloat16 over fp32 weights: autocast; FSDP2
            gathers weights in bfloat16.
        clip: The largest gradient norm.
        shard: FSDP2 instead of DDP, where there are several processes.
    """

    module: Any
    optimizer: torch.optim.Optimizer

    def __init__(self, precision: str, clip: float, shard: bool = False) -> None:
        self.clip = clip
        self.state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.half = computes_in_half(precision)
        asked = shard or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        self.sharded = asked and self.world > 1
        self._saved, self._took_s = time.monotonic(), 0.0

    def prepare(self, module: torch.nn.Module, lr: float, weight_decay: float) -> None:
        """Take over the module (only its parameters that require gradients are trained) and make its optimiser."""
        module = module.to(self.device)
        if self.sharded:
            self.module = self._shard(module)
        elif self.world > 1:
            here = [self.device] if self.device.type != "cpu" else None
            self.module = torch.nn.parallel.DistributedDataParallel(module, device_ids=here)
        else:
            self.module = module
        trained = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay, fused=True)

    def _shard(self, module: torch.nn.Module) -> torch.nn.Module:
        """FSDP2, layer by layer (`_no_split_modules`): weights travel in bfloat16, gradients are summed in fp32. What the
        module names `full_precision` stays in fp32 whole.

        What it names `aside` (a vision tower) is not run by every pass, and each process runs it for the pictures that it
        has: its layers must not be collective operations of their own. Frozen, it stays whole on each device; trained
        weights in it are gathered with the module's own.
        """
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        policy = half if self.half else MixedPrecisionPolicy()
        mesh = init_device_mesh(self.device.type, (self.world,))
        layers = set(getattr(module, "_no_split_modules", []))
        for part in getattr(module, "full_precision", ()):
            fully_shard(part, mesh=mesh, mp_policy=MixedPrecisionPolicy())
        aside = list(getattr(module, "aside", ()))
        inside = {id(m) for part in aside for m in part.modules()}
        for part in [m for m in module.modules() if type(m).__name__ in layers and id(m) not in inside]:
            fully_shard(part, mesh=mesh, mp_policy=policy)
        whole = {p for part in aside for p in part.parameters() if not p.requires_grad}
        fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=whole)
        return module

    @property
    def device(self) -> torch.device:
        return self.state.device  # type: ignore[no-any-return]

    @property
    def rank(self) -> int:
        return int(self.state.process_index)

    @property
    def world(self) -> int:
        return int(self.state.num_processes)

    @property
    def lead(self) -> bool:
        """Is this the process that writes files?"""
        return self.rank == 0

    def __str__(self) -> str:
        if self.world == 1:
            return f"one process on {self.device.type}"
        return f"{self.world} processes on {self.device.type} ({'FSDP2' if self.sharded else 'DDP'})"

    def step(self, batches: Sequence[T], loss: Callable[[T], torch.Tensor], lr: float) -> float:
        """Accumulate the gradients of all micro-batches, clip, and update. Returns the gradient norm before clipping.

        `loss` is this micro-batch's sum divided by the global batch; every process brings equally many micro-batches,
        for under FSDP each forward pass is a collective operation. DDP sums gradients over processes after the last one,
        FSDP2 after each, so that whole gradients never stay on one device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.module.train()
        for at, batch in enumerate(batches):
            wait = self.world > 1 and not self.sharded and at < len(batches) - 1
            with self.module.no_sync() if wait else nullcontext():
                (loss(batch) * self.world).backward()  # type: ignore[no-untyped-call]
        norm: Any = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm.full_tensor() if self.sharded else norm)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            yield

    def total(self, *values: float) -> tuple[float, ...]:
        """Each value summed over all processes."""
        if self.world == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64)
        gathered: list[Any] = self.gather([sums])
        return tuple(torch.stack(gathered).sum(0).tolist())

    def gather(self, rows: list[T]) -> list[T]:
        """The rows of all processes, in the order of their ranks."""
        if self.world == 1:
            return rows
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def most(self, n: int) -> int:
        """The largest `n` of all processes."""
        return max(self.gather([n]))

    def wait(self) -> None:
        self.state.wait_for_everyone()

    def lead_says(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, which alone does it, on every process; its AssayError is raised on every one."""
        told: list[Any] = [None, ""]
        if self.lead:
            try:
                told[0] = work()
            except AssayError as error:
                if self.world == 1:
                    raise
                told[1] = str(error)
        found, problem = self.gather([told])[0]
        if problem:
            raise AssayError(problem) if self.lead else Elsewhere(problem)
        return found  # type: ignore[no-any-return]

    def due(self, minutes: float) -> bool:
        """Is it time to save again? So many minutes after the last time, by rank 0's clock; later where saving is slow."""
        passed = time.monotonic() - self._saved
        late = self.lead and passed >= max(60 * minutes, SPARE * self._took_s)
        return bool(self.total(float(late))[0])

    def save(self, within: Path, step: int, extra: dict[str, Any]) -> None:
        """Write trained weights, optimiser and `extra` (rank 0's) to within/state-STEP, whole or not at all, each process a
        shard. The state before it stays, and no other: a kill at any instant leaves a whole one.

        Any number of processes can `load` it.
        """
        start, folder = time.monotonic(), within / f"state-{step:08}"
        beside = folder.with_name(folder.name + ".saving")
        if self.lead:
            for left in (*within.glob("state-*.saving"), *within.glob("state-*.removing")):
                shutil.rmtree(left)
            before = [s for s in states(within) if s < folder]
            for old in states(within):
                if old not in before[-1:]:
                    remove(old)
        self.wait()
        weights, moments = get_state_dict(self.module, self.optimizer, options=_TRAINED)
        with _alone(), writing(beside):
            save({"weights": weights, "optimizer": moments}, checkpoint_id=beside)
        self.wait()
        if self.lead:
            with writing(beside), (beside / "extra.pt").open("wb") as file:
                torch.save(extra, file)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(folder)
        self.wait()
        self._saved = time.monotonic()
        self._took_s = self._saved - start

    def load(self, within: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
        """Read the last state that `save` wrote, onto however many processes there are now. Returns its `extra`; None where
        nothing was saved yet. One that was damaged since is told, and the one before it read.

        Raises AssayError where states are there and none can be read.
        """
        found = self.lead_says(lambda: states(within))
        for folder in reversed(found):
            try:
                return self._read(folder)
            except _UNREADABLE as error:
                why = first_line(error)
                say(f"{folder}: cannot be read ({why}); going on from an earlier state")
        if found:
            raise AssayError(f"{within}: none of its states can be read; remove that folder to begin anew")
        return None

    def _read(self, folder: Path) -> dict[str, Any]:
        extra, problem = dict[str, Any](), ""
        try:
            extra = dict(torch.load(folder / "extra.pt", weights_only=True))
        except _UNREADABLE as error:
            problem = str(error) or type(error).__name__
        if problem := next(filter(None, self.gather([problem])), ""):
            raise ValueError(problem)  # on every process, or some would wait for the others
        weights, moments = get_state_dict(self.module, self.optimizer, options=_TRAINED)
        state: dict[str, Any] = {"weights": weights, "optimizer": moments}
        with _alone():
            load(state, checkpoint_id=folder)
        set_state_dict(
            self.module, self.optimizer, model_state_dict=state["weights"], optim_state_dict=state["optimizer"],
            options=_TRAINED,
        )  # fmt: skip
        return extra

    def weights(self, trained: bool = False) -> dict[str, torch.Tensor]:
        """All weights (or only the `trained` ones) on the CPU of rank 0, none elsewhere. Every process must call it."""
        full = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained)
        weights: dict[str, Any] = get_model_state_dict(self.module, options=full)
        return weights


def states(within: Path) -> list[Path]:
    """The folders of whole states that `Engine.save` wrote, by step."""
    return sorted(p for p in within.glob("state-*") if not p.suffix)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise AssayError where a model or a state cannot be written (no space, no right)."""
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        causes = [cause for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
        if not all(isinstance(cause, OSError | SafetensorError) for cause in causes):
            raise  # Ctrl-C, say
        raise AssayError(f"{folder}: cannot be written ({causes[0]}); what was saved before is kept") from error


@contextmanager
def _alone() -> Iterator[None]:
    """A single process is meant to be one: no warning that it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
