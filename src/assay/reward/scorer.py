"""A reward model as a plain function: conversations in, rewards out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay import models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.pack import share
from assay.records import Conversation, Scorer
from assay.render import render
from assay.reward.config import EngineConfig
from assay.reward.model import RewardModel
from assay.reward.visual import load_visual
from assay.vision import Pictures


def load_scorer(
    folder: str | Path, max_tokens: int = 2048, tokens_per_batch: int = 8192, precision: str = "fp32",
    images: Path | None = None,
) -> Scorer:  # fmt: skip
    """A `Scorer` from a saved reward model: our own checkpoint, or any `AutoModelForSequenceClassification`.

    `images` is the folder of pictures that conversations name, for a reward model with pictures.
    """
    if images is not None:
        seeing, processor = load_visual(str(folder))
        store = ImageStore(images)
        return scorer(seeing.to(models.device()).eval(), processor, max_tokens, tokens_per_batch, precision, store)
    tokenizer = models.load_tokenizer(str(folder))
    backbone = models.Backbone(name=str(folder), attention=models.attention_for(max_tokens))
    model = models.load_reward_model(backbone, tokenizer).to(models.device()).eval()
    return scorer(model, tokenizer, max_tokens, tokens_per_batch, precision)


def scorer(
    model: Any, tokenizer: Any, max_tokens: int, tokens_per_batch: int = 8192, precision: str = "fp32",
    store: ImageStore | None = None,
) -> Scorer:  # fmt: skip
    """The `Scorer` of a loaded model: answers to one prompt share it where the backbone can be packed."""
    limit = min(max_tokens, position_limit(model))
    pad_id = getattr(tokenizer, "tokenizer", tokenizer).pad_token_id
    pictures = Pictures(tokenizer.image_processor, store) if store is not None else None
    reward_model = RewardModel(model, pad_id, EngineConfig(tokens=tokens_per_batch), precision, pictures)
    if pictures is not None and not reward_model.packed:
        raise AssayError(f"a reward model with pictures must be packed, but {reward_model.reason}")
    where = models.device()

    def score(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        rendered = render(tokenizer, conversations, limit, store)
        together = _together(conversations) if reward_model.packed else [[i] for i in range(len(conversations))]
        groups = []
        for rows in together:
            types = [rendered[i].second for i in rows if rendered[i].second]
            images = [i for m in conversations[rows[0]][:-1] for i in m.images]
            groups.append(share([rendered[i].ids for i in rows], types, images))
        rewards = np.zeros(len(rendered))
        for part in reward_model.bins(groups):
            batch = reward_model.batch([groups[i] for i in part]).to(where)
            with torch.inference_mode(), torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
                rewards[[i for g in part for i in together[g]]] = reward_model(batch).double().cpu().numpy()
        return rewards

    return score


def _together(conversations: Sequence[Conversation]) -> list[list[int]]:
    """Indices of the conversations that answer the same prompt."""
    groups: dict[Conversation, list[int]] = {}
    for index, conversation in enumerate(conversations):
        groups.setdefault(conversation[:-1], []).append(index)
    return list(groups.values())


def position_limit(model: Any) -> int:
    """The longest input in tokens that the backbone has positions for."""
    return int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
