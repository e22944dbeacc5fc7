"""A reward model as a plain function: conversations in, rewards out."""

import gc
import importlib
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from assay import devices, models, weights
from assay.encoders import first_position
from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.pack import Group, Ids, share
from assay.packing import longest_together
from assay.records import Conversation, Scorer, digest
from assay.render import Rendered, attempts, check, render, same_prompt
from assay.reward.config import EngineConfig
from assay.reward.model import Earlier, RewardModel
from assay.reward.visual import load_visual
from assay.vision import Pictures


def load_scorer(
    folder: str | Path, max_tokens: int = 2048, tokens_per_batch: int = 8192, precision: str = "fp32",
    images: Path | None = None, frozen: int = 0,
) -> Scorer:  # fmt: skip
    """A `Scorer` of whatever gives rewards: a saved reward model (our own checkpoint, or any
    `AutoModelForSequenceClassification` with one output), the URL of a reward server, or MODULE:FUNCTION, a function of a
    list of conversations that returns one reward each (so any other head: a few lines around its model).

    `images` is the folder of pictures that conversations name, for a reward model with pictures; `frozen`: so many first
    layers are those of other models too, and what they make of a text is kept in memory (`assay.frozen`). Raises AssayError
    for a checkpoint that is not whole, or has no head of one output.
    """
    name = str(folder)
    if name.startswith(("http://", "https://")):
        from assay.reward.remote import RemoteConfig, RemoteScorer

        return RemoteScorer(RemoteConfig(url=name))
    if is_function(name):
        return _function(name)
    if images is not None:
        seeing, processor = load_visual(name, trained=True)
        store = ImageStore(images)
        return LocalScorer(
            seeing.to(devices.device()).eval(), processor, max_tokens, tokens_per_batch, precision, store
        )
    tokenizer = models.load_tokenizer(name)
    backbone = models.Backbone(name=name, attention=devices.attention_for(max_tokens))
    model = models.load_reward_model(backbone, tokenizer, trained=True).to(devices.device()).eval()
    return LocalScorer(model, tokenizer, max_tokens, tokens_per_batch, precision, frozen=frozen)


def is_function(name: str) -> bool:
    """Whether a scorer's name is MODULE:FUNCTION."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None and not Path(name).exists()


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


@dataclass(frozen=True, slots=True)
class Model:
    """The `Scorer` of a folder (or of whatever `load_scorer` takes) that can be sent to other processes: it is its name and
    settings, and is loaded where and when it is first asked.

    A process holds the last `HELD` that were asked, whoever asks; a folder that was written anew is loaded anew.
    """

    folder: str
    max_tokens: int = 2048
    tokens_per_batch: int = 8192
    precision: str = "fp32"
    images: str = ""
    frozen: int = 0

    may_fail: ClassVar[bool] = True
    """A conversation that the model cannot read has no reward."""

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        return self.load()(conversations)

    def load(self) -> Scorer:
        """The loaded scorer."""
        key = self, _stamp(Path(self.folder))
        with _LOCK:
            found = _LOADED.pop(key, None)
            while found is None and len(_LOADED) >= HELD:  # let go of the oldest before the next one is loaded
                del _LOADED[next(iter(_LOADED))]
                _free()
            images = Path(self.images) if self.images else None
            _LOADED[key] = found or load_scorer(
                self.folder, self.max_tokens, self.tokens_per_batch, self.precision, images, self.frozen
            )
            return _LOADED[key]


HELD = 2
"""Scorers that a process holds: stage 2 asks two."""
_LOADED: dict[tuple[Model, tuple[tuple[str, int, int], ...]], Scorer] = {}
_LOCK = threading.Lock()


def forget() -> None:
    """Let go of the scorers that this process holds, so that a training has their memory."""
    with _LOCK:
        _LOADED.clear()
        _free()


def _free() -> None:
    if torch.accelerator.is_available():
        gc.collect()
        torch.accelerator.empty_cache()


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a model is written anew."""
    found = ((p.name, p.stat()) for p in sorted(folder.iterdir()) if p.is_file()) if folder.is_dir() else ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


class LocalScorer:
    """The `Scorer` of a loaded model, whose weights stay as they are. Where the backbone can be packed, answers to one
    prompt share it, and prompts what many of them begin with (a system prompt), whose keys are kept for the next call.

    `attempts` and `rewards` are its two halves: a server renders in one place to know lengths, and scores in another.
    """

    may_fail = True
    """A conversation that the model cannot read has no reward."""

    def __init__(
        self, model: Any, tokenizer: Any, max_tokens: int, tokens_per_batch: int = 8192, precision: str = "fp32",
        store: ImageStore | None = None, frozen: int = 0,
    ) -> None:  # fmt: skip
        check(tokenizer)
        self.tokenizer, self.store = tokenizer, store
        self.problems, self.refused = Counter[str](), dict[Conversation, str]()
        self.max_tokens = min(max_tokens, position_limit(model))
        pictures = Pictures(tokenizer, store) if store is not None else None
        engine = EngineConfig(tokens=tokens_per_batch)
        if 0 < longest_together(model) < self.max_tokens:
            engine = EngineConfig(tokens=1, packing=False)  # each conversation in a pass of its own
        self.model = RewardModel(model, weights.padding(model), engine, precision, pictures, frozen).score_only()
        self.where = devices.device()
        self._kept: tuple[bytes, Earlier] = b"", []

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
        """(n,) rewards of n rendered conversations. What is the same to the model is scored once: places in a pack change a
        sum's last digits, and a tie must be one."""
        first = dict[Any, int]()
        same = [first.setdefault(_read(c, r), i) for i, (c, r) in enumerate(zip(conversations, rendered, strict=True))]
        once = list(first.values())
        shown = [conversations[i] for i in once]
        together = same_prompt(shown) if self.model.shares else [[i] for i in range(len(shown))]
        groups = [group_of(shown[rows[0]], [rendered[once[i]] for i in rows]) for rows in together]
        rewards = np.zeros(len(rendered))
        for rows, own in zip(together, self.of_groups(groups), strict=True):
            rewards[[once[i] for i in rows]] = own
        return rewards[same]

    def of_groups(self, groups: Sequence[Group]) -> list[NDArray[np.float64]]:
        """The rewards of each group's answers. Where the model shares no prefix (encoders, and what cannot be packed),
        groups should have one answer each."""
        rewards = [np.zeros(len(g.answers)) for g in groups]
        with torch.inference_mode(), torch.autocast(self.where.type, torch.bfloat16, enabled=self.model.bf16):
            shared = self.model.common(groups)
            follows = np.array([len(shared) > 0 and g.begins(shared) for g in groups], bool)
            for before, those in ((self._keys(shared), follows), ([], ~follows)):
                own = np.flatnonzero(those).tolist()
                rest = [groups[i].after(len(shared) if before else 0) for i in own]
                for i, part, some in self._passes(rest, before):
                    rewards[own[i]][part] = some.double().cpu().numpy()
        return rewards

    def _keys(self, shared: Ids) -> Earlier:
        """The keys and values of what groups begin with; those of the last call are kept."""
        name, kept = shared.tobytes(), self._kept
        if len(shared) and kept[0] != name:
            self._kept = kept = name, self.model.read_on(shared)[0]
        return kept[1] if len(shared) else []

    def _passes(
        self, groups: Sequence[Group], before: Earlier
    ) -> Iterator[tuple[int, Sequence[int] | slice, torch.Tensor]]:
        """(a group's number, its answers in a pass, their rewards), pass by pass; all go on from the keys `before`."""
        most = self.model.engine.tokens
        large = [self.model.shares and len(g.answers) > 1 and g.tokens > most for g in groups]
        small = [i for i, above in enumerate(large) if not above]
        for part in self.model.bins([groups[i] for i in small]):
            own = [groups[small[i]] for i in part]
            found = self.model(self.model.batch(own, before).to(self.where), before=before)
            for i, some in zip(part, found.split([len(g.answers) for g in own]), strict=True):
                yield small[i], slice(None), some
        for number in np.flatnonzero(large).tolist():
            for some, found in self.model.passes(groups[number], before):
                yield number, some, found

    @cached_property
    def reading(self) -> str:
        """A digest of how it makes tokens of a conversation: scorers with the same one can share them."""
        text = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        backend = getattr(text, "backend_tokenizer", None)
        if backend is None:
            return f"of its own: {id(self)}"
        kinds = [type(self.tokenizer).__name__, str(self.store and self.store.folder)]
        template = str(getattr(self.tokenizer, "chat_template", None))
        return digest([*kinds, self.max_tokens, backend.to_str(), template, str(text.special_tokens_map)])


def _read(conversation: Conversation, rendered: Rendered) -> tuple[Any, ...]:
    """What a model reads of a conversation."""
    pictures = tuple(i for m in conversation for i in m.images)
    return np.asarray(rendered.ids).tobytes(), rendered.second, pictures


def group_of(conversation: Conversation, rendered: Sequence[Rendered]) -> Group:
    """The group of some answers to one prompt; `conversation` is that of any of them."""
    types = [one.second for one in rendered if one.second]
    images = [i for m in conversation[:-1] for i in m.images]
    return share([one.ids for one in rendered], types, images)


def position_limit(model: Any) -> int:
    """The longest input in tokens that the backbone has positions for."""
    before = first_position(model)
    most = getattr(model.config, "max_position_embeddings", None) or 0
    return int(most) - before if most > 0 else 1 << 30
