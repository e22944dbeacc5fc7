"""A pool as stages read it: the same choices whatever the parts, the engine and the order in which files came."""

import gc
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from assay.curate.attributes import retrieval_text
from assay.curate.material import Material
from assay.curate.offline import hash_embedder
from assay.curate.prepare import SplitConfig, packed, prepare, unpacked
from assay.curate.retrieve import neighbours_wanted
from assay.curate.rules import rule_attributes
from assay.curate.settle import settle_all
from assay.curate.shards import create
from assay.curate.views import label_set, of_frame, read_set
from assay.engine import Cores, Engine, Here
from assay.errors import AssayError
from assay.order import draws
from assay.records import Judgement, Pair, Preference, Response, user
from assay.reward.data import ParquetPairs
from assay.store import Place
from assay.tables import Table, read_frame, read_shard

PAIRS = {
    p.id: p for p in (
        Pair.of((user(f"Write {w} words about the number {n // 2}."),), Response.of(f"{w} {n}"), Response.of(f"no {n}"))
        for n, w in ((n, ("few", "many", "three")[n % 3]) for n in range(200))
    )
}  # fmt: skip
VOTES = [
    Judgement(pair_id=i, better=p.responses[n % 2].id, by=f"wild:{n % 4}", kind="wild", strength=float(n % 3))
    for n, (i, p) in enumerate(PAIRS.items())
]
TRUTH = {i: p.responses[0].id for n, (i, p) in enumerate(PAIRS.items()) if n % 2}
SPLIT = SplitConfig(eval_share=0.2, stage1_share=0.5)
SEEN = {"bench": [p.prompt[0].content for p in list(PAIRS.values())[20:30:4]]}


def material(place: Path, parts: int, engine: Engine | None = None) -> Material:
    pool = create(Place.of(place / "pool"), PAIRS.values(), VOTES, TRUTH, parts=parts)
    out = Place.of(place / "tables")
    slices = prepare(pool, out, SPLIT, SEEN, hash_embedder(32), "hash", engine or Here())
    return Material(pool=pool, slices=slices, out=out, engine=engine or Here())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return material(tmp_path_factory.mktemp("whole"), 1)


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return material(tmp_path_factory.mktemp("parted"), 5)


def everything(of: Material) -> pl.DataFrame:
    return pl.concat([f.drop("at", "row") for _, f in of.frames(
        ["pair_id", "question_id", "held", "original", "certainty", "strength", "conflict", "truth", "row"])])  # fmt: skip


def test_the_index_says_what_sources_say_and_what_a_pair_is_for(parted: Material) -> None:
    frame = everything(parted)
    seen = [i for i, p in PAIRS.items() if p.prompt[0].content in SEEN["bench"]]
    assert len(seen) >= 2
    assert not set(seen) & set(frame["pair_id"])
    labels = {x.pair_id: x for x in settle_all(VOTES, "x")}
    for row in frame.iter_rows(named=True):
        label = labels[row["pair_id"]]
        assert (row["original"], row["certainty"], row["strength"]) == (label.chosen, label.certainty, label.margin)
        assert row["truth"] == TRUTH.get(row["pair_id"])
    uses = frame.group_by("question_id").agg(pl.col("use").n_unique(), pl.col("held").n_unique())
    assert uses["use"].max() == uses["held"].max() == 1, "a question is on one side of every split"
    assert set(frame["use"]) == {"evaluation", "stage1", "stage2"}
    assert set(parted.evaluation()["pair_id"]) <= TRUTH.keys()
    every = parted.evaluation()
    lowest = sorted(zip(draws(every["pair_id"].to_list(), "evaluation"), every["pair_id"], strict=True))[:3]
    assert {i for _, i in lowest} == set(parted.evaluation(3)["pair_id"])
    assert every.filter(pl.col("pair_id").is_in([i for _, i in lowest])).equals(parted.evaluation(3))


def test_parts_change_nothing_that_is_chosen(whole: Material, parted: Material) -> None:
    assert everything(whole).sort("pair_id").equals(everything(parted).sort("pair_id"))
    assert len(parted.slices) == 5
    first = [m.first(30, 7) for m in (whole, parted)]
    assert first[0]["pair_id"].to_list() == first[1]["pair_id"].to_list()
    later = [m.drawn(20, f, "x", 7, held=False) for m, f in zip((whole, parted), first, strict=True)]
    assert later[0]["pair_id"].to_list() == later[1]["pair_id"].to_list()
    assert not set(later[0]["pair_id"]) & set(first[0]["pair_id"])
    assert not later[0]["held"].any()


def test_priority_is_objective_first_then_little_controversy(parted: Material) -> None:
    rows = parted.first(1000, 0)
    known = parted.known(rows)
    levels = {"low": 0, "medium": 1, "high": 2}
    keys = [(k.attributes.objectivity != "objective", levels[k.attributes.controversiality]) for k in known.values()]
    assert keys == sorted(keys)
    assert list(known) == rows["pair_id"].to_list()
    for i, k in known.items():
        assert k.pair == PAIRS[i]
        assert k.attributes == rule_attributes(PAIRS[i])


def test_look_alikes_are_the_nearest_of_all_shards(whole: Material, parted: Material) -> None:
    gold = parted.first(12, 3)
    p = {i: n / 12 for n, i in enumerate(gold["pair_id"])}
    found = parted.look_alikes(gold, p, gold, 4, 1000)
    also = whole.look_alikes(
        gold.with_columns(at=pl.lit("0000-00")), p, gold.with_columns(at=pl.lit("0000-00")), 4, 1000
    )
    vectors = {i: k.vector.astype(np.float64) for i, k in parted.known(pl.concat([parted.first(1000, 3)])).items()}
    frame = everything(parted).filter((pl.col("use") == "stage1") & ~pl.col("held"))
    free = [i for i in frame["pair_id"] if i not in p]
    expected: dict[str, float] = {}
    for g in sorted(p, key=lambda g: (p[g], g)):
        near = sorted(free, key=lambda i: -(vectors[g] @ vectors[i]))[: neighbours_wanted(p[g], 4)]
        for i in near:
            expected.setdefault(i, float(vectors[g] @ vectors[i]))
    assert found["pair_id"].to_list() == also["pair_id"].to_list(), "equally near ones are told apart by their ids"
    assert len(found) == len(expected)
    assert not set(found["pair_id"]) & set(p)
    scores = [max(float(vectors[g] @ vectors[i]) for g in p) for i in found["pair_id"]]
    assert sorted(scores) == pytest.approx(sorted(max(float(vectors[g] @ vectors[i]) for g in p) for i in expected))
    assert parted.look_alikes(gold, p, gold, 4, 5)["pair_id"].to_list() == found["pair_id"].to_list()[:5]


def test_engines_give_equal_bytes(parted: Material, tmp_path: Path) -> None:
    cores = Cores(2)
    other = material(tmp_path, 5, cores)
    for one, two in zip(parted.slices, other.slices, strict=True):
        for name in ("index", "attributes"):
            a, b = (Path(getattr(s, name).url) for s in (one, two))
            assert (a.name, a.read_bytes()) == (b.name, b.read_bytes())
    gold = parted.first(12, 3)
    p = dict.fromkeys(gold["pair_id"], 0.2)
    assert other.look_alikes(gold, p, gold, 4, 50).equals(parted.look_alikes(gold, p, gold, 4, 50))
    cores.close()


def test_a_set_of_labels_is_kept_and_its_view_is_what_a_training_reads(parted: Material, tmp_path: Path) -> None:
    place = Place.of(tmp_path)
    labels = pl.concat([
        f.select("pair_id", "at", chosen="original", certainty="certainty", margin="strength")
        for _, f in parted.frames(["pair_id", "original", "certainty", "strength"], "stage2")
    ])  # fmt: skip
    made = label_set(parted, place, "raw", of_frame(labels))
    again = read_set(parted, place, "raw")
    assert (len(made), again.identity(), again.graded()) == (len(labels), made.identity(), (False, True))
    kept = Table(Place.of(made.folder()), Preference).read()
    by_id = {x.pair_id: x for x in settle_all(VOTES, "x")}
    assert {p.pair_id for p in kept} == set(labels["pair_id"])
    for preference in kept:
        label = by_id[preference.pair_id]
        assert preference == PAIRS[label.pair_id].preferring(label.chosen or "", label.certainty, label.margin)
    assert len(ParquetPairs(made.folder())) == len(labels)
    assert sorted(p.pair_id for p in made.preferences()) == sorted(p.pair_id for p in kept)
    other = label_set(parted, place, "raw", of_frame(labels[1:]))
    assert other.identity()["pairs"] != made.identity()["pairs"]
    turned = labels.with_columns(margin=pl.col("margin") + 1)
    assert label_set(parted, place, "x", of_frame(turned)).identity()["labels"] != made.identity()["labels"]
    with pytest.raises(AssayError, match="no set of labels 'none'; there are: raw, x"):
        read_set(parted, place, "none")


def test_a_run_says_where_its_pool_is(parted: Material, tmp_path: Path) -> None:
    run = Place.of(Path(parted.out.url).parent)
    parted.save(run)
    assert Material.open(run).slices == parted.slices
    with pytest.raises(AssayError, match="not a run folder"):
        Material.open(Place.of(tmp_path))
    Table(tmp_path / "tables/pairs", Pair).write("pool", [])
    with pytest.raises(AssayError, match="earlier version of Assay made this run"):
        Material.open(Place.of(tmp_path))


def test_what_is_kept_of_many_shards_holds_no_shard(tmp_path: Path) -> None:
    """A filtered column of texts points into all that was read, and a run would hold its pool by and by."""
    pairs = [Pair.of((user(f"What is {n}?"),), Response.of(f"{n}"), Response.of(f"not {n}")) for n in range(1_000)]
    votes = [Judgement(pair_id=p.id, better=p.responses[0].id, by="wild:a", kind="wild") for p in pairs]
    pool = create(Place.of(tmp_path / "pool"), pairs, votes, {p.id: p.responses[0].id for p in pairs}, parts=3)
    out = Place.of(tmp_path / "tables")
    of = Material(pool=pool, slices=prepare(pool, out, SPLIT, {}, hash_embedder(8), "hash", Here()), out=out)
    rows = of.first(5, 7)
    gc.collect()
    before = pa.total_allocated_bytes()
    kept = [of.votes(rows), of.first(5, 1), of.drawn(5, rows, "x", held=False), of.evaluation(5),
            of.look_alikes(rows, dict.fromkeys(rows["pair_id"], 0.2), rows, 4, 5)]  # fmt: skip
    gc.collect()
    assert pa.total_allocated_bytes() - before < 10_000 < 32 * len(pairs)
    assert [len(frame) for frame in kept] == [5] * 5


def test_the_parts_of_a_pool_have_whole_questions(parted: Material) -> None:
    seen = [{q for s in part for q in s.frame(["question_id"])["question_id"]} for part in parted.by_part()]
    assert len(seen) == 5
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_vectors_of_some_rows_are_in_their_order(parted: Material) -> None:
    part = max(parted.slices, key=lambda s: len(s.frame(["row"])))
    every = unpacked(read_shard(part.vectors))
    some = np.random.default_rng(0).permutation(len(every))[:7]
    assert (part.vector_rows(some) == every[some]).all()
    assert len(part.vector_rows(some[:0])) == 0


def test_of_near_duplicates_one_is_kept(tmp_path: Path) -> None:
    words = " ".join(f"word{n}" for n in range(60))
    alike = [Pair.of((user(f"Say it. {words}"),), Response.of(f"{words} {n}"), Response.of("no")) for n in range(4)]
    other = Pair.of((user("Something else entirely."),), Response.of("yes"), Response.of("no"))
    pool = create(Place.of(tmp_path / "pool"), [*alike, other], [], parts=3)
    split = SplitConfig(near_duplicates=0.8)
    slices = prepare(pool, Place.of(tmp_path / "tables"), split, {}, hash_embedder(8), "hash", Here())
    kept = {i for s in slices for i in s.frame(["pair_id"])["pair_id"]}
    assert kept == {min(p.id for p in alike), other.id}
    told = Place.of(tmp_path / "tables/near_duplicates")
    left = {name.split("_")[0]: read_frame(told / name)["pair_id"].to_list() for name in told.names(".parquet")}
    assert left.keys() == {s.name for s in slices}
    assert sorted(i for ids in left.values() for i in ids) == sorted(p.id for p in alike)[1:]
    assert sum(map(bool, left.values())) == 1, "a shard's file is of that shard's pairs"


def test_vectors_are_kept_bit_by_bit(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float16)
    assert (unpacked(packed(x)) == x).all()
    assert unpacked(packed(x[:0])).shape == (0, 5)


def test_vectors_are_of_conversations_or_of_attributes_too(tmp_path: Path) -> None:
    """Side by side in one folder: each has a name of its own, and equal conversations are equal vectors."""
    made = material(tmp_path, 2)
    embed = hash_embedder(32)
    other = prepare(made.pool, made.out, SPLIT, SEEN, embed, "hash", Here(), by="attributes")
    assert not {s.vectors for s in other} & {s.vectors for s in made.slices}
    for by, slices in (("conversation", made.slices), ("attributes", other)):
        for part in slices:
            ids = part.frame(["pair_id"])["pair_id"].to_list()
            pairs = [PAIRS[i] for i in ids]
            texts = [retrieval_text(p, rule_attributes(p) if by == "attributes" else None) for p in pairs]
            np.testing.assert_array_equal(part.vector_rows(np.arange(len(ids))), embed(texts).astype(np.float16))
