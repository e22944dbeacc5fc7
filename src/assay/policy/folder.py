"""The folder of a policy's training: what was asked for is kept with it, and nothing else is ever replaced.

    folder/training.json            how it went and what was asked for, written last
    folder.partial/identity.json    what was asked for; a call that asks for anything else does not resume it

A path that holds anything else is refused, at the start.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.policy.model import Policy
from assay.records import digest
from assay.run import changes, jsonable
from assay.tables import check_vacant, plain, sibling, write_text

FREE = ("save_every", "attention", "tokens", "checkpointing", "compile", "shard")
"""Settings that cost memory or time and change rounding at most: they may differ when a training goes on."""


class Folder:
    """Where one training is kept, by what was asked for: settings, the policy's weights at the start, examples in order.

    Args:
        others: What else decides the result (sampler, reward, ...): its `config`, `answer_start`, and what it is made `of`
            (a reward model and its term, questions), where it has them.

    Raises AssayError where `path` has no name, or is the model's own folder.
    """

    def __init__(self, path: Path, config: Any, policy: Policy, examples: Sequence[Any], **others: Any) -> None:
        self.path, self.partial = path, sibling(path, ".partial")
        model = Path(getattr(policy.inner.config, "_name_or_path", ""))
        if path.is_dir() and model.resolve() == path.resolve():
            raise AssayError(f"{path} is the model that is to be tuned; write the tuned one to another folder")
        asked = {
            "config": _settings(config), "policy": _settings(policy.config), "model": _weights(policy),
            "examples": {"n": len(examples), "digest": digest([digest(plain(e)) for e in examples])},
            **{n: {**_settings(getattr(x, "config", None)), "answer_start": getattr(x, "answer_start", ""),
                   "of": getattr(x, "of", "")} for n, x in others.items()},
        }  # fmt: skip
        self.identity = json.loads(json.dumps(asked))

    def finished(self) -> dict[str, Any] | None:
        """What the finished training came to; None where it has yet to begin, or to go on.

        Raises AssayError where the folder or the unfinished one beside it holds anything else, which would be replaced.
        """
        found = self._kept(self.path / "training.json")
        if found is None:
            self._kept(self.partial / "identity.json")
        return found

    def _kept(self, file: Path) -> dict[str, Any] | None:
        place = file.parent
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return None
        kept = json.loads(file.read_text()) if file.exists() else {}
        if "identity" not in kept:
            check_vacant(place, "training of a policy")
        if (before := kept.pop("identity")) != self.identity:
            raise AssayError(
                f"{place} holds a training with other inputs ({', '.join(changes(before, self.identity))}); "
                "choose another folder, remove that one, or give the same inputs to resume"
            )
        return dict(kept)

    def begin(self) -> None:
        """Keep what was asked for, before anything else is written."""
        write_text(self.partial / "identity.json", json.dumps({"identity": self.identity}, indent=2))

    def finish(self, save: Callable[[Path], None], result: dict[str, Any]) -> None:
        """Make the finished folder in one move: model, metrics, trackers' files, `result`. Killed before it, all is kept."""
        model = self.partial / "model"
        shutil.rmtree(model, ignore_errors=True)
        save(model)
        shutil.copy(self.partial / "metrics.jsonl", model)
        if (self.partial / "trackers").exists():
            shutil.copytree(self.partial / "trackers", model / "trackers")
        write_text(model / "training.json", json.dumps({**result, "identity": self.identity}, indent=2))
        model.rename(self.path)
        shutil.rmtree(self.partial)


def _settings(config: Any) -> dict[str, Any]:
    return {n: x for n, x in jsonable(config).items() if n not in FREE} if is_dataclass(config) else {}


def _weights(policy: Policy) -> str:
    """A digest of evenly spaced values of every parameter. LoRA's, which each loading draws anew, are left out."""
    found = hashlib.blake2b(digest_size=16)
    for name, parameter in policy.named_parameters():
        if "lora_" not in name:
            flat = parameter.detach().flatten()
            found.update(flat[:: max(1, len(flat) // 4_096)].float().cpu().numpy().tobytes())
    return found.hexdigest()
