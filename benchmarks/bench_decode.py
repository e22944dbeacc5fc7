"""The decoder's two ways on a CPU in fp32, and transformers' generate: tokens per CPU second, in turns within one process.

    make bench-decode
    python benchmarks/bench_decode.py --models tiny8k smollm2 --repetitions 5

tiny8k is the random model of bench_policy, smollm2 the packaged SmolLM2-135M. Greedy answers of exactly as many tokens to
prompts of 96, the prompt's pass and taking the weights over included. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_policy import make_model, processor, prompt_ids

from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.decode import LayerDecoder
from assay.policy.decode_cpu import CpuDecoder
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import LocalSampler
from assay.records import user
from assay.rollouts import Prompt

GROUP, NEW, LENGTH = 8, 32, 96


def ways(policy: Policy, groups: int) -> dict[str, Callable[[], int]]:
    """Each draws answers and returns the number of tokens."""
    prompts = [Prompt(messages=(user(str(i)),)) for i in range(groups)]
    ids = {p.id: i for p, i in zip(prompts, prompt_ids(LENGTH, groups), strict=True)}

    def ours(decoder: Any) -> Callable[[], int]:
        sampler = LocalSampler(policy, SamplerConfig(max_tokens=NEW, temperature=0.0), half=False)
        sampler.decoder, sampler.rendered, sampler.forbidden = decoder, ids, list(policy.end_ids)

        def run() -> int:
            sampler.load(0)
            return sum(len(r.tokens) for g in sampler(prompts, GROUP) for r in g)

        return run

    def generate() -> int:
        policy.inner.set_attn_implementation("sdpa")
        with torch.inference_mode():
            rows = torch.tensor([ids[p.id] for p in prompts]).repeat_interleave(GROUP, 0)
            out = policy.inner.generate(
                input_ids=rows, attention_mask=torch.ones_like(rows), do_sample=False, max_new_tokens=NEW,
                min_new_tokens=NEW, pad_token_id=0,
            )  # fmt: skip
        policy.inner.set_attn_implementation("assay")
        return int(out[:, LENGTH:].numel())

    inner = policy.inner
    return {
        "compiled step": ours(CpuDecoder(inner)), "layers": ours(LayerDecoder(inner, half=False)), "generate": generate,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["tiny8k", "smollm2"])
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    print(f"{processor()}, {torch.get_num_threads()} thread(s), {options.repetitions} repetitions, medians (range).\n")
    print("| model | rows | way | tokens/CPU-s | compiled step is ... times |\n|---|---|---|---|---|")
    last: dict[str, Any] = {"bench": "decode"}
    with tempfile.TemporaryDirectory() as place:
        for name in options.models:
            folder = name
            if name == "tiny8k":
                make_model(Path(place) / name)
                folder = str(Path(place) / name)
            policy = load_policy(folder, PolicyConfig(precision="fp32"))
            for groups in (1, 4):
                rates = measure(ways(policy, groups), options.repetitions)
                for way, found in rates.items():
                    times = [a / b for a, b in zip(rates["compiled step"], found, strict=True)]
                    print(
                        f"| {name} | {groups * GROUP} | {way} | {spread(found, 0)} | {spread(times, 2)} |", flush=True
                    )
                    last[f"{name}_{groups * GROUP}_vs_{way.replace(' ', '_')}"] = round(statistics.median(times), 3)
    print(json.dumps({k: v for k, v in last.items() if not k.endswith("compiled_step")}))


def measure(contenders: dict[str, Callable[[], int]], repetitions: int) -> dict[str, list[float]]:
    """Tokens per CPU second of each, once a repetition, after one warm-up."""
    rates: dict[str, list[float]] = {way: [] for way in contenders}
    for repetition in range(repetitions + 1):
        for way, run in contenders.items():
            start = time.process_time()
            tokens = run()
            if repetition:
                rates[way].append(tokens / (time.process_time() - start))
    return rates


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
