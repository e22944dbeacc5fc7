"""Pairs that ask the same about different topics, for judges that decide by verified look-alikes."""

from collections.abc import Sequence
from typing import Any

from assay.curate.offline import hash_embedder
from assay.curate.rules import rule_attributes
from assay.records import Case, Embedder, Example, Pair, Response, user

TOPICS = (
    "tea", "rain", "cats", "bread", "music", "chess", "snow", "trees", "maps", "salt", "jazz", "kites", "owls", "gold",
)  # fmt: skip
SHORT = "{} is nice."
LONG = "{} is nice, and there is much more that one could say about it, as many people have done before us."
DEMAND = "Use at most 9 words."


def pair(topic: str, one: str, other: str, demand: str = DEMAND) -> Pair:
    return Pair.of(
        (user(f"Tell me about {topic}. {demand}"),), Response.of(one.format(topic)), Response.of(other.format(topic))
    )


def example(topic: str, good: str, bad: str, demand: str = DEMAND) -> Example:
    p = pair(topic, good, bad, demand)
    return Example(pair=p, attributes=rule_attributes(p), better=Response.of(good.format(topic)).id)


def case(p: Pair, *examples: Example) -> Case:
    return Case(pair=p, attributes=rule_attributes(p), examples=examples)


def counting() -> tuple[Embedder, list[list[str]]]:
    """An embedder, and what it is asked, call by call."""
    calls: list[list[str]] = []

    def embed(texts: Sequence[str]) -> Any:
        calls.append(list(texts))
        return hash_embedder()(texts)

    return embed, calls
