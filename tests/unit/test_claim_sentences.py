"""What sentences assert about a picture, against a person's reading of them; and claims per answer and by length."""

import pytest
from claim_sentences import ASSERT, OTHER, SECOND, THIRD

from assay.policy.claims import cannot_see, check_claims, claims_in
from assay.records import Prompt, user

WORDS = ("blue", "circle", "green", "red", "square", "triangle")
TABLE = {**ASSERT, **OTHER, **SECOND, **THIRD}


def test_no_sentence_of_the_table_is_given_a_claim_that_a_person_does_not_see() -> None:
    assert len(TABLE) == len(ASSERT) + len(OTHER) + len(SECOND) + len(THIRD) >= 200
    invented = {s: set(claims_in(s, WORDS)) - set(c.split()) for s, c in TABLE.items()}
    assert {s: words for s, words in invented.items() if words} == {}


def test_hardly_any_claim_of_the_table_is_missed() -> None:
    words = [(s, w) for s, c in TABLE.items() for w in c.split()]
    missed = [(s, w) for s, w in words if w not in claims_in(s, WORDS)]
    assert len(missed) <= 0.05 * len(words), missed
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
