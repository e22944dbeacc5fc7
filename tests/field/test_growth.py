"""A run whose pool grows goes on with all of it, and is told; a run whose pool is another one stops."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from assay.curate.material import Material
from assay.curate.offline import gold_ridge_judge, hash_embedder
from assay.curate.shards import Pool
from assay.curate.stage1 import Tools, stage1
from assay.curate.stage2 import stage2
from assay.curate.verify import add_judgements
from assay.engine import Here
from assay.errors import AssayError
from assay.formats.sources import find
from assay.judges.embedders import Encoder
from assay.pipeline import flow
from assay.pipeline.flow import FlowConfig, prepared
from assay.pipeline.job import meet, run_job
from assay.pipeline.people_on_file import PeopleOnFile
from assay.records import Case, Judge, Judgement, Label
from assay.run import Run
from assay.store import Place
from field import curation
from in_process import assay

CONFIG = FlowConfig(recipe="x", embedder="hash")
KEPT = {"seeds": 1, "of": "x"}


def rows(place: Path, name: str, numbers: range, won: str = "yes") -> Path:
    lost = "no" if won == "yes" else "yes"
    texts = [{"prompt": f"Is {n} prime?", "chosen": f"{won}, {n}", "rejected": f"{lost}, {n}"} for n in numbers]
    (place / f"{name}.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    return place / f"{name}.jsonl"


def add(place: Path, *files: Path) -> Pool:
    code, _, told = assay("pool", "add", *files, "--out", place / "pool", "--parts", 2)
    assert code == 0, told
    return Pool.open(place / "pool")


def index(pool: Pool, run: Path) -> dict[str, dict[str, object]]:
    """What a run makes of a pool, by pair."""
    with closing(Run(run, KEPT)) as opened:
        meet(opened, KEPT, pool)
        material = prepared(opened, CONFIG, pool, Encoder(CONFIG), Here())
        return {row["pair_id"]: row for part in material.slices for row in part.frame().iter_rows(named=True)}


def test_a_pool_that_has_grown_is_gone_on_with(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pool = add(tmp_path, rows(tmp_path, "a", range(40)))
    run = tmp_path / "run"
    before = index(pool, run)
    with closing(Run(run / "seed-0", KEPT)) as seed:  # what a finished run has made of all pairs, and what it collected
        for name in ("labels/stage1", "labels/stage2-x", "judgements/stage1-seed-judges-00000", "sets/raw"):
            (run / f"seed-0/tables/{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
            (run / f"seed-0/tables/{name}.parquet").touch()
        seed.once("final", lambda: {"set": "raw"})
    files = {p: p.stat().st_mtime_ns for name in ("attributes", "vectors") for p in (run / "tables" / name).iterdir()}
    assert len(files) == 4
    capfd.readouterr()
    assert index(pool, run) == before
    assert "has grown" not in capfd.readouterr().err
    grown = add(tmp_path, rows(tmp_path, "b", range(30, 70)))
    assert (grown.pairs, grown.repeats) == (70, 10)
    after = index(grown, run)
    told = " ".join(capfd.readouterr().err.split())
    assert "the pool has grown: 40 pairs when this run began, 70 now; it goes on with all" in told
    assert len(after) == 70
    for pair_id, row in before.items():
        assert after[pair_id] == row, "what was said of the old pairs again agrees with what was said"
    assert all(p.stat().st_mtime_ns == at for p, at in files.items())
    used = {Path(f.url) for s in Material.open(Place.of(run)).slices for f in (s.attributes, s.vectors)}
    assert files.keys() < used, "what does not depend on votes is not made again"
    aside = run / "seed-0/superseded/0"
    assert (aside / "tables/labels/stage1.parquet").exists()
    assert (aside / "tables/labels/stage2-x.parquet").exists()
    assert (aside / "steps/final.json").exists()
    assert (run / "seed-0/tables/judgements/stage1-seed-judges-00000.parquet").exists(), "what was collected stays"
    assert json.loads((run / "steps/prepare/pool.json").read_text())["pairs"] == 70


def test_a_run_that_does_not_say_of_which_pool_it_is_goes_on_with_none(tmp_path: Path) -> None:
    pool = add(tmp_path, rows(tmp_path, "a", range(20)))
    run = tmp_path / "run"
    index(pool, run)
    for spoil in (lambda note: note.write_text("{}"), Path.unlink):
        spoil(run / "shards.json")
        with pytest.raises(AssayError, match=r"shards.json: does not say which pool this run is of"):
            index(pool, run)


def test_a_run_is_not_kept_in_its_pool(tmp_path: Path) -> None:
    pool = add(tmp_path, rows(tmp_path, "a", range(20)))
    before = sorted(p for p in (tmp_path / "pool").rglob("*"))
    with pytest.raises(AssayError, match="this is the pool; a run has a folder of its own"):
        run_job(tmp_path / "pool", CONFIG, pool, PeopleOnFile(tmp_path / "judgements.jsonl", tmp_path / "queue"))
    assert sorted(p for p in (tmp_path / "pool").rglob("*")) == before


def test_later_votes_reach_the_labels_of_old_pairs(tmp_path: Path) -> None:
    pool = add(tmp_path, rows(tmp_path, "a", range(20)))
    before = index(pool, tmp_path / "run")
    assert all(row["original"] and not row["conflict"] for row in before.values())
    grown = add(tmp_path, rows(tmp_path, "b", range(5), won="no"))
    assert (grown.pairs, grown.conflicts) == (20, 5)
    after = index(grown, tmp_path / "run")
    assert sum(bool(row["conflict"]) and row["original"] is None for row in after.values()) == 5


def test_people_are_heard_where_an_import_brought_votes_alone(tmp_path: Path) -> None:
    add(tmp_path, rows(tmp_path, "a", range(20)))
    pool = add(tmp_path, rows(tmp_path, "b", range(5), won="no"))
    assert any(not s.pairs for s in pool.shards)
    people = PeopleOnFile(tmp_path / "judgements.jsonl", tmp_path / "queue")
    known = str(pool.table("index").frame(pool.shards[0].name)["pair_id"][0])
    for pair_id in (known, "f" * 32):
        people.are_of(pool)
        told = Judgement(pair_id=pair_id, better=None, by="ada", kind="human", problem="tie")
        add_judgements(people.judgements, [told])
    with pytest.raises(AssayError, match=r"1 pairs that people judged here are not in"):
        people.are_of(pool)


def test_other_benchmarks_than_those_that_the_pool_was_cleaned_of_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folder, in which a file was changed: the pairs would be cleaned of others than those before."""
    watched = {"a": ["Is 3 prime? Say why, in thirteen words or more, and then say it again."]}
    monkeypatch.setattr(flow, "benchmark_prompts", lambda _: watched)
    pool, config = add(tmp_path, rows(tmp_path, "a", range(20))), replace(CONFIG, benchmarks=tmp_path)
    with closing(Run(tmp_path / "run", KEPT)) as opened:
        material = prepared(opened, config, pool, Encoder(config), Here())
        assert prepared(opened, config, pool, Encoder(config), Here()).slices == material.slices
        watched["a"].append("Is 4?")
        with pytest.raises(AssayError, match="the benchmarks that the pool is cleaned of have changed"):
            prepared(opened, config, pool, Encoder(config), Here())


def test_another_pool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    index(add(tmp_path / "one", rows(tmp_path, "a", range(20))), tmp_path / "run")
    other = add(tmp_path / "two", rows(tmp_path, "b", range(30)))
    with pytest.raises(AssayError, match=r"the pool has changed since this run began: 20 pairs then, 30 now"):
        index(other, tmp_path / "run")
    same = add(tmp_path / "one", tmp_path / "a.jsonl")
    assert len(index(same, tmp_path / "run")) == 20


def test_what_is_nearly_the_same_and_comes_later_takes_no_pair_away(tmp_path: Path) -> None:
    """Copies with one more word: whatever their ids are, the pairs that a run works with stay in it."""
    words = " ".join(f"word{n}" for n in range(80))

    def file(name: str, more: str) -> Path:
        texts = [
            {"prompt": f"Say {n}. {words}", "chosen": f"{words} yes {n}{more}", "rejected": f"no {n}"}
            for n in range(12)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
        return tmp_path / f"{name}.jsonl"

    config = FlowConfig(recipe="x", embedder="hash", near_duplicates=0.5)
    kept = []
    for pool in (add(tmp_path, file("a", "")), add(tmp_path, file("b", " more"))):
        with closing(Run(tmp_path / "run", KEPT)) as opened:
            meet(opened, KEPT, pool)
            material = prepared(opened, config, pool, Encoder(config), Here())
            kept.append({i for part in material.slices for i in part.frame(["pair_id"])["pair_id"]})
    assert kept[0]
    assert kept[0] == kept[1]


def test_a_run_in_an_object_store_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    add(tmp_path, rows(tmp_path, "a", range(20)))
    code, _, told = assay(
        "run", "pool", tmp_path / "pool", "--out", "s3://bucket/run", "--embedder", "hash", cwd=tmp_path
    )
    assert code == 2
    assert "a run needs a folder of a file system" in told.splitlines()[-1]


def test_a_run_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    add(tmp_path, rows(tmp_path, "a", range(20)))
    code, _, told = assay("run", "pool", tmp_path / "pool", "--out", tmp_path / "a.jsonl" / "run", "--embedder", "hash")
    assert code == 2
    assert "a.jsonl/run: nothing can be written here (Not a directory: " in told.splitlines()[-1]


def test_a_pool_of_rejections_alone_begins_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    assert assay("pool", "add", tmp_path / "empty.jsonl", "--out", tmp_path / "pool")[0] == 2
    code, _, told = assay("run", "pool", tmp_path / "pool", "--out", tmp_path / "run", "--embedder", "hash")
    assert code == 2
    assert "no pairs in this pool" in told.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_run_is_no_pool(tmp_path: Path) -> None:
    index(add(tmp_path, rows(tmp_path, "a", range(20))), tmp_path / "run")
    code, _, told = assay("run", "pool", tmp_path / "run", "--out", tmp_path / "other", "--embedder", "hash")
    assert code == 2
    assert told.splitlines()[-1].endswith("a run, not a pool; give the pool that it was made of")


def test_the_note_of_an_import_that_was_dropped_counts_for_nothing(tmp_path: Path) -> None:
    """Killed after its notes and before it took effect; its folder is removed, as the message says, and a file is added."""
    pool = add(tmp_path, rows(tmp_path, "a", range(20)))
    note = json.loads(next((tmp_path / "pool/imports").glob("a-*.json")).read_text())
    b = rows(tmp_path, "b", range(30, 40))
    key = find(str(b))[0].key
    stale = {**note, "file": "b.jsonl", "content": key, "generation": pool.generations}
    (tmp_path / "pool/imports/b-stale.json").write_text(json.dumps(stale))
    add(tmp_path, rows(tmp_path, "c", range(50, 55)))
    assert add(tmp_path, b).pairs == 35


def test_a_finished_curation_grows_and_ends_again(tmp_path: Path) -> None:
    """Both stages to their end, twice as many pairs, both stages again: what people and judges said is kept, and the new
    pairs of stage 2 have labels of reward models that were trained and asked anew."""
    pool = add(tmp_path, curation_rows(tmp_path, "a", range(60)))
    first = curate_pool(pool, tmp_path / "run")
    grown = add(tmp_path, curation_rows(tmp_path, "b", range(60, 120)))
    asked: list[str] = []
    after = curate_pool(grown, tmp_path / "run", asked)
    old = {x.pair_id: x for x in first}
    now = {x.pair_id: x for x in after}
    assert old.keys() < now.keys()
    stage1 = [x for x in first if x.stage == "stage1"]
    assert stage1
    assert all(now[x.pair_id] == x for x in stage1), "what was collected stays, and is labelled alike"
    assert not {x.pair_id for x in stage1} & set(asked)
    assert len([x for x in after if x.stage == "stage2"]) > len([x for x in first if x.stage == "stage2"]) > 10
    again: list[str] = []
    assert curate_pool(grown, tmp_path / "run", again) == after
    assert again == []


def curation_rows(place: Path, name: str, numbers: range) -> Path:
    texts = []
    for pair in map(curation.pair, numbers):
        won = curation.truth(pair)
        texts.append({
            "prompt": pair.prompt[0].content, "chosen": pair.response(won).text,
            "rejected": pair.response(pair.other(won)).text,
        })  # fmt: skip
    (place / f"{name}.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    return place / f"{name}.jsonl"


def curate_pool(pool: Pool, run: Path, asked: list[str] | None = None) -> list[Label]:
    """Both stages with the stand-in trainer of `curation`; returns all labels, and adds whom anybody was asked about."""

    def noted(judge: Judge) -> Judge:
        def answer(cases: Sequence[Case]) -> list[Judgement]:
            if asked is not None:
                asked.extend(c.pair.id for c in cases)
            return judge(cases)

        return answer

    with closing(Run(run, KEPT)) as opened:
        meet(opened, KEPT, pool)
        material = prepared(opened, replace(CONFIG, stage1_share=0.5), pool, Encoder(CONFIG), Here())
        with closing(Run(run / "seed-0", KEPT)) as seed:
            judge = noted(gold_ridge_judge(hash_embedder()))
            tools = Tools(people=noted(oracle_of_texts), judge=judge, train=curation.train, at_once=4)
            found = stage1(seed, curation.CONFIG, material, tools)
            stage2(seed, curation.WILD, material, found, judge, 4)
            return seed.table("labels", Label).read()


def oracle_of_texts(cases: Sequence[Case]) -> list[Judgement]:
    return [
        Judgement(pair_id=c.pair.id, better=curation.truth(c.pair), by="oracle", kind="oracle") for c in cases
    ]  # fmt: skip
