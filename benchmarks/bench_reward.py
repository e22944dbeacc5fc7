"""Assay's reward engine against TRL's RewardTrainer: same weights, pairs, batches, dtype, optimiser; a child process a run.

    make bench-reward                       # 5 paired repetitions on the tiny model, a few minutes on two cores
    python benchmarks/bench_reward.py --smol  # also SmolLM2-135M's architecture, once
    python benchmarks/bench_reward.py --quick # one repetition of 16 pairs: does everything still run?

A contender's figure is pairs per CPU second (`time.process_time`) of the training loop, begun after warm-up steps of the
same code, so that set-up and compilation are out; they are printed apart. Ratios are taken within a repetition, then their
median over repetitions. The table goes into docs/performance.md between its markers; the last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Pair = tuple[list[int], list[int], list[int]]  # prompt, chosen, rejected: token ids
AfterStep = Callable[[int, float], None]  # (steps done, loss of this step)

DOC = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- bench-reward -->", "<!-- /bench-reward -->"
LEARNING_RATE, CLIP = 1e-4, 1.0
VOCABULARY = {"tiny8k": 8192, "smol135": 49152}
ATTENTION = re.compile(r"attn|attention", re.I)  # an op of attention: it counts with everything below it
FUSED = re.compile(r"aten::_scaled_dot_product_(flash|efficient|cudnn)", re.I)  # one kernel, softmax included
PRODUCT = re.compile(
    r"^(aten|mkldnn|onednn|quantized)::_?(mm|addmm|bmm|baddbmm|matmul|linear|\w*linear_pointwise\w*|mkl_linear)$"
)
OURS, DEFAULT = "ours", "trl-default"
TRL: dict[
    str, dict[str, Any]
] = {  # what differs from RewardConfig's defaults; `accumulate` n: n micro-batches of a step's pairs / n
    DEFAULT: {},
    "trl-plain": {"gradient_checkpointing": False},
    "trl-micro1": {"gradient_checkpointing": False, "accumulate": 8},
    "trl-micro2": {"gradient_checkpointing": False, "accumulate": 4},
    "trl-eager": {"gradient_checkpointing": False, "attention": "eager"},
    "trl-pad64": {"gradient_checkpointing": False, "pad_to_multiple_of": 64},
    "trl-compile": {"gradient_checkpointing": False, "torch_compile": True},
    "trl-compile-micro1": {"gradient_checkpointing": False, "torch_compile": True, "accumulate": 8},
    "trl-sorted": {"gradient_checkpointing": False, "sorted": True},
    "trl-sorted-micro1": {"gradient_checkpointing": False, "sorted": True, "accumulate": 8},
    "trl-sorted-micro2": {"gradient_checkpointing": False, "sorted": True, "accumulate": 4},
}
STOCK = (
    "trl-plain",
    "trl-micro1",
    "trl-compile-micro1",
)  # candidates for the fastest stock setting, in every repetition
LENGTH_SORTED = ("trl-sorted", "trl-sorted-micro2")  # the same for a data set sorted by length
CONTENDERS = (DEFAULT, *STOCK, *LENGTH_SORTED)
TRIED = ("trl-micro2", "trl-eager", "trl-pad64", "trl-compile")  # slower: once each, with --tried


@dataclass(frozen=True)
class Job:
    """One child's work. `pairs` are timed; `warmup` steps before them are not. `tile` repeats the timed pairs."""

    contender: str
    model: str
    pairs: int
    per_step: int = 8
    warmup: int = 2
    threads: int = 1
    dtype: str = "bf16"
    tile: int = 1
    purpose: str = (
        ""  # "": a repetition; or "save" (make the weights), "profile", "fp32", "linear": never part of a ratio
    )


# Data and model: the same for every contender


def make_pairs(n: int, vocabulary: int, seed: int) -> list[Pair]:
    """Skewed lengths: log-normal prompts (median 110) and answers (median 190), 50 to 1024 tokens together."""
    rng, made = np.random.default_rng(seed), []
    while len(made) < n:
        p = int(rng.lognormal(np.log(110), 0.7))
        a, b = (int(rng.lognormal(np.log(190), 0.7)) for _ in range(2))
        if min(p, a, b) >= 4 and all(50 <= p + x <= 1024 for x in (a, b)):
            made.append(tuple(rng.integers(10, vocabulary, size).tolist() for size in (p, a, b)))
    return made


def longest(pair: Pair) -> int:
    return len(pair[0]) + max(len(pair[1]), len(pair[2]))


def batches_of(job: Job) -> list[list[Pair]]:
    """Warm-up batches, then timed ones. Only a sorted contender sees another order, and only in the timed part."""
    vocabulary = VOCABULARY[job.model]
    warm = make_pairs(job.warmup * job.per_step, vocabulary, seed=1)
    timed = make_pairs(job.pairs, vocabulary, seed=0) * job.tile
    if TRL.get(job.contender, {}).get("sorted"):
        timed.sort(key=longest)
    both = warm + timed
    return [both[i : i + job.per_step] for i in range(0, len(both), job.per_step)]


def make_model(name: str, folder: Path) -> None:
    """Random weights, saved once and loaded by every child. SmolLM2-135M is the architecture only."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification, Qwen3Config, Qwen3ForSequenceClassification

    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY[name], "num_labels": 1, "pad_token_id": 0, "tie_word_embeddings": True}
    if name == "tiny8k":
        config = Qwen3Config(
            hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            head_dim=64, max_position_embeddings=4096, **common,
        )  # fmt: skip
        Qwen3ForSequenceClassification(config).save_pretrained(folder)
    else:
        config = LlamaConfig(
            hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
            max_position_embeddings=8192, rope_theta=100_000.0, **common,
        )  # fmt: skip
        LlamaForSequenceClassification(config).save_pretrained(folder)


def load(folder: Path, attention: str = "sdpa") -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )


# Contenders: train on the batches in their order, call `after_step` after each optimiser step


def ours(
    folder: Path, batches: list[list[Pair]], lr: float, clip: float, dtype: str, after_step: AfterStep, compiled: bool
) -> None:
    """Assay's engine as `assay reward train` uses it: packed, layers compiled, metrics written at every step."""
    from assay.pack import share
    from assay.reward.config import EngineConfig, TrainConfig
    from assay.reward.model import RewardModel, compile_when_worth
    from assay.reward.monitor import Monitor
    from assay.reward.renderer import Rendered
    from assay.reward.steps import Steps
    from assay.step import Engine

    config = TrainConfig(
        batch_pairs=len(batches[0]), lr=lr, schedule="constant", warmup=0.0, clip=clip, precision=dtype,  # type: ignore[arg-type]
        engine=EngineConfig(compile="on" if compiled else "off"),
    )  # fmt: skip
    engine = Engine(dtype, clip)
    model = RewardModel(load(folder).to(engine.device), 0, config.engine, dtype)  # back ends are tried where it lies
    assert model.packed, model.reason
    compile_when_worth(model, 0)
    engine.prepare(model, lr, config.weight_decay)
    steps = Steps(engine, model, config, config.batch_pairs, len(batches) * config.batch_pairs)
    with tempfile.TemporaryDirectory() as scratch, Monitor(Path(scratch), len(batches), lambda _: None) as monitor:
        for done, batch in enumerate(batches):
            groups = [share([[*prompt, *chosen], [*prompt, *rejected]]) for prompt, chosen, rejected in batch]
            rendered = [Rendered(group=g, certainty=1.0, margin=0.0, cut=0) for g in groups]
            metrics = steps.take(steps.micros(rendered), done)
            monitor.log(metrics)
            after_step(done + 1, metrics.loss)


def trl(
    name: str, folder: Path, batches: list[list[Pair]], lr: float, clip: float, dtype: str, after: AfterStep
) -> None:
    """RewardTrainer on token ids, so that no text is tokenised; sequential, as the data are already shuffled (or sorted)."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    settings = dict(TRL[name])
    settings.pop("sorted", None)
    model, accumulate = (
        load(folder, settings.pop("attention", "sdpa")),
        min(settings.pop("accumulate", 1), len(batches[0])),
    )
    losses: list[float] = []

    class Recorded(RewardTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            found = super().compute_loss(*args, **kwargs)
            losses.append((found[0] if isinstance(found, tuple) else found).item())
            return found

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            after(state.global_step, statistics.fmean(losses[-accumulate:]))

    data = Dataset.from_dict({
        key: [[*pair[0], *pair[i]] for batch in batches for pair in batch]
        for i, key in ((1, "chosen_ids"), (2, "rejected_ids"))
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        config = RewardConfig(
            output_dir=out, max_steps=len(batches), per_device_train_batch_size=len(batches[0]) // accumulate,
            gradient_accumulation_steps=accumulate, learning_rate=lr, lr_scheduler_type="constant", max_grad_norm=clip,
            bf16=dtype == "bf16", use_cpu=on_cpu(), train_sampling_strategy="sequential", save_strategy="no", report_to=[],
            disable_tqdm=True, dataloader_pin_memory=False, **settings,
        )  # fmt: skip
        trainer = Recorded(
            model, args=config, train_dataset=data, processing_class=tokenizer(model), callbacks=[Steps()]
        )
        trainer.remove_callback(PrinterCallback)
        assert len(trainer.train_dataset) == sum(map(len, batches))  # no pair was dropped for its length
        trainer.train()


def tokenizer(model: Any) -> Any:
    """A word for every id. Words are of one length: a special one is cut out of any word that begins with it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word(i): i for i in range(model.config.vocab_size)}, unk_token=word(1)))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token=word(0), eos_token=word(2), unk_token=word(1))


def word(token: int) -> str:
    return f"t{token:05d}"


# A child: one contender, timed


@dataclass
class Watch:
    """Clocks between the end of the last warm-up step and the end of the last step."""

    warmup: int
    steps: int
    profile: bool
    began: tuple[float, float] = field(default_factory=lambda: clocks())
    losses: list[float] = field(default_factory=list)
    warm: tuple[float, float] = (0.0, 0.0)
    timed: tuple[float, float] = (0.0, 0.0)
    profiler: Any = None

    def after_step(self, done: int, loss: float) -> None:
        assert done == len(self.losses) + 1
        self.losses.append(loss)
        if done == self.warmup:
            self.warm = since(self.began)
            if self.profile:
                from torch.profiler import ProfilerActivity, profile

                self.profiler = profile(activities=[ProfilerActivity.CPU], acc_events=True)
                self.profiler.__enter__()
            self.began = clocks()
        if done == self.steps:
            self.timed = since(self.began)
            if self.profiler:
                self.profiler.__exit__(None, None, None)


def clocks() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def since(start: tuple[float, float]) -> tuple[float, float]:
    now = clocks()
    return now[0] - start[0], now[1] - start[1]


def child(job: Job, folder: Path) -> dict[str, Any]:
    import torch

    if job.purpose == "save":
        make_model(job.model, folder)
        return {}
    batches = batches_of(job)
    watch = Watch(job.warmup, len(batches), job.purpose == "profile")
    rest = (folder, batches, LEARNING_RATE, CLIP, job.dtype, watch.after_step)
    ours(*rest, job.purpose != "fp32") if job.contender == OURS else trl(job.contender, *rest)
    assert len(watch.losses) == len(batches), "a contender skipped steps"
    timed, compilers = batches[job.warmup :], resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "pairs": sum(map(len, timed)), "cpu": watch.timed[0], "wall": watch.timed[1], "warm_cpu": watch.warm[0],
        "warm_wall": watch.warm[1], "children_cpu": compilers.ru_utime + compilers.ru_stime, "losses": watch.losses,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "threads": torch.get_num_threads(),
        "tokens": sum(len(p) + len(a) + len(b) for batch in timed for p, a, b in batch), "flops": model_flops(folder, timed),
        "profile": shares(watch.profiler, watch.timed[1]) if watch.profiler else None,
        "peak": matmul_peak(folder, job.dtype) if job.contender == OURS and not job.purpose else None,
    }  # fmt: skip


def model_flops(folder: Path, batches: list[list[Pair]]) -> float:
    """Forward and backward of the useful work: each token once (a prompt is shared), attention to what it may see; in the
    last layer, keys and values of all tokens, and the rest where the head reads.

    6 FLOPs per weight of a matrix product and token; 12 x heads x head size per layer, token and token seen.
    """
    config = json.loads((folder / "config.json").read_text())
    hidden, heads, layers = (config[k] for k in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    size = config.get("head_dim") or hidden // heads
    pairwise = 2 * hidden * size * config["num_key_value_heads"]
    single = 2 * hidden * size * heads + 3 * hidden * config["intermediate_size"]
    tokens = seen = read = seen_there = 0
    for prompt, *answers in (pair for batch in batches for pair in batch):
        p = len(prompt)
        tokens += p + sum(map(len, answers))
        seen += p * (p + 1) // 2 + sum(len(a) * p + len(a) * (len(a) + 1) // 2 for a in answers)
        read, seen_there = read + len(answers), seen_there + sum(p + len(a) for a in answers)
    products = layers * pairwise * tokens + single * ((layers - 1) * tokens + read)
    return 6.0 * products + 12.0 * heads * size * ((layers - 1) * seen + seen_there)


def precision() -> str:
    """What is fastest on this processor, for all contenders: bf16 where it has instructions for it, else fp32."""
    from assay.devices import computes_in_half

    return "bf16" if computes_in_half("auto") else "fp32"


def on_cpu() -> bool:
    from assay import devices

    return not devices.count()


def matmul_peak(folder: Path, dtype: str) -> float:
    """Best FLOPs per wall second of 2048^3 and of the model's own products with 2048 tokens; each tried 5 times."""
    import torch

    kind = torch.bfloat16 if dtype == "bf16" else torch.float32

    config = json.loads((folder / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    best = 0.0
    for m, k, n in ((2048, 2048, 2048), (2048, hidden, hidden), (2048, hidden, inner), (2048, inner, hidden)):
        a, b, out = torch.randn(m, k, dtype=kind), torch.randn(n, k, dtype=kind), torch.empty(m, n, dtype=kind)
        times = max(1, int(2e10 / (m * k * n)))
        for _ in range(6):
            start = time.perf_counter()
            for _ in range(times):
                torch.mm(a, b.t(), out=out)
            best = max(best, 2.0 * m * k * n * times / (time.perf_counter() - start))
    return best


def shares(profiler: Any, wall: float) -> dict[str, float]:
    """Seconds of matrix products outside attention, and of attention with all it calls, over the wall time of the steps.

    Self times only: nothing counts twice. The rest is elementwise work, the optimiser, Python and the profiler itself.
    """
    found = {"products": 0.0, "attention's products and fused kernels": 0.0, "attention's other work": 0.0}
    for event in profiler.events():
        kind = kind_of(event)
        if kind:
            found[kind] += event.self_cpu_time_total / 1e6
    return {name: seconds / wall for name, seconds in found.items()}


def kind_of(event: Any) -> str | None:
    names, above = [], event
    while above is not None:
        names.append(above.name)
        above = above.cpu_parent
    product = any(PRODUCT.match(name) for name in names) or bool(FUSED.search(event.name))
    if any(ATTENTION.search(name) for name in names):
        return "attention's products and fused kernels" if product else "attention's other work"
    return "products" if product else None


# The parent: children one after another, contenders taking turns


@dataclass
class Bench:
    folder: Path  # models, compilation cache
    runs: list[dict[str, Any]] = field(default_factory=list)

    def run(self, job: Job) -> dict[str, Any]:
        """A child's figures. `problem` instead of figures where it failed."""
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false",
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"), "TRANSFORMERS_VERBOSITY": "error",
            "OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads),
        }  # fmt: skip
        load_average = os.getloadavg()[0]
        command = [sys.executable, __file__, "child", json.dumps(asdict(job)), str(self.folder / job.model)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            found: dict[str, Any] = {"problem": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
        else:
            found = json.loads(done.stdout.strip().splitlines()[-1])
        found |= {"job": job, "load": load_average}
        self.runs.append(found)
        say(found)
        return found

    def of(self, contender: str, model: str) -> list[dict[str, Any]]:
        """The repetitions of a contender that ran through."""
        jobs = [(run, run["job"]) for run in self.runs if "problem" not in run]
        return [run for run, job in jobs if (job.contender, job.model, job.purpose) == (contender, model, "")]


def say(run: dict[str, Any]) -> None:
    job = run["job"]
    label = f"{job.model:7s} {job.contender:17s} {job.dtype} {job.purpose}{job.tile if job.tile > 1 else ''}"
    if "problem" in run:
        print(f"{label}  FAILED: {run['problem']}", file=sys.stderr, flush=True)
    elif "cpu" in run:
        print(
            f"{label}  {run['pairs'] / run['cpu']:6.2f} pairs/CPU-s  wall {run['wall']:6.1f} s  {run['rss_mb']:6.0f} MB  "
            f"warm-up {run['warm_cpu'] + run['children_cpu']:.1f} CPU-s  load {run['load']:.1f}",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def rate(run: dict[str, Any]) -> float:
    return float(run["pairs"] / run["cpu"])


def rss(run: dict[str, Any]) -> float:
    return float(run["rss_mb"])


def fastest(bench: Bench, names: tuple[str, ...], model: str) -> str:
    return max(names, key=lambda name: statistics.median([rate(run) for run in bench.of(name, model)] or [0.0]))


def ratios(bench: Bench, theirs: str, model: str, figure: Callable[[dict[str, Any]], float] = rate) -> list[float]:
    """Ours / theirs within each repetition."""
    return [figure(a) / figure(b) for a, b in zip(bench.of(OURS, model), bench.of(theirs, model), strict=True)]


def repetitions(bench: Bench, job: Job, names: tuple[str, ...], count: int) -> None:
    """Contenders take turns; every second repetition goes through them backwards, so that a slow drift cancels."""
    for i in range(count):
        for name in names if i % 2 == 0 else names[::-1]:
            bench.run(replace(job, contender=name))


def measure(bench: Bench, job: Job, count: int, smol: bool, tried: bool) -> None:
    repetitions(bench, job, (OURS, *CONTENDERS), count)
    if tried:
        for name in TRIED:
            bench.run(replace(job, contender=name))
    for _ in range(max(1, count // 2)):  # cost per pair: the same pairs once, twice, four times
        for tile in (1, 2, 4):
            bench.run(replace(job, contender=OURS, purpose="linear", tile=tile))
    for name in (OURS, "trl-plain"):
        bench.run(replace(job, contender=name, purpose="fp32", dtype="fp32", pairs=2 * job.per_step))
    bench.run(replace(job, contender=OURS, purpose="profile", pairs=3 * job.per_step))
    if smol:
        big = replace(job, model="smol135", pairs=16, per_step=4, warmup=1)
        repetitions(bench, big, (OURS, DEFAULT, "trl-plain", "trl-micro1"), 1)


# What is printed, and written into the doc


def loss_gap(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float]:
    """(largest, mean) absolute difference between two runs' losses, step by step, warm-up included."""
    gaps = [abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True)]
    return max(gaps), statistics.fmean(gaps)


def row(bench: Bench, name: str, model: str) -> str:
    runs = bench.of(name, model)
    if not runs:
        problem = next(
            (r["problem"] for r in bench.runs if r["job"].contender == name and r["job"].model == model), "not run"
        )
        return f"| {name} | failed: {problem} |  |  |  |  |  |"
    rates = [rate(run) for run in runs]
    times = ratios(bench, name, model) if len(runs) == len(bench.of(OURS, model)) else []
    wall = statistics.median(run["pairs"] / run["wall"] for run in runs)
    warm = [run["warm_cpu"] + run["children_cpu"] for run in runs]
    cells = (name, spread(rates), f"{wall:.2f}", spread(times), f"{statistics.median(map(rss, runs)):.0f}",
             f"{warm[0]:.1f} / {statistics.median(warm):.1f}", str(len(runs)))  # fmt: skip
    return f"| {' | '.join(cells)} |"


def spread(numbers: list[float]) -> str:
    return f"{statistics.median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})" if numbers else ""


def table(bench: Bench, model: str, names: tuple[str, ...]) -> list[str]:
    """Rows of one model's contenders. Ratio: ours / theirs, pairs per CPU second, median (range) of paired repetitions."""
    head = (
        "contender",
        "pairs/CPU-s (range)",
        "pairs/s",
        "ours is ... times",
        "peak MB",
        "warm-up CPU-s first / median",
        "runs",
    )
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(row(bench, name, model) for name in (OURS, *names))]


def summary(bench: Bench, model: str) -> dict[str, Any]:
    def middle(theirs: str, figure: Callable[[dict[str, Any]], float] = rate) -> float:
        return round(statistics.median(ratios(bench, theirs, model, figure)), 3)

    stock, by_length = fastest(bench, STOCK, model), fastest(bench, LENGTH_SORTED, model)
    profiled = next((r["profile"] for r in bench.runs if "problem" not in r and r["job"].purpose == "profile"), None)
    return {
        "bench": "reward", "ratio_vs_default": middle(DEFAULT), "ratio_vs_fastest_stock": middle(stock),
        "ratio_vs_sorted": middle(by_length), "peak_memory_ratio": middle(DEFAULT, rss),
        "matmul_share": round(sum(profiled.values()), 3) if profiled else None,
        "flops_fraction": round(statistics.median(r["flops"] / r["wall"] / r["peak"] for r in bench.of(OURS, model)), 4),
    }  # fmt: skip


def remarks(bench: Bench, model: str) -> Iterator[str]:
    """The figures besides speed, one list item each."""
    special = [r for r in bench.runs if "problem" not in r and r["job"].model == model and r["job"].purpose]
    yield f"Fastest stock setting: `{fastest(bench, STOCK, model)}`; sorted: `{fastest(bench, LENGTH_SORTED, model)}`."
    largest, mean = loss_gap(bench.of(OURS, model)[0], bench.of("trl-plain", model)[0])
    steps = len(bench.of(OURS, model)[0]["losses"])
    dtype = bench.of(OURS, model)[0]["job"].dtype
    yield f"Losses against `trl-plain`, {dtype}, same order, {steps} steps: largest gap {largest:.1e}, mean {mean:.1e}."
    full = [r for r in special if r["job"].purpose == "fp32"]
    if len(full) == 2:
        yield f"The same in fp32, not compiled, {len(full[0]['losses'])} steps: largest difference {loss_gap(*full)[0]:.1e}."
    for r in special:
        if r["job"].purpose == "profile":
            parts = ", ".join(f"{name} {share:.0%}" for name, share in r["profile"].items())
            rest = 1 - sum(r["profile"].values())
            yield f"Share of our loop's wall time under the profiler: {parts}, everything else {rest:.0%}."
    best = bench.of(OURS, model)
    useful = statistics.median(r["flops"] / r["wall"] for r in best) / 1e9
    peak = statistics.median(r["peak"] for r in best) / 1e9
    yield (
        f"Useful work: {useful:.0f} GFLOP/s, {useful / peak:.0%} of the {peak:.0f} of the best {dtype} product here; "
        f"per wall second, {best[0]['threads']} thread(s)."
    )
    cost = {
        tile: [r["cpu"] / r["pairs"] for r in special if r["job"].purpose == "linear" and r["job"].tile == tile]
        for tile in (1, 2, 4)
    }
    if all(cost.values()):
        once, *more = (statistics.median(cost[tile]) for tile in (1, 2, 4))
        yield f"CPU time per pair with the pairs twice and four times, by once: {more[0] / once:.3f}, {more[1] / once:.3f}."


def report(bench: Bench, args: argparse.Namespace) -> str:
    loads = [run["load"] for run in bench.runs]
    lines = [
        f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "accelerate"))
        + f". `{' '.join(['python', 'benchmarks/bench_reward.py', *sys.argv[1:]])}`: {args.pairs} pairs in steps of 8, "
        + f"{args.dtype}, {args.threads} thread(s) a child, load average {min(loads):.1f} to {max(loads):.1f}.",
        "",
        "**tiny8k** (Qwen3, 4 layers of 256, 6.0 M weights, random)",
        "",
        *table(bench, "tiny8k", (*CONTENDERS, *(TRIED if args.tried else ()))),
        "",
        *(f"- {remark}" for remark in remarks(bench, "tiny8k")),
    ]
    if args.smol:
        lines += ["", "**SmolLM2-135M's architecture**, random weights, 16 pairs in steps of 4, once", ""]
        lines += table(bench, "smol135", (DEFAULT, "trl-plain", "trl-micro1"))
    return "\n".join(lines)


def processor() -> str:
    names = re.findall(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else []
    flags = Path("/proc/cpuinfo").read_text() if names else ""
    return (names[0] if names else platform.processor()) + "".join(
        f" + {f}" for f in ("avx512_bf16", "amx_bf16") if f in flags
    )


def write_doc(text: str) -> None:
    doc = DOC.read_text()
    before, rest = doc.split(BEGIN, 1)
    DOC.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=32, help="timed pairs a child, a multiple of 8")
    parser.add_argument(
        "--threads", type=int, default=1, help="of each child; with more, waiting threads spin and count as CPU time"
    )
    parser.add_argument("--dtype", default=precision(), choices=["bf16", "fp32"], help="default: what is fastest here")
    parser.add_argument("--smol", action="store_true", help="also SmolLM2-135M's architecture, once")
    parser.add_argument(
        "--tried", action="store_true", help="also the stock settings that were found to be slower, once each"
    )
    parser.add_argument("--quick", action="store_true", help="one repetition of 16 pairs; the doc stays as it is")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.pairs = 1, 16
    assert args.pairs % 8 == 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for model in ("tiny8k", "smol135")[: 1 + args.smol]:
            bench.run(Job("", model, 0, purpose="save"))
        job = Job(OURS, "tiny8k", args.pairs, threads=args.threads, dtype=args.dtype)
        measure(bench, job, args.repetitions, args.smol, args.tried)
    text = report(bench, args)
    print(text)
    if not args.quick:
        write_doc(text)
    print(json.dumps(summary(bench, "tiny8k")))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print("\n" + json.dumps(child(Job(**json.loads(sys.argv[2])), Path(sys.argv[3]))))
    else:
        main()
