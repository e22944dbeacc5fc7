"""Settling over columns is settling pair by pair, to the last bit: any kinds, ties, leads, strengths, any order."""

import random
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.curate.settle import certainty, settle_all, settle_frame, strength, wild_choice, wild_frame
from assay.errors import AssayError
from assay.records import Judgement, Kind, Label
from assay.tables import Table, build, plain

COLUMNS = ["pair_id", "better", "by", "kind", "confidence", "votes", "problem", "round", "strength"]
SCHEMA = {
    "pair_id": pl.String, "better": pl.String, "by": pl.String, "kind": pl.String, "confidence": pl.Float64,
    "votes": pl.Int64, "problem": pl.String, "round": pl.Int64, "strength": pl.Float64,
}  # fmt: skip
KINDS: tuple[Kind, ...] = ("lead", "human", "oracle", "llm", "offline", "rm", "wild")
CONFIDENCES = st.one_of(st.just(1.0), st.floats(0.5, 1.0))
STRENGTHS = st.one_of(st.just(0.0), st.floats(-9.0, 9.0))
PROBLEMS = st.sampled_from(["tie", "cannot decide", "refused", "unparsable", "http 400: too long"])


@st.composite
def judgement(draw: st.DrawFn, kinds: Sequence[Kind] = KINDS) -> Judgement:
    pair_id = draw(st.sampled_from(["p", "q", "r", "x" * 32]))
    better = draw(st.sampled_from([f"{pair_id}-a", f"{pair_id}-b", None]))
    return Judgement(
        pair_id=pair_id, better=better, problem="" if better else draw(PROBLEMS), kind=draw(st.sampled_from(kinds)),
        by=draw(st.sampled_from(["ann", "bob", "é", "wild:s"])), round=draw(st.integers(0, 3)),
        confidence=draw(CONFIDENCES), strength=draw(STRENGTHS),
    )  # fmt: skip


def frame(rows: Sequence[Judgement]) -> pl.DataFrame:
    return pl.DataFrame([[getattr(j, c) for c in COLUMNS] for j in rows], orient="row", schema=SCHEMA)


def labels(settled: pl.DataFrame) -> list[Label]:
    assert settled.columns == [f.name for f in fields(Label)]
    return [build(Label, row) for row in settled.iter_rows(named=True)]


def labelled(rows: Sequence[Judgement]) -> list[Judgement]:
    """Without the pairs of which only reward models spoke: these are an error, in both."""
    some = {j.pair_id for j in rows if j.kind != "rm"}
    return [j for j in rows if j.pair_id in some]


@settings(max_examples=400)
@given(st.lists(judgement(), max_size=24), st.randoms(use_true_random=False))
def test_over_columns_as_pair_by_pair(rows: list[Judgement], order: random.Random) -> None:
    rows = labelled(rows)
    expected = settle_all(rows, "stage1")
    assert labels(settle_frame(frame(rows), "stage1")) == expected
    order.shuffle(rows)
    again = settle_frame(frame(rows).lazy(), "stage1")
    assert labels(again) == expected
    assert again.equals(settle_frame(frame(sorted(rows, key=lambda j: j.pair_id)), "stage1"))


@settings(max_examples=200)
@given(st.lists(judgement(kinds=("wild", "human")), max_size=24))
def test_the_sources_own_votes(rows: list[Judgement]) -> None:
    found = wild_frame(frame(rows)).rows(named=True)
    by_pair: dict[str, list[Judgement]] = {}
    for j in rows:
        if j.kind == "wild":
            by_pair.setdefault(j.pair_id, []).append(j)
    assert [row["pair_id"] for row in found] == sorted(by_pair)
    for row in found:
        votes = by_pair[row["pair_id"]]
        original = wild_choice(votes)
        assert (row["original"], row["n"]) == (original, len(votes))
        assert row["conflict"] == (len({j.better for j in votes} - {None}) > 1)
        if original is None:
            assert (row["certainty"], row["strength"]) == (None, None)
        else:
            other = row["pair_id"] + ("-b" if original.endswith("a") else "-a")
            assert row["certainty"] == certainty(votes, original)
            assert max(0.0, row["strength"]) == strength(votes, original)
            assert max(0.0, -row["strength"]) == strength(votes, other)


def test_votes_that_are_nothing_but_votes(tmp_path: Path) -> None:
    """A table of votes as it is on disk, without `kind` and `by`; columns that older shards lack hold nulls."""
    rows = [Judgement(pair_id=f"{n:03}", better=f"{n:03}-a", by="wild:s", kind="wild") for n in range(20)]
    Table(tmp_path, Judgement).write("part", rows)
    votes = pl.scan_parquet(tmp_path / "part.parquet")
    plain_votes = wild_frame(votes.drop("kind", "by"))
    assert plain_votes.equals(wild_frame(votes))
    assert plain_votes.equals(
        wild_frame(votes.with_columns(pl.lit(None).cast(pl.Float64).alias(c) for c in ("strength", "confidence")))
    )
    assert plain_votes["original"].to_list() == [j.better for j in rows]
    assert plain_votes.select("certainty", "strength", "conflict", "n").unique().rows() == [(1.0, 0.0, False, 1)]
    assert labels(settle_frame(votes, "s")) == settle_all(rows, "s")


def test_nothing_settles_to_nothing_of_the_same_columns() -> None:
    some = settle_frame(frame([Judgement(pair_id="p", better="a", by="x", kind="wild")]), "s")
    assert settle_frame(frame([]), "s").schema == some.schema
    assert some.schema == Table(Path(), Label).frame().schema
    assert wild_frame(frame([])).height == 0


@pytest.mark.parametrize("n", [3, 511, 512, 513, 2000])
def test_many_votes_on_one_pair_add_up_as_exactly(n: int) -> None:
    rng = random.Random(n)
    rows = [
        Judgement(pair_id="p", better=rng.choice("aab"), by=f"w{i}", kind="llm", confidence=rng.uniform(0.5, 1),
                  strength=rng.uniform(-1, 3))
        for i in range(n)
    ]  # fmt: skip
    rows += [replace(rows[0], pair_id="q"), replace(rows[0], pair_id="q", by="z", confidence=0.1)]
    assert labels(settle_frame(frame(rows), "s")) == settle_all(rows, "s")


def test_reward_models_alone_and_a_third_response_are_errors_in_both() -> None:
    rm = [Judgement(pair_id=p, better="a", by=by, kind="rm") for p in "qp" for by in ("gold-rm", "best-rm")]
    human = Judgement(pair_id="q", better="a", by="x", kind="human")
    third = [Judgement(pair_id="p", better=b, by="x", kind="human") for b in "abc"]
    for rows, message in (
        ([*rm, human], "pair p: only best-rm, gold-rm judged it"),
        ([human, *third], "pair p: its judgements name 3 different responses"),
    ):
        with pytest.raises(AssayError, match=message):
            settle_all(rows, "s")
        with pytest.raises(AssayError, match=message):
            settle_frame(frame(rows), "s")


def test_what_is_written_reads_back_as_labels(tmp_path: Path) -> None:
    rows = [Judgement(pair_id=p, better=None if p == "r" else p, problem="tie" if p == "r" else "", by=by, kind="llm")
            for p in "pqr" for by in ("x", "y")]  # fmt: skip
    settled = settle_frame(frame(rows), "s")
    table = Table(tmp_path, Label)
    table.write("part", labels(settled))
    assert table.frame().equals(settled)
    assert plain(labels(settled)[0])["by"] == ["x", "y"]
