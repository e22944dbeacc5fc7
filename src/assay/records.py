"""Records of preferences: immutable facts that point at each other by content id (those of a policy: `rollouts`).

A `Pair` never changes. Opinions about it are `Judgement` rows of their own; a `Label` is computed from them by
`curate.settle`. A judgement names the better response by *id*, never as "A" or "B", and a pair's id does not depend
on the order of its responses, so showing a pair the other way round cannot flip anything.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant", "tool"]
Kind = Literal["lead", "human", "oracle", "llm", "offline", "rm", "wild"]
Tier = Literal["gold", "silver", "wild"]
Fate = Literal["kept", "relabelled", "flipped", "dropped"]
LATER = MappingProxyType({"later": True})
"""Metadata of a record's field that came after rows without it were written: they have its default."""


def digest(value: object) -> str:
    """The 128-bit content id (32 hex digits) of a JSON-like value; stable across machines and versions."""
    return hashlib.blake2b(_CANONICAL(value).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


_CANONICAL = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def messages_id(messages: "Conversation") -> str:
    """`digest` of the canonical forms of messages, by a faster writer of the same bytes."""
    said = [m.canonical() for m in messages]
    try:
        data = orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError):  # half of a surrogate pair
        return digest(said)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation in chat format; `images` are content ids of pictures shown with it.

    What else a turn can carry, in the words of the chat API, and "" where it does not: `reasoning` (its reasoning_content),
    `tool_calls` (of an assistant, as canonical JSON text), `tool_call_id` and `name` (of a tool's answer), `tools` (the
    functions that may be called, as canonical JSON text; on the first message of a conversation).

    Example: Message(role="user", content="What is the boiling point of water?")
    """

    role: Role
    content: str
    images: tuple[str, ...] = ()
    reasoning: str = ""
    tool_calls: str = ""
    tool_call_id: str = ""
    name: str = ""
    tools: str = ""

    def canonical(self) -> list[object]:
        """What ids are made of. A message of text and pictures has the id that it had before there was anything else."""
        if not (self.reasoning or self.tool_calls or self.tool_call_id or self.name or self.tools):
            return [self.role, self.content, *self.images]
        return [self.role, self.content, *self.images, {k: v for k in _MORE if (v := getattr(self, k))}]

    def chat(self, content: object = None) -> dict[str, Any]:
        """The turn as chat servers and chat templates take it; `content` stands for its text (parts with pictures)."""
        said: dict[str, Any] = {"role": self.role, "content": self.content if content is None else content}
        if self.reasoning:
            said["reasoning_content"] = self.reasoning
        if self.tool_calls:
            said["tool_calls"] = json.loads(self.tool_calls)
        return said | {k: v for k in ("tool_call_id", "name") if (v := getattr(self, k))}


_MORE = ("reasoning", "tool_calls", "tool_call_id", "name", "tools")
Conversation = tuple[Message, ...]


def tools_of(conversation: Conversation) -> list[Any] | None:
    """The functions that a conversation may call, as chat templates and servers take them; None where it names none."""
    return next((list(json.loads(m.tools)) for m in conversation if m.tools), None)


def user(content: str) -> Message:
    return Message(role="user", content=content)


def assistant(content: str) -> Message:
    return Message(role="assistant", content=content)


def question_id(prompt: Conversation) -> str:
    """The id of a conversation's first user turn, white space aside.

    Whole questions go to one side of a split, so that a dialogue that goes on, or another set's copy of the same question,
    cannot be trained on where its first turn is measured.
    """
    return messages_id((user(first_question(prompt)),))


def first_question(prompt: Conversation) -> str:
    """The words of a conversation's first user turn, a space between each two."""
    first = next((m for m in prompt if m.role == "user"), prompt[0] if prompt else user(""))
    return " ".join(first.content.split())


@dataclass(frozen=True, kw_only=True)
class Response:
    """One continuation of a conversation: usually one assistant message, more when two dialogues parted earlier."""

    messages: Conversation

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "assistant":
            raise ValueError("a response must end with an assistant message")

    @cached_property
    def id(self) -> str:
        return messages_id(self.messages)

    @property
    def text(self) -> str:
        """The last assistant turn."""
        return self.messages[-1].content

    @staticmethod
    def of(text: str) -> "Response":
        return Response(messages=(assistant(text),))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A conversation and two responses to it, without an opinion on which is better.

    `responses` are always sorted by id (`Pair.of` does it), so equal content gives an equal pair and an equal id.

    Example: Pair.of((user("Say hi"),), Response.of("hi"), Response.of("no"))
    """

    prompt: Conversation
    responses: tuple[Response, Response]

    def __post_init__(self) -> None:
        first, second = self.responses
        if first.id == second.id:
            raise ValueError("the two responses are identical")
        if first.id > second.id:
            raise ValueError("responses must be sorted by id; build pairs with Pair.of")

    @staticmethod
    def of(prompt: Conversation, one: Response, other: Response) -> "Pair":
        """The pair of `one` and `other` in either order. Raises ValueError when they are identical."""
        return Pair(prompt=prompt, responses=(one, other) if one.id < other.id else (other, one))

    @cached_property
    def prompt_id(self) -> str:
        return messages_id(self.prompt)

    @cached_property
    def question_id(self) -> str:
        """The id of the first question, the unit of every split: see `question_id`."""
        return question_id(self.prompt)

    @cached_property
    def id(self) -> str:
        """Content id of (conversation history, final turns), order-free: the dedup key of paper A, D.1."""
        return digest([self.prompt_id, *(r.id for r in self.responses)])

    @property
    def turns(self) -> Conversation:
        """All messages: the prompt's, and then those of both responses."""
        return (*self.prompt, *(m for r in self.responses for m in r.messages))

    @property
    def chars(self) -> int:
        """The characters of all messages."""
        return sum(len(m.content) for m in self.turns)

    def response(self, response_id: str) -> Response:
        return next(r for r in self.responses if r.id == response_id)

    def other(self, response_id: str) -> str:
        """The id of the response that is not `response_id`."""
        first, second = (r.id for r in self.responses)
        if response_id not in (first, second):
            raise ValueError(f"pair {self.id} has no response {response_id}")
        return second if response_id == first else first

    def preferring(self, chosen: str, certainty: float = 1.0, margin: float = 0.0) -> "Preference":
        """The training example in which the response with id `chosen` wins."""
        rejected = self.response(self.other(chosen))
        return Preference(
            pair_id=self.id, prompt=self.prompt, chosen=self.response(chosen), rejected=rejected, certainty=certainty,
            margin=margin,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """A pair seen through a label: what a reward model trains on. Exists only after a label does.

    `certainty` in [0.5, 1] is the share of votes for the chosen response; `margin` says by how much it should win, in
    the units of whoever told it. Training uses neither unless it is asked to (`LossConfig`).
    """

    pair_id: str
    prompt: Conversation
    chosen: Response
    rejected: Response
    certainty: float = 1.0
    margin: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a pair was read: one row per occurrence, so duplicates keep all their origins."""

    pair_id: str
    source: str
    file: str
    row: int
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A row (or part of one) that could not become a pair. `field` is empty when the whole row or file is broken."""

    source: str
    file: str
    row: int
    field: str
    reason: str
    excerpt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The five preference attributes of paper A, section 3.2, and who gave them.

    `category` is one of the twelve of A3 Table 8, `objectivity` "objective" or "subjective", `controversiality` "low",
    "medium" or "high"; `desired` are qualities that users seek; `guideline` says how to decide *this* pair.
    """

    pair_id: str
    category: str
    objectivity: str
    controversiality: str
    desired: tuple[str, ...]
    guideline: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One opinion about one pair: by a person, an oracle, an LLM, an offline rule, a reward model, or the source.

    Kind "lead" is a person who decided with the others' judgements before them: an adjudication, which outranks these.

    `better` is a response id, or None with a `problem` ("tie", "refused", "unparsable", "timeout", "cannot decide",
    ...): a failure is data, never a vote. `shown` is the order in which the responses were presented (empty when order
    has no meaning). `confidence` in [0.5, 1] is the share of votes or the model's probability for `better`. `votes` says
    how many raw votes were merged, `tokens` what they cost. `strength` says by how much `better` is better, in the units
    of whoever judged (a difference of scores, a grade); 0.0 where nobody told it.
    """

    pair_id: str
    better: str | None
    by: str
    kind: Kind
    shown: tuple[str, ...] = ()
    confidence: float = 1.0
    votes: int = 1
    problem: str = ""
    rationale: str = ""
    round: int = 0
    tokens: int = 0
    seconds: float = 0.0
    strength: float = 0.0

    def __post_init__(self) -> None:
        if (self.better is None) != bool(self.problem):
            raise ValueError("a judgement has either a better response or a problem")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What the judgements of a pair come to. `chosen` is None exactly when the pair is dropped.

    `tier` says whose word it rests on: gold (people), silver (judges guided by gold), wild (the source, confirmed by
    reward models). `fate` is the pair's end and `reason` says why in words; `by` names the deciding judges. `certainty` in
    [0.5, 1] is the share of votes for the chosen response, each by its confidence; `margin` is by how much it is better,
    where somebody told it, else 0.0.
    """

    pair_id: str
    chosen: str | None
    tier: Tier
    fate: Fate
    reason: str
    by: tuple[str, ...]
    stage: str
    certainty: float = field(default=1.0, metadata=LATER)
    margin: float = 0.0

    def __post_init__(self) -> None:
        if (self.chosen is None) != (self.fate == "dropped"):
            raise ValueError("a label has a chosen response unless the pair is dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The known right answer of a pair, where a pool carries one. Read by the oracle annotator and by reports only."""

    pair_id: str
    better: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a judge or a person is shown: the pair, its attributes, and gold examples to be guided by (may be none)."""

    pair: Pair
    attributes: Attributes
    examples: tuple["Example", ...] = ()

    @property
    def guides(self) -> tuple["Example", ...]:
        """The examples that a judge may use: none of the pair's own question, whatever it was handed. Such an example often
        shows the same answer, judged already."""
        return tuple(e for e in self.examples if e.pair.question_id != self.pair.question_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A human-verified pair with its attributes and the id of the better response."""

    pair: Pair
    attributes: Attributes
    better: str


Judge = Callable[[Sequence[Case]], list[Judgement]]
"""One judgement per case, in order. People, oracles, LLM servers and offline rules all have this one shape. A judge that has
an attribute `examples` is shown so many; see `shown_to`."""


def shown_to(judge: Judge, usual: int) -> int:
    """How many gold examples a judge is shown: its own number, or the usual one, which is for prompts of LLMs."""
    return int(getattr(judge, "examples", usual))


Scorer = Callable[[Sequence[Conversation]], NDArray[np.float64]]
"""(n,) rewards of n whole conversations (prompt and response); higher is better, any scale."""

Embedder = Callable[[Sequence[str]], NDArray[np.float32]]
"""(n, d) unit vectors of n texts."""
