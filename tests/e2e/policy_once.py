"""MPO, then GRPO, in this process or one of several: `python policy_once.py MODEL OUT`. For tests of data parallelism."""

import sys
from pathlib import Path

from assay.policy.config import FitConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.grpo import grpo
from assay.policy.model import load_policy
from assay.policy.mpo import Comparison, fit
from assay.policy.sampler import LocalSampler
from assay.records import Prompt, Score, user


def main() -> None:
    model, out = sys.argv[1], Path(sys.argv[2])
    examples = [
        Comparison(prompt=(5, 6, 7 + i), chosen=(10 + i, 11, *[12] * i, 1), rejected=(13, 14 + i, 1)) for i in range(11)
    ]
    fit(out / "mpo", FitConfig(batch=5, epochs=2, lr=1e-2), load_policy(model, PolicyConfig(tokens=24)), examples)
    policy = load_policy(str(out / "mpo"), PolicyConfig())
    prompts = [Prompt(messages=(user(f"say {c}"),), answer=c) for c in "abcdefgh"]
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=6), half=False)

    def reward(pairs):  # type: ignore[no-untyped-def]
        found = [float(r.tokens[0] % 3 == 0) for _, r in pairs]
        return [Score(rule=f, format=0.0, total=f) for f in found]

    grpo(out / "grpo", GrpoConfig(steps=4, prompts=3, group=4, lr=1e-2, save_every=2), policy, prompts, sampler, reward)


if __name__ == "__main__":
    main()
