"""The keep rule over columns gives the labels that it gives pair by pair, and asks judges where their word counts."""

import math
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.curate.keep_rule import REASONS, UNDECIDED, counts_frame, decided
from assay.records import Label
from assay.tables import build

SCHEMA = {
    "pair_id": pl.String, "original": pl.String, "other": pl.String, "p_best": pl.Float64, "p_gold": pl.Float64,
    "judge": pl.String, "problem": pl.String, "certainty": pl.Float64, "strength": pl.Float64,
}  # fmt: skip
EVEN = st.sampled_from([0.0, 0.1, 0.45, 0.5, 0.55, 0.6, 0.61, 0.9, 1.0])
NUMBERS = st.one_of(EVEN, st.floats(0.0, 1.0), st.none(), st.just(math.nan))


@st.composite
def row(draw: st.DrawFn) -> dict[str, Any]:
    original = draw(st.sampled_from(["a", "b", None]))
    judge = draw(st.sampled_from(["a", "b", None]))
    return {
        "pair_id": draw(st.text("pqr", min_size=1)),
        "original": original,
        "other": {"a": "b", "b": "a"}.get(original or ""),
        "p_best": draw(NUMBERS),
        "p_gold": draw(NUMBERS),
        "judge": judge,
        "problem": "" if judge else draw(st.sampled_from([*UNDECIDED, "refused", "unparsable"])),
        "certainty": draw(st.floats(0.5, 1.0)) if original else None,
        "strength": draw(st.floats(-5.0, 5.0)) if original else None,
    }


def by_hand(row: dict[str, Any], band: float, judged: bool = True) -> Label:
    """The rule in words, one pair at a time."""
    original, judge, best, gold = (row[k] for k in ("original", "judge", "p_best", "p_gold"))

    def label(n: int, chosen: str | None = None, sure: float = 1.0, margin: float = 0.0) -> Label:
        by = () if n > 7 else ("best-rm", "gold-rm", "judges") if judge else ("best-rm", "gold-rm")
        fate, reason = REASONS[n]
        return Label(pair_id=row["pair_id"], chosen=chosen, tier="wild", fate=fate, reason=reason, by=by, stage="stage2",
                     certainty=sure, margin=margin)  # fmt: skip

    if original is None:
        return label(8)
    if best is None or gold is None or math.isnan(best) or math.isnan(gold):
        return label(9)
    mean = (row["certainty"] + best + gold) / 3
    if judge:
        mean = (row["certainty"] + best + gold + float(judge == original)) / 4
    if gold > 0.5 and (best > 0.5 + band or judge == original):
        return label(0 if best > 0.5 + band else 1, original, max(0.5, mean), max(0.0, row["strength"]))
    readable = judge is not None or row["problem"] in UNDECIDED
    if gold < 0.5 and best < 0.5 and judge != original and readable and judged:
        return label(2 if judge else 3, row["other"], max(0.5, 1 - mean), max(0.0, -row["strength"]))
    if not readable:
        return label(6)
    return label((5 if judged else 7) if gold > 0.5 else 4)


@settings(max_examples=300)
@given(st.lists(row(), max_size=12), st.sampled_from([0.0, 0.1, 0.4]))
def test_over_columns_as_pair_by_pair(rows: list[dict[str, Any]], band: float) -> None:
    frame = pl.DataFrame(rows, schema=SCHEMA)
    assert [build(Label, r) for r in decided(frame, band).iter_rows(named=True)] == [by_hand(r, band) for r in rows]


@settings(max_examples=100)
@given(st.lists(row(), max_size=12), st.sampled_from([0.0, 0.1, 0.4]))
def test_nothing_is_flipped_without_a_judge(rows: list[dict[str, Any]], band: float) -> None:
    rows = [r | {"judge": None, "problem": ""} for r in rows]
    frame = pl.DataFrame(rows, schema=SCHEMA)
    found = [build(Label, r) for r in decided(frame, band, judged=False).iter_rows(named=True)]
    assert found == [by_hand(r, band, judged=False) for r in rows]
    with_judge = decided(frame, band)
    for label, other in zip(found, with_judge["fate"], strict=True):
        assert label.fate == ("dropped" if other == "flipped" else other)


@settings(max_examples=100)
@given(st.lists(row(), max_size=12), st.sampled_from([0.0, 0.1, 0.4]))
def test_where_judges_count(rows: list[dict[str, Any]], band: float) -> None:
    def one(r: dict[str, Any]) -> bool:
        best, gold = r["p_best"], r["p_gold"]
        if best is None or gold is None or math.isnan(best) or math.isnan(gold):
            return False
        return bool(best <= 0.5 + band if gold > 0.5 else gold < 0.5 and best < 0.5)

    assert counts_frame(pl.DataFrame(rows, schema=SCHEMA), band).to_list() == [one(r) for r in rows]


def test_nothing_is_decided_of_nothing() -> None:
    empty, one = (
        decided(pl.DataFrame(rows, schema=SCHEMA), 0.1)
        for rows in ([], [dict.fromkeys(SCHEMA) | {"pair_id": "p", "original": "a"}])
    )
    assert empty.height == 0
    assert empty.schema == one.schema
    assert one["reason"].to_list() == ["a reward model gave no number for it"]
