"""The questions of `assay run --tune`, and who says how good an answer to one is.

The embedded ones are instructions with one demand that a checker knows (`constraints`), of the kinds that the pool has
labels of. A user's own are measured by their right answers, or by a judge that had no say in the labels. No question of the
run's pool measures.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.bench.policy.answers import correct
from assay.errors import AssayError
from assay.images import ImageStore
from assay.pipeline.constraints import Constraint, make_instructions
from assay.pipeline.policy_config import EMBEDDED, TuningConfig
from assay.pipeline.pools import UNSEEN
from assay.records import question_id, user
from assay.rollouts import Prompt, RolloutScorer

SEED = 20261130
"""Of the embedded questions, which are the same for every run; the pool has another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Those that GRPO asks, those that measure, and how many of the run's pool could not measure."""

    train: tuple[Prompt, ...]
    test: tuple[Prompt, ...]
    of_pool: int = 0


def embedded(config: TuningConfig, known: Collection[str]) -> tuple[Questions, dict[str, Constraint]]:
    """As many as are needed, none of the pool (`known`: its question ids); and the demand of each, by its prompt's id."""
    test, train = config.test_prompts, config.grpo.steps * config.grpo.prompts
    found, demands = list[Prompt](), dict[str, Constraint]()
    for one in make_instructions(2 * (test + train) + len(known), SEED):
        prompt = Prompt(messages=(user(one.prompt),))
        if one.constraint.kind not in UNSEEN and question_id(prompt.messages) not in known:
            found.append(prompt)
            demands[prompt.id] = one.constraint
    return Questions(test=tuple(found[:test]), train=tuple(found[test : test + train])), demands


def own(path: str, config: TuningConfig, known: Collection[str], store: ImageStore) -> Questions:
    """A user's own, some of which measure: at most half, drawn by their ids, those of the pool never. Raises AssayError
    where none can measure, or none is left to train on."""
    from assay.tuning.own import questions

    prompts = list(
        {p.id: p for p in questions(Path(path), store, answer_field=config.answer_field, ask=config.put)}.values()
    )
    fresh = [p for p in prompts if question_id(p.messages) not in known]
    able = sorted((p for p in fresh if p.answer or config.judge), key=lambda p: p.id)
    if not able:
        why = f"all {len(prompts):,} are questions of the pool" if not fresh else "no question has a right answer"
        raise AssayError(f"{path}: nothing can measure the policies: {why}; {'give others' if not fresh else JUDGE}")
    test = able[: min(config.test_prompts, len(prompts) // 2)]
    asked = {question_id(p.messages) for p in test}
    train = [p for p in prompts if question_id(p.messages) not in asked]
    if not test or not train:
        raise AssayError(f"{path}: {len(prompts):,} questions are too few to train on some and measure on others")
    return Questions(train=tuple(train), test=tuple(test), of_pool=len(prompts) - len(fresh))


JUDGE = "name who says how good an answer is: --tuning.judge judge:MODEL@URL, or MODULE:FUNCTION"


def asked(
    tune: str, config: TuningConfig, known: Collection[str], store: ImageStore
) -> tuple[Questions, RolloutScorer, str]:
    """The questions, what says how good answers are (0 to 1; not a number: nothing can be said), and that in words."""
    if tune == EMBEDDED:
        found, demands = embedded(config, known)
        if not config.judge:
            return (
                found,
                _answers(lambda p, text: demands[p.id].obeyed_by(text)),
                "the demand of each instruction, checked",
            )
    else:
        found = own(tune, config, known, store)
        if not config.judge:
            return found, _answers(lambda p, text: correct(text, p.answer, p.kind)), "the questions' right answers"
    return found, _judged(config, store), f"the judge {config.judge}"


def _answers(good: Callable[[Prompt, str], bool]) -> RolloutScorer:
    def truth(pairs: Sequence[tuple[Prompt, str]]) -> NDArray[np.float64]:
        return np.array([float(good(p, text)) for p, text in pairs])

    return truth


def check_judge(judge: str) -> None:
    """Raises AssayError for what is no judge."""
    from assay.reward.scorer import is_function
    from assay.tuning.reward_model import JUDGE as SERVER

    if judge and not is_function(judge) and not (judge.startswith(SERVER) and "@" in judge):
        raise AssayError(f"--tuning.judge {judge}: no judge; {JUDGE}")


def _judged(config: TuningConfig, store: ImageStore) -> RolloutScorer:
    from assay.tuning.reward_model import RewardModelConfig, load_reward_model, purse_of

    named = RewardModelConfig(reward_model=config.judge, ask=config.ask)
    judge = load_reward_model(named, store, pictures=False, purse=purse_of(config.ask))

    def truth(pairs: Sequence[tuple[Prompt, str]]) -> NDArray[np.float64]:
        found = np.asarray(judge(pairs), dtype=np.float64)
        if found.shape != (len(pairs),) or bool(((found < 0) | (found > 1)).any()):
            raise AssayError(f"--tuning.judge {config.judge}: a value from 0 to 1 for each answer is needed")
        return found

    return truth
