"""Labels of pools and of finished runs: export and training take the same ones, whatever files are called.

However often a process is killed; and a sweep draws its parts of a set so that small ones lie within large ones.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import small_material as small
from assay import tables
from assay.curate import views
from assay.curate.material import Material
from assay.curate.pool import add
from assay.curate.prepare import bare
from assay.curate.shards import Pool, create
from assay.curate.views import LabelSet, drawn, label_set
from assay.engine import Cores, Here
from assay.errors import AssayError
from assay.pipeline import finished, sweep
from assay.pipeline.finished import export, labels_of, read_run, training_data
from assay.pipeline.flow import FlowConfig
from assay.pipeline.settings import SweepConfig
from assay.records import Conversation, Preference, Scorer, question_id
from assay.reward.data import Pairs
from assay.run import Run, jsonable
from assay.store import Place
from assay.tables import Table
from pools import write_primes


def everything(pairs: Pairs) -> dict[str, Preference]:
    rows = {p.pair_id: p for _, p in pairs.take(0, 0, range(len(pairs)))}
    assert len(rows) == len(pairs)
    return rows


def exported(folder: Path) -> dict[str, Preference]:
    rows = Table(folder, Preference).read()
    assert len({p.pair_id for p in rows}) == len(rows), "none comes twice"
    return {p.pair_id: p for p in rows}


# -- pools ----------------------------------------------------------------------------------------------------------


def files(place: Path, named: dict[str, list[tuple[int, str]]]) -> list[str]:
    """JSONL files of pairs, a source each: which of "yes" and "no" is chosen for the questions of these numbers."""
    place.mkdir(parents=True)
    for name, rows in named.items():
        write_primes(place / f"{name}.jsonl", rows)
    return [str(place / f"{name}.jsonl") for name in named]


def test_a_pool_is_labelled_alike_whatever_its_files_are_called(tmp_path: Path) -> None:
    """Ten pairs on which two sources contradict each other, ten on which they agree, ten that only one has."""
    yes = [(n, "yes") for n in range(20)]
    no = [(n, "no" if n < 10 else "yes") for n in range(30)]
    found = []
    for number, named in enumerate(
        ({"alpha": yes, "beta": no}, {"beta": no, "alpha": yes}, {"zeta": yes[::-1], "beta": no})
    ):
        place = tmp_path / str(number)
        for at_once in files(place / "files", named) if number else [files(place / "files", named)]:
            add([at_once] if number else at_once, place / "pool", say=lambda _: None, parts=2)
        assert export(place / "pool", place / "out", "raw") == 20
        pairs, gold = training_data(place / "pool", "raw", None, place / "data")
        assert everything(pairs) | {p.pair_id: p for p in gold} == exported(place / "out")
        assert not everything(pairs).keys() & {p.pair_id for p in gold}
        found.append(exported(place / "out"))
    assert found[0] == found[1] == found[2], "a contradicted pair has no label"
    assert all(p.chosen.text.startswith("yes") for p in found[0].values())


def test_votes_that_came_later_count(tmp_path: Path) -> None:
    for n, (won, numbers) in enumerate((("yes", range(12)), ("yes", range(11, -1, -1)), ("no", range(12)))):
        new = files(tmp_path / str(n), {f"file{n}": [(k, won) for k in numbers]})
        add(new, tmp_path / "pool", say=lambda _: None)
    assert export(tmp_path / "pool", tmp_path / "out", "raw") == 12
    assert {(p.chosen.text[:3], round(p.certainty, 6)) for p in exported(tmp_path / "out").values()} == {
        ("yes", 0.666667)
    }


def pool(folder: Path, parts: int = 3) -> Path:
    create(folder, small.PAIRS, small.votes(small.PAIRS), parts=parts)
    return folder


def test_engines_parts_and_stores_change_nothing(tmp_path: Path) -> None:
    one, cores = pool(tmp_path / "one", 1), Cores(2)
    with closing(cores):
        export(pool(tmp_path / "three"), tmp_path / "cores", "raw", cores)
    export(one, tmp_path / "out", "raw")
    rows = exported(tmp_path / "out")
    assert rows == exported(tmp_path / "cores")
    assert {i: p.chosen.id for i, p in rows.items()} == {p.id: small.source_says(p) for p in small.PAIRS}
    create(Place.of("memory://bucket/finished"), small.PAIRS, small.votes(small.PAIRS), parts=2)
    export("memory://bucket/finished", tmp_path / "remote", "raw")
    assert exported(tmp_path / "remote") == rows
    found, held = training_data("memory://bucket/finished", "raw", None, tmp_path / "data")
    assert everything(found) | {p.pair_id: p for p in held} == rows
    Place.of("memory://bucket/finished").remove()
    again, same = training_data(one, "raw", None, tmp_path / "other")
    assert (again.identity()["pairs"]["n"], sorted(p.pair_id for p in same)) == (
        len(found),
        sorted(p.pair_id for p in held),
    )


def test_a_killed_export_is_not_trained_on_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    place, join, calls = pool(tmp_path / "pool"), views.joined, list[str]()

    def dies(item: Any) -> Any:
        calls.append(item[0].name)
        if len(calls) == 2:
            raise Killed
        return join(item)

    monkeypatch.setattr(views, "joined", dies)
    with pytest.raises(Killed):
        export(place, tmp_path / "out", "raw")
    assert not (tmp_path / "out").exists()
    assert export(place, tmp_path / "out", "raw") == 120
    assert calls == ["0000-00", "0001-00", "0001-00", "0002-00"], "what was written is not written again"
    assert not (tmp_path / "out.partial").exists()
    assert len(exported(tmp_path / "out")) == 120
    with pytest.raises(AssayError, match="not empty"):
        export(place, tmp_path / "out", "raw")
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(AssayError, match="is no unfinished export"):
        export(place, tmp_path / "new", "raw")
    with pytest.raises(AssayError, match="is no unfinished export"):
        training_data(place, "raw", None, tmp_path / "new.partial")


def test_a_pool_has_no_other_labels_and_must_have_some(tmp_path: Path) -> None:
    place = pool(tmp_path / "pool")
    with pytest.raises(AssayError, match="a pool has its raw labels only"):
        training_data(place, "flipped", None, tmp_path / "data")
    with pytest.raises(AssayError, match="unknown labels 'best'"):
        export(place, tmp_path / "out", "best")
    create(tmp_path / "silent", small.PAIRS[:4], [])
    with pytest.raises(AssayError, match="no labelled pairs in 'raw'"):
        export(tmp_path / "silent", tmp_path / "out", "raw")
    with pytest.raises(AssayError, match="neither a run folder"):
        export(tmp_path / "nowhere", tmp_path / "out", "raw")
    with pytest.raises(AssayError, match="no such folder"):
        training_data(tmp_path / "nowhere", "raw", None, tmp_path / "data")


def test_an_import_that_was_cut_off_is_told(tmp_path: Path) -> None:
    place = pool(tmp_path / "pool")
    (place / "importing").mkdir()
    (place / "importing" / "plan.json").write_text("{}")
    for read in (
        lambda: export(place, tmp_path / "out", "raw"),
        lambda: training_data(place, "raw", None, tmp_path / "data"),
    ):
        with pytest.raises(AssayError, match="cut off"):
            read()


@pytest.mark.parametrize("most", [10_000, 5])
def test_one_in_ten_questions_of_a_pool_choose_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(finished, "HELD_SHARE", 0.25)
    monkeypatch.setattr(finished, "HELD_PAIRS", most)
    found = []
    for parts in (1, 4):
        pairs, gold = training_data(pool(tmp_path / f"{parts}", parts), "raw", None, tmp_path / f"data{parts}")
        taught = everything(pairs)
        assert not {question_id(p.prompt) for p in taught.values()} & {question_id(g.prompt) for g in gold}
        assert len(taught) + len(gold) == 120
        found.append({g.pair_id for g in gold})
    assert found[0] == found[1]
    assert 3 < len(found[0]) <= (50 if most > 120 else 5)


# -- runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import test_claims

    folder = tmp_path_factory.mktemp("run")
    made = test_claims.make(folder)
    with closing(Run(folder, jsonable(test_claims.CONFIG))):
        pass
    made.material.save(Place.of(folder))
    return folder


def test_the_sets_of_a_run_hold_neither_gold_nor_what_is_measured_on(run: Path) -> None:
    found = read_run(run)
    assert len(found.sets["stage1"]) < len(found.sets["filtered"]) < len(found.sets["flipped"])
    apart = {question_id(p.prompt) for p in (*found.held, *found.evaluation)}
    assert len(found.held) > 1
    assert len(found.evaluation) > 5
    for labels in found.sets.values():
        assert not apart & {question_id(p.prompt) for p in labels.preferences()}


def test_export_and_training_take_the_same_set_of_a_run(run: Path, tmp_path: Path) -> None:
    found = read_run(run)
    for name in ("raw", "filtered"):
        assert export(run, tmp_path / name, name) == len(found.sets[name])
        pairs, gold = training_data(run, name, None, tmp_path / f"{name}.data")
        wanted = {p.pair_id: p for p in found.sets[name].preferences()}
        assert everything(pairs) == exported(tmp_path / name) == wanted
        assert gold == found.held
    Table(tmp_path / "gold", Preference).write("g", [found.sets["filtered"].preferences()[0]])
    pairs, gold = training_data(run, "filtered", tmp_path / "gold", tmp_path / "apart.data")
    asked = question_id(gold[0].prompt)
    assert everything(pairs) == {i: p for i, p in wanted.items() if question_id(p.prompt) != asked}
    assert not (run / "seed-0/tables/views").exists(), "a run is read, and nothing is written into it"


def test_a_run_is_read_from_anywhere_and_moves_with_its_own_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ids_of(folder: Path) -> set[str]:
        return {i for _, f in Material.open(Place.of(folder)).frames(["pair_id"]) for i in f["pair_id"]}

    monkeypatch.chdir(tmp_path)
    create("beside", small.PAIRS, [])
    within = create("run/pool", small.PAIRS, [])
    for pool in (Pool.open("beside"), within):
        place = Place.of("run" if pool is within else "other")
        Material(pool=pool, slices=bare(pool, place / "tables", Here()), out=place / "tables").save(place)
    monkeypatch.chdir("/")
    assert ids_of(tmp_path / "other") == ids_of(tmp_path / "run") == {p.id for p in small.PAIRS}
    (tmp_path / "run").rename(tmp_path / "moved")
    assert ids_of(tmp_path / "moved") == {p.id for p in small.PAIRS}
    shutil.rmtree(tmp_path / "beside")
    with pytest.raises(AssayError, match="beside: no pairs here"):
        ids_of(tmp_path / "other")


def test_what_is_no_finished_run_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="not a run folder"):
        read_run(tmp_path)
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half/seed-0/tables/sets/flipped.json").unlink()
    for read in (lambda: read_run(tmp_path / "half"), lambda: export(tmp_path / "half", tmp_path / "out", "raw")):
        with pytest.raises(AssayError, match="seed 0 has no labels 'flipped' yet; run the same"):
            read()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.json").write_text("{}")
    Table(tmp_path / "old/tables/pairs", Preference).write("pool", [])
    with pytest.raises(AssayError, match="an earlier version of Assay made this run"):
        read_run(tmp_path / "old")


# -- parts of sets --------------------------------------------------------------------------------------------------


def ids(labels: LabelSet) -> set[str]:
    return set(labels.frame()["pair_id"])


def test_smaller_parts_lie_within_larger_ones(tmp_path: Path) -> None:
    parts = [labels_of(pool(tmp_path / f"{n}", n), "raw", Place.of(tmp_path / f"tables{n}")) for n in (1, 3)]
    few, more, other = (
        drawn(parts[1], n, Place.of(tmp_path / "sets"), f"s{n}-{s}", s) for n, s in ((12, 0), (60, 0), (60, 1))
    )
    assert (len(few), len(more), len(other)) == (12, 60, 60)
    assert ids(few) < ids(more) < ids(parts[1])
    assert ids(more) != ids(other)
    assert ids(drawn(parts[0], 60, Place.of(tmp_path / "sets"), "alone", 0)) == ids(more), (
        "whatever the parts of the pool"
    )
    assert ids(drawn(parts[1], 500, Place.of(tmp_path / "sets"), "all", 0)) == ids(parts[1])
    assert len(drawn(parts[1], 0, Place.of(tmp_path / "sets"), "none", 0)) == 0


def test_a_sweep_trains_each_point_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: dict[str, LabelSet] = {}

    def trainer(opened: Run, config: FlowConfig, seed: int) -> Any:
        def train(name: str, labels: LabelSet, gold: Sequence[Preference]) -> Scorer:
            trained[name] = labels
            (opened.folder / "models" / name).mkdir(parents=True)
            (opened.folder / "models" / name / "training.json").write_text(json.dumps({"presented": len(labels)}))
            right = {p.prompt + p.chosen.messages for p in labels.preferences()}

            def score(flat: Sequence[Conversation]) -> NDArray[np.float64]:
                return np.array([float(c in right or c[-1].content.startswith("It is")) for c in flat])

            return score

        return train

    monkeypatch.setattr(sweep, "trainer", trainer)
    config = SweepConfig(sets=("raw", "flipped"), fractions=(0.5, 1.0), seeds=2)
    sweep.sweep(run, tmp_path / "sweep", config)
    found = read_run(run).sets
    assert len(trained) == 8
    for name in ("raw", "flipped"):
        for seed in (0, 1):
            half, whole = trained[f"{name}-0.5-seed{seed}"], trained[f"{name}-1-seed{seed}"]
            assert ids(half) < ids(whole) == ids(found[name])
            assert len(half) == round(len(whole) / 2)
        assert ids(trained[f"{name}-0.5-seed0"]) != ids(trained[f"{name}-0.5-seed1"])
    rows = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [(r["set"], r["fraction"], r["pairs"]) for r in rows] == [
        (n, f, len(trained[f"{n}-{f:g}-seed0"])) for n in ("raw", "flipped") for f in (0.5, 1.0)
    ]
    trained.clear()
    sweep.sweep(run, tmp_path / "sweep", config)
    assert not trained
    with monkeypatch.context() as other:
        other.setattr(sweep, "whose", lambda _: "other weights")
        with pytest.raises(AssayError, match=r"another config .inputs.backbone: "):
            sweep.sweep(run, tmp_path / "sweep", config)
    shutil.copytree(run, tmp_path / "began")
    final = tmp_path / "began/seed-0/models/final/training.json"
    final.parent.mkdir(parents=True, exist_ok=True)
    final.write_text(json.dumps({"identity": {"backbone": "its own"}}))
    with pytest.raises(AssayError, match=r"other weights than those that the models of .*began began with"):
        sweep.sweep(tmp_path / "began", tmp_path / "sweep-of-began", config)
    shutil.copytree(run, tmp_path / "other")
    note = tmp_path / "other/seed-0/tables/sets/raw-more.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"said": "0" * 32}))
    with pytest.raises(AssayError, match=r"another config .inputs.raw.digest"):
        sweep.sweep(tmp_path / "other", tmp_path / "sweep", config)


def test_views_of_many_row_groups_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is read a row group at a time, and only those groups that hold a labelled pair."""
    monkeypatch.setattr(tables, "GROUP_BYTES", 1_500)
    said = [j for n, j in enumerate(small.votes(small.PAIRS)) if n % 7 == 0 or n < 20]
    create(tmp_path / "pool", small.PAIRS, said, parts=2)
    with tables.opened(Place.of(tmp_path / "pool/pairs/0000-00.parquet")) as shard:
        assert shard.num_row_groups > 5
    export(tmp_path / "pool", tmp_path / "out", "raw")
    pairs = {p.id: p for p in small.PAIRS}
    assert exported(tmp_path / "out") == {j.pair_id: pairs[j.pair_id].preferring(str(j.better)) for j in said}


def test_a_label_of_a_foreign_response_is_no_view(tmp_path: Path) -> None:
    labels = labels_of(pool(tmp_path / "pool"), "raw", Place.of(tmp_path / "tables"))
    wrong = label_set(
        labels.material, labels.place, "wrong", lambda s: labels.of(s).with_columns(chosen=pl.lit("0" * 32))
    )
    with pytest.raises(AssayError, match="chooses a response that the pair does not have"):
        wrong.folder()
