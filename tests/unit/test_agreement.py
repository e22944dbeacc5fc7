"""Agreement: published examples, the libraries as second opinions, and what judgements come to."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from assay.curate.agreement import alpha, cohen, cohen_kappa, fleiss, fleiss_kappa, rater_kappas, ratings, report
from assay.records import Judgement, Kind

FLEISS_1971 = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
"""Ten subjects, fourteen raters, five categories: the worked example of textbooks (kappa 0.210)."""
KRIPPENDORFF_2011 = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Four observers, twelve units: Krippendorff (2011), section C; nominal alpha 0.743."""


def judgement(pair: int, side: str, by: str, kind: Kind = "human", **more: object) -> Judgement:
    """`side`: a or b names a response; t is a tie, d a discard, x a failure."""
    ids = (f"{pair:04d}a", f"{pair:04d}b")
    problem = {"t": "tie", "d": "cannot decide", "x": "timeout"}.get(side, "")
    better = None if problem else ids["ab".index(side)]
    return Judgement(pair_id=str(pair), better=better, by=by, kind=kind, shown=ids, problem=problem, **more)  # type: ignore[arg-type]


def rows(by: str, sides: str, kind: Kind = "human") -> list[Judgement]:
    """One letter per pair; a point is a pair that was not seen."""
    return [judgement(n, s, by, kind) for n, s in enumerate(sides) if s != "."]


def test_fleiss_published_example() -> None:
    assert fleiss_kappa(np.array(FLEISS_1971, dtype=float)) == pytest.approx(0.210, abs=0.0005)


def test_cohen_published_example() -> None:
    """Fifty grant proposals, two readers: 20 both yes, 5 and 10 split, 15 both no; kappa 0.40."""
    assert cohen_kappa(np.array([[20.0, 5], [10, 15]])) == pytest.approx(0.40)


def test_krippendorff_published_example() -> None:
    data = [[np.nan if v == "." else float(v) for v in line.split()] for line in KRIPPENDORFF_2011.strip().splitlines()]
    assert krippendorff.alpha(reliability_data=data, level_of_measurement="nominal") == pytest.approx(0.743, abs=0.0005)


def test_alpha_by_hand() -> None:
    """Binary, two observers, ten units (Krippendorff 2011, section A): alpha 0.095."""
    found = alpha(rows("m", "abaaaaaaba") + rows("j", "bbbaabaaaa"))
    assert found.value == pytest.approx(0.095, abs=0.0005)
    assert (found.pairs, found.ratings, found.raters, found.observed) == (10, 20, 2, 0.6)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abt"), st.sampled_from("abt")), min_size=2, max_size=30))
def test_cohen_equals_scikit_learn(sides: list[tuple[str, str]]) -> None:
    one, other = ("".join(s) for s in zip(*sides, strict=True))
    found = cohen(rows("m", one) + rows("j", other), "m", "j").value
    if len(set(one + other)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(cohen_kappa_score(list(one), list(other)))


def test_perfect_agreement_and_chance() -> None:
    rng = np.random.default_rng(0)
    one = "".join(rng.choice(list("ab"), 2_000))
    other = "".join(rng.choice(list("ab"), 2_000))
    assert alpha(rows("m", one) + rows("j", one)).value == 1.0
    random = alpha(rows("m", one) + rows("j", other))
    assert random.low < 0.0 < random.high  # type: ignore[operator]
    assert random.high - random.low < 0.1  # type: ignore[operator]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Raters who agree with a hidden side at 0.85: alpha is (2 * 0.85 - 1)^2 = 0.49 in the long run."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, 150)
        both = ["".join("ab"[t ^ int(rng.random() > 0.85)] for t in truth) for _ in range(2)]
        found = alpha(rows("m", both[0]) + rows("j", both[1]))
        covered += found.low <= 0.49 <= found.high  # type: ignore[operator]
    assert 51 <= covered <= 60


def test_who_missed_a_pair_is_missing() -> None:
    found = alpha(rows("a", "ab.ab") + rows("b", "abaa.") + rows("c", "..a.b"))
    assert (found.pairs, found.ratings, found.raters) == (5, 10, 3)
    assert alpha(rows("a", "ab")).value is None
    assert alpha([]).pairs == 0


def test_undecided_is_a_category_or_missing_and_failures_always_are() -> None:
    both = rows("m", "abtdx") + rows("j", "abdta")
    assert ratings(both)["2"] == {"m": 2, "j": 2}
    assert ratings(both)["4"] == {"j": 0}
    assert alpha(both).pairs == 4
    assert alpha(both, undecided="missing").pairs == 2


def test_the_latest_round_counts() -> None:
    first, second = judgement(0, "a", "m", round=0), judgement(0, "b", "m", round=1)
    assert ratings([second, first]) == ratings([first, second]) == {"0": {"m": 1}}


def test_sides_do_not_depend_on_the_order_shown() -> None:
    swapped = Judgement(pair_id="0", better="0000a", by="j", kind="human", shown=("0000b", "0000a"))
    assert ratings([judgement(0, "a", "m"), swapped])["0"] == {"m": 0, "j": 0}


def test_without_orders_sides_come_from_what_was_chosen() -> None:
    chosen = [Judgement(pair_id="0", better=f"0{side}", by=by, kind="rm") for by, side in (("m", "a"), ("j", "b"))]
    assert ratings(chosen)["0"] == {"m": 0, "j": 1}
    assert len(set(ratings([chosen[0]])["0"].values())) == 1


def test_judgements_of_mixed_up_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="name 3 responses"):
        ratings([Judgement(pair_id="0", better=b, by=b, kind="rm") for b in "abc"])


def test_fleiss_uses_the_most_frequent_overlap() -> None:
    three = rows("a", "ababab") + rows("b", "ababba") + rows("c", "abab..")
    found = fleiss(three)
    assert (found.pairs, found.ratings) == (4, 12)
    assert found.value == 1.0


def test_the_report_names_all_four_comparisons() -> None:
    sides = "abababbaab"
    mixed = [
        *rows("ann", sides), *rows("bob", sides[::-1]), *rows("llm:x", sides, "llm"), *rows("llm:y", sides, "llm"),
        *rows("rm:z", "abababbbbb", "rm"), *rows("oracle", sides, "oracle"),
    ]  # fmt: skip
    found = {(a.between, a.measure): a for a in report(mixed)}
    assert set(found) == {
        ("people among themselves", "alpha"), ("people among themselves", "fleiss"), ("judges among themselves", "alpha"),
        ("people and judges", "cohen"), ("people and reward models", "cohen"), ("judges and reward models", "cohen"),
    }  # fmt: skip
    assert found["judges among themselves", "alpha"].value == 1.0
    assert found["judges and reward models", "cohen"].observed == 0.8
    pooled = found["people and judges", "cohen"]
    assert (pooled.pairs, pooled.ratings, pooled.raters) == (10, 40, 4)


def test_kappa_of_every_two_raters() -> None:
    found = rater_kappas(rows("a", "abab") + rows("b", "abba") + rows("c", "ab.."))
    assert [(a.between, a.pairs) for a in found] == [("a and b", 4), ("a and c", 2), ("b and c", 2)]
    assert found[0].value == pytest.approx(0.0)
