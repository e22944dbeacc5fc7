"""Arms of an honest experiment: the run's stage 1 once more with one thing changed, over the same material and seed.

What stands or falls by an arm is said in docs/evidence.md, written before any run. Each arm that changes the loop is a
run folder of its own (`arms/NAME` in a seed's); it ends with one reward model, trained as the others on as many
presentations and measured on the same pairs. Nothing of the run itself rests on them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import polars as pl

from assay.curate.book import AT_ONCE, Book, Gold, judged
from assay.curate.checkers import checker_vote_judge, ten_rules_judge
from assay.curate.material import FREE, Material
from assay.curate.people import coin
from assay.curate.prepare import Slice
from assay.curate.shares import Share
from assay.curate.stage1 import Stage1Config, Tools, Train, labelled, training_set
from assay.curate.verify import oracle
from assay.curate.views import LabelSet, label_set, of_frame
from assay.order import draws
from assay.pipeline.against_truth import right
from assay.pipeline.hits import Held, measured
from assay.pipeline.product import Product
from assay.records import Embedder, Judge, Preference, Scorer, shown_to
from assay.run import Run
from assay.store import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What an arm changes. `stage1`: fields of the loop's settings; `rule_attributes`: look-alikes are alike in these too;
    `embedded`: it means something in the embedded pool alone, whose demands it knows or whose people are simulated."""

    title: str
    stage1: Mapping[str, Any] = field(default_factory=dict)
    people: Literal["", "perfect", "coin"] = ""
    judge: Literal["", "checker-vote", "ten-rules"] = ""
    rule_attributes: bool = False
    embedded: bool = False


ARMS: dict[str, Arm] = {
    "random-pairs": Arm(title="random pairs in place of look-alikes", stage1={"choose": "random"}),
    "fixed-k": Arm(title="every gold pair asks for as many look-alikes", stage1={"k_rule": "fixed"}),
    "random-examples": Arm(title="judge shown random gold", stage1={"guides": "random"}),
    "rule-attributes": Arm(title="retrieval by rule attributes too", rule_attributes=True),
    "perfect-people": Arm(title="people who never err", people="perfect", embedded=True),
    "coin-gold": Arm(title="gold labels by a coin, one draw", people="coin"),
    "checker-vote": Arm(title="judge that knows the ten demands", judge="checker-vote", embedded=True),
    "ten-rules": Arm(title="ten hand-written rules as judge", judge="ten-rules", embedded=True),
}
"""Name -> an arm that runs the loop again."""
EMBEDDED, RECIPES = "tiny", ("tiny", "human")
"""The recipe of the embedded pool, and all that have arms: their people answer at once, and the truth is known."""
DRAWS = 12
"""Of coins, for the control of each seed."""
WHOLE, GOLD_ONLY, EQUAL_EFFORT = "whole", "gold-only", "equal-effort"
TITLES = {
    WHOLE: "stage 1 as it is",
    GOLD_ONLY: "its gold alone, no silver",
    EQUAL_EFFORT: "as much gold, drawn at random, no loop and no silver",
    **{name: arm.title for name, arm in ARMS.items()},
}
"""Name -> what a report calls it; the first three train on nothing but what is there, or on gold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """The inputs that every arm shares with the run. `trainer`: how models are trained and kept in a run folder; `by_rules`:
    the material with vectors of conversations and their rule attributes, made when it is asked for; `held`: what measures.
    """

    product: Product
    people: Judge
    judge: Judge
    embed: Embedder
    trainer: Callable[[Run], Train]
    by_rules: Callable[[], Material]
    held: Held
    at_once: int = AT_ONCE

    @property
    def run(self) -> Run:
        return self.product.run


def run_arms(arms: Arms) -> None:
    """Run and measure every arm that means something in the run's recipe, each once; results are steps `arms/NAME`."""
    run, first, recipe = arms.run, arms.product.curated.stage1, arms.product.config.recipe
    if recipe not in RECIPES:
        return
    gold = first.labels.filter(pl.col("tier") == "gold")
    alone = ((WHOLE, first.labels, first.best), (GOLD_ONLY, gold, first.gold_rm))
    for name, labels, scorer in alone:
        work = partial(_measured, arms, name, labels, scorer)
        run.once(f"arms/{name}", work)
    run.once("control", partial(_control, arms))
    run.once(f"arms/{EQUAL_EFFORT}", partial(_equal_effort, arms))
    for name, arm in ARMS.items():
        if not arm.embedded or recipe == EMBEDDED:
            run.once(f"arms/{name}", partial(_arm, arms, name, arm))


def _control(arms: Arms) -> dict[str, object]:
    """How often the judge is right of the silver pairs when the gold that it is shown is labelled by a coin, draw by draw.

    All verdicts of one draw lean the same way by the same chance, so a single one is far from 50 % without any leak, and the
    error over pairs does not tell; that over draws does.
    """
    first, material = arms.product.curated.stage1, arms.product.material
    known = list(material.known(first.labels.filter(pl.col("tier") == "silver")).values())
    k = shown_to(arms.judge, arms.product.config.stage1.examples)
    found = list[Share]()
    for n in range(DRAWS):
        heads = draws([e.pair.id for e in first.gold.examples], "control", arms.product.seed, n) < 0.5
        coins = tuple(
            replace(e, better=e.pair.responses[int(head)].id)
            for e, head in zip(first.gold.examples, heads, strict=True)
        )
        said = judged(arms.judge, Gold(examples=coins, vectors=first.gold.vectors).cases(known, k))
        decided = pl.DataFrame(
            [(j.pair_id, j.better) for j in said if j.better], {"pair_id": pl.String, "chosen": pl.String}, orient="row"
        )
        found.append(right(material, lambda _, told=decided: told))  # type: ignore[misc]
    return {"draws": [share for share in found if share is not None]}


def _folder(arms: Arms, name: str, config: Stage1Config) -> Run:
    """The run folder of an arm; `config` says what it is."""
    arms.run.say(f"arm: {TITLES[name]}")
    identity = {"arm": name, "stage1": config, "seed": arms.product.seed}
    return arms.run.part(arms.run.folder / "arms" / name, identity)


def _arm(arms: Arms, name: str, arm: Arm) -> dict[str, object]:
    config = replace(arms.product.config.stage1, checked=0, **arm.stage1)
    material = arms.by_rules() if arm.rule_attributes else arms.product.material
    with closing(_folder(arms, name, config)) as own:
        train = arms.trainer(own)
        people, judge = _people(arms, arm), _judge(arms, arm)
        tools = Tools(people=people, judge=judge, train=train, at_once=arms.at_once, at_chance=True)
        book = labelled(own, config, material, tools, arms.product.seed)
        labels = training_set(own, book)
        return _finished(arms, name, book, labels, train)


def _finished(arms: Arms, name: str, book: Book, labels: LabelSet, train: Train) -> dict[str, object]:
    held: list[Preference] = book.preferences(book.held())
    return _measured(arms, name, book.labels(), train("best-rm", labels, held))


def _measured(arms: Arms, name: str, labels: pl.DataFrame, scorer: Scorer) -> dict[str, object]:
    return _told(arms, labels) | measured(arms.run, f"arm-{name}", scorer, arms.held)


def _people(arms: Arms, arm: Arm) -> Judge:
    match arm.people:
        case "perfect":
            return oracle(_truth(arms.product.material))
        case "coin":
            return coin(arms.product.seed)
    return arms.people


def _judge(arms: Arms, arm: Arm) -> Judge:
    match arm.judge:
        case "checker-vote":
            return checker_vote_judge(arms.embed)
        case "ten-rules":
            return ten_rules_judge()
    return arms.judge


def _truth(material: Material) -> dict[str, str]:
    """The better response of the pairs that people can be asked about, where it is known: two ids a pair, in memory."""
    found: dict[str, str] = {}
    for _, frame in material.frames(["pair_id", "truth"], "stage1"):
        found |= dict(frame.filter(pl.col("truth").is_not_null()).select("pair_id", "truth").iter_rows())
    return found


def _equal_effort(arms: Arms) -> dict[str, object]:
    """What people's work is worth without the loop: as many pairs as they verified in it, drawn at random, and a model
    trained on their words alone."""
    asked = int((arms.product.curated.stage1.labels["tier"] == "gold").sum())
    with closing(_folder(arms, EQUAL_EFFORT, arms.product.config.stage1)) as own:
        book = Book(own, arms.product.material)
        none = FREE.to_frame()
        chosen = partial(arms.product.material.drawn, asked, none, EQUAL_EFFORT, arms.product.seed, held=None)
        plan = book.plan("seed", lambda: {"people": chosen(), "judges": none})
        book.ask("seed", "people", plan["people"], arms.people, 0)
        gold = label_set(arms.product.material, Place.of(own.folder) / "tables", "gold", of_frame(book.gold()))
        return _finished(arms, EQUAL_EFFORT, book, gold, arms.trainer(own))


def _told(arms: Arms, labels: pl.DataFrame) -> dict[str, object]:
    """How many pairs are trained on, what people and judges were asked and said, and how often they were right."""
    trained = labels.filter(pl.col("chosen").is_not_null() & ~pl.col("held"))
    told: dict[str, object] = {"pairs": len(trained)}
    for who, tier in (("people", "gold"), ("judges", "silver")):
        asked = labels.filter(pl.col("tier") == tier)
        decided = asked.filter(pl.col("chosen").is_not_null()).select("pair_id", "chosen")

        def of(_: Sequence[Slice], said: pl.DataFrame = decided) -> pl.DataFrame:
            return said

        told[who] = {
            "asked": len(asked),
            "undecided": len(asked) - len(decided),
            "right": right(arms.product.material, of),
        }
    return told
