"""How a reward model is trained: the settings, apart from the engine, so that they load without torch."""

from dataclasses import dataclass
from typing import Literal

from assay.errors import AssayError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How a reward model is trained. Defaults are paper A's development settings (A.8) at this size of batch."""

    backbone: str = "minilm"
    layers: int | None = None
    """Keep only the first layers of the backbone (None = all)."""
    train_embeddings: bool = True
    """False keeps the token embeddings as they are: in a small backbone they are most of the optimiser's work."""
    max_tokens: int = 16_384
    batch_pairs: int = 256
    """Pairs per optimiser step, reached by accumulation."""
    tokens_per_batch: int = 8_192
    """Padded tokens of one forward pass: memory, never the result."""
    epochs: float = 1.0
    lr: float = 4e-6
    schedule: Literal["linear", "constant"] = "linear"
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    checks: int = 4
    """Evaluations on the gold pairs during training; the best one is the model that is saved."""
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("max_tokens", "batch_pairs", "tokens_per_batch", "epochs", "lr", "checks"):
            if getattr(self, field) <= 0:
                raise AssayError(f"train.{field} must be above 0, got {getattr(self, field)}")
        if not 0 <= self.warmup < 1:
            raise AssayError(f"train.warmup is a share of the steps in [0, 1), got {self.warmup}")
