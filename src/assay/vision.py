"""Where pictures enter a model: pixels to features, features into the row of tokens.

A vision-language model is vision tower + adapter + language model (paper B, section 3.1), in any class of transformers that
has `get_image_features`. A frozen tower sees every picture once: its output is kept by the picture's id, and only the
adapter runs again.
"""

import hashlib
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from assay.images import ImageStore

KEPT = 2 << 30
"""Bytes of tower outputs that are kept in a process."""
_SEEN: dict[str, dict[str, dict[str, Tensor]]] = {}
"""What towers made of pictures: by `Pictures._who`, then by the picture's id. Policies and reward models of one run look
through the same frozen tower, each loaded anew."""
_ONE_TOWER = threading.Lock()
"""While a tower's forward stands replaced, no other thread runs any."""


def is_visual(model: Any) -> bool:
    """Does this model of transformers take pictures?"""
    return hasattr(getattr(model, "model", None), "get_image_features") and hasattr(model.config, "text_config")


def language_model(model: Any) -> Any:
    """The decoder without its head: of a vision-language model, or of a language model."""
    body = getattr(model, model.base_model_prefix)
    return next((getattr(body, n) for n in ("language_model", "text_model") if hasattr(body, n)), body)


def vision_tower(model: Any) -> Any:
    """The vision encoder, or None. Qwen's holds its adapter too."""
    body = getattr(model, model.base_model_prefix)
    return next((getattr(body, n) for n in ("vision_tower", "visual", "vision_model") if hasattr(body, n)), None)


def adapter(model: Any) -> Any:
    """The module between tower and language model, or None (some towers end in their own). Qwen's are the mergers at the
    end of its tower, the ones for middle layers included."""
    body, tower = getattr(model, model.base_model_prefix), vision_tower(model)
    found = next(
        (getattr(body, n) for n in ("multi_modal_projector", "connector", "aligner") if hasattr(body, n)), None
    )
    if found is not None or not isinstance(getattr(tower, "merger", None), torch.nn.Module):
        return found
    deeper = getattr(tower, "deepstack_merger_list", None)
    return tower.merger if deeper is None else torch.nn.ModuleList([tower.merger, *deeper])


def tower_weights(model: Any) -> list[torch.nn.Parameter]:
    """The vision encoder's parameters, without the adapter's."""
    between = adapter(model)
    others = set() if between is None else {id(p) for p in between.parameters()}
    return [p for p in vision_tower(model).parameters() if id(p) not in others]


def touch(model: Any, found: Tensor) -> Tensor:
    """The same numbers, on which every trained weight between pixels and text has a gradient, if of zero.

    A micro-batch without pictures reads none of these, one with pictures not all (LLaVA leaves out the last layers of its
    tower). DDP waits for their gradients for ever, and where nothing else trains there would be no backward pass at all.
    Weights that FSDP2 has sharded at that time are left out. Where it can, `found` is what the layers read, not what they
    give: layers must end their backward passes in one order on all processes (FSDP2), and those whose inputs have no
    gradient end last.
    """
    if not torch.is_grad_enabled() or not is_visual(model):
        return found
    for part in (m for m in (vision_tower(model), adapter(model)) if m is not None):
        for parameter in (p for p in part.parameters() if p.requires_grad and not hasattr(p, "to_local")):
            found = found + 0.0 * parameter.flatten()[0].to(found.dtype)
    return found


class Pictures:
    """The pictures of a store on their way into one model.

    Args:
        processor: The model's processor, whose own settings for pictures hold (InternVL's cuts large ones into tiles).
        store: Where pictures are looked up by id.
    """

    def __init__(self, processor: Any, store: ImageStore) -> None:
        self.whole, self.processor, self.store = processor, processor.image_processor, store
        set_in = getattr(processor, "images_kwargs", None)
        if set_in is None:  # transformers before 5.20
            set_in = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {}).get("images_kwargs")
        self.options = {n: x for n, x in (set_in or {}).items() if n != "return_tensors"}
        self.reads = repr([self.processor.to_dict(), self.options])
        self.known: dict[tuple[Any, ...], str] = {}

    def inputs(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """What the processor makes of these pictures, along the first axis."""
        made = self.processor(images=[self.store.open(i) for i in ids], return_tensors="pt", **self.options)
        return {n: x for n, x in made.items() if isinstance(x, Tensor)}

    def features(self, model: Any, ids: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """What the language model reads for these pictures, shape (picture tokens, D), in order; and what is added to the
        states of its first layers there (Qwen3-VL's "deepstack"), if anything."""
        tower = vision_tower(model)
        frozen = tower is not None and not any(p.requires_grad for p in tower.parameters())
        where = model.get_input_embeddings().weight.device
        if not frozen or not _simple(model):
            look = model.model.get_image_features
            found = look(**taken(look, _on(self.inputs(ids), where)))
            return _flat(found), [torch.cat(tuple(x)) for x in getattr(found, "deepstack_features", None) or []]
        with _ONE_TOWER:
            kept = _SEEN.setdefault(self._who(model, tower, where), {})
            self._see(model, tower, [i for i in dict.fromkeys(ids) if i not in kept], where, kept)
            rows = {name: torch.cat([kept[i][name] for i in ids]).to(where) for name in kept[ids[0]]}
            with _remembering(tower, rows):
                flat = _flat(model.model.get_image_features(pixel_values=rows[next(iter(rows))]))
            if sum(x.nbytes for seen in _SEEN.values() for one in seen.values() for x in one.values()) > KEPT:
                _SEEN.clear()
        return flat, []

    def _who(self, model: Any, tower: Any, where: torch.device) -> str:
        """Who sees: evenly spaced values of all of a tower's weights and statistics, what is read of it, what it is given,
        and where; the number of threads too, for kernels round as that has it, and a resumed run must see what the first
        one saw."""
        about = id(tower), str(where), torch.get_num_threads(), str(_read_layers(model))
        if about not in self.known:
            found = hashlib.blake2b(repr([tower.config, *about[1:], self.reads]).encode(), digest_size=16)
            for name, x in tower.state_dict().items():
                flat = x.detach().flatten()
                found.update(name.encode() + flat[:: max(1, len(flat) // 1_024)].double().cpu().numpy().tobytes())
            self.known[about] = found.hexdigest()
        return self.known[about]

    def _see(
        self, model: Any, tower: Any, ids: list[str], where: torch.device, kept: dict[str, dict[str, Tensor]]
    ) -> None:
        """One picture at a time: kernels round as the size of the batch has it, and what a picture looks like must not hang
        on what it was first seen with (a resumed run meets its pictures in other company)."""
        layers = _read_layers(model)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(where.type, enabled=False):
            was, _ = tower.training, tower.eval()
            for name in ids:
                pixels = self.inputs([name])["pixel_values"].to(where, next(tower.parameters()).dtype)
                seen = tower(pixels, return_dict=True, output_hidden_states=bool(layers))
                outputs = {str(n): seen.hidden_states[n] for n in layers} or {"last": seen.last_hidden_state}
                kept[name] = {n: x.cpu() for n, x in outputs.items()}
            tower.train(was)


def embedded(model: Any, ids_BT: Tensor, images: Sequence[str], pictures: Pictures | None) -> dict[str, Any]:
    """What the language model is given: token embeddings, shape (B, T, D), with the features of `images` in the places of
    the picture token, in order, and what it adds to its layers there."""
    embeds = touch(model, model.get_input_embeddings()(ids_BT))
    if not images:
        return {"inputs_embeds": embeds}
    assert pictures is not None, "a prompt with pictures needs a store"
    features, deeper = pictures.features(model, images)
    mask_BT = ids_BT == model.config.image_token_id
    places = int(mask_BT.sum())
    assert places == len(features), f"{places} picture tokens for {len(features)} picture features"
    made: dict[str, Any] = {"inputs_embeds": embeds.masked_scatter(mask_BT.unsqueeze(-1), features.to(embeds.dtype))}
    return made | ({"visual_pos_masks": mask_BT, "deepstack_visual_embeds": deeper} if deeper else {})


def given(model: Any, ids_BT: Tensor, images: Sequence[str], pictures: Pictures | None) -> dict[str, Any]:
    """What a whole model of transformers is given of rows with pictures, besides their attention mask."""
    shown: dict[str, Tensor] = {}
    if images:
        assert pictures is not None, "a prompt with pictures needs a store"
        shown = _on(pictures.inputs(images), ids_BT.device)
    kinds = torch.eq(ids_BT, model.config.image_token_id).long()
    whole = getattr(model, model.base_model_prefix).forward
    return {"input_ids": ids_BT} | taken(whole, shown | {"mm_token_type_ids": kinds, "token_type_ids": kinds})


def taken(call: Any, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the named arguments that a method of transformers names (decorators lie over many)."""
    names = inspect.signature(call).parameters
    return {n: x for n, x in named.items() if n in names}


def counts_places(model: Any) -> bool:
    """Does the model count the places of pictures in several dimensions (Qwen-VL)?"""
    return hasattr(getattr(model, model.base_model_prefix), "get_rope_index")


def places(model: Any, ids_T: Tensor, images: Sequence[str], pictures: Pictures | None) -> Tensor:
    """Where a text with pictures is in each of these dimensions, shape (3, T), as the model's own class says."""
    assert pictures is not None, "a prompt with pictures needs a store"
    count, ids_1T = getattr(model, model.base_model_prefix).get_rope_index, ids_T.unsqueeze(0)
    shown = pictures.inputs(images) | {"mm_token_type_ids": torch.eq(ids_1T, model.config.image_token_id).int()}
    found: Tensor = count(ids_1T, **taken(count, _on(shown, ids_T.device)))[0]
    return found[:, 0]


def _simple(model: Any) -> bool:
    """Does `get_image_features` read nothing but the tower's output?"""
    return model.config.model_type in ("llava", "fast_vlm", "internvl", "cohere2_vision")


def _read_layers(model: Any) -> list[int]:
    """The hidden layers of the tower that are read; none where its last output is."""
    layer = getattr(model.config, "vision_feature_layer", -1)
    if layer == -1 and model.config.model_type != "llava":
        return []
    return [layer] if isinstance(layer, int) else list(layer)


@contextmanager
def _remembering(tower: Any, rows: dict[str, Tensor]) -> Iterator[None]:
    """Let the tower answer with what it said before."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    said = BaseModelOutputWithPooling(last_hidden_state=rows.get("last"))
    if "last" not in rows:
        said.__dict__["hidden_states"] = {int(n): x for n, x in rows.items()}
    before = tower.forward
    tower.forward = lambda *_, **__: said
    try:
        yield
    finally:
        tower.forward = before


def _flat(found: Any) -> Tensor:
    """(picture tokens, D) of whatever a class of transformers returns for its pictures."""
    features = getattr(found, "pooler_output", found)
    if isinstance(features, (list, tuple)):
        return torch.cat([f.flatten(0, -2) for f in features])
    return features.flatten(0, -2)  # type: ignore[no-any-return]


def _on(inputs: dict[str, Tensor], where: torch.device) -> dict[str, Tensor]:
    return {n: x.to(where) for n, x in inputs.items() if isinstance(x, Tensor)}
