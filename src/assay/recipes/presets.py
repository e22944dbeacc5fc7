"""Presets: functions that return a full config. The command line overrides single fields of what they return."""

from pathlib import Path

from assay.curate.stage1 import Stage1Config
from assay.curate.stage2 import Stage2Config
from assay.recipes.flow import FlowConfig
from assay.reward.train import TrainConfig


def tiny() -> FlowConfig:
    """The embedded default: the constraint pool, three layers of MiniLM, minutes on two cores, no network."""
    return FlowConfig(
        recipe="tiny",
        presentations=2_400,
        stage1=Stage1Config(iterations=2, seed_gold=240, seed_silver=240, per_iteration=450, gold_share=0.3),
        stage2=Stage2Config(band=0.1),
        train=TrainConfig(
            backbone="minilm", layers=3, max_tokens=160, batch_pairs=16, tokens_per_batch=4_096, lr=2e-4, warmup=0.1,
            epochs=3, checks=3, precision="bf16",
        ),
    )  # fmt: skip


def human(benchmarks: Path | None = None) -> FlowConfig:
    """Real people's pairs: human-labelled sets in stage 1, machine-labelled ones in stage 2, all of MiniLM."""
    return FlowConfig(
        recipe="human",
        eval_share=0.15,
        stage1_share=0.5,
        stage1=Stage1Config(iterations=2, seed_gold=1_500, seed_silver=1_500, per_iteration=2_500, gold_share=0.3),
        stage2=Stage2Config(band=0.1, shard_pairs=2_000),
        train=TrainConfig(
            backbone="minilm", layers=None, max_tokens=320, batch_pairs=32, tokens_per_batch=8_192, lr=5e-5, warmup=0.1,
            checks=4, precision="bf16",
        ),
        benchmarks=benchmarks,
    )  # fmt: skip
