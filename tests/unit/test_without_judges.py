"""One's own labels without a judge: kept or dropped, never turned round unasked; judges that are no better than a coin stop
the run; and servers are probed before anybody works."""

import re
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_claims import Says, Trains

import small_material as small
from assay.curate.judge_check import Check
from assay.curate.material import Material
from assay.curate.prepare import SplitConfig
from assay.curate.shares import share
from assay.curate.stage1 import Stage1Config, Tools
from assay.curate.verify import oracle
from assay.errors import AssayError
from assay.llm.chat import ChatConfig
from assay.llm.client import Server
from assay.llm.outage import probe
from assay.pipeline.flow import Curated, FlowConfig, curate
from assay.pipeline.job import run_job
from assay.pipeline.people_on_file import PeopleOnFile
from assay.pipeline.pools import SmallPool
from assay.pipeline.product import Product, product_sets
from assay.records import Case, Judge, Judgement, Label
from assay.reward.config import LossConfig
from assay.run import Run
from assay.tables import Table
from outage_server import OutageServer

PAIRS = {p.id: p for p in (small.pair(2 * n) for n in range(240))}
"""Each of a question of its own."""
VOTES = small.votes(list(PAIRS.values()))
SPLIT = SplitConfig(eval_share=0.1, stage1_share=0.8, held_share=0.1)
SIZES = Stage1Config(
    iterations=1, seed_gold=100, checked=102, seed_silver=12, per_iteration=10, gold_share=0.4, k_max=4, examples=2
)
CONFIG = FlowConfig(recipe="own", stage1=SIZES)


def own(
    folder: Path, judge: Judge | None, said: list[Judgement] | None = None, **more: bool
) -> tuple[Material, Curated]:
    material = small.material(folder, list(PAIRS.values()), split=SPLIT, said=VOTES if said is None else said)
    people = oracle({i: small.truth(p) for i, p in PAIRS.items()})
    with closing(Run(folder / "seed-0", {})) as run:
        tools = Tools(people=people, judge=judge, train=Trains(), at_once=5, **more)
        return material, curate(run, CONFIG, material, tools, 0)


def labels(folder: Path) -> list[Label]:
    return Table(folder / "seed-0/tables/labels", Label).read()


def test_without_a_judge_no_machine_turns_a_label_round(tmp_path: Path) -> None:
    silent = list(PAIRS)[::9]
    material, curated = own(tmp_path, None, [v for v in VOTES if v.pair_id not in silent])
    told = labels(tmp_path)
    machines = [label for label in told if label.tier != "gold"]
    assert {label.fate for label in machines} == {"kept", "dropped"}
    assert all(label.chosen in (None, small.source_says(PAIRS[label.pair_id])) for label in machines)
    first = [label for label in machines if label.stage == "stage1"]
    assert {label.tier for label in first} == {"wild"}
    assert {label.reason for label in first if label.chosen} == {"the source's own label, not checked"}
    assert {label.pair_id for label in first if not label.chosen} == {label.pair_id for label in first} & set(silent)
    assert any(label.fate == "relabelled" for label in told), "people may"
    asked = pl.concat([f for _, f in material.frames(["pair_id"], "stage2")])["pair_id"]
    assert sorted(asked) == sorted(label.pair_id for label in told if label.stage == "stage2"), "each has its fate"
    shards = Table(tmp_path / "seed-0/tables/judgements", Judgement).shards()
    assert {re.sub(r"-\d+$", "", s) for s in shards} == {"stage1-seed-people", "stage1-it0-people"}, "nobody else spoke"
    with closing(Run(tmp_path / "seed-0", {})) as run:
        product = Product(run=run, config=CONFIG, material=material, curated=curated, train=Trains(), seed=0)
        sets = product_sets(product)
    assert len(sets["stage1"]) > sum(label.tier == "gold" for label in told if label.chosen) - len(curated.stage1.held)
    assert len(sets["flipped"]) == len(sets["filtered"]) > len(sets["stage1"])


def test_an_offline_judge_works_where_it_is_asked_for_alone(tmp_path: Path) -> None:
    """As a whole job, up to the people: which judge the run has is in its config, and unasked there is none."""
    pool = SmallPool(pairs=PAIRS, wild=VOTES, truth={})
    for asked in (False, True):
        sizes, out = replace(SIZES, seed_gold=8), tmp_path / str(asked)
        config = FlowConfig(recipe="own", embedder="hash", offline_judge=asked, stage1=sizes)
        with pytest.raises(AssayError, match="answers missing"):
            run_job(out, config, pool, PeopleOnFile(out / "judgements.jsonl", out / "queue"))
        assert ('"judge": "none"' in (out / "config.json").read_text()) is not asked
    with pytest.raises(AssayError, match="answers missing"):  # the claims are added to a run, and are no other config
        run_job(out, replace(config, claims=True), pool, PeopleOnFile(out / "judgements.jsonl", out / "queue"))
    with pytest.raises(AssayError, match="name one, or add --offline-judge"):
        run_job(tmp_path / "none", replace(config, offline_judge=False, claims=True), pool, lambda _: [])
    assert not (tmp_path / "none").exists()


def test_a_run_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    """A pool too small for its settings, a tracker that there is none of: the same folder takes the next try."""
    some = dict(list(PAIRS.items())[:40])
    pool = SmallPool(pairs=some, wild=[v for v in VOTES if v.pair_id in some], truth={})
    tiny = FlowConfig(recipe="own", embedder="hash", stage1=replace(SIZES, seed_gold=100))
    out = tmp_path / "runs" / "own"

    def run(config: FlowConfig, **more: Any) -> None:
        run_job(out, config, pool, PeopleOnFile(out / "judgements.jsonl", out / "queue"), **more)

    for refused, config, more in (
        ("none of them is left", tiny, {}), ("unknown tracker 'tensorbord'", tiny, {"trackers": ["tensorbord"]}),
        ("no pair of the pool has a strength", replace(tiny, train=replace(tiny.train, loss=LossConfig(margin=True))), {}),
        ("no benchmark here", replace(tiny, benchmarks=tmp_path), {}),
    ):  # fmt: skip
        with pytest.raises(AssayError, match=refused):
            run(config, **more)
        assert not out.exists(), refused
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(AssayError, match="none of them is left"):
        run(tiny)
    assert [p.name for p in out.iterdir()] == ["notes.txt"]
    fits = replace(tiny, stage1=replace(SIZES, seed_gold=2, seed_silver=2))
    with pytest.raises(AssayError, match="answers missing"):
        run(fits)
    with pytest.raises(AssayError, match="unknown tracker"):
        run(fits, trackers=["tensorbord"])
    assert (out / "asked.json").exists(), "a run that has begun is kept"


def coin(cases: Sequence[Case]) -> list[Judgement]:
    return [
        Judgement(pair_id=c.pair.id, better=c.pair.responses[int(c.pair.id[9], 16) % 2].id, by="coin", kind="offline")
        for c in cases
    ]


def test_judges_that_are_no_better_than_a_coin_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"agree with people's gold on .* %.*n \d\d.*not shown .* coin.*--at-chance"):
        own(tmp_path, coin)
    judged = Table(tmp_path / "seed-0/tables/judgements", Judgement)
    assert not any("judges" in shard for shard in judged.shards()), "before they label anything"
    with pytest.raises(AssayError, match="not shown to be better than a coin"):
        own(tmp_path / "again", coin)
    _, curated = own(tmp_path / "on", coin, at_chance=True)
    assert len(curated.stage1.guided)


def test_of_little_gold_judges_that_agree_in_no_more_than_half_stop_the_run_too(tmp_path: Path) -> None:
    """A user with 20 gold questions learns it too; of fewer than a dozen nothing is made, and one who agrees more often
    than not goes on."""
    for right, gold, stopped in ((10, 20, True), (8, 20, True), (13, 20, False), (5, 11, False), (6, 12, True)):
        with closing(Run(tmp_path / f"{right}-{gold}", {})) as run:
            check = Check.__new__(Check)
            check.run = run
            hits = pl.DataFrame({"question_id": [str(n) for n in range(gold)], "hit": [n < right for n in range(gold)]})
            check.agreement = lambda hits=hits: share([hits])  # type: ignore[method-assign]
            with pytest.raises(AssayError, match="no more often than a coin") if stopped else nullcontext():
                check.stop(at_chance=False)
            check.stop(at_chance=True)


def test_judges_are_compared_with_people_once_and_label_nothing_by_that(tmp_path: Path) -> None:
    judge = Says()
    _, curated = own(tmp_path, judge)
    checks = Table(tmp_path / "seed-0/tables/checks", Judgement).read()
    gold = {label.pair_id: label for label in labels(tmp_path) if label.tier == "gold"}
    assert len(checks) == len({j.pair_id for j in checks}) < len(gold)
    assert {j.pair_id for j in checks} <= set(gold)
    assert all(label.by == ("oracle",) for label in gold.values())
    held = {p.pair_id for p in curated.stage1.held}
    assert held
    assert not held & {j.pair_id for j in checks}, "judges are asked about no held question"
    shown = [c for c in judge.asked if c.pair.id in gold]
    assert len(shown) == len(checks) > 80
    assert all(e.pair.question_id != c.pair.question_id for c in shown for e in c.examples)
    with closing(Run(tmp_path / "seed-0", {})) as run:
        told = [run.result(f"stage1/judges-{turn}") for turn in ("seed", "it0")]
        second = run.result("stage2/judges")
    decided = [j for j in checks if j.better]
    right = sum(j.better == small.truth(PAIRS[j.pair_id]) for j in decided)
    assert (told[1]["agreement"]["n"], told[1]["agreement"]["value"]) == (
        len(decided),
        pytest.approx(right / len(decided)),
    )
    assert told[0]["agreement"]["n"] <= told[1]["agreement"]["n"]
    silver = [label for label in labels(tmp_path) if label.tier == "silver" and label.chosen]
    turned = sum(label.fate == "relabelled" for label in silver) / len(silver)
    assert (told[1]["overturned"]["n"], told[1]["overturned"]["value"]) == (len(silver), pytest.approx(turned))
    assert 0 < second["overturned"]["value"] <= 1
    assert second["overturned"]["n"] <= second["asked"]


def test_of_less_gold_nothing_is_made(tmp_path: Path) -> None:
    few = replace(CONFIG, stage1=replace(SIZES, checked=11))
    material = small.material(tmp_path, list(PAIRS.values()), VOTES, split=SPLIT)
    people = oracle({i: small.truth(p) for i, p in PAIRS.items()})
    with closing(Run(tmp_path / "seed-0", {})) as run:
        curate(run, few, material, Tools(people=people, judge=coin, train=Trains(), at_once=5), 0)
        told = run.result("stage1/judges-it0")["agreement"]
    assert told["n"] == 11
    assert told["value"] < 0.8


def test_servers_are_probed_before_anybody_is_asked(tmp_path: Path) -> None:
    pool = SmallPool(pairs=PAIRS, wild=VOTES, truth={})
    config = FlowConfig(recipe="own", embedder="hash", stage1=replace(SIZES, seed_gold=8))
    out = tmp_path / "run"
    people = PeopleOnFile(out / "judgements.jsonl", out / "queue")
    with OutageServer() as alive:
        chat = Server(ChatConfig(url=alive.url, model="m"), out / "replies.sqlite")
        alive.fail("401", after=0)
        with pytest.raises(AssayError, match=r"answers nothing \(http 401.*nobody was asked yet"):
            run_job(out, config, pool, people, judge=Says(), accepted=lambda: probe([chat]))
        assert not (out / "queue").exists()
        assert not (out / "config.json").exists(), "another judge may still be named"
        alive.recover()
        for _ in range(2):
            with pytest.raises(AssayError, match="answers missing"):
                run_job(out, config, pool, people, judge=Says(), accepted=lambda: probe([chat]))
        assert sum(alive.answered.values()) == 1, "what has answered is not asked again"
