"""Stage 1 of paper A (section 3.2, our A.6): people verify a little, judges guided by it label more, and the reward
model's own mistakes choose what comes next.

One iteration: train on silver -> score gold -> retrieve look-alikes of the mistakes (retrieval 1) -> people verify a part,
judges guided by the nearest gold (retrieval 2) label the rest -> settle. Where the paper is silent: questions are split
once and for all into those whose gold may train and guide (`gold`), and those whose gold only chooses checkpoints and
measures (`held`). Held gold asks for no look-alikes, and judges are asked about no held question: nobody may train on what
they say. Nor are they asked about a pair on which a word of people's stands already, for that word will be its label. The
share of retrieved pairs that goes to people is a setting; of these, `held_share` are pairs of held questions,
drawn at random, for they are to measure the pool. A pair is asked about at most once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import numpy as np
import polars as pl

from assay.curate.book import AT_ONCE, Book, Gold, Plan, Standing, set_aside
from assay.curate.judge_check import Check
from assay.curate.material import Material
from assay.curate.scores import Together
from assay.curate.views import LabelSet, label_set, of_frame
from assay.errors import AssayError, Refused
from assay.records import Conversation, Judge, Label, Preference, Scorer, shown_to
from assay.run import Run
from assay.statistics import mean
from assay.store import Place
from assay.tables import frame_to_arrow


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
    checked: int = 100
    """Of gold, so many pairs are put to the judges too, each once, to compare them with people (0: none)."""
    probe: float = 1.0
    """The share of cells that the search for look-alikes looks into; 1: all, which is exact. Less is faster where there are
    many gold pairs, and what it misses is told."""
    choose: Literal["look-alikes", "random"] = "look-alikes"
    """What is labelled next: pairs like gold that the model gets wrong (the paper's retrieval 1), or as many at random."""
    k_rule: Literal["need", "fixed"] = "need"
    """How many look-alikes a gold pair asks for: the more the surer the model is of the wrong answer (the paper's k rule),
    or `k_max` whatever the model says, gold pairs in random order."""
    guides: Literal["nearest", "random"] = "nearest"
    """Which gold judges are shown: the nearest (the paper's retrieval 2), or as much at random."""

    def __post_init__(self) -> None:
        for field in ("iterations", "seed_gold", "seed_silver", "per_iteration", "k_max"):
            if getattr(self, field) < 1:
                raise AssayError(f"stage1.{field} must be at least 1, got {getattr(self, field)}")
        if self.checked < 0:
            raise AssayError(f"stage1.checked must not be negative, got {self.checked}")
        if not 0.0 < self.probe <= 1.0:
            raise AssayError(f"stage1.probe must lie in (0, 1], got {self.probe}")
        for field in ("gold_share", "held_share"):
            if not 0.0 < getattr(self, field) < 1.0:
                raise AssayError(f"stage1.{field} must lie between 0 and 1, got {getattr(self, field)}")


Train = Callable[[str, LabelSet, Sequence[Preference]], Scorer]
"""(model name, labels to train on, held gold) -> the trained reward model as a function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the loop is given: people, a judge, and a way to train. Any of them can be swapped for another callable.

    Without a judge, the pairs that it would be asked about keep the labels of their sources."""

    people: Judge
    judge: Judge | None
    train: Train
    standing: Standing | None = None
    """What people say today, where that may change (None: it never does)."""
    at_once: int = AT_ONCE
    """Pairs that the judge is asked about at a time."""
    score: Together | None = None
    """How several reward models score pairs together (None: one after the other)."""
    at_chance: bool = False
    """Go on with judges that agree with people's gold no more than a coin would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage1Result:
    """What stage 1 hands on: labels of every pair asked about (columns of `Label` with `at`, `question_id`, `held`), held
    gold, gold that guides judges, and the two reward models."""

    labels: pl.DataFrame
    held: list[Preference]
    gold: Gold
    best: Scorer
    gold_rm: Scorer
    guided: LabelSet
    """What the best reward model was trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Win:
    """The probability that a reward model gives the label of a pair."""

    pair_id: str
    p: float


def stage1(
    run: Run, config: Stage1Config, material: Material, tools: Tools, seed: int = 0, *, resettle: bool = False
) -> Stage1Result:
    """Run or resume the loop, and train both reward models that stage 2 needs; every expensive result is a shard or a model
    of `run`, so nothing is done twice.

    What people have changed their minds about, and what they say of pairs about which they were not asked, reaches the
    labels until these are made. Afterwards it is told, and with
    `resettle` the labels and all that follows from them are made anew. Raises Unreached where a judge's server did not
    answer: its pairs wait, and nothing is written of them.
    """
    book = labelled(run, config, material, tools, seed, resettle=resettle)
    held, gold, guided = book.preferences(book.held()), book.gold(), training_set(run, book)
    best = tools.train("best-rm", guided, held)
    alone = label_set(material, Place.of(run.folder) / "tables", "gold", of_frame(gold))
    gold_rm = tools.train("gold-rm", alone, held)
    return Stage1Result(
        labels=book.labels(), held=held, gold=book.gold_shown(), best=best, gold_rm=gold_rm, guided=guided
    )  # fmt: skip


def training_set(run: Run, book: Book) -> LabelSet:
    """What the best reward model is trained on: gold that is not held, and silver."""
    labels = of_frame(pl.concat([book.gold(), book.silver()]))
    return label_set(book.material, Place.of(run.folder) / "tables", "stage1", labels)


def labelled(
    run: Run, config: Stage1Config, material: Material, tools: Tools, seed: int = 0, *, resettle: bool = False
) -> Book:
    """The loop alone, to its labels: see `stage1`."""
    book = Book(run, material, tools.standing)
    keep = partial(label_set, material, Place.of(run.folder) / "tables")
    ask = partial(_ask, book, config, tools, seed)
    ask("seed", book.plan("seed", partial(_first, book, config, seed), tools.at_once))
    for it in range(config.iterations):
        book.correct(f"it{it}")
        name, held = f"stage1-it{it}", book.preferences(book.held())
        scorer = tools.train(name, keep(name, of_frame(book.silver())), held)
        p = wins(run, name, scorer, [*book.preferences(book.gold()), *held])
        plan = book.plan(f"it{it}", partial(_next, book, p, config, seed), tools.at_once)
        run.once(f"stage1/it{it}", partial(_numbers, book, p, plan))
        ask(f"it{it}", plan)
    _settle(run, book, resettle)
    return book


def _ask(book: Book, config: Stage1Config, tools: Tools, seed: int, turn: str, plan: Plan) -> None:
    """People first: what they verify now guides the judges, and tells whether these are better than a coin."""
    book.ask(turn, "people", plan["people"], tools.people, config.examples)
    if tools.judge is None:
        book.unjudged(plan["judges"])
        return
    examples = shown_to(tools.judge, config.examples)
    check = Check(book.run, book, tools.judge, config.checked, examples)
    check.ask(turn)
    check.stop(tools.at_chance)
    book.ask(turn, "judges", plan["judges"], tools.judge, examples, seed if config.guides == "random" else None)
    check.tell(turn)


def _first(book: Book, config: Stage1Config, seed: int) -> Plan:
    """Raises Refused where people would be asked about all pairs: judges label what models are trained on."""
    material, spoken = book.material, book.spoken()
    people = material.first(config.seed_gold, seed)
    judges = material.drawn(config.seed_silver, pl.concat([people, spoken]), "silver", seed, held=False)
    if not len(judges):
        said = f", and {len(spoken):,} that people have judged," if len(spoken) else ""
        anew = " and another --out" if len(spoken) else ""  # where nobody has, nothing is left of this run
        raise Refused(
            f"stage 1 has {material.size('stage1'):,} pairs{said} and with stage1.seed_gold={config.seed_gold} and "
            f"stage1.seed_silver={config.seed_silver} none of them is left for judges to label and models to train on: give "
            f"a smaller --stage1.seed-gold ({max(1, material.size('stage1') // 3)}, say){anew}, or a larger pool"
        )
    return {"people": people, "judges": judges}


def _next(book: Book, p: Mapping[str, float], config: Stage1Config, seed: int) -> Plan:
    """The look-alikes of gold that the model gets wrong or is unsure of, the neediest first, dealt to people and judges."""
    material, asked = book.material, book.asked
    asking = book.gold().filter(pl.col("pair_id").is_in(list(p)))
    known = pl.concat([asked, book.spoken()])
    fixed = seed if config.k_rule == "fixed" else None
    wanted = material.look_alikes(asking, p, known, config.k_max, config.per_iteration, config.probe, book.say, fixed)
    if config.choose == "random":
        wanted = material.drawn(len(wanted), known, "random", seed, held=False)
    people = round(config.gold_share * len(wanted))
    held = material.drawn(round(config.held_share * people), asked, "held", seed, held=True)
    ranked = material.by_priority(wanted, seed)
    at = people - len(held)
    return {"people": pl.concat([held, ranked[:at]]), "judges": ranked[at:]}


def _settle(run: Run, book: Book, resettle: bool) -> None:
    """The labels of stage 1, made once of what people say then, or again where they changed their minds and `resettle`."""
    table, turns = run.table("labels", Label), 0
    while book.corrected(f"end{turns}"):
        book.correct(f"end{turns}")
        turns += 1
    changed = book.changed(all_words=True)
    done = table.done("stage1")
    if changed and done and resettle:
        run.say(f"{len(changed):,} pairs have another word of people's: the labels and what follows are made anew")
        run.say(f"what was made of the words before is in {set_aside(run)}")
        done = False
    if not done:
        book.correct(f"end{turns}", all_words=True)
        table.put("stage1", frame_to_arrow(Label, book.labels()))
    elif changed:
        ids = ", ".join(j.pair_id[:12] for j in changed[:3])
        run.say(
            f"[bold]warning:[/bold] people have said something else of {len(changed):,} pairs since the labels were made "
            f"({ids}{', ...' if len(changed) > 3 else ''}); the labels are of what they said before: add --resettle to make "
            "them, and all that follows from them, anew"
        )


def _numbers(book: Book, p: Mapping[str, float], plan: Plan) -> dict[str, object]:
    told = pl.concat([book.gold(), book.held()])
    right = told.join(pl.DataFrame({"pair_id": list(p), "p": list(p.values())}, schema={"pair_id": pl.String,
                      "p": pl.Float64}), on="pair_id", maintain_order="left")  # fmt: skip
    return {
        "gold": len(book.gold()), "held": len(book.held()), "silver": len(book.silver()),
        "gold_accuracy": _right(right), "held_accuracy": _right(right.filter("held")),
        "mistakes": sum(v <= 0.5 for v in p.values()), "retrieved": sum(len(rows) for rows in plan.values()),
        "free": book.material.size("stage1") - len(book.asked) - len(book.spoken()),
    }  # fmt: skip


def _right(told: pl.DataFrame) -> dict[str, float] | None:
    """The share of gold pairs that the model has right, with its error by question; None of no pairs."""
    if not len(told):
        return None
    return asdict(mean((told["p"] > 0.5).cast(pl.Float64).to_list(), told["question_id"].to_list()))


AT_A_TIME = 1_024
"""Pairs whose texts are given to a scorer at a time."""


def win_probabilities(scorer: Scorer, examples: Sequence[Preference]) -> dict[str, float]:
    """p = sigmoid(r(x, chosen) - r(x, rejected)) by pair id (A.6 step 1)."""
    found: dict[str, float] = {}
    for at in range(0, len(examples), AT_A_TIME):
        part = examples[at : at + AT_A_TIME]
        flat: list[Conversation] = [e.prompt + r.messages for e in part for r in (e.chosen, e.rejected)]
        distinct = list(dict.fromkeys(flat))  # a response may be in many pairs
        known = dict(zip(distinct, scorer(distinct), strict=True))
        rewards = np.array([known[c] for c in flat], np.float64)
        margins = rewards[::2] - rewards[1::2]
        found |= zip((e.pair_id for e in part), (1 / (1 + np.exp(-margins))).tolist(), strict=True)
    return found


def wins(run: Run, shard: str, scorer: Scorer, examples: Sequence[Preference]) -> dict[str, float]:
    """`win_probabilities`, made once: what they decide must not be decided anew by another machine's last digits. Pairs that
    the model gives no number are left out."""
    rows = run.table("wins", Win).once(
        shard, lambda: [Win(pair_id=i, p=p) for i, p in win_probabilities(scorer, examples).items() if np.isfinite(p)]
    )
    return {r.pair_id: r.p for r in rows}
