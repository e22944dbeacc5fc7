"""The counts of ../shared/data/README.md, and the overlaps with benchmarks that decontamination must find."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from assay.curate import pool
from assay.curate.decontaminate import decontaminate
from assay.errors import AssayError
from assay.formats.human_sets import HUMAN_SETS, read_human_sets, read_set
from assay.formats.labels import verdict
from assay.formats.preferred import Preferred
from assay.formats.sources import rows
from assay.formats.texts import Cell
from assay.pipeline.pools import human_pool
from assay.records import Judgement
from assay.tables import Table

DATA = Path(os.environ.get("ASSAY_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = pytest.mark.skipif(
    not (DATA / "preferences").is_dir(),
    reason=f"the published preference sets are not at {DATA} (set ASSAY_SHARED_DATA to where they are)",
)


def counts(name: str) -> tuple[int, int, int, int]:
    """(all outcomes, usable pairs, of which not ties, raw votes on usable pairs)."""
    outcomes = read_set(DATA / "preferences", name)
    good = [o for o in outcomes if isinstance(o, Preferred)]
    return len(outcomes), len(good), sum(o.better is not None for o in good), sum(o.votes for o in good)


# The README counts labels. Where usable pairs are fewer, the rest hold one response twice, or an empty one.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ukp-convarg1", (16_081, 16_066, 12_792, 80_160)),  # 15 arguments against themselves
        ("ukp-convarg1-strict", (11_650, 11_650, 11_650, 11_650)),
        ("vicuna80", (1_120 + 1_440, 1_120, 1_000, 7_040 - 1_440)),  # 1,440 of the 7,040 votes are on equal texts
        ("hh-helpful", (2_352, 2_348, 2_348, 2_348)),  # 4 empty answers
        ("hh-harmless", (2_312, 2_308, 2_308, 2_308)),  # 4 empty answers
        ("webgpt", (901, 901, 656, 901)),
        ("qa-feedback", (3_000, 3_000, 2_616, 3_000)),
        ("mt-bench", (1_231, 1_213, 948, 1_751 - 18)),  # 18 votes on equal or empty answers
        ("pandalm", (999, 945, 861, 2_835)),  # 54 empty answers
        ("lfqa", (260, 260, 260, 260)),
        ("alpaca_eval", (42_551, 42_328, 42_328, 42_328)),  # all 215 draws are equal texts; 8 empty answers
    ],
)
def test_the_sets_hold_what_the_readme_says(name: str, expected: tuple[int, int, int, int]) -> None:
    assert counts(name) == expected


@pytest.mark.parametrize(
    ("file", "field", "votes", "not_ties"),
    [
        ("vicuna80-human/vicuna80_human_pairs.jsonl.gz", "human", 7_040, 6_236),
        ("mt-bench/human_votes_partial.jsonl.gz", "winner", 1_751, 1_334),
    ],
)
def test_votes_that_stand_in_several_rows(file: str, field: str, votes: int, not_ties: int) -> None:
    table = [item.value for item in rows(DATA / "preferences" / file) if isinstance(item, Cell)]
    sides = [verdict(row[field], field, row, ("a", "b"), None) for row in table]
    assert (len(sides), len(sides) - sides.count(None)) == (votes, not_ties)


def test_whose_choices_they_are_and_that_shares_of_votes_are_kept() -> None:
    read = list(read_human_sets(DATA / "preferences", ("vicuna80", "lfqa")))
    assert {(name, people) for name, _, people in read} == {("vicuna80", "human"), ("lfqa", "human")}
    assert HUMAN_SETS["alpaca_eval"].people == "wild"
    shares = {p.confidence for name, p, _ in read if name == "vicuna80" and p.better}
    assert 1.0 in shares
    assert all(0.5 < s <= 1 for s in shares)
    assert len(shares) > 2


def test_votes_on_the_first_turn_see_the_first_turn_only() -> None:
    lengths = {
        len(p.pair.prompt) + len(r.messages)
        for _, p, _ in read_human_sets(DATA / "preferences", ("mt-bench",))
        for r in p.pair.responses
    }
    assert lengths == {2, 4}


@pytest.mark.parametrize(
    ("name", "benchmark", "prompts"),
    [
        ("alpaca_eval", "chat", 129), ("hh-helpful", "chat", 37), ("vicuna80", "chat", 13), ("pandalm", "chat", 11),
        ("mt-bench", "chat", 1), ("hh-harmless", "safety-refuse", 1),
    ],
)  # fmt: skip
def test_decontamination_finds_the_known_overlaps(name: str, benchmark: str, prompts: int) -> None:
    rows = json.loads((DATA / f"benchmarks/rm-bench/{benchmark}_filtered.json").read_text())
    pairs = [p.pair for _, p, _ in read_human_sets(DATA / "preferences", (name,))]
    result = decontaminate(pairs, {benchmark: [row["prompt"] for row in rows]})
    assert len({hit.prompt for hit in result.hits if hit.whole}) == prompts
    assert len(result.kept) + len(result.removed) == len(pairs)
    assert not decontaminate(result.kept, {benchmark: [row["prompt"] for row in rows]}).hits


@pytest.mark.parametrize(
    ("name", "layout", "unread"),
    [
        ("hh-helpful", None, 0), ("webgpt", None, 0), ("lfqa", None, 0), ("vicuna80", None, 0), ("mt-bench", None, 0),
        ("pandalm", "voted:1/2", 2),  # answers that are true in the file, and not text
    ],
)  # fmt: skip
def test_pool_add_reads_a_file_as_its_own_reader_does(
    name: str, layout: str | None, unread: int, tmp_path: Path
) -> None:
    """The generic layouts against this module's readers; where a vote is a row, the votes of a pair are added up."""
    (file,) = HUMAN_SETS[name].files
    if layout is not None:
        with pytest.raises(AssayError, match=r"voted:0/1/2 .*voted:1/2/0"):
            pool.add([str(DATA / "preferences" / file)], tmp_path / "asked", say=lambda _: None)
    pool.add([str(DATA / "preferences" / file)], tmp_path / "pool", layout=layout, say=lambda _: None)
    votes: dict[str, list[str]] = {}
    for judgement in Table(tmp_path / "pool" / "votes", Judgement).stream():
        votes.setdefault(judgement.pair_id, []).extend([judgement.better] if judgement.better else [])
    expected: dict[str, list[str]] = {}
    for outcome in read_set(DATA / "preferences", name):
        if isinstance(outcome, Preferred):
            expected.setdefault(outcome.pair.id, []).extend([outcome.better] if outcome.better else [])
    assert {k: majority(v) for k, v in votes.items()} == {k: majority(v) for k, v in expected.items() if k in votes}
    assert len(expected) - len(votes) == unread


def majority(votes: list[str]) -> str | None:
    counts = Counter(votes).most_common(2)
    tied = len(counts) == 2 and counts[0][1] == counts[1][1]
    return None if tied or not counts else counts[0][0]


def test_one_worker_is_the_wild_and_the_cleaned_majority_the_truth() -> None:
    """UKP: five workers a pair, so one of them is right in nine of ten; only pairs that the authors found consistent have a
    truth. HH: one person a pair, so that is the truth, and the longer answer the wild."""
    ukp = human_pool(DATA / "preferences", ("ukp-convarg1",))
    strict = {p.pair.id: p.better for _, p, _ in read_human_sets(DATA / "preferences", ("ukp-convarg1-strict",))}
    assert len(ukp.truth) > 0.98 * len(strict)  # the two files end lines differently
    assert all(strict[i] == better for i, better in ukp.truth.items())
    fewer = human_pool(DATA / "preferences", ("ukp-convarg1",), per_set=1_000)
    assert 900 < len(fewer.pairs) <= 1_000 == len(fewer.pairs) + fewer.repeats
    assert ukp.stage2_only == ukp.pairs.keys() - ukp.truth.keys()
    said = {j.pair_id: j.better for j in ukp.wild}
    assert 0.85 < sum(said[i] == better for i, better in ukp.truth.items()) / len(ukp.truth) < 0.95
    helpful = human_pool(DATA / "preferences", ("hh-helpful",), per_set=500)
    assert {j.by for j in helpful.wild} == {"wild:longer"}
    sizes = {p.id: {r.id: len(r.text) for r in p.responses} for p in helpful.pairs.values()}
    assert all(sizes[j.pair_id][str(j.better)] == max(sizes[j.pair_id].values()) for j in helpful.wild)


def test_sets_are_chosen_and_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "lfqa-expert").symlink_to(DATA / "preferences" / "lfqa-expert")
    said: list[str] = []
    assert human_pool(tmp_path, say=said.append).pairs.keys() == human_pool(tmp_path, ("lfqa",)).pairs.keys()
    assert "without ukp-convarg1, " in said[0]
    with pytest.raises(AssayError, match="the sets pandalm are not there"):
        human_pool(tmp_path, ("lfqa", "pandalm"))
    with pytest.raises(AssayError, match="unknown sets nothing"):
        human_pool(tmp_path, ("nothing",))
    with pytest.raises(AssayError, match="are not there"):
        human_pool(tmp_path / "empty")
