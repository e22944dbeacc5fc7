"""A reward model as a term of a policy's rewards: who it is, and what its scores are worth on gold answers."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.judges.asking import AskConfig, chat_configs, chats
from assay.llm.budget import Budget
from assay.llm.chat import ChatConfig
from assay.policy.gate import GateReading, ModelTerm, fit_model_term, remeasure
from assay.policy.judge_claims import ClaimsJudge
from assay.policy.judge_pairs import PairJudge
from assay.policy.judge_reward import JudgeReward
from assay.policy.rewards import EMPTY, HybridReward, RewardConfig
from assay.records import Conversation, Scorer, assistant, digest
from assay.rollouts import Prompt, Rollout, RolloutScorer, Score
from assay.run import jsonable
from assay.tables import write_text

JUDGE = "judge:"
Judge: TypeAlias = JudgeReward | PairJudge


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
    judge_tokens: int = 1024
    """Of a judge's reply at most. A judge that thinks needs more: a reply that is cut off is a failure."""
    judge_by: Literal["points", "group", "reference"] = "points"
    """points: a judge gives each answer 0 to 10, or its rubric. group, reference: he compares it, in both orders, with an
    answer of its group that is drawn for it, or with the question's `answer`; two requests for each answer."""
    ask: AskConfig = field(default_factory=AskConfig)
    """How a judge's server is asked, and what it may cost."""

    def __post_init__(self) -> None:
        if min(self.reward_tokens, self.judge_tokens) < 1:
            raise AssayError("reward_tokens and judge_tokens must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldConfig(RewardModelConfig):
    """Who scores answers beside the rules, and the questions that tell what its scores are worth."""

    gold: Path | None = None
    """Questions with answers, as PROMPTS: the policy's answers to them calibrate the reward model (default: a share of
    PROMPTS). None of them is trained on."""
    gold_share: float = 0.2
    """That share of the PROMPTS with answers, where no file of gold is given."""
    gate_every: int = 50
    """Policy steps after which a calibrated reward model's gate is measured again, on fresh answers to gold; where they show
    that too few of what it lets through is right, it is set anew on them (0: never)."""
    gate_questions: int = 64
    """Gold questions that are drawn for it, each answered four times."""

    def __post_init__(self) -> None:
        RewardModelConfig.__post_init__(self)
        if self.gate_every < 0 or self.gate_questions < 1:
            raise AssayError("gate_every must not be negative, gate_questions at least 1")
        if not 0 < self.gold_share < 1:
            raise AssayError(f"gold_share is a share of the questions between 0 and 1, got {self.gold_share}")


OWN = ("rule", "format", "form", "claims", "overlong", "overlong_band")
"""Settings of rewards that need no reward model."""


def refuse(rewards: RewardConfig, gold: GoldConfig, prompts: Sequence[Prompt], watched_by: str = "") -> None:
    """Raise AssayError for settings that would be accepted and do nothing; before anything is loaded. `watched_by`: the
    judge of a monitor, if any."""
    changed = [f.name for f in fields(RewardConfig) if getattr(rewards, f.name) != getattr(RewardConfig(), f.name)]
    of_gold = ("gold", "gold_share", "gate_every", "gate_questions")
    by_gold = [name for name in of_gold if getattr(gold, name) != getattr(GoldConfig(), name)]
    of_model = [f"rewards.{name}" for name in changed if name not in OWN] + by_gold
    asks = gold.reward_model.startswith(JUDGE)
    of_judge = (gold.judge_sees, gold.judge_by, gold.judge_tokens) != (False, "points", 1024)
    if (of_judge or (gold.ask != AskConfig() and not watched_by)) and not asks:
        raise AssayError(
            "--judge-sees, --judge-by, --judge-tokens and --ask are for a judge: give --reward-model judge:MODEL@URL (--ask "
            "also for --monitor.judge)"
        )
    if gold.judge_by == "reference" and (n := sum(not p.answer for p in prompts)):
        raise AssayError(f"--judge-by reference: {n:,} of {len(prompts):,} questions have no answer to compare with")
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
    config: RewardModelConfig, store: ImageStore, pictures: bool, say: Callable[[str], None] = print,
    purse: Budget | None = None,
) -> RolloutRewards | Judge:  # fmt: skip
    """The reward model that is named. That it does not see the questions' pictures is said. `purse` is a budget that it
    shares with other judges."""
    from assay.reward.scorer import load_scorer
    from assay.reward.visual import is_visual

    name = config.reward_model
    if name.startswith(JUDGE):
        return _judge(config, store, purse)
    elsewhere = ":" in name and not Path(name).exists()
    sees = not elsewhere and is_visual(name)
    if pictures and not sees:
        say(f"the reward model {name} reads questions without their pictures")
    return RolloutRewards(load_scorer(name, config.reward_tokens, images=store.folder if sees else None), sees)


def _judge(config: RewardModelConfig, store: ImageStore, purse: Budget | None) -> Judge:
    named = config.reward_model.removeprefix(JUDGE)
    chat = _server(
        named, "reward-model", "judge:MODEL@URL", config.ask, store, config.judge_sees, config.judge_tokens, purse
    )
    if config.judge_by == "points":
        return JudgeReward(chat, config.judge_sees)
    return PairJudge(chat, config.judge_by, config.judge_sees)


def claims_judge(named: str, ask: AskConfig, store: ImageStore, purse: Budget | None = None) -> ClaimsJudge:
    """Who reads what answers say of their pictures."""
    return ClaimsJudge(_server(named, "monitor.judge", "MODEL@URL", ask, store, True, 4096, purse))


def purse_of(ask: AskConfig) -> Budget | None:
    """What all judges of a command may cost together."""
    return Budget(ask.budget) if ask.budget else None


def _server(
    named: str, flag: str, form: str, ask: AskConfig, store: ImageStore, sees: bool, max_tokens: int, purse: Budget | None
) -> Any:  # fmt: skip
    """A judge's server, its replies beside the pictures' folder."""
    seen = store.folder if sees else None
    (told,) = chat_configs([named], flag, ask, temperature=0.0, max_tokens=max_tokens, images=seen)
    if not isinstance(told, ChatConfig):
        raise AssayError(f"--{flag} {named}: a judge of answers is a server: write {form}")
    cache = store.folder.with_name(f"{store.folder.name}.{'judge' if flag == 'reward-model' else 'monitor'}.sqlite")
    (chat,) = chats([told], cache, purse or ask.budget, ask.batches)
    return chat


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
        term = calibrate(scorer, _judged(gold, sampler, samples), rewards)
        kept = {"of": told, "questions": len(gold), "term": asdict(term)}
        write_text(path, json.dumps(kept, indent=2))
    term = ModelTerm(**kept["term"])
    print(f"{len(gold):,} gold questions: {term}")
    return term


def _judged(gold: Sequence[Prompt], sampler: Any, samples: int, draw: int = 0) -> list[tuple[Prompt, Rollout, Score]]:
    """Sampled answers to gold questions with what the rules say of them, empty ones left out."""
    from assay.render import begun

    begins = begun(sampler.policy.processor, gold[0].messages)
    rules = HybridReward(RewardConfig(), None, None, sampler.answer_start, begun=begins)
    groups = sampler(gold, samples, draw)
    pairs = [(p, r) for p, group in zip(gold, groups, strict=True) for r in group]
    return [(p, r, s) for (p, r), s in zip(pairs, rules(pairs), strict=True) if s.problem != EMPTY]


SAMPLES = 4
"""Answers to a gold question when the gate is measured again."""
APART = 1 << 20
"""A draw that no training takes: `draw` of samplers."""


class GateCheck:
    """Measures the gate of a reward again, on fresh answers to random gold questions (`gate.remeasure`).

    Args:
        held: Gold questions, which are not trained on.
    """

    def __init__(
        self, reward: HybridReward, held: Sequence[Prompt], sampler: Any, every: int, questions: int, seed: int
    ) -> None:
        self.reward, self.held, self.sampler = reward, list(held), sampler
        self.every, self.questions, self.seed = every, questions, seed

    def __call__(self, step: int) -> GateReading | None:
        """Measure it and let the reward have what came of it; None: no answer had a score."""
        reward = self.reward
        assert reward.scorer is not None
        assert reward.term is not None
        chosen = np.random.default_rng((self.seed, step)).permutation(len(self.held))[: self.questions]
        self.sampler.load(step)
        judged = _judged([self.held[i] for i in sorted(chosen.tolist())], self.sampler, SAMPLES, APART)
        if not judged:
            return None
        raw = np.asarray(reward.scorer([(p, r.text) for p, r, _ in judged]), dtype=np.float64)
        right = np.array([s.rule > 0 for *_, s in judged])
        found, reward.term = remeasure(reward.term, raw, right, reward.config, [p.id for p, *_ in judged])
        return found
