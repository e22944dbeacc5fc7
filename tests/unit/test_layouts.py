"""Each layout reads its rows into the right pair with the right winner; detection and label codes."""

import json
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from assay.errors import AssayError
from assay.formats import lists, preferred, rated, rival_fields
from assay.formats.dialogues import pair_of, transcript
from assay.formats.labels import label_codes, verdict
from assay.formats.layouts import detect, fitting, named
from assay.formats.preferred import Preferred
from assay.formats.rows import RowError


def said(outcome: object) -> tuple[list[str], str | None, str | None]:
    """(prompt texts, winner's text, loser's text)."""
    assert isinstance(outcome, Preferred), outcome
    prompt = [m.content for m in outcome.pair.prompt]
    if outcome.better is None:
        return prompt, None, None
    return (
        prompt,
        outcome.pair.response(outcome.better).text,
        outcome.pair.response(outcome.pair.other(outcome.better)).text,
    )


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]


AB = {"prompt": "p", "response_a": "yes", "response_b": "no"}
HELPSTEER3 = {"context": chat("p"), "response1": "yes", "response2": "no"}
WON = (["p"], "yes", "no")
LOST = (["p"], "no", "yes")
ONE_PAIR = [
    ("chosen-rejected", {"prompt": "p", "chosen": "yes", "rejected": "no"}, WON),
    ("chosen-rejected", {"question": "p", "chosen": "yes", "rejected": "no"}, WON),
    ("chosen-rejected", {"prompt": "p", "chosen": chat("p", "yes"), "rejected": chat("p", "no")}, WON),
    ("chosen-rejected", {"chosen": chat("p", "yes"), "rejected": chat("p", "no")}, WON),
    ("chosen-rejected", {"prompt": chat("p"), "chosen": chat("p", "yes")[1:], "rejected": chat("p", "no")[1:]}, WON),
    ("chosen-rejected", {"chosen": json.dumps(chat("p", "yes")), "rejected": json.dumps(chat("p", "no"))}, WON),
    ("chosen-rejected", {"chosen": "\n\nHuman: p\n\nAssistant: yes", "rejected": "\n\nHuman: p\n\nAssistant: no"}, WON),
    ("chosen-rejected", {"prompt": "\n\nHuman: p\n\nAssistant:", "chosen": "yes", "rejected": "no"}, WON),
    ("chosen-rejected", {"instruction": "p", "input": "q", "chosen": "yes", "rejected": "no"}, (["p\n\nq"], "yes", "no")),
    ("chosen-rejected", {"system": "s", "question": "p", "chosen": "yes", "rejected": "no"}, (["s", "p"], "yes", "no")),
    ("labelled", AB | {"label": "A"}, WON),
    ("labelled", AB | {"label": "B>A"}, LOST),
    ("labelled", AB | {"label": "A is slightly better"}, WON),
    ("labelled", AB | {"label": "Response B much better"}, LOST),
    ("labelled", AB | {"label": "Neither is better"}, (["p"], None, None)),
    ("labelled", AB | {"label": "[[A>>B]]"}, WON),
    ("labelled", AB | {"winner": "model_b"}, LOST),
    ("labelled", AB | {"winner": "gpt-4", "model_a": "llama", "model_b": "gpt-4"}, LOST),
    ("labelled", AB | {"winner": "tie (bothbad)"}, (["p"], None, None)),
    ("labelled", AB | {"label": "A=B"}, (["p"], None, None)),
    ("labelled", HELPSTEER3 | {"overall_preference": -2}, WON),
    ("labelled", HELPSTEER3 | {"overall_preference": 0}, (["p"], None, None)),
    ("labelled", {"question": "p", "answer_a": "yes", "answer_b": "no", "overall_preference": 1}, LOST),
    ("labelled", AB | {"winner": "yes"}, WON),
    ("labelled", {"conversation_a": chat("p", "yes"), "conversation_b": chat("p", "no"), "winner": "model_a"}, WON),
    ("voted", AB | {"votes": ["a", "b", "a"]}, WON),
    ("voted", AB | {"votes_a": 1, "votes_b": 4}, LOST),
    ("voted", AB | {"annotator1": "b", "annotator2": "b", "annotator3": "tie"}, LOST),
    ("voted", AB | {"votes": ["a", "b"]}, (["p"], None, None)),
    ("scored-pair", {"question": {"full_text": "p"}, "answer_0": "yes", "answer_1": "no", "score_0": 1, "score_1": -1}, WON),
    ("scored-pair", {"history": "p", "human_ref_A": "yes", "human_ref_B": "no", "score_A": 2, "score_B": 9}, LOST),
    ("scored-list", {"prompt": "p", "responses": ["no", "yes"], "scores": ["1", 2.5]}, WON),
    ("scored-list", {"prompt": "p", "responses": ["no", "yes"], "scores": [1, 1.0]}, (["p"], None, None)),
    ("scored-list", {"text": ["\n\nHuman: p\n\nAssistant: no", "\n\nHuman: p\n\nAssistant: yes"], "score": [0, 1]}, WON),
    ("ranked-list", {"prompt": "p", "answers": [{"answer": "no", "rank": 2}, {"answer": "yes", "rank": 1}]}, WON),
    ("ranked-list", {"prompt": "p", "ranked_responses": ["yes", "no"]}, WON),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), ONE_PAIR)
def test_a_row_of_each_layout(name: str, row: dict[str, object], expected: object) -> None:
    layout = fitting(row)
    assert layout is not None
    assert layout.name == name
    (outcome,) = layout.read(row)
    assert said(outcome) == expected


def test_ultrafeedback_makes_every_pair_and_survives_one_bad_score() -> None:
    scores = [(4.0, "a"), (3.0, "b"), (float("nan"), "c"), (3.0, "d")]
    row = {"instruction": "p", "completions": [{"response": text, "overall_score": s} for s, text in scores]}
    outcomes = lists.scored_list(row)
    pairs = [said(o)[1:] for o in outcomes if isinstance(o, Preferred)]
    assert pairs == [("a", "b"), ("a", "d"), (None, None)]
    (error,) = [o for o in outcomes if isinstance(o, RowError)]
    assert error.field == "completions[2].overall_score"


def test_helpsteer_rows_of_one_prompt_are_compared() -> None:
    rows = [{"prompt": "p", "response": t, "helpfulness": h} for t, h in (("yes", 4), ("no", 1))]
    layout = fitting(rows[0])
    assert layout is not None
    assert layout.name == "rated"
    (outcome,) = rated.group([rated.rated_row(r) for r in rows], wanted=False)
    assert said(outcome) == WON
    assert isinstance(outcome, Preferred)
    assert outcome.strength == 3
    with pytest.raises(RowError, match="nothing to compare"):
        rated.group([rated.rated_row(rows[0])], wanted=False)


def test_dialogues_that_part_early_are_responses_of_several_messages() -> None:
    row = {"chosen": chat("hi", "hello", "and?", "yes"), "rejected": chat("hi", "go away", "rude", "no")}
    (outcome,) = preferred.read_rivals(row, preferred.chosen_rivals)
    assert isinstance(outcome, Preferred)
    assert [m.content for m in outcome.pair.prompt] == ["hi"]
    assert [len(r.messages) for r in outcome.pair.responses] == [3, 3]


def test_votes_keep_their_number_and_the_winners_share() -> None:
    (outcome,) = preferred.voted(AB | {"votes": ["a", "b", "a", "tie", "a"]})
    assert isinstance(outcome, Preferred)
    assert (outcome.votes, outcome.confidence) == (5, 0.75)


def test_a_bad_vote_is_rejected_and_the_others_count() -> None:
    outcome, error = preferred.voted(AB | {"votes": ["a", "x", "a"]})
    assert said(outcome) == WON
    assert isinstance(error, RowError)
    assert error.field == "votes[1]"


@pytest.mark.parametrize(
    ("seen", "fields", "codes"),
    [
        ([0, 1], ("response_0", "response_1"), [(0, 1)]),
        ([0], ("response_0", "response_1"), [(0, 1)]),
        ([1, 2], ("response1", "response2"), [(1, 2)]),
        ([1, 1.2, 2], ("output_1", "output_2"), [(1, 2)]),
        ([0, 1], ("response_a", "response_b"), [(0, 1), (1, 0)]),
        ([0, 1], ("response1", "response2"), [(0, 1), (1, 0), (1, 2)]),
        ([1], ("response_a", "response_b"), [(0, 1), (1, 0), (1, 2)]),
        ([1, 2], ("response_a", "response_b"), [(0, 1, 2), (1, 2, 0)]),
        ([2], ("response1", "response2"), [(0, 1, 2), (1, 2, 0)]),
        ([0, 1, 2], ("response_a", "response_b"), [(0, 1, 2), (1, 2, 0), (1, 0, 2)]),
        ([0, 1, 2], ("response1", "response2"), [(0, 1, 2), (1, 2, 0), (1, 0, 2)]),
        ([-1, 1], ("response_a", "response_b"), [(-1, 1), (1, -1), (0, 1, -1), (1, 0, -1)]),
        ([0.2, 0.9], ("response_a", "response_b"), [(0, 1), (1, 0)]),
        ([1, 3, 5], ("response_a", "response_b"), [(1, 5), (5, 1)]),
        ([-3, 2], ("response_a", "response_b"), [(-3, 3), (3, -3)]),
        ([float("nan"), 1e9], ("response_a", "response_b"), []),
    ],
)
def test_what_number_labels_can_mean_over_a_file(
    seen: list[float], fields: tuple[str, str], codes: list[tuple[float, ...]]
) -> None:
    assert label_codes(Counter(seen), fields) == codes


def test_single_mistakes_among_the_labels_open_no_question() -> None:
    assert label_codes(Counter({0: 500, 1: 499, 77: 1, 7: 2}), ("answer_0", "answer_1")) == [(0, 1)]


def test_number_labels_under_each_code() -> None:
    def side(value: float, code: tuple[float, ...]) -> int | None:
        return verdict(value, "label", AB, ("response_a", "response_b"), code)

    assert [side(v, (0, 1)) for v in (0, 1, 0.5, 2)] == [0, 1, None, None]
    assert [side(v, (1, 2)) for v in (1, 2, 1.5, 0)] == [0, 1, None, None]
    assert [side(v, (-3, 3)) for v in (-3, 1, 0)] == [0, 1, None]
    assert [side(v, (0, 1, -1)) for v in (0, 1, -1)] == [0, 1, None]
    assert [side(v, (1, 5)) for v in (2, 3, 4.5)] == [0, None, 1]
    assert [side(v, (1, 0)) for v in (1, 0)] == [0, 1]
    for value, code in ((7, (0, 1)), (-3, (-1, 1)), (2, (0, 1, -1))):
        with pytest.raises(RowError, match="outside the label code"):
            side(value, code)


def test_true_and_false_do_not_say_which_response() -> None:
    assert rival_fields.numbers(AB | {"label": True}) == []
    with pytest.raises(RowError, match="name the layout"):
        preferred.labelled(AB | {"label": True})
    (outcome,) = named("labelled:1/0").read(AB | {"label": True})
    assert said(outcome) == WON


def test_a_named_layout_carries_its_code() -> None:
    (outcome,) = named("labelled:1/0").read(AB | {"label": 1})
    assert said(outcome) == WON
    for wrong in ("labelled:1", "labelled:1/1", "chosen-rejected:0/1", "xyz"):
        with pytest.raises(AssayError, match="is not a layout"):
            named(wrong)


def test_the_layout_of_most_rows_is_detected() -> None:
    rows = [AB | {"label": "A"}, AB | {"label": "B"}, {"prompt": "p", "chosen": "x", "rejected": "y"}, {"else": 1}]
    layout = detect(rows)
    assert layout is not None
    assert layout.name == "labelled"
    assert detect([{"else": 1}]) is None


def test_a_text_that_only_mentions_people_is_no_transcript() -> None:
    assert transcript("Human: the word stands at the start of this essay") is None
    assert transcript("About Assistant: and Human: in a line") is None
    turns = transcript("## Human:\nwhy?\n\n## Assistant:\nbecause\n\nof this")
    assert turns is not None
    assert [(m.role, m.content) for m in turns] == [("user", "why?"), ("assistant", "because\n\nof this")]


def test_a_label_that_is_a_side_and_the_other_sides_text_is_refused() -> None:
    """Answers to a question with choices: is "B" the second response, or the one that says B?"""
    row = {"prompt": "Which?", "response_a": "B", "response_b": "A", "label": "B"}
    with pytest.raises(RowError, match="names one response and is the text of the other"):
        preferred.labelled(row)
    (outcome,) = preferred.labelled({**row, "response_a": "A", "response_b": "B"})
    assert isinstance(outcome, Preferred)
    assert outcome.pair.response(str(outcome.better)).text == "B", "both readings say the same"


@example("0", "B", "A")
@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from(["A", "B", "tie"]))
def test_showing_the_responses_the_other_way_round_flips_nothing(one: str, other: str, label: str) -> None:
    flipped = {"A": "B", "B": "A"}.get(label, label)
    results = []
    for a, b, winner in ((one, other, label), (other, one, flipped)):
        try:
            (outcome,) = preferred.labelled({"prompt": "p", "response_a": a, "response_b": b, "label": winner})
            assert isinstance(outcome, Preferred)
            results.append((outcome.pair.id, outcome.better))
        except RowError:
            return  # refused: nothing is said
    assert results[0] == results[1]


def test_the_prompt_is_needed() -> None:
    with pytest.raises(RowError, match="prompt is missing or empty"):
        pair_of({}, "yes", "no", ("chosen", "rejected"))
