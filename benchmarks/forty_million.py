"""What a curation of 40 million pairs would take on stated hardware: measured rates, and the assumption behind each number.

    python benchmarks/bench_scale.py --work DIR              # leaves DIR/measured.json
    python benchmarks/run_million.py --out RUN               # leaves RUN/run
    python benchmarks/forty_million.py DIR/measured.json RUN --cores 64 --gpus 64

Nothing of this was run at that size. Stages of the CPU are measured on one core at the pairs' own length and divided by the
cores, as if no disk or network were in the way; stages with models are arithmetic (2 FLOP for a weight and token read, 6 for
one trained) at a share of the peak that is assumed. The table is in Markdown.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from run_million import stages

from assay.curate.cost import Assumed

CHARS_PER_TOKEN = Assumed().chars_per_token
REAL_SETS = Path(__file__).with_name("scale_measured.json")
JUDGE_TOKENS_PER_S = 5_000
"""Prompt tokens of a large judge a second and GPU, of a server that batches well."""
EXAMPLES, VOTES = 8, 3
STAGE1, ITERATIONS = 1_000_000, 8
"""Pairs of the paper's stage 1, and its iterations, which train on all that there is by then (A3, 4.3 and D.2)."""
KEPT = 26 / 40
"""The paper's share of the pool that is trained on in the end."""
PASSES = ("index", "attributes")
"""Steps of a run whose time is that of reading the pool's text on cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    cores: int
    gpus: int
    tflops: float
    used: float

    def seconds(self, flop: float) -> float:
        return flop / (self.gpus * self.tflops * 1e12 * self.used)

    def lines(self) -> str:
        each = f"{self.tflops:,.0f} dense bf16 TFLOP/s, of which {self.used:.0%} are used"
        return f"{self.cores} cores, {self.gpus} GPUs of {each}"


@dataclass(frozen=True, slots=True)
class Row:
    stage: str
    seconds: float
    behind: str


def on_cores(file: Path, pairs: int, size: int, hardware: Hardware) -> list[Row]:
    """The stages of bench_scale, from the largest pool of the length that is nearest to `size`, else scaled by length."""
    found = json.loads(file.read_text())
    rows = []
    for name, what in (
        ("import", "files to shards"), ("clean", "duplicates, 13-grams of benchmarks"),
        ("settle", "labels from votes and judgements"), ("stage2", "the keep rule over columns"),
    ):  # fmt: skip
        have = [m for m in found if name in m["stages"]]
        if not have:
            continue
        best = min(have, key=lambda m: (abs(m["bytes"] - size), -m["pairs"]))
        each = best["stages"][name]["cpu_s"] / best["pairs"]
        behind = f"{each * 1e6:.1f} CPU microseconds a pair at {best['pairs']:,} pairs of {best['bytes']:,} bytes"
        rows.append(Row(f"{name}: {what}", pairs * each / hardware.cores, behind))
    return rows


def of_a_run(folder: Path, pairs: int, size: int, cores_there: int, hardware: Hardware) -> list[Row]:
    """Passes over the text of a whole run, scaled by length."""
    told = json.loads((folder / "asked.json").read_text())
    rows = []
    for name, found in stages(folder / "run").items():
        kind = next((p for p in PASSES if name.rpartition("/")[2].startswith(p)), None)
        if kind is None:
            continue
        longer = size / told["bytes"] if kind == "attributes" else 1.0
        each = found["seconds"] * cores_there / told["pairs"] * longer
        scale = f", times {longer:.0f} for the text" if longer != 1 else ""
        of = f"{told['pairs']:,} pairs of {told['bytes']:,} bytes"
        behind = f"{found['seconds']:.0f} s on {cores_there} cores at {of}{scale}"
        label = f"{name}{' (by rules)' if kind == 'attributes' else ''}"
        rows.append(Row(label, pairs * each / hardware.cores, behind))
    return rows


def prompt_share() -> float:
    """The part of a pair's text that is its prompt, in the real sets, by the means of their quantiles."""
    told = json.loads(REAL_SETS.read_text())
    prompt, pair = (np.trapezoid(told[name], told["quantiles_at"]) for name in ("prompt_bytes", "pair_bytes"))
    return float(prompt / pair)


def on_gpus(pairs: int, size: int, hardware: Hardware) -> list[Row]:
    tokens = size / CHARS_PER_TOKEN
    asked = tokens * prompt_share()
    shown = sum(STAGE1 * i // ITERATIONS for i in range(1, ITERATIONS + 1))
    judge = tokens * (1 + EXAMPLES) * VOTES
    said = Assumed().judged
    return [
        Row("vectors of the prompts", hardware.seconds(pairs * asked * 2 * 0.6e9),
            f"an encoder of 0.6 billion weights, {asked:.0f} tokens a prompt (its share of a pair in the real sets)"),
        Row("look-alikes of one iteration", pairs * 384 * 2 * 5_000 / (hardware.cores * 30e9),
            "exact: 5,000 queries of width 384 against all, at 30 GFLOP/s a core (assumed)"),
        Row("stage 1: all trainings of a model of 8 billion weights", hardware.seconds(shown * tokens * 6 * 8e9),
            f"{STAGE1:,} pairs over {ITERATIONS} iterations, each trained on all so far, one pass: {shown:,} pairs shown"),
        Row("stage 2: rewards of two models of 8 billion weights", hardware.seconds(2 * pairs * tokens * 2 * 8e9),
            f"{tokens:.0f} tokens a pair, its prompt once"),
        Row("stage 2: judges", said * pairs * judge / (JUDGE_TOKENS_PER_S * hardware.gpus),
            f"{said:.0%} of the pairs, {VOTES} votes, {EXAMPLES} examples, {JUDGE_TOKENS_PER_S:,} tokens a second and GPU "
            "(all assumed; own judges on the same GPUs)"),
        Row("the last training, 8 billion weights", hardware.seconds(KEPT * pairs * tokens * 6 * 8e9),
            f"{KEPT * pairs:,.0f} pairs (the paper's share), one pass"),
    ]  # fmt: skip


def span(seconds: float) -> str:
    for name, unit in (("days", 86_400), ("hours", 3_600), ("min", 60)):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:,.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, help="measured.json of bench_scale")
    parser.add_argument("run", type=Path, help="the folder of run_million")
    parser.add_argument("--pairs", type=int, default=40_000_000)
    parser.add_argument("--bytes", type=int, default=2_500, help="of text a pair")
    parser.add_argument("--cores", type=int, default=64)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--tflops", type=float, default=989.0, help="dense bf16, of one GPU")
    parser.add_argument("--used", type=float, default=0.4, help="the share of them that models reach")
    parser.add_argument("--run-cores", type=int, default=2, help="cores that the run had")
    args = parser.parse_args()
    hardware = Hardware(cores=args.cores, gpus=args.gpus, tflops=args.tflops, used=args.used)
    rows = [
        *on_cores(args.measured, args.pairs, args.bytes, hardware),
        *of_a_run(args.run, args.pairs, args.bytes, args.run_cores, hardware),
        *on_gpus(args.pairs, args.bytes, hardware),
    ]  # fmt: skip
    print(f"{args.pairs:,} pairs of {args.bytes:,} bytes; {hardware.lines()}\n")
    print("| stage | time | behind it |\n|---|---|---|")
    for row in rows:
        print(f"| {row.stage} | {span(row.seconds)} | {row.behind} |")


if __name__ == "__main__":
    main()
