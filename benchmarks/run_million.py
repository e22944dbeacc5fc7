"""The whole of `assay run` on a large pool, on this machine, with offline judges: what each stage takes, time and memory.

    python benchmarks/run_million.py --out /tmp/million --pairs 1000000 --bytes 400

It is the plumbing that is shown, not a result: texts are invented words (`scale_pool.py`), people prefer the longer
response, the backbone is one layer of random weights of width 64. The same command goes on after a kill. Ends with
a table of the stages.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import scale_pool
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers

from assay.curate.shards import Pool
from assay.curate.stage1 import Stage1Config
from assay.curate.stage2 import Stage2Config
from assay.engine import engine_of
from assay.pipeline.flow import FlowConfig
from assay.pipeline.job import run_job
from assay.records import Case, Judgement
from assay.reward.config import EngineConfig, TrainConfig

WIDTH, TOKENS, WORDS = 64, 256, 2_000
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}<end>{% endfor %}"


def backbone(folder: Path, text: Path) -> Path:
    """A decoder of one layer of random weights; its tokenizer knows the most frequent words of a file."""
    if not (folder / "config.json").exists():
        with text.open(encoding="utf-8") as file:
            seen = Counter(re.findall(r"\w+", file.read(8_000_000)))
        known = ["<pad>", "<unk>", "<end>", *(word for word, _ in seen.most_common(WORDS))]
        made = tokenizers.Tokenizer(models.WordLevel({t: i for i, t in enumerate(known)}, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", chat_template=TEMPLATE
        )
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(known), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
            intermediate_size=2 * WIDTH, max_position_embeddings=512, pad_token_id=0, eos_token_id=2, bos_token_id=None,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        fast.save_pretrained(folder)
    return folder


def people(cases: Sequence[Case]) -> list[Judgement]:
    """Whoever is asked prefers the longer response."""
    better = [max(c.pair.responses, key=lambda r: (len(r.text), r.id)).id for c in cases]
    return [
        Judgement(pair_id=c.pair.id, better=b, by="longer", kind="oracle") for c, b in zip(cases, better, strict=True)
    ]


def settings(out: Path, presentations: int) -> FlowConfig:
    return FlowConfig(
        recipe="million", embedder="hash", presentations=presentations, offline_judge=True,
        stage1=Stage1Config(iterations=2, seed_gold=500, seed_silver=2_000, per_iteration=5_000, gold_share=0.1),
        stage2=Stage2Config(band=0.02, examples=4),
        train=TrainConfig(
            backbone=str(backbone(out / "backbone", min((out / "files").glob("part-*.jsonl")))), max_tokens=TOKENS,
            batch_pairs=64, epochs=1, lr=1e-3, checks=2, engine=EngineConfig(tokens=16_384),
        ),
    )  # fmt: skip


def prepare_pool(out: Path, pairs: int, size: int, engine: str) -> dict[str, Any]:
    """Files and pool; what the import took."""
    note = out / "import.json"
    if not note.exists():
        if not (out / "files/known.json").exists():
            scale_pool.make(out / "files", pairs, size)
        files = sorted(map(str, (out / "files").glob("part-*.jsonl")))
        start = time.monotonic()
        line = [sys.executable, "-m", "assay", "pool", "add", *files, "--out", str(out / "pool"), "--engine", engine,
                "--parts", str(max(1, pairs // 25_000))]  # fmt: skip
        subprocess.run(line, check=True)
        note.write_text(json.dumps({"seconds": time.monotonic() - start}))
    return dict(json.loads(note.read_text()))


def stages(run: Path) -> dict[str, dict[str, float]]:
    """Seconds and peak memory of every step, of the run and of its seed, in their order."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"seconds": 0.0, "peak_mb": 0.0})
    for file in (run / "metrics.jsonl", run / "seed-0/metrics.jsonl"):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            at = found[row["step"]]
            at["seconds"] += row.get("seconds", row["wall_s"])
            at["peak_mb"] = max(at["peak_mb"], row["peak_mb"])
    for file in sorted((run / "seed-0/models").glob("*/training.json")):
        told = json.loads(file.read_text())
        found[f"train {file.parent.name} ({told['pairs']:,} pairs)"]["seconds"] = told["wall_s"]
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=400)
    parser.add_argument("--engine", default="cores")
    parser.add_argument("--presentations", type=int, default=20_000, help="pairs that a training is shown, at most")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "asked.json").write_text(json.dumps({"pairs": args.pairs, "bytes": args.bytes}))
    imported = prepare_pool(args.out, args.pairs, args.bytes, args.engine)
    pool = Pool.open(str(args.out / "pool"))
    config = settings(args.out, args.presentations)
    told = {"pairs": pool.pairs, "shards": len(pool.shards), **imported, "config": asdict(config)}
    print(json.dumps(told, default=str))
    start = time.monotonic()
    run_job(
        args.out / "run", config, pool, people=people, asked={"people": "longer"},
        engine=engine_of(args.engine),
    )  # fmt: skip
    print(f"this session: {time.monotonic() - start:,.0f} s")
    for name, told in {"import": imported, **stages(args.out / "run")}.items():
        rate = pool.pairs / max(1e-9, told["seconds"])
        print(f"{name:44s} {told['seconds']:9.1f} s  {rate:12,.0f} pairs/s  {told.get('peak_mb', 0):7,.0f} MB")


if __name__ == "__main__":
    main()
