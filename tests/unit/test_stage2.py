"""The keep rule of stage 2: a truth table, the band, and that every pair ends somewhere with a reason."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from assay.curate.attributes import rule_attributes
from assay.curate.stage1 import Material, Stage1Result
from assay.curate.stage2 import REASONS, UNDECIDED, Stage2Config, counts, decide, stage2
from assay.errors import AssayError
from assay.records import Case, Conversation, Judgement, Label, Pair, Response, Scorer, user
from assay.run import Run
from assay.tables import Table


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


def test_votes_and_strengths_reach_the_labels(tmp_path: Path) -> None:
    """The source by its votes (2 of 3), the reward models by their probability, the judge by its word."""
    material, original = three_pairs()
    votes = {
        i: [Judgement(pair_id=i, better=o, by=by, kind="wild", strength=2.0) for by in "xy"]
        + [Judgement(pair_id=i, better=material.pairs[i].other(o), by="z", kind="wild", strength=1.0)]
        for i, o in original.items()
    }
    seen = replace(material, wild=[j for rows in votes.values() for j in rows])
    best, gold = dict(zip(original, (0.9, 0.55, 0.2), strict=True)), dict(zip(original, (0.8, 0.7, 0.1), strict=True))

    def scorer(p: dict[str, float]) -> Scorer:
        def score(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
            by_text = {}
            for pair_id, o in original.items():
                pair = material.pairs[pair_id]
                by_text[pair.prompt + pair.response(o).messages] = np.log(p[pair_id] / (1 - p[pair_id]))
            return np.array([by_text.get(c, 0.0) for c in conversations])

        return score

    def judge(asked: Sequence[Case]) -> list[Judgement]:
        words = {i: o if n < 2 else material.pairs[i].other(o) for n, (i, o) in enumerate(original.items())}
        return [Judgement(pair_id=c.pair.id, better=words[c.pair.id], by="j", kind="llm") for c in asked]

    first = Stage1Result(labels=[], gold=[], held=[], examples={}, best=scorer(best), gold_rm=scorer(gold))
    with closing(Run(tmp_path, {})) as run:
        labels = {label.pair_id: label for label in stage2(run, Stage2Config(examples=1), seen, first, judge)}
        again = Table(tmp_path / "tables" / "labels", Label).read()
    assert [labels[i].fate for i in original] == ["kept", "kept", "flipped"]
    found = [(labels[i].certainty, labels[i].margin) for i in original]
    assert found[0] == pytest.approx(((2 / 3 + 0.9 + 0.8) / 3, 1.0))
    assert found[1] == pytest.approx(((2 / 3 + 0.55 + 0.7 + 1) / 4, 1.0))
    assert found[2] == pytest.approx(((1 / 3 + 0.8 + 0.9 + 1) / 4, 0.0))
    assert {label.pair_id: label for label in again} == labels


def three_pairs() -> tuple[Material, dict[str, str]]:
    """Pairs, and the response of each that the source prefers, in the order of pair ids."""
    made = [Pair.of((user(f"question {n}"),), Response.of(f"one {n}"), Response.of(f"two {n}")) for n in range(3)]
    pairs = {p.id: p for p in sorted(made, key=lambda p: p.id)}
    vectors = {i: np.eye(4, dtype=np.float32)[0] for i in pairs}
    attributes = {i: rule_attributes(p) for i, p in pairs.items()}
    material = Material(pairs=pairs, wild=[], attributes=attributes, vectors=vectors)
    return material, {i: p.responses[0].id for i, p in pairs.items()}


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
