"""Equal pairs are kept once, in either order; contradicting labels are kept and named."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from assay.curate.dedup import conflicting, deduplicate, first_rows
from assay.records import Judgement, Pair, Response, user


def pair(one: str, other: str, prompt: str = "p") -> Pair:
    return Pair.of((user(prompt),), Response.of(one), Response.of(other))


def wild(of: Pair, better: str | None, source: str) -> Judgement:
    chosen = None if better is None else Response.of(better).id
    return Judgement(pair_id=of.id, better=chosen, by=f"wild:{source}", kind="wild", problem="" if chosen else "tie")


def test_the_same_pair_in_either_order_is_one_pair_and_a_conflict_is_kept() -> None:
    first, again, other = pair("a", "b"), pair("b", "a"), pair("a", "b", prompt="q")
    judgements = [wild(first, "a", "x"), wild(again, "b", "y"), wild(other, "a", "x"), wild(other, None, "y")]
    result = deduplicate([first, again, other], judgements)
    assert result.pairs == [first, other]
    assert result.duplicates == 1
    assert result.judgements == judgements
    assert result.conflicts == [first.id]


def test_opinions_that_are_not_the_sources_make_no_conflict() -> None:
    one = pair("a", "b")
    person = Judgement(pair_id=one.id, better=Response.of("b").id, by="ann", kind="human")
    assert deduplicate([one], [wild(one, "a", "x"), person]).conflicts == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from("pq"), st.booleans())))
def test_the_narrow_table_way_agrees(raw: list[tuple[str, str, str, bool]]) -> None:
    rows = [(pair(a, b, p), a if first else b) for a, b, p, first in raw if a != b]
    judgements = [wild(p, better, "x") for p, better in rows]
    result = deduplicate([p for p, _ in rows], judgements)
    ids = pl.DataFrame(
        {"pair_id": [p.id for p, _ in rows], "row": range(len(rows))}, schema={"pair_id": pl.String, "row": pl.Int64}
    )
    assert first_rows(ids)["pair_id"].to_list() == [p.id for p in result.pairs]
    table = pl.DataFrame(
        [(j.pair_id, j.kind, j.better) for j in judgements], schema=["pair_id", "kind", "better"], orient="row"
    ) if judgements else pl.DataFrame(schema={"pair_id": pl.String, "kind": pl.String, "better": pl.String})  # fmt: skip
    assert conflicting(table) == result.conflicts
