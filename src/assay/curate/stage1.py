"""Stage 1 of paper A (section 3.2, our A.6): people verify a little, judges guided by it label more, and the reward
model's own mistakes choose what comes next.

One iteration: train on silver -> score gold -> retrieve look-alikes of the mistakes (retrieval 1) -> people verify a part,
judges guided by the nearest gold (retrieval 2) label the rest -> settle. Where the paper is silent: gold is split by prompt
once and for all into a part that may train and guide (`gold`), and a part that only chooses checkpoints and measures
(`held`); the share of retrieved pairs that goes to people is a setting; a pair is asked about at most once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from assay.curate.retrieve import look_alikes, nearest_gold
from assay.curate.settle import settle_all
from assay.errors import AssayError
from assay.records import (
    Attributes,
    Case,
    Conversation,
    Example,
    Judge,
    Judgement,
    Label,
    Pair,
    Preference,
    Scorer,
    digest,
    question_id,
)
from assay.run import Run
from assay.statistics import mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage1Config:
    """Sizes of the loop. The paper runs 8 iterations with k_max 8; it does not state the other sizes."""

    iterations: int = 8
    seed_gold: int = 2_000
    """Pairs that people verify before the first iteration."""
    seed_silver: int = 20_000
    """Pairs that judges label before the first iteration."""
    per_iteration: int = 100_000
    """At most this many retrieved pairs are labelled in one iteration, the most needed first."""
    gold_share: float = 0.1
    """The share of the retrieved pairs that people verify; judges get the rest."""
    held_share: float = 0.3
    """The share of gold prompts that is held out: it chooses checkpoints and is never trained on, never an example."""
    k_max: int = 8
    examples: int = 8

    def __post_init__(self) -> None:
        for field in ("iterations", "seed_gold", "seed_silver", "per_iteration", "k_max"):
            if getattr(self, field) < 1:
                raise AssayError(f"stage1.{field} must be at least 1, got {getattr(self, field)}")
        for field in ("gold_share", "held_share"):
            if not 0.0 < getattr(self, field) < 1.0:
                raise AssayError(f"stage1.{field} must lie between 0 and 1, got {getattr(self, field)}")


Train = Callable[[str, Sequence[Preference], Sequence[Preference]], Scorer]
"""(model name, training pairs, held gold) -> the trained reward model as a function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the loop is given: people, a judge, and a way to train. Any of them can be swapped for another callable."""

    people: Judge
    judge: Judge
    train: Train


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The pool of stage 1: pairs by id with their wild judgements, attributes and (x, a) vectors."""

    pairs: Mapping[str, Pair]
    wild: Sequence[Judgement]
    attributes: Mapping[str, Attributes]
    vectors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage1Result:
    """What stage 1 hands on: labels of every pair asked about, the split of gold, and the two reward models."""

    labels: list[Label]
    gold: list[Preference]
    held: list[Preference]
    examples: Mapping[str, Example]
    best: Scorer
    gold_rm: Scorer


def stage1(run: Run, config: Stage1Config, material: Material, tools: Tools, seed: int = 0) -> Stage1Result:
    """Run or resume the loop; every expensive result is a shard or a model of `run`, so nothing is done twice."""
    book = _Book(run, config, material)
    order = priority(list(material.pairs), material.attributes, seed)
    book.ask("seed-people", order[: config.seed_gold], tools.people)
    rest = [str(i) for i in np.random.default_rng(seed).permutation(order[config.seed_gold :])]
    book.ask("seed-judges", rest[: config.seed_silver], tools.judge)
    for it in range(config.iterations):
        scorer = tools.train(f"stage1-it{it}", book.silver(), book.held())
        golds = [*book.gold(), *book.held()]
        p = win_probabilities(scorer, golds)
        free = [i for i in sorted(material.pairs) if i not in book.asked]
        wanted = look_alikes(list(p), p, material.vectors, free, config.k_max, config.per_iteration)
        run.once(f"stage1/it{it}", partial(book.numbers, p, len(wanted), len(free)))
        by_need = priority(wanted, material.attributes, seed)
        people = round(config.gold_share * len(wanted))
        book.ask(f"it{it}-people", by_need[:people], tools.people)
        book.ask(f"it{it}-judges", by_need[people:], tools.judge)
    labels = run.table("labels", Label).once("stage1", book.labels)
    best = tools.train("best-rm", [*book.gold(), *book.silver()], book.held())
    gold_rm = tools.train("gold-rm", book.gold(), book.held())
    return Stage1Result(labels=labels, gold=book.gold(), held=book.held(), best=best, gold_rm=gold_rm,
                        examples=book.examples())  # fmt: skip


class _Book:
    """All judgements of stage 1 so far, seen as labels: gold that may train and guide, held gold, silver."""

    def __init__(self, run: Run, config: Stage1Config, material: Material) -> None:
        self.run, self.config, self.material = run, config, material
        self.asked: dict[str, Judgement] = {}
        self._wild: dict[str, list[Judgement]] = {}
        for j in material.wild:
            self._wild.setdefault(j.pair_id, []).append(j)

    def ask(self, shard: str, ids: Sequence[str], judge: Judge) -> None:
        """Put pairs to people or judges, once; the judgements are a shard of the run."""
        rows = self.run.table("judgements", Judgement).once(
            f"stage1-{shard}", lambda: judge(cases(ids, self.material, self.examples(), self.config.examples))
        )
        self.asked.update((j.pair_id, j) for j in rows)

    def labels(self) -> list[Label]:
        wild = (j for pair_id in self.asked for j in self._wild.get(pair_id, ()))
        return settle_all([*self.asked.values(), *wild], stage="stage1")

    def examples(self) -> dict[str, Example]:
        """Gold that judges may see: never the held part."""
        m = self.material
        return {
            g.pair_id: Example(pair=m.pairs[g.pair_id], attributes=m.attributes[g.pair_id], better=g.chosen.id)
            for g in self.gold()
        }

    def gold(self) -> list[Preference]:
        return [p for p in self._view("gold") if not is_held(question_id(p.prompt), self.config.held_share)]

    def held(self) -> list[Preference]:
        return [p for p in self._view("gold") if is_held(question_id(p.prompt), self.config.held_share)]

    def silver(self) -> list[Preference]:
        """Silver whose prompt is not held: a held prompt must not be trained on through the back door."""
        return [p for p in self._view("silver") if not is_held(question_id(p.prompt), self.config.held_share)]

    def _view(self, tier: str) -> list[Preference]:
        return preferences([label for label in self.labels() if label.tier == tier], self.material.pairs)

    def numbers(self, p: Mapping[str, float], wanted: int, free: int) -> dict[str, object]:
        held = [h.pair_id for h in self.held()]
        return {
            "gold": len(self.gold()), "held": len(held), "silver": len(self.silver()),
            "gold_accuracy": self._right(p, list(p)), "held_accuracy": self._right(p, held),
            "mistakes": sum(v <= 0.5 for v in p.values()), "retrieved": wanted, "free": free,
        }  # fmt: skip

    def _right(self, p: Mapping[str, float], ids: Sequence[str]) -> dict[str, float] | None:
        """The share of gold pairs that the model has right, with its error by question; None of no pairs."""
        if not ids:
            return None
        return asdict(mean([float(p[i] > 0.5) for i in ids], [self.material.pairs[i].question_id for i in ids]))


def cases(ids: Sequence[str], material: Material, examples: Mapping[str, Example], k: int) -> list[Case]:
    """The pairs as a judge sees them: attributes and the `k` nearest gold examples of other questions (retrieval 2)."""
    questions = {i: material.pairs[i].question_id for i in ids} | {g: e.pair.question_id for g, e in examples.items()}
    near = nearest_gold(ids, material.vectors, list(examples), k, questions)
    return [
        Case(pair=material.pairs[i], attributes=material.attributes[i], examples=tuple(examples[g] for g in near[i]))
        for i in ids
    ]


def priority(ids: Sequence[str], attributes: Mapping[str, Attributes], seed: int) -> list[str]:
    """Objective first, then low controversiality (A2, D.2); within a class at random, reproducibly."""
    levels = {"low": 0, "medium": 1, "high": 2}

    def key(pair_id: str) -> tuple[bool, int, str]:
        a = attributes[pair_id]
        return a.objectivity != "objective", levels[a.controversiality], digest([seed, pair_id])

    return sorted(ids, key=key)


def is_held(question: str, share: float) -> bool:
    """Whether gold of this question (its id) is held out: a fixed property of it, so no question is on both sides."""
    return int(digest(["held", question])[:8], 16) < share * 16**8


def win_probabilities(scorer: Scorer, examples: Sequence[Preference]) -> dict[str, float]:
    """p = sigmoid(r(x, chosen) - r(x, rejected)) by pair id (A.6 step 1)."""
    flat: list[Conversation] = [e.prompt + r.messages for e in examples for r in (e.chosen, e.rejected)]
    rewards = scorer(flat) if flat else np.zeros(0)
    margins = rewards[::2] - rewards[1::2]
    return dict(zip((e.pair_id for e in examples), (1 / (1 + np.exp(-margins))).tolist(), strict=True))


def preferences(labels: Sequence[Label], pairs: Mapping[str, Pair]) -> list[Preference]:
    """The training view of the labels that have a chosen response."""
    return [pairs[label.pair_id].preferring(label.chosen) for label in labels if label.chosen is not None]
