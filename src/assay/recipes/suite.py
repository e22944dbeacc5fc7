"""The recipes of the eight reward models of Skywork-Reward-V2: their settings, what they cost, and the same in small.

Stated by paper A (A.8; A2 section 4.1 and appendix E): plain Bradley-Terry, one epoch, 16,384 tokens, and two stages,
each a run of its own from the backbone:

    development   batch 256, linear decay with warm-up, lr 1e-6 (8B) or 4e-6 (others): 16M pairs, the ablations' mix
    final         batch 10,240, constant, lr 3e-6 for all sizes (after WorldPM, arXiv 2505.10527): 26M pairs, -40M: 40M

on 64 H800 under DeepSpeed ZeRO-1. Not stated, and our choice: warm-up 3% in development and none in final; AdamW with
PyTorch's betas (0.9, 0.999); no weight decay; gradient norm at most 1; bf16 autocast over fp32 weights; dropout 0; four
checks; packing, which the paper does not mention. That development takes 16M for every backbone, and that the -40M
model has one like the others, is inferred. We have DDP and FSDP2, no ZeRO-1: the same mathematics.

Sizes of the backbones are those of their published config.json. This module loads without torch.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rich import box
from rich.table import Table

from assay.errors import AssayError
from assay.reward.config import EngineConfig, TrainConfig

DEVELOPMENT_PAIRS = 16_000_000
"""Pairs of the early mix on which the ablations were run (A.1, A.8: 16M / 256 = 62.5K steps)."""
GPUS = 64
"""Of the paper: H800 (A2 appendix E)."""
UTILISATION = 0.40
"""ASSUMPTION: the share of a GPU's peak that training reaches, recomputed activations counted as work. Measure yours."""
DEVICES = {
    "H100": 989e12,  # NVIDIA H100 SXM data sheet: 1,979 TFLOPS of bf16 with sparsity, half of it dense
    "H800": 989e12,  # the H100's compute; what differs is NVLink (400 GB/s) and fp64
    "H200": 989e12,  # NVIDIA H200 SXM data sheet: the H100's compute, more and faster memory
    "A100": 312e12,  # NVIDIA A100 data sheet: bf16, dense
}
"""Peak dense bf16 throughput of one GPU, in FLOP/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The sizes of a decoder with grouped-query attention, a gated MLP and RMS norms; no biases.

    Example: MODELS["Qwen3-0.6B"].architecture.parameters() is 596,050,944.
    """

    family: Literal["llama", "qwen3"]
    """transformers' model type. Qwen3 normalises queries and keys, each with `head_dim` weights a layer."""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """Is the language model's head its embedding matrix? A reward model has no such head."""

    def active(self) -> int:
        """Weights that a token is multiplied with: every projection; no embeddings, norms, or score (one per answer)."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    def parameters(self) -> int:
        """All weights of the reward model: embeddings, blocks, norms, and a score head of 1 x hidden; no LM head."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.family == "qwen3" else 0)
        return self.vocabulary * self.hidden + self.active() + self.layers * norms + 2 * self.hidden

    def config(self) -> dict[str, Any]:
        """Keyword arguments of transformers' config class (RoPE without the Llamas' long-context scaling)."""
        llama = self.family == "llama"
        return {
            "num_hidden_layers": self.layers, "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "vocab_size": self.vocabulary, "tie_word_embeddings": self.tied, "rms_norm_eps": 1e-5 if llama else 1e-6,
            "max_position_embeddings": 131_072 if llama else 40_960,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0 if llama else 1_000_000.0},
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperModel:
    """One of the eight: `backbone` is a hub id, `pairs` the size of its final mix (A.1, A.8)."""

    name: str
    backbone: str
    architecture: Architecture
    pairs: int = 26_000_000

    def pairs_in(self, stage: str) -> int:
        """Pairs of a stage: see this module's docstring."""
        return DEVELOPMENT_PAIRS if _stage(stage) == "development" else self.pairs

    @property
    def large(self) -> bool:
        """8B, for which the paper lowers the learning rate of the development stage."""
        return self.architecture.active() > 6e9


def _llama(layers: int, hidden: int, intermediate: int, heads: int, head_dim: int, tied: bool) -> Architecture:
    return Architecture(
        family="llama", layers=layers, hidden=hidden, intermediate=intermediate, heads=heads, kv_heads=8,
        head_dim=head_dim, vocabulary=128_256, tied=tied,
    )  # fmt: skip


def _qwen(layers: int, hidden: int, intermediate: int, heads: int, tied: bool) -> Architecture:
    return Architecture(
        family="qwen3", layers=layers, hidden=hidden, intermediate=intermediate, heads=heads, kv_heads=8,
        head_dim=128, vocabulary=151_936, tied=tied,
    )  # fmt: skip


_LLAMA_8B = _llama(32, 4096, 14_336, 32, 128, tied=False)
MODELS: dict[str, PaperModel] = {
    name: PaperModel(name=name, backbone=backbone, architecture=architecture, pairs=pairs)
    for name, backbone, architecture, pairs in (
        ("Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", _LLAMA_8B, 26_000_000),
        ("Llama-3.1-8B-40M", "meta-llama/Llama-3.1-8B-Instruct", _LLAMA_8B, 40_000_000),
        ("Llama-3.2-3B", "meta-llama/Llama-3.2-3B-Instruct", _llama(28, 3072, 8192, 24, 128, tied=True), 26_000_000),
        ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct", _llama(16, 2048, 8192, 32, 64, tied=True), 26_000_000),
        ("Qwen3-0.6B", "Qwen/Qwen3-0.6B", _qwen(28, 1024, 3072, 16, tied=True), 26_000_000),
        ("Qwen3-1.7B", "Qwen/Qwen3-1.7B", _qwen(28, 2048, 6144, 16, tied=True), 26_000_000),
        ("Qwen3-4B", "Qwen/Qwen3-4B", _qwen(36, 2560, 9728, 32, tied=True), 26_000_000),
        ("Qwen3-8B", "Qwen/Qwen3-8B", _qwen(36, 4096, 12_288, 32, tied=False), 26_000_000),
    )
}
STAGES = ("development", "final")


def paper_model(name: str) -> PaperModel:
    """The model of that name. Raises AssayError with the known names."""
    if name not in MODELS:
        raise AssayError(f"no recipe for a model '{name}'; the suite has {', '.join(MODELS)}")
    return MODELS[name]


def _stage(stage: str) -> str:
    if stage not in STAGES:
        raise AssayError(f"no training stage '{stage}'; there are {' and '.join(STAGES)}")
    return stage


def recipe(name: str, stage: str = "final") -> TrainConfig:
    """How paper A trained a model in a stage; this module's docstring says what is stated and what is our choice.

    A forward pass takes 32,768 tokens, since the longest pair needs room for them anyway. Compiled layers keep 1.3 MB of
    activations a token (0.6B, 1B), 2.1 MB (1.7B) and 2.7 MB (3B; counted in bf16 autocast): 43, 70 and 88 GB for such a
    pair. So from 3B on they are recomputed, and 1.7B just fits an 80 GB device. Weights and optimiser are sharded.
    """
    model = paper_model(name)
    development = _stage(stage) == "development"
    return TrainConfig(
        backbone=model.backbone, max_tokens=16_384, epochs=1.0, precision="bf16",
        batch_pairs=256 if development else 10_240,
        lr=(1e-6 if model.large else 4e-6) if development else 3e-6,
        schedule="linear" if development else "constant",
        warmup=0.03 if development else 0.0,
        engine=EngineConfig(
            tokens=32_768, compile="on", shard=True, checkpointing=model.architecture.active() > 2e9,
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How long pairs are: mean tokens of a prompt (the part both answers share, template included) and of a response.

    The default is an ASSUMPTION: no text of paper A gives lengths. Its seed set, Skywork-Reward-Preference-80K-v0.2, has
    415,622,390 bytes in 77,016 pairs (its dataset card), 5,397 a pair with the prompt in both halves; 4.5 bytes a token
    make 600 tokens a conversation, of which we take a quarter for the prompt.
    """

    prompt: float = 150.0
    response: float = 450.0
    padding: float = 1.0
    """Padded batches only: tokens computed for each real one. 1 is the bound of a perfect sorting by length."""
    source: str = "assumed: the bytes of the 80K seed set at 4.5 a token, a quarter of them prompt"

    def __post_init__(self) -> None:
        if self.prompt < 0 or self.response <= 0 or self.padding < 1:
            raise AssayError("traffic needs prompt >= 0 and response > 0 tokens, and padding of at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One way of batching. `tokens` is of the whole run, `wall_hours` on all GPUs together."""

    tokens_per_pair: float
    tokens: float
    flops: float
    gpu_hours: float
    wall_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one GPU for weights, gradients and Adam's two moments. Activations and gathered layers come on top."""

    sharded: float
    """FSDP2 of `EngineConfig.shard`: fp32 weights 4, gradients 4, moments 8 bytes a weight, over all GPUs."""
    zero1: float
    """ZeRO-1 of the paper (arXiv 1910.02054, section 3): bf16 weights 2 and gradients 2 on each GPU; fp32 weights 4 and
    moments 8 over all GPUs."""
    copied: float
    """DDP, our engine without `shard`: 16 bytes a weight on each GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a training costs: `packed` without padding and shared prefixes once, `padded` with each sequence whole.

    `micro_batches` is the least that a step needs on each GPU, packed. Loading, checks and waiting are left out.
    """

    steps: int
    presented: int
    micro_batches: int
    packed: Work
    padded: Work
    memory: Memory


def cost(
    architecture: Architecture, config: TrainConfig, pairs: int, traffic: Traffic | None = None,
    utilisation: float = UTILISATION, device: str = "H800", gpus: int = GPUS,
) -> Cost:  # fmt: skip
    """The cost of training all weights on `pairs` preferences, of which the trainer presents whole steps.

    FLOPs of a forward pass: 2 a token and active weight (multiply, add). Attention: a token at position t, from 1, meets
    t keys; its scores and its weighted sum cost 2 x heads x head_dim each for every key, so a sequence of n tokens costs
    4 x layers x heads x head_dim x n(n+1)/2, half of what it would without causality. The backward pass costs two
    forward passes, hence 6 and 12 in all; checkpointing adds a forward pass, hence 8 and 16. With P prompt and R response
    tokens, a padded pair has 2(P+R) tokens and 2S(P+R) meetings, S(n) = n(n+1)/2; packed, the prompt counts once:
    P+2R and 2S(P+R) - S(P). Lengths enter by their means, which bounds the attention from below (S is convex). Norms,
    embeddings, score and optimiser are left out, as is a fused attention's own recomputing.

    GPU-hours = FLOPs / (peak x utilisation) / 3600. The paper's "35% of compute saved" by larger batches is no matter
    of FLOPs, and not modelled. Raises AssayError for an unknown device and for impossible settings.
    """
    traffic = traffic or Traffic()
    if device not in DEVICES:
        raise AssayError(f"no peak known for a device '{device}'; known are {', '.join(DEVICES)}")
    if not 0 < utilisation <= 1 or gpus < 1 or pairs < 1:
        raise AssayError("cost needs a utilisation in (0, 1], and at least one GPU and one pair")
    if traffic.prompt + traffic.response > config.max_tokens:
        raise AssayError(f"the mean conversation is longer than train.max_tokens ({config.max_tokens}) allows")
    if config.engine.lora_rank:
        raise AssayError("cost covers the training of all weights: set engine.lora_rank to 0")
    model = replace(architecture, layers=config.layers or architecture.layers)
    steps, presented = config.steps(pairs), config.presented(pairs)
    passes = 4 if config.engine.checkpointing else 3

    def work(tokens: float, met: float) -> Work:
        per_pair = passes * (2 * model.active() * tokens + 4 * model.layers * model.heads * model.head_dim * met)
        hours = per_pair * presented / (DEVICES[device] * utilisation) / 3600
        return Work(
            tokens_per_pair=tokens, tokens=tokens * presented, flops=per_pair * presented,
            gpu_hours=hours, wall_hours=hours / gpus,
        )  # fmt: skip

    whole = traffic.prompt + traffic.response
    packed = work(traffic.prompt + 2 * traffic.response, 2 * _met(whole) - _met(traffic.prompt))
    share = math.ceil(min(config.batch_pairs, pairs) / gpus)
    micro = math.ceil(share * packed.tokens_per_pair / config.engine.tokens)
    weights = model.parameters()
    memory = Memory(sharded=weights * 16 / gpus, zero1=weights * (4 + 12 / gpus), copied=16.0 * weights)
    padded = work(2 * whole * traffic.padding, 2 * _met(whole * traffic.padding))
    return Cost(steps=steps, presented=presented, micro_batches=micro, packed=packed, padded=padded, memory=memory)


def _met(n: float) -> float:
    return n * (n + 1) / 2


def describe(
    name: str, stage: str = "final", traffic: Traffic | None = None, utilisation: float = UTILISATION,
    device: str = "H800", gpus: int = GPUS,
) -> dict[str, Any]:  # fmt: skip
    """What a dry run prints: the model, its resolved config, its cost, and what that rests on; plain JSON types."""
    model, config, traffic = paper_model(name), recipe(name, stage), traffic or Traffic()
    pairs = model.pairs_in(stage)
    return {
        "model": name, "stage": stage, "pairs": pairs, "parameters": model.architecture.parameters(),
        "active": model.architecture.active(), "architecture": asdict(model.architecture), "train": asdict(config),
        "cost": asdict(cost(model.architecture, config, pairs, traffic, utilisation, device, gpus)),
        "assumes": {"traffic": asdict(traffic), "utilisation": utilisation, "device": device, "gpus": gpus},
    }  # fmt: skip


def overview(stage: str, utilisation: float = UTILISATION, device: str = "H800", gpus: int = GPUS) -> Table:
    """All eight recipes of a stage with their costs, one row each."""
    title = f"{_stage(stage)}: {gpus} x {device} at {utilisation:.0%} of their peak (assumed)"
    columns = ("model", "pairs", "steps", "lr", "batch", "tokens, packed", "FLOPs", "GPU-hours", "hours", "GB a GPU")
    table = Table(*columns, title=title, box=box.SIMPLE)
    for model in MODELS.values():
        config, pairs = recipe(model.name, stage), model.pairs_in(stage)
        found = cost(model.architecture, config, pairs, None, utilisation, device, gpus)
        table.add_row(
            model.name, f"{pairs / 1e6:.0f}M", f"{found.steps:,}", f"{config.lr:g}", f"{config.batch_pairs:,}",
            f"{found.packed.tokens / 1e9:.1f}B", f"{found.packed.flops:.2e}", f"{found.packed.gpu_hours:,.0f}",
            f"{found.packed.wall_hours:.1f}", f"{found.memory.sharded / 1e9:.1f}",
        )  # fmt: skip
    return table
