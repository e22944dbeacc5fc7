"""Settings of the policy side, apart from the code that reads them, so that they load without torch."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from assay.errors import AssayError


def check_numbers(config: Any, prefix: str, above: tuple[str, ...] = (), at_least: tuple[str, ...] = ()) -> None:
    """Raise AssayError for a field that is not a finite number, above 0 or at least 0; one that is None is not looked at."""
    for name in (*above, *at_least):
        value = getattr(config, name)
        if value is not None and not (0 <= value < math.inf and (value > 0 or name in at_least)):
            least = "above 0" if name in above else "of at least 0"
            raise AssayError(f"{prefix}{name} must be a finite number {least}, got {value}")


Form = Literal["think-answer", "boxed", "think-boxed", "none"]
"""How an answer must be written to earn the format reward, and to be chosen in a pair (`rewards.has_form`): paper B's
<think>...</think><answer>...</answer>; one \\boxed{...}; a closed thought, then one box; or anything that is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """Which parts of the model train, and how the work is done."""

    train: tuple[Literal["adapter", "llm", "vision"], ...] = ("llm",)
    """Any mix of adapter, llm and vision (paper B, Table 4: adapter alone is best there)."""
    last_layers: int = 0
    """Of the language model only the last so many layers train, and its final norm (0: all of it). What lies below is
    computed without gradients."""
    lora_rank: int = 0
    """Low-rank adapters on the language model instead of its own weights (0: train them whole)."""
    quantize: bool = False
    """The language model in 4 bits under its low-rank adapters (QLoRA); needs lora_rank and bitsandbytes."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the computing, and of weights that do not train; those that do are kept in fp32. auto: bf16 where the device has
    instructions for it."""
    packing: bool = True
    """Pack without padding, prompts and pictures once per group, where the model allows it."""
    attention: Literal["auto", "segments", "flex", "varlen"] = "auto"
    tokens: int = 4_096
    """Tokens of one forward pass on one device: the memory to spend."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Fuse the layers with torch.compile in trainings on fixed examples; auto: when the run is long enough to repay it."""
    checkpointing: bool = False
    shard: bool = False
    """With several processes: FSDP2 instead of DDP."""

    def __post_init__(self) -> None:
        if not self.train:
            raise AssayError("policy.train must name at least one part: adapter, llm or vision")
        check_numbers(self, "policy.", above=("tokens",), at_least=("lora_rank", "last_layers"))
        if self.last_layers and "llm" not in self.train:
            raise AssayError("policy.last_layers are layers of the language model: name llm in policy.train too")
        if self.last_layers and self.lora_rank:
            raise AssayError("policy.last_layers train whole, policy.lora_rank adapts all layers: give one of them")
        if self.lora_rank and "llm" not in self.train:
            raise AssayError("policy.lora_rank adapts the language model: name llm in policy.train too")
        if self.quantize and (not self.lora_rank or self.shard):
            what = (
                "cannot be sharded (policy.shard)" if self.shard else "do not train: set policy.lora_rank (16, say) too"
            )
            raise AssayError(f"policy.quantize: weights in 4 bits {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """A training on fixed examples: adapter alignment, or MPO with its pairs. Defaults of MPO's weights: the MPO paper."""

    epochs: float = 1.0
    batch: int = 32
    """Examples (pairs, for MPO) per optimiser step over all devices."""
    lr: float = 1e-6
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.05
    clip: float = 1.0
    beta: float = 0.1
    weights: tuple[float, float, float] = (0.8, 0.2, 1.0)
    """Of preference (DPO), quality (BCO) and generation (NLL)."""
    shift: bool = True
    """BCO's moving average of past rewards (delta); without it the loss is what TRL calls bco_pair since 0.29."""
    save_every: int = 50
    """Optimiser steps between checkpoints; the last two are kept."""
    save_minutes: float = 5.0
    """They are made this often as well, where steps are long; less often where saving is slow."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            self, "", ("epochs", "batch", "lr", "clip", "beta", "save_every"), ("weight_decay", "seed", "save_minutes")
        )
        if not 0 <= self.warmup < 1:
            raise AssayError(f"warmup is a share of the steps in [0, 1), got {self.warmup}")
        if not all(0 <= w < math.inf for w in self.weights) or not any(self.weights):
            raise AssayError(f"weights must be finite, not negative, nor all zero, got {self.weights}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerConfig:
    """How answers are drawn."""

    max_tokens: int = 64
    """New tokens of one answer."""
    temperature: float = 1.0
    """Of drawing, and so of the log-probabilities that GRPO compares; 0 takes the likeliest token (not for GRPO)."""
    top_p: float = 1.0
    rows: int = 256
    """Answers that are decoded together."""

    def __post_init__(self) -> None:
        check_numbers(self, "sampler.", above=("max_tokens", "rows"), at_least=("temperature",))
        if not 0 < self.top_p <= 1:
            raise AssayError(f"sampler.top_p lies in (0, 1], got {self.top_p}")

    def training_temperature(self) -> float:
        """The temperature, where answers are learned from. Raises AssayError for 0: all answers to a prompt are the same."""
        if self.temperature == 0:
            raise AssayError("sampler.temperature 0 gives every prompt one answer, so none is better: set it above 0")
        return self.temperature


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConfig:
    """What draws answers, and what vLLM is told where it does. Its engine runs beside the policy, one for each process under
    torchrun; servers by URL are for commands that only sample."""

    backend: Literal["auto", "vllm"] = "auto"
    """auto: our decoder, or transformers' generate where the model cannot be packed. vllm: an engine of vLLM."""
    vllm: tuple[str, ...] = ()
    """URLs of running vLLM servers of the same model, among which the questions are shared out."""
    vllm_memory: float = 0.3
    """The share of the GPU's memory that vLLM may take beside the policy."""
    vllm_cache: int = 4
    """GiB of its cache of keys and values, on a CPU."""
    vllm_length: int = 0
    """Tokens of a prompt and its answer at most (0: as many as the model knows and its memory allows)."""
    vllm_parallel: int = 1
    """GPUs that share the layers of one engine (tensor parallel)."""
    vllm_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 where the policy computes in it, else float32."""
    vllm_eager: bool = False
    """Start at once, without compiling and without CUDA graphs; slower after that."""
    vllm_weights: Literal["memory", "ipc", "nccl", "lora"] = "memory"
    """How weights go over after an update. memory: through the machine's shared memory, or a folder that servers see as
    well. ipc: from GPU to GPU to an engine beside this process, nccl: to servers on other GPUs; both by vLLM's own
    transfer, never run here for want of GPUs. lora: adapters alone, which the engine adds in by itself."""
    vllm_key: str = "VLLM_API_KEY"
    """The environment variable that holds the servers' key, if they ask for one."""

    def __post_init__(self) -> None:
        check_numbers(self, "", above=("vllm_cache", "vllm_parallel"), at_least=("vllm_length",))
        if not 0 < self.vllm_memory <= 1:
            raise AssayError(f"--vllm-memory is a share in (0, 1], got {self.vllm_memory}")
        if self.vllm and self.backend == "vllm":
            raise AssayError("--vllm names running servers, --backend vllm starts an engine here: give one of them")
        here = {"ipc": "vllm", "lora": "vllm"}.get(self.vllm_weights, self.backend)
        if here != self.backend or (self.vllm_weights == "nccl" and not self.vllm):
            wanted = "servers (--vllm URL)" if self.vllm_weights == "nccl" else "an engine here (--backend vllm)"
            raise AssayError(f"--vllm-weights {self.vllm_weights} is for {wanted}")
        for url in self.vllm:
            if not url.startswith(("http://", "https://")):
                raise AssayError(f"--vllm takes addresses of vLLM servers (http://HOST:8000), got {url!r}")

    @property
    def drawn_by(self) -> dict[str, str]:
        """Who draws answers, as far as it shapes them, for what is kept of a run; nothing where it is our decoder."""
        kind = "servers" if self.vllm else self.backend
        return {} if kind == "auto" else {"drawn_by": kind}


HERE = VllmConfig()
"""Answers are drawn in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskConfig:
    """How questions are put; part of what they are."""

    instruction: str = ""
    """How to answer, after every question ("Reason step by step, and put your final answer within \\boxed{}.")."""
    system: str = ""
    """The system prompt of questions that bring none of their own."""


AS_THEY_ARE = AskConfig()
"""Questions as their file has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairConfig:
    """How preference pairs are made of the policy's own answers (MPO paper, section 3.1; paper B, sections 3.2 and 4.4)."""

    samples: int = 8
    """Answers drawn for each prompt."""
    per_prompt: int = 2
    """Pairs of one prompt at most (InternVL's script: 15)."""
    threshold: float | None = None
    """The reward model must score the chosen answer at least this much higher (None: no matter). Our reading of the paper's
    "threshold" of 7, 10 and 15, which it never defines; in units of the reward model in use."""
    dropout_cut: float = 0.5
    """DropoutNTP: the share of an answer that is kept before it is continued without the picture (the paper: 0.5)."""
    form: Form = "think-answer"
    """How a chosen answer must be written, where the right answer is known; "none" for models that are not taught one."""

    def __post_init__(self) -> None:
        if self.samples < 2 or self.per_prompt < 1 or not 0 < self.dropout_cut < 1:
            raise AssayError("pairs: samples at least 2, per_prompt at least 1, dropout_cut in (0, 1)")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise AssayError(f"pairs.threshold must be a finite number, got {self.threshold}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferConfig:
    """The Selective Sample Buffer (paper B, section 3.3.2). What the paper leaves open follows SSR (VL-Rethinker)."""

    capacity: int = 512
    """Samples; the oldest leave first. 0: no buffer, zero-signal groups are skipped."""
    alpha: float = 1.0
    """P(j) ~ |advantage_j| ^ alpha."""
    beta: float = 1.0
    """What is drawn counts for (1 / its chance to be drawn) ^ beta of what it did (Schaul et al. 2016, section 3.4; chances
    of a draw without replacement: Cohen and Kaplan 2007). 1: on average as from an even draw, so that the priority says how
    often a sample comes back, and not also how much it then counts. 0: as SSR, where rare wrong answers outweigh the right
    ones of their groups."""
    replays: int = 1
    """Further optimiser steps after each one on fresh samples, each on a batch from the buffer alone. 0: as paper B."""
    max_age: int = 8
    """Policy steps after which a sample is too far off-policy, and leaves."""
    unit: Literal["sample", "group"] = "sample"
    """What is drawn, and leaves for want of room: single samples, or whole groups (whole-group replay)."""

    def __post_init__(self) -> None:
        check_numbers(self, "buffer.", above=("max_age",), at_least=("capacity", "alpha", "beta", "replays"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionConfig:
    """What becomes of the difference between the engine that samples and the one that trains (`losses.importance`)."""

    per: Literal["auto", "off", "token", "sequence"] = "auto"
    """Weigh each token, or each whole answer, by its probability in training over that in sampling. auto: tokens where the
    sampler is another engine (vLLM), off where it is our own decoder."""
    beyond: Literal["truncate", "mask"] = "truncate"
    """Weights outside the bounds are cut to them, or such tokens (answers) count for nothing."""
    most: float = 2.0
    """The largest weight (verl: 2; TRL: 3)."""
    least: float = 0.0
    """The smallest (IcePop: 0.5, with `mask`)."""
    most_gap: float = 0.1
    """Nats: a run stops in its first two steps where training and sampling give the same tokens log-probabilities that are
    further apart than this on average: then the sampler reads another model, prompt or temperature. 0: never."""

    def __post_init__(self) -> None:
        check_numbers(self, "grpo.correction.", above=("most",), at_least=("least", "most_gap"))
        if not self.least <= 1 <= self.most:
            raise AssayError(f"grpo.correction: least <= 1 <= most must hold, got {self.least} and {self.most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoConfig:
    """GRPO with the Selective Sample Buffer (paper B, section 3.3; nearest published values where it is silent)."""

    steps: int = 100
    prompts: int = 8
    """Prompts per step over all devices."""
    group: int = 8
    """Answers per prompt."""
    lr: float = 1e-6
    schedule: Literal["cosine", "linear", "constant"] = "linear"
    """Of the learning rate (the paper names none). With replays a constant one ended lower; plain GRPO was better with it
    (docs/log.md, section 29)."""
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip: float = 1.0
    epsilon: float = 0.2
    """The ratio is clipped to [1 - epsilon, 1 + epsilon] (R1V3)."""
    epsilon_high: float | None = None
    """Another upper bound (DAPO's clip-higher); None: epsilon."""
    most_ratio: float | None = 3.0
    """Replayed tokens' ratios are bounded by this (dual clip); None: as eq. 8 is printed. On policy the ratio is 1."""
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    updates: int = 1
    """Optimiser steps on each batch; from the second on tokens are weighed by their ratio to the policy before the first."""
    entropy: float = 0.0
    """Weight of the entropy bonus: mean entropy of the answers' tokens, in nats, added to what is maximised."""
    kl: float = 0.0
    """Weight of the KL penalty to the first policy (k3 estimate); eq. 8 as printed has none."""
    mean: Literal["response", "token"] = "response"
    """Mean over each response's tokens, then over responses (eq. 8), or over all tokens at once."""
    scale: Literal["std", "none"] = "std"
    """Advantages are divided by the group's standard deviation (eq. 6), or not (Dr. GRPO)."""
    combine: Literal["sum", "gdpo"] = "sum"
    """Of several rewards: add them, then normalise the total in its group (eq. 7 and 6); or normalise each in its group, add
    with the rewards' weights, and divide by the standard deviation over the batch (GDPO, arXiv:2601.05242)."""
    mask_cut: bool = False
    """Answers that were cut off count in their group's mean, but are not learned from (DAPO's overlong filtering)."""
    signal: Literal["total", "rule"] = "rule"
    """What tells groups with a signal from those without: the whole reward, or its rule part (paper B's buffer is for groups
    that are all right or all wrong, which with a reward model's continuous score are not equal: divided by their spread, its
    least differences would count as much as right against wrong). Questions without a known answer are always judged by the
    whole."""
    zero_groups: Literal["buffer", "keep", "drop", "resample"] = "buffer"
    """Groups without signal: fill their places from the buffer (SSB), train on them, drop them, or draw further prompts
    until the batch is full (DAPO's dynamic sampling)."""
    resample_most: int = 4
    """Draw at most this many times the prompts of a step when resampling."""
    staleness: int = 0
    """Draw answers while the policy trains, by a policy of at most so many steps before: it goes to the sampler every so
    many steps. Their ratio to the sampler's log-probabilities is clipped as that of a replayed sample. 0: train on what was
    just drawn."""
    buffer: BufferConfig = field(default_factory=BufferConfig)
    save_every: int = 20
    save_minutes: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            self, "grpo.", above=("steps", "prompts", "lr", "clip", "save_every", "resample_most", "updates"),
            at_least=("epsilon_high", "weight_decay", "kl", "entropy", "seed", "save_minutes", "staleness"),
        )  # fmt: skip
        if self.staleness and self.zero_groups == "resample":
            raise AssayError(
                "grpo.staleness draws a step's answers before it is known how many resampling takes: leave it at 0, or "
                "zero_groups at buffer"
            )
        if self.group < 2:
            raise AssayError(
                f"grpo.group must be at least 2, or no answer can be better than another; got {self.group}"
            )
        if not 0 < self.epsilon < 1 or not 0 <= self.warmup < 1:
            raise AssayError("grpo.epsilon lies in (0, 1), grpo.warmup in [0, 1)")
        if self.combine == "gdpo" and self.scale != "std":
            raise AssayError("grpo.combine gdpo divides by standard deviations: leave grpo.scale at std")
        high = 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)
        if self.most_ratio is not None and not self.most_ratio >= high:
            raise AssayError(
                f"grpo.most_ratio bounds ratios beyond those that are clipped: at least {high:g}, got {self.most_ratio}"
            )
