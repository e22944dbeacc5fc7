"""A reward model as a term of a policy's rewards: who it is, and what its scores are worth on gold answers."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.llm.chat import ChatConfig
from assay.policy.judge_reward import JudgeReward
from assay.policy.rewards import EMPTY, HybridReward, ModelTerm, RewardConfig, fit_model_term
from assay.recipes.asking import AskConfig, chat_configs, chats
from assay.records import Conversation, Scorer, assistant, digest
from assay.rollouts import Prompt, Rollout, RolloutScorer, Score
from assay.run import jsonable
from assay.tables import write_text

JUDGE = "judge:"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelConfig:
    """Who scores answers beside the rules."""

    reward_model: str = ""
    """A reward model of this project or any sequence classifier with one output (a folder, a hub id), the URL of a reward
    server, or MODULE:FUNCTION. One that takes pictures gets them. judge:MODEL@URL is a language model behind an
    OpenAI-compatible server, which gives 0 to 10, or says yes or no to each item of a question's `rubric`."""
    reward_tokens: int = 4_096
    """Of a conversation that it reads, at most."""
    judge_sees: bool = False
    """A judge gets the questions' pictures."""
    ask: AskConfig = field(default_factory=AskConfig)
    """How a judge's server is asked, and what it may cost."""

    def __post_init__(self) -> None:
        if self.reward_tokens < 1:
            raise AssayError("reward_tokens must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldConfig(RewardModelConfig):
    """Who scores answers beside the rules, and the questions that tell what its scores are worth."""

    gold: Path | None = None
    """Questions with answers, as PROMPTS: the policy's answers to them calibrate the reward model (default: a share of
    PROMPTS). None of them is trained on."""
    gold_share: float = 0.2
    """That share of the PROMPTS with answers, where no file of gold is given."""

    def __post_init__(self) -> None:
        RewardModelConfig.__post_init__(self)
        if not 0 < self.gold_share < 1:
            raise AssayError(f"gold_share is a share of the questions between 0 and 1, got {self.gold_share}")


OWN = ("rule", "format", "form", "claims", "overlong", "overlong_band")
"""Settings of rewards that need no reward model."""


def refuse(rewards: RewardConfig, gold: GoldConfig, prompts: Sequence[Prompt]) -> None:
    """Raise AssayError for settings that would be accepted and do nothing; before anything is loaded."""
    changed = [f.name for f in fields(RewardConfig) if getattr(rewards, f.name) != getattr(RewardConfig(), f.name)]
    by_gold = [name for name in ("gold", "gold_share") if getattr(gold, name) != getattr(GoldConfig(), name)]
    of_model = [f"rewards.{name}" for name in changed if name not in OWN] + by_gold
    if (gold.judge_sees or gold.ask != AskConfig()) and not gold.reward_model.startswith(JUDGE):
        raise AssayError("--judge-sees and --ask are for a judge: give --reward-model judge:MODEL@URL")
    if rewards.overlong_band and not rewards.overlong:
        raise AssayError("--rewards.overlong-band needs --rewards.overlong, the weight of that punishment")
    if of_model and not gold.reward_model:
        raise AssayError(f"--{_flag(of_model[0])} needs a reward model: give --reward-model")
    calibrated = [name for name in of_model if name not in ("rewards.model", "rewards.combine", "rewards.model_on")]
    if calibrated and rewards.combine == "sum":
        raise AssayError(f"--{_flag(calibrated[0])} is for calibrated scores: leave --rewards.combine at calibrated")
    if rewards.claims and not any(p.facts or p.absent for p in prompts):
        raise AssayError("--rewards.claims needs questions with the fields facts and absent: what is in their pictures")


def _flag(name: str) -> str:
    return name.replace("_", "-")


class RolloutRewards:
    """A scorer of conversations as one of (prompt, answer) pairs, with their pictures if it `sees`."""

    def __init__(self, score: Scorer, sees: bool = True) -> None:
        self.score, self.sees = score, sees

    def __call__(self, pairs: Sequence[tuple[Prompt, str]]) -> NDArray[np.float64]:
        return self.score([self.conversation(p, text) for p, text in pairs])

    def conversation(self, prompt: Prompt, text: str) -> Conversation:
        asked = prompt.messages if self.sees else tuple(replace(m, images=()) for m in prompt.messages)
        return (*asked, assistant(text))

    def readable(self, prompts: Sequence[Prompt], left: Counter[str] | None = None) -> list[Prompt]:
        """The prompts that the reward model can read an answer to; the others are printed by reason, and counted in `left`.
        Raises AssayError when none is left."""
        tried = getattr(self.score, "attempts", None)
        if tried is None:
            return list(prompts)
        found = tried([self.conversation(p, "a") for p in prompts])
        counts = Counter(f"the reward model cannot read it: {one}" for one in found if isinstance(one, CannotRead))
        for reason, n in counts.most_common():
            print(f"{n:,} questions left out: {reason}")
        if left is not None:
            left.update(counts)
        kept = [p for p, one in zip(prompts, found, strict=True) if not isinstance(one, CannotRead)]
        if prompts and not kept:
            raise AssayError("no question is left that the reward model can read")
        return kept


def load_reward_model(
    config: RewardModelConfig, store: ImageStore, pictures: bool, say: Callable[[str], None] = print
) -> RolloutRewards | JudgeReward:
    """The reward model that is named. That it does not see the questions' pictures is said."""
    from assay.reward.scorer import load_scorer
    from assay.reward.visual import is_visual

    name = config.reward_model
    if name.startswith(JUDGE):
        return _judge(config, store)
    elsewhere = ":" in name and not Path(name).exists()
    sees = not elsewhere and is_visual(name)
    if pictures and not sees:
        say(f"the reward model {name} reads questions without their pictures")
    return RolloutRewards(load_scorer(name, config.reward_tokens, images=store.folder if sees else None), sees)


def _judge(config: RewardModelConfig, store: ImageStore) -> JudgeReward:
    """A judge, its replies beside the pictures' folder."""
    named = config.reward_model.removeprefix(JUDGE)
    seen = store.folder if config.judge_sees else None
    (told,) = chat_configs([named], "reward-model", config.ask, temperature=0.0, max_tokens=1024, images=seen)
    if not isinstance(told, ChatConfig):
        raise AssayError(f"--reward-model {config.reward_model}: a judge of answers is a server: write judge:MODEL@URL")
    cache = store.folder.with_name(f"{store.folder.name}.judge.sqlite")
    (chat,) = chats([told], cache, config.ask.budget, config.ask.batches)
    return JudgeReward(chat, config.judge_sees)


def fingerprint(name: str) -> str:
    """Who a reward model is: the content of a folder, so that one that was trained anew in place is another; a hub id and
    its commit; of a server or a function its name alone, for nothing else is known."""
    if ":" in name and not Path(name).exists():
        return name.rstrip("/")
    from assay.models import whose

    return whose(name)


def calibrate(
    scorer: RolloutScorer, answers: Sequence[tuple[Prompt, Rollout, Score]], rewards: RewardConfig
) -> ModelTerm:
    """What the reward model's scores are worth: a logistic and a gate, fitted on answers that the rules have judged."""
    raw = np.asarray(scorer([(p, r.text) for p, r, _ in answers]), dtype=np.float64)
    right = np.array([s.rule > 0 for *_, s in answers])
    return fit_model_term(raw, right, rewards, [p.id for p, *_ in answers])


def own_term(
    path: Path, scorer: RolloutScorer, gold: Sequence[Prompt], sampler: Any, samples: int, rewards: RewardConfig,
    identity: object,
) -> ModelTerm:  # fmt: skip
    """The calibrated term on the policy's own answers to gold questions: fitted once, and kept in `path` for this `identity`
    of model and settings. What it came to is printed."""
    told = digest(jsonable([identity, [p.id for p in gold], samples, rewards]))
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("of") != told:
        from assay.render import begun

        begins = begun(sampler.policy.processor, gold[0].messages)
        rules = HybridReward(RewardConfig(), None, None, sampler.answer_start, begun=begins)
        groups = sampler(gold, samples)
        pairs = [(p, r) for p, group in zip(gold, groups, strict=True) for r in group]
        judged = [(p, r, s) for (p, r), s in zip(pairs, rules(pairs), strict=True) if s.problem != EMPTY]
        term = calibrate(scorer, judged, rewards)
        kept = {"of": told, "questions": len(gold), "term": asdict(term)}
        write_text(path, json.dumps(kept, indent=2))
    term = ModelTerm(**kept["term"])
    print(f"{len(gold):,} gold questions: {term}")
    return term
