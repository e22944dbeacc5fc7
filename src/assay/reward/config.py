"""How a reward model is trained: the settings, apart from the engine, so that they load without torch."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from assay.errors import AssayError
from assay.records import LATER


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Beside plain Bradley-Terry, the paper's only loss (A2 section 1); all off by default."""

    margin: bool = False
    """Subtract each pair's `margin` from the reward difference (Llama 2, arXiv 2307.09288, eq. 2)."""
    soft_labels: bool = False
    """Weigh both orders by each pair's `certainty`, the share of votes for the chosen response."""
    center: float = 0.0
    """Weight of (r_chosen + r_rejected)^2, which keeps rewards near zero (Eisenstein et al., arXiv 2312.09244)."""

    def __post_init__(self) -> None:
        if self.center < 0:
            raise AssayError(f"loss.center must not be negative, got {self.center}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How the work is done; none of it changes what is computed, beyond rounding (LoRA apart)."""

    packing: bool = True
    """Pack without padding, shared prefixes once, where the backbone allows it; else pad by length, and say so."""
    tokens: int = 8_192
    """Tokens of one forward pass on one device: the memory to spend. A longer pair goes alone."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Fuse the backbone's layers with torch.compile; "auto" does so when the run is long enough to repay it."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a quarter to a third more time."""
    shard: bool = False
    """With several processes: shard weights, gradients and optimiser (FSDP2) instead of copying them (DDP)."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank on all linear layers, and the head; they are merged into the saved model."""
    quantize: bool = False
    """Load the frozen backbone in 4 bits (QLoRA); needs lora_rank and bitsandbytes."""
    attention: Literal["auto", "segments", "flex", "varlen"] = "auto"
    """The packed attention: auto takes varlen or flex on an accelerator, and segments on a CPU."""

    def __post_init__(self) -> None:
        if self.tokens <= 0 or self.lora_rank < 0:
            raise AssayError("engine.tokens must be above 0 and engine.lora_rank not below")
        if self.quantize and not self.lora_rank:
            raise AssayError(
                "engine.quantize freezes the backbone in 4 bits: set engine.lora_rank (16, for example) too"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How a reward model is trained. Defaults are paper A's development settings (A.8)."""

    backbone: str = "minilm"
    layers: int | None = None
    """Keep only the first layers of the backbone (None = all)."""
    train_embeddings: bool = True
    """False keeps the token embeddings as they are: in a small backbone they are most of the optimiser's work."""
    freeze_layers: int = 0
    """Keep the first so many layers, and the embeddings, as they are. What they make of a text is computed once and kept in
    memory (up to 1 GiB), for all epochs and for all models of a run."""
    images: Path | None = None
    """The folder of the pictures that prompts name; the backbone is a vision-language model then (VL reward)."""
    max_tokens: int = 16_384
    batch_pairs: int = 256
    """Pairs per optimiser step over all devices, reached by accumulation."""
    epochs: float = 1.0
    lr: float = 4e-6
    schedule: Literal["linear", "constant"] = "linear"
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    checks: int = 4
    """Evaluations on the gold pairs during training; the best one is the model that is saved."""
    patience: int = 0
    """Stop after this many checks in a row without a better gold accuracy (0: never)."""
    save_minutes: float = field(default=5.0, metadata=LATER)
    """The state is saved this often besides at every check, less often where saving is slow; the last two are kept."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Of the computing; weights stay in fp32. auto: bf16 where the device has instructions for it."""
    seed: int = 0
    loss: LossConfig = field(default_factory=LossConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_pairs", "epochs", "lr", "checks", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise AssayError(f"train.{name} must be above 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise AssayError(f"train.weight_decay must be finite and not below 0, got {self.weight_decay}")
        if self.freeze_layers < 0 or (self.layers is not None and self.freeze_layers >= self.layers):
            raise AssayError(
                f"train.freeze_layers must leave a layer to train, got {self.freeze_layers} of {self.layers}"
            )
        if self.freeze_layers and (self.engine.lora_rank or self.images is not None):
            raise AssayError("train.freeze_layers is for plain text backbones without adapters: set it to 0")
        if not 0 <= self.warmup < 1:
            raise AssayError(f"train.warmup is a share of the steps in [0, 1), got {self.warmup}")
        if self.patience < 0 or self.save_minutes < 0:
            raise AssayError(
                f"train.patience and train.save_minutes must not be negative, got {self.patience}, {self.save_minutes}"
            )

    def presented(self, pairs: int) -> int:
        """How many of `pairs` pairs are presented in all, repeats included: whole epochs leave nothing out."""
        return max(1, round(self.epochs * pairs))

    def steps(self, pairs: int) -> int:
        """Optimiser steps on `pairs` pairs; the last one has what is left."""
        return math.ceil(self.presented(pairs) / min(self.batch_pairs, pairs))
