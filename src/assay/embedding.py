"""Text encoders for the retrieval of look-alike pairs, pooled as their authors say.

An encoder in the layout of sentence-transformers (`modules.json`) tells its pooling, its window, its prompts and a layer
after the pooling; any other is pooled by the mean. Paper A embeds with jina-embeddings-v3 (8,192 tokens), which transformers
knows.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file

from assay import devices, models
from assay.errors import AssayError
from assay.records import Embedder
from assay.session import part

WINDOW = 512
"""Tokens that are read of a text where nothing else is asked for, if the encoder was made for so many."""
BUDGET = 1 << 15
"""Tokens of one forward pass."""
_OLD_NAMES = {
    "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
"""In the order in which several are joined."""


@dataclass(slots=True, kw_only=True)
class _Layout:
    """What an encoder's folder says of how its states become one vector."""

    body: str = ""
    """The folder of the transformer in the encoder's."""
    modes: tuple[str, ...] = ("mean",)
    with_prompt: bool = True
    window: int | None = None
    lower: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    usual_prompt: str = ""
    dense: list[str] = field(default_factory=list)


def load_embedder(
    name: str = "minilm", max_tokens: int = 0, prompt: str = "", trust: bool = False, rows: int = 64,
    layers: int | None = None,
) -> Embedder:  # fmt: skip
    """A text encoder on this machine's device: texts to unit vectors, float32 of shape (n, d).

    Args:
        name: A packaged encoder, a folder, or a hub id.
        max_tokens: Of a text, from its front (0: what the encoder was made for, at most `WINDOW`).
        prompt: The name of one of the encoder's own prompts, or text to put before each (default: the encoder's usual one).
        trust: Run code that comes with the encoder.
        rows: Texts of one forward pass, at most.
        layers: How many of the encoder's layers are computed; their states are pooled as the last ones would be (0: the
            vectors of the words, without any layer; default: all, and what comes after the pooling).

    Raises AssayError for an encoder whose weights are not whole, that is put together of parts not known here, or that has
    no positions for `max_tokens`, or not so many `layers`.
    """
    read = _reader(name)
    layout = _layout(name, read)
    place = _inside(name, layout.body)
    cut: dict[str, Any] = {} if layers is None else {"num_hidden_layers": _of_layers(name, place, layers)}
    loaded = models.load_model(transformers.AutoModel, place, "body", layers, trust=trust, **cut)
    model = loaded.float().to(devices.device()).eval()
    tokenizer = models.load_tokenizer(place, trust)
    most = _positions(model)
    if max_tokens > most:
        raise AssayError(
            f"the encoder '{name}' reads at most {most:,} tokens, not {max_tokens:,}: lower embedder-tokens"
        )
    window = max_tokens or min(WINDOW, most, layout.window or most)
    asked = layout.prompts.get(prompt or layout.usual_prompt, prompt)
    skipped = 0 if layout.with_prompt or not asked else _prompt_length(tokenizer, asked)
    after = [_dense(name, path, read) for path in layout.dense] if layers is None else []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: NDArray[np.float32] | None = None
        for at in range(0, len(order), rows):
            part(at)
            chunk = order[at : at + rows]
            given = [asked + (texts[i].lower() if layout.lower else texts[i]) for i in chunk]
            ids = tokenizer(given, truncation=True, max_length=window)["input_ids"]
            step = max(1, BUDGET // max(1, *map(len, ids)))
            for first in range(0, len(ids), step):
                found = _vectors(model, tokenizer, ids[first : first + step], layout.modes, skipped, after)
                if vectors is None:
                    vectors = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
                vectors[chunk[first : first + step]] = found
        if vectors is None:
            return np.zeros((0, model.config.hidden_size), dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise AssayError(f"the encoder '{name}' gives vectors that are not finite: are its weights whole?")
        return vectors

    return embed


def _of_layers(name: str, place: str, layers: int) -> int:
    has = models.load_config(place).get_text_config().num_hidden_layers
    if not 0 <= layers <= has:
        raise AssayError(
            f"the encoder '{name}' has {has} layers, so {layers} of them cannot be computed: embedder-layers"
        )
    return layers


def _vectors(
    model: Any, tokenizer: Any, ids: Sequence[Sequence[int]], modes: Sequence[str], skipped: int,
    after: Sequence[Callable[[torch.Tensor], torch.Tensor]],
) -> NDArray[np.float32]:  # fmt: skip
    where = devices.device()
    rows = [list(r) or [tokenizer.pad_token_id or 0] for r in ids]
    width = max(map(len, rows))
    ids_BT = torch.tensor([r + [tokenizer.pad_token_id or 0] * (width - len(r)) for r in rows], device=where)
    mask_BT = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=where)
    with torch.inference_mode():
        hidden_BTD = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
        told_BT = mask_BT.clone()
        told_BT[:, :skipped] = 0
        pooled = torch.cat([_pool(m, hidden_BTD, told_BT) for m in modes], dim=-1)
        for layer in after:
            pooled = layer(pooled)
        return np.asarray(torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy(), dtype=np.float32)


def _pool(mode: str, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """One vector for each row, as sentence-transformers' modes of these names have it; padding stands on the right."""
    mask_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    if mode in ("cls", "lasttoken"):
        seen = places_T * mask_BT
        at_B = mask_BT.argmax(-1) if mode == "cls" else seen.argmax(-1)
        return hidden_BTD[torch.arange(len(at_B), device=at_B.device), at_B]
    if mode == "max":
        return hidden_BTD.masked_fill(mask_BT1 == 0, -torch.inf).amax(1)
    weight_BT1 = mask_BT1 * (places_T + 1).to(hidden_BTD.dtype)[None, :, None] if mode == "weightedmean" else mask_BT1
    total_B1 = weight_BT1.sum(1).clamp(min=1e-9)
    return (hidden_BTD * weight_BT1).sum(1) / (total_B1.sqrt() if mode == "mean_sqrt_len_tokens" else total_B1)


def _reader(name: str) -> Callable[[str], Path | None]:
    """Where a file of the encoder lies on this machine, or None where the encoder has none of that name."""
    place, _ = models.locate(name)

    def read(file: str) -> Path | None:
        if Path(place).is_dir():
            return found if (found := Path(place) / file).exists() else None
        from transformers.utils import cached_file

        try:
            got = cached_file(place, file, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return None
        return Path(got) if got else None

    return read


def _inside(name: str, folder: str) -> str:
    if not folder:
        return name
    place, _ = models.locate(name)
    if not Path(place).is_dir():
        raise AssayError(
            f"the encoder '{name}' keeps its transformer in {folder}/: fetch it, and give that folder's parent"
        )
    return str(Path(place) / folder)


def _json(path: Path | None) -> Any:
    try:
        return {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AssayError(f"{path}: not JSON ({error})") from error


def _layout(name: str, read: Callable[[str], Path | None]) -> _Layout:
    """What `modules.json` says, in its order: a transformer, a pooling, dense layers, unit length."""
    found = _Layout()
    for module in _json(read("modules.json")) or []:
        kind, path = module["type"].rsplit(".", 1)[-1], module["path"]
        if kind == "Transformer":
            found.body = path
        elif kind == "Pooling":
            told = _json(read(f"{path}/config.json"))
            mode = told.get("pooling_mode") or tuple(m for n, m in _OLD_NAMES.items() if told.get(n)) or "mean"
            found.modes = (mode,) if isinstance(mode, str) else tuple(mode)
            found.with_prompt = told.get("include_prompt", True)
        elif kind == "Dense":
            found.dense.append(path)
        elif kind != "Normalize":
            raise AssayError(
                f"the encoder '{name}' has a part of kind {module['type']}, which is not known here; give another encoder"
            )
    unknown = set(found.modes) - set(_OLD_NAMES.values())
    if unknown:
        raise AssayError(
            f"the encoder '{name}' pools by '{min(unknown)}', which is not known here; give another encoder"
        )
    inner = f"{found.body}/" if found.body else ""
    limits = _json(read(f"{inner}sentence_bert_config.json"))
    found.window, found.lower = limits.get("max_seq_length"), bool(limits.get("do_lower_case"))
    told = _json(read("config_sentence_transformers.json"))
    found.prompts = {n: p for n, p in (told.get("prompts") or {}).items() if isinstance(p, str)}
    found.usual_prompt = told.get("default_prompt_name") or ""
    return found


def _dense(name: str, path: str, read: Callable[[str], Path | None]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A linear layer after the pooling, with its activation."""
    told, file = _json(read(f"{path}/config.json")), read(f"{path}/model.safetensors")
    activation = str(told.get("activation_function", "torch.nn.modules.linear.Identity")).rsplit(".", 1)[-1]
    if activation not in ("Identity", "Tanh", "ReLU", "GELU") or file is None:
        raise AssayError(
            f"the encoder '{name}': its layer {path} has no model.safetensors, or an activation not known here"
        )
    state = {n.removeprefix("linear."): x.float().to(devices.device()) for n, x in load_file(file).items()}
    act = getattr(torch.nn, activation)()
    return lambda pooled: act(torch.nn.functional.linear(pooled, state["weight"], state.get("bias")))


def _positions(model: Any) -> int:
    """How many tokens the encoder has positions for; RoBERTa and its kin begin to count after the padding token."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    before = getattr(table, "padding_idx", None)
    return int(most) - (0 if before is None else before + 1)


def _prompt_length(tokenizer: Any, prompt: str) -> int:
    """Tokens of the prompt and of what stands before it."""
    with_ends, alone = tokenizer(prompt)["input_ids"], tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return next((n for n in range(len(with_ends)) if with_ends[n : n + len(alone)] == alone), 0) + len(alone)
