"""Scoring with a reward model: ours against the plain padded loop, and the reward server under load.

    make bench-score                            # 5 paired repetitions, then 64 clients for two minutes, then vLLM
    python benchmarks/bench_score.py --only-vllm --vllm PYTHON    # against vLLM alone
    python benchmarks/bench_score.py --quick    # 1 repetition, 5 seconds: does everything still run?

The peer does what rewardbench's scripts do: whole conversations in the order given, batches of 64 (their default), padded to
the longest of the batch, one forward each; and of 8 beside it, which is faster on a CPU. It uses transformers' own classes;
neither side tokenises. Both score the same token ids with the same weights (Qwen3 of 4 layers x 256, random) in one process,
in turns, on one thread; a figure is CPU seconds (`time.process_time`), a ratio is taken within a repetition.
Scores are compared: fp32 within 1e-4. The last line of stdout is JSON.

Against vLLM (its pooling, in a process and an environment of its own): SmolLM2-135M with a random head, in bfloat16, whole
conversations as token ids, one core; both are compared with full precision, else the race is void.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peer_vllm

VOCABULARY, UNKNOWN, DEFAULT, BATCHES = 8192, "<unk>", "padded, 64", (64, 8)
PEERS = (DEFAULT, "padded, 8")
CHECKED = 20
"""Against vLLM: of so many prompts the scores in full precision are computed, too."""
DOC = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
Row = tuple[list[int], list[list[int]]]
"""A prompt and its answers, as token ids."""


def lengths(rng: Any, median: float) -> int:
    return int(np.clip(rng.lognormal(np.log(median), 0.7), 8, 600))


def rows(count: int, answers: int, seed: int, asked: float = 110, said: float = 190) -> list[Row]:
    """Skewed lengths as in the reward benchmark: prompts of 110 tokens in the median, answers of 190."""
    rng = np.random.default_rng(seed)

    def ids(median: float) -> list[int]:
        return [int(i) for i in rng.integers(10, VOCABULARY, lengths(rng, median))]

    return [(ids(asked), [ids(said) for _ in range(answers)]) for _ in range(count)]


def words(ids: list[int]) -> str:
    return " ".join(f"t{i}" for i in ids)


def save_model(folder: Path) -> None:
    """The model, and a tokenizer with a word for every id."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForSequenceClassification

    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=4096, num_labels=1, pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    ))  # fmt: skip
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    names = ["<pad>", "<end>", UNKNOWN, *(f"t{i}" for i in range(3, VOCABULARY))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token=UNKNOWN)
    fast.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    fast.save_pretrained(folder)


# Offline: ours and the padded loop


def padded(model: Any, whole: list[list[int]], size: int, half: bool) -> Any:
    """Rewards by the plain loop."""
    import torch

    found = []
    for at in range(0, len(whole), size):
        part = whole[at : at + size]
        longest = max(map(len, part))
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        mask = torch.zeros(len(part), longest, dtype=torch.long)
        for k, row in enumerate(part):
            ids[k, : len(row)] = torch.tensor(row)
            mask[k, : len(row)] = 1
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(model(input_ids=ids, attention_mask=mask).logits.squeeze(-1).float())
    return torch.cat(found).numpy()


def ours(scorer: Any, data: list[Row]) -> Any:
    from assay.records import assistant, user
    from assay.render import Rendered

    conversations = [(user(str(n)), assistant(str(k))) for n, (_, told) in enumerate(data) for k in range(len(told))]
    rendered = [Rendered(ids=[*prompt, *answer]) for prompt, told in data for answer in told]
    return scorer.rewards(conversations, rendered)


def offline(folder: Path, repetitions: int, pairs: int, lists: int) -> dict[str, Any]:
    """CPU seconds of both sides, by data and precision, and the largest difference of the scores."""
    import torch

    from assay.devices import computes_in_half
    from assay.reward.scorer import load_scorer

    torch.set_num_threads(1)
    from transformers import Qwen3ForSequenceClassification

    peer = Qwen3ForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa").eval()
    found: dict[str, Any] = {}
    for precision in ("fp32", "bf16") if computes_in_half("auto") else ("fp32",):
        scorer = load_scorer(folder, 4096, precision=precision)
        for name, data in (("pairs", rows(pairs, 2, seed=0)), ("best of 32", rows(lists, 32, seed=1))):
            whole = [[*prompt, *answer] for prompt, told in data for answer in told]
            times: dict[str, list[float]] = {}
            scores: dict[str, Any] = {}
            contenders: dict[str, Any] = {"ours": partial(ours, scorer, data)}
            for size in BATCHES:
                contenders[f"padded, {size}"] = partial(padded, peer, whole, size, precision == "bf16")
            for repetition in range(repetitions + 1):
                for who, work in contenders.items():
                    start = time.process_time()
                    scores[who] = work()
                    if repetition:
                        times.setdefault(who, []).append(time.process_time() - start)
            apart = float(np.abs(scores["ours"] - scores[f"padded, {BATCHES[0]}"]).max())
            if precision == "fp32":
                assert apart < 1e-4, f"scores differ by {apart}"
            tokens = sum(map(len, whole))
            found[f"{name}, {precision}"] = {"times": times, "apart": apart, "texts": len(whole), "tokens": tokens}
            print(f"{name}, {precision}: {_ratios(times, DEFAULT)}", file=sys.stderr, flush=True)
    return found


def _ratios(times: dict[str, list[float]], who: str) -> list[float]:
    """Of each repetition: the peer's CPU seconds over ours."""
    return [p / o for p, o in zip(times[who], times["ours"], strict=True)]


# A shard's pairs, from Arrow to rewards


def score_vs_engine(repetitions: int = 5, pairs: int = 96) -> dict[str, Any]:
    """How near the scoring of a shard (`score_pairs`: rows of Arrow, records, chat template, tokens, rewards) comes to the
    reward engine's own rate on token ids that lie ready, as a ratio of CPU seconds in one process, in turns: 1 is as fast.

    Of one model, and of two that read alike. "ratios" are of one model, "two" of both against twice the engine's time.
    """
    import torch

    from assay.records import Pair, Response, user
    from assay.reward.scorer import Model
    from assay.reward.scoring import score_pairs
    from assay.tables import to_arrow

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = rows(pairs, 2, seed=3)
    made = [Pair.of((user(words(p)),), *(Response.of(words(a)) for a in told)) for p, told in data]
    shard = to_arrow(Pair, sorted(made, key=lambda p: (p.prompt_id, p.id)))
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / name for name in ("one", "two")]
        for folder in folders:
            save_model(folder)
        models = [Model(str(f), 4096) for f in folders]
        scorer: Any = models[0].load()
        expected = {(words(p), words(a)): r for (p, told), two in zip(
            data, ours(scorer, data).reshape(-1, 2), strict=True) for a, r in zip(told, two, strict=True)}  # fmt: skip
        (found,) = score_pairs(models[:1], shard)
        for pair, rewards in zip(sorted(made, key=lambda p: (p.prompt_id, p.id)), found.rewards, strict=True):
            for response, reward in zip(pair.responses, rewards, strict=True):
                assert abs(expected[pair.prompt[0].content, response.text] - reward) < 1e-4, "another reward"
        work: dict[str, Any] = {
            "engine": lambda: ours(scorer, data), "shard": lambda: score_pairs(models[:1], shard),
            "two": lambda: score_pairs(models, shard),
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in work}
        for repetition in range(repetitions + 1):
            for name in work if repetition % 2 else reversed(work):
                start = time.process_time()
                work[name]()
                if repetition:
                    times[name].append(time.process_time() - start)
    torch.set_num_threads(threads)
    tokens = sum(len(p) + len(a) for p, told in data for a in told)
    return {
        "ratios": [e / s for e, s in zip(times["engine"], times["shard"], strict=True)],
        "two": [2 * e / s for e, s in zip(times["engine"], times["two"], strict=True)],
        "pairs": pairs, "tokens": tokens, "tokens_per_cpu_s": tokens / statistics.median(times["shard"]),
    }  # fmt: skip


# The server under load


def load(folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """`clients` clients at once, one request in eight a bad one, against `assay serve` in a process of its own."""
    from assay.reward.remote import wait_until_ready
    from assay.reward.scorer import load_scorer

    data = rows(200, 4, seed=2, asked=30, said=50)
    expected = ours(load_scorer(folder, 4096), data).reshape(len(data), 4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "assay", "serve", str(folder), "--port", str(port)]
    server = subprocess.Popen(line, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", 120)
        return asyncio.run(_clients(f"http://127.0.0.1:{port}", data, expected, clients, seconds))
    finally:
        server.terminate()
        server.wait(60)


BAD: tuple[tuple[dict[str, Any], int], ...] = (
    ({}, 422), ({"prompt": "t5", "responses": []}, 422), ({"conversations": [[{"role": "user", "content": "t5"}]]}, 422),
    ({"prompt": 7, "responses": ["t5"]}, 422), ({"conversations": "t5"}, 422),
)  # fmt: skip


async def _clients(url: str, data: list[Row], expected: Any, clients: int, seconds: float) -> dict[str, Any]:
    import aiohttp

    until = time.monotonic() + seconds
    told: dict[str, Any] = {"latency": [], "wrong": 0, "good": 0, "bad": 0, "retried": 0, "lost": 0, "answers": 0}

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        choose = random.Random(number)
        while time.monotonic() < until:
            at, start = choose.randrange(len(data)), time.monotonic()
            prompt, answers = data[at]
            count = choose.randint(1, 4)
            body: dict[str, Any] = {"prompt": words(prompt), "responses": [words(a) for a in answers[:count]]}
            bad = choose.random() < 0.125
            if bad:
                body, status = choose.choice(BAD)
            try:
                async with session.post(f"{url}/v1/score", json=body) as response:
                    answer = await response.json()
            except aiohttp.ClientError:
                told["lost"] += 1
                continue
            told["latency"].append(time.monotonic() - start)
            if response.status == 503:
                told["retried"] += 1
                await asyncio.sleep(float(response.headers["Retry-After"]))
            elif bad:
                told["bad"] += 1
                told["wrong"] += response.status != status or "error" not in answer
            else:
                told["good"] += 1
                told["answers"] += count
                right = response.status == 200 and np.abs(answer["rewards"] - expected[at, :count]).max() < 1e-4
                told["wrong"] += not right

    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        start = time.monotonic()
        await asyncio.gather(*(client(session, n) for n in range(clients)))
        told["seconds"] = time.monotonic() - start
        async with session.get(f"{url}/metrics") as answer:
            metrics = await answer.text()
    counts = [x for x in metrics.splitlines() if x.startswith("assay_requests_total") and "/v1/score" in x]
    counted = sum(float(x.rsplit(" ", 1)[1]) for x in counts)
    told["lost"] += int(counted) - len(told["latency"])
    return told


# Against vLLM


def product_rate() -> float:
    """GFLOP/s of our product by itself, the best of some, in CPU seconds; 0 where there is none for this processor."""
    import torch

    from assay import body_cpu

    if body_cpu.library() is None:
        return 0.0
    weights, x, best = body_cpu.Panels([torch.randn(576, 1536)]), torch.randn(192, 1536), float("inf")
    for _ in range(20):
        start = time.process_time()
        for _ in range(10):
            weights(x)
        best = min(best, (time.process_time() - start) / 10)
    return 2 * 576 * 1536 * 192 / best / 1e9


SETTINGS: dict[str, dict[str, Any]] = {"vLLM": {}, "vLLM, blocks of 32": {"block_size": 32}}
"""What vLLM is run with. A prefix is shared in whole blocks: of 128 tokens by default on a CPU; 32 are the fewest that are
made for it."""
SETS = {
    "pairs": "120 answers that share prompts in twos",
    "best of 8": "64 answers that share prompts in eights",
    "pairs of chats": "the 120, all prompts behind the 24 tokens with which SmolLM2's chat template begins",
    "pairs under 300": "the 120, all prompts behind a system prompt: 300 tokens with the template's",
}
"""Tokens are random, so that prompts share none by chance."""
RACES = [f"{name}, {setting}" for setting in SETTINGS for name in SETS]


def contests(tokenizer: Any, quick: bool) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """The data of `SETS`, and how many tokens all prompts of each share."""
    from assay.records import assistant, user
    from assay.render import render

    pairs = rows(8 if quick else 60, 2, seed=5)
    one, other = (r.ids for r in render(tokenizer, [(user(w), assistant(w)) for w in ("Why?", "how")], 4096))
    begin = one[: next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)]
    assert len(begin) == 24, f"SmolLM2's template begins with {len(begin)} tokens"
    told = [int(i) for i in np.random.default_rng(7).integers(10, VOCABULARY, 300 - len(begin))]
    shared = {"pairs of chats": begin, "pairs under 300": begin[:-4] + told + begin[-4:]}
    made = {name: [([*ids, *p], answers) for p, answers in pairs] for name, ids in shared.items()}
    made |= {"pairs": pairs, "best of 8": rows(1 if quick else 8, 8, seed=6)}
    return made, {name: len(shared.get(name, ())) for name in SETS}


def race(python: str, repetitions: int, races: list[str], quick: bool) -> tuple[str, dict[str, Any]]:
    """The table, and what the last line says of it: CPU seconds of ours and of vLLM's processes, in turns, in each of
    `races`. The first turn, which is not counted, is of a few answers."""
    import torch
    from peer_vllm import Contender, told

    from assay.models import Backbone, load_reward_model, load_tokenizer
    from assay.reward.scorer import load_scorer

    torch.set_num_threads(1)
    times: dict[str, dict[str, list[float]]] = {r: {"ours": [], "vLLM": []} for r in races}
    scores: dict[str, dict[str, Any]] = {r: {} for r in races}
    with tempfile.TemporaryDirectory() as place:
        tokenizer = load_tokenizer("smollm2")
        data, shared = contests(tokenizer, quick)
        model = load_reward_model(Backbone(name="smollm2"), tokenizer)
        torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        full = load_scorer(place, 4096)
        exact = {n: ours(full, data[n][:CHECKED]) for n in SETS if any(f"{n}, {s}" in races for s in SETTINGS)}
        scorer = load_scorer(place, 4096, precision="bf16")
        for setting in [n for n in SETTINGS if any(f"{s}, {n}" in races for s in SETS)]:
            vllm = Contender(python, "score", place, **SETTINGS[setting])
            ready = told(vllm.ready)
            print(ready, file=sys.stderr, flush=True)
            for repetition in range(repetitions + 1):
                for name in [n for n in SETS if f"{n}, {setting}" in races]:
                    asked = data[name] if repetition else data[name][: 1 + len(data[name]) // 8]
                    start = time.process_time()
                    made = ours(scorer, asked)
                    spent = {"ours": time.process_time() - start}
                    found, spent["vLLM"] = vllm.ask({"ids": [[*p, *a] for p, answers in asked for a in answers]})
                    print(setting, name, repetition, spent, file=sys.stderr, flush=True)
                    for who, seconds in spent.items() if repetition else ():
                        times[f"{name}, {setting}"][who].append(seconds)
                    scores[f"{name}, {setting}"] = {"ours": made, "vLLM": np.array(found)}
            vllm.close()
    lines = [
        f"SmolLM2-135M with a random head, bfloat16, one core, {repetitions} repetitions, medians (range); differences from "
        f"fp32 are the largest of {CHECKED} prompts. {ready}.", "",
        "| answers | tokens (what is shared once) | vLLM's setting | our CPU seconds | vLLM's | ours is ... times as fast | "
        "differences from fp32 in standard deviations, ours and vLLM's |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    ratios: dict[str, float] = {}
    for which, own in times.items():
        name, _, setting = which.partition(", ")
        once = _once(data[name], shared[name])
        ratios[which] = round(statistics.median(_ratios(own, "vLLM")), 3)
        sure = exact[name]
        both = {who: found[: len(sure)] for who, found in scores[which].items()}
        same = {who: float(np.corrcoef(found, sure)[0, 1]) for who, found in both.items()}
        assert min(same.values()) > 0.999, (
            f"{which} is void, the scores differ: correlations with full precision {same}"
        )
        differ = ", ".join(f"{np.abs(found - sure).max() / sure.std():.3f}" for found in both.values())
        lines.append(
            f"| {SETS[name]} | {_whole(data[name]):,} ({once:,}) | {setting[6:] or 'its default'} | "
            f"{_spread(own['ours'])} | {_spread(own['vLLM'])} | {_spread(_ratios(own, 'vLLM'))} | {differ} |"
        )
    layers = sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)
    name, _, _ = races[0].partition(", ")
    rate = 2 * layers * _once(data[name], shared[name]) / statistics.median(times[races[0]]["ours"]) / 1e9
    lines += [
        "", f"Products with weights, what is shared once, over our CPU seconds: {rate:.0f} GFLOP/s, where such a product "
        f"by itself reaches {product_rate():.0f} here.",
    ]  # fmt: skip
    last = {"ratio_vs_vllm": ratios[races[0]], "gflops": round(rate), "ratios_vs_vllm": ratios}
    return "\n".join(lines), last


def _once(data: list[Row], shared: int) -> int:
    """The tokens with each prompt once, and once what all prompts begin with."""
    return sum(len(p) - shared + sum(map(len, a)) for p, a in data) + shared


def _whole(data: list[Row]) -> int:
    """The tokens of all conversations, each with its prompt."""
    return sum(len(p) + len(a) for p, told in data for a in told)


# Table and line


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(found: dict[str, Any], told: dict[str, Any], clients: int, machine: str, repetitions: int) -> str:
    lines = [
        f"{machine}. `python benchmarks/bench_score.py`, {repetitions} repetitions, medians (range).", "",
        "| data | texts | ours, tokens/CPU-s | padded, batches of 64 | of 8 | ours: times faster than 64 | than 8 | "
        "largest difference |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in found.items():
        rates = [f"{row['tokens'] / statistics.median(row['times'][w]):,.0f}" for w in ("ours", *PEERS)]
        times = [_spread(_ratios(row["times"], who)) for who in PEERS]
        lines.append(f"| {name} | {row['texts']:,} | {' | '.join([*rates, *times])} | {row['apart']:.1e} |")
    slow = np.quantile(told["latency"], (0.5, 0.99)) * 1000
    lines += [
        "", f"The server, {clients} clients at once on the same two cores for {told['seconds']:.0f} s, fp32, prompts of 30 "
        f"and answers of 50 tokens in the median: {told['good']:,} good requests ({told['answers']:,} answers) and "
        f"{told['bad']:,} bad ones, {len(told['latency']) / told['seconds']:.0f} a second; p50 {slow[0]:.0f} ms, p99 "
        f"{slow[1]:.0f} ms; {told['wrong']} wrong, {told['lost']} lost, {told['retried']} told to come back.",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    from bench_policy import processor

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--quick", action="store_true", help="one repetition, 5 seconds of load, no document")
    parser.add_argument("--vllm", default=peer_vllm.DEFAULT, metavar="PYTHON", help="an interpreter that has vLLM")
    parser.add_argument("--only-vllm", action="store_true", help="the race against vLLM alone")
    parser.add_argument("--race", action="append", choices=RACES, help="of the races against vLLM these alone")
    options = parser.parse_args()
    repetitions = 1 if options.quick else options.repetitions
    last: dict[str, Any] = {"bench": "score"}
    if not options.only_vllm:
        last |= others(options, repetitions)
    if peer_vllm.there(options.vllm):
        page, ratios = race(options.vllm, repetitions, options.race or RACES, options.quick)
        print(page)
        last |= ratios
        if not (options.quick or options.race):
            peer_vllm.write_between(DOC, "bench-score-vllm", f"{processor()}. {page}")
    print(json.dumps(last))


def others(options: Any, repetitions: int) -> dict[str, Any]:
    """Against the padded loop, and the server under load; writes their table."""
    from bench_policy import processor

    with tempfile.TemporaryDirectory() as place:
        save_model(Path(place))
        found = offline(Path(place), repetitions, *((16, 1) if options.quick else (48, 2)))
        told = load(Path(place), options.clients, 5.0 if options.quick else options.seconds)
    page = table(found, told, options.clients, processor(), repetitions)
    print(page)
    if not options.quick:
        peer_vllm.write_between(DOC, "bench-score", page)
    assert told["wrong"] + told["lost"] == 0, "a reward was wrong, or a request was lost"
    ratios = {
        k: round(statistics.median(_ratios(found[f"{k}, fp32"]["times"], DEFAULT)), 3) for k in ("pairs", "best of 32")
    }
    return {
        "ratio_vs_padded_loop": ratios["pairs"], "ratio_best_of_32": ratios["best of 32"],
        "server_requests_per_s": round(len(told["latency"]) / told["seconds"], 1),
        "server_p99_ms": round(float(np.quantile(told["latency"], 0.99)) * 1000, 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
