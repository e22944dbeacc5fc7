"""What the tables of claims rest on: sets of labels as they are told, judges as they judged, nobody asked and nothing scored
twice, and no people where a row says so."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import small_material as small
from assay.curate.book import Gold
from assay.curate.material import Known, Material
from assay.curate.prepare import SplitConfig
from assay.curate.retrieve import nearest_gold
from assay.curate.rules import rule_attributes
from assay.curate.shares import share
from assay.curate.stage1 import Stage1Config, Tools
from assay.curate.verify import oracle
from assay.curate.views import LabelSet, read_set
from assay.pipeline import claims
from assay.pipeline.against_truth import filters
from assay.pipeline.claims import Claims
from assay.pipeline.flow import FlowConfig, curate
from assay.pipeline.hits import Hit
from assay.pipeline.product import Product, measure, measured_on, product_sets
from assay.pipeline.product import model_name as model_of
from assay.records import (
    Case,
    Conversation,
    Example,
    Judgement,
    Preference,
    Response,
    Scorer,
    digest,
    question_id,
    user,
)
from assay.records import Pair as AnyPair
from assay.report.claims import SETS
from assay.run import Run

CONFIG = FlowConfig(
    recipe="claims",
    stage1=Stage1Config(
        iterations=1, seed_gold=12, seed_silver=12, per_iteration=10, gold_share=0.4, k_max=4, examples=2
    ),
)
PAIRS = {p.id: p for p in small.PAIRS}


@dataclass
class Trains:
    """A stand-in for training: a model gives every text a number, right answers a larger one. Counts what is asked."""

    sets: dict[str, LabelSet] = field(default_factory=dict)
    gold: dict[str, list[Preference]] = field(default_factory=dict)
    scored: Counter[tuple[str, Conversation]] = field(default_factory=Counter)

    def __call__(self, name: str, labels: LabelSet, gold: Sequence[Preference]) -> Scorer:
        self.sets[name], self.gold[name] = labels, list(gold)

        def score(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
            self.scored.update((name, c) for c in conversations)
            draws = [int(digest([name, c[-1].content])[:8], 16) / 16**8 for c in conversations]
            right = [c[-1].content.startswith("It is") for c in conversations]
            return np.array([3 * d + r for d, r in zip(draws, right, strict=True)])

        return score


@dataclass
class Says:
    """A judge that is right of all pairs but some, and remembers whom it was asked about and what it was shown."""

    asked: list[Case] = field(default_factory=list)

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        self.asked += cases
        return [self.of(c.pair) for c in cases]

    @staticmethod
    def of(p: AnyPair) -> Judgement:
        draw = int(p.id[6:10], 16) % 8
        better = None if draw == 7 else p.other(small.truth(p)) if draw < 2 else small.truth(p)
        return Judgement(pair_id=p.id, better=better, by="offline", kind="offline", problem="" if better else "tie")


@dataclass
class Made:
    claims: Claims
    train: Trains
    judge: Says
    unguided: Says
    material: Material
    sets: dict[str, LabelSet]

    @property
    def product(self) -> Product:
        return self.claims.product


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("claims"))


def make(folder: Path, material: Material | None = None) -> Made:
    split = SplitConfig(eval_share=0.2, stage1_share=0.6, held_share=0.3)
    material = material or small.material(folder, split=split)
    train, judge, unguided = Trains(), Says(), Says()
    with closing(Run(folder / "seed-0", {})) as run:
        people = oracle({i: small.truth(p) for i, p in PAIRS.items()})
        curated = curate(run, CONFIG, material, Tools(people=people, judge=judge, train=train, at_once=5), 0)
        product = Product(run=run, config=CONFIG, material=material, curated=curated, train=train, seed=0)
        whole = Claims(product=product, judge=judge, unguided=unguided, at_once=5)
        sets = {**product_sets(product), **claims.arm_sets(whole)}
        return Made(whole, train, judge, unguided, material, {n: sets[n] for n in SETS if n in sets})


def chosen(labels: LabelSet) -> dict[str, str]:
    frame = labels.frame()
    assert frame["pair_id"].n_unique() == len(frame) == len(labels)
    return dict(frame.select("pair_id", "chosen").iter_rows())


def test_every_set_is_what_it_is_called(made: Made) -> None:
    sets = {name: chosen(labels) for name, labels in made.sets.items()}
    assert list(sets) == list(SETS)
    first, second = made.product.curated.stage1, made.product.curated.stage2
    uses = {
        i: use for _, f in made.material.frames(["pair_id", "use"]) for i, use in f.select("pair_id", "use").iter_rows()
    }
    held = {question_id(p.prompt) for p in first.held}
    assert len(held) >= 2
    may = {i for i, use in uses.items() if use != "evaluation" and PAIRS[i].question_id not in held}
    assert sets["raw-more"] == {i: small.source_says(PAIRS[i]) for i in may}
    assert sets["truth"] == {i: small.truth(PAIRS[i]) for i in may}
    assert len(sets["raw"]) == len(sets["stage1"])
    assert sets["raw"].items() <= sets["raw-more"].items()
    assert sets["stage1"] == dict(
        first.labels.filter(~pl.col("held")).drop_nulls("chosen").select("pair_id", "chosen").iter_rows()
    )
    fates = {
        i: (fate, c) for _, f in second.frames() for i, fate, c in f.select("pair_id", "fate", "chosen").iter_rows()
    }
    kept = {i: c for i, (fate, c) in fates.items() if fate == "kept" and i in may}
    flipped = {i: c for i, (fate, c) in fates.items() if fate == "flipped" and i in may}
    assert kept
    assert flipped
    assert sets["filtered"] == sets["stage1"] | kept
    assert sets["flipped"] == sets["stage1"] | kept | flipped
    assert sets["unguided"] == {i: Says.of(PAIRS[i]).better for i in sets["stage1"] if Says.of(PAIRS[i]).better}
    wild = {i for i in may if uses[i] == "stage2"}
    alone = {i: c for i, c in sets["nohuman-filtered"].items() if i in wild}
    turned = {i: c for i, c in sets["nohuman-flipped"].items() if i in wild and i not in alone}
    assert sets["nohuman-flipped"].items() >= sets["nohuman-filtered"].items()
    assert sets["nohuman-filtered"].items() - alone.items() == sets["unguided"].items()
    model = made.train("nohuman-rm", made.sets["unguided"], ())
    for i in wild:
        one, two = model([PAIRS[i].prompt + r.messages for r in PAIRS[i].responses])
        agrees = (one > two) == (small.source_says(PAIRS[i]) == PAIRS[i].responses[0].id)
        assert (i in alone, i in turned) == (agrees, not agrees)
        assert {**alone, **turned}[i] == PAIRS[i].responses[int(two > one)].id


def test_sets_are_kept_and_read_back_as_they_were(made: Made) -> None:
    for name, labels in made.sets.items():
        again = read_set(made.material, made.product.place, name)
        assert (again.said, again.asked, again.rows) == (labels.said, labels.asked, labels.rows)
        assert {p.pair_id: p.chosen.id for p in again.preferences()} == chosen(labels)
    held = read_set(made.material, made.product.place, "held").preferences()
    assert sorted(held, key=lambda p: p.pair_id) == sorted(made.product.curated.stage1.held, key=lambda p: p.pair_id)


def test_the_view_of_a_set_is_its_text(made: Made) -> None:
    from assay.tables import Table

    flipped = made.sets["flipped"]
    rows = Table(flipped.folder(), Preference).read()
    told = {p.pair_id: (p.certainty, p.margin) for p in rows}
    assert sorted(rows, key=lambda p: p.pair_id) == sorted(flipped.preferences(), key=lambda p: p.pair_id)
    assert told == {i: (c, m) for i, c, m in flipped.frame().select("pair_id", "certainty", "margin").iter_rows()}
    assert len({c for c, _ in told.values()}) > 3


def test_nobody_is_asked_and_nothing_scored_twice(made: Made, tmp_path: Path) -> None:
    wild = [p for _, f in made.material.frames(["pair_id"], "stage2") for p in f["pair_id"]]
    before = Counter(made.train.scored)
    evidence = made.product.curated.stage2.evidence
    judges, filtered = claims._judges(made.claims), filters(made.material, evidence)
    assert made.train.scored == before, "the tables are made of rewards that are there"
    texts = [PAIRS[i].prompt + r.messages for i in wild for r in PAIRS[i].responses]
    assert {made.train.scored[name, c] for name in ("best-rm", "gold-rm") for c in texts} == {1}
    asked = Counter(c.pair.id for c in made.unguided.asked)
    assert set(asked.values()) == {1}, "what was asked for a set is not asked for the table"
    guided = len(made.judge.asked)
    assert (claims._judges(made.claims), filters(made.material, evidence)) == (judges, filtered)
    assert (len(made.judge.asked), len(made.unguided.asked)) == (guided, sum(asked.values()))


def test_the_table_of_judges_shows_what_was_known_then(tmp_path: Path) -> None:
    made = make(tmp_path)
    before = len(made.judge.asked)
    found = cast(dict[str, Any], claims._judges(made.claims))
    table = made.product.run.table("judgements", Judgement)
    people, shown = set[str](), made.judge.asked[before:]
    said, of = [], {c.pair.id: c for c in shown}
    for turn in ("seed", "it0"):
        people |= {j.pair_id for s in table.shards(f"stage1-{turn}-people-") for j in table.read(s)}
        for judgement in (j for s in table.shards(f"stage1-{turn}-judges-") for j in table.read(s)):
            said.append(judgement)
            examples = of[judgement.pair_id].examples
            assert {e.pair.id for e in examples} <= people, "no later gold"
            assert all(e.pair.question_id != PAIRS[judgement.pair_id].question_id for e in examples), "no own gold"
            assert all(e.better == small.truth(e.pair) for e in examples)
            assert len(examples) == 2
    assert len(shown) == len(said) > 15
    right = [j.better == small.truth(PAIRS[j.pair_id]) for j in said if j.better]
    assert (found["nearest gold"]["n"], found["nearest gold"]["undecided"]) == (len(said), len(said) - len(right))
    assert found["nearest gold"]["agreement"]["value"] == pytest.approx(np.mean(right))
    assert found["nearest gold"]["agreement"]["n"] == len(right) < len(said)
    hits = made.claims.product.run.table("hits", Hit)
    for way in ("no gold", "random gold", "nearest gold"):
        told = {h.pair_id: (h.question_id, h.right) for h in hits.read(f"judge-{way}")}
        assert told == {
            j.pair_id: (PAIRS[j.pair_id].question_id, float(j.better == small.truth(PAIRS[j.pair_id])) if j.better else 0.5)
            for j in said
        }  # fmt: skip
    assert found["no gold"] == found["random gold"] == found["nearest gold"], (
        "this judge says the same whatever it is shown"
    )
    assert all(not c.examples for c in made.unguided.asked)


def test_the_table_of_filters_is_that_of_the_rewards(made: Made) -> None:
    found = cast(dict[str, Any], filters(made.material, made.product.curated.stage2.evidence))
    models = {"best RM": ["best-rm"], "gold RM": ["gold-rm"], "best + gold RM": ["best-rm", "gold-rm"]}
    wild = [PAIRS[p] for _, f in made.material.frames(["pair_id"], "stage2") for p in f["pair_id"]]
    for way, names in models.items():
        agrees = []
        for p in wild:
            original = small.source_says(p)
            flat = [p.prompt + p.response(r).messages for r in (original, p.other(original))]
            agrees.append([float(np.subtract(*Trains()(n, cast(Any, None), ())(flat))) > 0 for n in names])
        right = [small.source_says(p) == small.truth(p) for p in wild]
        keep = [r for r, a in zip(right, agrees, strict=True) if all(a)]
        flip = [not r for r, a in zip(right, agrees, strict=True) if not any(a)]
        assert (found[way]["kept"], found[way]["flipped"]) == (len(keep), len(flip))
        assert found[way]["keep_agreement"]["value"] == pytest.approx(np.mean(keep))
        assert found[way]["flip_agreement"]["value"] == pytest.approx(np.mean(flip))


def test_rows_without_people_choose_no_checkpoint_by_people(tmp_path: Path) -> None:
    made = make(tmp_path)
    product = replace(made.product, train=(train := Trains()))
    measured = measured_on(product)
    assert {p.pair_id for p in measured} == set(made.material.evaluation()["pair_id"])
    ours = product_sets(product)
    for name, labels in ours.items():
        measure(product, name, model_of(name), labels, product.curated.stage1.held, measured)
    claims.test_claims(replace(made.claims, product=product))
    for name, labels in made.sets.items():
        told = product.run.result(f"sets/{name}") if name not in ours else None
        if told:
            right = [c == small.truth(PAIRS[i]) for i, c in chosen(labels).items()]
            assert (told["pairs"], told["labels"]["n"]) == (len(labels), len(labels))
            assert told["labels"]["value"] == pytest.approx(np.mean(right))
            assert told["labels"]["clusters"] < told["labels"]["n"], "two pairs of a question are one cluster"
            assert told["accuracy"]["n"] == len(measured)
    without = {claims.model_name(n) for n in ("unguided", "nohuman-filtered", "nohuman-flipped")}
    assert {n for n, gold in train.gold.items() if not gold} == without
    assert len(train.gold) == len(SETS)


def test_a_pool_without_truth_has_no_shares(tmp_path: Path) -> None:
    split = SplitConfig(eval_share=0.2, stage1_share=0.6, held_share=0.3)
    unknown = make(tmp_path, small.material(tmp_path, known={}, split=split))
    assert "truth" not in unknown.sets
    assert claims._judges(unknown.claims) == {}
    assert unknown.material.evaluation().is_empty()
    told = cast(dict[str, Any], filters(unknown.material, unknown.product.curated.stage2.evidence))
    assert told["best RM"] == {"kept": 0, "keep_agreement": None, "flipped": 0, "flip_agreement": None}
    assert share([]) is None


# -- examples -------------------------------------------------------------------------------------------------------


TWELVE = [
    AnyPair.of((user(f"Question {n // 2}?"),), Response.of(f"good {n}"), Response.of(f"bad {n}")) for n in range(12)
]
"""Two pairs to a question: 0 and 1, 2 and 3, ..."""


def known(n: int) -> Known:
    vector = np.eye(6)[n // 2] + 0.1 * np.random.default_rng(n).normal(size=6)  # pairs of a question are alike
    return Known(pair=TWELVE[n], attributes=rule_attributes(TWELVE[n]), vector=vector.astype(np.float16))


def gold(*numbers: int) -> Gold:
    some = [known(n) for n in numbers]
    examples = tuple(
        Example(pair=k.pair, attributes=k.attributes, better=k.pair.responses[0].id) for k in some
    )  # fmt: skip
    return Gold(examples=examples, vectors=np.stack([k.vector for k in some]))


def test_no_example_is_of_the_targets_own_question() -> None:
    """The nearest gold is the other pair of the question: it was shown, with its verdict on what may be the same answer."""
    (case, other) = gold(0, 2, 4, 5).cases([known(1), known(6)], 3)
    assert {e.pair.id for e in case.examples} == {TWELVE[n].id for n in (2, 4, 5)}
    assert len(other.examples) == 3
    near = nearest_gold(np.stack([known(1).vector]), gold(0, 2, 4, 5).vectors, 3, ["none"], ["a", "b", "c", "d"])
    assert near[0][0] == 0, "without questions it would be the nearest"


def test_random_examples_are_of_other_questions_and_stay_the_same() -> None:
    some = gold(0, 1, 2, 4, 5, 8)
    cases = some.drawn([known(n) for n in (1, 2, 6)], 4, 0)
    assert [len(c.examples) for c in cases] == [4, 4, 4]
    assert all(e.pair.question_id != c.pair.question_id for c in cases for e in c.examples)
    (alone,) = some.drawn([known(2)], 4, 0)
    assert alone == cases[1]
    drawn = Counter(e.pair.id for s in range(60) for e in some.drawn([known(1)], 2, s)[0].examples)
    assert set(drawn) == {TWELVE[n].id for n in (2, 4, 5, 8)}
    assert min(drawn.values()) > 15
    assert gold(0, 1).drawn([known(1)], 4, 0)[0].examples == ()
    assert Gold(examples=(), vectors=np.zeros((0, 1), np.float16)).drawn([known(1)], 4, 0)[0].examples == ()
