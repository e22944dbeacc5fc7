"""MPO, then GRPO with the sample buffer, in its own process (or several): `python policy_once.py FOLDER MODEL STEPS`."""

import sys
from pathlib import Path

from assay.policy.config import BufferConfig, FitConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.grpo import grpo
from assay.policy.model import load_policy
from assay.policy.mpo import Comparison, fit
from assay.policy.sampler import LocalSampler
from assay.records import Prompt, Rollout, Score, user
from assay.step import Engine


def reward(pairs: list[tuple[Prompt, Rollout]]) -> list[Score]:
    """Many groups have no signal: whatever is said to every third question is right, and most answers are short."""
    right = [float(p.messages[0].content[0] in "adg" or len(r.tokens) % 2) for p, r in pairs]
    return [Score(rule=x, format=0.0, total=x) for x in right]


def main() -> None:
    folder, model, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    config = PolicyConfig(tokens=64)
    Engine(config.precision, 1.0)
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


def ids(policy: object, text: str) -> list[int]:
    return list(policy.tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
