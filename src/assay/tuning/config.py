"""What an `assay policy run` is told: its settings, and the questions and the base model that a recipe gives it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from assay.errors import AssayError
from assay.policy.config import FitConfig, GrpoConfig, PairConfig, PolicyConfig, SamplerConfig
from assay.policy.monitor import MonitorConfig
from assay.policy.rewards import RewardConfig
from assay.reward.config import TrainConfig
from assay.rollouts import Prompt
from assay.tuning.exam import Exam


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """One `assay policy run`: how many questions each stage sees, and its settings."""

    recipe: str
    seed: int = 0
    answer_start: str = "<think>"
    """What every answer is made to begin with; part of the prompt."""
    align_prompts: int = 480
    gold_prompts: int = 160
    """Questions whose sampled answers teach and calibrate the reward model (0: none)."""
    pair_prompts: int = 240
    tune_prompts: int = 480
    test_prompts: int = 320
    rounds: int = 1
    """Of MPO, each on pairs of the policy before it."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    align_policy: PolicyConfig = field(default_factory=PolicyConfig)
    align: FitConfig = field(default_factory=FitConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Which parts MPO and GRPO train."""
    reward_model: TrainConfig = field(default_factory=TrainConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    mpo: FitConfig = field(default_factory=FitConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    watch: str = ""
    """A benchmark whose questions the monitor reads in place of the recipe's own: NAME:N (aime24:30), N drawn at random, or
    NAME, at most monitor.prompts of them."""
    watch_data: Path | None = None
    """The folder with its file, aime24/*.jsonl or aime24*.jsonl (default: $ASSAY_BENCH_DATA)."""

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.test_prompts < 1 or self.gold_prompts < 0 or self.seed < 0:
            raise AssayError("rounds, gold_prompts and seed must not be negative, test_prompts at least 1")
        if not self.gold_prompts and (self.pairs.threshold or 0) > 0:
            raise AssayError("pairs.threshold bounds the reward model's margin, but gold_prompts 0 means to have none")
        self.sampler.training_temperature()
        for name, parts in (("seed", ("align", "mpo", "grpo", "reward_model")), ("weights", ("align",)),
                            ("backbone", ("reward_model",)), ("images", ("reward_model",)),
                            ("form", ("pairs",))):  # fmt: skip
            for part in parts:
                settings = getattr(self, part)
                if getattr(settings, name) != getattr(type(settings)(), name):
                    raise AssayError(f"{part}.{name} is set by the run itself; {_INSTEAD[name]}")


_INSTEAD = {
    "seed": "give seed, for all stages", "weights": "alignment imitates worked answers, by their NLL alone",
    "backbone": "the reward model begins from the aligned policy", "images": "these are the run's own",
    "form": "give rewards.form",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a recipe gives to `tune`: questions of every stage, worked answers to imitate, and how to make the base model.

    `watched` is what the monitor looks at while a policy is tuned; `test` is looked at once, when it is.
    """

    align: tuple[Prompt, ...]
    worked: tuple[str, ...]
    gold: tuple[Prompt, ...]
    pairs: tuple[Prompt, ...]
    tune: tuple[Prompt, ...]
    watched: Exam
    test: Exam
    base: Callable[[Path], str]
    """Writes the base model to a folder; returns what it is in words."""
