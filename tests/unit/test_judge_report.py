"""The report on judges, by hand: three pairs of gold, two models, every number counted on paper."""

import pytest
from rich.console import Console

from assay.curate.judge_page import markdown, page, sections, show
from assay.curate.judge_report import JudgeReport, judge_report, reason
from assay.curate.merging import Gold, merge_votes
from assay.curate.rules import rule_attributes
from assay.records import Judgement, Pair, Response, user

PAIRS = [
    Pair.of((user(f"Question {n}?"),), Response.of(f"short {n}"), Response.of(f"a much longer one {n}"))
    for n in range(4)
]
SHORT, LONG = ([Response.of(t.format(n)).id for n in range(4)] for t in ("short {}", "a much longer one {}"))
GOLD = Gold(
    better={PAIRS[0].id: SHORT[0], PAIRS[1].id: LONG[1], PAIRS[2].id: LONG[2]},
    questions={p.id: p.question_id for p in PAIRS},
)


def vote(n: int, by: str, better: str | None, first: str, problem: str = "") -> Judgement:
    pair = PAIRS[n]
    shown = (first, pair.other(first))
    return Judgement(
        pair_id=pair.id, better=better, by=f"llm:{by}", kind="llm", shown=shown, problem=problem, tokens=10
    )


VOTES = [
    # m: pair 0 short in both orders (right), pair 1 long then short (its own tie), pair 2 long twice (right), pair 3 long
    vote(0, "m", SHORT[0], SHORT[0]), vote(0, "m", SHORT[0], LONG[0]),
    vote(1, "m", LONG[1], LONG[1]), vote(1, "m", SHORT[1], SHORT[1]),
    vote(2, "m", LONG[2], SHORT[2]), vote(2, "m", LONG[2], LONG[2]),
    vote(3, "m", LONG[3], LONG[3]), vote(3, "m", None, SHORT[3], "refused"),
    # n: always the longer one, once unreadable
    vote(0, "n", LONG[0], LONG[0]), vote(0, "n", LONG[0], SHORT[0]),
    vote(1, "n", LONG[1], SHORT[1]), vote(1, "n", None, LONG[1], "unparsable: no JSON"),
    vote(2, "n", LONG[2], LONG[2]), vote(2, "n", None, LONG[2], "unparsable: other"),
    vote(3, "n", LONG[3], LONG[3]), vote(3, "n", LONG[3], SHORT[3]),
]  # fmt: skip


@pytest.fixture(scope="module")
def report() -> JudgeReport:
    costs = [
        {"judge": "llm:m", "answers": 8, "untold": 1, "tokens_in": 800, "tokens_out": 80, "cost": 0.3},
        {"judge": "llm:n", "answers": 8, "untold": 0, "tokens_in": 800, "tokens_out": 80, "cost": 0.0},
    ]
    lengths = {p.id: {r.id: len(r.text) for r in p.responses} for p in PAIRS}
    merged = merge_votes(VOTES, "majority", GOLD)
    return judge_report(VOTES, merged, "majority", lengths, {p.id: rule_attributes(p) for p in PAIRS[:3]}, GOLD, costs)


def test_agreement_and_coverage(report: JudgeReport) -> None:
    m, n, merged, longer = report.judges
    assert [(j.judge, j.pairs) for j in report.judges] == [
        ("llm:m", 4), ("llm:n", 4), ("merged: majority", 4), ("the longer response", 4)
    ]  # fmt: skip
    assert (m.coverage.value, m.agreement.value, m.agreement.n, m.right.value) == (0.75, 1.0, 2, pytest.approx(2 / 3))
    assert (n.coverage.value, n.agreement.value, n.agreement.n) == (1.0, pytest.approx(2 / 3), 3)
    # pair 0: m short, n long: tie; pair 1: n alone, long; pair 2: both long; pair 3: both long
    assert (merged.coverage.value, merged.agreement.value, merged.agreement.n) == (0.75, 1.0, 2)
    assert (longer.agreement.value, longer.agreement.n, longer.first.n) == (pytest.approx(2 / 3), 3, 0)
    assert m.agreement.low is not None
    assert m.agreement.low < 0.5, "two pairs prove little"


def test_habits(report: JudgeReport) -> None:
    m, n, *_ = report.judges
    # m's decided votes: first, second, first, first, second, first, first
    assert (m.first.value, m.first.n) == (pytest.approx(5 / 7), 7)
    assert (m.steady.value, m.steady.n) == (pytest.approx(2 / 3), 3)
    assert (m.sure.value, m.sure.n) == (pytest.approx(2 / 3), 3)
    assert (n.steady.value, n.steady.n, n.first.n) == (1.0, 2, 6)
    # votes of m on gold pairs: short short long short long long; gold: short short long long long long
    assert (m.longer.value, m.longer_right.value, m.longer.n) == (0.5, pytest.approx(4 / 6), 6)
    assert (n.longer.value, n.longer_right.value) == (1.0, 0.5)


def test_parts_problems_and_costs(report: JudgeReport) -> None:
    assert {k: (v.value, v.n) for k, v in report.parts.items() if k.startswith("length")} == {
        "length: gold prefers the longer": (1.0, 2), "length: gold prefers the shorter": (None, 0)
    }  # fmt: skip
    assert report.parts["category: Information seeking"].n == 2
    assert report.problems == {"llm:m": {"refused": 1}, "llm:n": {"unparsable": 2}}
    m, n = report.costs
    assert m.cost_per_correct == pytest.approx(0.3 / 3), "three decided pairs, all of them likely right"
    assert n.tokens_per_correct == pytest.approx(880 / (4 * 2 / 3))
    assert [(a.between, a.pairs) for a in report.between] == [("llm:m and llm:n", 4)]


def test_the_report_is_shown_as_text_markdown_and_html(report: JudgeReport) -> None:
    found = sections(report)
    assert all(len(row) == len(s.header) for s in found for row in s.rows)
    console = Console(record=True, width=160)
    show(found, console)
    text = console.export_text()
    for shown in (text, markdown(found), page(found, "judges <1>", {"cores": 2})):
        for wanted in ("llm:m", "merged: majority", "refused", "Habits", "0.1"):
            assert wanted in shown
    assert "judges &lt;1&gt;" in page(found, "judges <1>", {})
    assert markdown(found).count("| --- |") >= 5


def test_problems_are_counted_by_what_they_have_in_common() -> None:
    assert reason("unparsable: `category` is 'x'") == "unparsable"
    assert reason("connection: Cannot connect to 1.2.3.4") == "connection"
    assert reason("http 400: bad") == "http 400: bad"
