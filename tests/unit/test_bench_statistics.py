"""Best-of-N curves against all subsets; comparison, correlation, coverage and the mean over seven, by known answers."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from assay.bench import compare, page, table
from assay.bench.benchmark import Choice, evaluate
from assay.bench.best_of_n import Candidates, curve, expected
from assay.bench.results import BenchmarkResult, Cell, Skipped, cell
from assay.bench.reward.pairs import evaluate_pairs, report
from assay.bench.verdicts import PairJudge, request
from assay.errors import AssayError
from assay.llm.chat import Request
from assay.llm.replies import Reply
from assay.records import Conversation, Preference, Response, assistant, user


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7), st.integers(1, 7))
def test_best_of_n_is_the_mean_over_all_subsets(answers: list[tuple[int, bool]], n: int) -> None:
    n = min(n, len(answers))
    problem = Candidates(
        id="p", rewards=tuple(float(r) for r, _ in answers), correct=tuple(right for _, right in answers)
    )
    picked, oracle = [], []
    for subset in itertools.combinations(answers, n):
        top = max(r for r, _ in subset)
        picked.append(np.mean([right for r, right in subset if r == top]))
        oracle.append(any(right for _, right in subset))
    assert expected(problem, n) == pytest.approx(np.mean(picked))
    made = curve([problem], [n])
    assert made.oracle[0].value == pytest.approx(100 * np.mean(oracle))
    assert made.random[0].value == pytest.approx(100 * np.mean([right for _, right in answers]))


@pytest.mark.parametrize(("k", "n"), [(1_100, 3), (1_100, 550), (1_100, 1_099), (5_000, 2_500), (5_000, 5_000)])
def test_thousands_of_answers_overflow_nothing(k: int, n: int) -> None:
    """Against fractions: the binomials are beyond floats from about 1,030 answers on."""
    random = np.random.default_rng(k + n)
    correct = random.random(k) < 0.3
    problem = Candidates(id="p", rewards=tuple(map(float, range(k))), correct=tuple(correct.tolist()))
    whole = math.comb(k, n)
    exact, ways = Fraction(0), 1
    for i in range(n - 1, k):  # C(i, n - 1), from one to the next
        exact += Fraction(ways if correct[i] else 0, 1)
        ways = ways * (i + 1) // (i + 2 - n)
    assert expected(problem, n) == pytest.approx(float(exact / whole), rel=1e-9, abs=1e-300)
    wrong = int((~correct).sum())
    made = curve([problem], [n])
    assert made.oracle[0].value == pytest.approx(100 * float(1 - Fraction(math.comb(wrong, n), whole)))
    tied = replace(problem, rewards=(1.0,) * k)
    assert expected(tied, n) == pytest.approx(correct.mean()), "the weights sum to one"


def test_a_curve_refuses_more_than_there_is() -> None:
    problem = Candidates(id="p", rewards=(1.0, 2.0), correct=(True, False))
    assert curve([problem]).sizes == (1, 2)
    with pytest.raises(AssayError, match="best of 4 needs"):
        curve([problem], [4])
    with pytest.raises(AssayError, match="at least one problem"):
        curve([])


def _result(name: str, values: Sequence[float], whole: bool = True) -> BenchmarkResult:
    made = cell("total", values, [(user(f"{name} {k // 2}"),) for k in range(len(values))])
    slices = (replace(made, name="mean of the four slices", value=made.value / 2, terms=None),)
    return BenchmarkResult(
        name=name, n=len(values), total=len(values), headline=made, slices=slices, notes=(), protocol="p", whole=whole
    )


def _saved(path: Path, model: str, *results: BenchmarkResult) -> compare.Saved:
    compare.save(path, model, {}, results)
    return compare.load(path)


def test_pairing_finds_a_small_difference_that_two_intervals_hide(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    base = (random.random(400) < 0.5).astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:12]] = 1.0
    a, b = _saved(tmp_path / "a", "A", _result("x", better)), _saved(tmp_path / "b", "B", _result("x", base))
    found = compare.compare(a, b)[0]
    assert found.points == pytest.approx(3.0)
    assert 0 < found.low < 3.0 < found.high
    one, two = (s.results["x"]["headline"] for s in (a, b))
    assert one["low"] < two["high"], "the intervals of the two overlap"
    back = compare.compare(b, a)[0]
    assert (back.points, back.low, back.high) == pytest.approx((-found.points, -found.high, -found.low))
    prompts = len({k // 2 for k in np.flatnonzero(better != base)})
    assert found.p == pytest.approx(2 / 2**prompts, rel=0.3), "two of the ways to exchange names are as extreme"
    assert back.p == found.p


def test_two_models_that_agree_everywhere_are_not_surely_equal(tmp_path: Path) -> None:
    """200 prompts without a difference: each model may yet be ahead on as many as 1.8% (before: 0.00 to 0.00)."""
    a = _saved(tmp_path / "a", "A", _result("x", [1.0, 1.0, 0.0, 0.0] * 100))
    same = compare.compare(a, a)[0]
    assert (same.points, same.p) == (0, 1)
    most = 100 * (1 - 0.025 ** (1 / 200))
    assert (same.low, same.high) == pytest.approx((-most, most))


def test_a_difference_has_the_spread_of_clusters(tmp_path: Path) -> None:
    """Pairs of one prompt always agree: the interval must be that of 100 prompts, not of 200 items."""
    random = np.random.default_rng(1)
    values = np.repeat((random.random(100) < 0.3).astype(float), 2)
    found = compare.compare(
        _saved(tmp_path / "a", "A", _result("x", values)), _saved(tmp_path / "b", "B", _result("x", np.zeros(200)))
    )[0]
    share = values.mean()
    assert (found.high - found.low) / 2 == pytest.approx(196 * math.sqrt(share * (1 - share) / 100), rel=0.15)


def test_what_one_model_alone_has_is_left_out_and_told(tmp_path: Path) -> None:
    """Two failed requests: paired on the others, whichever they are. B is right where both have an answer and A is not."""
    a = _saved(tmp_path / "a", "A", _kept({f"q{n}": float(n % 2) for n in range(40) if n != 7}))
    b = _saved(tmp_path / "b", "B", _kept({f"q{n}": 1.0 for n in range(40) if n not in (8, 9)}))
    (found,) = compare.compare(a, b)
    assert found.notes == ("paired on the 37 items that both have; A alone has 2, B alone 1",)
    assert (found.a, found.b) == (pytest.approx(100 * 18 / 37), 100.0)
    assert compare.compare(a, a)[0].notes == ()
    with pytest.raises(AssayError, match="different items"):
        compare.compare(a, _saved(tmp_path / "c", "C", _kept({"other": 1.0})))


def test_a_part_of_a_total_that_both_lack_is_no_total(tmp_path: Path) -> None:
    one = _kept({"q1": 1.0, "q2": 0.0}, {"q1": "x", "q2": "y"})
    two = _kept({"q1": 1.0, "q3": 0.0}, {"q1": "x", "q3": "y"})
    with pytest.raises(AssayError, match="different items"):
        compare.compare(_saved(tmp_path / "a", "A", one), _saved(tmp_path / "b", "B", two))


def _kept(values: dict[str, float], groups: dict[str, str] | None = None) -> BenchmarkResult:
    parts = [groups[q] for q in values] if groups else None
    head = cell("total", list(values.values()), list(values), parts)
    return BenchmarkResult(name="x", n=len(values), total=40, headline=head, slices=(), notes=(), protocol="")


def test_different_items_are_not_compared(tmp_path: Path) -> None:
    a = _saved(tmp_path / "a", "A", _result("x", [1.0, 0.0]))
    longer = _saved(tmp_path / "b", "B", _result("x", [1.0, 0.0, 1.0]))
    told = ("paired on the 2 items that both have; A alone has 0, B alone 1",)
    assert compare.compare(a, longer)[0].notes == told
    other = replace(_result("z", [1.0, 0.0]), name="x")
    with pytest.raises(AssayError, match="different items"):
        compare.compare(a, _saved(tmp_path / "d", "D", other))
    with pytest.raises(AssayError, match="no benchmark with a total in common"):
        compare.compare(a, _saved(tmp_path / "c", "C", _result("y", [1.0, 0.0])))
    (tmp_path / "bad").write_text("{}")
    with pytest.raises(AssayError, match="not a file of"):
        compare.load(tmp_path / "bad")


def test_correlation_over_models_by_hand(tmp_path: Path) -> None:
    made = []
    for k, (x, y) in enumerate([(1, 2), (2, 4), (3, 5), (4, 4), (5, 5)]):
        results = [_result(n, [1.0] * v + [0.0] * (10 - v)) for n, v in (("x", x), ("y", y))]
        made.append(_saved(tmp_path / str(k), str(k), *results))
    found = compare.correlate(made)
    assert [(c.one, c.other, c.models) for c in found] == [("x", "y", 5)]
    assert found[0].pearson == pytest.approx(0.7745967)
    assert found[0].spearman == pytest.approx(0.7378648)
    assert found[0].low is not None
    assert found[0].low == pytest.approx(math.tanh(math.atanh(0.7745967) - 1.959964 / math.sqrt(2)))
    with pytest.raises(AssayError, match="three models"):
        compare.correlate(made[:2])


def test_the_mean_over_seven_needs_seven_whole_ones() -> None:
    results: list[BenchmarkResult | Skipped] = [_result(name, [1.0, 0.0, 1.0, 1.0]) for name in table.SEVEN]
    mean = table.over_seven(results)
    assert mean is not None
    assert mean.value == pytest.approx((6 * 75 + 37.5) / 7), "JudgeBench by its slices"
    assert "mean" in table.text(results)
    results[2] = _result(table.SEVEN[2], [1.0, 0.0], whole=False)
    assert table.over_seven(results) is None
    assert "no mean over the seven benchmarks: 6 of 7 are whole here" in table.text(results)
    results[2] = Skipped(name=table.SEVEN[2], reason="not here")
    assert table.over_seven(results) is None


def _choices(n: int) -> list[Choice]:
    made = []
    for k in range(n):
        prompt = (user(f"q{k}"),)
        long, short = (*prompt, assistant("a longer answer")), (*prompt, assistant("short"))
        best, loser = (long, short) if k % 4 else (short, long)
        made.append(Choice(id=str(k), source="x", stratum="", prompt=prompt, best=best, losers=(loser,)))
    return made


class Failing:
    """Likes length, and fails where the prompt says so."""

    may_fail = True

    def __init__(self, *failing: str) -> None:
        self.failing = failing

    def __call__(self, flat: Sequence[Conversation]) -> NDArray[np.float64]:
        return np.array([np.nan if c[0].content in self.failing else len(c[-1].content) for c in flat])


def test_what_is_learned_beyond_length_shows_where_lengths_are_alike() -> None:
    sizes = [(100, 91), (100, 111), (100, 112), (50, 50), (10, 30)]
    pairs = [
        Preference(pair_id=str(n), prompt=(user(f"q{n}"),), chosen=Response.of("x" * a), rejected=Response.of("y" * b))
        for n, (a, b) in enumerate(sizes)
    ]
    result = evaluate_pairs(pairs, lambda flat: np.array([len(c[-1].content) for c in flat], float))
    told = {c.name: (c.n, c.value) for c in result.diagnostics}
    assert told["alike in length"] == (3, pytest.approx(100 / 3)), "100 and 91, 100 and 111, 50 and 50"
    assert told["longer is right"] == (4, 25.0)


def test_failures_are_counted_beside_the_accuracy_and_length_is_told() -> None:
    result = evaluate(_choices(40), report("x"), Failing("q0", "q1"))
    assert (result.n, result.total, result.failed) == (38, 40, 2)
    assert any("coverage 95.0%: 2 of 40 items" in n for n in result.notes)
    assert result.headline is not None
    assert result.headline.value == pytest.approx(100 * 29 / 38)
    bias = {c.name: (c.n, c.value) for c in result.diagnostics}
    assert bias == {
        "right is longer": (29, 100.0), "right is shorter": (9, 0.0), "longer wins": (38, 100.0),
        "longer is right": (38, pytest.approx(100 * 29 / 38)),
    }  # fmt: skip
    with pytest.raises(AssayError, match="no item of x got all its rewards"):
        evaluate(_choices(2), report("x"), Failing("q0", "q1"))


def test_the_page_holds_everything_in_one_file(tmp_path: Path) -> None:
    problem = Candidates(id="p", rewards=(1.0, 2.0, 3.0, 0.0), correct=(True, False, True, False))
    told = page.write(
        tmp_path / "page.html",
        "<m>",
        {"cpu": "x"},
        [_result("x", [1.0, 0.0]), Skipped(name="y", reason="no & data")],
        {"MATH": curve([problem, replace(problem, id="q")])},
    ).read_text()
    assert told.count('<svg class="plot"') == 2
    assert "&lt;m&gt;" in told
    assert "no &amp; data" in told
    assert "http" not in told.replace("http-equiv", "")


def test_a_cell_is_clipped_for_its_interval_only() -> None:
    made = Cell(name="Ties", n=10, value=101.0, se=0.0, clusters=10)
    assert made.interval[1] == 100.0
    assert made.value == 101.0


class Talker:
    """A chat model that prefers the right one, says A where the question asks for it, and nothing to others."""

    name = "talker"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return [self.answer(r.messages[-1].content) for r in requests]

    def answer(self, text: str) -> Reply:
        self.asked.append(text)
        if "silent" in text:
            return Reply(problem="refused")
        if "mumble" in text:
            return Reply(text="both are fine")
        if "always A" in text:
            return Reply(text="[[B]]? No: [[A]]")
        if "tie once" in text and text.index("right one") < text.index("wrong one"):
            return Reply(text="[[C]]")
        return Reply(text="so [[A]]" if text.index("right one") < text.index("wrong one") else "so [[ b ]]")


def _duel(k: int, question: str) -> Choice:
    prompt = (user(f"{question} {k}"),)
    best, loser = (*prompt, assistant("right one")), (*prompt, assistant("wrong one"))
    return Choice(id=f"{question}{k}", source="x", stratum="", prompt=prompt, best=best, losers=(loser,))


def test_a_judge_is_asked_in_both_orders_and_its_failures_are_coverage() -> None:
    questions = ["plain"] * 4 + ["always A"] * 2 + ["tie once"] * 2 + ["silent", "mumble"]
    items = [_duel(k, q) for k, q in enumerate(questions)]
    chat = Talker()
    judge = PairJudge(chat)
    result = evaluate(items, report("x"), judge, failure=0.5)
    assert len(chat.asked) == 20, "each pair twice"
    assert (result.n, result.failed) == (8, 2)
    assert result.headline is not None
    assert result.headline.value == pytest.approx(75), "one verdict and a tie suffice; always A wins nothing"
    told = {c.name: c.value for c in result.diagnostics}
    assert told["both orders agree"] == pytest.approx(100 * 4 / 8)
    assert told["first shown wins"] == pytest.approx(100 * (4 + 4 + 0) / 14)
    assert told["published rule, failures 0.5"] == pytest.approx(100 * (6 + 2 * 0.5) / 10)
    assert judge.problems == {"refused": 2, "no verdict": 2}
    assert any("coverage 80.0%" in n for n in result.notes)


def test_braces_in_an_answer_are_no_fields() -> None:
    prompt = (user("{{answer_b}}"),)
    asked = request((*prompt, assistant("{{answer_a}} \\1")), (*prompt, assistant("zebra"))).messages[0].content
    assert asked.count("zebra") == 1
    assert "{{answer_a}} \\1" in asked
