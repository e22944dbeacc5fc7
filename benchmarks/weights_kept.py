"""What a policy's weights take, and what casting those that train to bfloat16 at each pass costs (random weights of
SmolLM2-135M's shape); and what FlexAttention's mask of a pack costs.

    python benchmarks/weights_kept.py
    python benchmarks/weights_kept.py --repetitions 5 --tokens 2048

Bytes are those of parameters, each memory once: of policy, decoder and KL reference together. CPU seconds are of one
process; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from bench_policy import words
from torch.nn.attention.flex_attention import create_block_mask

from assay import attention, attention_flex, vision
from assay.pack import Group, pack
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.model import load_policy
from assay.policy.sampler import local_sampler

SHAPE = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True, "bos_token_id": None,
}  # fmt: skip
WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    "trained whole": ({}, True), "LoRA": ({"lora_rank": 16}, True), "answers only": ({}, False),
}  # fmt: skip


def held(folder: Path, settings: dict[str, Any], trains: bool, precision: Any) -> dict[str, float]:
    """MiB of policy, of it with its decoder, and with a reference for KL."""
    policy = load_policy(str(folder), PolicyConfig(**settings, precision=precision), trains=trains)
    sampler = local_sampler(policy, SamplerConfig())
    if trains:
        policy.keep_start()
    own = list(policy.parameters())
    decoder = weights_of(sampler.decoder)
    kept = [k for _, k in policy.start]

    def size(parts: list[Any]) -> float:
        return round(sum({p.data_ptr(): p.nbytes for p in parts}.values()) / 2**20, 1)

    return {"policy": size(own), "and decoder": size(own + decoder), "and reference": size(own + decoder + kept)}


def weights_of(held: Any) -> list[Any]:
    """The tensors that a decoder holds, in modules, in containers and in objects of ours."""
    if isinstance(held, torch.nn.Module):
        return list(held.parameters())
    if isinstance(held, torch.Tensor):
        return [held]
    if isinstance(held, dict):
        held = list(held.values())
    elif type(held).__module__.startswith("assay."):
        held = list(vars(held).values())
    return [x for part in held for x in weights_of(part)] if isinstance(held, list | tuple) else []


def casting(folder: Path, tokens: int, repetitions: int) -> dict[str, float]:
    """CPU seconds of a training pass of so many tokens in bfloat16, and of casting all weights once."""
    policy = load_policy(str(folder), PolicyConfig(precision="bf16"))
    random = np.random.default_rng(0)
    answers = tuple(random.integers(5, 40_000, tokens // 8, dtype=np.int32) for _ in range(7))
    batch = policy.batch([Group(prefix=random.integers(5, 40_000, tokens // 8, dtype=np.int32), answers=answers)])
    whole, casts = [], []
    for _ in range(repetitions + 1):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = policy(batch, entropy=False).logp_M.mean()
        loss.backward()
        whole.append(time.process_time() - start)
        start = time.process_time()
        made = [p.detach().bfloat16() for p in vision.language_model(policy.inner).parameters() if p.dim() > 1]
        casts.append(time.process_time() - start)
        del made
        policy.zero_grad()
    return {"pass": round(statistics.median(whole[1:]), 3), "casting": round(statistics.median(casts[1:]), 4)}


def masks(sizes: tuple[int, ...] = (4_096, 8_192, 32_768), dense_to: int = 8_192) -> dict[str, dict[str, float]]:
    """CPU seconds of FlexAttention's mask of a pack, from boundaries, and by comparing all tokens (up to `dense_to`)."""
    found: dict[str, dict[str, float]] = {}
    for tokens in sizes:
        texts = [np.ones(tokens // 16, np.int32) for _ in range(16)]
        made = pack([Group(prefix=texts[0], answers=tuple(texts[1:]))])
        start = time.process_time()
        attention.block_mask(made.layout)
        took = {"boundaries": time.process_time() - start}
        if tokens <= dense_to:
            start = time.process_time()
            create_block_mask(attention_flex.visible(made.layout), None, None, tokens, tokens, device="cpu")
            took["all pairs"] = time.process_time() - start
        found[str(tokens)] = {n: round(x, 4) for n, x in took.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1_024)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, eos_token_id=1, pad_token_id=0))
        model.save_pretrained(folder)
        words(model).save_pretrained(folder)
        found: dict[str, Any] = {}
        for name, (settings, trains) in WAYS.items():
            found[name] = {p: held(folder, settings, trains, p) for p in ("fp32", "bf16")}
            print(name, found[name])
        found["seconds"] = casting(folder, asked.tokens, asked.repetitions)
        found["mask"] = masks()
    print(json.dumps({**found, "tokens": asked.tokens, "repetitions": asked.repetitions}))


if __name__ == "__main__":
    main()
