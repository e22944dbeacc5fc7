"""Which encoder finds look-alike pairs, and how much of a text it reads: the settings, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assay.curate.attributes import RetrieveBy
from assay.curate.offline import hash_embedder
from assay.errors import AssayError
from assay.records import Embedder


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderConfig:
    """The encoder of conversations, and what of them it is given."""

    embedder: str = "minilm"
    """Finds look-alike pairs and the nearest gold examples: a packaged encoder, a folder, a hub id, or `hash`, which needs
    no model."""
    embedder_tokens: int = 0
    """Of a text that the encoder reads; the last user turn stands first (0: what it was made for, at most 512)."""
    embedder_prompt: str = ""
    """The name of one of the encoder's own prompts, or text to put before each."""
    embedder_remote_code: bool = False
    """Run code that comes with the encoder; it has your rights."""
    embedder_layers: int | None = None
    """Compute so many of its layers (0: the words' vectors alone, at next to no cost; None: all)."""
    retrieve_by: Literal["auto", "conversation", "attributes"] = "auto"
    """What look-alikes are alike in: the conversation alone, or with it the attributes (auto: these where an LLM gives them,
    as in paper A; what rules say of a conversation is in it already)."""

    def __post_init__(self) -> None:
        if self.embedder_tokens < 0:
            raise AssayError(f"embedder_tokens must not be negative, got {self.embedder_tokens}")
        if self.embedder_layers is not None and self.embedder_layers < 0:
            raise AssayError(f"embedder_layers must not be negative, got {self.embedder_layers}")

    def by(self, described: bool) -> RetrieveBy:
        """What look-alikes are alike in; `described`: attributes are given, not made by rules."""
        if self.retrieve_by == "auto":
            return "attributes" if described else "conversation"
        return self.retrieve_by


def load_embedder(config: EmbedderConfig) -> Embedder:
    """The encoder that is asked for, on this machine's device."""
    if config.embedder == "hash":
        return hash_embedder()
    from assay import embedding

    return embedding.load_embedder(
        config.embedder, config.embedder_tokens, config.embedder_prompt, config.embedder_remote_code,
        layers=config.embedder_layers,
    )  # fmt: skip


class Encoder:
    """The encoder that is asked for, loaded in each process that first needs it: what workers are given."""

    def __init__(self, config: EmbedderConfig) -> None:
        names = ("embedder", "embedder_tokens", "embedder_prompt", "embedder_remote_code", "embedder_layers")
        self.config = EmbedderConfig(**{name: getattr(config, name) for name in names})

    @property
    def holds_model(self) -> bool:
        return self.config.embedder != "hash"

    @property
    def identity(self) -> str:
        """What it is, by content where it lies here."""
        if self.config.embedder == "hash":
            return "hash"
        from assay.models import whose

        return whose(self.config.embedder)

    @property
    def reading(self) -> str:
        """What it is and how it reads, for the names of what it makes."""
        layers = "" if self.config.embedder_layers is None else f" {self.config.embedder_layers} layers"
        return f"{self.identity} {self.config.embedder_tokens} {self.config.embedder_prompt}{layers}"

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return _loaded(self.config)(texts)


_loaded = cache(load_embedder)


def forget() -> None:
    """Let go of the encoder that this process holds, so that a training has its memory; it is loaded anew when asked."""
    _loaded.cache_clear()


REMEMBERED = 1 << 26
"""Bytes of texts and their vectors that are kept in memory."""
_OBJECTS = 400
"""Bytes that Python takes for a text and its vector, beside what is in them."""


def remember(embed: Embedder) -> Embedder:
    """The same embedder, which keeps the vectors of the texts that it met last.

    Each text is embedded alone: in a batch, its last digits would depend on the others, and these on where a run was stopped
    before. On a CPU that costs nothing, for there is no padding.
    """
    known: dict[str, NDArray[np.float32]] = {}
    held = 0

    def remembered(texts: Sequence[str]) -> NDArray[np.float32]:
        nonlocal held
        if held > REMEMBERED:
            known.clear()
            held = 0
        for text in dict.fromkeys(texts):
            if text not in known:
                (known[text],) = embed([text])
                held += known[text].nbytes + len(text) + _OBJECTS
        return np.stack([known[t] for t in texts])

    return remembered
