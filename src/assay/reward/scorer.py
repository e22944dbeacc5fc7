"""A reward model as a plain function: conversations in, rewards out."""

import importlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay import models, weights
from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.pack import share
from assay.records import Conversation, Scorer
from assay.render import Rendered, attempts, check, render, same_prompt
from assay.reward.config import EngineConfig
from assay.reward.model import RewardModel
from assay.reward.visual import load_visual
from assay.vision import Pictures


def load_scorer(
    folder: str | Path, max_tokens: int = 2048, tokens_per_batch: int = 8192, precision: str = "fp32",
    images: Path | None = None,
) -> Scorer:  # fmt: skip
    """A `Scorer` of whatever gives rewards: a saved reward model (our own checkpoint, or any
    `AutoModelForSequenceClassification` with one output), the URL of a reward server, or MODULE:FUNCTION, a function of a
    list of conversations that returns one reward each (so any other head: a few lines around its model).

    `images` is the folder of pictures that conversations name, for a reward model with pictures. Raises AssayError for a
    checkpoint that is not whole, or has no head of one output.
    """
    name = str(folder)
    if name.startswith(("http://", "https://")):
        from assay.reward.remote import RemoteConfig, RemoteScorer

        return RemoteScorer(RemoteConfig(url=name))
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) and not Path(name).exists():
        return _function(name)
    if images is not None:
        seeing, processor = load_visual(name, trained=True)
        store = ImageStore(images)
        return scorer(seeing.to(models.device()).eval(), processor, max_tokens, tokens_per_batch, precision, store)
    tokenizer = models.load_tokenizer(name)
    backbone = models.Backbone(name=name, attention=models.attention_for(max_tokens))
    model = models.load_reward_model(backbone, tokenizer, trained=True).to(models.device()).eval()
    return scorer(model, tokenizer, max_tokens, tokens_per_batch, precision)


def _function(name: str) -> Scorer:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise AssayError(
            f"{name}: {error}; a function is named MODULE:FUNCTION, and its module must be importable from here"
        ) from error
    if not callable(found):
        raise AssayError(f"{name} is no function, but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


class LocalScorer:
    """The `Scorer` of a loaded model: answers to one prompt share it where the backbone can be packed.

    `attempts` and `rewards` are its two halves: a server renders in one place to know lengths, and scores in another.
    """

    may_fail = True
    """A conversation that the model cannot read has no reward."""

    def __init__(
        self, model: Any, tokenizer: Any, max_tokens: int, tokens_per_batch: int = 8192, precision: str = "fp32",
        store: ImageStore | None = None,
    ) -> None:  # fmt: skip
        check(tokenizer)
        self.tokenizer, self.store = tokenizer, store
        self.problems, self.refused = Counter[str](), dict[Conversation, str]()
        self.max_tokens = min(max_tokens, position_limit(model))
        pictures = Pictures(tokenizer, store) if store is not None else None
        self.model = RewardModel(
            model, weights.padding(model), EngineConfig(tokens=tokens_per_batch), precision, pictures
        )
        if pictures is not None and not self.model.packed:
            raise AssayError(f"a reward model with pictures must be packed, but {self.model.reason}")
        self.where = models.device()

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        """One reward each; NaN for a conversation that the model cannot read, with the reason in `refused` and a count of it
        in `problems`. Raises AssayError where the model itself gives no number: a NaN is never its reward."""
        tried = self.attempts(conversations)
        read = {i: one for i, one in enumerate(tried) if isinstance(one, Rendered)}
        for conversation, one in zip(conversations, tried, strict=True):
            if isinstance(one, CannotRead):
                self.problems[str(one)] += 1
                self.refused[conversation] = str(one)
        rewards = self.rewards([conversations[i] for i in read], list(read.values()))
        if len(bad := np.flatnonzero(~np.isfinite(rewards))):
            raise AssayError(
                f"{len(bad):,} of {len(rewards):,} rewards are no numbers (the first is {rewards[bad[0]]}); "
                "check the reward model's weights and precision"
            )
        found = np.full(len(conversations), np.nan)
        found[list(read)] = rewards
        return found

    def attempts(self, conversations: Sequence[Conversation], most: int | None = None) -> list[Rendered | CannotRead]:
        """Token ids, at most `max_tokens` of each conversation (and at most `most`), or why it cannot be read."""
        return attempts(self.tokenizer, conversations, min(most or self.max_tokens, self.max_tokens), self.store)

    def render(self, conversations: Sequence[Conversation]) -> list[Rendered]:
        """Token ids, at most `max_tokens` of each conversation. Raises CannotRead."""
        return render(self.tokenizer, conversations, self.max_tokens, self.store)

    def rewards(self, conversations: Sequence[Conversation], rendered: Sequence[Rendered]) -> NDArray[np.float64]:
        """(n,) rewards of n rendered conversations."""
        together = same_prompt(conversations) if self.model.packed else [[i] for i in range(len(conversations))]
        groups = []
        for rows in together:
            types = [rendered[i].second for i in rows if rendered[i].second]
            images = [i for m in conversations[rows[0]][:-1] for i in m.images]
            groups.append(share([rendered[i].ids for i in rows], types, images))
        most = self.model.engine.tokens
        large = [self.model.packed and len(g.answers) > 1 and g.tokens > most for g in groups]
        small = [i for i, above in enumerate(large) if not above]
        rewards = np.zeros(len(rendered))
        with torch.inference_mode(), torch.autocast(self.where.type, torch.bfloat16, enabled=self.model.bf16):
            for part in self.model.bins([groups[i] for i in small]):
                own = [small[i] for i in part]
                found = self.model(self.model.batch([groups[i] for i in own]).to(self.where))
                rewards[[i for g in own for i in together[g]]] = found.double().cpu().numpy()
            for number in np.flatnonzero(large).tolist():
                for part, found in self.model.passes(groups[number]):
                    rewards[[together[number][i] for i in part]] = found.double().cpu().numpy()
        return rewards


def scorer(
    model: Any, tokenizer: Any, max_tokens: int, tokens_per_batch: int = 8192, precision: str = "fp32",
    store: ImageStore | None = None,
) -> LocalScorer:  # fmt: skip
    """The `Scorer` of a loaded model."""
    return LocalScorer(model, tokenizer, max_tokens, tokens_per_batch, precision, store)


def position_limit(model: Any) -> int:
    """The longest input in tokens that the backbone has positions for (RoBERTa's begin after its padding's)."""
    tables = (m for n, m in model.named_modules() if n.endswith("position_embeddings"))
    before = next((m.padding_idx + 1 for m in tables if getattr(m, "padding_idx", None) is not None), 0)
    most = getattr(model.config, "max_position_embeddings", None) or 0
    return int(most) - before if most > 0 else 1 << 30
