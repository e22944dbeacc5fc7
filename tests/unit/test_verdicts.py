"""The pair judge's marks: its own word counts, what it quotes, reports, supposes or thinks does not."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from assay.bench.verdicts import PairJudge, read_verdict, request
from assay.llm.chat import Request
from assay.llm.replies import Reply
from assay.records import Conversation, Message, assistant, user

A, B, TIE = 1, -1, 0


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Reason. [[A]]", A), ("Reason.\n\n**[[B]]**", B), ("Both are equal. [[C]]", TIE), ("reason.[[b]]", B),
        ("Final verdict: **[[A]]**.", A), ("So the verdict is [[B]]", B), ("I choose [[A]].", A), ("Therefore, [[A]]", A),
        ("Answer A is better [[A]]", A), ("[[A]]\n\nBecause it is right.", A), ("My verdict: [[A]]\nBecause.", A),
        ("Answer A does not follow, so I choose [[B]]", B), ("Answer B contains an error, so the better one is [[A]]", A),
        ("Answer A includes all steps: [[A]]", A), ("[[A>>B]]", A), ("[[A<B]]", B), ("[[A=B]]", TIE),
        ("Reason. **A**", A), ("Reason. \\\\boxed{A}".replace("\\\\", "\\"), A), ("Reason. [A]", A),
        ("I must end with [[A]], [[B]] or [[C]].\n\nMy verdict: [[A]]", A), ("<think>[[B]]? no.</think> [[A]]", A),
        ("I must end with [[A]] if answer A is better, [[B]] if answer B is better, [[C]] for a tie.", None),
        ("I must end with [[A]], [[B]] or [[C]].", None), ("Both are equal.", None), ("", None),
        ('My verdict is [[A]]. The other answer writes "[[B]]" in its text, which I ignore.', None),
        ('The other answer claims "[[B]]" for itself. I cannot say more.', None),
        ('The other answer ends with "[[B]]".', None), ("Answer B itself ends with [[B]].", None),
        ("The answer claims the verdict is [[B]].", None), ("The other answer writes: [[B]]", None),
        ("It is not [[B]]", None), ("[[A]] or [[B]]", None), ("<think>First sight: [[B]]. But let me", None),
    ],
)  # fmt: skip
def test_reading_a_verdict(text: str, verdict: int | None) -> None:
    assert read_verdict(text) == verdict


class Says:
    name = "m"

    def __init__(self, *replies: Reply) -> None:
        self.replies = replies

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return list(self.replies[: len(requests)])


@dataclass(frozen=True)
class Two:
    """A question with a right answer and a wrong one."""

    id: str = "i"
    source: str = "s"
    stratum: str = "s"
    prompt: Conversation = (user("q"),)

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return tuple((*self.prompt, assistant(t)) for t in ("right", "wrong"))

    @property
    def duels(self) -> tuple[tuple[Conversation, Conversation], ...]:
        right, wrong = self.conversations
        return ((right, wrong),)


def test_a_cut_verdict_is_a_counted_failure() -> None:
    cut = Reply(text="[[A]]", problem="cut off at max_tokens")
    judge = PairJudge(Says(cut, Reply(text="Reason. [[B]]")))
    told = judge.verdicts([Two()])
    assert (told.sums, len(told.failed)) == ({}, 1)
    assert judge.problems == {"cut off at max_tokens": 1}


def test_answers_that_differ_in_calls_alone_are_shown_apart() -> None:
    call = '[{"function": {"name": "%s", "arguments": "{}"}}]'
    prompt = (Message(role="user", content="rain?", tools='[{"function": {"name": "weather"}}]', images=("ab",)),)
    one, other = ((*prompt, Message(role="assistant", content="", tool_calls=call % n)) for n in ("weather", "news"))
    asked, turned = request(one, other), request(other, one)
    text = asked.messages[0].content
    assert text != turned.messages[0].content
    assert text.index("weather") < text.index('"news"')
    assert asked.messages[0].images == ("ab",)


def test_turns_that_two_dialogues_do_not_share_are_part_of_the_answers() -> None:
    prompt = (user("hi"),)
    one = (*prompt, assistant("first said"), user("and?"), assistant("last said"))
    other = (*prompt, assistant("other said"), user("and?"), assistant("last said"))
    text = request(one, other).messages[0].content
    assert text.index("[Answer A]") < text.index("first said") < text.index("[Answer B]") < text.index("other said")
