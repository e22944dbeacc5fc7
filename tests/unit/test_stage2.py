"""The keep rule of stage 2: a truth table, the band, and that every pair ends somewhere with a reason."""

import polars as pl
import pytest

from assay.curate.stage2 import REASONS, UNDECIDED, Stage2Config, counts, decide
from assay.errors import AssayError


def fate(p_best: float, p_gold: float, judge: str | None, band: float = 0.1, problem: str = "") -> tuple[str, str]:
    row = pl.DataFrame(
        {
            "pair_id": ["p"],
            "original": ["a"],
            "p_best": [p_best],
            "p_gold": [p_gold],
            "judge": [judge],
            "problem": [problem],
        },
        schema_overrides={"judge": pl.String},
    )
    out = decide(row, band).row(0, named=True)
    return out["fate"], out["reason"]


@pytest.mark.parametrize(
    ("p_best", "p_gold", "judge", "expected"),
    [
        (0.9, 0.9, None, "kept"),  # both reward models
        (0.3, 0.9, "a", "kept"),  # gold RM and judges
        (0.55, 0.9, "a", "kept"),  # inside the band: the judges' consent is needed ...
        (0.55, 0.9, "b", "dropped"),  # ... and missing here
        (0.55, 0.9, None, "dropped"),
        (0.61, 0.9, None, "kept"),  # outside the band
        (0.9, 0.2, None, "dropped"),  # the gold RM has a veto, also on a confident pair
        (0.2, 0.2, "a", "dropped"),  # judges alone do not keep, and prevent a flip
        (0.2, 0.2, "b", "flipped"),
        (0.2, 0.2, None, "flipped"),
        (0.55, 0.2, "b", "dropped"),  # the best RM leans to the original: no flip
        (0.2, 0.9, "b", "dropped"),
        (0.5, 0.5, "a", "dropped"),  # exactly undecided models neither keep nor flip
        (0.5, 0.5, "b", "dropped"),
    ],
)
def test_keep_rule(p_best: float, p_gold: float, judge: str | None, expected: str) -> None:
    assert fate(p_best, p_gold, judge)[0] == expected


def test_reasons_name_the_deciders() -> None:
    assert fate(0.9, 0.9, None)[1] == REASONS[0][1]
    assert fate(0.3, 0.9, "a")[1] == REASONS[1][1]
    assert fate(0.2, 0.2, "b")[1] == REASONS[2][1]
    assert fate(0.2, 0.2, None)[1] == REASONS[3][1]
    assert fate(0.9, 0.2, None)[1] == REASONS[4][1]
    assert fate(0.2, 0.9, "b")[1] == REASONS[5][1]


def test_band_zero_is_the_papers_text_and_bad_bands_are_refused() -> None:
    assert fate(0.51, 0.9, None, band=0.0)[0] == "kept"
    with pytest.raises(AssayError, match="band"):
        Stage2Config(band=0.5)


@pytest.mark.parametrize("problem", ["refused", "unparsable", "cut off at max_tokens", "http 400: too long"])
def test_a_judge_whose_answer_cannot_be_read_flips_nothing(problem: str) -> None:
    assert fate(0.2, 0.2, None, problem=problem) == REASONS[6]
    assert fate(0.3, 0.9, None, problem=problem) == REASONS[6]
    for said in UNDECIDED:
        assert fate(0.2, 0.2, None, problem=said) == REASONS[3]


@pytest.mark.parametrize("band", [0.0, 0.1, 0.4])
def test_judges_are_asked_exactly_where_their_word_counts(band: float) -> None:
    grid = [0.0, 0.1, 0.3, 0.45, 0.5, 0.55, 0.6, 0.7, 0.9, 0.95, 1.0]
    for p_best in grid:
        for p_gold in grid:
            fates = {fate(p_best, p_gold, judge, band)[0] for judge in ("a", "b", None)}
            assert counts(p_best, p_gold, band) == (len(fates) > 1), (p_best, p_gold)
