"""Attributes by rules: what is looked for first, to be fast, never changes what is found."""

import random
import re

import pytest

from assay.curate import rules
from assay.curate.rules import rule_attributes
from assay.records import Attributes, Pair, Response, user

SIGNS = (*rules._CHECKABLE, *rules._SOFT, *rules._CATEGORY_SIGNS, *rules._CONTROVERSIAL)
WORDS = sorted(
    {w for s in SIGNS for w in re.findall(r"[a-z’']+", re.sub(r"\\[a-zA-Z]|\?P<\w+>", " ", s.pattern.pattern))}
)
MORE = ["2", "17", "٣", '"tea"', "'deep sea'", "`x`", "-", "-words", "3+4", "×", "?", ",", "\n", "step-by-step", "ſhort",
        "lıst", "BULLETS", "İn", "\u212aid", "c++", "tl;dr", "don't", "bulleted list", "the word"]  # fmt: skip

PHRASES = [
    "at most three words", "at least 20 lines", "in 2 short sentences", "a 500-word", "numbered list", "number each step",
    'begin your answer with the word "Sure"', "end it with 'bye'", "end by asking a question", 'never use the word "no"',
    'include the term "sea"', "do not use any digits", "mention some figures", "without any commas", "in all lower case",
    "only capital letters", "as valid json", "with a small table", "into german", "show your work", "in-depth",
    "write a short poem", "how can i", "you are a", "ideas for", "suggest names", "analyze this data", "if all a then",
    "plan my", "act as", "formal",
]  # fmt: skip


def texts(n: int) -> list[str]:
    """Texts of the patterns' own words, which nearly match, or do, in every case and in letters that match others."""
    chance, found = random.Random(0), []
    for _ in range(n):
        said = chance.choices([*WORDS, *MORE, *2 * PHRASES], k=chance.randint(1, 12))
        text = "".join(w + chance.choice([*"       -\n", "", "  "]) for w in said)
        text = chance.choice([str, str, str, str.upper, str.title])(text)
        found.append(text.replace("i", "ı").replace("s", "ſ").replace("k", "\u212a") if chance.random() < 0.1 else text)
    return found


def described(said: list[str]) -> list[Attributes]:
    return [rule_attributes(Pair.of((user(t),), Response.of("a"), Response.of("b"))) for t in said]


def test_what_is_looked_for_first_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [*texts(6_000), *map(str, range(3)), ""]
    fast = described(said)
    with monkeypatch.context() as patch:
        patch.setattr(rules._Sign, "may", lambda self, lower: True)
        assert described(said) == fast
    assert len({a.category for a in fast}) == 12
    assert len({q for a in fast for q in a.desired}) > 100
    found = {s.of for s in SIGNS if any(s.pattern.search(t) for t in said)}
    assert found == {s.of for s in SIGNS}, "every sign is met"


def test_most_patterns_are_not_tried_on_most_texts() -> None:
    text = "Who wrote the novel about a whale, and was it well received in its day?"
    tried = [s.of for s in (*rules._CHECKABLE, *rules._SOFT) if s.may(text)]
    assert len(tried) < 3, tried
