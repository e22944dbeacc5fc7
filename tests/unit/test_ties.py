"""What judges may say of a pair, in every combination: no report, merge or table ends because nobody decided."""

from itertools import combinations_with_replacement, product
from pathlib import Path

import pytest

from assay.curate.annotate import merge, own_verdict
from assay.curate.judge_page import markdown, sections
from assay.curate.judge_report import judge_report
from assay.curate.merging import Gold, Merge, merge_votes
from assay.curate.rules import rule_attributes
from assay.curate.shards import create
from assay.judges.guidance import _row
from assay.judges.votes import report
from assay.records import Attributes, Judgement, Pair, Response, user
from assay.tables import Table

PAIRS = [Pair.of((user(f"Question {n}?"),), Response.of(f"one {n}"), Response.of(f"the other {n}")) for n in range(3)]
SAID = ("first", "second", "tie", "cut off at max_tokens")
MERGES: tuple[Merge, ...] = ("majority", "weighted", "dawid-skene")


def vote(pair: Pair, by: str, said: str, sample: int) -> Judgement:
    one, other = (r.id for r in pair.responses)
    better = {"first": one, "second": other}.get(said)
    shown = (one, other) if sample % 2 == 0 else (other, one)
    return Judgement(
        pair_id=pair.id, better=better, by=by, kind="llm", shown=shown, problem="" if better else said, tokens=3
    )


def votes(pair: Pair, said: dict[str, tuple[str, ...]]) -> list[Judgement]:
    return [vote(pair, f"llm:{m}", s, n) for m, told in said.items() for n, s in enumerate(told)]


GOLD = Gold(better={p.id: p.responses[0].id for p in PAIRS[:2]}, questions={p.id: p.question_id for p in PAIRS})
ATTRIBUTES = {p.id: rule_attributes(p) for p in PAIRS}


def check(every: list[Judgement], gold: Gold, how: Merge) -> list[Judgement]:
    merged = merge_votes(every, how, gold)
    sizes = {p.id: {r.id: len(r.text) for r in p.responses} for p in PAIRS}
    told = judge_report(every, merged, how, sizes, ATTRIBUTES, gold)
    assert "judge" in markdown(sections(told))
    for judgement in merged:
        heard = {v.better for v in every if v.pair_id == judgement.pair_id and v.better}
        assert judgement.better is None or heard, "nobody said anything"
        assert judgement.better in heard | {None} or how == "dawid-skene", "only it turns a bad judge round"
        assert judgement.better or not (len(heard) == 1 and how == "majority"), "somebody did"
        assert 0.5 <= judgement.confidence <= 1.0
    return merged


@pytest.mark.parametrize("how", MERGES)
def test_every_combination_of_what_two_judges_may_say(how: Merge) -> None:
    """Two models, two samples, beside a pair on which both are clear, or alone."""
    clear = votes(PAIRS[1], {"a": ("first", "first"), "b": ("second", "first")})
    for n, (a, b) in enumerate(product(combinations_with_replacement(SAID, 2), repeat=2)):
        check([*votes(PAIRS[0], {"a": a, "b": b}), *(clear if n % 2 else [])], GOLD, how)


@pytest.mark.parametrize("how", MERGES)
@pytest.mark.parametrize("said", [("tie",) * 3, ("cannot decide",), ("refused", "tie")])
def test_only_ties_are_a_problem(how: Merge, said: tuple[str, ...]) -> None:
    every = [v for p in PAIRS for v in votes(p, {"a": said})]
    assert {(j.better, bool(j.problem)) for j in check(every, GOLD, how)} == {(None, True)}
    if how != "weighted":
        check(every, Gold(better={}, questions=GOLD.questions), how)


def test_a_model_that_only_says_tie_has_no_verdict() -> None:
    told = own_verdict(votes(PAIRS[0], {"a": ("tie", "tie", "tie")}), "llm:a")
    assert (told.better, told.problem) == (None, "tie")
    both = merge(votes(PAIRS[0], {"a": ("tie", "tie"), "b": ("first", "first")}))
    assert both.better == PAIRS[0].responses[0].id


def test_a_report_and_an_arm_of_ties_alone(tmp_path: Path) -> None:
    every = [v for p in PAIRS for v in votes(p, {"a": ("tie", "tie")})]
    create(tmp_path / "pool", PAIRS, [], GOLD.better)
    Table(tmp_path / "tables/votes", Judgement).write("00000000", every)
    Table(tmp_path / "tables/attributes", Attributes).write("00000000", ATTRIBUTES.values())
    for how in MERGES:
        assert report(tmp_path, how).problems == {"llm:a": {"tie": 6}}
    judged = [[j for j in merge_votes(every, "majority", GOLD) if j.pair_id in GOLD.better]]
    row = _row("none", judged, [every], dict.fromkeys(GOLD.better, 0.5), GOLD.better, GOLD.questions)
    assert (row.agreement.value, row.right.value, row.readable and row.readable.value) == (None, 0.5, 0.0)
