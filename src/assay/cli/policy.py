"""`assay policy`: part B, from a vision encoder and a language model to a tuned policy."""

import os
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional

from assay.cli import policy_bench
from assay.cli.arguments import App, Flat
from assay.cli.run_file import kept
from assay.policy.config import (
    AskConfig,
    FitConfig,
    Form,
    GrpoConfig,
    PairConfig,
    PolicyConfig,
    SamplerConfig,
    VllmConfig,
)
from assay.policy.monitor import MonitorConfig
from assay.policy.rewards import RewardConfig
from assay.recipes import policies
from assay.tuning.config import TuneConfig
from assay.tuning.reward_model import GoldConfig, RewardModelConfig


def _say(text: str) -> None:
    """Print what a command came to; of the processes of torchrun, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(text)


app = App()
run_app = App()
app.command(name="bench")(policy_bench.policy_bench)
app.command(name="judge")(policy_bench.policy_judge)
app.command(name="serve")(policy_bench.policy_serve)
app.command(run_app, name="run", help="Assemble, align and tune a whole policy on an embedded task.")


def _recipe(name: str, about: str) -> None:
    """The command of an embedded recipe."""

    def run(
        config: Annotated[TuneConfig, Flat] = policies.RECIPES[name][0](),  # noqa: B008
        out: Path = Path("runs") / name,
        trackers: tuple[str, ...] = (),
    ) -> None:
        from assay.tuning.stages import tune

        tune(out, config, policies.RECIPES[name][1](config), trackers)
        policy_report(out)

    run.__doc__ = f"""{about}

    Args:
        config: The run's settings.
        out: The run folder; the same command resumes what is in it.
        trackers: Where metrics go besides OUT: tensorboard, wandb, mlflow, trackio, ...
    """
    run_app.command(name=name)(kept(f"policy run {name}")(run))


_recipe(
    "tiny-vlm",
    "The embedded vision-language policy: assemble, align, reward model, MPO, GRPO with the sample buffer, evaluation.",
)
_recipe("tiny-text", "The same without pictures: the packaged small language model on made-up sums.")


@app.command(name="assemble")
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


@app.command(name="grpo")
@kept("policy grpo")
def policy_grpo(
    model: Positional[str],
    prompts: Positional[Path],
    out: Path,
    config: Annotated[GrpoConfig, Flat] = GrpoConfig(),  # noqa: B008
    policy: PolicyConfig = PolicyConfig(),  # noqa: B008
    sampler: SamplerConfig = SamplerConfig(),  # noqa: B008
    rewards: RewardConfig = RewardConfig(),  # noqa: B008
    gold: Annotated[GoldConfig, Flat] = GoldConfig(),  # noqa: B008
    watch: str = "",
    watch_data: Path | None = None,
    monitor: MonitorConfig = MonitorConfig(),  # noqa: B008
    ask: Annotated[AskConfig, Flat] = AskConfig(),  # noqa: B008
    answer_start: str = "",
    answer_field: str = "",
    vllm: Annotated[VllmConfig, Flat] = VllmConfig(),  # noqa: B008
    trackers: tuple[str, ...] = (),
) -> None:
    """GRPO with the sample buffer on your own questions; under `torchrun` or `accelerate launch`, on all their processes.

    Args:
        model: A language model, or a vision-language model: a packaged one, a folder or a hub id.
        prompts: Questions as JSON lines, JSON, CSV or Parquet: question (or messages), answer, kind (math, number, choice,
            text), options, image (a path or the picture), facts and absent (words for what is in the picture and what is
            not), all but the first optional. Files of GSM8K, MATH, verl, TRL, OpenRLHF and Alpaca are read as they are.
        out: The folder of the tuned model; the same command resumes.
        config: GRPO, buffer, steps.
        policy: Which parts train, precision, memory.
        sampler: Length and temperature of answers.
        rewards: Weights of the terms; what becomes of a reward model's score (OUT.calibration.json says what it is worth).
        gold: A reward model, and gold to calibrate it on.
        watch: Questions of the monitor's readings, as PROMPTS; or a benchmark and how many of its questions, drawn at
            random: aime24:30 (aime25, amc23, math500, olympiadbench, mathvision, mathvista). Those that are trained on as
            well, by text or picture, are told; what is read goes to metrics.jsonl.
        watch_data: The folder with the benchmark's file, aime24/*.jsonl or aime24*.jsonl (default: $ASSAY_BENCH_DATA).
        monitor: How often to read, and when to lower the reward model's weight or to stop.
        ask: How questions are put.
        answer_start: Text that every answer is made to begin with, such as "<think>".
        answer_field: The field of PROMPTS that holds the right answer (default: found out; reward_model.ground_truth is one
            within another).
        vllm: What draws answers.
        trackers: Where metrics go besides OUT/metrics.jsonl.
    """
    from assay.tuning.own_grpo import run_grpo

    _say(run_grpo(
        model, prompts, out, config, policy, sampler, rewards, gold, monitor, watch or None, answer_start, trackers, vllm,
        answer_field, ask, watch_data,
    ))  # fmt: skip


@app.command(name="pairs")
@kept("policy pairs")
def policy_pairs(
    model: Positional[str],
    prompts: Positional[Path],
    out: Path,
    config: Annotated[PairConfig, Flat] = PairConfig(),  # noqa: B008
    policy: PolicyConfig = PolicyConfig(),  # noqa: B008
    sampler: SamplerConfig = SamplerConfig(),  # noqa: B008
    judge: Annotated[RewardModelConfig, Flat] = RewardModelConfig(),  # noqa: B008
    ask: Annotated[AskConfig, Flat] = AskConfig(),  # noqa: B008
    answer_start: str = "",
    answer_field: str = "",
    round: int = 1,
    seed: int = 0,
    vllm: Annotated[VllmConfig, Flat] = VllmConfig(),  # noqa: B008
) -> None:
    """Preference pairs of a model's own answers, for `assay policy mpo`: right against wrong, a reward model's higher score
    against its lower, and, for a picture's question without a known answer, looking against not looking.

    Args:
        model: The policy that answers.
        prompts: Questions, as for `assay policy grpo`.
        out: A new folder of Parquet preferences and their pictures; the same command resumes.
        config: Answers and pairs of a question, the margin that a reward model must see.
        policy: Precision and memory (nothing is trained here).
        sampler: Length and temperature of answers.
        judge: A reward model, if any.
        ask: How questions are put.
        answer_start: Text that every answer is made to begin with, such as "<think>".
        answer_field: The field of PROMPTS that holds the right answer (default: found out; reward_model.ground_truth is one
            within another).
        round: Of pairs and MPO, each on the model of the round before; kept with the pairs.
        seed: Of the answers that are drawn.
        vllm: What draws answers.
    """
    from assay.tuning.own_pairs import run_pairs

    _say(
        run_pairs(
            model, prompts, out, config, policy, sampler, judge, answer_start, round, seed, answer_field, vllm, ask
        )
    )


@app.command(name="mpo")
@kept("policy mpo")
def policy_mpo(
    model: Positional[str],
    pairs: Positional[Path],
    out: Path,
    config: Annotated[FitConfig, Flat] = FitConfig(),  # noqa: B008
    policy: PolicyConfig = PolicyConfig(),  # noqa: B008
    images: Path | None = None,
    trackers: tuple[str, ...] = (),
) -> None:
    """MPO (other weights: DPO, SFT) on preferences: a folder of Parquet, as `assay policy pairs` and `assay reward export`
    write it.

    Args:
        model: A language model, or a vision-language model: a packaged one, a folder or a hub id.
        pairs: The folder of preferences.
        out: The folder of the tuned model; the same command resumes.
        config: Weights, beta, learning rate.
        policy: Which parts train, precision, memory.
        images: The folder of the pictures that prompts name (default: PAIRS/images).
        trackers: Where metrics go besides OUT/metrics.jsonl.
    """
    from assay.tuning.own_pairs import run_mpo

    _say(run_mpo(model, pairs, out, config, policy, images, trackers))


@app.command(name="align")
@kept("policy align")
def policy_align(
    model: Positional[str],
    captions: Positional[Path],
    out: Path,
    config: Annotated[FitConfig, Flat] = FitConfig(weights=(0.0, 0.0, 1.0), lr=1e-3),  # noqa: B008
    policy: PolicyConfig = PolicyConfig(train=("adapter",)),  # noqa: B008
    request: str = "describe the image.",
    system: str = "",
    answer_start: str = "",
    trackers: tuple[str, ...] = (),
) -> None:
    """Align a new adapter on captions of your own: the model learns to say what is in a picture. The adapter alone trains.

    Args:
        model: A vision-language model, as `assay policy assemble` writes it.
        captions: JSON lines: image (a path), caption, and question, if it is not REQUEST.
        out: The folder of the aligned model; the same command resumes.
        config: Batch, epochs, learning rate; the weights are those of imitation.
        policy: Which parts train, precision, memory.
        request: What asks for a caption.
        system: A system prompt before it.
        answer_start: Text that every answer is made to begin with, part of the prompt.
        trackers: Where metrics go besides OUT/metrics.jsonl.
    """
    from assay.tuning.own import run_align

    _say(run_align(model, captions, out, config, policy, request, answer_start, trackers, system))


@app.command(name="evaluate")
def policy_evaluate(
    model: Positional[str],
    prompts: Positional[Path],
    out: Path | None = None,
    policy: PolicyConfig = PolicyConfig(),  # noqa: B008
    sampler: SamplerConfig = SamplerConfig(temperature=0.0),  # noqa: B008
    ask: Annotated[AskConfig, Flat] = AskConfig(),  # noqa: B008
    answer_start: str = "",
    answer_field: str = "",
    vllm: Annotated[VllmConfig, Flat] = VllmConfig(),  # noqa: B008
    form: Form = "think-answer",
) -> None:
    """Measure a policy by greedy answers to your own questions: accuracy, format, and whether it looks at the pictures.

    Questions with pictures are asked again with a blank one, and with that of the same question whose answer is another;
    facts and absent tell what it invents. Rates have 95% intervals over pictures.

    Args:
        model: A language model, or a vision-language model: a packaged one, a folder or a hub id.
        prompts: Questions, as for `assay policy grpo`.
        out: A new JSON file of everything that was measured; while it is not there, the same command resumes.
        policy: Precision and memory (nothing is trained here).
        sampler: Length of answers.
        ask: How questions are put.
        answer_start: Text that every answer is made to begin with, such as "<think>".
        answer_field: The field of PROMPTS that holds the right answer (default: found out; reward_model.ground_truth is one
            within another).
        vllm: What draws answers.
        form: How a well-formed answer is written, as `--rewards.form` of `assay policy grpo`.
    """
    from assay.tuning.own_evaluate import run_evaluate

    console = Console(highlight=False)
    _say(run_evaluate(model, prompts, out, policy, sampler, answer_start, console, answer_field, vllm, form, ask))


@app.command(name="filter")
def policy_filter(
    model: Positional[str], prompts: Positional[Path], out: Path, samples: int = 8,
    policy: PolicyConfig = PolicyConfig(),  # noqa: B008
    sampler: SamplerConfig = SamplerConfig(),  # noqa: B008
    ask: Annotated[AskConfig, Flat] = AskConfig(),  # noqa: B008
    answer_start: str = "",
    answer_field: str = "",
    vllm: Annotated[VllmConfig, Flat] = VllmConfig(),  # noqa: B008
) -> None:  # fmt: skip
    """The offline pass of the sample buffer: keep the questions that the model answers neither always nor never right.

    Args:
        model: The policy.
        prompts: Questions, as for `assay policy grpo`.
        out: A new JSON-lines file of the questions kept, as they were and with their shares of right answers; while it is
            not there, the same command resumes.
        samples: Answers drawn for each question.
        policy: Precision and memory (nothing is trained here).
        sampler: Length and temperature of answers.
        ask: How questions are put.
        answer_start: Text that every answer is made to begin with.
        answer_field: As for `assay policy grpo`.
        vllm: What draws answers.
    """
    from assay.tuning.own_filter import run_filter

    _say(run_filter(model, prompts, out, samples, sampler, answer_start, answer_field, vllm, policy, ask))


@app.command(name="ablate")
def policy_ablate(name: Positional[str], out: Path, seeds: tuple[int, ...] = (0, 1, 2), dry_run: bool = False) -> None:
    """One of paper B's ablations on the embedded policy, with intervals over seeds.

    Args:
        name: stages, buffer, parts, threshold, rewards or filter.
        out: The folder of all its runs; the same command resumes.
        seeds: Each variant is run once for each; several processes may share a folder when their seeds differ.
        dry_run: Print the variants and stop.
    """
    from assay.recipes.ablations import ablate, variants

    if dry_run:
        return print("\n".join(variants(name)))
    return print(f"report: {ablate(name, out, seeds, Console(highlight=False))}")


@app.command(name="report")
def policy_report(run: Positional[Path]) -> None:
    """Print a policy run's table and write its HTML report again; or the page of one training, finished or not.

    Args:
        run: The folder of a run, or of `assay policy grpo`, `mpo` or `align`.
    """
    from assay.tuning import outcome as tuned

    if tuned.is_training(run):
        return print(f"report: {tuned.write_training_report(run)}")
    tuned.summary(run, Console(highlight=False))
    return print(f"report: {tuned.write_report(run)}")
