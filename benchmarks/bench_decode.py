"""The decoder's two ways on a CPU in fp32, transformers' generate, and vLLM in bfloat16: tokens per CPU second, in turns.

    make bench-decode
    python benchmarks/bench_decode.py --models tiny8k smollm2 --repetitions 5
    python benchmarks/bench_decode.py --only-vllm --vllm PYTHON    # against vLLM alone

tiny8k is the random model of bench_policy, smollm2 the packaged SmolLM2-135M. Within one process: greedy answers of exactly
as many tokens to prompts of 96, the prompt's pass and taking the weights over included.

Against vLLM, in a process and an environment of its own: smollm2 in bfloat16, 4 prompts x 8 answers of 64 tokens, drawn at
temperature 1 with their log-probabilities, as GRPO asks for them; prompts of 100, 555 and 2,048 tokens, other ones in every
repetition; one core. Neither side's handing over of weights is counted. Each contender's log-probabilities are compared with
those that the policy in full precision has for the same tokens, else the race is void. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peer_vllm
import torch
from bench_policy import DOC, VOCABULARY, make_model, processor, prompt_ids

from assay.pack import Group
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.decode import LayerDecoder
from assay.policy.decode_cpu import CpuDecoder
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import LocalSampler
from assay.records import user
from assay.rollouts import Prompt

GROUP, NEW, LENGTH = 8, 32, 96
PROMPTS, ANSWER, LENGTHS, APART = 4, 64, (100, 555, 2048), 0.1
"""Against vLLM. Log-probabilities more than `APART` nats from the policy's, in the mean, make the race void."""


def ways(policy: Policy, groups: int) -> dict[str, Callable[[], int]]:
    """Each draws answers and returns the number of tokens."""
    prompts = [Prompt(messages=(user(str(i)),)) for i in range(groups)]
    ids = {p.id: i for p, i in zip(prompts, prompt_ids(LENGTH, groups), strict=True)}

    def ours(decoder: Any) -> Callable[[], int]:
        sampler = LocalSampler(policy, SamplerConfig(max_tokens=NEW, temperature=0.0), half=False)
        sampler.rendered = lambda prompt: ids[prompt.id]  # type: ignore[assignment]
        sampler.decoder, sampler.forbidden = decoder, list(policy.end_ids)

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
    parser.add_argument("--vllm", default=peer_vllm.DEFAULT, metavar="PYTHON", help="an interpreter that has vLLM")
    parser.add_argument("--only-vllm", action="store_true", help="the race against vLLM alone")
    options = parser.parse_args()
    last: dict[str, Any] = {"bench": "decode"}
    if not options.only_vllm:
        last |= within(options)
    if peer_vllm.there(options.vllm):
        page, ratios = race(options.vllm, options.repetitions)
        print(page)
        last |= ratios
        peer_vllm.write_between(DOC, "bench-decode-vllm", f"{processor()}. {page}")
    print(json.dumps(last))


def within(options: Any) -> dict[str, Any]:
    """The ways of one process."""
    print(f"{processor()}, {torch.get_num_threads()} thread(s), {options.repetitions} repetitions, medians (range).\n")
    print("| model | rows | way | tokens/CPU-s | compiled step is ... times |\n|---|---|---|---|---|")
    last: dict[str, Any] = {}
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
    return {k: v for k, v in last.items() if not k.endswith("compiled_step")}


def race(python: str, repetitions: int) -> tuple[str, dict[str, Any]]:
    """The table, and what the last line says of it."""
    torch.set_num_threads(1)
    rates: dict[tuple[int, str], list[float]] = {}
    gaps: dict[tuple[int, str], float] = {}
    with tempfile.TemporaryDirectory() as place:
        policy = load_policy("smollm2", PolicyConfig(precision="bf16"))
        policy.save(Path(place))
        sampler = LocalSampler(policy, SamplerConfig(max_tokens=ANSWER, temperature=1.0))
        sampler.forbidden, sampler.policy = [], _Endless(policy)  # type: ignore[assignment]
        vllm = peer_vllm.Contender(python, "decode", place)
        for repetition in range(repetitions + 1):
            for length in LENGTHS:
                ids = np.random.default_rng([length, repetition]).integers(10, VOCABULARY, (PROMPTS, length)).tolist()
                ids = ids if repetition else ids[:1]  # a warm-up, of one prompt
                start = time.process_time()
                answers = {"ours": _ours(sampler, ids)}
                spent = {"ours": time.process_time() - start}
                task = {"ids": ids, "answers": GROUP, "new": ANSWER}
                answers["vLLM"], spent["vLLM"] = vllm.ask(task)
                print(length, repetition, spent, gaps, file=sys.stderr, flush=True)
                for who, told in answers.items():
                    assert all(len(tokens) == ANSWER for group in told for tokens, _ in group), "another length"
                    if repetition:
                        rates.setdefault((length, who), []).append(PROMPTS * GROUP * ANSWER / spent[who])
                    if repetition == 1:
                        gaps[length, who] = _gap(policy, ids[0], told[0][:2])
        vllm.close()
    assert max(gaps.values()) < APART, f"the race is void, log-probabilities differ: {gaps}"
    lines = [
        f"SmolLM2-135M, bfloat16, {PROMPTS} prompts x {GROUP} answers of {ANSWER} tokens, one core, {repetitions} "
        f"repetitions, medians (range). {peer_vllm.told(vllm.ready)}.", "",
        "| prompt tokens | contender | answers' tokens/CPU-s | ours is ... times as fast | mean distance from fp32's "
        "log-probabilities, nats |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    last: dict[str, Any] = {}
    for (length, who), found in rates.items():
        times = [a / b for a, b in zip(rates[length, "ours"], found, strict=True)]
        lines.append(f"| {length:,} | {who} | {spread(found, 0)} | {spread(times, 2)} | {gaps[length, who]:.4f} |")
        if who == "vLLM":
            last |= {f"vs_vllm_{length}": round(statistics.median(times), 3)}
    return "\n".join(lines), last


class _Endless:
    """A policy whose answers do not end."""

    end_ids = ()

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)


def _ours(sampler: LocalSampler, ids: list[list[int]]) -> list[list[Any]]:
    prompts = [Prompt(messages=(user(str(i)),)) for i in range(len(ids))]
    rows = {p.id: row for p, row in zip(prompts, ids, strict=True)}
    sampler.rendered = lambda prompt: rows[prompt.id]  # type: ignore[assignment]
    return [[[list(r.tokens), list(r.logprobs)] for r in group] for group in sampler(prompts, GROUP)]


@torch.inference_mode()
def _gap(policy: Policy, ids: list[int], answers: list[Any]) -> float:
    """The mean distance of a group's log-probabilities from those of the policy in full precision."""
    group = Group(prefix=np.array(ids, np.int32), answers=tuple(np.array(tokens, np.int32) for tokens, _ in answers))
    said = torch.tensor([x for _, logprobs in answers for x in logprobs])
    return float((policy(policy.batch([group]), entropy=False).logp_M - said).abs().mean())


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
