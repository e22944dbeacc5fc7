"""What sentences assert about a picture, against a person's reading of them; and claims per answer and by length."""

import time

import pytest
from claim_sentences import ASSERT, FIFTH, FOURTH, OTHER, SECOND, SIXTH, THIRD

from assay.policy.claims import cannot_see, check_claims, claims_in
from assay.policy.hallucination import read
from assay.policy.reading import Reading
from assay.records import user
from assay.rollouts import Prompt, Rollout

WORDS = ("blue", "circle", "green", "red", "square", "triangle")
PARTS = (ASSERT, OTHER, SECOND, THIRD, FOURTH, FIFTH, SIXTH)
TABLE = {sentence: claims for part in PARTS for sentence, claims in part.items()}


def test_no_sentence_of_the_table_is_given_a_claim_that_a_person_does_not_see() -> None:
    assert len(TABLE) == sum(map(len, PARTS)) >= 400
    invented = {s: set(claims_in(s, WORDS)) - set(c.split()) for s, c in TABLE.items()}
    assert {s: words for s, words in invented.items() if words} == {}


def test_hardly_any_claim_of_the_table_is_missed() -> None:
    words = [(s, w) for s, c in TABLE.items() for w in c.split()]
    missed = [(s, w) for s, w in words if w not in claims_in(s, WORDS)]
    assert len(missed) <= 0.1 * len(words), missed
    assert all(set(claims_in(s, WORDS)) == set(c.split()) for s, c in ASSERT.items()), "plain ones are all seen"


def test_sentences_after_one_another_keep_their_claims() -> None:
    text = " ".join(ASSERT)
    assert set(claims_in(text, WORDS)) == set(WORDS)
    told = "There is a red circle. It is not a square. It could be blue, too. Wait, no, it is green."
    assert claims_in(told, WORDS) == ("red", "circle", "green")


def test_facts_are_the_same_in_any_case() -> None:
    """One row writes "Red", another "red"."""
    prompts = [
        Prompt(messages=(user("what?"),), facts=("Red",), absent=("Blue",)),
        Prompt(messages=(user("and?"),), facts=("red",), absent=("BLUE",)),
    ]
    found = check_claims(prompts, ["a red thing", "a Blue thing"])
    assert found.named == (1.0, 0.0)
    assert found.marks == (False, True)
    assert found.checked == ((0, 1), (1, 1))


@pytest.mark.parametrize(
    "text",
    [
        "There is no picture.", "I see no image.", "I see no image here.", "There's no picture to look at, so I guess.",
        "There isn't any image in your message.", "I don't see an image attached.", "I do not have any image to look at.",
        "The image is missing.", "The picture did not load.", "There was no diagram, so I assume it is red.",
        "I didn't receive any image.", "the image failed to load", "I see no figure in the question.",
    ],
)  # fmt: skip
def test_more_ways_to_say_that_there_is_no_picture(text: str) -> None:
    assert cannot_see(text)


@pytest.mark.parametrize(
    "text",
    [
        "There is no picture of a cat on the wall.", "There is an image.", "There was an image.", "There is a picture here.",
        "I see no image of a dog in it.", "I don't see any figure that is red.", "There is no graph with two peaks.",
        "I have an image here.", "The red shape is missing.", "There is a picture, and it shows a circle.",
        "There is no image in the mirror.", "The image shows that no diagram is complete.", "I see no picture frame.",
    ],
)  # fmt: skip
def test_what_is_in_the_picture_may_be_a_picture(text: str) -> None:
    assert not cannot_see(text)


@pytest.mark.parametrize("text", ["red " * 5000, "red or " * 3000, "a, " * 5000 + "red", "x" * 20_000, "take " * 4000])
def test_no_answer_takes_long_to_read(text: str) -> None:
    """A policy that goes astray says one word for ever, without a stop."""
    begun = time.process_time()
    claims_in(text, WORDS)
    cannot_see(text)
    assert time.process_time() - begun < 60


def test_rates_per_claim_and_by_length_by_hand() -> None:
    """Six answers: the two longest invent."""
    said = {
        "a": "red", "b": "red circle", "c": "a red circle", "d": "a blue thing", "e": "a red circle, a square, blue",
        "f": "it is a blue square and so on",
    }  # fmt: skip
    prompts = [Prompt(messages=(user(k),), facts=("red", "circle"), absent=("blue", "square")) for k in said]

    def sampler(asked: list[Prompt], n: int) -> list[list[Rollout]]:
        texts = [said[p.messages[0].content] for p in asked]
        return [
            [Rollout(prompt_id=p.id, tokens=(1,) * len(t), logprobs=(0.0,) * len(t), text=t, ended=True, policy_step=0)]
            for p, t in zip(asked, texts, strict=True)
        ]

    seen = read(prompts, sampler, 3, lambda p, t: t, lambda p, t: False)  # type: ignore[arg-type]
    rates = {n: getattr(seen, f"hallucination_{n}") for n in ("rate", "short", "middle", "long")}
    assert {n: (r.value, r.n) for n, r in rates.items()} == {
        "rate": (0.5, 6), "short": (0.0, 2), "middle": (0.5, 2), "long": (1.0, 2),
    }  # fmt: skip
    assert (seen.claims, seen.false_claims) == (12, 5)
    assert seen.false_claims_rate is not None
    assert (seen.false_claims_rate.value, seen.false_claims_rate.n) == (pytest.approx(5 / 12), 12)
    assert Reading.of_metrics({"step": 3, **seen.as_metrics()}) == seen
