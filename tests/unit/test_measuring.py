"""Pairs of a user's own pool that people verify to measure only: drawn by source, asked first, and in nothing else."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import small_material as small
from assay.curate.material import Material
from assay.curate.measuring import AT_MOST, PER_QUESTION, Measured, _quotas
from assay.curate.offline import hash_embedder
from assay.curate.prepare import SplitConfig, prepare
from assay.curate.shards import Pool, create
from assay.curate.verify import oracle
from assay.engine import Here
from assay.errors import AssayError
from assay.pipeline.flow import FlowConfig
from assay.pipeline.job import measuring, run_job
from assay.pipeline.people_on_file import PeopleOnFile
from assay.pipeline.pools import SmallPool
from assay.records import Case, Judgement, Pair, Response, user
from assay.reward.config import TrainConfig
from assay.run import Run
from assay.store import Place
from assay.tables import Table


def pair(n: int, question: int) -> Pair:
    return Pair.of((user(f"What of {question}?"),), Response.of(f"good {n}"), Response.of(f"bad {n}"))


PAIRS = [pair(n, n if n < 150 else 1000 + n // 10) for n in range(300)]
"""150 questions of one pair, and 15 of ten."""
BY = {p.id: "a" if n % 3 else "b" for n, p in enumerate(PAIRS)}


def pool_in(folder: Path, pairs: Sequence[Pair] = PAIRS) -> Pool:
    votes = [
        Judgement(pair_id=p.id, better=p.responses[0].id, by=f"wild:{BY[p.id]}", kind="wild") for p in pairs
    ]  # fmt: skip
    return create(folder / "pool", pairs, votes, {}, parts=3)


def prepared(folder: Path, wanted: int, pool: Pool | None = None) -> Material:
    out, split = Place.of(folder / "tables"), SplitConfig(evaluation_gold=wanted)
    pool = pool or pool_in(folder)
    slices = prepare(pool, out, split, {}, hash_embedder(), "hash", Here())
    return Material(pool=pool, slices=slices, out=out)


def uses(material: Material) -> dict[str, str]:
    frame = pl.concat([f for _, f in material.frames(["pair_id", "use"])])
    return dict(frame.select("pair_id", "use").iter_rows())


@pytest.mark.parametrize(("wanted", "asked"), [(40, 40), (1_000, 48), (0, 0)])
def test_what_measures_is_drawn_by_source_and_its_questions_are_in_nothing_else(
    tmp_path: Path, wanted: int, asked: int
) -> None:
    material = prepared(tmp_path, wanted)
    of = {p.id: p.question_id for p in PAIRS}
    measure = [i for i, use in uses(material).items() if use == "evaluation"]
    assert sorted(measure) == sorted(material.to_measure()["pair_id"])
    assert len(measure) == asked
    questions = {of[i] for i in measure}
    assert not questions & {of[i] for i, use in uses(material).items() if use != "evaluation"}
    assert max(Counter(of[i] for i in measure).values(), default=0) <= PER_QUESTION
    if asked == 40:
        assert {s: sum(BY[i] == s for i in measure) for s in "ab"} != {"a": 0, "b": 40}
        assert 0 < sum(BY[i] == "b" for i in measure) < 40
    left = [p.id for p in PAIRS if p.id not in uses(material)]
    assert all(of[i] in questions for i in left), "left out are other pairs of these questions alone"
    assert len(measure) + len(left) <= AT_MOST * len(PAIRS)
    assert material.evaluation().is_empty(), "nobody has said anything yet"


def test_shares_are_dealt_out_to_the_last_pair() -> None:
    assert _quotas({"a": 200, "b": 100}, 10) == {"a": 7, "b": 3}
    assert _quotas({"a": 1, "b": 1, "c": 1}, 2) == {"a": 1, "b": 1, "c": 0}
    assert _quotas({}, 0) == {}


def test_a_pool_that_knows_or_that_grows(tmp_path: Path) -> None:
    known = small.material(tmp_path / "known", split=replace(small.SPLIT, evaluation_gold=20))
    assert not Table(known.out / "measuring", Measured).shards()
    assert known.to_measure().is_empty()
    first = prepared(tmp_path, 20, pool_in(tmp_path / "one", PAIRS[:200]))
    measure = sorted(first.to_measure()["pair_id"])
    grown = prepared(tmp_path, 20, pool_in(tmp_path / "two"))
    assert sorted(grown.to_measure()["pair_id"]) == measure
    of = {p.id: p.question_id for p in PAIRS}
    assert not {of[i] for i in measure} & {of[i] for i, use in uses(grown).items() if use != "evaluation"}


def test_people_are_asked_once_and_with_the_first_others(tmp_path: Path) -> None:
    material = prepared(tmp_path, 30)
    truth = {p.id: p.responses[0].id for p in PAIRS}
    asked: list[list[str]] = []

    def people(cases: Sequence[Case]) -> list[Judgement]:
        asked.append([c.pair.id for c in cases])
        told = oracle(truth)(cases)
        first = min(set(asked[0]) & set(material.to_measure()["pair_id"]))
        return [
            replace(j, better=None, problem="cannot decide") if j.pair_id == first else j for j in told
        ]  # fmt: skip

    with closing(Run(tmp_path / "run", {})) as run:
        both = measuring(run, material, people, resettle=False)
        others = [Case(pair=p, attributes=c.attributes) for p, c in zip(PAIRS[:3], both.cases, strict=False)]  # type: ignore[attr-defined]
        assert [j.pair_id for j in both(others)] == [p.id for p in PAIRS[:3]]
        assert [j.pair_id for j in both(others[:1])] == [PAIRS[0].id]
    assert asked[0] == sorted(asked[0]), "in no order that tells them apart"
    assert len(asked[0]) == 33
    assert asked[1] == [PAIRS[0].id]
    told = material.evaluation()
    assert len(told) == 29, "one was not decided"
    assert all(truth[i] == better for i, better in told.select("pair_id", "chosen").iter_rows())


def test_another_word_is_told_and_measured_by_on_demand(tmp_path: Path) -> None:
    material, file = prepared(tmp_path, 30), tmp_path / "run/judgements.jsonl"
    file.parent.mkdir()
    people = PeopleOnFile(file, tmp_path / "run/queue")
    from assay.curate.verify import add_judgements

    def say(pair_id: str, better: str) -> None:
        add_judgements(file, [Judgement(pair_id=pair_id, better=better, by="ann", kind="human")])

    pairs = {p.id: p for p in PAIRS}
    wanted = sorted(material.to_measure()["pair_id"])
    for i in wanted:
        say(i, pairs[i].responses[0].id)
    with closing(Run(tmp_path / "run", {})) as run:
        assert measuring(run, material, people, resettle=False)([]) == []
        step = tmp_path / "run/seed-0/steps/sets/stage1.json"
        step.parent.mkdir(parents=True)
        step.write_text("{}")
        for _ in range(2):  # an adjudication outranks
            add_judgements(
                file, [Judgement(pair_id=wanted[0], better=pairs[wanted[0]].responses[1].id, by="l", kind="lead")]
            )
        measuring(run, material, people, resettle=False)
        before = dict(material.evaluation().select("pair_id", "chosen").iter_rows())
        assert before[wanted[0]] == pairs[wanted[0]].responses[0].id
        assert step.exists()
        measuring(run, material, people, resettle=True)
        after = dict(material.evaluation().select("pair_id", "chosen").iter_rows())
        assert {i for i in wanted if after[i] != before[i]} == {wanted[0]}
        assert not step.exists()
        step.write_text("{}")
        measuring(run, material, people, resettle=True)
        assert step.exists(), "nothing has changed since"


def test_a_model_that_is_not_there_is_told_before_people_work(tmp_path: Path) -> None:
    config = FlowConfig(recipe="own", embedder="hash", train=TrainConfig(backbone="nosuch"))
    people = PeopleOnFile(tmp_path / "run/j.jsonl", tmp_path / "run/queue")
    with pytest.raises(AssayError, match="cannot load the model 'nosuch'"):
        run_job(tmp_path / "run", config, SmallPool(pairs={p.id: p for p in PAIRS}, wild=[], truth={}), people)
    assert not (tmp_path / "run").exists()


def test_a_run_asks_for_them_in_its_first_round(tmp_path: Path) -> None:
    pairs = {p.id: p for p in PAIRS}
    pool = SmallPool(pairs=pairs, wild=[Judgement(pair_id=i, better=p.responses[0].id, by="wild:a", kind="wild")
                     for i, p in pairs.items()], truth={})  # fmt: skip
    config = FlowConfig(recipe="own", embedder="hash", evaluation_gold=25)
    config = replace(config, stage1=replace(config.stage1, seed_gold=10, seed_silver=10))
    with pytest.raises(AssayError, match="35 of 35 answers missing"):
        run_job(tmp_path / "run", config, pool, PeopleOnFile(tmp_path / "run/j.jsonl", tmp_path / "run/queue"))
    queue = Table(tmp_path / "run/queue", Case).read()
    assert len({c.pair.id for c in queue}) == 35
