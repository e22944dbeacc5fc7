"""Cleaning a pool: decontamination, and near-duplicates against rensa and datatrove, in one run on the same documents.

    python benchmarks/bench_clean.py [--datatrove PYTHON]

- Pairs of 2.5 KB from a Parquet shard: read, exact duplicates by id, 13-grams of all messages against 4,000 benchmark
  prompts; against the same rule word by word in Python. Texts of ../shared/data where it is, made up otherwise.
- Near-duplicates among documents of 920 characters, some of them edited copies: 5-word shingles, 128 permutations, 16
  bands. The documents are in their normal form (lower-case words, a space between each two), so that all three have the
  same shingles and no peer pays for finding words. Ours compares what it finds and joins it from a Jaccard coefficient of
  0.7 on; rensa says which documents share a band with another; datatrove joins what shares a band. Recall: of the planted
  copies that are at least so much alike. `pip install rensa`; PYTHON is that of an environment with datatrove, pyarrow,
  orjson, nltk, tokenizers, regex, xxhash and spacy.

Ratios are of CPU seconds (this process's or the peer's, without start, imports and reading the texts); medians of
interleaved repetitions. The last line is JSON; a peer that is not installed is null there.
"""

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from assay.bench.reward import prompts as benchmark_prompts
from assay.curate.decontaminate import Hit, Index, hits_of
from assay.curate.minhash import MinHash
from assay.curate.near_duplicates import near_duplicates
from assay.curate.words import words
from assay.records import Message, Pair, Response, user
from assay.tables import arrow_type, plain

SHARED = Path(os.environ.get("ASSAY_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))
ALPACA = SHARED / "preferences/alpaca_eval/alpacaeval1_gpt4_vs_davinci003.jsonl.gz"
REPEATS = 5
HOW = MinHash(threshold=0.7)
EDITS = (0.005, 0.01, 0.02, 0.04)
Found = Callable[[int, int], bool]
"""Whether two documents were found to be near-duplicates."""


def cpu_s(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def answers(rng: random.Random) -> list[tuple[str, list[str]]]:
    """(question, answers): the real ones, or such of made-up words, the frequent ones often."""
    if ALPACA.exists():
        with gzip.open(ALPACA, "rt") as file:
            rows = [json.loads(line) for line in file]
        return [(row["instruction"], [c["output"] for c in row["candidates"]]) for row in rows]
    vocabulary = [f"w{i}" for i in range(30_000)]

    def text(n: int) -> str:
        return " ".join(vocabulary[int(30_000 ** rng.random()) - 1] for _ in range(n)) + "."

    return [(text(20), [text(rng.randrange(60, 400)) for _ in range(50)]) for _ in range(800)]


def shard(n: int, folder: Path, size: int = 2500) -> Path:
    """A Parquet file of n pairs of `size` characters on the average; one in 20 is there twice."""
    rng = random.Random(0)
    pairs: list[Pair] = []
    asked = [(q, [a for a in said if a.strip()]) for q, said in answers(rng)]
    while len(pairs) < n:
        question, said = rng.choice(asked)
        one, other = rng.sample(said, 2)
        if abs(len(question) + len(one) + len(other) - size) < size // 5 and one != other:
            pairs.append(Pair.of((user(question),), Response.of(one), Response.of(other)))
            pairs += pairs[-1:] * (rng.random() < 0.05)
    table = pa.table({
        "pair_id": [p.id for p in pairs],
        "prompt": pa.array([plain(p.prompt) for p in pairs], arrow_type(tuple[Message, ...])),
        "responses": pa.array([plain(p.responses) for p in pairs], arrow_type(tuple[Response, ...])),
    })  # fmt: skip
    path = folder / "pairs.parquet"
    pq.write_table(table, path, compression="zstd")
    return path


def benchmarks(n: int = 4000) -> dict[str, list[str]]:
    """n prompts of real benchmarks, made up where there are fewer."""
    rng, found = random.Random(1), []
    if (SHARED / "benchmarks").is_dir():
        found = [(name, p) for name, prompts in benchmark_prompts(SHARED / "benchmarks").items() for p in prompts]
    rng.shuffle(found)
    found += [("made up", " ".join(f"w{rng.randrange(9999)}" for _ in range(60))) for _ in range(n - len(found))]
    named: defaultdict[str, list[str]] = defaultdict(list)
    for name, prompt in found[:n]:
        named[name].append(prompt)
    return named


def cleaned(path: Path, index: Index, fields: Any = "all") -> tuple[int, list[Hit]]:
    """The stage on a shard: (pairs that are left, hits). What is there twice is told by ids; no text is copied."""
    table = pq.read_table(path)
    hits = hits_of(table, index, fields)
    once = pl.DataFrame({"pair_id": table["pair_id"]}).unique("pair_id")
    hit = pl.Series([h.pair_id for h in hits], dtype=pl.String).unique()
    return once.filter(~pl.col("pair_id").is_in(hit.implode())).height, hits


def by_words(rows: Sequence[dict[str, Any]], grams: dict[tuple[str, ...], list[int]], n: int = 13) -> int:
    """The same rule as it is usually written: how many pairs have a 13-gram of a benchmark."""
    found = 0
    for row in rows:
        said = [m["content"] for m in row["prompt"]] + [m["content"] for r in row["responses"] for m in r["messages"]]
        lists = [tuple(words(text)) for text in said]
        found += any(w[i : i + n] in grams for w in lists for i in range(len(w) - n + 1))
    return found


def decontamination(n: int = 40_000) -> dict[str, float]:
    """Pairs per CPU second: of the stage, of the search alone (all messages; only the history), and by words in Python."""
    with tempfile.TemporaryDirectory() as folder:
        path, prompts = shard(n, Path(folder)), benchmarks()
        index_s, index = cpu_s(lambda: Index.of(prompts))
        table = pq.read_table(path)
        count, characters = len(table), table.nbytes / len(table)
        grams: dict[tuple[str, ...], list[int]] = {}
        for texts in prompts.values():
            for text in texts:
                said = tuple(words(text))
                grams |= {said[i : i + 13]: [] for i in range(len(said) - 12)}
        some = table.slice(0, 2000).to_pylist()
        hits_of(table.slice(0, 10), index, "all")  # builds the compiled part
        rates: defaultdict[str, list[float]] = defaultdict(list)
        left, hits = cleaned(path, index)
        for _ in range(REPEATS):
            rates["stage"].append(count / cpu_s(lambda: cleaned(path, index))[0])
            rates["all"].append(count / cpu_s(lambda: hits_of(table, index, "all"))[0])
            rates["prompt"].append(count / cpu_s(lambda: hits_of(table, index))[0])
            rates["by words"].append(len(some) / cpu_s(lambda: by_words(some, grams))[0])
    print(
        f"decontamination: {count:,} pairs of {characters:,.0f} bytes, {sum(map(len, prompts.values())):,} prompts "
        f"({len(grams):,} 13-grams; index {index_s:.2f} s); {left:,} left, {len({h.pair_id for h in hits}):,} hit"
    )
    for name, found in rates.items():
        print(f"  {name:10s} {statistics.median(found):12,.0f} pairs/CPU-s ({min(found):,.0f} to {max(found):,.0f})")
    return {name: statistics.median(found) for name, found in rates.items()}


def edited(text: str, share: float, rng: random.Random) -> str:
    """Words replaced, left out and put in, a third each."""
    said = []
    for word in text.split():
        kind = rng.randrange(3) if rng.random() < share else -1
        said += [[f"n{rng.randrange(10**6)}"], [], [word, f"n{rng.randrange(10**6)}"], [word]][kind]
    return " ".join(said)


def corpus(n: int, size: int = 920) -> tuple[list[str], dict[float, list[tuple[int, int]]]]:
    """n documents of about `size` characters, of which a tenth are copies of others, and these by the share of edits."""
    rng = random.Random(2)
    texts = {" ".join(words(a)) for _, said in answers(rng) for a in said if len(a) > size // 2}
    originals: list[str] = []
    for text in sorted(texts):
        for at in range(0, len(text), size):
            if len(piece := text[at : at + size]) > size // 2 and len(piece.split()) > 50:
                originals.append(piece.strip())
    originals = rng.sample(originals, min(len(originals), n * 9 // 10))
    documents, planted = list(originals), {share: [] for share in EDITS}
    for i in rng.sample(range(len(originals)), len(originals) // 9):
        share = rng.choice(EDITS)
        planted[share].append((i, len(documents)))
        documents.append(edited(originals[i], share, rng))
    return documents, planted


def ours(documents: pa.Array, ids: list[str]) -> tuple[float, Found]:
    seconds, result = cpu_s(lambda: near_duplicates([(ids, documents)], HOW))
    at = {row["pair_id"]: row["cluster"] for row in result.table.select(["pair_id", "cluster"]).to_pylist()}
    return seconds, lambda a, b: ids[a] in at and at[ids[a]] == at.get(ids[b])


def rensa(documents: list[str]) -> tuple[float, Found]:
    """The fastest of its ways: sketches of all documents in one matrix, and a flag for each that shares a band."""
    from rensa import RMinHash, RMinHashLSH

    def work() -> list[bool]:
        sets = []
        for text in documents:
            said = text.split()
            sets.append({" ".join(said[i : i + HOW.shingle]) for i in range(len(said) - HOW.shingle + 1)})
        matrix = RMinHash.digest_matrix_from_token_sets(sets, HOW.permutations, 42)
        return list(
            RMinHashLSH(HOW.threshold, HOW.permutations, HOW.bands).query_duplicate_flags_matrix_one_shot(matrix)
        )

    seconds, flags = cpu_s(work)
    return seconds, lambda a, b: flags[a] and flags[b]


def datatrove(python: str, documents: list[str]) -> tuple[float, Found]:
    how = {"shingle": HOW.shingle, "bands": HOW.bands, "rows": HOW.permutations // HOW.bands}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "documents.json")
        path.write_text(json.dumps(documents))
        command = [python, str(Path(__file__).with_name("peer_datatrove.py")), str(path), json.dumps(how)]
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if run.returncode:
        sys.exit(f"datatrove: {run.stderr.strip().splitlines()[-1]}")
    result = json.loads(run.stdout.splitlines()[-1])
    at = dict(map(tuple, result["clusters"]))
    return result["cpu_s"], lambda a, b: a in at and at[a] == at.get(b)


def recall(planted: dict[float, list[tuple[int, int]]], documents: list[str], found: Found) -> tuple[float, int]:
    """Of the planted pairs that are as alike as the threshold: the share that was found, and how many there are."""
    due = [pair for pairs in planted.values() for pair in pairs if alike(documents, *pair) >= HOW.threshold]
    return sum(found(a, b) for a, b in due) / len(due), len(due)


def alike(documents: list[str], a: int, b: int) -> float:
    one, other = (
        {tuple(said[i : i + HOW.shingle]) for i in range(len(said) - HOW.shingle + 1)}
        for said in (documents[a].split(), documents[b].split())
    )
    return len(one & other) / len(one | other)


def near(python: str | None, n: int = 20_000) -> dict[str, Any]:
    """Documents per CPU second of each, our ratios, and recall."""
    documents, planted = corpus(n)
    column, ids = pa.array(documents, pa.large_string()), [f"{i:032x}" for i in range(len(documents))]
    near_duplicates([(ids[:10], column[:10])], HOW)  # builds the compiled part
    ways: dict[str, Callable[[], tuple[float, Found]]] = {"ours": lambda: ours(column, ids)}
    try:
        import rensa as _  # noqa: F401

        ways["rensa"] = lambda: rensa(documents)
    except ImportError:
        print("rensa: not installed")
    if python:
        ways["datatrove"] = lambda: datatrove(python, documents)
    times: defaultdict[str, list[float]] = defaultdict(list)
    share: dict[str, float] = {}
    for turn in range(REPEATS):
        for name, way in ways.items():
            if name == "datatrove" and turn > 1:
                continue
            seconds, found = way()
            times[name].append(seconds)
            share[name], due = recall(planted, documents, found)
    print(
        f"near-duplicates: {len(documents):,} documents of {sum(map(len, documents)) / len(documents):,.0f} characters"
    )
    for name, seconds in times.items():
        rates = sorted(len(documents) / s for s in seconds)
        print(
            f"  {name:10s} {statistics.median(rates):12,.0f} documents/CPU-s ({rates[0]:,.0f} to {rates[-1]:,.0f}); "
            f"recall {share[name]:.4f} of {due:,}"
        )
    ratio = {name: statistics.median(s) / statistics.median(times["ours"]) for name, s in times.items()}
    return {
        "near_duplicates_per_cpu_s": len(documents) / statistics.median(times["ours"]),
        "near_duplicates_vs_rensa": ratio.get("rensa"), "near_duplicates_vs_datatrove": ratio.get("datatrove"),
        "recall": {name: round(r, 4) for name, r in share.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datatrove", metavar="PYTHON", help="the Python of an environment that has datatrove")
    python = parser.parse_args().datatrove
    rates = decontamination()
    found = near(python)
    line = {
        "bench": "clean",
        "clean_pairs_per_cpu_s": rates["stage"],
        "clean_vs_words": rates["all"] / rates["by words"],
    }
    print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in (line | found).items()}))


if __name__ == "__main__":
    main()
