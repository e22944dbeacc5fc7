"""A reward model as a plain function: conversations in, rewards out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay import models
from assay.records import Conversation, Scorer
from assay.render import Rendered, render


def load_scorer(
    folder: str | Path, max_tokens: int = 2048, tokens_per_batch: int = 8192, precision: str = "fp32"
) -> Scorer:
    """A `Scorer` from a saved reward model: our own checkpoint, or any `AutoModelForSequenceClassification`."""
    tokenizer = models.load_tokenizer(str(folder))
    backbone = models.Backbone(name=str(folder), attention=models.attention_for(max_tokens))
    model = models.load_reward_model(backbone, tokenizer).to(models.device()).eval()
    return scorer(model, tokenizer, max_tokens, tokens_per_batch, precision)


def scorer(
    model: Any, tokenizer: Any, max_tokens: int, tokens_per_batch: int = 8192, precision: str = "fp32"
) -> Scorer:
    """The `Scorer` of a loaded model. Batches hold sequences of similar length, so little is spent on padding."""
    limit = min(max_tokens, position_limit(model))

    def score(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        rendered = render(tokenizer, conversations, limit)
        order = sorted(range(len(rendered)), key=lambda i: len(rendered[i].ids))
        rewards = np.zeros(len(rendered))
        for part in token_batches([len(rendered[i].ids) for i in order], tokens_per_batch):
            rows = [order[i] for i in part]
            with torch.inference_mode():
                batch = [rendered[i] for i in rows]
                rewards[rows] = forward(model, batch, tokenizer.pad_token_id, precision).double().cpu().numpy()
        return rewards

    return score


def position_limit(model: Any) -> int:
    """The longest input in tokens that the backbone has positions for."""
    return int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)


def token_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Split indices (in the given order) so that rows times longest stays within `tokens`; never an empty batch."""
    batches: list[list[int]] = []
    current: list[int] = []
    longest = 0
    for index, length in enumerate(lengths):
        if current and max(longest, length) * (len(current) + 1) > tokens:
            batches.append(current)
            current, longest = [], 0
        current.append(index)
        longest = max(longest, length)
    return [*batches, current] if current else batches


def forward(model: Any, batch: Sequence[Rendered], pad_id: int, precision: str = "fp32") -> torch.Tensor:
    """Rewards, shape (B,), of a right-padded batch; autocast to bfloat16 when `precision` is "bf16"."""
    where = next(model.parameters()).device
    width = max(len(r.ids) for r in batch)
    ids_BT = torch.full((len(batch), width), pad_id)
    mask_BT = torch.zeros((len(batch), width), dtype=torch.long)
    segments_BT = torch.zeros((len(batch), width), dtype=torch.long)
    for row, r in enumerate(batch):
        ids_BT[row, : len(r.ids)] = torch.tensor(r.ids)
        mask_BT[row, : len(r.ids)] = 1
        segments_BT[row, : len(r.ids)] = torch.tensor(r.segments)
    inputs = {"input_ids": ids_BT.to(where), "attention_mask": mask_BT.to(where)}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = segments_BT.to(where)
    with torch.autocast(where.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return model(**inputs).logits.squeeze(-1).float()  # type: ignore[no-any-return]
