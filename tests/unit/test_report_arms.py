"""What the report says of the claims that were fixed beforehand: of the same pairs, in words, and nothing where nothing was
measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assay.pipeline.arms import TITLES
from assay.pipeline.hits import Hit
from assay.report.arms import FIXED, NOTHING, arms_grid, fixed_grid, unseen_grid
from assay.report.run import RunSteps
from assay.statistics import mean
from assay.store import Place
from assay.tables import Table

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence.md"
PAIRS = 200


def share(right: int, n: int = PAIRS) -> dict[str, float]:
    return asdict(mean([1.0] * right + [0.0] * (n - right), range(n)))


def hits(folder: Path, **right: int) -> None:
    """Tables of hits: the first so many of 200 pairs, each of a question of its own."""
    table = Table(Place.of(folder / "seed-0/tables/hits"), Hit)
    for name, known in right.items():
        table.write(name.replace("_", "-"), [
            Hit(pair_id=f"p{n:03}", question_id=f"q{n}", right=float(n < known)) for n in range(PAIRS)
        ])  # fmt: skip


def steps(coin: int = 100) -> dict[str, Any]:
    """A seed's steps: every arm asked 50 people, 3 of whom could not decide."""
    people, silver = {"asked": 50, "undecided": 3, "right": share(41, 47)}, {"asked": PAIRS, "undecided": 0}
    told = {
        f"arms/{name}": {
            "pairs": 240, "people": people, "judges": silver | {"right": share(150)}, "accuracy": share(140),
            "unseen": share(30, 60),
        }
        for name in TITLES
    }  # fmt: skip
    told["control"] = {"draws": [share(coin - 30), share(coin + 30)] * 6}
    ways = {"no gold": 100, "random gold": 150, "nearest gold": 152}
    told["claims-judges"] = {w: {"n": PAIRS, "undecided": 0, "agreement": share(n)} for w, n in ways.items()}
    told["claims-unseen"] = {w: {"n": 60, "undecided": 0, "agreement": share(20, 60)} for w in ways}
    told["unseen/stage1"] = {"accuracy": None, "unseen": share(33, 60)}
    both = {"kept": 100, "flipped": 50, "keep_agreement": share(170), "flip_agreement": None}
    told["claims-filters"] = {
        "best RM": both | {"keep_agreement": share(120)}, "gold RM": both | {"keep_agreement": share(169)},
        "best + gold RM": both,
    }  # fmt: skip
    return told


def run(folder: Path, seed: Mapping[str, Any]) -> RunSteps:
    return RunSteps(folder, seeds=[dict(seed)])


def found(rows: Sequence[Sequence[str]], number: str) -> list[str]:
    return [row[2] for row in rows if row[0] == number]


def test_every_claim_of_the_page_is_told_and_no_other() -> None:
    page = EVIDENCE.read_text()
    fixed, found = (re.split(r"^## ", page[page.index(title) :], flags=re.MULTILINE)[1] for title in (
        "## Claims fixed beforehand", "## Results"
    ))  # fmt: skip
    written, answered = (re.findall(r"^\| (\d+) \| ", part, re.MULTILINE) for part in (fixed, found))
    assert sorted(set(written), key=int) == sorted({number for number, _, _ in FIXED}, key=int)
    assert len(written) == len(set(written)) == 12
    assert set(answered) == set(written), "each claim has a result"


def test_claims_are_told_in_words_with_what_they_rest_on(tmp_path: Path) -> None:
    hits(tmp_path, **{"judge-no gold": 100, "judge-random gold": 150, "judge-nearest gold": 152})
    hits(tmp_path, stage1=150, arm_gold_only=120, arm_equal_effort=149, arm_random_pairs=180, raw=90, raw_more=100,
         unguided=110, nohuman_filtered=111)  # fmt: skip
    rows = fixed_grid(run(tmp_path, steps())).rows
    assert found(rows, "0")[0].startswith("in keeping with a coin: 50.0 %")
    assert found(rows, "0")[0].endswith("12 draws of coins")
    assert found(rows, "1")[0].startswith("not shown to be better than random gold: +1.0 points")
    assert found(rows, "2")[0].startswith("shown to be better than the judge without gold: +26.0 points")
    assert found(rows, "3")[0].startswith("shown to be better than its gold alone: +15.0 points")
    assert "200 pairs of 200 questions" in found(rows, "3")[0]
    assert found(rows, "4")[0].startswith("not shown to be better than as much gold at random: +0.5 points")
    assert found(rows, "5")[0].startswith("shown to be worse than random pairs: -15.0 points"), (
        "a negative result is told"
    )
    assert found(rows, "6") == [NOTHING]
    assert [f.split(":")[0] for f in found(rows, "8")] == [
        "shown to be better than as many raw labels", "shown to be better than all raw labels"
    ]  # fmt: skip
    kept, flipped = found(rows, "9")
    assert re.match(r"shown to be better than best RM: .*; not shown to be better than gold RM", kept)
    assert flipped == f"{NOTHING}; {NOTHING}"
    assert found(rows, "11")[0].startswith("not shown to be better than unfiltered, without people: +0.5")


def test_a_leak_is_shouted_and_a_single_draw_is_none(tmp_path: Path) -> None:
    rows = fixed_grid(run(tmp_path, steps(coin=145))).rows
    assert found(rows, "0")[0].startswith("NOT a coin: 72.5 %")


def test_arms_tell_what_people_were_asked(tmp_path: Path) -> None:
    grid = arms_grid(run(tmp_path, steps()))
    assert [row[0] for row in grid.rows] == list(TITLES.values())
    assert list(grid.rows[0][1:4]) == ["50", "3", "240"]
    for row in grid.rows:
        assert all("n " in cell for cell in row[4:]), "no share without its n"


def test_unseen_kinds_are_told_apart(tmp_path: Path) -> None:
    rows = unseen_grid(run(tmp_path, steps())).rows
    assert [row[0] for row in rows] == [
        "reward model: stage 1", "judge, no gold", "judge, random gold", "judge, nearest gold"
    ]  # fmt: skip
    assert rows[0][1].startswith("55.0 (")
    assert all("n 60" in row[1] for row in rows)


def test_a_run_without_arms_has_no_claims_fixed_beforehand(tmp_path: Path) -> None:
    assert fixed_grid(run(tmp_path, {})).rows == []
    assert arms_grid(run(tmp_path, {})).rows == unseen_grid(run(tmp_path, {})).rows == []
