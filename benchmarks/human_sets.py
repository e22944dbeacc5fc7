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
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
from numpy.typing import NDArray

from assay import frozen
from assay.bench.benchmark import ALIKE
from assay.curate.decontaminate import Index
from assay.curate.stage1 import win_probabilities
from assay.curate.words import words
from assay.figures import points, told
from assay.formats.human_sets import read_human_sets
from assay.records import Pair, Preference, digest, question_id
from assay.reward.config import EngineConfig, TrainConfig
from assay.statistics import mean, paired
from assay.tables import write_text

FOLDS, CHOOSES, GRAM, FEW, PARTS = 5, 0, 13, 16, 4
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
    key = digest([asdict(config), args.set, args.beside, args.pairs, args.head, args.layers])[:12]
    place = args.out / f"{key}-without-{'-'.join(map(str, out))}"
    if (place / "hits.json").exists():
        return json.loads((place / "hits.json").read_text())
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
    start, make = time.process_time(), headed if args.head else trained
    presented, margins = make(place, args, config, pairs, held)
    spent = time.process_time() - start
    rows = {
        name: [[question_id(p.prompt), m, *lengths(p)] for p, m in zip(some, margins[name], strict=True)]
        for name, some in held.items()
    }
    result = {"out": out, "pairs": len(pairs), "presented": presented, "train_cpu_s": spent, "rows": rows}
    write_text(place / "hits.json", json.dumps(result))
    return result


Margins = dict[str, list[float]]
"""By set, of each held pair in order: the reward of what people chose less that of the other."""
Held = dict[str, list[Preference]]


def trained(
    place: Path, args: argparse.Namespace, config: TrainConfig, pairs: Sequence[Preference], held: Held
) -> tuple[int, Margins]:
    """A reward model trained on `pairs` by the engine: how many it was shown, repeats included, and its margins."""
    from assay.reward.scorer import Model
    from assay.reward.train import train

    done = train(place / "model", config, pairs, [], lambda line: print(line, flush=True))
    scorer = Model(str(place / "model"), config.max_tokens, config.engine.tokens, config.precision, "",
                   config.freeze_layers)  # fmt: skip
    chances = {name: win_probabilities(scorer, some) for name, some in held.items()}
    return done.presented, {name: [logit(chances[name][p.pair_id]) for p in some] for name, some in held.items()}


def headed(
    place: Path, args: argparse.Namespace, config: TrainConfig, pairs: Sequence[Preference], held: Held
) -> tuple[int, Margins]:
    """A reward model whose head alone is fitted, on states of the backbone as it is: the Bradley-Terry loss over all pairs
    with a ridge on the weights (of differences that vary by 1), to its minimum. It is saved as any.

    Of several depths (`--layers`) and ridges (`--head`) those are taken that are right most often in a cross-validation
    among `pairs`, by question: nothing that is measured chooses (nested cross-validation).
    """
    backbone = States(args.out, config, args.layers)
    x_LND = backbone.differences(pairs)
    parts = np.array([int(digest(["inner", question_id(p.prompt)])[:8], 16) % PARTS for p in pairs])
    ways = [(at, ridge) for at in range(len(x_LND)) for ridge in args.head]
    right = {way: crossed(x_LND[way[0]], parts, way[1]) for way in ways} if len(ways) > 1 else dict.fromkeys(ways, 0.0)
    at, ridge = max(ways, key=lambda way: right[way])
    within = f", right of {right[at, ridge] * len(pairs):,.0f} of {len(pairs):,} pairs within" if len(ways) > 1 else ""
    print(f"{place.name}: {args.layers[at]} layers, ridge {ridge:g}{within}", flush=True)
    weight_D = headed_by(x_LND[at], ridge)
    margins = {name: (backbone.differences(some)[at] @ weight_D).tolist() for name, some in held.items()}
    name, some = next(iter(held.items()))
    backbone.save(place / "model", args.layers[at], weight_D, some[:FEW], margins[name][:FEW])
    return len(pairs), margins


def crossed(x_ND: NDArray[np.float64], parts_N: NDArray[np.int64], ridge: float) -> float:
    """How often heads are right of the part of the pairs that each was not fitted on."""
    said = [x_ND[parts_N == n] @ headed_by(x_ND[parts_N != n], ridge) for n in range(PARTS)]
    return float((np.concatenate(said) > 0).mean())


def headed_by(x_ND: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """The head (D,) fitted on differences of states, each first scaled to vary by 1."""
    spread_D = x_ND.std(0) + 1e-6
    return fitted(x_ND / spread_D, ridge) / spread_D


def fitted(x_ND: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """The weights (D,) that minimise the sum of -log sigmoid(x w) over pairs, and ridge / 2 times their squares: Newton's
    method, for the loss is convex."""
    w_D = np.zeros(x_ND.shape[1])
    for _ in range(100):
        wrong_N = np.exp(-np.logaddexp(0.0, x_ND @ w_D))  # 1 - sigmoid
        slope_D = ridge * w_D - wrong_N @ x_ND
        bend_DD = (x_ND * (wrong_N * (1 - wrong_N))[:, None]).T @ x_ND + ridge * np.eye(len(w_D))
        step_D = np.linalg.solve(bend_DD, slope_D)
        w_D = w_D - step_D
        if np.abs(step_D).max() < 1e-9:
            return w_D
    raise SystemExit("the head's fit found no end: raise --head")


class States:
    """What a head reads of each answer after each of some numbers of layers: the last token's state, through the backbone's
    last norm. Computed once for all folds and heads, and kept in `out/states-KEY` in blocks, so that a kill costs one."""

    BLOCK = 128

    def __init__(self, out: Path, config: TrainConfig, layers: Sequence[int]) -> None:
        self.config, self.layers = config, layers
        told = [config.backbone, list(layers), config.max_tokens, config.precision]
        self.place = out / f"states-{digest(told)[:12]}"
        self.place.mkdir(parents=True, exist_ok=True)
        self.known: dict[tuple[str, str], NDArray[np.float32]] = {}

    def model(self, layers: int) -> tuple[Any, Any]:
        from assay import models
        from assay.reward.model import for_training

        tokenizer = models.load_tokenizer(self.config.backbone)
        return for_training(replace(self.config, layers=layers, freeze_layers=0), tokenizer), tokenizer

    @cached_property
    def reader(self) -> tuple[Any, Any]:
        model, tokenizer = self.model(max(self.layers))
        model.score_only().body = None  # the compiled body gives the last layer alone
        return model, tokenizer

    def differences(self, pairs: Sequence[Preference]) -> NDArray[np.float64]:
        """(L, N, D): the state of what people chose less that of the other, for each number of layers."""
        self.read(pairs)
        states_NL2D = np.stack([self.known[p.pair_id, p.chosen.id] for p in pairs]).astype(np.float64)
        return (states_NL2D[:, :, 0] - states_NL2D[:, :, 1]).swapaxes(0, 1)

    def read(self, pairs: Sequence[Preference]) -> None:
        for file in self.place.glob("*.npz") if not self.known else ():
            with np.load(file) as kept:
                self.known |= {tuple(k): s for k, s in zip(kept["keys"].tolist(), kept["states"], strict=True)}
        new = sorted((p for p in pairs if (p.pair_id, p.chosen.id) not in self.known), key=lambda p: p.pair_id)
        for at in range(0, len(new), self.BLOCK):
            part = new[at : at + self.BLOCK]
            self.keep([(p.pair_id, p.chosen.id) for p in part], self.made(part))
            print(f"states of {at + len(part):,} of {len(new):,} pairs", flush=True)

    def keep(self, keys: list[tuple[str, str]], states_NL2D: NDArray[np.float32]) -> None:
        beside = self.place / "unfinished"
        with beside.open("wb") as file:
            np.savez(file, keys=np.array(keys), states=states_NL2D)
        beside.rename(self.place / f"{digest(keys)[:16]}.npz")
        self.known |= dict(zip(keys, states_NL2D, strict=True))

    def made(self, pairs: Sequence[Preference]) -> NDArray[np.float32]:
        """(N, L, 2, D): what the head reads of what people chose, and of the other."""
        import torch

        from assay import packing
        from assay.reward.renderer import Rendered, Renderer
        from assay.shortcuts import layers_of
        from assay.vision import language_model

        model, tokenizer = self.reader
        tried = Renderer(tokenizer, self.config.max_tokens).tried(pairs)
        groups = [one.group for one in tried if isinstance(one, Rendered)]
        if len(groups) < len(pairs):
            raise SystemExit("a pair cannot be told apart by this model: raise --tokens")
        body = language_model(model.inner)
        heard: list[Any] = []
        hooks = [
            layers_of(body)[n - 1].register_forward_hook(lambda _, __, made: heard.append(made)) for n in self.layers
        ]
        found: dict[int, NDArray[np.float32]] = {}
        for part in model.bins(groups):
            heard.clear()
            batch = model.batch([groups[i] for i in part])
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=model.bf16):
                packing.packed_hidden(model.inner, batch)
            read = [packing.read((made[0] if isinstance(made, tuple) else made)[0], batch) for made in heard]
            with torch.no_grad():
                states_LND = torch.stack([body.norm(states_ND.float()) for states_ND in read])
            found |= dict(zip(part, states_LND.unflatten(1, (-1, 2)).swapaxes(0, 1).numpy(), strict=True))
        for hook in hooks:
            hook.remove()
        return np.stack([found[i] for i in range(len(groups))])

    def save(
        self, folder: Path, layers: int, weight_D: NDArray[np.float64], few: Sequence[Preference], margins: list[float]
    ) -> None:
        """The reward model with this head, as the engine saves it; of a few pairs it must say what was measured."""
        import torch

        from assay.reward.model import save
        from assay.reward.scorer import Model

        model, tokenizer = self.model(layers)
        with torch.no_grad():
            model.inner.score.weight.copy_(torch.from_numpy(weight_D)[None])
        save(model, model.state_dict(), folder, tokenizer)
        scorer = Model(str(folder), self.config.max_tokens, self.config.engine.tokens, self.config.precision)
        chances = win_probabilities(scorer, few)
        said = np.array([logit(chances[p.pair_id]) for p in few])
        if np.abs(said - margins).max() > 0.1 * np.abs(margins).mean() + 0.01:
            raise SystemExit(f"{folder}: as it is loaded it says {said}, not {margins} as was measured")


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
    parser.add_argument("--layers", type=int, nargs="+", default=[None])
    parser.add_argument("--freeze", type=int, default=3)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--decay", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--head", type=float, nargs="*", default=[], help="fit the head alone, with one of these ridges"
    )
    parser.add_argument("--states", type=float, default=1.0, help="GiB that states after frozen layers may take")
    parser.add_argument("--out", type=Path, default=Path("runs/human-sets"))
    args = parser.parse_args()
    if (len(args.layers) > 1 and not args.head) or (args.head and None in args.layers):
        parser.error("--head wants --layers, one number or several; without it one number is trained")
    layers, freeze = (None, 0) if args.head else (args.layers[0], args.freeze)
    config = TrainConfig(
        backbone=args.backbone, layers=layers, freeze_layers=freeze, train_embeddings=False,
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
