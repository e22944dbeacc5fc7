"""The folder of a policy's training, and what its result depends on: see `assay.identity`."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.identity import Training, settings
from assay.policy.model import Policy
from assay.records import digest
from assay.tables import plain

FREE = ("save_every", "save_minutes", "attention", "tokens", "checkpointing", "compile", "shard")
"""Settings that cost memory or time and change rounding at most: they may differ when a training goes on."""


class Folder(Training):
    """Where one training is kept, by what was asked for: settings, the policy's weights at the start and how it reads text,
    examples in order.

    Args:
        others: What else decides the result (sampler, reward, ...): its `config`, `answer_start`, and what it is made `of`
            (a reward model and its term, questions), where it has them.

    Raises AssayError where `path` has no name, or is the model's own folder.
    """

    def __init__(self, path: Path, config: Any, policy: Policy, examples: Sequence[Any], **others: Any) -> None:
        super().__init__(path, {
            "config": _settings(config), "policy": _settings(policy.config), "model": _weights(policy),
            "tokenizer": _reading(policy),
            "examples": {"n": len(examples), "digest": digest([digest(_plain(e)) for e in examples])},
            **{n: {**_settings(getattr(x, "config", None)), "answer_start": getattr(x, "answer_start", ""),
                   "of": getattr(x, "of", "")} for n, x in others.items()},
        }, "training of a policy")  # fmt: skip
        model = str(getattr(policy.inner.config, "_name_or_path", ""))
        self.settings = {**self.identity, "start": model}
        """For people and trackers, with where the policy came from, whatever lies there now."""
        if path.is_dir() and Path(model).resolve() == path.resolve():
            raise AssayError(f"{path} is the model that is to be tuned; write the tuned one to another folder")

    def save(self, write: Callable[[Path], None], result: dict[str, Any]) -> None:
        """Make the finished folder in one move, of what `write` puts into it. Killed before it, all is kept."""
        model = self.partial / "model"
        shutil.rmtree(model, ignore_errors=True)
        write(model)
        self.finish(model, result)


def _plain(example: Any) -> Any:
    """An example as JSON has it; arrays as lists."""
    return {n: x.tolist() if isinstance(x, np.ndarray) else x for n, x in plain(example).items()}


def _settings(config: Any) -> dict[str, Any]:
    return settings(config, FREE) if is_dataclass(config) else {}


def _reading(policy: Policy) -> str:
    """A digest of the tokenizer and of the chat template: how a text becomes what the model reads."""
    backend = getattr(policy.tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else sorted(policy.tokenizer.get_vocab().items())
    return digest([words, str(policy.processor.chat_template)])


def _weights(policy: Policy) -> str:
    """A digest of evenly spaced values of every parameter, of frozen ones as bfloat16 has them: so they are kept where the
    policy computes in it. LoRA's, which each loading draws anew, are left out."""
    found = hashlib.blake2b(digest_size=16)
    for name, parameter in policy.named_parameters():
        if "lora_" not in name:
            flat = parameter.detach().flatten()
            some = flat[:: max(1, len(flat) // 4_096)]
            some = some if parameter.requires_grad else some.bfloat16()
            found.update(some.float().cpu().numpy().tobytes())
    return found.hexdigest()
