"""Conversations to token ids: the one place where a chat template is applied, in training and in scoring alike.

Paper A (README of the released models): no system prompt is added, and a duplicated BOS is stripped. Here the template's
own text is tokenised without further special tokens, so no second BOS can appear. Encoders without a chat template read
[CLS] history [SEP] response [SEP], with segment ids where they know them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assay.records import Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Token ids of one conversation; `second` is where an encoder's second token type begins (0: there is but one),
    `cut` tokens were left out."""

    ids: list[int]
    second: int = 0
    cut: int = 0


def render(tokenizer: Any, conversations: Sequence[Conversation], max_tokens: int) -> list[Rendered]:
    """Token ids of whole conversations (prompt and response), at most `max_tokens` each.

    Over-long conversations lose tokens from the *front* of the history, never the end of the response, where the reward
    is read; an encoder's over-long response loses its tail. How many were cut is told, never hidden.
    """
    if not conversations:
        return []
    if tokenizer.chat_template:
        return [_from_template(tokenizer, c, max_tokens) for c in conversations]
    prompts = tokenizer([_history(c[:-1]) for c in conversations], add_special_tokens=False)["input_ids"]
    answers = tokenizer([c[-1].content for c in conversations], add_special_tokens=False)["input_ids"]
    return [_as_segments(tokenizer, p, a, max_tokens) for p, a in zip(prompts, answers, strict=True)]


def _from_template(tokenizer: Any, conversation: Conversation, max_tokens: int) -> Rendered:
    chat = [{"role": m.role, "content": m.content} for m in conversation]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    cut = max(0, len(ids) - max_tokens)
    return Rendered(ids=ids[cut:], cut=cut)


def _history(messages: Conversation) -> str:
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
