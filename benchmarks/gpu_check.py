"""What a CPU cannot run, on an accelerator: packed attention's back ends, both trainers against TRL's, decoding, FSDP2.

    scripts/gpu_check.sh            # under 8 minutes on one device
    scripts/gpu_check.sh --small    # tiny sizes, on a CPU as well: does the check itself run?

Every part is a process of its own with a time limit, so what fails or hangs there is one line of the result. Models have
random weights (Qwen3-0.6B's layers, a vocabulary of 8,192). Times are by the clock, after warm-up steps, with the device
waited for. The last line of stdout is JSON: for each part its figures, or "problem".
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bench_policy
import bench_reward
import numpy as np
import torch

from assay import attention, devices
from assay.pack import pack, share

Figures = dict[str, Any]
LIMIT, LIMITS = 75, {"reward": 150}
"""Seconds that a part may take on an accelerator: 450 in all. (On a CPU a small one may take as long as it does.)"""


@dataclass(frozen=True)
class Sizes:
    """What is measured on. `layers` None: all 28 of Qwen3-0.6B."""

    layers: int | None = None
    hidden: int = 1024
    pairs: int = 128
    prompt: int = 512
    steps: int = 6


FULL, SMALL = Sizes(), Sizes(layers=2, hidden=128, pairs=16, prompt=64, steps=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU as well")
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.small and not torch.accelerator.is_available():
        sys.exit("no accelerator here; --small tries the check itself on a CPU")
    if options.part:
        say(PARTS[options.part](SMALL if options.small else FULL))
        return
    told: Figures = {"check": "gpu", "device": name(), "torch": torch.__version__, "small": options.small}
    for part in options.only:
        start = time.monotonic()
        told[part] = alone(part, options.small) | {"seconds": round(time.monotonic() - start)}
        print(f"{part}: {json.dumps(told[part])}", file=sys.stderr, flush=True)
    print(json.dumps(told))


def name() -> str:
    where = devices.device().type
    return torch.cuda.get_device_name() if where == "cuda" else where


def say(told: Figures) -> None:
    """What a part has found so far: its last word counts, whatever becomes of it then."""
    print("\n" + json.dumps(told), flush=True)


def alone(part: str, small: bool) -> Figures:
    """The figures of a part, computed in a process of its own; "problem" where it had one, with what it had found until
    then."""
    command = [sys.executable, __file__, "--part", part, *(["--small"] if small else [])]
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    limit = LIMITS.get(part, LIMIT) if torch.accelerator.is_available() else None
    try:
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return found_in(said.decode() if isinstance(said, bytes) else said) | {"problem": f"not done after {limit} s"}
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:300]
        return found_in(done.stdout) | {"problem": why}
    return found_in(done.stdout)


def found_in(output: str) -> Figures:
    """The last figures that a part told."""
    lines = [line for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    return dict(json.loads(lines[-1])) if lines else {}


def clock() -> float:
    """Seconds, once the device has done all that was asked of it."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], Any], times: int) -> float:
    """Of one call, the mean of so many after one to warm up."""
    work()
    start = clock()
    for _ in range(times):
        work()
    return (clock() - start) / times


def kind() -> torch.dtype:
    return torch.bfloat16 if devices.computes_in_half("auto") else torch.float32


def make_model(folder: Path, sizes: Sizes, reward: bool) -> None:
    """Random weights of Qwen3-0.6B's shape, saved; a tokenizer that has a word for every id."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

    torch.manual_seed(0)
    heads = sizes.hidden // 64
    config = Qwen3Config(
        vocab_size=bench_policy.VOCABULARY, hidden_size=sizes.hidden, intermediate_size=3 * sizes.hidden,
        num_hidden_layers=sizes.layers or 28, num_attention_heads=heads, num_key_value_heads=max(1, heads // 2),
        head_dim=128 if sizes.layers is None else 64, max_position_embeddings=4096, tie_word_embeddings=True,
        pad_token_id=0, eos_token_id=2, bos_token_id=None, num_labels=1,
    )  # fmt: skip
    model = (Qwen3ForSequenceClassification if reward else Qwen3ForCausalLM)(config)
    model.save_pretrained(folder)
    bench_policy.words(model).save_pretrained(folder)


# The parts


def attention_part(sizes: Sizes) -> Figures:
    """Each back end against the segments' in fp32, forward and backward, on packs as training has them."""
    where, told = devices.device(), Figures()
    pairs = bench_reward.make_pairs(4 if sizes is SMALL else 16, 100, seed=0)
    groups = [share([[*p, *a], [*p, *b]]) for p, a, b in pairs]
    gen = torch.Generator().manual_seed(0)
    tokens, heads, kept, width = pack(groups).tokens, 16, 8, 128
    shapes = [(tokens, heads, width), (tokens, kept, width), (tokens, kept, width), (tokens, heads, width)]
    fp32 = [torch.randn(s, generator=gen).to(where) for s in shapes]

    def run(backend: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], Callable[[], Any]]:
        layout = pack(groups, backend).to(where).layout
        q, k, v, grad = (x.to(dtype) for x in fp32)
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]

        def both() -> list[torch.Tensor]:
            out = attention.attend(*inputs, layout, width**-0.5)
            return [out.detach(), *torch.autograd.grad(out, inputs, grad)]

        return both(), both

    true, _ = run("segments", torch.float32)
    most = 0.03 if kind() == torch.bfloat16 else 1e-4
    for backend in attention.candidates(where, kind() == torch.bfloat16):
        try:
            found, again = run(backend, kind())
        except (RuntimeError, TypeError, ImportError, AttributeError) as error:  # this torch or device lacks its kernel
            told[backend] = {"problem": f"{type(error).__name__}: {error}"[:300], "right": False}
            continue
        apart = [float((f.float() - t).abs().max() / t.abs().max()) for f, t in zip(found, true, strict=True)]
        told[backend] = {
            "apart": {n: round(a, 6) for n, a in zip(("out", "dq", "dk", "dv"), apart, strict=True)},
            "tokens_per_s": round(tokens / seconds(again, sizes.steps)), "right": max(apart) < most,
        }  # fmt: skip
        del found, again
        gc.collect()
        say({"tokens": tokens, **told})
    return {"tokens": tokens, **told, "right": all(t["right"] for t in told.values())}


def reward_part(sizes: Sizes) -> Figures:
    """Reward training, ours and TRL's as it comes and without checkpointing; MFU of the device's own best product."""
    dtype = bench_reward.precision()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder, sizes, reward=True)
        bench_reward.VOCABULARY["check"] = bench_policy.VOCABULARY
        job = bench_reward.Job(bench_reward.OURS, "check", sizes.pairs, warmup=3, dtype=dtype)
        batches = bench_reward.batches_of(job)
        timed = batches[job.warmup :]

        def rate(train: Callable[[bench_reward.AfterStep], None]) -> tuple[float, list[float]]:
            at, losses = list[float](), list[float]()

            def after(done: int, loss: float) -> None:
                losses.append(loss)
                at.append(clock())

            train(after)
            gc.collect()
            return sizes.pairs / (at[-1] - at[job.warmup - 1]), losses

        rest = (folder, batches, bench_reward.LEARNING_RATE, bench_reward.CLIP, dtype)
        ours, losses = rate(lambda after: bench_reward.ours(*rest, after, compiled=True))
        flops = bench_reward.model_flops(folder, timed) * ours / sizes.pairs
        told: Figures = {"pairs_per_s": round(ours, 2), "mfu_of_measured_peak": round(flops / peak(), 3)}
        say(told)
        for peer in (bench_reward.DEFAULT, "trl-plain") if find_spec("trl") else ():
            theirs, other = rate(lambda after, p=peer: bench_reward.trl(p, *rest, after))  # type: ignore[misc]
            told |= {peer: round(theirs, 2), f"times_{peer}": round(ours / theirs, 2)}
            told[f"loss_apart_{peer}"] = round(max(abs(a - b) for a, b in zip(losses, other, strict=True)), 4)
            say(told)
    return told | ({} if find_spec("trl") else {"trl": "not installed: pip install trl"})


def peak() -> float:
    """Operations a second of the best square product in this precision."""
    n = 8192 if torch.accelerator.is_available() else 1024
    a, b = (torch.randn(n, n, dtype=kind(), device=devices.device()) for _ in range(2))
    return 2.0 * n**3 / seconds(lambda: a @ b, 10)


def grpo_part(sizes: Sizes) -> Figures:
    """One GRPO step of 8 answers of 64 tokens, ours and TRL's (its generation by transformers)."""
    by_clock()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder, sizes, reward=False)
        ours = np.median(bench_policy.grpo_ours(folder, sizes.prompt, sizes.steps, 2)["step"])
        told: Figures = {"prompt_tokens": sizes.prompt, "step_s": round(float(ours), 3)}
        say(told)
        if not find_spec("trl"):
            return told | {"trl": "not installed: pip install trl"}
        theirs = np.median(bench_policy.grpo_trl(folder, sizes.prompt, sizes.steps, 2, checkpointing=False)["step"])
    return told | {"trl_step_s": round(float(theirs), 3), "times_trl": round(float(theirs / ours), 2)}


def by_clock() -> None:
    """`bench_policy` counts CPU seconds; here its steps are timed by the clock."""

    class Clock:
        process_time = staticmethod(clock)

    bench_policy.time = Clock  # type: ignore[assignment]


def decode_part(sizes: Sizes) -> Figures:
    """Tokens a second of 4 x 8 drawn answers of 64 tokens, our decoder and transformers' `generate`."""
    from transformers import AutoModelForCausalLM

    from assay.policy.config import PolicyConfig, SamplerConfig
    from assay.policy.model import load_policy
    from assay.policy.sampler import LocalSampler
    from assay.records import user
    from assay.rollouts import Prompt

    n, group, new = 4, bench_policy.GROUP, bench_policy.NEW
    rows = bench_policy.prompt_ids(sizes.prompt, n)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder, sizes, reward=False)
        policy = load_policy(str(folder), PolicyConfig(precision=bench_policy.precision()))  # type: ignore[arg-type]
        prompts = [Prompt(messages=(user(bench_policy.text(ids)),)) for ids in rows]
        sampler = LocalSampler(policy, SamplerConfig(max_tokens=new), half=policy.bf16)
        known = {p.id: ids for p, ids in zip(prompts, rows, strict=True)}
        sampler.rendered = lambda prompt: known[prompt.id]  # type: ignore[assignment]
        sampler.forbidden = list(policy.end_ids)
        ours = n * group * new / seconds(partial(sampler, prompts, group), 2)
        say({"tokens_per_s": round(ours)})
        sampler = policy = None
        gc.collect()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind()).eval().to(devices.device())
        ids = torch.tensor(rows, device=devices.device())

        @torch.inference_mode()
        def generate() -> None:
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, num_return_sequences=group,
                max_new_tokens=new, min_new_tokens=new,
            )  # fmt: skip

        theirs = n * group * new / seconds(generate, 2)
    return {"tokens_per_s": round(ours), "generate": round(theirs), "times_generate": round(ours / theirs, 2)}


def fsdp2_part(sizes: Sizes) -> Figures:
    """The same few steps of reward training with and without FSDP2, in a group of one process: its kernels and their
    numbers, not its communication."""
    import torch.distributed as dist

    from assay.reward.config import EngineConfig
    from assay.reward.model import RewardModel
    from assay.step import Engine

    dist.init_process_group(store=dist.HashStore(), rank=0, world_size=1)
    dtype, curves = bench_reward.precision(), list[list[float]]()
    pairs = bench_reward.make_pairs(8, bench_policy.VOCABULARY, seed=0)
    groups = [share([[*p, *a], [*p, *b]]) for p, a, b in pairs]
    with tempfile.TemporaryDirectory() as place:
        make_model(Path(place), sizes, reward=True)
        for sharded in (False, True):
            engine = Engine(dtype, 1.0)
            model = RewardModel(bench_reward.load(Path(place)).to(engine.device), 0, EngineConfig(), dtype)
            assert model.packed, model.reason
            engine.sharded = sharded
            engine.prepare(model, 1e-5, 0.0)
            losses = list[float]()

            def loss(batch: Any, engine: Engine = engine, losses: list[float] = losses) -> torch.Tensor:
                with engine.autocast():
                    rewards = engine.module(batch.to(engine.device))
                found = -torch.nn.functional.logsigmoid(rewards[0::2] - rewards[1::2]).mean()
                losses.append(float(found.detach()))
                return found

            for _ in range(4):
                engine.step([model.batch(groups)], loss, 1e-5)
            curves.append(losses)
            del engine, model
            gc.collect()
    dist.destroy_process_group()
    apart = max(abs(a - b) for a, b in zip(*curves, strict=True))
    return {"losses": [round(x, 4) for x in curves[1]], "apart": round(apart, 5), "right": apart < 0.02}


PARTS: dict[str, Callable[[Sizes], Figures]] = {
    "attention": attention_part, "reward": reward_part, "grpo": grpo_part, "decode": decode_part, "fsdp2": fsdp2_part,
}  # fmt: skip


if __name__ == "__main__":
    main()
