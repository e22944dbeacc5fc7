"""A pair goes when it shares n words in a row, or a whole short message, with a benchmark prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.curate.decontaminate import Index, decontaminate, matched
from assay.curate.words import words
from assay.records import Pair, Response, assistant, user

LONG = "write a short poem about a lighthouse keeper who is afraid of the dark and of the sea"


def pair(*prompt: str, one: str = "yes", other: str = "no") -> Pair:
    turns = tuple(assistant(t) if i % 2 else user(t) for i, t in enumerate(prompt))
    return Pair.of(turns, Response.of(one), Response.of(other))


def test_thirteen_words_in_a_row_match_and_twelve_do_not() -> None:
    thirteen, twelve = (" ".join(LONG.split()[:n]) for n in (13, 12))
    result = decontaminate([pair(f"Please: {thirteen}!"), pair(f"Please: {twelve}!")], {"bench": [LONG]})
    assert [p.prompt[0].content for p in result.kept] == [f"Please: {twelve}!"]
    (hit,) = result.hits
    assert (hit.benchmark, hit.prompt, hit.span, hit.whole) == ("bench", 0, thirteen, False)


def test_case_punctuation_and_line_breaks_do_not_hide_a_match() -> None:
    wrapped = LONG.upper().replace(" ", ",\n  ")
    (hit,) = decontaminate([pair(wrapped)], {"bench": ["other", LONG]}).hits
    assert (hit.prompt, hit.whole) == (1, True)


def test_a_short_prompt_matches_a_whole_message_only() -> None:
    result = decontaminate(
        [pair("How do I tie a tie?"), pair("How do I tie a tie on a boat?")], {"b": ["how do I tie a tie"]}
    )
    assert len(result.removed) == len(result.kept) == 1
    assert result.hits[0].whole


def test_responses_are_searched_when_asked_for() -> None:
    hidden = pair("hello", one=LONG)
    assert not decontaminate([hidden], {"b": [LONG]}).hits
    assert decontaminate([hidden], {"b": [LONG]}, fields="all").removed == [hidden]


def test_later_turns_are_searched_and_messages_are_not_joined() -> None:
    assert decontaminate([pair("hi", "hello", LONG)], {"b": [LONG]}).removed
    half = LONG.split()
    assert not decontaminate([pair(" ".join(half[:9]), " ".join(half[9:]), "so?")], {"b": [LONG]}).removed


def test_prompts_without_words_match_nothing() -> None:
    assert not decontaminate([pair("?!"), pair("...")], {"b": ["", "?!"]}).removed


def test_languages_without_spaces_are_compared_by_character() -> None:
    assert words("今天 ok") == ["今", "天", "ok"]
    assert decontaminate([pair("请你写一首关于灯塔看守人的短诗好吗")], {"b": ["写一首关于灯塔看守人的短诗"]}).removed


def test_every_match_is_reported() -> None:
    result = decontaminate([pair(LONG), pair("clean")], {"x": [LONG], "y": ["a", LONG]})
    assert [(h.benchmark, h.prompt) for h in result.hits] == [("x", 0), ("y", 1)]
    assert result.lines()[0].startswith("1 of 2 pairs removed")
    assert any("y: 1 matches of 1 pairs with 1 prompts (1 as a whole)" in line for line in result.lines())


def test_pairs_are_streamed() -> None:
    def endless() -> object:
        while True:
            yield pair(LONG)

    stream = matched(endless(), {"b": [LONG]})  # type: ignore[arg-type]
    assert next(stream)[1]


def test_n_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Index.of({}, n=0)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_against_the_definition(one: list[str], other: list[str]) -> None:
    n = 3
    grams = [{tuple(w[i : i + n]) for i in range(len(w) - n + 1)} for w in (one, other)]
    expected = bool(grams[0] & grams[1]) or (one == other and bool(one))
    found = decontaminate([pair(" ".join(one) or "?")], {"b": [" ".join(other)]}, n=n).removed
    assert bool(found) == expected
