"""Kinds that only measure: nobody is asked about them, nothing is trained on them, and they are told apart."""

from contextlib import closing
from pathlib import Path

import polars as pl
from test_claims import Says, Trains

import small_material as small
from assay.curate.cost import of_pool
from assay.curate.material import Material
from assay.curate.offline import hash_embedder
from assay.curate.prepare import SplitConfig, prepare
from assay.curate.shards import Pool, create
from assay.curate.stage1 import Stage1Config, Tools
from assay.curate.verify import oracle
from assay.engine import Here
from assay.pipeline.flow import FlowConfig, curate
from assay.pipeline.pools import UNSEEN, SmallPool, constraint_pool
from assay.records import Case, Judgement, Label
from assay.run import Run
from assay.store import Place

SPLIT = SplitConfig(eval_share=0.2, stage1_share=0.6, held_share=0.3)
APART = frozenset(p.id for p in small.PAIRS[:40:2])
"""One pair of each of twenty questions: the other one must not slip through."""
QUESTIONS = {p.question_id for p in small.PAIRS if p.id in APART}


def material(folder: Path, unseen: frozenset[str] = APART) -> Material:
    known = {p.id: small.truth(p) for p in small.PAIRS}
    pool = create(folder / "pool", small.PAIRS, small.votes(small.PAIRS), known, parts=3, unseen=unseen)
    out = Place.of(folder / "tables")
    slices = prepare(Pool.open(pool.place), out, SPLIT, {}, hash_embedder(), "hash", Here())
    return Material(pool=pool, slices=slices, out=out)


def used(of: Material) -> dict[str, set[str]]:
    frames = pl.concat([f.select("use", "question_id") for _, f in of.frames(["question_id"])])
    return {str(use): set(rows["question_id"]) for (use,), rows in frames.group_by("use")}


def test_all_pairs_of_an_unseen_question_measure_and_nothing_else_does(tmp_path: Path) -> None:
    whole, parted = used(material(tmp_path / "none", frozenset())), used(material(tmp_path / "some"))
    assert len(QUESTIONS) == 20
    assert parted["unseen"] == QUESTIONS
    assert "unseen" not in whole
    for use in ("evaluation", "stage1", "stage2"):
        assert parted[use] == whole[use] - QUESTIONS, "who is unseen changes nothing for the others"
    of = material(tmp_path / "some")
    assert set(of.evaluation(use="unseen")["question_id"]) == QUESTIONS
    assert len(of.evaluation(use="unseen")) == 40
    assert set(of.evaluation()["question_id"]) == parted["evaluation"]


def test_nobody_is_asked_about_an_unseen_question_and_no_label_is_of_one(tmp_path: Path) -> None:
    of, asked = material(tmp_path), list[Case]()
    right = oracle({p.id: small.truth(p) for p in small.PAIRS})

    def people(cases: list[Case]) -> list[Judgement]:
        asked.extend(cases)
        return right(cases)

    judge, train = Says(), Trains()
    config = FlowConfig(recipe="unseen", stage1=Stage1Config(
        iterations=1, seed_gold=12, seed_silver=12, per_iteration=10, gold_share=0.4, k_max=4
    ))  # fmt: skip
    with closing(Run(tmp_path / "seed-0", {})) as run:
        curate(run, config, of, Tools(people=people, judge=judge, train=train), 0)  # type: ignore[arg-type]
        labels = run.table("labels", Label).read()
    of_pair = {p.id: p.question_id for p in small.PAIRS}
    told = {of_pair[label.pair_id] for label in labels}
    shown = {e.pair.question_id for c in (*judge.asked, *asked) for e in c.examples}
    assert len(told) > 20
    assert not told & QUESTIONS
    assert not {c.pair.question_id for c in (*judge.asked, *asked)} & QUESTIONS
    assert not shown & QUESTIONS
    for name, labels_of in train.sets.items():
        assert not {of_pair[i] for i in labels_of.frame()["pair_id"]} & QUESTIONS, name


def test_a_pool_remembers_which_pairs_are_unseen(tmp_path: Path) -> None:
    whole = SmallPool(pairs={p.id: p for p in small.PAIRS}, wild=small.votes(small.PAIRS), truth={})
    none, some = whole.put(Place.of(tmp_path / "none")), SmallPool(
        pairs=whole.pairs, wild=whole.wild, truth={}, unseen=APART
    ).put(Place.of(tmp_path / "some"))  # fmt: skip
    assert [s.content for s in none.shards] == [s.content for s in some.shards]
    assert [s.said for s in none.shards] != [s.said for s in some.shards], (
        "a run of the one does not go on with the other"
    )
    split = SplitConfig(eval_share=0.0, stage1_share=0.5)
    assert of_pool(some, split).pairs < of_pool(none, split).pairs


def test_three_kinds_of_the_embedded_pool_are_unseen() -> None:
    pool = constraint_pool()
    prompts = [pool.pairs[i].prompt[-1].content for i in pool.unseen]
    ends = ("Begin your answer with the word", "Do not use any digits.", "End your answer with a question.")
    assert len(UNSEEN) == 3
    assert len(prompts) == 644
    assert all(any(e in p for e in ends) for p in prompts)
    others = [p.prompt[-1].content for i, p in pool.pairs.items() if i not in pool.unseen]
    assert not any(e in p for e in ends for p in others)
