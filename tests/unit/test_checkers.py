"""Judges that know the demands of the embedded pool: rows to compare with."""

import numpy as np
import pytest

from assay.curate.checkers import FEATURES, RULES, checker_vote_judge, surface_features, ten_rules_judge
from assay.curate.offline import hash_embedder
from assay.pipeline.constraints import KINDS
from assay.pipeline.pools import constraint_pool
from assay.records import Response
from look_alikes import LONG, SHORT, TOPICS, case, counting, example, pair


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (SHORT, LONG),
        (LONG, SHORT),
        ("I like {}. Do you?", "I like {}. You may too."),
        ("- {} is old\n- it is good", "{} is old and it is good"),
        ("1. {} is old\n2. it is good", "{} is old and it is good"),
        ("{} was known 300 years ago.", "{} was known long years ago."),
    ],
)
def test_it_learns_what_the_examples_have_in_common(good: str, bad: str) -> None:
    examples = [example(t, good, bad) for t in TOPICS[:8]]
    cases = [case(pair(t, good, bad), *examples) for t in TOPICS[8:]]
    judgements = checker_vote_judge(hash_embedder())(cases)
    assert [j.better for j in judgements] == [Response.of(good.format(t)).id for t in TOPICS[8:]]
    assert {(j.kind, j.by, j.votes) for j in judgements} == {("offline", "offline:checker-vote", 8)}
    assert all(j.confidence > 0.9 for j in judgements)
    assert all(j.rationale.startswith("examples prefer ") for j in judgements)


def test_opposite_examples_give_the_opposite_judgement() -> None:
    target = pair("owls", SHORT, LONG)
    for good, bad in ((SHORT, LONG), (LONG, SHORT)):
        (j,) = checker_vote_judge(hash_embedder())([case(target, *(example(t, good, bad) for t in TOPICS[:5]))])
        assert j.better == Response.of(good.format("owls")).id


def test_quoted_words_are_features_in_context() -> None:
    words = ["river", "stone", "cloud", "paper", "candle"]

    def with_word(word: str, topic: str) -> tuple[str, str, str]:
        return (
            f"{topic} and {word} are fine.",
            f"{topic} and nothing are fine.",
            f'Use the word "{word}" in your answer.',
        )

    examples = [example(t, *with_word(w, t)) for t, w in zip(TOPICS, words, strict=False)]
    good, bad, demand = with_word("anchor", "gold")
    (j,) = checker_vote_judge(hash_embedder())([case(pair("gold", good, bad, demand), *examples)])
    assert j.better == Response.of(good).id


def test_similar_examples_outweigh_others() -> None:
    """Three look-alikes ask for brevity; five unlike ones prefer length."""
    near = [example(t, SHORT, LONG) for t in TOPICS[:3]]
    far = [example(t, LONG, SHORT, "Write about the whole history, in French, with code.") for t in TOPICS[3:8]]
    (j,) = checker_vote_judge(hash_embedder())([case(pair("owls", SHORT, LONG), *near, *far)])
    assert j.better == Response.of(SHORT.format("owls")).id


def test_without_examples_or_difference_there_is_no_vote() -> None:
    judge = checker_vote_judge(hash_embedder())
    (none,) = judge([case(pair("owls", SHORT, LONG))])
    assert (none.better, none.problem) == (None, "no gold examples")
    same = pair("owls", "big owls fly", "shy owls fly", "Go on.")
    (tie,) = judge([case(same, example("tea", SHORT, LONG))])
    assert (tie.better, tie.problem) == (None, "tie")
    assert judge([]) == []


def test_only_eight_examples_count_and_each_text_is_embedded_once() -> None:
    embed, calls = counting()
    examples = [example(t, SHORT, LONG) for t in TOPICS[:8]] + [example(t, LONG, SHORT) for t in TOPICS[8:12]]
    cases = [case(pair(t, SHORT, LONG), *examples) for t in TOPICS[12:]]
    judgements = checker_vote_judge(embed)(cases)
    assert [j.better for j in judgements] == [Response.of(SHORT.format(t)).id for t in TOPICS[12:]]
    (texts,) = calls
    assert len(texts) == len(set(texts)) == 8 + len(cases)


def test_the_judgement_of_a_case_hardly_depends_on_its_batch() -> None:
    cases = [case(pair(t, SHORT, LONG), *(example(u, SHORT, LONG) for u in TOPICS[:8])) for t in TOPICS[8:]]
    judge = checker_vote_judge(hash_embedder())
    assert [j.better for j in judge(cases)] == [judge([c])[0].better for c in cases]


def test_the_ten_rules_are_the_answer_key_of_the_embedded_pool() -> None:
    """Why no claim may rest on a judge that has these features: one rule for each kind is right in nearly every pair."""
    pool = constraint_pool()
    some = [pool.pairs[i] for i in sorted(pool.pairs)[:400]]
    said = ten_rules_judge()([case(p) for p in some])
    right = [j.better == pool.truth[j.pair_id] for j in said if j.better]
    assert len(RULES) == len(KINDS)
    assert len(right) > 0.95 * len(some)
    assert sum(right) > 0.99 * len(right)


def test_the_ten_rules_say_nothing_of_other_demands() -> None:
    (j,) = ten_rules_judge()([case(pair("owls", SHORT, LONG, "Be kind."))])
    assert (j.better, j.problem) == (None, "none of the ten demands")


def test_surface_features_of_a_known_text() -> None:
    f = surface_features('Say "deep sea" twice.', "Deep sea, 12 fish.\n- one\n- two?")
    assert tuple(f) == FEATURES
    assert f["words"] == pytest.approx(np.log1p(6))
    assert f["bulleted lines"] == pytest.approx(np.log1p(2))
    assert f["quoted words used"] == 1.0
    assert f["begins with a quoted word"] == 1.0
    assert f["ends with a question"] == 1.0
    assert f["has digits"] == 1.0
    assert f["digits"] == pytest.approx(np.log1p(2))
    assert all(np.isfinite(v) for t in ("", "\n", "🙂", '""') for v in surface_features(t, t).values())
