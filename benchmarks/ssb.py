"""The Selective Sample Buffer against plain GRPO, dropping zero-signal groups, and drawing again (DAPO): one small task.

    python benchmarks/ssb.py --out runs/ssb          # 5 seeds x 5 ways; also run by make bench-policy
    python benchmarks/ssb.py --out runs/ssb --seeds 0 1   # beside it, on another core: the same folder is shared

A finished run is kept in the folder, a killed one starts again; the tables come when all of the seeds are there.

A Qwen3 of 4 layers x 128 learns sums of two numbers below 12 by imitation until it answers six in ten of them, then by GRPO
with a rule reward, through the real loop. All ways share the start, the prompts' order and the learning rate.

What is asked is how many samples, and CPU seconds, a way needs to a fixed accuracy: the highest of `TARGETS` that plain GRPO
reaches from every seed, so that all can be compared. And, whatever the accuracy: how soon is it where plain GRPO ends (its
mean over the last quarter of its own run)?
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assay.tables import write_text

WAYS = ("keep", "drop", "resample", "buffer", "buffer of groups")
STEPS, PROMPTS, GROUP, EVERY = 400, 8, 8, 5
MOST, BEGIN_AT, LR = 12, 0.6, 2e-4
SEEDS = tuple(range(5))
TARGETS = (0.7, 0.75, 0.8, 0.85, 0.9)


def tokens() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["<pad>", "<end>", "<unk>", *"0123456789+= "])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    fast.chat_template = "{{ messages[0]['content'] }}="
    return fast


def sums(seed: int) -> tuple[list[Any], list[Any]]:
    """Prompts for training and for testing: three in four of all sums, and the rest."""
    from assay.records import Prompt, user

    pairs = [(a, b) for a in range(MOST) for b in range(MOST)]
    order = np.random.default_rng(seed).permutation(len(pairs))
    made = [
        Prompt(messages=(user(f"{a}+{b}"),), answer=str(a + b), kind="number") for a, b in (pairs[i] for i in order)
    ]
    return made[: 3 * len(made) // 4], made[3 * len(made) // 4 :]


def start(folder: Path, seed: int) -> Path:
    """A model that imitated worked sums until it answers six in ten of the training sums."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from assay.policy.config import FitConfig, PolicyConfig
    from assay.policy.model import load_policy
    from assay.policy.mpo import Comparison, fit

    torch.manual_seed(seed)
    tokenizer = tokens()
    Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )).save_pretrained(folder / "random")  # fmt: skip
    tokenizer.save_pretrained(folder / "random")
    policy = load_policy(str(folder / "random"), PolicyConfig())
    train, _ = sums(seed)
    examples = [
        Comparison(
            prompt=tuple(tokenizer(p.messages[0].content + "=")["input_ids"]),
            chosen=(*tokenizer(p.answer)["input_ids"], 1),
        )
        for p in train
    ]  # fmt: skip
    reached: list[float] = []

    def watch(_: int, policy: Any) -> dict[str, float]:
        reached.append(accuracy(policy, train, temperature=1.0))
        if reached[-1] > BEGIN_AT:
            policy.save(folder / "start")
            raise StopIteration
        return {}

    config = FitConfig(
        batch=60, epochs=200, lr=1e-3, weights=(0, 0, 1), schedule="constant", weight_decay=0.0, seed=seed
    )
    try:
        fit(folder / "fit", config, policy, examples, watch=watch, watch_every=10)
    except StopIteration:
        return folder / "start"
    raise AssertionError(f"imitation ended at {reached[-1]:.0%}")


def accuracy(policy: Any, prompts: list[Any], temperature: float) -> float:
    from assay.policy.config import SamplerConfig
    from assay.policy.sampler import LocalSampler

    answers = LocalSampler(policy, SamplerConfig(max_tokens=4, temperature=temperature), half=False)(prompts, 1)
    return float(np.mean([a[0].text == p.answer for p, a in zip(prompts, answers, strict=True)]))


def tune(folder: Path, model: Path, way: str, seed: int) -> dict[str, Any]:
    """One GRPO run. `curve` has (samples, CPU seconds of the steps, accuracy on the training sums, on the others)."""
    from assay.journal import read
    from assay.policy.config import BufferConfig, GrpoConfig, PolicyConfig, SamplerConfig
    from assay.policy.grpo import grpo
    from assay.policy.model import load_policy
    from assay.policy.sampler import LocalSampler
    from assay.records import Score

    policy = load_policy(str(model), PolicyConfig())
    train, test = sums(seed)

    def reward(pairs: Any) -> list[Score]:
        right = [float(r.text == p.answer) for p, r in pairs]
        return [Score(rule=x, format=0.0, total=x) for x in right]

    def watch(_: int, policy: Any) -> tuple[dict[str, float], str]:
        return {"train": accuracy(policy, train, 1.0), "test": accuracy(policy, test, 1.0)}, ""

    config = GrpoConfig(
        steps=STEPS, prompts=PROMPTS, group=GROUP, lr=LR, seed=seed, save_every=10**6,
        zero_groups="buffer" if way.startswith("buffer") else way,  # type: ignore[arg-type]
        buffer=BufferConfig(unit="group" if way == "buffer of groups" else "sample"),
    )  # fmt: skip
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=4), seed=seed, half=False)
    grpo(folder, config, policy, train, sampler, reward, watch=watch, watch_every=EVERY)
    metrics = read(folder / "metrics.jsonl")
    spent = np.cumsum([m["sample_cpu_s"] + m["update_cpu_s"] for m in metrics])
    curve = [(m["samples"], s, m["train"], m["test"]) for m, s in zip(metrics, spent, strict=True) if "train" in m]
    late = metrics[3 * len(metrics) // 4 :]
    return {
        "curve": curve, "effective": float(np.mean([m["effective"] for m in late])),
        "batch_effective": float(np.mean([m["batch_effective"] for m in late])), "last": curve[-1][2], "test": curve[-1][3],
        "cpu": float(spent[-1]), "samples": metrics[-1]["samples"],
    }  # fmt: skip


def reached(run: dict[str, Any], target: float, axis: int) -> float:
    """Samples (0) or CPU seconds (1) until the mean of two readings on the training sums reaches the target; inf: never."""
    curve = run["curve"]
    for before, now in itertools.pairwise(curve):
        if (before[2] + now[2]) / 2 >= target:
            return float(now[axis])
    return float("inf")


def end(run: dict[str, Any]) -> float:
    """The mean accuracy of the last quarter of a run's readings."""
    late = run["curve"][3 * len(run["curve"]) // 4 :]
    return float(np.mean([point[2] for point in late]))


def fixed(plain: list[dict[str, Any]]) -> float:
    """The highest target that plain GRPO reaches from every seed (the lowest of all where there is none)."""
    told = [t for t in TARGETS if all(np.isfinite(reached(p, t, 0)) for p in plain)]
    return max(told, default=TARGETS[0])


def sooner(
    plain: list[dict[str, Any]], others: list[dict[str, Any]], axis: int, target: float | None = None
) -> list[float]:
    """Seed by seed: how many times fewer samples (0) or CPU seconds (1) than plain GRPO to the target (None: to plain GRPO's
    own last accuracy); 0 where it is never reached."""
    wanted = [end(p) if target is None else target for p in plain]
    return [reached(p, w, axis) / reached(o, w, axis) for p, o, w in zip(plain, others, wanted, strict=True)]


def experiment(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Every way from every seed's start. What `folder` already has is not run again."""
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as place:
            model: Path | None = None
            for way in WAYS:
                kept = folder / f"{seed}-{way.replace(' ', '-')}.json"
                if not kept.exists():
                    model = model or start(Path(place), seed)
                    write_text(kept, json.dumps(tune(Path(place) / way, model, way, seed)))
                found = json.loads(kept.read_text())
                runs[way].append(found)
                shown = {k: round(v, 3) for k, v in found.items() if k != "curve"}
                print(seed, way, shown, f"end {end(found):.3f}", file=sys.stderr, flush=True)
    return report(runs, len(seeds))


def report(runs: dict[str, list[dict[str, Any]]], seeds: int) -> dict[str, Any]:
    def middle(values: list[float], digits: int = 2) -> str:
        shown = [f"{v:,.{digits}f}" for v in (statistics.median(values), min(values), max(values))]
        return f"{shown[0]} ({shown[1]} to {shown[2]})".replace("inf", "never")

    lines = [
        "", f"**The buffer**: sums below {MOST}, {STEPS} steps of {PROMPTS} x {GROUP} answers, {seeds} seeds, medians "
        f"(range); accuracy of sampled answers to the training sums; `python benchmarks/ssb.py`.", "",
        "| groups without signal | effective groups, last quarter | effective share of the batch | accuracy at the end | "
        "on other sums | samples in all | CPU s in all |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for way, found in runs.items():
        cells = [
            middle([r["effective"] for r in found]), middle([r["batch_effective"] for r in found]),
            middle([r["last"] for r in found]), middle([r["test"] for r in found]),
            middle([float(r["samples"]) for r in found], 0), middle([r["cpu"] for r in found], 0),
        ]  # fmt: skip
        lines.append(f"| {way} | {' | '.join(cells)} |")
    for axis, unit in ((0, "Samples"), (1, "CPU seconds")):
        heads = " | ".join(f"{t:.0%}" for t in TARGETS)
        lines += ["", f"{unit} until so many of the training sums are answered rightly:", "",
                  f"| groups without signal | {heads} |", "|---" * (1 + len(TARGETS)) + "|"]  # fmt: skip
        for way, found in runs.items():
            cells = [middle([reached(r, t, axis) for r in found], 0) for t in TARGETS]
            lines.append(f"| {way} | {' | '.join(cells)} |")
    target = fixed(runs["keep"])
    heads = (f"{target:.0%}: in samples", "in CPU seconds", "plain's end: in samples", "in CPU seconds")
    lines += [
        "", "How many times sooner than plain GRPO, seed by seed (0: never), medians (range): to the highest accuracy above "
        "that plain GRPO reaches from every seed, and to where plain GRPO ends:", "",
        f"| groups without signal | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|",
    ]  # fmt: skip
    told = {
        w: [middle(sooner(runs["keep"], found, axis, t)) for t in (target, None) for axis in (0, 1)]
        for w, found in runs.items()
    }
    lines += [f"| {way} | {' | '.join(cells)} |" for way, cells in told.items()]
    ratio, to_end = (statistics.median(sooner(runs["keep"], runs["buffer"], 0, t)) for t in (target, None))
    return {
        "lines": lines, "ssb_effective_share": round(statistics.median(r["batch_effective"] for r in runs["buffer"]), 3),
        "baseline_effective_share": round(statistics.median(r["batch_effective"] for r in runs["keep"]), 3),
        "samples_to_accuracy_ratio": round(ratio, 3), "samples_to_plain_end_ratio": round(to_end, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, help="where finished runs are kept (default: nowhere)")
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with tempfile.TemporaryDirectory() as place:
        print("\n".join(experiment(options.out or Path(place), options.seeds)["lines"]))


if __name__ == "__main__":
    main()
