"""Records of a policy: questions, what it answered, what that earned, and what is learned from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assay.records import Conversation, digest

AnswerKind = Literal["math", "number", "choice", "text"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question for a policy. `answer` is the right answer ("": not known) and `kind` how answers are compared.

    Pictures are named by `messages[...].images`, content ids of an image store. `facts` are things known to be in the
    picture, such as ("red", "circle"); `absent` things known not to be: a policy's claims are checked against them. `rubric`
    are what a judge looks for in an answer, yes or no (`policy.judge_reward`).

    Example: Prompt(messages=(user("What is 2 + 3?"),), answer="5", kind="number")
    """

    messages: Conversation
    answer: str = ""
    kind: AnswerKind = "text"
    facts: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    rubric: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("a prompt must end with a user message")

    @cached_property
    def id(self) -> str:
        return digest([[m.canonical() for m in self.messages], self.answer, self.kind])

    @property
    def images(self) -> tuple[str, ...]:
        """The content ids of its pictures, in the order in which they appear."""
        return tuple(i for m in self.messages for i in m.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One answer of the policy: its token ids (the end token included, if it came), with the sampler's log-probability of
    each, as text without special tokens, and the policy's step when it was sampled. `ended`: the end token came."""

    prompt_id: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    ended: bool
    policy_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a rollout earned, term by term; `total` is what GRPO sees. `raw` is the reward model's own score, `model` what
    became of it. `problem` says why a term is missing ("empty answer", "reward is not a number", ...)."""

    rule: float
    format: float
    claims: float = 0.0
    """The share of what is known to be in the picture that the reasoning asserts, less 1 for a false claim."""
    model: float = 0.0
    overlong: float = 0.0
    """Less than 0 for an answer that is too long (`RewardConfig.overlong`)."""
    raw: float | None = None
    total: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A rollout that can be learned from: its tokens, the log-probabilities that the policy of `policy_step` gave them, and
    its advantage within its group. `group` names the group, so that a buffer can replay a whole one. `sampled` are the
    sampler's own log-probabilities, where these differ and are corrected for (else empty)."""

    prompt_id: str
    group: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float
    policy_step: int
    sampled: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPair:
    """Two answers of the policy to one prompt, as token ids; `margin` is the reward model's score of the chosen one minus
    the other's (0.0 without a reward model). `source` says what told them apart: rule, model or dropout."""

    prompt_id: str
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    chosen_text: str
    rejected_text: str
    margin: float
    source: str
    round: int = 0


Reward = Callable[[Sequence[tuple[Prompt, Rollout]]], list[Score]]
"""One score per rollout, in order."""

Sampler = Callable[[Sequence[Prompt], int], list[list[Rollout]]]
"""n rollouts of each prompt: a list per prompt, in order."""

RolloutScorer = Callable[[Sequence[tuple[Prompt, str]]], NDArray[np.float64]]
"""(n,) raw rewards of n answers to prompts (pictures included); higher is better, any scale."""
