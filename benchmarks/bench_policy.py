"""Assay's GRPO step and MPO against TRL's GRPOTrainer and DPOTrainer: same weights, prompts, group, lengths, dtype.

    make bench-policy                          # 3 paired repetitions, then the buffer's experiment
    python benchmarks/bench_policy.py --quick  # one repetition, no experiment: does everything still run?
    python benchmarks/bench_policy.py --out DIR   # an hour or two, which may be cut: the same command goes on

A child process a run; its figure is CPU seconds (`time.process_time`) after warm-up steps of the same code. Ratios are taken
within a repetition, then their median. The tables go into docs/performance.md between their markers; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bench_pictures
import numpy as np
from bench_reward import DOC, make_pairs, on_cpu, tokenizer, word

from assay.tables import write_text

BEGIN, END = "<!-- bench-policy -->", "<!-- /bench-policy -->"
BUFFER = "**The buffer**"
VOCABULARY, GROUP, NEW, LR = 8192, 8, 64, 1e-5
PROMPTS = (96, 512, 2048)
PEERS = ("trl-default", "trl-plain")
MPO_PEERS = (*PEERS, "trl-micro4", "trl-micro1")
"""Eight pairs a step for all: in one forward pass, or in micro-batches of 4 (`shared/peers.md` measured so) or of 1."""
Figures = dict[str, Any]


def make_model(folder: Path) -> None:
    """tiny8k of bench_reward, with a language-model head; random weights. The tokenizer has a word for every id."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=4096, tie_word_embeddings=True, pad_token_id=0,
        eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    words(model).save_pretrained(folder)


def words(model: Any) -> Any:
    from tokenizers import decoders, pre_tokenizers

    made = tokenizer(model)
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.backend_tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return made


def prompt_ids(length: int, n: int) -> list[list[int]]:
    return np.random.default_rng(length).integers(10, VOCABULARY, (n, length)).tolist()


def text(ids: list[int]) -> str:
    return " ".join(map(word, ids))


def reward_of(answer: str) -> float:
    """Anything that differs within a group."""
    return sum(int(word[1:]) for word in answer.split() if word[1:].isdigit()) % 997 / 997


def precision() -> str:
    """What is fastest on this processor, for all contenders: bf16 where it has instructions for it, else fp32."""
    from assay.devices import computes_in_half

    return "bf16" if computes_in_half("auto") else "fp32"


# GRPO


def grpo_ours(folder: Path, length: int, steps: int, warm: int) -> Figures:
    from assay.policy.config import PolicyConfig, SamplerConfig
    from assay.policy.model import load_policy
    from assay.policy.sampler import LocalSampler
    from assay.records import user
    from assay.rollouts import Prompt

    policy = load_policy(str(folder), PolicyConfig(precision=precision()))
    assert policy.packed, policy.reason
    prompts = [Prompt(messages=(user(text(ids)),)) for ids in prompt_ids(length, steps + warm)]
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=NEW), half=policy.bf16)
    ids = {p.id: row for p, row in zip(prompts, prompt_ids(length, steps + warm), strict=True)}
    sampler.rendered = lambda prompt: ids[prompt.id]  # type: ignore[assignment]
    sampler.forbidden = list(policy.end_ids)
    return timed_steps(policy, prompts, sampler, steps, warm)


def timed_steps(policy: Any, prompts: list[Any], sampler: Any, steps: int, warm: int) -> Figures:
    """GRPO steps of one prompt each, every answer of NEW tokens."""
    import torch

    from assay.policy.config import GrpoConfig
    from assay.policy.grpo import Grpo
    from assay.rollouts import Score
    from assay.step import Engine

    def reward(pairs: Any) -> list[Score]:
        return [Score(rule=reward_of(r.text), format=0.0, total=reward_of(r.text)) for _, r in pairs]

    config = GrpoConfig(steps=steps + warm, prompts=1, group=GROUP, lr=LR, schedule="constant", zero_groups="drop")
    engine = Engine(precision(), config.clip)
    engine.prepare(policy, LR, 0.0)
    found: Figures = {"step": [], "generate": [], "update": []}
    with tempfile.TemporaryDirectory() as scratch:
        run = Grpo(Path(scratch) / "out", config, policy, engine, prompts, sampler, reward)
        for step in range(steps + warm):
            start = time.process_time()
            metrics = run.step(step)
            assert metrics["length"] == NEW
            if step >= warm:
                found["step"].append(time.process_time() - start)
                found["generate"].append(metrics["sample_cpu_s"])
                found["update"].append(metrics["update_cpu_s"])
    return {**found, "threads": torch.get_num_threads()}


def grpo_trl(folder: Path, length: int, steps: int, warm: int, checkpointing: bool, compiled: bool = False) -> Figures:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompts, processor = prompt_ids(length, steps + warm), AutoTokenizer.from_pretrained(folder)
    data = Dataset.from_dict({"prompt": [text(ids) for ids in prompts]})
    assert processor(data["prompt"][:])["input_ids"] == prompts
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return grpo_trainer(model, processor, data, steps, warm, checkpointing, compiled)


def grpo_trainer(
    model: Any, processor: Any, data: Any, steps: int, warm: int, checkpointing: bool, compiled: bool = False
) -> Figures:
    """TRL's GRPOTrainer on the same work, its steps timed."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    found: Figures = {"step": [], "generate": [], "update": []}
    spent = {"step": 0.0, "generate": 0.0}

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            spent.update(step=time.process_time(), generate=0.0)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step > warm:
                whole = time.process_time() - spent["step"]
                found["step"].append(whole)
                found["generate"].append(spent["generate"])
                found["update"].append(whole - spent["generate"])

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            out = super()._generate(*args, **kwargs)
            spent["generate"] += time.process_time() - start
            return out

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [reward_of(c if isinstance(c, str) else c[0]["content"]) for c in completions]

    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out, max_steps=steps + warm, per_device_train_batch_size=GROUP, num_generations=GROUP,
            max_completion_length=NEW, beta=0.0, loss_type="grpo", temperature=1.0, learning_rate=LR,
            bf16=precision() == "bf16", gradient_checkpointing=checkpointing, torch_compile=compiled, use_cpu=on_cpu(),
            report_to=[], save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant",
            shuffle_dataset=False, dataloader_pin_memory=False, logging_steps=10**6,
            generation_kwargs={"min_new_tokens": NEW},
        )  # fmt: skip
        trainer = Timed(
            model, reward_funcs=reward, args=config, train_dataset=data, processing_class=processor, callbacks=[Steps()]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        lengths = trainer._metrics["train"].get("completions/mean_length", [NEW])
        assert all(n == NEW for n in lengths), lengths
    return found


def generate_hf(folder: Path, length: int, steps: int, warm: int) -> Figures:
    """transformers' generate, in bf16 in one autocast context: the same answers, without a trainer around it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    found = []
    for at, ids in enumerate(prompt_ids(length, steps + warm)):
        start = time.process_time()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision() == "bf16"):
            row = torch.tensor([ids])
            model.generate(
                input_ids=row, attention_mask=torch.ones_like(row), do_sample=True, top_k=0, num_return_sequences=GROUP,
                max_new_tokens=NEW, min_new_tokens=NEW,
            )  # fmt: skip
        if at >= warm:
            found.append(time.process_time() - start)
    return {"generate": found}


# MPO


def mpo_pairs(n: int, seed: int) -> list[Any]:
    return make_pairs(n, VOCABULARY, seed)


def mpo_ours(folder: Path, pairs: int, per_step: int, warm: int) -> Figures:
    """MPO without the shift, which TRL lacks. The reference's pass over the pairs is counted."""
    from assay.policy.config import FitConfig, PolicyConfig
    from assay.policy.folder import Folder
    from assay.policy.model import load_policy
    from assay.policy.mpo import Comparison, _Fit
    from assay.step import Engine

    rows = [*mpo_pairs(warm * per_step, 1), *mpo_pairs(pairs, 0)]
    examples = [Comparison(prompt=tuple(p), chosen=(*c, 2), rejected=(*r, 2)) for p, c, r in rows]
    policy = load_policy(str(folder), PolicyConfig(precision=precision(), tokens=8192, compile="on"))
    assert policy.packed, policy.reason
    policy.compile_when_worth(0)
    config = FitConfig(batch=per_step, lr=LR, schedule="constant", warmup=0.0, weight_decay=0.0, shift=False)
    engine = Engine(precision(), config.clip)
    engine.prepare(policy, LR, 0.0)
    losses, spent = [], 0.0
    with tempfile.TemporaryDirectory() as scratch:
        run = _Fit(Folder(Path(scratch) / "out", config, policy, examples), config, policy, engine, examples, True)
        run.order = lambda step: list(range(step * per_step, (step + 1) * per_step))  # type: ignore[method-assign]
        whole = run.groups
        references = []
        for part in (whole[: warm * per_step], whole[warm * per_step :]):
            start = time.process_time()
            run.groups = part
            references.append(run.answers_logp())
            spent = time.process_time() - start
        run.groups, reference = whole, np.concatenate(references)
        for step in range(len(rows) // per_step):
            start = time.process_time()
            losses.append(run.step(step, reference)["loss"])
            if step >= warm:
                spent += time.process_time() - start
    return {"pairs": pairs, "cpu": spent, "losses": losses}


def mpo_trl(
    folder: Path, pairs: int, per_step: int, warm: int, checkpointing: bool, accumulate: int = 1, compiled: bool = False
) -> Figures:  # fmt: skip
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    rows = [*mpo_pairs(warm * per_step, 1), *mpo_pairs(pairs, 0)]
    clock, losses, micro = {"at": 0.0, "spent": 0.0}, [], []

    class Recorded(DPOTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            found = super().compute_loss(*args, **kwargs)
            micro.append((found[0] if isinstance(found, tuple) else found).item())
            return found

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock["at"] = time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            losses.append(statistics.fmean(micro[-accumulate:]))
            if state.global_step > warm:
                clock["spent"] += time.process_time() - clock["at"]

    data = Dataset.from_dict({
        "prompt": [text(p) for p, _, _ in rows], "chosen": [" " + text(c) for _, c, _ in rows],
        "rejected": [" " + text(r) for _, _, r in rows],
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        config = DPOConfig(
            output_dir=out, max_steps=len(rows) // per_step, per_device_train_batch_size=per_step // accumulate,
            gradient_accumulation_steps=accumulate, learning_rate=LR, lr_scheduler_type="constant",
            bf16=precision() == "bf16", loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0],
            beta=0.1, max_length=None,
            gradient_checkpointing=checkpointing, torch_compile=compiled, use_cpu=on_cpu(),
            train_sampling_strategy="sequential", report_to=[],
            save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, logging_steps=10**6,
        )  # fmt: skip
        trainer = Recorded(
            AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), args=config, train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(folder), callbacks=[Steps()],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        read = next(iter(trainer.train_dataset))
        assert [read["prompt_ids"], read["chosen_ids"]] == [rows[0][0], [*rows[0][1], 2]], read
        trainer.train()
    return {"pairs": pairs, "cpu": clock["spent"], "losses": losses}


def gflop(who: str, pairs: int = 32, per_step: int = 8) -> float:
    """Billions of operations of the products with weights for one pair: a pass for the reference, and three to train."""
    body, head, rows = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 1024), VOCABULARY * 256, mpo_pairs(pairs, 0)
    if who == "ours":  # a prompt once, no padding, answers alone through the head; both answers end with a token more
        answers = sum(len(c) + len(r) + 2 for _, c, r in rows)
        work = body * (answers + sum(len(p) for p, _, _ in rows)) + head * answers
    else:  # every place of every padded row
        size = {"trl-micro4": 4, "trl-micro1": 1}.get(who, per_step)
        longest = [
            max(len(p) + max(len(c), len(r)) + 1 for p, c, r in rows[i : i + size]) for i in range(0, pairs, size)
        ]
        work = (body + head) * sum(2 * size * n for n in longest)
    return 2 * work * (5 if who == "trl-default" else 4) / pairs / 1e9


def child(job: Figures, folder: Path) -> Figures:
    what, who = job["what"], job["who"]
    if what == "save":
        make_model(folder)
        bench_pictures.make_model(pictures_of(folder))
        return {}
    if what == "pictures":
        rest = (pictures_of(folder), job["side"], job["steps"], 1)
        found = bench_pictures.ours(*rest) if who == "ours" else bench_pictures.trl(*rest, who == "trl-default")
        return found | {"rss_mb": peak_mb()}
    rest = (folder, job["length"], job["steps"], 1) if what == "grpo" else (folder, job["steps"], 8, 2)
    if what == "mpo":
        options = {
            "trl-default": (True, 1),
            "trl-plain": (False, 1),
            "trl-micro4": (False, 2),
            "trl-micro1": (False, 8),
            "trl-compile-micro1": (False, 8, True),
        }
        found = mpo_ours(*rest) if who == "ours" else mpo_trl(*rest, *options[who])
    elif who == "hf":
        found = generate_hf(*rest)
    else:
        found = grpo_ours(*rest) if who == "ours" else grpo_trl(*rest, who == "trl-default", who == "trl-compile")
    return {**found, "rss_mb": peak_mb()}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pictures_of(folder: Path) -> Path:
    """The model with eyes, beside the one without."""
    return folder.parent / f"{folder.name}-vl"


def run(job: Figures, folder: Path) -> Figures:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, __file__, "child", json.dumps(job), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job}\n{done.stderr[-3000:]}")
    found: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    if job["what"] != "save":
        parts = {k: round(statistics.median(v), 3) for k, v in found.items() if k in ("step", "generate", "update")}
        rate = {"pairs/CPU-s": round(found["pairs"] / found["cpu"], 2)} if "cpu" in found else {}
        print(
            job,
            parts | rate,
            f"{found['rss_mb']:.0f} MB",
            f"load {os.getloadavg()[0]:.1f}",
            file=sys.stderr,
            flush=True,
        )
    return found


# The parent


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def measure(repetitions: int, model: Path, kept: Path) -> list[Figures]:
    """Every contender once a repetition, taking turns. What `kept` already has is not run again."""
    runs = []
    for repetition in range(repetitions):
        jobs = [
            {"what": "grpo", "who": who, "length": length, "steps": 3}
            for length in PROMPTS
            for who in ("ours", *PEERS, "hf")
        ]
        jobs += [
            {"what": "pictures", "who": who, "side": side, "steps": 3}
            for side in bench_pictures.SIDES
            for who in ("ours", *PEERS)
        ]
        jobs += [{"what": "mpo", "who": who, "steps": 32} for who in ("ours", *MPO_PEERS)]
        for job in jobs:
            path = kept / f"{'-'.join(str(v) for v in (repetition, *job.values()))}.json"
            if not path.exists():
                write_text(path, json.dumps({**job, **run(job, model), "repetition": repetition}))
            runs.append(json.loads(path.read_text()))
    return runs


def values(runs: list[Figures], what: str, who: str, key: str, size: int = 0) -> list[float]:
    """One figure a repetition: seconds of a step, or of all MPO steps. `size`: a prompt's tokens, a picture's side."""
    chosen = [r for r in runs if r["what"] == what and r["who"] == who and r.get("length", r.get("side", 0)) == size]
    return [median(r[key]) if isinstance(r[key], list) else r[key] for r in chosen]


def over(theirs: list[float], ours: list[float]) -> list[float]:
    return [t / o for t, o in zip(theirs, ours, strict=True)]


def best(runs: list[Figures], what: str, names: tuple[str, ...], key: str, length: int = 0) -> str:
    return min(names, key=lambda n: median(values(runs, what, n, key, length)))


def summary(runs: list[Figures]) -> Figures:
    found: Figures = {}
    for length in PROMPTS:
        peer = best(runs, "grpo", PEERS, "step", length)
        found[f"grpo_step_ratio_{length}"] = over(
            values(runs, "grpo", peer, "step", length), values(runs, "grpo", "ours", "step", length)
        )
    for side in bench_pictures.SIDES:
        peer = best(runs, "pictures", PEERS, "step", side)
        found[f"grpo_step_ratio_picture_{side}"] = over(
            values(runs, "pictures", peer, "step", side), values(runs, "pictures", "ours", "step", side)
        )
    ours = {k: values(runs, "grpo", "ours", k, PROMPTS[0]) for k in ("generate", "update")}
    found["generation_ratio"] = over(values(runs, "grpo", "hf", "generate", PROMPTS[0]), ours["generate"])
    peer = best(runs, "grpo", PEERS, "update", PROMPTS[0])
    found["update_ratio"] = over(values(runs, "grpo", peer, "update", PROMPTS[0]), ours["update"])
    peer = best(runs, "mpo", MPO_PEERS, "cpu")
    for name, who in (
        ("mpo_ratio", peer),
        ("mpo_ratio_trl_batch4", "trl-micro4"),
        ("mpo_ratio_trl_default", "trl-default"),
    ):
        found[name] = over(values(runs, "mpo", who, "cpu"), values(runs, "mpo", "ours", "cpu"))
    found["peak_memory_ratio"] = [
        m for length in PROMPTS
        for m in over(values(runs, "grpo", "ours", "rss_mb", length), values(runs, "grpo", "trl-default", "rss_mb", length))
    ]  # fmt: skip
    return found


def table(runs: list[Figures], ratios: Figures, buffer: Figures) -> str:
    libraries = ", ".join(f"{n} {version(n)}" for n in ("torch", "transformers", "trl"))
    lines = [
        f"{processor()}, one thread a child; Python {platform.python_version()}, {libraries}. "
        f"`python benchmarks/bench_policy.py`, {1 + max(r['repetition'] for r in runs)} repetitions.",
        "",
        f"**A GRPO step**: one prompt, {GROUP} answers of {NEW} tokens, tiny8k, {precision()}; CPU seconds, median of 3 "
        "steps.",
        "",
        "| prompt tokens | contender | step | generation | update and optimiser | peak MB | ours is ... times faster |",
        "|---|---|---|---|---|---|---|",
    ]
    for length in PROMPTS:
        for who in ("ours", *PEERS):
            parts = [f"{median(values(runs, 'grpo', who, k, length)):.2f}" for k in ("step", "generate", "update")]
            times = over(values(runs, "grpo", who, "step", length), values(runs, "grpo", "ours", "step", length))
            mb = median(values(runs, "grpo", who, "rss_mb", length))
            lines.append(f"| {length} | {who} | {' | '.join(parts)} | {mb:.0f} | {spread(times)} |")
        hf = values(runs, "grpo", "hf", "generate", length)
        lines.append(f"| {length} | transformers' generate alone | | {median(hf):.2f} | | | |")
    lines += [
        "", f"**The same with a picture**: Qwen2.5-VL's classes, small, the tower frozen, one picture and "
        f"{bench_pictures.TEXT} tokens of text.", "",
        "| picture | its tokens | contender | step | generation | update and optimiser | peak MB | ours is ... times |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for side in bench_pictures.SIDES:
        for who in ("ours", *PEERS):
            parts = [f"{median(values(runs, 'pictures', who, k, side)):.2f}" for k in ("step", "generate", "update")]
            times = over(values(runs, "pictures", who, "step", side), values(runs, "pictures", "ours", "step", side))
            mb, seen = median(values(runs, "pictures", who, "rss_mb", side)), bench_pictures.picture_tokens(side)
            lines.append(f"| {side} x {side} | {seen} | {who} | {' | '.join(parts)} | {mb:.0f} | {spread(times)} |")
    lines += [
        "", "**MPO**: pairs of skewed lengths as in the reward benchmark, 8 a step, without the shift (TRL has none); "
        "the reference's pass is counted on both sides.", "",
        "| contender | pairs/CPU-s | GFLOP of products with weights a pair | GFLOP/CPU-s | peak MB | ours is ... times |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for who in ("ours", *MPO_PEERS):
        cpu = values(runs, "mpo", who, "cpu")
        times, mb = over(cpu, values(runs, "mpo", "ours", "cpu")), median(values(runs, "mpo", who, "rss_mb"))
        rate, work = 32 / median(cpu), gflop(who)
        lines.append(f"| {who} | {rate:.2f} | {work:.1f} | {rate * work:.0f} | {mb:.0f} | {spread(times)} |")
    losses = [next(r["losses"] for r in runs if r["what"] == "mpo" and r["who"] == w) for w in ("ours", "trl-plain")]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    lines += [
        "", f"- Ratios, medians (range): {', '.join(f'{k} {spread(v)}' for k, v in ratios.items())}.",
        f"- MPO losses against `trl-plain` over {len(losses[0])} steps: largest difference {apart:.3f} of about "
        f"{losses[0][0]:.1f} (TRL's NLL is a mean over the batch's tokens, ours over answers, as the formula has it).",
    ]  # fmt: skip
    return "\n".join([*lines, *buffer.get("lines", [])])


def processor() -> str:
    names = [n.partition(":")[2].strip() for n in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in n]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    from ssb import SEEDS, experiment

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repetition, no buffer experiment, no document")
    parser.add_argument("--no-buffer", action="store_true", help="leave the buffer's experiment out")
    parser.add_argument("--out", type=Path, help="keep finished runs here, and do not run again what is there")
    options = parser.parse_args()
    buffer: Figures = {}
    with tempfile.TemporaryDirectory() as place:
        out = options.out or Path(place) / "runs"
        (out / "ssb").mkdir(parents=True, exist_ok=True)
        model = Path(place) / "tiny8k"
        run({"what": "save", "who": ""}, model)
        runs = measure(1 if options.quick else options.repetitions, model, out)
        if not (options.quick or options.no_buffer):
            buffer = experiment(out / "ssb", SEEDS)
    ratios = summary(runs)
    page = table(runs, ratios, buffer)
    print(page)
    if not options.quick:
        before = DOC.read_text()
        start, end = before.index(BEGIN) + len(BEGIN), before.index(END)
        if not buffer:  # its tables stay as they are
            page += "\n\n" + before[start:end][before[start:end].index(BUFFER) :].rstrip("\n")
        DOC.write_text(before[:start] + "\n" + page + "\n" + before[end:])
    last = {"bench": "policy"} | {k: round(median(v), 3) for k, v in ratios.items()}
    names = (
        "ssb_effective_share",
        "baseline_effective_share",
        "samples_to_accuracy_ratio",
        "samples_to_plain_end_ratio",
    )
    print(json.dumps(last | {n: buffer.get(n) for n in names}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(child(json.loads(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
