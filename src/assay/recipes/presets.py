"""Presets: functions that return a full config. The command line overrides single fields of what they return."""

from assay.curate.stage1 import Stage1Config
from assay.curate.stage2 import Stage2Config
from assay.pipeline.flow import FlowConfig
from assay.reward.config import EngineConfig, TrainConfig


def tiny() -> FlowConfig:
    """The embedded default: the constraint pool, the fourth layer of MiniLM trained on three that stay as they are, minutes
    on two cores, no network."""
    return FlowConfig(
        recipe="tiny",
        embedder_layers=0,
        offline_judge=True,
        presentations=2_400,
        stage1=Stage1Config(iterations=2, seed_gold=320, seed_silver=240, per_iteration=450, gold_share=0.4),
        stage2=Stage2Config(band=0.1),
        train=TrainConfig(
            backbone="minilm", layers=4, freeze_layers=3, train_embeddings=False, max_tokens=160, batch_pairs=16,
            engine=EngineConfig(tokens=4_096), epochs=8, lr=1e-3, warmup=0.1, checks=3, precision="auto",
        ),
    )  # fmt: skip


def human() -> FlowConfig:
    """Real people's pairs: human-labelled sets in stage 1, machine-labelled ones in stage 2; the fourth layer of MiniLM.

    Three in ten questions measure, for sets like UKP's have few; how the rest was found is in docs/evidence.md."""
    return FlowConfig(
        recipe="human",
        embedder_layers=0,
        offline_judge=True,
        eval_share=0.3,
        stage1_share=0.5,
        evaluation_pairs=2_000,
        presentations=2_400,
        stage1=Stage1Config(iterations=2, seed_gold=320, seed_silver=240, per_iteration=450, gold_share=0.4),
        stage2=Stage2Config(band=0.1),
        train=TrainConfig(
            backbone="minilm", layers=4, freeze_layers=3, train_embeddings=False, max_tokens=256, batch_pairs=32,
            engine=EngineConfig(tokens=4_096), epochs=8, lr=1e-3, warmup=0.1, checks=2, precision="auto",
        ),
        bench_limit=300,
    )  # fmt: skip


def pool() -> FlowConfig:
    """A user's own pool, laptop-sized: raise the sizes, and name a real backbone, on a GPU."""
    return FlowConfig(
        recipe="pool",
        stage1=Stage1Config(iterations=2, seed_gold=200, seed_silver=400, per_iteration=600, gold_share=0.2),
        train=TrainConfig(
            backbone="minilm", train_embeddings=False, max_tokens=512, batch_pairs=16,
            engine=EngineConfig(tokens=8_192), epochs=3, lr=1e-4, warmup=0.1, checks=4,
        ),
    )  # fmt: skip
