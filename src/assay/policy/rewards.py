"""Hybrid rewards: r = r_rule + r_format + r_theta (paper B, eq. 7), each term told apart.

The paper adds the reward model's raw score, unbounded and about -15 to +8, to rules of 0 or 1, and does not say how it keeps
them comparable. "sum" does as printed. "calibrated", the default, turns the score into the probability that the answer is
right (a logistic fit on gold answers), and grants it, up to `bound`, only above a threshold whose precision on gold is, with
confidence, the wanted one and better than that of all answers. A score can then never outweigh a rule.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from assay.bench.policy.answers import correct, final_answer
from assay.errors import AssayError
from assay.policy.claims import check_claims
from assay.policy.config import Form
from assay.policy.gate import ModelTerm, ordered
from assay.rollouts import Prompt, Rollout, RolloutScorer, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """Weights of the terms, and what becomes of the reward model's score."""

    rule: float = 1.0
    format: float = 1.0
    form: Form = "think-answer"
    """How an answer must be written to earn `format`. What the model's chat template begins for it counts as written."""
    claims: float = 0.0
    """Given for the share of what is known to be in the picture that the reasoning asserts, less 1 where it asserts anything
    that is known not to be (ours, not the paper: its rules judge the final answer only, which a wrong thought may reach
    too). Taking alone would reward silence. Of two facts a policy does best to name the second where it is right in more
    than two of three cases. What is trained on is no measure any more: judge such a policy by its answers to other pictures
    and to swapped ones."""
    overlong: float = 0.0
    """Weight of the soft punishment of long answers (DAPO, eq. 13): 0 up to `overlong_band` tokens below the sampler's
    `max_tokens`, then falling to -1 there. It is no rule: a group that differs by length alone has no rule signal."""
    overlong_band: int = 0
    """Tokens; 0: a fifth of `max_tokens` (DAPO: 4,096 of 20,480)."""
    model: float = 1.0
    combine: Literal["calibrated", "sum"] = "calibrated"
    bound: float = 0.5
    """The most that the calibrated term can give."""
    gate_precision: float = 0.9
    """Of gold answers above the threshold at least this share is right, with 95% confidence."""
    model_on: Literal["all", "unanswered"] = "all"
    """Give the model's term to every answer, or only where no right answer is known: then a group that the rules settle
    has no signal left but theirs."""

    def __post_init__(self) -> None:
        if not all(0 <= w < math.inf for w in (self.rule, self.format, self.claims, self.model, self.overlong)):
            raise AssayError("rewards: weights must be finite and not negative")
        if self.overlong_band < 0:
            raise AssayError(f"rewards.overlong_band is a number of tokens, got {self.overlong_band}")
        if not 0 < self.bound < math.inf or not 0.5 <= self.gate_precision < 1:
            raise AssayError("rewards: bound must be above 0, gate_precision in [0.5, 1)")


EMPTY = "empty answer"
"""The problem of an answer that says nothing beyond what it was made to begin with."""

_THINK = r"\s*<think>(?:(?!</?think>|</?answer>).)*</think>"
_FORMAT = _THINK + r"\s*<answer>((?:(?!</?think>|</?answer>).)+)</answer>\s*"
SOME = 64
"""Answers without any that is right, or well-formed, after which that is worth a word."""


def has_form(text: str, form: Form = "think-answer") -> bool:
    """Is a text written as `form` asks? It must include what the chat template began for it ("<think>").

    think-answer: <think>...</think><answer>...</answer>, once each, nothing else around, the answer not empty. boxed: one
    \\boxed{...} with something in it, after any thought (two would be a hedge). think-boxed: <think>...</think> first, once,
    then one box. none: it says something.
    """
    if form == "none":
        return bool(text.strip())
    if form == "think-answer":
        found = re.fullmatch(_FORMAT, text, re.S)
        return found is not None and bool(found[1].strip())
    thought = re.match(_THINK, text, re.S)
    if form == "think-boxed" and thought is None:
        return False
    said = text[thought.end() :] if thought else re.split(r"</think>", text)[-1]
    return not re.search(r"</?think>", said) and said.count("\\boxed") == 1 and bool(_in_box(said))


def _in_box(text: str) -> str:
    """What the \\boxed{...} of a text holds; "" for an empty or unfinished one."""
    begun = re.search(r"\\boxed\s*\{", text)
    depth = 1
    for at in range(begun.end(), len(text)) if begun else ():
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0 and begun:
            return text[begun.end() : at].strip()
    return ""


def format_reward(text: str, form: Form = "think-answer") -> float:
    """1.0 for a text that is written as `form` asks (`has_form`), else 0.0."""
    return float(has_form(text, form))


def unbroken(rollout: Rollout) -> str:
    """An answer's text as rules read it: of one that was cut off without the number at its end, which may be half of one
    ("the answer is 12" of 125)."""
    return rollout.text if rollout.ended else re.sub(r"-?\d[\d.,/]*$", "", rollout.text)


def claims_reward(prompt: Prompt, text: str) -> float:
    """The share of the prompt's facts that the reasoning asserts, less 1 for any false claim: in [-1, 1]; 0.0 where nothing
    is known of the picture."""
    found = check_claims([prompt], [text])
    return (found.named[0] or 0.0) - float(found.marks[0] is True)


def overlong(tokens: int, most: int, band: int) -> float:
    """DAPO's soft overlong punishment (eq. 13) of an answer of so many tokens: 0 up to `most - band`, then falling to -1 at
    `most`."""
    return min(0.0, (most - band - tokens) / band) if tokens <= most else -1.0


CHECKS = (
    "gate_known", "gate_known_right", "gate_open", "gate_open_right", "order_pairs", "order_model", "order_reward",
)  # fmt: skip
"""Counts of how the reward model does in training, on answers whose key is known: answers, right ones, those that its gate
lets through and the right ones among these; pairs of a right and a wrong answer of one group, and how many of them its score
and the whole reward put into the right order."""


class HybridReward:
    """Scores of rollouts. `model_weight` is the reward model's weight; a monitor may lower it while training.

    Args:
        config: Weights and combination.
        scorer: The reward model; None: rule and format alone.
        term: The calibrated term, needed where there is a scorer and `combine` is "calibrated".
        prefilled: What rollouts' texts begin with, as the sampler's `answer_start`.
        begun: What the chat template begins for every answer (`render.begun`): rules read it before the rollouts' texts.
        max_tokens: The longest answer that is sampled, needed where `overlong` has a weight.
        name: Who the scorer is, for the record of a training (`fingerprint`).
    """

    def __init__(
        self,
        config: RewardConfig,
        scorer: RolloutScorer | None = None,
        term: ModelTerm | None = None,
        prefilled: str = "",
        name: str = "",
        begun: str = "",
        max_tokens: int = 0,
    ) -> None:
        if scorer is not None and config.combine == "calibrated" and term is None:
            raise AssayError(
                "a calibrated reward model needs its term: fit it on gold answers, or set rewards.combine sum"
            )
        self.config, self.scorer, self.term, self.prefilled, self.begun = config, scorer, term, prefilled, begun
        if config.overlong and max_tokens < 2:
            raise AssayError("rewards.overlong punishes answers near the sampler's limit: give max_tokens")
        if config.overlong and config.overlong_band >= max_tokens:
            raise AssayError(
                f"rewards.overlong_band ({config.overlong_band}) must be below sampler.max_tokens ({max_tokens})"
            )
        self.max_tokens, self.band = max_tokens, config.overlong_band or max(1, max_tokens // 5)
        self.model_weight = config.model
        self.of = {"scorer": name, "term": None if term is None else asdict(term), "prefilled": prefilled}
        self.seen, self.checked, self.given = Counter[str](), dict[str, float](), Counter[float]()

    def __call__(self, pairs: Sequence[tuple[Prompt, Rollout]]) -> list[Score]:
        """One score per rollout, in order (`scores`); they are counted, for `remarks` and `checks`."""
        made = self.scores(pairs)
        for (prompt, _), score in zip(pairs, made, strict=True):
            known = bool(prompt.answer)
            self.seen.update(answers=1, known=known, right=known and score.rule > 0, formed=score.format > 0)
            if score.raw is not None and len(self.given) < 2:
                self.given[score.raw] += 1
        if self.scorer is not None:
            self._check(pairs, made)
        return made

    def scores(self, pairs: Sequence[tuple[Prompt, Rollout]]) -> list[Score]:
        """One score per rollout, in order.

        An empty answer is not shown to the reward model. In the plain sum, where 0 would be among the best of its scores, it
        counts as the worst of the prompt's other answers here. An answer without a finite score has no finite total, unless
        a closed gate gives nothing to any.
        """
        raw, worst = self._raw(pairs), dict[str, float]()
        for (prompt, _), x in zip(pairs, raw, strict=True):
            if x is not None and math.isfinite(x):
                worst[prompt.id] = min(x, worst.get(prompt.id, x))
        return [self._score(p, r, x, worst.get(p.id, math.nan)) for (p, r), x in zip(pairs, raw, strict=True)]

    def _check(self, pairs: Sequence[tuple[Prompt, Rollout]], made: Sequence[Score]) -> None:
        """Count how the reward model did on answers whose key is known."""
        groups = dict[str, list[Score]]()
        for (prompt, _), score in zip(pairs, made, strict=True):
            if prompt.answer and score.raw is not None:
                groups.setdefault(prompt.id, []).append(score)
        found = dict.fromkeys(CHECKS[: 4 if self.term else 0] + CHECKS[4:], 0.0) | self.checked
        for scores in groups.values():
            right = [s.rule > 0 for s in scores]
            raw = [math.nan if s.raw is None else s.raw for s in scores]
            if self.term is not None:
                through = [self.term(x) > 0 for x in raw]
                both = sum(a and b for a, b in zip(through, right, strict=True))
                for name, n in zip(CHECKS, (len(raw), sum(right), sum(through), both), strict=False):
                    found[name] += n
            by_model, n = ordered(raw, right)
            found["order_pairs"] += n
            found["order_model"] += by_model
            found["order_reward"] += ordered([s.total for s in scores], right)[0]
        self.checked = found

    def checks(self) -> dict[str, float]:
        """CHECKS since the last call, for a step's metrics; nothing where there is no reward model."""
        found, self.checked = self.checked, {}
        whole = CHECKS[: 4 if self.term else 0] + CHECKS[4:]
        return {name: found.get(name, 0.0) for name in whole} if self.scorer is not None else {}

    def ahead(self, pairs: Sequence[tuple[Prompt, Rollout]]) -> None:
        """Let a judge answer about all groups of a step at once: its replies are kept, and found when each is scored."""
        ask: Callable[..., None] | None = getattr(self.scorer, "ahead", None)
        if ask is not None:
            ask([(p, r.text) for p, r in pairs if r.text.removeprefix(self.prefilled).strip()])

    def remarks(self) -> list[str]:
        """What a user should know, each thing once: a reward that no answer so far has earned teaches nothing."""
        seen, found = self.seen, list[str]()
        if self.config.format and seen["answers"] >= SOME and not seen["formed"] + seen["told form"]:
            seen["told form"] = 1
            found.append(
                f"none of the first {seen['answers']:,} answers has the form '{self.config.form}', so the format reward "
                "teaches nothing: name the one that this model writes (rewards.form: boxed, think-boxed, none), ask for it "
                "in the questions, or begin answers with it (--answer-start '<think>')"
            )
        failed = Counter[str](getattr(self.scorer, "problems", {}))
        none = failed.total() >= seen["answers"]  # he has failed on every answer so far: said at once
        if failed and (none or seen["answers"] >= SOME) and not seen["told judge"]:
            seen["told judge"] = 1
            why, n = failed.most_common(1)[0]
            found.append(f"the judge failed on {failed.total():,} answers, which are left out; on {n:,}: {why}")
        if len(self.given) == 1 and self.given.total() >= SOME and not seen["told alike"]:
            seen["told alike"] = 1
            found.append(
                f"the reward model gave all of the first {self.given.total():,} answers the same score "
                f"({next(iter(self.given)):g}): it tells none from another, so its reward teaches nothing"
            )
        if self.config.rule and seen["known"] >= SOME and not seen["right"] + seen["told rule"]:
            seen["told rule"] = 1
            found.append(
                f"none of the first {seen['known']:,} answers to questions with a known answer is right: see how they end "
                "(rewards.form, sampler.max_tokens), or take easier questions"
            )
        return found

    def _raw(self, pairs: Sequence[tuple[Prompt, Rollout]]) -> list[float | None]:
        if self.scorer is None or not pairs:
            return [None] * len(pairs)
        said = [i for i, (_, r) in enumerate(pairs) if r.text.removeprefix(self.prefilled).strip()]
        found: list[float | None] = [None] * len(pairs)
        if said:
            scores = np.asarray(self.scorer([(pairs[i][0], pairs[i][1].text) for i in said]), dtype=np.float64)
            if scores.shape != (len(said),):
                raise AssayError(f"the reward model gave {scores.shape} scores for {len(said)} answers")
            for i, score in zip(said, scores.tolist(), strict=True):
                found[i] = score
        return found

    def _score(self, prompt: Prompt, rollout: Rollout, raw: float | None, worst: float) -> Score:
        config, problem, text = self.config, "", self.begun + rollout.text
        empty = not rollout.text.removeprefix(self.prefilled).strip()
        whole = self.begun + unbroken(rollout)
        answer = None if empty else final_answer(whole)
        rule = float(not empty and correct(whole, prompt.answer, prompt.kind))
        if empty:
            problem = EMPTY
        elif not rollout.ended:
            problem = "cut off"
        elif not prompt.answer:
            problem = "no known answer"
        elif answer is None:
            problem = "no clear final answer"
        form = 0.0 if empty else format_reward(text, config.form)
        claims = claims_reward(prompt, text) if config.claims else 0.0
        if raw is not None and not math.isfinite(raw):
            raw, problem = None, "the reward model's score is not a number"
        model = 0.0
        if self.scorer is not None and (config.model_on == "all" or not prompt.answer):
            if config.combine == "sum":
                model = worst if empty else math.nan if raw is None else raw
            elif raw is not None and self.term is not None:
                model = self.term(raw)
            elif not empty and self.term is not None and math.isfinite(self.term.threshold):
                model = math.nan  # nobody knows what the gate would have given it
        long = overlong(len(rollout.tokens), self.max_tokens, self.band) if config.overlong else 0.0
        total = (
            config.rule * rule + config.format * form + config.claims * claims + self.model_weight * model
            + config.overlong * long
        )  # fmt: skip
        return Score(
            rule=rule, format=form, claims=claims, model=model, overlong=long, raw=raw, total=total, problem=problem
        )

    def weights(self) -> dict[str, float]:
        """The weight of each term, as it is now."""
        config = self.config
        return {
            "rule": config.rule, "format": config.format, "claims": config.claims, "model": self.model_weight,
            "overlong": config.overlong,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What changes while training: the reward model's weight, and its gate."""
        return {"model_weight": self.model_weight, "term": None if self.term is None else asdict(self.term)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.model_weight = float(state["model_weight"])
        self.term = None if state["term"] is None else ModelTerm(**state["term"])
