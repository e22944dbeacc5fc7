"""Merges across models: by hand, honest on gold, and what each repairs."""

import random
from collections.abc import Sequence

import pytest

from assay.curate.merging import Gold, Merge, merge_votes, verdicts, weights
from assay.errors import AssayError
from assay.records import Judgement

MERGES: tuple[Merge, ...] = ("majority", "weighted", "dawid-skene")


def vote(pair: str, by: str, side: str | None, first: str = "a", problem: str = "") -> Judgement:
    """A vote for response PAIR-a or PAIR-b; `first` was shown first."""
    shown = tuple(f"{pair}-{s}" for s in (first, "b" if first == "a" else "a"))
    better = f"{pair}-{side}" if side else None
    return Judgement(
        pair_id=pair, better=better, by=f"llm:{by}", kind="llm", shown=shown, problem=problem, tokens=5, seconds=0.5
    )


def gold_of(better: dict[str, str], pairs: Sequence[str]) -> Gold:
    return Gold(better={p: f"{p}-{s}" for p, s in better.items()}, questions={p: f"question of {p}" for p in pairs})


def test_a_models_verdict_is_its_own_majority() -> None:
    votes = [vote("p", "m", s) for s in "aab"] + [vote("p", "n", "b"), vote("p", "n", "a")]
    (m, n) = verdicts(votes)
    assert (m.better, m.by, m.votes, m.tokens, m.confidence) == ("p-a", "llm:m", 3, 15, pytest.approx(2 / 3))
    assert (n.better, n.problem) == (None, "tie")


def test_weights_are_log_odds_by_hand() -> None:
    """m is right on 3 of 4: ln(4 / 2); n on 1 of 4: below chance, so not heard; k has no verdict: ln(1) = 0."""
    votes = [vote(f"p{i}", "m", "b" if i == 3 else "a") for i in range(4)]
    votes += [vote(f"p{i}", "n", "a" if i == 0 else "b") for i in range(4)]
    votes += [vote("p0", "k", None, problem="refused")]
    gold = {f"p{i}": f"p{i}-a" for i in range(4)}
    assert weights(votes, gold) == pytest.approx({"llm:m": 0.6931, "llm:n": 0.0, "llm:k": 0.0}, abs=1e-4)


def test_one_good_model_outweighs_two_poor_ones() -> None:
    pairs = [f"p{i}" for i in range(80)]
    truth = dict(zip(pairs, "abba" * 20, strict=True))
    votes = []
    for i, p in enumerate(pairs):
        votes += [vote(p, "good", truth[p]), vote(p, "poor", "ab"[i % 2]), vote(p, "poorer", "aabb"[i // 4 % 4])]
    gold = gold_of({p: truth[p] for p in pairs[:60]}, pairs)
    for how in ("weighted", "dawid-skene"):
        told = merge_votes(votes, how, gold)
        assert all(j.better == f"{j.pair_id}-{truth[j.pair_id]}" for j in told)
        assert all(j.confidence > 0.9 for j in told)
    plain = merge_votes(votes, "majority", gold)
    assert sum(j.better == f"{j.pair_id}-{truth[j.pair_id]}" for j in plain) == 60
    assert {(j.by, j.votes, j.tokens) for j in plain} == {("llm:good+poor+poorer", 3, 15)}


def test_dawid_skene_corrects_a_lean_to_the_first_response() -> None:
    """Judges that say "first" half of the time whatever is right: for them "second" means much more than "first"."""
    rng = random.Random(0)
    pairs, votes, truth = [f"p{i}" for i in range(3_000)], [], {}
    for p in pairs:
        truth[p] = rng.choice("ab")
        for model in ("m", "n", "o"):
            first = rng.choice("ab")
            side = truth[p] if rng.random() < 0.85 else "ba"["ab".index(truth[p])]
            votes.append(vote(p, model, first if rng.random() < 0.5 else side, first))
    gold = gold_of({p: truth[p] for p in pairs[:200]}, pairs)
    right = {}
    for how in MERGES:
        told = merge_votes(votes, how, gold)
        right[how] = sum(j.better == f"{j.pair_id}-{truth[j.pair_id]}" for j in told) / len(pairs)
    assert right["dawid-skene"] > right["majority"] + 0.02
    assert right["dawid-skene"] > right["weighted"] + 0.02


def test_gold_is_merged_without_its_own_gold() -> None:
    """With random votes, a merge that had seen the gold of a pair would agree with it; an honest one agrees with half."""
    rng = random.Random(1)
    pairs = [f"p{i}" for i in range(1_000)]
    votes = [vote(p, m, rng.choice("ab"), rng.choice("ab")) for p in pairs for m in ("m", "n")]
    gold = gold_of({p: rng.choice("ab") for p in pairs}, pairs)
    for how in ("weighted", "dawid-skene"):
        told = [j for j in merge_votes(votes, how, gold) if j.better]
        agreed = sum(j.better == gold.better[j.pair_id] for j in told)
        assert 0.4 < agreed / max(1, len(told)) < 0.6 or not told


@pytest.mark.parametrize("how", MERGES)
def test_problems_stay_problems(how: Merge) -> None:
    votes = [vote("p", "m", None, problem="refused"), vote("p", "n", None, problem="refused")]
    votes += [vote(f"q{i}", m, "a") for i in range(4) for m in "mn"]
    gold = gold_of({f"q{i}": "a" for i in range(4)}, ["p", *(f"q{i}" for i in range(4))])
    first, *others = merge_votes(votes, how, gold)
    assert (first.pair_id, first.better, first.problem, first.confidence) == ("p", None, "refused", 0.5)
    assert [j.pair_id for j in others] == [f"q{i}" for i in range(4)]


def test_judges_that_know_nothing_are_not_merged_into_something() -> None:
    pairs = [f"p{i}" for i in range(40)]
    votes = [vote(p, "m", "a") for p in pairs]
    gold = gold_of({p: "ab"[i % 2] for i, p in enumerate(pairs)}, pairs)
    told = merge_votes(votes, "weighted", gold)
    assert {j.problem for j in told if not j.better} <= {"no judge is better than chance on gold"}
    assert sum(not j.better for j in told) >= 10


def test_weights_need_gold_and_dawid_skene_does_not() -> None:
    votes = [vote("p", m, "a") for m in "mno"]
    none = Gold(better={}, questions={"p": "q"})
    with pytest.raises(AssayError, match="needs gold pairs"):
        merge_votes(votes, "weighted", none)
    assert merge_votes(votes, "dawid-skene", none)[0].better == "p-a"


@pytest.mark.parametrize("known", [0, 300])
@pytest.mark.parametrize("alike", [1.0, 0.8])
def test_samples_of_one_model_do_not_make_certainty(known: int, alike: float) -> None:
    """Two models, eight samples each in both orders, which nearly always repeat the model's own verdict, right in 7 of 10:
    what is said to be sure must be as often right. Taken as independent they said 100% and were right in 70%."""
    rng = random.Random(3)
    pairs = [f"p{i}" for i in range(1_500)]
    truth = {p: rng.choice("ab") for p in pairs}
    votes = []
    for p in pairs:
        for model in "mn":
            own = truth[p] if rng.random() < 0.7 else "ba"["ab".index(truth[p])]
            for sample in range(8):
                said = own if rng.random() < alike else rng.choice("ab")
                votes.append(vote(p, model, said, "ab"[sample % 2]))
    told = merge_votes(votes, "dawid-skene", gold_of({p: truth[p] for p in pairs[:known]}, pairs))
    decided = [j for j in told[known:] if j.better]
    right = sum(j.better == f"{j.pair_id}-{truth[j.pair_id]}" for j in decided) / len(decided)
    said = sum(j.confidence for j in decided) / len(decided)
    assert said == pytest.approx(right, abs=0.06)
    assert max(j.confidence for j in told) < 0.93
