"""MPO, then GRPO with the sample buffer: in this process (`train_once`), or `python policy_once.py FOLDER MODEL STEPS`.

Several also shard the policy (FSDP2), with answers from a sampler that has weights of its own, and say what comes of it.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from assay.policy.config import BufferConfig, FitConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.grpo import grpo
from assay.policy.model import Policy, load_policy
from assay.policy.mpo import Comparison, fit
from assay.policy.sampler import LocalSampler
from assay.records import user
from assay.rollouts import Prompt, Rollout, Score
from assay.step import Engine


def reward(pairs: list[tuple[Prompt, Rollout]]) -> list[Score]:
    """Many groups have no signal: whatever is said to every third question is right, and most answers are short."""
    right = [float(p.messages[0].content[0] in "adg" or len(r.tokens) % 2) for p, r in pairs]
    return [Score(rule=x, format=0.0, total=x) for x in right]


def varied(pairs: Sequence[tuple[Prompt, Rollout]]) -> list[Score]:
    """Differs in nearly every group, so that every step moves the policy."""
    found = [float(sum(r.tokens) % 5) for _, r in pairs]
    return [Score(rule=x, format=0.0, total=x) for x in found]


class Outside:
    """As vLLM is: it draws from a copy of its own, which is handed the policy's whole weights."""

    external = True

    def __init__(self, policy: Policy, model: str, config: SamplerConfig, engine: Engine) -> None:
        self.policy, self.engine, self.config = policy, engine, config
        self.own = LocalSampler(load_policy(model, PolicyConfig(precision="fp32")), config, seed=0, half=False)
        self.prompt_ids = self.own.prompt_ids

    def load(self, step: int) -> None:
        weights = self.engine.gather([self.policy.weights()])[0]
        self.own.policy.model.load_state_dict(weights)
        self.own.load(step)

    def __call__(self, prompts: Sequence[Prompt], n: int, draw: int = 0) -> list[list[Rollout]]:
        return self.own(prompts, n, draw)


def train_once(folder: Path, model: str, steps: int) -> None:
    config = PolicyConfig(tokens=64, precision="fp32")  # compared to more digits than bfloat16 has
    engine = Engine(config.precision, 1.0)
    policy = load_policy(model, config)
    words = ["a red house", "b stone", "c seven birds in a tree", "d walks", "e old", "f night", "g into"]
    examples = [
        Comparison(prompt=tuple(ids(policy, w)), chosen=tuple(ids(policy, f"yes {w}")), rejected=tuple(ids(policy, "no")))
        for w in words
    ]  # fmt: skip
    fit(folder / "mpo", FitConfig(batch=5, epochs=2, lr=1e-3, schedule="constant"), policy, examples, print)
    prompts = [Prompt(messages=(user(w),), answer="1", kind="number") for w in words]
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=6), seed=0, half=False)
    tuned = GrpoConfig(steps=steps, prompts=3, group=4, lr=1e-3, save_every=2, buffer=BufferConfig(capacity=32))
    grpo(folder / "grpo", tuned, policy, prompts, sampler, reward, print)
    if engine.world > 1:
        for name in ("whole", "sharded"):
            again = load_policy(model, replace(config, shard=name == "sharded"))
            outside = Outside(again, model, SamplerConfig(max_tokens=6), engine)
            grpo(folder / name, replace(tuned, kl=0.05), again, prompts, outside, varied, print)


def ids(policy: object, text: str) -> list[int]:
    return list(policy.tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[attr-defined]


if __name__ == "__main__":
    train_once(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
