"""Packs through a model: whether its attention can be replaced by ours, and the states that it then gives."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from assay import attention, shortcuts, vision
from assay.encoders import first_position, first_token_rewards, is_encoder, rewards
from assay.errors import first_line
from assay.pack import Group, Ids, Pack, Padded, common, continued, pack, share
from assay.weights import Widened

WORTH = 512
"""Tokens that a pass of its own for what groups share must save: on a CPU it costs about as much as 170 by a model's own
layers, on a GPU more (none was measured)."""


def use_packing(model: Any, backend: str = "segments", half: bool = False) -> str:
    """Switch a sequence classifier, or a generator's language model, to packed attention.

    Returns "" when it took, else the reason why it cannot.

    Besides what its config says, a small pack is compared with the same sequences one by one (`half`: in bfloat16): a
    backbone that computes anything else than plain attention (causal, or an encoder's), or a `backend` that does not run
    here, is found out, whatever its name. Some weights round badly in bfloat16: where states differ there, fp32 decides.
    The model is left as it was when it is refused. Shortcuts through the layers (`assay.shortcuts`) are tried likewise.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    reason = _unpackable(inner)
    if reason:
        return reason
    body = vision.language_model(inner)
    before = body.config._attn_implementation
    if before == attention.NAME:
        return ""
    causal = not is_encoder(inner)
    vocabulary = inner.get_input_embeddings().num_embeddings
    tokens = torch.randint(vocabulary, (12,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [tokens[:7], tokens[:4] + tokens[7:9], tokens[9:]]
    where = inner.get_input_embeddings().weight.device

    def apart(rounded: bool, read: bool = False) -> float:
        """The largest difference between packed and single states (of encoders: rewards), as a share of the largest one."""
        body.set_attn_implementation(before)
        with torch.autocast(where.type, torch.bfloat16, enabled=rounded), nullcontext() if rounded else Widened():
            ids = [{"input_ids": torch.tensor([r], device=where)} for r in rows]
            alone = torch.stack([hidden(inner, i)[0, -1] if causal else rewards(inner, body(**i), i) for i in ids])
            body.set_attn_implementation(attention.NAME)
            made = pack([share(rows[:2]), share(rows[2:])], backend, causal=causal, read=read)
            together = packed_hidden(inner, made.to(where))
            if not causal:
                together = first_token_rewards(inner, together).unsqueeze(1)
        return (together.float() - alone.float()).abs().max().item() / alone.float().abs().max().item()

    def same(read: bool = False) -> bool:
        return apart(half, read) <= (0.05 if half else 1e-3) or (half and apart(False, read) <= 1e-3)

    attention.register()
    with torch.inference_mode():
        try:
            reason = "" if same() else "packed and single sequences give different results: not plain attention"
        except (TypeError, RuntimeError, ImportError) as error:
            reason = f"packed attention ({backend}) fails on it: {first_line(error)}"
        if not reason and (made := shortcuts.install(body)) is not None:
            try:
                made.reader = made.reader if same(read=True) else None
            except (TypeError, RuntimeError, AttributeError, KeyError):
                made.reader = None
    if reason:
        body.set_attn_implementation(before)
    return reason


def _unpackable(inner: Any) -> str:
    config = vision.language_model(inner).config
    others = {t for t in getattr(config, "layer_types", None) or [] if t != "full_attention"}
    if others:
        return f"it has {', '.join(sorted(others))} layers"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "it has sliding-window attention"
    if getattr(config, "attn_logit_softcapping", None):
        return "it caps its attention scores"
    if not getattr(inner, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    return ""


def in_fp32(head: Any, hidden_D: torch.Tensor) -> torch.Tensor:
    """`head` of hidden states in full precision, whatever autocast says: bfloat16 makes rewards equal by chance."""
    with torch.autocast(hidden_D.device.type, enabled=False):
        return head(hidden_D.float()).float()  # type: ignore[no-any-return]


def hidden(inner: Any, inputs: dict[str, Any], body: Any = None) -> torch.Tensor:
    """The last hidden state, shape (B, T, D), of the language model under a head, or of `body` in its place."""
    cached = {} if is_encoder(inner) else {"use_cache": False}
    body = vision.language_model(inner) if body is None else body
    return body(**inputs, **cached).last_hidden_state  # type: ignore[no-any-return]


def padded_hidden(inner: Any, batch: Padded, pictures: vision.Pictures | None = None) -> torch.Tensor:
    """The last hidden state, shape (B, T, D), of padded rows. A model that sees reads them by transformers' own forward
    pass: right whatever its class does with pictures, and slow, for each row has its prompt anew."""
    if not vision.is_visual(inner):
        return hidden(inner, {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT})
    base = getattr(inner, inner.base_model_prefix)
    with vision.given(inner, batch.ids_BT, batch.images, pictures) as inputs:
        return base(**inputs, attention_mask=batch.mask_BT, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


def packed_hidden(
    inner: Any, batch: Pack, pictures: vision.Pictures | None = None, body: Any = None, **kept: Any
) -> torch.Tensor:
    """The last hidden state where each answer is read, shape (N, D). `body`: what takes the language model's place
    (`body_cpu`). `kept`: the lists of keys and values that this pass fills (`prefilled`) or goes on from (`before`)."""
    return read(hidden(inner, packed_inputs(inner, batch, pictures) | kept, body)[0], batch)


def read(states_TD: torch.Tensor, batch: Pack) -> torch.Tensor:
    """The states where answers are read, (N, D), of all that a pass gave; it may have given these alone."""
    if len(states_TD) == len(batch.last_N) != batch.tokens:
        return states_TD
    return states_TD.index_select(0, batch.last_N)


def packed_inputs(inner: Any, batch: Pack, pictures: vision.Pictures | None = None) -> dict[str, Any]:
    """What the model without its head is given of a pack."""
    inputs = vision.embedded(inner, batch.ids_1T, batch.images, pictures)
    layout = batch.layout
    # layers that are added to at the pictures' places are to compute all of them
    if "deepstack_visual_embeds" in inputs:
        layout = replace(layout, route=None)
    inputs |= {"position_ids": _places(inner, batch, pictures), "layout": layout}
    if not batch.layout.causal:
        inputs["position_ids"] = batch.positions_1T + first_position(inner)
        inputs |= {} if batch.types_1T is None else {"token_type_ids": batch.types_1T}
    return inputs


def longest_together(model: Any) -> int:
    """The most tokens of a text that does not change what the other texts of its pass get; 0: there is no such limit.

    With longrope a pass of one text beyond the model's original length rotates all of its texts as a long one.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    rotary = getattr(vision.language_model(inner), "rotary_emb", None)
    if rotary is None or getattr(rotary, "rope_type", "") != "longrope":
        return 0
    return int(rotary.config.rope_parameters["original_max_position_embeddings"])


def beginning(inner: Any, groups: Sequence[Group], backend: str, pad_id: int = -1, worth: int = WORTH) -> Ids:
    """The tokens, of text alone, with which many groups begin, where reading them once in a pass of their own saves `worth`
    tokens and more; else none. No reward is read at one of them (see `continued`).

    None, too, where a text would not find there what it computes itself: places that pictures share, rotations that follow
    a pass's longest text; and in flex, which lists no keys.
    """
    turned = str(getattr(getattr(vision.language_model(inner), "rotary_emb", None), "rope_type", ""))
    other = vision.counts_places(inner) or "dynamic" in turned or "longrope" in turned
    if len(groups) < 2 or backend == "flex" or other:
        return np.zeros(0, np.int32)
    pictures = [inner.config.image_token_id] if vision.is_visual(inner) else []
    ids, saved = common(groups, pictures)
    return continued(Group(prefix=ids, answers=()), pad_id)[0] if saved >= worth else ids[:0]


def skipped(inner: Any, batch: Pack, pictures: vision.Pictures | None = None) -> int:
    """How much the last place of a pack of one text differs from what its tokens say: pictures count for less in Qwen-VL."""
    tokens = int(batch.layout.queries_S1[1])
    return int(_places(inner, batch, pictures)[..., :tokens].max() - batch.positions_1T[0, tokens - 1])


def _places(inner: Any, batch: Pack, pictures: vision.Pictures | None) -> torch.Tensor:
    """Each token's place, shape (1, T); of a model that counts pictures in several dimensions (3, 1, T): what shows them by
    its own rule, the answers from there on."""
    if not (batch.shown and vision.counts_places(inner)):
        return batch.positions_1T
    found_31T = batch.positions_1T.repeat(3, 1, 1)
    for start, split, end, images in batch.shown:
        own_3P = vision.places(inner, batch.ids_1T[0, start:split], images, pictures)
        found_31T[:, 0, start:split] = own_3P
        found_31T[:, 0, split:end] += own_3P.max() + 1 - (split - start)
    return found_31T
