"""Ids as numbers give what their texts give: order, parts, and which rows share one."""

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.curate.ids import Occurrences, by_id, parts_of, text_of
from assay.curate.keep_rule import beside
from assay.curate.shards import content_digest, part_of
from assay.records import digest

SHARED = [digest(i) for i in range(5)]
ALIKE = [f"{'0' * 16}{half}" for half in ("f" * 16, "0" * 16, "a" * 16)]  # two ids whose first halves are the same
HEX = st.one_of(st.sampled_from([*SHARED, *ALIKE]), st.text("0123456789abcdef", min_size=32, max_size=32))
IDS = st.lists(st.one_of(HEX, st.sampled_from(["", "p", "F" * 32, "é" * 16])), max_size=12) | st.lists(HEX, max_size=12)


@given(IDS)
def test_the_order_of_ids_is_that_of_their_texts(ids: list[str]) -> None:
    assert [ids[i] for i in by_id(pl.Series(ids, dtype=pl.String))] == sorted(ids)


@given(st.lists(st.tuples(HEX, HEX), max_size=12))
def test_the_first_column_counts_most(rows: list[tuple[str, str]]) -> None:
    columns = (pl.Series([r[n] for r in rows], dtype=pl.String) for n in (0, 1))
    assert [rows[i] for i in by_id(*columns)] == sorted(rows)


@given(st.lists(st.tuples(HEX, st.integers(0, 3), st.sampled_from("xyz")), max_size=20))
def test_rows_of_one_id_are_in_the_order_of_the_other_columns(rows: list[tuple[str, int, str]]) -> None:
    frame = pl.DataFrame(rows, schema={"id": pl.String, "n": pl.Int64, "t": pl.String}, orient="row")
    order = Occurrences.of(frame["id"]).sorted(frame.drop("id"))
    assert [rows[i] for i in order] == sorted(rows)


@pytest.mark.parametrize("parts", [1, 2, 7, 1024])
def test_parts_are_those_of_one_id(parts: int) -> None:
    ids = [*ALIKE, "f" * 32, *(digest(i) for i in range(50))]
    assert parts_of(pl.Series(ids), parts).tolist() == [part_of(i, parts) for i in ids]
    assert parts_of(pl.Series([], dtype=pl.String), parts).tolist() == []


def test_texts_end_to_end() -> None:
    begins, text = text_of(pl.Series(["x", "ab", None, "é", ""])[1:])
    assert [bytes(text[a:b]).decode() for a, b in pairwise(begins)] == ["ab", "", "é", ""]


def test_the_digest_of_pairs_is_that_of_their_list() -> None:
    for ids in ([], SHARED):
        asked = pl.Series([i % 2 == 0 for i in range(len(ids))], dtype=pl.Boolean)
        column = pl.Series(ids, dtype=pl.String)
        assert content_digest(column, asked) == digest([[i, a] for i, a in zip(ids, asked, strict=True)])
        assert content_digest(column, True) == digest([[i, True] for i in ids])


@given(st.permutations([*"abcd"]), st.lists(st.booleans(), min_size=6, max_size=6))
def test_what_lies_in_order_is_joined_as_anything_else(order: list[str], there: list[bool]) -> None:
    rows = pl.DataFrame({"pair_id": [*"abcdef"], "n": range(6)})
    for ids in (order, [i for i, t in zip("abcdef", there, strict=True) if t]):
        found = pl.DataFrame(
            {"pair_id": ids, "x": [f"x{i}" for i in ids]}, schema={"pair_id": pl.String, "x": pl.String}
        )
        joined = rows.join(found, on="pair_id", how="left", maintain_order="left")
        assert beside(rows, pl.Series(there), found).equals(joined)
