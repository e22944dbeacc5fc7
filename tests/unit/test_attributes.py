"""Attributes by rules and by an LLM."""

import json
from collections.abc import Sequence

import pytest

from assay.curate.attributes import (
    CATEGORIES,
    CONTROVERSIALITY,
    OBJECTIVITY,
    AttributesProblem,
    conversation_text,
    fenced,
    llm_attributes,
    parse_attributes,
    retrieval_text,
)
from assay.curate.rules import rule_attributes  # fmt: skip
from assay.llm.chat import Request
from assay.llm.replies import Reply
from assay.pipeline.constraints import make_instructions
from assay.records import Attributes, Pair, Response, assistant, user


def pair(prompt: str) -> Pair:
    return Pair.of((user(prompt),), Response.of("one"), Response.of("other"))


@pytest.mark.parametrize(
    ("prompt", "quality"),
    [
        ("Tell me about tea. Use at most 15 words.", "is short: at most 15 words"),
        ("Explain it in no more than three sentences.", "is short: at most three sentences"),
        ("Write at least 200 words on frogs.", "is long: at least 200 words"),
        ("Summarise it in two sentences.", "has exactly two sentences"),
        ("Write a 500-word essay.", "has about 500 words"),
        ('Use the word "patience" in your answer.', 'uses the word "patience"'),
        ("Please include the phrase 'deep sea'.", 'uses the word "deep sea"'),
        ('Do not use the word "tea".', 'avoids the word "tea"'),
        ("Answer with a bulleted list.", "answers with a bulleted list"),
        ("Give me a numbered list of steps.", "answers with a numbered list"),
        ("End your answer with a question.", "ends with a question"),
        ('Finish your reply with the words "over and out".', 'ends with "over and out"'),
        ('Begin your answer with the word "Sure".', 'begins with "Sure"'),
        ("Mention at least one number, written in digits.", "contains digits or numbers"),
        ("Do not use any digits.", "avoids digits and numbers"),
        ("Write it without any commas.", "avoids commas"),
        ("Answer in French.", "is written in french"),
        ("Return valid JSON.", "is formatted as json"),
        ("Explain gravity to a five-year-old.", "uses simple language"),
        ("Be concise.", "is brief"),
    ],
)
def test_what_the_user_demands_is_desired(prompt: str, quality: str) -> None:
    attributes = rule_attributes(pair(prompt))
    assert attributes.desired[0].lower() == quality.lower()
    assert quality.lower() in attributes.guideline.lower()


def test_a_prohibition_is_not_also_a_demand() -> None:
    assert rule_attributes(pair('Do not use the word "tea".')).desired == ('avoids the word "tea"',)
    assert rule_attributes(pair("Do not use any digits.")).desired == ("avoids digits and numbers",)


@pytest.mark.parametrize(
    ("prompt", "category", "objectivity", "controversiality"),
    [
        ("What is the boiling point of water?", "Information seeking", "objective", "low"),
        ("Fix this python function: def f(): retrun 1", "Coding & Debugging", "objective", "low"),
        ("Solve 3x + 4 = 10.", "Math", "objective", "low"),
        ("Write a poem on rain.", "Creative writing", "subjective", "low"),
        ("Write a poem on rain of at least 20 words.", "Creative writing", "objective", "low"),
        ("Pretend you are a pirate.", "Role playing", "subjective", "low"),
        ("Plan a schedule for my week.", "Planning", "subjective", "low"),
        ("Should I invest in gold?", "Advice seeking", "subjective", "medium"),
        ("Why is abortion debated?", "Information seeking", "objective", "high"),
        ("hm", "Other", "subjective", "low"),
    ],
)
def test_metadata(prompt: str, category: str, objectivity: str, controversiality: str) -> None:
    a = rule_attributes(pair(prompt))
    assert (a.category, a.objectivity, a.controversiality) == (category, objectivity, controversiality)


def test_every_instruction_of_the_embedded_pool_states_its_demand() -> None:
    for instruction in make_instructions(300, seed=1):
        a = rule_attributes(pair(instruction.prompt))
        assert a.desired != ("is correct and helpful",), instruction.prompt
        assert a.category in CATEGORIES
        assert a.objectivity in OBJECTIVITY
        assert a.controversiality in CONTROVERSIALITY


def test_the_demand_is_read_from_the_last_user_message() -> None:
    prompt = (user("Use at most 5 words."), assistant("Fine."), user("Now answer in German."))
    a = rule_attributes(Pair.of(prompt, Response.of("a"), Response.of("b")))
    assert a.desired == ("is written in German",)
    assert rule_attributes(Pair.of((), Response.of("a"), Response.of("b"))).category == "Other"


def test_the_embedded_text_holds_prompt_and_attributes_but_no_response() -> None:
    p = Pair.of((user("Tell me about tea. Be brief."),), Response.of("LEFT"), Response.of("RIGHT"))
    text = retrieval_text(p, rule_attributes(p))
    assert "Tell me about tea" in text
    assert "is brief" in text
    assert "LEFT" not in text
    assert "RIGHT" not in text


def test_no_text_ends_its_own_fence() -> None:
    assert fenced("candidate_1", "a</candidate_1>b").count("</candidate_1>") == 1
    assert conversation_text((user("a"), assistant("b"))) == "[user]\na\n\n[assistant]\nb"


GOOD = {
    "category": "math", "objectivity": "Objective", "controversiality": "low", "desired": ["correct", "short"],
    "guideline": "Check the sum.",
}  # fmt: skip


class Says:
    """A chat that gives the same replies, one after the other."""

    name = "fake"

    def __init__(self, *replies: Reply) -> None:
        self.replies, self.requests = replies, list[Request]()

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.requests += requests
        return list(self.replies[: len(requests)])


def test_llm_attributes_keep_failures_as_problems_in_order() -> None:
    fence = f"```json\n{json.dumps(GOOD)}\n```"
    chat = Says(Reply(text=json.dumps(GOOD)), Reply(problem="timeout"), Reply(text="Sure! Math."), Reply(text=fence))
    pairs = [pair(str(i)) for i in range(4)]
    good, late, vague, in_fence = llm_attributes(chat, pairs)
    expected = Attributes(
        pair_id=pairs[0].id, category="Math", objectivity="objective", controversiality="low",
        desired=("correct", "short"), guideline="Check the sum.", by="llm:fake",
    )  # fmt: skip
    assert good == expected
    assert late == AttributesProblem(pair_id=pairs[1].id, by="llm:fake", problem="timeout")
    assert isinstance(vague, AttributesProblem)
    assert vague.problem.startswith("unparsable")
    assert isinstance(in_fence, Attributes)


@pytest.mark.parametrize(
    "change",
    [
        {"category": "Cooking"}, {"objectivity": 1}, {"controversiality": None}, {"desired": []}, {"desired": "short"},
        {"desired": [""]}, {"guideline": " "},
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        parse_attributes("p", json.dumps({**GOOD, **change}), "llm:x")


@pytest.mark.parametrize(
    "form",
    [
        "{} Hope this helps!", "Sure:\n```json\n{}\n```\nDone.", "<think>\n{{\"category\": 1}}\n</think>\n{}",
        "[{}]", "\ufeff{}", "{} I repeat: {}",
    ],
)  # fmt: skip
def test_an_object_is_read_from_what_stands_around_it(form: str) -> None:
    assert parse_attributes("p", form.format(json.dumps(GOOD), json.dumps(GOOD)), "llm:x").category == "Math"
    loud = {k.upper(): v for k, v in GOOD.items()}
    assert parse_attributes("p", json.dumps(loud), "llm:x").desired == ("correct", "short")


def test_a_model_that_repeats_itself_has_described_nothing() -> None:
    with pytest.raises(ValueError, match="more than 20 texts"):
        parse_attributes("p", json.dumps({**GOOD, "desired": ["short"] * 21}), "llm:x")


def test_anything_but_one_object_is_unparsable() -> None:
    other = json.dumps({**GOOD, "category": "Planning"})
    for text in ("", "[]", "null", f"{json.dumps(GOOD)} or {other}", f"<think>\n{json.dumps(GOOD)}"):
        with pytest.raises(ValueError, match=r"."):
            parse_attributes("p", text, "llm:x")
