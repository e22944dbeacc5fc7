"""Stage 1 of paper A (section 3.2, our A.6): people verify a little, judges guided by it label more, and the reward
model's own mistakes choose what comes next.

One iteration: train on silver -> score gold -> retrieve look-alikes of the mistakes (retrieval 1) -> people verify a part,
judges guided by the nearest gold (retrieval 2) label the rest -> settle. Where the paper is silent: questions are split
once and for all into those whose gold may train and guide (`gold`), and those whose gold only chooses checkpoints and
measures (`held`). Held gold asks for no look-alikes, and judges are asked about no held question: nobody may train on what
they say. The share of retrieved pairs that goes to people is a setting; of these, `held_share` are pairs of held questions,
drawn at random, for they are to measure the pool. A pair is asked about at most once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from assay.curate.book import Book, Standing, set_aside
from assay.curate.book import is_held as is_held
from assay.curate.book import preferences as preferences
from assay.curate.retrieve import look_alikes, nearest_gold
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
    """People verify so many pairs, as a share of those retrieved; judges get the rest."""
    held_share: float = 0.3
    """The share of questions that is held out: their gold chooses checkpoints and is never trained on, never an example."""
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
    standing: Standing | None = None
    """What people say today of pairs that they judged, where that may change (None: it never does)."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Win:
    """The probability that a reward model gives the label of a pair."""

    pair_id: str
    p: float


def stage1(
    run: Run, config: Stage1Config, material: Material, tools: Tools, seed: int = 0, *, resettle: bool = False
) -> Stage1Result:
    """Run or resume the loop; every expensive result is a shard or a model of `run`, so nothing is done twice.

    What people have changed their minds about reaches the labels until these are made. Afterwards it is told, and with
    `resettle` the labels and all that follows from them are made anew. Raises Unreached where a judge's server did not
    answer: its pairs wait, and nothing is written of them.
    """
    book = Book(run, material.pairs, material.wild, config.held_share, tools.standing)
    ask = partial(_ask, book, config, material, tools)
    ask("seed", book.plan("seed", partial(_first, book, config, material, seed)))
    for it in range(config.iterations):
        book.correct(f"it{it}")
        scorer = tools.train(f"stage1-it{it}", book.silver(), book.held())
        p = wins(run, f"stage1-it{it}", scorer, [*book.gold(), *book.held()])
        plan = book.plan(f"it{it}", partial(_next, book, p, config, material, seed))
        run.once(f"stage1/it{it}", partial(_numbers, book, p, plan))
        ask(f"it{it}", plan)
    labels = _settled(run, book, resettle)
    gold, held = book.gold(), book.held()
    best = tools.train("best-rm", [*gold, *book.silver()], held)
    gold_rm = tools.train("gold-rm", gold, held)
    return Stage1Result(labels=labels, gold=gold, held=held, best=best, gold_rm=gold_rm,
                        examples=_examples(book, material))  # fmt: skip


Plan = Mapping[str, Sequence[str]]
"""The ids of the pairs that "people" and "judges" are asked about."""


def _ask(book: Book, config: Stage1Config, material: Material, tools: Tools, turn: str, plan: Plan) -> None:
    """People first: what they verify now guides the judges."""

    def shown(ids: Sequence[str]) -> list[Case]:
        return cases(ids, material, _examples(book, material), config.examples)

    book.ask(turn, "people", plan["people"], tools.people, shown)
    book.ask(turn, "judges", plan["judges"], tools.judge, shown)


def _first(book: Book, config: Stage1Config, material: Material, seed: int) -> Plan:
    order = priority(list(material.pairs), material.attributes, seed)
    rest = [str(i) for i in np.random.default_rng(seed).permutation(order[config.seed_gold :])]
    return {
        "people": order[: config.seed_gold],
        "judges": [i for i in rest if not book.is_held(i)][: config.seed_silver],
    }


def _next(book: Book, p: Mapping[str, float], config: Stage1Config, material: Material, seed: int) -> Plan:
    """The look-alikes of gold that the model gets wrong or is unsure of, the neediest first, dealt to people and judges."""
    free = [i for i in sorted(material.pairs) if i not in book]
    asking = [i for i in p if not book.is_held(i)]
    open_ = [i for i in free if not book.is_held(i)]
    wanted = look_alikes(asking, p, material.vectors, open_, config.k_max, config.per_iteration)
    people = round(config.gold_share * len(wanted))
    held = sorted((i for i in free if book.is_held(i)), key=lambda i: digest(["held", seed, i]))
    held = held[: round(config.held_share * people)]
    by_need = priority(wanted, material.attributes, seed)
    at = people - len(held)
    return {"people": [*held, *by_need[:at]], "judges": by_need[at:]}


def _settled(run: Run, book: Book, resettle: bool) -> list[Label]:
    """The labels of stage 1, made once of what people say then, or again where they changed their minds and `resettle`."""
    table, turns = run.table("labels", Label), 0
    while book.corrected(f"end{turns}"):
        book.correct(f"end{turns}")
        turns += 1
    changed = book.changed()
    done = table.done("stage1")
    if changed and done and resettle:
        run.say(f"{len(changed):,} pairs have another word of people's: the labels and what follows are made anew")
        run.say(f"what was made of the words before is in {set_aside(run)}")
        done = False
    if not done:
        book.correct(f"end{turns}")
    elif changed:
        ids = ", ".join(j.pair_id[:12] for j in changed[:3])
        run.say(
            f"[bold]warning:[/bold] people have said something else of {len(changed):,} pairs since the labels were made "
            f"({ids}{', ...' if len(changed) > 3 else ''}); the labels are of what they said before: add --resettle to make "
            "them, and all that follows from them, anew"
        )
    return table.once("stage1", book.labels)


def _examples(book: Book, material: Material) -> dict[str, Example]:
    """Gold that judges may see: never the held part."""
    return {
        g.pair_id: Example(
            pair=material.pairs[g.pair_id], attributes=material.attributes[g.pair_id], better=g.chosen.id
        )
        for g in book.gold()
    }


def _numbers(book: Book, p: Mapping[str, float], plan: Plan) -> dict[str, object]:
    held = [i for i in p if book.is_held(i)]
    return {
        "gold": len(book.gold()), "held": len(book.held()), "silver": len(book.silver()),
        "gold_accuracy": _right(book, p, list(p)), "held_accuracy": _right(book, p, held),
        "mistakes": sum(v <= 0.5 for v in p.values()), "retrieved": sum(map(len, plan.values())),
        "free": len(book.pairs) - len(book),
    }  # fmt: skip


def _right(book: Book, p: Mapping[str, float], ids: Sequence[str]) -> dict[str, float] | None:
    """The share of gold pairs that the model has right, with its error by question; None of no pairs."""
    if not ids:
        return None
    return asdict(mean([float(p[i] > 0.5) for i in ids], [book.pairs[i].question_id for i in ids]))


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


def win_probabilities(scorer: Scorer, examples: Sequence[Preference]) -> dict[str, float]:
    """p = sigmoid(r(x, chosen) - r(x, rejected)) by pair id (A.6 step 1)."""
    flat: list[Conversation] = [e.prompt + r.messages for e in examples for r in (e.chosen, e.rejected)]
    rewards = scorer(flat) if flat else np.zeros(0)
    margins = rewards[::2] - rewards[1::2]
    return dict(zip((e.pair_id for e in examples), (1 / (1 + np.exp(-margins))).tolist(), strict=True))


def wins(run: Run, shard: str, scorer: Scorer, examples: Sequence[Preference]) -> dict[str, float]:
    """`win_probabilities`, made once: what they decide must not be decided anew by another machine's last digits. Pairs that
    the model gives no number are left out."""
    rows = run.table("wins", Win).once(
        shard, lambda: [Win(pair_id=i, p=p) for i, p in win_probabilities(scorer, examples).items() if np.isfinite(p)]
    )
    return {r.pair_id: r.p for r in rows}
