"""What stage 2 costs is counted where it can be, and says what is assumed; its gain is set against the paper's rule."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import small_material as small
from assay.curate.book import Gold
from assay.curate.cost import Assumed, Gain, Judging, forecast, gains, of_material, of_pool
from assay.curate.material import FREE
from assay.curate.stage1 import Stage1Config, Stage1Result
from assay.curate.stage2 import Stage2Config, stage2
from assay.pipeline.flow import FlowConfig
from assay.pipeline.planning import stage2_cost
from assay.records import Case, Conversation, Judgement, Pair, digest
from assay.run import Run
from assay.store import Place

FIRST = Stage1Config(iterations=2, seed_gold=100, seed_silver=1_000, per_iteration=500, gold_share=0.1)
JUDGES = Judging(judges=2, samples=3, examples=4, price=(1.0, 4.0))


def chars(p: Pair) -> int:
    return sum(len(m.content) for m in (*p.prompt, *p.responses[0].messages, *p.responses[1].messages))


def test_a_prepared_run_is_counted(tmp_path: Path) -> None:
    said = [j for n, j in enumerate(small.votes(small.PAIRS)) if n % 5]  # on the others nobody says anything
    material = small.material(tmp_path, said=said)
    told = {j.pair_id for j in said}
    open_ = {i for _, f in material.frames(["pair_id"], "stage2") for i in f["pair_id"]}
    wild = [p for p in small.PAIRS if p.id in told & open_]
    size = of_material(material)
    assert (size.pairs, size.chars) == (len(wild), sum(map(chars, wild)))
    assert {p.id for p in size.sample} == {p.id for p in wild}
    before = of_pool(material.pool, small.SPLIT)
    assert before.pairs == material.size("stage2") > size.pairs
    assert "before decontamination" in before.counted


def test_each_number_is_the_product_that_it_says(tmp_path: Path) -> None:
    size = of_material(small.material(tmp_path))
    assumed = Assumed(tokens_per_s=100.0, judged=0.25, reply_tokens=50)

    def count(pairs: Sequence[Pair]) -> int:
        return sum(chars(p) for p in pairs) // 3

    found = forecast(size, FIRST, JUDGES, assumed, ("a model", count))
    assert found.tokens == pytest.approx(size.chars / 3, rel=0.01)
    assert found.gpu_hours == pytest.approx(2 * found.tokens / 100 / 3600)
    assert found.asked == round(size.pairs / 4)
    assert found.requests == found.asked * 6
    assert found.tokens_out == found.requests * 50
    each = found.tokens_in / found.requests
    assert each > 5 * found.tokens / size.pairs, "a prompt has the protocol, four examples and the pair"
    assert found.dollars == pytest.approx((found.tokens_in * 1 + found.tokens_out * 4) / 1e6)
    assert (found.gold, found.silver) == (100 + 2 * 50, 1_000 + 2 * (450 + 15))
    assert found.budget == pytest.approx(0.5 * 200 + 0.05 * 1_930 + 0.01 * size.pairs)
    lines = "\n".join(found.lines())
    for said in (
        f"{size.pairs:,} pairs", "3.00 characters a token, measured on", "a model", "25%, assumed", "2 judges x 3 votes",
        "$0.50 x 200 gold + $0.05 x 1,930 silver + $0.01 x", "gold and silver at most", "$1 in and $4 out a million",
    ):  # fmt: skip
        assert said in lines
    few = forecast(size, FIRST, replace(JUDGES, examples=0), assumed, ("a model", count))
    assert few.tokens_in < found.tokens_in
    known = forecast(size, FIRST, replace(JUDGES, price=(0.0, 0.0)), labelled=(7, 9))
    assert (known.dollars, known.gold, known.silver) == (None, 7, 9)
    assert "not known without --price" in "\n".join(known.lines())
    assert "at most" not in known.told["budget"]
    assert "4 characters a token, assumed: no tokenizer" in "\n".join(known.lines())
    alone = forecast(size, FIRST)
    assert (alone.requests, alone.dollars, alone.tokens_in) == (0, 0.0, 0)


def test_shards_that_are_scored_tell_how_many_pairs_hang_on_judges(tmp_path: Path) -> None:
    material = small.material(tmp_path)

    def score(flat: Sequence[Conversation]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([float(int(digest(c[-1].content)[:4], 16) % 7) for c in flat])

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        return [Judgement(pair_id=c.pair.id, better=small.truth(c.pair), by="j", kind="llm") for c in cases]

    first = Stage1Result(labels=FREE.to_frame(), held=[], gold=Gold(examples=(), vectors=np.zeros((0, 1), np.float16)),
                         best=score, gold_rm=lambda flat: -score(flat), guided=None)  # type: ignore[arg-type]  # fmt: skip
    with closing(Run(tmp_path / "run", {})) as run:
        stage2(run, Stage2Config(), material, first, judge)
    size = of_material(material, Place.of(tmp_path / "run" / "tables"))
    asked = sum(len(f) for f in [run.table("judgements", Judgement).frame()])
    assert (size.scored, size.judged) == (size.pairs, asked)
    found = forecast(size, FIRST, JUDGES)
    assert found.asked == asked > 10
    assert f"of the {size.pairs} that are scored" in found.told["judged"]


def test_a_plan_needs_no_run_and_counts_with_the_models_own_tokens(tmp_path: Path) -> None:
    material = small.material(tmp_path)
    config = FlowConfig(recipe="plan", eval_share=small.SPLIT.eval_share, stage1_share=small.SPLIT.stage1_share)
    planned = stage2_cost(material.pool, config, tmp_path / "none", JUDGES)
    prepared = stage2_cost(material.pool, config, tmp_path, JUDGES)
    assert planned.pairs == prepared.pairs == material.size("stage2")
    assert planned.tokens == prepared.tokens
    elsewhere = replace(material.pool, place=Place.of(os.path.relpath(material.pool.place.url)))
    assert stage2_cost(elsewhere, config, tmp_path, JUDGES) == prepared != planned, "a run's pool, named in another way"
    assert "with the tokenizer of minilm" in planned.told["tokens"]


def test_nothing_costs_nothing(tmp_path: Path) -> None:
    found = forecast(of_material(small.material(tmp_path, said=[])), FIRST, JUDGES, None, ("x", lambda _: 0))
    assert (found.pairs, found.tokens, found.asked, found.requests, found.dollars) == (0, 0, 0, 0, 0.0)
    assert len(found.lines()) == 5


def test_gains_by_hand_and_the_rule_to_stop() -> None:
    def step(pairs: int, value: float, se: float = 0.003) -> dict[str, object]:
        return {"pairs": pairs, "accuracy": {"value": value, "se": se, "n": 1, "clusters": 1.0}}

    steps = {
        "sets/stage1": step(1_000_000, 0.70),
        "sets/filtered": step(5_000_000, 0.78),
        "sets/flipped": step(9_000_000, 0.782),
    }
    one, two = gains(steps)  # type: ignore[arg-type]
    assert (one.name, one.over, one.more, round(one.points, 6)) == ("filtered", "stage1", 4_000_000, 2.0)
    assert one.se == pytest.approx(100 * 0.003 * 2**0.5 / 4)
    assert "above 0.3: the paper goes on" in one.line()
    assert round(two.points, 6) == 0.05
    assert "2.0 points (+1.8 to +2.2) for each million of the 4,000,000 pairs" in one.line()
    assert "not told apart from 0.3" in replace(two, se=0.2).line()
    assert "below 0.3: the paper stops here" in replace(two, se=0.05).line()
    assert gains({"sets/stage1": step(10, 0.5), "sets/flipped": step(10, 0.6)}) == []  # type: ignore[dict-item]
    assert gains({}) == []
    assert Gain(name="a", over="b", more=1, points=1.0, se=0.0).verdict.startswith("above")
