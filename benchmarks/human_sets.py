"""Reward models trained on people's own choices: how often they are right of questions that they never saw, what the length
rule alone gets, and what is learned beyond it.

    python benchmarks/human_sets.py ../shared/data/preferences --set ukp-convarg1 --out runs/human-sets           # 4 folds
    python benchmarks/human_sets.py ../shared/data/preferences --set ukp-convarg1 --choose --out runs/human-sets  # fold 0
    python benchmarks/human_sets.py ../shared/data/preferences --set hh-helpful pandalm --folds 1,2 3,4 --with webgpt

The questions of a set (of UKP: whole debates, with both of their sides) are dealt into five folds by their content. Fold 0
chooses settings (`--choose`: trained on the others, measured on it); folds 1 to 4 are reported, each measured by a model
that is trained on all others. `--folds 1,2 3,4` leaves two out at once, so that two trainings serve all four. The last state
of a training is taken: nothing measured chooses a checkpoint. Several sets are trained on together and measured apart;
`--with` adds others to what is trained on, never to what measures. No question that is measured is trained on, nor any pair
whose history shares 13 words in a row with such a question, or a whole short message (`assay.curate.decontaminate`).

A finished training is kept in the folder, under its settings; a killed one resumes. `--average A B` measures what several
kept trainings of the same folds say together (the mean of their margins, each divided by its spread): give the settings'
keys, as printed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

import numpy as np

from assay import frozen
from assay.bench.benchmark import ALIKE
from assay.curate.decontaminate import Index
from assay.curate.stage1 import win_probabilities
from assay.curate.words import words
from assay.figures import points, told
from assay.formats.human_sets import read_human_sets
from assay.records import Pair, Preference, Scorer, digest, question_id
from assay.reward.config import EngineConfig, TrainConfig
from assay.statistics import mean, paired
from assay.tables import write_text

FOLDS, CHOOSES, GRAM = 5, 0, 13
UKP = "ukp-convarg1"


def topic(name: str, pair: Pair) -> str:
    """What must not be on both sides of a split: the question, of UKP the debate."""
    text = pair.prompt[0].content
    return text.partition("\n")[0] if name.startswith(UKP) else question_id(pair.prompt)


def decided(data: Path, name: str) -> list[tuple[str, Preference]]:
    """(topic, pair as people decided it), each pair once. Of UKP the verdicts that its authors found consistent."""
    rows = read_human_sets(data, (f"{UKP}-strict" if name == UKP else name,))
    found = {p.pair.id: (topic(name, p.pair), p.pair.preferring(p.better)) for _, p, _ in rows if p.better is not None}
    return [found[i] for i in sorted(found)]


def folds(data: Path, name: str) -> dict[str, int]:
    """Topic -> its fold. Where topics are few they are dealt one by one, so that folds are of one size."""
    names = sorted({about for about, _ in decided(data, name)}, key=lambda about: digest(["fold", about]))
    return {about: at % FOLDS for at, about in enumerate(names)}


def apart(rest: Sequence[Preference], held: Sequence[Preference]) -> list[Preference]:
    """The pairs of `rest` that may be trained on: none of a held question, nor of a near copy of one."""
    asked, said = {question_id(p.prompt) for p in held}, {m.content for p in held for m in p.prompt[1:]}
    texts = {p.prompt[0].content for p in held} | {text for text in said if len(words(text)) >= GRAM}
    index = Index.of({"held": sorted(texts)}, GRAM)
    whole = {p.pair_id: Pair.of(p.prompt, p.chosen, p.rejected) for p in rest}
    return [p for p in rest if question_id(p.prompt) not in asked and not index.hits(whole[p.pair_id])]


def measured(data: Path, args: argparse.Namespace, config: TrainConfig, out: Sequence[int]) -> dict[str, Any]:
    """One training, with the folds `out` left out: rows of the pairs of each set that they hold, and what it cost."""
    key = digest([asdict(config), args.set, args.beside, args.pairs])[:12]
    place = args.out / f"{key}-without-{'-'.join(map(str, out))}"
    if (place / "hits.json").exists():
        return json.loads((place / "hits.json").read_text())
    from assay.reward.scorer import Model
    from assay.reward.train import train

    held: dict[str, list[Preference]] = {}
    rest: dict[str, Preference] = {}
    for name in args.set:
        dealt = folds(data, name)
        for about, p in decided(data, name):
            if dealt[about] in out:
                held.setdefault(name, []).append(p)
            else:
                rest[p.pair_id] = p
    rest |= {p.pair_id: p for name in args.beside for _, p in decided(data, name)}
    pairs = apart(list(rest.values()), [p for some in held.values() for p in some])
    print(
        f"{place.name}: {len(rest) - len(pairs):,} of {len(rest):,} pairs left out, near what is measured", flush=True
    )
    pairs = sorted(pairs, key=lambda p: digest([config.seed, p.pair_id]))[: args.pairs or None]
    start = time.process_time()
    done = train(place / "model", config, pairs, [], lambda line: print(line, flush=True))
    spent = time.process_time() - start
    scorer = Model(str(place / "model"), config.max_tokens, config.engine.tokens, config.precision, "",
                   config.freeze_layers)  # fmt: skip
    rows = {name: measures(scorer, some) for name, some in held.items()}
    result = {"out": out, "pairs": len(pairs), "presented": done.presented, "train_cpu_s": spent, "rows": rows}
    write_text(place / "hits.json", json.dumps(result))
    return result


def measures(scorer: Scorer, held: Sequence[Preference]) -> list[list[Any]]:
    """(question, margin, longer, alike) of each pair."""
    chances = win_probabilities(scorer, held)
    return [[question_id(p.prompt), logit(chances[p.pair_id]), *lengths(p)] for p in held]


def logit(p: float) -> float:
    """The margin of a probability, kept from being infinite."""
    p = min(max(p, 1e-9), 1 - 1e-9)
    return math.log(p / (1 - p))


def lengths(pair: Preference) -> tuple[float, bool]:
    """Whether the longer answer was chosen (a half where both are as long), and whether the two are alike in length."""
    chosen, other = (sum(len(m.content) for m in r.messages) for r in (pair.chosen, pair.rejected))
    return 0.5 if chosen == other else float(chosen > other), abs(chosen - other) <= ALIKE * max(chosen, other)


def averaged(out: Path, keys: Sequence[str], without: Sequence[int]) -> dict[str, Any]:
    """What kept trainings say together of the same pairs: the mean of their margins, each divided by its spread."""
    kept = [json.loads((out / f"{k}-without-{'-'.join(map(str, without))}" / "hits.json").read_text()) for k in keys]
    rows: dict[str, list[list[Any]]] = {}
    for name, first in kept[0]["rows"].items():
        margins = np.array([[row[1] for row in k["rows"][name]] for k in kept])
        said = (margins / np.sqrt((margins**2).mean(1, keepdims=True))).mean(0)
        rows[name] = [[row[0], float(m), *row[2:]] for row, m in zip(first, said, strict=True)]
    total = {what: sum(k[what] for k in kept) for what in ("presented", "train_cpu_s")}
    return {"pairs": max(k["pairs"] for k in kept), "rows": rows, **total}


def table(name: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """What all trainings come to on a set, with errors by question (of UKP: by side of a debate)."""
    rows = [row for r in results for row in r["rows"][name]]
    about, longer = ([row[at] for row in rows] for at in (0, 2))
    right = [float(row[1] > 0) for row in rows]
    alike = [(float(row[1] > 0), row[0]) for row in rows if row[3]]
    shorter = [(float(row[1] > 0), row[0]) for row in rows if row[2] == 0.0 and not row[3]]
    mine = [f"{told(mean(*(list(x) for x in zip(*some, strict=True))))}" if some else "-" for some in (alike, shorter)]
    each = [sum(r[what] for r in results) / len(results) for what in ("pairs", "presented", "train_cpu_s")]
    return [
        f"{name}: {len(rows):,} pairs of {len(set(about))} questions, {len(results)} trainings, each "
        f"{each[0]:,.0f} pairs trained on, {each[1]:,.0f} presentations, {each[2]:,.0f} CPU s",
        f"  model                  {told(mean(right, about))}",
        f"  the longer answer      {told(mean(longer, about))}",
        f"  model less length rule {points(paired(right, longer, about), len(rows))}",
        f"  alike in length        {mine[0]}",
        f"  the shorter is right   {mine[1]}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", nargs="+", default=[UKP])
    parser.add_argument("--with", dest="beside", nargs="*", default=[])
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--folds", type=some, nargs="*", default=[(n,) for n in range(FOLDS) if n != CHOOSES])
    parser.add_argument("--average", nargs="*", default=[])
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--freeze", type=int, default=3)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--decay", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--states", type=float, default=1.0, help="GiB that states after frozen layers may take")
    parser.add_argument("--out", type=Path, default=Path("runs/human-sets"))
    args = parser.parse_args()
    config = TrainConfig(
        backbone=args.backbone, layers=args.layers, freeze_layers=args.freeze, train_embeddings=False,
        max_tokens=args.tokens, batch_pairs=args.batch, epochs=args.epochs, lr=args.lr, weight_decay=args.decay,
        warmup=0.1, checks=1, precision="auto", seed=args.seed, engine=EngineConfig(tokens=4_096, compile="off"),
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    frozen.MOST = int(args.states * (1 << 30))
    wanted = [(CHOOSES,)] if args.choose else args.folds
    say_together = (averaged(args.out, args.average, out) for out in wanted)
    results = list(say_together if args.average else (measured(args.data, args, config, out) for out in wanted))
    for name in args.set:
        print("\n".join(table(name, results)))


def some(text: str) -> tuple[int, ...]:
    """Folds that are left out together."""
    return tuple(int(n) for n in text.split(","))


if __name__ == "__main__":
    main()
