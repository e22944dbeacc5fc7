"""The Selective Sample Buffer against plain GRPO, dropping zero-signal groups, and drawing again (DAPO): one small task.

    python benchmarks/ssb.py --out runs/ssb              # 5 seeds x all ways; also run by make bench-policy
    python benchmarks/ssb.py --out runs/ssb --seeds 0 1 --ways keep replays   # some of them; the same folder may be shared

A finished run is kept in the folder, a killed one starts again; the tables hold what is there.

A Qwen3 of 4 layers x 128 learns sums of two numbers below 12 by imitation until it answers six in ten of them, then by GRPO
with a rule reward, through the real loop. All ways share the start, the prompts' order and the learning rate, which is the
best of those tried for plain GRPO (docs/log.md, section 27), as is plain GRPO's constant schedule (section 29).

What is asked is how many samples, and CPU seconds, a way needs to where plain GRPO ends: its mean accuracy over the last
quarter of its own run; and to the highest of `TARGETS` that plain GRPO reaches from every seed. A way is there when the mean
of `SMOOTH` readings is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from assay.tables import write_text

STEADY = {"schedule": "constant"}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "keep": ("plain GRPO", {"zero_groups": "keep", **STEADY}),
    "keep-linear": ("plain GRPO, rate falls", {"zero_groups": "keep"}),
    "twice": ("plain GRPO, each batch used twice, rate falls", {"zero_groups": "keep"}),
    "drop": ("dropped", {"zero_groups": "drop", **STEADY}),
    "resample": ("drawn again (DAPO)", {"zero_groups": "resample", **STEADY}),
    "ssr": ("buffer as SSR has it", {"buffer": {"beta": 0.0, "replays": 0}, **STEADY}),
    "corrected": ("buffer, priority corrected", {"buffer": {"replays": 0}, **STEADY}),
    "groups": ("buffer of whole groups", {"buffer": {"unit": "group", "replays": 0}, **STEADY}),
    "replays-steady": ("buffer, corrected, with a replay", STEADY),
    "replays": ("buffer, corrected, with a replay, rate falls (default)", {}),
    "ssr-replays": ("buffer as SSR has it, with a replay, rate falls", {"buffer": {"beta": 0.0}}),
}
"""The ways: what they are called, and their settings. The rate is constant where it does not fall linearly to the end."""
STEPS, PROMPTS, GROUP, EVERY, SMOOTH = 400, 8, 8, 10, 4
MOST, BEGIN_AT, LR = 12, 0.6, 1e-4
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
    from assay.records import user
    from assay.rollouts import Prompt

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
    from assay.rollouts import Score

    policy = load_policy(str(model), PolicyConfig())
    train, test = sums(seed)

    def reward(pairs: Any) -> list[Score]:
        right = [float(r.text == p.answer) for p, r in pairs]
        return [Score(rule=x, format=0.0, total=x) for x in right]

    def watch(_: int, policy: Any) -> tuple[dict[str, float], str]:
        return {"train": accuracy(policy, train, 1.0), "test": accuracy(policy, test, 1.0)}, ""

    settings = {**WAYS[way][1], "buffer": BufferConfig(**WAYS[way][1].get("buffer", {}))}
    config = GrpoConfig(steps=STEPS, prompts=PROMPTS, group=GROUP, lr=LR, seed=seed, save_every=10**6, **settings)
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=4), seed=seed, half=False)
    with twice() if way == "twice" else nullcontext():
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


@contextmanager
def twice() -> Iterator[None]:
    """Every batch makes two optimiser steps, the second by ratios to the first: the control of the buffer's replays."""
    from assay.policy.update import Update

    once = Update.train

    def train(self: Update, batch: list[Any], fresh: int, step: int) -> dict[str, float]:
        told = once(self, batch, fresh, step)
        once(self, self.with_recorded(batch), 0, step)
        return told

    Update.train = train  # type: ignore[method-assign]
    try:
        yield
    finally:
        Update.train = once  # type: ignore[method-assign]


def reached(run: dict[str, Any], target: float, axis: int) -> float:
    """Samples (0) or CPU seconds (1) until the mean of `SMOOTH` readings on the training sums is there; inf: never."""
    curve = run["curve"]
    for at in range(SMOOTH, len(curve) + 1):
        if np.mean([point[2] for point in curve[at - SMOOTH : at]]) >= target:
            return float(curve[at - 1][axis])
    return math.inf


def end(run: dict[str, Any]) -> float:
    """The mean accuracy of the last quarter of a run's readings."""
    late = run["curve"][3 * len(run["curve"]) // 4 :]
    return float(np.mean([point[2] for point in late]))


def sooner(plain: dict[str, Any], other: dict[str, Any], axis: int, target: float | None = None) -> float:
    """How many times fewer samples (0) or CPU seconds (1) than plain GRPO to the target (None: plain GRPO's own end); 0: it
    never is there."""
    wanted = end(plain) if target is None else target
    return reached(plain, wanted, axis) / reached(other, wanted, axis)


def fixed(plain: Iterable[dict[str, Any]]) -> float:
    """The highest target that plain GRPO reaches from every seed (the lowest of all where there is none)."""
    runs = list(plain)
    return max((t for t in TARGETS if all(math.isfinite(reached(p, t, 0)) for p in runs)), default=TARGETS[0])


def experiment(folder: Path, seeds: Sequence[int], ways: Sequence[str] = tuple(WAYS)) -> dict[str, Any]:
    """Every way from every seed's start. What `folder` already has is not run again, and is in the tables whoever ran it."""
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        with tempfile.TemporaryDirectory() as place:
            model: Path | None = None
            for way in ways:
                kept = folder / f"{seed}-{way}.json"
                if not kept.exists():
                    model = model or start(Path(place), seed)
                    write_text(kept, json.dumps(tune(Path(place) / way, model, way, seed)))
                found = json.loads(kept.read_text())
                shown = {k: round(v, 3) for k, v in found.items() if k != "curve"}
                print(seed, way, shown, f"end {end(found):.3f}", file=sys.stderr, flush=True)
    return report({
        way: {int(f.name.split("-")[0]): json.loads(f.read_text()) for f in folder.glob(f"*[0-9]-{way}.json")}
        for way in WAYS
    })  # fmt: skip


def report(runs: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """The tables of runs by way and seed."""
    runs = {way: dict(sorted(found.items())) for way, found in runs.items() if found}

    def middle(values: Iterable[float], digits: int = 2) -> str:
        found = list(values)
        shown = [f"{v:,.{digits}f}" for v in (statistics.median(found), min(found), max(found))]
        return f"{shown[0]} ({shown[1]} to {shown[2]})".replace("inf", "never")

    plain = runs["keep"]
    lines = [
        "", f"**The buffer**: sums below {MOST}, {STEPS} steps of {PROMPTS} x {GROUP} answers, medians over seeds (range); "
        "accuracy of sampled answers to the training sums; `python benchmarks/ssb.py`.", "",
        "| groups without signal | seeds | effective groups, last quarter | effective share of the batch | accuracy, last "
        "quarter | on other sums | samples in all | CPU s in all |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for way, by_seed in runs.items():
        found = list(by_seed.values())
        cells = [
            str(len(found)), middle(r["effective"] for r in found), middle(r["batch_effective"] for r in found),
            middle(map(end, found)), middle(r["test"] for r in found),
            middle((float(r["samples"]) for r in found), 0), middle((r["cpu"] for r in found), 0),
        ]  # fmt: skip
        lines.append(f"| {WAYS[way][0]} | {' | '.join(cells)} |")
    heads = " | ".join(f"{t:.0%}" for t in TARGETS)
    lines += ["", "Samples until so many of the training sums are answered rightly:", "",
              f"| groups without signal | {heads} |", "|---" * (1 + len(TARGETS)) + "|"]  # fmt: skip
    for way, by_seed in runs.items():
        cells = [middle((reached(r, t, 0) for r in by_seed.values()), 0) for t in TARGETS]
        lines.append(f"| {WAYS[way][0]} | {' | '.join(cells)} |")
    target = fixed(plain.values())
    lines += [
        "", f"How many times sooner than plain GRPO, on the same seeds (0: never), at {target:.0%} right, the highest that "
        "plain GRPO reaches from every seed, and where plain GRPO ends: the median, its 95 % interval over seeds (order "
        "statistics; from six seeds on), and the range:", "",
        f"| groups without signal | seeds | {target:.0%}: in samples | in CPU seconds | plain's end: in samples | in CPU "
        "seconds |", "|---" * 6 + "|",
    ]  # fmt: skip
    for way, by_seed in runs.items():
        ratios = [
            [sooner(plain[s], r, axis, at) for s, r in by_seed.items() if s in plain]
            for at in (target, None) for axis in (0, 1)
        ]  # fmt: skip
        lines.append(f"| {WAYS[way][0]} | {len(ratios[0])} | {' | '.join(map(in_words, ratios))} |")
    default = [(plain[s], r) for s, r in runs.get("replays", {}).items() if s in plain]
    told = [[sooner(p, r, 0, at) for p, r in default] or [math.nan] for at in (target, None)]
    shares = {
        w: statistics.median(r["batch_effective"] for r in runs[w].values()) for w in ("keep", "replays") if w in runs
    }
    return {
        "lines": lines, "ssb_effective_share": round(shares.get("replays", math.nan), 3),
        "baseline_effective_share": round(shares["keep"], 3),
        "samples_to_accuracy_ratio": round(statistics.median(told[0]), 3),
        "samples_to_plain_end_ratio": round(statistics.median(told[1]), 3),
    }  # fmt: skip


def in_words(values: Sequence[float]) -> str:
    """The median of ratios, its 95 % interval by order statistics (so 0 may stand for "never"), and the range."""
    found, n = sorted(values), len(values)
    below = max(
        (k for k in range(1, n // 2 + 1) if 2 * sum(math.comb(n, i) for i in range(k)) <= 0.05 * 2**n), default=0
    )
    told = f"{found[below - 1]:.2f} to {found[-below]:.2f}; " if below else ""
    return f"**{statistics.median(found):.2f}** ({told}range {found[0]:.2f} to {found[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--out", type=Path, help="where finished runs are kept (default: nowhere)")
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with tempfile.TemporaryDirectory() as place:
        print("\n".join(experiment(options.out or Path(place), options.seeds, options.ways)["lines"]))


if __name__ == "__main__":
    main()
