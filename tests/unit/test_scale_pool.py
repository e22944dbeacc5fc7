"""The generator of pools tells the truth about them: what an import counts is what it says it wrote."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import scale_pool
from scale_pool import Known, make
from scale_rows import BAD, LAYOUTS
from scale_words import MEASURED, Bank

from assay.curate import pool
from assay.curate.decontaminate import Index
from assay.formats.preferred import Preferred
from assay.formats.reading import decide, outcomes
from assay.formats.sources import find
from assay.records import Message, Pair


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Known]:
    folder = tmp_path_factory.mktemp("scale") / "files"
    return folder, make(folder, 3000, mean_bytes=600, seed=3)


def turns(pair: Pair) -> tuple[Message, ...]:
    return (*pair.prompt, *pair.responses[0].messages, *pair.responses[1].messages)


@pytest.fixture(scope="module")
def read(made: tuple[Path, Known]) -> tuple[dict[str, Pair], dict[str, list[str | None]], Counter[str]]:
    """Every pair, what its rows prefer, and why rows are rejected, by Assay's own reader."""
    pairs: dict[str, Pair] = {}
    said: defaultdict[str, list[str | None]] = defaultdict(list)
    rejected: Counter[str] = Counter()
    for file in sorted(made[0].glob("part-*.jsonl")):
        part = find(str(file))[0]
        layout = decide(part.rows, part.path)
        for found in outcomes(part.rows(), layout):
            for one in found.made:
                if isinstance(one, Preferred):
                    pairs[one.pair.id] = one.pair
                    said[one.pair.id].append(one.better)
                else:
                    rejected[f"{getattr(one, 'field', '')} {one.reason}".partition(" (")[0].strip()] += 1
    return pairs, said, rejected


def test_an_import_counts_what_the_generator_says(made: tuple[Path, Known], tmp_path: Path) -> None:
    folder, known = made
    files = sorted(map(str, folder.glob("part-*.jsonl")))
    report = pool.add(files, tmp_path / "pool", say=lambda _: None)
    assert [f.layout for f in report.files] == [*["chosen-rejected"] * 7, "labelled"]
    assert sum(f.rows for f in report.files) == known.rows == known.votes + known.malformed
    assert (report.pairs, report.rejected) == (known.votes, known.malformed)
    assert (report.repeated, report.contradicting) == (known.repeats, known.conflicts)
    assert sum(f.ties for f in report.files) == known.ties
    assert min(known.repeats, known.conflicts, known.ties, known.malformed, known.contaminated) > 0


def test_pairs_and_questions_are_as_many_as_said(
    made: tuple[Path, Known], read: tuple[dict[str, Pair], dict[str, list[str | None]], Counter[str]]
) -> None:
    known, (pairs, said, rejected) = made[1], read
    assert known.pairs == len(pairs) == 3000
    assert known.questions == len({p.question_id for p in pairs.values()})
    assert known.votes == sum(map(len, said.values()))
    assert known.conflicts == sum(len({*s} - {None}) > 1 for s in said.values())
    assert sum(rejected.values()) == known.malformed
    assert len(rejected) >= len(BAD)
    size = sum(sum(len(m.content.encode()) for m in turns(p)) for p in pairs.values())
    assert size == pytest.approx(known.text_bytes, rel=0.05)
    assert size / 3000 == pytest.approx(600, rel=0.4)


def test_rates_are_those_that_were_measured(made: tuple[Path, Known]) -> None:
    known, measured = made[1], MEASURED
    assert known.repeats / known.votes == pytest.approx(measured["repeats"], rel=0.25)
    assert known.malformed / known.rows == pytest.approx(measured["malformed"], rel=0.35)
    assert known.ties / known.votes == pytest.approx(measured["ties"], rel=0.35)
    assert 0.3 < known.contaminated / known.pairs / measured["contaminated"] < 3


def test_exactly_the_planted_overlaps_are_found(
    made: tuple[Path, Known], read: tuple[dict[str, Pair], dict[str, list[str | None]], Counter[str]]
) -> None:
    prompts = [json.loads(line)["prompt"] for line in (made[0] / "benchmark.jsonl").read_text().splitlines()]
    assert len(prompts) == scale_pool.PROMPTS == len(set(prompts))
    index = Index.of({"made": prompts})
    assert sum(bool(index.hits(p)) for p in read[0].values()) == made[1].contaminated


def test_near_duplicates_are_near_and_not_equal(
    read: tuple[dict[str, Pair], dict[str, list[str | None]], Counter[str]], made: tuple[Path, Known]
) -> None:
    """Twins of whole questions: their pairs, without the numbers that tell the questions apart, are alike in most words."""
    grams = []
    for p in read[0].values():
        texts = [m.content.split() for m in turns(p)]
        texts[0] = texts[0][4:]
        grams.append(frozenset(g for t in texts for g in zip(*(t[i:] for i in range(3)), strict=False)))
    holders: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
    for n, some in enumerate(grams):
        for gram in list(some)[:8]:
            holders[gram].add(n)
    questions = [p.question_id for p in read[0].values()]
    close = {
        n for near in holders.values() if len(near) > 1 for n in near for m in near
        if questions[n] != questions[m] and len(grams[n] & grams[m]) > 0.5 * len(grams[n] | grams[m])
    }  # fmt: skip
    assert made[1].near > 0
    assert len(close) >= made[1].near


def test_a_pool_is_a_function_of_its_arguments_whatever_came_before(tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("other", 7), ("third", 8)):
        make(tmp_path / name, 300, mean_bytes=250, seed=seed)
    one, other, third = (
        [(f.name, f.read_bytes()) for f in sorted((tmp_path / n).iterdir())] for n in ("one", "other", "third")
    )
    assert one == other
    assert one != third


def test_copies_lie_behind_the_next_batch_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_pool, "BATCH_BYTES", 2 * 250 * 70)
    known = make(tmp_path / "files", 500, mean_bytes=250, seed=1, layouts=LAYOUTS[:3])
    lines = [line for f in (tmp_path / "files").glob("part-*.jsonl") for line in f.read_text().splitlines()]
    assert known.pairs == 500
    assert len(lines) == known.rows
    files = [str(tmp_path / "files" / f"part-{n:02d}.jsonl") for n in range(3)]
    report = pool.add(files, tmp_path / "pool", say=lambda _: None)
    assert (report.pairs, report.repeated, report.rejected) == (known.votes, known.repeats, known.malformed)


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS)))
def test_every_layout_alone(tmp_path: Path, layout: str) -> None:
    known = make(tmp_path / "files", 200, mean_bytes=250, seed=2, layouts=[layout])
    report = pool.add([str(tmp_path / "files" / "part-00.jsonl")], tmp_path / "pool", say=lambda _: None)
    assert (report.pairs, report.repeated, report.rejected) == (known.votes, known.repeats, known.malformed)
    assert report.contradicting == known.conflicts


def test_words_are_as_frequent_as_real_ones_and_nearly_as_long() -> None:
    bank = Bank()
    counts = sorted(Counter(((bank.by_chance - bank.word) // 6).tolist()).values(), reverse=True)
    for n, share in MEASURED["share_of_top_words"].items():
        assert sum(counts[: int(n)]) / len(bank.by_chance) == pytest.approx(share, rel=0.05)
    assert len(set(bank.tokens[: bank.cjk])) == bank.cjk
    assert bank.word_bytes == pytest.approx(MEASURED["word_bytes"] + 1.2, rel=0.2)
