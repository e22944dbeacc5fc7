"""Answers that are drawn while the policy trains: by which policy, at which ratio, killed and resumed."""

import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import tiny_models
from assay.errors import AssayError
from assay.journal import read
from assay.policy.config import BufferConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.generate import GenerateSampler
from assay.policy.grpo import grpo
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import LocalSampler
from assay.records import user
from assay.rollouts import Prompt, Rollout, Score
from tiny_models import first_tokens

PROMPTS = [Prompt(messages=(user(f"say {c}"),), answer=c) for c in "abcdefgh"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_language(tmp_path_factory.mktemp("lm"), "qwen3")


class Seeing:
    """A reward that keeps what it saw: answers, and the weights of the policy that is about to learn from them."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.states, self.answers = policy, list[Any](), list[list[tuple[Prompt, Rollout]]]()

    def ahead(self, pairs: Any) -> None:
        """Called once a step, before any answer is scored."""
        self.answers.append(list(pairs))
        self.states.append({n: x.detach().clone() for n, x in self.policy.inner.state_dict().items()})

    def __call__(self, pairs: Any) -> list[Score]:
        return first_tokens(pairs)


def run(
    folder: Path, out: Path, watch: Any = None, lora: int = 0, **options: Any
) -> tuple[list[dict[str, Any]], Seeing]:
    policy = load_policy(str(folder), PolicyConfig(precision="fp32", lora_rank=lora))
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=6), half=False)
    reward = Seeing(policy)
    settings: dict[str, Any] = {"steps": 6, "prompts": 3, "group": 4, "lr": 1e-2, "save_every": 2, **options}
    grpo(out, GrpoConfig(**settings), policy, PROMPTS, sampler, reward, watch=watch, watch_every=1)
    return read(out / "metrics.jsonl"), reward


def gap(weights: Any, pairs: list[tuple[Prompt, Rollout]], sampler: Any, folder: Path) -> float:
    """How far the sampler's log-probabilities are from those of a policy with these weights, nats, at most."""
    policy = load_policy(str(folder), PolicyConfig(packing=False))
    policy.inner.load_state_dict(weights)
    worst = 0.0
    for prompt, rollout in pairs:
        ids = [*sampler.prompt_ids(prompt), *rollout.tokens]
        with torch.no_grad():
            logp = policy.inner(input_ids=torch.tensor([ids])).logits[0]
        first = len(ids) - len(rollout.tokens) - 1
        found = logp.log_softmax(-1)[range(first, len(ids) - 1), list(rollout.tokens)]
        worst = max(worst, float((found - torch.tensor(rollout.logprobs)).abs().max()))
    return worst


@pytest.mark.parametrize(("staleness", "drawn_at"), [(1, [0, 1, 1, 2, 3, 4]), (3, [0, 1, 1, 1, 1, 4])])
def test_answers_are_by_the_policy_that_they_say_within_the_bound(
    folder: Path, tmp_path: Path, staleness: int, drawn_at: list[int]
) -> None:
    """By the weights themselves: the sampler's log-probabilities are those of the policy of the step that an answer names,
    and of no later one."""
    metrics, seen = run(folder, tmp_path / "run", staleness=staleness)
    steps = [[r.policy_step for _, r in pairs] for pairs in seen.answers]
    assert steps == [[at] * 12 for at in drawn_at]
    assert [m["staleness_most"] for m in metrics] == [step - at for step, at in enumerate(drawn_at)]
    assert [m["staleness"] for m in metrics] == [m["staleness_most"] for m in metrics]
    sampler = GenerateSampler(load_policy(str(folder), PolicyConfig(packing=False)), SamplerConfig())
    for step, at in enumerate(drawn_at):
        assert gap(seen.states[at], seen.answers[step], sampler, folder) < 1e-4
        if at < step:
            assert gap(seen.states[step], seen.answers[step], sampler, folder) > 1e-3, "the policy has moved since"


def test_what_an_earlier_policy_drew_is_learned_from_by_its_ratio(folder: Path, tmp_path: Path) -> None:
    options = {"zero_groups": "drop", "steps": 4, "buffer": BufferConfig(replays=0)}
    now, _ = run(folder, tmp_path / "now", **options)
    late, _ = run(folder, tmp_path / "late", staleness=1, **options)
    assert [m["loss"] for m in now[:2]] == [m["loss"] for m in late[:2]], "the first two steps are the same"
    assert ["sampler_gap" in m for m in late] == [True, True, False, False], (
        "a gap that nobody measured is not told as 0"
    )
    assert all(m["ratio"] == 1.0 and "staleness" not in m for m in now), "0 is the run without any of it"
    assert late[1]["ratio"] == 1.0
    assert all(m["ratio"] != 1.0 for m in late[2:] if not m["skipped"])
    assert late[2]["loss"] != now[2]["loss"]


def test_drawing_goes_on_in_a_thread_while_the_policy_trains(folder: Path, tmp_path: Path) -> None:
    """An engine that does not answer before the training is under way: without a thread this would wait for ever."""
    policy = load_policy(str(folder), PolicyConfig(precision="fp32"))
    inner = LocalSampler(
        load_policy(str(folder), PolicyConfig(precision="fp32")), SamplerConfig(max_tokens=6), half=False
    )
    begun, training = threading.Event(), threading.Event()

    class Elsewhere:
        external, config, prompt_ids = True, inner.config, inner.prompt_ids
        threads: ClassVar[list[bool]] = []

        def load(self, step: int) -> None:
            inner.step = step

        def __call__(self, prompts: Any, n: int, draw: int = 0) -> Any:
            here = threading.current_thread() is threading.main_thread()
            self.threads.append(here)
            if not here:
                begun.set()
            assert here or training.wait(300)
            return inner(prompts, n, draw)

    def reward(pairs: Any) -> list[Score]:
        if sampler.threads.count(True) > 1:  # what comes after this step was given to the thread before it
            assert begun.wait(300)
            training.set()
        return Seeing(policy)(pairs)

    sampler = Elsewhere()
    config = GrpoConfig(steps=4, prompts=3, group=4, lr=1e-3, staleness=1)
    grpo(tmp_path / "run", config, policy, PROMPTS, sampler, reward)
    assert sampler.threads == [True, True, False, False]


class Killed(Exception):
    pass


@pytest.mark.parametrize("lora", [0, 2])
def test_a_killed_run_goes_on_with_what_was_drawn_for_it(folder: Path, tmp_path: Path, lora: int) -> None:
    """Its states are at steps 2 and 4: in the middle of what one policy has drawn, and a reading comes at every step."""

    def die(step: int, _: Policy) -> tuple[dict[str, float], str]:
        if step == 5:
            raise Killed
        return {}, ""

    options = {"staleness": 2, "lora": lora}
    whole, _ = run(folder, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        run(folder, tmp_path / "killed", die, **options)
    resumed, _ = run(folder, tmp_path / "killed", **options)
    for name in ("loss", "reward", "staleness", "ratio", "buffer_drawn", "samples"):
        assert [m[name] for m in whole] == [m[name] for m in resumed], name
    weights = [load_policy(str(tmp_path / n), PolicyConfig()).state_dict() for n in ("whole", "killed")]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


def test_what_cannot_be_drawn_ahead_is_refused(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(str(folder), PolicyConfig(packing=False))
    sampler = GenerateSampler(policy, SamplerConfig())
    with pytest.raises(AssayError, match="which GenerateSampler cannot"):
        grpo(tmp_path / "run", GrpoConfig(staleness=1), policy, PROMPTS, sampler, Seeing(policy))
    with pytest.raises(AssayError, match="before it is known how many resampling takes"):
        GrpoConfig(staleness=1, zero_groups="resample")
    with pytest.raises(AssayError, match=r"grpo\.staleness"):
        GrpoConfig(staleness=-1)
