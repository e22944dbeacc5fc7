"""Offline judges: verified look-alikes decide, nothing else does, and never gold of the pair's own question."""

import numpy as np
import pytest

from assay.curate.annotate import judge_request
from assay.curate.checkers import checker_vote_judge
from assay.curate.offline import NEIGHBOURS, gold_ridge_judge, hash_embedder, longer_judge, ridge
from assay.records import Judge, Response, shown_to
from look_alikes import LONG, SHORT, TOPICS, case, counting, example, pair


@pytest.mark.parametrize(("good", "bad"), [(SHORT, LONG), (LONG, SHORT)])
def test_it_learns_what_people_chose_among_look_alikes(good: str, bad: str) -> None:
    examples = [example(t, good, bad) for t in TOPICS[:8]]
    cases = [case(pair(t, good, bad), *examples) for t in TOPICS[8:]]
    judgements = gold_ridge_judge(hash_embedder(1024))(cases)
    assert [j.better for j in judgements] == [Response.of(good.format(t)).id for t in TOPICS[8:]]
    assert {(j.kind, j.by, j.votes) for j in judgements} == {("offline", "offline:gold-ridge", 1)}
    assert all(0.5 < j.confidence <= 1.0 for j in judgements)


def test_similar_examples_outweigh_others() -> None:
    """Three look-alikes ask for brevity; three unlike ones prefer length."""
    near = [example(t, SHORT, LONG) for t in TOPICS[:3]]
    far = [example(t, LONG, SHORT, "Write about the whole history, in French, with code.") for t in TOPICS[3:6]]
    (j,) = gold_ridge_judge(hash_embedder())([case(pair("owls", SHORT, LONG), *far, *near)])
    assert j.better == Response.of(SHORT.format("owls")).id


def test_the_ridge_by_hand() -> None:
    """Two examples, orthogonal in what they ask: the kernel between them is their inner product times exp(-5)."""
    asked = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    differences = np.array([[2.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    scale, far = (1 + 2) / 2, np.exp(-5.0)
    kernel = np.array([[1.0, far * 1.0], [far * 1.0, 2.0]]) / scale
    a = np.linalg.solve(kernel + np.eye(2), [1.0, -1.0])
    assert ridge(asked, differences, np.array([1.0, -1.0])) == pytest.approx((2 * a[0] + 2 * far * a[1]) / scale)
    signs = np.array([[-1.0], [-1.0], [1.0]])  # the answers of row 0 exchanged, and those of the first example
    turned = ridge(asked, signs * differences, np.array([-1.0, -1.0]))
    assert turned == pytest.approx(-ridge(asked, differences, np.array([1.0, -1.0])))
    assert ridge(asked, np.zeros((3, 2)), np.array([1.0, -1.0])) == 0.0


def test_which_answer_is_first_means_nothing() -> None:
    """Every response id is other when a word is added, so the order in pairs changes; the verdicts are of content."""
    judge = gold_ridge_judge(hash_embedder(1024))
    for end in ("", " ", "\n", "  ", " \n"):
        examples = [example(t, SHORT + end, LONG + end) for t in TOPICS[:8]]
        (j,) = judge([case(pair("owls", SHORT + end, LONG + end), *examples)])
        assert j.better == Response.of((SHORT + end).format("owls")).id


def test_without_examples_or_difference_there_is_no_verdict() -> None:
    judge = gold_ridge_judge(lambda texts: np.ones((len(texts), 4), np.float32) / 2)
    (none,) = judge([case(pair("owls", SHORT, LONG))])
    assert (none.better, none.problem) == (None, "no gold examples")
    (tie,) = judge([case(pair("owls", SHORT, LONG), example("tea", SHORT, LONG))])
    assert (tie.better, tie.problem) == (None, "tie")
    assert judge([]) == []


def test_it_is_shown_as_many_examples_as_it_wants_and_embeds_each_text_once() -> None:
    embed, calls = counting()
    judge = gold_ridge_judge(embed, examples=5)
    assert (shown_to(judge, 8), shown_to(gold_ridge_judge(embed), 8), shown_to(longer_judge(), 8)) == (5, NEIGHBOURS, 8)
    examples = [example(t, SHORT, LONG) for t in TOPICS[:9]]
    (j,) = judge([case(pair("owls", SHORT, LONG), *examples)])
    assert (j.votes, j.rationale) == (1, "the answers to 5 look-alikes that people judged")  # an example is no vote
    (texts,) = calls
    assert len(texts) == len(set(texts)) == 6 * 3


@pytest.mark.parametrize("judge", [gold_ridge_judge(hash_embedder()), checker_vote_judge(hash_embedder())])
def test_a_verdict_does_not_depend_on_what_else_is_judged(judge: Judge) -> None:
    """Two cases that are close calls: alone, together, in another order, and beside a pair of very long answers."""
    mixed = [example(t, *(SHORT, LONG) if n % 3 else (LONG, SHORT)) for n, t in enumerate(TOPICS[:8])]
    odd = [
        case(pair("owls", SHORT, "{} are birds, are they not?"), *mixed),
        case(pair("gold", "{} is heavy!", "1. {} shines\n2. it is dear"), *mixed[::-1]),
    ]
    far = case(pair("maps", "maps " * 900, "no"), *mixed[:2])
    alone = [judge([c])[0] for c in odd]
    assert judge(odd) == alone
    assert judge([far, *odd])[1:] == alone
    assert judge([odd[1], far, odd[0]])[::2] == alone[::-1]


@pytest.mark.parametrize("judge", [gold_ridge_judge(hash_embedder()), checker_vote_judge(hash_embedder())])
def test_a_judge_does_not_use_gold_of_the_pairs_own_question_even_where_it_is_handed_some(judge: Judge) -> None:
    """One example of the same question shows the very answer, with people's verdict on it."""
    target = pair("owls", SHORT, LONG)
    own = [example("owls", LONG, SHORT), example("owls", LONG, "No.")]
    others = [example(t, SHORT, LONG) for t in TOPICS[:8]]
    assert {e.pair.question_id for e in own} == {target.question_id}
    assert judge([case(target, *own, *others)]) == judge([case(target, *others)])
    (alone,) = judge([case(target, *own)])
    assert (alone.better, alone.problem) == (None, "no gold examples")


def test_no_llm_is_shown_gold_of_the_pairs_own_question() -> None:
    target, others = pair("owls", SHORT, LONG), [example(t, SHORT, LONG) for t in TOPICS[:8]]
    with_own = judge_request(case(target, example("owls", LONG, "No."), *others), "m", 0, 0)
    assert with_own == judge_request(case(target, *others), "m", 0, 0)


def test_the_longer_answer() -> None:
    target = pair("owls", SHORT, LONG)
    (j,) = longer_judge()([case(target, *(example(t, SHORT, LONG) for t in TOPICS[:8]))])
    assert (j.better, j.by, j.kind) == (Response.of(LONG.format("owls")).id, "offline:longer", "offline")
    (tie,) = longer_judge()([case(pair("owls", "{} fly", "fly {}"))])
    assert (tie.better, tie.problem) == (None, "tie")


def test_hash_embedder_gives_unit_vectors_of_content() -> None:
    a, b, c = hash_embedder(64)(["use at most nine words", "use at most ten words", "le chat noir"])
    assert np.linalg.norm(a) == pytest.approx(1.0, abs=1e-5)
    assert a @ b > a @ c
    assert hash_embedder(64)([]).shape == (0, 64)
    assert hash_embedder(64)([""]).shape == (1, 64)
