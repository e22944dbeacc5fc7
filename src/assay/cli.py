"""The command line: one command per stage, made from the functions' signatures and the config dataclasses."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tyro.conf import Positional

from assay.chat import ChatConfig, Server
from assay.errors import AssayError
from assay.policy.config import FitConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.rewards import RewardConfig
from assay.recipes import policies, presets
from assay.recipes.flow import FlowConfig
from assay.recipes.settings import SweepConfig
from assay.recipes.tune import TuneConfig
from assay.reward.config import TrainConfig
from assay.run import environment, jsonable

app = tyro.extras.SubcommandApp()
run_app = tyro.extras.SubcommandApp()
pool_app = tyro.extras.SubcommandApp()
reward_app = tyro.extras.SubcommandApp()
policy_app = tyro.extras.SubcommandApp()
app.command(run_app, name="run")
app.command(pool_app, name="pool")
app.command(reward_app, name="reward")
app.command(policy_app, name="policy")

Flat = tyro.conf.arg(name="")


@run_app.command(name="tiny")
def run_tiny(
    config: Annotated[FlowConfig, Flat] = presets.tiny(),  # noqa: B008
    out: Path = Path("runs/tiny"),
    dry_run: bool = False,
) -> None:
    """The embedded default: checkable instructions, an oracle for people, an offline judge; minutes on two cores.

    Args:
        config: The run's settings.
        out: The run folder; the same command resumes what is in it.
        dry_run: Print the resolved config and stop.
    """
    if dry_run:
        return _print_config(config)
    from assay.curate.verify import oracle
    from assay.recipes.job import run_job
    from assay.recipes.pools import constraint_pool

    pool = constraint_pool()
    return _finish(run_job(out, config, pool, people=oracle(pool.truth)))


@run_app.command(name="human")
def run_human(
    data: Positional[Path],
    config: Annotated[FlowConfig, Flat] = presets.human(),  # noqa: B008
    out: Path = Path("runs/human"),
    dry_run: bool = False,
) -> None:
    """Real people's preference sets: recorded human labels answer for people, GPT-4's choices are in the wild.

    Args:
        data: The folder of preference sets, one subfolder each (see curate/human_sets.py).
        config: The run's settings; --benchmarks DIR adds the public benchmarks and decontaminates against them.
        out: The run folder; the same command resumes what is in it.
        dry_run: Print the resolved config and stop.
    """
    if dry_run:
        return _print_config(config)
    from assay.recipes.job import recorded_people, run_job
    from assay.recipes.pools import human_pool

    pool = human_pool(data)
    return _finish(run_job(out, config, pool, people=recorded_people(pool.truth)))


@run_app.command(name="pool")
def run_pool(
    pool: Positional[Path],
    config: Annotated[FlowConfig, Flat] = presets.pool(),  # noqa: B008
    out: Path = Path("runs/pool"),
    judgements: Path = Path("judgements.jsonl"),
    judge: tuple[str, ...] = (),
    attributes: str = "",
    samples: int = 3,
    dry_run: bool = False,
) -> None:
    """Your own pool: people answer in the terminal (`assay verify`), judges are LLM servers, or offline without any.

    The run stops when it needs people, says how many pairs wait in its queue, and goes on with the same command.

    Args:
        pool: A pool folder made by `assay pool add`.
        config: The run's settings.
        out: The run folder; the same command resumes what is in it.
        judgements: The file in which `assay verify` keeps people's answers, inside the run folder.
        judge: LLM judges as MODEL@URL of OpenAI-compatible servers (https://HOST/v1); the key is $OPENAI_API_KEY.
        attributes: An LLM that describes the pairs, as MODEL@URL (default: rules).
        samples: Votes that each judge gives to a pair (self-consistency).
        dry_run: Print the resolved config and stop.
    """
    if dry_run:
        return _print_config(config)
    from assay.curate.annotate import llm_judge
    from assay.recipes.job import people_on_file, run_job
    from assay.recipes.pools import folder_pool

    replies = out / "replies.sqlite"
    chats = [_server(text, replies, "judge") for text in judge]
    return _finish(
        run_job(
            out, config, folder_pool(pool), people=people_on_file(out / judgements, out / "queue"),
            judge=llm_judge(chats, samples=samples) if chats else None,
            chat=_server(attributes, replies, "attributes") if attributes else None,
        )
    )  # fmt: skip


@pool_app.command(name="add")
def pool_add(
    sources: Positional[tuple[str, ...]], out: Path, layout: str | None = None, name: str | None = None
) -> None:
    """Import preference data of (nearly) any layout into a pool folder; bad rows are counted and kept readable.

    Args:
        sources: Files (JSONL, JSON, Parquet, CSV; also .gz, .zst), folders, or Hugging Face dataset ids.
        out: The pool folder; sources already in it are skipped.
        layout: Name the layout of the rows instead of having it detected.
        name: Call the source this instead of by its file.
    """
    from assay.curate import pool

    if not sources:
        raise AssayError("pool add needs at least one source: a file, a folder or a dataset id")
    report = pool.add(list(sources), out, layout=layout, name=name)
    print(f"{report.pairs:,} pairs, {report.rejected:,} rejected (tables/rejections) -> {out}")
    if not report.pairs:
        raise AssayError(
            f"no usable pair in {', '.join(sources)}; the reasons are above and in {out}/tables/rejections"
        )


@app.command(name="show")
def show_pair(folder: Positional[Path], pair_id: Positional[str]) -> None:
    """Print the whole life of one pair.

    Args:
        folder: A run folder or a pool folder.
        pair_id: The pair's id, or enough of its beginning.
    """
    from assay.show import show

    show(folder, pair_id, Console(highlight=False))


@app.command(name="verify")
def verify_pairs(
    run: Positional[Path], annotator: str = "", judgements: Path = Path("judgements.jsonl"), seed: int = 0
) -> None:
    """Judge the pairs that a run waits for, in this terminal; every answer is saved at once.

    Args:
        run: The run folder that asked for people.
        annotator: Your name in the judgements (default: the login name).
        judgements: The file of answers, inside the run folder.
        seed: Changes the random order in which responses are shown.
    """
    from assay.curate.verify import verify
    from assay.recipes.job import read_queue

    cases = read_queue(run / "queue")
    name = annotator or os.environ.get("USER") or os.environ.get("LOGNAME") or "annotator"
    done = verify(cases, name, run / judgements, input, Console(highlight=False), seed)
    print(
        f"{done.judged} judged, {done.ties} ties, {done.discarded} discarded, {done.skipped} skipped, {done.left} left"
    )


@app.command(name="bench")
def bench(
    model: Positional[str], data: Path | None = None, only: tuple[str, ...] = (), limit: int = 0,
    max_tokens: int = 4096, out: Path | None = None,
) -> None:  # fmt: skip
    """Measure a reward model on the public benchmarks.

    Args:
        model: A reward model: a folder (for example runs/tiny/seed-0/models/final) or a hub id.
        data: Folder with judgebench/, rm-bench/, rmb/ (default: $ASSAY_BENCH_DATA).
        only: Names of the benchmarks to run (default: all).
        limit: At most this many items of each, a stratified sample (0: all).
        max_tokens: Longer conversations lose the front of their history.
        out: Write the results as JSON to this file as well.
    """
    from assay.bench import table
    from assay.bench.benchmark import run as run_benchmark
    from assay.bench.reward import BENCHMARKS, find_data
    from assay.reward.scorer import load_scorer
    from assay.tables import write_text

    folder = find_data(data)
    if folder is None:
        raise AssayError("no benchmark data: give --data DIR or set ASSAY_BENCH_DATA")
    unknown = [name for name in only if name not in BENCHMARKS]
    if unknown:
        raise AssayError(f"unknown benchmark '{unknown[0]}'; known: {', '.join(BENCHMARKS)}")
    scorer = load_scorer(model, max_tokens)
    results = [run_benchmark(b, folder, scorer, limit or None) for n, b in BENCHMARKS.items() if not only or n in only]
    print(table.text(results))
    if out is not None:
        write_text(
            out,
            json.dumps({"model": model, "environment": environment(), "results": [table.as_json(r) for r in results]}),
        )


@reward_app.command(name="train")
def reward_train(
    source: Positional[Path],
    out: Path,
    config: Annotated[TrainConfig, Flat] = TrainConfig(),  # noqa: B008
    labels: str = "raw",
    gold: Path | None = None,
    trackers: tuple[str, ...] = (),
    dry_run: bool = False,
) -> None:
    """Train one reward model; under `torchrun` or `accelerate launch`, on all their processes.

    Args:
        source: A pool folder, a run folder, or a folder of Parquet preferences (`assay reward export`), which is streamed.
        out: The folder of the model; the same command resumes, on any number of processes.
        config: The training settings.
        labels: Of a run folder: raw, stage1, filtered or flipped.
        gold: A folder of Parquet preferences that choose the checkpoint (default: a run's held gold; else one in ten
            questions of a pool; none for Parquet).
        trackers: Where metrics go besides OUT/metrics.jsonl: tensorboard, wandb, mlflow, ...
        dry_run: Print the resolved settings and stop.
    """
    if dry_run:
        return _print_config(config)
    from assay.recipes.finished import training_data
    from assay.reward.train import train

    pairs, held = training_data(source, labels, gold)
    trained = train(out, config, pairs, held, print, trackers)
    seen = f"{trained.gold_accuracy:.1%} of {len(held):,} gold pairs" if held else "no gold pairs to check on"
    return print(f"{trained.pairs:,} pairs, {trained.steps:,} steps, {seen} -> {out}")


@reward_app.command(name="export")
def reward_export(source: Positional[Path], out: Path, labels: str = "raw") -> None:
    """Write labelled pairs as Parquet preferences, for streamed training and for other tools.

    Args:
        source: A pool folder or a run folder.
        out: A new folder for the shards.
        labels: Of a run folder: raw, stage1, filtered or flipped.
    """
    from assay.recipes.finished import export

    print(f"{export(source, out, labels):,} preferences -> {out}")


@reward_app.command(name="sweep")
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
    from assay.recipes.sweep import sweep

    print(f"plot: {sweep(run, out, config)}")


@reward_app.command(name="paper")
def reward_paper(
    name: Positional[str] = "",
    stage: str = "final",
    data: Path | None = None,
    gold: Path | None = None,
    out: Path | None = None,
    device: str = "H800",
    gpus: int = 64,
    utilisation: float = 0.4,
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
    return reward_train(data, out, suite.recipe(name, stage), gold=gold, trackers=trackers)


policy_run_app = tyro.extras.SubcommandApp()
policy_app.command(policy_run_app, name="run")


@policy_run_app.command(name="tiny-vlm")
def policy_tiny_vlm(
    config: Annotated[TuneConfig, Flat] = policies.tiny_vlm(),  # noqa: B008
    out: Path = Path("runs/tiny-vlm"),
    dry_run: bool = False,
) -> None:
    """The embedded vision-language policy: assemble, align, reward model, MPO, GRPO with the sample buffer, evaluation.

    Args:
        config: The run's settings.
        out: The run folder; the same command resumes what is in it.
        dry_run: Print the resolved config and stop.
    """
    _tune("tiny-vlm", config, out, dry_run)


@policy_run_app.command(name="tiny-text")
def policy_tiny_text(
    config: Annotated[TuneConfig, Flat] = policies.tiny_text(),  # noqa: B008
    out: Path = Path("runs/tiny-text"),
    dry_run: bool = False,
) -> None:
    """The same without pictures: the packaged small language model on made-up sums.

    Args:
        config: The run's settings.
        out: The run folder; the same command resumes what is in it.
        dry_run: Print the resolved config and stop.
    """
    _tune("tiny-text", config, out, dry_run)


def _tune(name: str, config: TuneConfig, out: Path, dry_run: bool) -> None:
    if dry_run:
        return _print_config(config)
    from assay.recipes import tuned
    from assay.recipes.tune import tune

    tune(out, config, policies.RECIPES[name][1](config))
    tuned.summary(out, Console(highlight=False))
    return print(f"report: {tuned.write_report(out)}")


@policy_app.command(name="assemble")
def policy_assemble(
    vision: Positional[str], language: Positional[str], out: Path, size: int = 448, unshuffle: int = 1,
    adapter_of: str = "",
) -> None:  # fmt: skip
    """Put a vision encoder, a new MLP adapter and a language model together, in a layout that transformers loads.

    Args:
        vision: A vision encoder: a folder or a hub id.
        language: A causal language model: a packaged one, a folder or a hub id.
        out: A new folder for the vision-language model.
        size: Pixels of a side of the pictures.
        unshuffle: Patches of a side that are joined to one token (2: a quarter of the tokens).
        adapter_of: A vision-language model whose trained adapter is taken over (trained with a substitute language model).
    """
    from assay.policy.assemble import assemble_from

    print(f"{assemble_from(vision, language, out, size, unshuffle, adapter_of)} -> {out}")


@policy_app.command(name="grpo")
def policy_grpo(
    model: Positional[str],
    prompts: Positional[Path],
    out: Path,
    config: Annotated[GrpoConfig, Flat] = GrpoConfig(),  # noqa: B008
    policy: PolicyConfig = PolicyConfig(),  # noqa: B008
    sampler: SamplerConfig = SamplerConfig(),  # noqa: B008
    rewards: RewardConfig = RewardConfig(),  # noqa: B008
    answer_start: str = "",
    trackers: tuple[str, ...] = (),
) -> None:
    """GRPO with the sample buffer on your own questions; under `torchrun` or `accelerate launch`, on all their processes.

    Args:
        model: A language model, or a vision-language model: a packaged one, a folder or a hub id.
        prompts: JSON lines: question, answer, kind (math, number, choice, text), image (a path), all but the first optional.
        out: The folder of the tuned model; the same command resumes.
        config: GRPO, buffer, steps.
        policy: Which parts train, precision, memory.
        sampler: Length and temperature of answers.
        rewards: Weights of rule and format.
        answer_start: Text that every answer is made to begin with, such as "<think>".
        trackers: Where metrics go besides OUT/metrics.jsonl.
    """
    from assay.recipes.own import run_grpo

    print(run_grpo(model, prompts, out, config, policy, sampler, rewards, answer_start, trackers))


@policy_app.command(name="mpo")
def policy_mpo(
    model: Positional[str],
    pairs: Positional[Path],
    out: Path,
    config: Annotated[FitConfig, Flat] = FitConfig(),  # noqa: B008
    policy: PolicyConfig = PolicyConfig(),  # noqa: B008
    trackers: tuple[str, ...] = (),
) -> None:
    """MPO (other weights: DPO, SFT) on preferences: a folder of Parquet preferences, as `assay reward export` writes them.

    Args:
        model: A language model: a packaged one, a folder or a hub id.
        pairs: The folder of preferences.
        out: The folder of the tuned model; the same command resumes.
        config: Weights, beta, learning rate.
        policy: Which parts train, precision, memory.
        trackers: Where metrics go besides OUT/metrics.jsonl.
    """
    from assay.recipes.own import run_mpo

    print(run_mpo(model, pairs, out, config, policy, trackers))


@policy_app.command(name="filter")
def policy_filter(
    model: Positional[str], prompts: Positional[Path], out: Path, samples: int = 8,
    sampler: SamplerConfig = SamplerConfig(),  # noqa: B008
    answer_start: str = "",
) -> None:  # fmt: skip
    """The offline pass of the sample buffer: keep the questions that the model answers neither always nor never right.

    Args:
        model: The policy.
        prompts: JSON lines, as for `assay policy grpo`.
        out: A new JSON-lines file of the questions kept, each with its share of right answers.
        samples: Answers drawn for each question.
        sampler: Length and temperature of answers.
        answer_start: Text that every answer is made to begin with.
    """
    from assay.recipes.own import run_filter

    print(run_filter(model, prompts, out, samples, sampler, answer_start))


@policy_app.command(name="ablate")
def policy_ablate(name: Positional[str], out: Path, seeds: tuple[int, ...] = (0, 1, 2), dry_run: bool = False) -> None:
    """One of paper B's ablations on the embedded policy, with intervals over seeds.

    Args:
        name: stages, buffer, parts, threshold or filter.
        out: The folder of all its runs; the same command resumes.
        seeds: Each variant is run once for each; several processes may share a folder when their seeds differ.
        dry_run: Print the variants and stop.
    """
    from assay.recipes.ablations import ablate, variants

    if dry_run:
        return print("\n".join(variants(name)))
    return print(f"report: {ablate(name, out, seeds, Console(highlight=False))}")


@policy_app.command(name="report")
def policy_report(run: Positional[Path]) -> None:
    """Print a policy run's table and write its HTML report again.

    Args:
        run: The run folder.
    """
    from assay.recipes import tuned

    tuned.summary(run, Console(highlight=False))
    print(f"report: {tuned.write_report(run)}")


@app.command(name="report")
def report(run: Positional[Path]) -> None:
    """Write the HTML report of a run again.

    Args:
        run: The run folder.
    """
    from assay.report import write_report

    print(write_report(run))


def _finish(folder: Path) -> None:
    from assay.report import summary, write_report

    path = write_report(folder)
    summary(folder, Console(highlight=False))
    print(f"report: {path}")


def _server(text: str, cache: Path, flag: str) -> Server:
    model, at, url = text.rpartition("@")
    if not at or not model:
        raise AssayError(f"--{flag} {text}: write MODEL@URL, for example Qwen/Qwen3-8B@http://localhost:8000/v1")
    return Server(ChatConfig(url=url, model=model), cache)


def _print_config(config: object) -> None:
    print(json.dumps(jsonable(config), indent=2))


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app.cli(prog="assay", description="Curate preferences, train reward models you can trust, and measure them.")
    except AssayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
