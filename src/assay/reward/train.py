"""Train a Bradley-Terry reward model on preferences, keep the checkpoint that is best on gold, resume after a kill.

Paper A: pointwise Bradley-Terry loss only, scalar head, one epoch; the checkpoint is chosen by accuracy on human-verified
pairs (A.6 step 1). This is the plain engine (length-bucketed padding); it keeps one folder per model:

    folder/                    the model as transformers saves it, loadable by AutoModelForSequenceClassification
    folder/training.json       what it was trained on and how it went; its presence means that training finished
    folder.partial/state.pt    the state of an unfinished training, replaced at every check
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay import models
from assay.errors import AssayError
from assay.losses import accuracy, bradley_terry
from assay.records import Conversation, Preference
from assay.render import Rendered, render
from assay.reward.config import TrainConfig
from assay.reward.scorer import forward, position_limit, token_batches
from assay.tables import replace, write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training: where the model is, and what `training.json` says."""

    folder: Path
    pairs: int
    steps: int
    gold_accuracy: float
    best_step: int
    cut_tokens: int
    tokens: int
    presented: int
    wall_s: float


@dataclass(slots=True)
class _State:
    """What changes while training; saved whole at every check."""

    step: int
    best_step: int
    best_accuracy: float
    best_weights: dict[str, Any]
    tokens: int
    presented: int
    wall_s: float


def train(
    folder: Path, config: TrainConfig, pairs: Sequence[Preference], gold: Sequence[Preference],
    say: Callable[[str], None] = lambda _: None,
) -> Trained:  # fmt: skip
    """Train on `pairs`, choose the checkpoint on `gold`, save to `folder`. Returns at once when that is already done.

    A tie in gold accuracy goes to the later checkpoint; without gold the last one is taken. The result depends on the
    pairs, not on their order, nor on the number of interruptions. Raises AssayError when there is nothing to train on.
    """
    done = folder / "training.json"
    if done.exists():
        return Trained(folder=folder, **json.loads(done.read_text()))
    if not pairs:
        raise AssayError(f"{folder}: no pairs to train on; see the labels' reasons for why all were dropped")
    pairs = sorted(pairs, key=lambda p: (p.pair_id, p.chosen.id))
    torch.manual_seed(config.seed)
    tokenizer = models.load_tokenizer(config.backbone)
    backbone = models.Backbone(
        name=config.backbone, layers=config.layers, attention=models.attention_for(config.max_tokens)
    )
    model = models.load_reward_model(backbone, tokenizer).to(models.device())
    model.get_input_embeddings().requires_grad_(config.train_embeddings)
    limit = min(config.max_tokens, position_limit(model))
    rendered = _render_pairs(tokenizer, pairs, limit)
    gold_rendered = _render_pairs(tokenizer, gold, limit)
    steps = max(1, round(config.epochs * len(pairs) / config.batch_pairs))
    state = _loop(folder, config, model, tokenizer.pad_token_id, rendered, gold_rendered, steps, say)
    model.load_state_dict(state.best_weights)
    result: dict[str, Any] = {
        "pairs": len(pairs), "steps": steps, "gold_accuracy": state.best_accuracy, "best_step": state.best_step,
        "cut_tokens": sum(r.cut for both in rendered for r in both), "tokens": state.tokens,
        "presented": state.presented, "wall_s": round(state.wall_s, 2),
    }  # fmt: skip
    _save(folder, model, tokenizer, result)
    return Trained(folder=folder, **result)


def _loop(
    folder: Path, config: TrainConfig, model: Any, pad_id: int, pairs: list[tuple[Rendered, Rendered]],
    gold: list[tuple[Rendered, Rendered]], steps: int, say: Callable[[str], None],
) -> _State:  # fmt: skip
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    partial = folder.with_name(folder.name + ".partial") / "state.pt"
    state = _State(step=0, best_step=0, best_accuracy=-1.0, best_weights={}, tokens=0, presented=0, wall_s=0.0)
    if partial.exists():
        state = _restore(partial, model, optimizer)
        say(f"{folder.name}: resumed at step {state.step}/{steps}")
    checks = {math.ceil(steps * (i + 1) / config.checks) for i in range(config.checks)}
    while state.step < steps:
        start = time.monotonic()
        batch = [pairs[i] for i in _batch_indices(len(pairs), config, state.step)]
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _schedule(config, state.step, steps)
        loss, right = _step(model, optimizer, batch, pad_id, config)
        state.tokens += sum(len(c.ids) + len(r.ids) for c, r in batch)
        state.presented += len(batch)
        state.step += 1
        if state.step in checks:
            gold_accuracy = evaluate(model, gold, pad_id, config) if gold else 0.0
            if gold_accuracy >= state.best_accuracy:
                state.best_step, state.best_accuracy = state.step, gold_accuracy
                state.best_weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            say(
                f"{folder.name}: step {state.step}/{steps}  loss {loss:.3f}  batch {right:.0%}  gold {gold_accuracy:.1%}"
            )
        state.wall_s += time.monotonic() - start
        if state.step in checks and state.step < steps:
            _keep(partial, model, optimizer, state)
    return state


def _step(
    model: Any, optimizer: Any, batch: list[tuple[Rendered, Rendered]], pad_id: int, config: TrainConfig
) -> tuple[float, float]:
    """One optimiser step over a global batch of pairs. Returns its mean loss and accuracy."""
    model.train()
    batch = sorted(batch, key=lambda pair: max(len(pair[0].ids), len(pair[1].ids)))
    total, right = 0.0, 0
    for part in token_batches([2 * max(len(c.ids), len(r.ids)) for c, r in batch], config.tokens_per_batch):
        rows = [batch[i] for i in part]
        rewards_2B = forward(model, [c for c, _ in rows] + [r for _, r in rows], pad_id, config.precision)
        margin_B = rewards_2B[: len(rows)] - rewards_2B[len(rows) :]
        loss = bradley_terry(margin_B) / len(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        right += int(accuracy(margin_B).item())
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if not math.isfinite(total):
        raise AssayError(f"the loss is {total}; lower train.lr (now {config.lr}) or train in fp32")
    return total, right / len(batch)


def evaluate(model: Any, pairs: list[tuple[Rendered, Rendered]], pad_id: int, config: TrainConfig) -> float:
    """The share of rendered pairs whose chosen response scores strictly higher."""
    model.eval()
    right = 0
    order = sorted(pairs, key=lambda pair: max(len(pair[0].ids), len(pair[1].ids)))
    for part in token_batches([2 * max(len(c.ids), len(r.ids)) for c, r in order], config.tokens_per_batch):
        rows = [order[i] for i in part]
        with torch.inference_mode():
            rewards_2B = forward(model, [c for c, _ in rows] + [r for _, r in rows], pad_id, config.precision)
        right += int(accuracy(rewards_2B[: len(rows)] - rewards_2B[len(rows) :]))
    return right / len(pairs)


def _render_pairs(tokenizer: Any, pairs: Sequence[Preference], limit: int) -> list[tuple[Rendered, Rendered]]:
    def both(p: Preference) -> tuple[Conversation, Conversation]:
        return p.prompt + p.chosen.messages, p.prompt + p.rejected.messages

    flat = render(tokenizer, [c for p in pairs for c in both(p)], limit)
    return list(zip(flat[::2], flat[1::2], strict=True))


def _batch_indices(n: int, config: TrainConfig, step: int) -> list[int]:
    """The pairs of one step: consecutive slices of a shuffle per epoch, a pure function of the seed."""
    size = min(config.batch_pairs, n)
    indices: list[int] = []
    at = step * size
    while len(indices) < size:
        epoch, offset = divmod(at, n)
        order = np.random.default_rng((config.seed, epoch)).permutation(n)
        take = order[offset : offset + size - len(indices)]
        indices.extend(int(i) for i in take)
        at += len(take)
    return indices


def _schedule(config: TrainConfig, step: int, steps: int) -> float:
    warm = config.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    return 1.0 if config.schedule == "constant" else (steps - step) / max(1.0, steps - warm)


def _keep(path: Path, model: Any, optimizer: Any, state: _State) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    fields = {name: getattr(state, name) for name in _State.__slots__}
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": fields}, beside)
    replace(beside, path)


def _restore(path: Path, model: Any, optimizer: Any) -> _State:
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return _State(**saved["state"])


def _save(folder: Path, model: Any, tokenizer: Any, result: dict[str, Any]) -> None:
    partial = folder.with_name(folder.name + ".partial")
    saving = folder.with_name(folder.name + ".saving")
    shutil.rmtree(saving, ignore_errors=True)
    model.save_pretrained(saving)
    tokenizer.save_pretrained(saving)
    write_text(saving / "training.json", json.dumps(result, indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    saving.rename(folder)
    shutil.rmtree(partial, ignore_errors=True)
