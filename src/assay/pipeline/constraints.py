"""Instructions whose obedience is a fact: the ground truth of the embedded pool.

Each instruction is a topic question plus exactly one *constraint* (length, keyword, format, ending, ...). A constraint
is text for the model and an exact checker for us, so which of two answers obeys is known without asking anybody. The
idea is IFEval's (Zhou et al. 2023, "verifiable instructions"); constraints that an uncased encoder cannot see (letter
case) are left out on purpose. Nothing here knows about reward models or judges: it only states and checks.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

TOPICS = """apples|bicycles|black holes|bread|bridges|butterflies|camping|candles|castles|cats|chess|chocolate|clouds|coffee
|comets|coral reefs|deserts|dinosaurs|dogs|dolphins|dreams|earthquakes|elephants|farming|fire safety|fishing|forests
|friendship|gardens|glaciers|gold|gravity|guitars|hiking|honey bees|horses|ice cream|insects|islands|jazz|kites
|languages|libraries|lighthouses|lions|magnets|maps|markets|medicine|meteorology|mirrors|money|mountains|museums
|music|novels|oceans|octopuses|olive oil|owls|painting|paper|parks|penguins|photography|pianos|pirates|planets|plants
|poetry|pottery|rabbits|radio|railways|rain|rainbows|recycling|rice|rivers|robots|rockets|running|sailing|salt|sand
|schools|seasons|sharks|shoes|silk|sleep|snow|soap|soccer|solar power|spices|stars|steam engines|storms|sugar|sunlight
|swimming|tea|teamwork|telescopes|tennis|the brain|the circus|the desert|the heart|the internet|the moon|the opera
|the post office|theatre|tigers|time|tomatoes|towers|toys|trains|trees|tunnels|turtles|umbrellas|vegetables|violins
|volcanoes|water|whales|wheat|whistles|wind power|windows|wine|winter|wolves|wood|wool|yoga|zebras"""
QUESTIONS = (
    "Tell me about {topic}.",
    "What should a beginner know about {topic}?",
    "Why do people care about {topic}?",
    "Give me some advice about {topic}.",
    "Write a short note about {topic} for a school magazine.",
    "What is interesting about {topic}?",
    "Describe {topic} to a child.",
    "How have {topic} changed our lives?",
)
KEYWORDS = ("morning", "family", "history", "careful", "beautiful", "simple", "energy", "children", "journey",
            "science", "patience", "money")  # fmt: skip
OPENERS = ["Sure", "Honestly", "Yes", "Well", "First", "Imagine", "Today", "Listen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One checkable demand. `argument` is a number of words, a keyword, or empty.

    Example: Constraint(kind="at_most", argument="15").text() == "Use at most 15 words."
    """

    kind: str
    argument: str = ""

    def text(self) -> str:
        """The sentence that states the constraint to a model or a person."""
        return _KINDS[self.kind][0].format(self.argument)

    def obeyed_by(self, answer: str) -> bool:
        """Whether `answer` meets the constraint: a fact, never an estimate."""
        return _KINDS[self.kind][1](answer.strip(), self.argument)


def _words(answer: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", answer)


def _has_word(answer: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) is not None


def _bullets(answer: str) -> int:
    return len(re.findall(r"^\s*[-*•] \S", answer, re.MULTILINE))


def _numbered(answer: str) -> int:
    return len(re.findall(r"^\s*\d+[.)] \S", answer, re.MULTILINE))


_KINDS: dict[str, tuple[str, Callable[[str, str], bool]]] = {
    "at_most": ("Use at most {} words.", lambda a, n: 0 < len(_words(a)) <= int(n)),
    "at_least": ("Use at least {} words.", lambda a, n: len(_words(a)) >= int(n)),
    "include": ('Use the word "{}" in your answer.', _has_word),
    "avoid": ('Do not use the word "{}".', lambda a, w: bool(a) and not _has_word(a, w)),
    "bullets": ("Answer with a bulleted list.", lambda a, _: _bullets(a) >= 2),
    "numbered": ("Answer with a numbered list.", lambda a, _: _numbered(a) >= 2),
    "question": ("End your answer with a question.", lambda a, _: a.endswith("?")),
    "begin": (
        'Begin your answer with the word "{}".',
        lambda a, w: re.match(rf"\W*{w}\b", a, re.IGNORECASE) is not None,
    ),
    "digits": ("Mention at least one number, written in digits.", lambda a, _: re.search(r"\d", a) is not None),
    "no_digits": ("Do not use any digits.", lambda a, _: bool(a) and re.search(r"\d", a) is None),
}
KINDS = tuple(_KINDS)
# One turn of the wheel from which instructions are made. Kinds that a longer answer obeys more easily appear twice, so that
# the in-the-wild "longer is better" labels are wrong at a realistic rate instead of at chance.
_WHEEL = (*KINDS, "at_least", "include", "digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """A prompt with one constraint, for example "Tell me about tea. Use at most 15 words."."""

    prompt: str
    constraint: Constraint


def make_instructions(n: int, seed: int) -> list[Instruction]:
    """`n` distinct instructions, the constraint kinds in the shares of `_WHEEL`, reproducible from `seed`."""
    rng = random.Random(seed)
    topics = [t.strip() for t in TOPICS.replace("\n", "").split("|")]
    made: dict[str, Instruction] = {}
    while len(made) < n:
        kind = _WHEEL[len(made) % len(_WHEEL)]
        topic = rng.choice(topics)
        argument = {
            "at_most": str(rng.choice((10, 12, 15, 20, 25))),
            "at_least": str(rng.choice((20, 25, 30, 35))),
            "include": rng.choice(KEYWORDS),
            "avoid": topic.removeprefix("the ").split()[0],
            "begin": rng.choice(OPENERS),
        }.get(kind, "")
        constraint = Constraint(kind=kind, argument=argument)
        prompt = f"{rng.choice(QUESTIONS).format(topic=topic)} {constraint.text()}"
        made.setdefault(prompt, Instruction(prompt=prompt, constraint=constraint))
    return list(made.values())
