"""Reward models trained on people's own choices: how often they are right of questions that they never saw, what the length
rule alone gets, and what is learned beyond it.

    python benchmarks/human_sets.py ../shared/data/preferences --set ukp-convarg1 --out runs/human-sets           # 4 folds
    python benchmarks/human_sets.py ../shared/data/preferences --set ukp-convarg1 --choose --out runs/human-sets  # fold 0

The questions of a set (of UKP: whole debates, with both of their sides) are dealt into five folds by their content. Fold 0
chooses settings (`--choose`: trained on the others, measured on it); folds 1 to 4 are reported, each measured by a model
that is trained on all others. The last state of a training is taken: nothing measured chooses a checkpoint. `--with` adds
other sets to what is trained on, never to what measures; of those no question that is measured is trained on.

A finished fold is kept in the folder, under its settings; a killed one resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

from assay.bench.benchmark import ALIKE
from assay.curate.stage1 import win_probabilities
from assay.figures import points, told
from assay.formats.human_sets import read_human_sets
from assay.records import Pair, Preference, digest, question_id
from assay.reward.config import EngineConfig, TrainConfig
from assay.statistics import mean, paired
from assay.tables import write_text

FOLDS, CHOOSES = 5, 0
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


def measured(data: Path, args: argparse.Namespace, config: TrainConfig, fold: int) -> dict[str, Any]:
    """One fold: rows (question, right, longer, alike) of its pairs, and what the training cost; kept when it is there."""
    key = digest([asdict(config), args.set, args.beside, args.pairs, fold])[:12]
    place = args.out / f"{args.set}-fold{fold}-{key}"
    if (place / "hits.json").exists():
        return json.loads((place / "hits.json").read_text())
    from assay.reward.scorer import Model
    from assay.reward.train import train

    dealt, own = folds(data, args.set), decided(data, args.set)
    held = [(about, p) for about, p in own if dealt[about] == fold]
    asked = {question_id(p.prompt) for _, p in held}
    rest = [p for about, p in own if dealt[about] != fold]
    rest += [p for name in args.beside for _, p in decided(data, name) if question_id(p.prompt) not in asked]
    rest = sorted(rest, key=lambda p: digest([config.seed, p.pair_id]))[: args.pairs or None]
    start = time.process_time()
    done = train(place / "model", config, rest, [], lambda line: print(line, flush=True))
    spent = time.process_time() - start
    scorer = Model(str(place / "model"), config.max_tokens, config.engine.tokens, config.precision, "",
                   config.freeze_layers)  # fmt: skip
    chances = win_probabilities(scorer, [p for _, p in held])
    rows = [[question_id(p.prompt), float(chances[p.pair_id] > 0.5), *lengths(p)] for _, p in held]
    result = {"fold": fold, "pairs": len(rest), "presented": done.presented, "train_cpu_s": spent, "rows": rows}
    write_text(place / "hits.json", json.dumps(result))
    return result


def lengths(pair: Preference) -> tuple[float, bool]:
    """Whether the longer answer was chosen (a half where both are as long), and whether the two are alike in length."""
    chosen, other = (sum(len(m.content) for m in r.messages) for r in (pair.chosen, pair.rejected))
    return 0.5 if chosen == other else float(chosen > other), abs(chosen - other) <= ALIKE * max(chosen, other)


def table(name: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """What all folds come to, with errors by question (of UKP: by side of a debate)."""
    rows = [row for r in results for row in r["rows"]]
    about, right, longer = ([row[at] for row in rows] for at in range(3))
    alike = [row for row in rows if row[3]]
    shorter = [row for row in rows if row[2] == 0.0 and not row[3]]
    presented = sum(r["presented"] for r in results) / len(results)
    return [
        f"{name}: {len(rows):,} pairs of {len(set(about))} questions in {len(results)} folds, "
        f"{sum(r['pairs'] for r in results) / len(results):,.0f} pairs trained on, {presented:,.0f} presentations, "
        f"{sum(r['train_cpu_s'] for r in results) / len(results):,.0f} CPU s a training",
        f"  model                  {told(mean(right, about))}",
        f"  the longer answer      {told(mean(longer, about))}",
        f"  model less length rule {points(paired(right, longer, about), len(rows))}",
        f"  alike in length        {told(mean([r[1] for r in alike], [r[0] for r in alike])) if alike else '-'}",
        f"  the shorter is right   {told(mean([r[1] for r in shorter], [r[0] for r in shorter])) if shorter else '-'}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default=UKP)
    parser.add_argument("--with", dest="beside", nargs="*", default=[])
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--folds", type=int, nargs="*", default=[n for n in range(FOLDS) if n != CHOOSES])
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
    parser.add_argument("--out", type=Path, default=Path("runs/human-sets"))
    args = parser.parse_args()
    config = TrainConfig(
        backbone=args.backbone, layers=args.layers, freeze_layers=args.freeze, train_embeddings=False,
        max_tokens=args.tokens, batch_pairs=args.batch, epochs=args.epochs, lr=args.lr, weight_decay=args.decay,
        warmup=0.1, checks=1, precision="auto", seed=args.seed, engine=EngineConfig(tokens=4_096, compile="off"),
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = [CHOOSES] if args.choose else args.folds
    print("\n".join(table(args.set, [measured(args.data, args, config, fold) for fold in wanted])))


if __name__ == "__main__":
    main()
