"""What an answer says beside its thoughts, wherever the server puts them: in `reasoning_content`, in tags, in channels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from assay.llm.completion import CUT_REASONS, TEXT_PARTS
from assay.llm.parsing import after_thoughts

_CLOSED = re.compile(r"</(?:think|thinking|thought|thoughts|reasoning|seed:think)>|\[/THINK\]|◁/think▷", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """`answer`: what stands after the thoughts, "" where they do not end. `cut`: the limit of tokens ended it. `open`: it
    ended inside a thought."""

    answer: str = ""
    thoughts: str = ""
    cut: bool = False
    open: bool = False
    closes: bool = False
    """A thought ends in it that never began: the server's template opens thoughts, so an answer without an end of them is
    all thought (`all_thought`)."""
    aside: bool = False
    """All of it came in the server's field for thoughts."""
    thinks: bool = False
    """There are thoughts in it."""

    @property
    def finished(self) -> bool:
        return not (self.cut or self.open)

    @property
    def bare(self) -> Said:
        """The same without its texts: what all answers of a benchmark can be kept as."""
        return replace(self, answer="", thoughts="")


def said(completion: dict[str, Any]) -> Said:
    """Of a chat completion or a text completion. A box inside a thought is in no answer."""
    choice = completion["choices"][0]
    message = choice.get("message")
    text, apart = _parted(message.get("content") if isinstance(message, dict) else choice.get("text"))
    beside = _text(message.get("reasoning_content") or message.get("reasoning")) if isinstance(message, dict) else ""
    beside += apart
    cut = str(choice.get("finish_reason") or "").lower() in CUT_REASONS
    answer = after_thoughts(text)
    inside = text[: -len(answer)] if answer and text.endswith(answer) else "" if answer == text else text
    silent = bool(beside) and not text.strip() and not (isinstance(message, dict) and message.get("tool_calls"))
    return Said(
        answer=answer or "", thoughts=beside + inside, thinks=bool(beside + inside), cut=cut,
        open=answer is None or silent, aside=silent,
        closes=bool(_CLOSED.search(inside)) and not inside.lstrip().startswith(("<", "[", "◁")),
    )  # fmt: skip


def template_opens(told: Sequence[Said]) -> bool:
    """Whether the prompt opens the thoughts of a model: most of its answers that ended by themselves (where none did, some
    answer) close a thought that they did not open. One stray mark among many answers says nothing of the others."""
    ended = [one.closes for one in told if one.finished]
    return 2 * sum(ended) > len(ended) if ended else any(one.closes for one in told)


def all_thought(one: Said, template_opens: bool) -> bool:
    """Whether an answer never came to its end of thinking. `template_opens`: the prompt opens them all, so that an answer
    without an end is one thought."""
    return one.open or (template_opens and not one.thinks)


def _parted(content: object) -> tuple[str, str]:
    """(text, thoughts) of a message, whole or in parts; of the kinds of parts those of text are the answer (Mistral's
    "thinking", others' "reasoning" are not)."""
    if not isinstance(content, list):
        return _text(content), ""
    kinds = [str(p.get("type") or "") if isinstance(p, dict) else "" for p in content]
    answer = [_text(p) for p, kind in zip(content, kinds, strict=True) if kind in TEXT_PARTS]
    thoughts = [_text(p) for p, kind in zip(content, kinds, strict=True) if kind not in TEXT_PARTS]
    return "".join(answer), "".join(thoughts)


def _text(content: object) -> str:
    """The text of a message or of a part of one. (A lone surrogate is valid JSON, but no text that can be kept.)"""
    if isinstance(content, list):
        return "".join(map(_text, content))
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("thinking") or content.get("reasoning"))
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""
