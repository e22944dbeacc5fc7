"""What judging commands and `bench` read: pools, runs, files of people, earlier folders of judges; text by part."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from assay.cli import main
from assay.curate.rules import rule_attributes
from assay.curate.shards import Pool, create
from assay.curate.verify import add_judgements
from assay.errors import AssayError
from assay.judges import annotate as judging
from assay.judges.annotate import Guide, JudgeConfig, keeps_to, lowest, targets
from assay.judges.sources import read_material
from assay.judges.votes import lengths
from assay.pipeline.own_benchmarks import own_set
from assay.records import Attributes, Judgement, Pair, Response, user
from assay.run import Run
from assay.store import Place
from assay.tables import Table, plain
from pools import better, old_layout, pair, small_pool, small_run, wild

CONFIG = JudgeConfig(embedder="hash", examples=3)


def human(of: Pair, chosen: str) -> Judgement:
    return Judgement(pair_id=of.id, better=chosen, by="ann", kind="human")


def gold_file(path: Path, pairs: list[Pair], n: int) -> Path:
    add_judgements(path, [human(p, better(k)) for k, p in enumerate(pairs[:n])])
    return path


def test_a_pool_is_read_without_its_text(tmp_path: Path) -> None:
    pool, pairs = small_pool(tmp_path / "pool")
    given = read_material(tmp_path / "pool", [gold_file(tmp_path / "gold.jsonl", pairs, 10)])
    assert given.gold == {p.id: better(k) for k, p in enumerate(pairs[:10])}
    assert set(given.pairs.rows["pair_id"]) == {p.id for p in pairs}
    assert given.pairs.files == tuple(pool.table("pairs").file(s.name) for s in pool.shards)
    wanted = [pairs[33].id, pairs[2].id, "0" * 32]
    assert given.pairs.of(wanted) == {pairs[33].id: pairs[33], pairs[2].id: pairs[2]}
    assert len(given.attributes) == 0


def test_a_run_gives_the_pairs_that_it_kept_with_their_attributes(tmp_path: Path) -> None:
    seen = "How many lighthouses stand on the coast of the whole northern island, counting all that were ever lit?"
    dirty = Pair.of((user(seen),), Response.of("nine"), Response.of("ten"))
    pairs = [pair(k) for k in range(30)]
    pool = create(tmp_path / "run/pool", [*pairs, dirty], [wild(p, better(k)) for k, p in enumerate(pairs)],
                  {p.id: better(k) for k, p in enumerate(pairs)}, parts=2)  # fmt: skip
    material = small_run(tmp_path / "run", pool, {"bench": [seen]})
    assert any((material.out / "contamination").names(".parquet"))
    given = read_material(tmp_path / "run", [tmp_path / "run"])
    assert set(given.pairs.rows["pair_id"]) == {p.id for p in pairs}
    assert given.gold == {p.id: better(k) for k, p in enumerate(pairs)}, "the truth"
    assert given.pairs.of([pairs[4].id]) == {pairs[4].id: pairs[4]}
    assert given.attributes.of([p.id for p in pairs]) == {p.id: rule_attributes(p) for p in pairs}


def test_people_of_a_run_are_gold_where_the_truth_is_not_known(tmp_path: Path) -> None:
    pool, pairs = small_pool(tmp_path / "pool")
    small_run(tmp_path / "run", pool)
    table = Table(tmp_path / "run/seed-0/tables/judgements", Judgement)
    table.write("stage1-seed-people-00000", [human(pairs[3], better(3))])
    table.write("stage1-seed-judges-00000", [Judgement(pair_id=pairs[4].id, better=better(4), by="llm:m", kind="llm")])
    assert read_material(tmp_path / "pool", [tmp_path / "run"]).gold == {pairs[3].id: better(3)}
    add_judgements(tmp_path / "run/judgements.jsonl", [human(pairs[3], pairs[3].other(better(3)))])
    told = read_material(tmp_path / "pool", [tmp_path / "run"]).gold
    assert told == {pairs[3].id: pairs[3].other(better(3))}, "what they say today"


def test_the_votes_of_a_pool_are_gold_when_it_is_given_as_gold(tmp_path: Path) -> None:
    _, pairs = small_pool(tmp_path / "pool")
    gold = read_material(tmp_path / "pool", [tmp_path / "pool"]).gold
    assert gold == {p.id: p.other(better(k)) if k % 5 == 0 else better(k) for k, p in enumerate(pairs)}
    create(tmp_path / "silent", [pair(99)], [])
    with pytest.raises(AssayError, match="no labels here"):
        read_material(tmp_path / "pool", [tmp_path / "silent"])
    with pytest.raises(AssayError, match="no pair of --gold"):
        read_material(tmp_path / "silent", [gold_file(tmp_path / "gold.jsonl", pairs, 3)])


def test_gold_of_another_pool_comes_with_its_text(tmp_path: Path) -> None:
    small_pool(tmp_path / "pool", n=10)
    others = [pair(k) for k in range(5, 60)]
    create(tmp_path / "gold", others, [], {p.id: better(k) for k, p in zip(range(5, 60), others, strict=True)}, parts=2)
    given = read_material(tmp_path / "pool", [tmp_path / "gold"])
    assert len(given.pairs) == 60
    assert given.pairs.of([pair(0).id, pair(58).id]) == {pair(0).id: pair(0), pair(58).id: pair(58)}
    assert len(given.gold) == 55


def test_a_response_that_a_pair_does_not_have_is_refused(tmp_path: Path) -> None:
    _, pairs = small_pool(tmp_path / "pool")
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps(plain(human(pairs[0], "f" * 32))) + "\n")
    with pytest.raises(AssayError, match="line 1: the judgement by ann names a response"):
        read_material(tmp_path / "pool", [gold])


def test_targets_are_drawn_by_content_and_fit(tmp_path: Path) -> None:
    pool, pairs = small_pool(tmp_path / "pool")
    given = read_material(tmp_path / "pool", [gold_file(tmp_path / "gold.jsonl", pairs, 10)])
    every = targets(given, CONFIG)
    assert every["pair_id"].to_list() == [p.id for p in pool.table("pairs").read()], "in the order on disk"  # type: ignore[attr-defined]
    few = lowest(every, 7)
    assert set(few["pair_id"]) == set(lowest(every.sample(fraction=1.0, shuffle=True, seed=1), 7)["pair_id"])
    assert len(targets(given, JudgeConfig(embedder="hash", pairs="gold"))) == 10
    assert len(targets(given, JudgeConfig(embedder="hash", pairs="open"))) == 30
    short = targets(given, JudgeConfig(embedder="hash", max_chars=int(every["chars"].min())))  # type: ignore[arg-type]
    assert 0 < len(short) < 40
    with pytest.raises(AssayError, match="no pairs to judge: 40 of the kind 'all', 0 of them short enough"):
        targets(given, JudgeConfig(embedder="hash", max_chars=1))


@pytest.mark.parametrize("how", ["nearest", "random", "none"])
def test_examples_are_gold_of_other_questions_for_gold_pairs(how: str, tmp_path: Path) -> None:
    pairs = [pair(k, question=k // 4) for k in range(40)]
    create(tmp_path / "pool", pairs, [])
    given = read_material(tmp_path / "pool", [gold_file(tmp_path / "gold.jsonl", pairs, 20)])
    config = JudgeConfig(embedder="hash", examples=3, guidance=how)  # type: ignore[arg-type]
    chosen = targets(given, config)
    cases = Guide.of(given, config).cases(chosen)
    assert [c.pair.id for c in cases] == chosen["pair_id"].to_list()
    for case in cases:
        assert len(case.examples) == (0 if how == "none" else 3)
        assert case.pair not in [e.pair for e in case.examples]
        asked = {e.pair.question_id for e in case.examples}
        assert case.pair.id not in given.gold or case.pair.question_id not in asked
        assert all(given.gold[e.pair.id] == e.better for e in case.examples)
    parts = [c for at in range(0, 40, 7) for c in Guide.of(given, config).cases(chosen[at : at + 7])]
    assert parts == cases, "whatever the parts"


def test_a_folder_of_judges_is_a_pool_that_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "SHARD", 4)
    monkeypatch.setattr(judging, "PREPARED", 12)
    _, pairs = small_pool(tmp_path / "pool")
    given = read_material(tmp_path / "pool", [gold_file(tmp_path / "gold.jsonl", pairs, 10)])
    chosen = targets(given, CONFIG)
    with closing(Run(tmp_path / "out", keeps_to(given, chosen, [], CONFIG))) as run:
        told = judging._prepared(run, given, chosen, CONFIG)
        assert told == {"pairs": 40, "gold": 10, "examples": 120}
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/tables").rglob("*.parquet")}
        (tmp_path / "out/pool/pool.json").unlink()
        assert judging._prepared(run, given, chosen, CONFIG) == told, "after a kill"
        assert {p: p.stat().st_mtime_ns for p in before} == before
        assert sum(len(judging._cases(run, s)) for s in range(0, 40, 4)) == 40
    pool = Pool.open(tmp_path / "out/pool")
    assert (pool.pairs, len(pool.shards)) == (40, 4)
    assert lengths(pool) == {p.id: {r.id: len(r.text) for r in p.responses} for p in pairs}
    again = read_material(tmp_path / "out", [tmp_path / "out"])
    assert again.gold == given.gold
    assert again.pairs.of([pairs[7].id]) == {pairs[7].id: pairs[7]}
    assert again.attributes.of([pairs[7].id]) == {pairs[7].id: rule_attributes(pairs[7])}


def test_a_pool_is_measured_on_by_truth_then_by_all_that_was_said(tmp_path: Path) -> None:
    pairs = [pair(k) for k in range(12)]
    votes = [wild(p, better(k)) for k, p in enumerate(pairs[:8])] + [wild(pairs[8], None)]
    votes += [wild(pairs[1], pairs[1].other(better(1)), f"s{n}") for n in range(2)]
    create(tmp_path / "pool", pairs, votes, {pairs[0].id: pairs[0].other(better(0))}, parts=3)
    add_judgements(tmp_path / "pool/judgements.jsonl", [human(pairs[2], pairs[2].other(better(2)))])
    found = own_set(tmp_path / "pool")
    chosen = {p.pair_id: p.chosen.id for p in found.preferences}
    turned = {0: "the truth", 1: "most votes", 2: "a person"}
    assert chosen == {p.id: p.other(better(k)) if k in turned else better(k) for k, p in enumerate(pairs[:8])}
    assert found.notes == ("left out: 3 pairs without a label, 1 pairs that are ties, or on which nobody decided",)
    small_run(tmp_path / "run", Pool.open(tmp_path / "pool"))
    run = {p.pair_id: p.chosen.id for p in own_set(tmp_path / "run").preferences}
    assert run.items() <= chosen.items() | {(pairs[2].id, better(2))}
    assert run
    create(tmp_path / "silent", pairs, [])
    with pytest.raises(AssayError, match="no labelled pairs to measure on"):
        own_set(tmp_path / "silent")


def test_of_a_folder_of_many_things_the_most_frequent_reasons_are_told_and_the_others_counted(tmp_path: Path) -> None:
    for n in range(6):
        rows = [json.dumps({f"column{n}": "x"})] * (n + 1)
        (tmp_path / f"{n}.jsonl").write_text("\n".join(rows))
    with pytest.raises(AssayError) as told:
        own_set(tmp_path)
    assert str(told.value).count("has the fields of no known layout") == 3
    assert "6 for 3 other reasons" in str(told.value)


def test_attributes_of_an_earlier_command_are_found(tmp_path: Path) -> None:
    _, pairs = small_pool(tmp_path / "pool")
    told = [replace(rule_attributes(p), by="llm:m") for p in pairs]
    table = Table(tmp_path / "told/tables/attributes", Attributes)
    table.write("00000000", told[:25])
    table.write("00000500", told[25:30])
    given = read_material(tmp_path / "pool", attributes=tmp_path / "told")
    assert given.attributes.of([pairs[27].id, pairs[33].id]) == {pairs[27].id: told[27]}
    known = judging.described(given, {p.id: p for p in pairs})
    assert [known[p.id].by for p in pairs] == ["llm:m"] * 30 + ["rules"] * 10
    with pytest.raises(AssayError, match="no attributes here"):
        read_material(tmp_path / "pool", attributes=tmp_path / "none")


def test_a_pool_in_an_object_store_is_judged_too() -> None:
    pairs = [pair(k) for k in range(6)]
    there = create(Place.of("memory://judged/pool"), pairs, [])
    given = read_material("memory://judged/pool")
    assert given.pairs.of([pairs[1].id]) == {pairs[1].id: pairs[1]}
    there.place.remove()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("annotate OLD --judge m@http://127.0.0.1:9/v1 --out OUT", "earlier version of Assay made this pool"),
        ("annotate NEW --judge m@http://127.0.0.1:9/v1 --out OLD", "earlier version of Assay made this folder"),
        (
            "annotate NEW --gold OLD --judge m@http://127.0.0.1:9/v1 --out OUT",
            "earlier version of Assay made this pool",
        ),
        ("annotate report OLD", "earlier version of Assay made this folder"),
        ("attributes OLD --server m@http://127.0.0.1:9/v1 --out OUT", "earlier version of Assay made this pool"),
        ("guidance OLD --judge m@http://127.0.0.1:9/v1 --out OUT", "earlier version of Assay made this pool"),
        ("show OLD ab", "earlier version of Assay made this pool"),
        ("show OLDRUN ab", "earlier version of Assay made this run"),
        ("annotate OLDRUN --judge m@http://127.0.0.1:9/v1 --out OUT", "earlier version of Assay made this run"),
        ("report OLDRUN", "earlier version of Assay made this run"),
    ],
)
def test_folders_of_an_earlier_version_are_told_by_every_command(
    line: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old_layout(tmp_path / "OLD")
    (old_layout(tmp_path / "OLDRUN") / "config.json").write_text("{}")
    small_pool(tmp_path / "NEW", n=4)
    words = [str(tmp_path / w) if w in ("OLD", "OLDRUN", "NEW", "OUT") else w for w in line.split()]
    monkeypatch.setattr("sys.argv", ["assay", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "OUT").exists()


def test_old_pools_are_not_measured_on(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="earlier version of Assay made this pool"):
        own_set(old_layout(tmp_path / "old"))
    small_pool(tmp_path / "pool", n=4)
    (tmp_path / "pool/importing").mkdir()
    (tmp_path / "pool/importing/plan.json").write_text("{}")
    with pytest.raises(AssayError, match="cut off"):
        own_set(tmp_path / "pool")
    with pytest.raises(AssayError, match="cut off"):
        read_material(tmp_path / "pool")
