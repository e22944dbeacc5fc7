"""What `assay run --tune` is told: which policy, how often it is tuned, and how that is measured. Loads without torch."""

from dataclasses import dataclass, field

from assay.errors import AssayError
from assay.judges.asking import AskConfig
from assay.policy import config as policy_config
from assay.policy.config import BufferConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.rewards import RewardConfig

EMBEDDED = "embedded"
"""Instead of a file of questions: instructions of the embedded pool's kinds that are not in it, whose demand is checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningConfig:
    """Does curation pay in the policy? Best of N and GRPO with the reward model of all raw labels and with the released one,
    all else the same (paper A, Table 17, in small). The settings are of the embedded policy on two cores."""

    model: str = "smollm2"
    """The policy: a packaged model, a folder, or a hub id."""
    seeds: int = 3
    """Trainings with each reward model, in turn those of the run's seeds. A finished run can be given more."""
    test_prompts: int = 240
    """Questions that measure, and are not trained on; of a file at most half of what it has."""
    candidates: int = 8
    """Answers of the untuned policy to each of them, of which a reward model picks."""
    samples: int = 2
    """Answers of each tuned policy to each of them."""
    judge: str = ""
    """Who says how good an answer is: judge:MODEL@URL, a language model that had no say in the labels, or MODULE:FUNCTION,
    which gives 0 to 1 (default: the questions' right answers, or their demand)."""
    ask: AskConfig = field(default_factory=AskConfig)
    """How a judge's server is asked, and what it may cost."""
    answer_field: str = ""
    """The field of the right answer, in files of questions that have several."""
    put: policy_config.AskConfig = field(default_factory=policy_config.AskConfig)
    """How questions are put."""
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(max_tokens=40, temperature=0.7))
    policy: PolicyConfig = field(default_factory=lambda: PolicyConfig(last_layers=6))
    """Which part of the policy trains."""
    rewards: RewardConfig = field(
        default_factory=lambda: RewardConfig(rule=0.0, format=0.0, form="none", gate_precision=0.5)
    )
    """The reward model alone, behind a gate that is fitted on the run's held gold. Half of that is right, so with 0.5 what
    earns anything is, with confidence, right more often than not. `combine` sum: its raw score, as in paper A."""
    grpo: GrpoConfig = field(
        default_factory=lambda: GrpoConfig(
            steps=12, prompts=8, group=6, lr=1e-4, schedule="constant", signal="total", kl=0.04,
            buffer=BufferConfig(replays=0), save_every=4,
        )
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.test_prompts < 1:
            raise AssayError("tuning.seeds and tuning.test_prompts must be at least 1")
        if not 1 <= self.samples <= self.candidates or self.candidates < 2:
            raise AssayError(
                "tuning.candidates must be at least 2, and tuning.samples between 1 and as many: where a gate lets nothing "
                "through the untuned policy's own answers are measured"
            )
        self.sampler.training_temperature()
        if self.grpo.seed:
            raise AssayError("tuning.grpo.seed is set by the run itself, another for each training; give tuning.seeds")
        if self.grpo.signal == "rule" and not self.rewards.rule:
            raise AssayError("tuning.grpo.signal rule needs tuning.rewards.rule: without rules no group has a signal")
