"""`assay reward`: train reward models, export what they are trained on, the paper's eight."""

import json
import os
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional

from assay.cli.arguments import App, Flat
from assay.cli.run_file import kept
from assay.engine import engine_of
from assay.errors import AssayError
from assay.figures import told
from assay.locks import alone
from assay.pipeline.settings import SweepConfig, Tool
from assay.reward.config import TrainConfig
from assay.statistics import Estimate
from assay.tables import remove, sibling

app = App()


@app.command(name="train")
@kept("reward train")
def reward_train(
    source: Positional[str],
    out: Path,
    config: Annotated[TrainConfig, Flat] = TrainConfig(),  # noqa: B008
    labels: str = "raw",
    gold: Path | None = None,
    processes: int = 1,
    trackers: tuple[str, ...] = (),
) -> None:
    """Train one reward model, on as many processes as are asked for; under `torchrun` or `accelerate launch`, on all theirs.

    Args:
        source: A pool folder (or its URL: s3://, gs://), a run folder, or a folder of Parquet preferences (`assay reward
            export`). All are streamed.
        out: The folder of the model; the same command resumes, on any number of processes.
        config: The training settings.
        labels: Of a run folder: raw, stage1, filtered or flipped.
        gold: A folder of Parquet preferences that choose the checkpoint (default: a run's held gold; else one in ten
            questions of a pool, at most 10,000 pairs; none for Parquet). No question of it may be trained on: pairs of a
            pool or run that ask one are left out, Parquet with some is refused.
        processes: Of this machine, one for each device.
        trackers: Where metrics go besides OUT/metrics.jsonl: tensorboard, wandb, mlflow, ...
    """
    from assay.pipeline.finished import training_data
    from assay.pipeline.training import fit
    from assay.reward.launch import check_processes

    check_processes(processes)
    beside = sibling(out, ".data")
    first = os.environ.get("RANK", "0") == "0"
    with alone(beside) if first else nullcontext():
        pairs, held = training_data(source, labels, gold, beside, print)
        trained = fit(out, config, pairs, held, processes, print, trackers)
        if first:
            remove(beside)
    seen = "no gold pairs to check on"
    if trained.gold:
        seen = f"{told(Estimate(**trained.gold))} of the gold pairs that chose it"
    left = f" ({sum(trained.left_out.values()):,} left out)" if trained.left_out else ""
    return print(f"{trained.pairs:,} pairs{left}, {trained.steps:,} steps, {seen} -> {out}")


@app.command(name="export")
def reward_export(
    source: Positional[str], out: Path, labels: str = "raw", to: Tool = "parquet", engine: str = "local"
) -> None:
    """Write labelled pairs: as Parquet for streamed training here, or with tier, fate, reason and votes for other tools.

    `assay pool add` reads each of them again.

    Args:
        source: A pool folder (or its URL: s3://, gs://), or a run folder.
        out: A new folder for the shards.
        labels: Of a run folder: raw, stage1, filtered or flipped.
        to: parquet (what `assay reward train` streams), trl (messages), openrlhf (whole conversations), llamafactory
            (ShareGPT's turns and a dataset_info.json), jsonl (plain texts). What a form cannot say is left out, and told.
        engine: Where shards are written: local (this process), cores (all of this machine), cores:N, ray, ray://HOST:PORT.
    """
    from assay.pipeline.exchange import exported

    with closing(engine_of(engine)) as made:
        print(f"{exported(source, out, labels, to, made, print):,} preferences -> {out}")


@app.command(name="push")
def reward_push(folder: Positional[Path], repo: Positional[str], public: bool = False) -> None:
    """Put a model folder, with its card, or a folder of exported labels on a hub (needs the extra hub and a token).

    Args:
        folder: A model folder, or one of `assay reward export`.
        repo: OWNER/NAME; made where it is not there.
        public: Everybody may see a repository that is made; else nobody but its owner.
    """
    from assay.pipeline.hub import push

    print(push(folder, repo, public))


@app.command(name="sweep")
@kept("reward sweep")
def reward_sweep(
    run: Positional[Path],
    out: Path,
    config: Annotated[SweepConfig, Flat] = SweepConfig(),  # noqa: B008
) -> None:
    """Accuracy against the amount of data: fractions of a run's raw, filtered and flipped labels, with intervals.

    Args:
        run: The folder of a finished `assay run`.
        out: The sweep's folder; the same command resumes.
        config: Sets, fractions and seeds.
    """
    from assay.pipeline.sweep import sweep

    print(f"plot: {sweep(run, out, config)}")


@app.command(name="paper")
def reward_paper(
    name: Positional[str] = "",
    stage: str = "final",
    data: Path | None = None,
    gold: Path | None = None,
    out: Path | None = None,
    device: str = "H800",
    gpus: int = 64,
    utilisation: float = 0.4,
    processes: int = 1,
    trackers: tuple[str, ...] = (),
    dry_run: bool = False,
) -> None:
    """Paper A's eight reward models: their exact settings, what they cost, and the training itself.

    Args:
        name: The model, for example Qwen3-0.6B; without one, the table of all eight.
        stage: development or final.
        data: A folder of Parquet preferences to train on.
        gold: A folder of Parquet preferences that choose the checkpoint.
        out: The folder of the model; the same command resumes.
        device: Of the cost estimate: H100, H800, H200 or A100.
        gpus: Of the cost estimate.
        utilisation: Of the cost estimate: the share of the device's peak that training reaches (an assumption).
        processes: Of this machine that train, one for each device.
        trackers: Where metrics go besides OUT/metrics.jsonl.
        dry_run: Print the settings and the cost, and stop; needs neither weights nor torch.
    """
    from assay.recipes import suite

    if not name:
        return Console(highlight=False, width=120).print(suite.overview(stage, utilisation, device, gpus))
    if dry_run:
        plan = suite.describe(name, stage, utilisation=utilisation, device=device, gpus=gpus)
        return print(json.dumps(plan, indent=2))
    suite.paper_model(name)
    if data is None or out is None:
        raise AssayError("training needs --data (Parquet preferences) and --out; --dry-run shows the plan without them")
    return reward_train(str(data), out, suite.recipe(name, stage), gold=gold, processes=processes, trackers=trackers)
