"""Imports into a pool on disk: the same bytes whatever the order, the pieces and the engine; killed anywhere; growing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pools
from assay.curate import generation, pool, spill
from assay.curate.shards import Indexed, Pool
from assay.engine import Cores
from assay.errors import AssayError
from assay.formats import reading, sources
from assay.formats.layouts import named
from assay.formats.reading import Fields
from assay.formats.sources import rows as read_rows
from assay.records import Pair
from assay.store import Place
from assay.tables import Table


def preferences(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of many kinds: plain texts, dialogues, repeats, contradictions, ties and rejections."""
    random, made = Random(seed), list[dict[str, Any]]()
    for i in range(n):
        question, good, bad = f"question {random.randrange(n // 2)}?", f"good {i % 37}", f"bad {i % 41} {'é' * (i % 7)}"
        if i % 9 == 1:
            good, bad = bad, good
        asked = {"role": "user", "content": question}
        if i % 6 == 5 and i > 20:  # again, and sometimes the other way round
            again = random.choice(made)
            turned = i % 4 == 1 and "score_chosen" not in again and again.get("rejected")
            made.append({**again, "chosen": again["rejected"], "rejected": again["chosen"]} if turned else again)
        elif i % 3 == 0:
            one, two = ([asked, {"role": "assistant", "content": text}] for text in (good, bad))
            made.append({"chosen": one, "rejected": two, "score_chosen": i % 5 + 1, "score_rejected": 1})
        elif i % 11 == 0:
            made.append({"prompt": question, "chosen": good, "rejected": ""})
        elif i % 13 == 0:
            made.append({"prompt": question, "responses": [good, bad, "so"], "scores": [1, 1, 0]})
        else:
            made.append({"prompt": question, "chosen": good, "rejected": bad, "id": i})
    return made


def ratings(n: int) -> list[dict[str, Any]]:
    random = Random(1)
    return [
        {
            "prompt": f"p{random.randrange(n // 3)}",
            "response": f"r{i % 50} {i}",
            "helpfulness": random.choice((0, 1, 2, "x")),
        }
        for i in range(n)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=i % 2 == 0) + "\n" for i, r in enumerate(rows)))
    return path


def quiet(_: str) -> None:
    return None


def contents(folder: Path, *without: str) -> dict[str, bytes]:
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.relative_to(folder).parts[0] not in without)
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def add(*files: Path, out: Path, **options: Any) -> pool.PoolReport:
    return pool.add([str(f) for f in files], out, **{"say": quiet, "name": "set", "parts": 4, **options})


def judged(folder: Path) -> tuple[Counter[object], ...]:
    """All that the pool says, shards aside: its pairs, votes, origins."""
    made = Pool.open(folder)
    return tuple(Counter(made.table(name).read()) for name in ("pairs", "votes", "origins"))


def test_neither_the_order_of_the_files_nor_their_names_can_be_seen_in_the_pairs(tmp_path: Path) -> None:
    rows = preferences(300)
    one, two = write(tmp_path / "one.jsonl", rows[:160]), write(tmp_path / "two.jsonl", rows[160:])
    first = add(one, two, out=tmp_path / "a")
    assert add(two, one, out=tmp_path / "b").files == first.files[::-1]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    one.rename(tmp_path / "zzz.jsonl")
    add(tmp_path / "zzz.jsonl", two, out=tmp_path / "c")
    assert contents(tmp_path / "a", "origins", "rejections", "imports") == contents(
        tmp_path / "c", "origins", "rejections", "imports"
    )


def test_the_shards_hold_what_the_manifest_says(tmp_path: Path) -> None:
    rows = preferences(300)
    report = add(write(tmp_path / "one.jsonl", rows), out=tmp_path / "pool")
    made = Pool.open(tmp_path / "pool")
    assert len({s.part for s in made.shards}) == 4
    for shard in made.shards:
        pairs = cast(list[Pair], made.table("pairs").read(shard.name))
        index = cast(list[Indexed], made.table("index").read(shard.name))
        assert index == [Indexed.of(p) for p in pairs]
        assert [(p.prompt_id, p.id) for p in pairs] == sorted({(p.prompt_id, p.id) for p in pairs})
        assert (shard.pairs, shard.chars) == (len(pairs), sum(i.chars for i in index))
        votes, origins = (made.table(name).frame(shard.name) for name in ("votes", "origins"))
        assert len(votes) == len(origins) == shard.votes
        order = ["pair_id", "by", "better", "votes", "confidence", "strength"]
        assert votes.equals(votes.sort(order)), "whatever the order of the sources"
        assert origins.equals(origins.sort(origins.columns))
    assert made.table("votes").shards() == made.table("origins").shards() == [s.name for s in made.shards]
    assert report.pairs == sum(s.votes for s in made.shards) == made.pairs + made.repeats
    assert report.repeated == made.repeats > 20
    sides: dict[str, set[str]] = {}
    for p, v, _ in pools.occurrences(tmp_path / "pool"):
        sides.setdefault(p.id, set()).update([v.better] if v.better else [])
    assert report.contradicting == sum(len(s) > 1 for s in sides.values()) > 0
    assert report.rejected == len(pools.rejections(tmp_path / "pool")) > 10


def test_pieces_parts_and_shares_change_nothing_that_the_pool_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "one.jsonl", preferences(400))
    add(source, out=tmp_path / "whole")
    add(source, out=tmp_path / "parts", parts=1)
    monkeypatch.setattr(sources, "PIECE", 5000)
    monkeypatch.setattr(spill, "CHUNK_CHARS", 1000)
    (part,) = sources.find(str(source))
    assert len(part.pieces) > 5
    assert [c for piece in part.pieces for c in piece()] == list(read_rows(source))
    add(source, out=tmp_path / "pieces")
    assert contents(tmp_path / "whole") == contents(tmp_path / "pieces")
    monkeypatch.setattr(generation, "SHARE_BYTES", 4000)
    add(source, out=tmp_path / "shares")
    assert {s.name for s in Pool.open(tmp_path / "shares").shards} > {"0000-00-0", "0000-00-1", "0003-00-3"}
    for other in ("parts", "pieces", "shares"):
        assert judged(tmp_path / other) == judged(tmp_path / "whole")
        told, whole = Pool.open(tmp_path / other), Pool.open(tmp_path / "whole")
        assert (told.pairs, told.repeats, told.conflicts) == (whole.pairs, whole.repeats, whole.conflicts)


def test_a_large_parquet_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "one.parquet"
    plain = [{k: str(v) for k, v in r.items()} for r in preferences(200) if "prompt" in r and "chosen" in r]
    pq.write_table(pa.Table.from_pylist(plain), source, row_group_size=20)
    monkeypatch.setattr(sources, "PIECE", 1000)
    (part,) = sources.find(str(source))
    assert len(part.pieces) > 3
    assert [c for piece in part.pieces for c in piece()] == list(read_rows(source))


def test_imports_add_up(tmp_path: Path) -> None:
    rows = preferences(300)
    one, two = write(tmp_path / "one.jsonl", rows[:200]), write(tmp_path / "two.jsonl", rows[100:])
    add(one, two, out=tmp_path / "once")
    first = add(one, out=tmp_path / "twice")
    before = contents(tmp_path / "twice")
    second = add(two, out=tmp_path / "twice")
    assert judged(tmp_path / "once") == judged(tmp_path / "twice")
    once, twice = Pool.open(tmp_path / "once"), Pool.open(tmp_path / "twice")
    assert (once.pairs, once.repeats, once.conflicts) == (twice.pairs, twice.repeats, twice.conflicts)
    assert second.repeated > first.repeated + 100
    assert {s.name.partition("-")[2] for s in twice.shards} == {"00", "01"}
    after = contents(tmp_path / "twice")
    assert {k: v for k, v in after.items() if k in before and k != "pool.json"} == {
        k: v for k, v in before.items() if k != "pool.json"
    }, "what is there is never changed"
    again = add(two, one, out=tmp_path / "twice")
    assert (second.held, again.held) == (once.pairs, once.pairs)
    assert again.pairs == first.pairs + second.pairs > again.held, "rows of files, which repeat pairs"
    assert [f.already for f in again.files] == [True, True]
    assert contents(tmp_path / "twice") == after
    with pytest.raises(AssayError, match=r"is in the pool .* already, read as chosen-rejected"):
        add(one, out=tmp_path / "twice", layout="chosen-rejected:shared-start")
    with pytest.raises(AssayError, match="has 4 parts"):
        add(write(tmp_path / "new.jsonl", rows[:1]), out=tmp_path / "twice", parts=8)


def test_a_file_of_which_nothing_could_be_read_can_be_read_in_another_way(tmp_path: Path) -> None:
    odd = write(tmp_path / "odd.jsonl", [{"ask": "Hi?", "win": "Hello.", "lose": "No."}])
    assert add(odd, out=tmp_path / "pool").pairs == 0
    said = Fields.of(["prompt=ask", "chosen=win", "rejected=lose"])
    assert pool.add([str(odd)], tmp_path / "pool", fields=said, say=lambda _: None).held == 1
    with pytest.raises(AssayError, match=r"is in the pool .* already, read as chosen=win"):
        pool.add([str(odd)], tmp_path / "pool", fields=Fields.of(["prompt=lose", "chosen=win", "rejected=ask"]))


def test_what_assay_made_is_no_source(tmp_path: Path) -> None:
    """A folder that holds the pool which is made of it is read again with the same command, to no effect."""
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/one.jsonl", preferences(20))
    pool = tmp_path / "data/pool"
    for _ in range(2):
        report = add(tmp_path / "data", out=pool)
        assert [f.file for f in report.files] == ["one.jsonl"]
    before = contents(pool)
    (tmp_path / "data/half/importing").mkdir(parents=True)
    (tmp_path / "data/half/importing/plan.json").write_text("{}")
    (tmp_path / "data/half/importing/piece.parquet").write_bytes(b"cut")
    (tmp_path / "data/run").mkdir()
    (tmp_path / "data/run/material.json").write_text("{}")
    write(tmp_path / "data/run/queue.jsonl", preferences(30))
    add(tmp_path / "data", out=pool)
    assert contents(pool) == before
    for made in (pool, tmp_path / "data/run"):
        with pytest.raises(AssayError, match=r"Assay made this \(a pool or a run\); give the files"):
            add(made, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_rows_of_one_response_are_paired_whatever_piece_they_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "rated.jsonl", ratings(600))
    whole = add(source, out=tmp_path / "whole")
    expected = [
        m for read in reading.outcomes(read_rows(source), pool._detected(*sources.find(str(source)))) for m in read.made
    ]
    assert whole.pairs == sum(not isinstance(m, Exception) for m in expected) > 300
    assert whole.rejected == len(expected) - whole.pairs > 100
    monkeypatch.setattr(sources, "PIECE", 4000)
    monkeypatch.setattr(pool, "BUCKET", 4000)
    pieces = add(source, out=tmp_path / "pieces")
    assert pieces == whole
    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")


def test_a_row_that_looks_like_our_own_marks_is_refused(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "p"}], "response": "r", "score": 1, "x": {"\0picture": "an id"}}
    report = add(write(tmp_path / "a.jsonl", [row, {**row, "x": 1, "response": "s"}]), out=tmp_path / "pool")
    assert report.files[0].rejected == {
        "contains a null byte": 1,
        "response is the only one to its prompt: nothing to compare it with": 1,
    }


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed_at(put: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> bool:
    """Whether `work` was killed at the `put`-th file that it puts in its place: half of them before, half after that."""
    real, count = Place.put, 0

    def dies(self: Place, make: Callable[[Path], object]) -> None:
        nonlocal count
        count += 1
        if count == put and put % 2:
            raise Killed
        real(self, make)
        if count == put:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Place, "put", dies)
        try:
            work()
        except Killed:
            return True
    return False


def test_killed_at_any_file_the_same_command_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PIECE", 5000)
    rows = preferences(90)
    files = (write(tmp_path / "one.jsonl", rows[20:]), write(tmp_path / "rated.jsonl", ratings(40)))
    add(write(tmp_path / "begun.jsonl", rows[:30]), out=tmp_path / "begun", parts=2)
    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    add(*files, out=tmp_path / "whole", parts=2)
    expected, put = contents(tmp_path / "whole"), 1
    while True:
        out = tmp_path / f"killed-{put}"
        shutil.copytree(tmp_path / "begun", out)
        if not killed_at(put, monkeypatch, lambda out=out: add(*files, out=out, parts=2)):  # type: ignore[misc]
            break
        if (out / "importing/plan.json").exists():
            with pytest.raises(AssayError, match="cut off"):
                Pool.open(out)
        report = add(*files, out=out, parts=2)
        assert contents(out) == expected, put
        assert report.pairs == sum(f.pairs for f in report.files)
        put += 1
    assert put > 25


SCRIPT = """
import signal, sys
from pathlib import Path
from assay.curate import pool
from assay.formats import sources
sources.PIECE = 30_000
left = float(sys.argv[2])

def watch(event, args):
    global left
    if left and event in ("open", "os.rename") and "/pool/importing/" in str(args[0]):
        signal.setitimer(signal.ITIMER_REAL, left)  # the kernel kills it so long after the import has begun
        left = 0

if __name__ == "__main__":
    sys.addaudithook(watch)
    pool.add(sys.argv[3:], Path(sys.argv[1]), name="set", parts=4)
"""


def test_killed_for_real_at_random_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE", 30_000)
    files = [write(tmp_path / "one.jsonl", preferences(3000)), write(tmp_path / "two.jsonl", preferences(3000, seed=1))]
    add(*files, out=tmp_path / "whole")
    (tmp_path / "script.py").write_text(SCRIPT)
    random, killed = Random(0), 0
    for _ in range(4):
        command = [sys.executable, tmp_path / "script.py", tmp_path / "pool", str(random.random() * 0.4), *files]
        killed += subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == -signal.SIGALRM
    add(*files, out=tmp_path / "pool")
    assert contents(tmp_path / "pool") == contents(tmp_path / "whole")
    assert killed


def test_an_import_that_was_cut_off_is_finished_or_dropped_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = preferences(60)
    one, two = write(tmp_path / "one.jsonl", rows[:30]), write(tmp_path / "two.jsonl", rows[30:])
    assert killed_at(5, monkeypatch, lambda: add(one, out=tmp_path / "pool"))
    left = contents(tmp_path / "pool")
    with pytest.raises(AssayError, match=r"the import of set \(one.jsonl\) was cut off .* or remove .*importing"):
        add(two, out=tmp_path / "pool")
    assert contents(tmp_path / "pool") == left
    Place.of(tmp_path / "pool/importing").remove()
    add(two, out=tmp_path / "pool")
    add(two, out=tmp_path / "new")
    assert contents(tmp_path / "pool") == contents(tmp_path / "new"), "nothing is left of what was dropped"
    assert killed_at(5, monkeypatch, lambda: add(one, out=tmp_path / "pool"))
    left = contents(tmp_path / "pool")
    assert add(two, out=tmp_path / "pool").files[0].already
    assert contents(tmp_path / "pool") == left, "a command that does nothing leaves another's import alone"


@pytest.mark.parametrize("again", [False, True])
def test_two_imports_at_a_time_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    """One that ends while another still looks at its files: what it brought stays, and the other is to be given again."""
    rows = preferences(60)
    one, two = write(tmp_path / "one.jsonl", rows[:30]), write(tmp_path / "two.jsonl", rows[30:])
    if again:  # then the slow one has nothing to add
        add(two, out=tmp_path / "pool")
    known, at = pool.notes_of, list[str]()

    def slow(of: Pool) -> list[dict[str, Any]]:
        found = known(of)
        if not at:
            at.append("once")
            add(one, out=tmp_path / "pool")
        return found

    monkeypatch.setattr(pool, "notes_of", slow)
    with pytest.raises(AssayError, match=r"another import into this pool ended meanwhile.* give this command again"):
        add(two, out=tmp_path / "pool")
    add(two, out=tmp_path / "pool")
    add(one, two, out=tmp_path / "whole")
    ids = [sorted(p.id for p in pools.pairs_in(tmp_path / name)) for name in ("pool", "whole")]
    assert ids[0] == ids[1]


def test_what_another_import_dropped_does_not_take_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = preferences(60)
    one, two = write(tmp_path / "one.jsonl", rows[:30]), write(tmp_path / "two.jsonl", rows[30:])
    plan, gathered = tmp_path / "pool/importing/plan.json", pool.gathered

    def late(*args: Any) -> generation.Gathered:
        plan.write_text(json.dumps({"files": [], "generation": 0}))  # of another
        return gathered(*args)

    monkeypatch.setattr(pool, "gathered", late)
    with pytest.raises(AssayError, match="another import dropped what this one had made"):
        add(one, out=tmp_path / "pool")
    monkeypatch.undo()
    Place.of(tmp_path / "pool/importing").remove()
    add(two, out=tmp_path / "pool")
    add(two, out=tmp_path / "new")
    assert contents(tmp_path / "pool") == contents(tmp_path / "new")


def test_a_damaged_spill_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "one.jsonl", preferences(60))
    assert killed_at(4, monkeypatch, lambda: add(source, out=tmp_path / "pool"))
    (file,) = (tmp_path / "pool/importing").glob("*.arrow")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(AssayError, match=r"damaged: remove .*importing"):
        add(source, out=tmp_path / "pool")


def anew(source: Path, place: Path) -> None:
    """What the message says to do leads to the pool of an import that was never cut off."""
    Place.of(place / "pool/importing").remove()
    add(source, out=place / "pool")
    add(source, out=place / "whole")
    assert contents(place / "pool") == contents(place / "whole")


@pytest.mark.parametrize("left", [0, 0.5])
def test_a_spill_that_was_cut_short_is_told(left: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "one.jsonl", preferences(60))
    assert killed_at(4, monkeypatch, lambda: add(source, out=tmp_path / "pool"))
    (file,) = (tmp_path / "pool/importing").glob("*.arrow")
    os.truncate(file, int(left * file.stat().st_size))
    with pytest.raises(AssayError, match=r"arrow: damaged: remove .*importing"):
        add(source, out=tmp_path / "pool")


@pytest.mark.parametrize("note", ['{"name": "one", "rows": 60}', '{"name": "o', "[]"])
def test_a_note_that_cannot_be_read_is_told(note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "one.jsonl", preferences(60))
    assert killed_at(4, monkeypatch, lambda: add(source, out=tmp_path / "pool"))
    (file,) = (tmp_path / "pool/importing").glob("*+00000.json")
    file.write_text(note)
    with pytest.raises(AssayError, match=r"json: damaged: remove .*importing"):
        add(source, out=tmp_path / "pool")
    anew(source, tmp_path)


def test_an_import_that_an_earlier_version_began_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "one.jsonl", preferences(60))
    assert killed_at(4, monkeypatch, lambda: add(source, out=tmp_path / "pool"))
    plan = tmp_path / "pool/importing/plan.json"
    told = json.loads(plan.read_text())
    del told["version"]
    plan.write_text(json.dumps(told))
    with pytest.raises(
        AssayError, match=r"another version of Assay began .* remove .*importing, and give the same command"
    ):
        add(source, out=tmp_path / "pool")
    anew(source, tmp_path)


def test_all_cores_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE", 10_000)
    files = [write(tmp_path / "one.jsonl", preferences(300)), write(tmp_path / "rated.jsonl", ratings(200))]
    add(*files, out=tmp_path / "here")
    engine = Cores(2)
    try:
        add(*files, out=tmp_path / "cores", engine=engine)
    finally:
        engine.close()
    assert contents(tmp_path / "here") == contents(tmp_path / "cores")


def test_a_pool_in_an_object_store_takes_text_and_refuses_pictures(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no picture")
    pictured = {"prompt": "what is it?", "chosen": "a", "rejected": "b", "images": ["x.png"]}
    source = write(tmp_path / "one.jsonl", [*preferences(60), pictured])
    store = Place.of(f"memory://pools/{tmp_path.name}/pool")
    report = pool.add([str(source)], store, say=quiet, name="set", parts=2)
    add(write(tmp_path / "one.jsonl", [*preferences(60), pictured]), out=tmp_path / "pool", parts=2)
    made, local = Pool.open(store), Pool.open(tmp_path / "pool")
    assert made.shards == local.shards
    assert made.table("pairs").read() == local.table("pairs").read()
    assert [k for k in report.files[0].rejected if "a pool in an object store keeps none" in k]
    assert not (store / "importing").names()
    assert pool.add([str(source)], store, say=quiet, name="set").files[0].already


def test_a_pool_of_an_earlier_version_is_not_added_to(tmp_path: Path) -> None:
    Table(tmp_path / "old/tables/pairs", Pair).write("x-000000000000-00000", [])
    with pytest.raises(AssayError, match="earlier version"):
        add(write(tmp_path / "one.jsonl", preferences(3)), out=tmp_path / "old")


def test_a_prompt_with_too_many_responses_is_refused_row_by_row(tmp_path: Path) -> None:
    rated = [{"prompt": "p" if i < 70 else "q", "response": f"r{i}", "helpfulness": i % 4} for i in range(73)]
    report = add(write(tmp_path / "rated.jsonl", rated), out=tmp_path / "pool")
    whole = [m for read in reading.outcomes(read_rows(tmp_path / "rated.jsonl"), named("rated")) for m in read.made]
    assert (report.files[0].rows, report.pairs) == (73, 3)
    assert report.files[0].rejected == {"prompt has more than 64 responses": 70}
    assert sum(isinstance(m, Exception) for m in whole) == 70
    assert [r.row for r in pools.rejections(tmp_path / "pool")] == list(range(1, 71))
