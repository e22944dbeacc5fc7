"""What real sets of preferences are like, as small numbers that `scale_pool` makes pools of.

    python benchmarks/scale_measure.py ../shared/data          # writes benchmarks/scale_measured.json

Quantiles and rates only; no text is kept. A row is one vote on one pair, as `assay pool add` would read it.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np

from assay.formats.human_sets import HUMAN_SETS, read_set
from assay.formats.preferred import Outcome, Preferred, labelled
from assay.formats.rows import RowError
from assay.formats.sources import rows
from assay.formats.texts import Cell
from assay.records import Pair

OUT = Path(__file__).with_name("scale_measured.json")
BENCHMARKS = (
    "judgebench/gpt-4o-2024-05-13.jsonl", "rm-bench/chat_filtered.json", "rm-bench/code_filtered.json",
    "rm-bench/safety-refuse_filtered.json", "rm-bench/safety-response_filtered.json",
    "rmb/Pairwise_set_Helpfulness.jsonl.gz", "rmb/Pairwise_set_Harmlessness.jsonl.gz",
)  # fmt: skip
_WORD = re.compile(r"[^\W_]+")
_CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
GRAM, SHINGLE = 13, 5


def outcomes(folder: Path, name: str) -> Iterator[Outcome]:
    """Every vote of a set: those that its reader merges by item, one by one."""
    if name not in ("vicuna80", "mt-bench"):
        yield from read_set(folder, name)
        return
    for file in HUMAN_SETS[name].files:
        for cell in rows(folder / file):
            if isinstance(cell, Cell):
                row: Any = cell.value
                for side in ("conversation_a", "conversation_b"):
                    if side in row:
                        row = {**row, side: row[side][: 2 * row["turn"]]}
                try:
                    yield from labelled({**row, "input": None})
                except RowError as error:
                    yield error


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def grams(said: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(said[i : i + n]) for i in range(len(said) - n + 1)}


def quantiles(values: Iterable[float], digits: int = 0) -> list[float]:
    """The quantiles at `AT`, between which `scale_pool` draws."""
    return [round(float(q), digits) for q in np.quantile(np.array([*values]), AT)]


AT = [*np.arange(0, 0.96, 0.05), 0.98, 0.99, 0.995, 0.999, 0.9999, 1.0]


def benchmark_prompts(folder: Path) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for file in BENCHMARKS:
        for cell in rows(folder / file):
            if isinstance(cell, Cell) and isinstance(cell.value, dict):
                row = cell.value
                prompt = row.get("prompt") or row.get("question") or row["conversation_input"][-1]["content"]
                found.setdefault(prompt, words(prompt))
    return [w for w in found.values() if w]


def contaminated(pairs: list[Pair], prompts: list[list[str]]) -> tuple[float, float]:
    """(share of pairs that a benchmark's prompt is in, share of these where a whole turn is the prompt)."""
    whole = {tuple(p) for p in prompts}
    parts = {g for p in prompts for g in grams(p, GRAM)}
    turns = [[words(m.content) for m in p.prompt] for p in pairs]
    exact = [any(tuple(t) in whole for t in said) for said in turns]
    hits = [e or any(not parts.isdisjoint(grams(t, GRAM)) for t in said) for e, said in zip(exact, turns, strict=True)]
    return sum(hits) / len(pairs), sum(exact) / max(1, sum(hits))


def near_duplicates(pairs: list[Pair], most: int = 60) -> float:
    """The share of responses that share at least 70 % of their runs of 5 words with another response to the question."""
    by_question: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for p in pairs:
        by_question[p.question_id].update((r.id, r.text) for r in p.responses)
    near = total = 0
    for texts in by_question.values():
        shingled = [s for t in islice(texts.values(), most) if (s := grams(words(t), SHINGLE))]
        close = {
            i for (a, one), (b, two) in combinations(enumerate(shingled), 2)
            if len(one & two) >= 0.7 * len(one | two) for i in (a, b)
        }  # fmt: skip
        near, total = near + len(close), total + len(shingled)
    return near / total


def size(pair: Pair) -> int:
    turns = (*pair.prompt, *pair.responses[0].messages, *pair.responses[1].messages)
    return sum(len(m.content.encode()) for m in turns)


def measure(data: Path) -> dict[str, Any]:
    votes: list[Preferred] = []
    bad = 0
    for name in HUMAN_SETS:
        for outcome in outcomes(data / "preferences", name):
            if isinstance(outcome, Preferred):
                votes.append(outcome)
            else:
                bad += 1
    pairs = {v.pair.id: v.pair for v in votes}
    sides: defaultdict[str, list[str | None]] = defaultdict(list)
    for v in votes:
        sides[v.pair.id].append(v.better)
    repeated = {i: s for i, s in sides.items() if len(s) > 1}
    questions = Counter(p.question_id for p in pairs.values())
    responses = {r.id: r.text for p in pairs.values() for r in p.responses}
    prompts = {p.prompt_id: p for p in pairs.values()}
    last = [p.prompt[-1].content for p in prompts.values()]
    turns = Counter(min(9, len(p.prompt)) for p in prompts.values())
    hit, whole = contaminated([*pairs.values()], benchmark_prompts(data / "benchmarks"))
    frequency = Counter(w for t in responses.values() for w in words(t))
    said = sum(frequency.values())
    ranked = np.cumsum([n for _, n in frequency.most_common()]) / said
    decided = [v for v in votes if v.better is not None]
    longer = [len(v.pair.response(v.better).text) > len(v.pair.response(v.pair.other(v.better)).text) for v in decided]
    return {
        "votes": len(votes), "pairs": len(pairs), "questions": len(questions),
        "quantiles_at": [round(float(q), 4) for q in AT],
        "prompt_bytes": quantiles(len(t.encode()) for t in last),
        "response_bytes": quantiles(len(t.encode()) for t in responses.values()),
        "pair_bytes": quantiles(size(p) for p in pairs.values()),
        "pairs_a_question": quantiles(questions.values()),
        "prompt_messages": {k: round(n / len(prompts), 4) for k, n in sorted(turns.items())},
        "repeats": 1 - len(pairs) / len(votes),
        "votes_a_repeated_pair": quantiles(len(s) for s in repeated.values()),
        "conflicts": sum(len({*s} - {None}) > 1 for s in repeated.values()) / len(repeated),
        "ties": sum(v.better is None for v in votes) / len(votes),
        "longer_wins": sum(longer) / len(longer),
        "malformed": bad / (bad + len(votes)),
        "contaminated": hit, "contaminated_whole": whole,
        "near_duplicates": near_duplicates([*pairs.values()]),
        "word_bytes": sum(len(w.encode()) * n for w, n in frequency.items()) / said,
        "words_a_paragraph": said / sum(1 + len(re.findall(r"\n+", t)) for t in responses.values()),
        "words_a_sentence": said / sum(1 + len(re.findall(r"[.!?]\s", t)) for t in responses.values()),
        "share_of_top_words": {str(n): round(float(ranked[n - 1]), 4) for n in (1, 10, 100, 1000, 10000)},
        "with_code": sum("```" in t for t in responses.values()) / len(responses),
        "with_accents": sum(not t.isascii() for t in responses.values()) / len(responses),
        "with_cjk": sum(_CJK.search(t) is not None for t in responses.values()) / len(responses),
    }  # fmt: skip


def rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    found = measure(Path(sys.argv[1]))
    lines = [f" {json.dumps(k)}: {json.dumps(rounded(v))}" for k, v in found.items()]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(OUT.read_text())


if __name__ == "__main__":
    main()
