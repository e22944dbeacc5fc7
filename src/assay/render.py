"""Conversations to token ids: the one place where a chat template is applied, in training and in scoring alike.

Paper A (README of the released models): no system prompt is added, and a duplicated BOS is stripped. Here the template's
own text is tokenised without further special tokens, so no second BOS can appear. Encoders without a chat template read
[CLS] history [SEP] response [SEP], with segment ids where they know them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.records import Conversation, tools_of


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
    """Token ids of whole conversations (prompt and response), at most `max_tokens` each.

    Over-long conversations lose tokens from the *front* of the history, never the end of the response, where the reward
    is read; an encoder's over-long response loses its tail. How many were cut is told, never hidden.
    """
    if not conversations:
        return []
    if hasattr(tokenizer, "image_processor"):
        return [_with_pictures(tokenizer, c, max_tokens, store) for c in conversations]
    if tokenizer.chat_template:
        return [_from_template(tokenizer, c, max_tokens) for c in conversations]
    prompts = tokenizer([history(c[:-1]) for c in conversations], add_special_tokens=False)["input_ids"]
    answers = tokenizer([c[-1].content for c in conversations], add_special_tokens=False)["input_ids"]
    return [_as_segments(tokenizer, p, a, max_tokens) for p, a in zip(prompts, answers, strict=True)]


def render_prompt(
    processor: Any, messages: Conversation, store: ImageStore | None = None, answer_start: str = ""
) -> list[int]:
    """Token ids of a prompt up to where the answer begins, every picture as its processor's run of picture tokens.

    `answer_start` is text that the answer is made to begin with. Raises AssayError for pictures that the model cannot take;
    CannotRead where it is these, or the mark of a picture in the text.
    """
    text = _text(processor, messages, asking=True) + answer_start
    return _ids(processor, text, [i for m in messages for i in m.images], store)


def _text(processor: Any, messages: Conversation, asking: bool) -> str:
    """The chat template's text, with a picture token for every picture."""
    tokenizer = getattr(processor, "tokenizer", processor)
    template = getattr(processor, "chat_template", None) or ""
    chat: list[dict[str, Any]]
    if "image" in template:
        parts = ([{"type": "image"}] * len(m.images) + [{"type": "text", "text": m.content}] for m in messages)
        chat = [m.chat(c) for m, c in zip(messages, parts, strict=True)]
        return str(processor.apply_chat_template(chat, tools=tools_of(messages), tokenize=False, add_generation_prompt=asking))
    token = f"{getattr(processor, 'image_token', '')}\n"
    chat = [m.chat(token * len(m.images) + m.content) for m in messages]
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(chat, tools=tools_of(messages), tokenize=False, add_generation_prompt=asking))
    return "\n".join(c["content"] for c in chat) + "\n" * asking


def _ids(processor: Any, text: str, images: Sequence[str], store: ImageStore | None) -> list[int]:
    """Token ids of a text, every picture token as its processor's run of them."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if images and (processor is tokenizer or store is None):
        raise AssayError("the prompt has pictures: give a vision-language model, and the folder of pictures")
    if (mark := picture_mark(processor)) and text.count(mark) > len(images):
        raise CannotRead(f"the text contains {mark}, which stands for a picture")
    if not images:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert store is not None
    try:
        pictures = [store.open(i) for i in images]
    except AssayError as error:
        raise CannotRead(f"a picture is missing in {store.folder}, or damaged") from error
    try:
        made = processor(text=[text], images=pictures, add_special_tokens=False)
    except ValueError as error:
        raise CannotRead(f"its pictures cannot be read: {str(error).splitlines()[0]}") from error
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


def _from_template(tokenizer: Any, conversation: Conversation, max_tokens: int) -> Rendered:
    chat = [m.chat() for m in conversation]
    text = tokenizer.apply_chat_template(chat, tools=tools_of(conversation), tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    cut = max(0, len(ids) - max_tokens)
    return Rendered(ids=ids[cut:], cut=cut)


def history(messages: Conversation) -> str:
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{m.role}: {m.content}" for m in messages)


def _as_segments(tokenizer: Any, prompt: list[int], answer: list[int], max_tokens: int) -> Rendered:
    room = max_tokens - 3
    cut_prompt = min(len(prompt), max(0, len(prompt) + len(answer) - room))
    cut_answer = max(0, len(prompt) - cut_prompt + len(answer) - room)
    prompt, answer = prompt[cut_prompt:], answer[: len(answer) - cut_answer]
    head = [tokenizer.cls_token_id, *prompt, tokenizer.sep_token_id]
    tail = [*answer, tokenizer.sep_token_id]
    return Rendered(ids=head + tail, second=len(head), cut=cut_prompt + cut_answer)
