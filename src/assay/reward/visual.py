"""A reward model that sees: a vision-language model with a scalar head in place of the language-model head.

Skywork-VL Reward (the reward model of paper B): a fully connected layer on the last hidden state after the last answer
token, Bradley-Terry loss, the vision tower frozen, all else trained (Qwen's mergers too: they are its adapter). Saved as the
model without a language-model head, which `transformers.AutoModel` loads, and `score.safetensors`; transformers has no class
with both.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from assay import models, vision, weights
from assay.errors import AssayError

HEAD = "score.safetensors"
OTHER_HEAD = "value_head.safetensors"
"""Where TRL's value heads lie as LLaMA-Factory saves them, beside the whole model: the layout of Skywork-VL Reward."""
NAMES = {"weight": "v_head.summary.weight", "bias": "v_head.summary.bias"}


class VisualReward(torch.nn.Module):
    """Looks to its callers as a sequence classifier of transformers does: `model`, `score`, `config`, `save_pretrained`."""

    base_model_prefix = "model"
    _supports_attention_backend = True

    def __init__(self, model: Any, bias: bool = False) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self._no_split_modules = list(getattr(model, "_no_split_modules", None) or [])
        width = vision.language_model(self).config.hidden_size
        self.score = torch.nn.Linear(width, 1, bias=bias)
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
        head = {n.removeprefix("score."): x.contiguous() for n, x in state_dict.items() if n.startswith("score.")}
        save_file(head, Path(folder) / HEAD)


def is_visual(name: str) -> bool:
    """Is this the name of a model that takes pictures?"""
    return name not in models.PACKAGED and getattr(models.load_config(name), "vision_config", None) is not None


def load_visual(name: str, trained: bool = False) -> tuple[VisualReward, Any]:
    """The reward model on a vision-language model (or a saved reward model, ours or one with a value head of TRL's), and its
    processor. A head that the folder lacks is drawn from torch's random state. Raises AssayError for one that is to be
    `trained` already and has no head, and for weights that do not fit."""
    body = models.load_model(transformers.AutoModel, name, "body", dtype=torch.float32)
    found = next(((f, place) for f in (HEAD, OTHER_HEAD) if (place := _beside(name, f))), None)
    state: dict[str, torch.Tensor] = {}
    if found is not None:
        state = load_file(found[1])
        if found[0] == OTHER_HEAD:
            state = {own: state[theirs].float() for own, theirs in NAMES.items() if theirs in state}
    made = VisualReward(models.without_dropout(body), bias="bias" in state)
    if found is not None:
        try:
            made.score.load_state_dict(state)
        except RuntimeError as error:
            raise AssayError(
                f"{found[1]} is no head of one output over this model: {str(error).splitlines()[-1]}"
            ) from error
    elif trained:
        raise AssayError(
            f"'{name}' has no reward head ({HEAD} or {OTHER_HEAD}): its rewards would be random; train one on it with "
            f"`assay reward train --images DIR`; {weights.OTHER_WAY}"
        )
    return made, models.load_processor(name)


def _beside(name: str, file: str) -> str | None:
    """A file of a folder or a hub id, or None where it has none."""
    if Path(name).is_dir():
        return str(Path(name) / file) if (Path(name) / file).exists() else None
    place: str | None = transformers.utils.cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return place
