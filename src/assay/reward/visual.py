"""A reward model that sees: a vision-language model with a scalar head in place of the language-model head.

Skywork-VL Reward (the reward model of paper B): a fully connected layer on the last hidden state after the last answer
token, Bradley-Terry loss, the vision tower frozen, all else trained. Saved as the model without a language-model head, which
`transformers.AutoModel` loads, and `score.safetensors`; transformers has no class with both.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from assay import models, vision, weights
from assay.errors import AssayError

HEAD = "score.safetensors"


class VisualReward(torch.nn.Module):
    """Looks to its callers as a sequence classifier of transformers does: `model`, `score`, `config`, `save_pretrained`."""

    base_model_prefix = "model"
    _supports_attention_backend = True

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self._no_split_modules = list(getattr(model, "_no_split_modules", None) or [])
        width = vision.language_model(self).config.hidden_size
        self.score = torch.nn.Linear(width, 1, bias=False)
        torch.nn.init.normal_(self.score.weight, std=0.02)
        for parameter in vision.tower_weights(self):
            parameter.requires_grad_(False)

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """There are none: rewards are read from `score`."""

    def train(self, mode: bool = True) -> "VisualReward":
        super().train(mode)
        vision.vision_tower(self).eval()
        return self

    def gradient_checkpointing_enable(self, options: dict[str, Any]) -> None:
        self.model.gradient_checkpointing_enable(options)

    def save_pretrained(self, folder: Path, state_dict: dict[str, Any]) -> None:
        """Write weights, config and head."""
        body = {n.removeprefix("model."): x for n, x in state_dict.items() if n.startswith("model.")}
        text = vision.language_model(self).config
        before, text._attn_implementation = text._attn_implementation, "sdpa"
        try:
            self.model.save_pretrained(folder, state_dict=body)
        finally:
            text._attn_implementation = before
        save_file({"weight": state_dict["score.weight"].contiguous()}, Path(folder) / HEAD)


def is_visual(name: str) -> bool:
    """Is this the name of a model that takes pictures?"""
    return name not in models.PACKAGED and getattr(models.load_config(name), "vision_config", None) is not None


def load_visual(name: str, trained: bool = False) -> tuple[VisualReward, Any]:
    """The reward model on a vision-language model (or a saved reward model), and its processor. A head that the folder lacks
    is drawn from torch's random state. Raises AssayError for one that is to be `trained` already and has no head, and for
    weights that do not fit."""
    body = models.load_model(transformers.AutoModel, name, "body", dtype=torch.float32)
    made = VisualReward(models.without_dropout(body))
    head = Path(name) / HEAD
    if head.exists():
        try:
            made.score.load_state_dict(load_file(head))
        except RuntimeError as error:
            raise AssayError(
                f"{head} is no head of one output over this model: {str(error).splitlines()[-1]}"
            ) from error
    elif trained:
        raise AssayError(
            f"'{name}' has no reward head ({HEAD}): its rewards would be random; train one on it with `assay reward train "
            f"--images DIR`; {weights.OTHER_WAY}"
        )
    return made, models.load_processor(name)
