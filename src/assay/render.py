"""Conversations to token ids: the one place where a chat template is applied, in training and in scoring alike.

Paper A (README of the released models): no system prompt is added, and a duplicated BOS is stripped. Here the template's
own text is tokenised without further special tokens, so no second BOS can appear. Encoders without a chat template read
history and response as their own tokenizer joins two texts ([CLS] history [SEP] response [SEP], <s> ... </s></s> ... </s>).

What is too long is cut, and the cut is told:

    1. whole exchanges from the front of the history; the system turn and the last user turn stay
    2. a system turn of more than a quarter of the room
    3. the front of the last user turn, down to a quarter of the room
    4. of a response that has no room then: its front (decoders, which read the reward at the end), its tail (encoders)

1 to 3 are the same for all responses to one prompt that are rendered together: two answers are compared on one history.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from assay.errors import AssayError, CannotRead, first_line
from assay.images import ImageStore
from assay.records import Conversation, tools_of
from assay.templates import chat_text, plain_turn

T = TypeVar("T")
KEPT = 4
"""The last user turn keeps at least the room's part of this: a response may not push its question out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Token ids of one conversation; `second` is where an encoder's second token type begins (0: there is but one),
    `cut` tokens were left out."""

    ids: list[int]
    second: int = 0
    cut: int = 0


def render(
    tokenizer: Any, conversations: Sequence[Conversation], max_tokens: int, store: ImageStore | None = None
) -> list[Rendered]:
    """Token ids of whole conversations (prompt and response), at most `max_tokens` each; see the module for what is cut.

    Responses to one prompt in one call lose the same of it. Raises CannotRead for the first conversation that the model
    cannot read as it is.
    """
    found = attempts(tokenizer, conversations, max_tokens, store)
    for number, one in enumerate(found):
        if isinstance(one, CannotRead):
            raise CannotRead(f"conversation {number}: {one}" if len(found) > 1 else str(one)) from one
    return [one for one in found if isinstance(one, Rendered)]


def attempts(
    tokenizer: Any, conversations: Sequence[Conversation], max_tokens: int, store: ImageStore | None = None,
    together: Sequence[Sequence[int]] | None = None,
) -> list[Rendered | CannotRead]:  # fmt: skip
    """`render`, with the reason in the place of a conversation that cannot be read; its neighbours are unharmed.

    `together` are the conversations whose common turns are cut alike (None: those with the same prompt). Raises AssayError
    for a model that can read none: no chat template, and no encoder.
    """
    check(tokenizer)
    if not conversations:
        return []
    if hasattr(tokenizer, "image_processor"):
        return [_tried(_with_pictures, tokenizer, c, max_tokens, store) for c in conversations]
    if any(shows_pictures(c) for c in conversations):
        blind = [i for i, c in enumerate(conversations) if not shows_pictures(c)]
        back = {i: n for n, i in enumerate(blind)}
        kept = None if together is None else [[back[i] for i in rows if i in back] for rows in together]
        told = iter(attempts(tokenizer, [conversations[i] for i in blind], max_tokens, store, kept))
        return [CannotRead(UNSEEN) if i not in back else next(told) for i in range(len(conversations))]
    reader = _Template(tokenizer) if tokenizer.chat_template else _Segments(tokenizer)
    found = reader.all(conversations)
    for rows in same_prompt(conversations) if together is None else together:
        read = [i for i in rows if isinstance(found[i], Rendered)]
        sizes = [len(one.ids) for i in read if isinstance(one := found[i], Rendered)]
        if sizes and max(sizes) > max_tokens:
            cut = reader.shortened([conversations[i] for i in read], max_tokens)
            for i, size, one in zip(read, sizes, cut, strict=True):
                found[i] = one if isinstance(one, CannotRead) else replace(one, cut=max(0, size - len(one.ids)))
    return found


UNSEEN = "it shows pictures, and this model sees none"


def shows_pictures(conversation: Conversation) -> bool:
    return any(m.images for m in conversation)


def same_prompt(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Indices of the conversations that answer the same prompt."""
    groups: dict[Conversation, list[int]] = {}
    for index, conversation in enumerate(conversations):
        groups.setdefault(conversation[:-1], []).append(index)
    return list(groups.values())


def check(tokenizer: Any) -> None:
    """Raise AssayError, with what to do, where conversations cannot be rendered for this model at all."""
    if hasattr(tokenizer, "image_processor") or tokenizer.chat_template:
        return
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise AssayError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template (a base model?), and no [CLS] and [SEP] of "
            "an encoder: take the model's instruct version, or set tokenizer.chat_template and save the tokenizer into the "
            "model's folder (tokenizer.save_pretrained)"
        )
    _Segments(tokenizer)


def _tried(read: Callable[..., T], *given: Any) -> T | CannotRead:
    try:
        return read(*given)
    except CannotRead as error:
        return error


def encodable(text: str) -> str:
    """The text. Raises CannotRead where it holds half of a surrogate pair, which is no character and has no token."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CannotRead("a text holds half of a surrogate pair, which is no character") from error
    return text


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(encodable(text), add_special_tokens=False)["input_ids"])


def _all_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return list(tokenizer(list(texts), add_special_tokens=False)["input_ids"]) if texts else []


# Whole conversations of two kinds of models


class _Template:
    """Decoders: the chat template's text, as tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def all(self, conversations: Sequence[Conversation]) -> list[Rendered | CannotRead]:
        texts = [_tried(self._text, c) for c in conversations]
        ids = iter(_all_tokens(self.tokenizer, [t for t in texts if isinstance(t, str)]))
        return [Rendered(ids=next(ids)) if isinstance(t, str) else t for t in texts]

    def _text(self, conversation: Conversation) -> str:
        return encodable(chat_text(self.tokenizer, conversation))

    def read(self, conversation: Conversation, tools: list[Any] | None = None) -> Rendered:
        return Rendered(ids=_tokens(self.tokenizer, chat_text(self.tokenizer, conversation, tools=tools)))

    def shortened(self, group: Sequence[Conversation], room: int) -> list[Rendered | CannotRead]:
        tools = tools_of(group[0])

        def size(conversation: Conversation) -> int:
            return len(self.read(conversation, tools).ids)

        try:
            cut, first = _cut_alike(self.tokenizer, group, room, lambda group: [size(c) for c in group])
        except CannotRead as error:
            return [error] * len(group)
        return [_tried(self._within, c, first, room, tools) for c in cut]

    def _within(self, conversation: Conversation, first: int, room: int, tools: list[Any] | None) -> Rendered:
        """A conversation whose response begins at turn `first`, without the front of the response where it must be."""
        made = self.read(conversation, tools)
        for at in range(first, len(conversation)):
            while len(made.ids) > room and (said := conversation[at].content):
                less = _without_front(self.tokenizer, said, len(made.ids) - room)
                conversation = _with(conversation, at, less)
                made = self.read(conversation, tools)
        if len(made.ids) > room:
            raise CannotRead(f"longer than {room:,} tokens, and nothing is left to cut")
        return made


class _Segments:
    """Encoders without a chat template: history and response as two texts, joined as their tokenizer joins them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        joined = tokenizer("a", "b")
        try:
            places = joined.sequence_ids()
        except ValueError as error:
            raise AssayError(f"{tokenizer.name_or_path}: an encoder needs a fast tokenizer (tokenizer.json)") from error
        ids, types = list(joined["input_ids"]), list(joined.get("token_type_ids") or [0] * len(places))
        starts = [places.index(n) for n in (0, 1) if n in places]
        ends = [len(places) - places[::-1].index(n) for n in (0, 1) if n in places]
        expected = [[0] * len(ids), [0] * starts[-1] + [1] * (len(ids) - starts[-1])]
        if starts != sorted(starts) or len(starts) < 2 or types not in expected:
            raise AssayError(f"{tokenizer.name_or_path} joins two texts in a way that is not known here")
        self.head, self.middle, self.tail = ids[: starts[0]], ids[ends[0] : starts[1]], ids[ends[1] :]
        self.typed = types == expected[1] and any(types)

    def all(self, conversations: Sequence[Conversation]) -> list[Rendered | CannotRead]:
        texts = [_tried(self._texts, c, len(c) > 2) for c in conversations]
        good = [t for t in texts if not isinstance(t, CannotRead)]
        histories, responses = (_all_tokens(self.tokenizer, [t[side] for t in good]) for side in (0, 1))
        ids = zip(histories, responses, strict=True)
        return [t if isinstance(t, CannotRead) else self._joined(*next(ids)) for t in texts]

    def _texts(self, conversation: Conversation, named: bool) -> tuple[str, str]:
        return encodable(history(conversation[:-1], named)), encodable(plain_turn(conversation[-1]))

    def _ids(self, group: Sequence[Conversation], named: Sequence[bool]) -> list[tuple[list[int], list[int]]]:
        texts = [self._texts(c, roles) for c, roles in zip(group, named, strict=True)]
        histories, responses = (_all_tokens(self.tokenizer, [t[side] for t in texts]) for side in (0, 1))
        return list(zip(histories, responses, strict=True))

    def _joined(self, history: list[int], response: list[int]) -> Rendered:
        before = [*self.head, *history, *self.middle]
        return Rendered(ids=[*before, *response, *self.tail], second=len(before) if self.typed else 0)

    def shortened(self, group: Sequence[Conversation], room: int) -> list[Rendered | CannotRead]:
        most = max(1, room - len(self.head) - len(self.middle) - len(self.tail))
        named = [len(c) > 2 for c in group]

        def sizes(group: Sequence[Conversation]) -> list[int]:
            return [len(h) + len(response) for h, response in self._ids(group, named)]

        cut, _ = _cut_alike(self.tokenizer, group, most, sizes)
        ids = self._ids(cut, named)
        kept = max(1, most - max(len(response) for _, response in ids), most // KEPT)
        return [self._joined(h[-kept:], response[: most - len(h[-kept:])]) for h, response in ids]


def history(messages: Conversation, named: bool | None = None) -> str:
    """A history as an encoder reads it; `named`: each turn with its role (None: where there are several turns)."""
    named = len(messages) > 1 if named is None else named
    tools = next((f"tools: {m.tools}\n" for m in messages if m.tools), "")
    if named:
        return tools + "\n".join(f"{m.role}: {plain_turn(m)}" for m in messages)
    return tools + "\n".join(plain_turn(m) for m in messages)


def _cut_alike(
    tokenizer: Any, group: Sequence[Conversation], room: int, sizes: Callable[[Sequence[Conversation]], list[int]]
) -> tuple[list[Conversation], int]:
    """Conversations without as much of their common history as the longest needs to lose (1 to 3 of the module), and where
    the rest, their own, begins. `sizes` are their tokens, to be at most `room`."""
    shortest = min(len(c) for c in group)
    common = next((i for i in range(shortest - 1) if len({c[i] for c in group}) > 1), shortest - 1)
    head = next((i for i in range(common) if group[0][i].role != "system"), common)
    asked = [i for i in range(head, common) if group[0][i].role == "user"]

    def without(start: int, system: bool = True) -> list[Conversation]:
        return [(*c[: head if system else 0], *c[start:]) for c in group]

    def over(group: Sequence[Conversation]) -> int:
        return max(sizes(group)) - room

    starts = [head, *asked[1:]]
    start = starts[min(bisect_left(starts, True, key=lambda at: over(without(at)) <= 0), len(starts) - 1)]
    made, first = without(start), common - start + head
    told = "\n".join(m.content for m in group[0][:head])
    if over(made) > 0 and len(_tokens(tokenizer, told)) > room // KEPT:
        made, first = without(start, system=False), common - start
    at = next((i for i in range(first) if made[0][i].role == "user"), None)
    while at is not None and (excess := over(made)) > 0:
        said = made[0][at].content
        spare = len(_tokens(tokenizer, said)) - room // KEPT
        if spare <= 0 or (less := _without_front(tokenizer, said, min(excess, spare))) == said:
            break
        made = [_with(c, at, less) for c in made]
    return made, first


def _with(conversation: Conversation, at: int, content: str) -> Conversation:
    return (*conversation[:at], replace(conversation[at], content=content), *conversation[at + 1 :])


def _without_front(tokenizer: Any, text: str, tokens: int) -> str:
    """The text without its first tokens (at least one)."""
    try:
        places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    except NotImplementedError:  # tokenizers in Python: a character for a token, over and over
        places = [(i, i + 1) for i in range(len(text))]
    return text[max(1, places[tokens][0]) :] if tokens < len(places) else ""


# Prompts, and conversations with pictures


def render_prompt(
    processor: Any, messages: Conversation, store: ImageStore | None = None, answer_start: str = ""
) -> list[int]:
    """Token ids of a prompt up to where the answer begins, every picture as its processor's run of picture tokens.

    `answer_start` is text that the answer is made to begin with. Raises AssayError for pictures that the model cannot take,
    and for an `answer_start` that the chat template begins by itself; CannotRead where it is these, the mark of a picture in
    the text, or turns that its chat template refuses.
    """
    text = _text(processor, messages, asking=True)
    if answer_start.strip() and _begun(text).rstrip().endswith(answer_start.strip()):
        raise AssayError(
            f"this model's chat template begins every answer with {answer_start.strip()} itself: leave --answer-start out"
        )
    return _ids(processor, text + answer_start, [i for m in messages for i in m.images], store)


def begun(processor: Any, messages: Conversation) -> str:
    """What the chat template writes of the answer itself: "<think>\\n" for models that must think (QwQ, R1 distills), "" for
    most. Rules that read an answer's form must read it first."""
    return _begun(_text(processor, messages, asking=True))


def _begun(text: str) -> str:
    """Marks of thought at a prompt's end, opened and perhaps closed again."""
    found = re.search(r"<think>\s*(?:</think>\s*)?$", text)
    return found[0] if found else ""


def short_prompt(processor: Any, messages: Conversation, answer_start: str = "") -> list[int]:
    """Token ids of a prompt with one picture token for each picture, as engines take it that lay pictures out themselves."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return _tokens(tokenizer, _text(processor, messages, asking=True) + answer_start)


def _text(processor: Any, messages: Conversation, asking: bool) -> str:
    """The chat template's text, with a picture token for every picture."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if "image" in str(getattr(processor, "chat_template", None) or ""):
        parts = [[{"type": "image"}] * len(m.images) + [{"type": "text", "text": m.content}] for m in messages]
        return chat_text(processor, messages, asking, contents=parts)
    token = f"{getattr(processor, 'image_token', '')}\n"
    if tokenizer.chat_template:
        return chat_text(tokenizer, messages, asking, contents=[token * len(m.images) + m.content for m in messages])
    return "\n".join(token * len(m.images) + plain_turn(m) for m in messages) + "\n" * asking


def _ids(processor: Any, text: str, images: Sequence[str], store: ImageStore | None) -> list[int]:
    """Token ids of a text, every picture token as its processor's run of them."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if images and (processor is tokenizer or store is None):
        raise AssayError("the prompt has pictures: give a vision-language model, and the folder of pictures")
    if (mark := picture_mark(processor)) and text.count(mark) > len(images):
        raise CannotRead(f"the text contains {mark}, which stands for a picture")
    if not images:
        return _tokens(tokenizer, text)
    assert store is not None
    try:
        pictures = [store.open(i) for i in images]
    except AssayError as error:
        raise CannotRead(f"a picture is missing in {store.folder}, or damaged") from error
    try:
        made = processor(text=[encodable(text)], images=pictures, add_special_tokens=False)
    except ValueError as error:
        raise CannotRead(f"its pictures cannot be read: {first_line(error)}") from error
    return [int(t) for t in made["input_ids"][0]]


def picture_mark(processor: Any) -> str:
    """The text that stands for a picture; "" for a tokenizer."""
    return getattr(processor, "image_token", "") or "" if hasattr(processor, "image_processor") else ""


def _with_pictures(processor: Any, conversation: Conversation, max_tokens: int, store: ImageStore | None) -> Rendered:
    """A conversation with pictures is never cut: a run of picture tokens cannot be."""
    images = [i for m in conversation for i in m.images]
    ids = _ids(processor, _text(processor, conversation, asking=False), images, store)
    if len(ids) > max_tokens:
        raise CannotRead(f"longer than {max_tokens:,} tokens with its pictures, which cannot be cut")
    return Rendered(ids=ids)
