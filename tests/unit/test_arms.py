"""Arms change one thing and nothing else, are measured on the same pairs, and leave the run as it is."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_claims import Trains

import small_material as small
from assay.curate.book import Asked, set_aside
from assay.curate.material import Material
from assay.curate.offline import gold_ridge_judge, hash_embedder
from assay.curate.people import Annotator, erring
from assay.curate.prepare import SplitConfig, prepare
from assay.curate.shards import create
from assay.curate.stage1 import Stage1Config, Tools
from assay.engine import Here
from assay.pipeline.arms import ARMS, EQUAL_EFFORT, GOLD_ONLY, TITLES, WHOLE, Arms, run_arms
from assay.pipeline.flow import FlowConfig, curate
from assay.pipeline.hits import Hit, apart, held_out, measured
from assay.pipeline.product import Product
from assay.records import Case, Judge, Judgement, Scorer
from assay.run import Run
from assay.store import Place

CONFIG = FlowConfig(recipe="arms", stage1=Stage1Config(
    iterations=1, seed_gold=16, seed_silver=12, per_iteration=10, gold_share=0.4, k_max=4, examples=2
))  # fmt: skip
SPLIT = SplitConfig(eval_share=0.15, stage1_share=0.8, held_share=0.3)
PAIRS = [small.pair(n) for n in range(240)]
APART = frozenset(p.id for p in PAIRS[:20])
TRUTH = {p.id: small.truth(p) for p in PAIRS}
PEOPLE = erring(TRUTH, [Annotator(name="simulated:a", wrong=0.2, undecided=0.1)])


@dataclass
class Watched:
    """A judge, or people, with all that they were asked; as many examples as the judge wants."""

    judge: Judge
    cases: list[Case] = field(default_factory=list)
    examples: int = 5

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        self.cases += cases
        return self.judge(cases)


@dataclass
class Made:
    arms: Arms
    people: Watched
    judge: Watched
    trained: dict[str, Trains]
    steps: dict[str, Any]
    before: dict[str, bytes]


def _kept(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


def material(folder: Path) -> Material:
    pool = create(folder / "pool", PAIRS, small.votes(PAIRS), TRUTH, unseen=APART)
    out = Place.of(folder / "tables")
    return Material(
        pool=pool, slices=prepare(pool, out, SPLIT, {}, hash_embedder(), "hash", Here()), out=out
    )  # fmt: skip


def make(folder: Path, embedded: bool = True, seed: int = 0) -> Made:
    of = material(folder)
    people, judge, trained = (
        Watched(PEOPLE),
        Watched(gold_ridge_judge(hash_embedder(), examples=5)),
        dict[str, Trains](),
    )

    def trainer(run: Run) -> Trains:
        return trained.setdefault(run.folder.name, Trains())

    def by_rules() -> Material:
        slices = prepare(of.pool, of.out, SPLIT, {}, hash_embedder(), "hash", Here(), by="attributes")
        return replace(of, slices=slices)

    with closing(Run(folder / f"seed-{seed}", {})) as run:
        tools = Tools(people=people, judge=judge, train=trainer(run))
        curated = curate(run, CONFIG, of, tools, seed)
        before = _files(run.folder)
        config = replace(CONFIG, recipe="tiny" if embedded else "human", evaluation_pairs=0)
        product = Product(run=run, config=config, material=of, curated=curated, train=trainer(run), seed=seed)
        arms = Arms(
            product=product, people=people, judge=judge, embed=hash_embedder(), trainer=trainer, by_rules=by_rules,
            held=held_out(of, 0),
        )  # fmt: skip
        run_arms(arms)
        steps = {p.stem: json.loads(p.read_text()) for p in (run.folder / "steps" / "arms").glob("*.json")}
        return Made(arms, people, judge, trained, steps, before)


def _files(folder: Path) -> dict[str, bytes]:
    tables = ("tables/asked", "tables/judgements", "tables/labels")
    return {str(p): p.read_bytes() for t in tables for p in (folder / t).rglob("*.parquet")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("arms"))


def asked(made: Made, name: str) -> dict[str, pl.DataFrame]:
    folder = made.arms.run.folder / "arms" / name
    with closing(Run(folder, _kept(folder))) as run:
        table = run.table("asked", Asked)
        return {shard: table.frame(shard) for shard in table.shards()}


def test_every_arm_is_run_and_measured_on_the_same_pairs(made: Made) -> None:
    assert set(made.steps) == set(TITLES) == {WHOLE, GOLD_ONLY, EQUAL_EFFORT, *ARMS}
    sizes = {use: len(pairs) for use, pairs in made.arms.held.items()}
    assert sizes["unseen"] == 20
    assert sizes["evaluation"] > 20
    for name, step in made.steps.items():
        assert step["accuracy"]["n"] == sizes["evaluation"], name
        assert step["unseen"]["n"] == sizes["unseen"], name
        assert step["people"]["asked"] > 10, name
    with closing(Run(made.arms.run.folder, {})) as run:
        table = run.table("hits", Hit)
        for use, before in (("evaluation", "arm-"), ("unseen", "unseen-arm-")):
            shards = table.shards(before)
            assert {s.removeprefix(before) for s in shards} == set(TITLES)
            wanted = sorted(p.pair_id for p in made.arms.held[use])  # type: ignore[index]
            assert all(sorted(h.pair_id for h in table.read(s)) == wanted for s in shards)


def test_what_an_arm_changes_is_that_alone(made: Made) -> None:
    """People are asked first about the same pairs; the judges' first pairs differ only where people or pairs do."""
    with closing(Run(made.arms.run.folder, {})) as run:
        whole = {s: run.table("asked", Asked).frame(s) for s in run.table("asked", Asked).shards("stage1-")}
    for name in ARMS:
        own = asked(made, name)
        assert own.keys() == whole.keys(), name
        assert own["stage1-seed"].equals(whole["stage1-seed"]), name
    first = "stage1-it0"
    assert not asked(made, "random-pairs")[first].equals(whole[first])
    assert not asked(made, "fixed-k")[first].equals(whole[first])
    assert len(asked(made, "random-pairs")[first]) == len(whole[first])
    folder = made.arms.run.folder / "arms"
    settings = {name: _kept(folder / name)["stage1"] for name in ARMS}
    usual = settings["coin-gold"]
    changed = {n: {k: v for k, v in s.items() if usual[k] != v} for n, s in settings.items()}
    assert {n: c for n, c in changed.items() if c} == {
        "random-pairs": {"choose": "random"}, "fixed-k": {"k_rule": "fixed"}, "random-examples": {"guides": "random"},
    }  # fmt: skip


def test_people_of_arms_are_who_they_are_called(made: Made) -> None:
    right = {name: step["people"]["right"]["value"] for name, step in made.steps.items()}
    assert right["perfect-people"] == 1.0
    assert 0.6 < right[WHOLE] < 1.0
    assert abs(right["coin-gold"] - 0.5) < 0.3
    assert made.steps[WHOLE]["people"]["undecided"] > 0
    assert made.steps["perfect-people"]["people"]["undecided"] == 0
    for name, by in (("checker-vote", "offline:checker-vote"), ("ten-rules", "offline:ten-rules")):
        folder = made.arms.run.folder / "arms" / name
        with closing(Run(folder, _kept(folder))) as run:
            words = run.table("judgements", Judgement)
            assert {j.by for s in words.shards() if "-judges-" in s for j in words.read(s)} == {by}


def test_equal_effort_is_as_many_pairs_put_to_people_and_no_judge(made: Made) -> None:
    told = made.steps[EQUAL_EFFORT]
    assert told["people"]["asked"] == made.steps[WHOLE]["people"]["asked"] > 15
    assert (told["judges"]["asked"], told["judges"]["right"]) == (0, None)
    (plan,) = asked(made, EQUAL_EFFORT).values()
    assert set(plan["of"]) == {"people"}
    train = made.trained[EQUAL_EFFORT]
    assert list(train.sets) == ["best-rm"]
    assert not set(train.sets["best-rm"].frame()["pair_id"]) & {g.pair_id for g in train.gold["best-rm"]}


def test_no_arm_shows_gold_of_the_pairs_own_question_and_none_asks_about_what_measures(made: Made) -> None:
    shown = [c for c in made.judge.cases if c.examples]
    assert len(shown) > 100
    assert not [c for c in shown if any(e.pair.question_id == c.pair.question_id for e in c.examples)]
    measuring = {p.prompt[0].content for pairs in made.arms.held.values() for p in pairs}
    assert not measuring & {c.pair.prompt[0].content for c in (*made.judge.cases, *made.people.cases)}
    for name, train in made.trained.items():
        for labels in train.sets.values():
            assert not measuring & {p.prompt[0].content for p in labels.preferences()}, name


def test_the_control_is_of_many_draws_on_the_silver_pairs(made: Made) -> None:
    told = json.loads((made.arms.run.folder / "steps" / "control.json").read_text())["draws"]
    silver = made.steps[WHOLE]["judges"]
    assert len(told) == 12
    assert {d["n"] for d in told} <= set(range(silver["asked"] - 3, silver["asked"] + 1))
    values = [d["value"] for d in told]
    assert len(set(values)) > 3, "every draw is another coin"
    assert abs(np.mean(values) - 0.5) < 0.25


def test_the_run_is_as_it_was_and_the_same_again_asks_nobody(made: Made) -> None:
    assert made.before.items() <= _files(made.arms.run.folder).items()
    counts = len(made.judge.cases), len(made.people.cases)
    with closing(Run(made.arms.run.folder, {})) as run:
        run_arms(replace(made.arms, product=replace(made.arms.product, run=run)))
    assert (len(made.judge.cases), len(made.people.cases)) == counts


def test_a_killed_arm_goes_on_where_it_was(made: Made, tmp_path: Path) -> None:
    """Its step is missing, its tables are there: nobody is asked again, and the numbers are the same."""
    counts = len(made.judge.cases), len(made.people.cases)
    step = made.arms.run.folder / "steps" / "arms" / "random-examples.json"
    before = json.loads(step.read_text())
    step.unlink()
    with closing(Run(made.arms.run.folder, {})) as run:
        run_arms(replace(made.arms, product=replace(made.arms.product, run=run)))
    after = json.loads(step.read_text())
    assert {k: after[k] for k in ("people", "judges", "accuracy")} == {
        k: before[k] for k in ("people", "judges", "accuracy")
    }
    assert (len(made.judge.cases), len(made.people.cases)) == counts


def test_other_pools_have_no_arms_that_know_the_embedded_one(tmp_path: Path) -> None:
    made = make(tmp_path, embedded=False)
    assert set(made.steps) == set(TITLES) - {n for n, a in ARMS.items() if a.embedded}
    with closing(Run(made.arms.run.folder, {})) as run:
        place = set_aside(run)
    assert (place / "arms" / "fixed-k").is_dir()
    assert not (made.arms.run.folder / "arms").exists(), "labels that are made anew have arms of their own"


# -- what is compared -----------------------------------------------------------------------------------------------


def _scorer(right: set[str]) -> Scorer:
    """Gives the better response of some questions the higher reward, and the worse one of the others."""

    def score(conversations: Sequence[Any]) -> Any:
        good = [c[-1].content.startswith("It is") for c in conversations]
        return np.array([float(g == (c[0].content in right)) for g, c in zip(good, conversations, strict=True)])

    return score


def test_models_are_compared_on_the_same_pairs_over_seeds(tmp_path: Path) -> None:
    of = material(tmp_path)
    held = held_out(of, 0)
    asked_of = sorted({p.prompt[0].content for p in held["evaluation"]})
    runs = [Run(tmp_path / f"seed-{n}", {}) for n in range(3)]
    for n, run in enumerate(runs):
        half = set(asked_of[: len(asked_of) // 2])
        told = measured(run, "one", _scorer({*half, *asked_of[-2 - n :]}), held)
        measured(run, "other", _scorer(half), held)
        assert isinstance(told["accuracy"], dict)
        assert told["accuracy"]["clusters"] < told["accuracy"]["n"]
    tables = [run.table("hits", Hit) for run in runs]
    compared = apart(tables, "one", "other")
    assert compared is not None
    n, found = len(held["evaluation"]), compared.found
    assert (found.n, compared.questions) == (n, len(asked_of))
    assert found.value == pytest.approx(2 * 3 / n), "two pairs to a question, 2 to 4 questions more"
    assert found.low < found.value < found.high
    unseen = apart(tables, "one", "other", "unseen")
    assert unseen is not None
    assert unseen.found.value == 0.0
    assert unseen.found.low < 0 < unseen.found.high, "never sure of equality"
    assert apart(tables, "one", "nobody") is None
    for run in runs:
        run.close()
