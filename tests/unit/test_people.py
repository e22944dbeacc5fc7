"""Simulated people err as often as they say, in the same pairs whenever they are asked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.cli.run import run_tiny
from assay.curate.people import ANNOTATORS, Annotator, coin, erring
from assay.curate.rules import rule_attributes
from assay.errors import AssayError
from assay.pipeline.pools import constraint_pool
from assay.records import Case, Judge, Pair, Response, user
from assay.run import jsonable

PAIRS = [Pair.of((user(f"Question {n}?"),), Response.of(f"yes {n}"), Response.of(f"no {n}")) for n in range(3_000)]
CASES = [Case(pair=p, attributes=rule_attributes(p)) for p in PAIRS]
TRUTH = {p.id: p.responses[n % 2].id for n, p in enumerate(PAIRS)}


def test_two_annotators_share_the_pairs_and_err_at_their_own_rates() -> None:
    said = erring(TRUTH)(CASES)
    assert [j.pair_id for j in said] == [p.id for p in PAIRS]
    assert {(j.by, j.kind) for j in said} == {(a.name, "oracle") for a in ANNOTATORS}
    for a in ANNOTATORS:
        own = [j for j in said if j.by == a.name]
        decided = [j for j in own if j.better]
        assert abs(len(own) / len(said) - 0.5) < 0.04
        assert {j.problem for j in own} == {"", "cannot decide"}
        assert abs(1 - len(decided) / len(own) - a.undecided) < 0.02
        assert abs(np.mean([j.better != TRUTH[j.pair_id] for j in decided]) - a.wrong) < 0.03
        assert 0.10 <= a.wrong <= 0.15


def test_what_they_say_of_a_pair_depends_on_nothing_else() -> None:
    said = {j.pair_id: j for j in erring(TRUTH)(CASES)}
    assert {j.pair_id: j for j in erring(TRUTH)(CASES[100:300][::-1])}.items() <= said.items()
    assert erring(TRUTH)([]) == []


def test_without_a_truth_nobody_knows() -> None:
    (j,) = erring({})(CASES[:1])
    assert (j.better, j.problem) == (None, "no truth")


def test_a_coin_knows_nothing() -> None:
    said = coin()(CASES)
    assert abs(np.mean([j.better == TRUTH[j.pair_id] for j in said]) - 0.5) < 0.03
    assert coin()(CASES[5:7]) == said[5:7]
    assert coin(1)(CASES) != said
    assert coin()([]) == []


def test_impossible_people_are_refused() -> None:
    with pytest.raises(AssayError, match="annotator x: wrong must lie"):
        Annotator(name="x", wrong=1.0, undecided=0.0)


@pytest.mark.parametrize(("flag", "names"), [(None, {a.name for a in ANNOTATORS}), ("oracle", {"oracle"})])
def test_the_people_of_run_tiny_err_unless_an_oracle_is_asked_for(
    flag: str | None, names: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[Judge, dict[str, object]]] = []

    def job(*what: Any, people: Judge, **more: Any) -> None:
        asked.append((people, more["asked"]))

    monkeypatch.setattr("assay.cli.run._run", job)
    run_tiny(out=tmp_path, **({"people": flag} if flag else {}))  # type: ignore[arg-type]
    ((people, told),) = asked
    pool = constraint_pool()
    some = [Case(pair=p, attributes=rule_attributes(p)) for p in list(pool.pairs.values())[:400]]
    said = people(some)
    assert {j.by for j in said} == names
    right = [j.better == pool.truth[j.pair_id] for j in said if j.better]
    assert (0.8 < np.mean(right) < 0.95) if flag is None else all(right)
    assert all(name in json.dumps(jsonable(told)) for name in names), "a run says who its people are"
