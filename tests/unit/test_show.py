"""`assay show`: a pair is found by the beginning of its id, and everything that was said of it is printed."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from assay import show as module
from assay.curate.scores import Rewarded
from assay.curate.shards import create
from assay.curate.verify import add_judgements, withdraw_judgements
from assay.curate.views import Chosen
from assay.errors import AssayError
from assay.pipeline.hits import Hit
from assay.records import Judgement, Label, Origin, Pair, Response, user
from assay.show import find, show
from assay.store import Place
from assay.tables import Table
from pools import better, old_layout, pair, small_pool, small_run, wild

SEEN = "How many lighthouses stand on the coast of the whole northern island, counting all that were ever lit?"


def printed(folder: Path, pair_id: str) -> str:
    console = Console(record=True, width=300)
    show(folder, pair_id, console)
    return console.export_text()


def tables(text: str) -> list[str]:
    known = (*module._POOL, *module._RUN, *module._SEED)
    return list(dict.fromkeys(w for line in text.splitlines() if (w := line.split(" ")[0]) in known))


def test_a_pair_of_a_pool(tmp_path: Path) -> None:
    pool, pairs = small_pool(tmp_path / "pool", known=True)
    name = find(Place.of(tmp_path / "pool"), pairs[7].id).shard
    rows = [Origin(pair_id=p.id, source="web", file="rows.jsonl", row=k, layout="chosen") for k, p in enumerate(pairs)]
    pool.table("origins").write(name, [r for r in rows if r.pair_id == pairs[7].id])
    text = printed(tmp_path / "pool", pairs[7].id[:10])
    assert f"pair {pairs[7].id}" in text
    assert "good 7" in text
    assert "file=rows.jsonl  row=7" in text
    assert tables(text) == ["origins", "votes", "truth"]
    number = [r.id for r in pairs[7].responses].index(better(7)) + 1
    assert f"better=response {number}  by=wild:web" in text


def test_votes_of_a_later_import_are_there(tmp_path: Path) -> None:
    pool, pairs = small_pool(tmp_path / "pool", n=6, parts=1)
    later = wild(pairs[2], None, "later")
    pool.table("votes").write("0000-01", [later])
    replace(pool, shards=(*pool.shards, replace(pool.shards[0], name="0000-01", pairs=0, votes=1))).save()
    text = printed(tmp_path / "pool", pairs[2].id)
    assert "by=wild:later" in text
    assert "by=wild:web" in text


def test_a_pair_of_a_run_has_its_whole_life(tmp_path: Path) -> None:
    pool, pairs = small_pool(tmp_path / "run/pool", known=True)
    material = small_run(tmp_path / "run", pool)
    chosen, other = pairs[3], pairs[4]
    seed = tmp_path / "run/seed-0/tables"
    judged = [Judgement(pair_id=p.id, better=better(k), by="llm:m", kind="llm") for k, p in ((3, chosen), (4, other))]
    Table(seed / "judgements", Judgement).write("stage1-it0-judges-00000", judged)
    at = find(Place.of(tmp_path / "run"), chosen.id).made
    assert at is not None
    stem = at.index.name.removesuffix(".parquet")
    label = Label(
        pair_id=chosen.id, chosen=None, tier="wild", fate="dropped", reason="nobody agrees", by=(), stage="stage2"
    )
    Table(seed / "labels", Label).write(f"stage2-{stem}", [label])
    for part in material.slices:
        rows = [Chosen(pair_id=chosen.id, chosen=better(3), certainty=1.0, margin=0.0)] if part.name == at.name else []
        Table(seed / "sets/stage1", Chosen).write(f"{part.name}_0123456789ab", rows)
    (seed / "sets/stage1.json").write_text("{}")
    scored = Rewarded(pair_id=chosen.id, model="best-rm", first=1.25, second=-0.5)
    Table(seed / "rewards/best-rm+gold-rm", Rewarded).write(stem, [scored])
    Table(seed / "hits", Hit).write("raw", [Hit(pair_id=chosen.id, question_id="q", right=0.0)])
    text = printed(tmp_path / "run", chosen.id)
    assert tables(text) == ["votes", "truth", "index", "attributes", "judgements", "rewards", "labels", "sets", "hits"]
    assert "right=0.0" in text, "what a model has wrong is told"
    assert f"seed-0/best-rm+gold-rm/{stem}  model=best-rm  first=1.25  second=-0.5" in text
    assert "seed-0/stage1-it0-judges-00000" in text
    assert f"seed-0/stage1/{at.name}_0123456789ab" in text
    assert text.count("by=llm:m") == 1
    assert "fate=dropped  reason=nobody agrees" in text


def test_a_contaminated_pair_is_found_and_says_why(tmp_path: Path) -> None:
    seen = Pair.of((user(SEEN),), Response.of("nine"), Response.of("ten"))
    pool = create(tmp_path / "pool", [pair(1), seen], [wild(seen, seen.responses[0].id)])
    small_run(tmp_path / "run", pool, {"bench": [SEEN]})
    text = printed(tmp_path / "run", seen.id)
    assert tables(text) == ["votes", "contamination"]
    assert "benchmark=bench" in text


def test_only_the_row_group_of_the_pair_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, pairs = small_pool(tmp_path / "pool", n=30, parts=4)
    read: list[tuple[str, object]] = []
    real = module.read_shard

    def spy(file: Place, columns: object = None, rows: object = None) -> object:
        read.append((file.url, None if rows is None else list(rows)))  # type: ignore[call-overload]
        return real(file, columns, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_shard", spy)
    find(Place.of(tmp_path / "pool"), pairs[11].id)
    texts = [rows for url, rows in read if "/pairs/" in url]
    assert len(texts) == 1
    assert len(texts[0]) == 1  # type: ignore[arg-type]


def test_what_is_not_one_pair_or_no_folder_of_pairs_is_told(tmp_path: Path) -> None:
    small_pool(tmp_path / "pool")
    for folder, start, told in (
        ("pool", "zz", "no pair's id starts with 'zz'"), ("pool", "", "40 pairs' ids start"),
        ("none", "ab", "none: no pairs here, for nothing is; give a run"),
    ):  # fmt: skip
        with pytest.raises(AssayError, match=told):
            show(tmp_path / folder, start, Console())
    with pytest.raises(AssayError, match="earlier version of Assay made this pool"):
        show(old_layout(tmp_path / "old"), "ab", Console())
    (old_layout(tmp_path / "run") / "config.json").write_text("{}")
    with pytest.raises(AssayError, match="earlier version of Assay made this run"):
        show(tmp_path / "run", "ab", Console())


def test_a_pool_in_an_object_store(tmp_path: Path) -> None:
    pairs = [pair(k) for k in range(4)]
    pool = create(Place.of("memory://shown/pool"), pairs, [wild(p, None) for p in pairs])
    console = Console(record=True, width=300)
    show("memory://shown/pool", pairs[1].id, console)
    assert "problem=tie" in console.export_text()
    pool.place.remove()


def test_what_every_annotator_said_is_there_also_what_was_replaced_or_taken_back(tmp_path: Path) -> None:
    pool, pairs = small_pool(tmp_path / "run/pool")
    small_run(tmp_path / "run", pool)
    one, two = pairs[3].responses

    def said(by: str, better: str) -> Judgement:
        return Judgement(pair_id=pairs[3].id, better=better, by=by, kind="human", rationale="")

    out = tmp_path / "run" / "judgements.jsonl"
    add_judgements(out, [said("ann", one.id), said("bea", two.id), said("cid", one.id), said("cid", two.id)])
    withdraw_judgements(out, [said("bea", two.id)])
    text = printed(tmp_path / "run", pairs[3].id)
    lines = [line.strip() for line in text.splitlines() if line.startswith("said by")]
    assert [line.split("  ")[0] for line in lines] == [
        "said by ann", "said by bea (taken back)", "said by cid (replaced later)", "said by cid"
    ]  # fmt: skip
    assert [line.split("better=")[1].split("  ")[0] for line in lines] == [
        "response 1", "response 2", "response 1", "response 2"
    ]  # fmt: skip
